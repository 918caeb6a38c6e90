"""What a command prints: head and tail of it are kept, and each line is shown live."""

from __future__ import annotations

import time

from pibot.skills import Context

KEPT_BYTES = 32 * 1024  # of each end of each stream
_LIVE_LINES_PER_S = 50
_LIVE_LINE_BYTES = 500


class Stream:
    """Head and tail of what one stream printed; each line is shown live."""

    def __init__(self, ctx: Context) -> None:
        self._show = ctx.on_output
        self._head = bytearray()
        self._tail = bytearray()
        self._cut_bytes = 0
        self._line = b""
        self._second = 0
        self._shown = 0

    def take(self, chunk: bytes) -> None:
        room = KEPT_BYTES - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:] if room < len(chunk) else b""
        excess = len(self._tail) - KEPT_BYTES
        if excess > 0:
            self._cut_bytes += excess
            del self._tail[:excess]
        *lines, self._line = (self._line + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._show_live(line)
        self._line = self._line[:_LIVE_LINE_BYTES]

    def text(self) -> str:
        if self._line:
            self._show_live(self._line)
            self._line = b""
        if not self._cut_bytes:
            return (self._head + self._tail).decode("utf-8", "replace")
        head, tail = self._head.decode("utf-8", "replace"), self._tail.decode("utf-8", "replace")
        return f"{head}\n[cut: {self._cut_bytes} bytes are left out here]\n{tail}"

    def _show_live(self, line: bytes) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._shown = second, 0
        self._shown += 1
        if line.strip() and self._shown <= _LIVE_LINES_PER_S:
            self._show(line[:_LIVE_LINE_BYTES].decode("utf-8", "replace"))
