"""How PiBot behaves towards strangers' servers: it reads their robots.txt and takes its time.

What is known of a site is kept for the life of the process, for all tasks, within bounds.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Optional, Tuple

from pibot.errors import SkillError
from pibot.skills import _robots
from pibot.skills._pace import Pace

if TYPE_CHECKING:
    from pibot.agent.tools import Context
    from pibot.skills._connect import Guard
    from pibot.skills._urls import Target
    from pibot.skills._web import Client

_EVERY_S = 1.0
_BURST = 5
_LONGEST_DELAY_S = 10.0  # whatever a site asks for
_KEPT_S = 6 * 3600.0  # RFC 9309: at most a day
_KEPT_AFTER_ERROR_S = 60.0
_MOST_SITES = 200
_ROBOTS_S = 10.0


class _Sites:
    """The rules of the sites that were asked last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Tuple[float, _robots.Rules]] = OrderedDict()

    def get(self, site: str, now: float) -> Optional[_robots.Rules]:
        with self._lock:
            until, rules = self._known.get(site, (0.0, None))
        return rules if now < until else None

    def put(self, site: str, rules: _robots.Rules, until: float) -> None:
        with self._lock:
            self._known[site] = until, rules
            self._known.move_to_end(site)
            if len(self._known) > _MOST_SITES:
                self._known.popitem(last=False)


_SITES = _Sites()
_PACE = Pace(_EVERY_S, _BURST)


def mind(target: Target, client: Client, ctx: Context, guard: Guard) -> None:
    """Wait until a stranger's server may be asked for `target`; SkillError if it may not be."""
    rules = _rules(target, client, ctx)
    if not rules.allows(target.path, guard.check):
        raise SkillError(
            f"{target} is not for programs: robots.txt of {target.netloc} says so; if the host is "
            f"yours, PIBOT_WEB_ALLOW={target.netloc} lets it be read all the same."
        )
    now = time.monotonic()
    delay_s = min(rules.delay_s, _LONGEST_DELAY_S)
    wait_s = _PACE.wait_s(target.host, now, ctx.deadline - now, delay_s)
    if wait_s > ctx.deadline - now:
        raise SkillError(
            f"{target.netloc} was asked too often: it can be asked again in {wait_s:.0f} s, which "
            "is more than this call has."
        )
    ctx.cancelled.wait(wait_s)
    guard.check()


def _rules(target: Target, client: Client, ctx: Context) -> _robots.Rules:
    site = f"{target.scheme}://{target.netloc}"
    now = time.monotonic()
    known = _SITES.get(site, now)
    if known is not None:
        return known
    found, kept_s = _asked(target, client, ctx)
    _SITES.put(site, found, now + kept_s)
    return found


def _asked(target: Target, client: Client, ctx: Context) -> Tuple[_robots.Rules, float]:
    """What robots.txt says, and for how long that holds.

    Without one (4xx) all may be fetched; a server in trouble (5xx) is left alone.
    """
    from pibot.skills import _body
    from pibot.skills._web import answered

    asking = replace(client, polite=False)
    within = replace(ctx, deadline=min(ctx.deadline, time.monotonic() + _ROBOTS_S))
    try:
        with answered(replace(target, path="/robots.txt"), asking, within) as answer:
            status = answer.response.status
            if 200 <= status < 300:
                body, _ = _body.read(answer, _robots.MOST_BYTES)
                return _robots.read(body), _KEPT_S
    except SkillError as error:
        raise SkillError(f"robots.txt has to be read first: {error}") from None
    if status >= 500:
        return _robots.NOTHING, _KEPT_AFTER_ERROR_S
    return _robots.Rules(), _KEPT_S
