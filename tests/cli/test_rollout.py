"""How one worker gets a new program, in virtual time: the rows are what a master would list."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot import messages as msg
from pibot.cli import rollout
from pibot.cli.release import Release
from pibot.cli.rollout import REPEAT_S, SILENT_S, START_S, One, Terms, groups, verdict

NEW = Release(Path("new.pyz"), 1_000, "ab" * 32, "1.1.0", "cd" * 32)
TERMS = Terms(NEW, timeout_s=100.0, patience_s=30)


def row(**fields: Any) -> Dict[str, Any]:
    known = {"worker_id": "w1", "state": "draining", "draining": True, "current_tasks": []}
    said = {"serial": 3, "last": 3, "state": "done", "have": 0, "why": ""}
    update = {**said, **fields.pop("update", {})}
    return {
        **known,
        "build": "ef" * 32,
        "version": "1.0",
        "obstacle": None,
        "update": update,
        **fields,
    }


def one(**fields: Any) -> One:
    return One(row(state="idle", draining=False, **fields), TERMS, 0.0)


def told(**fields: Any) -> One:
    """One that has been asked to install the program, at 0.0."""
    made = one(**fields)
    (said,) = made.step(row(**fields), 0.0)
    assert isinstance(said, msg.Update)
    return made


ME = {"serial": 4}


def test_the_usual_way() -> None:
    made = one()
    assert made.step(row(current_tasks=["g1-1"]), 1.0) == []
    assert made.step(row(draining=False, state="idle"), 2.0) == []  # it could still get a task
    assert made.step(row(), 3.0) == [msg.Update("w1", NEW.sha256, "1.1.0", NEW.build, 4, 30)]
    assert made.step(row(update={**ME, "state": "fetching", "have": 500}), 4.0) == []
    assert made.doing == "fetching, 50 %"
    assert made.step(row(update={**ME, "state": "placed"}), 5.0) == []
    assert made.step(row(state="offline", update={**ME, "state": "placed"}), 6.0) == []
    assert made.outcome == ""
    made.step(row(build=NEW.build, update={**ME, "state": "done"}), 7.0)
    assert (made.outcome, made.why) == (rollout.UPDATED, "")
    assert made.step(None, 8.0) == [] and made.outcome == rollout.UPDATED


@pytest.mark.parametrize(("serial", "last", "mine"), [(0, 0, 1), (3, 7, 8), (9, 7, 10)])
def test_the_number_is_a_new_one(serial: int, last: int, mine: int) -> None:
    said = {"serial": serial, "last": last}
    (request,) = one(update=said).step(row(update=said), 0.0)
    assert isinstance(request, msg.Update) and request.serial == mine


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("failed", rollout.FAILED), ("refused", rollout.FAILED), ("rolled_back", rollout.ROLLED_BACK)],
)
def test_what_went_wrong_is_told(state: str, outcome: str) -> None:
    made = told()
    made.step(row(update={**ME, "state": state, "why": "it smells"}), 1.0)
    assert (made.outcome, made.why) == (outcome, "it smells")


def test_a_request_that_was_lost_is_repeated() -> None:
    made, times = told(), []
    for tenth in range(1, 100):
        times += [tenth / 10 for _ in made.step(row(), tenth / 10)]
    assert times == pytest.approx([REPEAT_S * n for n in range(1, 5)], abs=0.11)
    made.step(row(update={**ME, "state": "fetching", "have": 10}), 10.0)
    assert len(made.step(row(), 13.0)) == 1  # it was restarted, and has forgotten
    assert made.step(row(state="offline"), 20.0) == []


def test_a_worker_that_stays_busy_is_left() -> None:
    made = one()
    made.step(row(current_tasks=["g1-1"]), 99.0)
    assert made.outcome == ""
    made.step(row(current_tasks=["g1-1"]), 100.0)
    assert (made.outcome, made.why) == (rollout.FAILED, "it was still busy with g1-1 after 100 s")


def test_one_that_somebody_has_resumed_is_left() -> None:
    made = one()
    made.step(row(draining=False, state="idle"), 99.0)
    assert made.outcome == ""
    made.step(row(draining=False, state="idle"), 100.0)
    assert made.outcome == rollout.FAILED and "somebody has resumed it" in made.why


def test_going_back_and_forth_is_no_progress() -> None:
    made = told()
    for second in range(200):
        have = 10 + second % 2
        made.step(row(update={**ME, "state": "fetching", "have": have}), float(second))
        made.step(row(update={**ME, "state": "fetching", "have": 1 << 60}), float(second))
    assert made.outcome == rollout.FAILED and "does not get on" in made.why


def test_another_build_than_ours_is_somebody_elses() -> None:
    made = told()
    made.step(row(build="aa" * 32, update={**ME, "state": "done"}), 1.0)
    assert made.outcome == rollout.FAILED and "somebody else" in made.why


@pytest.mark.parametrize(
    ("fields", "patience_s", "outcome"),
    [
        ({}, SILENT_S, rollout.FAILED),
        ({"state": "offline"}, SILENT_S, rollout.AWAY),
        ({"update": {**ME, "state": "fetching", "have": 7}}, SILENT_S, rollout.FAILED),
        ({"update": {**ME, "state": "placed"}}, 30 + START_S, rollout.FAILED),
        ({"update": {**ME, "state": "done"}}, 30 + START_S, rollout.FAILED),  # with the old build
    ],
)
def test_nobody_is_waited_for_for_ever(
    fields: Dict[str, Any], patience_s: float, outcome: str
) -> None:
    made = told()
    made.step(row(**fields), 0.0)
    made.step(row(**fields), patience_s - 0.1)
    assert made.outcome == ""
    made.step(row(**fields), patience_s)
    assert made.outcome == outcome and made.why


def test_slow_is_not_silent() -> None:
    made = told()
    for minute in range(1, 30):
        made.step(row(update={**ME, "state": "fetching", "have": minute}), 50.0 * minute)
    assert made.outcome == ""


def test_who_goes_away_or_is_somebody_elses() -> None:
    for fields, outcome in (
        ({"state": "offline"}, rollout.AWAY),
        (None, rollout.AWAY),
    ):
        made = one()
        made.step(fields and row(**fields), 1.0)
        assert made.outcome == outcome
    made = told()
    made.step(row(update={"serial": 5, "state": "fetching"}), 1.0)
    assert made.outcome == rollout.FAILED and "somebody else" in made.why
    made = one()
    made.refused("the master says no")
    assert (made.outcome, made.why) == (rollout.FAILED, "the master says no")


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, ""),
        ({"build": NEW.build}, rollout.CURRENT),
        ({"build": NEW.build, "state": "offline"}, rollout.AWAY),
        ({"state": "incompatible"}, rollout.AWAY),
        ({"obstacle": "made by hand"}, rollout.IMPOSSIBLE),
        ({"obstacle": "made by hand", "build": NEW.build}, rollout.CURRENT),
    ],
)
def test_what_is_known_before(fields: Dict[str, Any], outcome: str) -> None:
    assert verdict(row(**fields), NEW)[0] == outcome


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (2, [1, 1]), (3, [1, 2]), (4, [1, 2, 1]), (9, [1, 3, 3, 2])],
)
def test_one_first_then_groups(count: int, sizes: List[int]) -> None:
    names = [f"w{n}" for n in range(count)]
    found = groups(names)
    assert [len(group) for group in found] == sizes and sum(found, []) == names
