"""How often something may be done, in virtual time."""

from __future__ import annotations

from pibot.skills._pace import Pace

FOREVER = 1e9


def test_a_burst_then_one_in_a_time() -> None:
    pace = Pace(2.0, 3)
    assert [pace.wait_s("a", 100.0, FOREVER) for _ in range(5)] == [0, 0, 0, 2, 4]
    assert pace.wait_s("b", 100.0, FOREVER) == 0  # another name has its own
    assert pace.wait_s("a", 104.0, FOREVER) == 2
    assert pace.wait_s("a", 1000.0, FOREVER) == 0


def test_a_turn_that_is_too_late_is_not_taken() -> None:
    pace = Pace(2.0, 1)
    pace.wait_s("a", 0.0, FOREVER)
    assert [pace.wait_s("a", 0.5, 1.0) for _ in range(3)] == [1.5, 1.5, 1.5]
    assert pace.wait_s("a", 1.5, 1.0) == 0.5


def test_slower_on_request() -> None:
    pace = Pace(1.0, 5)
    assert [pace.wait_s("a", 0.0, FOREVER, 4.0) for _ in range(3)] == [0, 4, 8]
    assert pace.wait_s("b", 0.0, FOREVER, 0.5) == 0
    assert [pace.wait_s("b", 0.0, FOREVER, 0.5) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_only_so_many_names_are_kept() -> None:
    pace = Pace(1.0, 1)
    for number in range(600):
        pace.wait_s(str(number), 0.0, FOREVER)
    assert len(pace._until) == 500
    assert pace.wait_s("599", 0.0, FOREVER) == 1
    assert pace.wait_s("0", 0.0, FOREVER) == 0  # forgotten
