"""The return of an entitlement: the server's signed word that it hosts it no more, with the last of its meters.

Rules
1. Signed by the server's own key, P-256; the vendor looks that key up by the server's id, so the id is read first, of
   a stranger's document, and proves nothing (:func:`server_named_in`).
2. ``up_to_seq`` and ``head`` name the journal's line of the return. Whether all up to there was reported is for the
   vendor's ingest to judge.
3. ``borrowed_until`` is when the last seat that is still away comes back by itself; null where none is.
4. The same values give the same bytes: members stand in a fixed order whatever order they came in, and the signature is
   by RFC 6979. So a lost file is made again, word for word.

Limits: 8 MiB; the meters stand in one journal line too, of 4 MiB at most, and grow by a third in base64url.
Refuses to own: whether an entitlement may go, and what becomes of it at the vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.entitlement import FeatureType
from lls.licensing.fields import Fields, write_instant
from lls.signed.encoding import hash_text, malformed, read_json, required
from lls.signed.jose import (
    Jwk,
    SigningKey,
    Token,
    read_public_key,
    sign_compact,
    token_text,
    unverified_bytes,
    verify,
)

TYP: Final = "lls-return+jws"
MOST_RETURN: Final = 8 * 2**20
_MOST_STRUCTURE: Final = 1_000_000
"""Commas and brackets read for a stranger. The densest part is a lot: 50 bytes, 5 of them."""
_MEMBERS: Final = (
    "server_id",
    "entitlement_id",
    "session_id",
    "up_to_seq",
    "head",
    "meters",
    "borrowed_until",
    "made_at",
)
_METER_MEMBERS: Final = ("feature", "type", "unit", "lots", "consumed", "overage", "in_use")
_LOT_MEMBERS: Final = ("lot", "amount", "used", "ended")
_LONGEST_UNIT: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalLot:
    """What was taken of one lot. ``amount`` None is without limit; what is left of an ``ended`` one is lost."""

    lot: str
    amount: int | None
    used: int
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalMeter:
    """A feature's last account, in its own units; ``in_use`` of a pool is what borrowed seats still hold."""

    feature: str
    type: FeatureType
    unit: str | None
    lots: tuple[FinalLot, ...]
    consumed: int
    overage: int
    in_use: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitlementReturn:
    """A verified return; ``made_at`` is the server's guarded clock."""

    server_id: str
    entitlement_id: str
    session_id: str
    up_to_seq: int
    head: str
    meters: tuple[FinalMeter, ...]
    borrowed_until: datetime | None
    made_at: datetime
    token: str = field(repr=False)


def make_return(
    *,
    server_id: str,
    entitlement_id: str,
    session_id: str,
    up_to_seq: int,
    head: str,
    meters: Sequence[Mapping[str, object]],
    borrowed_until: datetime | None,
    made_at: datetime,
    key: SigningKey,
) -> str:
    """The signed return. ``meters`` are those of the journal's line; ``malformed`` where no reader would take them."""
    payload = {
        "server_id": server_id,
        "entitlement_id": entitlement_id,
        "session_id": session_id,
        "up_to_seq": up_to_seq,
        "head": head,
        "meters": [asdict(meter) for meter in _read_meters(meters)],
        "borrowed_until": None if borrowed_until is None else write_instant(borrowed_until),
        "made_at": write_instant(made_at),
    }
    return sign_compact(payload, key=key, typ=TYP)


def server_named_in(data: Token) -> str:
    """The id of the server whose return this claims to be, *before* its signature: only to find the key to ask."""
    unproved = read_json(unverified_bytes(data, limit=MOST_RETURN), most=_MOST_STRUCTURE)
    return Fields(unproved, place="return").id("server_id", "lls_")


def read_return(data: Token, *, server_jwk: Jwk, server_id: str) -> EntitlementReturn:
    """The return in ``data``, by the server ``server_id`` whose public signing key is ``server_jwk``.

    Refusals: ``too_large``, ``malformed``, ``signature``, ``audience``.
    """
    key = read_public_key(server_jwk)
    payload = verify(data, typ=TYP, key_of=lambda kid: key if kid == key.kid else None, limit=MOST_RETURN).payload
    required(payload, *_MEMBERS)
    fields = Fields(payload, place="return")
    if fields.id("server_id", "lls_") != server_id:
        raise RefusedDocument(Refusal.AUDIENCE, "The return is of another server than the one whose key signed it.")
    return EntitlementReturn(
        server_id=server_id,
        entitlement_id=fields.id("entitlement_id", "ent_"),
        session_id=fields.id("session_id", "ses_"),
        up_to_seq=fields.integer("up_to_seq", least=1),
        head=hash_text(payload, "head"),
        meters=_read_meters(fields.list("meters")),
        borrowed_until=fields.optional_instant("borrowed_until"),
        made_at=fields.instant("made_at"),
        token=token_text(data),
    )


def _read_meters(listed: Sequence[object]) -> tuple[FinalMeter, ...]:
    meters = tuple(_read_meter(item, place=f"return.meters[{n}]") for n, item in enumerate(listed))
    if len({meter.feature for meter in meters}) != len(meters):
        raise malformed("The return names a feature twice.")
    return meters


def _read_meter(document: object, *, place: str) -> FinalMeter:
    meter = _whole(document, *_METER_MEMBERS, place=place)
    lots = tuple(_read_lot(item, place=f"{place}.lots[{n}]") for n, item in enumerate(meter.list("lots")))
    if len({lot.lot for lot in lots}) != len(lots):
        raise malformed(f"{place} names a lot twice.")
    return FinalMeter(
        feature=meter.word("feature"),
        type=meter.kind("type", FeatureType),
        unit=meter.optional_text("unit", most=_LONGEST_UNIT),
        lots=lots,
        consumed=meter.integer("consumed"),
        overage=meter.integer("overage"),
        in_use=meter.integer("in_use"),
    )


def _read_lot(document: object, *, place: str) -> FinalLot:
    lot = _whole(document, *_LOT_MEMBERS, place=place)
    return FinalLot(
        lot=lot.text("lot"), amount=lot.optional_integer("amount"), used=lot.integer("used"), ended=lot.flag("ended")
    )


def _whole(document: object, *names: str, place: str) -> Fields:
    if not isinstance(document, Mapping):
        raise malformed(f"{place} must be an object.")
    required(document, *names)
    return Fields(document, place=place)
