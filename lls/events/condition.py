"""Conditions, and the events that their changes make. Pure: instants are passed in.

A level says how bad it is within one key: higher is worse. A worse level is told anew, a better one is not: who heard
"all seats are taken" need not hear "most seats are taken". Nor is the worse one told again before the better one has
lasted: else whoever takes and returns the last seat would send a mail each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

Value: TypeAlias = str | int | None

RAISED: Final = "raised"
CLEARED: Final = "cleared"


class Severity(StrEnum):
    """How soon somebody should look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that holds now. ``text`` is a sentence with what to do; ``lasts``: gone for so long it is cleared.

    ``key`` tells it from others of its ``type``: an entitlement, a folder; empty where there can be one only.
    """

    type: str
    key: str = ""
    level: int = 1
    severity: Severity = Severity.WARNING
    text: str
    data: Mapping[str, Value] = field(default_factory=dict)
    lasts: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A condition that was told of: its level then, and since when it is not that bad any more (None: it is)."""

    type: str
    key: str
    level: int
    severity: Severity
    lasts: timedelta
    gone_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of a condition, or a test. ``state``: ``raised`` or ``cleared``."""

    event_id: str
    at: datetime
    type: str
    key: str
    state: str
    severity: Severity
    text: str
    data: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one look has changed: conditions to tell of, those that are over, and what to remember."""

    raised: tuple[Condition, ...]
    cleared: tuple[Standing, ...]
    standing: tuple[Standing, ...]


def compare(before: Iterable[Standing], now_hold: Iterable[Condition], *, now: datetime) -> Change:
    """What is news. Conditions of the same type and key count once, at the higher level."""
    known = {(one.type, one.key): one for one in before}
    holding: dict[tuple[str, str], Condition] = {}
    for condition in sorted(now_hold, key=lambda one: one.level):
        holding[condition.type, condition.key] = condition
    raised = [
        condition for place, condition in holding.items() if place not in known or condition.level > known[place].level
    ]
    standing = [_stays(known.get(place), condition, now) for place, condition in holding.items()]
    cleared = []
    for place, one in known.items():
        if place in holding:
            continue
        since = one.gone_since or now
        if now - since >= one.lasts:
            cleared.append(one)
        else:
            standing.append(_gone(one, since))
    return Change(raised=tuple(raised), cleared=tuple(cleared), standing=tuple(standing))


def _stays(one: Standing | None, condition: Condition, now: datetime) -> Standing:
    if one is None or condition.level >= one.level:
        return _standing(condition)
    since = one.gone_since or now
    return _standing(condition) if now - since >= one.lasts else _gone(one, since)


def _standing(condition: Condition) -> Standing:
    return Standing(
        type=condition.type,
        key=condition.key,
        level=condition.level,
        severity=condition.severity,
        lasts=condition.lasts,
    )


def _gone(one: Standing, since: datetime) -> Standing:
    return Standing(
        type=one.type, key=one.key, level=one.level, severity=one.severity, lasts=one.lasts, gone_since=since
    )
