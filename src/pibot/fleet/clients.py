"""What clients may ask of the master, and who is told how a goal goes on."""

from __future__ import annotations

import base64
import itertools
import json
from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

from pibot import messages as msg
from pibot.errors import DamagedStore, PibotError, Refused, UsageError
from pibot.fleet import approvals, document, routing, status
from pibot.fleet import events as ev
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.audit import Audit
from pibot.fleet.board import MAX_OPEN_TASKS, crowded
from pibot.fleet.decisions import Decisions
from pibot.fleet.gateway import Gateway, Request, Step
from pibot.fleet.journal import Journal
from pibot.fleet.manage import Manager
from pibot.fleet.records import WAITING, Fact, Goal, Task, changed
from pibot.fleet.recovery import Lost, Recovery
from pibot.fleet.scheduler import Scheduler
from pibot.fleet.updates import Updates
from pibot.session import Channel
from pibot.topics import WORKER
from pibot.transfer import WHOLE_BYTES, Peer
from pibot.wire import Packet

GOAL_CHARS = 32_768
ARGS_BYTES = WHOLE_BYTES - 65_536  # with what surrounds them they still fit into one message
MAX_TIMEOUT_S = 7 * 86_400.0
LARGE_BYTES = 4_096  # arguments of this size are counted
MAX_OPEN_BYTES = 128 * 1024 * 1024  # of the arguments of all open goals
MAX_FOLLOWED = 20_000
MAX_FOLLOWERS = 100  # of one goal
MAX_SHARED = 1_000  # tasks whose files are remembered while they are downloaded
LISTED = 50
LISTED_ASKS = 200
CHAT_TURNS = 10
LISTS = ("workers", "roster", "clients", "updates", "skills", "tasks", "waiting", "audit")
NEWS_S = 0.05


class Answer(NamedTuple):
    """To be sent once everything before it is committed."""

    channel: Channel
    message: msg.Message


class Clients:
    def __init__(
        self,
        scheduler: Scheduler,
        journal: Journal,
        gateway: Gateway,
        manager: Manager,
        fleet: str,
        epoch: int,
        local_time: Callable[[], str],
        artifacts: Artifacts,
        recovery: Recovery,
        updates: Updates,
        audit: Audit,
    ) -> None:
        self._scheduler, self._journal, self._gateway = scheduler, journal, gateway
        self._manager, self._updates, self._audit = manager, updates, audit
        self._decisions = Decisions(self._task, audit)
        self._fleet, self._epoch, self._local_time = fleet, epoch, local_time
        self._artifacts, self._recovery = artifacts, recovery
        self._shared: "OrderedDict[str, List[Dict[str, Any]]]" = OrderedDict()
        self._weights: Dict[str, int] = {}  # of the arguments of open goals, in bytes
        self._news: Dict[str, Dict[str, msg.Event]] = {}
        self._news_at = 0.0
        self._followers: "OrderedDict[str, Dict[Peer, Channel]]" = OrderedDict()

    # --- requests -------------------------------------------------------------------------------

    def handle(self, request: Request, now: float) -> "tuple[Optional[ev.FleetEvent], Answer]":
        """Return the event that a request means for the scheduler, and its answer."""
        try:
            self._manager.may(request.channel.peer, request.message)
            event, data = self._understand(request, now)
            reply = msg.Reply(request.id, data)
        except DamagedStore:
            raise
        except PibotError as error:
            event = None
            reply = msg.Reply(request.id, error={"code": error.code, "message": str(error)})
        return event, Answer(request.channel, reply)

    def _understand(
        self, request: Request, now: float
    ) -> "tuple[Optional[ev.FleetEvent], Dict[str, Any]]":
        message = request.message
        if isinstance(message, msg.Submit):
            return self._submit(request.channel, message)
        if isinstance(message, msg.Follow):
            return None, self._follow(request.channel, message.goal_id, now)
        if isinstance(message, msg.Get):
            return None, self.show(message.key)
        if isinstance(message, msg.Fetch):
            return None, self._fetch(message)
        if isinstance(message, msg.Listing):
            return None, self._list(message.what, now)
        if isinstance(message, msg.Upload):
            return None, self._updates.upload(message)
        if isinstance(message, msg.Update):
            data = self._updates.update(message)
            self._note("update", message.worker, request, sha256=message.sha256)
            return None, data
        if isinstance(message, msg.Push):
            data = self._updates.push(message)
            what = "push" if message.form else "push back"
            self._note(what, message.worker, request, skill=message.name, version=message.version)
            return None, data
        if isinstance(message, msg.Cancel):
            return self._cancel(message.task)
        if isinstance(message, msg.Retry):
            return self._retry(message.key)
        if isinstance(message, msg.Approve):
            return self._decisions.decide(message, request.channel.peer)
        if isinstance(message, msg.Manage):
            decided = self._manager.decide(message, request.channel.peer)
            kind = "workers" if message.kind == WORKER else "clients"
            self._note(f"{kind} {message.action}", message.worker, request)
            return decided
        raise UsageError(f"the master does not know the request {message.t!r}")

    def _note(self, what: str, name: str, request: Request, **about: str) -> None:
        self._audit.note(what, by=request.channel.peer, name=name, **about)

    def _submit(
        self, channel: Channel, m: msg.Submit
    ) -> "tuple[Optional[ev.FleetEvent], Dict[str, Any]]":
        known = self.goal(m.goal_id)
        if known is not None:
            if m.follow and not known.ended:
                self._add_follower(m.goal_id, channel)
            return None, {"goal_id": known.id, "state": known.state}
        goal = self.check(
            Goal(
                m.goal_id,
                text=m.goal,
                skill=m.skill,
                args=m.args,
                on=m.on,
                all=m.all,
                tag=m.tag,
                timeout_s=m.timeout_s,
                chat=m.chat,
            )
        )
        if m.follow:
            self._add_follower(m.goal_id, channel)
        return ev.Submitted(goal), {"goal_id": goal.id, "state": goal.state}

    def check(self, goal: Goal) -> Goal:
        """Refuse what cannot be a goal, before it is one; return it with the time of asking."""
        if bool(goal.text.strip()) == bool(goal.skill):
            raise UsageError("a goal is either words or a skill: give one of them")
        if len(goal.text) > GOAL_CHARS:
            raise UsageError(
                f"the goal has {len(goal.text):,} characters, more than the {GOAL_CHARS:,} that "
                "are taken: put long material into a file that a worker can read"
            )
        size = _size(goal)
        if size > ARGS_BYTES:
            raise UsageError(
                f"the arguments have {size:,} bytes, more than the {ARGS_BYTES:,} that can be sent "
                "to a worker: let a skill read them from a file or an address"
            )
        if not 1 <= goal.timeout_s <= MAX_TIMEOUT_S:
            raise UsageError(f"a timeout of {goal.timeout_s:g} s: use 1 to {MAX_TIMEOUT_S:,.0f}")
        self._check_room(len(self._scheduler.pool.workers) if goal.all else 1)
        problem = routing.refusal(goal, self._scheduler.pool)
        if problem:
            raise UsageError(problem)
        weight = size * self._copies(goal)
        if weight > LARGE_BYTES:
            self._check_memory(goal.id, weight)
        return changed(goal, created=self._local_time(), tainted=self._follows_tainted(goal))

    def _follows_tainted(self, goal: Goal) -> bool:
        """Whether text from outside has a part in what was said in its chat before."""
        return bool(goal.chat) and any(
            earlier.tainted for earlier in self._journal.chat(goal.chat, CHAT_TURNS)
        )

    def _check_room(self, wanted: int) -> None:
        """A goal that has no tasks yet will have one at least."""
        board = self._scheduler.board
        room = min(board.room(), MAX_OPEN_TASKS - len(board.goals))
        if wanted > room:
            raise Refused(crowded(wanted, room))

    def _check_memory(self, goal_id: str, weight: int) -> None:
        """Few goals with large arguments take more than many small ones."""
        known, goals = self._weights, self._scheduler.board.goals
        # Not known are those of before a restart, and those that are done again.
        self._weights = {i: known.get(i) or _size(g) * self._copies(g) for i, g in goals.items()}
        held = sum(self._weights.values())
        if held + weight > MAX_OPEN_BYTES:
            raise Refused(
                f"the open goals have {held:,} bytes of arguments already, and {weight:,} more are "
                "too many: wait until some are done, or let a skill read them from a file"
            )
        self._weights[goal_id] = weight

    def _copies(self, goal: Goal) -> int:
        """How many tasks have its arguments."""
        return max(1, len(self._scheduler.pool.workers)) if goal.all else 1

    def _follow(self, channel: Channel, goal_id: str, now: float) -> Dict[str, Any]:
        goal = self.goal(goal_id)
        if goal is None and self._recovery.gathers(now):
            self._add_follower(goal_id, channel)
            return {"goal_id": goal_id, "state": "running"}
        if goal is None and self._recovery.is_on(now):
            raise Lost(f"nothing is known of {goal_id} since the master's journal was damaged")
        goal = self._need(goal_id)
        if not goal.ended:
            self._add_follower(goal.id, channel)
            return {"goal_id": goal.id, "state": goal.state, **self._asks(goal)}
        return {"goal_id": goal.id, "state": goal.state, **self._outcome(goal)}

    def _asks(self, goal: Goal) -> Dict[str, Any]:
        """What a goal waits for, if it does."""
        if goal.state != WAITING:
            return {}
        return {"asks": approvals.rows(self._scheduler.board.of(goal.id))}

    def _add_follower(self, goal_id: str, channel: Channel) -> None:
        followers = self._followers.setdefault(goal_id, {})
        followers[channel.peer, channel.hello.start] = channel  # a process follows in one session
        if len(followers) > MAX_FOLLOWERS:
            del followers[next(iter(followers))]
        while len(self._followers) > MAX_FOLLOWED:
            self._followers.popitem(last=False)

    def _list(self, what: str, now: float) -> Dict[str, Any]:
        pool = self._scheduler.pool
        if what == "workers":
            waiting = [one["id"] for one in self._waiting()]
            document_ = status.fleet_document(self._fleet, self._epoch, pool, now)
            return {**document_, "waiting": waiting} if waiting else document_
        if what == "roster":
            return self._manager.document(self._fleet, now)
        if what == "clients":
            return self._manager.clients(self._fleet)
        if what.startswith("skills"):
            return status.skills_document(pool, what.partition(" ")[2])
        if what == "updates":
            return self._updates.document()
        if what == "tasks":
            return {"goals": [self._listed(goal) for goal in self._journal.recent(LISTED)]}
        if what == "waiting":
            return {"asks": self._waiting()}
        if what == "audit":
            return self._audit.document()
        raise UsageError(f"there is no list of {what[:40]!r}: use {', '.join(LISTS)}")

    def _waiting(self) -> List[Dict[str, Any]]:
        """The calls that wait for a person, those of the oldest tasks first."""
        tasks = self._scheduler.board.tasks.values()
        found = (one for t in tasks if t.state == WAITING for one in approvals.rows([t]))
        return list(itertools.islice(found, LISTED_ASKS))

    def _task(self, task_id: str) -> Optional[Task]:
        """A task of a goal that goes on, or of one that is over."""
        goal = self.goal(task_id)
        found = self._scheduler.board.of(goal.id) or self._tasks(goal) if goal else []
        return next((t for t in found if t.id == task_id), None)

    def _listed(self, goal: Goal) -> Dict[str, Any]:
        tasks = [
            {**document.task_row(t), "result": None, "what": t.skill or t.text[:200]}
            for t in self._journal.tasks(goal.id)
        ]
        what = goal.text[:200] or goal.skill
        return {
            "goal_id": goal.id,
            "goal": what,
            "state": goal.state,
            "created": goal.created,
            "seconds": goal.seconds,
            "tasks": tasks,
        }

    def show(self, key: str) -> Dict[str, Any]:
        """All that is known of a goal: its document, and each attempt with its trace."""
        goal = self._need(key)
        attempts = [vars(a) for t in self._journal.tasks(goal.id) for a in self._attempts(t)]
        about = {"goal": goal.text or goal.skill, "created": goal.created, "attempts": attempts}
        return {**about, **self._outcome(goal), **self._asks(goal)}

    def _attempts(self, task: Task) -> List[Any]:
        return self._journal.attempts(task.id)

    def _outcome(self, goal: Goal) -> Dict[str, Any]:
        tasks = self._tasks(goal)
        return {
            "document": document.goal_document(goal, tasks),
            "error": goal.error,
            "artifacts": document.artifacts(tasks, self._artifacts.has),
        }

    def _tasks(self, goal: Goal) -> List[Task]:
        """The tasks of a goal that is over; the journal may not have the end of this round's."""
        over = self._scheduler.board.over.get(goal.id)
        return over.tasks if over else self._journal.tasks(goal.id)

    def _fetch(self, wanted: msg.Fetch) -> Dict[str, Any]:
        """A slice of a file that a task shared."""
        for file in self._shared_by(wanted.task):
            if file["path"] == wanted.path and file["error"] is None:
                count = msg.FILE_SLICE_BYTES
                raw = self._artifacts.read(wanted.task, file["sha256"], wanted.offset, count)
                return {"size": file["size"], "data": base64.b64encode(raw).decode()}
        raise UsageError(f"{wanted.task} has no file {wanted.path!r}: see `pibot.pyz show`")

    def _shared_by(self, task_id: str) -> List[Dict[str, Any]]:
        """The files of a task that is over; kept, because one is asked for in many slices."""
        if task_id not in self._shared:
            tasks = self._journal.tasks(self._need(task_id).id)
            files = [t.artifacts for t in tasks if t.id == task_id and t.ended]
            if not files:
                return []
            self._shared[task_id] = files[0]
            if len(self._shared) > MAX_SHARED:
                self._shared.popitem(last=False)
        return self._shared[task_id]

    def _cancel(self, key: str) -> "tuple[Optional[ev.FleetEvent], Dict[str, Any]]":
        goal = self._need(key)
        if goal.state == "cancelled":  # asked twice, perhaps because an answer was lost
            return None, {"goal_id": goal.id, "state": goal.state}
        if goal.ended:
            raise Refused(f"{key} is over already ({goal.state})")
        return ev.CancelWanted(key), {"goal_id": goal.id, "state": "cancelled"}

    def _retry(self, key: str) -> "tuple[Optional[ev.FleetEvent], Dict[str, Any]]":
        goal = self._need(key)
        if not goal.ended:  # asked twice, perhaps because an answer was lost
            return None, {"goal_id": goal.id, "state": goal.state}
        if goal.state == "succeeded":
            raise Refused(f"{goal.id} has succeeded: submit it again if you want it twice")
        tasks = tuple(self._tasks(goal))
        if any(not t.ended for t in tasks):
            raise Refused(f"{goal.id} is still being stopped: try again in a moment")
        self._check_room(max(1, sum(t.state != "succeeded" for t in tasks)))
        if any(t.orphan and t.needed and t.state != "succeeded" for t in tasks):
            raise Refused(f"what {goal.id} was to do is lost: submit it again as a new goal")
        return ev.RetryWanted(key, goal, tasks), {"goal_id": goal.id, "state": "running"}

    def goal(self, key: str) -> Optional[Goal]:
        """The goal with this id, or the one that this task belongs to."""
        board = self._scheduler.board
        task = board.tasks.get(key)
        found = board.goals.get(task.goal if task else key)
        return found or self._just_over(key) or self._journal.goal(key)

    def _just_over(self, key: str) -> Optional[Goal]:
        """A goal that ended in this very round, by its id or that of a task."""
        over = self._scheduler.board.over
        found = over.get(key) or over.get(key.rpartition("-")[0])
        return found and found.goal

    def _need(self, key: str) -> Goal:
        goal = self.goal(key)
        if goal is None:
            raise UsageError(f"no goal or task is called {key!r}: see `pibot.pyz tasks`")
        return goal

    # --- followers ------------------------------------------------------------------------------

    def tell(self, fact: Fact) -> List[Packet]:
        """What followers learn of a committed fact: at once that a goal is over, else soon."""
        if isinstance(fact, Goal) and fact.ended:
            self._news.pop(fact.id, None)
            followers = self._followers.pop(fact.id, {})
            if not followers:
                return []
            return self._to(followers, msg.Event(fact.id, "done", self._outcome(fact)))
        if isinstance(fact, Goal) and fact.id in self._followers:
            data: Dict[str, Any] = {"state": fact.state, "revision": fact.revision}
            self._news.setdefault(fact.id, {})[fact.id] = msg.Event(fact.id, "goal", data)
        if isinstance(fact, Task) and fact.goal in self._followers and _is_news(fact):
            data = {
                **document.task_row(fact),
                "result": None,
                "what": fact.skill or fact.text[:200],
            }
            self._news.setdefault(fact.goal, {})[fact.id] = msg.Event(fact.goal, "task", data)
        if isinstance(fact, Task) and fact.goal in self._followers and fact.asks:
            asks = {"asks": approvals.rows(self._scheduler.board.of(fact.goal))}
            self._news.setdefault(fact.goal, {})["asked"] = msg.Event(fact.goal, "asked", asks)
        return []

    def news(self, now: float) -> List[Packet]:
        """What has changed lately; in a burst of short tasks nobody wants every step."""
        if not self._news or now < self._news_at:
            return []
        self._news_at = now + NEWS_S
        news, self._news = self._news, {}
        return [
            packet
            for goal_id, events in news.items()
            for event in events.values()
            for packet in self._to(self._followers.get(goal_id, {}), event, qos=0)
        ]

    def wake_at(self) -> float:
        return self._news_at if self._news else float("inf")

    def note(self, note: Union[ev.Note, Step]) -> List[Packet]:
        """Progress: told to whoever listens, never stored."""
        data: Dict[str, Any]
        if isinstance(note, ev.Note):
            goal_id, data = note.goal, {"text": note.text}
        else:
            task = self._scheduler.board.tasks.get(note.progress.task)
            current = (note.worker, note.progress.att)
            if task is None or (task.assignee, task.attempt) != current:
                return []
            goal_id = task.goal
            data = {"worker_id": note.worker, "task_id": task.id, "step": note.progress.step}
        followers = self._followers.get(goal_id, {})
        return self._to(followers, msg.Event(goal_id, "step", data), qos=0)

    def _to(self, to: Dict[Peer, Channel], event: msg.Event, qos: int = 1) -> List[Packet]:
        return [p for c in to.values() for p in self._gateway.to_client(c, event, qos)]


def _size(goal: Goal) -> int:
    """The bytes of its arguments."""
    return len(json.dumps(goal.args, ensure_ascii=False).encode("utf-8"))


def _is_news(task: Task) -> bool:
    """That a goal's only task is queued goes without saying; a plan's tasks are all shown."""
    return bool(task.name) or task.state != "queued"
