"""The goals of the chaos: what is asked of the fleet, and what the clients saw.

Most are submitted and left alone, some are followed to their end. A goal counts as acknowledged
when its submit was answered.
"""

from __future__ import annotations

import queue
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from chaos_parties import Parties

from pibot import config
from pibot import messages as msg
from pibot.errors import PibotError, Unreachable
from pibot.roles.client import Fleet, Pending

FOLLOWERS = 6
TIMEOUT_S = 900.0
LASTS = "0.2-2 s"
ONCE = "work_once"  # the skill that is unsafe to repeat
KINDS = {  # share in a hundred
    "no-op": 55,
    LASTS: 30,
    "unsafe to repeat": 6,
    "fails": 5,
    "large result": 2,
    "large argument": 2,
}


@dataclass
class Order:
    """A goal as it was submitted, and what is known of it."""

    submit: msg.Submit
    kind: str
    pending: Optional[Pending] = None
    acknowledged: bool = False
    refused: str = ""
    seen: List[Dict[str, Any]] = field(default_factory=list)  # documents that clients got

    @property
    def id(self) -> str:
        return self.submit.goal_id

    @property
    def expected(self) -> str:
        return "failed" if self.kind == "fails" else "succeeded"


def connect(parties: Parties, **env: str) -> Fleet:
    nothing = Path(parties._no_settings())
    environ: Mapping[str, str] = {**parties.env, "MQTT_HOST": "127.0.0.1", **env}
    return Fleet.connect(config.load("client", {}, environ, nothing, Path("pibot.pyz")))


class Work:
    """Submits orders at a pace, of a seeded mix."""

    def __init__(self, parties: Parties, seed: int) -> None:
        self._random = random.Random(seed)
        self.orders: Dict[str, Order] = {}
        self._open: Dict[str, Order] = {}
        self.client = connect(parties)
        self._shaky = connect(parties, MQTT_PORT=str(parties.lanes["client"].port))
        self._prober = connect(parties)
        self._to_follow: "queue.SimpleQueue[Optional[Order]]" = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._follow_all, args=(client,), daemon=True)
            for client in (self.client, self._shaky) * (FOLLOWERS // 2)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for _ in self._threads:
            self._to_follow.put(None)
        for thread in self._threads:
            thread.join(10)
        for client in (self.client, self._shaky, self._prober):
            client.close()

    # --- asking -----------------------------------------------------------------------------------

    def submit(self, kind: str = "") -> Order:
        """One more goal, of that kind or of any; sometimes somebody follows it."""
        order = self._order(kind or self._any_kind())
        self.orders[order.id] = self._open[order.id] = order
        if order.submit.follow:
            self._to_follow.put(order)
        else:
            client = self._shaky if self._random.random() < 0.3 else self.client
            order.pending = client.send(order.submit)
        return order

    def probe(self) -> Order:
        """A goal that shows when the fleet answers again; nobody follows it.

        Its client does nothing else and has nothing between itself and the broker: it waits for
        the fleet only.
        """
        order = Order(self._goal("work", {}, False), "no-op")
        order.pending = self._prober.send(order.submit)
        self.orders[order.id] = self._open[order.id] = order
        return order

    def _any_kind(self) -> str:
        (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
        return kind

    def _order(self, kind: str) -> Order:
        rng = self._random
        choices: Dict[str, Tuple[str, Dict[str, Any]]] = {
            "no-op": ("work", {}),
            LASTS: ("work", {"seconds": round(rng.uniform(0.2, 2), 2)}),
            "unsafe to repeat": (ONCE, {"seconds": round(rng.uniform(0.2, 2), 2)}),
            "fails": ("work_badly", {}),
            "large result": ("work", {"size": rng.randint(100_000, 1_000_000)}),
            "large argument": ("work", {"filling": "x" * rng.randint(100_000, 400_000)}),
        }
        skill, args = choices[kind]
        return Order(self._goal(skill, args, rng.random() < 0.15), kind)

    def _goal(self, skill: str, args: Dict[str, Any], follow: bool) -> msg.Submit:
        goal_id = f"g{self._random.getrandbits(48):012x}"
        return msg.Submit(goal_id, skill=skill, args=args, timeout_s=TIMEOUT_S, follow=follow)

    def _follow_all(self, client: Fleet) -> None:
        while (order := self._to_follow.get()) is not None:
            while not order.refused:
                try:
                    order.seen.append(client.finish(order.submit, self._told(order)))
                    break
                except Unreachable:
                    continue  # not answered yet: ask again for the same goal
                except PibotError as error:
                    order.refused = str(error)

    def _told(self, order: Order) -> Any:
        def told(kind: str, _data: Dict[str, Any]) -> None:
            order.acknowledged = True  # the first call comes with the submit's answer

        return told

    # --- being answered ---------------------------------------------------------------------------

    def look(self) -> None:
        """Take in the answers that have come."""
        for order in list(self._open.values()):
            pending = order.pending
            if pending is not None and pending.done.is_set() and pending.reply is not None:
                error = pending.reply.error
                order.acknowledged = not error
                order.refused = (error or {}).get("message", "")
            if order.acknowledged or order.refused:
                del self._open[order.id]

    def waiting(self) -> int:
        """How many goals have no answer yet."""
        return len(self._open)

    def followed(self) -> int:
        """How many goals somebody still waits for."""
        orders = self.orders.values()
        return sum(o.submit.follow and not (o.seen or o.refused) for o in orders)

    def acknowledged(self) -> List[Order]:
        return [o for o in self.orders.values() if o.acknowledged]

    def show_all(self, timeout_s: float) -> Dict[str, Dict[str, Any]]:
        """What the master says of every acknowledged goal; {} for one that it does not know."""
        found: Dict[str, Dict[str, Any]] = {}
        orders = self.acknowledged()
        for i in range(0, len(orders), 50):
            group = orders[i : i + 50]
            asked = [(o.id, self.client.send(msg.Get(o.id))) for o in group]
            for goal_id, pending in asked:
                try:
                    found[goal_id] = pending.wait(timeout_s) or {}
                except PibotError:
                    found[goal_id] = {}
        return found
