"""Which paths may stand for a shared file."""

from __future__ import annotations

import pytest

from pibot import paths


@pytest.mark.parametrize(
    "path", ["a", "a b.txt", "photos/door.jpg", ".hidden", "..a", "a..", "ü/门/🚪.png", "~", "-rf"]
)
def test_good_ones(path: str) -> None:
    assert paths.problem(path) == ""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        *((p, "not a plain relative path") for p in ("", ".", "..", "/a", "a/", "a//b", "a/../b")),
        *((p, "not a plain relative path") for p in (" ", "a ", " a", "a/ ", "a /b", "\u3000")),
        *(
            (p, "cannot be shown")
            for p in ("a\nb", "a\0", "a\x1b[2J", "a\u202eb", "\ud800", "\ufeffa")
        ),
        ("n" * 201, "more than 200 bytes"),
        ("门" * 67, "more than 200 bytes"),
        ("a/" * 20 + "a", "20 directories deep"),
        ("/".join(["n" * 199] * 6), "longer than 1,000 bytes"),
    ],
)
def test_bad_ones(path: str, why: str) -> None:
    assert why in paths.problem(path)
