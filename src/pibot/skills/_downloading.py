"""A file on its way from the web into the workspace: named safely, bounded, gone on with."""

from __future__ import annotations

import os
import re
import time
from typing import Any, Dict, Optional
from urllib.parse import unquote

from pibot.errors import SkillError
from pibot.skills import Context, _body
from pibot.skills._connect import Broken, Guard, Resolve
from pibot.skills._hosts import WebPolicy
from pibot.skills._partial import Partial
from pibot.skills._urls import Target, parse
from pibot.skills._web import Answer, Client, Request, answered
from pibot.skills._workspace import (
    check_room,
    explained,
    is_directory,
    open_parent,
    parts_of,
    room,
)

MB = 1 << 20
_TRIES = 4  # that bring nothing new, one after the other
_FIRST_WAIT_S = 0.5
_SHOWN_EVERY_S = 1.0
_LONGEST_NAME_BYTES = 120


def download(
    url: str,
    policy: WebPolicy,
    ctx: Context,
    path: str = "",
    most_bytes: int = 64 * MB,
    resolve: Optional[Resolve] = None,
) -> Dict[str, Any]:
    """Download a URL: {"url" (the final one), "path", "size_bytes", "sha256", "content_type",
    "resumed_at_bytes"}.

    Goes on after a break while that brings anything new. Raises SkillError; what has come by then
    stays beside the file's place, if the server says how to recognise the file again.
    """
    target = parse(url.strip())
    place = _Place(ctx, path)
    client = Client(policy, resolve, most_bytes=2 * most_bytes + MB)  # framing counts as well
    with Partial(ctx, place.folder, target.url) as part:
        work = _Download(target, client, ctx, part)
        fruitless = 0
        while True:
            before = part.size
            try:
                return work.once(place, most_bytes)
            except Broken as broken:
                fruitless = fruitless + 1 if part.size <= before else 1
                if fruitless >= _TRIES:
                    raise SkillError(f"{broken} {_kept(part)}", broken.data) from None
                ctx.on_output(f"{broken} Trying again.")
            ctx.cancelled.wait(_FIRST_WAIT_S * 2 ** (fruitless - 1))
            Guard(str(target), ctx.cancelled, ctx.deadline).check()


def _kept(part: Partial) -> str:
    if part.size and part.validator:
        return f"{part.size:,} bytes are kept: the same call goes on from there."
    return "Try again later."


class _Place:
    """Where the file shall be: a name, or a directory that gets the server's name for it."""

    def __init__(self, ctx: Context, path: str) -> None:
        self._ctx = ctx
        names = parts_of(ctx, path)
        is_folder = path.endswith("/") or is_directory(ctx, path)
        self._name = "" if is_folder or not names else names.pop()
        self.folder = "/".join(names)
        if self._name:
            self.settled("")

    def settled(self, servers_name: str) -> str:
        """The path, now that the server has named the file; SkillError if that is taken."""
        path = "/".join(filter(None, (self.folder, self._name or servers_name)))
        with explained(path), open_parent(self._ctx, path, make=True) as (fd, name):
            if name in os.listdir(fd):
                raise SkillError(f"{path}: is there already; give another path, or delete it first")
        return path


class _Download:
    """One download, in as many requests as it takes."""

    def __init__(self, target: Target, client: Client, ctx: Context, part: Partial) -> None:
        self._target = target
        self._client = client
        self._ctx = ctx
        self._part = part
        self._resumed_at = part.size if part.validator else 0
        self._shown_at = time.monotonic()

    def once(self, place: _Place, most_bytes: int) -> Dict[str, Any]:
        """One request: the file from its beginning, or from where it broke off."""
        part = self._part
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if part.size and part.validator:
            headers.update({"Range": f"bytes={part.size}-", "If-Range": part.validator})
        with answered(self._target, self._client, self._ctx, Request(headers=headers)) as answer:
            path = place.settled(safe_name(answer))
            total = self._total(answer, path, most_bytes)
            self._stream(answer, path, total, most_bytes)
            with explained(path):
                sha256 = part.finish(path)
            return {
                "url": str(answer.target),
                "path": path,
                "size_bytes": part.size,
                "sha256": sha256,
                "content_type": answer.kind,
                "resumed_at_bytes": self._resumed_at,
            }

    def _total(self, answer: Answer, path: str, most_bytes: int) -> Optional[int]:
        """Make ready for the body; the size that the file will have, None if nobody says."""
        part, response = self._part, answer.response
        if part.size and response.status in (206, 416):
            if response.status == 206 and _first_byte(answer) == part.size:
                rest = response.length
                total = None if rest is None else part.size + rest
                return self._checked(answer, path, total, most_bytes)
            part.begin("")
            raise Broken(f"{answer.target} is another file by now.", answer.known)
        if response.status >= 500:
            raise Broken(f"{answer.target} answered {answer.status}.", answer.known)
        answer.check_ok()
        if response.status == 206:
            raise SkillError(f"{answer.target} sends only a part of the file.", answer.known)
        total = self._checked(answer, path, response.length, most_bytes)
        self._resumed_at = 0
        with explained(path):
            part.begin(_validator(answer))
        return total

    def _checked(
        self, answer: Answer, path: str, total: Optional[int], most_bytes: int
    ) -> Optional[int]:
        if total is not None:
            if total > most_bytes:
                raise _too_large(answer, f"has {total:,} bytes", most_bytes)
            check_room(self._ctx, path, total - self._part.size)
        return total

    def _stream(self, answer: Answer, path: str, total: Optional[int], most_bytes: int) -> None:
        part = self._part
        most = part.size + room(self._ctx)
        for chunk in _body.chunks(answer):
            if part.size + len(chunk) > most_bytes:
                part.begin("")
                raise _too_large(answer, "goes on", most_bytes)
            if part.size + len(chunk) > most:
                part.begin("")
                check_room(self._ctx, path, most + 1)
            with explained(path):
                part.append(chunk)
            self._show(total)

    def _show(self, total: Optional[int]) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _SHOWN_EVERY_S:
            self._shown_at = now
            of = f" of {total / MB:.1f}" if total else ""
            self._ctx.on_output(f"{self._part.size / MB:.1f}{of} MiB")


def _too_large(answer: Answer, what: str, most_bytes: int) -> SkillError:
    return SkillError(
        f"{answer.target} {what}, and at most {most_bytes:,} are taken; set max_mb if you want "
        "more."
    )


def _validator(answer: Answer) -> str:
    """What says that it is still the same file, byte by byte; "" if nothing does."""
    etag = answer.response.getheader("ETag") or ""
    is_strong = etag.startswith('"')
    return etag if is_strong else answer.response.getheader("Last-Modified") or ""


def _first_byte(answer: Answer) -> int:
    """Where the part begins that was sent; -1 if nobody knows."""
    found = re.match(r"bytes (\d{1,18})-\d", answer.response.getheader("Content-Range") or "")
    return int(found[1]) if found else -1


def safe_name(answer: Answer) -> str:
    """A file name for an answer: the server's, or the URL's last part; nothing else of either."""
    try:
        said = answer.response.headers.get_filename("")
    except Exception:  # parameters that no e-mail ever had
        said = ""
    last = answer.target.path.partition("?")[0].rpartition("/")[2]
    return _cleaned(said) or _cleaned(unquote(last)) or "download"


def _cleaned(name: str) -> str:
    """A plain name: no path, not hidden, no option, nothing that a shell or terminal reads."""
    name = re.split(r"[/\\]", name)[-1]
    kept = re.sub(r"[^\w.,+@=-]+", "_", name).strip("._- ")
    stem, dot, ending = kept.rpartition(".")
    room_bytes = _LONGEST_NAME_BYTES - len(ending.encode()) - 1
    if len(kept.encode()) <= _LONGEST_NAME_BYTES:
        return kept
    if not dot or room_bytes < 1:
        return kept.encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore")
    return f"{stem.encode()[:room_bytes].decode(errors='ignore')}.{ending}"
