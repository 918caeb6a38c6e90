"""HTML as text that a person or a model reads: what a page says, not how it is made."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Callable, NamedTuple, Optional


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


_LEFT_OUT = _words(
    "script style noscript template nav svg math canvas iframe object audio video select button"
    " textarea datalist"
)
_BLOCKS = _words(
    "address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption"
    " figure footer form header hr html legend main ol p pre section summary table tbody tfoot"
    " thead tr ul li h1 h2 h3 h4 h5 h6"
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_CONTENT = frozenset({"main", "article"})
_SLICE_CHARS = 16_384
_LONGEST_TAG_CHARS = 65_536
_LONG_REFERENCE = re.compile(r"&#[0-9]{20,}")  # to no character; int() takes no more than 4 300
_INLINE_DATA = re.compile(r"data:[\w/+.-]{1,100};base64,[A-Za-z0-9+/=\s]+")
_SPACES = re.compile(r"\s+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Page(NamedTuple):
    title: str
    text: str


def read(html: str, check: Callable[[], None]) -> Page:
    """Return a page's title and text: a line for each paragraph, heading, list item, table row.

    `check` is called every few milliseconds and raises when there is no time left. Invalid HTML
    is read as far as it makes sense; it raises nothing.
    """
    reader = _Reader()
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
    return Page(_one_line("".join(reader.title)), reader.text())


def without_controls(text: str) -> str:
    """Return text with one kind of line end and no control characters but tab and newline."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _one_line(text: str) -> str:
    return _SPACES.sub(" ", without_controls(text)).strip()


class _Reader(HTMLParser):
    """Collects lines. What stands in a left-out element is skipped, up to its end."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self._lines: list[str] = []
        self._line: list[str] = []
        self._prefix = ""  # of the line: a heading's marks, a list item's dash
        self._skipped: Optional[str] = None
        self._depth = 0  # how often the skipped element is open
        self._in_title = False
        self._preformatted = False

    def text(self) -> str:
        self._end_line()
        joined = "\n".join(self._lines).strip("\n")
        return re.sub(r"\n{3,}", "\n\n", joined)

    def is_lost(self) -> bool:
        """Tell whether the parser waits for the end of a tag that is longer than any real one."""
        waiting = len(self.rawdata) > _LONGEST_TAG_CHARS and self.cdata_elem is None
        return waiting and not self.rawdata.startswith("<!")

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if self._skipped and tag in _CONTENT:
            self._skipped = None  # a navigation that was never closed must not hide the page
        if self._skipped:
            self._depth += tag == self._skipped
        elif tag in _LEFT_OUT:
            self._skipped, self._depth = tag, 1
        elif tag == "title":
            self._in_title = not self.title
        elif tag == "br":
            self._end_line()
        elif tag in ("td", "th"):
            if self._line:
                self._line.append(" | ")
        elif tag in _BLOCKS:
            self._start_block(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
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

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._in_title:
            self.title.append(data)
        elif self._preformatted:
            first, *rest = data.split("\n")
            self._line.append(first)
            for line in rest:
                self._end_line()
                self._line.append(line)
        elif data.strip() or self._line:
            self._line.append(data)

    def _start_block(self, tag: str) -> None:
        if tag == "p" and self._prefix and not "".join(self._line).strip():
            return  # <li><p>: the paragraph is the item's line
        self._end_line()
        if tag in _HEADINGS:
            self._blank()
            self._prefix = _HEADINGS[tag]
        elif tag == "li":
            self._prefix = "- "
        elif tag in ("p", "pre", "table"):
            self._blank()
        self._preformatted = self._preformatted or tag == "pre"

    def _end_block(self, tag: str) -> None:
        self._end_line()
        self._prefix = ""
        if tag in ("p", "pre", "table", "ul", "ol", "dl") or tag in _HEADINGS:
            self._blank()
        self._preformatted = self._preformatted and tag != "pre"

    def _blank(self) -> None:
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def _end_line(self) -> None:
        written = "".join(self._line)
        self._line = []
        if self._preformatted:
            self._lines.append(without_controls(written).rstrip())
            return
        line = _one_line(written)
        if line.strip(" |"):
            self._lines.append(self._prefix + line)
            self._prefix = ""
