"""`update`: gives the workers a new program, one first, then the others in groups.

The first failure ends it: whoever was not touched stays as it is. A worker whose new program does
not work goes back to the old one by itself; this command tells how each has fared.
"""

from __future__ import annotations

import argparse
import base64
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from pibot import messages as msg
from pibot.cli import present, release, rollout
from pibot.cli.parser import seconds, settings, with_json
from pibot.cli.present import line
from pibot.cli.release import Release
from pibot.cli.rollout import One, Terms
from pibot.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    PibotError,
    Refused,
    Unreachable,
    UsageError,
)
from pibot.manifest import PATIENCE_S

if TYPE_CHECKING:
    from pibot.roles.client import Fleet

EXAMPLE = "pibot.pyz update pibot-2.1.pyz --on worker-1"
WINDOW = 16  # slices of an upload that are on their way at once
AWAY_S = 120.0  # for which the master may be away: it is restarted, too
LOOK_S = 0.5
STUCK = 5  # windows of which nothing was taken
HEADER = ("WORKER", "BEFORE", "OUTCOME", "")
GOOD = (rollout.UPDATED, rollout.CURRENT)
INTERRUPTED = "interrupted"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the new pibot.pyz")
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument("--on", metavar="WORKER", help="only this worker")
    whom.add_argument("--all", action="store_true", help="every worker, as without --on")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=seconds,
        default=900.0,
        help="how long to wait for a worker's tasks to end (900)",
    )
    parser.add_argument(
        "--patience",
        metavar="S",
        type=_patience,
        default=180,
        help="how long a new program may take to reach the master, before the old one comes back "
        "(180)",
    )
    with_json(parser)


def _patience(text: str) -> int:
    if not (text.isdecimal() and int(text) in PATIENCE_S):
        first, last = PATIENCE_S[0], PATIENCE_S[-1]
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {first} to {last}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    found = settings(options)
    terms = Terms(release.read(options.file), options.timeout, options.patience)
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        update = Update(fleet, terms)
        status = _do(update, options)
    _show(update, options.json)
    return status


def _do(update: Update, options: argparse.Namespace) -> int:
    """Update whom it is for; whatever ends it, they work again."""
    try:
        update.choose(options.on)
        update.run()
    except KeyboardInterrupt:
        if not update.rows:
            raise
        return EXIT_INTERRUPTED
    except PibotError:
        if update.rows and not options.json:  # with --json there is one document, the error
            _show(update, json=False)
        raise
    finally:
        update.resume()
    return EXIT_OK if update.is_good() else EXIT_FAILED


class Update:
    """`rows` has what became of each worker."""

    def __init__(self, fleet: Fleet, terms: Terms) -> None:
        self._fleet, self._terms = fleet, terms
        self.release = terms.release
        self.rows: List[Dict[str, Any]] = []
        self.master: Dict[str, Any] = {}
        self._found: Dict[str, Dict[str, Any]] = {}
        self._drained: List[One] = []
        self._told: Dict[str, str] = {}

    def choose(self, on: Optional[str]) -> None:
        """Look who there is, and for whom the program is new; raise UsageError."""
        self.master = _asked(self._fleet, msg.Listing("updates"))
        self._found = {row["worker_id"]: row for row in self.master["workers"]}
        if on is not None and on not in self._found:
            known = ", ".join(self._found) or "none"
            raise UsageError(f"no worker is called {on!r}: known are {known}")
        for name in self._found if on is None else [on]:
            outcome, why = rollout.verdict(self._found[name], self.release)
            version = self._found[name]["version"]
            row = {"worker_id": name, "before": version, "outcome": outcome, "why": why}
            self.rows.append(row)

    def is_good(self) -> bool:
        return all(row["outcome"] in GOOD for row in self.rows)

    def run(self) -> None:
        """Do it; what was not begun is not tried any more after the first failure."""
        todo = [row["worker_id"] for row in self.rows if not row["outcome"]]
        for row in self.rows:
            row["outcome"] = row["outcome"] or rollout.NOT_TRIED
        todo.sort(key=lambda name: (bool(self._found[name]["current_tasks"]), name))
        if todo:
            _upload(self._fleet, self.release)
        for group in rollout.groups(todo):
            if not self._together(group):
                return

    def _together(self, names: List[str]) -> bool:
        """Update these workers at the same time; whether all went well."""
        now = time.monotonic()
        ones = [One(self._found[name], self._terms, now) for name in names]
        for one in ones:
            self._set(one.name, INTERRUPTED, "")
            if not one.drained_before:
                self._drained.append(one)
            _asked(self._fleet, msg.Manage("drain", one.name))
        while not all(one.outcome for one in ones):
            listed = _asked(self._fleet, msg.Listing("updates"))["workers"]
            rows = {row["worker_id"]: row for row in listed}
            for one in ones:
                self._step(one, rows.get(one.name))
            time.sleep(LOOK_S)
        for one in ones:
            self._set(one.name, one.outcome, one.why)
            if one.drained_before:
                present.note(
                    f"{one.name} gets no tasks, as before: `pibot.pyz workers resume {one.name}`"
                )
        return all(one.outcome in GOOD for one in ones)

    def _step(self, one: One, row: Optional[rollout.Row]) -> None:
        for message in one.step(row, time.monotonic()):
            try:
                _asked(self._fleet, message)
            except (Refused, UsageError) as error:
                one.refused(str(error))
        if self._told.get(one.name) != one.doing:
            self._told[one.name] = one.doing
            present.note(f"{one.name}: {one.doing}")

    def _set(self, name: str, outcome: str, why: str) -> None:
        for row in self.rows:
            if row["worker_id"] == name:
                row.update(outcome=outcome, why=why)

    def resume(self) -> None:
        """Let those work again that were drained for this."""
        for one in self._drained:
            if one.outcome == rollout.AWAY and "removed" in one.why:
                continue
            try:
                self._fleet.ask(msg.Manage("resume", one.name))
            except PibotError as error:
                present.note(
                    f"{one.name} still gets no tasks ({line(str(error), 300)}): `pibot.pyz workers "
                    f"resume {one.name}`"
                )
        self._drained.clear()


# --- requests -------------------------------------------------------------------------------------


def _asked(fleet: Fleet, message: msg.Message) -> Dict[str, Any]:
    """The reply to a request; the master may be away for a while."""
    give_up = time.monotonic() + AWAY_S
    while True:
        try:
            return fleet.ask(message)
        except Unreachable:
            if time.monotonic() >= give_up:
                raise


def _upload(fleet: Fleet, found: Release) -> None:
    """Give the program to the master, from where an earlier upload has ended."""
    have = int(_asked(fleet, msg.Upload(found.sha256, found.size, 0, ""))["have"])
    stuck, give_up = 0, time.monotonic() + AWAY_S
    with found.path.open("rb") as file:
        while have < found.size:
            before = have
            try:
                have = _window(fleet, found, file, have)
                give_up = time.monotonic() + AWAY_S
            except Unreachable:
                if time.monotonic() >= give_up:
                    raise
            stuck = 0 if have > before else stuck + 1
            if stuck > STUCK:
                raise Refused("the master does not take the program: try again")
            present.note(f"uploading, {100 * have // found.size} %")


def _window(fleet: Fleet, found: Release, file: Any, have: int) -> int:
    """Send the next slices; return how much the master has then."""
    file.seek(have)
    asked = []
    for number in range(WINDOW):
        data = file.read(msg.FILE_SLICE_BYTES)
        if data:
            offset = have + number * msg.FILE_SLICE_BYTES
            text = base64.b64encode(data).decode()
            asked.append(fleet.send(msg.Upload(found.sha256, found.size, offset, text)))
    try:
        for pending in asked:
            have = max(have, int(fleet.answer(pending)["have"]))
    finally:
        for pending in asked:
            pending.done.set()
    return have


# --- what a person reads --------------------------------------------------------------------------


def _show(update: Update, json: bool) -> None:
    found = update.release
    if json:
        head = {"version": found.version, "build": found.build, "sha256": found.sha256}
        present.say_json({**head, "workers": update.rows})
        return
    rows = [
        [line(str(cell or "-"), 300) for cell in (r["worker_id"], r["before"], r["outcome"])]
        + [line(r["why"], 300)]
        for r in update.rows
    ]
    present.say(present.table(HEADER, rows))
    if update.master["build"] != found.build:
        version, name = line(str(update.master["version"])), shlex.quote(str(found.path))
        present.say(
            f"The master itself runs version {version}. To update it, on its machine:\n"
            f"  sudo python3 {name} setup --role master"
        )
