"""Submitting a goal, waiting for it, and saying how it ended: for run, chat, retry and demo."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple

from pibot import messages as msg
from pibot.cli import present
from pibot.cli.asking import Asking
from pibot.cli.parser import Interrupted
from pibot.cli.progress import Progress, progress
from pibot.errors import EXIT_FAILED, EXIT_OK, EXIT_TIMED_OUT
from pibot.roles.client import Fleet

Document = Dict[str, Any]
FILES = 5  # that the end of `run` names


class Outcome(NamedTuple):
    """How a goal ended: its document, why it did not succeed, and the files that were shared."""

    document: Document
    error: str
    files: List[Dict[str, Any]]


def wait(fleet: Fleet, submit: msg.Submit, quiet: bool = False) -> Outcome:
    """Submit a goal, show its progress and wait for its end.

    Raises Interrupted on Ctrl-C: the goal goes on.
    """
    with progress(quiet) as shown:
        try:
            return _outcome(fleet.finish(submit, Asking(fleet, shown, quiet).on_event), shown)
        except KeyboardInterrupt:
            raise Interrupted(goes_on(submit.goal_id)) from None


def follow(fleet: Fleet, goal_id: str, quiet: bool = False) -> Outcome:
    """Wait for a goal that was submitted before; otherwise as `wait`."""
    with progress(quiet) as shown:
        try:
            return _outcome(fleet.follow(goal_id, Asking(fleet, shown, quiet).on_event), shown)
        except KeyboardInterrupt:
            raise Interrupted(goes_on(goal_id)) from None


def _outcome(document: Document, shown: Progress) -> Outcome:
    return Outcome(document, shown.error, shown.files)


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


def tell(outcome: Outcome) -> int:
    """The answer on standard output; what went wrong on standard error. Returns the status."""
    document = outcome.document
    succeeded = document["state"] == "succeeded"
    answer = str(document["answer"] or "")
    # When all there was failed, the answer would only say the error once more.
    if answer and (succeeded or len(document["tasks"]) > 1):
        present.say(present.clean(answer).rstrip())
    if outcome.files:
        present.note(_files(document["goal_id"], outcome.files))
    if succeeded:
        if present.is_terminal():
            present.say(present.paint(_summary(document), "dim"))
    else:
        present.note(f"pibot: {failure(document, outcome.error)}")
    return status_of(document)


def _files(goal_id: str, files: List[Dict[str, Any]]) -> str:
    """The files that can be downloaded, in one line."""
    named = ", ".join(present.file(one) for one in files[:FILES])
    more = f" and {len(files) - FILES} more" if len(files) > FILES else ""
    if all(one["error"] for one in files):
        return f"files: {named}{more}"
    return f"files: {named}{more}; get them with `pibot.pyz show {goal_id} --save DIR`"


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
