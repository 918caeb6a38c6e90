"""A master's desk with real files and without a socket, for people who manage workers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Dict, List, Optional

from fleet.peers import TOPICS, Peer, Wire
from pibot import identities
from pibot import messages as msg
from pibot.errors import StoreError
from pibot.fleet.artifacts import Artifacts
from pibot.fleet.audit import Audit
from pibot.fleet.desk import Desk, Surroundings
from pibot.fleet.journal import Journal
from pibot.fleet.programs import Programs
from pibot.fleet.roster import Own, Roster
from pibot.identities import Identities, Secret
from pibot.mosquitto import passwd_text
from pibot.signing import MasterKeys
from pibot.topics import RESERVED
from pibot.wire import Packet

OWN = Own(RESERVED, "the master's password", "k" * 64)
OPEN = Own(None, None, None)


def wanted(action: str, secret: Secret, now: bool = False) -> msg.Manage:
    """A request with new credentials, as a client without a key makes it."""
    kept = identities.identity(secret)
    more = (kept.kind, kept.suffix, kept.update_key, now)
    return msg.Manage(action, kept.name, kept.password_line, kept.key, *more)


class Office(Wire):
    """A master without its socket; `wire` sees what is published."""

    def __init__(self, folder: Path, own: Own = OWN) -> None:
        super().__init__()
        self.folder, self.now = folder, 10.0
        self.views: Dict[str, bytes] = {}  # as a broker retains them
        self._numbers = itertools.count(1)
        self.start(own)

    def start(self, own: Own = OWN) -> None:
        """Begin, or begin again after a kill."""
        if hasattr(self, "journal"):
            self.journal.close()
        self.journal = Journal(self.folder / RESERVED / "journal.db")
        epoch, store_id = self.journal.open("store")
        roster, artifacts = Roster(self.folder, "home", own), Artifacts(self.folder / "artifacts")
        around = Surroundings(
            fleet="home",
            epoch=epoch,
            store_id=store_id,
            model=False,
            asks=True,
            keyring=MasterKeys(None, TOPICS.parse, roster.keys_of),
            nonce=lambda: f"{next(self._numbers):016x}",
            goal_id=lambda: f"g{next(self._numbers)}",
            jitter=lambda: 0.5,
            local_time=lambda: "2026-11-22T10:30:00+01:00",
        )
        programs = Programs(self.folder / "programs", spare_bytes=0)
        audit = Audit(self.folder / RESERVED / "audit.log", around.local_time)
        audit.open()
        self.desk = Desk(TOPICS, self.journal, roster, around, artifacts, programs, audit)
        self.desk.begin(self.now)
        self._publish(self.desk.connected())

    def receive(self, topic: str, payload: bytes) -> None:
        self.now += 2.0
        self.desk.take_packet(topic, payload, self.now)
        try:
            self.desk.store(self.now)
        except StoreError as error:
            self._publish(self.desk.refuse(error))
            self.desk.begin(self.now)
            self._publish(self.desk.connected())
        else:
            self._publish(self.desk.tell(self.now).packets)

    def _publish(self, packets: List[Packet]) -> None:
        self.packets += packets
        for packet in packets:
            if packet.retain:
                self.views.pop(packet.topic, None)
                if packet.payload:
                    self.views[packet.topic] = packet.payload

    # --- what people and files say --------------------------------------------------------------

    def ask(self, message: msg.Message, client: str = "laptop", key: str = "") -> Dict[str, Any]:
        """A client's request and what it is answered."""
        peer = Peer(self, "c", client, key=key)
        peer.greet(f"{next(self._numbers):016x}")
        peer.send(message)
        (reply,) = self.told(peer, msg.Reply)
        return reply.error or reply.data

    def manage(
        self, action: str, name: str, secret: Optional[Secret] = None, now: bool = False
    ) -> Dict[str, Any]:
        return self.ask(wanted(action, secret, now) if secret else msg.Manage(action, name))

    def add(self, name: str, kind: str = "w") -> Secret:
        secret = identities.new_secret(kind, name)
        assert self.manage("add", name, secret)["state"] == "added"
        return secret

    def worker(self, name: str, key: str = "") -> Peer:
        peer = Peer(self, "w", name, key=key)
        peer.join(f"{next(self._numbers):016x}")
        return peer

    def states(self) -> Dict[str, Optional[str]]:
        rows = self.ask(msg.Listing("roster"))["workers"]
        return {row["worker_id"]: row["state"] for row in rows}

    def names(self) -> List[str]:
        """Whom the file of identities has; the broker's file has the same."""
        found = Identities.load(self.identities)
        text = (self.folder / "broker" / "passwd").read_text()
        assert text == passwd_text(found)
        return [line.partition(":")[0] for line in text.splitlines()]

    @property
    def identities(self) -> Path:
        return self.folder / RESERVED / "identities.json"
