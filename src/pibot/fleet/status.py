"""The fleet's state as documents: `status --json`, `view/…`, `/health`. Pure."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from pibot.fleet.pool import Pool, Worker
from pibot.fleet.records import Task

_NUMBERS = ("cpu_temp_c", "load1", "mem_used_pct", "disk_used_pct")


def worker_row(worker: Worker, now: float) -> Dict[str, Any]:
    """A worker as `status --json` shows it; null where its machine cannot say."""
    facts = worker.facts
    heard = worker.heard_at != float("-inf")
    row: Dict[str, Any] = {
        "worker_id": worker.name,
        "state": worker.state,
        "current_tasks": sorted(worker.tasks),
        "slots": worker.slots,
        "tags": sorted(worker.tags),
        "skills": sorted(worker.skills),
        "version": _text(facts.get("version")),
        "last_seen_s": round(now - worker.heard_at, 1) if heard else None,
    }
    for key in _NUMBERS:
        row[key] = _number(facts.get(key))
    throttled = facts.get("throttled")
    row["throttled"] = throttled if isinstance(throttled, bool) else None
    if worker.alarm:
        row["alarm"] = worker.alarm
    return row


def counts(pool: Pool) -> Dict[str, int]:
    """How many workers there are, and how many of them are idle, busy, offline."""
    states = [w.state for w in pool.workers.values()]
    return {
        "total": len(states),
        "idle": states.count("idle"),
        "busy": states.count("busy"),
        "offline": states.count("offline"),
    }


def fleet_document(fleet: str, epoch: int, pool: Pool, now: float) -> Dict[str, Any]:
    rows = [worker_row(w, now) for _, w in sorted(pool.workers.items())]
    document = {"fleet": fleet, "epoch": epoch, **counts(pool), "workers": rows}
    return {**document, "alarm": pool.alarm} if pool.alarm else document


def roster_rows(pool: Pool, enrolled: Mapping[str, str], now: float) -> List[Dict[str, Any]]:
    """Every worker that is known or enrolled; `state` is null if it has never come."""
    return [
        _roster_row(pool.workers.get(name) or Worker(name), name in pool.workers, enrolled, now)
        for name in sorted({*pool.workers, *enrolled})
    ]


def _roster_row(
    worker: Worker, seen: bool, enrolled: Mapping[str, str], now: float
) -> Dict[str, Any]:
    row = worker_row(worker, now)
    return {
        "worker_id": worker.name,
        "state": worker.state if seen else None,
        "draining": worker.draining,
        "enrolled": enrolled.get(worker.name),
        "version": row["version"],
        "tags": row["tags"],
        "host": _text(worker.facts.get("host")),
        "last_seen_s": row["last_seen_s"],
    }


def skills_document(pool: Pool, on: str) -> Dict[str, Any]:
    """Every skill once, with the workers that have it."""
    found: Dict[str, Dict[str, Any]] = {}
    for name, worker in sorted(pool.workers.items()):
        for skill in worker.announced if on in ("", name) else []:
            entry = found.setdefault(skill["name"], {**skill, "workers": []})
            entry["workers"].append(name)
    return {"skills": [found[name] for name in sorted(found)]}


def task_view(task: Task) -> Dict[str, Any]:
    """What people may see of a task: no goal text and no result."""
    return {
        "task_id": task.id,
        "goal_id": task.goal,
        "state": task.state,
        "worker_id": task.assignee or None,
        "attempt": task.attempt,
    }


def alarms(pool: Pool) -> List[str]:
    found = [w.alarm for _, w in sorted(pool.workers.items()) if w.alarm]
    return [pool.alarm, *found] if pool.alarm else found


def _number(value: Any) -> Optional[float]:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: Any) -> Optional[str]:
    return value[:64] if isinstance(value, str) else None
