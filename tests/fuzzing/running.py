"""Feeds a decoder and keeps what went wrong: exceptions, slow payloads, memory kept."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List

from fuzzing.decoder import Decoder, Target
from fuzzing.mutations import Mutations

SLOW_S = 2.0  # of processor time, for one payload
MOST_FINDINGS = 5  # more would only say the same
# From the first half of the payloads to the second; in few payloads caches still fill.
MOST_BLOCKS = 0.1  # of Python's memory, a payload: what stays behind of each is at least one
MOST_RSS_KB = 8 * 1024.0
FULL = 50_000  # payloads
SHOWN_BYTES = 2_000


class TooSlow(BaseException):
    """A payload took too long; no `except Exception` on the way holds it up."""


@dataclass
class Report:
    name: str
    payloads: int = 0
    accepted: int = 0
    seconds: float = 0.0
    blocks: int = 0  # of Python's memory that stayed behind, from one half to the other
    rss_kb: float = 0.0  # the same of the process
    findings: List[str] = field(default_factory=list)


def run(decoder: Decoder, payloads: int, seed: int, folder: Path) -> Report:
    """Feed so many payloads to a fresh target."""
    report = Report(decoder.name)
    before = signal.signal(signal.SIGPROF, _too_slow)
    logging.disable(logging.ERROR)
    target = decoder.make(folder)
    try:
        series = Mutations(decoder.good, random.Random(f"{seed} {decoder.name}"))
        _feed(target, series, payloads // 2, report)
        blocks, rss_kb = _memory(target)
        _feed(target, series, payloads - payloads // 2, report)
        blocks_then, rss_then_kb = _memory(target)
        report.blocks, report.rss_kb = blocks_then - blocks, rss_then_kb - rss_kb
        _check(target, report)
    finally:
        target.close()
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGPROF, before)
    if payloads >= FULL and report.blocks > payloads / 2 * MOST_BLOCKS:
        report.findings.append(f"{report.blocks:,} blocks of memory stay behind")
    if payloads >= FULL and report.rss_kb > MOST_RSS_KB:
        report.findings.append(f"the process has grown by {report.rss_kb:,.0f} KB")
    return report


def _feed(target: Target, series: Mutations, count: int, report: Report) -> None:
    for _ in range(count):
        if len(report.findings) >= MOST_FINDINGS:
            return
        payload = series.next()
        report.payloads += 1
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, SLOW_S)
        try:
            report.accepted += bool(target.take(payload))
        except (Exception, TooSlow) as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            report.findings.append(_finding(error, payload, report.payloads))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        report.seconds += time.perf_counter() - began


def _check(target: Target, report: Report) -> None:
    try:
        target.still_works()
    except Exception as error:
        report.findings.append(_finding(error, b"", report.payloads))


def _finding(error: BaseException, payload: bytes, number: int) -> str:
    trace = traceback.format_exception(type(error), error, error.__traceback__, limit=-4)
    literal = repr(payload[:SHOWN_BYTES]) + ("…" if len(payload) > SHOWN_BYTES else "")
    return f"payload {number} ({len(payload)} bytes): {literal}\n{''.join(trace)}"


def _too_slow(*_: Any) -> None:
    raise TooSlow(f"a payload took more than {SLOW_S:g} s of processor time")


def _memory(target: Target) -> "tuple[int, float]":
    """Blocks that Python holds, and KB of the process."""
    target.rest()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return sys.getallocatedblocks(), pages * os.sysconf("SC_PAGESIZE") / 1024
