"""The audit log: a chain that shows every change, on real files and a real full disk."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

from pibot.errors import PibotError
from pibot.fleet.audit import LISTED, Audit, Unrecorded

DATE = "2026-11-22T10:30:00+01:00"


def audit(folder: Path) -> Audit:
    found = Audit(folder / "master" / "audit.log", lambda: DATE)
    found.open()
    return found


def filled(folder: Path, count: int = 5) -> Audit:
    one = audit(folder)
    for number in range(count):
        one.write("approved", by="laptop", task=f"g{number}-1", args='{"unit": "nginx 你好"}')
    return one


def file_of(folder: Path) -> Path:
    return folder / "master" / "audit.log"


def problem(folder: Path) -> str:
    return audit(folder).problem() or ""


def test_an_entry_says_who_what_and_when(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    document = audit(tmp_path).document()
    first, second = document["entries"]
    assert (document["total"], document["problem"]) == (2, None)
    assert (first["seq"], first["at"], first["what"], first["by"]) == (
        1,
        DATE,
        "approved",
        "laptop",
    )
    assert first["task"] == "g0-1" and first["args"] == '{"unit": "nginx 你好"}'
    assert second["prev"] == first["hash"] and len(second["hash"]) == 64


def test_only_the_master_reads_it_and_a_terminal_may(tmp_path: Path) -> None:
    one = audit(tmp_path)
    one.write("asked", args="\x1b]0;x\x07\u202e\x9b2J\ud800")
    raw = file_of(tmp_path).read_bytes()
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert raw.isascii() and b"\x1b" not in raw
    assert problem(tmp_path) == ""


def test_it_is_only_added_to_also_after_a_restart(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    before = file_of(tmp_path).read_bytes()
    filled(tmp_path, 2)
    after = file_of(tmp_path).read_bytes()
    assert after.startswith(before) and problem(tmp_path) == ""
    assert [json.loads(line)["seq"] for line in after.splitlines()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", range(5))
def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path, number: int) -> None:
    filled(tmp_path)
    lines = file_of(tmp_path).read_bytes().splitlines(keepends=True)
    for at in range(0, len(lines[number]) - 1, 7):
        bent = bytearray(lines[number])
        bent[at] ^= 1
        file_of(tmp_path).write_bytes(
            b"".join([*lines[:number], bytes(bent), *lines[number + 1 :]])
        )
        assert problem(tmp_path), f"byte {at} of line {number + 1}"


Change = Callable[[List[bytes]], List[bytes]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda lines: lines[1:], id="the first line is gone"),
        pytest.param(lambda lines: lines[:-1], id="the last line is gone"),
        pytest.param(lambda lines: lines[:2] + lines[3:], id="a line in the middle is gone"),
        pytest.param(lambda lines: [], id="all lines are gone"),
        pytest.param(lambda lines: [*lines, lines[-1]], id="a line stands twice"),
        pytest.param(
            lambda lines: [lines[1], lines[0], *lines[2:]], id="two lines have changed places"
        ),
        pytest.param(lambda lines: [*lines[:2], b"\n", *lines[2:]], id="an empty line"),
        pytest.param(
            lambda lines: [*lines[:2], b"x" * 200_000 + b"\n", *lines[2:]], id="a long line"
        ),
        pytest.param(lambda lines: [lines[0].replace(b",", b", ", 1), *lines[1:]], id="a space"),
        pytest.param(
            lambda lines: [lines[0].replace(b"laptop", b"lapt\\u006fp"), *lines[1:]], id="an escape"
        ),
    ],
)
def test_lines_that_are_taken_out_put_in_or_moved_are_missed(
    tmp_path: Path, change: Change
) -> None:
    filled(tmp_path)
    lines = file_of(tmp_path).read_bytes().splitlines(keepends=True)
    file_of(tmp_path).write_bytes(b"".join(change(lines)))
    assert problem(tmp_path)


def test_a_forged_line_with_a_right_hash_does_not_fit_into_the_chain(tmp_path: Path) -> None:
    other = filled(tmp_path / "other", 3)
    other.write("approved", by="mallory")
    filled(tmp_path, 3)
    forged = file_of(tmp_path / "other").read_bytes().splitlines(keepends=True)[-1]
    lines = file_of(tmp_path).read_bytes().splitlines(keepends=True)
    file_of(tmp_path).write_bytes(b"".join([lines[0], forged, *lines[1:]]))
    assert "line 2" in problem(tmp_path)


def test_a_broken_chain_is_never_mended_silently(tmp_path: Path) -> None:
    filled(tmp_path)
    text = file_of(tmp_path).read_text().replace('"by":"laptop"', '"by":"nobody"', 1)
    file_of(tmp_path).write_text(text)
    again = audit(tmp_path)
    again.write("denied", by="laptop")
    assert file_of(tmp_path).read_text().startswith(text)
    document = again.document()
    assert "line 1" in document["problem"] and document["entries"][-1]["what"] == "denied"


def test_a_change_while_the_master_runs_is_seen(tmp_path: Path) -> None:
    one = filled(tmp_path)
    assert one.problem() is None
    raw = file_of(tmp_path).read_bytes()
    times = file_of(tmp_path).stat()
    file_of(tmp_path).write_bytes(raw.replace(b"laptop", b"nobody", 1))
    os.utime(file_of(tmp_path), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert one.problem()


@pytest.mark.parametrize("rest", [b"{", b'{"seq":6,"at":"20', b"\x00\x00\x00"])
def test_what_a_power_cut_has_torn_goes_and_that_is_noted(tmp_path: Path, rest: bytes) -> None:
    filled(tmp_path)
    whole = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(whole + rest)
    document = audit(tmp_path).document()
    assert document["problem"] is None
    last = document["entries"][-1]
    assert (last["seq"], last["what"], last["bytes"]) == (6, "mended", len(rest))
    assert file_of(tmp_path).read_bytes().startswith(whole)


def test_a_cut_that_tears_a_line_which_was_whole_is_missed(tmp_path: Path) -> None:
    filled(tmp_path)
    whole = file_of(tmp_path).read_bytes()
    file_of(tmp_path).write_bytes(whole[:-20])
    assert "broken at line 5" in problem(tmp_path)  # where it was mended


@pytest.mark.parametrize("left", [0, 3])
def test_an_end_that_was_cut_off_is_missed_for_ever(tmp_path: Path, left: int) -> None:
    filled(tmp_path)
    lines = file_of(tmp_path).read_bytes().splitlines(keepends=True)
    file_of(tmp_path).write_bytes(b"".join(lines[:left]))
    assert "its end was cut off" in problem(tmp_path)
    filled(tmp_path, 2)  # the fleet goes on
    assert f"broken at line {left + 1}" in problem(tmp_path)


def test_a_log_that_was_written_anew_is_missed_for_ever(tmp_path: Path) -> None:
    filled(tmp_path)
    filled(tmp_path / "other", 8)
    file_of(tmp_path).write_bytes(file_of(tmp_path / "other").read_bytes())
    head = file_of(tmp_path).with_suffix(".head")
    head.write_text(json.dumps([5, "ab" * 32]))
    assert problem(tmp_path)
    filled(tmp_path, 2)
    assert problem(tmp_path)


def test_a_power_cut_before_the_second_file_harms_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    head = file_of(tmp_path).with_suffix(".head")
    before = head.read_bytes()
    filled(tmp_path, 1)
    head.write_bytes(before)
    assert problem(tmp_path) == ""


def test_an_unreadable_second_file_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    file_of(tmp_path).with_suffix(".head").write_bytes(b"[1, ")
    assert "audit.head" in problem(tmp_path)


def test_only_the_newest_entries_are_listed(tmp_path: Path) -> None:
    filled(tmp_path, LISTED + 20)
    document = audit(tmp_path).document()
    assert len(document["entries"]) == LISTED and document["total"] == LISTED + 20
    assert document["entries"][-1]["seq"] == LISTED + 20


def test_a_full_disk_refuses_and_leaves_no_half_entry(tmp_path: Path) -> None:
    """A limit on the size of files is what a process meets in place of a full disk."""
    filled(tmp_path, 3)
    whole = file_of(tmp_path).read_bytes()
    code = f"""
import resource, signal
from pathlib import Path
from pibot.fleet.audit import Audit, Unrecorded
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) + 50}, {len(whole) + 50}))
audit = Audit(Path({str(file_of(tmp_path))!r}), lambda: "now")
audit.open()
try:
    audit.write("approved", by="laptop")
except Unrecorded as error:
    print(error)
print(audit.problem())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "takes no entry (file too large)" in done.stdout, done
    assert done.stdout.endswith("None\n")
    assert file_of(tmp_path).read_bytes() == whole and problem(tmp_path) == ""


def test_what_cannot_be_written_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "master").write_text("a file where the directory should be")
    with pytest.raises(Unrecorded, match="takes no entry") as found:
        audit(tmp_path).write("approved")
    assert isinstance(found.value, PibotError) and "\n" not in str(found.value)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine\n")
    (tmp_path / "master").mkdir()
    file_of(tmp_path).symlink_to(other)
    with pytest.raises(Unrecorded):
        audit(tmp_path).write("approved")
    assert other.read_text() == "mine\n"


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x", "x" * 100_000])
def test_what_is_no_json_or_too_long_is_refused(tmp_path: Path, value: Any) -> None:
    one = filled(tmp_path, 1)
    with pytest.raises(Unrecorded):
        one.write("approved", args=value)
    assert one.problem() is None and one.document()["total"] == 1
