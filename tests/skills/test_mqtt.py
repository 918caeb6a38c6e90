"""The MQTT skills against a real Mosquitto: rights, a wrong password, TLS, retained messages."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from pibot.agent.library import load
from pibot.agent.tools import Context, Result
from pibot.permits import Permits
from security.certificates import Certificate
from skills.a_broker import PASSWORD, QUOTED, mosquitto


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mosquitto(tmp_path_factory.mktemp("broker")) as port:
        yield port


def call(ctx: Context, url: str, skill: str, args: Dict[str, Any]) -> Result:
    permits = Permits(mqtt_topics=("home/#", "shown/#", "others/#"), mqtt_url=url)
    toolbox, _ = load(None, permits)
    done = toolbox.call(skill, args, replace(ctx, permits=permits))
    assert PASSWORD not in str(done) and QUOTED not in str(done)
    return done


def test_what_is_retained_comes_first_and_is_told(ctx: Context, port: int) -> None:
    url = f"mqtt://{QUOTED}@127.0.0.1:{port}"
    sent = {"topic": "home/t", "payload": '{"c": 21.5}\n', "retain": True}
    done = call(ctx, url, "mqtt_publish", sent)
    assert done.data == {"topic": "home/t", "payload_bytes": 12, "retained": True}
    done = call(ctx, url, "mqtt_read", {"topic": "home/+", "seconds": 5, "count": 1})
    (message,) = done.data["messages"]
    assert message == {"topic": "home/t", "payload": '{"c": 21.5}\n', "retained": True}


def test_silence_is_an_answer_in_time(ctx: Context, port: int) -> None:
    url = f"mqtt://{QUOTED}@127.0.0.1:{port}"
    began = time.monotonic()
    done = call(ctx, url, "mqtt_read", {"topic": "home/none", "seconds": 0.3})
    assert done.success and done.data["messages"] == []
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("who", "said"),
    [("lamp:wrong", "does not let the worker in"), ("", "does not let the worker in")],
)
def test_a_wrong_password_is_told_and_not_shown(
    ctx: Context, port: int, who: str, said: str
) -> None:
    url = f"mqtt://{who}{'@' if who else ''}127.0.0.1:{port}"
    done = call(ctx, url, "mqtt_publish", {"topic": "home/t", "payload": "x"})
    assert not done.success and said in done.output and "wrong" not in done.output


def test_a_broker_that_is_not_there(ctx: Context) -> None:
    done = call(ctx, "mqtt://127.0.0.1:9", "mqtt_read", {"topic": "home/t"})
    assert not done.success and "the broker 127.0.0.1:9 cannot be reached" in done.output


@pytest.mark.parametrize("is_trusted", [True, False])
def test_tls(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    certificate = Certificate(tmp_path / "tls")
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    with mosquitto(tmp_path / "broker", certificate) as port:
        url = f"mqtts://{QUOTED}@127.0.0.1:{port}"
        done = call(ctx, url, "mqtt_publish", {"topic": "home/t", "payload": "x"})
    assert done.success is is_trusted
    assert is_trusted or "is not trusted" in done.output


def test_both_are_off_without_topics_or_a_broker() -> None:
    for permits in (Permits(mqtt_url="mqtt://127.0.0.1"), Permits(mqtt_topics=("home/#",))):
        toolbox, notes = load(None, permits)
        assert not {"mqtt_publish", "mqtt_read"} & set(toolbox.names)
        assert len([one for one in notes if one.startswith("mqtt_")]) == 2
