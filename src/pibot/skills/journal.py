"""What the services and the kernel of this machine have logged, in the systemd journal."""

from __future__ import annotations

from typing import Annotated, Any, Dict, List, Literal, Optional, Sequence

from pibot.skills import Context, Output, SkillError, skill
from pibot.skills import _journal as journal
from pibot.skills._systemd import unit_name

Priority = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]

MAX_LINES = 500
SEARCHED = 5000
_WORDS_CHARS = 200
_TEXT_CHARS = 60_000


@skill(
    timeout_s=60,
    phrases=[
        "[the] (logs|log) (of|from) [the] service {unit:word}",
        "[the] {unit:word} service (logs|log)",
        "服务{unit:word}[的]日志",
    ],
    taints=True,
    available=journal.off("service_logs"),
)
def service_logs(
    ctx: Context,
    unit: Annotated[str, "such as mosquitto"],
    lines: Annotated[int, "how many at most, 1 to 500"] = 50,
    since: Annotated[Optional[str], "such as 30m, 2h, 1d, today, 2026-01-31 12:00"] = None,
) -> Output:
    """Show the last lines that a service has logged."""
    _check_lines(lines)
    words = [f"--unit={unit_name(unit)}", *_since(since)]
    return _output(journal.read(ctx, words, lines), {"unit": unit_name(unit)})


@skill(
    timeout_s=60,
    phrases=[
        "search [the] (journal|logs) for {words}",
        "在(日志|系统日志)中(搜索|查找){words}",
        "(搜索|查找)系统日志{words}",
    ],
    taints=True,
    available=journal.off("journal_search"),
)
def journal_search(
    ctx: Context,
    words: Annotated[str, "text that the message holds, in any case; empty: all"] = "",
    unit: Annotated[Optional[str], "of this unit only"] = None,
    since: Annotated[Optional[str], "such as 30m, 2h, 1d, today, 2026-01-31 12:00"] = None,
    priority: Annotated[Optional[Priority], "this severe or more"] = None,
    lines: Annotated[int, "how many at most, 1 to 500; the last ones"] = 50,
) -> Output:
    """Search the system's log for a text."""
    _check_lines(lines)
    if len(words) > _WORDS_CHARS:
        raise SkillError(f"words must have at most {_WORDS_CHARS} characters")
    chosen = [f"--unit={unit_name(unit)}"] if unit else []
    chosen += [*_since(since), *([f"--priority={priority}"] if priority else [])]
    wanted = words.casefold()
    entries = journal.read(ctx, chosen, SEARCHED if wanted else lines)
    hits = [one for one in entries if wanted in _searched(one)]
    return _output(hits[-lines:], {"found": len(hits), "searched": len(entries)})


def _searched(entry: Dict[str, Any]) -> str:
    return f"{entry['from']}: {entry['message']}".casefold()


def _check_lines(lines: int) -> None:
    if not 1 <= lines <= MAX_LINES:
        raise SkillError(f"lines must be 1 to {MAX_LINES}, not {lines}")


def _since(text: Optional[str]) -> Sequence[str]:
    return [journal.since(text)] if text else []


def _output(entries: List[Dict[str, Any]], about: Dict[str, Any]) -> Output:
    """The entries, fewer of them when together they are too long: the last ones stay."""
    kept: List[Dict[str, Any]] = []
    room = _TEXT_CHARS
    for entry in reversed(entries):
        room -= len(journal.line(entry))
        if room < 0:
            break
        kept.insert(0, entry)
    left_out = len(entries) - len(kept)
    note = [f"[{left_out} earlier lines are left out: too long together]"] if left_out else []
    text = "\n".join([*note, *map(journal.line, kept)]) or "nothing was logged"
    return Output({**about, "entries": kept, "left_out": left_out}, text)
