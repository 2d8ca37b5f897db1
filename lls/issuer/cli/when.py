"""Days and instants as people type them: ``2027-11-01`` is its first instant in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import typer


def instant_of(text: str, *, option: str) -> datetime:
    """A day, or an RFC 3339 instant; without a zone it is UTC. Anything else is wrong usage."""
    try:
        at = datetime.fromisoformat(text)
        return (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 2027-11-01 or 2027-11-01T08:00:00Z.", param_hint=option
        ) from None
