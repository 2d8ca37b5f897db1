"""The upkeep of one running server: what the admin socket and the scheduler ask for, in one place.

The daemon builds it when the doors are about to open; until then nobody asks.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from lls.airgap import Airgap
from lls.backup import Backups
from lls.care.disk import DiskWatch
from lls.care.doctor import examine_running
from lls.care.drop import DropFolder
from lls.care.findings import Finding
from lls.care.log import Logs
from lls.care.retention import Retention
from lls.care.support import Part, log_part, parts_of_ledger, pseudonyms_of, view_part
from lls.config import Config
from lls.events import Outbox
from lls.store import Store
from lls.writer import Writer


@dataclass(slots=True, kw_only=True)
class Care:
    """See the module."""

    config: Config
    airgap: Airgap
    writer: Writer
    store: Store
    logs: Logs
    retention: Retention
    disk: DiskWatch
    drop: DropFolder | None = None
    backups: Backups | None = None
    outbox: Outbox | None = None
    most_connections: int

    async def examine(self, *, full: bool) -> list[Finding]:
        """Every finding about this server; with ``full`` every line of its journal. Never raises."""
        return await examine_running(
            self.config,
            airgap=self.airgap,
            writer=self.writer,
            store=self.store,
            most_connections=self.most_connections,
            full=full,
            last_backup=None if self.backups is None else self.backups.last,
            outbox=self.outbox,
        )

    async def support(self, views: Mapping[str, tuple[str, object]]) -> list[Part]:
        """The parts of a support bundle that only the server can make. ``views``: name → (what it holds, value).

        Raises StoreDown.
        """
        ledger = await self.writer.settled()
        hide = await pseudonyms_of(ledger, self.store, self.config, key=secrets.token_bytes(32))
        parts = [await asyncio.to_thread(view_part, name, holds, value, hide) for name, (holds, value) in views.items()]
        parts += await parts_of_ledger(ledger, self.store, hide)
        whose = "in the memory of the server that runs"
        return [*parts, await asyncio.to_thread(log_part, self.logs.last, hide, whose=whose)]
