"""Imports point one way, the rules stay pure, the light path stays light, nothing happens early."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest

import pibot

ROOT = Path(pibot.__file__).parent

# Each part may import its own level and those before it.
LEVELS: List[List[str]] = [
    ["pibot.errors", "pibot"],
    ["pibot.topics", "pibot.paths", "pibot.strictjson", "pibot.memory", "pibot.secrets"]
    + ["pibot.httpguard"],
    [
        "pibot.fields",
        "pibot.body",
        "pibot.requests",
        "pibot.messages",
        "pibot.signing",
        "pibot.session",
        "pibot.rights",
        "pibot.silence",
    ],
    [
        "pibot.wire",
        "pibot.values",
        "pibot.permits",
        "pibot.config",
        "pibot.mailbox",
        "pibot.store",
        "pibot.logs",
    ]
    + ["pibot.salvage", "pibot.tls"]
    + ["pibot.outbox", "pibot.transfer", "pibot.line", "pibot.growing", "pibot.manifest"]
    + ["pibot.files", "pibot.identities", "pibot.notify", "pibot.parts", "pibot.unpacking"]
    + ["pibot.mosquitto", "pibot.admission"],
    ["pibot.fleet.*", "pibot.agent.*", "pibot.skills.*", "pibot.transport", "pibot.health"],
    ["pibot.bus"],
    ["pibot.doorkeeper", "pibot.embedded", "pibot.broker"],
    ["pibot.roles.*", "pibot.deploy.*", "pibot.doctor.*"],
    ["pibot.cli", "pibot.cli.*", "pibot.__main__"],
]

PURE = [
    *(
        "pibot.fields",
        "pibot.messages",
        "pibot.session",
        "pibot.signing",
        "pibot.topics",
        "pibot.errors",
    ),
    *("pibot.wire", "pibot.transfer", "pibot.line"),
    *(
        f"pibot.fleet.{name}"
        for name in ("scheduler", "goals", "board", "pool", "routing", "document", "records")
    ),
    *("pibot.paths", "pibot.strictjson", "pibot.fleet.fetching", "pibot.fleet.shared"),
    *("pibot.fleet.approvals", "pibot.fleet.clocks"),
    *("pibot.agent.approval", "pibot.agent.asking", "pibot.agent.repeats"),
    *("pibot.fleet.events", "pibot.fleet.phrases", "pibot.fleet.status"),
    *("pibot.fleet.recovery", "pibot.fleet.pruning"),
    *(
        "pibot.agent.effects",
        "pibot.agent.worker_core",
        "pibot.httpguard",
        "pibot.rights",
        "pibot.silence",
    ),
]
IMPURE = {"time", "socket", "threading", "random", "sqlite3", "paho", "os", "secrets", "asyncio"}
IMPURE |= {"subprocess", "select", "uuid", "logging", "pibot.store", "pibot.transport"}
HEAVY = ("openai", "pydantic", "rich", "asyncio", "httpx", "httpx2", "amqtt", "http.server")


def modules() -> Dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["pibot", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


MODULES = modules()


def imports(name: str, top: bool = False) -> Iterator[str]:
    """What a module imports, also inside functions unless `top`; submodules by their own names."""
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    nodes = tree.body if top else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def level(name: str) -> int:
    for i, parts in enumerate(LEVELS):
        for part in parts:
            if name == part or (part.endswith(".*") and f"{name}.".startswith(part[:-1])):
                return i
    raise AssertionError(f"{name} has no level")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: str) -> None:
    mine = level(name)
    for other in imports(name):
        if other.split(".")[0] == "pibot":
            assert level(other) <= mine, f"{name} imports {other}, which is above it"


@pytest.mark.parametrize("name", sorted(m for m in MODULES if m.startswith("pibot.agent")))
def test_a_worker_knows_nothing_of_the_masters_mind(name: str) -> None:
    assert [o for o in imports(name) if o.startswith(("pibot.fleet", "pibot.web"))] == []


def test_imports_have_no_cycle() -> None:
    graph = {n: {o for o in imports(n, top=True) if o in MODULES and o != n} for n in MODULES}
    while graph:
        ready = [n for n, needs in graph.items() if not needs & set(graph)]
        assert ready, f"these import each other: {sorted(graph)}"
        for name in ready:
            del graph[name]


def closure(name: str) -> Set[str]:
    """Everything of ours that a module loads, and what that imports of others."""
    seen: Set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += [o for o in imports(one) if o in MODULES] if one in MODULES else []
            seen |= {o for o in imports(one) if o not in MODULES} if one in MODULES else set()
    return seen


@pytest.mark.parametrize("name", PURE)
def test_the_rules_know_no_clock_socket_thread_or_chance(name: str) -> None:
    loaded = closure(name)
    bad = [m for m in loaded if m in IMPURE or m.split(".")[0] in IMPURE]
    assert bad == [], f"{name} reaches {bad}"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "an import wrote something"
    return done.stdout


@pytest.mark.parametrize("name", ["pibot.roles.worker", "pibot.roles.client", "pibot.cli"])
def test_a_worker_that_waits_loads_nothing_heavy(name: str) -> None:
    heavy = f"[m for m in {HEAVY!r} if m in sys.modules]"
    assert run(f"import sys, {name}; print({heavy})") == "[]\n"


def test_importing_does_nothing() -> None:
    """No output, no thread, no open file, no change of directory, signals or environment."""
    names = [n for n in MODULES if not n.endswith("__main__")]
    if importlib.util.find_spec("amqtt") is None:  # as on Python 3.9
        names.remove("pibot.embedded")
    code = f"""
import importlib, os, signal, sys, threading
def state():
    fds = len(os.listdir("/proc/self/fd"))
    return fds, os.getcwd(), dict(os.environ), [signal.getsignal(s) for s in (2, 15)]
before = state()
for name in {names!r}:
    importlib.import_module(name)
    assert threading.active_count() == 1, name
    assert state() == before, name
"""
    assert run(code) == ""


def test_constructors_do_nothing(tmp_path: Path) -> None:
    code = f"""
import os, threading, pathlib
from pibot import transport, health, mailbox, store
from pibot.agent.model import ModelSettings, OpenAIModel
from pibot.fleet import journal, planner
from pibot.secrets import Redactor
from pibot.agent import journal as worker_journal
path = pathlib.Path({str(tmp_path)!r}) / "x" / "j.db"
fds = len(os.listdir("/proc/self/fd"))
journal.Journal(path), worker_journal.Journal(path), store.Store(path, store.Schema(()))
transport.PahoTransport(transport.Link("127.0.0.1", 1), "w1", ["a"])
health.HealthServer("127.0.0.1", 0, lambda: (200, {{}}))
planner.Planner(OpenAIModel(ModelSettings("k", "http://127.0.0.1:1/v1", "m")), "soul", Redactor())
assert threading.active_count() == 1
assert len(os.listdir("/proc/self/fd")) == fds
assert list(pathlib.Path({str(tmp_path)!r}).iterdir()) == []
"""
    assert run(code) == ""


def test_every_module_can_be_read_by_the_oldest_python() -> None:
    for name, path in MODULES.items():
        text = path.read_text("utf-8")
        ast.parse(text, feature_version=(3, 9))
        future = "from __future__ import annotations"
        assert future in text or "->" not in text, f"{name} lacks {future!r}"
