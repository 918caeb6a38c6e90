"""Processes that die at a named point: before or after a commit or a publish.

    point = Point(tmp_path / "point")
    fleet.start_master("master", True, **point.mortal())
    point.ask("before", "commit", '"state":"succeeded"')

The process kills itself (SIGKILL) at the nth such call whose arguments hold those words; then
`point.met` is true, and a restart lives.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Dict

POINTS = Path(__file__).with_name("named_points")


class Point:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = path.with_name(path.name + ".met")

    def mortal(self) -> Dict[str, str]:
        """Environment of a process that can be asked."""
        return {"PYTHONPATH": str(POINTS), "NAMED_POINTS": str(self._path)}

    def ask(self, when: str, call: str, holds: str = "", nth: int = 1) -> None:
        """`when` is before or after, `call` is commit or publish."""
        self._told.unlink(missing_ok=True)
        new = self._path.with_name(self._path.name + ".new")
        new.write_text(json.dumps({"when": when, "call": call, "holds": holds, "nth": nth}))
        os.rename(new, self._path)

    def withdraw(self) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def met(self) -> bool:
        return self._told.exists()
