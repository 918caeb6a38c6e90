#!/usr/bin/env python3
"""Prove build/pibot.pyz on the Pythons and processors that it is made for, and print a table.

On each target the file is master, worker and client, as real processes. Checked are: the start on
an empty cache and on a full one, which parts serve, two skill tasks, a goal that is planned and
done by agents against a scripted model, `status`, and a clean end.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "build"), str(ROOT / "tests")]

import userlands  # noqa: E402
from machine import Machine, free_ports  # noqa: E402
from userlands import Problem, Target  # noqa: E402

from fleet_processes import is_open, wait_for  # noqa: E402
from model_server import (  # noqa: E402
    ModelServer,
    Scripted,
    calls,
    is_agent,
    is_answer,
    is_plan,
    last,
    plan,
    serving,
    text,
)

NATIVE_S, EMULATED_S = 60.0, 300.0  # for each single thing that is waited for
GOAL = "write a note to a file, then confirm what it says"
BEGIN, END = "<!-- check_targets.py writes from here -->", "<!-- to here -->"
HEADER = [
    "target", "Python", "parts", "broker", "cold s", "warm s", "idle MB", "cache MB", "verdict",
]  # fmt: skip


class Figures(NamedTuple):
    """What was seen on a target on which everything went well."""

    python: str
    parts: str
    broker: str
    cold_s: float
    warm_s: float
    idle_mb: Optional[float]  # None under emulation: the emulator's own would be counted
    cache_mb: float


Results = List[Tuple[Target, Optional[Figures]]]


# --- one target -------------------------------------------------------------------------------


@contextlib.contextmanager
def two_machines(
    target: Target, pyz: Path, model: ModelServer
) -> Iterator[Tuple[Machine, Machine]]:
    """A master's machine and a worker's; at the end they are gone with all that runs there."""
    broker_port, *ports = free_ports(3)
    settings = {
        "MQTT_PORT": str(broker_port),
        "PIBOT_HEALTH_HOST": "127.0.0.1",
        "VOLC_API_KEY": model.key,
        "VOLC_BASE_URL": model.url,
        "MODEL_NAME": model.model,
    }
    patience_s = EMULATED_S if target.emulated else NATIVE_S
    with tempfile.TemporaryDirectory(prefix="pibot-target-") as folder:
        master, worker = (
            Machine(role, Path(folder, role), target.python, patience_s, port)
            for role, port in zip(("master", "worker"), ports)
        )
        try:
            for machine in (master, worker):
                machine.install(pyz, settings)
            yield master, worker
            wait_for(lambda: not is_open(broker_port), 10, "the master's broker ends with it")
        except Exception as error:
            words = [f"{type(error).__name__}: {error}", master.last_words(), worker.last_words()]
            raise AssertionError("\n".join(words)) from error
        finally:
            worker.kill()
            master.kill()


def try_target(target: Target, pyz: Path) -> Figures:
    """Everything that a fleet has to do there; AssertionError where it does not."""
    if target.userland is not None:
        userlands.prepare(target.userland)
    with serving() as model, two_machines(target, pyz, model) as (master, worker):
        master.start()
        cold_s, warm_s = quickest_starts(worker, 1 if target.emulated else 3)
        wait_for(lambda: idle_workers(master) == 1, worker.patience_s, "the worker is idle")
        idle_mb = None if target.emulated else worker.memory_mb()
        check_skills(worker)
        check_goal(worker, model)
        facts = worker.run("version")
        served = facts["parts"]["model"]
        assert (served["parts"], served["unpacked"]) == (target.parts, True), facts
        status = worker.run("status")
        assert (status["total"], status["idle"]) == (1, 1), status
        worker.stop()
        master.stop()
        cache_mb, broker = worker.cache_mb(), broker_of(master, facts["python"])
    return Figures(facts["python"], served["parts"], broker, cold_s, warm_s, idle_mb, cache_mb)


def quickest_starts(worker: Machine, rounds: int) -> Tuple[float, float]:
    """The seconds on an empty cache and on a full one; other work on this machine only adds."""
    cold, warm = [], []
    for _ in range(rounds):
        if worker.service:
            worker.stop()
        worker.empty_cache()
        cold.append(worker.start())
        worker.stop()
        warm.append(worker.start())
    return min(cold), min(warm)


def idle_workers(master: Machine) -> Optional[int]:
    return (master.health().get("workers") or {}).get("idle")


def broker_of(master: Machine, python: str) -> str:
    """The broker that the master has started; it has to be the best that this Python can have."""
    started = re.search(r"started (the embedded broker|a private mosquitto)", master.said())
    assert started, "the master has not said that it started a broker"
    broker = "amqtt" if "embedded" in started.group() else "mosquitto"
    assert broker == ("mosquitto" if python.startswith("3.9.") else "amqtt"), started.group()
    return broker


def check_skills(client: Machine) -> None:
    words = secrets.token_hex(8)
    done = client.run("run", "--skill", "echo", "--args", json.dumps({"text": words}))
    (task,) = done["tasks"]
    assert (done["state"], task["worker_id"]) == ("succeeded", "worker-1"), done
    assert task["result"]["data"] == {"text": words}, done
    done = client.run("run", "--skill", "system_status", "--on", "worker-1")
    told = done["tasks"][0]["result"]["data"]["mem_total_mib"]
    assert abs(told - os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20) < 2, done


def check_goal(client: Machine, model: ModelServer) -> None:
    """Follow a random word: model, a file, model, a result, the next task, the final answer."""
    word = secrets.token_hex(8)
    script(model, word)
    done = client.run("run", GOAL, "--timeout", f"{client.patience_s:.0f}")
    outputs = [task["result"]["output"] for task in done["tasks"]]
    assert outputs == [f"The note says {word}", f"Confirmed: {word}"], done
    assert (done["state"], done["answer"]) == ("succeeded", f"Both agree on {word}"), done
    assert done["usage"]["model_calls"] == len(model.requests) == 6, done


def script(model: ModelServer, word: str) -> None:
    """Two tasks: one writes and reads a file, the next one sees its result."""

    def agent(request: Any) -> Scripted:
        if "confirm" in last(request, "user"):
            return text(f"Confirmed: {word}" if word in last(request, "user") else "No note came.")
        steps_done = sum(message["role"] == "tool" for message in request["messages"])
        if steps_done == 0:
            return calls(("write_file", {"path": "note.txt", "content": word}))
        if steps_done == 1:
            return calls(("read_file", {"path": "note.txt"}))
        return text(f"The note says {word}" if word in last(request, "tool") else "No note there.")

    def answer(request: Any) -> Scripted:
        heard = f"Confirmed: {word}" in json.dumps(request["messages"])
        return text(f"Both agree on {word}" if heard else "The results are missing.")

    tasks: List[Dict[str, Any]] = [
        {"id": "note", "goal": "write a note and read it"},
        {"id": "sure", "goal": "confirm the note", "needs": ["note"]},
    ]
    model.on(is_plan, plan({"route": "plan", "answer": None, "tasks": tasks}))
    model.on(is_agent, agent)
    model.on(is_answer, answer)


# --- all targets ------------------------------------------------------------------------------


def all_targets() -> List[Target]:
    found = userlands.local_pythons(userlands.python_folders())
    local = [target for version in found.values() for target in version]
    return [*local, *userlands.userland_targets(found)]


def chosen(targets: Sequence[Target], patterns: Sequence[str]) -> List[Target]:
    """Those whose name fits a pattern such as `*-arm64`; Problem when one fits none."""
    names = [target.name for target in targets]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise Problem(f"No target is called {pattern!r}; there are: {', '.join(names)}.")
    return [t for t in targets if any(fnmatch.fnmatch(t.name, pattern) for pattern in patterns)]


def try_all(targets: Sequence[Target], pyz: Path) -> Results:
    """Try one after the other; tell on standard error how it goes."""
    results: Results = []
    for target in targets:
        print(f"{target.name} ... ", end="", file=sys.stderr, flush=True)
        figures = None
        try:
            figures = try_target(target, pyz)
            print("ok", file=sys.stderr)
        except Exception as error:  # of whatever kind: the other targets are still worth a try
            print(f"failed: {error}", file=sys.stderr)
        results.append((target, figures))
    return results


def table(results: Results) -> str:
    """A Markdown table that is readable as it is."""
    rows = [HEADER, *(_row(*result) for result in results)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    rows.insert(1, ["-" * width for width in wide])
    lines = (" | ".join(cell.ljust(wide[i]) for i, cell in enumerate(row)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _row(target: Target, seen: Optional[Figures]) -> List[str]:
    if seen is None:
        return [target.name, *["-"] * (len(HEADER) - 2), "failed"]
    idle = "-" if seen.idle_mb is None else f"{seen.idle_mb:.1f}"
    times = [f"{seen.cold_s:.2f}", f"{seen.warm_s:.2f}"]
    words = [target.name, seen.python, seen.parts, seen.broker, *times]
    return [*words, idle, f"{seen.cache_mb:.1f}", "ok"]


def caption(pyz: Path) -> str:
    """Which file was tried, where and when."""
    digest = hashlib.sha256(pyz.read_bytes()).hexdigest()
    size, today = pyz.stat().st_size / 1e6, datetime.date.today()
    machine = f"{os.cpu_count()} cores, {os.uname().machine}"
    return f"{today}, {machine}, pibot.pyz of {size:.1f} MB with the SHA-256\n`{digest}`:"


def insert(document: str, words: str) -> str:
    """The document with `words` between its two markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Problem(f"The document has no lines {BEGIN} and {END} to write between.")
    return f"{before}{begin}\n\n{words}\n\n{end}{after}"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pyz", type=Path, default=ROOT / "build" / "pibot.pyz", metavar="FILE")
    some_or_written = parser.add_mutually_exclusive_group()
    some_or_written.add_argument(
        "--only", nargs="+", default=["*"], metavar="NAME", help="such as 'bookworm-*' or '*-3.11*'"
    )
    some_or_written.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table there when all is well"
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as with Ctrl-C: end what we started
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return run(options.pyz, options.only, options.markdown)
    except Problem as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        return 130


def run(pyz: Path, only: Sequence[str], document: Optional[Path]) -> int:
    targets = chosen(all_targets(), only)
    if not pyz.is_file():
        raise Problem(f"There is no {pyz}: make release.")
    with tempfile.TemporaryDirectory(prefix="pibot-pyz-") as folder:
        copy = Path(shutil.copy(pyz, folder))  # the file may be built anew while we run
        results = try_all(targets, copy)
        words = f"{caption(copy)}\n\n{table(results)}"
    print(words)
    if not all(figures for _, figures in results):
        return 1
    if document is not None:
        document.write_text(insert(document.read_text("utf-8"), words), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
