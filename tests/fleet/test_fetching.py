"""Files come whole through a network that loses, doubles and reorders, and through restarts."""

from __future__ import annotations

import base64
import hashlib
import random
from dataclasses import replace
from typing import Any, Callable, Collection, Dict, List, Optional, Tuple

import pytest

from pibot import messages as msg
from pibot.errors import StoreError
from pibot.fleet import events as ev
from pibot.fleet import fetching
from pibot.fleet.board import Board
from pibot.fleet.fetching import Fetching
from pibot.fleet.records import Goal, Task, changed

SLICE = msg.FILE_SLICE_BYTES
DONE = {"success": True, "data": {}, "output": "done"}


class MemoryShelf:
    """The master's disk, in memory; `full` is when nothing more fits."""

    def __init__(self) -> None:
        self.whole: Dict[Tuple[str, str], bytes] = {}
        self.parts: Dict[Tuple[str, str], bytearray] = {}
        self.open: Dict[str, str] = {}
        self.full = False
        self.appended = 0

    def prepare(self, task: str, wanted: Dict[str, int]) -> None:
        if self.full:
            raise StoreError("the master has no room for it on its disk")

    def has(self, task: str, sha256: str) -> bool:
        return (task, sha256) in self.whole

    def begin(self, task: str, sha256: str, size: int) -> int:
        self.open[task] = sha256
        return len(self.parts.setdefault((task, sha256), bytearray()))

    def append(self, task: str, data: bytes) -> None:
        if self.full:
            raise StoreError("the master cannot keep it: no space left on device")
        self.parts[task, self.open[task]] += data
        self.appended += len(data)

    def finish(self, task: str) -> bool:
        sha256 = self.open[task]
        data = bytes(self.parts.pop((task, sha256)))
        if hashlib.sha256(data).hexdigest() != sha256:
            self.parts[task, sha256] = bytearray()
            return False
        self.whole[task, sha256] = data
        return True

    def leave(self, task: str) -> None:
        self.open.pop(task, None)

    def clear(self, task: str, keep: Collection[str]) -> None:
        for files in (self.whole, self.parts):
            for key in [k for k in files if k[0] == task and k[1] not in keep]:
                del files[key]  # type: ignore[attr-defined]


class World:
    """A master's fetching and a worker with files, in virtual time."""

    def __init__(self, seed: int = 0) -> None:
        self.now, self.random = 10.0, random.Random(seed)
        self.board, self.shelf = Board(), MemoryShelf()
        self.files: Dict[str, bytes] = {}
        self.taken: List[msg.Result] = []
        self.moves = 0
        self.asked: List[msg.Fetch] = []
        self.restart()

    def restart(self) -> None:
        """The master begins anew: the board and the disk are what it has."""
        self.fetching = Fetching(self.board, self.shelf, self.random.random)

    def task(self, name: str = "g1-1", **fields: Any) -> Task:
        self.board.apply(Goal(name.partition("-")[0], state="running"))
        held = {"state": "running", "attempt": 1, "assignee": "w1"}
        task = Task(name, name.partition("-")[0], **{**held, **fields})
        self.board.apply(task)
        return task

    def result(self, task: str = "g1-1", att: int = 1, **fields: Any) -> msg.Result:
        named = [
            {"path": p, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()}
            for p, d in self.files.items()
        ]
        whole: Dict[str, Any] = {"state": "succeeded", "result": DONE, "artifacts": named}
        return msg.Result(task, att, **{**whole, **fields})

    def end(self, result: Optional[msg.Result] = None, worker: str = "w1") -> None:
        self.fetching.ended(ev.AttemptEnded(worker, result or self.result()), self.now)
        self.look()

    def look(self) -> List[msg.Fetch]:
        """Take what the master has decided; what the scheduler takes ends its task."""
        for event in self.fetching.take_events():
            if isinstance(event, ev.FilesMove):
                self.moves += 1
                continue
            assert isinstance(event, ev.AttemptEnded)
            self.taken.append(event.result)
            task = self.board.tasks.get(event.result.task)
            if task is not None:
                self.board.apply(changed(task, state="succeeded"))
        sends = self.fetching.take_sends()
        asked = [s.message for s in sends if isinstance(s.message, msg.Fetch)]
        self.asked += asked
        return asked

    def tick(self, seconds: float) -> List[msg.Fetch]:
        self.now += seconds
        self.fetching.tick(self.now)
        return self.look()

    def answer(self, fetch: msg.Fetch, **changes: Any) -> msg.Slice:
        data = self.files[fetch.path]
        piece = base64.b64encode(data[fetch.offset : fetch.offset + SLICE]).decode()
        found = msg.Slice(fetch.task, fetch.path, fetch.offset, len(data), piece)
        return replace(found, **changes)

    def give(self, part: msg.Slice, worker: str = "w1") -> List[msg.Fetch]:
        self.fetching.came(worker, part, self.now)
        return self.look()

    def serve(self, asked: List[msg.Fetch], until: Callable[[], bool] = lambda: False) -> None:
        """A perfect network: every fetch is answered at once, in order."""
        queue = list(asked)
        while queue and not until():
            queue += self.give(self.answer(queue.pop(0)))

    def kept(self, path: str, task: str = "g1-1") -> bytes:
        sha256 = hashlib.sha256(self.files[path]).hexdigest()
        return self.shelf.whole[task, sha256]


@pytest.fixture
def world() -> World:
    return World()


def errors(result: msg.Result) -> List[Optional[str]]:
    return [file["error"] for file in result.artifacts]


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


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"error": "a: there is no such file"}, "a: there is no such file"),
        ({"size": 7}, "it has changed since its task ended"),
        ({"error": "x" * 9_999}, "x" * (fetching.ERROR_CHARS - 1) + "…"),
    ],
)
def test_what_can_never_come_is_recorded_as_such(
    world: World, changes: Dict[str, Any], error: str
) -> None:
    world.task()
    world.files = {"a": bytes(SLICE), "b": b"b"}
    world.end()
    asked = world.give(world.answer(world.asked[0], **changes))
    world.serve(asked)
    assert errors(world.taken[0]) == [error, None]


def test_what_was_not_announced_is_fetched_once_more(world: World) -> None:
    world.task()
    world.files = {"a": b"a" * SLICE, "b": b"b"}
    wrong = base64.b64encode(b"x" * SLICE).decode()
    world.end()
    again = world.give(world.answer(world.asked[0], data=wrong))
    assert [f.offset for f in again] == [0] and world.taken == []
    asked = world.give(world.answer(world.asked[0], data=wrong))
    world.serve(asked)
    assert errors(world.taken[0]) == [
        "what came is not what was announced (its SHA-256 differs)",
        None,
    ]


def test_what_the_disk_does_not_take_ends_the_task_all_the_same(world: World) -> None:
    world.task()
    world.files = {"a": bytes(2 * SLICE)}
    world.end()
    world.shelf.full = True
    world.give(world.answer(world.asked[0]))
    assert errors(world.taken[0]) == ["the master cannot keep it: no space left on device"]
    world.task("g2-1")
    world.end(world.result("g2-1"))
    assert errors(world.taken[1]) == ["the master has no room for it on its disk"]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": SLICE * 99},
        {"offset": -SLICE},
        {"offset": 1},
        {"data": "!"},
        {"data": ""},
        {"data": base64.b64encode(bytes(SLICE - 1)).decode()},
        {"data": base64.b64encode(bytes(SLICE + 1)).decode()},
        {"path": "b"},
        {"task": "g2-1"},
    ],
)
def test_slices_that_do_not_fit_change_nothing(world: World, changes: Dict[str, Any]) -> None:
    world.task()
    world.files = {"a": bytes(2 * SLICE)}
    world.end()
    assert world.give(world.answer(world.asked[0], **changes)) == []
    assert world.give(world.answer(world.asked[0]), worker="w2") == []
    assert world.shelf.appended == 0
    world.serve(list(world.asked))
    assert errors(world.taken[0]) == [None]


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"path": "../x"}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "/etc/passwd"}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "a//b"}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "."}, "it cannot be taken: it is not a plain relative path"),
        ({"path": ""}, "it cannot be taken: it is not a plain relative path"),
        ({"path": 7}, "it cannot be taken: it is not a plain relative path"),
        ({"path": "a\nb"}, "it cannot be taken: it has characters that cannot be shown"),
        ({"path": "a\u202eb"}, "it cannot be taken: it has characters that cannot be shown"),
        ({"path": "a\ud800b"}, "it cannot be taken: it has characters that cannot be shown"),
        ({"path": "é" * 101}, "it cannot be taken: a name in it has more than 200 bytes"),
        ({"path": "a/" * 20 + "a"}, "it cannot be taken: it is longer than"),
        ({"sha256": "../" + "a" * 61}, "it cannot be taken: no SHA-256"),
        ({"sha256": "A" * 64}, "it cannot be taken: no SHA-256"),
        ({"size": -1}, "it cannot be taken: no SHA-256"),
        ({"size": True}, "it cannot be taken: no SHA-256"),
        ({"size": 1e3}, "it cannot be taken: no SHA-256"),
        ({"size": msg.SHARED_BYTES + 1}, "a task may share 33,554,432 bytes"),
    ],
)
def test_hostile_names_sizes_and_digests(world: World, entry: Dict[str, Any], error: str) -> None:
    world.task()
    world.files = {"good": b"a"}
    (good,) = world.result().artifacts
    bad = {**good, "path": "bad", **entry}
    world.end(world.result(artifacts=[bad, good, good, "?", None]))
    world.serve(list(world.asked))
    (taken,) = world.taken
    found = {str(f["path"]): f["error"] for f in taken.artifacts}
    assert found.pop("good") is None
    assert any(str(e).startswith(error) for e in found.values())
    assert all(path.isprintable() for path in found)


def test_a_thousand_names_are_cut(world: World) -> None:
    world.task()
    named = [{"path": str(i), "size": 0, "sha256": "0" * 64} for i in range(1_000)]
    world.end(world.result(artifacts=named))
    assert len(world.taken[0].artifacts) == msg.SHARED_FILES


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
