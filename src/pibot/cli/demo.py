"""`demo`: a whole fleet on this machine, three sample goals, then a prompt.

Broker, master and workers are real processes of this program, on free ports and in a temporary
directory: a fleet that already runs here is not disturbed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping

from pibot import config
from pibot import messages as msg
from pibot.cli import chat, goals, present, status
from pibot.cli.children import ENDING, Children
from pibot.cli.parser import Interrupted, program, settings
from pibot.config import Settings
from pibot.errors import EXIT_FAILED, EXIT_OK, TimedOut, Unreachable

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = "pibot.pyz demo --once"
WORKERS = {"worker-1": "desk", "worker-2": "shelf"}  # with their tags
READY_S = 90.0  # a first start on a Pi unpacks the program
LOOK_S = 0.1
NO_MODEL = "No API key is set (VOLC_API_KEY or OPENAI_API_KEY): sentence templates are used."
PLANNED = (
    "Find out the load and the free memory of each worker, one task for each, and tell me which "
    "of them has more to spare."
)
_MACHINE = re.compile(r"WORKER_\d+_IP|STATE_DIRECTORY")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="end after the sample goals")


def run(options: argparse.Namespace) -> int:
    found = settings(options, "demo")
    try:
        with ExitStack() as opened:
            fleet = _begin(opened, found)
            succeeded = _samples(fleet, found.model is not None)
            if options.once or not sys.stdin.isatty():
                return EXIT_OK if succeeded else EXIT_FAILED
            present.say("\nYour turn: type a goal. /help explains, Ctrl-D ends the demo.")
            return chat.converse(fleet)
    except Interrupted:  # what goes on ends with the demo
        raise KeyboardInterrupt from None


def _begin(opened: ExitStack, found: Settings) -> Fleet:
    """Start everything; return a connection once both workers are idle."""
    from pibot.roles.client import Fleet

    folder = Path(tempfile.mkdtemp(prefix="pibot-demo-"))
    opened.callback(shutil.rmtree, folder, ignore_errors=True)
    port, *others = free_ports(3 + len(WORKERS))
    env = environment(os.environ, found, folder, port, others.pop())
    no_settings = folder / "none.env"  # so that the .env beside pibot.pyz is not read
    no_settings.touch(0o600)
    children = Children(folder, env)
    opened.callback(children.close)
    opened.callback(_undisturbed)
    always = ("--env-file", str(no_settings), "--port")
    present.say(f"Starting a broker and a master on port {port} …")
    children.start("master", "--role", "master", *always, str(others.pop()))
    _wait(children, lambda: _is_open(port))
    for name, tag in WORKERS.items():
        present.say(f"Starting {name} …")
        args = ("--role", "worker", "--worker-id", name, *always, str(others.pop()))
        children.start(name, *args, PIBOT_TAGS=tag)
    mine = config.load("client", {}, env, no_settings, program())
    fleet = opened.enter_context(_connect(children, lambda: Fleet.connect(mine)))
    _wait(children, lambda: fleet.get_status_summary()["idle"] == len(WORKERS))
    present.say(status.picture(fleet.get_status_summary()))
    present.say(f"From another terminal: PIBOT_FLEET=demo MQTT_PORT={port} pibot.pyz status")
    return fleet


def environment(
    base: Mapping[str, str], found: Settings, folder: Path, port: int, http_port: int
) -> Dict[str, str]:
    """The children's environment: this one, without what is meant for the user's own fleet."""
    names = {key.name for key in config.KEYS}
    env = {
        name: value
        for name, value in base.items()
        if not (name in names or name.startswith("PIBOT_") or _MACHINE.fullmatch(name))
    }
    env.update(
        PIBOT_FLEET="demo",
        PIBOT_STATE_DIR=str(folder),
        PIBOT_HEALTH_HOST="127.0.0.1",
        PIBOT_HTTP_PORT=str(http_port),
        PIBOT_ALLOW_SHELL="1" if found.permits.shell else "0",
        PIBOT_WEB_ALLOW=",".join(found.permits.web_allow),
        MQTT_PORT=str(port),
    )
    if found.skills_dir is not None:
        env["PIBOT_SKILLS_DIR"] = str(found.skills_dir)
    if found.model is not None:
        env["VOLC_API_KEY"], env["MODEL_NAME"] = found.model.api_key, found.model.model
        env["VOLC_BASE_URL"] = found.model.base_url
    return env


def free_ports(count: int) -> List[int]:
    """Ports of this machine that nobody uses, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _connect(children: Children, connect: Callable[[], Fleet]) -> Fleet:
    """The master opens its broker a moment before it answers."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return connect()
        except Unreachable:
            children.check()
            if time.monotonic() > deadline:
                raise


def _wait(children: Children, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while not condition():
        children.check()
        if time.monotonic() > deadline:
            raise TimedOut(f"the demo was not ready within {READY_S:g} s: is this machine busy?")
        time.sleep(LOOK_S)


def _undisturbed() -> None:
    """From here on nothing interrupts the end of the children."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _samples(fleet: Fleet, model: bool) -> bool:
    """Run the sample goals; return whether all succeeded."""
    succeeded = _sample(fleet, "what time is it")
    succeeded &= _sample(fleet, "system status of all workers")
    if model:
        return succeeded & _sample(fleet, PLANNED)
    present.say(f"\n{NO_MODEL}")
    return succeeded & _sample(fleet, "disk space on all workers")


def _sample(fleet: Fleet, goal: str) -> bool:
    from pibot.roles.common import new_goal_id

    present.say(f"\n{chat.PROMPT}{present.paint(goal, 'bold')}")
    outcome = goals.wait(fleet, msg.Submit(new_goal_id(), goal=goal, follow=True))
    return goals.tell(outcome) == EXIT_OK
