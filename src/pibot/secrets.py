"""Secrets in text: those that this process was told, and whatever has the shape of a key.

Known secrets are found as they are and as JSON, HTML, URLs, hex and base64 write them, also when
spaces, line ends or invisible characters stand in them. What nobody finds: a secret in parts (two
fields, two calls, two lines of live output), compressed, encrypted, or in a notation that somebody
made up. That is why skills and their programs are not given any in the first place.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Callable, Iterable, List, Mapping, NamedTuple, Set, Tuple

HIDDEN = "***"
SHORTEST = 6  # a shorter secret would blot out ordinary words
# What a terminal or a page does not show: sequences, controls, marks, spaces without a width.
_INVISIBLE = re.compile(
    "\x1b\\[[0-?]{0,64}[ -/]{0,8}[@-~]"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]"
)
_SECRET_NAME = re.compile(
    r".*(PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?)"
    r"|(.*_)?(API|ACCESS|SECRET|PRIVATE|SIGNING|ENCRYPTION|UPDATE|AUTH|ACCOUNT|PIBOT)_?KEY"
)
_USERINFO = re.compile(r"://[^\s/:@?#\"'<>]{0,256}:([^\s/@?#\"'<>]{1,512})@")


# --- what is secret in settings --------------------------------------------------------------


def secrets_of(settings: Mapping[str, str]) -> Tuple[str, ...]:
    """The secrets among settings and environment variables, by their names."""
    found: Set[str] = set()
    for name, text in settings.items():
        if name == "PIBOT_HOST_TOKENS":
            found.update(part.partition("=")[2].strip() for part in text.split(","))
        elif name == "PIBOT_NOTIFY_URL":  # whoever knows the topic's name reads and writes it
            found.update(_path_of(text))
        elif _is_secret(name):
            found.add(text.strip())
        found.update(match[1] for match in _USERINFO.finditer(text))
    return tuple(sorted(one for one in found if len(one) >= SHORTEST))


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name.upper()) is not None


def _path_of(url: str) -> List[str]:
    rest = url.partition("://")[2].partition("/")[2]
    return [rest, rest.split("?")[0].rstrip("/").rpartition("/")[2]]


# --- taking them out -------------------------------------------------------------------------


class Redactor:
    """Takes secrets out of what leaves this process; the same one may be used by all threads."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        secrets = {one for one in known if len(one) >= SHORTEST}
        forms = {form for one in secrets for form in _forms(one)}
        # Longest first, so that a secret within another does not leave the rest behind.
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        bare = {"".join(form.split()) for form in forms}
        self._bare = tuple(sorted(one for one in bare if len(one) >= SHORTEST))
        self._marks = (*self._forms, *(shape.mark for shape in _SHAPES))
        raw = {form.encode("utf-8", "replace") for form in forms}
        raw.update(one.encode("utf-16-le", "replace") for one in secrets)
        self._raw = tuple(sorted(raw))
        self.longest = max((len(form) for form in raw), default=0)
        self._has_numbers = any(_is_number(one) for one in secrets)

    def __repr__(self) -> str:
        return f"Redactor({HIDDEN})"

    def text(self, text: str) -> str:
        """`text` with *** where a secret or a key stood."""
        if _INVISIBLE.search(text):
            bare = _INVISIBLE.sub("", text)
            said = self._joined(self._replaced(bare))
            if said != bare:
                return said
        return self._joined(self._replaced(text))

    def data(self, value: Any) -> Any:
        """A JSON value in which no text and no name holds a secret."""
        leaves: List[str] = []
        self._collect(value, leaves)
        joined = "\n".join(leaves)  # one look for all of them: mostly there is nothing to hide
        return value if self.text(joined) == joined else self._hidden(value)

    def _collect(self, value: Any, leaves: List[str]) -> None:
        if isinstance(value, str):
            leaves.append(value)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                leaves.append(str(key))
                self._collect(item, leaves)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._collect(item, leaves)
        elif self._has_numbers:
            leaves.append(str(value))

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._hidden(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._hidden(item) for item in value]
        return HIDDEN if self._has_numbers and self.holds(str(value)) else value

    def holds(self, value: Any) -> bool:
        """Whether a known secret is in a JSON value, also broken by spaces or encoded twice.

        Shapes of keys do not count: a person may well want to send one of his own.
        """
        if not self._forms:
            return False
        from urllib.parse import unquote_plus

        leaves: List[str] = []
        self._collect(value, leaves)
        text = "\n".join(leaves)
        decoded = unquote_plus(text)
        for one in {text, decoded, unquote_plus(decoded)}:
            bare = "".join(_INVISIBLE.sub("", one).split())
            if any(map(bare.__contains__, self._bare)):
                return True
        return False

    def bytes_hold(self, blocks: Iterable[bytes]) -> bool:
        """Whether a known secret is in these blocks of a file, also over the end of one."""
        tail = b""
        for block in blocks if self._raw else ():
            joined = tail + block
            if any(form in joined for form in self._raw):
                return True
            tail = joined[-self.longest :]
        return False

    def _joined(self, text: str) -> str:
        """`text` with *** where a known secret stood with spaces or line ends in it."""
        bare = "".join(text.split())
        for form in self._bare if len(bare) < len(text) else ():
            if form in bare:
                text = re.sub(r"\s*".join(map(re.escape, form)), HIDDEN, text)
        return text

    def _replaced(self, text: str) -> str:
        if not any(map(text.__contains__, self._marks)):  # which is how it mostly is
            return text
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        for shape in _SHAPES:
            if shape.mark in text:
                text = shape.form.sub(shape.hide, text)
        return text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) is not None


def _forms(secret: str) -> Iterable[str]:
    """How a secret may be written."""
    from urllib.parse import quote, quote_plus

    raw = secret.encode("utf-8", "replace")
    yield from (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (_of_html(secret), repr(secret)[1:-1])
    for quoted in (quote(secret, safe="", errors="replace"), quote(secret, errors="replace")):
        yield from (quoted, re.sub("%..", lambda found: found[0].lower(), quoted))
    yield quote_plus(secret, errors="replace")
    for sign in ("", " ", ":", "\\x", "%"):
        pairs = sign.join(f"{byte:02x}" for byte in raw)
        yield from (pairs, pairs.upper().replace("\\X", "\\x"))
    for form in _base64_forms(raw):
        yield from (form, form.replace("+", "-").replace("/", "_"))


def _of_html(text: str) -> str:
    for raw, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "#x27")):
        text = text.replace(raw, f"&{name};")
    return text


def _base64_forms(raw: bytes) -> Iterable[str]:
    """What of base64 depends on the secret alone, wherever in the encoded bytes it begins."""
    for before, shared in ((0, 0), (1, 2), (2, 3)):
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        incomplete = 1 if (before + len(raw)) % 3 else 0
        yield text[shared : len(text) - incomplete]


# --- shapes of keys --------------------------------------------------------------------------
#
# Each pattern begins with a literal that a plain search finds first, and none can run over the same
# characters again and again: a hostile text of n characters costs n.


class _Shape(NamedTuple):
    mark: str  # must be in a text before the pattern is worth a try
    form: "re.Pattern[str]"
    hide: Callable[["re.Match[str]"], str]


def _whole(match: "re.Match[str]") -> str:
    return HIDDEN


def _last(match: "re.Match[str]") -> str:
    """The last group goes, what stands before it stays."""
    group = match.lastindex or 0
    return (
        match[0][: match.start(group) - match.start()]
        + HIDDEN
        + match.string[match.end(group) : match.end()]
    )


def _assigned(match: "re.Match[str]") -> str:
    return _last(match) if _is_secret(match[1]) else match[0]


def _prefixed(mark: str, rest: str) -> _Shape:
    """A key that begins with `mark`, not in the middle of a longer word."""
    start = re.escape(mark)
    return _Shape(mark, re.compile(rf"{start}(?<![A-Za-z0-9+/_-]{start}){rest}"), _whole)


_WORD = "[A-Za-z0-9_-]"
_GAP = r"(?:\\[rn]|\s){0,8}"
_PEM = (
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    rf"(?:{_GAP}[A-Z][A-Za-z-]{{2,20}}: [^\r\n\\]{{0,200}})*"
    rf"(?:{_GAP}[A-Za-z0-9+/=]{{16,}})*"
    rf"(?:{_GAP}[A-Za-z0-9+/=]{{1,15}}(?={_GAP}-----END))?"
    rf"(?:{_GAP}-----END [A-Z0-9 ]{{1,60}}-----)?"
)
_SHAPES: Tuple[_Shape, ...] = (
    _Shape("-----BEGIN ", re.compile(_PEM), _whole),
    _prefixed("eyJ", rf"{_WORD}{{8,}}\.eyJ{_WORD}{{8,}}\.{_WORD}{{8,}}"),
    _prefixed("sk-", rf"(?={_WORD}{{0,60}}[0-9]){_WORD}{{20,}}"),
    *(
        _prefixed(f"{kind}_{mode}_", "[A-Za-z0-9]{16,}")
        for kind in ("sk", "rk")
        for mode in ("live", "test")
    ),  # fmt: skip
    _prefixed("whsec_", "[A-Za-z0-9+/=]{24,}"),
    *(_prefixed(f"gh{kind}_", "[A-Za-z0-9]{30,}") for kind in "pousr"),
    _prefixed("github_pat_", "[A-Za-z0-9_]{22,}"),
    _prefixed("glpat-", rf"{_WORD}{{20,}}"),
    *(_prefixed(mark, "[A-Z0-9]{16}(?![A-Za-z0-9])") for mark in ("AKIA", "ASIA")),
    _prefixed("AIza", rf"{_WORD}{{35}}"),
    _prefixed("ya29.", rf"{_WORD}{{20,}}"),
    *(_prefixed(f"xox{kind}-", "[A-Za-z0-9-]{10,}") for kind in "abeoprs"),
    _prefixed("xapp-", "[A-Za-z0-9-]{20,}"),
    _prefixed("hf_", "[A-Za-z0-9]{30,}"),
    _prefixed("npm_", "[A-Za-z0-9]{36}"),
    _prefixed("pypi-", rf"{_WORD}{{50,}}"),
    _prefixed("SG.", rf"{_WORD}{{22}}\.{_WORD}{{43}}"),
    _prefixed("AGE-SECRET-KEY-1", "[A-Z0-9]{50,}"),
    _Shape(":AA", re.compile(rf"(?<![0-9])[0-9]{{8,10}}:AA{_WORD}{{33}}(?!{_WORD})"), _whole),
    _Shape(
        "hooks.slack.com/", re.compile(r"hooks\.slack\.com/services/([A-Za-z0-9/]{20,})"), _last
    ),
    _Shape("/api/webhooks/", re.compile(rf"/api/webhooks/[0-9]{{1,20}}/({_WORD}{{30,}})"), _last),
    _Shape("earer", re.compile(r"[Bb]earer\s{1,4}([A-Za-z0-9._~+/=-]{12,})"), _last),
    _Shape(
        "uthorization",
        re.compile(
            r"uthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:[Bb]asic|[Tt]oken|[Dd]igest)\s{1,4}"
            r"([^\s\"',;]{6,})"
        ),
        _last,
    ),
    _Shape("://", _USERINFO, _last),
    _Shape(
        "=",
        re.compile(
            r"(?<![A-Za-z0-9_])([A-Z][A-Z0-9_]{2,63})=(?![\"']?[${<])"
            r"(\"[^\"\r\n]{4,400}\"|'[^'\r\n]{4,400}'|[^\s\"'&]{4,})"
        ),
        _assigned,
    ),
    _Shape(
        "_token=",
        re.compile(r"(?:access|refresh|id|auth)_token=([^\s&\"'#]{8,})"),
        _last,
    ),
    _Shape("api_key=", re.compile(r"api_key=([^\s&\"'#]{8,})"), _last),
    _Shape("client_secret=", re.compile(r"client_secret=([^\s&\"'#]{8,})"), _last),
)
