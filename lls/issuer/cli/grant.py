"""``lls-issuer grant``: units of a counted feature: given, altered, taken back, released when an invoice is settled."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from lls.issuer.balances import Balance, State
from lls.issuer.catalog import ExpiryTerms, GrantTerms, Price, Stage
from lls.issuer.catalog_file import read_expiry, read_price
from lls.issuer.cli.entitlement import Ref, changed_document, next_step
from lls.issuer.cli.frame import AsJson, cell, group, now, open_issuer, plain, print_json, say, show, stdout
from lls.licensing.calendar import Unit
from lls.licensing.entitlement import MOST_UNITS, GrantExpiry
from lls.licensing.fields import read_instant

noun = group("Units of a counted feature, given at a date.")

ActiveFrom: TypeAlias = Annotated[
    str | None, typer.Option("--active-from", help="From when on, such as 2026-12-01T00:00:00Z; else from now.")
]
OfExpiry: TypeAlias = Annotated[
    GrantExpiry | None, typer.Option("--expiry", help="When what is left of it is lost; never, if not said.")
]
OfUnit: TypeAlias = Annotated[Unit | None, typer.Option("--unit", help="For --expiry custom: what --count counts.")]
OfCount: TypeAlias = Annotated[int | None, typer.Option("--count", help="For --expiry custom: so many units of time.")]
OfAt: TypeAlias = Annotated[str | None, typer.Option("--at", help="For --expiry at: the instant.")]
OfPrice: TypeAlias = Annotated[
    int | None, typer.Option("--price", min=0, max=MOST_UNITS, help="What was paid, in minor units; in no bundle.")
]
OfCurrency: TypeAlias = Annotated[str | None, typer.Option("--currency", help="With --price: such as EUR.")]
GrantId: TypeAlias = Annotated[str, typer.Argument(help="grt_…")]


@noun.command("add")
def grant_add(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    entitlement_id: Annotated[str, typer.Argument(help="ent_…")],
    feature: Annotated[str, typer.Option("--feature", help="The counted feature's key.")],
    amount: Annotated[int, typer.Option("--amount", min=1, max=MOST_UNITS, help="Units; of a credit, minor units.")],
    active_from: ActiveFrom = None,
    expiry: OfExpiry = None,
    unit: OfUnit = None,
    count: OfCount = None,
    at: OfAt = None,
    price: OfPrice = None,
    currency: OfCurrency = None,
    given_on: Annotated[
        Stage | None, typer.Option("--given-on", help="Give it only when the invoice has come so far.")
    ] = None,
    invoice: Annotated[str | None, typer.Option("--invoice", help="With --given-on: which invoice.")] = None,
    ref: Ref = None,
    as_json: AsJson = False,
) -> None:
    """Give units; the next bundle brings them."""
    ends = _expiry(expiry, unit, count, at) or ExpiryTerms(expiry=GrantExpiry.NEVER)
    grant = GrantTerms(
        feature=feature,
        amount=amount,
        expiry=ends.expiry,
        term=ends.term,
        at=ends.at,
        active_from=None if active_from is None else read_instant(active_from, place="--active-from"),
        price=_price(price, currency),
        given_on=given_on,
    )
    with open_issuer(ctx) as issuer:
        changed = issuer.balances.add(entitlement_id, grant, invoice_ref=invoice, ref=ref, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    if changed.outcome["state"] == State.PENDING:
        say(f"{changed.outcome['grant_id']}: {amount} of {feature} wait for the invoice {invoice}.")
        say(f"When it has come so far: lls-issuer grant release --ref {invoice}")
        return
    was = "was given before; nothing changed" if changed.again else "is given"
    say(f"{changed.outcome['grant_id']}: {amount} of {feature} {was}.")
    next_step(changed.sold)


@noun.command("alter")
def grant_alter(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    grant_id: GrantId,
    amount: Annotated[int | None, typer.Option("--amount", min=1, max=MOST_UNITS, help="All of it, not more.")] = None,
    active_from: ActiveFrom = None,
    expiry: OfExpiry = None,
    unit: OfUnit = None,
    count: OfCount = None,
    at: OfAt = None,
    price: OfPrice = None,
    currency: OfCurrency = None,
    as_json: AsJson = False,
) -> None:
    """Change a grant; what was used of it stays used. What is not named stays as it is."""
    ends = _expiry(expiry, unit, count, at)
    begins = None if active_from is None else read_instant(active_from, place="--active-from")
    paid = _price(price, currency)
    if amount is None and ends is None and begins is None and paid is None:
        raise typer.BadParameter("Say what to change: --amount, --active-from, --expiry or --price.")
    with open_issuer(ctx) as issuer:
        changed = issuer.balances.alter(grant_id, amount=amount, active_from=begins, expiry=ends, price=paid, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    say(f"{grant_id} {'was so already; nothing changed' if changed.again else 'is altered'}.")
    if not changed.again and changed.outcome["state"] == State.GIVEN:
        next_step(changed.sold)


@noun.command("revoke")
def grant_revoke(ctx: typer.Context, grant_id: GrantId, as_json: AsJson = False) -> None:
    """Take a grant back; what is left of it is lost with the next bundle."""
    with open_issuer(ctx) as issuer:
        changed = issuer.balances.revoke(grant_id, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    if changed.again:
        say(f"{grant_id} was revoked before; nothing changed.")
        return
    say(f"{grant_id} is revoked; what is left of it is lost when the server imports its next bundle.")
    next_step(changed.sold)


@noun.command("release")
def grant_release(
    ctx: typer.Context,
    ref: Annotated[str, typer.Option("--ref", help="The invoice's reference, or the order's where it named none.")],
    stage: Annotated[Stage, typer.Option("--on", help="How far the invoice has come.")] = Stage.PAID,
    as_json: AsJson = False,
) -> None:
    """Say how far an invoice has come, and give what waited for that; again, nothing changes."""
    with open_issuer(ctx) as issuer:
        released = issuer.balances.release(ref, stage=stage, now=now())
    if as_json:
        print_json({"ref": ref, "stage": stage.value, "released": [changed_document(one) for one in released]})
        return
    if not released:
        say(f"Nothing waits for the invoice {ref} any more; what is ordered under it later is given at once.")
    for changed in released:
        say(f"{changed.outcome['grant_id']}: {changed.outcome['amount']} of {changed.outcome['feature']} is given.")
    for sold in {changed.sold.server_id: changed.sold for changed in released}.values():
        next_step(sold)


@noun.command("list")
def grant_list(
    ctx: typer.Context,
    entitlement: Annotated[str | None, typer.Option("--entitlement", help="Only of this one.")] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this account reference.")] = None,
    state: Annotated[State | None, typer.Option("--state", help="Only those.")] = None,
    as_json: AsJson = False,
) -> None:
    """The grants, with what was paid for them and what they wait for."""
    with open_issuer(ctx) as issuer:
        entitlement_id = issuer.entitlement(entitlement).entitlement_id if entitlement else None
        customer_id = issuer.customer(customer).customer_id if customer else None
        found = issuer.balances.balances(entitlement_id=entitlement_id, customer_id=customer_id, state=state)
    show("grants", found, as_json, _COLUMNS, (_row(balance) for balance in found))


@noun.command("show")
def grant_show(ctx: typer.Context, grant_id: GrantId, as_json: AsJson = False) -> None:
    """One grant with its history."""
    with open_issuer(ctx) as issuer:
        balance = issuer.balances.balance(grant_id)
        history = issuer.balances.history(grant_id)
    if as_json:
        print_json({**plain(balance), "history": history})
        return
    for name, value in zip(_COLUMNS, _row(balance), strict=True):
        stdout.print(f"{name}: {value}")
    for line in history:
        stdout.print(f"{line['at']}  {line['kind']}  by {line['by']}{_reason(line)}")


_COLUMNS = ("grant", "entitlement", "feature", "amount", "active_from", "expiry", "price", "state", "waits for")


def _reason(line: dict[str, Any]) -> str:
    return f": {line['reason']}" if line["reason"] else ""


def _row(balance: Balance) -> list[str]:
    expiry = balance.terms["expiry"]
    ends = " ".join(str(value) for value in expiry.values())
    price = f"{balance.price['amount']} {balance.price['currency']}" if balance.price else None
    waits = f"{balance.given_on} {balance.invoice_ref}" if balance.state is State.PENDING else None
    begins = balance.terms["active_from"]
    shown = (balance.grant_id, balance.entitlement_id, balance.feature, balance.amount, begins, ends, price)
    return [*map(cell, shown), balance.state.value, cell(waits)]


def _expiry(kind: GrantExpiry | None, unit: Unit | None, count: int | None, at: str | None) -> ExpiryTerms | None:
    given = {"unit": unit and unit.value, "count": count, "at": at}
    named = {name: value for name, value in given.items() if value is not None}
    if kind is None and not named:
        return None
    return read_expiry({"type": (kind or GrantExpiry.NEVER).value, **named}, place="--expiry")


def _price(amount: int | None, currency: str | None) -> Price | None:
    if amount is None and currency is None:
        return None
    given = {"amount": amount, "currency": currency}
    return read_price({name: value for name, value in given.items() if value is not None}, place="--price")
