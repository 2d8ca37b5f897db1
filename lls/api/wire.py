"""What applications send and receive: every body of the public API as a type, judged while it is decoded.

Rules
1. Strict JSON (RFC 8259) in UTF-8: no unknown field, no name twice, no NaN, integers within their range. A refusal
   names the place, never the value.
2. Constraints stand on the types, so the OpenAPI document says them too.
3. A field that is null counts as left out, so a client may send either.
4. ``content`` is the SHA-256 of what was meant: the decoded values without the nonce, in a fixed order. Spelling (white
   space, order, upper-case UUIDs, defaults written out) makes no other checkout.

It refuses to own what is granted (``licensing``) and signatures.
"""

from __future__ import annotations

import hashlib
import json
from binascii import a2b_base64
from datetime import date, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from lls.faults import BadRequest, RefusedDocument
from lls.licensing.entitlement import MOST_UNITS, normalise_code
from lls.licensing.fields import read_instant
from lls.licensing.lease import Checkout, Holder

T = TypeVar("T")

MOST_SEATS: Final = 1_000_000
MOST_FEATURES: Final = 100
MOST_BEATS: Final = 500
LARGEST: Final = 2**53 - 1

# `$` alone would let a line break in at the end; the look-ahead is the same in Python and ECMAScript.
Uuid = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$(?!\n)",
        extra_json_schema={"format": "uuid"},
    ),
]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,50}$(?!\n)")]
Nonce = Annotated[
    str,
    Meta(
        min_length=22,
        max_length=86,
        pattern=r"^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?$(?!\n)",
        description="16-64 bytes in base64url without padding",
    ),
]
# The last of 43 characters carries four bits: only these sixteen end a canonical encoding.
SECRET_PATTERN: Final = r"^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$(?!\n)"  # noqa: S105  # the form, no secret
Secret = Annotated[str, Meta(pattern=SECRET_PATTERN, description="32 bytes in base64url without padding")]
SeatId = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Version = Annotated[str, Meta(min_length=1, max_length=50)]
Code = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=1, le=MOST_SEATS)]
Units = Annotated[int, Meta(ge=1, le=MOST_UNITS)]
Beat = Annotated[int, Meta(ge=0, le=LARGEST)]
Instant = Annotated[
    str,
    Meta(
        max_length=40,
        description="RFC 3339 in UTC with Z",
        extra_json_schema={"format": "date-time"},
    ),
]

# ---------------------------------------------------------------- requests


class HolderForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Who asks, in the client's own words."""

    seat_id: SeatId
    seat_name: Text | None = None
    user: Text | None = None
    host: Text | None = None
    process: Text | None = None

    def __post_init__(self) -> None:
        """Control characters and lone surrogates would break pages, logs and CSV files later."""
        _printable(seat_id=self.seat_id, seat_name=self.seat_name, user=self.user, host=self.host, process=self.process)


class CheckoutForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/leases``."""

    lease_id: Uuid
    product: Word
    holder: HolderForm
    nonce: Nonce
    activation_code: Code | None = None
    seats: Count | None = None
    features: Annotated[dict[Word, Count], Meta(max_length=MOST_FEATURES)] | None = None
    edition: Word | None = None
    version: Version | None = None
    released_on: date | None = None

    def __post_init__(self) -> None:
        """What patterns cannot say."""
        _printable(version=self.version, activation_code=self.activation_code)

    def __repr__(self) -> str:
        """Without code and nonce."""
        return f"CheckoutForm(lease_id={self.lease_id!r})"

    def as_checkout(self, secret: bytes, *, address: str | None = None) -> Checkout:
        """The domain's value; ``secret`` is a digest already, ``address`` is where the request came from."""
        holder = self.holder
        code = None if self.activation_code is None else normalise_code(self.activation_code)
        lease_id, seats = self.lease_id.lower(), self.seats or 1
        features = tuple(sorted(self.features.items())) if self.features else ()
        content = (
            *(lease_id, self.product, code, seats, features, self.edition, self.version, self.released_on),
            *(holder.seat_id, holder.seat_name, holder.user, holder.host, holder.process),
        )
        return Checkout(
            lease_id=lease_id,
            secret=secret,
            content=hashlib.sha256(msgspec.json.encode(content)).digest(),
            product=self.product,
            holder=Holder(
                seat_id=holder.seat_id,
                seat_name=holder.seat_name,
                user=holder.user,
                host=holder.host,
                process=holder.process,
            ),
            nonce=self.nonce,
            seats=seats,
            activation_code=code,
            features=features,
            edition=self.edition,
            version=self.version,
            released_on=self.released_on,
            address=address,
        )


class HeartbeatForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/leases/{lease_id}/heartbeat``.

    ``capability`` is the server's own signed word for a borrowed lease: a server that was restored from a backup takes
    a loan up by it that the backup does not know.
    """

    beat: Beat
    nonce: Nonce
    capability: Annotated[str, Meta(min_length=1, max_length=32_768)] | None = None

    def __repr__(self) -> str:
        """Without nonce and capability."""
        return f"HeartbeatForm(beat={self.beat!r})"


class BeatForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One of ``POST /v1/heartbeats``."""

    lease_id: Uuid
    secret: Secret
    beat: Beat
    nonce: Nonce

    def __repr__(self) -> str:
        """Without the secret."""
        return f"BeatForm(lease_id={self.lease_id!r})"


class BeatsForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/heartbeats``."""

    leases: Annotated[list[BeatForm], Meta(min_length=1, max_length=MOST_BEATS)]


class FeatureForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/leases/{lease_id}/features/{key}/…``; the same ``request_id`` again gets the same answer."""

    amount: Units
    request_id: Uuid


class BorrowForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/leases/{lease_id}/borrow``."""

    until: Instant
    fingerprint: SeatId
    nonce: Nonce

    def __post_init__(self) -> None:
        """What patterns cannot say."""
        _printable(fingerprint=self.fingerprint)
        try:
            read_instant(self.until, place="until")
        except RefusedDocument:
            raise ValueError("`until` must be an instant like 2026-11-21T07:00:00Z") from None

    @property
    def ends_at(self) -> datetime:
        """``until`` to the second, which is what a capability can say."""
        return read_instant(self.until, place="until").replace(microsecond=0)


# ---------------------------------------------------------------- answers


class FeatureView(Struct, kw_only=True, frozen=True):
    """A feature of the lease's entitlement and, where it is counted, how much of it there is.

    ``held`` by this lease (0 or 1 of a switch); ``available`` to anybody now, the overdraft included; ``total`` that
    was bought and is in force; ``consumed``, and ``overage`` the part of it beyond that. Null of ``available`` is
    unlimited, of both: nothing is counted.
    ``ends_at`` is when the units that are taken next are lost.
    """

    key: str
    type: str
    value: int
    unit: str | None
    currency: str | None
    held: int
    available: int | None
    total: int | None
    consumed: int
    overage: int
    ends_at: str | None


class StandingView(Struct, kw_only=True, frozen=True):
    """What stands behind the lease.

    ``grace_expires_at`` is given only while the entitlement is in its grace, ``expires_in_days`` (whole ones) only in
    its last 30 days.
    """

    status: str
    expires_at: str | None
    expires_in_days: int | None
    grace_expires_at: str | None
    maintenance_expires_on: date | None


class LeaseView(Struct, kw_only=True, frozen=True):
    """A lease as its client sees it.

    ``idle_return_seconds``: the site asks a program to give the seat back after so long without its user; null: it does
    not.
    """

    lease_id: str
    state: str
    mode: str
    product: str
    entitlement_id: str
    edition: str | None
    seats: int
    overdraft: bool
    holder: dict[str, str]
    granted_at: str
    expires_at: str
    expires_in_seconds: int
    heartbeat_seconds: int
    idle_return_seconds: int | None
    features: list[FeatureView]
    attributes: dict[str, str | int]
    entitlement: StandingView


class LeaseAnswer(Struct, kw_only=True, frozen=True):
    """``GET /v1/leases/{lease_id}``."""

    lease: LeaseView


class CheckoutAnswer(Struct, kw_only=True, frozen=True):
    """A granted checkout."""

    lease: LeaseView
    capability: str


class HeartbeatAnswer(Struct, kw_only=True, frozen=True):
    """An answered beat."""

    expires_at: str
    expires_in_seconds: int
    heartbeat_seconds: int
    state: str
    capability: str


class BeatResult(Struct, kw_only=True, frozen=True):
    """One of the results of a batch: ``lease_id``, ``status``, and beside them a single answer or a problem."""

    lease_id: str
    status: int


class BeatsAnswer(Struct, kw_only=True, frozen=True):
    """``results`` stand in the order of the request."""

    results: list[BeatResult]


class ProductView(Struct, kw_only=True, frozen=True):
    """Seats of a product over all entitlements in force; null is unlimited. ``available`` includes the overdraft."""

    product: str
    name: str
    seats: int | None
    in_use: int
    available: int | None


class ProductsAnswer(Struct, kw_only=True, frozen=True):
    """``GET /v1/products``."""

    products: list[ProductView]


class ServerAnswer(Struct, kw_only=True, frozen=True):
    """``GET /v1/server``. ``certificate`` is null before the first bundle."""

    server_id: str
    name: str
    version: str
    certificate: str | None
    time: str
    primary: bool
    statement: str


class KeysAnswer(Struct, kw_only=True, frozen=True):
    """``GET /v1/keys``."""

    keys: list[str]


# ---------------------------------------------------------------- reading


class Form(Generic[T]):
    """A request type with its decoder."""

    __slots__ = ("_decode", "type")

    def __init__(self, kind: type[T]) -> None:
        self.type = kind
        self._decode = msgspec.json.Decoder(kind).decode

    def read(self, body: bytes) -> T:
        """Raises BadRequest that names the place."""
        try:
            form = self._decode(body)
        except msgspec.DecodeError as error:
            raise BadRequest(_sentence(error)) from None
        except (UnicodeDecodeError, RecursionError):
            raise BadRequest("The body is not JSON in UTF-8.") from None
        # msgspec lets the last of two equal names win. Two readers of one request could then see two requests.
        # Each name has its colon, so as many colons as different names leave no room for a second one.
        plain = isinstance(form, HeartbeatForm) and form.capability is None
        names = _NAMES_OF_A_BEAT if plain else _names(msgspec.json.decode(body))
        if body.count(b":") != names:
            _refuse_twice(body.decode())
        return form


_NAMES_OF_A_BEAT: Final = len(("beat", "nonce"))


def _names(value: Any) -> int:
    """How many names stand in a JSON value."""
    if isinstance(value, dict):
        return len(value) + sum(map(_names, value.values()))
    return sum(map(_names, value)) if isinstance(value, list) else 0


def secret_digest(secret: str) -> bytes:
    """SHA-256 of the 32 bytes behind a secret whose form was checked."""
    return hashlib.sha256(a2b_base64(secret.replace("-", "+").replace("_", "/") + "=")).digest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRequest("A name stands twice in one object.")
    return members


_refuse_twice: Final = json.JSONDecoder(object_pairs_hook=_once).decode


def _printable(**texts: str | None) -> None:
    for name, text in texts.items():
        if text is not None and not text.isprintable():
            raise ValueError(f"`{name}` holds a character that cannot be printed")


_LONGEST_SENTENCE: Final = 300


def _sentence(error: msgspec.DecodeError) -> str:
    return f"The body is refused: {str(error)[:_LONGEST_SENTENCE]}."
