"""A worker: wires core, journal, skills and broker together; one loop does the effects.

handle → commit → only then send and start. Attempts run in threads of their own.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import random
import secrets
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from pibot import __version__, broker, parts
from pibot import messages as msg
from pibot.agent import (
    announcing,
    attempt,
    effects,
    library,
    pushed,
    sharing,
    souls,
    workspaces,
)
from pibot.agent import worker_core as core
from pibot.agent.approval import Ask
from pibot.agent.journal import Journal
from pibot.agent.model import Model
from pibot.agent.tools import Toolbox
from pibot.agent.updating import Updating
from pibot.config import Settings, require_credentials
from pibot.deploy import layout
from pibot.errors import BadMessage, DamagedStore, StoreError
from pibot.line import GuestLine
from pibot.mailbox import Mailbox
from pibot.notify import Notify
from pibot.roles.common import (
    BrokerNews,
    Stop,
    guest_keys,
    link,
    new_nonce,
    other_user,
    serve_health,
)
from pibot.secrets import Redactor
from pibot.session import Guest
from pibot.silence import Silence
from pibot.skills.core import machine_facts
from pibot.topics import Topics
from pibot.transport import LastWill, PahoTransport, Transport
from pibot.wire import Packet, TooLarge, Writer

if TYPE_CHECKING:
    from pibot.agent.mcp_servers import Servers

log = logging.getLogger("pibot.worker")

IDLE_S = 1.0
FACTS_S = 4.0
TIDY_S = 3600.0
DEGRADED_S = 30.0
MAX_STEPS_WAITING = 1_000


class Ended:
    """An attempt's thread is done."""

    def __init__(self, result: msg.Result) -> None:
        self.result = result


class Stepped:
    """An attempt made a step."""

    def __init__(self, task: str, step: Dict[str, Any]) -> None:
        self.task, self.step = task, step


class Asked:
    """A call of an attempt waits for a person."""

    def __init__(self, task: str, ask: Ask) -> None:
        self.task, self.ask = task, ask


class Learned:
    """A push has come to its end, or an MCP server has come: these are the skills now."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.toolbox = toolbox


class Worker:
    def __init__(
        self,
        settings: Settings,
        connect: Callable[..., Transport] = PahoTransport,
        systemd: Optional[Notify] = None,
    ) -> None:
        """`connect` makes the transport: of a link, a name, topic filters and a last will."""
        self._settings, self._make_transport = settings, connect
        self._systemd = systemd or Notify()
        self._news = BrokerNews(log, self._systemd)
        self._redactor = Redactor(_secrets(settings))
        self._learning = threading.Lock()
        self._name = settings.worker_id
        self._mailbox = Mailbox()
        self._topics = Topics(settings.fleet)
        self._keyring = guest_keys(settings)
        self._writer = Writer(f"w:{self._name}", self._name, self._keyring)
        speaks, hears = (self._topics.worker(self._name, what) for what in ("evt", "cmd"))
        self._hears = (hears, self._topics.announce)
        self._silence = Silence(settings.fleet, settings.mqtt_username, speaks, hears)
        self._attempts: Dict[str, attempt.Attempt] = {}
        self._facts_at = 0.0
        self._tidy_at = 0.0
        self._unstored: List[effects.Fact] = []

    def stop(self) -> None:
        """Ask the loop to end; safe from signal handlers and threads."""
        self._mailbox.put(Stop())

    def run(self) -> None:
        """Serve until stop(); raises PibotError when it cannot begin."""
        require_credentials(self._settings)
        with ExitStack() as opened:
            self._open(opened)
            self._systemd.ready()
            while not self._core.may_go(time.monotonic()):
                self._systemd.alive(time.monotonic())
                self._turn(self._mailbox.collect(self._wait_s(), self._transport.poll))
            for send in self._core.goodbye(time.monotonic()).sends:
                self._publish(send)

    # --- beginning ------------------------------------------------------------------------------

    def _open(self, opened: ExitStack) -> None:
        settings = self._settings
        self._mailbox.open()
        opened.callback(self._mailbox.close)
        home = settings.state_dir / self._name
        self._journal = Journal(home / "journal.db")
        inc, held = self._journal.open()
        opened.callback(self._journal.close)
        self._pushed = pushed.Pushed(home / "skills", self._relearn)
        self._owned, notes = library.load(settings.skills_dir, settings.permits)
        for note in notes:
            log.info("%s", note)
        if settings.permits.shell_network and not settings.key:
            log.warning(
                "PIBOT_SHELL_NETWORK=1 in a fleet without credentials: commands reach its broker, "
                "can give it orders and approve their own calls"
            )
        self._mcp = _servers(settings, self._relearn)
        if self._mcp is not None:
            opened.callback(self._mcp.close)
            self._mcp.start()
        toolbox = self._toolbox()
        self._tools = attempt.Tools(
            toolbox=toolbox,
            model=_model(settings),
            soul=souls.load("worker", settings.soul),
            permits=settings.permits,
            workspaces=home / "tasks",
            approval=settings.approval,
            redactor=self._redactor,
        )
        self._workspaces = workspaces.Workspaces(
            home / "tasks", settings.permits.workspace_days, lambda task: task in self._core.held
        )
        start = secrets.token_hex(8)
        with_master = os.path.exists(layout.settings_file("master"))
        own = (settings.state_dir, self._name, parts.build(), with_master)
        self._updating = Updating(*own, random.random)
        self._updating.begin()
        self._said: Dict[str, Any] = {}
        self._say_skills(toolbox)
        hello = functools.partial(msg.Hello, start=start, inc=inc, facts=self._said)
        guest = Guest(new_nonce, random.random)
        chunks = self._topics.worker(self._name, "evt")
        self._line = GuestLine(
            self._writer, self._keyring, chunks, self._hears, guest, random.random
        )
        self._core = core.WorkerCore(
            hello, settings.slots, guest, random.random, held, time.monotonic()
        )
        opened.callback(serve_health(settings, self._health).close)
        self._connect(opened, start)

    def _toolbox(self) -> Toolbox:
        """The skills of this machine, and those that were pushed to it."""
        sources, permits = self._pushed.sources(), self._settings.permits
        toolbox, notes = library.extended(self._owned, sources, permits, self._pushed.read)
        if self._mcp is not None:
            more, left_out = self._mcp.skills(library.reserved(toolbox))
            toolbox, notes = Toolbox([*toolbox.skills, *more]), notes + left_out
        for note in notes:
            log.info("%s", note)
        return toolbox

    def _relearn(self) -> None:
        """Look what skills there are now; called in other threads, one at a time counts."""
        with self._learning:
            self._mailbox.put(Learned(self._toolbox()))

    def _say_skills(self, toolbox: Toolbox) -> None:
        """What each hello says from now on."""
        more = {**self._updating.facts(), **self._pushed.facts()}
        skills, note = announcing.bounded(toolbox.announce())
        if note:
            log.warning("%s", note)
        facts = _facts(self._settings, skills)
        self._said.update(self._redactor.data({**facts, **more}))

    def _learned(self, toolbox: Toolbox, now: float) -> effects.Out:
        """Offer these skills from now on; what runs goes on with those that it began with."""
        self._tools = replace(self._tools, toolbox=toolbox)
        self._say_skills(toolbox)
        self._facts_at = 0.0
        self._core.guest.again(now)
        return self._core.tick(now)

    def _connect(self, opened: ExitStack, start: str) -> None:
        host, port = broker.locate(self._settings)
        t = self._topics
        will_topic = t.worker(self._name, "will")
        will = LastWill(will_topic, self._writer.packet(will_topic, msg.Will(start)))
        there = link(self._settings, host, port)
        self._transport = self._make_transport(there, self._name, self._hears, will)
        log.info(
            "worker %s of fleet %s: broker %s", self._name, self._settings.fleet, there.where()
        )
        if other_user(self._settings):
            log.warning("MQTT_USERNAME is not WORKER_ID: %s", other_user(self._settings))
        self._transport.start(
            self._mailbox.offer,
            lambda up, why: self._mailbox.put((up, why)),
            self._mailbox.wake,
        )
        opened.callback(self._transport.close)

    def _health(self) -> Tuple[int, Dict[str, Any]]:
        running = self._core.running
        document = {
            "status": "healthy",
            "worker_id": self._name,
            "current_task": running[0] if running else None,
        }
        silent_s = self._core.silent_s(time.monotonic())
        if silent_s <= DEGRADED_S:
            return 200, document
        reason = f"the master has not answered for more than {DEGRADED_S:g} s"
        if self._core.key_refused:
            reason = f"{reason}: {core.KEY_REFUSED}"
        elif self._core.is_unheard:
            reason = f"{reason}: {self._silence.words()}"
        return 503, {**document, "status": "degraded", "reason": reason}

    # --- the loop -------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        wake_at = min(self._core.wake_at(), self._line.wake_at(), self._updating.wake_at())
        return max(0.0, min(wake_at - time.monotonic(), IDLE_S))

    def _turn(self, items: List[Any]) -> None:
        now = time.monotonic()
        outs = [out for item in items for out in self._taken(item, now)]
        if now >= self._facts_at:
            self._facts_at = now + FACTS_S
            said = {**machine_facts(), **self._updating.facts()}
            self._core.facts = self._redactor.data(said)
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_S
            threading.Thread(target=self._workspaces.prune, daemon=True).start()
        outs.append(self._core.tick(now))
        facts = [fact for out in outs for fact in out.facts]
        try:
            self._store(facts)
        except StoreError as error:
            log.error("%s", error)
            outs = [self._core.not_stored(outs, str(error))]
            self._unstored = [f for f in self._unstored if isinstance(f, effects.Dropped)]
            self._unstored += outs[0].facts
        for out in outs:
            for send in out.sends:
                self._publish(send)
            for effect in out.effects:
                self._do(effect)
        self._forget(facts)
        self._update(now)
        self._hand_over(self._line.due(now))

    def _update(self, now: float) -> None:
        """Go on with a new program for this worker, and say how that stands."""
        if self._core.guest.channel is None:
            return
        if self._core.answered:
            self._updating.answered()
        for fetch in self._updating.due(self._core.guest.channel.ses, now):
            self._publish(effects.Send("evt", fetch))
        if self._updating.is_news():
            self._core.facts.update(self._updating.facts())
            for send in self._core.beat(now).sends:
                self._publish(send)

    def _forget(self, facts: List[effects.Fact]) -> None:
        """A result that the master has need not travel on."""
        for fact in facts:
            if isinstance(fact, effects.Dropped):
                self._line.withdraw(("result", fact.task))

    def _store(self, facts: List[effects.Fact]) -> None:
        """Commit; what may be forgotten can wait for the next commit (or a restart)."""
        self._unstored += facts
        if any(isinstance(f, effects.Held) for f in facts):
            try:
                self._journal.commit(self._unstored)
            except DamagedStore as error:
                self._journal.mend(str(error), self._core.held.values())
            self._unstored = []

    def _taken(self, item: Any, now: float) -> List[effects.Out]:
        """What follows from an item; if it cannot be handled, a new session mends what it left."""
        try:
            return self._take(item, now)
        except Exception:
            log.exception("a message could not be handled")
            return [self._core.connected(now)]

    def _take(self, item: Any, now: float) -> List[effects.Out]:
        if isinstance(item, Stop):
            self._systemd.stopping()
            return [self._core.leave(now)]
        if isinstance(item, Ended):
            self._attempts.pop(item.result.task, None)
            return [self._core.ended(item.result, now)]
        if isinstance(item, Stepped):
            return [self._core.step(item.task, item.step, now)]
        if isinstance(item, Learned):
            return [self._learned(item.toolbox, now)]
        if isinstance(item, Asked):
            return [self._core.asked(item.task, item.ask, now)]
        if isinstance(item[0], str):
            return self._take_packet(item[0], item[1], now)
        self._news.tell(*item)
        if item[0]:
            return [self._core.connected(now)]
        self._core.disconnected()
        return []

    def _take_packet(self, topic: str, payload: bytes, now: float) -> List[effects.Out]:
        try:
            found = self._line.receive(topic, payload, now)
        except BadMessage as error:
            log.debug("dropped a message on %s: %s", topic, error)
            return []
        if found is None:
            return []
        take = self._core.arrived if found.whole else self._core.received
        return [take(found.header, found.message, now)]

    # --- effects --------------------------------------------------------------------------------

    def _publish(self, send: effects.Send) -> None:
        topic = self._topics.worker(self._name, send.channel)
        try:
            self._hand_over(self._line.send(topic, send.message, send.qos, send.joining))
        except TooLarge as error:
            log.error("%s", error)

    def _hand_over(self, packets: List[Packet]) -> None:
        for packet in packets:
            self._transport.publish(*packet)

    def _do(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Start):
            self._start(effect.assign)
        elif isinstance(effect, effects.Interrupt):
            log.info("task %s is stopped: %s", effect.task, effect.why)
            running = self._attempts.get(effect.task)
            if running is not None:
                running.interrupt()
        elif isinstance(effect, effects.Decide):
            self._decide(effect.decision)
        elif isinstance(effect, effects.Renew):
            self._transport.renew()
        elif isinstance(effect, effects.Deliver):
            found = sharing.cut(self._tools.workspaces, effect.fetch, self._redactor)
            self._publish(effects.Send("evt", found))
        elif isinstance(effect, effects.Program):
            self._program(effect.message)
        elif isinstance(effect, effects.Unheard):
            log.warning("%s", self._silence.words())
        else:
            log.error("%s", effect.text)

    def _program(self, message: Union[msg.Install, msg.ProgramSlice, msg.SkillFile]) -> None:
        if isinstance(message, msg.SkillFile):
            self._pushed.take(message, library.reserved(self._owned))
        else:
            self._updating.take(message, time.monotonic())

    def _start(self, assign: msg.Assign) -> None:
        running = attempt.Attempt(
            assign,
            self._tools,
            functools.partial(self._stepped, assign.task),
            lambda ask: self._mailbox.put(Asked(assign.task, ask)),
        )
        self._attempts[assign.task] = running
        threading.Thread(target=self._run, args=(running,), daemon=True).start()

    def _decide(self, decision: msg.Decision) -> None:
        running = self._attempts.get(decision.task)
        if running is not None:
            said = "approved" if decision.allow else "denied"
            log.info("task %s: %s has %s its call", decision.task, decision.by, said)
            running.gate.decide(decision.step, decision.allow, decision.by)

    def _run(self, running: attempt.Attempt) -> None:
        try:
            result = running.run()
        except Exception as error:
            log.exception("attempt %s failed", running.assign.task)
            why = self._redactor.text(f"an internal error: {error}")
            nothing = {"success": False, "data": {}, "output": why}
            result = msg.Result(running.assign.task, running.assign.att, "failed", nothing, why)
        stays = self._workspaces.end(running.assign.task)  # before another attempt begins in it
        self._mailbox.put(Ended(result))
        if stays:
            self._workspaces.prune()

    def _stepped(self, task: str, step: Any) -> None:
        if self._mailbox.size() < MAX_STEPS_WAITING:
            self._mailbox.put(Stepped(task, dict(step)))


def _facts(settings: Settings, skills: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What a worker says of itself in hello: what does not change while it runs."""
    return {
        "version": __version__,
        "build": parts.build(),
        "python": platform.python_version(),
        "host": platform.node(),
        "machine": _machine(),
        "pid": os.getpid(),
        "slots": settings.slots,
        "tags": list(settings.tags),
        "model": settings.model is not None,
        "skills": skills,
    }


def _machine() -> str:
    """What tells two machines apart that were made from one SD card: a network address."""
    for found in sorted(Path("/sys/class/net").glob("*/address")):
        address = found.read_text(encoding="ascii").strip()
        if found.parent.name != "lo" and address.strip("0:"):
            return address
    return "?"


def _secrets(settings: Settings) -> Sequence[str]:
    if settings.mcp_file is None:
        return settings.secrets
    from pibot.agent import mcp_servers

    return [*settings.secrets, *mcp_servers.secrets_of(settings.mcp_file)]


def _servers(settings: Settings, changed: Callable[[], None]) -> Optional[Servers]:
    """The MCP servers that the owner of the machine named; their tools come a little later."""
    if settings.mcp_file is None:
        return None
    from pibot.agent import mcp_servers

    return mcp_servers.Servers(settings.mcp_file, changed)


def _model(settings: Settings) -> Callable[[], Model]:
    if settings.model is None:
        return attempt.no_model
    from pibot.agent.model import OpenAIModel

    configured = settings.model
    return attempt.lazily(lambda: OpenAIModel(configured))
