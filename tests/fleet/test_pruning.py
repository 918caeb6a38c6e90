"""What the master forgets, and what it never does; on a real file, with a clock of the test's."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Iterator, List, Set

import pytest

from pibot.fleet.journal import Journal
from pibot.fleet.pruning import AT_ONCE, DAY_S, YOUNG_S, Limits
from pibot.fleet.records import Attempt, Fact, Goal, Task

KEEP = 50
DAYS = 10


class Clock:
    """Seconds that pass when a test says so."""

    now = 777.0

    def __call__(self) -> float:
        return self.now


class Book:
    """A journal that goals are written into."""

    def __init__(self, folder: Path, keep: int = KEEP, days: int = DAYS) -> None:
        self.clock, self.path = Clock(), folder / "journal.db"
        self.journal = Journal(self.path, Limits(days, keep), self.clock)
        self.journal.open("store")
        self.made = 0

    def add(
        self, count: int = 1, state: str = "succeeded", chat: str = "", after: float = 1
    ) -> None:
        for _ in range(count):
            self.clock.now += after
            self.made += 1
            self.journal.commit(facts(f"g{self.made}", state, chat))

    def prune(self) -> List[str]:
        """Let the driver come round until nothing is left to do; the tasks that went."""
        gone = []
        while (pruned := self.journal.prune()).goals:
            assert len(pruned.goals) <= AT_ONCE
            gone += pruned.tasks
        return gone

    def ids(self) -> Set[str]:
        return {g.id for g in self.journal.recent(10**6)}

    def newest(self, count: int) -> Set[str]:
        return {f"g{i}" for i in range(self.made, self.made - count, -1)}


def facts(goal: str, state: str, chat: str = "") -> List[Fact]:
    ended = state if state in ("succeeded", "failed") else "running"
    task = Task(f"{goal}-1", goal, state=ended, result={"output": "x" * 2_000})
    attempt = Attempt(task.id, 1, "w1", "succeeded", trace=[{"step": "y" * 500}])
    return [Goal(goal, text="t" * 100, chat=chat, state=state), task, attempt]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    one = Book(tmp_path)
    yield one
    one.journal.close()


def test_the_newest_stay_and_the_rest_goes_whole(book: Book) -> None:
    book.add(KEEP + 30, after=60)
    gone = book.prune()
    assert book.ids() == book.newest(KEEP)
    assert gone == [f"g{i}-1" for i in range(1, 31)]
    assert book.journal.tasks("g1") == [] and book.journal.attempts("g1-1") == []
    assert book.journal.tasks("g31") != [] and book.journal.attempts("g31-1") != []
    assert book.prune() == []


def test_what_is_old_goes_however_little_there_is(book: Book) -> None:
    book.add(3)
    book.clock.now += DAYS * DAY_S - 10
    assert book.prune() == []
    book.clock.now += 8.5
    assert book.prune() == ["g1-1"]
    book.clock.now += 10
    assert book.prune() == ["g2-1", "g3-1"] and book.ids() == set()


def test_what_has_just_ended_stays_however_much_there_is(book: Book) -> None:
    """A client that has not heard may ask, or submit again."""
    book.add(3 * KEEP)
    assert book.prune() == []
    book.clock.now += YOUNG_S
    assert len(book.prune()) == 2 * KEEP


def test_what_is_open_stays_however_old(book: Book) -> None:
    book.add(3, state="running")
    book.journal.commit([replace(facts("stopping", "failed")[0])])
    book.journal.commit([Task("stopping-1", "stopping", state="running", cancel=True)])
    book.add(4 * KEEP)
    book.clock.now += 100 * DAYS * DAY_S
    book.prune()
    assert book.ids() == {"g1", "g2", "g3", "stopping"}
    book.journal.commit([Task("stopping-1", "stopping", state="cancelled")])
    assert book.prune() == ["stopping-1"]


def test_a_goal_that_is_done_again_is_as_new(book: Book) -> None:
    book.add(1)
    (goal,) = book.journal.recent(1)
    book.clock.now += DAYS * DAY_S - 5
    book.journal.commit([replace(goal, state="running")])
    book.clock.now += DAY_S
    assert book.prune() == []
    book.journal.commit([goal])
    book.clock.now += DAYS * DAY_S - 5
    assert book.prune() == []


def test_a_flood_of_goals_does_not_end_a_conversation(book: Book) -> None:
    book.add(12, chat="c1")
    book.add(3 * KEEP, after=60)
    assert len(book.prune()) == 2 * KEEP
    assert len(book.journal.chat("c1", 100)) == 12
    book.add(KEEP - 3, chat="c2", after=60)
    book.clock.now += YOUNG_S
    book.prune()
    assert len(book.journal.chat("c1", 100)) == 3, "conversations have their own limit"


def test_neither_a_wrong_date_nor_a_boot_makes_anything_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    book.add(5)
    book.clock.now += 1_000
    book.journal.close()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    book.clock.now = 3.0  # the monotonic clock begins anew with each boot
    book.journal.open("store")
    assert book.prune() == [] and len(book.ids()) == 5
    book.clock.now += DAYS * DAY_S - 1_100
    assert book.prune() == [], "all that it has run is what counts"
    book.clock.now += 200
    assert len(book.prune()) == 5
    book.journal.close()


def test_a_killed_master_has_lost_little_of_its_age(book: Book) -> None:
    """The running time is noted now and then, not only at a clean end."""
    book.add(1)
    for _ in range(100):
        book.clock.now += 60
        book.journal.prune()
    other = Journal(book.path, clock=book.clock)
    lock = book.path.with_suffix(".lock")
    lock.rename(lock.with_suffix(".old"))  # as after a kill
    other.open("store")
    assert 5_000 < other._ran_s() <= 6_001
    other.close()


def test_the_file_stays_as_small_as_what_is_kept(tmp_path: Path) -> None:
    book = Book(tmp_path)
    sizes = []
    for _ in range(4):
        book.add(3 * KEEP, after=YOUNG_S / KEEP)
        book.prune()
        assert len(book.ids()) == KEEP
        sizes.append(book.journal._store.rows("PRAGMA page_count")[0][0])
    assert sizes[-1] <= 1.05 * sizes[1], sizes
    book.journal.close()
