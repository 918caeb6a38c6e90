"""Fetching over TLS: whose certificate is believed."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from pibot.agent.tools import Context
from pibot.errors import SkillError
from pibot.skills._hosts import WebPolicy
from pibot.skills.web_fetch import fetch
from skills.web_server import Names, Server, context, html, serving


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("no openssl program to make a certificate with")
    place = tmp_path_factory.mktemp("tls")
    key, cert = place / "key.pem", place / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"]
    command += ["-subj", "/CN=pi.test", "-addext", "subjectAltName=DNS:pi.test"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Server]:
    key, cert = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    names: list[Any] = []
    tls.sni_callback = lambda _sock, name, _ctx: names.append(name)  # type: ignore[assignment]
    with serving(tls=tls) as started:
        started.routes["/"] = html("safe")
        started.names = names  # type: ignore[attr-defined]
        yield started


def test_tls_is_made_with_the_name(
    secure: Any, ctx: Context, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    names = Names(secure.port, ["127.0.0.1"], ["127.0.0.1"])
    policy = WebPolicy(frozenset({"pi.test", "other.test"}))
    assert fetch("https://pi.test/", policy, ctx, names)["text"] == "safe"
    assert secure.names == ["pi.test"]
    with pytest.raises(SkillError, match="Hostname mismatch"):
        fetch("https://other.test/", policy, ctx, names)


def test_tls_with_an_unknown_issuer_is_refused(secure: Any, ctx: Context) -> None:
    names = Names(secure.port, ["127.0.0.1"])
    with pytest.raises(SkillError, match="no trusted TLS: self.signed certificate"):
        fetch("https://pi.test/", WebPolicy(frozenset({"pi.test"})), ctx, names)


def test_tls_with_a_server_that_has_none(ctx: Context) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"220 mail.test ESMTP\r\n")
            connection.recv(65536)
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(SkillError, match="no trusted TLS"):
            fetch(f"https://{address}/", WebPolicy(frozenset({address})), ctx)


def test_a_tls_server_that_says_nothing() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(SkillError, match="too slow"):
        fetch(f"https://{address}/", WebPolicy(frozenset({address})), context(seconds=0.3))
    assert time.monotonic() - started < 0.8
    listener.close()
