"""Bundles and receipts: drafted, signed by this home or passed around, sealed, and remembered.

Rules
1. A draft takes a sequence that is above everything either side has seen. Where it is passed around, it stands in the
   register with its fingerprint before anybody can sign it.
2. Where this home has the keys that the thresholds demand, it signs while nobody is kept from the register
   (``rounds``), and what is issued is what the register says at that moment: the draft, drawn again under the same
   numbers, must be the same in every word, for the same server. Else the draft is written as a file that is passed
   around (``pending``), and sealing is a transaction of its own.
3. Sealing takes what was drafted here and nothing else: the same fingerprint, under the key set in force, in time, and
   only while no newer bundle was issued to that server, which would then refuse this one.
4. What leaves was read with the appliance's own reader first, and encrypted to the server as it is now.
5. A receipt signed before a rotation is signed again before the bundle that carries it. Where this home cannot, it is
   left out of the bundle, and the bundle says so: it goes by its own file.

It refuses to own what the documents say (``issue``) and who signs (``keyring``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, TypeVar

from lls.faults import RefusedDocument
from lls.issuer.changing import begun, has_not_begun
from lls.issuer.customers import as_told
from lls.issuer.history import Deed, sha256_of
from lls.issuer.ids import Random, new_id
from lls.issuer.issue import (
    Terms,
    bundle_payload,
    next_certificate,
    present_certificate,
    receipt_words,
    still_verifies,
)
from lls.issuer.keyring import Keyring
from lls.issuer.lookup import report_in, server_in
from lls.issuer.pending import LIFE, Kind, Paper, Pending
from lls.issuer.pending_register import PendingRegister
from lls.issuer.refusals import Conflict, NotKnown, PendingRefused
from lls.issuer.register import Customer, IssuedBundle, IssuedReceipt, Json, Register, Server, Sold
from lls.issuer.rounds import settled_in_rounds
from lls.licensing.fields import Fields, write_instant
from lls.signed.bundle import seal_signed, verify_stored
from lls.signed.encoding import read_json, write_json
from lls.signed.keys import KeySet
from lls.signed.receipt import read_receipt

NO_TERMS: Final[Json] = MappingProxyType({})
_ROLES: Final = ("certificate", "bundle")
"""Of what is carried to a server, in the order of signing."""
_Settled = TypeVar("_Settled")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBundle:
    """A bundle and its file's bytes; ``warnings`` are sentences for whoever carries it."""

    bundle: IssuedBundle
    data: bytes
    entitlements: tuple[Sold, ...]
    certificate_ends_at: datetime
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """What is to be passed around; ``warnings`` are sentences for whoever made it."""

    pending: Pending
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """What a draft has of its own; all else comes from the register."""

    pending_id: str
    document_id: str
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A bundle and what it was decided on. Two are equal where nothing has changed between them (rule 2)."""

    numbers: _Numbers
    pending: Pending
    server: Server
    """But for its sequence: a colleague who has taken the next one has changed nothing of this one."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """Bundles that are issued together; or first the receipts that they will carry, by their reports (rule 5)."""

    bundles: tuple[_Drawn, ...] = ()
    receipts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the caller of an issue has said."""

    server_ids: tuple[str, ...]
    terms: Json
    life: timedelta
    alone: bool
    """Whether this home signs all of it itself."""
    now: datetime


class Issuing:
    """See the module. ``terms`` gives a server's terms: the standing ones, with what somebody says of one bundle."""

    def __init__(
        self,
        register: Register,
        *,
        keyring: Keyring,
        terms: Callable[[str, Json], Terms],
        random: Random,
    ) -> None:
        self._register = register
        self._pending = PendingRegister(register)
        self._keyring = keyring
        self._terms = terms
        self._random = random

    # -- bundles ------------------------------------------------------------------------------------------------------

    def issue_bundle(self, server_id: str, *, now: datetime, terms: Json = NO_TERMS) -> WrittenBundle:
        """A bundle with the current state of all that the server hosts, signed by this home's keys.

        ``terms`` are other ones than the server's own, as ``server terms`` takes them, for this bundle alone. Raises
        SignaturesMissing where other people have to sign, and Conflict.
        """
        return self.issue_bundles([server_id], now=now, terms=terms)[server_id]

    def issue_bundles(
        self, server_ids: Collection[str], *, now: datetime, terms: Json = NO_TERMS
    ) -> dict[str, WrittenBundle]:
        """The same for several servers, all of one moment: all or none."""
        wanted = _Wanted(server_ids=tuple(server_ids), terms=terms, life=timedelta(days=1), alone=True, now=now)

        def settle(signed: Sequence[tuple[_Drawn, Pending]]) -> dict[str, WrittenBundle]:
            written = {}
            for drawn, pending in signed:
                one = self._record_bundle(pending, now=now)
                written[drawn.server.server_id] = replace(one, warnings=(*drawn.warnings, *one.warnings))
            return written

        return self._in_rounds(wanted, sign=lambda one: self._signed(one, now=now), settle=settle)

    def draft_bundle(self, server_id: str, *, now: datetime, terms: Json = NO_TERMS, life: timedelta = LIFE) -> Drafted:
        """The same unsigned, to be passed around for ``life``; a new certificate is signed as far as this home can."""

        def settle(signed: Sequence[tuple[_Drawn, Pending]]) -> Drafted:
            ((drawn, pending),) = signed
            self._pending.add(pending, server_id=server_id)
            return Drafted(pending=pending, warnings=drawn.warnings)

        return self._in_rounds(
            _Wanted(server_ids=(server_id,), terms=terms, life=life, alone=False, now=now),
            sign=lambda one: self._signed(one, roles=("certificate",), now=now),
            settle=settle,
        )

    def _in_rounds(
        self,
        wanted: _Wanted,
        *,
        sign: Callable[[Pending], Pending],
        settle: Callable[[Sequence[tuple[_Drawn, Pending]]], _Settled],
    ) -> _Settled:
        def signed(decided: _Decided) -> list[tuple[_Drawn, Pending]]:
            for report_id in decided.receipts:
                self.issue_receipt(report_id, now=wanted.now)
            return [(drawn, sign(drawn.pending)) for drawn in decided.bundles]

        return settled_in_rounds(
            self._register,
            self._keyring,
            what=f"The bundle for {' and '.join(wanted.server_ids)}",
            decide=lambda: self._decide(wanted),
            sign=signed,
            stands=lambda decided: not decided.receipts and self._stands(decided, wanted),
            settle=settle,
        )

    def _decide(self, wanted: _Wanted) -> _Decided:
        if wanted.alone and wanted.server_ids:
            self._keyring.check_reaches("bundle")  # found out before anything is drafted, or signed in vain
        # Drawn even where receipts come first: what refuses a bundle is found before anything is signed for it.
        bundles = tuple(self._draw(server_id, wanted) for server_id in wanted.server_ids)
        receipts = tuple(filter(None, map(self._receipt_to_renew, wanted.server_ids)))
        return _Decided(receipts=receipts) if receipts else _Decided(bundles=bundles)

    def _stands(self, decided: _Decided, wanted: _Wanted) -> bool:
        return all(
            drawn == self._drawn(server_id, wanted, drawn.numbers)
            for server_id, drawn in zip(wanted.server_ids, decided.bundles, strict=True)
        )

    def _draw(self, server_id: str, wanted: _Wanted) -> _Drawn:
        """A new draft, and the register remembers that its sequence is taken."""
        server = server_in(self._register, server_id)
        sequence = server.bundle_sequence + 1
        numbers = _Numbers(
            document_id=new_id("bnd", self._random), pending_id=new_id("pnd", self._random), sequence=sequence
        )
        drawn = self._drawn(server_id, wanted, numbers)
        if wanted.alone and len(drawn.pending.papers) > 1:
            self._keyring.check_reaches("certificate")
        self._register.put_server(replace(server, bundle_sequence=sequence))
        return drawn

    def _drawn(self, server_id: str, wanted: _Wanted, numbers: _Numbers) -> _Drawn:
        """What the bundle of these numbers says, as the register is now; nothing is changed."""
        now = wanted.now
        keys = self._keys_in_time(now)
        server, customer = self._served(server_id)
        terms = self._terms(server_id, wanted.terms)
        hosted = self._register.entitlements(server_id=server_id)
        products = sorted({_product(sold) for sold in hosted})
        present = present_certificate(server, customer, products=products, keys=keys, now=now)
        ends_at = now.replace(microsecond=0) + terms.certificate_life if present is None else present.not_after
        receipt, warnings = self._receipt_to_carry(server_id, keys)
        payload = bundle_payload(
            server,
            customer,
            hosted,
            bundle_id=numbers.document_id,
            sequence=numbers.sequence,
            certificate=None if present is None else present.token,
            certificate_ends_at=ends_at,
            key_sets=self._keyring.after(server.keys_version),
            report_key=self._keyring.report_key().public_jwk(),
            receipt=receipt,
            commands=[one.document for one in self._register.pending_commands(server_id)],
            terms=terms,
            now=now,
        )
        papers = [Paper(name="bundle", payload=_plain(payload))]
        if present is None:
            words = next_certificate(server, customer, products=products, terms=terms, now=now)
            papers.insert(0, Paper(name="certificate", payload=_plain(words)))
        pending = self._new_pending(
            Kind.BUNDLE,
            papers,
            pending_id=numbers.pending_id,
            about={"server": server.name, "previous": self._previous(server_id)},
            now=now,
            life=wanted.life,
        )
        return _Drawn(numbers=numbers, pending=pending, server=replace(server, bundle_sequence=0), warnings=warnings)

    def _new_pending(
        self, kind: Kind, papers: Sequence[Paper], *, pending_id: str, about: Json, now: datetime, life: timedelta
    ) -> Pending:
        return Pending(
            pending_id=pending_id,
            kind=kind,
            keys=self._keyring.newest,
            papers=tuple(papers),
            about=_plain(about),
            made_at=now.replace(microsecond=0),
            not_after=now.replace(microsecond=0) + life,
        )

    def seal_bundle(self, pending: Pending, *, now: datetime) -> WrittenBundle:
        """The bundle of a draft that enough have signed. Raises PendingRefused, SignaturesMissing, Conflict."""
        _check_kind(pending, Kind.BUNDLE)
        with self._register.transaction():
            self._keyring.refresh()
            self._pending.check(pending, keys=self._keys_in_time(now), now=now)  # rule 3
            written = self._record_bundle(pending, now=now)
            self._pending.note_sealed(pending, now=now)
            return written

    def _record_bundle(self, pending: Pending, *, now: datetime) -> WrittenBundle:
        """Rules 3 and 4: what is complete, as issued and as a file; the same again is no other."""
        keys = self._keys_in_time(now)
        jws = pending.finished()["bundle"]
        payload = pending.composed()[-1].payload
        fields = Fields(payload, place="bundle")
        server, customer = self._served(fields.id("server_id", "lls_"))
        sequence = fields.integer("sequence", least=1)
        newest = max((one.sequence for one in self._register.bundles(server.server_id)), default=0)
        if newest > sequence:
            raise PendingRefused(
                f"This is bundle {sequence} of the server {server.server_id}, and bundle {newest} was issued to it "
                "since, so that it would refuse this one. Issue a new one."
            )
        try:
            read = verify_stored(jws, keys=keys, server_id=server.server_id, server_jwk=server.signing_jwk)
        except RefusedDocument as refused:
            raise Conflict(f"The server would refuse this bundle, so it was not issued: {refused.detail}") from refused
        bundle = IssuedBundle(
            bundle_id=read.bundle_id,
            server_id=server.server_id,
            sequence=sequence,
            issued_at=read.issued_at,
            not_after=read.not_after,
            receipt_id=None if read.receipt is None else read_receipt(read.receipt, keys, server.server_id).receipt_id,
            payload=payload,
        )
        listed = [self._register.entitlement(one.entitlement_id) for one in read.entitlements]
        hosted = [sold for sold in listed if sold is not None]
        if newest < sequence:
            self._register.add_bundle(bundle)
            self._note_bundle(bundle, customer, hosted, now=now)
            self._register.put_server(replace(server, certificate=read.certificate.token))
        license_ends_at = read.server_license.expires_at
        ends_at = min(read.certificate.not_after, license_ends_at)
        return WrittenBundle(
            bundle=bundle,
            data=seal_signed(jws, encryption_jwk=server.encryption_jwk),
            entitlements=tuple(hosted),
            certificate_ends_at=read.certificate.not_after,
            warnings=tuple(_warnings(hosted, ends_at=ends_at, by_license=license_ends_at == ends_at, now=now)),
        )

    def _note_bundle(self, bundle: IssuedBundle, customer: Customer, hosted: Sequence[Sold], *, now: datetime) -> None:
        told = {
            "bundle_id": bundle.bundle_id,
            "sequence": bundle.sequence,
            "not_after": write_instant(bundle.not_after),
            "receipt_id": bundle.receipt_id,
            "entitlements": len(hosted),
            "sha256": sha256_of(bundle.payload),
        }
        self._register.note(
            Deed.BUNDLE_ISSUED, at=now, customer_id=customer.customer_id, server_id=bundle.server_id, what=told
        )

    def _previous(self, server_id: str) -> Json | None:
        issued = self._register.bundles(server_id)
        if not issued:
            return None
        payload = issued[-1].payload
        return {name: payload[name] for name in ("sequence", "entitlements", "server_license")}

    def _served(self, server_id: str) -> tuple[Server, Customer]:
        server = server_in(self._register, server_id)
        check_served(server)
        if server.customer_id is None:
            raise NotKnown(
                f"The server {server_id} belongs to no customer yet; fulfil an order for it, "
                "or register its request again with --customer."
            )
        return server, as_told(self._register, server.customer_id)

    # -- receipts -----------------------------------------------------------------------------------------------------

    def issue_receipt(self, report_id: str, *, now: datetime) -> IssuedReceipt:
        """The receipt for an ingested report, signed by this home's keys; asked again, the same one."""
        numbers = _Numbers(document_id=new_id("rcp", self._random), pending_id=new_id("pnd", self._random))

        def decide() -> IssuedReceipt | Pending:
            known = self._register.receipt_of(report_id)
            if known is not None and still_verifies(known, self._keyring.newest):
                return known
            self._keyring.check_reaches("bundle")  # found out before anything is drafted
            return self._drawn_receipt(report_id, numbers, now=now, life=timedelta(days=1))

        def sign(decided: IssuedReceipt | Pending) -> IssuedReceipt | Pending:
            return self._signed(decided, roles=("bundle",), now=now) if isinstance(decided, Pending) else decided

        def settle(signed: IssuedReceipt | Pending) -> IssuedReceipt:
            return self._record_receipt(signed, now=now) if isinstance(signed, Pending) else signed

        return settled_in_rounds(
            self._register,
            self._keyring,
            what=f"The receipt for the report {report_id}",
            decide=decide,
            sign=sign,
            stands=lambda decided: decided == decide(),
            settle=settle,
        )

    def draft_receipt(self, report_id: str, *, now: datetime, life: timedelta = LIFE) -> Drafted:
        """The same unsigned, to be passed around for ``life``."""
        numbers = _Numbers(document_id=new_id("rcp", self._random), pending_id=new_id("pnd", self._random))
        with self._register.transaction():
            self._keyring.refresh()
            pending = self._drawn_receipt(report_id, numbers, now=now, life=life)
            self._pending.add(pending, server_id=report_in(self._register, report_id).server_id)
            return Drafted(pending=pending)

    def _drawn_receipt(self, report_id: str, numbers: _Numbers, *, now: datetime, life: timedelta) -> Pending:
        report = report_in(self._register, report_id)
        receipt = self._register.receipt_of(report_id) or IssuedReceipt(
            receipt_id=numbers.document_id,
            report_id=report_id,
            server_id=report.server_id,
            up_to_seq=report.to_seq,
            made_at=now.replace(microsecond=0),
            token="",
        )
        papers = [Paper(name="receipt", payload=_plain(receipt_words(receipt, head=report.head)))]
        about = {"server": server_in(self._register, report.server_id).name}
        return self._new_pending(Kind.RECEIPT, papers, pending_id=numbers.pending_id, about=about, now=now, life=life)

    def seal_receipt(self, pending: Pending, *, now: datetime) -> IssuedReceipt:
        """The receipt of a draft that enough have signed. Raises PendingRefused, SignaturesMissing."""
        _check_kind(pending, Kind.RECEIPT)
        with self._register.transaction():
            self._keyring.refresh()
            self._pending.check(pending, keys=self._keyring.newest, now=now)
            receipt = self._record_receipt(pending, now=now)
            self._pending.note_sealed(pending, now=now)
            return receipt

    def _record_receipt(self, pending: Pending, *, now: datetime) -> IssuedReceipt:
        token = pending.finished()["receipt"]
        words = Fields(pending.payload("receipt"), place="receipt")
        read = read_receipt(token, self._keyring.newest, words.id("server_id", "lls_"))
        known = self._register.receipt_of(read.report_id)
        if known is not None and known.receipt_id != read.receipt_id:
            raise PendingRefused(
                f"Another receipt for the report {read.report_id} was issued since: {known.receipt_id}."
            )
        receipt = IssuedReceipt(
            receipt_id=read.receipt_id,
            report_id=read.report_id,
            server_id=read.server_id,
            up_to_seq=read.up_to_seq,
            made_at=read.made_at,
            token=token,
        )
        if known is None:
            self._register.add_receipt(receipt)
            self._note_receipt(receipt, now=now)
        else:
            self._register.renew_receipt(receipt.receipt_id, token=token)
        return receipt

    def _note_receipt(self, receipt: IssuedReceipt, *, now: datetime) -> None:
        self._register.note(
            Deed.RECEIPT_ISSUED,
            at=now,
            customer_id=server_in(self._register, receipt.server_id).customer_id,
            server_id=receipt.server_id,
            what={"receipt_id": receipt.receipt_id, "report_id": receipt.report_id, "up_to_seq": receipt.up_to_seq},
        )

    def _receipt_to_renew(self, server_id: str) -> str | None:
        """The report whose receipt this home has to sign again before the next bundle carries it (rule 5)."""
        receipt, keys = self._unsent_receipt(server_id), self._keyring.newest
        if receipt is None or still_verifies(receipt, keys):
            return None
        return receipt.report_id if len(self._keyring.here("bundle")) >= keys.roles["bundle"].threshold else None

    def _receipt_to_carry(self, server_id: str, keys: KeySet) -> tuple[str | None, tuple[str, ...]]:
        """The newest receipt as the key set in force verifies it; or why it does not come along (rule 5)."""
        receipt = self._unsent_receipt(server_id)
        if receipt is None:
            return None, ()
        if still_verifies(receipt, keys):
            return receipt.token, ()
        warning = (
            f"The receipt for the report {receipt.report_id} does not come along: it was signed by earlier keys, and "
            f"others have to sign it again (lls-issuer receipt issue --report {receipt.report_id} --unsigned)."
        )
        return None, (warning,)

    def _unsent_receipt(self, server_id: str) -> IssuedReceipt | None:
        """The newest receipt, unless a later report shows that it arrived: it begins after the line acknowledged.

        That an earlier bundle carried it is no reason to leave it out: sticks get lost; servers skip what they know.
        """
        receipts = self._register.receipts(server_id)
        if not receipts:
            return None
        newest = receipts[-1]
        reports = self._register.reports(server_id=server_id)
        return None if any(report.from_seq > newest.up_to_seq for report in reports) else newest

    # -- signatures ---------------------------------------------------------------------------------------------------

    def sign_here(self, pending: Pending, *, now: datetime) -> Pending:
        """With the signatures of this home's own keys. Raises PendingRefused where none of them may sign."""
        signed = self._signed(pending, now=now)
        if signed == pending:
            raise PendingRefused(
                f"No key of this home can add a signature to this. {pending.still_needed()} Sign with --key FILE."
            )
        return signed

    def _signed(self, pending: Pending, *, roles: Sequence[str] = _ROLES, now: datetime) -> Pending:
        """As far as this home's keys of these roles can."""
        for role in roles:
            keys = self._keyring.newest.roles[role]
            for kid in self._keyring.here(role)[: keys.threshold]:
                if pending.waits_for(kid):
                    pending, _ = pending.signed_by(self._keyring.signer(kid), now=now)
        return pending

    def _keys_in_time(self, now: datetime) -> KeySet:
        keys = self._keyring.newest
        if now > keys.expires_at:
            raise Conflict(
                f"The key set {keys.version} expired at {keys.expires_at:%Y-%m-%d}; run lls-issuer keys rotate."
            )
        return keys


def check_served(server: Server) -> None:
    """Raises Conflict for a server that was retired."""
    if server.retired_at is not None:
        raise Conflict(
            f"The server {server.server_id} was retired on {server.retired_at:%Y-%m-%d}: nothing is issued to it any "
            "more, and its certificate ends by itself. A machine that is installed anew has a new server id; register "
            "that, and host there what is free (lls-issuer entitlement host)."
        )


def _check_kind(pending: Pending, kind: Kind) -> None:
    if pending.kind is not kind:
        raise PendingRefused(
            f"This file becomes a {pending.kind.value} and no {kind.value}: lls-issuer {pending.kind.value} seal."
        )


def _plain(document: Json) -> dict[str, object]:
    """As it will be read from the file, so that it has the same fingerprint here and there."""
    return read_json(write_json(document))


def _product(sold: Sold) -> str:
    return Fields(sold.document, place="entitlement").object("product").word("key")


def _warnings(hosted: Sequence[Sold], *, ends_at: datetime, by_license: bool, now: datetime) -> Iterator[str]:
    if not hosted:
        yield "The bundle carries no entitlement: this server hosts nothing now."
    for sold in hosted:
        # What its first lease has not begun has no end yet; if it began now, it would have one.
        document = begun(sold.document, now) if has_not_begun(sold.document) else sold.document
        expires_at = Fields(document, place="entitlement").optional_instant("expires_at")
        if expires_at is None or expires_at > ends_at:
            yield (
                f"The server's {'licence' if by_license else 'certificate'} ends on {ends_at:%Y-%m-%d}, before some "
                "entitlement does: issue and carry over another bundle well before that day, or no new lease is "
                "granted then."
            )
            return
