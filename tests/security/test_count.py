"""The attack cases are there: of each family, enough of them, and as root and as an ordinary user.

.venv/bin/python tests/security/test_count.py      prints the table of docs/security.md
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Set, Tuple

import pytest

ENOUGH = 300
FAMILIES: Mapping[str, Tuple[str, ...]] = {
    "paths": ("paths",),
    "links and races": ("links_races",),
    "the shell": ("shell",),
    "addresses (SSRF)": ("ssrf",),
    "rebinding, with a DNS server": ("rebinding",),
    "redirects": ("redirects",),
    "bombs": ("bombs",),
    "slow servers": ("slow",),
    "hostile skills": ("user_skills",),
    "injected orders": ("injection", "approval"),
    "terminal escapes": ("terminal",),
    "secrets in every output": ("secrets", "secrets_fleet"),
    "hardware": ("hardware",),
    "databases": ("sqlite",),
    "services, networks, brokers": ("system",),
}
_HERE = Path(__file__).resolve().parent
_CASE = re.compile(r"tests/security/test_attack_(\w+)\.py::(\w+)(?:\[(.*)\])?")
_IDENTITY = re.compile(r"(?:^|-)(root|user)(?=-|$)")


def collected() -> Dict[str, List[str]]:
    """The cases of each file, as pytest finds them: "test[parameters]"."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/security"]
    done = subprocess.run(words, cwd=_HERE.parents[1], capture_output=True, text=True, timeout=300)
    found: Dict[str, List[str]] = {}
    for line in done.stdout.splitlines():
        match = _CASE.fullmatch(line)
        if match:
            found.setdefault(match[1], []).append(f"{match[2]}[{match[3] or ''}]")
    return found


def distinct(cases: List[str]) -> Set[str]:
    """One that is tried as root and as an ordinary user is one."""
    return {_IDENTITY.sub("", case.replace("[", "[-", 1)) for case in cases}


def counts(cases: Mapping[str, List[str]]) -> Dict[str, Tuple[int, int]]:
    """Of each family: how many attacks there are, and how many are tried as two users."""
    found = {}
    for family, files in FAMILIES.items():
        of_it = [case for file in files for case in cases.get(file, [])]
        attacks = distinct(of_it)
        found[family] = (len(attacks), len(of_it) - len(attacks))
    return found


def table(found: Mapping[str, Tuple[int, int]]) -> str:
    rows = ["| Family | Attacks | As root and as a user |", "|---|---:|---:|"]
    rows += [f"| {family} | {n} | {twice} |" for family, (n, twice) in found.items()]
    together = [sum(pair[i] for pair in found.values()) for i in (0, 1)]
    return "\n".join([*rows, f"| together | {together[0]} | {together[1]} |"])


@pytest.fixture(scope="module")
def cases() -> Dict[str, List[str]]:
    return collected()


def test_there_are_enough_attacks(cases: Dict[str, List[str]]) -> None:
    found = counts(cases)
    assert sum(n for n, _ in found.values()) >= ENOUGH, table(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_there(cases: Dict[str, List[str]], family: str) -> None:
    assert counts(cases)[family][0] >= 10


def test_each_file_belongs_to_a_family(cases: Dict[str, List[str]]) -> None:
    assert set(cases) <= {file for files in FAMILIES.values() for file in files}


def test_the_skills_are_attacked_as_root_and_as_an_ordinary_user(
    cases: Dict[str, List[str]],
) -> None:
    from security.hands import identities

    if len(identities()) < 2:
        pytest.skip("an ordinary user cannot become root")
    found = counts(cases)
    for family in ("paths", "links and races", "the shell", "injected orders"):
        assert found[family][1] >= 10, family


if __name__ == "__main__":
    print(table(counts(collected())))
