"""Tool calls between the model and the toolbox: what is offered, asked and told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Dict, Optional

from pibot.agent.reply import ToolCall
from pibot.agent.text import clean, cut
from pibot.agent.tools import Result

GIVE_UP = "give_up"
REASON_CHARS = 2000
GIVE_UP_TOOL: Dict[str, Any] = {
    "type": "function",
    "function": {
        "name": GIVE_UP,
        "description": (
            "End the task without success. Use it when the task cannot be done here, for example"
            " because a tool, a permission or a fact is missing."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "reason": {
                    "type": "string",
                    "description": "what was tried, what is missing and what could be done",
                }
            },
            "required": ["reason"],
        },
    },
}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


def arguments(call: ToolCall) -> Optional[Dict[str, Any]]:
    """The arguments of a call; None when they are not a JSON object. Nothing means no arguments."""
    try:
        args = json.loads(call.arguments or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if args is None:
        return {}
    return args if isinstance(args, dict) else None


def given_up(call: ToolCall) -> str:
    """The reason in a call of give_up, for people."""
    reason = str((arguments(call) or {}).get("reason") or "")
    return cut(clean(reason).strip(), REASON_CHARS) or "The model gave up and gave no reason."


def sendable(call: ToolCall) -> ToolCall:
    """A call as it may stand in the history: endpoints parse it again, and refuse bad ones."""
    name = _NOT_IN_NAMES.sub("_", call.name)[:64] or "unnamed"
    text = call.arguments.encode("utf-8", "replace").decode()
    return replace(call, name=name, arguments=text if arguments(call) else "{}")


def for_model(result: Result) -> str:
    """What the model is told: the output, and for a failure also what data there is."""
    if result.success:
        return result.output or "(no output)"
    data = f"\n{json.dumps(result.data, ensure_ascii=False)}" if result.data else ""
    return f"Error: {result.output}{data}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
