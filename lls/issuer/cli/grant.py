"""``lls-issuer grant``: units of a counted feature, given and taken back."""

from __future__ import annotations

from typing import Annotated

import typer

from lls.issuer.catalog import GrantTerms, read_expiry
from lls.issuer.cli.entitlement import Ref, changed_document, next_step
from lls.issuer.cli.frame import AsJson, group, now, open_issuer, print_json, say
from lls.licensing.calendar import Unit
from lls.licensing.entitlement import MOST_UNITS, GrantExpiry
from lls.licensing.fields import read_instant

noun = group("Units of a counted feature, given at a date.")


@noun.command("add")
def grant_add(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    entitlement_id: Annotated[str, typer.Argument(help="ent_…")],
    feature: Annotated[str, typer.Option("--feature", help="The counted feature's key.")],
    amount: Annotated[int, typer.Option("--amount", min=1, max=MOST_UNITS, help="Units; of a credit, minor units.")],
    active_from: Annotated[
        str | None, typer.Option("--active-from", help="From when on, such as 2026-12-01T00:00:00Z; else from now.")
    ] = None,
    expiry: Annotated[
        GrantExpiry, typer.Option("--expiry", help="When what is left of it is lost.")
    ] = GrantExpiry.NEVER,
    unit: Annotated[Unit | None, typer.Option("--unit", help="For --expiry custom: what --count counts.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="For --expiry custom: so many units of time.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="For --expiry at: the instant.")] = None,
    ref: Ref = None,
    as_json: AsJson = False,
) -> None:
    """Give units; the next bundle brings them."""
    given = {"unit": unit and unit.value, "count": count, "at": at}
    members = {"type": expiry.value} | {name: value for name, value in given.items() if value is not None}
    ends = read_expiry(members, place="--expiry")
    grant = GrantTerms(
        feature=feature,
        amount=amount,
        expiry=ends.expiry,
        term=ends.term,
        at=ends.at,
        active_from=None if active_from is None else read_instant(active_from, place="--active-from"),
    )
    with open_issuer(ctx) as issuer:
        changed = issuer.amending.add_grant(entitlement_id, grant, ref=ref, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    was = "was given before; nothing changed" if changed.again else "is given"
    say(f"{changed.outcome['grant_id']}: {amount} of {feature} {was}.")
    next_step(changed.sold)


@noun.command("revoke")
def grant_revoke(
    ctx: typer.Context, grant_id: Annotated[str, typer.Argument(help="grt_…")], as_json: AsJson = False
) -> None:
    """Take a grant back; what is left of it is lost with the next bundle."""
    with open_issuer(ctx) as issuer:
        changed = issuer.amending.revoke_grant(grant_id)
    if as_json:
        print_json(changed_document(changed))
        return
    say(f"{grant_id} is revoked; what is left of it is lost when the server imports its next bundle.")
    next_step(changed.sold)
