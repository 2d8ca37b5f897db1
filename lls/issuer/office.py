"""The vendor's office: the one place where keys, register and rules meet.

Everything the commands do is a method here, of its ``hosting`` (where entitlements live) or of its ``amending`` (what
changes of them).

    with Issuer(home, passphrase=b"…", now=now) as issuer:
        issuer.load_catalog(text, now=now)
        server = issuer.register_server(request, now=now)
        issuer.fulfil(order_json, now=now)
        bundle = issuer.issue_bundle(server.server_id, now=now)
        taken = issuer.ingest(path, now=now)
        receipt = issuer.issue_receipt(taken.report.report_id, now=now)
        issuer.hosting.accept_return(document, now=now)
        issuer.amending.renew(entitlement_id, now=now)

Rules
1. Each method is one transaction: done whole, or refused with nothing changed.
2. What is handed out is in the register first: no file is anywhere that the register does not know. A crash in
   between costs a sequence number, which may have gaps.
3. Sequences rise above everything either side has seen: the register's own, and the one in the server's newest
   request.

It refuses to own files other than its home's, and the clock.
"""

from __future__ import annotations

import functools
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lls.faults import RefusedDocument
from lls.issuer.amending import Amending, begun, has_not_begun
from lls.issuer.billing import BillingLine, billing_lines
from lls.issuer.catalog import Catalog, read_catalog
from lls.issuer.files import write_whole
from lls.issuer.hosting import Hosting
from lls.issuer.ids import Random, new_id
from lls.issuer.ingest import Ingested, Progress, ingest
from lls.issuer.issue import Terms, bundle_payload, certificate_for, current_receipt, seal, sign_receipt
from lls.issuer.keyring import Keyring, are_encrypted
from lls.issuer.lookup import customer_in, entitlement_in, report_in, server_in
from lls.issuer.orders import Order, fulfil, read_custom_fields, read_orders
from lls.issuer.refusals import CatalogRefused, Conflict, HomeRefused, NotKnown, OrderRefused
from lls.issuer.register import (
    Customer,
    IngestedReport,
    IssuedBundle,
    IssuedReceipt,
    Register,
    Sale,
    Server,
    Sold,
)
from lls.licensing.entitlement import normalise_code
from lls.licensing.fields import Fields, write_instant
from lls.signed.keys import KeySet
from lls.signed.request import ActivationRequest, read_request

SAMPLE_CATALOG: Final = "catalog.toml"
_REGISTER: Final = "register.sqlite"
_KEYS: Final = "keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fulfilled:
    """What became of an order; ``again`` when it had been fulfilled before."""

    order_ref: str
    server_id: str
    customer: Customer
    entitlements: tuple[Sold, ...]
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBundle:
    """A bundle and its file's bytes; ``warnings`` are sentences for whoever carries it."""

    bundle: IssuedBundle
    data: bytes
    entitlements: tuple[Sold, ...]
    certificate_ends_at: datetime
    warnings: tuple[str, ...]


class Issuer:
    """One vendor's issuer. A context manager; one thread at a time."""

    def __init__(
        self, home: Path, *, now: datetime, passphrase: bytes | None = None, random: Random = secrets.token_bytes
    ) -> None:
        """Opens what :meth:`create` made. The passphrase is needed by what signs or decrypts only."""
        if not (home / _KEYS).is_dir():
            raise HomeRefused(f"{home} is no issuer's home; make one with lls-issuer init, or check --home.")
        self.home = home
        self.keyring = Keyring(home / _KEYS, passphrase=passphrase)
        self.register = Register(home / _REGISTER, now=now)
        self.hosting = Hosting(self.register, random=random)
        self.amending = Amending(self.register, random=random)
        self._random = random

    @classmethod
    def create(
        cls, home: Path, *, now: datetime, passphrase: bytes | None, random: Random = secrets.token_bytes
    ) -> Issuer:
        """Makes keys, register and a sample catalogue. ``passphrase`` None, for tests and demos: keys in the clear."""
        if (home / _KEYS).exists() or (home / _REGISTER).exists():
            raise HomeRefused(f"{home} holds an issuer already, and its keys are not replaced; choose another --home.")
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            Register(home / _REGISTER, now=now, create=True).close()
            if not (home / SAMPLE_CATALOG).exists():
                write_whole(home / SAMPLE_CATALOG, sample_catalog().encode())
            Keyring.create(home / _KEYS, passphrase=passphrase, now=now)
        except BaseException as failure:
            # Half an issuer would be taken for a whole one by the next init.
            shutil.rmtree(home / _KEYS, ignore_errors=True)
            (home / _REGISTER).unlink(missing_ok=True)
            if isinstance(failure, OSError):
                raise HomeRefused(f"{home} cannot be used: {failure.strerror}.") from failure
            raise
        return cls(home, now=now, passphrase=passphrase, random=random)

    @staticmethod
    def needs_passphrase(home: Path) -> bool:
        """Whether the private keys in that home are encrypted."""
        return are_encrypted(home / _KEYS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the register."""
        self.register.close()

    # -- catalogue and customers --------------------------------------------------------------------------------------

    def load_catalog(self, text: str, *, now: datetime) -> Catalog:
        """Puts a catalogue into force for new orders."""
        catalog = read_catalog(text)
        with self.register.transaction():
            if self.register.catalog_text() != text:
                self.register.add_catalog(text, now=now)
        return catalog

    def catalog(self) -> Catalog:
        """The catalogue in force."""
        text = self.register.catalog_text()
        if text is None:
            raise CatalogRefused(
                f"No catalogue is loaded yet; a sample is in {self.home / SAMPLE_CATALOG}: "
                "lls-issuer catalog load FILE."
            )
        return read_catalog(text)

    def put_customer(
        self, account_ref: str, *, name: str, custom_fields: Mapping[str, str] | None = None, now: datetime
    ) -> Customer:
        """Adds the customer of that account reference, or changes its name, and its fields where some are given."""
        try:
            given = Fields({"account_ref": account_ref, "name": name}, place="customer")
            account_ref, name = given.text("account_ref", most=100), given.text("name")
            own = None if custom_fields is None else read_custom_fields(custom_fields, place="customer.custom_fields")
        except RefusedDocument as refused:
            raise Conflict(f"The customer was refused: {refused.detail}") from refused
        with self.register.transaction():
            known = self.register.customer(account_ref)
            if known is not None:
                customer = replace(known, name=name, custom_fields=known.custom_fields if own is None else own)
            else:
                customer = Customer(
                    customer_id=new_id("cus", self._random),
                    account_ref=account_ref,
                    name=name,
                    custom_fields=own or {},
                    created_at=now,
                )
            self.register.put_customer(customer)
        return customer

    def customer(self, key: str) -> Customer:
        """By account reference or id. Raises :class:`NotKnown`."""
        return customer_in(self.register, key)

    # -- servers ------------------------------------------------------------------------------------------------------

    def register_server(
        self, request: bytes | str, *, customer: str | None = None, binding: str | None = None, now: datetime
    ) -> Server:
        """Takes an activation request in: a new server, or the newer state of one that is known.

        ``customer`` is an account reference; without it the first order settles whose server it is. Raises
        :class:`Conflict` when the server id is known with another signing key, or from a newer request.
        """
        asked = read_request(request)
        with self.register.transaction():
            known = self.register.server(asked.server_id)
            if known is not None:
                _check_served(known)
            if known is not None and dict(known.signing_jwk) != dict(asked.signing_jwk):
                raise Conflict(
                    f"The server {asked.server_id} is registered with another signing key. If it was installed anew, "
                    "it has a new server id; if not, somebody else uses its id."
                )
            if known is not None:
                _check_newer(asked, known)
            self._check_branch(asked)
            owner = self.customer(customer).customer_id if customer else known.customer_id if known else None
            if known is not None and known.customer_id not in (None, owner):
                raise Conflict(f"The server {asked.server_id} belongs to another customer than {customer}.")
            server = _server(asked, known, customer_id=owner, binding=binding, now=now)
            self.register.put_server(server)
        return server

    def _check_branch(self, asked: ActivationRequest) -> None:
        reported = self.register.journal_hash(asked.server_id, asked.seq)
        if reported is not None and reported != asked.head:
            raise Conflict(
                f"The journal of the server {asked.server_id} is forked: its line {asked.seq} is not the one "
                "that it reported. Two copies of it run, or it was set back; settle that with the site before selling."
            )

    def server(self, server_id: str) -> Server:
        """By id. Raises :class:`NotKnown`."""
        return server_in(self.register, server_id)

    # -- orders -------------------------------------------------------------------------------------------------------

    def fulfil(self, orders: bytes, *, now: datetime) -> list[Fulfilled]:
        """Fulfils one order or a list of them (JSON), all or none; one fulfilled before gives what it gave then."""
        read = read_orders(orders)
        catalog = functools.cache(self.catalog)  # one reading for all, and none where every order is an old one
        with self.register.transaction():
            return [self._fulfil(order, catalog, now=now) for order in read]

    def _fulfil(self, order: Order, catalog: Callable[[], Catalog], *, now: datetime) -> Fulfilled:
        before = self.register.sale(order.order_ref)
        if before is not None:
            return self._fulfilled_before(order, before)
        server = self.register.server(order.server_id)
        if server is None:
            raise OrderRefused(
                f"The order {order.order_ref} was refused: the server {order.server_id} is not registered; "
                "register its request first: lls-issuer server register REQUEST."
            )
        if server.retired_at is not None:
            raise OrderRefused(
                f"The order {order.order_ref} was refused: the server {server.server_id} was retired on "
                f"{server.retired_at:%Y-%m-%d}; name another server of this customer."
            )
        customer = self._buyer(order, now=now)
        if server.customer_id is None:
            self.register.put_server(replace(server, customer_id=customer.customer_id))
        elif server.customer_id != customer.customer_id:
            raise OrderRefused(
                f"The order {order.order_ref} was refused: it is for the account {order.account_ref}, but the server "
                f"{server.server_id} belongs to {self.customer(server.customer_id).account_ref}."
            )
        documents = fulfil(order, catalog(), now=now, random=self._random)
        sold = [
            Sold(
                entitlement_id=str(document["entitlement_id"]),
                order_ref=order.order_ref,
                line=line.line,
                customer_id=customer.customer_id,
                server_id=server.server_id,
                document=document,
                created_at=now,
            )
            for line, document in zip(order.lines, documents, strict=True)
        ]
        sale = Sale(
            order_ref=order.order_ref,
            sha256=order.sha256,
            customer_id=customer.customer_id,
            server_id=server.server_id,
            document=order.document,
            fulfilled_at=now,
        )
        self.register.add_sale(sale, sold, _codes(sold))
        return Fulfilled(
            order_ref=order.order_ref,
            server_id=server.server_id,
            customer=customer,
            entitlements=tuple(sold),
            again=False,
        )

    def _fulfilled_before(self, order: Order, sale: Sale) -> Fulfilled:
        if sale.sha256 != order.sha256:
            raise OrderRefused(
                f"The order {order.order_ref} was fulfilled before with other content; "
                "a new order needs a new order_ref."
            )
        return Fulfilled(
            order_ref=order.order_ref,
            server_id=sale.server_id,
            customer=self.customer(sale.customer_id),
            entitlements=tuple(self.register.entitlements(order_ref=order.order_ref)),
            again=True,
        )

    def _buyer(self, order: Order, *, now: datetime) -> Customer:
        known = self.register.customer_by_account(order.account_ref)
        if known is not None:
            return known
        if order.customer is None:
            raise OrderRefused(
                f"The order {order.order_ref} was refused: there is no customer {order.account_ref}; "
                "add it (lls-issuer customer add), or describe it in the order's member customer."
            )
        return self.put_customer(
            order.account_ref, name=order.customer.name, custom_fields=order.customer.custom_fields, now=now
        )

    def entitlement(self, entitlement_id: str) -> Sold:
        """By id. Raises :class:`NotKnown`."""
        return entitlement_in(self.register, entitlement_id)

    # -- bundles and receipts -----------------------------------------------------------------------------------------

    def issue_bundle(self, server_id: str, *, now: datetime, terms: Terms = Terms()) -> WrittenBundle:  # noqa: B008 - frozen
        """A bundle with the current state of all that the server hosts. Write ``data`` to a file and carry it over."""
        keys, signers = self.keyring.newest, self.keyring.signers()
        report_key = self.keyring.report_key().public_jwk()
        if now > keys.expires_at:
            raise Conflict(
                f"The key set {keys.version} expired at {keys.expires_at:%Y-%m-%d}; run lls-issuer keys rotate."
            )
        with self.register.transaction():
            server = self.server(server_id)
            _check_served(server)
            if server.customer_id is None:
                raise NotKnown(
                    f"The server {server_id} belongs to no customer yet; fulfil an order for it, "
                    "or register its request again with --customer."
                )
            customer = self.customer(server.customer_id)
            hosted = self.register.entitlements(server_id=server_id)
            products = sorted({_product(sold) for sold in hosted})
            certificate = certificate_for(
                server, customer, products=products, keys=keys, signers=signers, terms=terms, now=now
            )
            receipt = self._unsent_receipt(server)
            sequence = server.bundle_sequence + 1
            payload = bundle_payload(
                server,
                customer,
                hosted,
                bundle_id=new_id("bnd", self._random),
                sequence=sequence,
                certificate=certificate,
                key_sets=self.keyring.after(server.keys_version),
                report_key=report_key,
                receipt=self._receipt_token(receipt) if receipt else None,
                commands=[one.document for one in self.register.pending_commands(server_id)],
                terms=terms,
                now=now,
            )
            data = seal(payload, server, keys=keys, signers=signers)
            bundle = IssuedBundle(
                bundle_id=str(payload["bundle_id"]),
                server_id=server_id,
                sequence=sequence,
                issued_at=now.replace(microsecond=0),
                not_after=now.replace(microsecond=0) + terms.bundle_life,
                receipt_id=receipt.receipt_id if receipt else None,
                payload=payload,
            )
            self.register.add_bundle(bundle)
            self.register.put_server(replace(server, bundle_sequence=sequence, certificate=certificate.token))
        return WrittenBundle(
            bundle=bundle,
            data=data,
            entitlements=tuple(hosted),
            certificate_ends_at=certificate.not_after,
            warnings=tuple(_warnings(hosted, ends_at=certificate.not_after, now=now)),
        )

    def _unsent_receipt(self, server: Server) -> IssuedReceipt | None:
        """The newest receipt, unless a later report shows that it arrived: it begins after the line acknowledged.

        That an earlier bundle carried it is no reason to leave it out: sticks get lost; servers skip what they know.
        """
        receipts = self.register.receipts(server.server_id)
        if not receipts:
            return None
        newest = receipts[-1]
        reports = self.register.reports(server_id=server.server_id)
        return None if any(report.from_seq > newest.up_to_seq for report in reports) else newest

    def _receipt_token(self, receipt: IssuedReceipt) -> str:
        report = self.report(receipt.report_id)
        token = current_receipt(receipt, head=report.head, keys=self.keyring.newest, signers=self.keyring.signers())
        self.register.renew_receipt(receipt.receipt_id, token=token)
        return token

    def issue_receipt(self, report_id: str, *, now: datetime) -> IssuedReceipt:
        """The receipt for an ingested report; asked again, the same one."""
        signers = self.keyring.signers()
        with self.register.transaction():
            report = self.report(report_id)
            known = self.register.receipt_of(report_id)
            if known is not None:
                return replace(known, token=self._receipt_token(known))
            receipt_id, made_at = new_id("rcp", self._random), now.replace(microsecond=0)
            token = sign_receipt(
                receipt_id=receipt_id,
                server_id=report.server_id,
                report_id=report_id,
                up_to_seq=report.to_seq,
                head=report.head,
                made_at=made_at,
                signers=signers,
            )
            receipt = IssuedReceipt(
                receipt_id=receipt_id,
                report_id=report_id,
                server_id=report.server_id,
                up_to_seq=report.to_seq,
                made_at=made_at,
                token=token,
            )
            self.register.add_receipt(receipt)
        return receipt

    def report(self, report_id: str) -> IngestedReport:
        """By id. Raises :class:`NotKnown`."""
        return report_in(self.register, report_id)

    # -- reports and usage --------------------------------------------------------------------------------------------

    def ingest(
        self, path: Path, *, now: datetime, server_id: str | None = None, progress: Progress = lambda _done, _all: None
    ) -> Ingested:
        """Takes a usage report in, or recognises one that was; see :mod:`lls.issuer.ingest`."""
        return ingest(
            path,
            self.register,
            report_key=self.keyring.report_key(),
            now=now,
            server_id=server_id,
            progress=progress,
        )

    def usage(self, *, customer: str | None = None, period: str | None = None) -> list[BillingLine]:
        """Billing lines of all, or of one customer (account reference or id), or of one month (``2026-11``)."""
        customers = {known.customer_id: known for known in self.register.customers()}
        reported_until: dict[str, datetime] = {}
        for report in self.register.reports():
            until = reported_until.get(report.server_id, report.made_at)
            reported_until[report.server_id] = max(until, report.made_at)
        return billing_lines(
            self.register.usage(customer_id=self.customer(customer).customer_id if customer else None, month=period),
            owners={
                server.server_id: customers[server.customer_id]
                for server in self.register.servers()
                if server.customer_id is not None
            },
            reported_until=reported_until,
        )

    # -- keys ---------------------------------------------------------------------------------------------------------

    def rotate_keys(self, *, now: datetime) -> KeySet:
        """Version n+1 of the key set with new keys; the next bundle of each server carries it."""
        with self.register.transaction():  # two rotations at once would make two versions of one number
            self.keyring = self.keyring.reread()
            return self.keyring.rotate(now=now)


def sample_catalog() -> str:
    """The sample that ``init`` writes."""
    return resources.files(__package__).joinpath("sample_catalog.toml").read_text(encoding="utf-8")


def _server(
    asked: ActivationRequest, known: Server | None, *, customer_id: str | None, binding: str | None, now: datetime
) -> Server:
    chosen = binding or (known.binding if known else "key_only")
    if chosen == "host" and not asked.host:
        raise Conflict(f"The request of {asked.server_id} names no parts of its machine, so it cannot be bound to it.")
    return Server(
        server_id=asked.server_id,
        customer_id=customer_id,
        name=asked.name,
        version=asked.version,
        signing_jwk=dict(asked.signing_jwk),
        encryption_jwk=dict(asked.encryption_jwk),
        host=dict(asked.host),
        binding=chosen,
        keys_version=asked.keys_version,
        bundle_sequence=max(asked.bundle_sequence, known.bundle_sequence if known else 0),
        journal_seq=asked.seq,
        request_made_at=asked.made_at,
        registered_at=known.registered_at if known else now,
        certificate=known.certificate if known else None,
    )


def _check_served(server: Server) -> None:
    if server.retired_at is not None:
        raise Conflict(
            f"The server {server.server_id} was retired on {server.retired_at:%Y-%m-%d}: nothing is issued to it any "
            "more, and its certificate ends by itself. A machine that is installed anew has a new server id; register "
            "that, and host there what is free (lls-issuer entitlement host)."
        )


def _check_newer(asked: ActivationRequest, known: Server) -> None:
    """An old request, found on a stick, would seal the next bundle to a key that the server no longer has."""
    if asked.made_at >= known.request_made_at and asked.seq >= known.journal_seq:
        return
    raise Conflict(
        f"The request of {asked.server_id} is older than the one registered: it was made at "
        f"{write_instant(asked.made_at)} with the journal at line {asked.seq}, the one registered at "
        f"{write_instant(known.request_made_at)} at line {known.journal_seq}. Ask the site for a new one: lls server "
        "request -o FILE. If a new one is older too, the server was set back to an earlier state, which this version "
        "cannot take up again: install it anew."
    )


def _codes(sold: Sequence[Sold]) -> dict[str, str]:
    return {
        normalise_code(code): each.entitlement_id
        for each in sold
        for code in Fields(each.document, place="entitlement").texts("activation_codes")
    }


def _product(sold: Sold) -> str:
    return Fields(sold.document, place="entitlement").object("product").word("key")


def _warnings(hosted: Sequence[Sold], *, ends_at: datetime, now: datetime) -> Iterator[str]:
    if not hosted:
        yield "The bundle carries no entitlement: this server hosts nothing now."
    for sold in hosted:
        # What its first lease has not begun has no end yet; if it began now, it would have one.
        document = begun(sold.document, now) if has_not_begun(sold.document) else sold.document
        expires_at = Fields(document, place="entitlement").optional_instant("expires_at")
        if expires_at is None or expires_at > ends_at:
            yield (
                f"The server's certificate ends on {ends_at:%Y-%m-%d}, before some entitlement does: "
                "issue and carry over another bundle well before that day, or no new lease is granted then."
            )
            return
