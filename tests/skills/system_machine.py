"""A machine with systemd for tests: programs that answer as the real ones did on a Debian 12.

The text of the answers was recorded there; what a unit's state is stands in a file, so that a
restart is seen to have happened, or not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from pibot.skills import _hardware, _journal, _program, _systemd
from recorded_machine import Machine
from skills.pi_hardware import calls, script

UNITS: Dict[str, Dict[str, str]] = {
    "mosquitto.service": {
        "Id": "mosquitto.service",
        "Description": "Mosquitto MQTT Broker",
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
        "MainPID": "71",
        "NRestarts": "0",
        "MemoryCurrent": "2621440",
        "ExecMainStatus": "0",
        "Result": "success",
        "ActiveEnterTimestampMonotonic": "1000000",
    },
    "bad.service": {
        "Id": "bad.service",
        "Description": "Bad",
        "LoadState": "loaded",
        "ActiveState": "failed",
        "SubState": "failed",
        "UnitFileState": "static",
        "MainPID": "0",
        "NRestarts": "0",
        "MemoryCurrent": "[not set]",
        "ExecMainStatus": "1",
        "Result": "exit-code",
        "ActiveEnterTimestampMonotonic": "0",
    },
}
LISTED = """\
mosquitto.service                    loaded    active   running Mosquitto MQTT Broker
apt-daily.service                    loaded    inactive dead    Daily apt download activities
auditd.service                       not-found inactive dead    auditd.service
bad.service                          loaded    failed   failed  Bad
"""
TIMERS = """\
Unit=systemd-tmpfiles-clean.service
NextElapseUSecRealtime=
NextElapseUSecMonotonic=15h 9min 31.737200s
LastTriggerUSec=
Id=systemd-tmpfiles-clean.timer
ActiveState=active

Unit=apt-daily.service
NextElapseUSecRealtime=Mon 2096-11-23 10:31:10 UTC
NextElapseUSecMonotonic=0
LastTriggerUSec=Sun 2020-11-22 10:31:10 UTC
Id=apt-daily.timer
ActiveState=active

Unit=fstrim.service
NextElapseUSecRealtime=
NextElapseUSecMonotonic=infinity
LastTriggerUSec=
Id=fstrim.timer
ActiveState=inactive
"""
NOT_FOUND = {**UNITS["bad.service"], "LoadState": "not-found", "ActiveState": "inactive"}
SYSTEMCTL = """
units = json.load(open({units!r}))
words = sys.argv[1:]
verb = next(word for word in words if not word.startswith("-"))
unit = words[-1]
if verb == "list-units":
    print({listed!r}, end="")
elif verb == "show" and unit == "*.timer":
    print({timers!r}, end="")
elif verb == "show":
    print(*("=".join(pair) for pair in units.get(unit, {not_found!r}).items()), sep="\\n")
elif verb == "restart" and {denied!r}:
    sys.exit("Failed to restart " + unit + ": " + {denied!r} + "\\nSee system logs and "
             "'systemctl status " + unit + "' for details.")
elif verb == "restart" and unit not in units:
    sys.exit("Failed to restart " + unit + ": Unit " + unit + " not found.")
"""
# Of a real journal: a plain entry, one that is no UTF-8, one that is too long to be shown.
ENTRIES: List[Dict[str, Any]] = [
    {
        "MESSAGE": "New connection from 192.168.1.20:50312 on port 1883.",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "mosquitto",
        "_SYSTEMD_UNIT": "mosquitto.service",
        "_COMM": "mosquitto",
        "__REALTIME_TIMESTAMP": "1795400133334977",
        "__MONOTONIC_TIMESTAMP": "53674199758",
        "_BOOT_ID": "fd9d856bd3584194ad88d42ebb460599",
    },
    {
        "MESSAGE": [98, 97, 100, 32, 255, 254, 32, 27, 91, 51, 49, 109, 114, 101, 100],
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "evil",
        "__REALTIME_TIMESTAMP": "1795400133479391",
    },
    {
        "MESSAGE": None,
        "PRIORITY": "6",
        "_COMM": "cat",
        "__REALTIME_TIMESTAMP": "1795400133490129",
    },
]


class SystemMachine(Machine):
    """Files and programs below a directory; `patches` put them in the place of this machine's."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.file("/run/systemd/system/made")
        self.journal(ENTRIES)
        self.systemctl()

    @property
    def patches(self) -> Dict[str, Any]:
        root = self.root
        return {
            f"{_program.__name__}.PLACES": [str(root / "usr/bin")],
            f"{_systemd.__name__}.RUNNING": root / "run/systemd/system",
            f"{_journal.__name__}.PLACES": [str(root / "var/log/journal")],
            f"{_hardware.__name__}.ROOT": root,
        }

    def become(self, patch: pytest.MonkeyPatch) -> "SystemMachine":
        for name, value in self.patches.items():
            patch.setattr(name, value)
        return self

    def systemctl(self, denied: str = "", **units: Dict[str, str]) -> None:
        """`denied` is why systemd does not restart; `units` change what it tells of some."""
        told = {name: {**UNITS[name], **units.get(name.partition(".")[0], {})} for name in UNITS}
        path = self.file("/units.json", json.dumps(told))
        names = {"units": str(path), "listed": LISTED, "timers": TIMERS, "not_found": NOT_FOUND}
        script(self, "systemctl", SYSTEMCTL.format(denied=denied, **names))

    def journal(self, entries: List[Dict[str, Any]], mode: int = 0o644) -> None:
        """What the journal holds; `mode` says who may read it."""
        self.file("/var/log/journal/89dd5dfec98345bd/system.journal", mode=mode)
        lines = "".join(json.dumps(one) + "\n" for one in entries)
        text = self.file("/journal.json", lines)
        script(self, "journalctl", f"out.write(open({str(text)!r}, 'rb').read())")

    def asked(self) -> List[List[str]]:
        """The words of each program's call."""
        return [call["words"] for call in calls(self)]
