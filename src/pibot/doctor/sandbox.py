"""What limits the shell: bubblewrap with its namespaces, and the memory cgroup."""

from __future__ import annotations

import re
import stat
from typing import Iterator, Optional, Tuple

from pibot.agent.text import short
from pibot.deploy.layout import USER
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings, has_user
from pibot.skills._sandbox import BWRAP, outline

_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
)
_PROFILE = "bwrap-userns-restrict"
_TOO_OLD = ("it is older than 0.8", "sudo apt update && sudo apt install bubblewrap")


def sandbox(here: Surroundings) -> Iterator[Finding]:
    """A real trial run, as the user who runs the services."""
    if not here.at(BWRAP).exists():
        install = "sudo apt install bubblewrap"
        yield warn("sandbox", "bubblewrap is not installed: no shell in a sandbox", install)
        return
    if here.at(BWRAP).stat().st_mode & stat.S_ISUID:
        fix = f"sudo chmod u-s {BWRAP}"
        yield fail("sandbox", f"{BWRAP} is setuid root, which gives a shell too much", fix)
        return
    words = (*outline(as_root=False), "--unshare-net", "--", "/bin/true")
    said = here.ask(BWRAP, *words, user=_service_user(here))
    if said is not None and said.status == 0:
        yield ok("sandbox", "bubblewrap works")
        return
    why = "it cannot be run" if said is None else short(said.err, 120) or f"status {said.status}"
    cause, fix = _TOO_OLD if "Unknown option" in why else _cause(here)
    yield warn("sandbox", f"bubblewrap does not work: {cause or why}", fix)


def _service_user(here: Surroundings) -> Optional[str]:
    """Root may make namespaces where the service's user may not."""
    if not here.is_root:
        return None
    return USER if has_user(USER) else "nobody"


def _cause(here: Surroundings) -> Tuple[str, str]:
    """What is known to forbid namespaces, and what allows them; ("", a look) if nothing is."""
    for name, value, setting in _SYSCTLS:
        if here.text(f"/proc/sys/{name}").strip() == value:
            keep = f"echo {setting} | sudo tee /etc/sysctl.d/60-pibot.conf && sudo sysctl --system"
            return "the kernel forbids user namespaces", keep
    restricted = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    if here.text(restricted).strip() == "1":
        return "AppArmor forbids user namespaces", (
            "sudo apt install apparmor-profiles && sudo install -m 644 "
            f"/usr/share/apparmor/extra-profiles/{_PROFILE} /etc/apparmor.d/ && "
            f"sudo apparmor_parser -r /etc/apparmor.d/{_PROFILE}"
        )
    return "", f"{BWRAP} --unshare-all --ro-bind / / --proc /proc --dev /dev /bin/true"


def memory_cgroup(here: Surroundings) -> Iterator[Finding]:
    """Without it no limit of memory holds; Raspberry Pi OS leaves it off."""
    if _has_memory_cgroup(here):
        yield ok("memory cgroup", "limits of memory hold")
        return
    message = "is off: a service's limit of memory does not hold"
    boot = next(
        (p for p in ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt") if here.at(p).is_file()), ""
    )
    if not boot:
        fix = "add cgroup_enable=memory to the kernel's command line, then: sudo reboot"
    elif "cgroup_enable=memory" in here.text(boot):
        fix = "sudo reboot"
        if "cgroup_enable=memory" in here.text("/proc/cmdline"):
            fix = "sudo apt full-upgrade && sudo reboot"  # this kernel does not obey
    else:
        fix = f"sudo sed -i '1s/$/ cgroup_enable=memory cgroup_memory=1/' {boot} && sudo reboot"
    yield warn("memory cgroup", message, fix)


def _has_memory_cgroup(here: Surroundings) -> bool:
    """By version 2's list of controllers, else by version 1's table."""
    listed = here.text("/sys/fs/cgroup/cgroup.controllers").split()
    table = re.search(r"^memory\s+\d+\s+\d+\s+(\d)", here.text("/proc/cgroups"), re.MULTILINE)
    return "memory" in listed if listed else bool(table and table[1] == "1")
