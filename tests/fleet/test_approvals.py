"""Calls that wait for a person, in virtual time; and which tasks are tainted."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import pytest

from fleet.world import World, assigned, sent
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.approvals import APPROVAL_S, MAX_ASKS, pending, row
from pibot.fleet.scheduler import GRACE_S
from pibot.messages import LEASE_S

TASK = "g1-1"


class House(World):
    """A fleet with one task that runs on w1; `audited` is what the audit log gets."""

    def __init__(self, **goal: Any) -> None:
        super().__init__()
        self.audited: List[Tuple[str, str]] = []
        self.join("w1")
        self.submit(**{"skill": "shell", "timeout_s": 100.0, **goal})
        self.beat("w1", (TASK, 1))

    def _keep(self, out: ev.Out) -> None:
        super()._keep(out)
        for entry in getattr(out, "audits", []):
            if hasattr(self, "audited"):
                self.audited.append((entry.what, entry.about["task"]))

    def feed(self, event: ev.FleetEvent) -> ev.Out:
        out = self.scheduler.handle(event, self.now)
        late = self.scheduler.handle(ev.Tick(), self.now)
        for name in ("facts", "sends", "jobs", "notes", "audits"):
            getattr(out, name).extend(getattr(late, name))
        self._keep(out)
        return out

    def ask(self, step: int = 3, att: int = 1, worker: str = "w1", waited_s: float = 0.0) -> ev.Out:
        words = ("restart_service", '{"unit": "nginx"}', "web_fetch was used")
        said = msg.Approval(TASK, att, step, *words, round(waited_s * 1000))
        return self.feed(ev.ApprovalAsked(worker, said))

    def decide(self, allow: bool = True, step: int = 3, att: int = 1, by: str = "laptop") -> ev.Out:
        return self.feed(ev.Decided(msg.Approve(TASK, att, step, allow), by))

    def live(self, seconds: float, *running: Any) -> None:
        """Let time pass with heartbeats, as a worker's that is well."""
        for _ in range(int(seconds // 5)):
            self.now += 5.0
            self.beat("w1", *(running or ((TASK, 1),)))

    def states(self) -> Tuple[str, str]:
        return self.goal().state, self.task(TASK).state


def decisions(out: ev.Out) -> List[Tuple[int, int, bool, str]]:
    return [(m.att, m.step, m.allow, m.by) for _, m in sent(out, msg.Decision)]


def test_a_call_that_asks_makes_its_task_and_its_goal_wait() -> None:
    w = House()
    out = w.ask()
    assert w.states() == ("waiting", "waiting") and not out.sends
    (ask,) = pending(w.task(TASK))
    assert row(w.task(TASK), ask) == {
        "id": "g1-1:3",
        "task_id": TASK,
        "goal_id": "g1",
        "attempt": 1,
        "worker_id": "w1",
        "step": 3,
        "skill": "restart_service",
        "args": '{"unit": "nginx"}',
        "why": "web_fetch was used",
    }
    assert w.audited == [("asked", TASK)]


@pytest.mark.parametrize("allow", [True, False])
def test_a_decision_is_told_and_told_again_to_whoever_asks_again(allow: bool) -> None:
    w = House()
    w.ask()
    out = w.decide(allow)
    assert decisions(out) == [(1, 3, allow, "laptop")]
    assert w.states() == ("running", "running")
    again = w.ask()
    assert decisions(again) == [(1, 3, allow, "laptop")]
    assert w.states() == ("running", "running") and w.audited == [("asked", TASK)]


def test_an_ask_that_comes_twice_is_one() -> None:
    w = House()
    w.ask()
    assert w.ask().facts == [] and len(pending(w.task(TASK))) == 1


def test_an_ask_counts_as_accepted() -> None:
    w = World()
    w.join("w1")
    w.submit(skill="shell")
    assert w.task(TASK).state == "assigned"
    w.feed(ev.ApprovalAsked("w1", msg.Approval(TASK, 1, 0, "shell", "{}", "always")))
    assert w.task(TASK).state == "waiting"
    assert not sent(w.tick(10), msg.Assign)


def test_several_calls_of_one_turn_wait_at_once_and_each_has_its_own_answer() -> None:
    w = House()
    w.ask(3), w.ask(4)
    assert decisions(w.decide(True, 4)) == [(1, 4, True, "laptop")]
    assert w.states() == ("waiting", "waiting")
    assert [a["step"] for a in pending(w.task(TASK))] == [3]
    assert decisions(w.decide(False, 3)) == [(1, 3, False, "laptop")]
    assert w.states() == ("running", "running")


@pytest.mark.parametrize(
    "wrong", [{"step": 4}, {"att": 2}, {"att": 0}, {"step": -3}], ids=lambda w: str(w)
)
def test_a_decision_about_something_else_changes_nothing(wrong: Dict[str, int]) -> None:
    w = House()
    w.ask()
    assert w.decide(True, **wrong).sends == [] and w.states() == ("waiting", "waiting")


def test_the_first_decision_counts() -> None:
    w = House()
    w.ask()
    w.decide(False)
    assert w.decide(True, by="other").sends == []
    assert decisions(w.ask()) == [(1, 3, False, "laptop")]


def test_the_first_decision_counts_also_while_another_call_waits() -> None:
    w = House()
    w.ask(3), w.ask(4)
    w.decide(False, 3)
    assert w.decide(True, 3).sends == [] and w.states() == ("waiting", "waiting")


def test_while_it_waits_no_time_passes_for_the_attempt_and_its_goal() -> None:
    w = House()
    w.live(60)
    w.ask()
    w.live(1800)
    assert w.states() == ("waiting", "waiting")
    w.decide()
    w.live(30)  # 90 of its 100 s are used
    assert w.states() == ("running", "running")
    w.live(15)
    assert w.goal().state == "timed_out"


def test_the_attempts_own_time_goes_on_where_it_stood() -> None:
    w = House(timeout_s=5_000.0)
    limit = w.task(TASK).timeout_s + GRACE_S
    w.live(limit - 20)
    w.ask()
    w.live(APPROVAL_S / 2)
    w.decide()
    w.live(15)
    assert w.task(TASK).state == "running"
    w.live(10)
    assert (w.task(TASK).state, w.task(TASK).error) == (
        "timed_out",
        f"no result within {limit - GRACE_S:g} s",
    )


def test_a_decision_that_was_lost_costs_the_attempt_no_time() -> None:
    w = House(timeout_s=50_000.0)
    w.live(w.task(TASK).timeout_s - 10)
    w.ask()
    w.decide()
    for _ in range(5):  # the worker still waits, and says so
        w.live(20)
        w.ask()
    assert w.task(TASK).state == "running"


def test_after_an_hour_without_an_answer_the_task_fails_and_is_not_tried_again() -> None:
    w = House(timeout_s=50_000.0)
    w.join("w2")
    w.ask()
    w.live(APPROVAL_S - 10)
    assert w.states() == ("waiting", "waiting")
    w.live(15)
    task = w.task(TASK)
    assert (task.state, task.error) == (
        "failed",
        "nobody has approved restart_service within an hour",
    )
    assert w.goal().state == "failed" and "within an hour" in str(w.goal().answer)
    assert w.audited == [("asked", TASK), ("expired", TASK)]
    assert ("w1", msg.Cancel(TASK, 1)) in [(s.worker, s.message) for s in w.sends]


def test_the_hour_is_the_workers_too_a_restart_of_the_master_does_not_begin_it_anew() -> None:
    w = House(timeout_s=50_000.0)
    w.ask()
    w.live(3_000)
    w.restart()
    w.join("w1", running=[(TASK, 1)])
    assert w.states() == ("waiting", "waiting")
    w.ask(waited_s=3_000)
    w.live(590)
    assert w.task(TASK).state == "waiting"
    w.live(15)
    assert w.task(TASK).state == "failed"


@pytest.mark.parametrize("waited_s", [-1e9, 1e9])
def test_a_worker_that_lies_about_the_time_harms_only_its_own_task(waited_s: float) -> None:
    w = House(timeout_s=50_000.0)
    w.ask(waited_s=waited_s)
    w.tick(0.1)
    assert w.task(TASK).state == ("waiting" if waited_s < 0 else "failed")
    w.live(APPROVAL_S + 5)
    assert w.task(TASK).state == "failed"


def test_a_decision_survives_the_masters_restart() -> None:
    w = House()
    w.ask()
    w.decide()  # committed; the message is lost with the process
    w.restart()
    w.join("w1", running=[(TASK, 1)])
    assert decisions(w.ask(waited_s=5)) == [(1, 3, True, "laptop")]
    assert w.states() == ("running", "running")


def test_what_a_lost_worker_has_asked_is_void_and_asked_anew() -> None:
    w = House()
    w.join("w2")
    w.ask()
    w.now += LEASE_S + 1
    out = w.beat("w2")
    assert assigned(out) == [("w2", TASK, 2)]
    assert w.states() == ("running", "assigned") and pending(w.task(TASK)) == []
    assert w.audited == [("asked", TASK), ("void", TASK)]
    assert sent(w.ask(att=1), msg.Cancel) == [("w1", msg.Cancel(TASK, 1))]
    assert w.decide(att=1).sends == []
    w.ask(att=2, worker="w2")
    assert decisions(w.decide(att=2)) == [(2, 3, True, "laptop")]


def test_an_approval_of_a_lost_attempt_is_not_one_of_the_next() -> None:
    w = House()
    w.join("w2")
    w.ask()
    w.decide(True)
    w.now += LEASE_S + 1
    w.beat("w2")
    assert decisions(w.ask(att=2, worker="w2")) == []
    assert w.task(TASK).state == "waiting"


def test_a_restarted_worker_has_not_got_it_any_more() -> None:
    w = House()
    w.ask()
    out = w.join("w1", start="b" * 16, inc=2)
    assert assigned(out) == [("w1", TASK, 2)] and pending(w.task(TASK)) == []


@pytest.mark.parametrize("key", ["g1", TASK])
def test_a_cancelled_task_waits_no_more(key: str) -> None:
    w = House()
    w.ask()
    out = w.feed(ev.CancelWanted(key))
    assert sent(out, msg.Cancel) == [("w1", msg.Cancel(TASK, 1))]
    assert w.decide().sends == [] and w.ask().sends == []
    assert w.task(TASK).state == "running"
    w.result("w1", TASK, 1, "cancelled")
    assert w.states() == ("cancelled", "cancelled")
    assert w.audited == [("asked", TASK), ("void", TASK)]


def test_a_result_that_comes_while_it_waits_ends_it() -> None:
    w = House()
    w.ask()
    w.result("w1", TASK)
    assert w.states() == ("succeeded", "succeeded")
    assert w.audited == [("asked", TASK), ("void", TASK)]


def test_a_worker_that_leaves_politely_takes_its_question_with_it() -> None:
    w = House()
    w.ask()
    w.feed(ev.Left("w1"))
    assert w.states() == ("running", "queued")


def test_a_task_keeps_its_slot_while_it_waits() -> None:
    w = House()
    w.ask()
    assert assigned(w.submit("g2", skill="echo")) == []
    assert w.scheduler.pool.get("w1").state == "busy"


def test_an_attempt_cannot_ask_without_end() -> None:
    w = House()
    for step in range(MAX_ASKS):
        w.ask(step)
    assert decisions(w.ask(MAX_ASKS)) == [(1, MAX_ASKS, False, "the master")]
    assert len(w.task(TASK).asks) == MAX_ASKS


def test_long_words_of_a_worker_are_cut() -> None:
    w = House()
    said = msg.Approval(TASK, 1, 0, "x" * 9_000, "y" * 50_000, "z" * 50_000)
    w.feed(ev.ApprovalAsked("w1", said))
    assert sum(len(str(v)) for v in w.task(TASK).asks[0].values()) < 5_000


def test_nobody_spins_while_a_task_waits() -> None:
    w = House()
    w.live(95)
    w.ask()
    for _ in range(300):
        at = w.scheduler.wake_at()
        assert at is not None and at > w.now, "a timer that is over"
        w.now = min(at, w.now + 5.0)
        w.beat("w1", (TASK, 1))


def test_a_denied_planned_task_is_not_planned_again() -> None:
    w = World()
    w.join("w1"), w.join("w2")
    w.submit(text="do several things in a row")
    w.plan("g1", {"id": "t", "goal": "restart it"})
    task = next(t for t in w.scheduler.board.tasks.values())
    said = msg.Approval(task.id, 1, 2, "restart_service", "{}", "why")
    w.beat(task.assignee, (task.id, 1))
    w.feed(ev.ApprovalAsked(task.assignee, said))
    w.feed(ev.Decided(msg.Approve(task.id, 1, 2, False), "laptop"))
    jobs = len(w.jobs)
    w.result(task.assignee, task.id, 1, "failed", "it was denied")
    assert w.goal().state == "failed" and len(w.jobs) == jobs


# --- taint ----------------------------------------------------------------------------------------


def spec_of(out: ev.Out) -> Dict[str, Any]:
    ((_, assign),) = sent(out, msg.Assign)
    return dict(assign.spec)


@pytest.mark.parametrize("goal", [{"asked": True}, {"tainted": True}, {}])
def test_a_task_is_tainted_with_its_goal(goal: Dict[str, Any]) -> None:
    w = World()
    w.join("w1")
    assert spec_of(w.submit(skill="shell", **goal)).get("tainted", False) is bool(goal)


def tainted_result(
    w: World, worker: str, task: str, att: int = 1, state: str = "succeeded"
) -> ev.Out:
    ok = state == "succeeded"
    result = {"success": ok, "data": {}, "output": "words of a stranger"}
    said = msg.Result(task, att, state, result, None if ok else "words", tainted=True)
    return w.feed(ev.AttemptEnded(worker, said))


def planned(*tasks: Dict[str, Any]) -> World:
    w = World()
    w.join("w1")
    w.submit(text="do several things in a row")
    w.plan("g1", *tasks)
    return w


def test_taint_goes_on_to_what_needs_it_and_to_nothing_else() -> None:
    w = planned(
        {"id": "a", "goal": "read"},
        {"id": "b", "goal": "use", "needs": ["a"]},
        {"id": "c", "goal": "something else"},
        {"id": "d", "goal": "use the use", "needs": ["b"]},
    )
    out = tainted_result(w, "w1", "g1-1")
    tainted: Dict[str, Optional[bool]] = {}
    while sent(out, msg.Assign):
        ((_, assign),) = sent(out, msg.Assign)
        tainted[assign.task] = assign.spec.get("tainted")
        out = w.result("w1", assign.task)
    assert tainted == {"g1-2": True, "g1-3": None, "g1-4": True}


def test_a_second_try_is_tainted_by_the_first() -> None:
    w = planned({"id": "a", "goal": "read"})
    out = tainted_result(w, "w1", "g1-1", state="failed")
    assert spec_of(out)["tainted"] is True


def test_a_revised_plan_is_tainted_by_what_was_found() -> None:
    w = planned({"id": "a", "goal": "read"}, {"id": "b", "goal": "fail"})
    tainted_result(w, "w1", "g1-1")
    w.result("w1", "g1-2", 1, "failed")
    w.result("w1", "g1-2", 2, "failed")
    assert w.goal().state == "planning" and w.goal().tainted
    assert spec_of(w.plan("g1", {"id": "c", "goal": "obey"}, revision=1))["tainted"] is True


def test_a_goal_remembers_that_its_answer_is_tainted() -> None:
    w = House()
    assert not w.goal().tainted
    tainted_result(w, "w1", TASK)
    assert w.goal().state == "succeeded" and w.goal().tainted


def test_a_retry_stays_tainted() -> None:
    w = House()
    tainted_result(w, "w1", TASK, state="failed")
    out = w.feed(ev.RetryWanted("g1", w.goal(), (w.task(TASK),)))
    assert spec_of(out)["tainted"] is True
