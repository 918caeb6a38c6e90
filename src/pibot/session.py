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
MAX_HELLO_BYTES = 2 * 1024 * 1024  # of hellos whose guests have not come back yet,
NAME_HELLO_BYTES = 256 * 1024  # and so much of one name
HINT_PAUSE_S = 2.0
RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0)
PATIENCE_S = 30.0  # with a connection on which nobody answers
PATIENCE_MAX_S = 600.0  # the host may be away for days


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
    """The master's sessions with one kind of guest.

    Anybody may say hello, under any name and as often as he likes. So a session that was only
    opened can be pushed out by other hellos, never one that its guest has used.
    """

    def __init__(self, nonce: Callable[[], str]) -> None:
        self._nonce = nonce
        self._opened: "OrderedDict[str, Channel]" = OrderedDict()
        self._used: "OrderedDict[str, Channel]" = OrderedDict()
        self._of: Dict[str, Dict[str, Channel]] = {}  # the sessions of each guest, the oldest first
        self._sizes: Dict[str, int] = {}
        self._bytes: Dict[str, int] = {}  # of each guest
        self._total = 0

    def open(self, peer: str, hello: Hello, size: int = 0) -> Channel:
        """Begin a session; it replaces nothing until the guest has used it.

        A hello that comes twice is answered with the session that it has already. `size` is what
        the hello takes.
        """
        mine = self._of.setdefault(peer, {})
        for channel in mine.values():
            if channel.hello.nonce == hello.nonce:
                return channel
        ses = f"{hello.nonce}.{self._nonce()}"
        channel = self._opened[ses] = mine[ses] = Channel(peer, ses, hello)
        self._weigh(channel, size)
        while len(mine) > 1 and (
            len(mine) > MAX_OF_ONE or self._bytes.get(peer, 0) > NAME_HELLO_BYTES
        ):
            others = list(mine.values())[:-1]
            self._end(next((c for c in others if c.ses in self._opened), others[0]))
        while len(self._opened) > MAX_CHANNELS or self._total > MAX_HELLO_BYTES:
            self._end(next(iter(self._opened.values())))
        return channel

    def _weigh(self, channel: Channel, size: int) -> None:
        self._sizes[channel.ses] = size
        self._bytes[channel.peer] = self._bytes.get(channel.peer, 0) + size
        self._total += size

    def _unweigh(self, channel: Channel) -> None:
        """What its guest has used weighs nothing: it cannot be pushed out."""
        size = self._sizes.pop(channel.ses, 0)
        self._total -= size
        left = self._bytes.pop(channel.peer, 0) - size
        if left > 0:
            self._bytes[channel.peer] = left

    def find(self, peer: str, header: Header) -> Optional[Channel]:
        """Return the session that a message belongs to, or None."""
        channel = self._opened.get(header.ses) or self._used.get(header.ses)
        if channel is None or channel.peer != peer:
            return None
        if self._opened.pop(header.ses, None):
            self._unweigh(channel)
        self._used[header.ses] = channel
        self._used.move_to_end(header.ses)
        if len(self._used) > MAX_CHANNELS:
            self._end(next(iter(self._used.values())))
        return channel

    def close_others(self, keep: Channel) -> None:
        """End every other session of this guest: it has moved to this one."""
        for channel in list(self._of.get(keep.peer, {}).values()):
            if channel is not keep:
                self._end(channel)

    def close(self, peer: str) -> None:
        """End every session of this guest."""
        for channel in list(self._of.get(peer, {}).values()):
            self._end(channel)

    def _end(self, channel: Channel) -> None:
        self._opened.pop(channel.ses, None)
        self._used.pop(channel.ses, None)
        self._unweigh(channel)
        mine = self._of[channel.peer]
        del mine[channel.ses]
        if not mine:
            del self._of[channel.peer]


class Guest:
    """A worker's or client's side: says hello until it is welcome, and again when told."""

    def __init__(self, nonce: Callable[[], str], jitter: Callable[[], float]) -> None:
        self._nonce, self._jitter = nonce, jitter
        self.channel: Optional[Channel] = None
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
        self.epoch = header.ep
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


class Doubt:
    """Whether a connection that stands is deaf: nobody has answered on it for too long.

    A broker may grant a subscription and deliver nothing, a cable may swallow one direction. Then
    only another connection helps. If that is deaf, too, the host is more likely away: the waits
    grow.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter, self._wait_s = jitter, PATIENCE_S
        self._at = float("inf")

    def connected(self, now: float) -> None:
        self._at = now + self._wait_s * (1 + 0.5 * self._jitter())

    def lost(self) -> None:
        self._at = float("inf")

    def heard(self, now: float) -> None:
        """Somebody whom we asked has answered: the connection works both ways."""
        self._wait_s = PATIENCE_S
        self._at = now + self._wait_s

    def due(self, now: float) -> bool:
        """Whether to connect anew, now; asked again only after the next connection."""
        if now < self._at:
            return False
        self._wait_s = min(2 * self._wait_s, PATIENCE_MAX_S)
        self._at = float("inf")
        return True
