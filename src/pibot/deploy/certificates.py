"""The certificates of the broker here: an authority of the fleet's own, and what it vouches for.

They are made with the program openssl, in a private directory that is removed again; the plan puts
them in place. The authority vouches for nothing but this broker, under one name whatever its
address, and for all the time that a clock can show: a Pi without a battery begins in 1970.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence

from pibot import tls
from pibot.deploy import layout
from pibot.deploy.facts import Facts
from pibot.deploy.tree import FILE, NONE
from pibot.errors import ConfigError, PibotError

_BEGIN = b"-----BEGIN CERTIFICATE-----"
FROM, UNTIL = "19700101000000Z", "20991231235959Z"
OPENSSL_S = 60.0  # a Pi Zero is slow, and may have to wait for randomness
MAX_NAMES = 40
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,60}[A-Za-z0-9])?")
_CONFIG = """\
[req]
distinguished_name = nothing
[nothing]
[ca]
default_ca = here
[here]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
unique_subject = no
policy = any
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificates(NamedTuple):
    """Texts in PEM. `authority` is its key and its certificate, which only root ever has; b"" where
    the certificates are the user's own, but for the broker's name.
    """

    authority: bytes
    ca: bytes
    server: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        """The authority's certificate as everybody gets it."""
        return ssl.PEM_cert_to_DER_cert(self.ca.decode("ascii"))


def prepare(facts: Facts, fleet: str) -> Optional[Certificates]:
    """What is there, and what is missing made; None for the user's own with other names.

    Raises ConfigError if something is in the way, PibotError if openssl fails.
    """
    authority = kept_authority(facts)
    ca, server, key = (facts.entry(path).content for path in layout.CERTIFICATES)
    with tempfile.TemporaryDirectory(prefix="pibot-") as folder:
        bench = _Bench(Path(folder))
        if are_the_users(facts, authority):
            _check_all_are_there(facts)
            return Certificates(b"", ca, server, key) if bench.fit(ca, server, key) else None
        if not authority:
            authority = bench.authority(fleet)
        ca = authority[authority.index(_BEGIN) :]
        if not bench.fit(ca, server, key):
            server, key = bench.server(authority, _names(facts))
    return Certificates(authority, ca, server, key)


def kept_authority(facts: Facts) -> bytes:
    """The fleet's authority, also where --uninstall has left it; b"" if there is none."""
    for path in (layout.AUTHORITY, layout.AUTHORITY_KEPT):
        there = facts.entry(path)
        # In the state directory others may put files; what is root's own there, root has put there.
        is_roots = there.uid == 0 or not facts.may_give
        if there.kind == FILE and is_roots and _BEGIN in there.content:
            return there.content
    return b""


def are_the_users(facts: Facts, authority: bytes) -> bool:
    """Whether what lies where the broker's certificates belong is none of ours."""
    there = any(facts.entry(path).kind != NONE for path in layout.CERTIFICATES)
    ca = facts.entry(layout.CERTIFICATES[0])
    ours = authority and (ca.kind == NONE or authority.endswith(ca.content))
    return there and not ours


def _check_all_are_there(facts: Facts) -> None:
    missing = [path for path in layout.CERTIFICATES if facts.entry(path).kind == NONE]
    if missing:
        raise ConfigError(
            f"{layout.BROKER_FOLDER} has certificates of your own, but no {missing[0]}: put that "
            "there, or remove them, and setup makes its own"
        )


def _names(facts: Facts) -> List[str]:
    """By what the broker may be called: its own name, and this machine's names and addresses."""
    names = [tls.BROKER_NAME, "localhost"]
    if _NAME.fullmatch(facts.host):
        short = facts.host.partition(".")[0]
        names += [facts.host, f"{short}.local"]
    found = [f"DNS:{name}" for name in names]
    found += [f"IP:{address}" for address in ("127.0.0.1", "::1", *facts.addresses)]
    return list(dict.fromkeys(found))[:MAX_NAMES]


class _Bench:
    """A private directory in which openssl works."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def authority(self, fleet: str) -> bytes:
        self._prepare()
        self._request("ca", f"PiBot fleet {fleet}")
        self._sign("ca", "authority", "-selfsign", "-keyfile", "ca.key")
        return self._read("ca.key") + self._read("ca.crt")

    def server(self, authority: bytes, names: Sequence[str]) -> "tuple[bytes, bytes]":
        """A certificate for these names, and its key."""
        self._prepare(f"subjectAltName = {', '.join(names)}\n")
        self._write("authority.pem", authority)
        self._request("server", tls.BROKER_NAME)
        self._sign("server", "server", "-cert", "authority.pem", "-keyfile", "authority.pem")
        return self._read("server.crt"), self._read("server.key")

    def fit(self, ca: bytes, server: bytes, key: bytes) -> bool:
        """Whether whoever trusts `ca` would take a broker with these: a greeting in memory."""
        self._write("fit.pem", server + key)
        serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            serves.load_cert_chain(self._folder / "fit.pem")
            asks = tls.client_context(ssl.PEM_cert_to_DER_cert(ca.decode("ascii")), None)
            _greet(asks, serves)
        except (ssl.SSLError, ValueError):
            return False
        return True

    def _prepare(self, more: str = "") -> None:
        self._write("config", (_CONFIG + more).encode("ascii"))
        self._write("index", b"")

    def _request(self, name: str, subject: str) -> None:
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl("req", "-new", *kind, *files, "-subj", f"/CN={subject}")

    def _sign(self, name: str, extensions: str, *how: str) -> None:
        dates = ("-startdate", FROM, "-enddate", UNTIL)
        files = ("-in", f"{name}.csr", "-out", f"{name}.crt")
        self._openssl("ca", "-batch", "-notext", *how, *files, *dates, "-extensions", extensions)

    def _openssl(self, verb: str, *args: str) -> None:
        program = shutil.which("openssl")
        if program is None:
            raise PibotError(
                "the broker's certificates are made with openssl, which is not here: run `sudo apt "
                "install openssl`, and run setup again"
            )
        env = {"PATH": os.defpath, "HOME": str(self._folder), "OPENSSL_CONF": "config"}
        command = [program, verb, "-config", "config", *args]
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=OPENSSL_S,
            )
            said = done.stderr.decode("utf-8", "replace") if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if said:
            words = " ".join(said.split())[-300:]
            raise PibotError(f"the broker's certificates could not be made: openssl says {words}")

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.touch(0o600)
        path.write_bytes(content)

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()


def _greet(asks: ssl.SSLContext, serves: ssl.SSLContext) -> None:
    """A TLS greeting between the two, as over a wire; raise SSLError if it does not come about."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asks.wrap_bio(to_client, to_server, server_hostname=tls.BROKER_NAME)
    server = serves.wrap_bio(to_server, to_client, server_side=True)
    waiting: Iterator[ssl.SSLObject] = iter((client, server, client, server, client))
    for side in waiting:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    if client.version() is None or not client.getpeercert():
        raise ssl.SSLError("no greeting")
