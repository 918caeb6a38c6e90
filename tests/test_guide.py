"""The reader of guides: what it takes for a place, an output, a question."""

from __future__ import annotations

import pytest

import guide

PAGE = """\
# A page

**On the master:**

```sh
pibot.pyz status
```

It prints:

```text
fleet home: … workers
…
worker-1   idle
```

**在 worker-1 上：**

```sh
sudo nano /etc/door
```

```ini
OPEN=1
```
"""


def blocks(text: str = PAGE) -> "list[guide.Block]":
    return guide.read_text(text, "page.md")


def test_a_block_has_its_place_its_output_and_what_is_typed() -> None:
    first, second = blocks()
    assert (first.line, first.place, first.script) == (5, "master", "pibot.pyz status\n")
    assert (first.printed, first.typed) == ("fleet home: … workers\n…\nworker-1   idle\n", None)
    assert (second.place, second.typed) == ("worker-1", "OPEN=1\n")
    assert second.printed is None


@pytest.mark.parametrize(
    ("output", "agrees"),
    [
        ("fleet home: 3 workers\nworker-1 idle\n", True),
        ("fleet home: 3 workers\r\nworker-0  busy\n\nworker-1  idle  \n\n", True),
        ("fleet home: 3 workers\nworker-1 busy\n", False),
        ("fleet home: 3 workers\nworker-1 idle\nworker-2 idle\n", False),
        ("fleet home: 3\n4 workers\nworker-1 idle\n", False),
        ("worker-1 idle\n", False),
        ("", False),
    ],
)
def test_an_output_agrees_with_the_page(output: str, agrees: bool) -> None:
    assert blocks()[0].agrees(output) is agrees


def test_a_question_has_its_answer_in_the_page() -> None:
    text = PAGE.replace("worker-1   idle", "Really? [y/N] y\nGo on? [y/N] n\nyes? y")
    assert blocks(text)[0].questions == [("Really? [y/N]", "y"), ("Go on? [y/N]", "n")]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("**On the master:**", "On the master:", "page.md:5: no line says where"),
        ("**On the master:**", "**On the moon:**", "page.md:5: no line says where"),
        ("```ini", "```text\n```\n```text", "page.md:25: a second printed"),
        ("OPEN=1\n```", "OPEN=1", "has no end"),
    ],
)
def test_a_page_that_cannot_be_followed_is_refused(before: str, after: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        blocks(PAGE.replace(before, after))
