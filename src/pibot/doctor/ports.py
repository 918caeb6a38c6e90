"""GET /health of this machine's own services, and who else holds their ports."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Set

from pibot.agent.text import short
from pibot.config import Settings
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings

ANSWER_S = 3.0
ANSWER_BYTES = 65_536
_LISTEN = "0A"


def health(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """Who answers on the port of /health; nobody is no finding of its own: see the units."""
    found = subject.settings
    if found is None:
        return
    port = found.health_port
    answer = _get(found.health_host, port)
    if answer is None:
        if subject.is_service:
            look = f"{subject.restart()}; journalctl -u pibot-{subject.role} -n 20"
            yield fail("health", f"nothing answers on port {port}", look)
        return
    if _is_ours(answer, subject, found):
        yield _condition(answer, subject, port)
        return
    who = _who(answer) or holder(here, port) or "another program"
    message = f"port {port} is held by {who}"
    fix = f"sudo ss -ltnp 'sport = :{port}'; stop it, or set PIBOT_HEALTH_PORT: {subject.edit()}"
    chosen = subject.is_service or found.health_port_explicit
    yield (fail if chosen else warn)("health", message, fix)


def _get(host: str, port: int) -> Optional[Dict[str, Any]]:
    """What is said on /health: None if nobody listens, {} if it is nothing of ours."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.connect()
    except OSError:
        return None
    try:
        connection.request("GET", "/health")
        document = json.loads(connection.getresponse().read(ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return {}
    finally:
        connection.close()
    return document if isinstance(document, dict) else {}


def _is_ours(answer: Dict[str, Any], subject: Subject, found: Settings) -> bool:
    if subject.role == "master":
        return answer.get("role") == "master"
    if "worker_id" not in answer or "current_task" not in answer:
        return False
    return subject.role == "client" or answer["worker_id"] == found.worker_id


def _who(answer: Dict[str, Any]) -> str:
    if answer.get("role") == "master" and "workers" in answer:
        return "a master of PiBot"
    if "worker_id" in answer:
        return f"a worker called {short(str(answer['worker_id']), 40)}"
    return ""


def _condition(answer: Dict[str, Any], subject: Subject, port: int) -> Finding:
    who = "master" if subject.role == "master" else short(str(answer["worker_id"]), 40)
    if answer.get("status") == "healthy":
        return ok("health", f"{who} is healthy on port {port}")
    why = short(str(answer.get("reason", answer.get("status"))), 200)
    look = "on the master: sudo pibot.pyz doctor"
    return fail("health", f"{who} is not healthy: {why}", look)


# --- who holds a port ---------------------------------------------------------------------------


def holder(here: Surroundings, port: int) -> str:
    """The name and number of the process that listens; "" when this user may not see it."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(here, port)}
    for process in here.at("/proc").glob("[0-9]*"):
        if sockets & _open_files(process):
            name = short(here.text(f"/proc/{process.name}/comm"), 40)
            return f"{name} (process {process.name})"
    return ""


def _inodes(here: Surroundings, port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in (line.split() for line in here.text(table).splitlines()[1:]):
            if len(row) > 9 and row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port:
                yield row[9]


def _open_files(process: Path) -> Set[str]:
    try:
        return {os.readlink(entry.path) for entry in os.scandir(process / "fd")}
    except OSError:
        return set()
