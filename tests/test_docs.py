"""The documents say what the program is: types, examples, settings, commands, skills, Python."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from fleet_processes import FleetProcesses, environment
from pibot import config
from pibot.agent import library
from pibot.agent.tools import Skill
from pibot.cli import COMMANDS
from pibot.fleet import phrases
from pibot.messages import TYPES
from pibot.permits import Permits

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.json"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILT_IN = library.load(None, Permits(shell=True))[0]
TABLE_COLUMNS = 100


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading!r}"
    return found[1]


def prose(text: str) -> str:
    """The text without what stands between fences."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- the protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TYPES))
def test_the_protocol_describes_each_type_with_its_fields(name: str) -> None:
    said = section(page("docs/protocol.md"), f"`{name}`")
    missing = [f.name for f in dataclasses.fields(TYPES[name]) if f"`{f.name}`" not in said]
    assert not missing


def test_each_type_has_one_golden_example() -> None:
    assert [path.stem for path in GOLDEN] == sorted(TYPES)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: str(path.stem))
def test_the_protocol_shows_the_golden_example(path: Path) -> None:
    said = section(page("docs/protocol.md"), f"`{path.stem}`")
    assert blocks(said, "json") == [path.read_text("utf-8").rstrip("\n") + "\n"]


# --- the README ---------------------------------------------------------------------------------


def test_the_readme_has_every_setting() -> None:
    said = section(page("README.md"), "Settings")
    assert [key.name for key in config.KEYS if f"`{key.name}`" not in said] == []


def test_the_readme_has_every_command() -> None:
    said = section(page("README.md"), "Commands")
    known = re.findall(r"^\| `pibot\.pyz ([a-z]+)", said, re.MULTILINE)
    assert sorted(set(known)) == sorted(COMMANDS)


def test_the_sentences_of_the_readme_are_understood() -> None:
    from pibot.fleet.pool import Pool
    from pibot.fleet.records import Goal
    from pibot.fleet.routing import route

    pool = Pool()
    for name in ("worker-1", "worker-2"):
        pool.restored(name, {"skills": BUILT_IN.announce()})
    rows = section(page("README.md"), "Sentences that need no model").splitlines()
    sentences = [s for row in rows if row.startswith("| `") for s in re.findall("`(.*?)`", row)]
    assert len(sentences) > 20
    for sentence in sentences:
        goal = Goal("g1", text=sentence, created="2026-01-02T03:04:05+00:00")
        assert route(goal, pool, model=False).error is None, sentence


# --- skills -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN.names)
def test_the_page_of_skills_describes_each_skill(name: str) -> None:
    skill = BUILT_IN.get(name)
    assert isinstance(skill, Skill)
    said = section(page("docs/skills.md"), f"`{name}`")
    assert [p for p in skill.parameters["properties"] if f"| `{p}` |" not in said] == []
    assert [p for p in skill.phrases if f"\n{p}\n" not in said] == []
    assert f"pibot.pyz run --skill {name}" in said


def test_the_skills_of_ones_own_are_skills(tmp_path: Path) -> None:
    (code,) = blocks(page("docs/skills.md"), "python")
    (tmp_path / "garden.py").write_text(code, encoding="utf-8")
    toolbox, problems = library.load(tmp_path, Permits(shell=True))
    assert [one for one in problems if "garden" in one] == []
    assert {"soil_moisture", "water", "harvest_report"} <= set(toolbox.names)
    found = phrases.match("soil moisture of roses", toolbox.announce(), ["garden"])
    assert found and (found.skill, found.args) == ("soil_moisture", {"bed": "roses"})


# --- Python -------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> "FleetProcesses":
    return FleetProcesses(tmp_path / "fleet")


def run_example(tmp_path: Path, env: Dict[str, str]) -> "subprocess.CompletedProcess[str]":
    (code,) = blocks(page("docs/python.md"), "python")
    example = tmp_path / "example.py"
    example.write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(example)],
        env={**env, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


def test_the_example_for_python_runs_as_it_is_written(
    tmp_path: Path, fleet: FleetProcesses
) -> None:
    with fleet:
        fleet.start_master()
        fleet.start_worker("worker-1")
        fleet.start_worker("worker-2")
        fleet.wait_idle(2)
        done = run_example(tmp_path, fleet.env)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "workers: 2 idle: 2",
        "worker-1 answers",
        "worker-2 answers",
        "succeeded hello",
    ]
    assert re.fullmatch(r"worker-1 [0-9.]+ % used", lines[-2])
    assert re.fullmatch(r"worker-2 [0-9.]+ % used", lines[-1])


def test_the_example_for_python_says_that_nobody_is_there(
    tmp_path: Path, fleet: FleetProcesses
) -> None:
    env = environment(MQTT_HOST="127.0.0.1", MQTT_PORT=str(fleet.port))
    done = run_example(tmp_path, env)
    assert done.returncode == 1
    assert done.stderr.startswith("unreachable: no broker answers at 127.0.0.1:")


# --- reliability and security -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "table"), [("docs/reliability.md", "## Faults"), ("docs/security.md", "## Threats")]
)
def test_each_fault_and_threat_names_a_test_that_there_is(path: str, table: str) -> None:
    said = page(path)
    named = re.findall(r"^([0-9]+)\. `(tests/\S+\.py)`\s+`(test_\w+)`$", said, re.MULTILINE)
    assert [int(number) for number, _, _ in named] == list(range(1, len(named) + 1))
    missing = [(p, name) for _, p, name in named if f"\ndef {name}(" not in page(p)]
    assert missing == []
    rows = said[said.index(table) : said.index("### The tests")]
    used = re.findall(r"^\|.*\| ([0-9, ]+) \|$", rows, re.MULTILINE)
    assert {int(n) for cell in used for n in cell.split(",")} == set(range(1, len(named) + 1))


# --- all pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_links_lead_somewhere(path: Path) -> None:
    targets: List[Tuple[str, str]] = [
        (target.partition("#")[0], target.partition("#")[2])
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(path.read_text("utf-8")))
    ]
    for name, anchor in targets:
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), name
        headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in map(_anchor, headings), (name, anchor)


def _anchor(heading: str) -> str:
    """How a heading is named in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_tables_and_prose_fit_on_a_screen(path: Path) -> None:
    lines = prose(path.read_text("utf-8")).splitlines()
    assert [line for line in lines if len(line) > TABLE_COLUMNS] == []
