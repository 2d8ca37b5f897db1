"""The vendor's register: everything that was sold, carried out and brought back.

With ``database`` it is the only SQL of the issuer, but for modules that keep a table of their own.

Rules
1. What changes something notes it in the history, in the same transaction (``history``).
2. What was handed out or taken in is kept word for word. Nothing here decides anything; a constraint that breaks is a
   programming error.

It refuses to own the file and its schema (``database``), the meaning of documents, and the clock: instants are passed
in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lls.issuer.database import Database, Json, SessionEnd, cells_of
from lls.issuer.history import Deed, Who, following, told_of, whoever
from lls.licensing.fields import write_instant
from lls.licensing.journal import Head
from lls.licensing.usage import COLUMNS, UsageLine
from lls.signed.jose import read_public_key

__all__ = [
    "Act",
    "CatalogVersion",
    "Command",
    "Customer",
    "IngestedReport",
    "IssuedBundle",
    "IssuedReceipt",
    "Json",
    "Register",
    "Sale",
    "SaleLine",
    "Server",
    "Session",
    "SessionEnd",
    "Sold",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogVersion:
    """A catalogue as it was loaded."""

    version: int
    sha256: str
    text: str
    loaded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer; ``account_ref`` is the vendor's own number for it and never changes."""

    customer_id: str
    account_ref: str
    name: str
    custom_fields: Mapping[str, str]
    created_at: datetime
    disabled_at: datetime | None = None
    """Since when all that it bought rests, until it is enabled again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A license server at a customer's site, as its newest activation request described it."""

    server_id: str
    customer_id: str | None
    name: str
    version: str
    signing_jwk: Json
    encryption_jwk: Json
    host: Mapping[str, str]
    binding: str
    keys_version: int
    bundle_sequence: int
    journal_seq: int
    request_made_at: datetime
    registered_at: datetime
    certificate: str | None
    retired_at: datetime | None = None
    """Since when it gets nothing any more."""
    lost: bool = False
    """Retired because it is gone, with all that it hosted."""

    @property
    def fingerprint(self) -> str:
        """The signing key's thumbprint: what two people compare over the telephone."""
        return read_public_key(self.signing_jwk).kid


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """A fulfilled order."""

    order_ref: str
    sha256: str
    customer_id: str
    server_id: str | None
    document: Json
    fulfilled_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleLine:
    """A line of an order that was fulfilled; ``outcome`` says what it did."""

    order_ref: str
    line: int
    sha256: str
    document: Json
    outcome: Json
    fulfilled_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """An entitlement and where it is hosted; ``document`` is what was sold (contract §3, *Entitlement*).

    ``server_id`` None: nowhere; then ``free_from`` says from when on it may be hosted (None: at once). ``carried`` is
    what closed sessions used up of its lots, ``{feature: {lot: {used, ended}}}`` (``hosting``); ``origins`` says where
    each value came from (``resolving``).
    """

    entitlement_id: str
    order_ref: str
    line: int
    customer_id: str
    server_id: str | None
    document: Json
    created_at: datetime
    free_from: datetime | None = None
    carried: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    origins: Mapping[str, Any] = field(default_factory=dict)

    @property
    def session_id(self) -> str:
        """The hosting session that is open, or was the last."""
        return str(self.document["session_id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A time in which a server hosted an entitlement; ``token`` is the signed return that ended it."""

    session_id: str
    entitlement_id: str
    server_id: str
    began_at: datetime
    ended_at: datetime | None = None
    ending: SessionEnd | None = None
    borrowed_until: datetime | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a bundle orders a server to do once; ``applied_at`` once a report has shown that it did."""

    command_id: str
    session_id: str | None = None
    """Of which hosting session; it is void with it."""
    server_id: str | None = None
    """Or of the server itself."""
    document: Json
    ordered_at: datetime
    applied_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A change under a reference of the vendor's own, so that it is made once."""

    ref: str
    content: Json
    outcome: Json
    done_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedBundle:
    """A bundle that was written; ``payload`` is what was signed."""

    bundle_id: str
    server_id: str
    sequence: int
    issued_at: datetime
    not_after: datetime
    receipt_id: str | None
    payload: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedReport:
    """A usage report that was taken in; ``new_lines`` had been brought by no earlier one."""

    report_id: str
    server_id: str
    from_seq: int
    to_seq: int
    head: str
    made_at: datetime
    pseudonymised: bool
    new_lines: int
    ingested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedReceipt:
    """A receipt, word for word as it was signed."""

    receipt_id: str
    report_id: str
    server_id: str
    up_to_seq: int
    made_at: datetime
    token: str


class Register(Database):
    """An open register. Use it as a context manager; one thread at a time."""

    def __init__(self, path: Path, *, now: datetime, create: bool = False, who: Who | None = None) -> None:
        """Opens the register and brings its schema up to date. Raises :class:`HomeRefused`.

        ``who`` acts, as far as the history says; else the account of the operating system.
        """
        self.who = who or whoever()
        super().__init__(path, now=now, create=create)

    # -- history ------------------------------------------------------------------------------------------------------

    def note(
        self,
        deed: Deed,
        *,
        at: datetime,
        customer_id: str | None = None,
        entitlement_id: str | None = None,
        server_id: str | None = None,
        what: Json | None = None,
    ) -> None:
        """Writes a line of the history, inside the transaction of the act that it tells (``history``)."""
        if not self.in_transaction:
            raise RuntimeError(f"{deed} is noted outside its own transaction: one could be kept without the other")
        row = next(self.cells("SELECT seq, hash FROM history ORDER BY seq DESC LIMIT 1"), None)
        ids = {"customer_id": customer_id, "entitlement_id": entitlement_id, "server_id": server_id}
        head = Head() if row is None else Head(seq=int(row[0]), hash=str(row[1]))
        line = following(head, at=at, deed=deed, who=self.who, data={**ids, "what": dict(what or {})})
        self.insert("history", line)

    def note_change(
        self, deed: Deed, *, was: Sold | None, became: Sold, at: datetime, what: Json | None = None
    ) -> None:
        """The same of an entitlement: what changed of it, before and after; ``was`` None: it was sold."""
        self.note(
            deed,
            at=at,
            customer_id=became.customer_id,
            entitlement_id=became.entitlement_id,
            server_id=became.server_id or (was.server_id if was else None),
            what={**told_of(was, became), **(what or {})},
        )

    # -- catalogue ----------------------------------------------------------------------------------------------------

    def catalogs(self, *, version: int | None = None) -> list[CatalogVersion]:
        """All versions, or the one of that number; the last is in force."""
        return self.select(
            CatalogVersion,
            """SELECT catalog_id AS version, sha256, text, loaded_at FROM catalog
               WHERE ?1 IS NULL OR catalog_id = ?1 ORDER BY catalog_id""",
            version,
        )

    def newest_catalog(self) -> CatalogVersion | None:
        """The one in force."""
        return self.one(
            CatalogVersion,
            "SELECT catalog_id AS version, sha256, text, loaded_at FROM catalog ORDER BY catalog_id DESC LIMIT 1",
        )

    def add_catalog(self, text: str, *, now: datetime) -> None:
        """Puts a catalogue into force; earlier ones stay as history."""
        self.insert(
            "catalog",
            {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text, "loaded_at": write_instant(now)},
        )

    # -- customers ----------------------------------------------------------------------------------------------------

    def customers(self) -> list[Customer]:
        """All, by account reference."""
        return self.select(Customer, "SELECT * FROM customer ORDER BY account_ref")

    def customer(self, key: str) -> Customer | None:
        """By account reference or id."""
        return self.one(Customer, "SELECT * FROM customer WHERE account_ref = ?1 OR customer_id = ?1", key)

    def customer_by_account(self, account_ref: str) -> Customer | None:
        """By account reference only: an order's word for it is never taken for an id."""
        return self.one(Customer, "SELECT * FROM customer WHERE account_ref = ?", account_ref)

    def put_customer(self, customer: Customer) -> None:
        """New, or with a new name and new fields."""
        self.update(
            """INSERT INTO customer (customer_id, account_ref, name, custom_fields, created_at, disabled_at)
               VALUES (:customer_id, :account_ref, :name, :custom_fields, :created_at, :disabled_at)
               ON CONFLICT (customer_id) DO UPDATE SET
                   name = excluded.name, custom_fields = excluded.custom_fields, disabled_at = excluded.disabled_at""",
            customer,
        )

    # -- servers ------------------------------------------------------------------------------------------------------

    def servers(self) -> list[Server]:
        """All, in the order of their registration."""
        return self.select(Server, "SELECT * FROM server ORDER BY registered_at, server_id")

    def server(self, server_id: str) -> Server | None:
        """By id."""
        return self.one(Server, "SELECT * FROM server WHERE server_id = ?", server_id)

    def put_server(self, server: Server) -> None:
        """New, or replaced whole."""
        cells = cells_of(server)
        updates = ", ".join(f"{name} = excluded.{name}" for name in cells if name != "server_id")
        self.insert("server", cells, otherwise=f"ON CONFLICT (server_id) DO UPDATE SET {updates}")

    # -- orders and entitlements --------------------------------------------------------------------------------------

    def sale(self, order_ref: str) -> Sale | None:
        """The fulfilled order of that reference."""
        return self.one(Sale, "SELECT * FROM sale WHERE order_ref = ?", order_ref)

    def add_sale(self, sale: Sale) -> None:
        """An order; its lines and entitlements follow."""
        self.insert("sale", sale)

    def sale_lines(self, order_ref: str) -> list[SaleLine]:
        """What was fulfilled of an order, by line."""
        return self.select(SaleLine, "SELECT * FROM sale_line WHERE order_ref = ? ORDER BY line", order_ref)

    def add_entitlement(self, entitlement: Sold, codes: Iterable[str]) -> None:
        """What was sold, in its first session where a server hosts it, with its activation codes."""
        self.insert("entitlement", entitlement)
        if entitlement.server_id is not None:
            self.add_session(
                Session(
                    session_id=entitlement.session_id,
                    entitlement_id=entitlement.entitlement_id,
                    server_id=entitlement.server_id,
                    began_at=entitlement.created_at,
                )
            )
        for code in codes:
            self.insert("activation_code", {"code": code, "entitlement_id": entitlement.entitlement_id})

    def entitlements(
        self, *, server_id: str | None = None, customer_id: str | None = None, order_ref: str | None = None
    ) -> list[Sold]:
        """Those that fit every filter given, in the order of their sale."""
        return self.select(
            Sold,
            """SELECT * FROM entitlement
               WHERE (?1 IS NULL OR server_id = ?1) AND (?2 IS NULL OR customer_id = ?2)
                 AND (?3 IS NULL OR order_ref = ?3)
               ORDER BY created_at, order_ref, line""",
            server_id,
            customer_id,
            order_ref,
        )

    def entitlement(self, entitlement_id: str) -> Sold | None:
        """By id."""
        return self.one(Sold, "SELECT * FROM entitlement WHERE entitlement_id = ?", entitlement_id)

    def entitlement_of_grant(self, grant_id: str) -> Sold | None:
        """The one among whose grants is that id."""
        return self.one(
            Sold,
            """SELECT * FROM entitlement WHERE EXISTS (
                   SELECT 1 FROM json_each(document, '$.features') AS feature,
                                 json_each(feature.value, '$.grants') AS given
                   WHERE json_extract(given.value, '$.grant_id') = ?)""",
            grant_id,
        )

    def put_entitlement(self, sold: Sold) -> None:
        """Other terms, or another place."""
        updates = ", ".join(
            f"{name} = :{name}" for name in ("server_id", "document", "free_from", "carried", "origins")
        )
        self.update(f"UPDATE entitlement SET {updates} WHERE entitlement_id = :entitlement_id", sold)  # noqa: S608 - our own names

    # -- hosting ------------------------------------------------------------------------------------------------------

    def session(self, session_id: str) -> Session | None:
        """By id."""
        return self.one(Session, "SELECT * FROM session WHERE session_id = ?", session_id)

    def sessions(self, *, entitlement_id: str | None = None, server_id: str | None = None) -> list[Session]:
        """Those that fit every filter given, oldest first."""
        return self.select(
            Session,
            """SELECT * FROM session
               WHERE (?1 IS NULL OR entitlement_id = ?1) AND (?2 IS NULL OR server_id = ?2) ORDER BY rowid""",
            entitlement_id,
            server_id,
        )

    def add_session(self, session: Session) -> None:
        """A server begins to host an entitlement."""
        self.insert("session", session)

    def end_session(self, session: Session) -> None:
        """The same session, with how it ended."""
        self.update(
            """UPDATE session SET ended_at = :ended_at, ending = :ending, borrowed_until = :borrowed_until,
                                  token = :token WHERE session_id = :session_id""",
            session,
        )

    def pending_commands(self, server_id: str) -> list[Command]:
        """What a server was ordered, itself or in sessions that are open, as far as no report has shown it done."""
        return self.select(
            Command,
            """SELECT command.* FROM command LEFT JOIN session ON session.session_id = command.session_id
               WHERE ifnull(command.server_id, session.server_id) = ? AND ended_at IS NULL AND applied_at IS NULL
               ORDER BY command.rowid""",
            server_id,
        )

    def unapplied_commands(self, session_id: str) -> list[Command]:
        """The same of one session, open or not."""
        return self.select(
            Command, "SELECT * FROM command WHERE session_id = ? AND applied_at IS NULL ORDER BY rowid", session_id
        )

    def add_command(self, command: Command) -> None:
        """Remembers what the next bundle orders."""
        self.insert("command", command)

    def note_applied(self, command_id: str, *, server_id: str, at: datetime) -> None:
        """A report showed that this server did it; the command of another server is left alone."""
        self.change(
            """UPDATE command SET applied_at = ?1 WHERE command_id = ?2 AND applied_at IS NULL
               AND (server_id = ?3 OR session_id IN (SELECT session_id FROM session WHERE server_id = ?3))""",
            write_instant(at),
            command_id,
            server_id,
        )

    def act(self, ref: str) -> Act | None:
        """The change that was made under a reference."""
        return self.one(Act, "SELECT * FROM act WHERE ref = ?", ref)

    def add_act(self, act: Act) -> None:
        """Remembers a change under its reference."""
        self.insert("act", act)

    # -- bundles ------------------------------------------------------------------------------------------------------

    def bundles(self, server_id: str) -> list[IssuedBundle]:
        """All that were issued to a server, oldest first."""
        return self.select(IssuedBundle, "SELECT * FROM bundle WHERE server_id = ? ORDER BY sequence", server_id)

    def add_bundle(self, bundle: IssuedBundle) -> None:
        """Remembers a bundle that is about to be handed out."""
        self.insert("bundle", bundle)

    # -- reports, journals and receipts -------------------------------------------------------------------------------

    def reports(self, *, server_id: str | None = None) -> list[IngestedReport]:
        """All, or a server's, by the end of their range."""
        return self.select(
            IngestedReport,
            "SELECT * FROM report WHERE server_id = ifnull(?, server_id) ORDER BY server_id, to_seq, made_at",
            server_id,
        )

    def report(self, report_id: str) -> IngestedReport | None:
        """By id."""
        return self.one(IngestedReport, "SELECT * FROM report WHERE report_id = ?", report_id)

    def add_report(self, report: IngestedReport) -> None:
        """Remembers a report whose lines are stored."""
        self.insert("report", report)

    def journal_end(self, server_id: str) -> tuple[int, str] | None:
        """Number and hash of the last stored line."""
        statement = "SELECT seq, hash FROM journal WHERE server_id = ? ORDER BY seq DESC LIMIT 1"
        return next(((int(seq), str(digest)) for seq, digest in self.cells(statement, server_id)), None)

    def journal_hash(self, server_id: str, seq: int) -> str | None:
        """The hash of one stored line."""
        return next(self.journal_hashes(server_id, first=seq, last=seq), None)

    def journal_hashes(self, server_id: str, *, first: int, last: int) -> Iterator[str]:
        """The hashes of stored lines in order, both ends included."""
        statement = "SELECT hash FROM journal WHERE server_id = ? AND seq BETWEEN ? AND ? ORDER BY seq"
        return (str(digest) for (digest,) in self.cells(statement, server_id, first, last))

    def journal_lines(self, server_id: str, *, first: int, last: int) -> Iterator[bytes]:
        """Stored lines in order, both ends included."""
        statement = "SELECT line FROM journal WHERE server_id = ? AND seq BETWEEN ? AND ? ORDER BY seq"
        return (bytes(line) for (line,) in self.cells(statement, server_id, first, last))

    def add_journal(self, server_id: str, lines: Iterable[tuple[int, str, bytes]]) -> None:
        """New lines as (seq, hash, canonical bytes)."""
        self.change_many(
            "INSERT INTO journal (server_id, seq, hash, line) VALUES (?, ?, ?, ?)",
            ((server_id, seq, digest, line) for seq, digest, line in lines),
        )

    def carry(self, server_id: str, *, up_to: int) -> tuple[int, Json] | None:
        """The newest state of the usage fold at or before line ``up_to``, with its line's number."""
        statement = "SELECT seq, state FROM carry WHERE server_id = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
        return next(((int(seq), json.loads(state)) for seq, state in self.cells(statement, server_id, up_to)), None)

    def add_carry(self, server_id: str, *, seq: int, state: Json) -> None:
        """The usage fold's state after line ``seq``."""
        self.insert("carry", {"server_id": server_id, "seq": seq, "state": state})

    def add_name(self, server_id: str, *, commitment: str, field: str, value: str) -> str:
        """Keeps the clear value of a commitment once; the value that the register holds afterwards."""
        ((kept,),) = self.cells(
            """INSERT INTO name (server_id, commitment, field, value) VALUES (?, ?, ?, ?)
               ON CONFLICT (server_id, commitment, field) DO UPDATE SET value = name.value RETURNING value""",
            server_id,
            commitment,
            field,
            value,
        )
        return str(kept)

    def add_usage(self, server_id: str, *, first_seq: int, lines: Iterable[UsageLine]) -> None:
        """The usage lines of the new journal lines that begin at ``first_seq``."""
        for place, line in enumerate(lines):
            self.insert("usage", {"range_server": server_id, "first_seq": first_seq, "place": place, **cells_of(line)})

    def usage(self, *, customer_id: str | None = None, month: str | None = None) -> Iterator[UsageLine]:
        """The usage lines of one customer's servers or of all, of one month or of all, read as they are asked for.

        By the customer's account reference and by month; those of a month in their ranges' order.
        """
        return self.stream(
            UsageLine,
            f"""SELECT {", ".join(f"usage.{name}" for name in COLUMNS)}
                FROM usage JOIN server ON server.server_id = range_server
                           JOIN customer ON customer.customer_id = server.customer_id
                WHERE server.customer_id = ifnull(?, server.customer_id)
                  AND substr(day, 1, 7) = ifnull(?, substr(day, 1, 7))
                ORDER BY account_ref, substr(day, 1, 7), range_server, first_seq, place""",  # noqa: S608 - our own names
            customer_id,
            month,
        )

    def receipts(self, server_id: str) -> list[IssuedReceipt]:
        """All to a server, by what they acknowledge."""
        return self.select(
            IssuedReceipt, "SELECT * FROM receipt WHERE server_id = ? ORDER BY up_to_seq, made_at", server_id
        )

    def receipt_of(self, report_id: str) -> IssuedReceipt | None:
        """The receipt for a report, once it was issued."""
        return self.one(IssuedReceipt, "SELECT * FROM receipt WHERE report_id = ?", report_id)

    def renew_receipt(self, receipt_id: str, *, token: str) -> None:
        """The same receipt, signed by newer keys."""
        self.change("UPDATE receipt SET token = ? WHERE receipt_id = ?", token, receipt_id)

    def add_receipt(self, receipt: IssuedReceipt) -> None:
        """Remembers a receipt, so that it can be written again word for word."""
        self.insert("receipt", receipt)
