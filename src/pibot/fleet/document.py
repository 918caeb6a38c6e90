"""Goals and tasks in words and as documents: for people, for models, for programs. Pure."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

from pibot.fleet.records import Goal, Task, add_usage

SLIM_CHARS = 500
NAMED_FILES = 20
OUTPUT_CHARS = 8_000  # of one task's output, in a prompt
NO_USAGE = {"input_tokens": 0, "output_tokens": 0, "model_calls": 0}


def goal_document(goal: Goal, tasks: Sequence[Task]) -> Dict[str, Any]:
    """The document of `run --json` and of `answer/{goal_id}`."""
    usage = dict(NO_USAGE, **goal.usage)
    for task in tasks:
        usage = add_usage(usage, task.usage)
    return {
        "goal_id": goal.id,
        "state": goal.state,
        "answer": goal.answer,
        "tasks": [task_row(t) for t in tasks],
        "usage": usage,
        "seconds": goal.seconds,
    }


def slim(document: Dict[str, Any]) -> Dict[str, Any]:
    """The document without the bulk of its results: for where it would be too large."""
    note = f"left out because of its size: see `pibot.pyz show {document['goal_id']}`"
    tasks = []
    for row in document["tasks"]:
        result = row["result"]
        if result:
            words = str(result.get("output", ""))
            result = {"success": result.get("success"), "data": {"note": note}}
            result["output"] = _cut(words, SLIM_CHARS)
        tasks.append({**row, "result": result})
    answer = document["answer"]
    return {**document, "answer": answer and _cut(answer, 10 * SLIM_CHARS), "tasks": tasks}


def task_row(task: Task) -> Dict[str, Any]:
    return {
        "task_id": task.id,
        "worker_id": task.assignee or task.worker or None,
        "state": task.state,
        "attempt": task.attempt,
        "result": task.result,
        "error": task.error,
    }


def artifacts(tasks: Sequence[Task], has: Callable[[str, str], bool]) -> List[Dict[str, Any]]:
    """The files that tasks shared; `has` says which are still there, by task and SHA-256."""
    return [_artifact(task, file, has) for task in tasks for file in task.artifacts]


def _artifact(task: Task, file: Dict[str, Any], has: Callable[[str, str], bool]) -> Dict[str, Any]:
    error = file["error"]
    if error is None and not has(task.id, file["sha256"]):
        error = "no longer kept: newer files needed the room"
    return {"task_id": task.id, **file, "error": error}


def output(task: Task) -> str:
    """What a task brought, in words."""
    found = (task.result or {}).get("output")
    return found if isinstance(found, str) else ""


def rows(goal: Goal, tasks: Sequence[Task]) -> str:
    """The answer of a goal whose results speak for themselves: one, or a row for each."""
    if len(tasks) == 1 and not goal.all:
        return output(tasks[0])
    return "\n".join(_row(t) for t in tasks)


def _row(task: Task) -> str:
    text = output(task) if task.state == "succeeded" else f"{task.state}: {task.error}"
    return f"{_who(task)}: {_indent(text)}"


def _indent(text: str) -> str:
    return text.rstrip().replace("\n", "\n  ")


def _who(task: Task) -> str:
    return task.assignee or task.worker or task.name or task.id


def not_done(tasks: Sequence[Task]) -> str:
    """What a failed goal can say: what was not done and why, then what was."""
    failed = [f"{_what(t)}: {t.state} ({t.error})" for t in tasks if t.state != "succeeded"]
    done = [f"{_what(t)}: {_indent(_cut(output(t), 500))}" for t in tasks if t.state == "succeeded"]
    parts = ["Not done:", *(f"- {line}" for line in failed)]
    if done:
        parts += ["Done:", *(f"- {line}" for line in done)]
    return "\n".join(parts)


def _what(task: Task) -> str:
    where = f" on {task.assignee}" if task.assignee else f" on {task.worker}" if task.worker else ""
    return f"{_cut(task.name or task.skill or task.text, 60)}{where}"


def results(tasks: Sequence[Task]) -> Tuple[Dict[str, Any], ...]:
    """What came of tasks, for the planner and for the final answer."""
    return tuple(
        {
            "id": t.name or t.id,
            "goal": t.text or t.skill,
            "worker": t.assignee,
            "state": t.state,
            "output": _cut(output(t), OUTPUT_CHARS) if t.state == "succeeded" else "",
            "error": t.error if t.state != "succeeded" else None,
            **_shared(t),
        }
        for t in tasks
    )


def _shared(task: Task) -> Dict[str, Any]:
    """The names of the files that the person gets beside the answer, if there are any."""
    names = [file["path"] for file in task.artifacts if file["error"] is None]
    return {"files_for_the_person": names[:NAMED_FILES]} if names else {}


def context(goal: str, needs: List[Task], limit: int) -> str:
    """What an agent is told beside its task: the whole goal, and what others found before."""
    share = limit // max(1, len(needs))
    parts = [f"The task is part of this goal: {_cut(goal, 2_000)}"] if needs else []
    for task in needs:
        parts.append(f"Result of {_what(task)}:\n{_cut(output(task), share)}")
    return "\n\n".join(parts)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit} more characters)"
