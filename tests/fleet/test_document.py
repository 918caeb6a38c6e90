"""What documents and prompts say of the files that tasks shared."""

from __future__ import annotations

from pibot.fleet import document
from pibot.fleet.records import Goal, Task

KEPT, GONE = "a" * 64, "b" * 64
FILES = [
    {"path": "kept.csv", "size": 7, "sha256": KEPT, "error": None},
    {"path": "gone.csv", "size": 8, "sha256": GONE, "error": None},
    {"path": "bad.csv", "size": 9, "sha256": "c" * 64, "error": "it has changed"},
]
TASK = Task("g1-1", "g1", state="succeeded", artifacts=FILES)


def test_what_is_no_longer_there_says_so() -> None:
    asked = []

    def has(task: str, sha256: str) -> bool:
        asked.append((task, sha256))
        return sha256 == KEPT

    found = document.artifacts([TASK, Task("g1-2", "g1")], has)
    assert [(f["task_id"], f["path"], f["error"]) for f in found] == [
        ("g1-1", "kept.csv", None),
        ("g1-1", "gone.csv", "no longer kept: newer files needed the room"),
        ("g1-1", "bad.csv", "it has changed"),
    ]
    assert asked == [("g1-1", KEPT), ("g1-1", GONE)]
    assert FILES[1]["error"] is None


def test_the_document_of_a_goal_stays_as_it_is() -> None:
    (row,) = document.goal_document(Goal("g1"), [TASK])["tasks"]
    assert set(row) == {"task_id", "worker_id", "state", "attempt", "result", "error"}


def test_a_model_learns_which_files_the_person_gets() -> None:
    with_files, without = document.results([TASK, Task("g1-2", "g1")])
    assert with_files["files_for_the_person"] == ["kept.csv", "gone.csv"]
    assert "files_for_the_person" not in without
