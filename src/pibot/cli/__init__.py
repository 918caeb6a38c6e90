"""The command line: finds the command, runs it, and turns errors into one sentence.

A command is a module of this package with `EXAMPLE`, `arguments(parser)` and `run(options)`, which
returns the exit status. Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any, List, Optional, Sequence

from pibot.cli import present
from pibot.cli.parser import Parser, as_options
from pibot.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, PibotError, UsageError

COMMANDS = {
    "demo": "broker, master and two workers on this machine, then a prompt",
    "run": "give the fleet a goal, or a skill to run, and wait for the answer",
    "chat": "a conversation with the master",
    "status": "the fleet: how many workers, and a row for each",
    "health": "one line for each worker: ✓ or ✗",
    "tasks": "the latest goals and their tasks",
    "show": "all that is known of a goal",
    "cancel": "stop a goal or a task",
    "retry": "do what failed in a goal again",
    "approve": "let a call that waits for a person happen",
    "deny": "do not let it happen",
    "workers": "list the workers; add, rotate, remove, drain or resume one",
    "clients": "list people's access to the fleet; add or remove one",
    "skills": "what the workers can do",
    "audit": "who decided what, and whether the log of it holds",
    "update": "give the workers a new pibot.pyz, one first and then the others",
    "selftest": "a task to every worker and back: ✓ or ✗ for each",
    "setup": "install PiBot as a service on this machine, or remove it",
    "doctor": "check this machine and say what to mend",
    "version": "the version of PiBot, of Python and of the machine",
}
SERVICES = """\
  --role master                         run the master (a service)
  --role worker --worker-id worker-1    run a worker (a service)"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the program; return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    _prepare()
    try:
        status = _dispatch(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PibotError as error:
        return _report(error, args)
    except Exception as error:
        return _report(_internal(error), args)


def _prepare() -> None:
    """Text that the terminal's encoding lacks becomes `?`; a request to end runs the clean-up."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays in force
            signal.signal(number, _end)


def _end(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


def _dispatch(args: List[str]) -> int:
    if not args:
        sys.stderr.write(_usage())
        return EXIT_USAGE
    first = args[0]
    if first.split("=")[0] == "--role":
        from pibot.cli import service

        return service.main(args)
    if first in ("-h", "--help", "help"):
        present.say(_usage().rstrip())
        return EXIT_OK
    name = "version" if first == "--version" else first
    if name.startswith("-") and any(arg.split("=")[0] == "--role" for arg in args):
        raise UsageError(f"--role must come first: put {name} behind `--role NAME`")
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    return _run(name, args[1:])


def _run(name: str, args: List[str]) -> int:
    module = importlib.import_module(f"pibot.cli.{name}")
    parser = Parser(name, COMMANDS[name], module.EXAMPLE)
    as_options(parser)
    module.arguments(parser)
    return int(module.run(parser.parse_args(args)))


def _usage() -> str:
    rows = [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pibot.pyz COMMAND [OPTIONS]",
            "",
            "One team of AI agents out of a handful of Raspberry Pis.",
            "",
            *rows,
            "",
            SERVICES,
            "",
            "`pibot.pyz COMMAND --help` explains a command. Try: pibot.pyz demo",
            "",
        ]
    )


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"{name} must come after a command, as in `pibot.pyz status --json`"
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.7)
    hint = f"did you mean `pibot.pyz {near[0]}`?" if near else "see `pibot.pyz --help`"
    return f"there is no command {name!r}: {hint}"


# --- errors ---------------------------------------------------------------------------------------


def _report(error: PibotError, args: List[str]) -> int:
    """Say what is wrong: one line for people, and for programs when they asked with --json."""
    if "--debug" in args:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    message = present.line(str(error), 2_000)
    try:
        if "--json" in args:
            present.say_json({"error": {"code": error.code, "message": message}})
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    present.note(f"pibot: {message}")
    return error.exit_status


def _internal(error: Exception) -> PibotError:
    made = PibotError(
        f"an internal error ({type(error).__name__}: {error}): run it again with --debug to see "
        "where, and report that"
    )
    made.code = "internal"
    made.__traceback__ = error.__traceback__
    return made
