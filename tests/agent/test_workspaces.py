"""Which of the tasks' directories stay: the newest and the held ones, whatever the clock says."""

from __future__ import annotations

import os
from pathlib import Path

from pibot.agent import workspaces


def make(folder: Path, name: str, changed: float) -> Path:
    made = folder / name
    made.mkdir()
    (made / "file").touch()
    os.utime(made, (changed, changed))
    return made


def test_an_empty_one_goes_at_once(tmp_path: Path) -> None:
    (tmp_path / "t1").mkdir()
    make(tmp_path, "t2", 0)
    workspaces.tidy(tmp_path, "t1", [])
    workspaces.tidy(tmp_path, "t2", [])
    workspaces.tidy(tmp_path, "t3", [])
    assert [p.name for p in tmp_path.iterdir()] == ["t2"]


def test_age_does_not_matter(tmp_path: Path) -> None:
    for name, changed in (("past", 0.0), ("future", 4e9)):
        make(tmp_path, name, changed)
    workspaces.tidy(tmp_path, "past", [])
    assert {p.name for p in tmp_path.iterdir()} == {"past", "future"}


def test_the_newest_stay_and_what_is_held(tmp_path: Path) -> None:
    for i in range(workspaces.KEEP + 5):
        make(tmp_path, f"t{i}", 1e9 + i)
    workspaces.tidy(tmp_path, "t204", ["t1", "t3", "t150"])
    gone = {f"t{i}" for i in range(workspaces.KEEP + 5)} - {p.name for p in tmp_path.iterdir()}
    assert gone == {"t0", "t2", "t4"}
