"""The `ask` topic: goals from mosquitto_pub, Node-RED and scripts, answered on `answer/…`.

Text, or `{"id": …, "goal": …}`; the id comes back with the answer. Plain JSON, no envelope.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any, Dict, Optional, Tuple

from pibot.errors import BadMessage
from pibot.fleet.document import slim
from pibot.fleet.records import Goal
from pibot.strictjson import parse
from pibot.wire import PACKET_BYTES

REMEMBERED = 500
REPEATED_S = 10.0
ID_CHARS = 200
MAX_BYTES = 256 * 1024


class Asks:
    """Reads asks; one that comes twice within seconds (QoS 1 may repeat it) is one goal."""

    def __init__(self) -> None:
        self._seen: "OrderedDict[str, Tuple[str, float]]" = OrderedDict()

    def read(self, payload: bytes, goal_id: str, now: float) -> Optional[Goal]:
        """Return the goal that was asked for, None if it is a repetition; raise BadMessage."""
        text, ask_id = _read(payload)
        if ask_id is not None:
            digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
            seen = self._seen.get(ask_id)
            if seen is not None and seen[0] == digest and now - seen[1] < REPEATED_S:
                return None
            self._seen[ask_id] = digest, now
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return Goal(goal_id, text=text, asked=True, ask_id=ask_id)

    def forget(self, goal: Goal) -> None:
        """The goal was not taken: asked again, it is a new one."""
        self._seen.pop(goal.ask_id or "", None)


def _read(payload: bytes) -> "tuple[str, Optional[str]]":
    if len(payload) > MAX_BYTES:
        raise BadMessage(f"an ask has {len(payload):,} bytes, more than {MAX_BYTES:,}")
    if not payload.lstrip().startswith(b"{"):
        try:
            return payload.decode("utf-8").strip(), None
        except UnicodeDecodeError:
            raise BadMessage("an ask must be UTF-8 text") from None
    asked = parse(payload)
    goal, ask_id = asked.get("goal"), asked.get("id")
    if not isinstance(goal, str):
        raise BadMessage('an ask is text, or {"id": …, "goal": "…"}')
    if ask_id is not None and not (isinstance(ask_id, (str, int)) and len(str(ask_id)) <= ID_CHARS):
        raise BadMessage(f"an ask's id is a string of at most {ID_CHARS} characters")
    return goal.strip(), None if ask_id is None else str(ask_id)


def answer(document: Dict[str, Any], ask_id: Optional[str]) -> bytes:
    """The payload of `answer/{goal_id}`: the document of `run --json`, and the asker's id."""
    payload = _encoded({"id": ask_id, **document})
    if len(payload) > PACKET_BYTES:  # plain JSON travels in one packet, or not at all
        payload = _encoded({"id": ask_id, **slim(document)})
    return payload


def _encoded(document: Dict[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")
