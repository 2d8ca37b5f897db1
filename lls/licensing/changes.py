"""What one commit writes, and what a load reads: the border between the ledger and any store.

Rules
1. A ``Batch`` is everything that one group of verbs posted: the journal entries in their order and the *final* state of
   each row that they touched. A store writes it in one transaction or not at all.
2. ``Loaded`` is the same facts read back. ``Ledger.load`` of what a store loads equals the ledger that was committed,
   but for deadlines and beats (design §2).
3. Nothing here knows SQL or verbs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lls.faults import LeaseEnd
from lls.licensing.account import ApiKey, User
from lls.licensing.journal import Entry, Head
from lls.licensing.lease import Lease
from lls.licensing.retention import ArchivedRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A lease id that will never be granted again, kept so that a late retry gets the truth."""

    secret: bytes = field(repr=False)
    reason: LeaseEnd
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBundle:
    """An imported bundle as the vendor signed it; ``keys_version`` is the key set in force at its import."""

    bundle_id: str
    sequence: int
    keys_version: int
    issued_at: datetime
    imported_at: datetime
    digest: str
    jws: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Which bundle an entitlement's terms come from. The terms themselves are read from that bundle, verified.

    ``started_at`` is the first lease's instant where that starts the term; ``returning`` while it is being drained;
    ``assigned`` are the named users that the site has chosen, ``renamed_at`` when it changed its mind.
    """

    entitlement_id: str
    session_id: str
    sequence: int
    bundle_id: str
    started_at: datetime | None = None
    returning: bool = False
    assigned: tuple[str, ...] = ()
    renamed_at: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LotUse:
    """What was taken of one lot of a counted feature (a grant, a period's allowance, the overdraft)."""

    entitlement_id: str
    feature: str
    lot: str
    used: int
    ended: bool = False
    """Its remainder is lost and journalled; it never comes back, whatever the clock says."""


class FeatureAct(StrEnum):
    """What a lease may do with a feature."""

    CHECKOUT = "checkout"
    RETURN = "return"
    USE = "use"


REQUESTS_KEPT: Final = timedelta(hours=25)
"""How long an answered feature call is known, on guarded time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRequest:
    """A feature call that was answered, kept so that its repetition gets the same answer and takes nothing.

    ``draws`` are the units taken from each lot, ``held``/``available``/``total`` the answer; None is unlimited.
    ``seq`` is the journal's end when it was answered, of no two calls the same.
    ``strict`` is what strict time said where that was ahead of ``at``. ``kept_until`` is when the call is forgotten;
    None: after ``REQUESTS_KEPT``, like most.
    """

    seq: int
    lease_id: str
    request_id: str
    act: FeatureAct
    entitlement_id: str
    feature: str
    amount: int
    at: datetime
    held: int
    available: int | None
    total: int | None
    draws: tuple[tuple[str, int], ...] = ()
    undone: bool = False
    strict: datetime | None = None
    kept_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedEntitlement:
    """An entitlement that went back: all that its signed return says (contract §3), so that it can be made again.

    ``meters`` is the JSON text of the final meters; ``borrowed_until`` when the last borrowed seat ends.
    """

    entitlement_id: str
    session_id: str
    up_to_seq: int
    head: str
    meters: str
    borrowed_until: datetime | None
    made_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedReport:
    """A range of the journal that was made ready to leave."""

    report_id: str
    from_seq: int
    to_seq: int
    prev_head: str
    head: str
    made_at: datetime
    pseudonymised: bool


class Fact(StrEnum):
    """Single values of the store, each a text."""

    SEQUENCE_SEEN = "sequence_seen"
    TERMS_FROM = "terms_from"
    SYNC_FROM = "sync_from"
    ACKNOWLEDGED = "acknowledged"
    ACKNOWLEDGED_HEAD = "acknowledged_head"
    USAGE_CARRY = "usage_carry"
    CHAIN_FORKED = "chain_forked"
    CLOCK_STATE = "clock_state"
    UNBOUND_SINCE = "unbound_since"
    POLICY = "policy"
    """The text of the site policy in force; empty: none."""
    SERVER_ID = "server_id"
    RESTORING = "restoring"
    """Of a database that was put back from a backup and has not been started since: which restore it is, as JSON."""
    RESTORED = "restored"
    """The restores after which the vendor's word is still awaited, as JSON; empty: none."""
    LOST_TIMES = "lost_times"
    """Between the end of each backup that was put back and its first start, as JSON."""
    GAPS = "gaps"
    """The ranges of our own chain whose lines only the vendor has, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase:
    """The journal goes on from another head: the lines after ``keep`` go, and ``entries`` stand in their place.

    They are the same lines, numbered and chained behind that head (decision 0021); their ``data`` is left out. Reports
    and returns of lines after ``keep`` go with them.
    """

    keep: int
    entries: Sequence[Entry]


@dataclass(slots=True, kw_only=True)
class Batch:
    """What a group of verbs wants written. ``None`` as a row means that the row goes."""

    before: Head
    head: Head
    rebase: Rebase | None = None
    """Before ``entries``, which follow it."""
    entries: list[Entry] = field(default_factory=list)
    leases: dict[str, Lease | None] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    bundles: list[KeptBundle] = field(default_factory=list)
    placed: dict[str, Placed | None] = field(default_factory=dict)
    key_sets: dict[int, str] = field(default_factory=dict)
    closed_sessions: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    receipts: set[str] = field(default_factory=set)
    reports: list[SealedReport] = field(default_factory=list)
    facts: dict[Fact, str] = field(default_factory=dict)
    lots: dict[tuple[str, str, str], LotUse | None] = field(default_factory=dict)
    """By entitlement, feature and lot."""
    requests: dict[tuple[str, str], AnsweredRequest] = field(default_factory=dict)
    """By lease and request id."""
    returns: list[ReturnedEntitlement] = field(default_factory=list)
    archives: list[ArchivedRange] = field(default_factory=list)
    prune_upto: int | None = None
    """Lines up to this one are in an archive and go."""
    forget_names: set[str] = field(default_factory=set)
    """Commitments whose names go; before ``names`` come."""
    users: dict[str, User | None] = field(default_factory=dict)
    api_keys: dict[str, ApiKey | None] = field(default_factory=dict)
    forget_ended_before: datetime | None = None
    forget_requests_before: datetime | None = None
    """Requests that were kept until before this instant go."""
    stamp: bool = False
    """Write the clock's mark although nothing else changed."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing that the store would have to take."""
        pruned = self.prune_upto is not None or self.forget_names
        forgotten = self.forget_ended_before or self.forget_requests_before or pruned
        alone = self.facts or self.key_sets or self.requests or self.users  # rows that have no line of their own
        return not (self.entries or alone or forgotten or self.stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Everything a ledger is built from. ``leases`` have no deadline yet; ``ended`` is in the order of ``at``.

    ``bundles`` are all that were ever applied, so that none comes in twice; only those in force bring their text.
    """

    head: Head = field(default_factory=Head)
    leases: Sequence[Lease] = ()
    ended: Mapping[str, Ended] = field(default_factory=dict)
    bundles: Sequence[KeptBundle] = ()
    placed: Sequence[Placed] = ()
    key_sets: Mapping[int, str] = field(default_factory=dict)
    closed_sessions: frozenset[str] = frozenset()
    commands: frozenset[str] = frozenset()
    receipts: frozenset[str] = frozenset()
    reports: Sequence[SealedReport] = ()
    facts: Mapping[Fact, str] = field(default_factory=dict)
    lots: Sequence[LotUse] = ()
    requests: Sequence[AnsweredRequest] = ()
    """In the order of ``at``."""
    returns: Sequence[ReturnedEntitlement] = ()
    archives: Sequence[ArchivedRange] = ()
    """In their order."""
    users: Sequence[User] = ()
    api_keys: Sequence[ApiKey] = ()
    last_at: datetime | None = None
    last_line: bytes | None = None
