"""The skills that were pushed to this worker, by name, each version in a directory of its own.

    NAME/SHA256/NAME.py or NAME/SHA256/NAME/SKILL.md …    as they came, never changed
    pushed.json                                            {NAME: [the SHA-256 in use, older ones]}

A new version is unpacked beside the old one, tried in a process of its own, loaded, and only then
named in pushed.json, which is replaced as a whole: a power cut leaves the old version or the new
one, and code that takes the worker with it is not there when it starts again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Set, Tuple

from pibot.agent import library, packing, trial
from pibot.agent.tools import Skill
from pibot.errors import BadMessage, PibotError, UsageError
from pibot.files import sync_folder, sync_tree, write_private
from pibot.messages import SkillFile
from pibot.strictjson import parse

log = logging.getLogger("pibot.worker")

LIST = "pushed.json"
KEPT = 3  # versions of a skill
SKILLS = 100
FAILED, LOADED, GONE = "failed", "loaded", "gone"
SHOWN = 16  # digits of a version, in what the master hears: it is in every hello
_LIST_BYTES = 1 << 20
_WHY_CHARS = 300
_REMEMBERED = 20  # pushes whose end is told
_WAITING = 10  # pushes at once
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Pushed:
    """`take` may come while another one is at work: one after the other is done."""

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        """`changed` is called after each push, in its thread: there may be other skills."""
        self._folder, self._changed = folder, changed
        self._lock = threading.Lock()
        self._waiting: Set[Tuple[str, str, str]] = set()
        self._ends: OrderedDict[str, Dict[str, str]] = OrderedDict()
        self._count = 0  # of the pushes since this start: tells one failure from the next
        self._found: Dict[Path, Tuple[List[Skill], str]] = {}
        self._versions = self._read()
        self._facts = self._told()

    def sources(self) -> List[Path]:
        """The files and folders of the versions in use."""
        found = (self._source(name, shas[0]) for name, shas in sorted(self._versions.items()))
        return [path for path in found if path.exists()]

    def read(self, path: Path) -> Tuple[List[Skill], str]:
        """As library.read, but once: a file that holds a device cannot be loaded a second time."""
        if path not in self._found:
            self._found[path] = library.read(path)
        return self._found[path]

    def facts(self) -> Dict[str, Any]:
        """What the master hears: for each name the version, and how the last push ended."""
        return {"pushed": self._facts}

    def take(self, message: SkillFile, reserved: Sequence[str]) -> None:
        """Begin to do what a push says, in a thread; `reserved` are names that are taken.

        One that is at work already is not begun again.
        """
        key = (message.name, message.form, message.version)
        if key in self._waiting or len(self._waiting) >= _WAITING:
            return
        self._waiting.add(key)
        threading.Thread(target=self._take, args=(message, reserved, key), daemon=True).start()

    def _take(self, message: SkillFile, reserved: Sequence[str], key: Tuple[str, str, str]) -> None:
        with self._lock:
            why = self._failure(message, reserved)
            self._count += 1
            tried = {"tried": message.version[:SHOWN], "why": why} if why else {}
            self._ends[message.name] = {**tried, "n": str(self._count)}
            self._ends.move_to_end(message.name)
            while len(self._ends) > _REMEMBERED:
                self._ends.popitem(last=False)
            self._facts = self._told()
            self._waiting.discard(key)
            self._changed()

    def _failure(self, message: SkillFile, reserved: Sequence[str]) -> str:
        """Do what a push says; why that failed, or ""."""
        name = message.name
        try:
            if not packing.NAME.fullmatch(name):
                raise UsageError("its name is not one that a skill may have")
            taken = [*reserved, *self._of_others(name)]
            if message.form:
                self._install(message, taken)
            else:
                self._back(name, message.version, taken)
        except (PibotError, ValueError) as error:
            why = str(error)
        except OSError as error:
            why = f"it could not be written here: {error.strerror or error}"
        except Exception as error:
            log.exception("the skill %s was not taken", name)
            why = f"an internal error: {error}"
        else:
            return ""
        why = " ".join(why.split())[:_WHY_CHARS] or "it failed"
        log.error("the skill %s was not taken: %s", name, why)
        return why

    def _told(self) -> Dict[str, Dict[str, str]]:
        names = {*self._versions, *self._ends}
        return {name: self._row(name) for name in sorted(names)}

    def _row(self, name: str) -> Dict[str, str]:
        version = (self._versions.get(name) or [""])[0][:SHOWN]
        end = self._ends.get(name, {})
        state = FAILED if "why" in end else LOADED if version else GONE
        return {"version": version, "state": state, **end}

    def _of_others(self, name: str) -> List[str]:
        """The names of the skills that other pushes have brought."""
        paths = [self._source(n, shas[0]) for n, shas in self._versions.items() if n != name]
        return [one.name for path in paths if path.exists() for one in self.read(path)[0]]

    def _install(self, message: SkillFile, taken: Sequence[str]) -> None:
        name, sha256 = message.name, message.version
        known = self._versions.get(name, [])
        place = self._source(name, sha256)
        if known[:1] == [sha256] and place.exists() and not self.read(place)[1]:
            return
        if not known and len(self._versions) >= SKILLS:
            raise UsageError(f"{SKILLS} skills were pushed to this worker, which is all it takes")
        data = base64.b64decode(message.data, validate=True)
        if len(data) > packing.PACKED_BYTES or hashlib.sha256(data).hexdigest() != sha256:
            raise UsageError("what came is not what was announced (its SHA-256 differs)")
        if sha256 not in known or not place.exists():
            place = self._unpacked(name, sha256, message.form, data)
        try:
            self._fit(place, taken)
        except UsageError:
            self._tidy()
            raise
        kept = [sha256, *(sha for sha in known if sha != sha256)]
        self._write({**self._versions, name: kept[:KEPT]})
        self._tidy()
        log.info("the skill %s was taken: version %s", name, sha256[:SHOWN])

    def _fit(self, place: Path, taken: Sequence[str]) -> None:
        """Try a version, and load it: what does not come back from that was never named."""
        problems = trial.tried(place, taken).problems
        if self._found.get(place, ([], ""))[1]:  # perhaps it can be loaded now
            del self._found[place]
        if not problems:
            problem = self.read(place)[1]
            problems = [problem] if problem else []
        if problems:
            self._found.pop(place, None)
            raise UsageError(problems[0])

    def _back(self, name: str, version: str, taken: Sequence[str]) -> None:
        """From this version to the one before that can be had, or to none."""
        known = self._versions.get(name, [])
        if not version or not known or not known[0].startswith(version):
            return  # it has been left already
        rest = known[1:]
        while rest and not self._can_be_had(self._source(name, rest[0]), taken):
            rest = rest[1:]
        others = {n: shas for n, shas in self._versions.items() if n != name}
        self._write({**others, name: rest} if rest else others)
        log.info("the skill %s: version %s was left", name, version)

    def _can_be_had(self, path: Path, taken: Sequence[str]) -> bool:
        if not path.exists():
            return False
        skills, problem = self.read(path)
        return not problem and not {one.name for one in skills} & set(taken)

    def _unpacked(self, name: str, sha256: str, form: str, data: bytes) -> Path:
        if form not in (packing.FILE, packing.FOLDER):
            raise UsageError("it has a form that this version does not know")
        final = self._folder / name / sha256
        part = final.with_name(f"{sha256}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        part.mkdir(mode=0o755, parents=True)
        try:
            packing.unpack(form, data, part / (f"{name}.py" if form == packing.FILE else name))
            sync_tree(part)  # every file of it, before it is named
            part.rename(final)
            sync_folder(final.parent)
            sync_folder(self._folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return self._source(name, sha256)

    def _source(self, name: str, sha256: str) -> Path:
        file = self._folder / name / sha256 / f"{name}.py"
        return file if file.exists() else file.with_suffix("")

    def _tidy(self) -> None:
        """Remove what no version is: what was left, what is too old, what a power cut has cut."""
        for path in self._folder.glob("*/*"):
            if path.is_dir() and path.name not in self._versions.get(path.parent.name, []):
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, versions: Dict[str, List[str]]) -> None:
        write_private(self._folder / LIST, json.dumps(versions))
        self._versions = versions

    def _read(self) -> Dict[str, List[str]]:
        try:
            with (self._folder / LIST).open("rb") as file:
                found = parse(file.read(_LIST_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, BadMessage) as error:
            log.error("pushed skills are left out: %s: %s", self._folder / LIST, error)
            return {}
        good = {
            name: _versions(shas) for name, shas in found.items() if packing.NAME.fullmatch(name)
        }
        return {name: shas for name, shas in good.items() if shas}


def _versions(found: Any) -> List[str]:
    shas = found if isinstance(found, list) else []
    return [sha for sha in shas if isinstance(sha, str) and _SHA256.fullmatch(sha)]
