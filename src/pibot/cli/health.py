"""`health`: does each worker answer? Over the master, and over HTTP where WORKER_n_IP says."""

from __future__ import annotations

import argparse
import json
from typing import Any, Dict, List, Mapping, Optional

from pibot.cli import present
from pibot.cli.parser import settings, with_json
from pibot.cli.present import duration, line, mark
from pibot.errors import EXIT_FAILED, EXIT_OK, Unreachable

EXAMPLE = "pibot.pyz health"
PORT = 5000
HTTP_S = 3.0
ANSWER_BYTES = 65_536
Row = Dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    from pibot.roles.client import Fleet

    machines = _ask_machines(found.machines)
    workers: List[Row] = []
    no_master: Optional[Unreachable] = None
    try:
        with Fleet.connect(found) as fleet:
            workers = [_judge(row) for row in fleet.get_status_summary()["workers"]]
    except Unreachable as error:
        no_master = error
        if not machines:
            raise
    if not options.json:
        for row in workers + machines:
            present.say(f"{mark(row['healthy'])} {line(row['worker_id'])} {line(row['detail'])}")
        if not workers and not no_master:
            present.note("no worker has joined the fleet yet")
    elif not no_master:
        healthy = all(row["healthy"] for row in workers + machines)
        present.say_json({"healthy": healthy, "workers": workers, "machines": machines})
    if no_master:
        raise no_master
    return EXIT_OK if all(row["healthy"] for row in workers + machines) else EXIT_FAILED


def _judge(row: Mapping[str, Any]) -> Row:
    """A worker as the master sees it."""
    healthy = row["state"] not in ("offline", "incompatible")
    detail = row["state"]
    if row["state"] == "offline" and row["last_seen_s"] is not None:
        detail += f", last seen {duration(row['last_seen_s'])} ago"
    if row.get("alarm"):
        detail += f" (alarm: {row['alarm']})"
    return {"worker_id": row["worker_id"], "healthy": healthy, "detail": detail}


def _ask_machines(machines: Mapping[str, str]) -> List[Row]:
    """Ask each machine at once, in the order of their numbers."""
    if not machines:
        return []
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(_ask_machine, machines, machines.values()))


def _ask_machine(name: str, address: str) -> Row:
    import http.client

    where = f"{address}:{PORT}"
    connection = http.client.HTTPConnection(address, PORT, timeout=HTTP_S)
    try:
        connection.connect()
        peer = connection.sock.getpeername()[0].partition("%")[0]  # a name of it may be only ours
        host = f"[{peer}]" if ":" in peer else peer
        connection.request("GET", "/health", headers={"Host": f"{host}:{PORT}"})
        document = json.loads(connection.getresponse().read(ANSWER_BYTES))
        name = str(document.get("worker_id", name))
        said = ": ".join(str(document[key]) for key in ("status", "reason") if key in document)
        healthy = document.get("status") == "healthy"
        return {"worker_id": name, "healthy": healthy, "detail": f"{where} says {said}"}
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
    except (http.client.HTTPException, ValueError, AttributeError, RecursionError):
        why = "what answers there is no worker of PiBot"
    finally:
        connection.close()
    return {"worker_id": name, "healthy": False, "detail": f"{where} does not answer: {why}"}
