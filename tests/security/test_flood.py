"""A stolen worker that shouts: garbage on all its topics, while the fleet works and one is mute."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import List, Tuple

from fleet_processes import ROOT
from pibot import messages as msg
from security.impostor import TOPICS, Impostor
from security.intruder import publishing
from security.siege import STOLEN, Siege

PER_S, SECONDS, BATCH = 5_000, 10.0, 50
FROZEN_S = 8.5  # longer than a will allows, shorter than a lease
MUTE = "worker-1"
GOLDEN = [path.read_bytes().strip() for path in sorted((ROOT / "tests/golden").glob("*.json"))]
CHANNELS = ("evt", "hb", "prog", "will")


def garbage(thief: Impostor, start: str, rng: random.Random, count: int) -> List[bytes]:
    """Packets for each topic that it may write: signed, unsigned, none at all, of any type."""
    return [publishing(*_one(thief, start, rng)) for _ in range(count)]


def _one(thief: Impostor, start: str, rng: random.Random) -> Tuple[str, bytes]:
    topic = rng.choice(
        [*(TOPICS.worker(STOLEN, c) for c in CHANNELS), TOPICS.client(STOLEN, "req")]
    )
    kid = rng.choice([thief.kid, f"c:{STOLEN}", f"w:{MUTE}", "m:master"])
    body = rng.choice(GOLDEN).replace(MUTE.encode(), rng.choice([STOLEN, MUTE]).encode())
    kind = rng.randrange(6)
    if kind == 0:
        return topic, rng.randbytes(rng.choice((0, 1, 40, 400)))
    if kind == 1:  # in its own session, where every number is heard once
        sent = msg.Heartbeat([[f"g{rng.randrange(99)}-1", rng.randrange(9)]] * rng.randrange(9))
        return topic, thief.signed(topic, thief.body(sent), kid)
    if kind == 2:
        hello = msg.Hello(f"{rng.getrandbits(64):016x}", f"{rng.getrandbits(64):016x}", 1)
        return topic, thief.signed(topic, thief.body(hello, joining=True))
    if kind == 3:
        return topic, thief.signed(topic, will(thief, start), kid)
    if kind == 4:
        at = rng.randrange(len(body))
        return topic, thief.signed(topic, body[:at] + rng.randbytes(3) + body[at + 3 :])
    return topic, rng.choice([thief.signed(topic, body, kid), thief.unsigned(body, kid)])


def will(thief: Impostor, start: str) -> bytes:
    """The last will of somebody else."""
    body = thief.body(msg.Will(start), joining=True)
    return body.replace(STOLEN.encode(), MUTE.encode())


class Flood(threading.Thread):
    """So many messages a second, or as many as the broker takes."""

    def __init__(self, thief: Impostor, packets: List[bytes]) -> None:
        super().__init__(daemon=True)
        self._thief, self._packets = thief, packets
        self.sent = 0

    def run(self) -> None:
        began = time.monotonic()
        while (now := time.monotonic() - began) < SECONDS:
            if self.sent >= now * PER_S:
                time.sleep(0.002)
                continue
            at = self.sent % len(self._packets)
            if not self._thief.line.send(b"".join(self._packets[at : at + BATCH])):
                return
            self.sent += BATCH


def start_of(siege: Siege, name: str) -> str:
    """What a worker calls its present start: its broker knows it."""
    hello = next(p for _, p in siege.restart(name) if b'"t":"hello"' in p)
    return hello.partition(b'"start":"')[2][:16].decode()


def test_five_thousand_messages_of_garbage_a_second(siege: Siege) -> None:
    """Goals go on, and a worker that is mute meanwhile is not believed dead."""
    start, rng = start_of(siege, MUTE), random.Random(5)
    mute = siege.running(MUTE, 1.0)
    wills = TOPICS.worker(MUTE, "will")
    with siege.stolen() as thief, siege.broker(hears=False) as broker:
        thief.join()
        flood = Flood(thief, garbage(thief, start, rng, 5_000))
        siege.fleet.kill(MUTE, signal.SIGSTOP)
        frozen = time.monotonic()
        flood.start()
        done, slowest = 0, 0.0
        while time.monotonic() < frozen + FROZEN_S:
            broker.publish(wills, thief.signed(wills, will(thief, start), f"w:{MUTE}"))
            began = time.monotonic()
            assert siege.done("echo", "worker-2", text=str(done)) == str(done)
            done, slowest = done + 1, max(slowest, time.monotonic() - began)
            assert siege.workers()[MUTE] in ("idle", "busy"), "a stranger's will counted"
        siege.fleet.kill(MUTE, signal.SIGCONT)
        (row,) = siege.asks.follow(mute)["tasks"]
        assert (row["attempt"], row["state"]) == (1, "succeeded")
        flood.join()
        rate = flood.sent / SECONDS
        print(f"{rate:,.0f} messages/s, {done} goals, the slowest took {slowest:.2f} s")
        assert rate > 0.9 * PER_S and done > SECONDS, "it was no flood, or nothing else moved"
