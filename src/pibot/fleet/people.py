"""What people decide about clients and viewers: add and remove."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from pibot import messages as msg
from pibot.errors import Refused, UsageError
from pibot.fleet.gateway import Gateway
from pibot.fleet.pool import Pool
from pibot.fleet.roster import Roster
from pibot.identities import Identity
from pibot.topics import VIEWER


class People:
    def __init__(self, pool: Pool, roster: Roster, gateway: Gateway) -> None:
        self._pool, self._roster, self._gateway = pool, roster, gateway

    def rows(self) -> List[Dict[str, Any]]:
        """Every client and viewer."""
        return [
            {"client": one.name, "view": one.kind == VIEWER, "added": one.since}
            for one in self._roster.clients()
        ]

    def decide(self, request: msg.Manage, new: Identity, client: str) -> Dict[str, Any]:
        """The data of the reply to a request of `client`; raise PibotError."""
        if request.action == "add":
            return self._add(new)
        if request.action == "remove":
            return self._remove(request.worker, client)
        raise UsageError(f"a client is not {request.action[:40]!r}: add, remove")

    def _add(self, new: Identity) -> Dict[str, Any]:
        if new.name in self._pool.workers and not self._roster.kind_of(new.name):
            raise UsageError(f"{new.name!r} is the name of a worker already")
        old = self._known(new.name)
        if old is None:
            self._roster.add(new)
        elif old._replace(since=new.since) != new:
            raise UsageError(
                f"{new.name} is there already: remove it first, or choose another name"
            )
        return self._data(new.name, "added")

    def _remove(self, name: str, client: str) -> Dict[str, Any]:
        if name == client:
            raise Refused(
                f"{name} is the client that this command uses: remove it with the file of another"
            )
        if self._known(name) is not None:
            self._roster.remove(name)
        elif not self._roster.has_ended(name):
            known = ", ".join(one.name for one in self._roster.clients())
            raise UsageError(f"no client is called {name!r}: known are {known or 'none'}")
        self._gateway.dismiss_client(name)
        return self._data(name, "removed")

    def _known(self, name: str) -> Optional[Identity]:
        return next((one for one in self._roster.clients() if one.name == name), None)

    def _data(self, name: str, state: str) -> Dict[str, Any]:
        return {"client": name, "state": state, "credentials": self._roster.guarded}
