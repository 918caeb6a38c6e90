"""A worker's calls that wait for a person: said again until each is decided, in virtual time."""

from __future__ import annotations

from typing import List

from agent.core_bench import Bench, said
from pibot import messages as msg
from pibot.agent.approval import Ask
from pibot.agent.effects import Decide, Out
from pibot.agent.repeats import RESEND_MAX_S

TASK = "g1-1"


def bench(*steps: int) -> Bench:
    made = Bench(slots=2)
    made.assign(TASK)
    for step in steps:
        ask(made, step)
    return made


def ask(made: Bench, step: int = 3) -> Out:
    return made.core.asked(TASK, Ask(step, "restart_service", "{}", "why"), made.now)


def approvals(out: Out) -> List[msg.Approval]:
    return said(out, msg.Approval)


def test_it_is_said_at_once_and_again_with_growing_pauses() -> None:
    made = bench()
    assert approvals(ask(made)) == [msg.Approval(TASK, 1, 3, "restart_service", "{}", "why", 0)]
    times: List[float] = []
    while len(times) < 8:
        made.now = max(made.now + 0.01, made.core.wake_at())
        if approvals(made.tick(0.0)):
            times.append(made.now - 100.0)
        made.get(msg.HbAck([], int(made.now * 1000)))
    pauses = [after - before for before, after in zip(times, times[1:])]
    assert times[0] <= 1.5 and pauses == sorted(pauses) and pauses[-1] >= RESEND_MAX_S


def test_it_says_how_long_it_has_waited() -> None:
    made = bench(3)
    (again,) = approvals(made.tick(7.0))
    assert again.waited_ms == 7_000


def test_a_new_session_hears_it_at_once() -> None:
    made = bench(3, 4)
    assert [one.step for one in approvals(made.welcome(ep=2))] == [3, 4]


def test_a_decision_ends_the_saying_of_that_call_alone() -> None:
    made = bench(3, 4)
    out = made.get(msg.Decision(TASK, 1, 3, True, "laptop"))
    assert [e.decision.step for e in out.effects if isinstance(e, Decide)] == [3]
    assert [one.step for one in approvals(made.tick(30.0))] == [4]


def test_under_a_higher_attempt_it_is_asked_anew() -> None:
    made = bench(3)
    assert [one.att for one in approvals(made.assign(TASK, 4))] == [4]
    assert [one.att for one in approvals(made.tick(5.0))] == [4]


def test_what_is_over_or_being_stopped_asks_for_nothing() -> None:
    ended, stopped = bench(3), bench(3)
    ended.end(TASK)
    stopped.get(msg.Cancel(TASK, 1))
    assert approvals(ended.tick(30.0)) == [] and approvals(stopped.tick(30.0)) == []
    assert approvals(ask(ended, 4)) == [] and approvals(ask(stopped, 4)) == []


def test_without_a_session_it_waits_for_one() -> None:
    made = Bench(slots=1)
    made.assign(TASK)
    made.core.disconnected()
    made.core.connected(made.now)
    assert approvals(ask(made)) == [] and approvals(made.tick(5.0)) == []
    assert [one.waited_ms for one in approvals(made.welcome(ep=2))] == [5_000]
