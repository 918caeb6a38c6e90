"""What a skill file needs: `from pibot.skills import skill, Context, Output, SkillError`."""

from __future__ import annotations

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError
from pibot.permits import Permits

__all__ = ["Context", "Output", "Permits", "SkillError", "skill"]
