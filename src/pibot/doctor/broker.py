"""The broker: does it take connections, and does it let this role in?"""

from __future__ import annotations

import socket
import time
from typing import Iterator, List, Tuple

from pibot import broker as place
from pibot.config import Settings, is_loopback
from pibot.doctor.findings import Finding, ok, warn
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings, within
from pibot.mailbox import Mailbox
from pibot.roles.common import link, other_user
from pibot.transport import Link, PahoTransport

REACH_S = 3.0
ENTER_S = 4.0
MOSQUITTO = "/usr/sbin/mosquitto"


def broker(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """A TCP connection first, then MQTT's own greeting with the credentials."""
    found = subject.settings
    if found is None:
        return
    host, port = place.locate(found)
    why, fix = _reach(host, port)
    if why:
        yield subject.bad("broker", why, fix or _start(here, subject, host, port))
        return
    yield ok("broker", f"{host}:{port} takes connections")
    why = enter(link(found, host, port))
    if why:
        yield subject.bad("credentials", why, _mend(here, found, subject, why))
    elif other_user(found):
        yield warn("credentials", other_user(found), _bring(here, "add", found.worker_id))
    else:
        name = found.mqtt_username
        who = f"{name} is let in" if name else "everybody is let in, without a password"
        yield ok("credentials", who)


def _reach(host: str, port: int) -> Tuple[str, str]:
    """Why no TCP connection can be had, and what to do where that is sure; ("", "") if it can."""
    where = f"{host}:{port}"
    try:
        addresses = within(REACH_S, lambda: socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
    except (socket.gaierror, UnicodeError):
        return f"the name {host} is unknown here", f"ping {host}; or put its address into MQTT_HOST"
    except TimeoutError:
        return f"the name {host} cannot be looked up", "resolvectl status; or use an address"
    until = time.monotonic() + REACH_S
    why = ""
    for family, _, _, _, address in addresses:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(max(0.1, until - time.monotonic()))
            try:
                sock.connect(address)
                return "", ""
            except (socket.timeout, TimeoutError):
                why = f"{where} is silent: a wrong address, a firewall, or a machine that is off"
            except ConnectionRefusedError:
                why = f"no broker listens at {where}"
            except OSError as error:
                why = f"{where} cannot be reached: {error.strerror}"
    return why, ""


def _start(here: Surroundings, subject: Subject, host: str, port: int) -> str:
    """What makes a broker answer there."""
    if not is_loopback(host):
        restart = f"on {host}: sudo systemctl restart mosquitto; sudo ufw allow {port}/tcp"
        return f"{restart}; or, if it has another address now, set MQTT_HOST: {subject.edit()}"
    if here.roles and here.at(MOSQUITTO).exists():
        return "sudo systemctl restart mosquitto"
    if "master" in here.roles:
        return "sudo systemctl restart pibot-master"
    return f"{here.pibot} --role master (it brings a broker), or: {here.pibot} demo"


def enter(there: Link, limit_s: float = ENTER_S) -> str:
    """Greet the broker with the credentials; "" if it lets us in, else why not.

    The client id is new and the session clean, so that nobody who is connected is disturbed.
    """
    states: List[Tuple[bool, str]] = []
    mailbox = Mailbox()
    mailbox.open()
    transport = PahoTransport(there, "doctor", [])
    transport.start(
        lambda topic, payload: None, lambda up, why: states.append((up, why)), mailbox.wake
    )
    until = time.monotonic() + limit_s
    try:
        while not states and time.monotonic() < until:
            mailbox.collect(until - time.monotonic(), transport.poll)
        transport.close()
    finally:
        mailbox.close()
    if not states:
        return f"{there.where()} takes connections but does not answer as a broker"
    up, why = states[0]
    return "" if up else why


def _mend(here: Surroundings, found: Settings, subject: Subject, why: str) -> str:
    if "clock" in why:
        return "sudo timedatectl set-ntp true"
    if "PIBOT_CA does not vouch" in why and subject.role == "worker":
        return _bring(here, "rotate", found.worker_id)
    if "user name" not in why:
        return "check MQTT_HOST, MQTT_PORT, PIBOT_CA and MQTT_CA_FILE: " + subject.edit()
    if subject.role == "master":
        return here.setup("master")
    if subject.role == "worker":
        return _bring(here, "rotate", found.worker_id)
    return "check MQTT_USERNAME and MQTT_PASSWORD: " + subject.edit()


def _bring(here: Surroundings, action: str, name: str) -> str:
    more = " (add, if it was removed)" if action == "rotate" else ""
    return (
        f"on the master: pibot.pyz workers {action} {name}{more}; bring the file here, then: "
        f"{here.setup('worker')} --env-file {name}.env"
    )
