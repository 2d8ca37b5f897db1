"""What an examination finds: a check's name, how it stands, what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """How a check came out. Only ``fail`` makes the whole examination fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the examination. ``advice`` is there for whatever is not ok, and names commands that exist."""

    check: str
    state: State
    said: str
    advice: str = ""


def good(check: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, state=State.OK, said=said)


def doubtful(check: str, said: str, advice: str) -> Finding:
    """The server works; somebody should look before it does not."""
    return Finding(check=check, state=State.WARN, said=said, advice=advice)


def wrong(check: str, said: str, advice: str) -> Finding:
    """Seats are refused now, or something that was promised does not hold."""
    return Finding(check=check, state=State.FAIL, said=said, advice=advice)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything must be mended."""
    return any(one.state is State.FAIL for one in findings)


def days_until(at: datetime, now: datetime) -> int:
    """Whole days from ``now`` to ``at``; negative when it has passed."""
    return (at - now) // _DAY


_DAY: Final = timedelta(days=1)
