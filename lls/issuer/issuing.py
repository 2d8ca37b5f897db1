"""Bundles and receipts: drafted, signed by this home or passed around, sealed, and remembered.

Rules
1. A draft takes a sequence that is above everything either side has seen, and stands in the register with its
   fingerprint before anybody can sign it.
2. Where this home has the keys that the thresholds demand, drafting, signing and sealing are one transaction
   (``issue_bundle``, ``issue_receipt``). Else the draft is written as a file that is passed around (``pending``), and
   sealing is a transaction of its own.
3. Sealing takes what was drafted here and nothing else: the same fingerprint, under the key set in force, in time, and
   only while no newer bundle was issued to that server, which would then refuse this one.
4. What leaves was read with the appliance's own reader first, and encrypted to the server as it is now.
5. A receipt that this home cannot sign again after a rotation is left out of the bundle, and the bundle says so: it
   goes by its own file.

It refuses to own what the documents say (``issue``) and who signs (``keyring``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

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
from lls.licensing.fields import Fields, write_instant
from lls.signed.bundle import seal_signed, verify_stored
from lls.signed.encoding import read_json, write_json
from lls.signed.keys import KeySet
from lls.signed.receipt import read_receipt


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


class Issuing:
    """See the module. ``terms`` gives the standing terms of a server."""

    def __init__(
        self,
        register: Register,
        *,
        keyring: Keyring,
        terms: Callable[[str], Terms],
        random: Random,
    ) -> None:
        self._register = register
        self._pending = PendingRegister(register)
        self._keyring = keyring
        self._terms = terms
        self._random = random

    # -- bundles ------------------------------------------------------------------------------------------------------

    def issue_bundle(self, server_id: str, *, now: datetime, terms: Terms | None = None) -> WrittenBundle:
        """A bundle with the current state of all that the server hosts, signed by this home's keys.

        ``terms`` None: the server's own. Raises SignaturesMissing where other people have to sign.
        """
        with self._register.transaction():
            self._keyring.refresh()
            self._keyring.signers("bundle")  # found out before anything is drafted
            drafted = self._draft(server_id, now=now, terms=terms, life=timedelta(days=1))
            signed = self._signed(drafted.pending, "certificate", "bundle", now=now)
            written = self._seal_bundle(signed, now=now)
        return replace(written, warnings=(*drafted.warnings, *written.warnings))

    def draft_bundle(
        self, server_id: str, *, now: datetime, terms: Terms | None = None, life: timedelta = LIFE
    ) -> Drafted:
        """The same unsigned, to be passed around for ``life``; a new certificate is signed as far as this home can."""
        with self._register.transaction():
            self._keyring.refresh()
            drafted = self._draft(server_id, now=now, terms=terms, life=life)
            return replace(drafted, pending=self._signed_here(drafted.pending, "certificate", now=now))

    def _draft(self, server_id: str, *, now: datetime, terms: Terms | None, life: timedelta) -> Drafted:
        keys = self._keys_in_time(now)
        server, customer = self._served(server_id)
        terms = terms or self._terms(server_id)
        hosted = self._register.entitlements(server_id=server_id)
        products = sorted({_product(sold) for sold in hosted})
        present = present_certificate(server, customer, products=products, keys=keys, now=now)
        ends_at = now.replace(microsecond=0) + terms.certificate_life if present is None else present.not_after
        receipt, warning = self._receipt_to_carry(server, keys, now=now)
        sequence = server.bundle_sequence + 1
        payload = bundle_payload(
            server,
            customer,
            hosted,
            bundle_id=new_id("bnd", self._random),
            sequence=sequence,
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
        self._register.put_server(replace(server, bundle_sequence=sequence))
        about = {"server": server.name, "previous": self._previous(server_id)}
        pending = self._new_pending(Kind.BUNDLE, papers, keys=keys, about=about, now=now, life=life)
        self._pending.add(pending, server_id=server_id)
        return Drafted(pending=pending, warnings=warning)

    def _new_pending(
        self, kind: Kind, papers: Sequence[Paper], *, keys: KeySet, about: Json, now: datetime, life: timedelta
    ) -> Pending:
        return Pending(
            pending_id=new_id("pnd", self._random),
            kind=kind,
            keys=keys,
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
            return self._seal_bundle(pending, now=now)

    def _seal_bundle(self, pending: Pending, *, now: datetime) -> WrittenBundle:
        """Rules 3 and 4."""
        keys = self._keys_in_time(now)
        self._pending.check(pending, keys=keys, now=now)
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
            self._pending.note_sealed(pending, now=now)
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
        with self._register.transaction():
            self._keyring.refresh()
            keys, known = self._keyring.newest, self._register.receipt_of(report_id)
            if known is not None and still_verifies(known, keys):
                return known
            self._keyring.signers("bundle")
            drafted = self._draft_receipt(report_id, now=now, life=timedelta(days=1))
            return self._seal_receipt(self._signed(drafted, "bundle", now=now), now=now)

    def draft_receipt(self, report_id: str, *, now: datetime, life: timedelta = LIFE) -> Drafted:
        """The same unsigned, to be passed around for ``life``."""
        with self._register.transaction():
            self._keyring.refresh()
            return Drafted(pending=self._draft_receipt(report_id, now=now, life=life))

    def _draft_receipt(self, report_id: str, *, now: datetime, life: timedelta) -> Pending:
        report = report_in(self._register, report_id)
        receipt = self._register.receipt_of(report_id) or IssuedReceipt(
            receipt_id=new_id("rcp", self._random),
            report_id=report_id,
            server_id=report.server_id,
            up_to_seq=report.to_seq,
            made_at=now.replace(microsecond=0),
            token="",
        )
        papers = [Paper(name="receipt", payload=_plain(receipt_words(receipt, head=report.head)))]
        about = {"server": server_in(self._register, report.server_id).name}
        keys = self._keyring.newest
        pending = self._new_pending(Kind.RECEIPT, papers, keys=keys, about=about, now=now, life=life)
        self._pending.add(pending, server_id=report.server_id)
        return pending

    def seal_receipt(self, pending: Pending, *, now: datetime) -> IssuedReceipt:
        """The receipt of a draft that enough have signed. Raises PendingRefused, SignaturesMissing."""
        _check_kind(pending, Kind.RECEIPT)
        with self._register.transaction():
            self._keyring.refresh()
            return self._seal_receipt(pending, now=now)

    def _seal_receipt(self, pending: Pending, *, now: datetime) -> IssuedReceipt:
        keys = self._keyring.newest
        self._pending.check(pending, keys=keys, now=now)
        token = pending.finished()["receipt"]
        words = Fields(pending.payload("receipt"), place="receipt")
        read = read_receipt(token, keys, words.id("server_id", "lls_"))
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
        self._pending.note_sealed(pending, now=now)
        return receipt

    def _note_receipt(self, receipt: IssuedReceipt, *, now: datetime) -> None:
        self._register.note(
            Deed.RECEIPT_ISSUED,
            at=now,
            customer_id=server_in(self._register, receipt.server_id).customer_id,
            server_id=receipt.server_id,
            what={"receipt_id": receipt.receipt_id, "report_id": receipt.report_id, "up_to_seq": receipt.up_to_seq},
        )

    def _receipt_to_carry(self, server: Server, keys: KeySet, *, now: datetime) -> tuple[str | None, tuple[str, ...]]:
        """The newest receipt as the key set in force verifies it; or why it does not come along (rule 5)."""
        receipt = self._unsent_receipt(server)
        if receipt is None:
            return None, ()
        if still_verifies(receipt, keys):
            return receipt.token, ()
        if len(self._keyring.here("bundle")) >= keys.roles["bundle"].threshold:
            return self.issue_receipt(receipt.report_id, now=now).token, ()
        warning = (
            f"The receipt for the report {receipt.report_id} does not come along: it was signed by earlier keys, and "
            f"others have to sign it again (lls-issuer receipt issue --report {receipt.report_id} --unsigned)."
        )
        return None, (warning,)

    def _unsent_receipt(self, server: Server) -> IssuedReceipt | None:
        """The newest receipt, unless a later report shows that it arrived: it begins after the line acknowledged.

        That an earlier bundle carried it is no reason to leave it out: sticks get lost; servers skip what they know.
        """
        receipts = self._register.receipts(server.server_id)
        if not receipts:
            return None
        newest = receipts[-1]
        reports = self._register.reports(server_id=server.server_id)
        return None if any(report.from_seq > newest.up_to_seq for report in reports) else newest

    # -- signatures ---------------------------------------------------------------------------------------------------

    def sign_here(self, pending: Pending, *, now: datetime) -> Pending:
        """With the signatures of this home's own keys. Raises PendingRefused where none of them may sign."""
        signed = self._signed_here(pending, "certificate", "bundle", now=now)
        if signed == pending:
            raise PendingRefused(
                f"No key of this home can add a signature to this. {pending.still_needed()} Sign with --key FILE."
            )
        return signed

    def _signed(self, pending: Pending, *roles: str, now: datetime) -> Pending:
        """Complete, or SignaturesMissing."""
        signed = self._signed_here(pending, *roles, now=now)
        for role in {need.role for need in signed.needs() if need.missing}:
            self._keyring.signers(role)
        return signed

    def _signed_here(self, pending: Pending, *roles: str, now: datetime) -> Pending:
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
