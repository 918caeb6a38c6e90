"""The examples of the web skills, against servers of this machine."""

from __future__ import annotations

from dataclasses import replace

from pibot.permits import Permits
from skills.stage import Prepared, Stage
from skills.web_server import Server, answer, html, serving


def _served(stage: Stage, permits: str, body: bytes) -> Server:
    """A server that answers the example's path, at an address of the same kind."""
    server = stage.closing.enter_context(serving())
    path = "/" + stage.args["url"].partition("://")[2].partition("/")[2]
    server.routes[path] = body
    stage.args["url"] = server.url + path
    allowed = Permits(**{permits: (server.url.partition("://")[2],)})
    stage.ctx = replace(stage.ctx, permits=allowed, share=lambda path: None)
    return server


def _page(stage: Stage) -> None:
    _served(stage, "web_allow", html("<title>Example</title><h1>Hello</h1><a href=/x>more</a>"))


def _file(stage: Stage) -> None:
    _served(stage, "web_allow", answer(b"%PDF-1.7", "Content-Type: application/pdf"))


def _api(stage: Stage) -> None:
    state = b'{"entity_id": "sun.sun", "state": "above_horizon"}'
    _served(stage, "hosts", answer(state, "Content-Type: application/json"))


def _ntfy(stage: Stage) -> None:
    server = stage.closing.enter_context(serving())
    server.routes["/topic"] = answer(b"{}")
    stage.ctx = replace(stage.ctx, permits=Permits(notify_url=f"{server.url}/topic"))


PREPARE: Prepared = {
    "web_fetch": _page,
    "web_download": _file,
    "http_request": _api,
    "notify": _ntfy,
}
