"""Housekeeping by the clock: what is looked at once in a while. Never leases: those are the ledger's.

One list of jobs, run by APScheduler in the daemon's loop; what blocks goes into a thread by itself. A job that fails is
logged by its own name and runs again at its next time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lls.airgap import Airgap
from lls.faults import Fault
from lls.writer import Writer

WARN_BEFORE_DAYS: Final = (30, 7, 1)

_log = logging.getLogger(__name__)


def scheduled(writer: Writer, airgap: Airgap) -> AsyncIOScheduler:
    """The scheduler with its jobs, not yet started; each runs at the start too."""
    endings = Endings()
    jobs: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
        ("warn_of_endings", 1, partial(endings.warn, writer)),
        ("warn_of_silence", 12, partial(warn_of_silence, writer, airgap)),
        ("look_at_host", 1, partial(look_at_host, writer, airgap)),
    ]
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # its own doings are no facts for an administrator
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, hours, job in jobs:
        scheduler.add_job(
            partial(_run, name, job),
            "interval",
            hours=hours,
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )
    return scheduler


async def _run(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """A coroutine function, so that APScheduler runs it in the loop: from a thread the ledger must not even be read."""
    try:
        await job()
    except Fault as fault:
        _log.warning("job_failed", extra={"fields": {"job": name, "code": fault.code, "why": fault.detail}})


class Endings:
    """Entitlements that end within 30, 7 and 1 days, in the log: each step once, and again after a restart."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[datetime, int]] = {}

    async def warn(self, writer: Writer) -> None:
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


async def warn_of_silence(writer: Writer, airgap: Airgap) -> None:
    """The vendor wants a report soon, or has waited for one too long."""
    ledger, now = writer.ledger, writer.now().wall
    due = None if ledger.server.terms is None else ledger.server.terms.sync_due_at(ledger.server.sync_from)
    if due is not None and due - now <= timedelta(days=WARN_BEFORE_DAYS[0]):
        fields = {"server_id": airgap.identity.server_id, "days_left": (due - now).days}
        _log.warning("report_due", extra={"fields": fields})


async def look_at_host(writer: Writer, airgap: Airgap) -> None:
    """Is this still the machine that was licensed? Once the grace is over nothing new is granted."""
    await airgap.look_at_host()
    server = writer.ledger.server
    if server.unbound_since is not None:
        changed = ",".join(server.changed_parts)
        fields = {"since": server.unbound_since, "ends_at": server.unbound_ends_at, "changed": changed}
        _log.warning("unbound", extra={"fields": fields})
