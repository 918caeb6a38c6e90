"""What clients may ask: with a real journal and gateway, as the master's loop wires them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from fleet.world import hello
from pibot import messages as msg
from pibot import strictjson
from pibot.errors import PibotError, Refused, UsageError
from pibot.fleet import clients
from pibot.fleet import events as ev
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.audit import Audit
from pibot.fleet.board import MAX_OPEN_TASKS
from pibot.fleet.clients import MAX_FOLLOWERS, Clients
from pibot.fleet.gateway import Gateway, Request, Step
from pibot.fleet.journal import Journal
from pibot.fleet.manage import Manager
from pibot.fleet.programs import Programs
from pibot.fleet.records import Goal, Task
from pibot.fleet.recovery import Recovery
from pibot.fleet.roster import Own, Roster
from pibot.fleet.scheduler import Scheduler
from pibot.fleet.updates import Updates
from pibot.session import Channel
from pibot.signing import Unsigned
from pibot.topics import Topics
from pibot.transfer import WHOLE_BYTES
from pibot.wire import Reader

TOPICS = Topics("home")
ECHO: Dict[str, Any] = {"skill": "echo", "args": {"text": "x"}}


class Desk:
    """The master without its loop: handle, commit, tell."""

    def __init__(self, path: Path, model: bool = True) -> None:
        self.now = 50.0
        self.journal = Journal(path / "journal.db")
        self.journal.open("store")
        self.scheduler = Scheduler(lambda: 0.5, model)
        self.gateway = Gateway(
            TOPICS, Unsigned(), self.scheduler.pool, lambda: "0" * 16, 1, "store", lambda: 0.5
        )
        date = lambda: "2026-11-22T10:30:00"  # noqa: E731
        self.artifacts = Artifacts(path / "artifacts")
        self.roster = Roster(path, "home", Own(None, None, None))
        manager = Manager(self.scheduler, self.roster, self.gateway, date, lambda client: "")
        self.clients = Clients(
            self.scheduler,
            self.journal,
            self.gateway,
            manager,
            "home",
            1,
            date,
            self.artifacts,
            Recovery(0.0, 0.0),
            Updates(self.scheduler.pool, self.roster, Programs(path / "programs")),
            Audit(path / "audit.log", date),
        )
        self.told: List[msg.Event] = []
        self.jobs: List[ev.Job] = []
        self.assigned: List[str] = []
        self.channel = self.session()

    def session(self, name: str = "laptop", ses: str = "a.b") -> Channel:
        return Channel(name, ses, msg.Hello("a" * 16, "s"))

    def feed(self, event: ev.FleetEvent) -> None:
        for one in (event, ev.Tick()):
            out = self.scheduler.handle(one, self.now)
            self.journal.commit(out.facts)
            self.jobs += out.jobs
            self.assigned += [
                s.message.task for s in out.sends if isinstance(s.message, msg.Assign)
            ]
            packets = [p for f in out.facts for p in self.clients.tell(f)]
            packets += [p for n in out.notes for p in self.clients.note(n)]
            self._hear(packets)
            self.scheduler.board.over.clear()
        self.now += 1.0
        self._hear(self.clients.news(self.now))

    def _hear(self, packets: List[Any]) -> None:
        for packet in packets:
            message = Reader(Unsigned()).read(packet.topic, packet.payload)[2]
            assert isinstance(message, msg.Event)
            self.told.append(message)

    def ask(self, message: msg.Message, channel: Optional[Channel] = None) -> Any:
        """The reply's data, or the error; what was asked for is done and stored."""
        request = Request(channel or self.channel, "r1", message)
        event, answer = self.clients.handle(request, self.now)
        assert isinstance(answer.message, msg.Reply) and answer.message.re == "r1"
        if event:
            self.feed(event)
        return answer.message.error or answer.message.data

    def submit(self, goal_id: str = "g1", **fields: Any) -> Any:
        return self.ask(msg.Submit(goal_id, **{**ECHO, **fields}))

    def join(self, name: str = "w1") -> None:
        self.feed(ev.Joined(name, hello((name * 16)[:16]), msg.Inventory()))

    def result(self, task: str, state: str = "succeeded", worker: str = "w1", att: int = 1) -> None:
        done = {"success": state == "succeeded", "data": {}, "output": "did it"}
        self.feed(ev.AttemptEnded(worker, msg.Result(task, att, state, done, None)))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path)
    yield one
    one.journal.close()


def test_a_submit_sent_twice_is_one_goal(desk: Desk) -> None:
    desk.join()
    assert desk.submit() == {"goal_id": "g1", "state": "planning"}
    assert desk.submit() == {"goal_id": "g1", "state": "running"}
    desk.result("g1-1")
    assert desk.submit() == {"goal_id": "g1", "state": "succeeded"}
    assert desk.assigned == ["g1-1"] and len(desk.journal.recent(9)) == 1


def test_what_is_followed_is_told_to_the_end(desk: Desk) -> None:
    desk.join()
    desk.submit(follow=True)
    desk.result("g1-1")
    kinds = [(e.kind, e.data.get("state")) for e in desk.told]
    assert kinds[-1] == ("done", None) and ("task", "assigned") in kinds
    document = desk.told[-1].data["document"]
    assert (document["state"], document["answer"]) == ("succeeded", "did it")
    assert document["tasks"][0]["worker_id"] == "w1"
    count = len(desk.told)
    desk.feed(ev.Tick())
    assert len(desk.told) == count, "nothing follows what is done"


def test_following_later_tells_how_it_stands_or_how_it_ended(desk: Desk) -> None:
    desk.join()
    desk.submit()
    assert desk.ask(msg.Follow("g1")) == {"goal_id": "g1", "state": "running"}
    desk.result("g1-1")
    assert [e.kind for e in desk.told][-1] == "done"
    over = desk.ask(msg.Follow("g1"))
    assert over["document"]["answer"] == "did it" and over["state"] == "succeeded"
    assert desk.ask(msg.Follow("g9"))["code"] == "usage"


def test_who_follows_again_in_another_session_is_told_there_only(desk: Desk) -> None:
    desk.join()
    desk.submit(follow=True)
    other = desk.session(ses="c.d")
    desk.ask(msg.Follow("g1"), other)
    assert list(desk.clients._followers["g1"].values()) == [other]


def test_who_follows_too_often_is_not_remembered_for_ever(desk: Desk) -> None:
    desk.submit()
    for i in range(3 * MAX_FOLLOWERS):
        desk.ask(msg.Follow("g1"), desk.session(f"laptop-{i}", f"a.{i}"))
    assert len(desk.clients._followers["g1"]) == MAX_FOLLOWERS
    desk.join()
    for i in range(50):
        desk.ask(msg.Submit(f"bad{i}", goal="x", skill="y", follow=True))
    desk.result("g1-1")
    assert desk.clients._followers == {}


def test_steps_are_told_if_they_come_from_the_one_who_does_it(desk: Desk) -> None:
    desk.join("w1")
    desk.submit(follow=True)
    desk.join("w2")
    before = len(desk.told)
    for worker, task, att in (("w2", "g1-1", 1), ("w1", "g1-1", 2), ("w1", "g9-1", 1)):
        desk._hear(desk.clients.note(Step(worker, msg.Progress(task, att, {"n": 1}))))
    assert len(desk.told) == before
    desk._hear(desk.clients.note(Step("w1", msg.Progress("g1-1", 1, {"n": 1}))))
    assert desk.told[-1].data == {"worker_id": "w1", "task_id": "g1-1", "step": {"n": 1}}


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"goal": "x"}, "either words or a skill"),
        ({"skill": ""}, "either words or a skill"),
        ({"skill": "", "goal": " \n\t"}, "either words or a skill"),
        ({"skill": "", "goal": "x" * 32_769}, "32,769 characters, more than the 32,768"),
        ({"timeout_s": 0.5}, "a timeout of 0.5 s: use 1 to 604,800"),
        ({"timeout_s": -1.0}, "timeout"),
        ({"timeout_s": 1e9}, "timeout"),
        ({"on": "w9"}, "no worker is called 'w9'"),
        ({"skill": "fly"}, "does not have the skill 'fly'|the fleet does not"),
        ({"args": {"x": "y" * WHOLE_BYTES}}, "33,554,441 bytes, more than the"),
        ({"args": {"x": [1e9] * 3_000_000}}, "bytes, more than the"),
    ],
)
def test_what_cannot_be_a_goal_is_refused_in_words(
    desk: Desk, fields: Dict[str, Any], words: str
) -> None:
    desk.join()
    error = desk.submit(follow=True, **fields)
    assert error["code"] == "usage" and re.search(words, error["message"])
    assert desk.journal.goal("g1") is None and desk.clients._followers == {}


def test_too_many_open_tasks_are_refused(desk: Desk) -> None:
    board = desk.scheduler.board
    for i in range(MAX_OPEN_TASKS):
        board.apply(Task(f"t{i}", "g0", state="blocked"))
    assert desk.submit()["code"] == "refused"
    with pytest.raises(Refused, match="10,000 tasks are open"):
        desk.clients.check(Goal("g2", text="x"))


def test_a_row_for_each_machine_counts_before_it_is_promised(desk: Desk) -> None:
    desk.join("w1")
    desk.join("w2")
    for i in range(MAX_OPEN_TASKS - 1):
        desk.scheduler.board.apply(Task(f"t{i}", "g0", state="blocked"))
    refused = desk.submit(all=True)
    assert refused["code"] == "refused" and "this needs 2" in refused["message"]
    assert desk.submit("g2") == {"goal_id": "g2", "state": "planning"}


def test_large_arguments_are_bounded_together_and_free_their_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MAX_OPEN_BYTES", 500_000)
    desk.join()
    large = {"text": "x" * 110_000}
    for i in range(4):
        assert "code" not in desk.submit(f"g{i}", args=large)
    refused = desk.submit("g4", args=large)
    assert refused["code"] == "refused" and "bytes of arguments" in refused["message"]
    assert "code" not in desk.submit("small"), "a small one is nobody's trouble"
    desk.result("g0-1")
    assert "code" not in desk.submit("g5", args=large)


def test_arguments_weigh_once_for_each_worker_that_gets_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MAX_OPEN_BYTES", 500_000)
    for n in range(1, 7):
        desk.join(f"w{n}")
    refused = desk.submit(args={"text": "x" * 90_000}, all=True)
    assert refused["code"] == "refused" and "bytes of arguments" in refused["message"]
    assert "code" not in desk.submit(args={"text": "x" * 70_000}, all=True)
    assert desk.submit("g2", args={"text": "x" * 110_000})["code"] == "refused"


def test_arguments_of_before_a_restart_still_weigh(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MAX_OPEN_BYTES", 500_000)
    large = {"text": "x" * 110_000}
    for i in range(4):
        assert "code" not in desk.submit(f"g{i}", args=large)
    desk.journal.close()
    again = Desk(tmp_path)
    again.scheduler.load(again.journal.open_facts(), again.now)
    assert again.submit("g4", args=large)["code"] == "refused"
    again.journal.close()


def test_a_retry_beyond_the_limit_is_refused_and_can_be_asked_again(desk: Desk) -> None:
    desk.join()
    desk.submit()
    desk.result("g1-1", "failed")
    board = desk.scheduler.board
    for i in range(MAX_OPEN_TASKS):
        board.apply(Task(f"t{i}", "g0", state="blocked"))
    assert desk.ask(msg.Retry("g1"))["code"] == "refused"
    board.tasks.clear()
    assert desk.ask(msg.Retry("g1")) == {"goal_id": "g1", "state": "running"}


def test_cancel(desk: Desk) -> None:
    desk.join()
    assert desk.ask(msg.Cancel("g1"))["code"] == "usage"
    desk.submit()
    assert desk.ask(msg.Cancel("g1")) == {"goal_id": "g1", "state": "cancelled"}
    assert desk.ask(msg.Cancel("g1")) == {"goal_id": "g1", "state": "cancelled"}, "asked twice"
    desk.result("g1-1", "cancelled")
    desk.submit("g2")
    desk.result("g2-1")
    assert desk.ask(msg.Cancel("g2"))["message"] == "g2 is over already (succeeded)"
    assert desk.ask(msg.Cancel("g2-1"))["code"] == "refused"


def test_cancel_one_task(desk: Desk) -> None:
    desk.submit()
    assert desk.ask(msg.Cancel("g1-1"))["goal_id"] == "g1"
    goal = desk.journal.goal("g1")
    assert goal is not None and goal.state == "cancelled"


def test_retry(desk: Desk) -> None:
    desk.join()
    assert desk.ask(msg.Retry("g1"))["code"] == "usage"
    desk.submit()
    assert desk.ask(msg.Retry("g1")) == {"goal_id": "g1", "state": "running"}, "as it is already"
    desk.ask(msg.Cancel("g1"))
    assert "still being stopped" in desk.ask(msg.Retry("g1"))["message"]
    desk.result("g1-1", "cancelled")
    assert desk.ask(msg.Retry("g1-1")) == {"goal_id": "g1", "state": "running"}
    assert desk.ask(msg.Retry("g1"))["state"] == "running", "asked twice"
    desk.result("g1-2")
    assert "has succeeded" in desk.ask(msg.Retry("g1"))["message"]
    assert [t.state for t in desk.journal.tasks("g1")] == ["cancelled", "succeeded"]


def test_a_retry_that_comes_twice_before_it_is_stored_is_one(desk: Desk) -> None:
    """Both may be in one group of messages, of which nothing is committed yet."""
    desk.join()
    desk.submit()
    desk.result("g1-1", "failed")
    events = []
    for _ in range(2):
        request = Request(desk.channel, "r1", msg.Retry("g1-1"))
        event, _ = desk.clients.handle(request, desk.now)
        events.append(event)
        if event:
            desk.journal.commit([])  # not yet: the group goes on
            desk.scheduler.handle(event, desk.now)
    assert events[0] is not None and events[1] is None


def test_what_ended_in_this_very_round_is_known(desk: Desk) -> None:
    """A submit and its repetition may be in one group with the goal's end, and none is stored."""
    submit = msg.Submit("g1", **ECHO)
    for message, state in ((submit, "planning"), (msg.Cancel("g1"), "cancelled")):
        event, answer = desk.clients.handle(Request(desk.channel, "r1", message), desk.now)
        assert event is not None and answer.message.data["state"] == state  # type: ignore[attr-defined]
        desk.scheduler.handle(event, desk.now)
    for again in (submit, msg.Cancel("g1"), msg.Cancel("g1-1")):
        event, answer = desk.clients.handle(Request(desk.channel, "r1", again), desk.now)
        assert event is None
        assert answer.message.data == {"goal_id": "g1", "state": "cancelled"}  # type: ignore[attr-defined]


def test_show_has_each_attempt_with_its_trace(desk: Desk) -> None:
    desk.join()
    desk.submit()
    deep: Any = 1
    for _ in range(strictjson.MAX_DEPTH - 10):
        deep = [deep]
    result = msg.Result("g1-1", 1, "failed", {"success": False, "output": ""}, "no", {}, [deep])
    desk.feed(ev.AttemptEnded("w1", result))
    for key in ("g1", "g1-1"):
        shown = desk.ask(msg.Get(key))
        (attempt,) = shown["attempts"]
        assert (attempt["worker"], attempt["error"], attempt["trace"]) == ("w1", "no", [deep])
        assert shown["document"]["state"] == "failed" and shown["created"].startswith("2026")
        json.dumps(shown)


@pytest.mark.parametrize(
    "what, key", [("workers", "workers"), ("skills", "skills"), ("skills w1", "skills")]
)
def test_lists(desk: Desk, what: str, key: str) -> None:
    desk.join()
    assert len(desk.ask(msg.Listing(what))[key]) == (1 if key == "workers" else 3)
    assert desk.ask(msg.Listing("skills w9")) == {"skills": []}


def test_the_list_of_tasks_has_no_results(desk: Desk) -> None:
    desk.join()
    desk.submit()
    desk.result("g1-1")
    (row,) = desk.ask(msg.Listing("tasks"))["goals"]
    assert (row["goal_id"], row["goal"], row["state"]) == ("g1", "echo", "succeeded")
    assert row["tasks"][0]["what"] == "echo" and row["tasks"][0]["result"] is None


@pytest.mark.parametrize(
    "message", [msg.Listing("secrets"), msg.Bye(), msg.Ping(), msg.Assign("g1", 1, 1, {})]
)
def test_what_is_no_request_is_refused_in_words(desk: Desk, message: msg.Message) -> None:
    error = desk.ask(message)
    assert error["code"] == "usage" and error["message"]


def test_a_journal_that_cannot_be_read_is_an_answer_too(desk: Desk) -> None:
    desk.submit()
    desk.journal._store._connection().execute("DROP TABLE tasks")
    assert desk.ask(msg.Get("g1"))["code"] == "store"
    desk.journal.commit([])


def test_checking_a_goal_does_not_change_it(desk: Desk) -> None:
    goal = Goal("g1", text="hello", asked=True, ask_id="7", chat="c")
    assert desk.clients.check(goal) == replace(goal, created="2026-11-22T10:30:00")
    with pytest.raises(UsageError):
        desk.clients.check(replace(goal, skill="echo"))
    with pytest.raises(PibotError):
        desk.clients.check(replace(goal, timeout_s=float("nan")))
