"""What people decide about workers: add, rotate, remove, drain, resume.

A request that comes twice is one: the first answer may have been lost.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

from pibot import messages as msg
from pibot.errors import Refused, UsageError
from pibot.fleet import status
from pibot.fleet.events import StandingWanted
from pibot.fleet.gateway import Gateway
from pibot.fleet.pool import was_removed
from pibot.fleet.records import DRAINING, FORGOTTEN, GONE, REMOVED
from pibot.fleet.roster import Roster
from pibot.fleet.scheduler import Scheduler
from pibot.identities import WORKER, Identity, check

Decided = Tuple[StandingWanted, Dict[str, Any]]


class Manager:
    def __init__(
        self,
        scheduler: Scheduler,
        roster: Roster,
        gateway: Gateway,
        local_time: Callable[[], str],
    ) -> None:
        self._scheduler, self._roster, self._gateway = scheduler, roster, gateway
        self._local_time = local_time
        self._actions: Dict[str, Callable[[msg.Manage], Decided]] = {
            "add": self._add,
            "rotate": self._rotate,
            "remove": self._remove,
            "drain": self._drain,
            "resume": self._resume,
        }

    def decide(self, request: msg.Manage) -> Decided:
        """What a request means for the scheduler, and the data of its reply; raise PibotError."""
        action = self._actions.get(request.action)
        if action is None:
            raise UsageError(f"a worker is not {request.action[:40]!r}: {', '.join(self._actions)}")
        check(WORKER, request.worker[:64])
        self._roster.refresh()
        return action(request)

    def document(self, fleet: str, now: float) -> Dict[str, Any]:
        """Every worker that is known or has credentials, for `workers list`."""
        rows = status.roster_rows(self._scheduler.pool, self._roster.enrolled(), now)
        return {"fleet": fleet, "credentials": self._roster.guarded, "workers": rows}

    def may(self, client: str, request: msg.Message) -> None:
        """Refuse what the credentials of a worker are not for: they may look at the fleet.

        Those of a removed one are for nothing, even where the broker still takes them.
        """
        if not self._roster.guarded or self._roster.knows_client(client):
            return
        if self._standing(client) == REMOVED:
            raise Refused(was_removed(client))
        is_worker = self._roster.of_worker(client) or client in self._scheduler.pool.workers
        looks = isinstance(request, msg.Listing) and request.what != "tasks"
        if is_worker and not looks:
            raise Refused(
                f"the credentials of {client} are a worker's: they may look (`status`, `health`, "
                "`skills`) and ask for nothing; use those of a client"
            )

    # --- credentials ----------------------------------------------------------------------------

    def _add(self, request: msg.Manage) -> Decided:
        name, new = request.worker, self._identity(request)
        old = self._roster.of_worker(name)
        if old is None:
            self._roster.add(new)
        elif not _same(old, new):
            raise UsageError(
                f"{name} is there already: `pibot.pyz workers rotate {name}` makes new credentials "
                "for it, or remove it first"
            )
        standing = self._standing(name)
        state = FORGOTTEN if standing == REMOVED else standing
        return StandingWanted(name, state), self._data(name, "added")

    def _rotate(self, request: msg.Manage) -> Decided:
        name, new = request.worker, self._identity(request)
        old = self._roster.of_worker(name)
        if old is None:
            if name in self._scheduler.pool.workers:
                raise UsageError(
                    f"{name} has no credentials yet: `pibot.pyz workers add {name}` makes some"
                )
            raise self._unknown(name)
        if not _same(old, new):
            self._roster.rotate(new._replace(since=old.since))
        return StandingWanted(name, self._standing(name)), self._data(name, "rotated")

    def _identity(self, request: msg.Manage) -> Identity:
        return Identity(
            request.worker, WORKER, request.password_line, request.key, self._local_time()
        )

    def _remove(self, request: msg.Manage) -> Decided:
        name, standing = request.worker, self._standing(request.worker)
        worker, enrolled = self._scheduler.pool.workers.get(name), self._roster.of_worker(name)
        if worker is None and not enrolled:
            if standing not in GONE:
                raise self._unknown(name)
            return StandingWanted(name, standing), self._data(name, standing)
        if not self._roster.guarded and worker is not None and worker.online:
            raise Refused(
                f"{name} is online, and in a fleet without credentials it would come back: stop "
                "it first"
            )
        if enrolled:
            self._roster.remove(name)
        self._gateway.dismiss(name)
        state = REMOVED if self._roster.guarded else FORGOTTEN
        return StandingWanted(name, state), self._data(name, state)

    # --- work -----------------------------------------------------------------------------------

    def _drain(self, request: msg.Manage) -> Decided:
        return self._decide_work(request.worker, DRAINING)

    def _resume(self, request: msg.Manage) -> Decided:
        return self._decide_work(request.worker, "")

    def _decide_work(self, name: str, state: str) -> Decided:
        worker = self._scheduler.pool.workers.get(name)
        if worker is None and self._roster.of_worker(name):
            raise Refused(f"{name} has not come yet: there is nothing to drain or to resume")
        if worker is None:
            raise self._unknown(name)
        data = self._data(name, state or "resumed")
        return StandingWanted(name, state), {**data, "current_tasks": sorted(worker.tasks)}

    # --- what they share ------------------------------------------------------------------------

    def _standing(self, name: str) -> str:
        return self._scheduler.board.standings.get(name, "")

    def _data(self, name: str, state: str) -> Dict[str, Any]:
        return {"worker_id": name, "state": state, "credentials": self._roster.guarded}

    def _unknown(self, name: str) -> UsageError:
        known: List[str] = sorted({*self._scheduler.pool.workers, *self._roster.enrolled()})
        return UsageError(f"no worker is called {name!r}: known are {', '.join(known) or 'none'}")


def _same(old: Identity, new: Identity) -> bool:
    return (old.password_line, old.key) == (new.password_line, new.key)
