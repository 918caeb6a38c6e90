"""Commands: what they print comes back, and nothing of them stays behind."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot.agent.library import declared
from pibot.agent.tools import Context, Result, Toolbox
from pibot.skills import Permits, SkillError, _sandbox, shell
from pibot.skills._streams import KEPT_BYTES

BOX = Toolbox(declared(shell))


def run(ctx: Context, command: Any, **args: Any) -> Result:
    return BOX.call("shell", {"command": command, **args}, ctx)


def processes_with(word: str) -> List[str]:
    """The command lines of running processes that contain a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if word in line and state != "Z":
            found.append(line)
    return found


def wait_until_gone(word: str) -> None:
    ends = time.monotonic() + 5
    while processes_with(word):
        assert time.monotonic() < ends, processes_with(word)
        time.sleep(0.01)


def wait_until_there(word: str) -> None:
    ends = time.monotonic() + 5
    while not processes_with(word):
        assert time.monotonic() < ends, f"{word} never started"
        time.sleep(0.01)


def test_a_command_line(ctx: Context) -> None:
    result = run(ctx, "echo one; echo two >&2; pwd")
    assert result.success
    seconds = result.data["seconds"]
    assert 0 < seconds < 5
    assert result.data == {
        "exit_status": 0,
        "stdout": "one\n/ws\n",
        "stderr": "two\n",
        "seconds": seconds,
    }
    assert result.output == "one\n/ws\ntwo"


def test_a_list_of_words_is_not_read_by_a_shell(ctx: Context) -> None:
    result = run(ctx, ["printf", "%s|", "a b", "$HOME", "*", ";", "-n", ""])
    assert result.data["stdout"] == "a b|$HOME|*|;|-n||"


def test_a_failure_tells_status_and_last_lines(ctx: Context) -> None:
    result = run(ctx, "seq 100; echo bad >&2; exit 3")
    assert not result.success
    assert result.output.startswith("the command ended with status 3: 92\n93\n")
    assert result.output.endswith("100\nbad")
    assert (result.data["exit_status"], result.data["stderr"]) == (3, "bad\n")
    assert result.data["stdout"].startswith("1\n2\n")


def test_a_signal_is_named(ctx: Context) -> None:
    result = run(ctx, "kill -SEGV $$")
    assert result.output == "the command ended with signal 11 (SIGSEGV)"
    assert result.data["exit_status"] == 139


@pytest.mark.parametrize("command", ["no-such-program", ["no-such-program"]])
def test_a_program_that_is_not_there(ctx: Context, command: Any) -> None:
    result = run(ctx, command)
    assert result.data["exit_status"] == 127
    assert "no-such-program: not found" in result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"command": ""}, "the command is empty"),
        ({"command": []}, "the command is empty"),
        ({"command": "ls", "timeout_s": 0}, "the command is empty, or timeout_s"),
        ({"command": "ls", "timeout_s": 1e9}, "the command is empty, or timeout_s"),
        ({"command": "a\0b"}, "the command could not be started: embedded null byte"),
        ({"command": "x" * 200_000}, "the command could not be started: "),
    ],
)
def test_commands_that_cannot_be_run(ctx: Context, args: Any, said: str) -> None:
    result = BOX.call("shell", args, ctx)
    assert not result.success
    assert result.output.startswith(said)


def test_it_is_off_unless_the_owner_allows_it(ctx: Context) -> None:
    declaration = declared(shell)[0]
    assert declaration.available is not None
    assert declaration.available(Permits(shell=True)) is None
    assert "PIBOT_ALLOW_SHELL=1" in str(declaration.available(Permits()))
    result = run(replace(ctx, permits=Permits()), f"touch {ctx.workspace}/done")
    assert "PIBOT_ALLOW_SHELL=1" in result.output
    assert not (ctx.workspace / "done").exists()
    assert declaration.repeatable is False


def test_the_environment_is_small_and_holds_no_secret(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLC_API_KEY", "top-secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    result = run(ctx, ["env"])
    names = {line.partition("=")[0] for line in result.output.splitlines()}
    assert names <= {"PATH", "HOME", "LANG", "PWD"}
    assert "HOME=/ws" in result.output
    assert "top-secret" not in result.output


def test_there_is_no_input_and_no_inherited_descriptor(ctx: Context) -> None:
    assert run(ctx, ["cat"]).data["stdout"] == ""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        # The last one is the directory that ls reads.
        assert run(ctx, ["ls", "/proc/self/fd"]).output.split() == ["0", "1", "2", "3"]
    finally:
        os.close(reader)
        os.close(writer)


def test_its_process_group_is_its_own(ctx: Context) -> None:
    group = run(ctx, "ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat").output.strip()
    assert int(group) != os.getpgrp()


def test_the_limits_are_set(ctx: Context) -> None:
    limits = run(ctx, "cat /proc/$$/limits /proc/$$/oom_score_adj", timeout_s=10).data["stdout"]
    rows = {line[:25].strip(): line[25:].split() for line in limits.splitlines()}
    cpu_s = str(10 * (os.cpu_count() or 1) + 1)
    assert rows["Max core file size"][:2] == ["0", "0"]
    assert rows["Max cpu time"][:2] == [cpu_s, cpu_s]
    assert rows["Max file size"][0] == str(2**30)
    assert rows["Max address space"][0] == str(2**32)
    assert 100 < int(rows["Max processes"][0]) < 20_000
    assert limits.endswith("\n900\n")


def test_a_file_cannot_grow_without_bound(ctx: Context) -> None:
    small = replace(ctx, permits=Permits(shell=True, workspace_mb=1))
    result = run(small, "head -c 3000000 /dev/zero > big")
    assert not result.success
    assert (ctx.workspace / "big").stat().st_size == 1 << 20


def test_a_full_workspace_ends_the_command(ctx: Context) -> None:
    small = replace(ctx, permits=Permits(shell=True, workspace_mb=2))
    fill = "i=0; while true; do i=$((i+1)); head -c 100000 /dev/zero > $i; sleep 0.01; done"
    result = run(small, fill, timeout_s=20)
    assert "the workspace is full" in result.output
    assert "PIBOT_WORKSPACE_MB" in result.output


@pytest.mark.parametrize(
    ("permits", "sensitive", "taints", "said"),
    [
        (Permits(shell=True), False, False, "There is no network."),
        (Permits(shell=True, shell_network=True), True, True, "The network can be reached."),
        (Permits(shell=True, read_paths=(Path("/srv"),)), False, True, "Can be read: /srv."),
        (Permits(shell=True, write_paths=(Path("/srv"),)), True, True, "Can be changed: /srv."),
        (
            Permits(shell=True, write_paths=(Path("/srv"), Path("/srv/x"))),
            *(True, True, "/srv/x cannot be seen: it lies in a path that can be changed."),
        ),
    ],
)
def test_what_the_settings_add(permits: Permits, sensitive: bool, taints: bool, said: str) -> None:
    for declaration in declared(shell):
        one = declaration.settled(permits, "shell")
        assert (one.sensitive, one.taints) == (sensitive, taints)
        assert said in one.tool()["function"]["description"]


@pytest.mark.parametrize("option", ["read_paths", "write_paths"])
def test_more_paths(ctx: Context, tmp_path: Path, option: str) -> None:
    tmp_path.chmod(0o755)
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "in").write_text("there\n")
    assert not run(ctx, f"cat {folder}/in").success
    given: Dict[str, Any] = {option: (folder, Path("/not/there"))}
    more = replace(ctx, permits=replace(ctx.permits, **given))
    assert run(more, f"cat {folder}/in").data["stdout"] == "there\n"
    written = run(more, f"echo new > {folder}/out")
    assert written.success is (option == "write_paths") is (folder / "out").exists()


def test_a_path_with_the_tasks_of_others_is_left_out(ctx: Context) -> None:
    other = ctx.workspace.parent / "other"
    other.mkdir()
    (other / "secret").write_text("x")
    more = replace(ctx, permits=replace(ctx.permits, read_paths=(ctx.workspace.parent,)))
    assert not run(more, f"cat {other}/secret").success


def test_a_script_of_python(ctx: Context) -> None:
    code = "import os\nopen('made', 'w').write('x')\nprint(os.getcwd(), sum(range(10)))"
    result = BOX.call("python", {"code": code}, ctx)
    assert (result.success, result.data["stdout"]) == (True, "/ws 45\n")
    assert (ctx.workspace / "made").read_text() == "x"
    failed = BOX.call("python", {"code": "print('a')\n1 / 0\n"}, ctx)
    assert "ZeroDivisionError: division by zero" in failed.output
    assert "line 2, in <module>" in failed.output
    assert "the script is empty" in BOX.call("python", {"code": " "}, ctx).output


def test_without_a_sandbox_nothing_is_run(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(ctx, "true").success
    monkeypatch.setattr(_sandbox, "BWRAP", str(tmp_path / "bwrap"))
    assert "bwrap: not found" in run(ctx, "touch /ws/made").output  # it vanished meanwhile
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexit 1\n")
    for mode, why in ((0o755, "does not work here (status 1)"), (0o4755, "is setuid")):
        (tmp_path / "bwrap").chmod(mode)
        _sandbox._tried.cache_clear()
        try:
            assert why in run(ctx, "touch /ws/made").output
            assert why in str(declared(shell)[0].available(ctx.permits))  # type: ignore[misc]
        finally:
            _sandbox._tried.cache_clear()
    assert not (ctx.workspace / "made").exists()


def test_a_trial_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexec sleep 4473\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr(_sandbox, "BWRAP", str(tmp_path / "bwrap"))
    monkeypatch.setattr(_sandbox, "_TRIAL_S", 0.3)
    assert "did not start a command within 0.3 s" in str(_sandbox.trial())
    assert processes_with("4473") == []


def test_a_time_out_ends_the_whole_group(ctx: Context) -> None:
    started = time.monotonic()
    result = run(ctx, "echo begun; sleep 4441 & sleep 4442", timeout_s=0.4)
    assert time.monotonic() - started < 1.0
    assert not result.success
    assert result.output == "the command did not end in 0.4 s and was stopped: begun"
    assert result.data["stdout"] == "begun\n"
    wait_until_gone("sleep 444")


def test_the_deadline_of_the_task_ends_it_too(ctx: Context) -> None:
    result = run(replace(ctx, deadline=time.monotonic() + 0.3), "echo begun; exec sleep 4461")
    assert not result.success
    assert result.data["stdout"] == "begun\n"
    wait_until_gone("sleep 4461")


def test_a_cancel_ends_the_whole_group(ctx: Context) -> None:
    times: List[float] = []

    def cancel() -> None:
        wait_until_there("sleep 4452")
        times.append(time.monotonic())
        ctx.cancelled.set()

    threading.Thread(target=cancel, daemon=True).start()
    result = run(ctx, "trap '' TERM INT HUP; (trap '' TERM; sleep 4451) & sleep 4452; sleep 4452")
    assert time.monotonic() - times[0] < 0.5
    assert not result.success
    assert "cancelled" in result.output
    wait_until_gone("sleep 445")


def test_what_is_left_in_the_background_does_not_hang_the_call_and_is_ended(ctx: Context) -> None:
    started = time.monotonic()
    result = run(ctx, "nohup sleep 4471 & (sleep 4472 &) ; echo done")
    assert time.monotonic() - started < 2
    assert (result.success, result.data["stdout"]) == (True, "done\n")
    wait_until_gone("sleep 447")


def test_a_daemon_that_holds_the_pipes_does_not_hang_the_call(ctx: Context) -> None:
    started = time.monotonic()
    result = run(ctx, "setsid sleep 4481 & sleep 0.2; setsid yes 4482 & sleep 0.1; echo done")
    assert time.monotonic() - started < 3
    assert result.success
    assert processes_with("sleep 4481") + processes_with("yes 4482") == []


def test_many_children_are_all_ended(ctx: Context) -> None:
    command = "for i in $(seq 60); do sleep 449$i & done; echo started; wait"
    result = run(ctx, command, timeout_s=1)
    assert result.data["stdout"] == "started\n"
    wait_until_gone("sleep 449")


def test_huge_output_keeps_head_and_tail(ctx: Context) -> None:
    result = run(ctx, "echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last")
    text = result.data["stdout"]
    assert result.success
    assert len(text) < 2 * KEPT_BYTES + 100
    assert text.startswith("first\nxxx")
    assert text.endswith("xxx\nlast\n")
    cut = 20_000_000 + len("first\n\nlast\n") - 2 * KEPT_BYTES
    assert f"\n[cut: {cut} bytes are left out here]\n" in text


@pytest.mark.parametrize("size", [KEPT_BYTES, 2 * KEPT_BYTES])
def test_output_at_the_limit_is_whole(ctx: Context, size: int) -> None:
    text = run(ctx, f"head -c {size} /dev/zero | tr '\\0' x").data["stdout"]
    assert text == "x" * size


def test_an_endless_flood_is_stopped_in_time_and_heard_in_moderation(ctx: Context) -> None:
    heard: List[str] = []
    started = time.monotonic()
    result = run(replace(ctx, on_output=heard.append), "yes", timeout_s=0.5)
    assert time.monotonic() - started < 1.5
    assert not result.success
    assert 0 < len(heard) <= 100


def test_binary_output_is_text_all_the_same(ctx: Context) -> None:
    assert run(ctx, "printf 'a\\377b\\000c'").data["stdout"] == "a\ufffdb\0c"


def test_output_is_shown_while_it_runs(ctx: Context) -> None:
    heard: List[str] = []
    go_on = ctx.workspace / "go-on"

    def hear(line: str) -> None:
        heard.append(line)
        go_on.touch()  # the command ends only when its first line was heard

    result = run(
        replace(ctx, on_output=hear),
        "echo first; while [ ! -e go-on ]; do sleep 0.01; done; echo err >&2; printf last",
        timeout_s=5,
    )
    assert result.success
    assert heard[0] == "first"
    assert sorted(heard) == ["err", "first", "last"]


def test_an_error_in_the_listener_leaves_no_process(ctx: Context) -> None:
    def broken(line: str) -> None:
        raise RuntimeError("nobody home")

    with pytest.raises(RuntimeError):
        shell.shell(replace(ctx, on_output=broken), "echo x; sleep 4501")
    wait_until_gone("sleep 4501")


def test_a_command_that_closes_its_output_is_still_waited_for(ctx: Context) -> None:
    result = run(ctx, "exec >&- 2>&-; sleep 0.2; touch done; exit 4")
    assert result.data["exit_status"] == 4
    assert (ctx.workspace / "done").exists()


def zombies() -> List[str]:
    """The children of this process that have ended and that nobody has waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) == os.getpid():
            found.append(stat.parent.name)
    return found


def test_no_descriptor_and_no_zombie_is_left(ctx: Context) -> None:
    run(ctx, "true")
    before = len(os.listdir("/proc/self/fd"))
    for command in ("true", "false", "sleep 0.01 &"):
        run(ctx, command)
    assert len(os.listdir("/proc/self/fd")) == before
    assert zombies() == []


def test_a_failed_command_is_a_skill_error(ctx: Context) -> None:
    with pytest.raises(SkillError) as caught:
        shell.shell(ctx, "exit 7")
    assert caught.value.data["exit_status"] == 7
