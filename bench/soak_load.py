"""The work of the soak: everything that a fleet is asked to do, steadily, and what came of it."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from typing import Any, Callable, Dict, List

import paho.mqtt.client as mqtt

from pibot import messages as msg
from pibot.errors import PibotError
from pibot.roles.client import Fleet
from pibot.roles.common import new_goal_id

SKILLS = '''
"""Skills of the soak."""

from __future__ import annotations

from pibot.skills import Context, SkillError, skill


@skill(timeout_s=30)
def nap(seconds: float, ctx: Context) -> str:
    """Wait for a moment."""
    ctx.cancelled.wait(seconds)
    return "rested"


@skill(timeout_s=30)
def bulk(kilobytes: int) -> str:
    """Return a long text."""
    return "0123456789abcdef" * (64 * kilobytes)


@skill(timeout_s=30)
def stumble() -> str:
    """Fail."""
    raise SkillError("it cannot be done")


@skill(timeout_s=30)
def log_file(kilobytes: int, ctx: Context) -> str:
    """Write a file and share it."""
    path = ctx.workspace / "log.txt"
    path.write_text("0123456789abcdef" * (64 * kilobytes))
    ctx.share("log.txt")
    return "written"
'''
WAIT_S = 120.0
GROUP = 500  # goals that `fill` submits at once
OPEN_S = 300.0  # a detached goal must have ended by then


def fill(client: Fleet, goals: int) -> None:
    """Do so many goals: what the master remembers of those that ended is then as much as it can be.

    Each group ends before the next one is submitted.
    """
    for start in range(0, goals, GROUP):
        ids = [new_goal_id() for _ in range(min(GROUP, goals - start))]
        sent = [client.send(msg.Submit(i, skill="echo", args={"text": "x"})) for i in ids]
        for pending in sent:
            client.answer(pending, WAIT_S)
        client.follow(ids[-1])


class Load:
    """Threads that work a fleet until `stop()`; `outcomes` counts what came of each kind.

    `connect` makes a client. An outcome that is not the expected one stands in `wrong`.
    """

    def __init__(self, connect: Callable[[], Fleet], port: int, fleet: str, seed: int) -> None:
        self._connect, self._port, self._seed = connect, port, seed
        self._root = f"pibot/1/{fleet}/"
        self._over = threading.Event()
        self._threads: List[threading.Thread] = []
        self._lock = threading.Lock()
        self.outcomes: "Counter[str]" = Counter()
        self.wrong: List[str] = []
        self._detached: Dict[str, float] = {}

    def start(self) -> None:
        kinds = (
            (self._short, 0.3),
            (self._short, 0.3),
            (self._longer, 0.2),
            (self._planned, 4.0),
            (self._large, 20.0),
            (self._file, 10.0),
            (self._failing, 5.0),
            (self._cancelled, 5.0),
            (self._detach, 2.0),
            (self._collect, 10.0),
            (self._come_and_go, 5.0),
            (self._garbage, 1.0),
        )
        for number, (work, pause_s) in enumerate(kinds):
            rng = random.Random(f"{self._seed} {number}")
            name = work.__name__.strip("_")
            thread = threading.Thread(target=self._run, args=(name, work, pause_s, rng), name=name)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _run(
        self, name: str, work: Callable[[Fleet, random.Random], str], pause_s: float, rng: Any
    ) -> None:
        client = self._connect()
        try:
            while not self._over.wait(pause_s * rng.uniform(0.5, 1.5)):
                try:
                    self._count(name, work(client, rng))
                except PibotError as error:
                    self._count(name, f"{type(error).__name__}: {error}")
        finally:
            client.close()

    def _count(self, name: str, outcome: str) -> None:
        with self._lock:
            self.outcomes[name] += 1
            if outcome:
                self.wrong.append(f"{name}: {outcome}")

    # --- each returns "" when all was as expected ----------------------------------------------

    def _short(self, client: Fleet, rng: random.Random) -> str:
        text = "x" * rng.randrange(1, 200)
        done = client.run_skill("echo", {"text": text}, timeout_s=WAIT_S)
        good = done["state"] == "succeeded" and done["tasks"][0]["result"]["data"]["text"] == text
        return "" if good else f"{done['state']}: {str(done)[:200]}"

    def _longer(self, client: Fleet, rng: random.Random) -> str:
        return _as(client.run_skill("nap", {"seconds": rng.uniform(0.2, 2.0)}), "succeeded")

    def _planned(self, client: Fleet, rng: random.Random) -> str:
        return _as(client.run(f"compare the logs of {rng.randrange(10**6)} machines"), "succeeded")

    def _large(self, client: Fleet, rng: random.Random) -> str:
        kilobytes = rng.randrange(1024, 4096)
        done = client.run_skill("bulk", {"kilobytes": kilobytes}, timeout_s=WAIT_S)
        size = len(done["tasks"][0]["result"]["data"]["text"]) if done["tasks"] else 0
        return _as(done, "succeeded") or ("" if size == 1024 * kilobytes else f"{size} characters")

    def _file(self, client: Fleet, rng: random.Random) -> str:
        done = client.run_skill("log_file", {"kilobytes": rng.randrange(1, 512)}, timeout_s=WAIT_S)
        return _as(done, "succeeded")

    def _failing(self, client: Fleet, rng: random.Random) -> str:
        goal_id = new_goal_id()
        submit = msg.Submit(goal_id, skill="stumble", follow=True)
        wrong = _as(client.finish(submit), "failed")
        client.ask(msg.Retry(goal_id))
        return wrong or _as(client.follow(goal_id), "failed")

    def _cancelled(self, client: Fleet, rng: random.Random) -> str:
        goal_id = new_goal_id()
        client.ask(msg.Submit(goal_id, skill="nap", args={"seconds": 25.0}))
        self._over.wait(rng.uniform(0.0, 1.0))
        client.ask(msg.Cancel(goal_id))
        return _as(client.follow(goal_id), "cancelled")

    def _detach(self, client: Fleet, rng: random.Random) -> str:
        goal_id = new_goal_id()
        client.ask(msg.Submit(goal_id, skill="nap", args={"seconds": rng.uniform(0.0, 1.0)}))
        self._detached[goal_id] = time.monotonic()
        return ""

    def _collect(self, client: Fleet, rng: random.Random) -> str:
        """Look after the goals that nobody follows."""
        for goal_id, since in list(self._detached.items()):
            state = client.ask(msg.Get(goal_id))["document"]["state"]
            if state in ("succeeded", "failed", "cancelled", "timed_out"):
                del self._detached[goal_id]
                if state != "succeeded":
                    return f"{goal_id} has {state}"
            elif time.monotonic() - since > OPEN_S:
                del self._detached[goal_id]
                return f"{goal_id} is {state} after {OPEN_S:g} s"
        return ""

    def _come_and_go(self, client: Fleet, rng: random.Random) -> str:
        with self._connect() as guest:
            if guest.get_status_summary()["total"] < 1:
                return "there are no workers"
            guest.ask(msg.Listing("tasks"))
        return ""

    def _garbage(self, client: Fleet, rng: random.Random) -> str:
        """A few malformed messages, and a connection that says nothing."""
        stranger = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        stranger.connect("127.0.0.1", self._port)
        stranger.loop_start()
        for topic in ("w/worker-1/evt", "w/ghost/hb", "c/nobody/req", "m/all", "ask", "w/a/b/c"):
            sent = stranger.publish(self._root + topic, rng.randbytes(rng.randrange(1, 500)), 1)
            sent.wait_for_publish(10)
        stranger.disconnect()
        stranger.loop_stop()
        with socket.create_connection(("127.0.0.1", self._port)) as silent:
            silent.sendall(b"\x10")
        return ""


def _as(done: Dict[str, Any], state: str) -> str:
    return "" if done["state"] == state else f"{done['state']}, not {state}: {str(done)[:200]}"
