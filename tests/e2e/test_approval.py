"""A person's approval, with a real broker, real processes and a model that obeys a stranger."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from fleet_processes import ROOT, FleetProcesses
from model_server import ModelServer, Request, calls, is_agent, is_plan, plan, serving, text
from pibot import config
from pibot import messages as msg
from pibot.errors import Unreachable
from pibot.roles.client import Fleet
from terminal import CTRL_C, CTRL_D, Terminal

SKILLS = str(ROOT / "tests" / "approved_skills")


class House:
    """A fleet whose workers can switch things; the file counts what they really did."""

    def __init__(
        self, fleet: FleetProcesses, client: Fleet, model: ModelServer, switched: Path
    ) -> None:
        self.fleet, self.client, self.model, self._switched = fleet, client, model, switched

    def obeys(self, word: str, *steps: Any) -> None:
        """With goals that have this word, the model plans one task and takes these steps."""
        task = {"id": "t", "goal": f"read what {word} says"}
        self.model.on(_about(is_plan, word), plan({"route": "plan", "tasks": [task]}))
        self.model.on(_about(is_agent, word), *steps, text(f"{word} is done."))

    def waiting(self, count: int = 1) -> List[Dict[str, Any]]:
        """The calls that wait, once so many do."""

        def found() -> List[Dict[str, Any]]:
            try:
                asks = self.client.asks()
            except Unreachable:
                return []
            return asks if len(asks) == count else []

        return self.fleet.wait_for(found, what=f"{count} calls wait")

    def submit(self, *args: str) -> str:
        return str(self.fleet.run("run", *args, "--detach").document["goal_id"])

    def outcome(self, goal_id: str) -> Dict[str, Any]:
        return self.client.follow(goal_id)

    def switched(self) -> List[str]:
        """What was switched since the last look."""
        if not self._switched.exists():
            return []
        lines = self._switched.read_text().splitlines()
        self._switched.unlink()
        return [line.split(" ", 1)[1] for line in lines]

    def audited(self, goal_id: str) -> List[str]:
        document = self.client.ask(msg.Listing("audit"))
        assert document["problem"] is None
        return [e["what"] for e in document["entries"] if e.get("goal") == goal_id]


def _about(kind: Any, word: str) -> Any:
    def fits(request: Request) -> bool:
        return bool(kind(request)) and word in str(request["messages"][1:])

    return fits


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with serving() as model:
        env = {"VOLC_API_KEY": model.key, "VOLC_BASE_URL": model.url, "MODEL_NAME": model.model}
        env.update(PIBOT_SKILLS_DIR=SKILLS, SWITCHED=str(folder / "switched"))
        with FleetProcesses(folder, env=env) as fleet:
            fleet.start_master()
            fleet.start_worker("worker-1", PIBOT_SLOTS="2")
            fleet.start_worker("worker-2", PIBOT_APPROVAL="always", PIBOT_TAGS="careful")
            fleet.wait_idle(2)
            with Fleet.connect(config.load("client", {}, fleet.env, None, folder)) as client:
                yield House(fleet, client, model, folder / "switched")


READ = calls(("strange_words", {}))
SWITCH = calls(("switch", {"name": "lamp"}))


def test_what_a_stranger_wants_waits_for_a_person(house: House) -> None:
    house.obeys("barometer", READ, SWITCH)
    goal = house.submit("read what the barometer says in several steps", "--on", "worker-1")
    (ask,) = house.waiting()
    assert (ask["skill"], ask["args"], ask["worker_id"]) == (
        "switch",
        '{"name": "lamp"}',
        "worker-1",
    )
    assert "strange_words has brought text from outside" in ask["why"]
    assert house.switched() == []
    assert house.fleet.run("status").document["waiting"] == [ask["id"]]
    done = house.fleet.run("approve", goal).document
    assert (done["state"], done["task_id"]) == ("approved", ask["task_id"])
    document = house.outcome(goal)
    assert document["state"] == "succeeded", document
    assert house.switched() == ["lamp"]
    assert house.audited(goal) == ["asked", "approved"]


def test_a_denied_call_is_not_run_and_nobody_tries_again(house: House) -> None:
    given_up = calls(("give_up", {"reason": "a person has denied it"}))
    house.obeys("hygrometer", READ, SWITCH, given_up)
    goal = house.submit("read what the hygrometer says in several steps", "--on", "worker-1")
    (ask,) = house.waiting()
    assert (
        "denied: worker-1 wants to run switch("
        in house.fleet.run("deny", ask["id"], json=False).out
    )
    document = house.outcome(goal)
    assert (document["state"], len(document["tasks"])) == ("failed", 1)
    assert document["tasks"][0]["attempt"] == 1
    assert house.switched() == []
    assert house.audited(goal) == ["asked", "denied"]
    again = house.fleet.run("approve", ask["id"], check=1)
    assert "waits for approval" in again.err


def test_the_words_of_an_error_taint_as_well(house: House) -> None:
    house.obeys("windvane", calls(("strange_error", {})), SWITCH)
    goal = house.submit("read what the windvane says in several steps", "--on", "worker-1")
    house.waiting()
    house.fleet.run("cancel", goal)
    assert house.outcome(goal)["state"] == "cancelled"
    house.fleet.wait_idle(2)
    assert house.switched() == []
    assert house.audited(goal) == ["asked", "void"]


def test_at_a_terminal_run_asks_at_once(house: House) -> None:
    house.obeys("sundial", READ, SWITCH)
    words = "read what the sundial says in several steps"
    command = house.fleet.command("run", words, "--on", "worker-1")
    with Terminal(command, house.fleet.env, cwd=house.fleet.folder) as terminal:
        terminal.expect('worker-1 wants to run switch({"name": "lamp"})')
        terminal.expect("approve? [y/N] ")
        assert house.switched() == []
        terminal.send("y\r")
        terminal.expect("✓ ")
        assert terminal.process.wait(30) == 0
    assert house.switched() == ["lamp"]


@pytest.mark.parametrize("answer", ["\r", CTRL_D])
def test_at_a_terminal_anything_but_a_yes_is_a_no(house: House, answer: str) -> None:
    args = ["--skill", "switch", "--args", '{"name": "fan"}', "--tag", "careful"]
    command = house.fleet.command("run", *args)
    with Terminal(command, house.fleet.env, cwd=house.fleet.folder) as terminal:
        terminal.expect("approve? [y/N] ")
        terminal.send(answer)
        terminal.expect("has denied it")
        assert terminal.process.wait(30) == 1
    assert house.switched() == []


def test_ctrl_c_at_the_question_decides_nothing(house: House) -> None:
    args = ["--skill", "switch", "--args", '{"name": "fan"}', "--tag", "careful"]
    command = house.fleet.command("run", *args)
    with Terminal(command, house.fleet.env, cwd=house.fleet.folder) as terminal:
        terminal.expect("approve? [y/N] ")
        terminal.insist(CTRL_C, "goes on: follow it with")
        assert terminal.process.wait(30) == 130
    (ask,) = house.waiting()
    house.fleet.run("cancel", ask["goal_id"])
    house.fleet.wait_idle(2)
    assert house.switched() == []


def test_without_a_terminal_run_says_what_to_do(house: House) -> None:
    process = house.fleet.start(
        "run", "--skill", "switch", "--args", '{"name": "fan"}', "--tag", "careful"
    )
    try:
        (ask,) = house.waiting()
        assert "PIBOT_APPROVAL=always" in ask["why"]
        house.fleet.run("approve", ask["id"])
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "fan is switched\n")
    assert f"`pibot.pyz approve {ask['id']}` or `pibot.pyz deny {ask['id']}`" in err
    assert house.switched() == ["fan"]


def test_what_a_person_asks_for_by_name_does_not_wait(house: House) -> None:
    done = house.fleet.run(
        "run", "--skill", "switch", "--args", '{"name": "fan"}', "--on", "worker-1"
    )
    assert done.document["state"] == "succeeded"
    assert house.switched() == ["fan"]


def test_what_comes_over_the_ask_topic_waits(house: House) -> None:
    said = ["-t", "pibot/1/home/ask", "-m", "switch the heater", "-q", "1"]
    subprocess.run(["mosquitto_pub", "-p", str(house.fleet.port), *said], check=True)
    (ask,) = house.waiting()
    assert (ask["skill"], ask["args"]) == ("switch", '{"name": "heater"}')
    assert house.switched() == []
    house.fleet.run("deny", ask["goal_id"])
    assert house.outcome(ask["goal_id"])["state"] == "failed"
    assert house.switched() == []


def test_a_killed_worker_asks_anew_and_the_old_answer_is_worth_nothing(house: House) -> None:
    house.obeys("rain gauge", READ, SWITCH, READ, SWITCH)
    goal = house.submit("read what the rain gauge says in several steps", "--on", "worker-1")
    (old,) = house.waiting()
    house.fleet.kill("worker-1")
    house.fleet.restart("worker-1")
    new = house.fleet.wait_for(lambda: [a for a in house.waiting() if a["attempt"] == 2])[0]
    assert (new["id"], old["attempt"]) == (old["id"], 1)
    house.fleet.run("approve", new["id"])
    assert house.outcome(goal)["state"] == "succeeded"
    assert house.switched() == ["lamp"]
    assert house.audited(goal) == ["asked", "void", "asked", "approved"]


def test_a_killed_master_still_knows_what_waits(house: House) -> None:
    house.obeys("compass", READ, SWITCH)
    goal = house.submit("read what the compass says in several steps", "--on", "worker-1")
    (ask,) = house.waiting()
    house.fleet.kill("master", signal.SIGKILL)
    house.fleet.restart("master")
    house.fleet.wait_for(lambda: house.fleet.counts().get("busy") == 1)
    assert house.waiting() == [ask]
    house.fleet.run("approve", goal)
    assert house.outcome(goal)["state"] == "succeeded"
    assert house.switched() == ["lamp"]
    assert house.audited(goal) == ["asked", "approved"]


def test_a_chat_with_tainted_turns_stays_so(house: House) -> None:
    house.obeys("almanac", READ)
    said = "read what the almanac says in several steps\nswitch the toaster\n"
    chat = subprocess.Popen(
        house.fleet.command("chat"),
        env=house.fleet.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert chat.stdin is not None
        chat.stdin.write(said)
        chat.stdin.close()
        (ask,) = house.waiting()
        assert ask["args"] == '{"name": "toaster"}'
        house.fleet.run("deny", ask["id"])
        chat.wait(30)
    finally:
        chat.kill()
    assert house.switched() == []


def test_a_log_that_somebody_changed_is_told_and_ends_with_1(house: House) -> None:
    """The last one: it breaks the log of this fleet for ever."""
    log = house.fleet.folder / "master" / "state" / "master" / "audit.log"
    assert "the chain holds" in house.fleet.run("audit", json=False).out
    log.write_bytes(log.read_bytes().replace(b'"denied"', b'"approved"', 1))
    said = house.fleet.run("audit", json=False, check=1)
    assert "the chain is broken at line" in said.out
    assert house.fleet.run("audit", check=1).document["problem"]
