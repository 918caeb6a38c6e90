"""The examples of the skills that run commands."""

from __future__ import annotations

from skills.stage import Prepared, nothing

PREPARE: Prepared = {"shell": nothing, "python": nothing}
