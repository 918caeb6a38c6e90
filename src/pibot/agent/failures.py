"""What goes wrong at a model endpoint, in words for a person: what, and what to do about it.

Nothing here ever holds the key: not the message, not the attributes.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any, Mapping, Optional
from urllib.parse import urlsplit

from pibot.agent.text import short
from pibot.config import ModelSettings
from pibot.errors import ModelError, PibotError

WORDS_CHARS = 300
_OVERFLOW = re.compile(
    r"context.{0,3}(length|size|window)|exceed_context|too many (input )?tokens|prompt is too long"
    r"|input is too long|maximum.{0,20}tokens",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"insufficient.?(quota|balance)|exceeded your current quota|overdue", re.I)
_BUSY = (408, 409, 425, 429)
# By name: the library's HTTP client is httpx or httpx2, depending on the Python version.
_NETWORK_ERRORS = {"APIConnectionError", "RequestError", "OSError"}
_OUR_ERRORS = {"LocalProtocolError", "UnsupportedProtocol"}


class EndpointError(ModelError):
    """The endpoint refused or failed.

    `status` is the HTTP status (None: the connection failed), `retry_after_s` what the endpoint
    asked for, `overflow` whether the conversation was too long for the model.
    """

    def __init__(
        self,
        message: str,
        *,
        status: Optional[int] = None,
        retryable: bool = False,
        retry_after_s: Optional[float] = None,
        overflow: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.status = status
        self.retry_after_s = retry_after_s
        self.overflow = overflow


def explain(error: Exception, settings: ModelSettings) -> EndpointError:
    """Any failure of a call as one sentence that says what to do; never holds the key."""
    if isinstance(error, EndpointError):
        return error
    if isinstance(error, PibotError):  # the call did not even begin: the client is not there
        return EndpointError(str(error))
    if isinstance(error, ImportError):
        return EndpointError(f"The model client of this installation cannot be loaded ({error}).")
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        headers = error.response.headers  # type: ignore[attr-defined]
        body = getattr(error, "body", None) or str(error)
        return refusal(status, body, settings, _retry_after(headers))
    causes = (error, error.__cause__ or error)
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if kinds & _OUR_ERRORS or not kinds & _NETWORK_ERRORS:
        # Words of unknown origin may quote the header that holds the key: leave them out.
        return EndpointError(
            f"The request to the model endpoint could not be made ({type(error).__name__});"
            " check VOLC_API_KEY, VOLC_BASE_URL and MODEL_NAME."
        )
    if "APITimeoutError" in kinds or "TimeoutException" in kinds:
        return EndpointError("The model endpoint was silent for too long.", retryable=True)
    words = _harmless(str(error.__cause__ or error), settings.api_key)
    return EndpointError(
        f"The connection to the model endpoint {_host(settings.base_url)} failed ({words});"
        " check VOLC_BASE_URL or OPENAI_BASE_URL and the network.",
        retryable=True,
    )


def stream_error(body: Any, settings: ModelSettings) -> EndpointError:
    """An error that came inside a stream; most of those are passing troubles."""
    code = body.get("code") if isinstance(body, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    error_type = str(body.get("type")) if isinstance(body, dict) else ""
    if status == 500 and "invalid" in error_type:
        status = 400
    return refusal(status, body, settings, None)


def refusal(
    status: int, body: Any, settings: ModelSettings, retry_after_s: Optional[float]
) -> EndpointError:
    """What an HTTP error status means, in the endpoint's words and with a hint."""
    words = _words(body)
    whole = str(body)  # with the codes beside the words
    overflow = status in (400, 413, 422, 500) and bool(_OVERFLOW.search(whole))
    broke = bool(_QUOTA.search(whole))
    said = f"({status}: {_harmless(words, settings.api_key)})"
    retryable = (status >= 500 or status in _BUSY) and not overflow and not broke
    return EndpointError(
        _meaning(status, words, said, settings.model, overflow, broke),
        status=status,
        retryable=retryable,
        retry_after_s=retry_after_s,
        overflow=overflow,
    )


def _meaning(status: int, words: str, said: str, model: str, overflow: bool, broke: bool) -> str:
    if overflow:
        return f"The conversation is longer than the model's context window {said}."
    if broke:
        return f"The model endpoint's account has no credit or quota left {said}."
    if status in (401, 403):
        return f"The model endpoint refused the key {said}; check VOLC_API_KEY or OPENAI_API_KEY."
    if status in (400, 404) and "model" in words.lower():
        return f"The model endpoint refused the model {model!r} {said}; check MODEL_NAME."
    if status == 404:
        return (
            f"The model endpoint has no chat completions at this address {said};"
            " check VOLC_BASE_URL or OPENAI_BASE_URL."
        )
    if 300 <= status < 400:
        return (
            f"The model endpoint redirects elsewhere, where the key must not go ({status});"
            " set VOLC_BASE_URL or OPENAI_BASE_URL to its final address."
        )
    if status == 429:
        return f"The model endpoint is limiting the rate of calls {said}."
    if status >= 500 or status in _BUSY:
        return f"The model endpoint failed {said}."
    return f"The model endpoint refused the request {said}."


def _harmless(text: str, api_key: str) -> str:
    """The endpoint's words for an error message: one line, cut, and without the key."""
    if len(api_key) > 3:
        text = text.replace(api_key, "[key]")
    return short(text, WORDS_CHARS)


def _words(body: Any) -> str:
    """The message in an error body, whichever of the usual shapes it has."""
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = body.get("error") or body.get("message") or body.get("detail") or str(body)
    return "" if body is None else str(body)


def _host(base_url: str) -> str:
    return urlsplit(base_url).hostname or "(no host)"


def _retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds that a Retry-After header asks for.

    A date is compared with the endpoint's own Date: this machine's clock may be wrong.
    """
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        wanted, now = (parsedate_to_datetime(v) for v in (value, headers.get("date", "")))
        return max(0.0, (wanted - now).total_seconds())
    except (TypeError, ValueError, IndexError):
        return None
