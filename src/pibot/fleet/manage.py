"""What people decide about workers: add, rotate, remove, drain, resume; and who may decide.

A request that comes twice is one: the first answer may have been lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

from pibot import messages as msg
from pibot.errors import Refused, UsageError
from pibot.fleet import status
from pibot.fleet.events import StandingWanted
from pibot.fleet.gateway import Gateway
from pibot.fleet.people import People
from pibot.fleet.pool import was_removed
from pibot.fleet.records import DRAINING, FORGOTTEN, GONE, REMOVED
from pibot.fleet.roster import Roster
from pibot.fleet.scheduler import Scheduler
from pibot.identities import Identity, check
from pibot.signing import reveal
from pibot.topics import CLIENT, VIEWER, WORKER

_NOT_FOR_WORKERS = ("tasks", "clients", "waiting", "audit")
Decided = Tuple[Optional[StandingWanted], Dict[str, Any]]


class Manager:
    def __init__(
        self,
        scheduler: Scheduler,
        roster: Roster,
        gateway: Gateway,
        local_time: Callable[[], str],
        key_of: Callable[[str], str],
    ) -> None:
        """`key_of` a client: the key with which it has signed its request; "" if it did not."""
        self._scheduler, self._roster, self._gateway = scheduler, roster, gateway
        self._local_time, self._key_of = local_time, key_of
        self._people = People(scheduler.pool, roster, gateway)
        self._actions: Dict[str, Callable[[msg.Manage], Decided]] = {
            "add": self._add,
            "rotate": self._rotate,
            "remove": self._remove,
            "drain": self._drain,
            "resume": self._resume,
        }

    def decide(self, request: msg.Manage, client: str) -> Decided:
        """What a request means for the scheduler, and the data of its reply; raise PibotError."""
        if request.kind not in (WORKER, CLIENT, VIEWER):
            raise UsageError(f"nobody is of the kind {request.kind[:40]!r}")
        check(request.kind, request.worker[:64])
        self._roster.refresh()
        request = self._revealed(request, client)
        if request.kind != WORKER:
            return None, self._people.decide(request, self._identity(request), client)
        action = self._actions.get(request.action)
        if action is None:
            raise UsageError(f"a worker is not {request.action[:40]!r}: {', '.join(self._actions)}")
        return action(request)

    def _revealed(self, request: msg.Manage, client: str) -> msg.Manage:
        """The request with its keys as they are: on the way only the client can read them."""
        own = self._key_of(client)
        try:
            plain = [reveal(own, k) if k and own else k for k in (request.key, request.update_key)]
        except ValueError:
            raise UsageError(
                f"the keys for {request.worker!r} cannot be read: make them again"
            ) from None
        return replace(request, key=plain[0], update_key=plain[1])

    def document(self, fleet: str, now: float) -> Dict[str, Any]:
        """Every worker that is known or has credentials, for `workers list`."""
        rows = status.roster_rows(self._scheduler.pool, self._roster.enrolled(), now)
        for row in rows:
            row["rotating"] = self._roster.next_of(row["worker_id"]) is not None
        return {"fleet": fleet, "credentials": self._roster.guarded, "workers": rows}

    def clients(self, fleet: str) -> Dict[str, Any]:
        """Every client and viewer, for `clients list`."""
        rows = self._people.rows()
        return {"fleet": fleet, "credentials": self._roster.guarded, "clients": rows}

    def may(self, client: str, request: msg.Message) -> None:
        """Refuse what the credentials of a worker are not for: they may look at the fleet.

        Those of a viewer are for the views alone, and those of a removed name for nothing, even
        where the broker still takes them.
        """
        kind = self._roster.kind_of(client)
        if not self._roster.guarded or kind == CLIENT:
            return
        if kind == VIEWER:
            raise Refused(f"{client} may only look, at the topics below view/: use a client's file")
        if self._standing(client) == REMOVED:
            raise Refused(was_removed(client))
        if self._roster.has_ended(client):
            raise Refused(f"{client} was removed: `pibot.pyz clients add` makes a new file")
        is_worker = kind == WORKER or client in self._scheduler.pool.workers
        looks = isinstance(request, msg.Listing) and request.what not in _NOT_FOR_WORKERS
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
        now = request.now or not self._roster.guarded
        done = _same(old, new)  # it was asked before, and the worker has come already
        if not done:
            self._roster.rotate(new._replace(since=old.since), now)
            if request.now:
                self._gateway.dismiss(name)
        data = self._data(name, "rotated" if done or now else "rotating")
        return StandingWanted(name, self._standing(name)), data

    def _identity(self, request: msg.Manage) -> Identity:
        line, since = request.password_line, self._local_time()
        more = (request.suffix, request.update_key)
        return Identity(request.worker, request.kind, line, request.key, since, *more)

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
