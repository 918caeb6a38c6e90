"""The worker's rules: events in; facts, messages and effects out; in virtual time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

import pytest

from pibot import messages as msg
from pibot.agent.worker_core import (
    ACCEPT_S,
    DEAF_S,
    HEARTBEAT_S,
    LEASE_S,
    REFUSED_S,
    REMEMBERED,
    RESEND_MAX_S,
    STOP_S,
    Deliver,
    Dropped,
    Held,
    Interrupt,
    Out,
    Renew,
    Say,
    Start,
    WorkerCore,
)
from pibot.session import PATIENCE_S, Guest

OK = {"success": True, "data": {}, "output": "x"}
NO = {"success": False, "data": {}, "output": "x"}


def result(task: str = "g1-1", att: int = 1, state: str = "succeeded") -> msg.Result:
    return msg.Result(task, att, state, OK if state == "succeeded" else NO)


class Bench:
    """A worker core and the master's end of its session, both in one virtual time."""

    def __init__(self, slots: int = 1, held: Tuple[Held, ...] = (), welcome: bool = True) -> None:
        self.now = 100.0
        numbers = itertools.count(1)
        guest = Guest(lambda: f"{next(numbers):016x}", lambda: 0.0)
        self.core = WorkerCore(
            lambda nonce: msg.Hello(nonce, "start", 1), slots, guest, lambda: 0.0, list(held)
        )
        self.n = 0
        self.last = Out()
        if welcome:
            self.welcome()

    def welcome(self, nonce: Optional[str] = None, ep: int = 1) -> Out:
        """Let it say hello and answer it."""
        if nonce is None:
            self.core.guest.again(self.now)
            nonce = said(self.core.tick(self.now), msg.Hello)[-1].nonce
        self.n = 0
        answer = msg.Welcome(nonce, "e" * 16, "store", 5000, 30000)
        head = msg.Header("welcome", "m-1", "master", ep=ep)
        return self._kept(self.core.received(head, answer, self.now))

    def _kept(self, out: Out) -> Out:
        self.last = out
        return out

    def get(self, message: msg.Message, ses: Optional[str] = None, n: Optional[int] = None) -> Out:
        """Receive a message of the master, on the session unless told."""
        channel = self.core.guest.channel
        self.n += 1
        head = msg.Header(
            message.t,
            "m-2",
            "master",
            ses if ses is not None else channel.ses if channel else "",
            self.n if n is None else n,
        )
        return self._kept(self.core.received(head, message, self.now))

    def assign(self, task: str = "g1-1", att: int = 1, **fields: Any) -> Out:
        return self.get(msg.Assign(task, att, 1000, {"skill": "echo"}, **fields))

    def end(self, task: str = "g1-1", state: str = "succeeded") -> Out:
        return self._kept(self.core.ended(result(task, 0, state), self.now))

    def tick(self, seconds: float) -> Out:
        self.now += seconds
        return self._kept(self.core.tick(self.now))

    def acked(self, seconds: float) -> List[Out]:
        """Time passes while the master answers each heartbeat."""
        outs = []
        for _ in range(int(seconds / HEARTBEAT_S)):
            outs.append(self.tick(HEARTBEAT_S))
            self.get(msg.HbAck([]))
        return outs


def said(out: Out, kind: type) -> List[Any]:
    return [s.message for s in out.sends if isinstance(s.message, kind)]


def starts(out: Out) -> List[Tuple[str, int]]:
    return [(e.assign.task, e.assign.att) for e in out.effects if isinstance(e, Start)]


def at_ms(bench: Bench) -> int:
    return int(bench.now * 1000)


def interrupts(out: Out) -> List[str]:
    return [e.task for e in out.effects if isinstance(e, Interrupt)]


# --- the session ----------------------------------------------------------------------------------


def test_hello_until_welcome_then_inventory_before_anything() -> None:
    bench = Bench(welcome=False)
    first = bench.tick(0.0)
    assert [type(s.message) for s in first.sends] == [msg.Hello] and first.sends[0].joining
    assert said(bench.tick(0.6), msg.Hello), "again, with a new nonce"
    assert said(bench.tick(0.1), msg.Hello) == []
    out = bench.welcome(said(first, msg.Hello)[0].nonce)
    assert [type(s.message) for s in out.sends] == [msg.Inventory, msg.Heartbeat]
    assert not any(s.joining for s in out.sends)


def test_a_welcome_that_answers_no_hello_of_ours_is_ignored() -> None:
    bench = Bench(welcome=False)
    bench.tick(0.0)
    assert bench.welcome("f" * 16).sends == [] and bench.core.guest.channel is None


def test_the_inventory_names_what_runs_and_what_is_done_and_results_follow() -> None:
    bench = Bench(slots=2)
    bench.assign("g1-1")
    bench.assign("g2-1")
    bench.end("g2-1")
    out = bench.welcome()
    assert said(out, msg.Inventory) == [msg.Inventory([["g1-1", 1]], [["g2-1", 1]])]
    assert [type(s.message) for s in out.sends] == [msg.Inventory, msg.Heartbeat, msg.Result]


def test_what_the_store_kept_is_said_after_a_restart() -> None:
    bench = Bench(held=(Held("g1-1", 2, result=result("g1-1", 2)),), welcome=False)
    out = bench.welcome()
    assert said(out, msg.Inventory) == [msg.Inventory([], [["g1-1", 2]])]
    assert said(out, msg.Result) == [result("g1-1", 2)]


@pytest.mark.parametrize("message", [msg.Assign("g1-1", 1, 1, {}), msg.Cancel("g1-1"), msg.Ping()])
def test_messages_of_an_old_session_and_replays_change_nothing(message: msg.Message) -> None:
    bench = Bench()
    assert bench.core.guest.channel is not None
    old = bench.core.guest.channel.ses
    bench.welcome()
    nothing = Out()
    assert bench.get(message, ses=old) == nothing
    assert bench.get(message, ses="") == nothing
    assert bench.get(message, n=5) != nothing
    assert bench.get(message, n=5) == nothing
    assert bench.get(message, n=-(2**50)) == nothing


def test_before_the_welcome_nothing_is_sent_but_hello() -> None:
    bench = Bench(welcome=False)
    bench.tick(0.0)
    outs = [bench.assign(), bench.get(msg.Ping()), bench.tick(60.0)]
    assert {type(s.message) for out in outs for s in out.sends} == {msg.Hello}
    assert bench.core.held == {}


def test_connecting_again_says_hello_at_once_and_forgets_the_session() -> None:
    bench = Bench()
    out = bench.core.connected(bench.now)
    assert [type(s.message) for s in out.sends] == [msg.Hello]
    assert bench.assign() == Out()


def test_an_announcement_is_a_hint_to_say_hello_soon() -> None:
    bench = Bench()
    bench.get(msg.Announce("store"), ses="")
    assert said(bench.tick(2.6), msg.Hello) and bench.core.guest.channel is not None


@pytest.mark.parametrize("t, answered", [("sing", True), ("unknown", False)])
def test_an_unknown_type_is_answered_but_never_an_answer(t: str, answered: bool) -> None:
    bench = Bench()
    assert bench.core.guest.channel is not None
    head = msg.Header(t, "m-2", "master", bench.core.guest.channel.ses, 9)
    out = bench.core.received(head, msg.Unknown("sing"), bench.now)
    assert said(out, msg.Unknown) == ([msg.Unknown("sing")] if answered else [])


# --- heartbeats -----------------------------------------------------------------------------------


def test_heartbeats_name_all_that_is_held_every_five_seconds() -> None:
    bench = Bench(slots=2)
    bench.core.facts = {"load1": 0.5}
    bench.assign("g1-1")
    bench.assign("g2-1")
    bench.end("g2-1")
    assert said(bench.tick(HEARTBEAT_S - 0.01), msg.Heartbeat) == []
    out = bench.tick(0.01)
    held = [["g1-1", 1], ["g2-1", 1]]
    assert said(out, msg.Heartbeat) == [msg.Heartbeat(held, {"load1": 0.5}, at_ms(bench))]
    assert [(s.channel, s.qos) for s in out.sends if isinstance(s.message, msg.Heartbeat)] == [
        ("hb", 0)
    ]


def test_a_ping_is_answered_with_a_heartbeat_now() -> None:
    assert len(said(Bench().get(msg.Ping()), msg.Heartbeat)) == 1


def test_cancels_in_an_hb_ack_count_as_cancels() -> None:
    bench = Bench()
    bench.assign()
    assert interrupts(bench.get(msg.HbAck([["g1-1", 1]]))) == ["g1-1"]


def test_a_deaf_session_makes_it_say_hello_again() -> None:
    bench = Bench()
    bench.tick(DEAF_S - 0.1)
    assert said(bench.last, msg.Hello) == []
    hellos = said(bench.tick(0.2), msg.Hello) + said(bench.tick(1.0), msg.Hello)
    assert len(hellos) >= 1
    assert said(bench.welcome(hellos[-1].nonce), msg.Inventory)
    assert not any(said(out, msg.Hello) for out in bench.acked(60.0))


def test_it_never_sleeps_past_what_is_due() -> None:
    bench = Bench(slots=2)
    bench.assign("g1-1")
    bench.assign("g2-1")
    bench.end("g2-1")
    due = min(ACCEPT_S, HEARTBEAT_S, 1.0)
    assert bench.core.wake_at() <= bench.now + due
    assert bench.core.wake_at() > bench.now


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


# --- silence and strangers ------------------------------------------------------------------------


@pytest.mark.parametrize("unsafe", [True, False])
def test_before_a_silent_lease_ends_only_what_is_unsafe_to_repeat_is_stopped(unsafe: bool) -> None:
    bench = Bench()
    bench.assign(unsafe=unsafe)
    outs = [bench.tick(0.5) for _ in range(int(STOP_S / 0.5) - 1)]
    assert not any(interrupts(out) for out in outs)
    assert bench.core.wake_at() <= bench.now + 0.5 or not unsafe
    assert interrupts(bench.tick(0.6)) == (["g1-1"] if unsafe else [])
    assert STOP_S <= bench.core.silent_s(bench.now) < LEASE_S
    assert interrupts(bench.tick(1.0)) == []


def test_a_late_answer_makes_the_lease_no_longer() -> None:
    bench = Bench()
    bench.assign(unsafe=True)
    asked = at_ms(bench)
    bench.tick(20.0)
    bench.get(msg.HbAck([], asked))  # it has waited in a broker, or we were frozen
    assert interrupts(bench.tick(STOP_S - 20.5)) == []
    assert interrupts(bench.tick(0.5)) == ["g1-1"]


def test_a_lease_from_the_future_is_none() -> None:
    bench = Bench()
    bench.assign(unsafe=True)
    bench.get(msg.HbAck([], at_ms(bench) + 10**9))
    assert interrupts(bench.tick(STOP_S)) == ["g1-1"]


def test_whatever_comes_in_a_session_proves_that_its_inventory_came() -> None:
    bench = Bench()
    bench.tick(10 * LEASE_S)
    bench.welcome()
    assert starts(bench.assign(unsafe=True)) == [("g1-1", 1)], "it comes before the first answer"
    assert interrupts(bench.last) == interrupts(bench.tick(STOP_S - 1)) == []


def test_unsafe_work_that_comes_too_late_does_not_begin() -> None:
    bench = Bench()
    bench.tick(STOP_S)
    out = bench.assign(unsafe=True)
    assert (starts(out), said(out, msg.Declined)) == ([], [msg.Declined("g1-1", 1, "late")])
    assert starts(bench.assign("g2-1")) == [("g2-1", 1)]


def test_a_master_that_answers_keeps_unsafe_work_alive() -> None:
    bench = Bench()
    bench.assign(unsafe=True)
    assert not any(interrupts(out) for out in bench.acked(10 * LEASE_S))


def superseded(bench: Bench, to: Optional[str] = None) -> Out:
    if to is None:
        assert bench.core.guest.channel is not None
        to = bench.core.guest.channel.ses.partition(".")[0]
    return bench.get(msg.Refusal("superseded", "the name belongs to pi-a", to), ses="")


def test_superseded_stops_what_runs_says_why_once_and_tries_slowly() -> None:
    bench = Bench()
    bench.assign()
    out = superseded(bench)
    assert interrupts(out) == ["g1-1"]
    assert Say("the name belongs to pi-a") in out.effects
    assert said(bench.tick(REFUSED_S - 0.1), msg.Hello) == []
    (hello,) = said(bench.tick(0.2), msg.Hello)
    assert superseded(bench, hello.nonce).effects == []
    bench.end(state="cancelled")
    bench.now += REFUSED_S
    out = bench.welcome()
    assert said(out, msg.Inventory) == [msg.Inventory()]  # so that the master has it done again


def test_what_stops_for_a_silent_master_is_lost_and_not_cancelled() -> None:
    bench = Bench()
    bench.assign(unsafe=True)
    bench.tick(LEASE_S + 1)
    out = bench.end(state="cancelled")
    assert out.facts == [Dropped("g1-1")] and said(out, msg.Result) == []
    assert said(bench.welcome(), msg.Inventory) == [msg.Inventory()]


def test_what_was_done_before_it_stopped_is_a_result() -> None:
    bench = Bench()
    bench.assign(unsafe=True)
    bench.tick(LEASE_S + 1)
    (held,) = bench.end(state="succeeded").facts
    assert isinstance(held, Held) and held.result is not None


@pytest.mark.parametrize("to", ["", "f" * 16])
def test_a_refusal_of_another_hello_stops_nothing(to: str) -> None:
    """A replayed one must not: it is not part of a session and cannot be told from the first."""
    bench = Bench()
    bench.assign()
    assert superseded(bench, to) == Out() and bench.core.guest.channel is not None


def test_a_refused_session_only_makes_it_say_hello() -> None:
    bench = Bench()
    bench.assign()
    out = bench.get(msg.Refusal("session"), ses="")
    assert interrupts(out) == [] and bench.core.running == ["g1-1"]
    assert said(bench.tick(2.6), msg.Hello)


def test_goodbye() -> None:
    bench = Bench()
    assert said(bench.core.stopping(bench.now), msg.Bye) == [msg.Bye()]
    assert Bench(welcome=False).core.stopping(0.0) == Out()


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


# --- a deaf connection ----------------------------------------------------------------------------


def renewals(bench: Bench, seconds: float) -> List[float]:
    """When, within so many seconds, it wants another connection; it gets one each time."""
    begun, found = bench.now, []
    while bench.now < begun + seconds:
        bench.now += 1.0
        if Renew() in bench.core.tick(bench.now).effects:
            found.append(bench.now - begun)
            bench.core.disconnected()
            bench.core.connected(bench.now)
    return found


def test_a_connection_on_which_nobody_answers_is_made_anew_ever_more_rarely() -> None:
    bench = Bench(welcome=False)
    bench.core.connected(bench.now)
    assert renewals(bench, 500.0) == [30.0, 90.0, 210.0, 450.0]


def test_a_master_that_answers_is_no_reason_to_connect_anew() -> None:
    bench = Bench(welcome=False)
    bench.core.connected(bench.now)
    bench.welcome()
    for _ in range(20):
        assert renewals(bench, HEARTBEAT_S) == []
        bench.get(msg.HbAck())
    assert renewals(bench, PATIENCE_S + 1) == [PATIENCE_S]


def test_a_broker_that_is_away_is_no_deaf_connection() -> None:
    bench = Bench(welcome=False)
    bench.core.connected(bench.now)
    bench.core.disconnected()
    assert renewals(bench, 1000.0) == []
