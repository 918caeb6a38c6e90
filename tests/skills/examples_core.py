"""The examples of the skills that every worker has."""

from __future__ import annotations

from skills.stage import Prepared, nothing

PREPARE: Prepared = {"echo": nothing, "get_time": nothing, "system_status": nothing}
