"""Lines of Markdown: what they are written in (lists, quotations), tables and code."""

from __future__ import annotations

from typing import List, Optional, Tuple

_MOST_INDENTS = 6
_LEAST_MAIN_CHARS = 200


class Lines:
    """The lines of the page, each within the lists and quotations that it stands in."""

    def __init__(self) -> None:
        self._lines: List[str] = []
        self._main: Optional[Tuple[int, int]] = None
        self.prefix = ""  # of the next line: a heading's marks, a list item's dash
        self.lists: List[int] = []  # of each list around: the next number, 0 without numbers
        self.quotes = 0

    def write(self, line: str) -> None:
        depth = min(len(self.lists), _MOST_INDENTS)
        inside = max(0, depth - 1) if self.prefix else depth
        self._lines.append(self._quoted("  " * inside + self.prefix + line))
        self.prefix = ""

    def blank(self) -> None:
        """Leave a blank line, unless there is one. Lists are kept together."""
        if not self.lists and self._lines and self._lines[-1].strip(" >"):
            self._lines.append(self._quoted("").rstrip())

    def unquote(self) -> None:
        """A quotation ends; a blank line at its end is not part of it."""
        if self._lines and not self._lines[-1].strip(" >"):
            self._lines.pop()
        self.quotes = max(0, self.quotes - 1)
        self.blank()

    def item(self) -> None:
        number = self.lists[-1] if self.lists else 0
        self.prefix = f"{number}. " if number else "- "
        if number:
            self.lists[-1] += 1

    def table(self, rows: List[List[str]]) -> None:
        """A table; what has one row or one column is no more than lines."""
        rows = [row for row in rows if any(row)]
        width = max(map(len, rows), default=0)
        self.blank()
        for number, row in enumerate(rows):
            if len(rows) == 1 or width == 1:
                self.write(" | ".join(cell for cell in row if cell))
                continue
            self.write("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
            if not number:
                self.write("|" + " --- |" * len(row))
        self.blank()

    def fenced(self, code: List[str], language: str) -> None:
        fence = "```"
        while any(line.lstrip().startswith(fence) for line in code) and len(fence) < 9:
            fence += "`"
        self.blank()
        for line in (fence + language, *code, fence):
            self.write(line)
        self.blank()

    def main(self, begins: bool) -> None:
        """The page's main part begins, or ends, here."""
        if begins and self._main is None:
            self._main = (len(self._lines), -1)
        elif not begins and self._main and self._main[1] < 0:
            self._main = (self._main[0], len(self._lines))

    def text(self) -> str:
        lines = self._lines
        if self._main:
            start, end = self._main
            inside = lines[start : end if end >= 0 else None]
            if sum(map(len, inside)) >= _LEAST_MAIN_CHARS:
                lines = inside
        return "\n".join(lines).strip("\n")

    def _quoted(self, line: str) -> str:
        return "> " * min(self.quotes, _MOST_INDENTS) + line
