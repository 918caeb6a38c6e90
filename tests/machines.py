"""Whole Debian machines for a test: systemd as PID 1, a network of their own, nothing shared.

    with Lab(tmp_path, {"master": "192.168.1.10", "worker-1": "192.168.1.11"}) as lab:
        lab["master"].run("sudo systemctl is-active ssh").out

Each machine has the same clean Debian on a disk of its own, and is booted by systemd-nspawn in a
network namespace; a bridge in one more namespace joins them, so that the host's own network is left
alone. All of them know each other as NAME.local, and pi, who may use sudo, may go from each to each
with ssh.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, List, Mapping, Optional, Tuple, Type

from fleet_processes import ROOT, Finished, wait_for
from terminal import Terminal

ROOTS = ROOT / "build" / "stage" / "roots"
RELEASE = "bookworm"
# What is on every Raspberry Pi OS as well, as far as the guides need it.
PACKAGES = (
    "ca-certificates,curl,dbus,iproute2,less,openssh-client,openssh-server,procps,python3,"
    "sudo,systemd,systemd-sysv,ufw"
)
# What the guides install: the files lie ready, because the machines have no Internet.
READY_PACKAGES = "mosquitto mosquitto-clients bubblewrap"
TOOLS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2"}
USER = "pi"
ROUTER = "192.168.1.1"  # the bridge: a home router whose line is down
BOOT_S = 60.0
RUN_S = 120.0
LOG_LINES = 40
PREPARE = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
rm -rf /var/cache/apt/archives/*.deb /usr/share/doc/* /usr/share/locale/* /usr/share/man/*
apt-get install -y -q --download-only --no-install-recommends {READY_PACKAGES}
useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
install -d -m 0700 -o {USER} -g {USER} /home/{USER}/.ssh
su {USER} -c 'ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/id_ed25519'
su {USER} -c 'cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys'
printf '* %s\\n' "$(cat /etc/ssh/ssh_host_ed25519_key.pub)" >/etc/ssh/ssh_known_hosts
echo 'Acquire::Retries "0";' >/etc/apt/apt.conf.d/lab
echo 'nameserver {ROUTER}' >/etc/resolv.conf
"""


def what_is_missing() -> str:
    """Why no machine can be booted here, "" when it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can boot machines: run `sudo make test-system`"
    packages = sorted(package for tool, package in TOOLS.items() if not shutil.which(tool))
    return f"run: apt-get install {' '.join(packages)}" if packages else ""


def clean_debian() -> Path:
    """A root file system that nobody has used; made once for each recipe."""
    recipe = hashlib.sha256(f"{RELEASE} {PACKAGES} {PREPARE}".encode()).hexdigest()[:8]
    root = ROOTS / f"{RELEASE}-{recipe}"
    if not root.exists():
        made = ROOTS / f".{root.name}-{os.getpid()}"
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            include = f"--include={PACKAGES}"
            _host("debootstrap", "--variant=minbase", include, RELEASE, str(made), timeout_s=900)
            _host("chroot", str(made), "sh", "-c", PREPARE, timeout_s=300)
            _rename_unless_there(made, root)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return root


def _rename_unless_there(made: Path, root: Path) -> None:
    try:
        made.rename(root)
    except OSError:
        if not root.exists():  # another test has made it at the same time
            raise


def _host(*command: str, timeout_s: float = 60.0) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
    )
    if done.returncode != 0:
        raise AssertionError(f"{shlex.join(command)}: {done.stdout[-2000:]}")
    return done.stdout


class ControlGroup:
    """A control group for one machine. On a host with systemd, that one gives it to nspawn; on
    others all machines would have one and the same, and each would manage the others' processes.
    """

    def __init__(self, name: str) -> None:
        self.is_ours = not Path("/run/systemd/system").is_dir()
        self._folders = [path / name for path in _hierarchies()] if self.is_ours else []

    def make(self) -> None:
        self.remove()
        for folder in self._folders:
            folder.mkdir()

    def join(self) -> None:
        """Move this process there."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        for folder in self._folders:
            inside = [Path(parent) for parent, _, _ in os.walk(folder, topdown=False)]
            for path in inside:
                path.rmdir()


def _hierarchies() -> List[Path]:
    """Where the control groups are mounted in which systemd keeps its services."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


class Machine:
    """One machine. Off until `boot`; what is on its disk stays when it is off."""

    def __init__(self, name: str, folder: Path, namespace: str) -> None:
        self.name = name
        self.root = folder / name
        self._namespace = namespace
        self._group = ControlGroup(namespace)
        self._layers = folder / f"{name}.layers"
        self._console = folder / f"{name}.console"
        self._popen: Optional["subprocess.Popen[bytes]"] = None

    # --- the disk -------------------------------------------------------------------------------

    def install(self, debian: Path) -> None:
        """Give it a disk with a Debian: a layer over it, or a copy where there are no layers."""
        layers = [self._layers / name for name in ("upper", "work")]
        for folder in (self.root, *layers):
            folder.mkdir(parents=True)
        options = f"lowerdir={debian},upperdir={layers[0]},workdir={layers[1]}"
        try:
            _host("mount", "-t", "overlay", "-o", options, "overlay", str(self.root))
        except AssertionError:
            self.root.rmdir()
            _host("cp", "-a", "--reflink=auto", str(debian), str(self.root))

    def scrap(self) -> None:
        """Remove its disk."""
        if self.root.is_mount():
            _host("umount", str(self.root))
        for folder in (self.root, self._layers):
            shutil.rmtree(folder, ignore_errors=True)

    # --- power ----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on; return at once."""
        command = ["systemd-nspawn", "-q", "--boot", "-D", str(self.root), "--console=pipe"]
        command += ["--machine", self._namespace, "--hostname", self.name]
        command += ["--register=no", *(["--keep-unit"] if self._group.is_ours else [])]
        command += ["--link-journal=no", "--resolv-conf=off", "--timezone=off"]
        command += [f"--network-namespace-path=/run/netns/{self._namespace}"]
        self._group.make()
        with self._console.open("ab") as console:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],  # nobody outlives the test
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=self._group.join,
            )

    def wait_until_up(self) -> None:
        """Return once it has reached its target."""
        wait_for(self._is_up, BOOT_S, f"{self.name} has booted", self._said_on_console)

    def _is_up(self) -> bool:
        assert self._popen and self._popen.poll() is None, self._said_on_console()
        if not self._first_process():
            return False
        said = self._inside("systemctl", "is-system-running").out.strip()
        return said in ("running", "degraded")

    def cut_power(self) -> None:
        """All its processes are gone at once, with no word to anybody."""
        first = self._first_process()
        if first:
            os.kill(first, signal.SIGKILL)
        self.wait_until_off()

    def reboot(self) -> None:
        """Return once it is up again."""
        self.run("sudo reboot", check=None)
        self.wait_until_off()
        self.boot()
        self.wait_until_up()

    def wait_until_off(self) -> None:
        if self._popen:
            self._popen.wait(BOOT_S)
            self._popen = None
            self._group.remove()

    # --- use ------------------------------------------------------------------------------------

    def run(
        self, script: str, check: Optional[int] = 0, user: str = USER, timeout_s: float = RUN_S
    ) -> Finished:
        """Run a script in a login shell; `out` has what it printed, errors included."""
        done = self._inside(*_as(user, script), timeout_s=timeout_s)
        if check is not None and done.status != check:
            raise AssertionError(f"{self.name}$ {script}\nstatus {done.status}\n{done.out}")
        return done

    def converse(
        self, script: str, talk: Callable[[Terminal], None], timeout_s: float = RUN_S
    ) -> Finished:
        """Run a script on a terminal, with somebody who reads and types."""
        with Terminal(self._enter(*_as(USER, script)), os.environ) as terminal:
            talk(terminal)
            status = terminal.finish(timeout_s)
        return Finished(status, terminal.plain, "")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file of root's on its disk."""
        there = self.root / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text, encoding="utf-8")
        there.chmod(mode)

    def give(self, source: Path) -> None:
        """Put a copy of a file into the home of pi."""
        home = self.root / "home" / USER
        shutil.copy(source, home / source.name)
        os.chown(home / source.name, home.stat().st_uid, home.stat().st_gid)

    def files(self, *tops: str) -> List[str]:
        """The paths of all that is below some directories: files, links, directories."""
        return sorted(self._inside("find", *tops, "-xdev").out.splitlines())

    def beside(self, *command: str) -> "subprocess.Popen[str]":
        """Start a process of the host that sees this machine's network."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self._namespace, "setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def journal(self) -> str:
        """The end of its log, for the message of a failed test."""
        if not self._first_process():
            return self._said_on_console()
        args = ["--no-pager", "--quiet", "--lines", str(LOG_LINES)]
        return self._inside("journalctl", *args, "--unit=pibot*", "--unit=mosquitto*").out

    def _inside(self, *command: str, timeout_s: float = RUN_S) -> Finished:
        """Run a command as root inside; what it says to both streams is its `out`."""
        done = subprocess.run(
            self._enter(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
        return Finished(done.returncode, done.stdout, "")

    def _enter(self, *command: str) -> List[str]:
        return ["nsenter", "--target", str(self._first_process()), "--all", "--", *command]

    def _first_process(self) -> int:
        """Its PID 1, seen from here; 0 when it is off."""
        if not self._popen or self._popen.poll() is not None:
            return 0
        pid = self._popen.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
            except FileNotFoundError:
                pass
        return 0

    def _said_on_console(self) -> str:
        text = self._console.read_text("utf-8", "replace") if self._console.exists() else ""
        return "\n".join([f"--- {self.name}", *text.splitlines()[-LOG_LINES:]])


def _as(user: str, script: str) -> Tuple[str, ...]:
    return ("/usr/sbin/runuser", "--login", user, "--command", script)


class Lab:
    """Machines in one network. Leaving it switches all off and leaves nothing running."""

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        self._folder, self._addresses = folder, dict(addresses)
        self._prefix = f"pibot-{os.getpid()}"
        self._namespaces: List[str] = []
        self._machines: Dict[str, Machine] = {}

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __enter__(self) -> "Lab":
        missing = what_is_missing()
        assert not missing, missing  # whoever starts this meant it: nothing is skipped in silence
        try:
            debian = clean_debian()
            self._namespace("router")
            self._ip("router", "link add lan type bridge")
            self._ip("router", f"addr add {ROUTER}/24 dev lan")
            self._ip("router", "link set lan up")
            for name in self._addresses:
                self._machines[name] = self._install(name, debian)
            for machine in self._machines.values():
                machine.boot()
            for machine in self._machines.values():
                machine.wait_until_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch everything off and remove the network and the disks."""
        for machine in self._machines.values():
            machine.cut_power()
            machine.scrap()
        self._machines.clear()
        while self._namespaces:
            _host("ip", "netns", "delete", self._namespaces.pop())

    def journals(self) -> str:
        """The ends of all logs, for the message of a failed test."""
        parts = [f"--- {name}\n{machine.journal()}" for name, machine in self._machines.items()]
        return "\n".join(parts)

    def _install(self, name: str, debian: Path) -> Machine:
        """A disk of its own, a name, an address and a cable to the bridge."""
        namespace = self._namespace(name)
        cable = f"to-{name}"[:15]
        self._ip("router", f"link add {cable} type veth peer name eth0 netns {namespace}")
        self._ip("router", f"link set {cable} master lan up")
        self._ip(name, f"addr add {self._addresses[name]}/24 dev eth0")
        self._ip(name, "link set eth0 up")
        self._ip(name, f"route add default via {ROUTER}")
        machine = Machine(name, self._folder, namespace)
        machine.install(debian)
        machine.write("/etc/hostname", f"{name}\n")
        machine.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        known = [f"{address} {other}.local" for other, address in self._addresses.items()]
        known = ["127.0.0.1 localhost", f"127.0.1.1 {name}", *known, ""]
        machine.write("/etc/hosts", "\n".join(known))
        return machine

    def _namespace(self, name: str) -> str:
        namespace = f"{self._prefix}-{name}"
        _host("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        self._ip(name, "link set lo up")
        return namespace

    def _ip(self, name: str, words: str) -> None:
        _host("ip", "-n", f"{self._prefix}-{name}", *words.split())
