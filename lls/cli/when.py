"""Instants as people type them: ``2026-11-01``, ``2026-11-01T08:00Z``, or a while ago: ``90min``, ``24h``, ``7d``.

A date is its first instant in UTC; a time without a zone is UTC. Anything else is wrong usage.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import typer

HELP: Final = "2026-11-01, 2026-11-01T08:00Z, or a while ago: 90min, 24h, 7d."

_AGO: Final = re.compile(r"(\d{1,6})(min|h|d|w)")
_UNITS: Final = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def instant(text: str | None, option: str, *, now: datetime | None = None) -> str | None:
    """``text`` as the wire writes it. Raises :class:`typer.BadParameter` naming ``option``."""
    if text is None:
        return None
    try:
        at = _read(text.strip(), now or datetime.now(UTC))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; write {HELP}", param_hint=option) from None
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"


def _read(text: str, now: datetime) -> datetime:
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
