"""The last words of an attempt: are they an answer, and what is in them?"""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, NamedTuple, Optional, Tuple

from pibot.agent import textcalls
from pibot.agent.calls import GIVE_UP
from pibot.agent.context import NOTHING
from pibot.agent.text import clean_json, readable
from pibot.errors import BadMessage
from pibot.strictjson import parse

_FENCED = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*)\n?```", re.DOTALL | re.IGNORECASE)
_ANNOUNCEMENT_CHARS = 300
_ANNOUNCES = re.compile(
    r"(?:(?:ok(?:ay)?|sure|certainly|great|好的?|当然|没问题)\s*[,.!，。！]?\s*)?"
    r"(?:(?:first|now|next|then|首先|接下来|现在)\s*[,，]?\s*)?"
    r"(?:i will|i['’]ll|i am going to|i['’]m going to|let me(?! know)"
    r"|让我|我(?:这就|马上|现在|先|来|将|会|要))",
    re.IGNORECASE,
)


class Complaint(NamedTuple):
    """Why a text is no answer: as the attempt's error, and as a request to the model.

    `doubtful`: we may be wrong; a model that says the same again has its way. `form`: a model may
    say so because it cannot call tools in the form in which it was asked.
    """

    error: str
    request: str
    doubtful: bool = False
    form: bool = False


_CUT = Complaint(
    "The model's answer was cut off at the endpoint's limit of output tokens.",
    "Your answer was cut off because it was too long. Answer again, much shorter; put long"
    " content into a file.",
)
_EMPTY = Complaint(
    "The model gave no answer.",
    "You said nothing. Say your answer, or call give_up with the reason.",
    form=True,
)
PRINTED = Complaint(
    "The model printed a tool call that cannot be read instead of answering.",
    "You printed a tool call as text, and it could not be read. Call one of your tools, say your"
    " answer, or call give_up with the reason.",
    form=True,
)
_ANNOUNCED = Complaint(
    "The model announced what it would do, but did not do it.",
    "You said what you will do, but did not do it. Call the tool now. If nothing is left to do,"
    " say your answer; if it cannot be done, call give_up with the reason.",
    doubtful=True,
    form=True,
)
_FILTERED = Complaint(
    "The model endpoint's content filter stopped the answer.",
    "The endpoint's content filter stopped your answer. Put it differently, or call give_up with"
    " the reason.",
)


def complaint(text: str, finish: str, names: Collection[str]) -> Optional[Complaint]:
    """What is wrong with `text` as an answer, or None.

    `finish` is the endpoint's reason, `names` are the tools that there are.
    """
    if finish == "length":
        return _CUT
    if finish == "content_filter":
        return _FILTERED
    if text.strip() in ("", NOTHING):
        return _EMPTY
    if text.strip() == GIVE_UP or textcalls.is_printed(text, names):
        return PRINTED
    if len(text) <= _ANNOUNCEMENT_CHARS and _ANNOUNCES.match(text.strip()):
        return _ANNOUNCED
    return None


def parsed(text: str) -> Tuple[Dict[str, Any], str]:
    """The data and the words of an answer: one that is a JSON object as a whole is the data."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:  # strictly: what a message cannot carry must not become data
        data = clean_json(parse((fenced.group(1) if fenced else text).encode("utf-8", "replace")))
    except BadMessage:
        data = {}
    return (data, readable(data)) if data else ({"text": text}, text)
