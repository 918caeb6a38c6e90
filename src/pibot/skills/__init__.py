"""What a skill file needs: `from pibot.skills import skill, Context, Output, SkillError`."""

from __future__ import annotations

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError

__all__ = ["Context", "Output", "SkillError", "skill"]
