"""Submitting a goal, waiting for it, and saying how it ended: for run, chat, retry and demo."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

from pibot import messages as msg
from pibot.cli import present
from pibot.cli.parser import Interrupted
from pibot.cli.progress import progress
from pibot.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMED_OUT
from pibot.roles.client import Fleet

Document = Dict[str, Any]


def wait(fleet: Fleet, submit: msg.Submit, quiet: bool = False) -> Tuple[Document, str]:
    """Submit a goal and show its progress; return its document, and why it did not succeed.

    Raises Interrupted on Ctrl-C: the goal goes on.
    """
    with progress(quiet) as shown:
        try:
            return fleet.finish(submit, shown.on_event), shown.error
        except KeyboardInterrupt:
            raise Interrupted(goes_on(submit.goal_id)) from None


def follow(fleet: Fleet, goal_id: str, quiet: bool = False) -> Tuple[Document, str]:
    """Wait for a goal that was submitted before; otherwise as `wait`."""
    with progress(quiet) as shown:
        try:
            return fleet.follow(goal_id, shown.on_event), shown.error
        except KeyboardInterrupt:
            raise Interrupted(goes_on(goal_id)) from None


def goes_on(goal_id: str) -> str:
    return (
        f"goal {goal_id} goes on: follow it with `pibot.pyz show {goal_id} --follow`, stop it with "
        f"`pibot.pyz cancel {goal_id}`"
    )


def status_of(document: Mapping[str, Any]) -> int:
    """The exit status that tells how a goal ended."""
    if document["state"] == "timed_out":
        return EXIT_TIMED_OUT
    return EXIT_OK if document["state"] == "succeeded" else EXIT_FAILED


def tell(document: Mapping[str, Any], error: str) -> int:
    """The answer on standard output; what went wrong on standard error. Returns the status."""
    succeeded = document["state"] == "succeeded"
    answer = str(document["answer"] or "")
    # When all there was failed, the answer would only say the error once more.
    if answer and (succeeded or len(document["tasks"]) > 1):
        present.say(present.clean(answer).rstrip())
    if succeeded:
        if present.is_terminal():
            present.say(present.paint(_summary(document), "dim"))
    else:
        present.note(f"pibot: {failure(document, error)}")
    return status_of(document)


def failure(document: Mapping[str, Any], error: str) -> str:
    """One sentence on a goal that did not succeed."""
    how = {"cancelled": "was cancelled", "timed_out": "timed out"}.get(document["state"], "failed")
    why = "" if error in ("", "cancelled", document["state"]) else f": {error}"
    return present.line(f"goal {document['goal_id']} {how}{why}", 2_000)


def _summary(document: Mapping[str, Any]) -> str:
    parts: List[str] = [f"{document['goal_id']} in {present.duration(document['seconds'])}"]
    workers = sorted({t["worker_id"] for t in document["tasks"] if t["worker_id"]})
    if workers:
        parts.append(present.line(", ".join(workers), 60))
    usage = document["usage"]
    if usage["model_calls"]:
        tokens = usage["input_tokens"] + usage["output_tokens"]
        parts.append(f"{tokens:,} tokens")
    return "✓ " + " · ".join(parts)
