"""What goes in and what comes out: the order for a seat, the lease as the server shows it, and the events.

Rules
1. Unknown members, codes and states are accepted and ignored: servers are updated later or earlier than applications.
2. A member that is needed and missing makes the answer no answer (``Unreachable``), never a ``KeyError`` in a
   caller's face.
3. Secrets are left out of every ``repr``.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from .errors import Unreachable
from .trust import Capability

_LONGEST_INTERVAL = 1e9


class EventKind(StrEnum):
    """What may happen to a seat while the application runs."""

    REFUSED = "refused"
    NETWORK = "network"
    UNTRUSTED = "untrusted"
    LEASE_ENDED = "lease_ended"
    TAKEN_BACK = "taken_back"
    SLEPT = "slept"
    CLONED = "cloned"
    REGAINED = "regained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a seat.

    ``held``: does the seat count as held now. ``ttl_left_seconds``: for how long the last proof would still have
    been good, which is the time a courteous application takes to save its work. ``regaining``: the library goes on
    trying by itself. ``code`` and ``reason`` are the server's words (``lease_ended`` and ``expired``), or ours
    (``network``).
    """

    kind: EventKind
    detail: str
    held: bool
    regaining: bool
    ttl_left_seconds: float
    lease_id: str
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who sits there. ``seat_id`` names the machine: equal at each start, different on each machine."""

    seat_id: str
    seat_name: str | None = None
    user: str | None = None
    host: str | None = None
    process: str | None = None

    @classmethod
    def this_process(cls) -> Holder:
        """The machine, user and process that this runs in."""
        host = socket.gethostname()[:100]
        return cls(
            seat_id=machine_fingerprint(), seat_name=host, user=_user_name(), host=host, process=str(os.getpid())
        )

    def as_json(self) -> dict[str, object]:
        """The wire form; what is unknown is left out."""
        members = {"seat_id": self.seat_id, "seat_name": self.seat_name, "user": self.user, "host": self.host}
        return {name: value for name, value in {**members, "process": self.process}.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for at checkout. The content stays the same for every repetition of one lease id (contract §2)."""

    product: str
    holder: Holder
    activation_code: str | None = field(default=None, repr=False)
    seats: int = 1
    features: Mapping[str, int] = field(default_factory=dict)
    edition: str | None = None
    version: str | None = None
    released_on: str | None = None

    def as_json(self) -> dict[str, object]:
        """The wire form; the optional is left out."""
        body: dict[str, object] = {"product": self.product, "holder": self.holder.as_json(), "seats": self.seats}
        optional = {
            "activation_code": self.activation_code,
            "features": dict(self.features) or None,
            "edition": self.edition,
            "version": self.version,
            "released_on": self.released_on,
        }
        return body | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature of the entitlement as this lease sees it; a number is ``None`` where the server names none.

    ``type``: ``bool``, ``element_pool``, ``usage_count``, ``credit``. ``held``: units in this lease. ``available``:
    what may still be taken, overdraft included (``None``: without a limit). ``total``: units that were bought and are
    in force; ``consumed`` and, of these, ``overage`` (beyond ``total``). ``ends_at``: when the next units lapse.
    ``unit`` is the vendor's word (“frame”); a credit counts minor units of ``currency`` (ISO 4217).
    """

    key: str
    type: str
    value: int | None = None
    unit: str | None = None
    currency: str | None = None
    held: int | None = None
    available: int | None = None
    total: int | None = None
    consumed: int | None = None
    overage: int | None = None
    ends_at: datetime | None = None
    raw: Mapping[str, object] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, value: object) -> Feature:
        """Read from the wire; ``Unreachable`` when it is not of the form."""
        members = _members(value)
        return cls(
            key=_word(members, "key"),
            type=_word(members, "type"),
            value=_count(members.get("value")),
            unit=_optional_word(members.get("unit")),
            currency=_optional_word(members.get("currency")),
            held=_count(members.get("held")),
            available=_count(members.get("available")),
            total=_count(members.get("total")),
            consumed=_count(members.get("consumed")),
            overage=_count(members.get("overage")),
            ends_at=read_instant(members.get("ends_at")),
            raw=members,
        )

    def as_json(self) -> dict[str, object]:
        """What :meth:`from_json` reads."""
        return {
            "key": self.key,
            "type": self.type,
            "value": self.value,
            "unit": self.unit,
            "currency": self.currency,
            "held": self.held,
            "available": self.available,
            "total": self.total,
            "consumed": self.consumed,
            "overage": self.overage,
            "ends_at": _instant_text(self.ends_at),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What stands behind the lease, for a “your licence ends in 12 days” in the application.

    ``expires_in_days`` is told only when the end is near (30 days).
    """

    status: str
    expires_at: datetime | None
    grace_expires_at: datetime | None
    maintenance_expires_on: str | None
    expires_in_days: int | None = None

    def as_json(self) -> dict[str, object]:
        """The wire form."""
        return {
            "status": self.status,
            "expires_at": _instant_text(self.expires_at),
            "grace_expires_at": _instant_text(self.grace_expires_at),
            "maintenance_expires_on": self.maintenance_expires_on,
            "expires_in_days": self.expires_in_days,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The lease as the server last showed it. ``raw`` is the whole object, members of newer servers included.

    ``idle_return_seconds``: the site asks that a seat be given back when nobody has worked for so long; a hint.
    """

    lease_id: str
    product: str
    mode: str
    state: str
    entitlement_id: str
    edition: str | None
    seats: int
    overdraft: bool
    expires_at: datetime | None
    heartbeat_seconds: float
    features: Mapping[str, Feature]
    attributes: Mapping[str, object]
    entitlement: Entitlement
    idle_return_seconds: int | None = None
    raw: Mapping[str, object] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, value: object) -> Lease:
        """Read from the wire; ``Unreachable`` when it is not of the form."""
        members = _members(value)
        features = members.get("features")
        behind = members.get("entitlement")
        return cls(
            lease_id=_word(members, "lease_id").lower(),
            product=_word(members, "product"),
            mode=_word(members, "mode"),
            state=_word(members, "state"),
            entitlement_id=_word(members, "entitlement_id"),
            edition=_optional_word(members.get("edition")),
            seats=_count(members.get("seats")) or 1,
            overdraft=members.get("overdraft") is True,
            expires_at=read_instant(members.get("expires_at")),
            heartbeat_seconds=heartbeat_seconds(members),
            features={f.key: f for f in map(Feature.from_json, features if isinstance(features, list) else [])},
            attributes=_members(members.get("attributes") or {}),
            entitlement=_entitlement(behind if isinstance(behind, dict) else {}),
            idle_return_seconds=_count(members.get("idle_return_seconds")),
            raw=members,
        )

    def as_json(self) -> dict[str, object]:
        """What :meth:`from_json` reads, and nothing else of what a server or a file said; attributes left out.

        For keeping: a borrowed lease's attributes are read from its capability.
        """
        return {
            "lease_id": self.lease_id,
            "product": self.product,
            "mode": self.mode,
            "state": self.state,
            "entitlement_id": self.entitlement_id,
            "edition": self.edition,
            "seats": self.seats,
            "overdraft": self.overdraft,
            "expires_at": _instant_text(self.expires_at),
            "heartbeat_seconds": self.heartbeat_seconds,
            "features": [one.as_json() for one in self.features.values()],
            "entitlement": self.entitlement.as_json(),
            "idle_return_seconds": self.idle_return_seconds,
        }

    def with_feature(self, feature: Feature) -> Lease:
        """The same lease with one feature's newer figures."""
        return replace(self, features={**self.features, feature.key: feature})


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One line of ``GET /v1/products``; ``seats`` and ``available`` are ``None`` when unlimited or not shown."""

    key: str
    name: str
    seats: int | None
    in_use: int | None
    available: int | None
    raw: Mapping[str, object] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, value: object) -> Product:
        """Read from the wire; ``Unreachable`` when it is not of the form."""
        members = _members(value)
        key = members.get("product", members.get("key"))
        if not isinstance(key, str):
            raise Unreachable("The list of products is malformed.")
        return cls(
            key=key,
            name=_optional_word(members.get("name")) or key,
            seats=_count(members.get("seats")),
            in_use=_count(members.get("in_use")),
            available=_count(members.get("available")),
            raw=members,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A verified answer to a checkout or a heartbeat. A heartbeat's answer shows no lease."""

    capability: Capability
    heartbeat_seconds: float
    lease: Lease | None = None


def heartbeat_seconds(members: Mapping[str, object]) -> float:
    """The interval that the server chose, in seconds; never below a tenth, so that a zero is no busy loop."""
    value = members.get("heartbeat_seconds")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LONGEST_INTERVAL:
        raise Unreachable("The answer names no heartbeat interval.")
    return max(0.1, float(value))


def read_instant(value: object) -> datetime | None:
    """An aware instant of the wire (RFC 3339), or ``None``."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise Unreachable("The answer carries a malformed instant.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _instant_text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def machine_fingerprint() -> str:
    """32 hex characters that name this machine: a salted hash, so that its own id stays at home (machine-id(5))."""
    return hashlib.sha256(b"lls seat\0" + _machine_id().encode("utf-8")).hexdigest()[:32]


def _machine_id() -> str:
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if path.is_file() and (text := path.read_text("ascii", errors="replace").strip()):
            return text
    if sys.platform == "win32":
        import winreg  # noqa: PLC0415  (exists on Windows only)

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as key:
            return str(winreg.QueryValueEx(key, "MachineGuid")[0])
    # getnode() makes a random number up where it finds no network card, and says so by the multicast bit (RFC 9562
    # §6.10).
    node = uuid.getnode()
    return platform.node() if node >> 40 & 1 else f"{node:012x}"


def _user_name() -> str | None:
    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):
        # Containers run under user ids that have no name; a seat without a user's name is still a seat.
        return None


def _entitlement(members: Mapping[str, object]) -> Entitlement:
    return Entitlement(
        status=_optional_word(members.get("status")) or "",
        expires_at=read_instant(members.get("expires_at")),
        grace_expires_at=read_instant(members.get("grace_expires_at")),
        maintenance_expires_on=_optional_word(members.get("maintenance_expires_on")),
        expires_in_days=_count(members.get("expires_in_days")),
    )


def _members(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Unreachable("The answer is not of the form that a license server gives.")
    return value


def _word(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise Unreachable(f"The answer has no “{name}”.")
    return value


def _optional_word(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def products_from_json(value: object) -> Sequence[Product]:
    """The answer of ``GET /v1/products``."""
    listed = _members(value).get("products")
    if not isinstance(listed, list):
        raise Unreachable("The list of products is malformed.")
    return tuple(Product.from_json(item) for item in listed)
