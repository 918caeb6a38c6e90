"""An authority and its broker's certificate in one, as openssl makes them."""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path
from typing import List

NAMES = "subjectAltName=DNS:broker.pibot.internal,IP:127.0.0.1"


class Certificate:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file, self.key = folder / "server.crt", folder / "server.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-keyout", str(self.key), "-out", str(self.file), "-days", "2"]
            + ["-subj", "/CN=pibot-test", "-addext", NAMES],
            check=True,
            capture_output=True,
        )

    @property
    def inline(self) -> str:
        """As PIBOT_CA has it."""
        return base64.b64encode(ssl.PEM_cert_to_DER_cert(self.file.read_text("ascii"))).decode()

    def listener(self, port: int) -> List[str]:
        """Mosquitto's configuration."""
        return [f"listener {port} 127.0.0.1", f"certfile {self.file}", f"keyfile {self.key}"]

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.file))
        context.check_hostname = False
        return context

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context
