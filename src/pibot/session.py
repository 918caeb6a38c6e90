"""Sessions: who may speak, and which messages are new. Pure: no clock, no randomness, no I/O.

    guest                              host (the master)
    hello(nonce)            →
                            ←          welcome(nonce, nonce_m)      ses = nonce.nonce_m
    inventory / a request   →          the session is live

Both sides number what they send from 1 and accept each number once, in any order within a small
window. A message of another session is refused; so nothing has to be stored to refuse a replay.
The guest takes a fresh nonce for every hello, the host for every welcome.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable, Dict, Optional

from pibot.messages import Header, Hello, Welcome

WINDOW = 65_536  # QoS 0 overtakes QoS 1 by whole queues, here and in the broker
MAX_CHANNELS = 2_000
MAX_OF_ONE = 100  # sessions of one guest: it cannot push the others out
HINT_PAUSE_S = 2.0
RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0)


class Channel:
    """One session as one side sees it."""

    def __init__(self, peer: str, ses: str, hello: Hello) -> None:
        self.peer = peer
        self.ses = ses
        self.hello = hello
        self.sent = 0
        self._highest = 0
        self._seen = 0

    def stamp(self) -> int:
        """Return the number of the next message to send."""
        self.sent += 1
        return self.sent

    def fresh(self, n: int) -> bool:
        """Note the number `n` as received; False if it was before or is too old to know."""
        if n > self._highest:
            self._seen = (self._seen << min(n - self._highest, WINDOW)) | 1
            self._seen &= (1 << WINDOW) - 1
            self._highest = n
            return True
        if n < 1 or self._highest - n >= WINDOW:
            return False
        bit = 1 << (self._highest - n)
        if self._seen & bit:
            return False
        self._seen |= bit
        return True


class Host:
    """The master's sessions with one kind of guest, the oldest dropped when there are too many."""

    def __init__(self, nonce: Callable[[], str]) -> None:
        self._nonce = nonce
        self._channels: "OrderedDict[str, Channel]" = OrderedDict()

    def open(self, peer: str, hello: Hello) -> Channel:
        """Begin a session; it replaces nothing until the guest has used it.

        A hello that comes twice is answered with the session that it has already.
        """
        mine = [c for c in self._channels.values() if c.peer == peer]
        for channel in mine:
            if channel.hello.nonce == hello.nonce:
                return channel
        ses = f"{hello.nonce}.{self._nonce()}"
        channel = self._channels[ses] = Channel(peer, ses, hello)
        if len(mine) >= MAX_OF_ONE:
            del self._channels[mine[0].ses]
        while len(self._channels) > MAX_CHANNELS:
            self._channels.popitem(last=False)
        return channel

    def find(self, peer: str, header: Header) -> Optional[Channel]:
        """Return the session that a message belongs to, or None."""
        channel = self._channels.get(header.ses)
        if channel is None or channel.peer != peer:
            return None
        self._channels.move_to_end(header.ses)
        return channel

    def close_others(self, keep: Channel) -> None:
        """End every other session of this guest: it has moved to this one."""
        self.close(keep.peer)
        self._channels[keep.ses] = keep

    def close(self, peer: str) -> None:
        """End every session of this guest."""
        for ses in [s for s, c in self._channels.items() if c.peer == peer]:
            del self._channels[ses]


class Guest:
    """A worker's or client's side: says hello until it is welcome, and again when told."""

    def __init__(self, nonce: Callable[[], str], jitter: Callable[[], float]) -> None:
        self._nonce, self._jitter = nonce, jitter
        self.channel: Optional[Channel] = None
        self.welcome: Optional[Welcome] = None
        self.epoch = 0
        self._waiting: Dict[str, None] = {}  # nonces of hellos that may still be answered
        self._tries = 0
        self._last_hello = float("-inf")
        self._hello_at: Optional[float] = 0.0

    def due(self, now: float) -> bool:
        return self._hello_at is not None and now >= self._hello_at

    def wake_at(self) -> Optional[float]:
        return self._hello_at

    def hello_nonce(self, now: float) -> str:
        """Begin or repeat a hello; the next is due after a growing, jittered pause."""
        nonce = self._nonce()
        self._waiting[nonce] = None
        self._last_hello = now
        while len(self._waiting) > 4:
            del self._waiting[next(iter(self._waiting))]
        pause = RETRY_S[min(self._tries, len(RETRY_S) - 1)]
        self._tries += 1
        self._hello_at = now + pause * (1 + 0.5 * self._jitter())
        return nonce

    def again(self, now: float, within_s: float = 0.0) -> None:
        """Say hello anew within `within_s` seconds; a hello that is due sooner stays so."""
        at = now + within_s * self._jitter()
        if within_s > 0.0:  # a hint that nobody has signed: not more often than this
            at = max(at, self._last_hello + HINT_PAUSE_S)
        if self._hello_at is None or within_s == 0.0 or at < self._hello_at:
            self._hello_at = at
        self._tries = 0

    def later(self, now: float, wait_s: float) -> None:
        """The host said no: keep trying, slowly."""
        self.channel = None
        self._hello_at = now + wait_s * (1 + 0.2 * self._jitter())

    def welcomed(self, header: Header, welcome: Welcome, hello: Hello) -> bool:
        """Take the session if it answers a hello of ours that is still open."""
        if welcome.nonce not in self._waiting:
            return False
        self._waiting.clear()
        self.channel = Channel(header.src, f"{welcome.nonce}.{welcome.nonce_m}", hello)
        self.welcome, self.epoch = welcome, header.ep
        self._hello_at, self._tries = None, 0
        return True

    def asked(self, nonce: str) -> bool:
        """Whether a hello of ours with this nonce is open, or became the session."""
        channel = self.channel
        return nonce in self._waiting or (
            channel is not None and channel.ses.partition(".")[0] == nonce
        )

    def accepts(self, header: Header) -> bool:
        """Whether a message belongs to the session and is new."""
        channel = self.channel
        return channel is not None and header.ses == channel.ses and channel.fresh(header.n)
