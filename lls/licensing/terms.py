"""What a verified bundle says, as the ledger takes it: pure values, without signatures.

``signed`` verifies and ``airgap`` hands these over; the ledger trusts them and judges only what needs its own state:
sequences, sessions, commands, receipts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lls.licensing.changes import KeptBundle
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import Now
from lls.licensing.journal import Entry, Head

CLOCK_RESET: Final = "clock_reset"
"""The command that replaces a wrong high-water mark by the bundle's issue time."""
RESET_USAGE: Final = "reset_usage"
"""The command by which counted features begin anew: the lots in force, at nothing used."""


CHAIN_ADOPT: Final = "chain_adopt"
"""The command by which a server that was restored from a backup goes on: from which line, and with which counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMeter:
    """What the vendor knows to be used of a feature: ``(lot, units used, whether it has ended)``."""

    entitlement_id: str
    feature: str
    lots: tuple[tuple[str, int, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Where a restored server goes on: behind ``onto``, the last line that the vendor has of it (decision 0021).

    It answers one restore only. ``keep_seq`` is the end of the backup up to which both have the same lines, where the
    vendor has others behind it; None: as far as the vendor knows, all that he has is in the backup. ``meters`` are the
    counters as of ``onto``; ``closed_sessions`` are over for the vendor, whatever the backup says.
    """

    restore_id: str
    onto: Head
    keep_seq: int | None
    bundle_sequence: int
    meters: tuple[KnownMeter, ...]
    closed_sessions: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The journal's lines after ``Adoption.keep_seq`` and up to ``upto``, chained anew behind ``Adoption.onto``."""

    upto: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """A vendor's receipt: everything up to this line was taken in."""

    receipt_id: str
    report_id: str
    up_to_seq: int
    head: str
    made_at: datetime


class License(StrEnum):
    """Whether this server may grant new leases at all."""

    UNLICENSED = "unlicensed"
    ACTIVE = "active"
    EXPIRED = "expired"
    REPORT_OVERDUE = "report_overdue"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBinding:
    """``required`` of these hashed components must still be the machine's; a changed one goes on for ``grace``.

    A component with several hashes (network ports) is still there while one of them is.
    """

    required: int
    components: Mapping[str, str]
    grace: timedelta

    def holds(self, host: Mapping[str, str]) -> bool:
        """Whether this machine is still the one that was licensed."""
        return len(self.components) - len(self.changed(host)) >= self.required

    def changed(self, host: Mapping[str, str]) -> list[str]:
        """The names of the components that are not the enrolled ones any more."""
        return [
            name
            for name, value in self.components.items()
            if not set(value.split()).intersection(host.get(name, "").split())
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTerms:
    """What the newest bundle says of this server itself."""

    bundle_id: str
    certificate: str = field(repr=False)
    certificate_ends_at: datetime
    products: frozenset[str]
    license_ends_at: datetime | None
    sync_within: timedelta | None
    customer_id: str
    customer_name: str
    account_ref: str
    binding: HostBinding | None = None
    ends_at: datetime = field(init=False, compare=False, repr=False)
    """The instant from which nothing new is granted: the earlier end. Asked for by every checkout."""

    def __post_init__(self) -> None:
        """Reckon the end."""
        own = self.license_ends_at
        ends_at = self.certificate_ends_at if own is None else min(own, self.certificate_ends_at)
        object.__setattr__(self, "ends_at", ends_at)

    def license(self, now: Now, *, sync_from: datetime | None) -> License:
        """Judged by the strict time: it refuses new leases only."""
        if now.strict >= self.ends_at:
            return License.EXPIRED
        due = self.sync_due_at(sync_from)
        return License.REPORT_OVERDUE if due is not None and now.strict >= due else License.ACTIVE

    def sync_due_at(self, sync_from: datetime | None) -> datetime | None:
        """When a report must have been acknowledged at the latest."""
        return None if self.sync_within is None or sync_from is None else sync_from + self.sync_within


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the vendor orders once. ``feature`` None: every counted feature of the entitlement. Both for RESET_USAGE."""

    type: str
    entitlement_id: str | None = None
    feature: str | None = None
    adoption: Adoption | None = None
    """For CHAIN_ADOPT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A verified bundle, ready to be judged against the ledger.

    ``known_head`` is the hash of our own line ``acknowledgement.up_to_seq``; None where we have no such line.
    ``usage_carry`` is the fold's state there, when the receipt acknowledges anything new.
    ``adopted_hash`` and ``adopted_carry`` are the same of the line behind which a ``chain_adopt`` goes on; ``moved``
    are our later lines behind it, where it is none of ours.
    """

    kept: KeptBundle
    terms: ServerTerms
    entitlements: tuple[Entitlement, ...]
    commands: Mapping[str, Command]
    key_sets: Mapping[int, str]
    acknowledgement: Acknowledgement | None
    known_head: str | None
    usage_carry: str | None
    adopted_hash: str | None = None
    adopted_carry: str | None = None
    moved: Moved | None = None


class Change(StrEnum):
    """What an import does to one entitlement."""

    NEW = "new"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One entitlement of a bundle and what becomes of it."""

    entitlement: Entitlement
    before: Entitlement | None
    change: Change
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an import changed, or would change."""

    steps: tuple[Step, ...]
    already_applied: bool = False
    commands: tuple[str, ...] = ()
    clock_reset_to: datetime | None = None
    """Guarded time may go back to this instant, because one of ``commands`` says so."""
    adoption: Adoption | None = None
    """One of ``commands``: this server goes on after its restore."""
    sequence: int = 0
    """The highest sequence seen, when this is applied."""
    acknowledged: Acknowledgement | None = None
    leases_ended: Mapping[str, int] = field(default_factory=dict)
    forked: bool = False
    warnings: tuple[str, ...] = ()
