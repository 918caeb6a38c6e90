"""Master and worker with live sessions, fed for a long time; at the end they still work.

They are the real roles on a transport that leads nowhere. What only a peer with a session may say
is said, too. The master's time is virtual, so that deadlines and leases pass meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from fuzzing.decoder import Target
from fuzzing.peers import TOPICS, Nowhere, Peer, heard, kind_of, settings
from pibot import messages as msg
from pibot.fleet import board
from pibot.fleet import events as ev
from pibot.messages import Message
from pibot.roles.master import Master
from pibot.roles.worker import Worker

STEP_S = 0.05  # of virtual time, for a payload
TOGETHER = 20  # payloads that the master commits at once
_TASK = "g1-1"  # what the golden messages name
_OF_WORKERS = frozenset({
    "inventory", "heartbeat", "accepted", "declined", "result", "progress", "will", "bye", "slice",
})  # fmt: skip
_OF_CLIENTS = frozenset({"submit", "get", "list", "retry", "follow", "manage", "fetch"})
FACTS: Dict[str, Any] = {
    "slots": 2, "tags": ["camera"], "model": True, "host": "pi", "machine": "pi", "version": "1",
    "skills": [{"name": "echo", "description": "Say it.", "params": ["text"],
                "phrases": ["echo {text}"], "repeatable": True}],
}  # fmt: skip


class MasterTarget(Target):
    """The master's desk, its journal and its sessions with two workers and a client."""

    def __init__(self, folder: Path) -> None:
        self._opened, self._air = contextlib.ExitStack(), Nowhere()
        self._bound, board.REMEMBERED = board.REMEMBERED, 200  # soon full: what grows then, leaks
        self._master = Master(settings("master", folder), lambda *_: self._air)
        self._master._open(self._opened)
        self._desk, self._now, self._count = self._master._desk, time.monotonic(), 0
        self._workers = [Peer("w", "worker-1"), Peer("w", "worker-2")]
        self._client = Peer("c", "laptop")
        self._task, self._att = "", 0  # what a worker was given last

    def close(self) -> None:
        board.REMEMBERED = self._bound
        self._opened.close()

    def take(self, payload: bytes) -> bool:
        self._count += 1
        self._now += STEP_S
        if self._count % 100 == 1:
            self._introduce()
        dropped = sum(self._desk._gateway.dropped.values())
        if not payload.startswith(b"{") and zlib.crc32(payload) % 2:
            self._desk.take_packet(TOPICS.ask, payload, self._now)
        else:
            self._said(payload)
        if self._count % TOGETHER == 0:
            self._settle()
        return dropped == sum(self._desk._gateway.dropped.values())

    def _said(self, payload: bytes) -> None:
        t = kind_of(payload)
        of_worker = t in _OF_WORKERS or (t not in _OF_CLIENTS and zlib.crc32(payload) % 2)
        peer = self._workers[zlib.crc32(payload) // 16 % 2] if of_worker else self._client
        for body in peer.spoken(payload, self._mended):
            self._hear(peer, t, body)
        if t == "hello":  # it may have been taken, with all that it says of itself
            self._settle()
            self._adopt(peer)

    def _mended(self, body: Dict[str, Any]) -> None:
        """Name the task and the goal that there are."""
        if body.get("task") == _TASK and self._task:
            body.update(task=self._task, att=self._att)
        for name in ("goal_id", "key"):
            if body.get(name) in ("g1", _TASK) and self._task and body.get("t") != "submit":
                body[name] = self._task.rpartition("-")[0]
        if body.get("t") == "submit" and body.get("goal_id") == "g1":
            body["goal_id"] = f"g{self._count}"

    def _hear(self, peer: Peer, t: str, body: bytes) -> None:
        channel = {"heartbeat": "hb", "progress": "prog", "will": "will"}.get(t, "evt")
        topic = TOPICS.worker(peer.name, channel)
        if peer.kind == "c":
            topic = TOPICS.client(peer.name, "req")
        self._desk.take_packet(topic, peer.sealed(topic, body), self._now)

    def _settle(self) -> None:
        self._desk.take_event(ev.Tick(), self._now)
        self._desk.store(self._now)
        for packet in self._desk.tell(self._now).packets:
            self._air.publish(*packet)
        for peer in self._workers:
            for assign in heard(self._air.sent, TOPICS.worker(peer.name, "cmd"), msg.Assign)[-1:]:
                self._task, self._att = assign.task, assign.att

    def _introduce(self) -> None:
        for peer in (*self._workers, self._client):
            self.join(peer)

    def join(self, peer: Peer) -> None:
        self.say(peer, msg.Hello(f"{self._count:016x}", "a" * 16, 1, facts=FACTS))
        self._adopt(peer)
        if peer.kind == "w":
            self.say(peer, msg.Inventory([], []))
            self.say(peer, msg.Heartbeat([], {"cpu_temp_c": 40.0}))

    def _adopt(self, peer: Peer) -> None:
        channel = "rep" if peer.kind == "c" else "cmd"
        topic = f"{TOPICS.root}{peer.kind}/{peer.name}/{channel}"
        for welcome in heard(self._air.sent, topic, msg.Welcome)[-1:]:
            peer.welcomed(f"{welcome.nonce}.{welcome.nonce_m}")

    def say(self, peer: Peer, message: Message) -> None:
        self._hear(peer, message.t, peer.body(message))
        self._settle()

    def rest(self) -> None:
        """More than any goal's time passes: nothing is open then."""
        self._now += 8 * 86_400.0
        for _ in range(20):
            self._settle()

    def still_works(self) -> None:
        """A goal of an honest client is done by an honest worker, and its document comes."""
        worker, client = Peer("w", "honest"), Peer("c", "friend")
        self._now += 700.0  # whatever was begun has run out by now
        self._settle()
        self._air.sent.clear()
        self.join(worker)
        self.join(client)
        submit = msg.Submit("gfinal", skill="echo", args={"text": "x"}, on="honest", follow=True)
        self.say(client, submit)
        replies = heard(self._air.sent, TOPICS.client("friend", "rep"), msg.Reply)
        assert replies and not replies[-1].error, f"the master refuses a goal: {replies}"
        assigned = heard(self._air.sent, TOPICS.worker("honest", "cmd"), msg.Assign)
        assert assigned, "the goal was given to nobody"
        result = {"success": True, "data": {"text": "x"}, "output": "x"}
        self.say(worker, msg.Result(assigned[-1].task, assigned[-1].att, "succeeded", result))
        self._now += 1.0
        self._settle()
        events = heard(self._air.sent, TOPICS.client("friend", "rep"), msg.Event)
        states = [e.data["document"]["state"] for e in events if e.kind == "done"]
        assert states == ["succeeded"], f"no outcome came: {events}"


class _Trap(logging.Handler):
    """Holds what a role logs with a traceback: an exception that it did not expect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._caught: Optional[BaseException] = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and self._caught is None:
            self._caught = record.exc_info[1]

    def release(self) -> None:
        caught, self._caught = self._caught, None
        if caught is not None:
            raise caught


class WorkerTarget(Target):
    """A worker's loop with its journal and its skills; a master seems to have welcomed it."""

    def __init__(self, folder: Path) -> None:
        self._opened, self._air, self._trap = contextlib.ExitStack(), Nowhere(), _Trap()
        self._worker = Worker(settings("worker", folder, "worker-1"), lambda *_: self._air)
        self._worker._open(self._opened)
        self._master, self._count = Peer("m", "master"), 0
        self._cmd, self._evt = (TOPICS.worker("worker-1", c) for c in ("cmd", "evt"))
        logging.getLogger("pibot").addHandler(self._trap)

    def close(self) -> None:
        logging.getLogger("pibot").removeHandler(self._trap)
        self._opened.close()

    def take(self, payload: bytes) -> bool:
        self._count += 1
        if self._worker._core.guest.channel is None or self._count % 1000 == 0:
            self._introduce()
        said, topic = len(self._air.sent), self._cmd
        if zlib.crc32(payload) % 16 == 3:
            topic = TOPICS.announce
        for body in self._master.spoken(payload, lambda _: None):
            self._turn((topic, self._master.sealed(topic, body)))
        return len(self._air.sent) != said

    def _turn(self, *items: Any) -> None:
        """One round of the role's loop, with what its own attempts have to say."""
        ended = self._worker._mailbox.collect(0.0, self._air.poll)
        self._worker._turn([*items, *ended])
        self._trap.release()

    def _hear(self, message: Message) -> None:
        self._turn((self._cmd, self._master.sealed(self._cmd, self._master.body(message))))

    def _introduce(self) -> None:
        """A new connection, a hello, a welcome."""
        self._master.welcomed("")
        self._air.sent.clear()
        self._turn((True, ""))
        hello = heard(self._air.sent, self._evt, msg.Hello)[-1]
        self._hear(msg.Welcome(hello.nonce, "b" * 16, "store", 5000, 30000))
        self._master.welcomed(f"{hello.nonce}.{'b' * 16}")

    def still_works(self) -> None:
        """A task of an honest master is done; whatever runs is stopped first."""
        self._introduce()
        self._until(self._is_free, "what runs can be stopped")
        echo = {"skill": "echo", "args": {"text": "still here"}}
        self._hear(msg.Assign("tfinal", 1, 60_000, echo))
        self._until(self._is_done, "a task is done")

    def _is_free(self) -> bool:
        held = list(self._worker._core.held.values())
        for one in held:
            self._hear(msg.Cancel(one.task, one.att))
            self._hear(msg.ResultAck(one.task, one.att, "cancelled"))
        return not held

    def _is_done(self) -> bool:
        results = heard(self._air.sent, self._evt, msg.Result)
        return any(r.task == "tfinal" and r.state == "succeeded" for r in results)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"no longer so: {what}"
            self._turn()
            time.sleep(0.01)
