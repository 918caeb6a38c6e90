"""Attacks on the terminals of people: nothing that a stranger writes is obeyed there.

A worker whose credentials were stolen, and the texts that come from it (facts, names of skills,
results, steps, files, questions to a person), from goals and from other people; the commands are
real processes, once on a terminal and once in a pipe.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import ExitStack
from typing import Any, Dict, Iterator, List

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import wait_for
from pibot import messages as msg
from pibot.agent.text import clean
from security.impostor import Impostor
from terminal import Terminal

ESC = "\x1b"
ATTACKS: Dict[str, str] = {
    "colours that hide": f"{ESC}[8m",
    "clears the screen": f"{ESC}[2J{ESC}[H",
    "moves up and overwrites": f"{ESC}[7A{ESC}[1K",
    "title": f"{ESC}]0;owned\x07",
    "clipboard (OSC 52)": f"{ESC}]52;c;cm0gLXJmIH4=\x07",
    "link (OSC 8)": f"{ESC}]8;;http://evil.example/{ESC}\\",
    "answers back": f"{ESC}[6n{ESC}Z{ESC}[c",
    "keys (DECUDK)": f"{ESC}P1;1|17/0d{ESC}\\",
    "alternate screen": f"{ESC}[?1049h",
    "reset": f"{ESC}c",
    "sequence of one byte (C1)": "\x9b31m\x9d0;owned\x9c",
    "unfinished": f"{ESC}]52;c;",
    "bell and backspace": "\x07\x08\x08\x08",
    "delete": "\x7f",
    "null": "\x00",
    "shift out": "\x0e",
    "overwrites its line": "\rpibot: all is well",
    "form feed": "\x0c\x0b",
    "turns the direction": "\u202egpj.exe\u202c",
    "isolates": "\u2066\u2067\u2069",
    "marks of direction": "\u200e\u200f\u061c",
    "lines of Unicode": "\u2028\u2029\x85",
    "without a width": "\u200b\u2060\ufeff\u00ad",
    "tags": "\U000e0041\U000e007f",
}
# What the program itself sends to a terminal: colours, its own lines of progress, readline.
OWN = re.compile(
    f"\r(?:{ESC}\\[1A)?{ESC}\\[2K|{ESC}\\[1A{ESC}\\[2K"
    f"|{ESC}\\[(?:0?|[12]|3[0-9])m|{ESC}\\[\\?(?:25|2004)[hl]|\r\n|\r$"
)
ONE_LINE = "FAKE: succeeded"


def nasty(where: str) -> str:
    """A text with all attacks, each between marks that tell where it was shown."""
    return "".join(f"<{where}{n}:{bad}:{n}>" for n, bad in enumerate(ATTACKS.values()))


def said(where: str) -> str:
    return f"{nasty(where)}\n{ONE_LINE}"


def typed(where: str) -> str:
    """The same as an argument of a command, which cannot hold a null."""
    return said(where).replace("\0", "")


FACTS: Dict[str, Any] = {
    "version": said("version"),
    "build": said("build"),
    "python": said("python"),
    "host": said("host"),
    "machine": said("machine"),
    "pid": 1,
    "slots": 2,
    "tags": [said("tag")],
    "model": False,
    "load1": 0.1,
    "cpu_temp": said("temperature"),
    "throttled": said("throttled"),
    "update": {"state": said("state"), "error": said("update"), "build": said("new")},
    "skills": [
        {
            "name": "tale",
            "description": said("description"),
            "params": [said("param")],
            "phrases": ["tell me the tale"],
            "repeatable": True,
            "sensitive": False,
            "group": said("group"),
            "note": said("note"),
        },
        {"name": said("name"), "description": "x", "params": [], "phrases": [said("phrase")]},
    ],
}


class Liar(Impostor):
    """A worker that does its tasks with nasty words, until `over` is set."""

    def begin(self) -> None:
        self.over = threading.Event()
        self.join(facts=FACTS)
        self._seen: List[Any] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.over.set()
        self._thread.join()

    def _work(self) -> None:
        beat = 0
        while not self.over.wait(0.02):
            beat += 1
            if beat % 50 == 0:
                self.say(msg.Heartbeat([], FACTS, at_ms=beat), "hb")
            for message in self.told(msg.Message):
                if message not in self._seen:
                    self._seen.append(message)
                    self._answer(message)

    def _answer(self, message: msg.Message) -> None:
        if isinstance(message, msg.Assign):
            self.say(msg.Accepted(message.task, message.att))
            for kind in ("model", "tool", "note", "output", said("kind")):
                step = {"step": 1, "kind": kind, "name": said("tool"), "text": said("step")}
                self.say(msg.Progress(message.task, message.att, {**step, "ok": True}), "prog")
            if message.spec.get("args") == {"ask": True}:
                asked = msg.Approval(message.task, message.att, 1, said("skill"), said("args"),
                                     said("why"))  # fmt: skip
                self.say(asked)
            else:
                self._finish(message.task, message.att, bool(message.spec.get("args")))
        elif isinstance(message, msg.Decision):
            self._finish(message.task, message.att, True)
        elif isinstance(message, msg.Fetch):
            data = base64.b64encode(b"hello").decode()
            self.say(msg.Slice(message.task, message.path, message.offset, 5, data))

    def _finish(self, task: str, att: int, bad: bool) -> None:
        result = {
            "success": not bad,
            "data": {said("key"): said("value"), "deep": [{"x": said("deep")}]},
            "output": said("output"),
        }
        words = {"name": said("named"), "text": said("traced"), "ms": 5}
        kinds = ("model", "tool", said("odd"))
        trace = [{**words, "step": n, "kind": k, "ok": n > 1} for n, k in enumerate(kinds)]
        digest = hashlib.sha256(b"hello").hexdigest()
        files = [{"path": path, "size": 5, "sha256": digest} for path in ("a.txt", said("path"))]
        state, error = ("failed", said("error")) if bad else ("succeeded", None)
        usage = {"input_tokens": 1}
        self.say(msg.Result(task, att, state, result, error, usage, trace, files))


class Theatre:
    """The fleet, and what each command has printed: in a pipe and on a terminal."""

    def __init__(self, fleet: ClosedFleet) -> None:
        self.fleet = fleet
        self._shown: Dict[str, List[str]] = {}
        self.goal = self.task = self.asked = ""

    def play(self) -> None:
        """One goal that is over, one that waits for a person, one of which somebody says no."""
        ended = self.fleet.run("run", "--skill", "tale", "--args", json.dumps({"a": said("arg")}),
                               check=None)  # fmt: skip
        assert "goal_id" in (ended.document or {}), (ended, self.fleet.logs())
        self.goal = ended.document["goal_id"]
        self.asked = self._waiting()
        denied = self._waiting()
        self.fleet.run("deny", denied)
        self.fleet.run("run", typed("goal"), check=None, json=False)

    def _waiting(self) -> str:
        before = self._asks()
        run = self.fleet.start("run", "--skill", "tale", "--args", '{"ask": true}')
        (new,) = wait_for(lambda: [one for one in self._asks() if one not in before])
        run.kill()
        run.communicate()
        return new

    def _asks(self) -> List[str]:
        return list(self.fleet.run("status").document.get("waiting", []))

    def shown(self, command: str) -> List[str]:
        if command not in self._shown:
            self._shown[command] = self._both(command)
        return self._shown[command]

    def _both(self, command: str) -> List[str]:
        if command == "the logs":
            return [process.said() for process in self.fleet.processes.values()]
        if command == "chat":
            return [self._on_terminal(["chat"], "tell me the tale\r", "> ")]
        if command == "a question":
            words = ["run", "--skill", "tale", "--args", '{"ask": true}']
            return [self._on_terminal(words, "n\r", "[y/N]")]
        texts = {"goal": self.goal, "waiting": self.asked.partition("-")[0]}
        words = [word.format(goals=typed("typed"), **texts) for word in COMMANDS[command]]
        done = self.fleet.run(*words, json=False, check=None)
        in_a_pipe = [done.out + done.err]
        return in_a_pipe if "--json" in words else [*in_a_pipe, self._on_terminal(words)]

    def _on_terminal(self, words: List[str], keys: str = "", prompt: str = "") -> str:
        arguments, folder = self.fleet.command(*words), self.fleet.folder
        with Terminal(arguments, self.fleet.env, folder) as terminal:
            if keys:
                terminal.expect(prompt, 60.0)
                terminal.send(keys)
            if words == ["chat"]:
                terminal.expect("output0", 60.0)
                terminal.expect("> ", 60.0)
                terminal.send("\x04")
            terminal.finish(60.0)
            return terminal.seen


COMMANDS: Dict[str, List[str]] = {
    "status": ["status"],
    "status --json": ["status", "--json"],
    "tasks": ["tasks"],
    "tasks --json": ["tasks", "--json"],
    "show": ["show", "{goal}"],
    "show --json": ["show", "{goal}", "--json"],
    "show of what waits": ["show", "{waiting}"],
    "skills": ["skills"],
    "skills --json": ["skills", "--json"],
    "workers list": ["workers", "list"],
    "workers list --json": ["workers", "list", "--json"],
    "clients list": ["clients", "list"],
    "health": ["health"],
    "audit": ["audit"],
    "audit --json": ["audit", "--json"],
    "run": ["run", "--skill", "tale"],
    "run --json": ["run", "--skill", "tale", "--json"],
    "run of no such skill": ["run", "--skill", "{goals}"],
    "run of a goal": ["run", "{goals}"],
    "approve of nothing": ["approve", "{goals}"],
    "show of nothing": ["show", "{goals}"],
    "retry": ["retry", "{goal}"],
    "show --save": ["show", "{goal}", "--save", "saved"],
    "selftest": ["selftest"],
    "doctor": ["doctor"],
    "an unknown command": ["{goals}"],
    "chat": [],
    "a question": [],
    "the logs": [],
}
# Commands that show words of the worker, and which: else a test of them would prove nothing.
SHOWS: Dict[str, str] = {
    "tasks": "goal0",
    "show": "error0",
    "show --json": "value0",
    "show of what waits": "why0",
    "skills": "group0",
    "skills --json": "note0",
    "audit": "skill0",
    "audit --json": "args0",
    "run": "output0",
    "run --json": "deep0",
    "run of no such skill": "typed0",
    "chat": "output0",
    "a question": "args0",
}


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    with ExitStack() as opened:
        fleet = opened.enter_context(ClosedFleet(tmp_path_factory.mktemp("theatre")))
        fleet.add("worker-9")
        known = fleet.settings("worker-9")
        liar = Liar(fleet.port, "worker-9", known["MQTT_PASSWORD"], known["PIBOT_KEY"])
        opened.enter_context(liar)
        liar.begin()
        opened.callback(liar.end)
        made = Theatre(fleet)
        made.play()
        yield made


def obeyed(text: str) -> str:
    """The first thing in a text that a terminal would obey, and that is not the program's own."""
    rest = OWN.sub("", text)
    found = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e"
                      "\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]", rest)  # fmt: skip
    return rest[max(0, found.start() - 40) : found.end() + 40] if found else ""


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_a_terminal_obeys_is_printed(theatre: Theatre, command: str) -> None:
    for text in theatre.shown(command):
        assert text
        assert not obeyed(text), repr(obeyed(text))
        for name, attack in ATTACKS.items():
            assert attack not in text, name


@pytest.mark.parametrize("command", SHOWS)
def test_the_words_of_the_stranger_are_shown(theatre: Theatre, command: str) -> None:
    for text in theatre.shown(command):
        assert SHOWS[command] in text


@pytest.mark.parametrize("command", [name for name in COMMANDS if "json" not in name])
def test_no_line_is_forged(theatre: Theatre, command: str) -> None:
    """Where a text has a line of its own, a second one in it does not begin another."""
    for text in theatre.shown(command):
        lines = OWN.sub("", text).splitlines()
        forged = [line for line in lines if line.startswith(ONE_LINE)]
        assert not forged or command in MANY_LINES, lines


MANY_LINES = {"run", "show", "chat", "show --save", "retry"}  # a result may have many lines
MANY_LINES |= {"a question"}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_would_be_seen(name: str) -> None:
    """The eye of these tests: raw it is found, and made safe it is not."""
    assert obeyed(f"a{ATTACKS[name]}b")
    assert not obeyed(clean(f"a{ATTACKS[name]}b"))


def test_a_saved_file_has_a_harmless_name(theatre: Theatre) -> None:
    theatre.shown("show --save")
    saved = theatre.fleet.folder / "saved"
    assert not [path for path in saved.rglob("*") if obeyed(path.name)]
