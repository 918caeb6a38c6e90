"""`selftest`: a task to every worker and back, and a planned goal where there is a model."""

from __future__ import annotations

import argparse
import secrets
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import duration, line, mark
from pibot.errors import EXIT_FAILED, EXIT_OK, PibotError

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = "pibot.pyz selftest"
ECHO_S = 30.0
PLAN_S = 180.0
AT_ONCE = 16
NO_MODEL = "no model is configured"  # how the master begins to say so
Check = Dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    from pibot.roles.client import Fleet

    checks: List[Check] = []
    with Fleet.connect(found) as fleet:
        for check in _checks(fleet):
            checks.append(check)
            if not options.json:
                present.say(_line(check))
    passed = all(check["ok"] is not False for check in checks)
    if options.json:
        present.say_json({"ok": passed, "checks": checks})
    return EXIT_OK if passed else EXIT_FAILED


def _checks(fleet: Fleet) -> List[Check]:
    workers = fleet.get_status_summary()["workers"]
    if not workers:
        return [_check("workers", False, "no worker has joined the fleet", None)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        echoes = list(pool.map(lambda row: _echo(fleet, row), workers))
    return [*echoes, _plan(fleet)]


def _echo(fleet: Fleet, worker: Mapping[str, Any]) -> Check:
    """Whether a word goes to the worker and comes back."""
    name, word = worker["worker_id"], secrets.token_hex(8)
    if worker["state"] in ("offline", "incompatible"):
        return _check(name, False, f"is {worker['state']}", None)
    if worker["state"] == "draining":
        return _check(name, None, "is draining: not tried", None)
    try:
        done = fleet.run_skill("echo", {"text": word}, on=name, timeout_s=ECHO_S)
    except PibotError as error:
        return _check(name, False, str(error), None)
    result = done["tasks"][0]["result"] if done["tasks"] else None
    came_back = result is not None and result["data"] == {"text": word}
    why = "echo came back" if came_back else f"echo {done['state']}: {_why(done)}"
    return _check(name, came_back, why, done["seconds"])


def _plan(fleet: Fleet) -> Check:
    """Whether the master's model makes a plan that a worker can do; `ok` is None without one."""
    word = f"pibot-{secrets.token_hex(3)}"
    goal = f"Use the echo skill of one worker to say {word}, and report what it said."
    errors: List[str] = []

    def on_event(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "done":
            errors.append(str(data.get("error") or ""))

    try:
        done = fleet.run(goal, timeout_s=PLAN_S, on_event=on_event)
    except PibotError as error:
        return _check("plan", False, str(error), None)
    if done["state"] == "succeeded":
        count = len(done["tasks"])
        detail = f"a goal was planned and done in {count} task{'' if count == 1 else 's'}"
        return _check("plan", True, detail, done["seconds"])
    if errors and errors[0].startswith(NO_MODEL):
        return _check("plan", None, "no model is configured: not tried", None)
    return _check("plan", False, f"a goal {done['state']}: {errors[0] if errors else ''}", None)


def _why(document: Mapping[str, Any]) -> str:
    errors = [task["error"] for task in document["tasks"] if task["error"]]
    return str(errors[0]) if errors else "no result"


def _check(name: str, ok: Optional[bool], detail: str, seconds: Optional[float]) -> Check:
    return {"name": name, "ok": ok, "detail": line(detail, 300), "seconds": seconds}


def _line(check: Check) -> str:
    sign = "-" if check["ok"] is None else mark(check["ok"])
    took = "" if check["seconds"] is None else f" ({duration(check['seconds'])})"
    return f"{sign} {line(check['name'])}: {check['detail']}{took}"
