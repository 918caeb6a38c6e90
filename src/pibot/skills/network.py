"""The network as this machine sees it, and whether the hosts that the owner has listed answer."""

from __future__ import annotations

import re
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Dict, List, Mapping, Optional

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, _ping, machine, skill
from pibot.skills import _hardware as hardware
from pibot.skills._hosts import listed

ROOT = Path("/")  # tests put recorded files here
MAX_PINGS = 20
CONNECT_S = 5.0
_GATEWAY = "gateway"
_FILE_CHARS = 65_536
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?|[0-9A-Fa-f:.]{2,45}")
_OFF_HOSTS = (
    "check_port is off: list the hosts that may be reached, such as PIBOT_HOSTS=nas.local:445"
)


# --- what is there --------------------------------------------------------------------------------


@skill(
    timeout_s=15,
    phrases=[
        "network (info|details|settings)",
        "(dns servers|default route|default gateway|gateway)",
        "(wifi|wi-fi|wlan) [signal] [strength]",
        "网络(信息|设置|详情)",
        "(默认网关|网关|dns服务器)",
        "无线[网络]信号[强度]",
    ],
)
def network_info() -> Output:
    """Tell this machine's addresses, routes, DNS servers, link speeds and Wi-Fi signal."""
    signals = _signals()
    interfaces = [_interface(one, signals) for one in machine.network(ROOT)["interfaces"]]
    routers, servers = gateways(), _dns_servers()
    data = {"interfaces": interfaces, "gateways": routers, "dns_servers": servers}
    lines = [_line(one) for one in interfaces]
    routes = [f"{one['address']} by {one['interface']}" for one in routers]
    lines.append(f"gateways: {', '.join(routes) or 'none'}")
    lines.append(f"DNS servers: {', '.join(servers) or 'none'}")
    return Output(data, "\n".join(lines))


def _interface(told: Mapping[str, Any], signals: Mapping[str, Any]) -> Dict[str, Any]:
    folder = ROOT / "sys/class/net" / str(told["name"])
    speed = hardware.number(folder / "speed")
    return {
        **told,
        "speed_mbit_s": int(speed) if speed and speed > 0 else None,
        "wifi_signal_dbm": signals.get(str(told["name"])),
    }


def _read(path: str) -> str:
    """The files of the network in /proc, and resolv.conf; "" when there is none."""
    try:
        with (ROOT / path).open(encoding="utf-8", errors="replace") as file:
            return file.read(_FILE_CHARS)
    except OSError:
        return ""


def _signals() -> Dict[str, int]:
    """dBm of each interface, as /proc/net/wireless has it."""
    rows = re.findall(r"^\s*(\S+): +\S+ +\S+ +(-\d{1,3})\.", _read("proc/net/wireless"), re.M)
    return {name: int(level) for name, level in rows}


def gateways() -> List[Dict[str, str]]:
    """The routers of the default routes."""
    found = []
    for row in map(str.split, _read("proc/net/route").splitlines()):
        if len(row) > 7 and row[1] == row[7] == "0" * 8 and row[2] != "0" * 8:
            raw = bytes.fromhex(row[2])[::-1]
            found.append({"interface": row[0], "address": str(IPv4Address(raw))})
    for row in map(str.split, _read("proc/net/ipv6_route").splitlines()):
        if len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[4] != "0" * 32:
            address = str(IPv6Address(bytes.fromhex(row[4])))
            found.append({"interface": row[9], "address": address})
    return found


def _dns_servers() -> List[str]:
    """The servers themselves; systemd-resolved stands before them with an address of its own."""
    behind = re.findall(_NAMESERVER, _read("run/systemd/resolve/resolv.conf"), re.M)
    return behind or re.findall(_NAMESERVER, _read("etc/resolv.conf"), re.M)


_NAMESERVER = r"^nameserver\s+([0-9A-Fa-f:.%a-z]{2,60})\s*$"


def _line(one: Mapping[str, Any]) -> str:
    parts = [", ".join(one["addresses"]) or "no address"]
    if one["speed_mbit_s"]:
        parts.append(f"{one['speed_mbit_s']} Mbit/s")
    if one["wifi_signal_dbm"] is not None:
        parts.append(f"Wi-Fi {one['wifi_signal_dbm']} dBm")
    return f"{one['name']} ({'up' if one['up'] else 'down'}): {', '.join(parts)}"


# --- who answers ----------------------------------------------------------------------------------


def _why_no_ping(permits: Permits) -> Optional[str]:
    why = _ping.problem()
    return f"ping is off: {why}" if why else None


def _hosts_note(permits: Permits) -> str:
    return f"Hosts: {', '.join(permits.hosts)}." if permits.hosts else ""


@skill(
    timeout_s=60,
    phrases=["ping [the] {host:word}", "ping一下{host:word}"],
    available=_why_no_ping,
    note=_hosts_note,
)
def ping(
    ctx: Context,
    host: Annotated[str, 'a listed host, or "gateway"'] = _GATEWAY,
    count: Annotated[int, "how often, 1 to 20"] = 4,
) -> Output:
    """Ask a host or this machine's gateway whether it is there, and how long its answers take."""
    if not 1 <= count <= MAX_PINGS:
        raise SkillError(f"count must be 1 to {MAX_PINGS}, not {count}")
    address = _pingable(ctx, host)
    times = _ping.times_ms(address, count, ctx.cancelled)
    came = [one for one in times if one is not None]
    data: Dict[str, Any] = {"host": host, "address": address, "sent": count, "answers": len(came)}
    data["lost_pct"] = round(100 * (count - len(came)) / count, 1)
    data["average_ms"] = round(sum(came) / len(came), 2) if came else None
    data["worst_ms"] = max(came) if came else None
    if not came:
        return Output(data, f"{host} ({address}) does not answer")
    shown = f"{data['average_ms']:g} ms on average, {data['worst_ms']:g} ms at most"
    return Output(data, f"{host} ({address}): {len(came)} of {count} answers, {shown}")


def _pingable(ctx: Context, host: str) -> str:
    """The address to ask. The gateway is anybody's to ask; a host must be listed as it is."""
    routers = {one["address"]: _zoned(one) for one in gateways()}
    if host == _GATEWAY and not routers:
        raise SkillError("this machine has no default gateway")
    if host == _GATEWAY:
        return next(iter(routers.values()))
    if host in routers:
        return routers[host]
    _check_host(host)
    if not listed(host, 0, ctx.permits.hosts):
        raise SkillError(
            f"{host} may not be pinged: PIBOT_HOSTS does not list it without a port; the gateway "
            'may: "gateway"'
        )
    return _resolved(host, 0)


def _zoned(route: Mapping[str, str]) -> str:
    """A link-local address means something on its own link only."""
    address = route["address"]
    return f"{address}%{route['interface']}" if address.startswith("fe80:") else address


@skill(
    timeout_s=30,
    phrases=[
        "(check|test) [the] port {port:word} (of|at) [host] {host:word}",
        "(检查|测试)主机{host:word}[的]端口{port:word}",
    ],
    available=lambda permits: None if permits.hosts else _OFF_HOSTS,
    note=_hosts_note,
)
def check_port(
    ctx: Context,
    host: Annotated[str, "a listed host"],
    port: Annotated[int, "1 to 65535"],
) -> Output:
    """Tell whether a TCP port of a listed host accepts connections."""
    _check_host(host)
    if not 1 <= port <= 65535:
        raise SkillError(f"port must be 1 to 65535, not {port}")
    if not listed(host, port, ctx.permits.hosts):
        raise SkillError(
            f"port {port} of {host} may not be tried: PIBOT_HOSTS lists neither {host} nor "
            f"{host}:{port}"
        )
    address = _resolved(host, port)
    problem, took_ms = _tried(address, port)
    data = {"host": host, "port": port, "address": address, "open": problem is None}
    data.update(took_ms=took_ms, problem=problem)
    shown = f"is open, {took_ms:g} ms" if problem is None else f"is not open: {problem}"
    return Output(data, f"port {port} of {host} ({address}) {shown}")


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise SkillError(f"{host[:100]!r} is no host; write one name or address")


def _resolved(host: str, port: int) -> str:
    """The first address of a name; what it is asked for is this very address."""
    import socket

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SkillError(f"{host} has no address: {error}") from None
    return str(found[0][4][0])


def _tried(address: str, port: int) -> "tuple[Optional[str], float]":
    import socket

    began = time.monotonic()
    try:
        socket.create_connection((address, port), CONNECT_S).close()
        problem = None
    except OSError as error:
        silent = isinstance(error, socket.timeout)
        problem = f"no answer in {CONNECT_S:g} s" if silent else error.strerror or str(error)
    return problem, round((time.monotonic() - began) * 1000, 1)
