"""Who has stolen a worker speaks for that worker, and for nobody else."""

from __future__ import annotations

import base64
from typing import Any, Dict, List, Tuple

import pytest

from pibot import messages as msg
from pibot.messages import Message
from pibot.transfer import SLICE_BYTES
from security.impostor import TOPICS, Impostor, overheard
from security.siege import GROWTH_KB, HONEST, STOLEN, Siege

ROOT = "pibot/1/home/"
TRUTH = "done"
LIE = {"success": True, "data": {"text": "a lie"}, "output": "a lie"}


def of_others(name: str = STOLEN) -> List[str]:
    """Every topic that this worker has no right to write."""
    topics = [f"{ROOT}{t}" for t in ("m/all", "ask", "answer/g1", "view/fleet", "x", "")]
    topics += [f"{ROOT}view/worker/{n}" for n in (name, "worker-1")]
    for worker in ("worker-1", f"{name}0", "master", "laptop", f"{name}.abcd", "%u"):
        topics += [f"{ROOT}w/{worker}/{c}" for c in ("cmd", "evt", "hb", "prog", "will")]
        topics += [f"{ROOT}c/{worker}/{c}" for c in ("req", "rep")]
    topics += [f"{ROOT}w/{name}/{c}" for c in ("cmd", "evt/x", "")] + [f"{ROOT}c/{name}/rep"]
    return topics + [f"pibot/1/lab/w/{name}/evt", f"/{ROOT}w/{name}/evt", "other", "$SYS/broker"]


def test_what_it_may_not_write_never_leaves_the_broker(siege: Siege) -> None:
    with siege.broker() as tap, siege.stolen() as thief:
        for topic in of_others():
            for retain in (False, True):
                thief.line.publish(topic, b"smuggled to " + topic.encode(), 1, retain)
        thief.line.publish(thief.topic("hb"), b"allowed")
        assert thief.line.sync() and tap.sync()
        heard = [payload for _, payload in tap.heard]
        assert b"allowed" in heard and not [p for p in heard if b"smuggled" in p]
    with siege.broker() as later:
        assert later.sync() and not [p for _, p in later.heard if b"smuggled" in p], "retained"


def test_what_is_for_others_it_cannot_read(siege: Siege) -> None:
    filters = ["#", "+/#", "$share/a/#", f"{ROOT}#", f"{ROOT}w/+/cmd", f"{ROOT}w/+/evt"]
    filters += [f"{ROOT}+/+/+", f"{ROOT}c/laptop/rep", f"{ROOT}c/+/req", f"{ROOT}answer/#"]
    with siege.stolen() as thief:
        for one in filters:
            thief.line.subscribe(one)
        thief.join()
        assert siege.done("echo", "worker-1", text="a secret of worker-1") == "a secret of worker-1"
        assert thief.line.sync()
        topics = {topic for topic, _ in thief.line.heard}
        others = {t for t in topics if t != thief.reads and not t.startswith(f"{ROOT}view/")}
        assert others <= {TOPICS.announce}, "it heard what was for others"
        assert not [p for _, p in thief.line.heard if b"a secret" in p]


def lies(task: str, att: int) -> List[Message]:
    """All that the holder of an attempt might say about it."""
    ends = [msg.Result(task, a, "succeeded", LIE) for a in (att, att + 1, 0, -1)]
    ends += [msg.Result(task, att, s, LIE) for s in ("failed", "cancelled", "timed_out", "lost")]
    files = [{"path": "x", "size": 5, "sha256": "ab" * 32}]
    ends.append(msg.Result(task, att, "succeeded", LIE, artifacts=files))
    return [
        *ends,
        msg.Accepted(task, att),
        msg.Declined(task, att, "busy"),
        msg.Heartbeat([[task, att], [task, att + 1]]),
        msg.Progress(task, att, {"kind": "note", "text": "a lie"}),
        msg.Slice(task, "x", 0, 5, "aGVsbG8="),
    ]


def end_of(siege: Siege, goal: str) -> Tuple[str, int, str, str]:
    """Where and how a task ended: the worker, the attempt, the state, and what it said."""
    (row,) = siege.asks.follow(goal)["tasks"]
    return row["worker_id"], row["attempt"], row["state"], row["result"]["output"]


def test_it_cannot_report_on_the_task_of_another(siege: Siege) -> None:
    """Within a session of its own, rightly signed."""
    goal = siege.running("worker-1", seconds=1.0)
    with siege.stolen() as thief:
        task = f"{goal}-1"
        thief.join(running=[[task, 1]], results=[[task, 1]])
        for lie in lies(task, 1):
            thief.say(lie)
        thief.say(msg.Bye())
        thief.join(results=[[task, 1]])
        thief.say(msg.Result(task, 1, "succeeded", LIE))
        ack = msg.ResultAck(task, 1, "running")
        siege.fleet.wait_for(lambda: ack in thief.told(msg.ResultAck), what="it was heard")
        assert end_of(siege, goal) == ("worker-1", 1, "succeeded", TRUTH)
    siege.fleet.wait_for(lambda: siege.workers().get("worker-1") == "idle", what="worker-1 idle")


def test_it_cannot_speak_as_another(siege: Siege) -> None:
    """On its own topics with the names of others; and where a broker would help, in sessions of
    others that this broker hears.
    """
    with siege.stolen() as thief, siege.broker() as broker:
        thief.join()
        goal = siege.running("worker-1", seconds=1.0)
        own, other = thief.topic(), TOPICS.worker("worker-1", "evt")
        session = overheard(broker, other)
        said = [*lies(f"{goal}-1", 1), msg.Bye(), msg.Inventory([], []), msg.Will("x")]
        bodies = [thief.body(one, among=session) for one in said]
        bodies += [thief.body(one, joining=True) for one in said]
        bodies += [body.replace(STOLEN.encode(), b"worker-1") for body in bodies]
        for body in bodies:
            for kid in ("w:worker-1", "c:worker-1", "c:laptop", "m:master", thief.kid):
                for topic in (other, TOPICS.worker("worker-1", "will"), TOPICS.announce):
                    broker.publish(topic, thief.signed(topic, body, kid))
                    broker.publish(topic, thief.unsigned(body, kid))
                thief.line.publish(own, thief.unsigned(body, kid))
                thief.line.publish(own, thief.signed(other, body, kid))
                if kid != thief.kid:
                    thief.line.publish(own, thief.signed(own, body, kid))
        assert thief.line.sync() and broker.sync()
        assert end_of(siege, goal) == ("worker-1", 1, "succeeded", TRUTH)


def test_it_cannot_command_another(siege: Siege) -> None:
    """Nor can its broker, in the sessions that it hears; the key is not the one."""
    with siege.stolen() as thief, siege.broker() as broker:
        goal = siege.running("worker-1", seconds=1.0)
        siege.done("work", "worker-2")
        orders: List[Message] = [
            msg.Assign("gforged-1", 1, 60_000, {"skill": "work", "args": {}}),
            msg.Cancel(f"{goal}-1", 1),
            msg.HbAck([[f"{goal}-1", 1]]),
            msg.ResultAck(f"{goal}-1", 1, "succeeded"),
            msg.Refusal("superseded", "go away", "0" * 16),
            msg.Welcome("0" * 16, "1" * 16, "forged", 5_000, 30_000),
        ]
        for name in HONEST:
            topic = TOPICS.worker(name, "cmd")
            session = overheard(broker, topic)
            for order in orders:
                for body in (thief.body(order, among=session), thief.body(order, joining=True)):
                    body = body.replace(STOLEN.encode(), b"master")
                    for kid in ("m:master", thief.kid, f"w:{name}"):
                        broker.publish(topic, thief.signed(topic, body, kid))
                        broker.publish(topic, thief.unsigned(body, kid))
        assert broker.sync()
        assert end_of(siege, goal) == ("worker-1", 1, "succeeded", TRUTH)


def test_a_will_of_another_is_none(siege: Siege) -> None:
    """Its own last will, on the topic of another: the broker itself would publish it."""
    with siege.broker() as tap:
        for name in ("worker-1", STOLEN):
            will = (TOPICS.worker(name, "will"), b"the will of a thief on " + name.encode())
            siege.stolen(will=will).line.die()
        siege.fleet.wait_for(
            lambda: [p for _, p in tap.heard if p.endswith(STOLEN.encode())], what="its own will"
        )
        assert tap.sync()
        assert not [p for _, p in tap.heard if p.endswith(b"on worker-1")]


@pytest.mark.parametrize("kid", ["c", "w"])
def test_its_key_asks_for_nothing(siege: Siege, kid: str) -> None:
    """A worker may look at the fleet as a client; everything else a person must ask for."""
    goal = siege.running("worker-1", seconds=0.5)
    known = siege.fleet.settings(STOLEN)
    asks: List[Message] = [
        msg.Submit("gstolen", skill="work"),
        msg.Cancel(goal),
        msg.Get(goal),
        msg.Retry(goal),
        msg.Follow(goal),
        msg.Listing("tasks"),
        msg.Manage("remove", "worker-1"),
        msg.Manage("drain", "worker-1"),
        msg.Manage("rotate", STOLEN, now=True),
        msg.Upload("ab" * 32, 5, 0, "aGVsbG8="),
        msg.Update("worker-1", "ab" * 32, "9.9.9", "x", 1, 60),
        msg.Listing("clients"),
    ]
    port, password, key = siege.fleet.port, known["MQTT_PASSWORD"], known["PIBOT_KEY"]
    with Impostor(port, STOLEN, password, key, kind="c") as thief:
        thief.join()
        if kid == "w":
            thief.kid = f"w:{STOLEN}"
        for message in (*asks, msg.Listing("workers")):
            thief.say(message)
        if kid == "c":
            siege.fleet.wait_for(lambda: len(thief.told(msg.Reply)) > len(asks), what="replies")
            errors = [r.error and r.error["code"] for r in thief.told(msg.Reply)]
            assert sorted(errors, key=str) == [None] + ["refused"] * len(asks)
        else:
            assert thief.line.sync()
        assert end_of(siege, goal) == ("worker-1", 1, "succeeded", TRUTH)
        assert kid == "c" or thief.told(msg.Reply) == []


def test_who_may_only_look_can_do_nothing_else(siege: Siege) -> None:
    """The credentials of a viewer, with a broker that lets them write everywhere."""
    name = "tablet"
    siege.fleet.run("clients", "add", name, "--view", "--host", "127.0.0.1")
    known = siege.fleet.settings(name)
    with siege.broker() as broker:
        port, password, key = siege.fleet.port, known["MQTT_PASSWORD"], known.get("PIBOT_KEY", "")
        for kind in ("w", "c"):
            viewer = Impostor(port, name, password, key, kind=kind)
            topic = viewer.topic()
            for message in (msg.Hello("1" * 16, "2" * 16, 1), msg.Submit("gviewed", skill="work")):
                payload = viewer.signed(topic, viewer.body(message, joining=True))
                viewer.line.publish(topic, payload, 1)
                broker.publish(topic, payload, 1)
            assert viewer.line.sync() and broker.sync()
            siege.goes_on()
            assert broker.sync()
            assert [t for t, _ in broker.heard].count(topic) == 2, "its own words went through"
            told = [p for t, p in broker.heard if t == viewer.reads]
            assert not [p for p in told if b'"t":"welcome"' in p], f"it is welcome as {kind}"
            viewer.line.die()
    assert name not in siege.workers()
    siege.fleet.run("clients", "remove", name)


# --- bytes that mean harm -------------------------------------------------------------------------


def harmful(thief: Impostor) -> List[bytes]:
    """Bodies and packets, rightly signed: nobody but their reader stands before the parser."""
    deep = b"[" * 50_000
    numbers = (b"1e999", b"9" * 5_000, b"-" + b"9" * 290, b"1.5", b"NaN", b"0x1", b"01", b"true")
    odd: List[bytes] = [b'{"v":1,"t":"heartbeat","id":"x","src":"worker-3","running":%s' % deep]
    odd += [thief.body(msg.Heartbeat([]))[:-1] + b',"at_ms":%s}' % n for n in numbers]
    odd += [
        thief.body(msg.Accepted("g1-1", 1)).replace(b'"att":1', b'"att":%s' % n) for n in numbers
    ]
    odd += [b'{"a":"\xff\xfe"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}', b"{}", b"{\x00}"]
    odd += [
        thief.body(msg.Bye()).replace(b"bye", t) for t in (b"\xff", b"", b"x" * 9_999, b"\\u0000")
    ]
    odd += [b'{"t":"bye","t":"hello"}', b'{"x":"' + b"\\" * 59_000 + b'"}']
    facts: Dict[str, Any] = {}
    for _ in range(95):
        facts = {"a": facts}
    odd.append(thief.body(msg.Heartbeat([], facts)))
    odd.append(thief.body(msg.Heartbeat([[f"g{i}", 2**52] for i in range(2_000)])))
    odd.append(thief.body(msg.Heartbeat([["g1", 1, 2], [], [[]], "x"])))  # type: ignore[list-item]
    return odd


def test_malformed_words_change_nothing(siege: Siege) -> None:
    goal = siege.running("worker-1", seconds=0.5)
    with siege.stolen() as thief:
        thief.join()
        for channel in ("evt", "hb", "prog", "will"):
            topic = thief.topic(channel)
            for body in harmful(thief):
                thief.line.publish(topic, thief.signed(topic, body))
                thief.line.publish(topic, thief.unsigned(body))
                thief.line.publish(topic, body)
            thief.line.publish(topic, b"")
            thief.line.publish(topic, b"\x00" * 60_000)
        assert thief.line.sync()
        assert end_of(siege, goal) == ("worker-1", 1, "succeeded", TRUTH)
    odd = [ROOT.encode() + b"w/worker-3/evt\xff", b"\xc0\x80", b"a\x00b", b"+", b"#", b""]
    odd += [f"{ROOT}w/{STOLEN}/evt".encode() + b"/\xed\xa0\x80", b"x" * 60_000]
    for name in odd:
        with siege.stolen() as thief:
            thief.line.publish(name, b"x", 1)
            thief.line.sync()
        with siege.broker() as broker:  # and the broker itself, which no rights stop
            broker.publish(name, b"x", 1)
            broker.sync()


@pytest.mark.parametrize("size", [65_000, 66_000, 300_001, 5_000_000])
def test_what_is_too_large_is_dropped(siege: Siege, size: int) -> None:
    for qos in (0, 1):
        with siege.stolen() as thief:
            thief.join()
            topic = thief.topic()
            thief.line.publish(topic, thief.signed(topic, b'{"x":"%s"}' % (b"x" * size)), qos)
            assert thief.line.sync() == (size < 65_536), "the broker ends what is larger"


def test_ten_thousand_transfers_that_never_end(siege: Siege) -> None:
    """Whole slices, and only their last byte, in the name of several starts."""
    whole = base64.b64encode(bytes(SLICE_BYTES)).decode()
    for _ in range(3):
        with siege.stolen() as thief:
            thief.join()
            for i in range(200):
                thief.say(msg.Chunk(f"t{i}", 0, 2, SLICE_BYTES + 1, "ab" * 32, whole))
            for i in range(3_200):
                thief.say(msg.Chunk(f"x{i}", 1, 2, SLICE_BYTES + 1, "ab" * 32, "AA=="))
                if i % 400 == 0:
                    thief.heard_out()
    assert max(siege.memory.grown().values()) <= GROWTH_KB


def test_what_it_says_of_itself_is_only_said(siege: Siege) -> None:
    """Names, skills and states that it makes up do no harm to those who read of it."""
    weird = {"host": "\x1b[2J" * 50, "tags": ["\u202e"] * 99, "version": "9" * 900, "machine": {}}
    skills = [{"name": f"s{i}", "description": "d" * 99, "phrases": ["("]} for i in range(99)]
    name = "a-liar"
    siege.fleet.add(name)
    with siege.stolen(name) as thief:
        thief.join(facts={**weird, "skills": skills, "slots": 10**9, "model": "yes"})
        siege.fleet.wait_for(lambda: siege.workers().get(name) == "idle", what="it is there")
        for command in (("status",), ("workers", "list"), ("skills",)):
            said = siege.fleet.run(*command, json=False).out
            assert name in said or command == ("skills",)
            assert "\x1b" not in said and "\u202e" not in said
    siege.asks.ask(msg.Manage("remove", name))
