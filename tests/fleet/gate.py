"""The master's end of the wire, with a pool behind it and workers and clients before it."""

from __future__ import annotations

import itertools
import random
from typing import List, Optional

from fleet.peers import TOPICS, Peer, Wire
from pibot import messages as msg
from pibot.fleet import events as ev
from pibot.fleet.gateway import Gateway, Incoming
from pibot.fleet.pool import Pool
from pibot.signing import Unsigned
from pibot.wire import Reader


class Gate(Wire):
    def __init__(self) -> None:
        super().__init__()
        numbers = itertools.count(1)
        self.now = 10.0
        self.pool = Pool()
        nonce = lambda: f"{next(numbers):016x}"  # noqa: E731
        half = lambda: 0.5  # noqa: E731
        self.gateway = Gateway(TOPICS, Unsigned(), self.pool, nonce, 7, "store-1", half)

    def receive(self, topic: str, payload: bytes) -> Optional[Incoming]:
        found = self.gateway.receive(topic, payload, self.now)
        if isinstance(found, ev.Joined):
            self.pool.take(found.worker, found.hello, self.now)
        self.packets += self.gateway.take_packets()
        return found

    def carry(self, peer: Peer, shuffled: bool = False, rounds: int = 99) -> List[Incoming]:
        """Take chunks and acknowledgements to and fro, each twice; what comes out of it here."""
        found: List[Incoming] = []
        for i in range(rounds):
            self.now += 0.01
            self.packets += self.gateway.due(self.now)
            assert peer.channel is not None
            for packet in [p for p in self.packets if "/rep" in p.topic or "/cmd" in p.topic] * 2:
                _, header, message = Reader(Unsigned()).read(packet.topic, packet.payload)
                if header.ses != peer.channel.ses or not peer.channel.fresh(header.n):
                    continue
                if isinstance(message, msg.ChunkAck):
                    peer.line.sender.acked(peer.channel, header.n, message, self.now)
                elif isinstance(message, msg.Chunk):
                    peer.got += filter(
                        None, [peer.line.take(peer.channel, header, message, self.now)]
                    )
            self.packets.clear()
            payloads = [p.payload for p in peer.line.due(self.now)] * 2
            if shuffled:
                random.Random(i).shuffle(payloads)
            found += filter(None, [self.receive(peer.topic(), p) for p in payloads])
        return found
