"""Which services to stop before a setup and to start after it. Pure."""

from __future__ import annotations

from typing import List, Set

from pibot.deploy import layout
from pibot.deploy.facts import Facts
from pibot.deploy.steps import Step, systemctl
from pibot.deploy.tree import NONE

_AT_REST = (None, "", "inactive", "failed", "unknown")


def is_awake(facts: Facts, unit: str) -> bool:
    """Whether systemd runs a unit, or is about to."""
    return facts.systemd and facts.units.get(unit) not in _AT_REST


class Services:
    """What to stop before the files are changed, and what to start afterwards."""

    def __init__(self, facts: Facts, role: str, broker: bool, todo: List[Step]) -> None:
        self.facts, self.role, self.broker = facts, role, broker
        self.changed: Set[str] = {getattr(step, "path", "") for step in todo}
        # A setup that was interrupted has changed what it did not start anew.
        self.unfinished = facts.entry(layout.AT_WORK).kind != NONE

    def stopped(self) -> List[Step]:
        """The older service; and the master, which reads and writes the identities, too."""
        names = [layout.service(self.role)] if self.facts.old else []
        if layout.IDENTITIES in self.changed:
            names.append(layout.service("master"))
        awake = [name for name in dict.fromkeys(names) if is_awake(self.facts, name)]
        return [systemctl(f"stop {name}", "stop", name) for name in awake]

    def started(self) -> List[Step]:
        if not self.facts.systemd:
            return []
        units = [layout.unit_file(unit) for unit in layout.ALL_UNITS]
        steps: List[Step] = []
        if self._is_new(*units):
            steps.append(systemctl("let systemd read the units", "daemon-reload"))
        if self.broker:
            steps += self._broker_started()
        if self.role == "worker":
            steps += self._path_started(*layout.UNITS["worker"][1:])
        return [*steps, *self._roles_started()]

    def _broker_started(self) -> List[Step]:
        name, files = layout.BROKER_UNIT, [f"{layout.BROKER_FOLDER}/{f}" for f in ("passwd", "acl")]
        steps: List[Step] = []
        if self.facts.entry(layout.wanted("multi-user.target", name)).kind == NONE:
            steps.append(systemctl(f"start {name} with the machine", "enable", name))
        if self._is_new(layout.MOSQUITTO_CONF, *layout.CERTIFICATES) or not self._active(name):
            steps.append(systemctl(f"restart {name}", "restart", name))
        elif self._is_new(*files):
            steps.append(systemctl(f"let {name} read its users", "reload", name))
        return [*steps, *self._path_started(*layout.UNITS["broker"])]

    def _path_started(self, path: str, service: str) -> List[Step]:
        """A path unit, and the service that it starts."""
        steps: List[Step] = []
        if self._is_new(layout.unit_file(path)) or not self._active(path):
            if self.facts.units.get(service) == "failed":  # too often: it would not start again
                steps.append(systemctl(f"forget the failure of {service}", "reset-failed", service))
            steps.append(systemctl(f"start {path}", "restart", path))
        return steps

    def _roles_started(self) -> List[Step]:
        """The role that is set up; and another one that runs the program which is replaced."""
        steps: List[Step] = []
        for role in layout.ROLES:
            name, mine = layout.service(role), role == self.role
            files = [layout.PROGRAM]
            if mine:
                files += [layout.unit_file(name), layout.settings_file(role), layout.CA_FILE]
            if mine and role == "master":
                files.append(layout.IDENTITIES)
            active = self._active(name)
            if (active and self._is_new(*files)) or (mine and not active):
                again = active and not (mine and self.facts.old)
                steps.append(systemctl(f"{'re' if again else ''}start {name}", "restart", name))
        return steps

    def _is_new(self, *paths: str) -> bool:
        return self.unfinished or any(path in self.changed for path in paths)

    def _active(self, unit: str) -> bool:
        return self.facts.units.get(unit) == "active"
