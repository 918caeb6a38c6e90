"""MCP servers as skills: the file that names them, and real servers where the package is there."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from fleet_processes import free_port, is_open, wait_for
from pibot.agent import mcp_servers
from pibot.agent.tools import Context, Result, Toolbox

SERVER = Path(__file__).with_name("mcp_server.py")
real = pytest.mark.skipif(
    importlib.util.find_spec("mcp") is None, reason="the package mcp is not installed here"
)
OWN: Dict[str, Any] = {
    "command": sys.executable,
    "args": [str(SERVER)],
    "env": {"PYTHONPATH": ":".join(sys.path)},
}


def written(tmp_path: Path, **servers: Any) -> Path:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


@contextmanager
def running(path: Path) -> Iterator[mcp_servers.Servers]:
    changed = threading.Event()
    servers = mcp_servers.Servers(path, changed.set)
    servers.start()
    try:
        assert changed.wait(20), "no server came"
        yield servers
    finally:
        servers.close()


def call(
    servers: mcp_servers.Servers, tmp_path: Path, name: str, limit_s: float = 10, **args: Any
) -> Result:
    ctx = Context(tmp_path, threading.Event(), time.monotonic() + limit_s, "k")
    return Toolbox(servers.skills(())[0]).call(name, args, ctx)


# --- the file --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mcpServers": 5}', "[" * 9000, "\xff"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(text.encode("latin-1"))
    servers, notes = mcp_servers.configured(path)
    assert servers == {}
    assert notes and str(path) in notes[0]


@pytest.mark.parametrize(
    "server",
    [
        5,
        {},
        {"command": "a", "url": "b"},
        {"command": ["a"]},
        {"command": "a", "args": "b"},
        {"command": "a", "args": [1]},
        {"command": "a", "env": ["b"]},
        {"command": "a", "env": {"b": 1}},
        {"url": "http://a", "headers": {"b": None}},
    ],
)
def test_a_server_that_is_none_leaves_the_others(tmp_path: Path, server: Any) -> None:
    servers, notes = mcp_servers.configured(written(tmp_path, bad=server, good=OWN))
    assert list(servers) == ["good"]
    assert "bad" in notes[0] and "command" in notes[0]


def test_what_is_secret_in_it(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer abc123456", "Accept": "application/json"}
    path = written(
        tmp_path,
        one={**OWN, "env": {"API_TOKEN": "hunter2hunter2", "FOLDER": "/srv/photos"}},
        two={"url": "http://me:pass-word-1@host/", "headers": headers},
    )
    found = set(mcp_servers.secrets_of(path))
    assert found == {"hunter2hunter2", "pass-word-1", "Bearer abc123456", "abc123456"}


@pytest.mark.skipif(importlib.util.find_spec("mcp") is not None, reason="the package mcp is here")
def test_without_the_package_one_line_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        servers = mcp_servers.Servers(written(tmp_path, one=OWN), lambda: None)
        servers.start()
    assert [record.getMessage() for record in caplog.records] == [mcp_servers.MISSING]
    assert servers.skills(()) == ([], [])
    servers.close()


# --- real servers ----------------------------------------------------------------------------


@real
def test_its_tools_are_skills(tmp_path: Path) -> None:
    with running(written(tmp_path, one=OWN)) as servers:
        skills, notes = servers.skills(["one_slow"])
        assert {one.name for one in skills} >= {"one_add", "one_end"}
        assert {one.group for one in skills} == {"mcp-one"}
        assert notes == ["the tool slow of one was left out: another skill here is called one_slow"]
        assert call(servers, tmp_path, "one_add", a=2, b="3").data == {"result": 5}
        assert not call(servers, tmp_path, "one_add", a=2).success


@real
def test_over_http_with_its_headers(tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, str(SERVER), str(port)]) as process:
        try:
            wait_for(lambda: is_open(port), what="the server listens")
            url = f"http://127.0.0.1:{port}/mcp"
            with running(written(tmp_path, web={"url": url, "headers": {"X-A": "b"}})) as servers:
                assert call(servers, tmp_path, "web_add", a=2, b=3).data == {"result": 5}
        finally:
            process.kill()


@real
def test_a_call_ends_in_time_and_the_next_one_works(tmp_path: Path) -> None:
    with running(written(tmp_path, one=OWN)) as servers:
        began = time.monotonic()
        assert not call(servers, tmp_path, "one_slow", limit_s=0.5, seconds=20.0).success
        assert time.monotonic() - began < 5
        assert call(servers, tmp_path, "one_add", a=1, b=1).success


@real
def test_a_server_that_ended_is_started_again(tmp_path: Path) -> None:
    with running(written(tmp_path, one=OWN, bad={"command": "/nonexistent"})) as servers:
        failed = call(servers, tmp_path, "one_end")
        assert not failed.success and "started again" in failed.output
        wait_for(lambda: call(servers, tmp_path, "one_add", a=1, b=1).success, what="it is back")


@real
def test_it_sees_only_its_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "canary-canary")
    with running(written(tmp_path, one={**OWN, "env": {**OWN["env"], "MY_OWN": "x"}})) as servers:
        seen = set(call(servers, tmp_path, "one_variables").data["result"])
    assert {"MY_OWN", "LANG", "PATH"} <= seen
    assert not {name for name in seen if name.startswith(("MQTT", "PIBOT", "PYTEST"))}


@real
@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_its_process_ends_with_the_worker(tmp_path: Path, number: Any) -> None:
    path = written(tmp_path, one=OWN)
    code = (
        "import sys, threading; from pathlib import Path\n"
        "sys.path[:0] = sys.argv[2].split(':')\n"
        "from pibot.agent import mcp_servers; from pibot.agent.tools import *\n"
        "came = threading.Event()\n"
        "s = mcp_servers.Servers(Path(sys.argv[1]), came.set); s.start()\n"
        "came.wait(20); t = Toolbox(s.skills(())[0])\n"
        "c = Context(Path('.'), threading.Event(), time.monotonic() + 9, 'k')\n"
        "print(t.call('one_number', {}, c).data['result'], flush=True)\n"
        "sys.stdin.read(); s.close()\n"
    )
    words = [sys.executable, "-c", code, str(path), ":".join(sys.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as worker:  # type: ignore[call-overload]
        server = int(worker.stdout.readline())
        assert Path(f"/proc/{server}").exists()
        if number is None:
            worker.communicate(timeout=20)
        else:
            os.kill(worker.pid, number)
    wait_for(lambda: not Path(f"/proc/{server}").exists(), what="the server's process has ended")
