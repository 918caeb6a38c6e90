"""Decisions at the master's desk: recorded, then stored, then told; with real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from fleet.office import OPEN, Office
from fleet.peers import Peer
from pibot import messages as msg

NAMES = ("w1", "w2")


class House(Office):
    """Two workers that both wait with their task of one goal, and somebody who follows it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, OPEN)
        self.workers = {name: self.worker(name) for name in NAMES}
        self.person = Peer(self, "c", "tablet")
        assert self.person.greet("3" * 16) is not None
        self.person.send(msg.Submit("g1", skill="shell", all=True, follow=True))
        for number, peer in enumerate(self.workers.values(), 1):
            said = msg.Approval(f"g1-{number}", 1, 0, "shell", "{}", "always")
            peer.send(said)

    def receive(self, topic: str, payload: bytes) -> None:
        self.now -= 1.99  # so little time passes that nothing is stored which might wait
        super().receive(topic, payload)

    def asked(self) -> List[List[str]]:
        """What each event of the kind `asked` names."""
        events = [e for e in self.told(self.person, msg.Event) if e.kind == "asked"]
        return [[ask["id"] for ask in event.data["asks"]] for event in events]

    def pass_time(self) -> None:
        """News and views come now and then."""
        self.now += 1.0
        self.states()

    def approve(self, number: int, allow: bool = True) -> Dict[str, Any]:
        return self.ask(msg.Approve(f"g1-{number}", 1, 0, allow))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.journal.close()


def test_a_decision_is_stored_before_it_is_told_also_while_another_task_waits(
    house: House,
) -> None:
    house.approve(1)
    assert house.told(house.workers["w1"], msg.Decision)
    stored = {t.id: (t.state, [a["state"] for a in t.asks]) for t in house.journal.tasks("g1")}
    assert stored == {"g1-1": ("running", ["approved"]), "g1-2": ("waiting", ["asked"])}
    goal = house.journal.goal("g1")
    assert goal is not None and goal.state == "waiting"


def test_who_follows_a_goal_hears_what_waits_and_what_does_not_any_more(house: House) -> None:
    house.pass_time()
    assert house.asked()[-1] == ["g1-1:0", "g1-2:0"]
    house.approve(1)
    house.pass_time()
    assert house.asked()[-1] == ["g1-2:0"]
    house.approve(2, False)
    house.pass_time()
    assert house.asked()[-1] == []


def test_who_asks_how_a_goal_stands_hears_what_it_waits_for(house: House) -> None:
    standing = house.ask(msg.Follow("g1"))
    assert standing["state"] == "waiting" and len(standing["asks"]) == 2
    assert len(house.ask(msg.Get("g1-2"))["asks"]) == 2
    assert house.ask(msg.Listing("workers"))["waiting"] == ["g1-1:0", "g1-2:0"]
    house.approve(1), house.approve(2)
    assert "asks" not in house.ask(msg.Follow("g1"))
    assert "waiting" not in house.ask(msg.Listing("workers"))


def test_a_decision_that_is_asked_for_again_after_the_end_is_answered(house: House) -> None:
    house.approve(1), house.approve(2)
    for number, peer in enumerate(house.workers.values(), 1):
        peer.send(msg.Result(f"g1-{number}", 1, "succeeded", {"success": True}))
    goal = house.journal.goal("g1")
    assert goal is not None and goal.state == "succeeded"
    assert house.approve(1)["state"] == "approved"
    assert house.approve(1, False)["code"] == "refused"


def test_what_people_do_to_workers_is_in_the_log_as_well(house: House) -> None:
    house.manage("drain", "w1")
    assert house.manage("drain", "w7")["code"] == "usage"
    entries = house.ask(msg.Listing("audit"))["entries"]
    told = [(e["what"], e.get("by"), e.get("name")) for e in entries if e["what"] != "asked"]
    assert told == [("workers drain", "laptop", "w1")]


def test_the_view_of_a_task_says_that_it_waits_and_not_what_for(house: House) -> None:
    house.approve(1)
    house.pass_time()
    shown = house.views["pibot/1/home/view/task/g1-2"]
    assert b'"state":"waiting"' in shown and b"shell" not in shown
