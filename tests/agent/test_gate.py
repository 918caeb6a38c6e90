"""The gate of an attempt: which calls wait, how they end, and that waiting costs no time."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from pibot import messages as msg
from pibot.agent import approval, attempt, gate
from pibot.agent.approval import Ask, needed, shown
from pibot.agent.tools import Context, Skill, SkillError, Toolbox, skill
from pibot.permits import Permits

WAIT_S = 10.0


@skill(sensitive=True, timeout_s=0.3)
def act(what: str = "") -> str:
    """Act outside."""
    DONE.append(what)
    return f"done {what}"


@skill(taints=True)
def read() -> str:
    """Read words from outside."""
    return "words"


@skill(taints=True)
def read_badly() -> str:
    """Fail with words from outside."""
    raise SkillError("words")


@skill()
def plain() -> str:
    """Do nothing special."""
    return "nothing"


DONE: List[str] = []
SKILLS: List[Skill] = [one.__skill__ for one in (act, read, read_badly, plain)]


class Case:
    """A toolbox behind a gate; a call runs in a thread, as a worker's does."""

    def __init__(self, tmp_path: Path, mode: str = "tainted", tainted: bool = False) -> None:
        DONE.clear()
        self.asks: List[Ask] = []
        self.steps: List[Dict[str, Any]] = []
        self.cancelled = threading.Event()
        self._asked = threading.Condition()
        self.gate = gate.Gate(mode, tainted, self._ask, lambda s: self.steps.append(dict(s)))
        self.toolbox = Toolbox(SKILLS)
        self.ctx = Context(
            tmp_path, self.cancelled, time.monotonic() + 5.0, "g1-1:7", guard=self.gate
        )

    def _ask(self, ask: Ask) -> None:
        with self._asked:
            self.asks.append(ask)
            self._asked.notify_all()

    def call(self, name: str, step: int = 7, **args: Any) -> Dict[str, Any]:
        ctx = replace(self.ctx, key=f"g1-1:{step}")
        return self.toolbox.call(name, args, ctx).to_json()

    def begin(self, name: str, step: int = 7, **args: Any) -> Callable[[], Dict[str, Any]]:
        """Start a call that will wait; returns what waits for its end."""
        found: List[Dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(self.call(name, step, **args)))
        thread.start()

        def end() -> Dict[str, Any]:
            thread.join(WAIT_S)
            assert found, "the call has not ended"
            return found[0]

        return end

    def until_asked(self, count: int = 1) -> None:
        with self._asked:
            assert self._asked.wait_for(lambda: len(self.asks) >= count, WAIT_S)


@pytest.mark.parametrize("mode", ["tainted", "always", "never"])
@pytest.mark.parametrize("sensitive", [True, False])
@pytest.mark.parametrize("tainted", [True, False])
def test_the_rule(mode: str, sensitive: bool, tainted: bool) -> None:
    expected = {"never": False, "always": sensitive, "tainted": sensitive and tainted}
    assert needed(mode, sensitive, tainted) is expected[mode]


def test_an_unknown_mode_asks_rather_than_not() -> None:
    assert needed("", True, True)


@pytest.mark.parametrize("source", ["read", "read_badly"])
def test_a_sensitive_call_waits_once_words_from_outside_have_come(
    tmp_path: Path, source: str
) -> None:
    case = Case(tmp_path)
    assert case.call("act", what="first")["success"]
    case.call(source)
    end = case.begin("act", what="second")
    case.until_asked()
    assert case.asks == [
        Ask(7, "act", '{"what": "second"}', f"{source} has brought text from outside")
    ]
    assert DONE == ["first"]
    case.gate.decide(7, True, "laptop")
    assert end()["success"] and DONE == ["first", "second"]
    texts = [s["text"] for s in case.steps]
    assert texts[0].startswith('waits for approval: {"what": "second"}')
    assert texts[1] == "approved (by laptop)"


def test_a_denied_call_is_an_error_that_says_by_whom(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    end = case.begin("act")
    case.until_asked()
    case.gate.decide(7, False, "laptop")
    assert end() == {
        "success": False,
        "data": {},
        "output": "act was not run: laptop has denied it",
    }
    assert DONE == []


def test_what_is_not_sensitive_never_waits(tmp_path: Path) -> None:
    case = Case(tmp_path, "always", tainted=True)
    assert case.call("plain")["success"] and case.call("read")["success"] and case.asks == []


def test_a_call_with_wrong_arguments_is_not_asked_about(tmp_path: Path) -> None:
    case = Case(tmp_path, "always")
    assert "no argument" in case.call("act", other=1)["output"] or case.asks == []
    assert case.asks == [] and DONE == []


def test_a_skill_whose_rule_was_never_settled_counts_as_sensitive(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    case.toolbox = Toolbox([replace(SKILLS[0], sensitive=lambda permits: False)])
    end = case.begin("act")
    case.until_asked()
    case.gate.decide(7, False, "laptop")
    assert not end()["success"]


def test_waiting_takes_nothing_from_the_calls_time_and_the_attempts(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    case.ctx = replace(case.ctx, deadline=time.monotonic() + 0.3)
    end = case.begin("act")
    case.until_asked()
    threading.Event().wait(0.5)  # longer than the call's own time, and than what the attempt has
    case.gate.decide(7, True, "laptop")
    assert end()["success"]
    assert 0.5 <= case.gate.waited_s < 5.0


def test_calls_that_wait_at_once_are_counted_once(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    ends = [case.begin("act", step, what=str(step)) for step in (1, 2, 3)]
    case.until_asked(3)
    threading.Event().wait(0.3)
    for step in (3, 1, 2):
        case.gate.decide(step, step != 2, "laptop")
    assert [end()["success"] for end in ends] == [True, False, True]
    assert sorted(DONE) == ["1", "3"] and 0.3 <= case.gate.waited_s < 0.8


def test_a_decision_counts_for_its_step_alone_and_once(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    case.gate.decide(7, True, "early")  # nothing waits yet
    end = case.begin("act")
    case.until_asked()
    case.gate.decide(8, True, "other step")
    case.gate.decide(7, False, "laptop")
    case.gate.decide(7, True, "too late")
    assert "laptop has denied it" in end()["output"] and DONE == []
    again = case.begin("act")
    case.until_asked(2)
    assert DONE == []
    case.gate.decide(7, True, "laptop")
    assert again()["success"]


def test_a_cancel_ends_the_waiting_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    end = case.begin("act")
    case.until_asked()
    case.cancelled.set()
    case.gate.wake()
    assert "cancelled" in end()["output"] and DONE == []


def test_an_approval_that_comes_with_the_cancel_is_worth_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, tainted=True)
    end = case.begin("act")
    case.until_asked()
    case.cancelled.set()
    case.gate.decide(7, True, "laptop")
    assert not end()["success"] and DONE == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\nb", "\\n"),
        ("\x1b[2J", "\\u001b"),
        ("\x7f", "\\u007f"),
        ("\x9b2J", "\\u009b"),
        ("\u202egnp.exe", "\\u202e"),
        ("\u2066x\u2069", "\\u2066"),
        ("\u200bzero", "\\u200b"),
        ("\u200e\u061c", "\\u061c"),
        ("\ufeff", "\\ufeff"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("\u00a0", "\\u00a0"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_hides_in_what_a_person_is_shown(text: str, seen: str) -> None:
    told = shown({"unit": text})
    assert seen in told and told.isprintable()
    assert json.loads(told) == {"unit": text}, "it is JSON still"


def test_chinese_stays_readable_and_long_arguments_are_cut_with_a_note() -> None:
    assert shown({"text": "你好"}) == '{"text": "你好"}'
    long = shown({"text": "x" * 50_000})
    assert len(long) < 2_200 and "characters are missing" in long


def test_secrets_are_hidden_before_a_person_is_told(tmp_path: Path) -> None:
    case = Case(tmp_path)
    asks: List[Ask] = []
    hide = lambda text: text.replace("s3cret", "***")  # noqa: E731
    one = gate.Gate("always", False, asks.append, case.steps.append, hide, limit_s=0.0)
    ctx = replace(case.ctx, guard=one)
    case.toolbox.call("act", {"what": "s3cret"}, ctx)
    assert asks[0].args == '{"what": "***"}' and "s3cret" not in str(case.steps)


# --- a whole attempt ------------------------------------------------------------------------------


def one(tmp_path: Path, spec: Dict[str, Any], mode: str = "tainted") -> attempt.Attempt:
    DONE.clear()
    tools = attempt.Tools(
        Toolbox(SKILLS), attempt.no_model, "soul", Permits(), tmp_path, approval=mode
    )
    return attempt.Attempt(msg.Assign("g1-1", 1, 5_000, spec), tools, lambda step: None)


@pytest.mark.parametrize("name", ["read", "read_badly", "plain"])
def test_a_result_tells_whether_it_is_tainted(tmp_path: Path, name: str) -> None:
    assert one(tmp_path, {"skill": name, "args": {}}).run().tainted is (name != "plain")


@pytest.mark.parametrize("said", [True, False, "false", 1, None])
def test_an_attempt_is_tainted_from_its_beginning_when_the_master_says_so(
    tmp_path: Path, said: Any
) -> None:
    spec = {"skill": "plain", "args": {}, "tainted": said}
    assert one(tmp_path, spec).run().tainted is (said is True)


def test_nobody_answers_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate.Gate.__init__, "__defaults__", (str, 0.1))
    result = one(tmp_path, {"skill": "act", "args": {}}, "always").run()
    assert (result.state, result.error) == ("failed", "nobody has approved act within an hour")
    assert DONE == []


def test_a_workspace_with_files_of_a_lost_attempt_taints(tmp_path: Path) -> None:
    @skill()
    def look(ctx: Context) -> str:
        """Look."""
        return str(ctx.workspace)

    (tmp_path / "g1-1").mkdir()
    for files in (0, 1):
        tried = one(tmp_path, {"skill": "look", "args": {}})
        tried.tools = replace(tried.tools, toolbox=Toolbox([look.__skill__]))
        assert tried.run().tainted is bool(files)
        (tmp_path / "g1-1" / "left.txt").write_text("x")


def test_modes_are_those_of_the_settings() -> None:
    assert (approval.ALWAYS, approval.NEVER, approval.TAINTED) == ("always", "never", "tainted")
