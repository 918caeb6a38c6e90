"""HTML as Markdown that a person or a model reads: what a page says, not how it is made."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urljoin

from pibot.errors import SkillError
from pibot.skills._markdown import Lines
from pibot.skills._urls import parse


def _words(names: str) -> "frozenset[str]":
    return frozenset(names.split())


_LEFT_OUT = _words(
    "script style noscript template nav svg math canvas iframe object audio video select button"
    " textarea datalist"
)
_BLOCKS = _words(
    "address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption"
    " figure footer form header hr html legend li main ol p pre section summary table tbody td"
    " tfoot th thead tr ul h1 h2 h3 h4 h5 h6"
)
_SPACED = _words("p table dl h1 h2 h3 h4 h5 h6")  # a blank line stands before and after them
# What always has an end tag, so that leaving it out cannot swallow the rest of the page.
_HIDEABLE = _words(
    "a article aside b details dialog div em figure footer form header i ol section span strong"
    " table ul h1 h2 h3 h4 h5 h6"
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_CODE = _words("code kbd samp tt")
_CONTENT = frozenset({"main", "article"})
_NOISE_ROLES = _words("navigation contentinfo")
_INVISIBLE = re.compile(r"display\s{0,9}:\s{0,9}none|visibility\s{0,9}:\s{0,9}hidden", re.I)
_LANGUAGE = re.compile(r"\blang(?:uage)?-([\w+#-]{1,20})")
_SLICE_CHARS = 16_384
_LONGEST_TAG_CHARS = 65_536
_LONGEST_LINK_CHARS = 2_000
_MOST_LINKS = 100
_LONG_REFERENCE = re.compile(r"&#[0-9]{20,}")  # to no character; int() takes no more than 4 300
_INLINE_DATA = re.compile(r"data:[\w/+.-]{1,100};base64,[A-Za-z0-9+/=\s]+")
_SPACES = re.compile(r"\s+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Attributes = Sequence[Tuple[str, Optional[str]]]


class Link(NamedTuple):
    text: str
    url: str


class Page(NamedTuple):
    title: str
    text: str
    links: Tuple[Link, ...] = ()


def read(html: str, check: Callable[[], None], base: str = "") -> Page:
    """Return a page's title, its text as Markdown and its first links, with absolute URLs.

    Of a page with a `main` part only that is returned. `base` is the page's URL; `check` is
    called every few milliseconds and raises when there is no time left. Invalid HTML is read as
    far as it makes sense; it raises nothing.
    """
    reader = _Reader(base)
    # "<![" makes some versions of the parser raise, and others search for its end again and again.
    html = html.replace("<![", "<!_")
    html = _LONG_REFERENCE.sub("&#xfffd;", _INLINE_DATA.sub("data:", html))
    for start in range(0, len(html), _SLICE_CHARS):
        check()
        reader.feed(html[start : start + _SLICE_CHARS])
        if reader.is_lost():
            break
    # A line break ends a pending text. close() is not called: at the end of a page it takes time
    # that grows with the square of an unfinished tag's length, for what is no text anyway.
    reader.feed("\n")
    return reader.page()


def without_controls(text: str) -> str:
    """Return text with one kind of line end and no control characters but tab and newline."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _one_line(text: str) -> str:
    return _SPACES.sub(" ", without_controls(text)).strip()


class _Reader(HTMLParser):
    """Collects lines. What stands in a left-out element is skipped, up to its end."""

    def __init__(self, base: str) -> None:
        super().__init__(convert_charrefs=True)
        self._base = base
        self._title: List[str] = []
        self._in_title = False
        self._skipped: Optional[str] = None
        self._depth = 0  # how often the skipped element is open
        self._out = Lines()
        self._line: List[str] = []
        self._heading = False
        self._code: Optional[List[str]] = None  # the text of a <pre>
        self._language = ""
        self._link: Optional[Tuple[int, str]] = None  # where it begins in the line, and leads to
        self._links: Dict[str, Link] = {}
        self._rows: Optional[List[List[str]]] = None  # of the table
        self._in_cell = False

    def page(self) -> Page:
        self._end_code()
        self._end_table()
        self._end_line()
        title = _one_line("".join(self._title))
        return Page(title, self._out.text(), tuple(self._links.values()))

    def is_lost(self) -> bool:
        """Tell whether the parser waits for the end of a tag that is longer than any real one."""
        waiting = len(self.rawdata) > _LONGEST_TAG_CHARS and self.cdata_elem is None
        return waiting and not self.rawdata.startswith("<!")

    # -- what the parser finds --

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        if self._skipped and tag in _CONTENT:
            self._skipped = None  # a navigation that was never closed must not hide the page
        if self._skipped:
            self._depth += tag == self._skipped
        elif tag in _LEFT_OUT or (tag in _HIDEABLE and _is_hidden(dict(attrs))):
            self._skipped, self._depth = tag, 1
        elif tag == "title":
            self._in_title = not self._title
        elif tag == "base":
            self._base = self._absolute(dict(attrs)) or self._base
        elif tag in _BLOCKS:
            self._start_block(tag, dict(attrs))
        else:
            self._start_inline(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        if tag not in _LEFT_OUT:  # <svg/> holds nothing to skip
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if self._depth == 0 or tag == "body":
                self._skipped = None
        elif tag == "title":
            self._in_title = False
        elif tag in _BLOCKS:
            self._end_block(tag)
        elif tag == "a":
            self._end_link()
        elif tag in _CODE and self._code is None:
            self._line.append("`")

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._in_title:
            self._title.append(data)
        elif self._code is not None:
            self._code.append(data)
        elif data.strip() or self._line:
            self._line.append(data)

    # -- inside a line --

    def _start_inline(self, tag: str, attrs: Mapping[str, Optional[str]]) -> None:
        if tag == "br":
            if self._code is not None:
                self._code.append("\n")
            elif self._heading or self._in_cell:
                self._line.append(" ")
            else:
                self._end_line()
        elif tag in _CODE:
            if self._code is None:
                self._line.append("`")
            else:
                self._language = self._language or _language(attrs)
        elif tag == "a" and self._code is None:
            self._end_link()
            url = self._absolute(attrs)
            self._link = (len(self._line), url) if url else None
        elif tag == "img" and self._link and self._code is None:
            self._line.append(attrs.get("alt") or "")  # it may be all that the link says

    def _absolute(self, attrs: Mapping[str, Optional[str]]) -> str:
        """Where a link leads to; "" for what cannot be fetched, and for places in the page."""
        href = (attrs.get("href") or "").strip()
        if not href or href.startswith("#") or len(href) > _LONGEST_LINK_CHARS:
            return ""
        try:
            return parse(urljoin(self._base, href.replace(" ", "%20"))).url
        except (SkillError, ValueError):
            return ""

    def _end_link(self) -> bool:
        """Write the link that is open as Markdown; whether there was one, with a text."""
        if self._link is None:
            return False
        start, url = self._link
        self._link = None
        written = "".join(self._line[start:])
        text = _one_line(written)
        if not text:
            return False
        shown = re.sub(r"([\[\]])", r"\\\1", text)
        url = url.replace("(", "%28").replace(")", "%29")
        space = " " if written[0].isspace() else ""
        self._line[start:] = [f"{space}[{shown}]({url})", " " if written[-1].isspace() else ""]
        if len(self._links) < _MOST_LINKS:
            self._links.setdefault(url, Link(text, url))
        return True

    def _end_line(self) -> None:
        link = self._link
        if self._end_link():
            link = None
        written = self._taken()
        if written:
            self._out.write(written)
        self._link = (0, link[1]) if link else None  # <a><h2>: the link is yet to say something

    def _taken(self) -> str:
        """What stands in the line, which is empty afterwards."""
        written = _one_line("".join(self._line)).replace("``", "").strip()
        self._line = []
        return written

    # -- blocks --

    def _start_block(self, tag: str, attrs: Mapping[str, Optional[str]]) -> None:
        if tag == "table":
            self._start_table()
        elif tag in ("tr", "td", "th"):
            self._start_cell(tag)
        elif self._in_cell or self._code is not None:
            self._line.append(" ")
        elif tag == "p" and self._out.prefix and not "".join(self._line).strip():
            pass  # <li><p>: the paragraph is the item's line
        else:
            self._end_line()
            self._begin(tag, attrs)

    def _begin(self, tag: str, attrs: Mapping[str, Optional[str]]) -> None:
        out = self._out
        if tag in _SPACED:
            out.blank()
        if tag in _HEADINGS:
            out.prefix, self._heading = _HEADINGS[tag], True
        elif tag in ("ul", "ol"):
            out.blank()
            out.prefix = ""
            out.lists.append(_first_number(attrs) if tag == "ol" else 0)
        elif tag == "li":
            out.item()
        elif tag == "blockquote":
            out.blank()
            out.quotes += 1
        elif tag == "pre":
            self._code, self._language = [], _language(attrs)
        elif tag == "main":
            out.main(begins=True)

    def _end_block(self, tag: str) -> None:
        out = self._out
        if tag == "pre":
            self._end_code()
        elif tag == "table":
            self._end_table()
        elif tag in ("tr", "td", "th"):
            self._end_cell()
        elif self._in_cell or self._code is not None:
            self._line.append(" ")
        else:
            self._end_line()
            out.prefix, self._heading = "", False
            if tag in ("ul", "ol") and out.lists:
                out.lists.pop()
                out.blank()
            elif tag == "blockquote":
                out.unquote()
            elif tag == "main":
                out.main(begins=False)
            if tag in _SPACED:
                out.blank()

    def _end_code(self) -> None:
        if self._code is None:
            return
        text = without_controls("".join(self._code))
        self._code = None
        lines = [line.rstrip() for line in text.removeprefix("\n").rstrip().split("\n")]
        if text.strip():
            self._out.fenced(lines, self._language)

    # -- tables --

    def _start_table(self) -> None:
        if self._rows is not None:
            self._spill()  # a table that holds another one is there for the layout
        self._end_line()
        self._rows = []

    def _start_cell(self, tag: str) -> None:
        self._end_cell()
        if self._rows is None:
            self._end_line()
        elif tag == "tr":
            self._rows.append([])
        else:
            if not self._rows:
                self._rows.append([])
            self._in_cell = True

    def _end_cell(self) -> None:
        if self._rows is None or not self._in_cell:
            self._end_line()
            return
        self._end_link()
        self._rows[-1].append(self._taken())
        self._in_cell = False

    def _end_table(self) -> None:
        self._end_cell()
        if self._rows is not None:
            rows, self._rows = self._rows, None
            self._out.table(rows)

    def _spill(self) -> None:
        """What was read of a table as ordinary lines."""
        self._end_cell()
        for cell in (cell for row in self._rows or () for cell in row if cell):
            self._out.write(cell)
        self._rows = None


def _is_hidden(attrs: Mapping[str, Optional[str]]) -> bool:
    """Whether people do not see an element; what is hidden from them may be meant for models."""
    return (
        "hidden" in attrs
        or attrs.get("aria-hidden") == "true"
        or attrs.get("role") in _NOISE_ROLES
        or _INVISIBLE.search(attrs.get("style") or "") is not None
    )


def _first_number(attrs: Mapping[str, Optional[str]]) -> int:
    start = attrs.get("start") or ""
    return int(start) if re.fullmatch(r"[1-9][0-9]{0,5}", start) else 1


def _language(attrs: Mapping[str, Optional[str]]) -> str:
    found = _LANGUAGE.search(attrs.get("class") or "")
    return found[1] if found else ""
