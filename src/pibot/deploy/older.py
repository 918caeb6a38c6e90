"""Finds a service that was deployed by hand, and reads what it used."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Dict, Iterator, Mapping, Optional

from pibot.deploy import layout, previous
from pibot.deploy.envfile import Source
from pibot.deploy.facts import Old
from pibot.deploy.previous import Previous
from pibot.deploy.tree import FILE, Tree
from pibot.errors import ConfigError, StoreError
from pibot.values import Value, parse_env

_ASSIGNMENT = re.compile(r"\s*(#.*|(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=.*)?")
_USUAL_PORT = "5000"


def find_old(tree: Tree, role: str, homes: Mapping[str, str]) -> Optional[Old]:
    """The unit of a role, if it is not one of ours, with its settings; None if there is none."""
    unit = layout.unit_file(layout.service(role))
    there = tree.followed(unit)
    if there.kind != FILE or not there.content.strip() or previous.is_ours(there.text, role):
        return None
    drop_ins = [f"{unit}.d/{n}" for n in tree.names(f"{unit}.d") if n.endswith(".conf")]
    texts = [there.text, *(tree.followed(path).text for path in drop_ins)]
    found = previous.read("\n".join(texts), homes)
    kept: Dict[str, bytes] = {unit: there.content}
    kept.update({path: tree.followed(path).content for path in drop_ins})
    sources = [_from_unit(unit, found)]
    for path in found.env_files:
        sources += _from_file(tree, path, kept)
    sources.append(_of(unit, found.environment))
    for path in [path for path in found.dot_envs if path not in kept]:
        sources += _from_file(tree, path, kept)
    return Old(unit, found, tuple(kept.items()), tuple(sources))


def _from_unit(unit: str, found: Previous) -> Source:
    """What stood on the command line."""
    port = found.port if found.port != _USUAL_PORT else None
    values = {"WORKER_ID": found.worker_id, "PIBOT_HEALTH_PORT": port}
    return _of(unit, {key: value for key, value in values.items() if value})


def _of(unit: str, values: Mapping[str, str]) -> Source:
    place = f"in {unit}"
    return Source(unit, {k: Value(v, place, Path("/")) for k, v in values.items()}, lenient=True)


def _from_file(tree: Tree, path: str, kept: Dict[str, bytes]) -> Iterator[Source]:
    """A file of settings; lines that are none are passed over."""
    with suppress(OSError, StoreError, ConfigError):
        there = tree.entry(path)
        if there.kind == FILE:
            kept[path] = there.content
            lines = there.text.splitlines()
            text = "\n".join(line if _ASSIGNMENT.fullmatch(line) else "" for line in lines)
            yield Source(path, parse_env(text, Path(path)), lenient=True)
