"""Files of settings: which value counts when several have one, and the text that says it.

Sources come strongest first. What is installed already keeps its comments and its order.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import Dict, List, Mapping, NamedTuple, Sequence

from pibot.config import KEYS
from pibot.values import Value, assignment

CONNECTION = (
    *("MQTT_HOST", "MQTT_PORT", "MQTT_USERNAME", "MQTT_PASSWORD", "MQTT_CA_FILE", "PIBOT_CA"),
)
# Who a machine is and how it is let in. They belong together, so they come from one file.
IDENTITY = ("WORKER_ID", "PIBOT_FLEET", "PIBOT_KEY", "PIBOT_UPDATE_KEY", *CONNECTION)
# A service keeps its records and its log where its unit allows it.
PLACES = ("PIBOT_STATE_DIR", "PIBOT_LOG_DIR")
_MACHINE = re.compile(r"WORKER_[0-9]{1,4}_IP")
_NAMES = frozenset(key.name for key in KEYS)


class Source(NamedTuple):
    """Settings from one place."""

    path: str
    values: Mapping[str, Value]
    lenient: bool = False  # of an older deployment: what does not fit is left out, and no error

    def only(self, keys: Sequence[str]) -> "Source":
        return self._replace(values={k: v for k, v in self.values.items() if k in keys})

    def text(self, key: str) -> str:
        return self.values[key].text.strip() if key in self.values else ""


class Merged(NamedTuple):
    values: Dict[str, Value]
    lenient: List[str]  # keys whose value may be left out
    notes: List[str]


def is_for_a_worker(source: Source) -> bool:
    """Whether this is what `workers add` wrote, by whatever name."""
    return bool(source.text("WORKER_ID") and source.text("MQTT_HOST"))


def merge(sources: Sequence[Source], installed: str) -> Merged:
    """For each setting the value of the strongest source that has it; `installed` is a path."""
    merged = Merged({}, [], [])
    for source in sources:
        connected = any(key in merged.values for key in CONNECTION)
        for key, value in source.values.items():
            if key in merged.values or not value.text.strip():
                continue
            if key in CONNECTION and connected:
                continue  # half of another broker's address is of no use
            problem = "" if source.path == installed else _problem(key, source.lenient)
            if problem:
                merged.notes.append(f"{key} {value.place} {problem}: it is left out.")
                continue
            merged.values[key] = value
            if source.lenient:
                merged.lenient.append(key)
    return merged


def _problem(key: str, lenient: bool) -> str:
    """Why a setting is not taken over; "" if it is."""
    if key in PLACES:
        return "has no effect on a service, which keeps its records in /var/lib/pibot"
    known = key in _NAMES or _MACHINE.fullmatch(key)
    # An unknown PIBOT_ name is a mistake in a good place, and is told as such later.
    if not known and (lenient or not key.startswith("PIBOT_")):
        return "is no setting of PiBot"
    return ""


def edited(text: str, values: Mapping[str, str]) -> str:
    """The text with these values and no others: changed where they stand, else at the end.

    What is set to nothing stays, as a reminder of somebody's.
    """
    from dotenv.parser import parse_stream

    parts, missing = [], dict(values)
    for binding in parse_stream(StringIO(text)):
        original, key = binding.original.string, binding.key
        if key is not None:
            wanted = missing.pop(key, None)
            if wanted is None and (binding.value or "").strip():
                continue
            if wanted is not None and binding.value != wanted:
                blank = original[: len(original) - len(original.lstrip())]
                original = f"{blank}{assignment(key, wanted)}\n"
        parts.append(original)
    kept = "".join(parts)
    if missing and kept and not kept.endswith("\n"):
        kept += "\n"
    return kept + "".join(f"{assignment(key, missing[key])}\n" for key in missing)
