"""A skill on trial: whatever it does, there is a verdict in time, and nothing of it is left."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pibot.agent import trial
from security.hands import left_running

GOOD = "from pibot.skills import skill\n@skill()\ndef lamp() -> str:\n    'Do.'\n    return 'on'\n"


def tried(folder: Path, text: str, test: str = "", limit_s: float = 20.0) -> trial.Verdict:
    (folder / "lamp.py").write_text(text)
    if test:
        (folder / "test_lamp.py").write_text(test)
    return trial.tried(folder / "lamp.py", ["echo"], limit_s)


def test_a_fit_skill_and_its_tests(tmp_path: Path) -> None:
    said = tried(
        tmp_path, GOOD, "from lamp import lamp\ndef test_on():\n    assert lamp() == 'on'\n"
    )
    assert (said.problems, said.tests) == ([], 1)
    assert said.tools[0]["function"]["name"] == "lamp"


def test_the_test_gets_what_was_loaded(tmp_path: Path) -> None:
    once = GOOD + "import os\nassert not os.environ.get('SEEN')\nos.environ['SEEN'] = '1'\n"
    assert tried(tmp_path, once, "import lamp\ndef test_it(): pass\n").problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = (\n", "lamp.py: '(' was never closed (line 1)"),
        ("\n\n1 / 0\n", "lamp.py: ZeroDivisionError: division by zero (line 3)"),
        ("import os\nos._exit(3)\n", "loading it ended the process (status 3)"),
        ("import os\nos._exit(0)\n", "loading it ended the process without a word"),
        ("raise SystemExit(2)\n", "lamp.py: SystemExit: 2 (line 1)"),
        ("class E(BaseException): pass\nraise E()\n", "lamp.py: E:  (line 2)"),
        ("raise KeyboardInterrupt\n", "loading it ended the process (SIGINT)"),
        ("import os\nos.kill(os.getpid(), 11)\n", "loading it ended the process (SIGSEGV)"),
        ("x = 'a' * (3 << 30)\n", "lamp.py: MemoryError:  (line 1)"),
        ("x = 1\n", "lamp.py: it declares no skill; put @skill above a function"),
        (GOOD.replace("lamp()", "echo()"), "echo: another skill has that name; rename this one"),
        ("def f(): f()\nf()\n", "lamp.py: RecursionError"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    found = tried(tmp_path, text).problems
    assert found and found[0].startswith(problem)


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ("def test_it():\n    assert 1 == 2\n", "test_lamp.py, line 2 test_it failed: Assertion"),
        ("1 / 0\n", "test_lamp.py, line 1 failed: ZeroDivisionError"),
        ("import os\ndef test_it(): os._exit(0)\n", "loading it ended the process without"),
        ("def test_it(): raise SystemExit\n", "test_lamp.py, line 1 test_it failed: SystemExit"),
        ("test_it = 3\n", "test_lamp.py test_it failed: TypeError"),
    ],
)
def test_a_test_that_fails_is_said(tmp_path: Path, test: str, problem: str) -> None:
    (found,) = tried(tmp_path, GOOD, test).problems
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "said",
    [
        {"tools": [7], "tests": 1, "problems": []},
        {"tools": [{"function": {"name": "x"}}], "tests": 1, "problems": []},
        {"tools": [{"function": {"name": [], "description": {}, "parameters": 3}}]},
        {"tools": {}, "tests": "many", "problems": []},
        [[]],
        7,
    ],
    ids=str,
)
def test_a_verdict_that_the_skill_wrote_itself_is_read_with_care(
    tmp_path: Path, said: object
) -> None:
    forged = (
        f"import os\nsaid = {json.dumps(said)!r}.encode()\n"
        "for fd in range(3, 20):\n    try: os.write(fd, said)\n"
        "    except OSError: pass\nos._exit(0)\n"
    )
    assert tried(tmp_path, forged).problems == ["loading it ended the process without a word"]


def test_what_waits_is_ended(tmp_path: Path) -> None:
    begin = time.monotonic()
    (why,) = tried(tmp_path, "import time\ntime.sleep(600)\n", limit_s=1.0).problems
    assert why.startswith("it did not end within 1 s")
    assert time.monotonic() - begin < 10


def test_a_skill_that_says_much_is_fit(tmp_path: Path) -> None:
    """More than a pipe holds, and more on its own output than anybody wants."""
    long = GOOD.replace("Do.", "Do. " + "x" * 300_000) + "print('y' * 10_000_000)\n"
    said = tried(tmp_path, long)
    assert said.problems == []
    assert len(said.tools[0]["function"]["description"]) > 300_000


def test_what_it_has_started_is_ended_with_it(tmp_path: Path) -> None:
    mark = f"pibot-left-{os.getpid()}"
    forks = (
        "import subprocess, sys\n"
        f"words = [sys.executable, '-c', 'import time; time.sleep(600)', '{mark}']\n"
        "subprocess.Popen(words)\nsubprocess.Popen(words, start_new_session=True)\n"
    )
    assert tried(tmp_path, GOOD + forks).problems == []
    assert left_running(mark) == []


def test_it_sees_nothing_of_whoever_tries_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIBOT_KEY", "secret")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pipe = os.readlink(f"/proc/self/fd/{writer}")
    look = (
        "import os\nextra = [k for k in os.environ if k not in ('PATH', 'HOME', 'LC_CTYPE')]\n"
        "assert not extra, extra\n"
        "links = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]\n"
        f"assert {pipe!r} not in [os.readlink(l) for l in links if os.path.lexists(l)]\n"
    )
    try:
        assert tried(tmp_path, GOOD + look).problems == []
    finally:
        os.close(reader)
        os.close(writer)


def test_two_at_once(tmp_path: Path) -> None:
    found = []
    for n in range(2):
        (tmp_path / str(n)).mkdir()
    threads = [
        threading.Thread(target=lambda n=n: found.append(tried(tmp_path / str(n), GOOD).problems))
        for n in range(2)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [[], []]


def test_nothing_is_left_in_the_directory(tmp_path: Path) -> None:
    tried(tmp_path, GOOD, "def test_it(): open('made', 'w').close()\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lamp.py", "test_lamp.py"]
