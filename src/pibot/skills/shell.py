"""Commands and scripts of this machine, in the sandbox, with bounds on everything."""

from __future__ import annotations

import os
from typing import Annotated, List, Optional, Union

from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, _sandbox, skill

MAX_TIMEOUT_S = 3600.0
PYTHON = "/usr/bin/python3"


def _why_off(permits: Permits, name: str = "shell") -> Optional[str]:
    if not permits.shell:
        setting = "set PIBOT_ALLOW_SHELL=1 on this machine"
        return f"{name} is off: {setting} to let agents run commands here"
    why = _sandbox.problem()
    return why and f"{name} is off: there is no sandbox: {why}"


def _why_no_python(permits: Permits) -> Optional[str]:
    why = _why_off(permits, "python")
    if why is None and not os.access(PYTHON, os.X_OK):
        return f"python is off: there is no {PYTHON}; run `sudo apt install python3`"
    return why


@skill(
    timeout_s=MAX_TIMEOUT_S + 5,
    phrases=["shell {command}", "$ {command}", "(运行|执行)命令[：]{command}"],
    sensitive=_sandbox.acts_outside,
    taints=_sandbox.reads_outside,
    repeatable=False,
    parallel=False,
    available=_why_off,
    note=_sandbox.described,
)
def shell(
    ctx: Context,
    command: Annotated[Union[str, List[str]], "a command line for /bin/sh, or its words as a list"],
    timeout_s: Annotated[float, "seconds after which it is stopped"] = 60,
) -> Output:
    """Run a command in a sandbox, in the task's workspace, and return what it printed.

    There is no input and no terminal. Processes that it leaves in the background are ended.
    """
    _check(ctx, bool(command), "the command", timeout_s)
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    return _sandbox.run(ctx, words, timeout_s)


@skill(
    timeout_s=MAX_TIMEOUT_S + 5,
    phrases=["run [the|this] python [code|script][:] {code}", "(运行|执行)python[代码][：]{code}"],
    sensitive=_sandbox.acts_outside,
    taints=_sandbox.reads_outside,
    repeatable=False,
    parallel=False,
    available=_why_no_python,
    note=_sandbox.described,
)
def python(
    ctx: Context,
    code: Annotated[str, "a whole script; print what you want to know"],
    timeout_s: Annotated[float, "seconds after which it is stopped"] = 60,
) -> Output:
    """Run a Python 3 script in a sandbox, in the task's workspace; return what it printed."""
    _check(ctx, bool(code.strip()), "the script", timeout_s)
    return _sandbox.run(ctx, [PYTHON, "-I", "-"], timeout_s, stdin=code.encode())


def _check(ctx: Context, there: bool, what: str, timeout_s: float) -> None:
    if not there or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise SkillError(f"{what} is empty, or timeout_s is not in 0 to {MAX_TIMEOUT_S:g}")
    why = _why_off(ctx.permits)
    if why:
        raise SkillError(why)
