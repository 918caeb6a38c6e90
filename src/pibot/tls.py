"""TLS to the broker: whom to trust, and in plain words why a connection is not trusted.

A fleet's own authority signs nothing but its broker, for one name that is always the same. So the
name is checked whatever address the broker has today. With an authority of the user's own the
broker's certificate has to name MQTT_HOST.
"""

from __future__ import annotations

import ssl
import time
from typing import Any, Optional

BROKER_NAME = "broker.pibot.internal"
# What OpenSSL calls the reasons (X509_V_ERR_...).
_NOT_YET, _EXPIRED = 9, 10
_OTHER_NAMES = (62, 64)  # of a host, of an address


class _OneName(ssl.SSLContext):
    """Asks for the broker's name, whatever the caller calls the host."""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **{**kwargs, "server_hostname": BROKER_NAME})


def client_context(ca: Optional[bytes], ca_file: Optional[str]) -> ssl.SSLContext:
    """Trusts the fleet's authority (DER), or the one in a file; raises OSError if it cannot."""
    context = (_OneName if ca else ssl.SSLContext)(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca or ca_file:
        context.load_verify_locations(cafile=ca_file, cadata=ca)
    return context


def why_not(error: ssl.SSLError, where: str, ca_file: Optional[str]) -> str:
    """One sentence about a TLS connection that failed: what is wrong, and what to do."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker {where} does not speak TLS as it should ({error.reason or error}): is "
            "MQTT_PORT the port with TLS?"
        )
    today = time.strftime("%Y-%m-%d")
    if error.verify_code == _EXPIRED:
        return (
            f"the certificate of the broker {where} has expired, if this machine's clock is right "
            f"({today}): see `pibot.pyz doctor` on the master"
        )
    if error.verify_code == _NOT_YET:
        return (
            f"the certificate of the broker {where} is not valid yet: this machine's clock is "
            f"wrong ({today}); this is tried again until it is right"
        )
    if error.verify_code in _OTHER_NAMES:
        return _other_name(where, ca_file)
    return _other_authority(where, ca_file)


def _other_name(where: str, ca_file: Optional[str]) -> str:
    if ca_file:
        return (
            f"the certificate of the broker {where} is for another name: set MQTT_HOST to a name "
            "that stands in it"
        )
    return f"the broker {where} is not the broker of this fleet: is MQTT_HOST right?"


def _other_authority(where: str, ca_file: Optional[str]) -> str:
    if ca_file:
        return (
            f"the broker {where} cannot be trusted: {ca_file} (MQTT_CA_FILE) does not vouch for it"
        )
    return (
        f"the broker {where} cannot be trusted, as PIBOT_CA does not vouch for it: it is another "
        "fleet's, or the fleet has a new authority, and this machine needs a new file"
    )
