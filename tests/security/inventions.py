"""Words that nobody has said, as a broker would make them up that knows all that was said."""

from __future__ import annotations

import random
from typing import Any, Dict, Tuple

from pibot import messages as msg
from pibot.messages import Header, Message
from pibot.signing import GuestKeys, envelope
from pibot.topics import Topics

TOPICS = Topics("home")
WORKERS = ("worker-1", "worker-2")
CLIENT = "laptop"
LIE = {"success": True, "data": {"text": "a lie"}, "output": "a lie"}
OUTSIDE = (msg.Hello, msg.Welcome, msg.Refusal, msg.Announce, msg.Will)  # of any session


class Overheard:
    """What a broker knows of a fleet: everything but keys."""

    def __init__(self) -> None:
        self.sessions: Dict[str, Tuple[str, int]] = {}  # and the last number, by topic
        self.tasks: Dict[str, int] = {"gnobody-1": 1}  # and the attempt
        self.nonces = dict.fromkeys((*WORKERS, CLIENT), "0" * 16)
        self.starts = dict(self.nonces)
        self.asked = ["x-1"]  # ids of requests
        self.sigs = [""]

    def learn(self, topic: str, name: str, sig: str, body: Dict[str, Any]) -> None:
        self.sigs.append(sig)
        if body["ses"]:
            self.sessions[topic] = (body["ses"], body["n"])
        if isinstance(body.get("task"), str) and body.get("att"):
            self.tasks[body["task"]] = body["att"]
        if body["t"] == "hello":
            self.nonces[name], self.starts[name] = body["nonce"], body["start"]
        if topic.endswith("/req"):
            self.asked.append(body["id"])


class Inventor:
    def __init__(self, rng: random.Random, known: Overheard) -> None:
        self._random, self._known = rng, known
        self._made_up = GuestKeys("f" * 64)
        self._speakers = (
            self._as_master,
            self._as_worker,
            self._as_client,
            self._to_client,
            self._to_all,
        )

    def invent(self) -> Tuple[str, str, bytes]:
        """The type, the topic and the payload: as if by one who may say it, in today's session."""
        topic, kid, message = self._random.choice(self._speakers)()
        ses, n = self._known.sessions.get(topic, ("", 0))
        if isinstance(message, OUTSIDE) and self._random.random() < 0.8:
            ses, n = "", 0
        else:
            n += self._random.randrange(1, 50)
        header = Header(message.t, f"x-{n}", kid[2:], ses, n, self._random.randrange(3))
        body = msg.encode(header, message)
        stolen = self._random.choice(self._known.sigs)
        sig = self._random.choice(("", self._made_up.sign(kid, topic, body), stolen))
        return message.t, topic, envelope(sig, kid, body)

    def _one(self, *messages: Message) -> Message:
        return self._random.choice(messages)

    def _task(self) -> Tuple[str, int]:
        """One of those that run now, or of long ago."""
        tasks = list(self._known.tasks.items())
        task, att = self._random.choice(tasks[-6:] if self._random.random() < 0.8 else tasks)
        return task, att + self._random.choice((0, 0, 0, 1, -1))

    def _as_master(self) -> Tuple[str, str, Message]:
        name, (task, att) = self._random.choice(WORKERS), self._task()
        do = {"skill": "work", "args": {}}
        shell = {"skill": "shell", "args": {"command": "touch pwned"}}
        reasons = ("session", "superseded", "quarantined", "incompatible", "removed", "full", "key")
        nonce = self._known.nonces[name]
        message = self._one(
            msg.Assign(f"gforged-{self._random.randrange(9)}", 1, 60_000, do),
            msg.Assign("gforged-9", 1, 60_000, shell),
            msg.Assign(task, att + 1, 60_000, self._random.choice((do, shell))),
            msg.Cancel(task, att),
            msg.ResultAck(task, att, "succeeded"),
            msg.HbAck([[task, att]], 2**40),
            *(msg.Refusal(reason, "go away", nonce) for reason in reasons),
            msg.Welcome(nonce, "f" * 16, "another", 5_000, 30_000),
            msg.Fetch(task, "../../identities.json", 0),
            msg.ChunkAck(f"{name}-1", 9),
            msg.Install('{"v":1,"worker":"worker-1","sha256":"00","serial":1}', "f" * 64),
            msg.ProgramSlice("ab" * 32, 0, "aGVsbG8="),
            msg.Ping(),
        )
        return TOPICS.worker(name, "cmd"), "m:master", message

    def _as_worker(self) -> Tuple[str, str, Message]:
        name, (task, att) = self._random.choice(WORKERS), self._task()
        start = self._known.starts[name]
        nonce = f"{self._random.getrandbits(64):016x}"
        message = self._one(
            *(msg.Result(task, att, s, LIE) for s in ("succeeded", "failed", "cancelled")),
            msg.Declined(task, att, "busy"),
            msg.Accepted(task, att),
            msg.Inventory([], []),
            msg.Inventory([], [[task, att]]),
            msg.Heartbeat([[task, att]]),
            msg.Heartbeat([]),
            msg.Hello(nonce, "f" * 16, 10**6, facts={"skills": []}),
            msg.Hello(nonce, "f" * 16, 10**6, 2, 3),
            msg.Will(start),
            msg.Bye(),
        )
        channel = "will" if isinstance(message, msg.Will) else "evt"
        return TOPICS.worker(name, channel), f"w:{name}", message

    def _as_client(self) -> Tuple[str, str, Message]:
        task, _ = self._task()
        goal = task.rpartition("-")[0]
        message = self._one(
            msg.Submit(f"gforged{self._random.randrange(9)}", skill="work"),
            msg.Submit("gforged10", skill="shell", args={"command": "touch pwned"}),
            msg.Cancel(goal),
            msg.Cancel(task),
            msg.Retry(goal),
            msg.Manage(self._random.choice(("remove", "drain")), "worker-1"),
            msg.Manage("add", "worker-9", "$7$101$" + "A" * 16 + "$" + "B" * 86 + "==", "f" * 64),
            msg.Manage("rotate", "worker-1", now=True),
            msg.Upload("ab" * 32, 5, 0, "aGVsbG8="),
            msg.Update("worker-1", "ab" * 32, "9.9.9", "x", 1, 60),
            msg.Hello("f" * 16, "e" * 16, 0),
        )
        return TOPICS.client(CLIENT, "req"), f"c:{CLIENT}", message

    def _to_client(self) -> Tuple[str, str, Message]:
        task, _ = self._task()
        goal, asked = task.rpartition("-")[0], self._random.choice(self._known.asked[-9:])
        row = {"task_id": task, "worker_id": "worker-1", "state": "succeeded", "attempt": 1}
        rows = [{**row, "result": LIE, "error": None}]
        document = {"goal_id": goal, "state": "succeeded", "answer": "a lie", "tasks": rows}
        message = self._one(
            msg.Reply(asked, {"goal_id": goal, "state": "succeeded", "document": document}),
            msg.Reply(asked, {"goal_id": goal, "state": "cancelled"}),
            msg.Reply(asked, error={"code": "refused", "message": "a lie"}),
            msg.Reply(asked, error={"code": "lost", "message": "submit it again"}),
            msg.Event(goal, "done", {"document": document, "error": None, "artifacts": []}),
            msg.Welcome(self._known.nonces[CLIENT], "f" * 16, "another", 5_000, 30_000),
            msg.Refusal("session"),
            msg.Refusal("key"),
        )
        return TOPICS.client(CLIENT, "rep"), "m:master", message

    def _to_all(self) -> Tuple[str, str, Message]:
        return TOPICS.announce, "m:master", msg.Announce(self._random.choice(("another", "")))
