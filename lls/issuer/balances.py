"""Balances: units of counted features that were given, what was paid for them, and what they still wait for.

Rules
1. A grant's row keeps its terms, its price and its state; the entitlement's document carries it while it is *given*,
   without the price, which no bundle ever holds.
2. A grant that waits (``given_on``) is *pending* until the invoice of its reference has come so far. Stages rise: paid
   includes approved, and that created. What was reported of an invoice is kept, so that a grant that is ordered after
   its payment is given at once: events come in any order.
3. Without a date of its own a grant is in force from the moment in which it is given, so a term that is counted from
   there loses nothing by waiting.
4. What carries over from one term to the next is said by the grant's expiry and by nothing else (contract §3): a
   renewal moves ``end_of_contract`` along, and leaves ``never``, ``custom`` and ``at`` alone.
5. Altering changes a grant under its id: what was used of it stays used. Revoking takes back what is left of it.
6. The entitlement is read back with the appliance's own reader before it is stored, with a pending grant put in on
   trial: nothing may be refused only when its invoice is paid.

It refuses to own counting (``lls.licensing.meters``) and billing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from lls.issuer.acts import LONGEST_REF, once
from lls.issuer.amending import Changed
from lls.issuer.catalog import ExpiryTerms, GrantTerms, Price, Stage
from lls.issuer.changing import following, read_back
from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.lookup import entitlement_in
from lls.issuer.refusals import Conflict, NotKnown
from lls.issuer.register import Json, Register, Sold
from lls.licensing.fields import write_instant


class State(StrEnum):
    """Where a grant is in its life."""

    PENDING = "pending"
    GIVEN = "given"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """A grant. ``terms`` are ``{active_from, expiry}`` (``active_from`` null: from when it is given on)."""

    grant_id: str
    entitlement_id: str
    feature: str
    amount: int
    terms: Mapping[str, Any]
    price: Mapping[str, Any] | None
    given_on: Stage | None
    invoice_ref: str | None
    state: State
    created_at: datetime

    def __post_init__(self) -> None:
        """The register gives texts."""
        object.__setattr__(self, "state", State(self.state))
        object.__setattr__(self, "given_on", None if self.given_on is None else Stage(self.given_on))

    def document(self) -> dict[str, object]:
        """As an entitlement carries it; its beginning is set."""
        return {"grant_id": self.grant_id, "amount": self.amount, **self.terms}


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceStage:
    """How far an invoice has come."""

    invoice_ref: str
    stage: Stage
    reported_at: datetime

    def __post_init__(self) -> None:
        """The register gives texts."""
        object.__setattr__(self, "stage", Stage(self.stage))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """A line of the history, as text."""

    line: str

    def told(self) -> dict[str, Any]:
        line = json.loads(self.line)
        data = line["data"]
        return {
            "at": line["at"],
            "kind": line["kind"],
            "by": data["by"],
            "reason": data["reason"],
            "what": data["what"],
        }


class Balances:
    """See the module. Each method is one transaction."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def balance(self, grant_id: str) -> Balance:
        """By id. Raises NotKnown."""
        found = self._register.select(Balance, "SELECT * FROM balance WHERE grant_id = ?", grant_id)
        if not found:
            raise NotKnown(f"There is no grant {grant_id}; see lls-issuer grant list.")
        return found[0]

    def balances(
        self, *, entitlement_id: str | None = None, customer_id: str | None = None, state: State | None = None
    ) -> list[Balance]:
        """Those that fit every filter given, oldest first."""
        return self._register.select(
            Balance,
            """SELECT balance.* FROM balance JOIN entitlement USING (entitlement_id)
               WHERE (?1 IS NULL OR entitlement_id = ?1) AND (?2 IS NULL OR customer_id = ?2)
                 AND (?3 IS NULL OR state = ?3)
               ORDER BY balance.created_at, balance.rowid""",
            entitlement_id,
            customer_id,
            None if state is None else state.value,
        )

    def history(self, grant_id: str) -> list[dict[str, Any]]:
        """What was done to it, oldest first: ``{at, kind, by, reason, what}``."""
        balance = self.balance(grant_id)
        lines = self._register.select(
            _Told,
            """SELECT line FROM history
               WHERE entitlement_id = ? AND json_extract(line, '$.data.what.grant_id') = ? ORDER BY seq""",
            balance.entitlement_id,
            grant_id,
        )
        return [one.told() for one in lines]

    def stage(self, invoice_ref: str) -> Stage | None:
        """How far that invoice has come; None: nothing was reported of it."""
        found = self._register.select(InvoiceStage, "SELECT * FROM invoice_stage WHERE invoice_ref = ?", invoice_ref)
        return found[0].stage if found else None

    def add(
        self,
        entitlement_id: str,
        grant: GrantTerms,
        *,
        invoice_ref: str | None = None,
        ref: str | None = None,
        now: datetime,
    ) -> Changed:
        """Give units of a counted feature, now or when its invoice has come so far; ``outcome`` is
        ``{grant_id, state, …}``. ``ref`` makes it once. Raises NotKnown and Conflict.
        """  # noqa: D205 - one sentence
        asked = grant.document(grant_id="", amount=grant.amount, otherwise_from=now)
        if grant.active_from is None:
            asked["active_from"] = None  # the same order an hour later is the same order
        content = {"act": "grant", "entitlement_id": entitlement_id, "feature": grant.feature, **asked}
        if grant.price is not None:
            content["price"] = grant.price.document()
        if grant.given_on is not None:
            content |= {"given_on": grant.given_on.value, "invoice_ref": invoice_ref}

        def make() -> Json:
            sold = entitlement_in(self._register, entitlement_id)
            document, (row,) = self.opened(following(sold.document), [grant], invoice_ref=invoice_ref, now=now)
            if row.state is State.PENDING:
                document = sold.document  # nothing of it has changed yet
            self._keep(sold, document, row, deed=Deed.GRANT_ADDED, now=now)
            return _told(row)

        with self._register.transaction():
            entitlement_in(self._register, entitlement_id)
            outcome, again = once(self._register, make, content=content, ref=ref, now=now)
            return Changed(sold=entitlement_in(self._register, entitlement_id), again=again, outcome=outcome)

    def opened(
        self, document: Json, grants: Sequence[GrantTerms], *, invoice_ref: str | None, now: datetime
    ) -> tuple[Json, list[Balance]]:
        """A document with those that are given at once, and the rows of all; :meth:`record` stores a new one's."""
        rows: list[Balance] = []
        for grant in grants:
            _check_counted(document, grant.feature)
            row = self._row(str(document["entitlement_id"]), grant, invoice_ref=invoice_ref, now=now)
            trial = _with(document, row if row.terms["active_from"] else _begun(row, now))
            read_back(trial)  # rule 6
            document = trial if row.state is State.GIVEN else document
            rows.append(row)
        return document, rows

    def _row(self, entitlement_id: str, grant: GrantTerms, *, invoice_ref: str | None, now: datetime) -> Balance:
        if grant.given_on is not None and invoice_ref is None:
            raise Conflict(f"The grant of {grant.feature} waits for an invoice, so name its reference.")
        reached = self.stage(invoice_ref) if grant.given_on and invoice_ref else None
        waits = grant.given_on is not None and (reached is None or reached.rank < grant.given_on.rank)
        row = Balance(
            grant_id=new_id("grt", self._random),
            entitlement_id=entitlement_id,
            feature=grant.feature,
            amount=grant.amount,
            terms={
                "active_from": grant.active_from and write_instant(grant.active_from),
                "expiry": grant.expiry_document(),
            },
            price=None if grant.price is None else grant.price.document(),
            given_on=grant.given_on,
            invoice_ref=invoice_ref if grant.given_on else None,
            state=State.PENDING if waits else State.GIVEN,
            created_at=now,
        )
        return row if waits else _begun(row, now)

    def record(self, rows: Sequence[Balance], sold: Sold, *, now: datetime) -> None:
        """Stores the rows of an entitlement that was sold with them."""
        for row in rows:
            self._register.insert("balance", row)
            self._register.note(
                Deed.GRANT_ADDED,
                at=now,
                customer_id=sold.customer_id,
                entitlement_id=sold.entitlement_id,
                server_id=sold.server_id,
                what=_told(row),
            )

    def alter(
        self,
        grant_id: str,
        *,
        amount: int | None = None,
        active_from: datetime | None = None,
        expiry: ExpiryTerms | None = None,
        price: Price | None = None,
        now: datetime,
    ) -> Changed:
        """Other terms of a grant that is given or pending; ``again`` where it has them already. Raises Conflict."""
        with self._register.transaction():
            row = self.balance(grant_id)
            sold = entitlement_in(self._register, row.entitlement_id)
            if row.state is State.REVOKED:
                raise Conflict(f"The grant {grant_id} was revoked, so nothing of it can be altered; give another one.")
            terms = dict(row.terms)
            if active_from is not None:
                terms["active_from"] = write_instant(active_from)
            if expiry is not None:
                terms["expiry"] = expiry.document()
            altered = replace(
                row,
                amount=row.amount if amount is None else amount,
                terms=terms,
                price=row.price if price is None else price.document(),
            )
            if altered == row:
                return Changed(sold=sold, again=True, outcome=_told(row))
            trial = _with(_without(sold.document, row), altered if terms["active_from"] else _begun(altered, now))
            read_back(trial)
            same = (row.amount, row.terms) == (altered.amount, altered.terms)
            changes = row.state is State.GIVEN and not same
            document = following(trial) if changes else sold.document  # a price is no matter of the site's
            return self._keep(sold, document, altered, deed=Deed.GRANT_ALTERED, now=now, was=row)

    def revoke(self, grant_id: str, *, now: datetime) -> Changed:
        """Take a grant back: what is left of it is lost with the next bundle; ``again`` where that was done before."""
        with self._register.transaction():
            row = self.balance(grant_id)
            sold = entitlement_in(self._register, row.entitlement_id)
            if row.state is State.REVOKED:
                return Changed(sold=sold, again=True, outcome=_told(row))
            given = row.state is State.GIVEN
            document = following(_without(sold.document, row)) if given else sold.document
            revoked = replace(row, state=State.REVOKED)
            return self._keep(sold, document, revoked, deed=Deed.GRANT_REVOKED, now=now, was=row)

    def release(self, invoice_ref: str, *, stage: Stage = Stage.PAID, now: datetime) -> list[Changed]:
        """An invoice has come so far: give what waited for that, and remember it for what comes later.

        Reported again, or after a later stage, it changes nothing.
        """
        if not (1 <= len(invoice_ref) <= LONGEST_REF and invoice_ref.isprintable()):
            raise Conflict(f"The reference of an invoice is a printable text of 1 to {LONGEST_REF} characters.")
        with self._register.transaction():
            known = self.stage(invoice_ref)
            if known is None or known.rank < stage.rank:
                reached = InvoiceStage(invoice_ref=invoice_ref, stage=stage, reported_at=now)
                self._register.insert(
                    "invoice_stage",
                    reached,
                    otherwise="ON CONFLICT (invoice_ref) DO UPDATE SET stage = excluded.stage,"
                    " reported_at = excluded.reported_at",
                )
            waiting = self._register.select(
                Balance,
                "SELECT * FROM balance WHERE invoice_ref = ? AND state = 'pending' ORDER BY rowid",
                invoice_ref,
            )
            return [
                self._give(row, now=now)
                for row in waiting
                if row.given_on is not None and row.given_on.rank <= stage.rank
            ]

    def _give(self, row: Balance, *, now: datetime) -> Changed:
        sold = entitlement_in(self._register, row.entitlement_id)
        given = replace(_begun(row, now), state=State.GIVEN)
        document = _with(following(sold.document), given)
        return self._keep(sold, document, given, deed=Deed.GRANT_RELEASED, now=now, was=row)

    def _keep(
        self, sold: Sold, document: Json, row: Balance, *, deed: Deed, now: datetime, was: Balance | None = None
    ) -> Changed:
        read_back(document)
        changed = replace(sold, document=document)
        self._register.put_entitlement(changed)
        updates = ", ".join(f"{name} = excluded.{name}" for name in ("amount", "terms", "price", "state"))
        self._register.insert("balance", row, otherwise=f"ON CONFLICT (grant_id) DO UPDATE SET {updates}")
        told = _told(row) if was is None else {**_told(row), "before": _told(was)}
        self._register.note_change(deed, was=sold, became=changed, at=now, what=told)
        return Changed(sold=changed, again=False, outcome=_told(row))


def _begun(row: Balance, now: datetime) -> Balance:
    """In force from now on, where it has no date of its own (rule 3)."""
    begins = row.terms["active_from"] or write_instant(now.astimezone(UTC).replace(microsecond=0))
    return replace(row, terms={**row.terms, "active_from": begins})


def _check_counted(document: Json, feature: str) -> None:
    known = read_back(document).feature(feature)
    if known is None or not known.counted:
        raise Conflict(
            f"The entitlement {document['entitlement_id']} has no counted feature {feature}; "
            f"see lls-issuer entitlement show {document['entitlement_id']}."
        )


def _with(document: Json, row: Balance) -> dict[str, object]:
    return _of_feature(document, row.feature, lambda grants: [*grants, row.document()])


def _without(document: Json, row: Balance) -> dict[str, object]:
    return _of_feature(document, row.feature, lambda grants: [one for one in grants if one["grant_id"] != row.grant_id])


def _of_feature(
    document: Json, feature: str, change: Callable[[list[Mapping[str, Any]]], list[Mapping[str, Any]]]
) -> dict[str, object]:
    features: Any = document["features"]
    changed = [{**one, "grants": change(one["grants"])} if one["key"] == feature else one for one in features]
    return {**document, "features": changed}


def _told(row: Balance) -> dict[str, object]:
    told: dict[str, object] = {
        "grant_id": row.grant_id,
        "feature": row.feature,
        "amount": row.amount,
        **row.terms,
        "price": row.price,
        "state": row.state.value,
    }
    return told if row.given_on is None else {**told, "given_on": row.given_on.value, "invoice_ref": row.invoice_ref}
