"""Borrowing for a machine that never sees the network: three files, carried by hand.

1. :meth:`BorrowRequest.make` makes a key for this one lease, keeps it, and signs the request (``.llsborrow``).
2. The administrator feeds it to ``lls borrow grant`` and hands the grant back; :func:`accept_grant` proves it. The
   grant opens nothing elsewhere: its capability is bound to the key (``cnf.jkt``) and to the nonce of the request.
3. :func:`make_return` first marks the lease as given back, for good, and then signs the return. Again: the identical
   document, because sticks get lost.

Refuses to own: what a borrowed lease must prove (``borrowing``), and the disk (``keeping``).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from .borrowing import Borrowed, keep, proved, route_of, wire_instant
from .elapsed import HighWater
from .environment import activation_code as code_or_environment
from .environment import read_vendor_keys
from .errors import BadSetup, Damaged, NotBorrowed, SeatLost, Unreachable, Untrusted
from .keeping import Kept, State, Store, write_whole
from .machine_key import MachineKey
from .trust import nonce_text, strict_json
from .values import Holder, Lease, machine_fingerprint

REQUEST_TYP = "lls-borrow-request+jws"
RETURN_TYP = "lls-borrow-return+jws"
GRANT_FORMAT = 1

_MAX_GRANT = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowRequest:
    """A request to be carried to the license server's administrator. ``document`` is the signed file."""

    lease_id: str
    product: str
    until: datetime
    document: str = field(repr=False)

    @classmethod
    def make(
        cls,
        product: str,
        *,
        until: datetime,
        folder: str | Path | None = None,
        activation_code: str | None = None,
        features: Mapping[str, int] | None = None,
        edition: str | None = None,
        version: str | None = None,
        released_on: str | None = None,
        holder: Holder | None = None,
    ) -> BorrowRequest:
        """A new request; its key stays in ``folder``. ``until`` is aware; the other words are those of a checkout."""
        now = datetime.now(UTC)
        stamp = wire_instant(until)
        if until <= now:
            raise BadSetup("`until` is over already.")
        sitting, key = holder or Holder.this_process(), MachineKey.make()
        kept = Kept(
            lease_id=str(uuid.uuid4()),
            product=product,
            state=State.REQUESTED,
            until=until.timestamp(),
            key=key.pem,
            nonce=nonce_text(os.urandom(32)),
        )
        needed = {
            "lease_id": kept.lease_id,
            "product": product,
            "holder": sitting.as_json(),
            "fingerprint": sitting.seat_id,
            "until": stamp,
            "nonce": kept.nonce,
            "made_at": wire_instant(now),
        }
        wishes = {
            "activation_code": code_or_environment(activation_code),
            "features": dict(features or {}) or None,
            "edition": edition,
            "version": version,
            "released_on": released_on,
        }
        claims = needed | {name: value for name, value in wishes.items() if value is not None}
        document = key.signed(claims, typ=REQUEST_TYP)
        store = Store(folder)
        with store.changing():
            store.write(kept)
        return cls(lease_id=kept.lease_id, product=product, until=until, document=document)

    def write(self, file: str | Path) -> None:
        """To a file, whole or not at all; for its owner alone, because it may carry an activation code."""
        write_whole(Path(file), self.document.encode("ascii"))


def accept_grant(
    file: str | Path | bytes,
    *,
    vendor_keys: str | bytes | Path | None = None,
    folder: str | Path | None = None,
    fingerprint: str | None = None,
) -> Borrowed:
    """Proves a grant for a request that was made here, and keeps it. ``file``: a path, or the content as bytes.

    ``NotBorrowed``: no such request was made here. ``WrongMachine``, ``Untrusted``, ``Damaged``: it is not the answer
    to it. ``SeatLost``: the lease was given back already. A clock that is behind shows when the lease is looked at.
    """
    keys, store = read_vendor_keys(vendor_keys), Store(folder)
    grant = _read_grant(file)
    shown = grant["lease"]
    lease_id = shown.get("lease_id") if isinstance(shown, dict) else None
    if not isinstance(lease_id, str) or not isinstance(shown, dict):
        raise Damaged("The grant names no lease.")
    requested = store.read(lease_id.lower())
    if not requested.key:
        raise NotBorrowed("That lease was borrowed over the network, not by file.")
    if requested.state is State.RETURNED:
        raise SeatLost(f"{requested.product} was given back; make a new request.")
    kept = replace(
        requested,
        state=State.HELD,
        keys=tuple(_document(one) for one in _listed(grant["keys"])),
        lease=shown,
        capability=_document(grant["capability"]),
        certificate=_document(grant["certificate"]),
    )
    capability = proved(kept, keys=keys, fingerprint=fingerprint or machine_fingerprint())
    try:
        Lease.from_json(shown)
    except Unreachable as error:
        raise Damaged("The lease in the grant is not of the form that a license server gives.") from error
    # The file may have travelled for days: the next look at the clock is believed, whatever it shows.
    begun = HighWater(mark=capability.issued_at, wall=capability.issued_at, elapsed=0.0, boot="")
    kept = replace(
        kept,
        server_id=capability.server_id,
        until=capability.expires_at,
        clock=requested.clock or begun,
    )
    return Borrowed(keep(store, kept, capability), capability, store=store, route=route_of(keys, None)(kept))


def make_return(file: str | Path, *, lease_id: str, folder: str | Path | None = None) -> None:
    """Gives a lease back that was granted by file, for good, and writes the return to be carried to the server.

    ``NotBorrowed`` when no grant was ever accepted for it: then nothing is lent.
    """
    store = Store(folder)
    with store.changing():
        kept = store.read(lease_id.lower())
        if not kept.key:
            raise BadSetup("That lease was borrowed over the network and is given back over it: `Borrowed.give_back`.")
        if kept.state is State.REQUESTED:
            raise NotBorrowed("The grant of that request was never accepted here; there is nothing to give back.")
        if kept.state is not State.RETURNED:
            claims = {
                "lease_id": kept.lease_id,
                "server_id": kept.server_id,
                "made_at": wire_instant(datetime.now(UTC)),
            }
            document = MachineKey.read(kept.key).signed(claims, typ=RETURN_TYP)
            kept = replace(kept, state=State.RETURNED, document=document)
            # Before the return is anywhere else: who has it must be able to rely on it.
            store.write(kept)
    write_whole(Path(file), kept.document.encode("ascii"))


def _read_grant(file: str | Path | bytes) -> Mapping[str, object]:
    if isinstance(file, bytes):
        content = file
    else:
        with Path(file).open("rb") as opened:
            content = opened.read(_MAX_GRANT + 1)
    try:
        grant = strict_json(content) if len(content) <= _MAX_GRANT else None
    except ValueError as error:
        raise Damaged("The file is not a grant: it is no proper JSON.") from error
    if not isinstance(grant, dict) or not {"format", "capability", "certificate", "keys", "lease"} <= grant.keys():
        raise Damaged("The file is not a grant of a license server.")
    if grant["format"] != GRANT_FORMAT:
        raise Damaged("The grant is of a format that this version does not know; update the application.")
    return grant


def _document(value: object) -> str:
    """A signed document; a general JSON one may come as text or as an object."""
    if isinstance(value, dict):
        return json.dumps(value)
    if not isinstance(value, str):
        raise Untrusted("A signed document is missing from the grant.")
    return value


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise Damaged("The grant's list of key sets is malformed.")
    return value
