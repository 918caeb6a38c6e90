"""What setup knows of a machine, and what it was asked for: the inputs of the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Tuple

from pibot.deploy.envfile import Source
from pibot.deploy.previous import Previous
from pibot.deploy.tree import FILE, Entry


@dataclass(frozen=True)
class Account:
    """A user of the machine."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str = ""


@dataclass(frozen=True)
class Given:
    """A file with settings that was brought along: its mode is mended when it is used."""

    source: Source
    mode: int


@dataclass(frozen=True)
class Old:
    """A unit that was made by hand, with the files that it used."""

    unit: str  # its path
    found: Previous
    files: Tuple[Tuple[str, bytes], ...] = field(repr=False)  # to be kept: path and content
    sources: Tuple[Source, ...] = field(repr=False)  # its settings, strongest first


@dataclass(frozen=True)
class Facts:
    """One look at a machine, or at an image below a prefix."""

    root: str  # "" for this machine itself, else where the image lies
    may_give: bool  # whether we may give files to others, as root may
    systemd: bool  # it runs, so services can be started
    sysusers: bool  # systemd-sysusers is there
    now: str
    program: str  # what runs
    same_program: bool  # it is installed already
    entries: Mapping[str, Entry] = field(repr=False)
    names: Mapping[str, List[str]]  # what directories hold
    users: Mapping[str, Account]
    groups: Mapping[str, int]
    units: Mapping[str, str]  # systemd's state of our units: active, failed, inactive …
    links: Tuple[str, ...]  # what starts our units at boot
    mosquitto: bool  # it is installed
    obstacle: str  # settings of the user's own that ours cannot stand beside
    person: Optional[Account]  # who runs setup, and can get a client file
    notes: List[str]
    clients: Mapping[str, Source]  # the client files of this machine's people, by path
    caches: Tuple[str, ...] = ()  # where the program was unpacked for root and the person
    beside: Tuple[Given, ...] = ()  # files with settings beside the program
    named: Optional[Given] = None  # --env-file
    old: Optional[Old] = None
    proven: bool = False  # what is installed has its second name
    host: str = ""  # how the machine is called
    addresses: Tuple[str, ...] = ()  # that it has today

    @property
    def is_machine(self) -> bool:
        return not self.root

    @property
    def can_make_user(self) -> bool:
        return self.is_machine or self.entry("/etc/passwd").kind == FILE

    def entry(self, path: str) -> Entry:
        return self.entries.get(path, Entry())


@dataclass(frozen=True)
class Wishes:
    """What the command line says."""

    role: str
    fleet: Optional[str] = None
    broker: bool = True
