"""The broker: found, embedded (amqtt) or a private mosquitto; real ones, over real sockets."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import paho.mqtt.client as mqtt
import pytest

from mqtt_party import Party
from pibot import broker, config
from pibot.broker import BrokerHandle, find_or_start, locate
from pibot.config import Settings
from pibot.errors import ConfigError, Unreachable
from pibot.identities import Identities
from pibot.mosquitto import write_broker_files

needs_amqtt = pytest.mark.skipif(sys.version_info < (3, 10), reason="amqtt needs Python 3.10")
SOURCE = str(Path(broker.__file__).parents[1])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def settings(port: int, host: Optional[str] = None, **more: str) -> Settings:
    environ = {"HOME": "/home/u", "MQTT_PORT": str(port), "MQTT_HOST": host or "", **more}
    return config.load("master", {}, environ, None, Path("/nowhere/pibot.pyz"))


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Client:
    """A paho client that has subscribed; what comes is in `got`."""

    def __init__(self, port: int, topic: str = "pibot/test") -> None:
        self.got: queue.Queue[bytes] = queue.Queue()
        self.topic = topic
        ready = threading.Event()
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.paho.on_connect = lambda c, u, f, rc, p: c.subscribe(topic, 1)
        self.paho.on_subscribe = lambda *a: ready.set()
        self.paho.on_message = lambda c, u, message: self.got.put(message.payload)
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        assert ready.wait(10)

    def round_trip(self, payload: bytes) -> None:
        self.paho.publish(self.topic, payload, qos=1)
        assert self.got.get(timeout=10) == payload

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest.fixture
def opened() -> Iterator[List[BrokerHandle]]:
    handles: List[BrokerHandle] = []
    yield handles
    for handle in handles:
        handle.close()


@pytest.fixture
def without_amqtt(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that lacks amqtt, as on Python 3.9."""
    monkeypatch.setitem(sys.modules, "amqtt", None)


@needs_amqtt
def test_embedded_round_trip_and_a_second_master_finds_it(opened: List[BrokerHandle]) -> None:
    port = free_port()
    first = find_or_start(settings(port))
    opened.append(first)
    assert (first.host, first.port, first.kind) == ("127.0.0.1", port, "amqtt")
    client = Client(port)
    client.round_trip(b"one")
    second = find_or_start(settings(port))
    assert second.kind == "found"
    second.close()
    client.round_trip(b"two")
    client.close()
    first.close()
    assert not is_open(port)


@needs_amqtt
def test_embedded_drops_a_silent_client_and_sends_its_will(
    opened: List[BrokerHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    opened.append(find_or_start(settings(port)))
    watcher = Client(port, "will/silent")
    connect = b"\x00\x04MQTT\x04\x06\x00\x01" + b"".join(
        len(part).to_bytes(2, "big") + part for part in (b"silent", b"will/silent", b"gone")
    )
    with socket.create_connection(("127.0.0.1", port), 10) as silent:
        silent.sendall(b"\x10" + bytes([len(connect)]) + connect)
        assert silent.recv(4) == b"\x20\x02\x00\x00"
        assert silent.recv(1) == b""  # once the keepalive of 1 s is over
    assert watcher.got.get(timeout=10) == b"gone"
    watcher.close()


@needs_amqtt
def test_embedded_needs_no_compiled_or_password_packages() -> None:
    code = textwrap.dedent(f"""
        import sys
        for name in ("psutil", "argon2", "pwdlib", "typer", "cffi"):
            sys.modules[name] = None
        from pibot.embedded import EmbeddedBroker
        broker = EmbeddedBroker({free_port()})
        broker.start(); broker.close(); print("ok")
    """)
    environ = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("ok\n", "")


@needs_amqtt
def test_two_masters_at_once_share_one_broker(opened: List[BrokerHandle]) -> None:
    port = free_port()
    threads = [
        threading.Thread(target=lambda: opened.append(find_or_start(settings(port))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(handle.kind for handle in opened) == ["amqtt", "found", "found", "found"]


def test_private_mosquitto_round_trip(opened: List[BrokerHandle], without_amqtt: None) -> None:
    port = free_port()
    handle = find_or_start(settings(port))
    opened.append(handle)
    assert handle.kind == "mosquitto" and str(port) in handle.describe()
    client = Client(port)
    client.round_trip(b"one")
    assert find_or_start(settings(port)).kind == "found"
    client.close()
    handle.close()
    assert not is_open(port)


def test_private_mosquitto_dies_with_its_master(tmp_path: Path) -> None:
    port = free_port()
    code = textwrap.dedent(f"""
        import sys
        sys.modules["amqtt"] = None
        from pathlib import Path
        from pibot import broker, config
        environ = {{"HOME": "/", "MQTT_PORT": "{port}"}}
        s = config.load("master", {{}}, environ, None, Path("/nowhere/pibot.pyz"))
        print(broker.find_or_start(s).kind, flush=True)
        sys.stdin.read()
    """)
    environ = {**os.environ, "PYTHONPATH": SOURCE}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    master = subprocess.Popen([sys.executable, "-c", code], env=environ, **pipes)
    assert master.stdout is not None and master.stdout.readline() == b"mosquitto\n"
    master.send_signal(signal.SIGKILL)
    master.communicate()
    assert wait_for(lambda: not is_open(port))


@pytest.mark.parametrize("kind", [pytest.param("amqtt", marks=needs_amqtt), "mosquitto"])
def test_a_private_broker_lets_in_whom_the_master_knows(
    kind: str, tmp_path: Path, opened: List[BrokerHandle], request: pytest.FixtureRequest
) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("without_amqtt")
    port, made = free_port(), Identities()
    secret, worker = made.add("m", "master"), made.add("w", "worker-1")
    write(made, tmp_path)
    own = {"MQTT_USERNAME": "master", "MQTT_PASSWORD": secret.password}
    handle = find_or_start(settings(port, PIBOT_STATE_DIR=str(tmp_path), **own))
    opened.append(handle)
    assert handle.kind == kind
    master, party = (Party(port, one.user, one.password) for one in (secret, worker))
    assert master.is_in and party.is_in and not is_let_in(port, "worker-1", "wrong")
    made.remove("worker-1")
    later = made.add("w", "worker-2")
    write(made, tmp_path)
    handle.reload()
    assert party.gone.wait(2.0), "still in after 2 s"
    assert wait_for(lambda: is_let_in(port, later.user, later.password))
    assert not is_let_in(port, worker.user, worker.password) and not master.gone.is_set()
    for one in (master, party):
        one.close()
    handle.close()
    handle.reload()  # as a master does that ends


def is_let_in(port: int, user: str, password: str) -> bool:
    party = Party(port, user, password)
    party.close()
    return party.is_in


def write(made: Identities, state_dir: Path) -> None:
    made.save(state_dir / "master" / "identities.json")
    write_broker_files(made, "home", state_dir / "broker")


def test_a_private_broker_knows_the_master_as_master() -> None:
    chosen = settings(free_port(), MQTT_USERNAME="boss", MQTT_PASSWORD="x")
    with pytest.raises(ConfigError, match="set MQTT_USERNAME=master"):
        find_or_start(chosen)


def test_no_broker_at_all_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, without_amqtt: None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **more: None)
    with pytest.raises(Unreachable, match="apt install mosquitto"):
        find_or_start(settings(free_port()))


def test_mosquitto_that_cannot_serve(monkeypatch: pytest.MonkeyPatch, without_amqtt: None) -> None:
    monkeypatch.setattr(shutil, "which", lambda *args, **more: "/bin/false")
    with pytest.raises(Unreachable, match="ended with status 1"):
        find_or_start(settings(free_port()))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_port_taken_by_something_else(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with server.accept()[0] as sock:
                sock.recv(100)
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConfigError, match=f"Port {port} .* MQTT_PORT"):
            find_or_start(settings(port))
        thread.join(10)


def test_a_port_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_PROBE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConfigError):
        find_or_start(settings(server.getsockname()[1]))


def test_a_configured_broker_is_taken_as_it_is() -> None:
    handle = find_or_start(settings(1999, "broker.example"))
    assert (handle.host, handle.port, handle.kind) == ("broker.example", 1999, "configured")
    assert handle.describe() == "using the broker at broker.example:1999"


def test_others_look_where_the_master_serves() -> None:
    assert locate(settings(1883)) == ("127.0.0.1", 1883)
    assert locate(settings(1884, "10.0.0.2")) == ("10.0.0.2", 1884)
