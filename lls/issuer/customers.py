"""Who buys: added, changed, imported, disabled for a time, deleted for good.

Rules
1. A customer is known by the vendor's own account reference, which never changes; an import is an upsert by it.
2. The fields of the vendor's own are judged by their schema (``customer_fields``); only what that lets travel is
   told to a site.
3. A file is taken in row by row, in one transaction; a row that is refused is named with its column and why, and takes
   no other with it, unless all or nothing is asked for. A dry run judges everything and writes nothing.
4. Disabling is for a time: with the next bundle of each server all that the customer bought rests there, and comes back
   with the bundle after enabling. What was disabled by itself stays so. While disabled, nothing is sold to it.
5. Deleting is for good, with all that hangs below, reports and usage too. It is refused while a server hosts, and asks
   for the customer's name; without it, it says what would go. The history's lines stay. No order brings the customer
   back; who buys again is added by hand.

It refuses to own what was sold (``amending``), and the form of a file (``customer_file``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeAlias

from lls.faults import RefusedDocument
from lls.issuer import acts, below
from lls.issuer.amending import Amending
from lls.issuer.customer_fields import CustomerFields, read_customer_fields
from lls.issuer.customer_file import OWN, CustomerFile, Row, RowRefused
from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.intake.forgetting import forget, known_of
from lls.issuer.lookup import customer_in
from lls.issuer.refusals import Conflict
from lls.issuer.register import Customer, Register, Sold
from lls.licensing.fields import Fields, malformed, write_instant

MOST_CONTACTS: Final = 100
LONGEST_NOTE: Final = 2_000
_ID_LENGTH: Final = 26
_STEP: Final = 200
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the rows done and all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Somebody at a customer's, known by the e-mail address."""

    email: str
    name: str | None = None
    phone: str | None = None
    role: str | None = None

    def check(self, *, place: str) -> None:
        """Raises RefusedDocument."""
        fields = Fields({"email": self.email, "name": self.name, "phone": self.phone, "role": self.role}, place=place)
        if "@" not in fields.text("email", most=254).strip("@") or " " in self.email:
            raise malformed(f"{place}.email", "must be an e-mail address")
        fields.optional_text("name")
        fields.optional_text("phone", most=50)
        fields.optional_text("role", most=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What somebody wrote down about a customer."""

    made_at: datetime
    author: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What is to change of a customer; None and nothing: it stays. A field with None is taken away."""

    name: str | None = None
    own: Mapping[str, str | None] | None = None
    contacts: Sequence[Contact] = ()
    no_contacts: Sequence[str] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A customer with its people and notes."""

    customer: Customer
    contacts: tuple[Contact, ...]
    notes: tuple[Note, ...]
    below: Mapping[str, int]
    """What hangs below it, by the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFields:
    """A schema that is in force, and what does not fit it, as (account reference, complaint)."""

    fields: CustomerFields
    misfits: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of a file; ``kept`` false: nothing of it was written."""

    added: int
    changed: int
    unchanged: int
    refused: tuple[RowRefused, ...]
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """A customer that was disabled or enabled, and the entitlements that changed with it."""

    customer: Customer
    entitlements: tuple[Sold, ...]
    again: bool

    @property
    def server_ids(self) -> tuple[str, ...]:
        """The servers whose next bundle brings it."""
        return tuple(sorted({sold.server_id for sold in self.entitlements if sold.server_id is not None}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A customer that is gone, and how many rows of each table went with it."""

    customer: Customer
    below: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SchemaText:
    text: str


class Customers:
    """See the module. Each method is one transaction."""

    def __init__(self, register: Register, amending: Amending, *, random: Random) -> None:
        self._register = register
        self._amending = amending
        self._random = random

    # -- the vendor's own fields ----------------------------------------------------------------------------------

    def fields(self) -> CustomerFields:
        """The schema in force."""
        return fields_in_force(self._register)

    def load_fields(self, text: str, *, now: datetime) -> LoadedFields:
        """Puts a schema into force for what is written from now on. Raises CatalogRefused."""
        fields = read_customer_fields(text)
        with self._register.transaction():
            self._register.change(
                "INSERT INTO customer_fields (text, loaded_at) VALUES (?, ?)", text, write_instant(now)
            )
            digest = hashlib.sha256(text.encode()).hexdigest()
            self._register.note(Deed.CUSTOMER_FIELDS_LOADED, at=now, what={"sha256": digest})
            misfits = tuple(
                (customer.account_ref, f"{key} {complaint}")
                for customer in self._register.customers()
                for key, complaint in fields.complaints(customer.custom_fields)
            )
        return LoadedFields(fields=fields, misfits=misfits)

    # -- one customer ---------------------------------------------------------------------------------------------

    def whole(self, key: str) -> Whole:
        """A customer with all that belongs to it. Raises NotKnown."""
        customer = customer_in(self._register, key)
        return Whole(
            customer=customer,
            contacts=self._contacts(customer),
            notes=tuple(
                self._register.select(
                    Note,
                    "SELECT made_at, author, text FROM customer_note WHERE customer_id = ? ORDER BY note_id",
                    customer.customer_id,
                )
            ),
            below=self._below(customer),
        )

    def put(
        self, account_ref: str, *, name: str, custom_fields: Mapping[str, str] | None = None, now: datetime
    ) -> Customer:
        """Adds the customer of that account reference, or changes its name, and its fields where some are given."""
        with self._register.transaction():
            known = self._register.customer_by_account(account_ref)
            own = custom_fields if custom_fields is not None else known.custom_fields if known else {}
            judged = known is None or custom_fields is not None
            self._check(account_ref, name, own if judged else None)
            became = self._became(known, account_ref, name=name, own=own, now=now)
            self._put(known, became, now=now)
        return became

    def edit(self, key: str, edit: Edit, *, now: datetime) -> Whole:
        """Changes what is said of a customer that is known. Raises NotKnown and Conflict."""
        with self._register.transaction():
            known = customer_in(self._register, key)
            own = dict(known.custom_fields)
            for field, value in (edit.own or {}).items():
                own.pop(field, None) if value is None else own.update({field: value})
            name = known.name if edit.name is None else edit.name
            new = {field: value for field, value in (edit.own or {}).items() if value is not None}
            self._check(known.account_ref, name, own if edit.own else None, given=new)
            became = self._became(known, known.account_ref, name=name, own=own, now=now)
            people = self._edit_contacts(known, edit)
            self._put(known, became, people=people, noted=edit.note is not None, now=now)
            if edit.note is not None:
                self._add_note(known, edit.note, now=now)
            return self.whole(known.customer_id)

    def _check(
        self, account_ref: str, name: str, own: Mapping[str, str] | None, *, given: Mapping[str, str] | None = None
    ) -> None:
        try:
            said = Fields({"account_ref": account_ref, "name": name}, place="customer")
            said.text("account_ref", most=100)
            said.text("name")
            if account_ref.startswith("cus_") and len(account_ref) == _ID_LENGTH:
                raise malformed("customer.account_ref", "looks like an id of this register; give your own reference")
            if own is not None:
                self.fields().check(own, given=given, place="customer.custom_fields")
        except RefusedDocument as refused:
            raise Conflict(f"The customer was refused: {refused.detail}") from refused

    def _became(
        self, known: Customer | None, account_ref: str, *, name: str, own: Mapping[str, str], now: datetime
    ) -> Customer:
        if known is not None:
            return replace(known, name=name, custom_fields=dict(own))
        return Customer(
            customer_id=new_id("cus", self._random),
            account_ref=account_ref,
            name=name,
            custom_fields=dict(own),
            created_at=now,
        )

    def _put(
        self,
        known: Customer | None,
        became: Customer,
        *,
        people: bool = False,
        noted: bool = False,
        source: Mapping[str, object] | None = None,
        now: datetime,
    ) -> None:
        """Writes it, with its line of the history; where nothing changes, neither."""
        told: dict[str, object] = {"account_ref": became.account_ref, **(source or {})}
        if known is None:
            told |= {"name": became.name, "fields": sorted(became.custom_fields)}
        else:
            if known.name != became.name:
                told["name"] = [known.name, became.name]
            before, after = known.custom_fields, became.custom_fields
            changed = sorted(key for key in {**before, **after} if before.get(key) != after.get(key))
            told |= {"fields": changed} if changed else {}
        told |= {name: True for name, so in (("contacts", people), ("note", noted)) if so}
        if known == became and not people and not noted:
            return
        self._register.put_customer(became)
        deed = Deed.CUSTOMER_ADDED if known is None else Deed.CUSTOMER_CHANGED
        self._register.note(deed, at=now, customer_id=became.customer_id, what=told)

    # -- contacts and notes ---------------------------------------------------------------------------------------

    def _contacts(self, customer: Customer) -> tuple[Contact, ...]:
        found = self._register.select(
            Contact,
            "SELECT email, name, phone, role FROM customer_contact WHERE customer_id = ? ORDER BY email",
            customer.customer_id,
        )
        return tuple(found)

    def _edit_contacts(self, customer: Customer, edit: Edit) -> bool:
        """Whether that changed any."""
        before = self._contacts(customer)
        for email in edit.no_contacts:
            gone = self._register.change(
                "DELETE FROM customer_contact WHERE customer_id = ? AND email = ?", customer.customer_id, email
            )
            if not gone:
                raise Conflict(f"{customer.account_ref} has no contact {email}; see lls-issuer customer show.")
        for contact in edit.contacts:
            self._put_contact(customer, contact)
        after = self._contacts(customer)
        if len(after) > MOST_CONTACTS:
            raise Conflict(f"A customer has at most {MOST_CONTACTS} contacts.")
        return before != after

    def _put_contact(self, customer: Customer, contact: Contact) -> None:
        """What the contact does not say stays as it was."""
        try:
            contact.check(place="contact")
        except RefusedDocument as refused:
            raise Conflict(f"The customer was refused: {refused.detail}") from refused
        self._register.change(
            """INSERT INTO customer_contact (customer_id, email, name, phone, role) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (customer_id, email) DO UPDATE SET
                   name = ifnull(excluded.name, name), phone = ifnull(excluded.phone, phone),
                   role = ifnull(excluded.role, role)""",
            customer.customer_id,
            contact.email,
            contact.name,
            contact.phone,
            contact.role,
        )

    def _add_note(self, customer: Customer, text: str, *, now: datetime) -> None:
        if not 1 <= len(text) <= LONGEST_NOTE or not text.isprintable():
            raise Conflict(f"A note is a printable text of 1 to {LONGEST_NOTE:,} characters.")
        self._register.change(
            "INSERT INTO customer_note (customer_id, made_at, author, text) VALUES (?, ?, ?, ?)",
            customer.customer_id,
            write_instant(now),
            self._register.who.by,
            text,
        )

    # -- many customers -------------------------------------------------------------------------------------------

    def take_in(
        self,
        file: CustomerFile,
        *,
        dry_run: bool = False,
        all_or_nothing: bool = False,
        progress: Progress = lambda _done, _all: None,
        now: datetime,
    ) -> Imported:
        """Rule 3."""
        with self._register.transaction():
            judged, refused = self._judged(file.rows, now=now)
            refused = sorted([*file.refused, *refused], key=lambda one: one.row)
            kept = not dry_run and not (all_or_nothing and refused)
            counts = {"added": 0, "changed": 0, "unchanged": 0}
            for done, (row, known, became) in enumerate(judged, start=1):
                counts[self._take_row(row, known, became, kept=kept, now=now)] += 1
                if done % _STEP == 0 or done == len(judged):
                    progress(done, len(judged))
        return Imported(**counts, refused=tuple(refused), kept=kept)

    def _judged(
        self, rows: Iterable[Row], *, now: datetime
    ) -> tuple[list[tuple[Row, Customer | None, Customer]], list[RowRefused]]:
        """The rows that hold, each with the customer as it is and as it becomes; and what is wrong with the others."""
        fields, register = self.fields(), {one.account_ref: one for one in self._register.customers()}
        judged: list[tuple[Row, Customer | None, Customer]] = []
        refused: list[RowRefused] = []
        for row in rows:
            known = register.get(row.cells["account_ref"])
            own = {**(known.custom_fields if known else {}), **row.own}
            complaints = list(_complaints(row, known, own, fields))
            refused += complaints
            if not complaints:
                name = row.cells.get("name") or (known.name if known else "")
                became = self._became(known, row.cells["account_ref"], name=name, own=own, now=now)
                judged.append((row, known, became))
        return judged, refused

    def _take_row(self, row: Row, known: Customer | None, became: Customer, *, kept: bool, now: datetime) -> str:
        contact, note = _contact_of(row), row.cells.get("note")
        people = contact is not None and not self._has(became, contact)
        noted = note is not None and not self._has_note(became, note)
        if kept:
            self._put(known, became, people=people, noted=noted, source={"row": row.row}, now=now)
            if people and contact is not None:
                self._put_contact(became, contact)
            if noted and note is not None:
                self._add_note(became, note, now=now)
        if known is None:
            return "added"
        return "changed" if people or noted or known != became else "unchanged"

    def _has(self, customer: Customer, contact: Contact) -> bool:
        given = {key: value for key in ("name", "phone", "role") if (value := getattr(contact, key)) is not None}
        return any(
            one.email.casefold() == contact.email.casefold()
            and all(getattr(one, key) == value for key, value in given.items())
            for one in self._contacts(customer)
        )

    def _has_note(self, customer: Customer, text: str) -> bool:
        """The same file again writes no note again."""
        return bool(
            self._register.select(
                _SchemaText,
                "SELECT text FROM customer_note WHERE customer_id = ? AND text = ? LIMIT 1",
                customer.customer_id,
                text,
            )
        )

    # -- disabling and deleting -----------------------------------------------------------------------------------

    def disable(self, key: str, *, now: datetime) -> Switched:
        """For a time; ``enable`` takes it back. Raises NotKnown."""
        return self._switch(key, disabled_at=now.replace(microsecond=0), now=now)

    def enable(self, key: str, *, now: datetime) -> Switched:
        """Take ``disable`` back."""
        return self._switch(key, disabled_at=None, now=now)

    def _switch(self, key: str, *, disabled_at: datetime | None, now: datetime) -> Switched:
        with self._register.transaction():
            customer = customer_in(self._register, key)
            if (customer.disabled_at is None) == (disabled_at is None):
                return Switched(customer=customer, entitlements=(), again=True)
            customer = replace(customer, disabled_at=disabled_at)
            self._register.put_customer(customer)
            deed = Deed.CUSTOMER_ENABLED if disabled_at is None else Deed.CUSTOMER_DISABLED
            told = {"account_ref": customer.account_ref}
            self._register.note(deed, at=now, customer_id=customer.customer_id, what=told)
            changed = self._amending.follow_customer(customer, now=now)
        return Switched(customer=customer, entitlements=changed, again=False)

    def delete(self, key: str, *, confirm: str | None, now: datetime) -> Deleted:
        """Rule 5. Raises NotKnown, and Conflict that lists what would go."""
        with self._register.transaction():
            customer = customer_in(self._register, key)
            hanging = self._below(customer)
            self._check_hosted(customer)
            if confirm != customer.name:
                raise Conflict(
                    f"Deleting {customer.account_ref} is for good, and takes with it: {in_words(hanging)}. Export what "
                    "you still need first. To confirm, give the customer's name: --confirm "
                    f"{customer.name!r}. To stop it for a time only: lls-issuer customer disable."
                )
            told = {"account_ref": customer.account_ref, "name": customer.name, "below": hanging}
            forget(self._register, customer.account_ref, now=now)
            acts.forget(self._register, customer.customer_id)
            below.delete(self._register, "customer", key="customer_id", value=customer.customer_id)
            self._register.note(Deed.CUSTOMER_DELETED, at=now, customer_id=customer.customer_id, what=told)
        self._register.sweep()
        return Deleted(customer=customer, below=hanging)

    def _below(self, customer: Customer) -> dict[str, int]:
        rows = below.below(self._register, "customer", key="customer_id", value=customer.customer_id)
        return {**rows, **known_of(self._register, customer.account_ref)}

    def _check_hosted(self, customer: Customer) -> None:
        hosted = [
            sold for sold in self._register.entitlements(customer_id=customer.customer_id) if sold.server_id is not None
        ]
        if hosted:
            raise Conflict(
                f"{customer.account_ref} cannot be deleted: the server {hosted[0].server_id} hosts "
                f"{hosted[0].entitlement_id}{f' and there are {len(hosted) - 1} more' if len(hosted) > 1 else ''}. "
                "Have the site return them (lls entitlement return) and accept the returns, or declare the server "
                "lost (lls-issuer server retire --lost). Below it hang: "
                f"{in_words(self._below(customer))}."
            )


def fields_in_force(register: Register) -> CustomerFields:
    """The schema of custom fields that was loaded last; where none was, the free one."""
    loaded = register.select(_SchemaText, "SELECT text FROM customer_fields ORDER BY fields_id DESC LIMIT 1")
    return read_customer_fields(loaded[0].text) if loaded else CustomerFields()


def as_told(register: Register, key: str) -> Customer:
    """The customer as a bundle tells it: with those of its fields that travel. Raises NotKnown."""
    customer = customer_in(register, key)
    return replace(customer, custom_fields=fields_in_force(register).travelling(customer.custom_fields))


def in_words(counts: Mapping[str, int]) -> str:
    """What hangs below a customer, for a sentence: ``servers (1), entitlements (3)``."""
    named = (f"{_PLURALS.get(table, table.replace('_', ' '))} ({count:,})" for table, count in counts.items())
    return ", ".join(named) or "nothing"


_PLURALS: Final = {
    "server": "servers", "sale": "orders", "entitlement": "entitlements", "session": "hosting sessions",
    "command": "commands", "activation_code": "activation codes", "bundle": "bundles", "report": "reports",
    "journal": "journal lines", "receipt": "receipts", "usage": "usage lines", "carry": "usage states",
    "event": "bodies of purchase events", "subscription": "subscriptions",
    "sale_line": "lines of orders", "balance": "grants", "part": "parts of seats", "refusal": "counts of refusals",
    "pending": "drafts", "server_terms": "terms of servers", "refused_report": "refused reports",
    "name": "clear names", "customer_contact": "contacts", "customer_note": "notes",
}  # fmt: skip


def _complaints(
    row: Row, known: Customer | None, own: Mapping[str, str], fields: CustomerFields
) -> Iterable[RowRefused]:
    if known is None and "name" not in row.cells:
        yield RowRefused(row=row.row, column="name", why="is missing, and there is no such customer yet")
    for key, complaint in fields.complaints(own, given=row.own):
        yield RowRefused(row=row.row, column=OWN + key if key else None, why=complaint)
    contact = _contact_of(row)
    if contact is not None:
        try:
            contact.check(place="contact")
        except RefusedDocument:
            yield RowRefused(row=row.row, column="contact_email", why="must be an e-mail address")
    elif any(name.startswith("contact_") for name in row.cells):
        yield RowRefused(row=row.row, column="contact_email", why="is missing; a contact is known by it")


def _contact_of(row: Row) -> Contact | None:
    email = row.cells.get("contact_email")
    if email is None:
        return None
    given = {key: row.cells.get(f"contact_{key}") for key in ("name", "phone", "role")}
    return Contact(email=email, **given)
