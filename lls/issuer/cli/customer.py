"""``lls-issuer customer``: who buys."""

from __future__ import annotations

from typing import Annotated

import typer

from lls.issuer.cli.frame import AsJson, group, now, open_issuer, plain, print_json, say, show
from lls.licensing.fields import write_instant

noun = group("Who buys.")


@noun.command("add")
def customer_add(
    ctx: typer.Context,
    account_ref: Annotated[str, typer.Argument(help="Your own number for the customer; it never changes.")],
    name: Annotated[str, typer.Argument(help="The customer's name.")],
    field: Annotated[
        list[str] | None, typer.Option("--field", help="A field of your own, KEY=VALUE; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a customer, or change the one of that account reference."""
    own = dict(_pair(item) for item in field) if field else None
    with open_issuer(ctx) as issuer:
        customer = issuer.put_customer(account_ref, name=name, custom_fields=own, now=now())
    if as_json:
        print_json(plain(customer))
    else:
        say(f"{customer.account_ref} is {customer.name} ({customer.customer_id}).")


@noun.command("list")
def customer_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """All customers."""
    with open_issuer(ctx) as issuer:
        customers = issuer.register.customers()
    rows = ((each.account_ref, each.name, each.customer_id, write_instant(each.created_at)) for each in customers)
    show("customers", customers, as_json, ("account_ref", "name", "customer_id", "created_at"), rows)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise typer.BadParameter(f"--field takes KEY=VALUE, not {text!r}.")
    return key, value
