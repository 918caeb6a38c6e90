"""The worker's rules: events in; facts, messages and effects out; in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict

import pytest

from agent.core_bench import Bench, interrupts, result, said, starts
from pibot import messages as msg
from pibot.agent.effects import Deliver, Dropped, Held, Out
from pibot.agent.repeats import RESEND_MAX_S
from pibot.agent.worker_core import ACCEPT_S, REMEMBERED

# --- attempts -------------------------------------------------------------------------------------


def test_an_assignment_is_stored_started_and_accepted() -> None:
    bench = Bench()
    out = bench.assign(unsafe=True)
    assert out.facts == [Held("g1-1", 1, True)] and starts(out) == [("g1-1", 1)]
    accepted = said(out, msg.Accepted) + said(bench.tick(ACCEPT_S), msg.Accepted)
    assert accepted == [msg.Accepted("g1-1", 1)]
    assert said(bench.tick(ACCEPT_S), msg.Accepted) == []


def test_assigned_again_before_it_said_so_is_answered_at_once_and_not_started_twice() -> None:
    bench = Bench()
    bench.assign()
    out = bench.assign()
    assert said(out, msg.Accepted) == [msg.Accepted("g1-1", 1)] and starts(out) == []
    assert out.facts == []


def test_a_finished_task_assigned_again_gets_its_result_again() -> None:
    bench = Bench()
    bench.assign()
    bench.end()
    out = bench.assign()
    assert said(out, msg.Result) == [result()] and starts(out) == [] and out.facts == []


def test_a_lower_attempt_is_ignored() -> None:
    bench = Bench()
    bench.assign(att=3)
    assert bench.assign(att=2) == Out()
    bench.end()
    assert bench.assign(att=2) == Out()


def test_running_work_is_reported_under_a_higher_attempt() -> None:
    bench = Bench()
    bench.assign(att=1, unsafe=True)
    out = bench.assign(att=4)
    assert out.facts == [Held("g1-1", 4, True)] and starts(out) == []
    assert said(out, msg.Accepted) == [msg.Accepted("g1-1", 4)]
    assert said(bench.end(), msg.Result) == [result(att=4)]


def test_a_success_is_reported_under_a_higher_attempt_and_a_failure_is_done_again() -> None:
    good, bad = Bench(), Bench()
    good.assign()
    good.end()
    out = good.assign(att=2)
    assert said(out, msg.Result) == [result(att=2)] and starts(out) == []
    assert out.facts == [Held("g1-1", 2, result=result(att=2))]
    bad.assign()
    bad.end(state="failed")
    out = bad.assign(att=2)
    assert starts(out) == [("g1-1", 2)] and said(out, msg.Result) == []
    assert said(bad.tick(2.0), msg.Result) == [], "the old failure is not said any more"


def test_no_free_slot_is_declined() -> None:
    bench = Bench(slots=2)
    bench.assign("g1-1")
    bench.assign("g2-1")
    out = bench.assign("g3-1")
    assert said(out, msg.Declined) == [msg.Declined("g3-1", 1, "busy")]
    assert out.facts == [] and out.effects == []
    bench.end("g1-1")
    assert starts(bench.assign("g3-1", 2)) == [("g3-1", 2)]


def test_a_result_is_stored_and_repeated_with_growing_pauses_until_it_is_acknowledged() -> None:
    bench = Bench()
    bench.assign()
    out = bench.end()
    assert out.facts == [Held("g1-1", 1, result=result())]
    assert said(out, msg.Result) == [result()]
    times = []
    for _ in range(1_000):
        if said(bench.tick(0.1), msg.Result):
            times.append(bench.now)
        bench.get(msg.HbAck([]))
    pauses = [b - a for a, b in zip(times, times[1:])]
    assert pauses[0] < 3 and pauses == sorted(pauses) and pauses[-1] <= RESEND_MAX_S + 0.2
    assert len(times) >= 4
    out = bench.get(msg.ResultAck("g1-1", 1, "succeeded"))
    assert out.facts == [Dropped("g1-1")]
    assert not any(said(o, msg.Result) for o in bench.acked(120.0))


@pytest.mark.parametrize("task, att", [("g1-1", 2), ("g1-1", 0), ("g9-1", 1)])
def test_an_acknowledgement_of_another_attempt_does_not_count(task: str, att: int) -> None:
    bench = Bench()
    bench.assign()
    bench.end()
    assert bench.get(msg.ResultAck(task, att, "failed")).facts == []
    assert "g1-1" in bench.core.held


def test_an_acknowledgement_while_it_runs_does_not_lose_the_task() -> None:
    bench = Bench()
    bench.assign()
    assert bench.get(msg.ResultAck("g1-1", 1, "running")) == Out()
    assert said(bench.end(), msg.Result) == [result()]


def test_an_end_that_nobody_waits_for_is_nothing() -> None:
    assert Bench().end("g9-1") == Out()
    bench = Bench()
    bench.assign()
    bench.end()
    assert bench.end(state="failed") == Out(), "one result an attempt, for ever"


def test_steps_are_told_while_it_is_held() -> None:
    bench = Bench()
    bench.assign(att=2)
    (send,) = bench.core.step("g1-1", {"n": 1}, bench.now).sends
    assert (send.message, send.channel, send.qos) == (msg.Progress("g1-1", 2, {"n": 1}), "prog", 0)
    assert bench.core.step("g9-1", {}, bench.now) == Out()


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_interrupts_once_and_the_result_says_how_it_ended() -> None:
    bench = Bench()
    bench.assign()
    assert interrupts(bench.get(msg.Cancel("g1-1", 1))) == ["g1-1"]
    assert bench.get(msg.Cancel("g1-1", 1)) == Out()
    assert said(bench.end(state="cancelled"), msg.Result) == [result(state="cancelled")]


def test_cancel_of_what_is_done_says_the_result() -> None:
    bench = Bench()
    bench.assign()
    bench.end()
    out = bench.get(msg.Cancel("g1-1", 1))
    assert said(out, msg.Result) == [result()] and out.effects == []


def test_cancel_of_what_it_does_not_have_says_that_it_is_cancelled() -> None:
    out = Bench().get(msg.Cancel("g1-1", 3))
    (told,) = said(out, msg.Result)
    assert (told.task, told.att, told.state) == ("g1-1", 3, "cancelled")
    assert told.result["success"] is False and out.facts == []


def test_cancel_of_a_lower_attempt_does_not_stop_a_higher_one() -> None:
    bench = Bench()
    bench.assign(att=2)
    assert bench.get(msg.Cancel("g1-1", 1)) == Out()
    assert interrupts(bench.get(msg.Cancel("g1-1", 3))) == ["g1-1"]


def test_an_assignment_while_it_is_being_stopped_is_declined_or_waits() -> None:
    bench = Bench()
    bench.assign()
    bench.get(msg.Cancel("g1-1", 1))
    assert bench.assign(att=1) == Out()
    assert said(bench.assign(att=2), msg.Declined) == [msg.Declined("g1-1", 2, "stopping")]
    bench.end(state="cancelled")
    assert starts(bench.assign(att=3)) == [("g1-1", 3)]
    assert interrupts(bench.get(msg.Cancel("g1-1", 3))) == ["g1-1"]


# --- a disk that takes nothing --------------------------------------------------------------------


def test_what_could_not_be_stored_does_not_begin() -> None:
    bench = Bench()
    out = bench.core.not_stored([bench.assign()], "the disk is full")
    assert not any(isinstance(f, Held) for f in out.facts) and starts(out) == []
    assert said(out, msg.Declined) == [msg.Declined("g1-1", 1, "the disk is full")]
    assert said(out, msg.Accepted) == [] and bench.core.held == {}
    assert said(bench.tick(ACCEPT_S), msg.Accepted) == []


def test_a_cancel_in_the_same_breath_does_not_haunt_the_next_attempt() -> None:
    bench = Bench()
    assigned = bench.assign()
    bench.get(msg.Cancel("g1-1", 1))
    bench.core.not_stored([assigned], "the disk is full")
    bench.assign(att=2)
    assert interrupts(bench.get(msg.Cancel("g1-1", 2))) == ["g1-1"]


def test_a_result_that_could_not_be_stored_is_sent_from_memory_until_acknowledged() -> None:
    bench = Bench()
    bench.assign()
    out = bench.core.not_stored([bench.end()], "the disk is full")
    assert said(out, msg.Result) == [result()]
    assert said(bench.tick(1.0), msg.Result) == [result()]


def test_what_could_not_be_stored_is_stored_before_it_is_said_again() -> None:
    bench = Bench()
    bench.assign()
    bench.core.not_stored([bench.assign(att=2)], "the disk is full")
    out = bench.assign(att=2)
    assert (out.facts, said(out, msg.Accepted)) == ([Held("g1-1", 2)], [msg.Accepted("g1-1", 2)])
    ended = bench.core.not_stored([bench.end()], "the disk is full")
    assert said(ended, msg.Result) == [result(att=2)]
    assert bench.tick(1.0).facts == [Held("g1-1", 2, result=result(att=2))]
    assert bench.tick(2.0).facts == [], "it is stored now"


def test_a_failure_that_was_to_be_done_again_is_forgotten_with_the_next_commit() -> None:
    bench = Bench()
    bench.assign()
    bench.end(state="failed")
    out = bench.core.not_stored([bench.assign(att=2)], "the disk is full")
    assert out.facts == [Dropped("g1-1")], "the store has the old result"


def test_what_is_not_stored_is_not_accepted_whoever_asks_again() -> None:
    bench = Bench()
    out = bench.core.not_stored([bench.assign(), bench.assign()], "the disk is full")
    assert (said(out, msg.Accepted), len(said(out, msg.Declined))) == ([], 1)


def test_what_was_given_up_never_begins() -> None:
    bench = Bench()
    bench.assign()
    bench.assign("g2-1")  # declined: busy
    bench.get(msg.Cancel("g3-1", 2))  # overtook its assign
    bench.end()
    bench.get(msg.ResultAck("g1-1", 1, "succeeded"))
    for task, att in (("g1-1", 1), ("g2-1", 1), ("g3-1", 1), ("g3-1", 2)):
        out = bench.assign(task, att)
        assert (starts(out), said(out, msg.Declined)) == ([], [msg.Declined(task, att, "over")])
    bench.welcome()
    assert starts(bench.assign("g2-1")) == [], "an assign in chunks may cross sessions"
    assert starts(bench.assign("g2-1", 2)) == [("g2-1", 2)]


def test_an_attempt_that_was_declined_while_the_old_one_stopped_never_begins() -> None:
    bench = Bench()
    bench.assign()
    bench.get(msg.Cancel("g1-1", 1))
    assert said(bench.assign(att=2), msg.Declined) == [msg.Declined("g1-1", 2, "stopping")]
    bench.end(state="cancelled")
    assert starts(bench.assign(att=2)) == []
    assert starts(bench.assign(att=3)) == [("g1-1", 3)]


def test_a_failure_is_kept_when_its_next_attempt_finds_no_room() -> None:
    bench = Bench()
    bench.assign()
    bench.end(state="failed")
    bench.assign("g2-1")
    assert said(bench.assign(att=2), msg.Declined) == [msg.Declined("g1-1", 2, "busy")]
    assert bench.core.held["g1-1"].result == result(state="failed")


def test_little_is_remembered_of_what_is_over() -> None:
    bench = Bench()
    for i in range(REMEMBERED + 100):
        bench.assign(f"g{i}-1", unsafe=i % 2 == 0)
        bench.get(msg.Cancel(f"g{i}-1", 1))
        bench.end(f"g{i}-1", "cancelled")
        bench.get(msg.ResultAck(f"g{i}-1", 1, "cancelled"))
    core = bench.core
    left: Dict[str, Any] = {k: v for k, v in vars(core).items() if isinstance(v, (dict, list))}
    assert len(left.pop("_given_up")) == REMEMBERED
    assert {k: v for k, v in left.items() if v and k != "facts"} == {}


def test_att_of_an_end_does_not_matter() -> None:
    bench = Bench()
    bench.assign(att=5)
    out = bench.core.ended(replace(result(), att=77), bench.now)
    assert said(out, msg.Result) == [result(att=5)]


# --- shared files ---------------------------------------------------------------------------------


def test_a_file_is_given_until_its_result_is_acknowledged() -> None:
    bench = Bench()
    bench.assign()
    fetch = msg.Fetch("g1-1", "a", 0)
    (none_yet,) = said(bench.get(fetch), msg.Slice)
    assert none_yet.error == "its worker does not have it any more"
    named = replace(result(att=0), artifacts=[{"path": "a", "size": 1, "sha256": "0" * 64}])
    bench.core.ended(named, bench.now)
    assert bench.get(fetch).effects == [Deliver(fetch)]
    assert bench.get(fetch).effects == [Deliver(fetch)]
    assert said(bench.get(replace(fetch, path="b")), msg.Slice)[0].error
    bench.get(msg.ResultAck("g1-1", 1, "succeeded"))
    assert said(bench.get(fetch), msg.Slice)[0].error


def test_a_restarted_worker_still_gives_what_its_results_name() -> None:
    named = replace(result(), artifacts=[{"path": "a", "size": 1, "sha256": "0" * 64}])
    bench = Bench(held=(Held("g1-1", 1, result=named),))
    fetch = msg.Fetch("g1-1", "a", 40_000)
    assert bench.get(fetch).effects == [Deliver(fetch)]
