"""The model endpoint: one tiny request, only when the user wants one."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Iterator, Tuple
from urllib.parse import urlsplit

from pibot.agent.failures import EndpointError, refusal
from pibot.agent.text import short
from pibot.config import ModelSettings
from pibot.doctor.findings import Finding, fail, ok, warn
from pibot.doctor.settings import Subject
from pibot.doctor.surroundings import Surroundings

ASK_S = 10.0
ANSWER_BYTES = 262_144


def model(here: Surroundings, subject: Subject) -> Iterator[Finding]:
    """What is configured; with --online, whether the endpoint takes key and model."""
    if subject.settings is None:
        return
    found = subject.settings.model
    if found is None:
        if subject.is_service:
            message = "no model is configured: only fixed sentences and skills by name work"
            yield warn("model", message, subject.edit())
        return
    name = f"{short(found.model, 60)} at {urlsplit(found.base_url).hostname}"
    if not here.online:
        yield ok("model", f"{name}; --online asks it")
        return
    try:
        ask(found)
    except EndpointError as error:
        yield fail("model", short(str(error), 400), subject.edit())
    else:
        yield ok("model", f"{name} answers")


def ask(settings: ModelSettings, limit_s: float = ASK_S) -> None:
    """One chat completion of one token; raise EndpointError, explained, when there is none."""
    try:
        status, body = _post(settings, limit_s)
    except ssl.SSLCertVerificationError as error:
        host = urlsplit(settings.base_url).hostname
        words = f"The certificate of {host} is not trusted: {short(error.verify_message, 100)};"
        raise EndpointError(f"{words} is the clock right, is ca-certificates there?") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        host = urlsplit(settings.base_url).hostname
        why = short(str(error), 100) or type(error).__name__
        raise EndpointError(
            f"The connection to the model endpoint {host} failed ({why});"
            " check VOLC_BASE_URL or OPENAI_BASE_URL and the network."
        ) from None
    if status != 200:
        # Some models count differently. Whoever says so has taken the key and knows the model.
        if status != 400 or "max_" not in str(body):
            raise refusal(status, body, settings, None)
    elif not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise EndpointError("The model endpoint sent something that is not a chat completion.")


def _post(settings: ModelSettings, limit_s: float) -> Tuple[int, Any]:
    url = urlsplit(settings.base_url)
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=limit_s)
    request = {
        "model": settings.model,
        "messages": [{"role": "user", "content": "ok?"}],
        "max_tokens": 1,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {settings.api_key}"}
    try:
        body = json.dumps(request).encode()
        connection.request("POST", f"{url.path}/chat/completions", body, headers)
        answer = connection.getresponse()
        data = answer.read(ANSWER_BYTES)
    finally:
        connection.close()
    try:
        return answer.status, json.loads(data)
    except (ValueError, RecursionError):
        return answer.status, data.decode("utf-8", "replace")
