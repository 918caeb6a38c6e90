"""Files come whole through a network that loses, doubles and reorders, and through restarts."""

from __future__ import annotations

import hashlib
import random
import timeit
from typing import Any, Dict, List

import pytest

from fleet.fetch_world import SLICE, World, errors
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet import fetching
from pibot.fleet.records import changed


@pytest.fixture
def world() -> World:
    return World()


def test_a_result_waits_until_its_files_are_there(world: World) -> None:
    world.task()
    world.files = {"a.bin": random.Random(1).randbytes(3 * SLICE + 5), "b/c.txt": b"", "d": b"d"}
    world.end()
    assert world.taken == [] and [f.offset // SLICE for f in world.asked] == [0, 1, 2, 3]
    world.serve(list(world.asked))
    (taken,) = world.taken
    assert errors(taken) == [None, None, None]
    assert [f["path"] for f in taken.artifacts] == ["a.bin", "b/c.txt", "d"]
    assert [world.kept(p) for p in world.files] == list(world.files.values())
    assert world.fetching.wake_at() == float("inf")


def test_a_window_bounds_what_is_asked_at_once(world: World) -> None:
    world.task()
    world.files = {"big": bytes(100 * SLICE)}
    world.end()
    assert len(world.asked) == fetching.WINDOW
    assert len(world.give(world.answer(world.asked[0]))) == 1
    assert world.give(world.answer(world.asked[5])) == []  # it waits for those before it
    assert world.give(world.answer(world.asked[5])) == []


def test_what_is_said_again_is_taken_once(world: World) -> None:
    world.task()
    world.files = {"a": bytes(5 * SLICE)}
    world.end()
    before = len(world.asked)
    world.end()
    assert len(world.asked) == before
    world.serve(list(world.asked))
    world.end()  # late: the scheduler is to say the true state
    assert [bool(r.artifacts) for r in world.taken] == [True, False]


@pytest.mark.parametrize(
    "result",
    [
        {"att": 2},
        {"state": "failed"},
        {"state": "cancelled"},
        {"result": {"success": False}},
        {"task": "g9-1"},
    ],
)
def test_other_results_pass_without_files(world: World, result: Dict[str, Any]) -> None:
    world.task()
    world.files = {"a": b"a"}
    world.end(world.result(**result))
    assert world.asked == [] and [r.artifacts for r in world.taken] == [[]]


def test_another_worker_passes_without_files(world: World) -> None:
    world.task()
    world.files = {"a": b"a"}
    world.end(worker="w2")
    assert world.asked == [] and [r.artifacts for r in world.taken] == [[]]


def test_without_files_nothing_waits(world: World) -> None:
    world.task()
    world.end()
    assert len(world.taken) == 1 and world.asked == []


def test_what_does_not_come_is_asked_again_with_growing_pauses(world: World) -> None:
    world.task()
    world.files = {"a": bytes(SLICE)}
    world.end()
    begun, times = world.now, []
    while not world.taken:
        if world.tick(0.1):
            times.append(world.now)
    pauses = [b - a for a, b in zip([begun, *times], times)]
    assert pauses[0] <= 1.6 and 1.9 <= pauses[1] <= 3.2
    assert fetching.RESEND_MAX_S <= pauses[-1] <= 1.5 * fetching.RESEND_MAX_S + 0.2
    assert len(times) == fetching.TRIES
    assert errors(world.taken[0]) == ["its worker did not send it"]
    assert 50 < world.now - begun < 90


def test_a_master_that_was_frozen_does_not_give_up(world: World) -> None:
    world.task()
    world.files = {"a": bytes(SLICE)}
    world.end()
    (again,) = world.tick(3_600)
    world.serve([again])
    assert errors(world.taken[0]) == [None]


def test_only_what_is_missing_is_asked_again(world: World) -> None:
    world.task()
    world.files = {"a": bytes(4 * SLICE)}
    world.end()
    for i in (0, 2):
        world.give(world.answer(world.asked[i]))
    assert [f.offset // SLICE for f in world.tick(2)] == [1, 3]


def test_a_new_session_asks_at_once(world: World) -> None:
    world.task()
    world.files = {"a": bytes(SLICE)}
    world.end()
    world.tick(5), world.tick(5)
    world.fetching.joined("w1", world.now)
    assert len(world.tick(0)) == 1
    world.fetching.joined("w2", world.now)
    assert world.tick(0) == []


def test_a_restarted_master_goes_on_where_its_disk_ends(world: World) -> None:
    world.task()
    world.files = {"a": random.Random(2).randbytes(50 * SLICE)}
    world.end()
    world.serve(list(world.asked), until=lambda: world.shelf.appended >= 20 * SLICE)
    world.restart()
    world.asked.clear()
    world.end()
    assert world.asked[0].offset == 20 * SLICE
    world.serve(list(world.asked))
    assert errors(world.taken[0]) == [None] and world.shelf.appended == 50 * SLICE


def test_a_part_of_any_length_is_gone_on_with(world: World) -> None:
    world.task()
    data = random.Random(3).randbytes(5 * SLICE)
    world.files = {"a": data}
    world.shelf.parts["g1-1", hashlib.sha256(data).hexdigest()] = bytearray(data[: SLICE + 77])
    world.end()
    world.serve(list(world.asked))
    assert world.kept("a") == data


def test_what_is_whole_already_is_not_fetched(world: World) -> None:
    world.task()
    world.files = {"a": b"a" * SLICE}
    world.shelf.whole["g1-1", hashlib.sha256(world.files["a"]).hexdigest()] = world.files["a"]
    world.end()
    assert world.asked == [] and errors(world.taken[0]) == [None]


def test_an_attempt_that_is_lost_is_forgotten(world: World) -> None:
    task = world.task()
    world.files = {"a": bytes(SLICE)}
    world.end()
    world.board.apply(changed(task, state="queued"))
    world.tick(0)
    assert world.give(world.answer(world.asked[0])) == [] and world.taken == []
    assert world.fetching.wake_at() == float("inf")


def test_the_next_attempt_has_its_own_files(world: World) -> None:
    task = world.task()
    world.files = {"a": b"1" * SLICE}
    world.end()
    world.board.apply(changed(task, attempt=2, assignee="w2"))
    world.files = {"a": b"2" * SLICE}
    world.end(world.result(att=2), worker="w2")
    world.fetching.came("w1", world.answer(world.asked[0]), world.now)
    assert world.taken == []
    world.fetching.came("w2", world.answer(world.asked[-1]), world.now)
    world.look()
    assert errors(world.taken[0]) == [None] and world.kept("a") == b"2" * SLICE


def test_a_result_that_comes_after_a_cancel_does_not_wait(world: World) -> None:
    world.task(cancel=True)
    world.files = {"a": b"a"}
    world.end()
    assert errors(world.taken[0]) == ["the task was cancelled before it had come"]


def test_a_cancelled_task_does_not_wait(world: World) -> None:
    task = world.task()
    world.files = {"a": b"a", "b": bytes(SLICE)}
    world.end()
    world.give(world.answer(world.asked[0]))
    world.board.apply(changed(task, cancel=True))
    world.tick(0)
    assert errors(world.taken[0]) == [None, "the task was cancelled before it had come"]


def test_few_tasks_come_at_once_and_the_others_wait(world: World) -> None:
    names = {f"g{i}-1": f"w{i % 10}" for i in range(20)}
    world.files = {"a": bytes(SLICE)}
    for name, worker in names.items():
        world.task(name, assignee=worker)
        world.end(world.result(name), worker)
    assert {f.task for f in world.asked} == set(list(names)[: fetching.ACTIVE])
    moves = world.moves
    world.tick(1)
    assert world.moves == moves + 20  # nobody's deadline ends it while it waits
    for _ in range(4):
        asked, world.asked = world.asked, []
        assert len({names[f.task] for f in asked}) == len({f.task for f in asked})
        for fetch in asked:
            world.give(world.answer(fetch), names[fetch.task])
        world.tick(0)
    assert {r.task for r in world.taken} == set(names)


def test_ten_times_as_many_that_wait_cost_ten_times_as_much() -> None:
    """Each turn of the master looks at all of them: once, not once for each (a hundred times)."""
    few, many = _tick_s(200), _tick_s(2_000)
    assert many < 60 * few


def _tick_s(count: int) -> float:
    """What a tick takes while so many results wait: the best of some."""
    world = World()
    world.files = {"a": bytes(SLICE)}
    for n in range(count):
        world.task(f"g{n}-1", assignee=f"w{n}")
        ended = ev.AttemptEnded(f"w{n}", world.result(f"g{n}-1"))
        files = fetching.files_of(ended.result.artifacts)
        world.fetching._waiting[f"g{n}-1"] = fetching.Waiting(ended, files, 10)
    return min(timeit.repeat(lambda: world.fetching.tick(world.now), number=1, repeat=25))


def test_results_that_would_take_too_much_memory_are_not_kept(world: World) -> None:
    world.files = {"a": bytes(SLICE)}
    large = {"success": True, "data": {"text": "x" * 20_000_000}, "output": ""}
    for i in range(5):
        world.task(f"g{i}-1", assignee=f"w{i}")
        world.end(world.result(f"g{i}-1", result=large), f"w{i}")
    assert {f.task for f in world.asked} == {"g0-1", "g1-1", "g2-1"}
    before = world.moves
    world.end(world.result("g4-1", result=large), "w4")
    assert world.moves == before + 1  # its deadline does not end it while there is no room
    for i, fetch in enumerate(list(world.asked)):
        world.give(world.answer(fetch), f"w{i}")
    world.end(world.result("g4-1", result=large), "w4")  # its worker says it again
    assert world.asked[-1].task == "g4-1"


@pytest.mark.parametrize("seed", range(30))
def test_a_bad_network_and_restarts(seed: int) -> None:
    world = World(seed)
    dice = world.random
    world.task()
    world.files = {
        "a": dice.randbytes(dice.randrange(60 * SLICE)),
        "b": dice.randbytes(dice.randrange(3 * SLICE)),
        "c": b"",
    }
    air: List[Any] = []  # (when, what), each sent once or twice, or never
    for step in range(200_000):
        if world.taken:
            break
        if step % 400 == 0:
            world.end()  # the worker says it until it is acknowledged
        if dice.random() < 0.001:
            world.restart()
            world.end()
        asked, world.asked = world.asked, []
        for fetch in asked:
            copies = dice.choice([0, 1, 1, 1, 2])
            air += [(world.now + dice.random(), fetch) for _ in range(copies)]
        air.sort(key=lambda one: one[0])
        while air and air[0][0] <= world.now:
            _, what = air.pop(0)
            if isinstance(what, msg.Fetch):
                copies = dice.choice([0, 1, 1, 1, 2])
                air += [(world.now + dice.random(), world.answer(what)) for _ in range(copies)]
            else:
                world.give(what)
        world.tick(0.02)
    assert errors(world.taken[0]) == [None, None, None], f"seed {seed}"
    assert [world.kept(p) for p in world.files] == list(world.files.values())
