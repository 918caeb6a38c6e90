"""What vouches for the broker, on the master's machine: its dates, and who can read the keys."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from typing import Iterator, List, Optional, Tuple

from pibot.deploy import layout
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.surroundings import Surroundings

OPENSSL = "/usr/bin/openssl"
SOON_DAYS = 30
DAY_S = 86_400
NAME = "certificates"
# Each key, the rights that nobody may have to it, and what sets them right.
KEYS = (
    (layout.CERTIFICATES[2], 0o007, f"chown root:{layout.BROKER}", "640"),
    (layout.AUTHORITY, 0o077, "chown root:root", "600"),
    (layout.UPDATE_KEY, 0o077, "chown root:root", "600"),
)


def certificates(here: Surroundings) -> Iterator[Finding]:
    """Nothing where there are none."""
    found = [*_open_keys(here), *dates(here)]
    yield from [one for one in found if one.fix] or found[:1]


def _open_keys(here: Surroundings) -> Iterator[Finding]:
    for path, forbidden, owner, mode in KEYS:
        try:
            status = here.at(path).stat()
        except OSError:
            continue
        if stat.S_IMODE(status.st_mode) & forbidden:
            fix = f"sudo {owner} {path} && sudo chmod {mode} {path}"
            yield fail(NAME, f"others can read {path}, or write it", fix)


def dates(here: Surroundings) -> Iterator[Finding]:
    """From when until when they are good, and whether they belong together."""
    ca, server, _ = layout.CERTIFICATES
    there = [path for path in (server, ca) if here.at(path).exists()]
    if not there:
        return
    renew = f"put new ones into {layout.BROKER_FOLDER}, then: sudo systemctl restart mosquitto"
    if here.at(layout.AUTHORITY).exists():
        renew = f"sudo rm {layout.BROKER_FOLDER}/server.crt && {here.setup('master')}"
    for path in there:
        dates = _read(here, path)
        if dates is None:
            yield warn(
                NAME, f"openssl cannot read {path}", f"openssl x509 -in {path} -noout -dates"
            )
        else:
            yield judge(path, dates, here.now(), renew)
    if len(there) == 2 and not _vouches(here, ca, server):
        yield fail(NAME, f"{ca} does not vouch for {server}: nobody trusts the broker", renew)


def _read(here: Surroundings, path: str) -> Optional[Tuple[float, float]]:
    """From when until when a certificate is good."""
    import ssl

    said = here.ask(OPENSSL, "x509", "-in", str(here.at(path)), "-noout", "-dates")
    rows = dict(line.partition("=")[::2] for line in said.out.splitlines()) if said else {}
    try:
        start, end = (ssl.cert_time_to_seconds(rows[key]) for key in ("notBefore", "notAfter"))
    except (KeyError, ValueError):
        return None
    return start, end


def _vouches(here: Surroundings, ca: str, server: str) -> bool:
    files: List[str] = ["-CAfile", str(here.at(ca)), str(here.at(server))]
    said = here.ask(OPENSSL, "verify", "-no_check_time", *files)
    return said is None or said.status == 0


def judge(path: str, dates: Tuple[float, float], now: float, renew: str) -> Finding:
    """A certificate by its dates."""
    start, end = dates
    days = int((end - now) // DAY_S)
    if now < start:
        said = f"{path} is good from {_day(start)}, and the clock says {_day(now)}"
        return fail(NAME, said, "sudo timedatectl set-ntp true")
    if now > end:
        return fail(NAME, f"{path} has expired on {_day(end)}: nobody trusts the broker", renew)
    if days < SOON_DAYS:
        return warn(NAME, f"{path} expires on {_day(end)}, in {days} days", renew)
    return ok(NAME, f"the broker's are good until {_day(end)}")


def _day(seconds: float) -> str:
    """Also where the system's own clock ends in 2038."""
    return f"{datetime(1970, 1, 1) + timedelta(seconds=seconds):%Y-%m-%d}"
