"""The worker's rules about its session: hello, heartbeats, silence, strangers, deaf connections."""

from __future__ import annotations

from typing import List, Optional

import pytest

from agent.core_bench import Bench, at_ms, interrupts, result, said, starts
from pibot import messages as msg
from pibot.agent.effects import Dropped, Held, Out, Renew, Say, Unheard
from pibot.agent.worker_core import ACCEPT_S, DEAF_S, KEY_REFUSED, REFUSED_S, STOP_S, WIND_UP_S
from pibot.messages import HEARTBEAT_S, LEASE_S
from pibot.session import PATIENCE_S

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


def test_hellos_that_nobody_answers_are_told_once_until_somebody_does() -> None:
    bench = Bench(welcome=False)
    assert not any(bench.tick(8.0).effects for _ in range(9)), "not connected"
    outs = [bench.core.connected(bench.now), *(bench.tick(8.0) for _ in range(9))]
    assert [out.effects.count(Unheard()) for out in outs] == [0] * 4 + [1] + [0] * 5
    assert bench.core.is_unheard
    bench.core.connected(bench.now)
    assert bench.core.is_unheard, "another connection answers nothing"
    bench.welcome(said(bench.tick(8.0), msg.Hello)[0].nonce)
    assert not bench.core.is_unheard
    again = [bench.core.connected(bench.now), *(bench.tick(8.0) for _ in range(4))]
    assert [out.effects.count(Unheard()) for out in again] == [0, 0, 0, 0, 1]


def test_a_master_that_refuses_has_heard_and_one_that_refuses_the_key_is_told_first() -> None:
    bench = Bench(welcome=False)
    nonce = said(bench.core.connected(bench.now), msg.Hello)[0].nonce
    bench.get(msg.Refusal("superseded", "another machine", nonce))
    assert not any(Unheard() in bench.tick(8.0).effects for _ in range(4))
    bench = Bench(welcome=False)
    bench.core.connected(bench.now)
    assert bench.get(msg.Refusal(msg.KEY)).effects == [Say(KEY_REFUSED)]
    assert not any(Unheard() in bench.tick(8.0).effects for _ in range(9))
    assert bench.core.key_refused


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
    assert said(bench.core.goodbye(bench.now), msg.Bye) == [msg.Bye()]
    assert Bench(welcome=False).core.goodbye(0.0) == Out()


def test_what_runs_is_stopped_before_the_goodbye() -> None:
    bench = Bench(slots=2)
    bench.assign("g1-1", unsafe=True)
    bench.assign("g2-1")
    assert not bench.core.may_go(bench.now)
    assert interrupts(bench.core.leave(bench.now)) == ["g1-1", "g2-1"]
    assert said(bench.assign("g3-1"), msg.Declined) == [msg.Declined("g3-1", 1, "stopping")]
    assert said(bench.end("g1-1", "cancelled"), msg.Declined) == [
        msg.Declined("g1-1", 1, "stopped")
    ]
    assert starts(bench.assign("g1-1", att=2)) == []
    assert not bench.core.may_go(bench.now)
    assert said(bench.end("g2-1"), msg.Result)  # it was done before it could be stopped
    assert bench.core.may_go(bench.now)


def test_what_does_not_stop_holds_a_goodbye_for_five_seconds() -> None:
    bench = Bench()
    bench.assign()
    bench.core.leave(bench.now)
    bench.core.leave(bench.now + 3)  # somebody is impatient
    assert not bench.core.may_go(bench.now + WIND_UP_S - 0.1)
    assert bench.core.may_go(bench.now + WIND_UP_S)
    assert bench.core.wake_at() <= bench.now + WIND_UP_S


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
