"""What a Pi and other machines say of themselves: clock, disks, heat, power, memory cgroup."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest

from pibot.doctor import machine as checks
from pibot.doctor import sandbox
from pibot.doctor.findings import Finding
from recorded_machine import Machine
from small_disk import small_disk

NOON = 1_780_000_000.0  # a day in 2026
ZONE = "/sys/class/thermal/thermal_zone0"
THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
STOCK_CMDLINE = "console=tty1 root=PARTUUID=2ab63b31-02 rootfstype=ext4 rootwait\n"
STOCK_CONTROLLERS = "cpuset cpu io pids\n"


# --- Python -------------------------------------------------------------------------------------


def test_the_services_python_counts(machine: Machine) -> None:
    machine.role("worker")
    machine.says("/usr/bin/python3", "3 9 2")
    assert [f.state for f in machine.find(checks.python)] == ["ok"]
    machine.says("/usr/bin/python3", "3 7 3")
    old = machine.find(checks.python)[-1]
    assert (old.state, old.message) == ("fail", "/usr/bin/python3 is 3.7.3, and PiBot needs 3.9")


def test_a_missing_python(machine: Machine) -> None:
    machine.role("worker")
    assert machine.find(checks.python)[-1].fix == "sudo apt install python3"


# --- the clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state", "fix"),
    [
        ("NTP=yes\nNTPSynchronized=yes\nCanNTP=yes", "ok", None),
        ("NTP=no\nNTPSynchronized=yes\nCanNTP=no", "ok", None),  # chrony keeps it
        ("NTP=no\nNTPSynchronized=no\nCanNTP=yes", "warn", "sudo timedatectl set-ntp true"),
        ("NTP=no\nNTPSynchronized=no\nCanNTP=no", "warn", "sudo apt install systemd-timesyncd"),
    ],
)
def test_clock(machine: Machine, said: str, state: str, fix: str) -> None:
    machine.says("/usr/bin/timedatectl", said)
    (found,) = machine.find(checks.clock, now=lambda: NOON)
    assert (found.state, found.fix) == (state, fix)


def test_clock_that_has_not_found_a_server(machine: Machine) -> None:
    machine.says("/usr/bin/timedatectl", "NTP=yes\nNTPSynchronized=no\nCanNTP=yes")
    (found,) = machine.find(checks.clock, now=lambda: NOON)
    assert found.state == "warn" and "timesync-status" in found.fix


def test_a_pi_without_a_battery(machine: Machine) -> None:
    (found,) = machine.find(checks.clock, now=lambda: 86_400.0)
    assert (found.state, found.message) == ("fail", "the date is 1970-01-02")


def test_a_machine_without_timedatectl(machine: Machine) -> None:
    machine.says("/usr/bin/timedatectl", "System has not been booted with systemd", 1)
    (found,) = machine.find(checks.clock, now=lambda: NOON)
    assert found.state == "ok" and "does not say" in found.message
    machine.file("/run/systemd/timesync/synchronized")
    (found,) = machine.find(checks.clock, now=lambda: NOON)
    assert found.message.endswith("synchronised") and "does not" not in found.message


# --- disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mib", "files", "state", "word"),
    [
        (20_000, 100_000, "ok", "19.5 GiB"),
        (600, 100_000, "ok", "600 MiB"),
        (499, 100_000, "warn", "nearly full"),
        (49, 100_000, "fail", "is full"),
        (20_000, 1_999, "warn", "1999 more files"),
        (20_000, 99, "fail", "99 more files"),
        (10, 0, "fail", "is full"),
    ],
)
def test_space(mib: int, files: int, state: str, word: str) -> None:
    found = checks.judge_space("/", mib, files)
    assert found.state == state and word in found.message
    assert (found.fix is None) == (state == "ok")


def test_a_full_disk(machine: Machine) -> None:
    with small_disk(machine.root / "var/lib/pibot", "1m") as small:
        found = machine.find(checks.disks, [small])
    assert [f.state for f in found] == ["ok", "fail"]
    assert found[1].message == "/var/lib/pibot is full: 1 MiB are free"


def test_one_file_system_is_told_once(machine: Machine) -> None:
    machine.root.mkdir()
    assert len(machine.find(checks.disks, [machine.root / "var/lib/pibot"])) == 1


@pytest.mark.parametrize(
    ("mounts", "places"),
    [
        ("/dev/mmcblk0p2 / ext4 rw,noatime 0 0\n/dev/mmcblk0p1 /boot vfat ro 0 0\n", []),
        ("/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n", ["/"]),
        ("/dev/a / ext4 ro 0 0\n/dev/b /var ext4 rw 0 0\n", ["/"]),
        ("/dev/a / ext4 rw 0 0\n/dev/b /var ext4 ro 0 0\n", ["/var"]),
        ("/dev/a / ext4 rw 0 0\n/dev/b /var/libx ext4 ro 0 0\n", []),
        ("/dev/a / ext4 ro 0 0\noverlay / overlay rw 0 0\n", []),
    ],
)
def test_a_card_that_became_read_only(machine: Machine, mounts: str, places: Any) -> None:
    machine.file("/proc/mounts", mounts)
    found = machine.find(checks.disks, [machine.root / "var/lib/pibot"])
    assert [f.message.split()[0] for f in found if "read-only" in f.message] == places
    assert all(f.fix.endswith(f"remount,rw {places[0]}") for f in found if f.state == "fail")


# --- heat and power -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milli", "on_pi", "state"),
    [
        (52_616, True, "ok"),
        (81_000, True, "warn"),
        (85_000, True, "fail"),
        (85_000, False, "ok"),
        (96_000, False, "warn"),
    ],
)
def test_temperature(machine: Machine, milli: int, on_pi: bool, state: str) -> None:
    machine.file(f"{ZONE}/temp", f"{milli}\n")
    machine.file(f"{ZONE}/type", "cpu-thermal\n")
    if on_pi:
        machine.pi()
    (found,) = machine.find(checks.temperature)
    assert found.state == state and f"{milli / 1000:.1f}".rstrip("0").rstrip(".") in found.message


def test_a_machine_that_cannot_say_is_not_told_of(machine: Machine) -> None:
    machine.root.mkdir()
    assert machine.find(checks.temperature) == machine.find(checks.throttling) == []


@pytest.mark.parametrize(
    ("word", "state", "message"),
    [
        ("0", "ok", "no under-voltage and no throttling since the start"),
        ("50005", "fail", "now: under-voltage, throttled"),
        ("50000", "warn", "since the start: under-voltage, throttled"),
        ("80008", "warn", "now: soft temperature limit"),
        ("20000", "warn", "since the start: frequency capped"),
    ],
)
def test_throttling(machine: Machine, word: str, state: str, message: str) -> None:
    machine.file(THROTTLED, f"{word}\n")
    (found,) = machine.find(checks.throttling)
    assert (found.check, found.state, found.message) == ("power", state, message)
    assert ("power supply" in (found.fix or "")) == ("under-voltage" in message and state != "ok")


# --- the memory cgroup --------------------------------------------------------------------------


def memory(machine: Machine) -> Finding:
    (found,) = machine.find(sandbox.memory_cgroup)
    return found


@pytest.mark.parametrize("boot", ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"])
def test_raspberry_pi_os_leaves_the_memory_cgroup_off(machine: Machine, boot: str) -> None:
    machine.file("/sys/fs/cgroup/cgroup.controllers", STOCK_CONTROLLERS)
    machine.file(boot, STOCK_CMDLINE)
    found = memory(machine)
    assert found.state == "warn" and found.fix is not None
    sed, _, after = found.fix.partition(" && ")
    assert after == "sudo reboot"
    command = sed.replace("sudo ", "").replace(boot, os.fspath(machine.root) + boot)
    assert os.system(command) == 0
    text = (machine.root / boot.lstrip("/")).read_text()
    assert text == STOCK_CMDLINE.rstrip() + " cgroup_enable=memory cgroup_memory=1\n"
    assert memory(machine).fix == "sudo reboot"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("/proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t8\t88\t1\n"),
    ],
)
def test_the_memory_cgroup_of_both_versions(machine: Machine, path: str, text: str) -> None:
    machine.file(path, text)
    assert memory(machine).state == "ok"


def test_the_memory_cgroup_of_version_1_that_is_off(machine: Machine) -> None:
    machine.file("/proc/cgroups", "memory\t0\t1\t0\n")
    assert memory(machine).state == "warn"


def test_a_machine_that_is_no_pi_gets_a_hint(machine: Machine) -> None:
    machine.root.mkdir()
    assert "cgroup_enable=memory" in (memory(machine).fix or "")


# --- the sandbox --------------------------------------------------------------------------------


def trial(machine: Machine) -> Tuple[str, str, str]:
    (found,) = machine.find(sandbox.sandbox)
    return found.state, found.message, found.fix or ""


def test_bubblewrap_is_not_installed(machine: Machine) -> None:
    state, _, fix = trial(machine)
    assert (state, fix) == ("warn", "sudo apt install bubblewrap")


def test_bubblewrap_is_setuid(machine: Machine) -> None:
    machine.file("/usr/bin/bwrap", "", 0o4755)
    assert trial(machine)[::2] == ("fail", "sudo chmod u-s /usr/bin/bwrap")


@pytest.fixture
def open_machine() -> Iterator[Machine]:
    """One whose files the user nobody can reach, as the trial needs it."""
    folder = Path(tempfile.mkdtemp(prefix="pibot-test-"))
    folder.chmod(0o755)
    yield Machine(folder)
    shutil.rmtree(folder)


def test_bubblewrap_works(open_machine: Machine) -> None:
    open_machine.says("/usr/bin/bwrap", "")
    assert trial(open_machine) == ("ok", "bubblewrap works", "")


@pytest.mark.parametrize(
    ("switch", "value", "fix"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "bwrap-userns-restrict"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ("kernel/other", "0", "/usr/bin/bwrap --unshare-all"),
    ],
)
def test_namespaces_are_forbidden(open_machine: Machine, switch: str, value: str, fix: str) -> None:
    failing = "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1"
    open_machine.script("/usr/bin/bwrap", failing)
    open_machine.file(f"/proc/sys/{switch}", f"{value}\n")
    state, message, how = trial(open_machine)
    assert state == "warn" and fix in how
    assert ("uid map" in message) == (switch == "kernel/other")


def test_bubblewrap_is_too_old(open_machine: Machine) -> None:
    failing = "echo 'bwrap: Unknown option --disable-userns' >&2; exit 1"
    open_machine.script("/usr/bin/bwrap", failing)
    state, message, fix = trial(open_machine)
    assert (state, message) == ("warn", "bubblewrap does not work: it is older than 0.8")
    assert "apt install bubblewrap" in fix


def test_a_real_trial() -> None:
    from pibot.doctor.surroundings import Surroundings

    if not os.path.exists(sandbox.BWRAP):
        pytest.skip("bubblewrap is not installed here")
    (found,) = sandbox.sandbox(Surroundings(Path("pibot.pyz"), {}))
    assert found.state == "ok" or "bubblewrap does not work: " in found.message
