"""Housekeeping by the clock: what is looked at once in a while. Never leases: those are the ledger's.

One list of jobs, run by APScheduler in the daemon's loop; what blocks goes into a thread by itself. A job that fails is
logged by its own name and runs again at its next time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lls.airgap import Airgap
from lls.backup import Backups
from lls.care.upkeep import Care
from lls.faults import Fault
from lls.tls import Doors

_log = logging.getLogger(__name__)


def scheduled(airgap: Airgap, doors: Doors | None, care: Care | None = None) -> AsyncIOScheduler:
    """The scheduler with its jobs, not yet started; each runs at the start too, the upkeep's a while after it."""
    jobs: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
        ("look_at_host", 1, airgap.look_at_host),
    ]
    if doors is not None:
        jobs.append(("look_at_certificate", 1, partial(look_at_certificate, doors)))
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
    for name, job_seconds, after_seconds, upkeep in [] if care is None else _upkeep(care):
        scheduler.add_job(
            partial(_run, name, upkeep),
            "interval",
            seconds=job_seconds,
            id=name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC) + timedelta(seconds=after_seconds),
        )
    return scheduler


def _upkeep(care: Care) -> list[tuple[str, int, int, Callable[[], Awaitable[None]]]]:
    """Name, seconds between two turns, seconds before the first one, job."""
    jobs: list[tuple[str, int, int, Callable[[], Awaitable[None]]]]
    jobs = [("look_at_disk", 30, 0, care.disk.look), ("archive_journal", 86_400, 600, care.retention.daily)]
    return jobs if care.drop is None else [*jobs, ("look_into_drop_folder", 3, 0, care.drop.look)]


def schedule_backups(scheduler: AsyncIOScheduler, backups: Backups, *, every_hours: int) -> None:
    """Have backups made; the first one when the last one that is there is old enough."""
    every, last = timedelta(hours=every_hours), backups.newest_made_at()
    scheduler.add_job(
        partial(_run, "backup", backups.take_scheduled),
        "interval",
        hours=every_hours,
        id="backup",
        coalesce=True,
        max_instances=1,
        misfire_grace_time=None,
        next_run_time=max(datetime.now(UTC), last + every) if last is not None else datetime.now(UTC),
    )


async def look_at_certificate(doors: Doors) -> None:
    """Show the TLS certificate as it is on disk; a refused one is logged, and that of before is shown on."""
    try:
        changed = await asyncio.to_thread(doors.look)
    except Fault as fault:
        _log.error("tls_refused", extra={"fields": {"why": fault.detail}})
        return
    if changed:
        fields = {"ends_at": doors.ends_at, "spki_sha256": doors.spki_sha256[0]}
        _log.info("tls_changed", extra={"fields": fields})


async def _run(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """A coroutine function, so that APScheduler runs it in the loop: from a thread the ledger must not even be read."""
    try:
        await job()
    except asyncio.CancelledError:
        _log.debug("job_cancelled", extra={"fields": {"job": name}})  # the server stops; the next start does it
    except Fault as fault:
        _log.warning("job_failed", extra={"fields": {"job": name, "code": fault.code, "why": fault.detail}})
