"""MCP servers: programs or web addresses of somebody else whose tools become skills here.

One thread with an event loop of its own keeps a session with each server, and begins it again,
with pauses that grow, when it has ended. A skill's call waits for its answer in its own thread.
Only a machine whose PIBOT_MCP_FILE is set imports this; the `mcp` package is not in pibot.pyz.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import json
import logging
import shutil
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from pibot import secrets
from pibot.agent.mcp_tools import Unusable, skill_of
from pibot.agent.text import short
from pibot.agent.tools import Context, Skill
from pibot.errors import SkillError

log = logging.getLogger("pibot.mcp")

START_S = 10.0
PAUSES_S = (1.0, 60.0)
END_S = 6.0  # a server's program gets 2 s to end by itself and 2 s after SIGTERM
MOST_TOOLS = 64
_LOOK_S = 0.05
_PUBLIC_HEADERS = ("accept", "accept-language", "content-type", "user-agent")
MISSING = (
    "PIBOT_MCP_FILE is set, but this Python cannot load the package mcp (version 2 or later); "
    "install it with: sudo python3 -m pip install --break-system-packages 'mcp>=2' "
    "(Python 3.10 or newer), then restart the worker"
)


def configured(path: Path) -> Tuple[Dict[str, Mapping[str, Any]], List[str]]:
    """The servers that a file names, and a line for each thing in it that cannot be used."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        named = document["mcpServers"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, [f'{path} was left out: it is not JSON such as {{"mcpServers": {{…}}}}']
    good = {name: one for name, one in named if _is_server(one)}
    return good, [
        f"the MCP server {short(name)} of {path} was left out: it needs a command (with args and "
        "env) or a url (with headers), all of them texts"
        for name, _ in named
        if name not in good
    ]


def secrets_of(path: Path) -> List[str]:
    """What the file's servers are given and nobody else is to see."""
    found: List[str] = []
    for one in configured(path)[0].values():
        found += secrets.secrets_of({**one.get("env", {}), "": one.get("url", "")})
        for name, value in one.get("headers", {}).items():
            if name.lower() not in _PUBLIC_HEADERS:
                found += [value, value.rpartition(" ")[2]]  # "Bearer …": without that word, too
    return [one for one in found if len(one) >= secrets.SHORTEST]


def _is_server(one: Any) -> bool:
    if not isinstance(one, dict) or ("command" in one) == ("url" in one):
        return False
    maps, args = [one.get("env", {}), one.get("headers", {})], one.get("args", [])
    if not isinstance(args, list) or not all(isinstance(pairs, dict) for pairs in maps):
        return False
    texts = [one.get("command", ""), one.get("url", ""), *args]
    return all(isinstance(text, str) for text in [*texts, *maps[0].values(), *maps[1].values()])


class Servers:
    """All servers of a file. `changed` is called, in another thread, when there are other tools."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        servers, notes = configured(path)
        if servers and importlib.util.find_spec("mcp") is None:
            servers, notes = {}, [*notes, MISSING]
        for note in notes:
            log.warning("%s", note)
        self._servers = [_Server(name, one, changed) for name, one in servers.items()]
        self._loop = asyncio.new_event_loop()
        self._tasks = [self._loop.create_task(server.keep()) for server in self._servers]
        self._thread = threading.Thread(target=self._run, name="mcp", daemon=True)

    def start(self) -> None:
        """Begin to speak with the servers; nobody waits for them."""
        self._thread.start()

    def skills(self, taken: Sequence[str]) -> Tuple[List[Skill], List[str]]:
        """The tools that are there now as skills, and a line for each that was left out."""
        skills: Dict[str, Skill] = {}
        notes: List[str] = []
        for server in self._servers:
            for tool in server.tools[:MOST_TOOLS]:
                try:
                    one = skill_of(server.name, tool, server.call)
                    if one.name in skills or one.name in taken:
                        raise Unusable(f"another skill here is called {one.name}")
                    skills[one.name] = one
                except Unusable as error:
                    told = short(str(tool.get("name")), 64)
                    notes.append(f"the tool {told} of {server.name} was left out: {error}")
            if len(server.tools) > MOST_TOOLS:
                notes.append(f"{server.name}: only its first {MOST_TOOLS} tools are skills here")
        return list(skills.values()), notes

    def close(self) -> None:
        """End all sessions, and the programs of the servers with them."""
        for task in self._tasks:
            self._loop.call_soon_threadsafe(task.cancel)
        self._thread.join(END_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()


class _Server:
    """One server: its tools of now, and the session with it."""

    def __init__(
        self, name: str, configured: Mapping[str, Any], changed: Callable[[], None]
    ) -> None:
        self.name = name
        self.tools: Sequence[Mapping[str, Any]] = ()
        self._configured, self._changed = configured, changed
        self._session: Any = None
        self._why = "it has not answered yet"

    async def keep(self) -> None:
        """Keep a session with the server, for ever."""
        self._loop = asyncio.get_running_loop()
        pause_s, told = PAUSES_S[0], ""
        while True:
            was_there = await self._attempt()
            pause_s = PAUSES_S[0] if was_there else min(2 * pause_s, PAUSES_S[1])
            level = logging.WARNING if self._why != told or was_there else logging.DEBUG
            told = self._why
            log.log(level, "the MCP server %s is not there: %s; it is tried again", self.name, told)
            await asyncio.sleep(pause_s)

    async def _attempt(self) -> bool:
        """One session, from beginning to end; returns whether it came to stand."""
        life = asyncio.ensure_future(self._live())
        try:
            await asyncio.wait({life}, timeout=START_S)
            stood = self._session is not None
            if not life.done() and not stood:
                life.cancel()
                self._why = f"it did not answer within {START_S:g} s"
            await asyncio.wait({life})
            stood = stood or self._session is not None
            error = None if life.cancelled() else life.exception()
            if error is not None:
                self._why = short(_innermost(error))
            return stood
        finally:
            self._session = None
            if not life.done():  # this worker ends
                life.cancel()
                await asyncio.wait({life})

    async def _live(self) -> None:
        import mcp

        async with AsyncExitStack() as opened:
            streams = await opened.enter_async_context(_transport(self._configured, opened))
            session = await opened.enter_async_context(mcp.ClientSession(*streams[:2]))
            await session.initialize()
            found = [_plain(tool) for tool in (await session.list_tools()).tools]
            self._ended = asyncio.Event()
            self._session = session
            if found != self.tools:
                self.tools = found
                self._changed()
            log.info("the MCP server %s is there with %d tools", self.name, len(found))
            await self._ended.wait()

    def call(self, tool: str, args: Mapping[str, Any], ctx: Context) -> Mapping[str, Any]:
        """Call a tool and wait for its result; raises SkillError."""
        answer = asyncio.run_coroutine_threadsafe(self._call(tool, args), self._loop)
        while not ctx.cancelled.is_set() and time.monotonic() < ctx.deadline:
            try:
                return answer.result(_LOOK_S)
            except concurrent.futures.TimeoutError:
                if answer.done():
                    break
        answer.cancel()
        raise SkillError(f"the MCP server {self.name} was not waited for any longer")

    async def _call(self, tool: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
        session = self._session
        if session is None:
            raise SkillError(f"the MCP server {self.name} is not there now: {self._why}")
        try:
            return _plain(await session.call_tool(tool, dict(args)))
        except Exception as error:
            self._why = short(_innermost(error))
            self._ended.set()  # whatever it was: a new session has a better chance
            raise SkillError(
                f"the MCP server {self.name} did not answer properly ({self._why}); "
                "it is started again, so try later"
            ) from None


def _transport(configured: Mapping[str, Any], opened: AsyncExitStack) -> Any:
    """The way to a server. A program gets few variables, and dies with this process."""
    if "url" in configured:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        client = httpx2.AsyncClient(headers=configured.get("headers", {}), timeout=START_S)
        opened.push_async_callback(client.aclose)
        return streamable_http_client(configured["url"], http_client=client)
    from mcp.client.stdio import StdioServerParameters, stdio_client

    words = [configured["command"], *configured.get("args", [])]
    if shutil.which("setpriv"):
        words = ["setpriv", "--pdeathsig", "KILL", "--", *words]
    env = {"LANG": "C.UTF-8", **configured.get("env", {})}
    return stdio_client(StdioServerParameters(command=words[0], args=words[1:], env=env))


def _plain(model: Any) -> Dict[str, Any]:
    """An object of the package as the protocol writes it."""
    found: Dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


def _innermost(error: BaseException) -> str:
    """What happened, out of the groups of exceptions that the package packs it in."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return str(error) or type(error).__name__
