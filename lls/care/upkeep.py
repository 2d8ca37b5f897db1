"""The upkeep of one running server: what the admin socket and the scheduler ask for, in one place.

The daemon builds it when the doors are about to open; until then nobody asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from lls.airgap import Airgap
from lls.care.doctor import examine_running
from lls.care.findings import Finding
from lls.config import Config
from lls.store import Store
from lls.writer import Writer


@dataclass(slots=True, kw_only=True)
class Care:
    """See the module."""

    config: Config
    airgap: Airgap
    writer: Writer
    store: Store
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
        )
