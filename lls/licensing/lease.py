"""A lease: who holds which seats of which entitlement, until when.

Rules
1. A lease is authorised by a secret of the client's own making; only its SHA-256 is kept (contract §2).
2. Everything about a lease is fixed at its grant but three things that a heartbeat moves in place: its deadline, its
   last beat and that beat's nonce. They live in memory only, so a heartbeat never touches the disk (design §2).
3. A change of state or of held features makes a new object: what the store has not yet taken can be told from what it
   has.
4. A borrowed lease has no deadline; it ends at ``until`` on guarded wall time, and its seat is not lent before.

``deadline`` is on boot-time (seconds), never on the wall clock; it includes the grace that is not advertised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

NOTHING_HELD: Final[Mapping[str, int]] = MappingProxyType({})


class LeaseState(StrEnum):
    """Where a lease is in its life."""

    ACTIVE = "active"
    LINGERING = "lingering"


class Mode(StrEnum):
    """What keeps a lease: heartbeats, a date, or its machine."""

    FLOATING = "floating"
    BORROWED = "borrowed"
    NODE_LOCKED = "node_locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who asks for a seat, in the client's own words. Only ``seat_id`` (the machine's fingerprint) is required."""

    seat_id: str
    seat_name: str | None = None
    user: str | None = None
    host: str | None = None
    process: str | None = None

    def named(self) -> dict[str, str]:
        """The fields that were given, in a fixed order."""
        values = {
            "seat_id": self.seat_id,
            "seat_name": self.seat_name,
            "user": self.user,
            "host": self.host,
            "process": self.process,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A wish for a lease. ``secret`` and ``content`` are digests; ``content`` covers all but nonce and secret."""

    lease_id: str
    secret: bytes = field(repr=False)
    content: bytes
    product: str
    holder: Holder
    nonce: str = field(repr=False)
    seats: int = 1
    activation_code: str | None = field(default=None, repr=False)
    features: tuple[tuple[str, int], ...] = ()
    edition: str | None = None
    version: str | None = None
    released_on: date | None = None
    address: str | None = None
    """Where the request came from, for the site's rules about networks; no part of ``content``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A borrowed lease as a capability of this server says it; ``key`` is the thumbprint of its machine's own key."""

    lease_id: str
    product: str
    entitlement_id: str
    seats: int
    seat_id: str
    features: Mapping[str, int]
    issued_at: datetime
    until: datetime
    key: str | None = None


@dataclass(slots=True, kw_only=True)
class Lease:
    """One granted lease; see the module for what may change."""

    lease_id: str
    secret: bytes = field(repr=False)
    content: bytes
    product: str
    entitlement_id: str
    holder: Holder
    seats: int
    ttl: int
    overdraft: bool
    granted_at: datetime
    state: LeaseState = LeaseState.ACTIVE
    mode: Mode = Mode.FLOATING
    features: Mapping[str, int] = field(default_factory=lambda: NOTHING_HELD)
    """Units held of element pools and tracked switches, never zero; freed with the lease."""
    until: datetime | None = None
    """The end of a borrowed lease, guarded wall time."""
    key: str | None = None
    """The thumbprint of the key that a machine without the network has made (``cnf.jkt``)."""
    address: str | None = None
    silent_since: datetime | None = None
    """Of a node-locked one that lingers: since when its machine is silent, guarded wall time."""
    deadline: float = 0.0
    beat: int | None = None
    nonce: str | None = field(default=None, repr=False)
    clone_alarms: int = 0
    armed: int = -1

    def facts(self) -> tuple[object, ...]:
        """All that the store knows of it: equal before and after a restart."""
        return (
            self.lease_id,
            self.secret,
            self.content,
            self.product,
            self.entitlement_id,
            self.holder,
            self.seats,
            self.ttl,
            self.overdraft,
            self.granted_at,
            self.state,
            self.mode,
            dict(self.features),
            self.until,
            self.key,
            self.address,
            self.silent_since,
        )
