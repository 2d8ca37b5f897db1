"""Whether somebody would be told, and whether there is something to put back: backups and events, for examinations.

What is asked of files is answered alike with and without the server; that the last backup failed, and what nobody took
of the events, only the daemon knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from lls.backup import Last, newest_in
from lls.care.findings import Finding, doubtful, good, wrong
from lls.config import Backup

_LATE: Final = 2
"""A backup that is so many times older than one should be has failed more than once."""


def examine_backups(settings: Backup, *, server_id: str, last: Last | None = None, now: datetime) -> Iterator[Finding]:
    """The scheduled ones: the last good one, the last failure."""
    if not settings.folder:
        yield good("backups", "None is scheduled (backup.folder); `lls backup -o FILE` makes one.")
        return
    if last is not None and last.problem is not None:
        yield wrong("backups", f"The last one failed: {last.problem}", "Mend that; the next one is tried by the clock.")
    try:
        newest = newest_in(Path(settings.folder), server_id=server_id)
    except OSError as error:
        yield doubtful(
            "backups", f"{settings.folder} cannot be looked at: {error.strerror}.", "Run `lls doctor` as root."
        )
        return
    if newest is None:
        advice = "`lls backup -o FILE` makes one now; backup_failed in the log says what is wrong."
        yield doubtful("backups", f"There is none of this server in {settings.folder}.", advice)
        return
    said = f"The newest one in {settings.folder} is of {newest:%Y-%m-%d %H:%M:%SZ}."
    if now - newest > _LATE * timedelta(hours=settings.every_hours):
        yield doubtful(
            "backups", f"{said} One is due every {settings.every_hours} hours.", "Look for backup_failed in the log."
        )
    elif last is None or last.problem is None:
        yield good("backups", said)


def examine_events(counts: Mapping[str, int]) -> Finding:
    """``counts``: deliveries by state."""
    dead, waiting = counts.get("dead", 0), counts.get("waiting", 0)
    if dead:
        return doubtful(
            "events",
            f"{dead} deliveries were given up: nobody was told.",
            "`lls events list` says why; then `lls events retry` sends them again.",
        )
    return good("events", f"No delivery was given up; {waiting} are on their way.")
