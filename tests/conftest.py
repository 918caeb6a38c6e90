"""What all tests share: reports that can travel between processes."""

from __future__ import annotations

from typing import Any, Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> "Generator[None, pytest.TestReport, pytest.TestReport]":
    """A report goes to the process that prints it as UTF-8; hostile texts hold what has none."""
    report = yield
    report.sections = [(name, _printable(text)) for name, text in report.sections]
    if not isinstance(report.longrepr, (tuple, type(None))):
        found: Any = report.longrepr
        text = str(found)
        if text != _printable(text):
            report.longrepr = _printable(text)
    return report


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
