"""A client of the fleet, for the command line and for Python programs (docs/python.md).

One thread speaks with the broker; callers wait for replies. A request is repeated until it is
answered; a goal that is followed survives a restart of the master and of the broker.
"""

from __future__ import annotations

import os
import queue
import random
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from pibot import broker, config
from pibot import messages as msg
from pibot.config import Settings
from pibot.errors import (
    BadMessage,
    ConfigError,
    PibotError,
    Refused,
    TimedOut,
    Unreachable,
    UsageError,
)
from pibot.line import GuestLine, subject
from pibot.mailbox import Mailbox
from pibot.roles import asked
from pibot.roles.common import Stop, guest_keys, link, new_goal_id, new_nonce
from pibot.session import Doubt, Guest
from pibot.silence import Silence
from pibot.topics import Topics
from pibot.transfer import WHOLE_BYTES
from pibot.transport import PahoTransport, Transport
from pibot.wire import PACKET_BYTES, Packet, Writer

CONNECT_S = 5.0
REQUEST_S = 15.0
RESEND_S = 1.0
RESEND_MAX_S = 5.0
FOLLOW_S = 2.0
MAX_EVENTS = 10_000  # that a caller has not taken yet; its goal's end is never left out
GRACE_S = 15.0  # beyond a goal's deadline, for the master to say so
KEY_REFUSED = (
    "it seems that the master does not know the PIBOT_KEY that is used here: take the file that "
    "`pibot.pyz clients add` makes, or the one of `sudo pibot.pyz setup --role master`"
)
_START_SERVICE = "start it with `sudo systemctl start pibot-master` on its machine"
_START_BY_HAND = "start one with `pibot.pyz --role master`"
Document = Dict[str, Any]
OnEvent = Callable[[str, Document], None]


class Pending:
    """A request that waits for its reply; it is repeated until then."""

    def __init__(self, message: msg.Message, id: str, moving: Callable[[], bool]) -> None:
        """`moving` tells whether something large is on its way, perhaps the reply."""
        self.message, self.id, self._moving = message, id, moving
        self.sends = 0
        self.reply: Optional[msg.Reply] = None
        self.done = threading.Event()
        self.resend_at = 0.0
        self.pause_s = RESEND_S

    def wait(self, timeout_s: float) -> Optional[Document]:
        """The reply's data, None if none came in time; raise what the master says is wrong."""
        while not self.done.wait(timeout_s):
            if not self._moving():
                self.done.set()  # nobody waits any more
        if self.reply is None:
            return None
        if self.reply.error:
            raise _as_error(self.reply.error)
        return self.reply.data


class Fleet:
    """A connection to a fleet's master. Use `Fleet.connect()`; close it, or use `with`."""

    def __init__(
        self, settings: Settings, connect: Callable[..., Transport] = PahoTransport
    ) -> None:
        """`connect` makes the transport: of a link, a name and topic filters."""
        self._settings, self._make_transport = settings, connect
        self.name = settings.client or f"cli-{secrets.token_hex(4)}"
        self._topics = Topics(settings.fleet)
        self._mailbox = Mailbox()
        self._guest = Guest(new_nonce, random.random)
        keyring = guest_keys(settings)
        writer = Writer(f"c:{self.name}", self.name, keyring)
        requests, replies = (self._topics.client(self.name, what) for what in ("req", "rep"))
        self._hears = (replies, self._topics.announce)
        self._line = GuestLine(writer, keyring, requests, self._hears, self._guest, random.random)
        self._silence = Silence(settings.fleet, settings.mqtt_username, requests, replies)
        self._doubt = Doubt(random.random)
        self._start = new_nonce()
        self._waiting: Dict[str, Pending] = {}
        self._look_at = 0.0
        self._following: Dict[str, "queue.SimpleQueue[msg.Event]"] = {}
        self._welcomed = threading.Event()
        self._trouble, self._connected = "", False
        self._transport: Optional[Transport] = None
        self._thread: Optional[threading.Thread] = None

    @classmethod
    def connect(
        cls, settings: Optional[Settings] = None, env_file: Optional[str] = None
    ) -> "Fleet":
        """Connect with the settings of the environment and of `.env`, as the commands do.

        Raises ConfigError for bad settings, Unreachable when no broker or no master answers
        within 5 seconds.
        """
        if settings is None:
            program = Path(sys.argv[0] or ".")
            chosen = Path(env_file) if env_file else None
            settings = config.load("client", {}, os.environ, chosen, program)
        fleet = cls(settings)
        try:
            fleet.open()
        except BaseException:
            fleet.close()
            raise
        return fleet

    def open(self) -> None:
        settings = self._settings
        host, port = broker.locate(settings)
        there = link(settings, host, port)
        self._mailbox.open()
        self._transport = self._make_transport(there, self.name, self._hears)
        self._transport.start(
            self._mailbox.offer,
            lambda up, why: self._mailbox.put((up, why)),
            self._mailbox.wake,
        )
        self._thread = threading.Thread(target=self._loop, name="fleet", daemon=True)
        self._thread.start()
        if not self._welcomed.wait(CONNECT_S):
            if self._connected and not (settings.key or settings.is_loopback_broker):
                raise ConfigError(_no_key(there.host))
            raise Unreachable(
                self._trouble
                or self._silence.words(
                    there.where(), _START_SERVICE if settings.mqtt_username else _START_BY_HAND
                )
            )

    def close(self) -> None:
        self._mailbox.put(Stop())
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(2.0)
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a fleet can do ----------------------------------------------------------------------

    def run(
        self,
        goal: str,
        on: Optional[str] = None,
        *,
        all: bool = False,
        tag: Optional[str] = None,
        timeout_s: float = 600.0,
        chat: str = "",
        on_event: Optional[OnEvent] = None,
    ) -> Document:
        """Give the fleet a goal in words and wait; return the document of `run --json`.

        A goal that fails is no exception: look at `["state"]`. Raises Refused or UsageError when
        the master does not take it, TimedOut when no outcome came in time.
        """
        submit = msg.Submit(
            new_goal_id(),
            goal=goal,
            on=on or "",
            all=all,
            tag=tag or "",
            chat=chat,
            timeout_s=float(timeout_s),
            follow=True,
        )
        return self.finish(submit, on_event)

    def run_skill(
        self,
        name: str,
        args: Optional[Mapping[str, Any]] = None,
        on: Optional[str] = None,
        *,
        all: bool = False,
        tag: Optional[str] = None,
        timeout_s: float = 600.0,
        on_event: Optional[OnEvent] = None,
    ) -> Document:
        """Run a skill, no model involved; otherwise as `run`."""
        submit = msg.Submit(
            new_goal_id(),
            skill=name,
            args=dict(args or {}),
            on=on or "",
            all=all,
            tag=tag or "",
            timeout_s=float(timeout_s),
            follow=True,
        )
        return self.finish(submit, on_event)

    def get_status_summary(self) -> Document:
        """The document of `status --json`: total, idle, busy, offline, and a row a worker."""
        return self.ask(msg.Listing("workers"))

    def check_all_workers_health(self) -> Dict[str, bool]:
        """Whether each worker answers: {worker_id: bool}."""
        rows = self.get_status_summary()["workers"]
        return {r["worker_id"]: r["state"] not in ("offline", "incompatible") for r in rows}

    def approve(self, key: str) -> Document:
        """Let a call that waits for a person happen; return it, with `state` and `by`.

        `key` is what `asks` calls its `id`, or the id of its task or goal if nothing else of that
        waits. Raises Refused if nothing waits there, or more than one call.
        """
        return self.decide(asked.one_of(self.asks(), key), True)

    def deny(self, key: str) -> Document:
        """Do not let it happen; otherwise as `approve`."""
        return self.decide(asked.one_of(self.asks(), key), False)

    def asks(self) -> List[Document]:
        """The calls that wait for a person: what, where, and why a person is asked."""
        return list(self.ask(msg.Listing("waiting"))["asks"])

    def decide(self, call: Document, allow: bool) -> Document:
        """Approve or deny exactly this call, as `asks` and the event `asked` have it."""
        return self.ask(msg.Approve(call["task_id"], call["attempt"], call["step"], allow))

    def finish(self, submit: msg.Submit, on_event: Optional[OnEvent] = None) -> Document:
        """Submit a goal and follow it to its end."""
        events = self._following.setdefault(submit.goal_id, queue.SimpleQueue())
        self.ask(submit)
        if on_event:
            on_event("submitted", {"goal_id": submit.goal_id})
        return self._wait(submit.goal_id, events, submit.timeout_s + GRACE_S, on_event, submit)

    def follow(self, goal_id: str, on_event: Optional[OnEvent] = None) -> Document:
        """Wait for a goal that was submitted before."""
        events = self._following.setdefault(goal_id, queue.SimpleQueue())
        state = self.ask(msg.Follow(goal_id))
        if "document" in state:
            events.put(msg.Event(goal_id, "done", state))
        return self._wait(goal_id, events, float("inf"), on_event)

    def ask(self, message: msg.Message, timeout_s: float = REQUEST_S) -> Document:
        """Send a request and return its reply's data; raise what the master says is wrong."""
        return self.answer(self.send(message), timeout_s)

    def answer(self, pending: Pending, timeout_s: float = REQUEST_S) -> Document:
        """The data of the reply to a request that was sent; raise what the master says is wrong."""
        data = pending.wait(timeout_s)
        if data is None:
            raise Unreachable(
                self._trouble or "the master does not answer any more: is it running?"
            )
        return data

    def send(self, message: msg.Message) -> Pending:
        """Send a request without waiting for its reply; raise UsageError if it cannot be sent."""
        _check(message, self.name)
        pending = Pending(message, self._line.new_id(), self._moving)
        self._mailbox.put(pending)
        return pending

    def _wait(
        self,
        goal_id: str,
        events: "queue.SimpleQueue[msg.Event]",
        patience_s: float,
        on_event: Optional[OnEvent],
        submit: Optional[msg.Submit] = None,
    ) -> Document:
        patience = asked.Patience(patience_s)
        try:
            while patience.is_left():
                event = self._next_event(goal_id, events, submit)
                if event is None:
                    continue
                patience.learn(event.kind, event.data)
                if on_event:
                    on_event(event.kind, event.data)
                if event.kind == "done":
                    return dict(event.data["document"])
        finally:
            self._following.pop(goal_id, None)
        raise TimedOut(
            f"goal {goal_id} has no outcome yet: look later with `pibot.pyz show {goal_id}`"
        )

    def _next_event(
        self,
        goal_id: str,
        events: "queue.SimpleQueue[msg.Event]",
        submit: Optional[msg.Submit],
    ) -> Optional[msg.Event]:
        """The next event; when none comes for a while, ask how things stand.

        A goal that the master has lost is submitted again by whoever waits for its outcome.
        """
        try:
            return events.get(timeout=FOLLOW_S)
        except queue.Empty:
            if self._moving():
                return None
        try:
            state = self._state(goal_id, submit)
        except Unreachable:
            return None  # the master or the broker may come back; the goal is not lost
        if "document" in state:
            return msg.Event(goal_id, "done", state)
        return msg.Event(goal_id, "asked", {"asks": state.get("asks", [])})

    def _state(self, goal_id: str, submit: Optional[msg.Submit]) -> Document:
        try:
            return self.ask(msg.Follow(goal_id), FOLLOW_S)
        except Refused as error:
            if submit is None or error.code != "lost":
                raise
        return self.ask(submit)

    # --- the thread -------------------------------------------------------------------------------

    def _loop(self) -> None:
        assert self._transport is not None
        while True:
            for item in self._mailbox.collect(self._wait_s(), self._transport.poll):
                if isinstance(item, Stop):
                    return
                self._take(item, time.monotonic())
            now = time.monotonic()
            self._timers(now)
            self._hand_over(self._line.due(now))

    def _wait_s(self) -> float:
        hello_at = self._guest.wake_at()
        times = [self._line.wake_at()] if hello_at is None else [self._line.wake_at(), hello_at]
        if self._waiting:
            times.append(self._look_at)
        return max(0.0, min(min(times) - time.monotonic(), 1.0))

    def _moving(self) -> bool:
        """Whether a message in chunks is on its way: slow is not silent."""
        return time.monotonic() - self._line.moved_at < FOLLOW_S

    def _take(self, item: Any, now: float) -> None:
        if isinstance(item, Pending):
            self._waiting[item.id] = item
            if self._guest.channel is not None:
                self._send_now(item, now)
        elif isinstance(item[0], str):
            try:
                self._take_packet(item[0], item[1], now)
            except BadMessage:
                pass  # the request is repeated; a stranger's packet is nobody's business
        elif item[0]:
            self._trouble, self._connected = "", True
            self._guest.channel = None
            self._guest.again(now)
            self._doubt.connected(now)
        else:
            self._trouble = item[1]
            self._doubt.lost()

    def _take_packet(self, topic: str, payload: bytes, now: float) -> None:
        found = self._line.receive(topic, payload, now)
        if found is None:
            return
        header, message = found.header, found.message
        if isinstance(message, msg.Welcome):
            if self._guest.welcomed(header, message, self._hello(message.nonce)):
                self._doubt.heard(now)
                self._trouble = ""
                self._welcomed.set()
                for pending in self._waiting.values():
                    self._send_now(pending, now)
        elif message == msg.Refusal(msg.KEY):
            self._trouble = self._trouble or KEY_REFUSED
        elif isinstance(message, (msg.Announce, msg.Refusal)):
            self._guest.again(now, 0.2)
        elif found.whole or self._guest.accepts(header):
            self._doubt.heard(now)
            self._answered(message)

    def _answered(self, message: msg.Message) -> None:
        if isinstance(message, msg.Reply):
            pending = self._waiting.get(message.re)
            if pending is not None:
                pending.reply = message
                pending.done.set()
                self._forget(pending)
        elif isinstance(message, msg.Event):
            events = self._following.get(message.goal_id)
            if events is not None and (message.kind == "done" or events.qsize() < MAX_EVENTS):
                events.put(message)

    def _hello(self, nonce: str) -> msg.Hello:
        return msg.Hello(nonce, self._start)

    def _forget(self, pending: Pending) -> None:
        self._waiting.pop(pending.id, None)
        about = subject(pending.message)
        if about is not None:
            self._line.withdraw(about.name)

    def _timers(self, now: float) -> None:
        if self._guest.due(now):
            self._publish(self._hello(self._guest.hello_nonce(now)), joining=True)
        if self._guest.channel is not None and (not self._waiting or self._moving()):
            self._doubt.heard(now)  # nobody was asked, or the answer is on its way
        if self._doubt.due(now):
            assert self._transport is not None
            self._transport.renew()
        if now < self._look_at:
            return
        self._look_at = now + RESEND_S / 4
        for pending in list(self._waiting.values()):
            if pending.done.is_set():
                self._forget(pending)
            elif self._guest.channel is None or self._moving():
                continue
            elif now >= pending.resend_at:
                self._send_now(pending, now)

    def _send_now(self, pending: Pending, now: float) -> None:
        pending.resend_at = now + pending.pause_s
        pending.pause_s = min(2 * pending.pause_s, RESEND_MAX_S)
        pending.sends += 1
        if pending.sends > 4:  # the session may be gone on the other side
            self._guest.again(now, 0.5)
        self._publish(pending.message, id=pending.id)

    def _publish(self, message: msg.Message, joining: bool = False, id: str = "") -> None:
        topic = self._topics.client(self.name, "req")
        self._hand_over(self._line.send(topic, message, joining=joining, id=id))

    def _hand_over(self, packets: List[Packet]) -> None:
        assert self._transport is not None
        for packet in packets:
            self._transport.publish(*packet)


def _no_key(host: str) -> str:
    return (
        f"The broker {host} is not on this machine, so PIBOT_KEY must be set: take the file that "
        "`pibot.pyz clients add NAME` makes on the master's machine."
    )


def _check(message: msg.Message, name: str) -> None:
    """Refuse here what the thread that sends could only fail at."""
    try:
        size = len(msg.encode(msg.Header(message.t, "", name), message))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the arguments are not what JSON can hold: {error}") from None
    limit = PACKET_BYTES if subject(message) is None else WHOLE_BYTES
    if size > limit - 1024:  # some room for the header
        raise UsageError(
            f"the {message.t} message has {size:,} bytes, more than the {limit:,} that may be sent"
        )


_ERRORS = {"usage": UsageError, "config": UsageError, "refused": Refused}


def _as_error(error: Mapping[str, Any]) -> PibotError:
    code, text = str(error.get("code")), str(error.get("message"))
    made: PibotError = _ERRORS.get(code, Refused)(text)
    made.code = code
    return made
