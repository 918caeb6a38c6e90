"""`--role master` and `--role worker`: the services, as systemd and people start them."""

from __future__ import annotations

import argparse
import os
import signal
from typing import Any, List

from pibot import memory
from pibot.cli.parser import Parser, as_options, settings
from pibot.config import Settings
from pibot.errors import EXIT_OK, UsageError
from pibot.notify import Notify

EXAMPLE = "pibot.pyz --role worker --worker-id worker-1 --port 5000"


def main(args: List[str]) -> int:
    """Serve until SIGTERM or SIGINT; raise PibotError when it cannot begin."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _not_begun)
    options = _parse(args)
    memory.give_back()
    memory.close()
    systemd = Notify.taken(os.environ)
    flags = {"WORKER_ID": options.worker_id, "PIBOT_HEALTH_PORT": options.port}
    service = _service(settings(options, options.role, flags), systemd)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    return EXIT_OK


def _parse(args: List[str]) -> argparse.Namespace:
    parser = Parser("", "run the master or a worker until it is told to stop", EXAMPLE)
    parser.add_argument("--role", choices=("master", "worker"), required=True)
    parser.add_argument("--worker-id", metavar="NAME", help="this worker's name (WORKER_ID)")
    parser.add_argument("--port", help="the port of GET /health (PIBOT_HEALTH_PORT)")
    as_options(parser)
    options = parser.parse_args(args)
    for flag, value in (("--worker-id", options.worker_id), ("--port", options.port)):
        if value == "":
            raise UsageError(f"{flag} is empty: give it a value or leave it out")
    if options.role == "master" and options.worker_id:
        raise UsageError("--worker-id belongs to `--role worker`: the master has no name")
    return options


def _not_begun(*_: Any) -> None:
    raise SystemExit(EXIT_OK)


def _service(found: Settings, systemd: Notify) -> Any:
    if found.role == "master":
        from pibot.roles.master import Master

        return Master(found, systemd=systemd)
    from pibot.roles.worker import Worker

    return Worker(found, systemd=systemd)
