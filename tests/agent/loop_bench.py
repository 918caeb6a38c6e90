"""The agent loop on a bench: a real endpoint with a script, real skills, and what it showed."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from model_server import ModelServer, serving
from pibot.agent import model as model_module
from pibot.agent.loop import Job, Limits, Outcome, run
from pibot.agent.model import ModelSettings, OpenAIModel
from pibot.agent.tools import Context, Output, Toolbox, skill
from pibot.errors import SkillError

MEETING = threading.Barrier(2)


@skill()
def echo(words: str) -> str:
    """Say it again."""
    return words


@skill()
def meet(words: str) -> str:
    """Return when a second call of this skill runs at the same time."""
    MEETING.wait(5)
    return words


@skill(parallel=False)
def alone(ctx: Context, words: str) -> str:
    """Note its beginning and its end."""
    with (ctx.workspace / "order").open("a") as file:
        file.write(f"<{words}")
        file.flush()
        time.sleep(0.02)
        file.write(f"{words}>")
    return words


@skill()
def fail() -> str:
    """Fail."""
    raise SkillError("the sensor is not there", {"pin": 4})


@skill()
def crash() -> str:
    """Crash."""
    raise RuntimeError("bug")


@skill()
def key(ctx: Context) -> str:
    """The idempotency key."""
    return ctx.key


@skill()
def hang(ctx: Context) -> str:
    """Hang until told otherwise."""
    ctx.cancelled.wait(30)
    return "never"


@skill()
def lines(count: int) -> Output:
    """Print lines."""
    return Output({"count": count}, "\n".join(f"line {n}" for n in range(count)))


@skill()
def dirty() -> str:
    """Print what a terminal would obey."""
    return "\x1b[2J\x1b]0;title\x07red\x07\u202e\r\nend"


@skill()
def read_file(ctx: Context, path: str) -> str:
    """Read a file."""
    return (ctx.workspace / path).read_text("utf-8")


@skill(parallel=False)
def write_file(ctx: Context, path: str, content: str) -> str:
    """Write a file."""
    (ctx.workspace / path).parent.mkdir(exist_ok=True)
    (ctx.workspace / path).write_text(content, "utf-8")
    return "written"


BASIC = (echo, meet, alone, fail, crash, key, hang, lines, dirty)


class Bench:
    """Everything that a run needs, and what it showed."""

    def __init__(self, server: ModelServer, workspace: Path) -> None:
        self.server = server
        self.steps: List[Dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.ctx = Context(workspace, self.cancelled, time.monotonic() + 20, "t1:0")
        self.model = OpenAIModel(ModelSettings(server.key, server.url, server.model))
        self.toolbox = Toolbox([function.__skill__ for function in BASIC])

    def run(self, goal: str = "Do it.", limits: Limits = Limits(), **job: Any) -> Outcome:  # noqa: B008
        return run(
            Job(task="t1", goal=goal, **job),
            model=self.model,
            toolbox=self.toolbox,
            soul="You work.",
            limits=limits,
            ctx=self.ctx,
            on_step=lambda step: self.steps.append(dict(step)),
        )

    def script(self, *replies: Any) -> None:
        self.server.on(lambda request: True, *replies)

    def told(self, number: int = -1) -> List[str]:
        """The tool results in a request."""
        messages = self.server.requests[number]["messages"]
        return [message["content"] for message in messages if message["role"] == "tool"]

    def schemas(self) -> List[bool]:
        """For each request, whether it asked for a step of the schema instead of tools."""
        assert all(("response_format" in r) != ("tools" in r) for r in self.server.requests)
        return ["response_format" in request for request in self.server.requests]


@contextmanager
def at_work(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose model is asked again at once when it fails."""
    monkeypatch.setattr(model_module, "BACKOFF_S", 0.01)
    with serving() as server:
        made = Bench(server, workspace)
        yield made
        made.model.close()
