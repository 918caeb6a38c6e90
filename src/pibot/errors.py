"""What can go wrong, who is to blame, and the exit status that says so.

PibotError                 the root: one sentence for a person, a code for a program
├── UsageError             the caller: a wrong command, argument or goal             exit 2
│   └── ConfigError        the caller: a setting, a file mode, a missing credential  exit 2
├── Unreachable            the surroundings: no broker or no master answered         exit 3
├── TimedOut               the deadline passed                                       exit 4
├── Refused                the master understood the request and declined it         exit 1
├── StoreError             this machine's store: disk full, locked, newer            exit 1
│   └── DamagedStore       its file is bad: a new one has to begin                   exit 1
├── ModelError             the model endpoint: wrong key, unknown model, no answer   exit 1
├── SkillError             a skill ran and failed; `data` may hold what it has       exit 1
└── BadMessage             the peer: bytes that the protocol does not allow          exit 1
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_TIMED_OUT = 4
EXIT_INTERRUPTED = 130


class PibotError(Exception):
    """An error that a person can act on: one sentence, what is wrong and what to do."""

    code = "error"
    exit_status = EXIT_FAILED


class UsageError(PibotError):
    code = "usage"
    exit_status = EXIT_USAGE


class ConfigError(UsageError):
    code = "config"


class Unreachable(PibotError):
    code = "unreachable"
    exit_status = EXIT_UNREACHABLE


class TimedOut(PibotError):
    code = "timed_out"
    exit_status = EXIT_TIMED_OUT


class Refused(PibotError):
    code = "refused"


class StoreError(PibotError):
    code = "store"


class DamagedStore(StoreError):
    """What stands in the file cannot be right; `mend()` of the journal begins a new one."""


class ModelError(PibotError):
    """The model endpoint failed; `retryable` says whether another try may help."""

    code = "model"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class SkillError(PibotError):
    """A skill failed; `data` is what it can still report (an exit status, partial output)."""

    code = "skill"

    def __init__(self, message: str, data: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        self.data = dict(data or {})


class BadMessage(PibotError):
    code = "bad_message"
