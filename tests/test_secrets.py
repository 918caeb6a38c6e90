"""Secrets are taken out however they are written, ordinary text stays, and nothing takes long."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import time
import uuid
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import quote, quote_plus

import pytest

from pibot.secrets import HIDDEN, SHORTEST, Redactor, secrets_of

PLAIN = "pass-0f1e2d-77"
ODD = 'pä ss/"w+ör&d\\<7'
KNOWN = Redactor([PLAIN, ODD])
SHAPES = Redactor()


def _base64_at(offset: int) -> Callable[[str], str]:
    return lambda one: base64.b64encode(b"xyz"[:offset] + one.encode() + b"tail").decode()


FORMS: Dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON with all letters": lambda one: json.dumps(one, ensure_ascii=False),
    "a URL's part": lambda one: quote(one, safe=""),
    "a URL's path": quote,
    "a form": quote_plus,
    "small escapes": lambda one: re.sub("%..", lambda m: m[0].lower(), quote(one, safe="")),
    "all escaped": lambda one: "".join(f"%{byte:02X}" for byte in one.encode()),
    "HTML": html.escape,
    "Python": repr,
    "hex": lambda one: one.encode().hex(),
    "HEX": lambda one: one.encode().hex().upper(),
    "hex dump": lambda one: one.encode().hex(" "),
    "hex with colons": lambda one: one.encode().hex(":"),
    "bytes of Python": lambda one: "".join(f"\\x{byte:02x}" for byte in one.encode()),
    "base64": _base64_at(0),
    "base64, one later": _base64_at(1),
    "base64, two later": _base64_at(2),
    "base64 of URLs": lambda one: base64.urlsafe_b64encode(one.encode()).decode(),
    "base64 in short lines": lambda one: base64.encodebytes(b"p" * 50 + one.encode()).decode(),
    "two lines": lambda one: f"{one[:5]}\n  {one[5:]}",
    "spaced": " ".join,
    "zero width and lines": "\u200b\n".join,
    "zero width": lambda one: "\u200b".join(one),
    "coloured": lambda one: f"{one[:4]}\x1b[31m{one[4:]}",
    "with a null": lambda one: f"{one[:4]}\0{one[4:]}",
    "turned": lambda one: f"{one[:5]}\u202e{one[5:]}",
}


@pytest.mark.parametrize("secret", [PLAIN, ODD])
@pytest.mark.parametrize("form", FORMS)
def test_a_known_secret_is_found(secret: str, form: str) -> None:
    written = FORMS[form](secret)
    said = KNOWN.text(f"before {written} after")
    assert HIDDEN in said and written not in said
    assert said.startswith("before ") and said.endswith("after")
    assert KNOWN.holds(written) and KNOWN.holds({"a": [written]})


@pytest.mark.parametrize(
    "text",
    [
        quote(quote(ODD)),
        " ".join(PLAIN),
        "\n".join(PLAIN),
        PLAIN[:5] + "\u200b " + PLAIN[5:],
    ],
)
def test_what_goes_out_is_looked_at_more_closely(text: str) -> None:
    assert KNOWN.holds(text)


def test_arguments_that_are_put_together_are_one_text() -> None:
    assert KNOWN.holds({"a": PLAIN[:6], "b": 1, "c": PLAIN[6:]}) is False  # "b" stands between
    assert KNOWN.holds([PLAIN[:6], PLAIN[6:]])


def test_one_of_spaces_blots_out_nothing() -> None:
    assert Redactor(["a b c d", " " * 9]).text("abcd, a b\nc") == "abcd, a b\nc"


def test_a_secret_within_another_leaves_nothing_behind() -> None:
    assert Redactor(["secret-1", "secret-1-and-more"]).text("<secret-1-and-more>") == "<***>"


def test_short_ones_would_blot_out_words() -> None:
    assert Redactor(["none", "a" * (SHORTEST - 1)]).text("none of aaaaa") == "none of aaaaa"


def test_data_is_searched_everywhere_and_kept_when_there_is_nothing() -> None:
    clean = {"a": [1, None, {"b": "c"}]}
    assert KNOWN.data(clean) is clean
    found = KNOWN.data({f"k {PLAIN}": [1, (PLAIN,), {"x": f"<{PLAIN}>"}], "n": None, "t": True})
    assert found == {"k ***": [1, ["***"], {"x": "<***>"}], "n": None, "t": True}


def test_a_secret_that_is_a_number() -> None:
    assert Redactor(["20250117"]).data({"a": 20250117, "b": 3}) == {"a": "***", "b": 3}


def test_the_repr_says_nothing() -> None:
    assert PLAIN not in repr(KNOWN)


def test_bytes_of_a_file_over_the_end_of_a_block() -> None:
    raw = b"x" * 100 + PLAIN.encode() + b"y" * 100
    for size in (1, 7, 103, 1000):
        blocks = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert KNOWN.bytes_hold(blocks), size
    assert KNOWN.bytes_hold([PLAIN.encode("utf-16-le")])
    assert not KNOWN.bytes_hold([raw[:110]])


SETTINGS: List[Tuple[str, str, Tuple[str, ...]]] = [
    ("MQTT_PASSWORD", "hush-12345", ("hush-12345",)),
    ("PIBOT_KEY", "0123456789abcdef", ("0123456789abcdef",)),
    ("PIBOT_UPDATE_KEY", "abcdef0123", ("abcdef0123",)),
    ("VOLC_API_KEY", "ark-123456", ("ark-123456",)),
    ("OPENAI_API_KEY", "none", ()),
    ("PIBOT_HTTP_TOKEN", "token-1234", ("token-1234",)),
    ("PIBOT_HOST_TOKENS", "home.local:8123=aaa=bbb, nas=ccccccc", ("aaa=bbb", "ccccccc")),
    ("PIBOT_MQTT_URL", "mqtt://user:pa55word@home:1883", ("pa55word",)),
    ("PIBOT_NOTIFY_URL", "https://ntfy.sh/my-hidden-topic", ("my-hidden-topic",)),
    (
        "PIBOT_NOTIFY_URL",
        "https://gotify.lan/message?token=A1b2C3d4",
        ("message", "message?token=A1b2C3d4"),
    ),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI", ("wJalrXUtnFEMI",)),
    ("GITHUB_TOKEN", "abcdefghij", ("abcdefghij",)),
    ("HTTP_PROXY", "http://me:proxy-pass@p:3128", ("proxy-pass",)),
    ("WORKER_ID", "worker-1", ()),
    ("PATH", "/usr/bin:/bin", ()),
    ("PIBOT_GPIO_PINS", "17,27", ()),
]


@pytest.mark.parametrize("name, text, secrets", SETTINGS)
def test_the_secrets_of_settings(name: str, text: str, secrets: Tuple[str, ...]) -> None:
    assert secrets_of({name: text}) == secrets


def made(*parts: str) -> str:
    """A key put together here, so that no scanner takes this file for a leak."""
    return "".join(parts)


KEYS: Dict[str, str] = {
    "OpenAI": made("sk-", "proj-Ab3dEf6hIj9kLmN0pQrS"),
    "Anthropic": made("sk-", "ant-api03-Ab3dEf6hIj9kLmN0pQrS"),
    "GitHub": made("ghp", "_Ab3dEf6hIj9kLmN0pQrStUvWxYz012345678"),
    "GitHub, fine-grained": made("github_pat", "_11AB3dEf6hIj9kLmN0pQrStU_vWxYz"),
    "GitLab": made("glpat", "-Ab3dEf6hIj9kLmN0pQrS"),
    "AWS": made("AKIA", "IOSFODNN7EXAMPLE"),
    "Google": made("AIza", "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"),
    "Slack": made("xoxb", "-123456789012-abcdefGHIJ"),
    "Stripe": made("sk_live", "_4eC39HqLyjWDarjtT1zdp7dc"),
    "Hugging Face": made("hf", "_AbCdEfGhIjKlMnOpQrStUvWxYz012345"),
    "npm": made("npm", "_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"),
    "SendGrid": made("SG.", "abcdefghijklmnopqrstuv.", "A" * 43),
    "Telegram": made("123456789", ":AAabcdefghijklmnopqrstuvwxyz0123456"),
    "JWT": made("eyJhbGciOiJIUzI1NiJ9", ".eyJzdWIiOiIxMjM0NTY3ODkwIn0", ".dozjgNryP4J3jVmNHl0w5N"),
    "age": made("AGE-SECRET-KEY-1", "Q" * 58),
}
PEM_BODY = "\n".join(base64.b64encode(bytes([n] * 48)).decode() for n in range(9)) + "\nAbCd=="
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("around", ["{}", "key: {}.", '"{}"', "a\n{}\nb", "x={}&y=1", "({})"])
def test_the_shape_of_a_key_is_enough(kind: str, around: str) -> None:
    said = SHAPES.text(around.format(KEYS[kind]))
    assert said == around.format(HIDDEN) or (around[0] == "k" and said == "key: ***")


@pytest.mark.parametrize(
    "text, said",
    [
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
        ('{"Authorization": "Basic dXNlcjpwYXNz"}', '{"Authorization": "Basic ***"}'),
        ("curl -H 'authorization: token abcdef99'", "curl -H 'authorization: token ***'"),
        ("mqtt://user:pa55@home:1883/x", "mqtt://user:***@home:1883/x"),
        ("PIBOT_KEY=0123456789abcdef", "PIBOT_KEY=***"),
        ("export MQTT_PASSWORD='with space'", "export MQTT_PASSWORD=***"),
        ("A=1 AWS_SECRET_ACCESS_KEY=wJalrXU B=2", "A=1 AWS_SECRET_ACCESS_KEY=*** B=2"),
        ("https://a/?access_token=abcdefgh1&b=2", "https://a/?access_token=***&b=2"),
        ("https://hooks.slack.com/services/T0/B0/abcdefghijklmnop",
         "https://hooks.slack.com/services/***"),
        (f"a\n{PEM}\nb", "a\n***\nb"),
        (json.dumps({"key": PEM}), '{"key": "***"}'),
        (f"{PEM[:200]} is cut", "*** is cut"),
    ],
)  # fmt: skip
def test_what_stands_beside_a_key_says_that_it_is_one(text: str, said: str) -> None:
    assert SHAPES.text(text) == said
    assert SHAPES.text(said) == said  # twice is as once


ORDINARY: Dict[str, str] = {
    "commits": "\n".join(hashlib.sha1(bytes([n])).hexdigest() for n in range(200)),
    "sums": "\n".join(f"{hashlib.sha256(bytes([n])).hexdigest()}  a{n}.txt" for n in range(200)),
    "uuids": "\n".join(str(uuid.UUID(int=n * 7919 << 64)) for n in range(200)),
    "an image": "data:image/png;base64," + base64.b64encode(os.urandom(300_000)).decode(),
    "urlsafe": base64.urlsafe_b64encode(os.urandom(300_000)).decode(),
    "a public key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmZ5yq user@host",
    "a certificate": PEM.replace("RSA PRIVATE KEY", "CERTIFICATE"),
    "words": "The bearer of this token is the key holder; the password is required. Risk-averse.",
    "settings": "MAX_TOKENS=4096 SORT_KEY=created LANG=C.UTF-8 PIBOT_KEY= TOKEN=$TOKEN",
    "code": "task-based sk-circle-fade-dot token_count=5 key=value disk-usage-of-all-machines-2",
    "addresses": "http://a.example:8080/x?y=1@2 ssh://git@host:22/repo mailto:a@b.example",
    "times": "1700000000:da39a3ee5e6b4b0d3255bfef95601890afd80709 12:30:45",
    "mac": "b8:27:eb:12:34:56 fe80::ba27:ebff:fe12:3456",
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_text_stays(kind: str) -> None:
    assert SHAPES.text(ORDINARY[kind]) == ORDINARY[kind]
    assert KNOWN.text(ORDINARY[kind]) == ORDINARY[kind]


HOSTILE: Dict[str, str] = {
    "letters": "A",
    "equals": "=",
    "assignments": "AB_KEY='",
    "urls": "://a:",
    "jwt": "eyJabcdefgh.",
    "pem": "-----BEGIN PRIVATE KEY-----",
    "pem lines": "-----BEGIN PRIVATE KEY-----" + "\n" * 500,
    "pem headers": "-----BEGIN PRIVATE KEY-----Abc: Abc: ",
    "bearer": "Bearer ",
    "authorization": "Authorization: ",
    "telegram": "123456789:AA",
    "escapes": "\x1b[",
    "zero width": "a\u200b",
    "slack": "xoxb-",
}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("kind", HOSTILE)
def test_twice_the_text_takes_twice_the_time(kind: str) -> None:
    """What took the square of it would take minutes here."""
    text = HOSTILE[kind] * (1_000_000 // len(HOSTILE[kind]))
    assert _seconds(lambda: (KNOWN.text(text), KNOWN.holds(text))) < 3.0
