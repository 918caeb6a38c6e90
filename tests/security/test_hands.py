"""The frame of the attack cases does what they rely on: else they would prove nothing."""

from __future__ import annotations

import os

import pytest

from security.hands import CANARY, Failed, Hands, left_running


def test_a_call_is_real_and_as_the_user_that_it_says(hands: Hands) -> None:
    done = hands.call("write_file", {"path": "a.txt", "content": "hello"})
    assert done["success"], done
    written = hands.workspace / "a.txt"
    assert written.read_text() == "hello"
    assert written.stat().st_uid == hands.uid
    assert hands.call("read_file", {"path": "a.txt"})["output"].endswith("hello")


def test_a_change_outside_is_seen(hands: Hands) -> None:
    assert hands.is_outside_unchanged()
    hands.canary.write_text("changed")
    assert not hands.is_outside_unchanged()


def test_a_link_to_what_is_outside_is_seen(hands: Hands) -> None:
    os.link(hands.canary, hands.workspace / "linked")
    assert not hands.is_outside_unchanged()


def test_permits_and_patches_hold_for_one_call(hands: Hands) -> None:
    patch = {"pibot.skills.machine.ROOT": hands.outside}
    assert (
        hands.call("system_status", {}, patch=patch)["data"]
        != (hands.call("system_status", {})["data"])
    )
    refused = hands.call("http_request", {"url": "http://127.0.0.1:9/"}, permits={"hosts": ["a"]})
    assert not refused["success"]


def test_a_skill_of_the_tests_own(hands: Hands) -> None:
    own = hands.folder / "skills"
    own.mkdir()
    (own / "mine.py").write_text(
        "import os, time\n"
        "from pibot.skills import Context, skill\n"
        "@skill()\n"
        "def wait_long(ctx: Context) -> str:\n"
        '    """Wait."""\n'
        "    ctx.on_output('it waits')\n"
        "    ctx.cancelled.wait(60)\n"
        "    return 'done'\n"
        "@skill()\n"
        "def environment() -> str:\n"
        '    """Look around."""\n'
        "    return str(os.getuid()) + str(len(os.environ.get('PIBOT_KEY', '')))\n"
    )
    hands.give(own, own / "mine.py")
    running = hands.begin("wait_long", {}, skills_dir=own)
    assert running.wait_for_line("waits") == "it waits"
    running.cancel()
    done = running.result()
    assert not done["success"] and done["lines"] == ["it waits"]
    assert hands.call("environment", {}, skills_dir=own)["output"] == f"{hands.uid}{len(CANARY)}"


def test_a_fault_of_the_frame_is_no_refusal(hands: Hands) -> None:
    with pytest.raises(Failed):
        hands.call("echo", {"text": "x"}, patch={"pibot.no_such_module.A": 1})


def test_a_process_that_is_left_is_found(hands: Hands) -> None:
    assert left_running(str(hands.process.home / "hands_program.py"), within_s=0.0)
    assert not left_running("no-process-has-this-in-its-line-" + str(os.getpid() * 7), 0.0)
