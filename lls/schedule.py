"""Housekeeping by the clock: what is looked at once in a while. Never leases: those are the ledger's.

One list of jobs, run by APScheduler in the daemon's loop. A job that fails is logged by its own name and runs again at
its next time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lls.airgap import Airgap
from lls.backup import Backups
from lls.writer import Writer

WARN_BEFORE_DAYS: Final = (30, 7, 1)

_log = logging.getLogger(__name__)


def scheduled(writer: Writer, airgap: Airgap) -> AsyncIOScheduler:
    """The scheduler with its jobs, not yet started; each runs at the start too."""
    endings = Endings()
    jobs: list[tuple[str, int, Callable[[], None]]] = [
        ("warn_of_endings", 1, lambda: endings.warn(writer)),
        ("warn_of_silence", 12, lambda: warn_of_silence(writer, airgap)),
        ("warn_of_unbound", 1, lambda: warn_of_unbound(writer)),
    ]
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # its own doings are no facts for an administrator
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, hours, job in jobs:
        scheduler.add_job(
            job,
            "interval",
            hours=hours,
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )
    return scheduler


def schedule_backups(scheduler: AsyncIOScheduler, backups: Backups, *, every_hours: int) -> None:
    """Have backups made; the first one when the last one that is there is old enough."""
    every, last = timedelta(hours=every_hours), backups.newest_made_at()
    scheduler.add_job(
        backups.take_scheduled,
        "interval",
        hours=every_hours,
        id="backup",
        coalesce=True,
        max_instances=1,
        misfire_grace_time=None,
        next_run_time=max(datetime.now(UTC), last + every) if last is not None else datetime.now(UTC),
    )


class Endings:
    """Entitlements that end within 30, 7 and 1 days, in the log: each step once, and again after a restart."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[datetime, int]] = {}

    def warn(self, writer: Writer) -> None:
        """Log what has come closer."""
        now = writer.now().wall
        for pool in writer.ledger.pools.values():
            terms = pool.entitlement
            step = None if terms.expires_at is None else _step(terms.expires_at - now)
            if terms.expires_at is None or step is None:
                continue
            if self._told.get(terms.entitlement_id) == (terms.expires_at, step):
                continue
            self._told[terms.entitlement_id] = terms.expires_at, step
            fields = {"entitlement_id": terms.entitlement_id, "product": terms.product, "expires_at": terms.expires_at}
            days = (terms.expires_at - now).days
            _log.warning("entitlement_ends", extra={"fields": {**fields, "days_left": days}})


def _step(left: timedelta) -> int | None:
    """The nearest of the days at which a warning is due; 0 when it has ended."""
    if left <= timedelta(0):
        return 0
    return min((days for days in WARN_BEFORE_DAYS if left <= timedelta(days=days)), default=None)


def warn_of_silence(writer: Writer, airgap: Airgap) -> None:
    """The vendor wants a report soon, or has waited for one too long."""
    ledger, now = writer.ledger, writer.now().wall
    due = None if ledger.server.terms is None else ledger.server.terms.sync_due_at(ledger.server.sync_from)
    if due is not None and due - now <= timedelta(days=WARN_BEFORE_DAYS[0]):
        fields = {"server_id": airgap.identity.server_id, "days_left": (due - now).days}
        _log.warning("report_due", extra={"fields": fields})


def warn_of_unbound(writer: Writer) -> None:
    """This is not the machine that was licensed; once the grace is over nothing new is granted."""
    server = writer.ledger.server
    if server.unbound_since is not None:
        _log.warning("unbound", extra={"fields": {"since": server.unbound_since, "ends_at": server.unbound_ends_at}})
