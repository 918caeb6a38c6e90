"""What clients may ask of the master, and who is told how a goal goes on."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

from pibot import messages as msg
from pibot.errors import PibotError, Refused, UsageError
from pibot.fleet import document, routing, status
from pibot.fleet import events as ev
from pibot.fleet.gateway import Gateway, Packet, Request, Step
from pibot.fleet.journal import Journal
from pibot.fleet.manage import Manager
from pibot.fleet.records import Fact, Goal, Task
from pibot.fleet.scheduler import Scheduler
from pibot.session import Channel
from pibot.wire import WHOLE_BYTES

GOAL_CHARS = 32_768
ARGS_BYTES = WHOLE_BYTES - 65_536  # with what surrounds them they still fit into one message
MAX_TIMEOUT_S = 7 * 86_400.0
MAX_OPEN_TASKS = 10_000
MAX_FOLLOWED = 20_000
MAX_FOLLOWERS = 100  # of one goal
LISTED = 50
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
    ) -> None:
        self._scheduler, self._journal, self._gateway = scheduler, journal, gateway
        self._manager = manager
        self._fleet, self._epoch, self._local_time = fleet, epoch, local_time
        self._news: Dict[str, Dict[str, msg.Event]] = {}
        self._news_at = 0.0
        self._followers: "OrderedDict[str, Dict[str, Channel]]" = OrderedDict()

    # --- requests -------------------------------------------------------------------------------

    def handle(self, request: Request, now: float) -> "tuple[Optional[ev.FleetEvent], Answer]":
        """Return the event that a request means for the scheduler, and its answer."""
        try:
            self._manager.may(request.channel.peer, request.message)
            event, data = self._understand(request, now)
            reply = msg.Reply(request.id, data)
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
            return None, self._follow(request.channel, message.goal_id)
        if isinstance(message, msg.Get):
            return None, self.show(message.key)
        if isinstance(message, msg.Listing):
            return None, self._list(message.what, now)
        if isinstance(message, msg.Cancel):
            return self._cancel(message.task)
        if isinstance(message, msg.Retry):
            return self._retry(message.key)
        if isinstance(message, msg.Manage):
            return self._manager.decide(message)
        raise UsageError(f"the master does not know the request {message.t!r}")

    def _submit(
        self, channel: Channel, m: msg.Submit
    ) -> "tuple[Optional[ev.FleetEvent], Dict[str, Any]]":
        known = self._goal(m.goal_id)
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
        size = len(json.dumps(goal.args, ensure_ascii=False).encode("utf-8"))
        if size > ARGS_BYTES:
            raise UsageError(
                f"the arguments have {size:,} bytes, more than the {ARGS_BYTES:,} that can be sent "
                "to a worker: let a skill read them from a file or an address"
            )
        if not 1 <= goal.timeout_s <= MAX_TIMEOUT_S:
            raise UsageError(f"a timeout of {goal.timeout_s:g} s: use 1 to {MAX_TIMEOUT_S:,.0f}")
        board = self._scheduler.board
        if max(len(board.tasks), len(board.goals)) >= MAX_OPEN_TASKS:
            raise Refused(f"{MAX_OPEN_TASKS:,} tasks are open already: wait until some are done")
        problem = routing.refusal(goal, self._scheduler.pool)
        if problem:
            raise UsageError(problem)
        return Goal(**{**goal.__dict__, "created": self._local_time()})

    def _follow(self, channel: Channel, goal_id: str) -> Dict[str, Any]:
        goal = self._need(goal_id)
        if not goal.ended:
            self._add_follower(goal.id, channel)
            return {"goal_id": goal.id, "state": goal.state}
        return {"goal_id": goal.id, "state": goal.state, **self._outcome(goal)}

    def _add_follower(self, goal_id: str, channel: Channel) -> None:
        followers = self._followers.setdefault(goal_id, {})
        followers[channel.ses] = channel
        if len(followers) > MAX_FOLLOWERS:
            del followers[next(iter(followers))]
        while len(self._followers) > MAX_FOLLOWED:
            self._followers.popitem(last=False)

    def _list(self, what: str, now: float) -> Dict[str, Any]:
        pool = self._scheduler.pool
        if what == "workers":
            return status.fleet_document(self._fleet, self._epoch, pool, now)
        if what == "roster":
            return self._manager.document(self._fleet, now)
        if what.startswith("skills"):
            return status.skills_document(pool, what.partition(" ")[2])
        if what == "tasks":
            return {"goals": [self._listed(goal) for goal in self._journal.recent(LISTED)]}
        raise UsageError(f"there is no list of {what!r}: use workers, roster, skills or tasks")

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
        return {**about, **self._outcome(goal)}

    def _attempts(self, task: Task) -> List[Any]:
        return self._journal.attempts(task.id)

    def _outcome(self, goal: Goal) -> Dict[str, Any]:
        tasks = self._scheduler.board.over.get(goal.id) or self._journal.tasks(goal.id)
        return {"document": document.goal_document(goal, tasks), "error": goal.error}

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
        tasks = tuple(self._journal.tasks(goal.id))
        if any(not t.ended for t in tasks):
            raise Refused(f"{goal.id} is still being stopped: try again in a moment")
        return ev.RetryWanted(key, goal, tasks), {"goal_id": goal.id, "state": "running"}

    def _goal(self, key: str) -> Optional[Goal]:
        board = self._scheduler.board
        task = board.tasks.get(key)
        return board.goals.get(task.goal if task else key) or self._journal.goal(key)

    def _need(self, key: str) -> Goal:
        goal = self._goal(key)
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

    def _to(self, to: Dict[str, Channel], event: msg.Event, qos: int = 1) -> List[Packet]:
        return [p for c in to.values() for p in self._gateway.to_client(c, event, qos)]


def _is_news(task: Task) -> bool:
    """That a goal's only task is queued goes without saying; a plan's tasks are all shown."""
    return bool(task.name) or task.state != "queued"
