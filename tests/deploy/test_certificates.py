"""The broker's certificates, made by the real openssl: what is made, kept and made anew."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import List

import pytest

from deploy.made_up import FRESH, with_file
from pibot import tls
from pibot.deploy import certificates, layout
from pibot.deploy.certificates import Certificates
from pibot.deploy.facts import Facts
from pibot.errors import ConfigError, PibotError

CA, SERVER, KEY = layout.CERTIFICATES
HERE = replace(FRESH, host="fleet-pi", addresses=("192.168.1.10", "fd00::10"))


def prepare(facts: Facts) -> Certificates:
    found = certificates.prepare(facts, "home")
    assert found is not None
    return found


def installed(found: Certificates, facts: Facts = HERE) -> Facts:
    files = ((layout.AUTHORITY, found.authority), (CA, found.ca))
    for path, content in (*files, (SERVER, found.server), (KEY, found.key)):
        facts = with_file(facts, path, content.decode("ascii"))
    return facts


@pytest.fixture(scope="module")
def fresh() -> Certificates:
    return prepare(HERE)


def openssl(folder: Path, found: Certificates, *args: str) -> str:
    (folder / "ca.crt").write_bytes(found.ca)
    (folder / "server.crt").write_bytes(found.server)
    command = ["openssl", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_made_is_sound(fresh: Certificates, tmp_path: Path) -> None:
    verify = ("verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose", "sslserver")
    for name in (("-verify_hostname", tls.BROKER_NAME), ("-verify_ip", "192.168.1.10")):
        assert "OK" in openssl(tmp_path, fresh, *verify, *name, "server.crt")
    assert fresh.authority.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert fresh.authority.endswith(fresh.ca) and b"PRIVATE" not in fresh.ca + fresh.server
    assert ssl.DER_cert_to_PEM_cert(fresh.der).strip().encode() == fresh.ca.strip()


NAMES = ["broker.pibot.internal", "localhost", "fleet-pi", "fleet-pi.local", "127.0.0.1"]


@pytest.mark.parametrize("words", [*NAMES, "192.168.1.10", "FD00:0:0:0:0:0:0:10"])
def test_the_broker_may_be_called(words: str, fresh: Certificates, tmp_path: Path) -> None:
    text = openssl(tmp_path, fresh, "x509", "-in", "server.crt", "-noout", "-text")
    (line,) = [line for line in text.splitlines() if "DNS:" in line]
    assert words in [part.strip().split(":", 1)[1] for part in line.split(",")]


@pytest.mark.parametrize("file", ["ca.crt", "server.crt"])
def test_they_are_good_at_every_time_that_a_clock_shows(
    file: str, fresh: Certificates, tmp_path: Path
) -> None:
    dates = openssl(tmp_path, fresh, "x509", "-in", file, "-noout", "-dates")
    assert "notBefore=Jan  1 00:00:00 1970 GMT\nnotAfter=Dec 31 23:59:59 2099 GMT" in dates


@pytest.mark.parametrize("host", ["", "-x", "a_b", "x\nsubjectAltName=DNS:y", "h" * 80])
def test_a_host_name_that_is_none_is_left_out(host: str, tmp_path: Path) -> None:
    found = prepare(replace(HERE, host=host))
    text = openssl(tmp_path, found, "x509", "-in", "server.crt", "-noout", "-text")
    assert "DNS:broker.pibot.internal, DNS:localhost, IP" in text


# --- what is there --------------------------------------------------------------------------------


def test_what_fits_is_kept(fresh: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # and nobody asks openssl
    assert prepare(installed(fresh)) == fresh
    elsewhere = replace(installed(fresh), addresses=("10.0.0.1",), host="new")
    assert prepare(elsewhere) == fresh, "the broker's name stays whatever its address"


def damaged(fresh: Certificates) -> List[Certificates]:
    other = prepare(HERE)
    return [
        fresh._replace(server=b"", key=b""),
        fresh._replace(key=other.key),
        fresh._replace(server=other.server, key=other.key),
        fresh._replace(server=fresh.ca, key=fresh.authority),
        fresh._replace(server=b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
    ]


@pytest.mark.parametrize("which", range(5))
def test_what_does_not_fit_is_made_anew_by_the_same_authority(
    which: int, fresh: Certificates
) -> None:
    found = prepare(installed(damaged(fresh)[which]))
    assert (found.authority, found.ca) == (fresh.authority, fresh.ca)
    assert found.server not in (b"", fresh.server)
    assert prepare(installed(found)) == found


def test_a_certificate_for_other_names_is_made_anew(
    fresh: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tls, "BROKER_NAME", "another.name")
        other = prepare(installed(fresh))
    assert other.server != fresh.server
    assert prepare(installed(other)).server != other.server


def test_an_authority_that_was_left_with_the_records_is_taken_up(fresh: Certificates) -> None:
    text = fresh.authority.decode("ascii")
    assert prepare(with_file(HERE, layout.AUTHORITY_KEPT, text)).authority == fresh.authority
    planted = with_file(HERE, layout.AUTHORITY_KEPT, text, uid=997)
    assert prepare(planted).authority != fresh.authority, "the service's user may have put it there"


# --- certificates of the user's own ---------------------------------------------------------------


def own(facts: Facts, *paths: str) -> Facts:
    for path in paths:
        facts = with_file(facts, path, "mine")
    return facts


def test_certificates_of_the_users_own_are_left_alone(fresh: Certificates) -> None:
    assert certificates.prepare(own(HERE, *layout.CERTIFICATES), "home") is None
    assert certificates.prepare(own(installed(fresh), *layout.CERTIFICATES), "home") is None


def test_certificates_of_the_users_own_may_have_the_brokers_name(fresh: Certificates) -> None:
    without = {p: e for p, e in installed(fresh).entries.items() if p != layout.AUTHORITY}
    found = prepare(replace(installed(fresh), entries=without))
    assert found == fresh._replace(authority=b"")


@pytest.mark.parametrize("missing", layout.CERTIFICATES)
def test_half_of_them_is_an_error(missing: str) -> None:
    there = [path for path in layout.CERTIFICATES if path != missing]
    with pytest.raises(ConfigError, match=f"no {missing}: put that there, or remove them"):
        certificates.prepare(own(HERE, *there), "home")


# --- openssl --------------------------------------------------------------------------------------


def test_without_openssl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PibotError, match="sudo apt install openssl"):
        prepare(HERE)


def test_when_openssl_fails_its_words_are_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    script = f'#!/bin/sh\nls -ld "$PWD" >{seen}\necho no randomness >&2\nexit 1\n'
    (tmp_path / "openssl").write_text(script)
    (tmp_path / "openssl").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with pytest.raises(PibotError, match="openssl says no randomness"):
        prepare(HERE)
    assert seen.read_text().startswith("drwx------")
    assert list((tmp_path / "tmp").iterdir()) == []
