"""Which steps a machine still needs: those whose outcome is not there already. Pure."""

from __future__ import annotations

from typing import Iterable, List, Optional, Tuple

from pibot.deploy import layout
from pibot.deploy.facts import Facts
from pibot.deploy.steps import (
    BY_ROOT,
    Clear,
    File,
    Folder,
    Link,
    Owner,
    Program,
    Prune,
    Remove,
    Step,
    Twin,
)
from pibot.deploy.tree import FILE, FOLDER, LINK, NONE, Entry


def left_to_do(steps: Iterable[Step], facts: Facts) -> List[Step]:
    return [step for step in steps if _is_needed(step, facts)]


def _is_needed(step: Step, facts: Facts) -> bool:
    there = facts.entry(getattr(step, "path", ""))
    if isinstance(step, Folder):
        return not _is(there, FOLDER, step.mode, step.owner, facts)
    if isinstance(step, File):
        same = there.content == step.content and not there.half
        return not (same and _is(there, FILE, step.mode, step.owner, facts))
    if isinstance(step, Program):
        same = facts.same_program and not there.half
        return not (same and _is(there, FILE, 0o755, BY_ROOT, facts))
    if isinstance(step, Twin):
        return not (facts.same_program and facts.proven) or there.half
    if isinstance(step, Link):
        return there.kind != LINK or there.text != step.target or there.half
    if isinstance(step, (Remove, Clear, Prune)):
        return there.kind != NONE or there.half
    return True


def _is(there: Entry, kind: str, mode: int, owner: Owner, facts: Facts) -> bool:
    if (there.kind, there.mode) != (kind, mode):
        return False
    return not facts.may_give or (there.uid, there.gid) == owner_ids(owner, facts)


def owner_ids(owner: Owner, facts: Facts) -> Tuple[Optional[int], Optional[int]]:
    """An owner's numbers. None is somebody who is not there yet; who never will be is root."""
    user, group = owner
    account = facts.users.get(user) if isinstance(user, str) else None
    uid = user if isinstance(user, int) else account.uid if account else _missing(user, facts)
    gid = group if isinstance(group, int) else facts.groups.get(group, _missing(group, facts))
    return uid, gid


def _missing(name: str, facts: Facts) -> Optional[int]:
    return None if name == layout.USER and facts.can_make_user else 0
