"""Messages of the owner's MQTT broker: lamps, sensors, whatever lives in the house."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any, Dict, Iterator, List, Optional

from pibot.agent.text import clean
from pibot.permits import Permits
from pibot.skills import Context, Output, SkillError, skill
from pibot.skills._topics import check_filter, check_topic

if TYPE_CHECKING:
    from pibot.skills._mqtt import Heard, Session

MAX_SECONDS = 60.0
MAX_MESSAGES = 100
_MOST_BYTES = 64 * 1024
_TEXT_BYTES = 256 * 1024  # of all messages together
_LINE_CHARS = 500


def _why_not(skill_name: str, permits: Permits) -> Optional[str]:
    if not permits.mqtt_topics:
        return f"{skill_name} is off: list topics, such as PIBOT_MQTT_TOPICS=zigbee2mqtt/#"
    if not permits.mqtt_url:
        return (
            f"{skill_name} is off: say which broker, such as "
            "PIBOT_MQTT_URL=mqtt://user:password@127.0.0.1:1883"
        )
    return None


def _note(permits: Permits) -> str:
    return f"Topics: {', '.join(permits.mqtt_topics)}."


@skill(
    timeout_s=45,
    phrases=[
        "publish {payload} to [the] [mqtt] [topic] {topic:word}",
        "mqtt publish {payload} to {topic:word}",
        "(发布|发送){payload}到[mqtt]主题{topic:word}",
    ],
    sensitive=True,
    repeatable=False,
    available=lambda permits: _why_not("mqtt_publish", permits),
    note=_note,
)
def mqtt_publish(
    ctx: Context,
    topic: Annotated[str, "such as zigbee2mqtt/lamp/set"],
    payload: Annotated[str, "the message, often JSON"],
    retain: Annotated[bool, "whether the broker keeps it for those who come later"] = False,
) -> Output:
    """Send a message to a topic of the owner's MQTT broker."""
    check_topic(topic, ctx.permits.mqtt_topics)
    raw = payload.encode("utf-8", "replace")
    if len(raw) > _MOST_BYTES:
        raise SkillError(f"the payload has {len(raw)} bytes; at most {_MOST_BYTES} can be sent")
    with _session(ctx) as session:
        session.publish(topic, raw, retain)
    data = {"topic": topic, "payload_bytes": len(raw), "retained": retain}
    return Output(data, f"sent {len(raw)} bytes to {topic}{', retained' if retain else ''}")


@skill(
    timeout_s=MAX_SECONDS + 30,
    phrases=[
        "(listen to|subscribe to|read) [the] (mqtt|topic|mqtt topic) {topic:word}",
        "(订阅|读取|监听)[mqtt]主题{topic:word}",
    ],
    taints=True,
    available=lambda permits: _why_not("mqtt_read", permits),
    note=_note,
)
def mqtt_read(
    ctx: Context,
    topic: Annotated[str, "a topic, or a filter with + and #"],
    seconds: Annotated[float, "for how long to listen, at most 60"] = 5.0,
    count: Annotated[int, "after how many messages to stop, 1 to 100"] = 10,
) -> Output:
    """Listen to a topic of the owner's MQTT broker; what it has retained comes first."""
    check_filter(topic, ctx.permits.mqtt_topics)
    if not 0 < seconds <= MAX_SECONDS or not 1 <= count <= MAX_MESSAGES:
        raise SkillError(f"seconds go up to {MAX_SECONDS:g}, count goes from 1 to {MAX_MESSAGES}")
    with _session(ctx) as session:
        session.subscribe(topic)
        heard = session.listen(count, seconds)
        too_large = session.left_out
    messages = _shown(heard)
    left_out = too_large + len(heard) - len(messages)
    lines = [_line(one) for one in messages] or [f"nothing came on {topic} in {seconds:g} s"]
    if left_out:
        lines.append(f"[{left_out} more messages are left out: too large]")
    data = {"topic": topic, "messages": messages, "left_out": left_out}
    return Output(data, "\n".join(lines))


@contextlib.contextmanager
def _session(ctx: Context) -> Iterator[Session]:
    from pibot.skills._mqtt import Session, broker

    session = Session(ctx, broker(ctx.permits.mqtt_url))
    try:
        session.open()
        yield session
    finally:
        session.close()


def _shown(heard: List[Heard]) -> List[Dict[str, Any]]:
    """Messages as data, as long as there is room for them."""
    room, found = _TEXT_BYTES, []
    for one in heard:
        room -= len(one.payload)
        if room < 0:
            break
        found.append({"topic": clean(one.topic), **_payload(one.payload), "retained": one.retained})
    return found


def _payload(raw: bytes) -> Dict[str, str]:
    from base64 import b64encode

    try:
        return {"payload": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"payload_base64": b64encode(raw).decode()}


def _line(one: Dict[str, Any]) -> str:
    text = clean(one.get("payload", "")) or f"base64 {one.get('payload_base64', '')}"
    cut = text if len(text) <= _LINE_CHARS else text[: _LINE_CHARS - 1] + "…"
    return f"{one['topic']}: {cut}{' (retained)' if one['retained'] else ''}"
