"""``lls-issuer order``: orders in, deliveries out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lls.issuer.cli.entitlement import entitlement_table, sold_document
from lls.issuer.cli.frame import AsJson, PassphraseFile, group, now, open_issuer, plain, print_json, say, show, stdout
from lls.issuer.delivery import deliver, write_delivery
from lls.issuer.files import read_bounded
from lls.issuer.ordering import Fulfilled
from lls.issuer.orders import LARGEST_ORDER_BYTES
from lls.licensing.fields import write_instant

noun = group("Orders.")


class Form(StrEnum):
    """How a file of orders is written."""

    JSON = "json"
    CSV = "csv"


@noun.command("fulfil")
def order_fulfil(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON: an order, or a list of orders. CSV: a row for each line.")],
    form: Annotated[
        Form | None, typer.Option("--format", help="How it is written; else as its name ends says, or JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fulfil orders, all or none; what was fulfilled before changes nothing."""
    data = read_bounded(file, what="order", most=LARGEST_ORDER_BYTES)
    table = form is Form.CSV if form else file.suffix.lower() == ".csv"
    with open_issuer(ctx) as issuer:
        fulfilled = issuer.fulfil(data, table=table, now=now())
    if as_json:
        print_json({"orders": [_fulfilled_document(each) for each in fulfilled]})
        return
    for each in fulfilled:
        say(
            f"{each.order_ref}: for {each.customer.name}, "
            f"{'fulfilled before: nothing changed' if each.again else 'fulfilled'}."
        )
        stdout.print(_line_table(each))
        stdout.print(entitlement_table(each.entitlements))
    for server_id in sorted({server_id for each in fulfilled for server_id in each.server_ids}):
        say(f"Next: lls-issuer bundle issue --server {server_id} -o FILE")
    say_unhosted(fulfilled)
    ref = shlex.quote(fulfilled[0].order_ref) if len(fulfilled) == 1 else "ORDER_REF"
    say(f"The whole delivery of an order, with its letter: lls-issuer order deliver {ref} -o DIR")


@noun.command("list")
def order_list(
    ctx: typer.Context,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this account reference.")] = None,
    as_json: AsJson = False,
) -> None:
    """The orders that were fulfilled."""
    with open_issuer(ctx) as issuer:
        customer_id = issuer.customer(customer).customer_id if customer else None
        listed = [
            {
                "order_ref": sale.order_ref,
                "account_ref": issuer.customer(sale.customer_id).account_ref,
                "server_id": sale.server_id,
                "lines": len(issuer.register.sale_lines(sale.order_ref)),
                "fulfilled_at": write_instant(sale.fulfilled_at),
            }
            for sale in issuer.ordering.sales(customer_id=customer_id)
        ]
    columns = ("order_ref", "account_ref", "server_id", "lines", "fulfilled_at")
    show("orders", listed, as_json, columns, ([str(one[name] or "none") for name in columns] for one in listed))


@noun.command("show")
def order_show(
    ctx: typer.Context, order_ref: Annotated[str, typer.Argument(help="Your number of it.")], as_json: AsJson = False
) -> None:
    """An order, what each of its lines did, and its entitlements as they are now."""
    with open_issuer(ctx) as issuer:
        fulfilled = issuer.ordering.fulfilled(order_ref)
    if as_json:
        print_json(_fulfilled_document(fulfilled))
        return
    say(f"{fulfilled.order_ref}: for {fulfilled.customer.name} ({fulfilled.customer.account_ref}).")
    stdout.print(_line_table(fulfilled))
    stdout.print(entitlement_table(fulfilled.entitlements))
    say_unhosted([fulfilled])


@noun.command("deliver")
def order_deliver(
    ctx: typer.Context,
    order_ref: Annotated[str, typer.Argument(help="Your number of it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A directory to make: it must not be there yet.")],
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write what the customer gets: bundles, activation codes, and a letter in plain text and HTML."""
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        delivery = deliver(issuer, order_ref, directory=output, now=now())
        files = write_delivery(delivery, output)
    if as_json:
        print_json({"order_ref": order_ref, "files": [str(path) for path in files], **delivery.told()})
        return
    for path in files:
        say(f"Wrote {path}.")
    say_unhosted([delivery.fulfilled])


def say_unhosted(fulfilled: Sequence[Fulfilled]) -> None:
    """What no server hosts reaches nobody: what to do about it."""
    homeless = [sold.entitlement_id for each in fulfilled for sold in each.entitlements if sold.server_id is None]
    if not homeless:
        return
    count = "one entitlement is" if len(homeless) == 1 else f"{len(homeless)} entitlements are"
    say(
        f"Note: {count} hosted by no server yet. Ask the site for its request (lls server request -o FILE), register "
        "that (lls-issuer server register FILE --customer ACCOUNT_REF), then:"
    )
    for entitlement_id in homeless:
        say(f"  lls-issuer entitlement host {entitlement_id} --server ID")


def _line_table(fulfilled: Fulfilled) -> Table:
    table = Table("line", "SKU", "actions", "entitlement", "what it made", title=f"Order {fulfilled.order_ref}")
    for one in fulfilled.lines:
        made = {key: value for key, value in one.outcome.items() if key not in ("actions", "entitlement_id") and value}
        actions: Any = one.outcome["actions"]
        told = ", ".join(f"{key} {_short(value)}" for key, value in made.items())
        table.add_row(str(one.line), one.sku, ", ".join(actions), one.sold.entitlement_id, told or "-")
    return table


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return f"{value['grant_id']} ({value['state']})" if isinstance(value, dict) else str(value)


def _fulfilled_document(fulfilled: Fulfilled) -> dict[str, Any]:
    return {
        "order_ref": fulfilled.order_ref,
        "already_fulfilled": fulfilled.again,
        "server_id": fulfilled.server_id,
        "customer": plain(fulfilled.customer),
        "lines": [
            {"line": one.line, "sku": one.sku, "already_fulfilled": one.again, **one.outcome} for one in fulfilled.lines
        ],
        "entitlements": [sold_document(sold) for sold in fulfilled.entitlements],
    }
