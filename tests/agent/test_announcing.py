"""What a worker tells of its skills fits into one packet, however many there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot import messages as msg
from pibot.agent import announcing, library
from pibot.agent.tools import Toolbox
from pibot.permits import Permits
from pibot.wire import PACKET_BYTES

BUILT_IN = Toolbox([one.settled(Permits(), group) for one, group in library._built_in()]).announce()


def own(count: int, description: str = "Do it.", phrases: int = 1) -> List[Dict[str, Any]]:
    one = {"params": ["a"], "group": "own", "description": description, "note": "n" * 20}
    said = [f"switch the {n}th lamp of {{room}}" for n in range(phrases)]
    return [{**one, "name": f"lamp_{n}", "phrases": said} for n in range(count)]


def test_all_built_in_skills_leave_room() -> None:
    assert announcing.bounded(BUILT_IN) == (BUILT_IN, "")
    assert announcing.bounded([*BUILT_IN, *own(30)])[1] == ""


@pytest.mark.parametrize(
    ("more", "left"),
    [
        (own(30, phrases=30), "the sentence templates of your own skills are not told"),
        (own(100, "x" * 600), "the templates and descriptions of your own skills are not told"),
        (own(1_000), "of your own skills, from lamp_"),
    ],
)
def test_what_is_missed_least_is_left_out_first(more: List[Dict[str, Any]], left: str) -> None:
    said, note = announcing.bounded([*BUILT_IN, *more])
    assert left in note
    assert said[: len(BUILT_IN)] == BUILT_IN
    data = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(data) <= announcing.MOST_BYTES
    assert said[-1]["name"].startswith("lamp_")


def test_a_hello_with_300_own_skills_is_one_packet(tmp_path: Path) -> None:
    text = "from pibot.skills import skill\n@skill(phrases=['{sentence}'])\ndef {name}() -> str:\n"
    for n in range(300):
        code = text.format(name=f"lamp_{n}", sentence=f"lamp {n}") + f"    '{'ä' * 500}.'\n"
        (tmp_path / f"lamp_{n}.py").write_text(code, encoding="utf-8")
    toolbox, _ = library.load(tmp_path, Permits())
    said, note = announcing.bounded(toolbox.announce())
    row = {"version": "0" * 16, "state": "loaded"}
    facts = {"skills": said, "pushed": {f"{n:064}": row for n in range(100)}}
    hello = msg.encode(
        msg.Header("hello", "", "worker-1"), msg.Hello("0" * 16, "0" * 16, 1, facts=facts)
    )
    assert note
    assert len(hello) < PACKET_BYTES - 3_000  # for what it says of the machine
