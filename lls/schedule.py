"""Housekeeping by the clock: what is looked at once in a while. Never leases: those are the ledger's.

One list of jobs, run by APScheduler in the daemon's loop. A job that fails is logged by its own name and runs again at
its next time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from lls.airgap import Airgap
from lls.writer import Writer

WARN_BEFORE_DAYS: Final = (30, 7, 1)

_log = logging.getLogger(__name__)


def scheduled(writer: Writer, airgap: Airgap) -> AsyncIOScheduler:
    """The scheduler with its jobs, not yet started."""
    jobs: list[tuple[str, int, Callable[[], None]]] = [
        ("warn_of_endings", 12, lambda: warn_of_endings(writer)),
        ("warn_of_silence", 12, lambda: warn_of_silence(writer, airgap)),
        ("warn_of_unbound", 1, lambda: warn_of_unbound(writer)),
    ]
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # its own doings are no facts for an administrator
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, hours, job in jobs:
        scheduler.add_job(
            job, "interval", hours=hours, id=name, coalesce=True, max_instances=1, misfire_grace_time=None
        )
    return scheduler


def warn_of_endings(writer: Writer) -> None:
    """Entitlements that end within 30, 7 and 1 days, in the log."""
    now = writer.now().wall
    for pool in writer.ledger.pools.values():
        ends = pool.entitlement.expires_at
        if ends is None or ends - now > timedelta(days=WARN_BEFORE_DAYS[0]):
            continue
        fields = {"entitlement_id": pool.entitlement.entitlement_id, "product": pool.entitlement.product}
        _log.warning("entitlement_ends", extra={"fields": {**fields, "days_left": (ends - now).days}})


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
