"""Borrowing by file: what a machine that cannot reach the server asks for, what it is handed, and its return.

The machine makes a key for this one lease. Its request names the key in the header, the server's capability is bound to
the key's thumbprint (``cnf.jkt``, RFC 7800), and the return is signed by it again. So a copied grant opens nothing
elsewhere, and nobody else can give the seat back.

Rules, in the order in which they are asked
1. Size: at most 64 KiB. A request names one lease.
2. Form, ``typ`` and header; the key in it is P-256 and nothing else.
3. The signature is by that very key: proof of possession. Whose machine it is, the file does not prove: that is for
   whoever carries it.
4. The shape of the payload, with the limits that a checkout over the network has. Unknown members are ignored.
5. A return is addressed to one server.

A grant is no signed document as a whole: its parts are, and they are all that its reader believes.
Refuses to own: whether a seat may leave (``lls.licensing.borrowing``), the clock, and which leases there are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.entitlement import normalise_code
from lls.licensing.fields import Fields, write_instant
from lls.licensing.lease import Checkout, Holder
from lls.signed.encoding import Json, malformed, members, required, write_json
from lls.signed.jose import PublicKey, SigningKey, Token, sign_compact, verify_self_signed

REQUEST: Final = "lls-borrow-request+jws"
RETURN: Final = "lls-borrow-return+jws"
GRANT_FORMAT: Final = 1
MOST_BORROW: Final = 64 * 1024

_REQUEST_MEMBERS: Final = ("lease_id", "product", "holder", "fingerprint", "until", "nonce", "made_at")
_RETURN_MEMBERS: Final = ("lease_id", "server_id", "made_at")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,50}")
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{22,86}")
_LONGEST_SEAT_ID: Final = 100
_LONGEST_VERSION: Final = 50
_MOST_FEATURES: Final = 100
_MOST_UNITS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowRequest:
    """What the holder of ``key`` wants to take away until ``until``; ``made_at`` is that machine's clock."""

    lease_id: str
    product: str
    holder: Holder
    fingerprint: str
    until: datetime
    nonce: str = field(repr=False)
    made_at: datetime
    activation_code: str | None = field(default=None, repr=False)
    features: tuple[tuple[str, int], ...] = ()
    edition: str | None = None
    version: str | None = None
    released_on: date | None = None
    key: PublicKey

    @property
    def jkt(self) -> str:
        """The thumbprint of the machine's key, as the capability's ``cnf`` names it."""
        return self.key.kid

    def as_checkout(self) -> Checkout:
        """The domain's value. ``content`` leaves out what an extension or a second file may say otherwise."""
        holder = self.holder
        content = {
            "lease_id": self.lease_id,
            "product": self.product,
            "activation_code": self.activation_code,
            "features": [list(one) for one in self.features],
            "edition": self.edition,
            "version": self.version,
            "released_on": None if self.released_on is None else self.released_on.isoformat(),
            "holder": holder.named(),
            "fingerprint": self.fingerprint,
        }
        return Checkout(
            lease_id=self.lease_id,
            secret=lease_secret(self.jkt),
            content=hashlib.sha256(write_json(content)).digest(),
            product=self.product,
            holder=holder,
            nonce=self.nonce,
            activation_code=self.activation_code,
            features=self.features,
            edition=self.edition,
            version=self.version,
            released_on=self.released_on,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowReturn:
    """The word of the holder of ``key`` that the lease is used no more; ``made_at`` is that machine's clock."""

    lease_id: str
    server_id: str
    made_at: datetime
    key: PublicKey

    @property
    def jkt(self) -> str:
        """The thumbprint of the machine's key: the same as the request's."""
        return self.key.kid


def lease_secret(jkt: str) -> bytes:
    """What the ledger keeps as the secret's digest of a lease that is bound to a machine's key.

    A bearer secret is hashed as 32 bytes, this is 50 and more: no secret over the network can ever fit.
    """
    return hashlib.sha256(b"borrow " + jkt.encode("ascii")).digest()


def read_borrow_request(data: Token) -> BorrowRequest:
    """The request in ``data``. Refusals: ``too_large``, ``malformed``, ``signature``."""
    verified, key = verify_self_signed(data, typ=REQUEST, limit=MOST_BORROW)  # 1 to 3
    payload = verified.payload
    required(payload, *_REQUEST_MEMBERS)  # 4
    fields = Fields(payload, place="borrow request")
    made_at, until = fields.instant("made_at"), fields.instant("until")
    if until <= made_at:
        raise malformed("The borrow request ends before it was made.")
    code = fields.optional_text("activation_code")
    return BorrowRequest(
        lease_id=_lease_id(fields),
        product=fields.word("product"),
        holder=_read_holder(fields.object("holder")),
        fingerprint=fields.text("fingerprint", most=_LONGEST_SEAT_ID),
        until=until,
        nonce=_read_nonce(fields),
        made_at=made_at,
        activation_code=None if code is None else normalise_code(code),
        features=_read_features(payload) if fields.has("features") else (),
        edition=fields.optional_word("edition"),
        version=fields.optional_text("version", most=_LONGEST_VERSION),
        released_on=fields.optional_day("released_on"),
        key=key,
    )


def read_borrow_return(data: Token, *, server_id: str) -> BorrowReturn:
    """The return in ``data``. Refusals: ``too_large``, ``malformed``, ``signature``, ``audience``.

    That its key is the lease's own, the ledger asks: by :func:`lease_secret`.
    """
    verified, key = verify_self_signed(data, typ=RETURN, limit=MOST_BORROW)  # 1 to 3
    required(verified.payload, *_RETURN_MEMBERS)  # 4
    fields = Fields(verified.payload, place="borrow return")
    if fields.id("server_id", "lls_") != server_id:  # 5
        raise RefusedDocument(Refusal.AUDIENCE, "The seat was borrowed from another server; return it there.")
    return BorrowReturn(lease_id=_lease_id(fields), server_id=server_id, made_at=fields.instant("made_at"), key=key)


def make_borrow_request(
    *,
    lease_id: str,
    product: str,
    holder: Holder,
    fingerprint: str,
    until: datetime,
    nonce: str,
    made_at: datetime,
    key: SigningKey,
    activation_code: str | None = None,
    features: Mapping[str, int] | None = None,
    edition: str | None = None,
    version: str | None = None,
    released_on: date | None = None,
) -> str:
    """The signed request of a machine; ``key`` is a P-256 key made for this lease and kept until its return."""
    payload: Json = {
        "lease_id": lease_id,
        "product": product,
        "holder": holder.named(),
        "fingerprint": fingerprint,
        "until": write_instant(until),
        "nonce": nonce,
        "made_at": write_instant(made_at),
    }
    wishes: Json = {
        "activation_code": activation_code,
        "features": dict(features) if features else None,
        "edition": edition,
        "version": version,
        "released_on": None if released_on is None else released_on.isoformat(),
    }
    payload.update({name: value for name, value in wishes.items() if value is not None})
    return sign_compact(payload, key=key, typ=REQUEST, header={"jwk": key.public.jwk})


def make_borrow_return(*, lease_id: str, server_id: str, made_at: datetime, key: SigningKey) -> str:
    """The signed return; ``key`` is the one of the request."""
    payload = {"lease_id": lease_id, "server_id": server_id, "made_at": write_instant(made_at)}
    return sign_compact(payload, key=key, typ=RETURN, header={"jwk": key.public.jwk})


def make_grant(*, capability: str, certificate: str, keys: Sequence[str], lease: Mapping[str, object]) -> bytes:
    """What the server hands out for a request: JSON, all that the machine needs to verify the capability by itself.

    ``keys`` are the vendor's key sets after the first in order; ``lease`` is the lease as a checkout answers it, to be
    shown and not to be believed.
    """
    grant = {
        "format": GRANT_FORMAT,
        "capability": capability,
        "certificate": certificate,
        "keys": list(keys),
        "lease": dict(lease),
    }
    return write_json(grant)


def _lease_id(fields: Fields) -> str:
    lease_id = fields.text("lease_id")
    if not _UUID.fullmatch(lease_id):
        raise malformed(f"The member 'lease_id' of the {fields.place} must be a UUID.")
    return lease_id.lower()


def _read_holder(holder: Fields) -> Holder:
    return Holder(
        seat_id=holder.text("seat_id", most=_LONGEST_SEAT_ID),
        seat_name=holder.optional_text("seat_name"),
        user=holder.optional_text("user"),
        host=holder.optional_text("host"),
        process=holder.optional_text("process"),
    )


def _read_nonce(fields: Fields) -> str:
    nonce = fields.text("nonce")
    if not _NONCE.fullmatch(nonce) or len(nonce) % 4 == 1:
        raise malformed("The borrow request's nonce must be 16 to 64 bytes in base64url.")
    return nonce


def _read_features(payload: Json) -> tuple[tuple[str, int], ...]:
    asked = members(payload, "features")
    if len(asked) > _MOST_FEATURES or not all(map(_WORD.fullmatch, asked)):
        raise malformed(f"The borrow request may name at most {_MOST_FEATURES} features, each by its key.")
    units = Fields(asked, place="borrow request.features")
    return tuple((key, units.integer(key, least=1, most=_MOST_UNITS)) for key in sorted(asked))
