"""Every skill that takes a path, pointed at what lies outside the workspace."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any, Callable, Dict, Mapping, Tuple

from security.hands import CANARY, Hands

HIDDEN = "name-of-a-file-outside"
Action = Tuple[str, Callable[[str], Mapping[str, Any]]]
ACTIONS: Dict[str, Action] = {
    "list": ("list_files", lambda path: {"path": path}),
    "read": ("read_file", lambda path: {"path": path}),
    "write": ("write_file", lambda path: {"path": path, "content": "owned"}),
    "append": ("append_file", lambda path: {"path": path, "content": "owned"}),
    "search": ("search_files", lambda path: {"path": path, "pattern": "e"}),
    "move-from": ("move_file", lambda path: {"source": path, "target": "taken"}),
    "move-to": ("move_file", lambda path: {"source": "mine.txt", "target": path}),
    "delete": ("delete_file", lambda path: {"path": path}),
    "share": ("share_file", lambda path: {"path": path}),
    "query": ("sqlite_query", lambda path: {"path": path, "sql": "SELECT * FROM t"}),
}


def lay_out(hands: Hands) -> None:
    """Outside: a secret text, a secret database, a name. Inside: a file of one's own."""
    with closing(sqlite3.connect(hands.outside / "canary.db")) as made, made:
        made.execute("PRAGMA synchronous = OFF")
        made.execute("CREATE TABLE t(a)")
        made.execute("INSERT INTO t VALUES (?)", (CANARY,))
    (hands.outside / HIDDEN).write_text("hidden")
    (hands.workspace / "mine.txt").write_text("mine")
    mine = (hands.outside / "canary.db", hands.outside / HIDDEN, hands.workspace / "mine.txt")
    hands.give(*mine)
    hands.outside_is_now()


def target(action: str) -> str:
    """The name of the secret that this action could reach."""
    return "canary.db" if action == "query" else "canary"


def act(hands: Hands, action: str, path: str) -> Dict[str, Any]:
    """Do it; nothing outside may show or change, and it may not hang."""
    skill, args = ACTIONS[action]
    done = hands.call(skill, args(path), time_s=10)
    check(hands, done)
    return done


def check(hands: Hands, done: Mapping[str, Any]) -> None:
    said = json.dumps(done)
    assert CANARY not in said, said
    assert HIDDEN not in said, said
    assert hands.is_outside_unchanged(), said
    assert done["took_s"] < 5
