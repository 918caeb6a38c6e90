"""Sentences that need no model: templates that skills announce, matched against a whole sentence.

A template is made of words, `(a|b)` choices, `[optional]` parts and at most two `{captures}`; it
may end in `=> {json}`, arguments that are always the same:

    disk [space|usage]                        磁盘(空间|使用)[情况]
    (fetch|get) {url}                         (cpu |)temperature => {"part": "temperature"}

`{name}` captures what the skill's parameter `name` gets. `{name:kind}` says what it may be: `url`
(http or https), `path` (no spaces unless quoted), `word` or `text` (anything). Without a kind, a
name that is itself a kind is of that kind, and every other one is text.

How a sentence is read. It is cut into tokens (words, punctuation marks, URLs, single Chinese
characters) and written in a canonical form in which every token is lower case and ends in one
space, so that templates are compared by plain substring searches, in linear time. A place ("on
worker-2", "所有工作机的") is taken out first, then polite words and punctuation at both ends. What
remains must be one template, completely.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Collection, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from pibot.errors import BadMessage
from pibot.strictjson import MAX_DEPTH, parse

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_MARKS = r".,;:!?…\"“”()，。；：！？、（）"
_URL = r"https?://[^\s\"<>，。；！？、]+(?<![.,;:!?'])"
_TOKEN = re.compile(
    rf"{_URL}|[{_CJK}]|'s\b|[{_MARKS}]|(?:(?!'s\b)[^\s{_CJK}{_MARKS}])+",
    re.IGNORECASE,
)
_END_MARKS = " .,;:!?…，。；：！？、"
_KINDS = {
    "url": re.compile(_URL, re.IGNORECASE),
    "path": re.compile(
        r"[^\s\"'“”]*[^\s\"'“”.,;:!?，。；：！？、]|(?:\.{1,2}/)*\.{1,2}"
        r"|\"[^\"]+\"|'[^']+'|“[^”]+”"
    ),
    "word": re.compile(r"\S*[^\s.,;:!?，。；：！？、]"),
    "text": re.compile(r".+", re.DOTALL),
}
_MOST_VARIANTS = 512  # of one template
_MOST_CHARS = 1000
_MOST_BRACKETS = 50
_MOST_POLITE = 8  # words left out at each end


@dataclass(frozen=True)
class Where:
    """The place that a sentence names: one worker, all of them, or (neither) anywhere."""

    worker: Optional[str] = None
    all: bool = False


@dataclass(frozen=True)
class Match:
    """What a sentence asks for: a skill, its arguments and the place."""

    skill: str
    args: dict[str, Any]
    where: Where


def match(
    text: str, skills: Sequence[Mapping[str, Any]], workers: Collection[str]
) -> Optional[Match]:
    """Return the skill whose template is the whole sentence, or None.

    `skills` are mappings with "name" and "phrases", `workers` the known names. The template with
    the most literal characters wins. A place may name an unknown worker, so that the caller can
    say so. A template that is not well-formed is passed over: it came from another machine.
    """
    best: Optional[tuple[tuple[bool, int, bool, int], Match]] = None
    for reading in _readings(text, workers):
        for skill in skills:
            for phrase in skill.get("phrases", ()):
                for variant, args in _hits(_template(phrase), reading):
                    rank = _rank(variant, reading)
                    if best is None or rank > best[0]:
                        best = rank, Match(str(skill["name"]), args, reading.where)
    return best[1] if best else None


def _rank(variant: _Variant, reading: _Reading) -> tuple[bool, int, bool, int]:
    """The more a template says itself, the better; then with a place; then as it was written."""
    placed = reading.where != Where()
    return (not variant.captures, variant.weight, placed, -reading.dropped)


def check(phrase: str) -> None:
    """Raise ValueError, saying what is wrong, unless `phrase` is a well-formed template."""
    _parse(phrase)


# -- templates ---------------------------------------------------------------------------------


class _Variant(NamedTuple):
    """One way to say a template: literals around captures, in canonical form."""

    literals: tuple[str, ...]  # one more than captures
    captures: tuple[tuple[str, str], ...]  # name, kind

    @property
    def weight(self) -> int:
        return sum(len(literal.replace(" ", "")) for literal in self.literals)


class _Template(NamedTuple):
    variants: tuple[_Variant, ...]
    fixed: Mapping[str, Any]


_CAPTURE = re.compile(r"\{([a-z_][a-z0-9_]*)(?::([a-z]+))?\}")


@lru_cache(maxsize=1024)
def _template(phrase: str) -> _Template:
    try:
        return _parse(phrase)
    except (ValueError, RecursionError):  # the latter from JSON of nothing but brackets
        return _Template((), {})


def _parse(phrase: str) -> _Template:
    sentence, arrow, fixed = phrase.partition("=>")
    if len(phrase) > _MOST_CHARS or sentence.count("(") + sentence.count("[") > _MOST_BRACKETS:
        raise ValueError(f"{phrase[:40]!r}…: too long or too nested; split it")
    try:
        args = parse(fixed.encode("utf-8"), MAX_DEPTH // 2) if arrow else {}
    except BadMessage as error:
        raise ValueError(f"{phrase!r}: what follows => is not a JSON object: {error}") from None
    says, rest = _choices(sentence, 0, "")
    if rest != len(sentence):
        raise ValueError(f"{phrase!r}: unexpected {sentence[rest]!r} at {rest + 1}")
    return _Template(tuple(_variant(phrase, one) for one in dict.fromkeys(says)), args)


def _choices(source: str, at: int, closing: str) -> tuple[list[str], int]:
    """Expand `a|b|…` from `at` up to the closing bracket; return the expansions and its place."""
    options: list[str] = []
    sequence = [""]
    while at < len(source) and source[at] not in ")]":
        if source[at] == "|":
            options, sequence, at = options + sequence, [""], at + 1
            continue
        parts, at = _part(source, at)
        sequence = [before + part for before in sequence for part in parts]
        if len(sequence) + len(options) > _MOST_VARIANTS:
            raise ValueError(f"{source!r}: more than {_MOST_VARIANTS} ways to say it; split it")
    if closing and source[at : at + 1] != closing:
        raise ValueError(f"{source!r}: {closing!r} is missing")
    return options + sequence, at


def _part(source: str, at: int) -> tuple[list[str], int]:
    """Expand one bracket, capture or run of plain characters."""
    if source[at] in "([":
        closing = ")" if source[at] == "(" else "]"
        inside, end = _choices(source, at + 1, closing)
        return (inside if closing == ")" else ["", *inside]), end + 1
    if source[at] == "{":
        capture = _CAPTURE.match(source, at)
        if capture is None:
            raise ValueError(f"{source!r}: a capture is {{name}} or {{name:kind}}")
        return [capture[0]], capture.end()
    end = at + 1
    while end < len(source) and source[end] not in "()[]{|":
        end += 1
    return [source[at:end]], end


def _variant(phrase: str, sentence: str) -> _Variant:
    captures = tuple((m[1], m[2] or m[1]) for m in _CAPTURE.finditer(sentence))
    if unknown := [kind for name, kind in captures if kind not in _KINDS and kind != name]:
        raise ValueError(f"{phrase!r}: unknown kind {unknown[0]!r}; there are {', '.join(_KINDS)}")
    literals = tuple(_canonical(_tokens(part)) for part in _CAPTURE.sub("\0", sentence).split("\0"))
    if len(captures) > 2 or not any(literals) or (len(captures) == 2 and not literals[1]):
        raise ValueError(f"{phrase!r}: needs words, and at most two captures with words between")
    return _Variant(literals, captures)


# -- readings of a sentence --------------------------------------------------------------------


class _Token(NamedTuple):
    word: str
    start: int
    end: int


class _Reading(NamedTuple):
    """A sentence without its place and polite words: what a template must be equal to."""

    text: str  # as it was written
    tokens: list[_Token]
    canonical: str  # of the tokens
    where: Where
    cut: int  # offset in `canonical` at which the place was taken out, -1 = no place
    locative: bool  # the place says where to act ("on …"), not whose ("of …", "…'s")
    dropped: int  # polite words and marks left out


def _tokens(text: str) -> list[_Token]:
    plain = text.replace("’", "'")
    return [_Token(m[0].lower(), m.start(), m.end()) for m in _TOKEN.finditer(plain)]


def _canonical(tokens: Iterable[_Token]) -> str:
    return "".join(f"{token.word} " for token in tokens)


def _spaced(pattern: str) -> str:
    """Give each Chinese character of a pattern the space that it has in canonical form."""
    return re.sub(f"([{_CJK}])", r"\1 ", pattern)


_MACHINES = "(?:raspberry )?(?:worker|machine|node|device|pi)"
_LOCATION = re.compile(
    _spaced(
        r"(?<!\S)(?:(?P<on>on |at |across |在|(?=everywhere ))|of |for |from |let |have |让|用|由)?"
        rf"(?:(?P<all>everywhere |(?:all|every|each) (?:of )?(?:the |my |our )?{_MACHINES}s?'? "
        rf"|(?:the|my|our) {_MACHINES}s'? "
        r"|(?:所有(?:的)?|全部(?:的)?|每(?:一)?(?:台|个)|各(?:台|个)?)"
        r"(?:工作机|机器|节点|树莓派|设备|workers? ))"
        r"|(?:the )?(?P<name>[a-z0-9][a-z0-9-]{0,31}) )"
        r"(?P<tail>'s |上的|上|的|[:,：，] )?"
    )
)
_UNKNOWN_WORKER = re.compile(r"[a-z][a-z0-9-]*-[a-z]*[0-9][a-z0-9]*")

_BEFORE = tuple(
    _canonical(_tokens(words))
    for words in (
        *("please", "kindly", "can you", "could you", "would you", "hey", "pibot", "the", "my"),
        *("show", "show me", "tell me", "give me", "get me", "let me see", "i want to see"),
        *("what is", "what's", "whats", "what are", "check", "display", "read", "measure"),
        *("请", "请问", "帮我", "帮忙", "给我", "麻烦", "麻烦你", "我想看", "我想知道", "告诉我"),
        *("查看", "查一下", "查询", "看一下", "看看", "看", "显示", "检查", "读取", "一下", "当前"),
        *(",", "，", ":", "：", "、"),
    )
)
_AFTER = tuple(
    _canonical(_tokens(words))
    for words in (
        *("please", "now", "right now", "for me", "thanks", "thank you"),
        *("谢谢", "一下", "吧", "呢", "是多少", "多少", "怎么样", "如何"),
    )
)


def _readings(text: str, workers: Collection[str]) -> Iterator[_Reading]:
    tokens = _tokens(text)
    canonical = _canonical(tokens)
    whole = _Reading(text, tokens, canonical, Where(), -1, False, 0)
    for placed in (whole, *_placed(whole, workers)):
        for start, skipped in _starts(placed.canonical):
            for end, left in _ends(placed.canonical, start):
                yield _trimmed(placed, start, end, skipped + left)


def _placed(whole: _Reading, workers: Collection[str]) -> list[_Reading]:
    """Return the readings that take the first, or the last, place out of the sentence."""
    found = []
    for place in _LOCATION.finditer(whole.canonical):
        name = place["name"]
        if name is None or name in workers or _UNKNOWN_WORKER.fullmatch(name):
            found.append(place)
    return [_without(whole, place) for place in dict.fromkeys([*found[:1], *found[-1:]])]


def _without(whole: _Reading, place: re.Match[str]) -> _Reading:
    cut, end = place.span()
    first, last = _count(whole.canonical, cut), _count(whole.canonical, end)
    where = Where(all=True) if place["all"] else Where(worker=place["name"])
    locative = place["on"] is not None or (place["tail"] or "").startswith("上")
    tokens = whole.tokens[:first] + whole.tokens[last:]
    rest = whole.canonical[:cut] + whole.canonical[end:]
    return _Reading(whole.text, tokens, rest, where, cut, locative, 0)


def _trimmed(reading: _Reading, start: int, end: int, dropped: int) -> _Reading:
    first, last = _count(reading.canonical, start), _count(reading.canonical, end)
    return reading._replace(
        tokens=reading.tokens[first:last],
        canonical=reading.canonical[start:end],
        cut=reading.cut - start if reading.cut >= 0 else -1,
        dropped=dropped,
    )


def _count(canonical: str, offset: int) -> int:
    """Return the number of tokens before an offset."""
    return canonical.count(" ", 0, offset)


def _starts(canonical: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets at which the sentence may begin, polite words left out, and how many."""
    start = 0
    for dropped in range(_MOST_POLITE):
        yield start, dropped
        polite = _longest(p for p in _BEFORE if canonical.startswith(p, start))
        if not polite:
            return
        start += len(polite)


def _ends(canonical: str, start: int) -> Iterator[tuple[int, int]]:
    """Yield the offsets at which the sentence may end, marks and polite words left out."""
    end = len(canonical)
    for dropped in range(_MOST_POLITE):
        if end <= start:
            return
        yield end, dropped
        shorter = len(canonical[start:end].rstrip(_END_MARKS)) + start + 1
        if shorter >= end:
            polite = _longest(p for p in _AFTER if canonical.endswith(p, start, end))
            shorter = end - len(polite)
            if not polite or canonical[shorter - 1 : shorter] != " ":
                return
        end = shorter


def _longest(words: Iterable[str]) -> str:
    return max(words, key=len, default="")


# -- comparing ---------------------------------------------------------------------------------


def _hits(template: _Template, reading: _Reading) -> Iterator[tuple[_Variant, dict[str, Any]]]:
    for variant in template.variants:
        for spans in _spans(variant, reading.canonical):
            values = _values(variant, reading, spans)
            if values is not None:
                yield variant, {**template.fixed, **values}
                break


def _spans(variant: _Variant, canonical: str) -> Iterator[list[tuple[int, int]]]:
    """Yield where the captures may lie: with two, split at the first and at the last literal."""
    head, tail = variant.literals[0], variant.literals[-1]
    if not variant.captures:
        if canonical == head:
            yield []
        return
    start, end = len(head), len(canonical) - len(tail)
    if not (canonical.startswith(head) and canonical.endswith(tail) and start < end):
        return
    if canonical[end - 1] != " ":
        return
    if len(variant.captures) == 1:
        yield [(start, end)]
        return
    middle = " " + variant.literals[1]
    for found in (canonical.find(middle, start, end), canonical.rfind(middle, start, end)):
        if found >= 0 and found + len(middle) < end:
            yield [(start, found + 1), (found + len(middle), end)]


def _values(
    variant: _Variant, reading: _Reading, spans: Sequence[tuple[int, int]]
) -> Optional[dict[str, str]]:
    """Return what the captures hold, as it was written, or None when one may not hold it."""
    values = {}
    for (name, kind), (start, end) in zip(variant.captures, spans):
        kind = kind if kind in _KINDS else "text"
        if start < reading.cut < end:
            return None  # the place was in the middle of the captured words: it belongs to them
        if kind == "text" and reading.cut in (start, end) and not reading.locative:
            return None  # "echo worker-1's address" is about a worker, not for it
        first, last = _count(reading.canonical, start), _count(reading.canonical, end) - 1
        written = reading.text[reading.tokens[first].start : reading.tokens[last].end]
        if _KINDS[kind].fullmatch(written) is None:
            return None
        values[name] = written.strip("\"'“”") if kind == "path" else written
    return values
