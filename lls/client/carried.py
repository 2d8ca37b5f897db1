"""Borrowing for a machine that never sees the network: three files, carried by hand.

1. :meth:`BorrowRequest.make` makes a key for this one lease, keeps it, and signs the request (``.llsborrow``).
2. The administrator feeds it to ``lls borrow grant`` and hands the grant back; :func:`accept_grant` proves it. The
   grant opens nothing elsewhere: its capability is bound to the key (``cnf.jkt``) and to the nonce of the request.
3. :meth:`BorrowRequest.extend` asks for a later end of the same lease, by the same key and under a nonce of its own.
   Its grant takes the place of the kept one when it ends later; until then, or if it never comes, nothing changes.
4. :func:`make_return` first marks the lease as given back, for good, and then signs the return. Again: the identical
   document, because sticks get lost.
5. :func:`discard` forgets what proves nothing: a request whose grant never came, a file that cannot be read.

Refuses to own: what may stand in a request (``requesting``), what a borrowed lease must prove (``borrowing``), and the
disk (``keeping``).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from .borrowing import Borrowed, proved, route_of, tidy_up, wire_end, wire_instant
from .elapsed import HighWater
from .environment import activation_code as code_or_environment
from .environment import read_vendor_keys
from .errors import BadSetup, Damaged, NotBorrowed, SeatLost, Unreachable, Untrusted, WrongMachine
from .keeping import Kept, State, Store, write_whole
from .machine_key import MachineKey
from .requesting import require_code, require_product, require_wishes
from .trust import Capability, KeySet, nonce_text, strict_json
from .values import Holder, Lease, machine_fingerprint

REQUEST_TYP = "lls-borrow-request+jws"
RETURN_TYP = "lls-borrow-return+jws"
GRANT_FORMAT = 1

_MAX_GRANT = 1024 * 1024
_MOST_NONCES = 16


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
        """A new request; its key stays in ``folder``. ``until`` is aware; the other words are those of a checkout.

        ``BadSetup`` for what no server would accept: an end that is over, a product that is no key …
        """
        _require_ahead(until)
        require_product(product)
        sitting, code = holder or Holder.this_process(), code_or_environment(activation_code)
        wishes = {
            "features": dict(features or {}) or None,
            "edition": edition,
            "version": version,
            "released_on": released_on,
        }
        asked: dict[str, object] = {"holder": sitting.as_json(), "fingerprint": sitting.seat_id}
        asked |= {name: value for name, value in wishes.items() if value is not None}
        require_wishes(asked)
        require_code(code)
        kept = Kept(
            lease_id=str(uuid.uuid4()),
            product=product,
            state=State.REQUESTED,
            until=until.timestamp(),
            key=MachineKey.make().pem,
            nonce=nonce_text(os.urandom(32)),
            asked=asked,
            coded=code is not None,
        )
        store, request = Store(folder), cls._signed(kept, until, nonce=kept.nonce, code=code)
        with store.changing():
            store.write(kept)
        return request

    @classmethod
    def extend(
        cls,
        borrowed: Borrowed | str,
        *,
        until: datetime,
        folder: str | Path | None = None,
        activation_code: str | None = None,
    ) -> BorrowRequest:
        """A request for a later end of a lease that was granted by file: a :class:`Borrowed`, or a lease id.

        It repeats what the first one said, so a request with an activation code needs the same code again (argument or
        ``LLS_CODE``; the code is not kept). ``folder``: only with a lease id, as for :meth:`make`.
        ``BadSetup``; ``NotBorrowed`` where no grant was accepted yet, ``SeatLost`` where the seat was given back.
        """
        _require_ahead(until)
        lease_id, store = (borrowed, Store(folder)) if isinstance(borrowed, str) else _kept_at(borrowed)
        with store.changing():
            kept = store.read(lease_id.lower())
            _require_extensible(kept, until)
            code = code_or_environment(activation_code) if kept.coded else None
            if kept.coded and code is None:
                raise BadSetup("That seat was requested with an activation code; name the same one again.")
            require_code(code)
            nonce = nonce_text(os.urandom(32))
            request = cls._signed(kept, until, nonce=nonce, code=code)
            store.write(replace(kept, nonces=(*kept.nonces, nonce)[-_MOST_NONCES:]))
        return request

    @classmethod
    def _signed(cls, kept: Kept, until: datetime, *, nonce: str, code: str | None) -> BorrowRequest:
        claims = {
            "lease_id": kept.lease_id,
            "product": kept.product,
            **kept.asked,
            "until": wire_end(until),
            "nonce": nonce,
            "made_at": wire_instant(datetime.now(UTC)),
        }
        if code is not None:
            claims["activation_code"] = code
        document = MachineKey.read(kept.key).signed(claims, typ=REQUEST_TYP)
        return cls(lease_id=kept.lease_id, product=kept.product, until=until, document=document)

    def write(self, file: str | Path) -> None:
        """To a file, whole or not at all; for its owner alone, because it may carry an activation code."""
        write_whole(Path(file), self.document.encode("ascii"))


def accept_grant(
    file: str | Path | bytes,
    *,
    vendor_keys: str | bytes | Path | None = None,
    folder: str | Path | None = None,
    fingerprint: str | None = None,
    server_id: str | None = None,
) -> Borrowed:
    """Proves a grant for a request that was made here, and keeps it. ``file``: a path, or the content as bytes.

    A grant that ends earlier than the kept one changes nothing. ``server_id``: by that server alone.
    ``NotBorrowed``: no such request was made here. ``WrongMachine``, ``Untrusted``, ``Damaged``: it is not the answer
    to it. ``SeatLost``: the lease was given back already. A clock that is behind shows when the lease is looked at.
    """
    keys, store = read_vendor_keys(vendor_keys), Store(folder)
    here = fingerprint or machine_fingerprint()
    grant = _read_grant(file)
    offered = grant.answers(_requested(store, grant.lease_id))
    capability = proved(offered, keys=keys, fingerprint=here, server_id=server_id)
    with store.changing():
        # Meanwhile it may have been given back, or extended; only what the disk says now may be changed.
        requested = _requested(store, grant.lease_id)
        held = _held(requested, keys=keys, fingerprint=here, server_id=server_id)
        if held is not None and held.expires_at > capability.expires_at:
            kept, capability = requested, held
        else:
            kept = _granted(grant.answers(requested), capability)
            store.write(kept)
    tidy_up(store, capability)
    return Borrowed(kept, capability, store=store, route=route_of(keys, None)(kept))


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


def discard(lease_id: str, *, folder: str | Path | None = None) -> None:
    """Forgets a request whose grant was not accepted, or a file that cannot be read; for good.

    What a server lent for it all the same stays counted there until its end: nothing here could use or return it.
    ``BadSetup`` for everything that can still be used or given back; ``NotBorrowed`` when there is nothing.
    """
    store = Store(folder)
    with store.changing():
        try:
            kept = store.read(lease_id.lower())
        except Damaged:
            store.remove(lease_id.lower())
            return
        if kept.state is not State.REQUESTED:
            raise BadSetup(_NO_DISCARD.get(kept.state, "That lease is borrowed; give it back instead."))
        store.remove(kept.lease_id)


_NO_DISCARD = {
    State.RETURNED: "That lease was given back; its file keeps the grant from being accepted again, and goes in time.",
    State.RETURNING: "That lease is being given back, which no server confirmed yet; give it back again instead.",
    State.ASKED: "A license server may have lent that seat; give it back over the network instead.",
}


# -- behind them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """A grant in its form; nothing of it is proved."""

    lease_id: str
    shown: Mapping[str, object] = field(repr=False)
    capability: str = field(repr=False)
    certificate: str = field(repr=False)
    keys: tuple[str, ...] = field(repr=False)

    def answers(self, requested: Kept) -> Kept:
        try:
            # Kept is what is read, and no more: whatever else stands in the file nobody vouches for.
            lease = Lease.from_json(self.shown).as_json()
        except Unreachable as error:
            raise Damaged("The lease in the grant is not of the form that a license server gives.") from error
        return replace(
            requested,
            state=State.HELD,
            keys=self.keys,
            lease=lease,
            capability=self.capability,
            certificate=self.certificate,
        )


def _granted(kept: Kept, capability: Capability) -> Kept:
    # The file may have travelled for days: the next look at the clock is believed, whatever it shows.
    begun = HighWater(mark=capability.issued_at, wall=capability.issued_at, elapsed=0.0, boot="")
    others = (nonce for nonce in (kept.nonce, *kept.nonces) if nonce != capability.nonce)
    return replace(
        kept,
        server_id=capability.server_id,
        until=capability.expires_at,
        clock=kept.clock or begun,
        nonce=capability.nonce,
        nonces=tuple(others),
    )


def _requested(store: Store, lease_id: str) -> Kept:
    kept = store.read(lease_id)
    if not kept.key:
        raise NotBorrowed("That lease was borrowed over the network, not by file.")
    if kept.state is State.RETURNED:
        raise SeatLost(f"{kept.product} was given back; make a new request.")
    return kept


def _held(kept: Kept, *, keys: KeySet, fingerprint: str, server_id: str | None) -> Capability | None:
    """What is kept already, where it proves anything: else whatever is proved is better."""
    if kept.state is not State.HELD:
        return None
    try:
        return proved(kept, keys=keys, fingerprint=fingerprint, server_id=server_id)
    except (Untrusted, WrongMachine):
        return None


def _kept_at(borrowed: Borrowed) -> tuple[str, Store]:
    return borrowed.lease_id, Store(borrowed.folder)


def _require_ahead(until: datetime) -> None:
    wire_end(until)
    if until <= datetime.now(UTC):
        raise BadSetup("`until` is over already.")


def _require_extensible(kept: Kept, until: datetime) -> None:
    if not kept.key:
        raise BadSetup("That lease was borrowed over the network and is extended over it: `Borrowed.extend`.")
    if kept.state is State.REQUESTED:
        raise NotBorrowed("The grant of that request was never accepted here; make a new request instead.")
    if kept.state is State.RETURNED:
        raise SeatLost(f"{kept.product} was given back; make a new request.")
    if not kept.asked:
        raise BadSetup("That seat was requested by an earlier version, which kept no word of it; make a new request.")
    if until.timestamp() <= kept.until:
        end = wire_instant(datetime.fromtimestamp(kept.until, UTC))
        raise BadSetup(f"That seat is borrowed until {end} already; name a later end.")


def _read_grant(file: str | Path | bytes) -> _Grant:
    grant = _grant_members(file)
    shown = grant["lease"]
    lease_id = shown.get("lease_id") if isinstance(shown, dict) else None
    if not isinstance(lease_id, str) or not isinstance(shown, dict):
        raise Damaged("The grant names no lease.")
    if not isinstance(grant["keys"], list):
        raise Damaged("The grant's list of key sets is malformed.")
    return _Grant(
        lease_id=lease_id.lower(),
        shown=shown,
        capability=_document(grant["capability"]),
        certificate=_document(grant["certificate"]),
        keys=tuple(_document(one) for one in grant["keys"]),
    )


def _grant_members(file: str | Path | bytes) -> Mapping[str, object]:
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
        try:
            return json.dumps(value)
        except RecursionError as error:
            raise Untrusted("A signed document of the grant is malformed.") from error
    if not isinstance(value, str):
        raise Untrusted("A signed document is missing from the grant.")
    return value
