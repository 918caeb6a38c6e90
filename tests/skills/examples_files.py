"""The examples of the file skills and of sqlite_query: files in the workspace."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pibot.permits import Permits
from skills.stage import Prepared, Stage, nothing


def _file(stage: Stage) -> None:
    for name in ("path", "source"):
        if name in stage.args:
            (stage.ctx.workspace / stage.args[name]).write_text("hello\n")


def _some_files(stage: Stage) -> None:
    (stage.ctx.workspace / "notes.txt").write_text("hello\n")


def _shared(stage: Stage) -> None:
    _file(stage)
    stage.ctx = replace(stage.ctx, share=lambda path: None)


def _database(stage: Stage) -> None:
    """The example's database lies in a directory that may be read: here in one of the test's."""
    stage.ctx = replace(stage.ctx, permits=Permits(read_paths=(stage.tmp,)))
    stage.args["path"] = str(stage.tmp / Path(stage.args["path"]).name)
    with closing(sqlite3.connect(stage.args["path"])) as made, made:
        made.execute("CREATE TABLE readings(day, temp_c)")
        made.execute("INSERT INTO readings VALUES ('monday', 21.5), ('tuesday', 22.0)")


PREPARE: Prepared = {
    "list_files": _some_files,
    "read_file": _file,
    "write_file": nothing,
    "append_file": _file,
    "search_files": _some_files,
    "move_file": _file,
    "delete_file": _file,
    "share_file": _shared,
    "sqlite_query": _database,
}
