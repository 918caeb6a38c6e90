"""Attacks by a command: nothing in the sandbox reaches what is outside of it."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from pibot.agent import trash
from security.hands import CANARY, Hands, left_running

MARK = "pibot-attack"


def sh(hands: Hands, command: str, seconds: float = 10.0, **permits: Any) -> Dict[str, Any]:
    """Run a command; secrets are not blotted out of what it printed."""
    args = {"command": command, "timeout_s": seconds}
    more = {"shell": True, **permits}
    return hands.call("shell", args, permits=more, time_s=seconds + 5, secrets=())


def py(hands: Hands, code: str, seconds: float = 10.0, **permits: Any) -> Dict[str, Any]:
    args = {"code": code, "timeout_s": seconds}
    more = {"shell": True, **permits}
    return hands.call("python", args, permits=more, time_s=seconds + 5, secrets=())


def printed(done: Dict[str, Any]) -> str:
    return json.dumps(done)


# --- reading ---------------------------------------------------------------------------------

READING = [
    pytest.param("cat {canary}", id="a-file-beside-the-workspace"),
    pytest.param("cat /ws/../outside/canary", id="dot-dot"),
    pytest.param("cat /proc/1/root{canary}", id="the-root-of-process-one"),
    pytest.param("cat /proc/self/root/../..{canary}", id="above-the-root"),
    pytest.param("ln -s {canary} link; cat link", id="a-link-of-its-own"),
    pytest.param("ln {canary} hard; cat hard", id="a-hard-link"),
    pytest.param("cat /proc/*/environ", id="environments"),
    pytest.param("cat /proc/1/environ /proc/1/task/*/environ", id="the-environment-of-process-one"),
    pytest.param("cat /proc/*/cmdline | tr '\\0' ' '", id="command-lines"),
    pytest.param("cat /proc/{pid}/environ /proc/{pid}/mem", id="the-worker-by-its-number"),
    pytest.param("ls -l /proc/*/fd; timeout 1 cat /proc/*/fd/*", id="descriptors"),
    pytest.param("cat <&3; cat <&4; cat <&5; cat <&6; cat <&7; cat <&8; cat <&9", id="inherited"),
    pytest.param("env; set; export", id="its-own-environment"),
    pytest.param("find / -name canary -exec cat {{}} +", id="a-search"),
    pytest.param("grep -rs canary- / --include=canary", id="a-search-in-everything"),
    pytest.param("cat /dev/mem /dev/kmem /proc/kcore | head -c 100", id="memory"),
    pytest.param("head -c 1000 /dev/sd* /dev/vd* /dev/mmcblk* /dev/nvme*", id="disks"),
    pytest.param("cat /sys/kernel/notes /sys/class/dmi/id/*", id="sys"),
    pytest.param("dmesg; cat /dev/kmsg", id="the-kernels-log"),
    pytest.param("cd /; chroot /proc/1/root cat {canary}", id="chroot"),
    pytest.param("mkdir m; mount --bind / m; cat m{canary}", id="a-mount"),
    pytest.param("unshare -rm sh -c 'mount --bind / /mnt; cat /mnt{canary}'", id="unshare"),
    pytest.param("nsenter -t 1 -m cat {canary}; nsenter -t {pid} -a cat {canary}", id="nsenter"),
    pytest.param("cat ~root/.ssh/* ~/.ssh/* /root/.ssh/id_* /home/*/.ssh/id_*", id="ssh-keys"),
]


@pytest.mark.parametrize("command", READING)
def test_it_reads_nothing_from_outside(hands: Hands, command: str) -> None:
    done = sh(hands, command.format(canary=hands.canary, pid=hands.process.pid))
    assert "stdout" in done["data"], done  # it was run
    assert CANARY not in printed(done)
    assert hands.is_outside_unchanged()


HIDDEN = (
    *("/etc/shadow", "/etc/machine-id", "/etc/pibot", "/etc/ssh", "/etc/ssl/private", "/etc/hosts"),
    *("/root", "/home", "/var", "/run", "/srv", "/opt", "/boot", "/mnt", "/media", "/sys"),
)


@pytest.mark.parametrize("path", [pytest.param(path, id=path) for path in HIDDEN])
def test_of_the_system_only_programs_are_there(hands: Hands, path: str) -> None:
    done = sh(hands, f"ls -d {path}")
    assert done["data"]["exit_status"] != 0
    assert done["data"]["stdout"] == ""


def test_the_users_of_this_machine_are_not_there(hands: Hands) -> None:
    names = sh(hands, "cut -d: -f1 /etc/passwd")["data"]["stdout"].split()
    assert names == ["pibot", "nobody"]


def test_it_sees_no_other_process(hands: Hands) -> None:
    done = sh(hands, "ls -d /proc/[0-9]* | wc -l")
    assert 0 < int(done["data"]["stdout"]) < 8


# --- writing ---------------------------------------------------------------------------------

WRITING = [
    pytest.param("echo x > {outside}/new", id="a-new-file-outside"),
    pytest.param("echo x >> {outside}/canary", id="a-file-outside"),
    pytest.param("rm -rf {outside}/* {outside}", id="removal-outside"),
    pytest.param("ln -s {outside} out; echo x > out/new; rm -f out/canary", id="through-a-link"),
    pytest.param("mv /ws/../outside/canary taken", id="a-move"),
    pytest.param("chmod 777 {outside}/canary; chown 0 {outside}", id="rights-outside"),
    pytest.param("echo x > /proc/1/root{outside}/new", id="through-process-one"),
    pytest.param("echo x > /proc/{pid}/cwd/new; echo x > /proc/{pid}/root{outside}/n", id="by-pid"),
    pytest.param("mount -o remount,rw /usr; echo x > /usr/bin/{mark}", id="remount"),
    pytest.param("mkdir o; mount --bind {outside} o; echo x > o/new", id="bind"),
    pytest.param("mknod disk b 259 0; mknod d8 b 8 0; echo x > disk; echo x > d8", id="devices"),
    pytest.param("tar c -C / proc/1/root{outside} 2>/dev/null | tar x -C /ws", id="tar"),
]


@pytest.mark.parametrize("command", WRITING)
def test_it_writes_nothing_outside(hands: Hands, command: str) -> None:
    words = {"outside": hands.outside, "pid": hands.process.pid, "mark": MARK}
    done = sh(hands, command.format(**words))
    assert "stdout" in done["data"], done
    assert hands.is_outside_unchanged()
    assert not Path("/usr/bin", MARK).exists()
    assert not (hands.process.home / "new").exists()


@pytest.mark.parametrize(
    "place", ["/", "/usr", "/usr/lib", "/usr/local/bin", "/etc", "/dev", "/proc", "/bin", "/lib"]
)
def test_the_system_cannot_be_changed(hands: Hands, place: str) -> None:
    done = sh(hands, f"echo x > {place}/{MARK}; ls {place}/{MARK}")
    assert done["data"]["stdout"] == ""
    assert not Path(place, MARK).exists()


SETTINGS = [
    pytest.param("echo 0 > /proc/sys/kernel/randomize_va_space", id="sysctl"),
    pytest.param("echo '|/ws/x' > /proc/sys/kernel/core_pattern", id="core-pattern"),
    pytest.param("echo b > /proc/sysrq-trigger", id="sysrq"),
    pytest.param("echo -1000 > /proc/self/oom_score_adj", id="out-of-memory-score"),
    pytest.param("echo '0 0 1' > /proc/self/uid_map", id="uid-map"),
    pytest.param("hostname attacked", id="host-name"),
    pytest.param("date -s 2001-01-01", id="clock"),
    pytest.param("ulimit -n 100000", id="its-limit-of-files"),
    pytest.param("ulimit -v unlimited", id="its-limit-of-memory"),
    pytest.param("ulimit -c unlimited", id="its-limit-of-cores"),
    pytest.param("setpriv --reuid=0 true", id="becoming-root"),
    pytest.param("cp /bin/sh suid; chmod u+s suid; ./suid -pc '[ $(id -u) = 0 ]'", id="setuid"),
    pytest.param("su -c true root </dev/null", id="su"),
]


@pytest.mark.parametrize("command", SETTINGS)
def test_it_changes_no_setting(hands: Hands, command: str) -> None:
    done = sh(hands, f"{command} && echo {MARK}")
    assert done["data"]["exit_status"] != 0
    assert MARK not in done["data"]["stdout"]
    assert socket.gethostname() != "attacked"


# --- system calls ----------------------------------------------------------------------------

CALLS = """\
import ctypes, errno, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = {
    "x86_64": dict(ptrace=101, mount=165, umount2=166, pivot_root=155, unshare=272, setns=308,
        keyctl=250, add_key=248, request_key=249, bpf=321, userfaultfd=323, perf_event_open=298,
        io_uring_setup=425, open_by_handle_at=304, kexec_load=246, init_module=175,
        finit_module=313, process_vm_readv=310, chroot=161, clock_settime=227, sethostname=170,
        swapon=167, reboot=169, clone=56, clone3=435, ioctl=16, socket=41, open_tree=428,
        fsopen=430, pidfd_getfd=438, mount_setattr=442, syslog=103, acct=163),
    "aarch64": dict(ptrace=117, mount=40, umount2=39, pivot_root=41, unshare=97, setns=268,
        keyctl=219, add_key=217, request_key=218, bpf=280, userfaultfd=282, perf_event_open=241,
        io_uring_setup=425, open_by_handle_at=265, kexec_load=104, init_module=105,
        finit_module=273, process_vm_readv=270, chroot=51, clock_settime=112, sethostname=161,
        swapon=224, reboot=142, clone=220, clone3=435, ioctl=29, socket=198, open_tree=428,
        fsopen=430, pidfd_getfd=438, mount_setattr=442, syslog=116, acct=89),
}[platform.machine()]
for name, args in WANTED:
    result = libc.syscall(numbers[name], *args)
    print(name, *args, "->", result, errno.errorcode.get(ctypes.get_errno(), "?"), flush=True)
"""
DENIED = {
    **dict.fromkeys(("ptrace", "mount", "umount2", "pivot_root", "setns", "keyctl"), (0, 0, 0, 0)),
    **dict.fromkeys(("add_key", "request_key", "bpf", "perf_event_open"), (0, 0, 0, 0, 0)),
    **dict.fromkeys(("userfaultfd", "io_uring_setup", "open_by_handle_at"), (1, 0, 0)),
    **dict.fromkeys(("kexec_load", "init_module", "finit_module", "swapon"), (0, 0, 0, 0)),
    **dict.fromkeys(("process_vm_readv", "chroot", "clock_settime", "reboot"), (0, 0, 0, 0, 0)),
    **dict.fromkeys(("sethostname", "open_tree", "fsopen", "mount_setattr"), (0, 0, 0)),
    **dict.fromkeys(("pidfd_getfd", "syslog", "acct"), (0, 0, 0)),
    "unshare": (0x10000000,),
}


NAMESPACES = [1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)]
FAMILIES = (17, 38, 40, 41, 15, 29, 31, 44)
REQUESTS = (0x5412, 0x541C, 0x1_0000_5412)
WANTED: List[Tuple[str, Tuple[int, ...]]] = [
    *DENIED.items(),
    *(("clone", (flag, 0, 0, 0, 0)) for flag in NAMESPACES),
    *(("socket", (family, 2, 0)) for family in FAMILIES),
    *(("ioctl", (0, request, 0)) for request in REQUESTS),
]


@functools.cache
def said(hands_of: str) -> Dict[str, str]:
    """What each call said to a script that made them all; filled by `syscall`."""
    return {}


def syscall(hands: Hands, name: str, args: Tuple[int, ...]) -> str:
    found = said(hands.user)
    if not found:
        done = py(hands, f"WANTED = {[*WANTED, ('clone3', (0, 0))]!r}\n{CALLS}")
        assert done["success"], done
        lines = done["data"]["stdout"].splitlines()
        found.update((line.split(" -> ")[0], line.split(" -> ")[1]) for line in lines)
    return found[" ".join(map(str, (name, *args)))]


@pytest.mark.parametrize(
    ("name", "args"), [pytest.param(n, a, id=f"{n}-{a[:2]}") for n, a in WANTED]
)
def test_a_system_call_is_not_permitted(hands: Hands, name: str, args: Tuple[int, ...]) -> None:
    assert syscall(hands, name, args) == "-1 EPERM"


def test_what_cannot_be_looked_into_does_not_exist(hands: Hands) -> None:
    assert syscall(hands, "clone3", (0, 0)) == "-1 ENOSYS"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only there a number has other meanings")
@pytest.mark.parametrize(
    "number", [0x40000000 + 39, 0x40000000 + 165], ids=["x32-getpid", "x32-mount"]
)
def test_calls_of_another_kind_end_the_process(hands: Hands, number: int) -> None:
    code = f"import ctypes; print('survived', ctypes.CDLL(None).syscall({number}))"
    done = py(hands, code)
    assert not done["success"]
    assert "survived" not in done["data"]["stdout"]
    assert "SIGSYS" in done["output"]


# --- the network -----------------------------------------------------------------------------


@contextmanager
def listening(family: int, address: Any) -> Iterator[List[Any]]:
    """A server of this machine, and who came to it; never waits for anybody."""
    came: List[Any] = []
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()

        def serve() -> None:
            try:
                while True:
                    came.append(server.accept()[1])
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        came_to = [server.getsockname(), came]
        try:
            yield came_to
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


CONNECT = "import socket\ns = socket.socket({family})\ns.settimeout(2)\ns.connect({address!r})\n"


@pytest.mark.parametrize(
    ("family", "address", "asked"),
    [
        pytest.param(2, ("127.0.0.1", 0), "127.0.0.1", id="loopback"),
        pytest.param(2, ("0.0.0.0", 0), "0.0.0.0", id="any-address"),
        pytest.param(10, ("::1", 0), "::1", id="loopback-6"),
        pytest.param(1, f"\0{MARK}", f"\0{MARK}", id="abstract-unix-socket"),
    ],
)
def test_no_server_of_this_machine_is_reached(
    hands: Hands, family: int, address: Any, asked: str
) -> None:
    with listening(family, address) as (name, came):
        target = asked if family == 1 else (asked, name[1])
        done = py(hands, CONNECT.format(family=family, address=target))
        assert not done["success"]
        assert came == []
        with socket.socket(family) as proof:  # it is there, for others
            proof.connect(name)


def test_a_unix_socket_beside_the_workspace_is_not_reached(hands: Hands) -> None:
    path = hands.outside / "socket"
    with listening(socket.AF_UNIX, str(path)) as (_, came):
        path.chmod(0o777)
        assert not py(hands, CONNECT.format(family=1, address=str(path)))["success"]
        assert came == []


def test_there_is_only_an_empty_loopback(hands: Hands) -> None:
    done = sh(hands, "tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route")
    assert done["data"]["stdout"].split() == ["lo"]


def test_with_the_network_it_is_there(hands: Hands) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as (name, came):
        code = CONNECT.format(family=2, address=tuple(name))
        assert py(hands, code, shell_network=True)["success"]
        assert len(came) == 1


# --- what stays behind -----------------------------------------------------------------------

STAYING = [
    pytest.param("sleep 6{n} & exit 0", id="in-the-background"),
    pytest.param("nohup sleep 6{n} >/dev/null 2>&1 & exit 0", id="nohup"),
    pytest.param("setsid sleep 6{n} & sleep 0.1; exit 0", id="setsid"),
    pytest.param("(setsid sh -c 'setsid sleep 6{n} &' &); sleep 0.1", id="two-forks"),
    pytest.param("trap '' TERM HUP INT; sleep 6{n} & exit 0", id="deaf-to-signals"),
    pytest.param("(while true; do sleep 6{n}; done) & sleep 0.1", id="a-loop"),
]


@pytest.mark.parametrize("command", STAYING)
def test_nothing_stays_behind(hands: Hands, command: str, request: Any) -> None:
    number = str(abs(hash(request.node.name)) % 1_000_000).zfill(6)
    done = sh(hands, command.format(n=number))
    assert done["success"], done
    assert left_running(f"6{number}", 0.0) == []


def test_a_cancelled_command_leaves_nothing(hands: Hands) -> None:
    args = {"command": "setsid sleep 7123451 & echo begun; sleep 7123451"}
    running = hands.begin("shell", args, permits={"shell": True})
    running.wait_for_line("begun")
    running.cancel()
    assert not running.result()["success"]
    assert left_running("7123451") == []


def test_outsiders_cannot_be_killed(hands: Hands) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        sh(hands, f"kill -9 {victim.pid} {hands.process.pid}; kill -9 -1; kill -9 -- -{victim.pid}")
        assert victim.poll() is None
        assert sh(hands, "true")["success"]
    finally:
        victim.kill()
        victim.communicate()


# --- taking too much -------------------------------------------------------------------------

GREED = [
    pytest.param("f() {{ f | f & }}; f; sleep 1", id="a-fork-bomb"),
    pytest.param("for i in $(seq 2000); do sleep 8{n} & done; wait", id="many-processes"),
    pytest.param("head -c 300M /dev/zero > /tmp/big && echo {mark}", id="a-full-tmp"),
    pytest.param("head -c 300M /dev/zero > /dev/shm/big && echo {mark}", id="a-full-shm"),
    pytest.param("truncate -s 1T big && echo {mark}", id="a-sparse-file"),
    pytest.param("dd if=/dev/zero of=big bs=1 seek=100G count=1 && echo {mark}", id="a-hole"),
    pytest.param("while :; do :; done", id="busy"),
    pytest.param("yes | head -c 1G; echo {mark}$(ulimit -v)x >/dev/null", id="a-flood-of-output"),
]


@pytest.mark.parametrize("command", GREED)
def test_greed_ends(hands: Hands, command: str) -> None:
    number = f"{os.getpid():07d}"
    done = sh(hands, command.format(n=number, mark=MARK), 1.0, workspace_mb=50)
    assert done["took_s"] < 12
    assert MARK not in done["data"]["stdout"]
    assert len(printed(done)) < 1_000_000
    assert left_running(f"8{number}", 0.0) == []
    assert sum(p.stat().st_blocks for p in hands.workspace.rglob("*")) * 512 < 60 << 20


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("x = bytearray(100 << 30)", id="memory"),
        pytest.param("import mmap\nmmap.mmap(-1, 100 << 30)", id="mapped-memory"),
        pytest.param("[open('/dev/null') for _ in range(300)]", id="descriptors"),
        pytest.param("import socket\n[socket.socketpair() for _ in range(300)]", id="sockets"),
        pytest.param(
            "import threading\nfor _ in range(1000):\n    "
            "threading.Thread(target=threading.Event().wait, daemon=True).start()",
            id="threads",
        ),
    ],
)
def test_more_than_it_may_have_is_an_error_of_its_own(hands: Hands, code: str) -> None:
    done = py(hands, code)
    assert not done["success"]
    assert "Error" in done["data"]["stderr"]


def test_the_limits_hold_for_the_first_process_inside(hands: Hands) -> None:
    """A command of the same user can write into its memory, and be it."""
    look = "grep -E '^Max (cpu time|file size|processes|open files|address|core)' /proc/{}/limits"
    done = sh(hands, f"{look.format(1)}; {look.format('$$')}")
    lines = done["data"]["stdout"].splitlines()
    assert len(lines) == 12, done
    assert lines[:6] == lines[6:]
    assert not [line for line in lines if "unlimited" in line]


# --- planted for later -----------------------------------------------------------------------


def test_files_in_the_workspace_do_not_become_part_of_the_next_script(hands: Hands) -> None:
    plant = "for m in json os site sitecustomize usercustomize; do echo 'print(666)' > $m.py; done"
    assert sh(hands, plant)["success"]
    done = py(hands, "import json, os, site\nprint(json.dumps({'a': 1}))")
    assert done["data"]["stdout"] == '{"a": 1}\n'


def test_profiles_and_libraries_are_not_loaded_by_the_next_command(hands: Hands) -> None:
    plant = "for f in .profile .bashrc .shrc; do echo 'echo 666' > $f; done; echo x > ld.so.preload"
    assert sh(hands, f"export LD_PRELOAD=/ws/x.so ENV=/ws/.shrc; {plant}")["success"]
    assert sh(hands, "env | grep -c -e LD_ -e ENV=; sh -c true")["data"]["stdout"] == "0\n"


def test_links_that_a_command_plants_lead_no_skill_outside(hands: Hands) -> None:
    planted = sh(hands, f"ln -s {hands.outside} out; ln -s {hands.canary} file; mkfifo pipe")
    assert planted["success"]
    for name in ("out/canary", "file", "pipe"):
        done = hands.call("read_file", {"path": name}, secrets=())
        assert not done["success"]
        assert CANARY not in printed(done)
        written = hands.call("write_file", {"path": name, "content": "x"}, secrets=())
        assert not written["success"]
    assert hands.is_outside_unchanged()


@pytest.mark.parametrize("option", ["read_paths", "write_paths"])
def test_no_permit_opens_the_workspaces_of_others(hands: Hands, option: str) -> None:
    permits: Dict[str, Any] = {option: [str(hands.folder)]}
    done = sh(hands, f"cat {hands.canary}", **permits)
    assert CANARY not in printed(done)


# --- paths that the owner gives --------------------------------------------------------------

SWAPS = [
    pytest.param("{canary}", ["shared/in"], ["shared"], id="read-below-write"),
    pytest.param("{canary}", [], ["shared", "shared/in"], id="write-below-write"),
    pytest.param("../outside/canary", [], ["shared", "shared/in"], id="a-relative-link"),
    pytest.param("{canary}", ["alias"], ["shared"], id="a-link-of-the-owner"),
    pytest.param("{canary}", [], ["shared", "alias"], id="a-link-of-the-owner-to-write"),
    pytest.param("{canary}", ["behind/in"], ["shared"], id="behind-a-link-of-the-owner"),
]


@pytest.mark.parametrize(("target", "read", "write"), SWAPS)
def test_a_link_in_place_of_a_permitted_path_shows_nothing(
    hands: Hands, target: str, read: List[str], write: List[str]
) -> None:
    shared = hands.folder / "shared"
    (shared / "in").mkdir(parents=True)
    (hands.folder / "alias").symlink_to(shared / "in")
    (hands.folder / "behind").symlink_to(shared)
    hands.give(shared, shared / "in")
    for folder in (shared, shared / "in"):
        folder.chmod(0o777)
    permits: Dict[str, Any] = {"write_paths": [str(shared)]}
    planted = target.format(canary=hands.canary)
    assert sh(hands, f"rmdir {shared}/in && ln -s {planted} {shared}/in", **permits)["success"]
    assert (shared / "in").is_symlink()
    hands.canary.chmod(0o666)  # nothing but the sandbox is in the way
    hands.outside_is_now()
    places = " ".join(str(hands.folder / one) for one in (*read, *write))
    find = f"find -L {places} -type f -exec sh -c 'cat $1; echo x >>$1' sh {{}} ';'; ls {shared}"
    wanted = {"read_paths": read, "write_paths": write}
    given: Dict[str, Any] = {
        name: [str(hands.folder / one) for one in ones] for name, ones in wanted.items()
    }
    done = sh(hands, find, **given)
    assert done["data"]["stdout"] == "in\n", done
    assert hands.is_outside_unchanged()


@pytest.mark.parametrize("levels", [150, 3000])
def test_a_deep_tree_does_not_keep_the_next_command_from_running(hands: Hands, levels: int) -> None:
    deep = f"import os\nfor _ in range({levels}):\n    os.mkdir('d')\n    os.chdir('d')"
    py(hands, deep)
    try:
        assert sh(hands, "ls")["data"]["stdout"] == "d\n"
    finally:
        trash.discard(hands.workspace, "d")  # what else removes trees fails at such a depth
        trash.empty(hands.workspace)
