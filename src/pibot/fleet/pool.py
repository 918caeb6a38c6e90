"""The workers as the master sees them now: soft state that is never journalled.

A worker is believed alive while it is heard: for a lease, or for a shorter silence after its last
will. A second machine with the same name takes over only if its store counts more starts, or once
the first is silent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Optional, Set, Tuple

from pibot.fleet.board import Wish
from pibot.fleet.records import DRAINING, GONE, REMOVED
from pibot.messages import LEASE_S, Hello
from pibot.topics import PROTOCOL

AFTER_WILL_S = 8.0
CLOSED_S = 15.0  # a broker that only hears nothing waits for 1.5 keepalives, which is longer
CHANGES_WINDOW_S = 60.0
MAX_CHANGES = 2
HOT_C = 80.0
MAX_SLOTS = 64
MAX_WORKERS = 500
MAX_STRANGERS = 50
MAX_SKILLS = 500  # of one worker
MAX_STRINGS = 100  # tags of a worker, phrases of a skill
MAX_TEXT = 1_000
_SKILL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class Worker:
    name: str
    facts: Dict[str, Any] = field(default_factory=dict)
    hello: Optional[Hello] = None
    heard_at: float = float("-inf")
    silence_s: float = LEASE_S
    closed: bool = False  # its will came so early that its socket was closed, as by its death
    back_at: float = float("-inf")  # the same start came again, perhaps on another connection
    online: bool = False
    draining: bool = False
    incompatible: bool = False
    full: bool = False  # it has declined a task since its last heartbeat
    alarm: str = ""
    tasks: Set[str] = field(default_factory=set)
    changes: List[float] = field(default_factory=list)
    # What it says of itself, read with care: any of it may be missing or wrong.
    slots: int = 1
    model: bool = False
    tags: FrozenSet[str] = frozenset()
    skills: FrozenSet[str] = frozenset()
    announced: List[Dict[str, Any]] = field(default_factory=list)

    def introduce(self, facts: Dict[str, Any]) -> None:
        """Take over what a hello says of its worker."""
        self.facts = dict(facts)
        slots, skills = facts.get("slots"), facts.get("skills")
        self.slots = slots if type(slots) is int and 1 <= slots <= MAX_SLOTS else 1
        self.model = facts.get("model") is True
        self.tags = frozenset(_strings(facts.get("tags")))
        found = [_skill(s) for s in (skills if isinstance(skills, list) else [])[:MAX_SKILLS]]
        self.announced = [s for s in found if s is not None]
        self.skills = frozenset(s["name"] for s in self.announced)

    @property
    def state(self) -> str:
        if self.incompatible:
            return "incompatible"
        if not self.online:
            return "offline"
        if self.draining:
            return "draining"
        return "busy" if self.tasks else "idle"

    @property
    def free(self) -> int:
        ready = self.online and not (self.draining or self.full or self.incompatible)
        return max(0, self.slots - len(self.tasks)) if ready else 0


def _strings(value: Any) -> List[str]:
    strings = [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
    return [s for s in strings if len(s) <= MAX_TEXT][:MAX_STRINGS]


def _skill(said: Any) -> Optional[Dict[str, Any]]:
    """A skill as a worker announced it, with nothing in it that a reader might stumble over."""
    name = said.get("name") if isinstance(said, dict) else None
    if not (isinstance(name, str) and _SKILL_NAME.fullmatch(name)):
        return None
    description = said.get("description")
    return {
        "name": name,
        "description": description[:MAX_TEXT] if isinstance(description, str) else "",
        "params": _strings(said.get("params")),
        "phrases": _strings(said.get("phrases")),
        "repeatable": said.get("repeatable") is not False,
        "sensitive": said.get("sensitive") is True,
        **{key: value[:MAX_TEXT] for key, value in said.items() if _is_more(key, value)},
    }


def _is_more(key: Any, value: Any) -> bool:
    return key in ("group", "note") and isinstance(value, str) and bool(value)


class Pool:
    def __init__(self) -> None:
        self.workers: Dict[str, Worker] = {}
        self.gone: Dict[str, str] = {}  # removed or forgotten by a person
        self.alarm = ""  # about the fleet as a whole

    def get(self, name: str) -> Worker:
        return self.workers.setdefault(name, Worker(name))

    def heard(self, name: str, now: float) -> Worker:
        worker = self.get(name)
        worker.heard_at, worker.silence_s, worker.online = now, LEASE_S, True
        worker.closed = False
        worker.full = False
        return worker

    def refuse(self, name: str, hello: Hello, now: float) -> Optional[Tuple[str, str]]:
        """Return (reason, detail) if this start may not have the name now, else None."""
        if self.gone.get(name) == REMOVED:
            return REMOVED, was_removed(name)
        if name not in self.workers and len(self.workers) >= MAX_WORKERS:
            return "full", (
                f"the fleet has {MAX_WORKERS} workers already: `pibot.pyz workers remove NAME` on "
                "the master makes it forget one"
            )
        worker = self.workers.get(name) or Worker(name)
        if not hello.proto_min <= PROTOCOL <= hello.proto_max:
            self._show_incompatible(worker, hello)
            return "incompatible", (
                f"this worker speaks protocol {hello.proto_min} to {hello.proto_max}, the master "
                f"{PROTOCOL}: update the older of the two"
            )
        old = worker.hello
        if old is None or old.start == hello.start:
            return None
        worker.changes = [t for t in worker.changes if now - t < CHANGES_WINDOW_S]
        if self._silent(worker, now):
            return None
        both = f"{_machine(old)} and {_machine(hello)}"
        if hello.inc <= old.inc:
            worker.alarm = f"two machines use the name {name}: {both}"
            return "superseded", (
                f"the name {name} belongs to {_machine(old)}: give this machine another one, with "
                "`workers add` on the master, or, without passwords, with WORKER_ID"
            )
        if len(worker.changes) >= MAX_CHANGES and not _same_machine(old, hello):
            worker.alarm = f"{name} is quarantined: it keeps changing between {both}"
            return "quarantined", f"two machines fight for the name {name}: {both}"
        return None

    def _show_incompatible(self, worker: Worker, hello: Hello) -> None:
        """Nothing that is live changes because of a mere hello; strangers are shown, but few."""
        strangers = [w for w in self.workers.values() if w.incompatible]
        if worker.online or (len(strangers) >= MAX_STRANGERS and worker not in strangers):
            return
        self.workers[worker.name] = worker
        worker.incompatible = True
        worker.introduce(hello.facts)

    def take(self, name: str, hello: Hello, now: float) -> bool:
        """A new session of this worker is live; True if another start had the name before."""
        worker = self.heard(name, now)
        changed = worker.hello is not None and worker.hello.start != hello.start
        if changed:
            worker.changes.append(now)
        back = worker.hello is not None and not changed
        worker.back_at = now if back else float("-inf")
        if worker.hello is None or _same_machine(worker.hello, hello):
            worker.alarm = ""
        worker.hello, worker.incompatible = hello, False
        worker.introduce(hello.facts)
        return changed

    def will(self, name: str, start: str, now: float) -> None:
        """The broker says that a start of this worker is gone: allow less silence, no more.

        Of one that came back lately it may be the connection of before that is gone.
        """
        worker = self.workers.get(name)
        if worker and worker.hello and worker.hello.start == start:
            worker.silence_s = AFTER_WILL_S
            lately = now - worker.back_at < LEASE_S
            worker.closed = now - worker.heard_at < CLOSED_S and not lately

    def learn(self, worker: Worker, facts: Dict[str, Any]) -> None:
        """Take the machine facts of a heartbeat; what an older one said beside them is gone."""
        said = worker.hello.facts if worker.hello else {}
        worker.facts = {**said, **facts}

    def left(self, name: str) -> None:
        """The worker itself says that it stops."""
        self.get(name).online = False

    def restored(self, name: str, facts: Dict[str, Any]) -> None:
        """A worker that the journal knows: offline until it says hello."""
        self.get(name).introduce(facts)

    def stand(self, name: str, state: str) -> None:
        """What a person has decided about this worker; who is gone is no worker any more."""
        self.gone.pop(name, None)
        if state in GONE:
            self.workers.pop(name, None)
            self.gone[name] = state
        elif name in self.workers:
            self.workers[name].draining = state == DRAINING

    def fell_silent(self, now: float) -> List[Worker]:
        """Mark and return the workers that have just become offline."""
        gone = [w for w in self.workers.values() if w.online and self._silent(w, now)]
        for worker in gone:
            worker.online = False
        return gone

    def next_silence(self) -> Optional[float]:
        return min(
            (w.heard_at + w.silence_s for w in self.workers.values() if w.online), default=None
        )

    def _silent(self, worker: Worker, now: float) -> bool:
        return not worker.online or now >= worker.heard_at + worker.silence_s

    def pick(self, wish: Wish) -> Optional[Worker]:
        """The least loaded worker that may do it now; one on which it failed only if alone."""
        there = (w for w in self._candidates(wish) if w.online and not w.draining)
        able = [w for w in there if suits(w, wish)]
        others = [w for w in able if w.name not in wish.avoid]
        free = [w for w in others or able if w.free]
        return min(free, key=lambda w: (_load(w), w.name), default=None)

    def _candidates(self, wish: Wish) -> List[Worker]:
        if wish.worker:
            return [self.workers[wish.worker]] if wish.worker in self.workers else []
        return list(self.workers.values())

    def online(self) -> List[Worker]:
        names = sorted(self.workers)
        return [self.workers[n] for n in names if self.workers[n].online]


def was_removed(name: str) -> str:
    """What its operator reads."""
    return (
        f"{name} was removed from the fleet: to have it back, run `pibot.pyz workers add {name}` "
        "on the master and bring the new file here"
    )


def suits(worker: Worker, wish: Wish) -> bool:
    """Whether the worker has what is asked, now or when it is free again."""
    return (
        worker.skills.issuperset(wish.skills)
        and worker.tags.issuperset(wish.tags)
        and (worker.model or not wish.model)
    )


def _load(worker: Worker) -> Tuple[float, bool, float]:
    """Order of preference: share of slots in use, then heat or throttling, then load."""
    hot = _number(worker.facts.get("cpu_temp_c")) >= HOT_C or worker.facts.get("throttled") is True
    return len(worker.tasks) / worker.slots, hot, _number(worker.facts.get("load1"))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _machine(hello: Hello) -> str:
    """How an operator finds a machine: host name and the end of its machine id."""
    host, machine = hello.facts.get("host", "an unnamed host"), hello.facts.get("machine", "?")
    return f"{str(host)[:64]} ({str(machine)[:64]})"


def _same_machine(one: Hello, other: Hello) -> bool:
    return _machine(one) == _machine(other)
