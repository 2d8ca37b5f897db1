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
1. Each method is done whole, or refused with nothing changed. It is one transaction; what signs is two, and signs
   between them (``rounds``).
2. What is handed out is in the register first: no file is anywhere that the register does not know. A crash in
   between, or a signature that fails, costs a sequence number, which may have gaps.
3. Sequences rise above everything either side has seen: the register's own, and the one in the server's newest
   request.

It refuses to own files other than its home's, and the clock.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from lls.issuer.amending import Amending, Changed
from lls.issuer.auditing import Audit
from lls.issuer.balances import Balances
from lls.issuer.billing import BillingLine
from lls.issuer.binding import HOST, KEY_ONLY, changed_parts, check_bindable, check_same_machine
from lls.issuer.catalog import Action, Catalog
from lls.issuer.catalog_file import read_catalog
from lls.issuer.closing import Closing
from lls.issuer.customers import Customers
from lls.issuer.founding import KEYS, REGISTER, SAMPLE_CATALOG, found
from lls.issuer.history import Deed, Who
from lls.issuer.hosting import Hosting
from lls.issuer.ids import Random
from lls.issuer.ingest import Ingested, Progress
from lls.issuer.issuing import NO_TERMS, Issuing, WrittenBundle, check_served
from lls.issuer.keyring import OWN_KEYS, Change, Keyring, are_encrypted
from lls.issuer.lookup import customer_in, entitlement_in, report_in, server_in
from lls.issuer.order_table import read_order_table
from lls.issuer.ordering import Fulfilled, Ordering
from lls.issuer.orders import NewCustomer, read_orders
from lls.issuer.pending import Pending
from lls.issuer.receiving import Receiving
from lls.issuer.refusals import CatalogRefused, Conflict, HomeRefused, NotKnown
from lls.issuer.register import (
    CatalogVersion,
    Customer,
    IngestedReport,
    IssuedReceipt,
    Json,
    Register,
    Server,
    Sold,
)
from lls.issuer.restoring import Answered, Restoring
from lls.issuer.rotating import Rotating
from lls.issuer.serving import Serving
from lls.licensing.fields import write_instant
from lls.signed.keys import KeySet
from lls.signed.request import ActivationRequest, read_request


class Issuer:
    """One vendor's issuer. A context manager; one thread at a time."""

    def __init__(
        self,
        home: Path,
        *,
        now: datetime,
        passphrase: bytes | None = None,
        random: Random = secrets.token_bytes,
        who: Who | None = None,
    ) -> None:
        """Opens what :meth:`create` made. The passphrase is needed by what signs or decrypts only.

        ``who`` acts and why, for the history; else the account of the operating system.
        """
        if not (home / KEYS).is_dir():
            raise HomeRefused(f"{home} is no issuer's home; make one with lls-issuer init, or check --home.")
        self.home = home
        self.keyring = Keyring(home / KEYS, passphrase=passphrase)
        self.register = Register(home / REGISTER, now=now, who=who)
        self.hosting = Hosting(self.register, random=random)
        self.amending = Amending(self.register, random=random)
        self.customers = Customers(self.register, self.amending, random=random)
        self.audit = Audit(self.register)
        self.serving = Serving(self.register, random=random)
        self.restoring = Restoring(self.register, random=random)
        self.rotating = Rotating(self.register, keyring=self.keyring, random=random)
        self.issuing = Issuing(self.register, keyring=self.keyring, terms=self.serving.terms, random=random)
        self.receiving = Receiving(self.register, keyring=self.keyring)
        self.first_keys: Pending | None = None
        """The first key set, where other people have to sign it: what :meth:`create` has to pass around."""
        self.closing = Closing(self.register)
        self.balances = Balances(self.register, random=random)
        self.ordering = Ordering(
            self.register,
            amending=self.amending,
            balances=self.balances,
            add_customer=self._new_customer,
            in_force=self._in_force,
            random=random,
        )
        self._random = random
        self._catalogs: dict[int, Catalog] = {}

    @classmethod
    def create(
        cls,
        home: Path,
        *,
        now: datetime,
        passphrase: bytes | None,
        random: Random = secrets.token_bytes,
        who: Who | None = None,
        keys: Change = OWN_KEYS,
    ) -> Issuer:
        """Makes keys, register and a sample catalogue. ``passphrase`` None, for tests and demos: keys in the clear.

        ``keys`` says whose keys the first set has; where others must sign it, it is in ``first_keys``, and in the home
        as a file to pass around. Killed midway, it leaves what the next call replaces (``founding``).
        """
        pending = found(home, now=now, passphrase=passphrase, random=random, who=who, keys=keys)
        made = cls(home, now=now, passphrase=passphrase, random=random, who=who)
        made.first_keys = pending
        return made

    @staticmethod
    def needs_passphrase(home: Path) -> bool:
        """Whether the private keys in that home are encrypted."""
        return are_encrypted(home / KEYS)

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
        """Puts a catalogue into force for new orders; the one in force already stays as it is."""
        catalog = read_catalog(text)
        with self.register.transaction():
            newest = self.register.newest_catalog()
            if newest is None or newest.text != text:
                self.register.add_catalog(text, now=now)
                self.register.note(Deed.CATALOG_LOADED, at=now, what={"sha256": sha256(text.encode()).hexdigest()})
        return catalog

    def catalog(self, version: int | None = None) -> Catalog:
        """The catalogue in force, or an earlier version."""
        return self.catalog_version(version)[0]

    def catalog_version(self, version: int | None = None) -> tuple[Catalog, CatalogVersion]:
        """The same with its number and its text. Raises CatalogRefused and NotKnown."""
        if version is None:
            kept = self.register.newest_catalog()
        else:
            kept = next(iter(self.register.catalogs(version=version)), None)
        if kept is None and version is not None:
            raise NotKnown(f"There is no version {version} of the catalogue; see lls-issuer catalog list.")
        if kept is None:
            raise CatalogRefused(
                f"No catalogue is loaded yet; a sample is in {self.home / SAMPLE_CATALOG}: "
                "lls-issuer catalog load FILE."
            )
        if kept.version not in self._catalogs:
            self._catalogs[kept.version] = read_catalog(kept.text)  # a version never changes
        return self._catalogs[kept.version], kept

    def _in_force(self) -> tuple[Catalog, int]:
        catalog, kept = self.catalog_version()
        return catalog, kept.version

    def put_customer(
        self, account_ref: str, *, name: str, custom_fields: Mapping[str, str] | None = None, now: datetime
    ) -> Customer:
        """Adds the customer of that account reference, or changes its name, and its fields where some are given."""
        return self.customers.put(account_ref, name=name, custom_fields=custom_fields, now=now)

    def customer(self, key: str) -> Customer:
        """By account reference or id. Raises :class:`NotKnown`."""
        return customer_in(self.register, key)

    # -- servers ------------------------------------------------------------------------------------------------------

    def register_server(
        self,
        request: bytes | str,
        *,
        customer: str | None = None,
        binding: str | None = None,
        rebind: str | None = None,
        now: datetime,
    ) -> Server:
        """Takes an activation request in: a new server, or the newer state of one that is known.

        ``customer`` is an account reference; without it the first order settles whose server it is. ``rebind``: why a
        request from another machine is believed (:mod:`lls.issuer.binding`). Raises :class:`Conflict` when the server
        id is known with another signing key, from a newer request, or from another machine.
        """
        asked = read_request(request)
        if asked.restores and self.register.server(asked.server_id) is not None:
            raise Conflict(
                f"The server {asked.server_id} was put back from a backup and asks where to go on. Take the request in "
                "with: lls-issuer server adopt FILE"
            )
        with self.register.transaction():
            known = self.register.server(asked.server_id)
            if known is not None:
                check_served(known)
                _check_key(asked, known)
                _check_newer(asked, known)
            self._check_branch(asked)
            owner = self.customer(customer).customer_id if customer else known.customer_id if known else None
            if known is not None and known.customer_id not in (None, owner):
                raise Conflict(f"The server {asked.server_id} belongs to another customer than {customer}.")
            server = _server(asked, known, customer_id=owner, binding=binding, now=now)
            moved = self._check_machine(known, server, rebind=rebind)
            self.register.put_server(server)
            self._note_server(server, {"again": known is not None, **moved}, now=now)
        return server

    def adopt(
        self,
        request: bytes | str,
        *,
        confirm: str | None,
        binding: str | None = None,
        rebind: str | None = None,
        now: datetime,
    ) -> Answered:
        """Takes in the request of a server that was put back from a backup, and orders it to go on.

        ``rebind`` as for :meth:`register_server`. Raises NotKnown, and Conflict where its journal is not one that can
        go on, or its machine is another one.
        """
        asked = read_request(request)
        with self.register.transaction():
            known = server_in(self.register, asked.server_id)
            check_served(known)
            _check_key(asked, known)
            if not asked.restores:
                raise Conflict(f"The request of {known.server_id} is not of a server that was put back from a backup.")
            if asked.made_at < known.request_made_at:
                raise Conflict(
                    f"The request of {known.server_id} was made before the one registered, of "
                    f"{write_instant(known.request_made_at)}. Ask the site for a new one: lls server request -o FILE."
                )
            if confirm != known.name:
                raise Conflict(
                    f"After this the server {known.server_id} uses up units again, and what it has used and never "
                    "reported is not billed. Look at its last report, then confirm with the server's name: "
                    f"--confirm {known.name!r}."
                )
            server = _server(asked, known, customer_id=known.customer_id, binding=binding, now=now)
            moved = self._check_machine(known, server, rebind=rebind)
            self.register.put_server(server)
            self._note_server(server, {"again": True, **moved}, now=now)
            return self.restoring.answer(asked, server, now=now)

    def _check_machine(self, known: Server | None, server: Server, *, rebind: str | None) -> Json:
        terms = self.serving.terms(server.server_id)
        check_bindable(server.server_id, server.host, binding=server.binding, required=terms.required)
        if known is None:
            return {}
        if server.binding == HOST:
            check_same_machine(known, server.host, terms, rebind=rebind)
        changed = changed_parts(known, server.host, terms)
        return {"changed_parts": changed, "rebind": rebind} if changed else {}

    def _note_server(self, server: Server, more: Json, *, now: datetime) -> None:
        told = {key: getattr(server, key) for key in ("name", "version", "binding", "keys_version", "fingerprint")}
        self.register.note(
            Deed.SERVER_REGISTERED,
            at=now,
            customer_id=server.customer_id,
            server_id=server.server_id,
            what={**told, **more},
        )

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

    def fulfil(self, orders: bytes, *, table: bool = False, now: datetime) -> list[Fulfilled]:
        """Fulfils one order or several (JSON; ``table``: CSV), all or none; what was fulfilled before stays so."""
        return self.ordering.fulfil(read_order_table(orders) if table else read_orders(orders), now=now)

    def upgrade(self, entitlement_id: str, *, sku: str, ref: str | None = None, now: datetime) -> Changed:
        """Another edition, by an offering of the catalogue in force. Raises NotKnown and Conflict."""
        catalog, version = self._in_force()
        offering = catalog.offerings.get(sku)
        if offering is None or Action.UPGRADE not in offering.actions:
            raise NotKnown(f"There is no SKU {sku} that upgrades something; see lls-issuer catalog show.")
        return self.amending.upgrade(entitlement_id, offering, catalog, version=version, ref=ref, now=now)

    def _new_customer(self, account_ref: str, customer: NewCustomer, now: datetime) -> Customer:
        return self.put_customer(account_ref, name=customer.name, custom_fields=customer.custom_fields, now=now)

    def entitlement(self, entitlement_id: str) -> Sold:
        """By id. Raises :class:`NotKnown`."""
        return entitlement_in(self.register, entitlement_id)

    # -- bundles and receipts -----------------------------------------------------------------------------------------

    def issue_bundle(self, server_id: str, *, now: datetime, terms: Json = NO_TERMS) -> WrittenBundle:
        """A bundle with the current state of all that the server hosts. Write ``data`` to a file and carry it over.

        ``terms`` are other ones for this bundle alone, such as ``{"sync_days": 7}``.
        """
        return self.issuing.issue_bundle(server_id, now=now, terms=terms)

    def issue_receipt(self, report_id: str, *, now: datetime) -> IssuedReceipt:
        """The receipt for an ingested report; asked again, the same one."""
        return self.issuing.issue_receipt(report_id, now=now)

    def report(self, report_id: str) -> IngestedReport:
        """By id. Raises :class:`NotKnown`."""
        return report_in(self.register, report_id)

    # -- reports and usage --------------------------------------------------------------------------------------------

    def ingest(
        self, path: Path, *, now: datetime, server_id: str | None = None, progress: Progress = lambda _done, _all: None
    ) -> Ingested:
        """Takes a usage report in, or recognises one that was; see :mod:`lls.issuer.ingest`."""
        return self.receiving.ingest(path, now=now, server_id=server_id, progress=progress)

    def usage(self, *, customer: str | None = None, period: str | None = None) -> list[BillingLine]:
        """Billing lines of all, or of one customer (account reference or id), or of one month (``2026-11``)."""
        return self.closing.lines(customer_id=self.customer(customer).customer_id if customer else None, period=period)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def rotate_keys(self, *, now: datetime) -> KeySet:
        """Version n+1 of the key set with new keys; the next bundle of each server carries it."""
        return self.rotating.rotate(now=now)


def _server(
    asked: ActivationRequest, known: Server | None, *, customer_id: str | None, binding: str | None, now: datetime
) -> Server:
    chosen = binding or (known.binding if known else KEY_ONLY)
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


def _check_key(asked: ActivationRequest, known: Server) -> None:
    if dict(known.signing_jwk) != dict(asked.signing_jwk):
        raise Conflict(
            f"The server {asked.server_id} is registered with another signing key. If it was installed anew, "
            "it has a new server id; if not, somebody else uses its id."
        )


def _check_newer(asked: ActivationRequest, known: Server) -> None:
    """An old request, found on a stick, would seal the next bundle to a key that the server no longer has."""
    if asked.made_at >= known.request_made_at and asked.seq >= known.journal_seq:
        return
    raise Conflict(
        f"The request of {asked.server_id} is older than the one registered: it was made at "
        f"{write_instant(asked.made_at)} with the journal at line {asked.seq}, the one registered at "
        f"{write_instant(known.request_made_at)} at line {known.journal_seq}. Ask the site for a new one: lls server "
        "request -o FILE. If a new one is older too, the server was set back to an earlier state without its knowing: "
        "have the site put a backup back with lls restore, which tells it, and ask for a request of then."
    )
