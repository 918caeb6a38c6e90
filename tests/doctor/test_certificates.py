"""The broker's certificates and the keys, as `doctor` sees them: real ones, read by openssl."""

from __future__ import annotations

import calendar
from typing import List, Tuple

import pytest

from deploy.made_up import FRESH
from pibot.deploy import certificates as maker
from pibot.deploy import layout
from pibot.deploy.certificates import Certificates
from pibot.doctor.certificates import OPENSSL, certificates
from pibot.doctor.findings import FAIL, OK, WARN
from recorded_machine import Machine

CA, SERVER, KEY = layout.CERTIFICATES


def moment(year: int, month: int = 1, day: int = 1) -> float:
    return float(calendar.timegm((year, month, day, 12, 0, 0)))


def put(machine: Machine, found: Certificates) -> None:
    machine.file(CA, found.ca.decode())
    machine.file(SERVER, found.server.decode())
    machine.file(KEY, found.key.decode(), 0o640)
    machine.script(OPENSSL, f'exec {OPENSSL} "$@"')


@pytest.fixture(scope="module")
def made() -> Certificates:
    found = maker.prepare(FRESH, "home")
    assert found
    return found


@pytest.fixture
def ours(machine: Machine, made: Certificates) -> Machine:
    """A master's machine, as setup leaves it."""
    put(machine, made)
    machine.file(layout.AUTHORITY, made.authority.decode(), 0o600)
    return machine


def test_where_there_are_none_there_is_nothing_to_say(machine: Machine) -> None:
    assert machine.find(certificates) == []


def test_what_setup_makes_is_good_for_a_long_time(ours: Machine) -> None:
    (found,) = ours.find(certificates, now=lambda: moment(2026))
    assert (found.state, found.message) == (OK, "the broker's are good until 2099-12-31")


DATES: List[Tuple[float, str, str, str]] = [
    (moment(2026, 12, 20), WARN, "expires on 2027-01-01, in 11 days", "systemctl restart"),
    (moment(2027, 2, 1), FAIL, "has expired on 2027-01-01", "systemctl restart mosquitto"),
    (moment(1970, 2, 1), FAIL, "good from 2026-01-01, and the clock says 1970-02-01", "set-ntp"),
]


@pytest.mark.parametrize(("now", "state", "words", "fix"), DATES)
def test_dates(
    now: float, state: str, words: str, fix: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "FROM", "20260101000000Z")
    monkeypatch.setattr(maker, "UNTIL", "20270101000000Z")
    found = maker.prepare(FRESH, "home")
    assert found
    put(machine, found)
    first = machine.find(certificates, now=lambda: now)[0]
    assert first.state == state and words in first.message and fix in (first.fix or "")


KEYS = [(KEY, 0o644, "chmod 640"), (layout.AUTHORITY, 0o640, "chmod 600")]
KEYS += [(layout.UPDATE_KEY, 0o604, "chmod 600")]


@pytest.mark.parametrize(("path", "mode", "fix"), KEYS)
def test_a_key_that_others_can_read(path: str, mode: int, fix: str, ours: Machine) -> None:
    ours.file(path, "key", mode)
    (found,) = ours.find(certificates, now=lambda: moment(2026))
    assert found.state == FAIL and f"others can read {path}" in found.message
    assert found.fix and f"{fix} {path}" in found.fix


def test_an_authority_that_does_not_vouch_for_the_broker(ours: Machine) -> None:
    other = maker.prepare(FRESH, "home")
    assert other
    ours.file(CA, other.ca.decode())
    (found,) = ours.find(certificates, now=lambda: moment(2026))
    assert found.state == FAIL and f"{CA} does not vouch for {SERVER}" in found.message
    assert found.fix and "setup --role master" in found.fix


def test_a_file_that_is_no_certificate(ours: Machine) -> None:
    ours.file(SERVER, "what is this")
    found = ours.find(certificates, now=lambda: moment(2026))
    assert found[0].state == WARN and f"openssl cannot read {SERVER}" in found[0].message
