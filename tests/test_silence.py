"""What a guest says when nobody answers: every cause that it cannot tell apart, in one sentence."""

from __future__ import annotations

from pibot.silence import Silence

WRITES, READS = "pibot/1/home/w/worker-1/evt", "pibot/1/home/w/worker-1/cmd"


def test_without_credentials_there_is_one_cause() -> None:
    silence = Silence("home", None, WRITES, READS)
    assert silence.words() == "no master of the fleet 'home' answers: none runs"
    there = silence.words("127.0.0.1:1883", "start one with `pibot.pyz --role master`")
    assert there == (
        "no master of the fleet 'home' answers at 127.0.0.1:1883: none runs (start one with "
        "`pibot.pyz --role master`)"
    )


def test_with_credentials_a_missing_right_looks_the_same() -> None:
    said = Silence("home", "worker-1.ab12", WRITES, READS).words()
    assert said == (
        "no master of the fleet 'home' answers: none runs, or the broker does not let the user "
        f"worker-1.ab12 write {WRITES} or read {READS}"
    )
