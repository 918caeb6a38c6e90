"""A neighbour that floods the broker with garbage: goals end all the same, and nothing grows."""

from __future__ import annotations

import json
import os
import queue
import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import paho.mqtt.client as mqtt

from fleet_processes import FleetProcesses
from pibot import config
from pibot.fleet.board import MAX_OPEN_TASKS
from pibot.fleet.journal import Journal
from pibot.fleet.records import Goal, Known, Task
from pibot.roles.client import Fleet

ROOT = b"pibot/1/home/"
FLOOD_S = 5.0
GROWTH_MB = 32
LOG_BYTES = 200_000
GOLDEN = Path(__file__).resolve().parents[1] / "golden"

Garbage = Callable[[random.Random], bytes]


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 20, 300)))


def _envelope(body: bytes, kid: bytes = b"w:worker-1", sig: bytes = b"") -> bytes:
    return b'{"sig":"%s","kid":"%s","body":%s}' % (sig, kid, body)


def _wrong_fields(rng: random.Random) -> bytes:
    """A real message with one of its values made wrong."""
    body: Dict[str, Any] = json.loads(rng.choice(_GOLDEN))
    body[rng.choice(sorted(body))] = rng.choice([None, -1, 1e300, "x" * 500, [[]], {"a": {}}, True])
    return _envelope(json.dumps(body).encode(), rng.choice(_KIDS))


def _replayed(rng: random.Random) -> bytes:
    return _envelope(rng.choice(_GOLDEN), rng.choice(_KIDS))


def _hello(rng: random.Random) -> bytes:
    """A forged hello of a name that nobody has: anybody may say it."""
    nonce, facts = f"{rng.getrandbits(64):016x}", {"skills": [{"name": "x" * 60}] * 20}
    body = {"v": 1, "t": "hello", "id": "x", "src": "x", "nonce": nonce, "start": nonce, "inc": 99}
    return json.dumps({**body, "facts": facts}).encode()


def _nested(rng: random.Random) -> bytes:
    deep = rng.choice((50, 5_000))
    return _envelope(b'{"v":1,"t":"hello","a":' + b"[" * deep + b"]" * deep + b"}")


def _oversize(rng: random.Random) -> bytes:
    return _envelope(b'{"a":"' + b"x" * 60_000 + b'"}') if rng.random() < 0.02 else b"small"


_GOLDEN = [path.read_bytes().strip() for path in sorted(GOLDEN.glob("*.json"))]
_KIDS = [b"w:worker-1", b"w:worker-2", b"c:laptop", b"m:master", b"x:nobody"]
_KINDS: List[Garbage] = [_noise, _wrong_fields, _replayed, _nested, _oversize]


def _topic(rng: random.Random) -> bytes:
    worker = rng.choice((b"worker-1", b"worker-2", b"w%d" % rng.randrange(5_000)))
    channel = rng.choice((b"evt", b"hb", b"prog", b"will", b"cmd", b"other"))
    client = rng.choice((b"laptop", b"c%d" % rng.randrange(5_000)))
    return ROOT + rng.choice(
        (
            b"w/" + worker + b"/" + channel,
            b"c/" + client + b"/" + rng.choice((b"req", b"rep")),
            rng.choice((b"m/all", b"ask/x", b"answer/g1", b"unknown/%d" % rng.randrange(100))),
            rng.choice((b"view/fleet", b"view/worker/worker-1", b"view/task/g1-1")),
        )
    )


def _message(rng: random.Random) -> "tuple[bytes, bytes]":
    if rng.random() < 0.2:
        name = b"f%d" % rng.randrange(50_000)
        kind = rng.choice((b"w", b"c"))
        hello = _hello(rng).replace(b'"src": "x"', b'"src": "%s"' % name)
        channel = b"evt" if kind == b"w" else b"req"
        return ROOT + kind + b"/" + name + b"/" + channel, _envelope(hello, kind + b":" + name)
    return _topic(rng), rng.choice(_KINDS)(rng)


def _publish(topic: bytes, payload: bytes) -> bytes:
    """An MQTT packet at QoS 0: paho could not make so many."""
    body = struct.pack("!H", len(topic)) + topic + payload
    size, length = len(body), b""
    while True:
        size, digit = size >> 7, size & 0x7F
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return b"\x30" + length + body


class Flood(threading.Thread):
    """Sends the same thousands of messages again and again, as fast as the broker takes them."""

    def __init__(self, port: int, seed: int, seconds: float) -> None:
        super().__init__(daemon=True)
        rng = random.Random(seed)
        self._packets = [_publish(*_message(rng)) for _ in range(3_000)]
        self._seconds, self._name = seconds, b"flood-%d" % seed
        self._address = ("127.0.0.1", port)
        self.sent = 0

    def run(self) -> None:
        sock = socket.create_connection(self._address)
        connect = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack("!H", len(self._name)) + self._name
        sock.sendall(bytes([0x10, len(connect)]) + connect)
        assert sock.recv(4) == b"\x20\x02\x00\x00"
        sock.settimeout(self._seconds)
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            at = self.sent % len(self._packets)
            try:
                sock.sendall(b"".join(self._packets[at : at + 100]))
            except socket.timeout:
                break
            self.sent += 100
        sock.close()


class Memory(threading.Thread):
    """Watches how much memory processes take, and how much at most."""

    def __init__(self, fleet: FleetProcesses, names: List[str]) -> None:
        super().__init__(daemon=True)
        self._pids = {name: fleet.processes[name].popen.pid for name in names}
        self._before = self._now()
        self._peaks = dict(self._before)
        self._over = threading.Event()

    def _now(self) -> Dict[str, float]:
        page = os.sysconf("SC_PAGE_SIZE") / 1e6
        return {
            name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            for name, pid in self._pids.items()
        }

    def run(self) -> None:
        while not self._over.wait(0.1):
            self._peaks = {n: max(mb, self._peaks[n]) for n, mb in self._now().items()}

    def grown(self) -> Dict[str, float]:
        self._over.set()
        self.join()
        return {n: round(peak - self._before[n], 1) for n, peak in self._peaks.items()}


def settings(fleet: FleetProcesses) -> config.Settings:
    environ = {"HOME": str(fleet.folder), "MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(fleet.port)}
    return config.load("client", {}, environ, None, fleet.folder / "pibot.pyz")


def test_goals_end_in_a_flood_of_garbage(tmp_path: Path, any_broker: str) -> None:
    with FleetProcesses(tmp_path, broker=any_broker) as fleet:
        fleet.start_master()
        for name in ("worker-1", "worker-2"):
            fleet.start_worker(name)
        fleet.wait_idle(2)
        with Fleet.connect(settings(fleet)) as asking:
            asking.run_skill("echo", {"text": "warm"})
            memory = Memory(fleet, ["master", "worker-1", "worker-2"])
            memory.start()
            floods = [Flood(fleet.port, seed, FLOOD_S) for seed in range(3)]
            for flood in floods:
                flood.start()
            done = []
            while any(flood.is_alive() for flood in floods):
                done.append(asking.run_skill("echo", {"text": f"{len(done)}"})["answer"])
            sent = sum(flood.sent for flood in floods)
            assert done == [str(i) for i in range(len(done))] and done
            asking.run_skill("echo", {"text": "after"}, all=True)
            grown = memory.grown()
        print(f"{any_broker}: {sent / FLOOD_S:,.0f} messages/s, {len(done)} goals, grown {grown}")
        assert max(grown.values()) < GROWTH_MB, grown
        fleet.wait_idle(2)
        for name in ("master", "worker-1", "worker-2"):
            assert len(fleet.processes[name].said()) < LOG_BYTES
        assert fleet.counts() == {"total": 2, "idle": 2, "busy": 0, "offline": 0}


# --- more than the fleet takes --------------------------------------------------------------------


def fill(fleet: FleetProcesses, count: int) -> None:
    """The journal of a master that has accepted so many goals, which nobody has done yet."""
    path = fleet.folder / "master" / "state" / "master" / "journal.db"
    path.parent.mkdir(parents=True)
    journal = Journal(path)
    journal.open("0" * 16)
    names = [f"waiting{i}" for i in range(count)]
    goals = [Goal(n, skill="echo", state="running", route="direct") for n in names]
    args = {"text": "x"}
    tasks = [Task(f"{n}-1", n, skill="echo", args=args, state="queued") for n in names]
    known = [Known(f"worker-{i}", {"skills": [{"name": "echo"}]}) for i in (1, 2)]
    journal.commit([*tasks, *goals, *known])
    journal.close()


def ask(fleet: FleetProcesses, text: str) -> Dict[str, Any]:
    """A goal over the `ask` topic, as any other program gives it; returns its answer."""
    answers: "queue.Queue[bytes]" = queue.Queue()
    program = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    program.on_connect = lambda c, *_: c.subscribe("pibot/1/home/answer/+", 1)
    program.on_subscribe = lambda c, *_: c.publish("pibot/1/home/ask", text, 1)
    program.on_message = lambda c, u, message: answers.put(message.payload)
    program.connect("127.0.0.1", fleet.port)
    program.loop_start()
    try:
        return dict(json.loads(answers.get(timeout=20)))
    finally:
        program.disconnect()
        program.loop_stop()


def test_a_submit_beyond_the_limit_is_refused_in_words(tmp_path: Path) -> None:
    run = ("run", "--skill", "echo", "--args", '{"text": "x"}', "--detach")
    with FleetProcesses(tmp_path) as fleet:
        fill(fleet, MAX_OPEN_TASKS - 1)
        fleet.start_master()
        both = fleet.run(*run, "--all", check=1)
        fleet.run(*run)
        for refused in (both, fleet.run(*run, check=1)):
            assert refused.document["error"]["code"] == "refused"
            assert "tasks are open already" in refused.err
        answer = ask(fleet, "echo hello on worker-1")
        assert answer["state"] == "failed" and "tasks are open already" in answer["answer"]
        with Fleet.connect(settings(fleet)) as asking:
            begun = time.monotonic()
            assert asking.get_status_summary()["offline"] == 2
            assert time.monotonic() - begun < 5.0
        fleet.start_worker("worker-1", PIBOT_SLOTS="8")
        fleet.wait_for(lambda: fleet.run(*run, check=None).status == 0, what="there is room again")
