"""``lls-issuer view`` and ``feed``: what sales, support and an ERP look at. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lls.issuer.cli.frame import (
    MOST_ROWS,
    AsJson,
    cell,
    group,
    now,
    open_issuer,
    plain,
    print_json,
    say,
    show,
    stdout,
    writable,
)
from lls.issuer.feed import entitlement_feed
from lls.issuer.files import PRIVATE, write_whole
from lls.issuer.plots import peaks_svg
from lls.issuer.views import CustomerView, customer_view, renewals

view_noun = group("How things stand: what ends soon, and one customer as of its last report.")
feed_noun = group("Changes, for a system that follows the register.")


@view_noun.command("renewals")
def view_renewals(
    ctx: typer.Context,
    within: Annotated[int, typer.Option("--within", min=1, max=3650, help="Days, such as 90, 30 or 7.")] = 90,
    as_json: AsJson = False,
) -> None:
    """What ends within so many days, or did and is in its grace; the earliest first."""
    with open_issuer(ctx) as issuer:
        due = renewals(issuer.register, within=within, now=now())
    columns = ("ends_at", "days_left", "ending", "account_ref", "customer", "sku", "seats", "status", "entitlement_id")
    show("renewals", due, as_json, columns, ([_told(getattr(one, name)) for name in columns] for one in due))


@view_noun.command("customer")
def view_customer(
    ctx: typer.Context,
    customer: Annotated[str, typer.Argument(metavar="ACCOUNT_REF", help="Account reference or id.")],
    days: Annotated[int, typer.Option("--days", min=1, max=1100, help="How many days of use and refusals.")] = 30,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the peaks of those days into this SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Servers, entitlements, seats in use and refusals of one customer, as of its last report."""
    if plot is not None:
        writable(plot)
    with open_issuer(ctx) as issuer:
        view = customer_view(issuer.register, customer, days=days, now=now())
    if plot is not None:
        _draw(view, plot)
    if as_json:
        print_json(_customer_document(view))
    else:
        _show_customer(view)


def _draw(view: CustomerView, file: Path) -> None:
    if view.as_of is None or view.since is None:
        say(f"{view.customer.account_ref} has not reported yet, so there is nothing to draw: {file} was not written.")
        return
    until = view.as_of.date()
    write_whole(file, peaks_svg(view.days, title=view.customer.name, since=view.since, until=until), mode=PRIVATE)
    say(f"Drew the peaks of {view.since} to {until} into {file}.")


def _customer_document(view: CustomerView) -> dict[str, Any]:
    document: dict[str, Any] = plain(view)
    return {
        **document,
        "since": view.since and view.since.isoformat(),
        "days": [{**plain(one), "day": one.day.isoformat()} for one in view.days],
    }


def _show_customer(view: CustomerView) -> None:
    as_of = "never reported" if view.as_of is None else f"as of its report of {_told(view.as_of)}"
    resting = ", disabled" if view.customer.disabled_at is not None else ""
    say(f"{view.customer.account_ref} {view.customer.name}{resting}: {as_of}")
    servers = ("server_id", "name", "version", "standing", "last_report_at", "report_due_at")
    entitlements = ("entitlement_id", "sku", "status", "seats", "in_use", "expires_at", "server_id")
    _table("Servers", view.servers, servers)
    _table("Entitlements", view.entitlements, entitlements)
    _table("Seats per day", view.days, ("day", "product", "peak", "seats", "seat_hours", "denials"))
    _table("Refusals", view.refused, ("product", "feature", "code", "cause", "count", "remedy"))


def _table(title: str, values: Sequence[object], columns: Sequence[str]) -> None:
    table = Table(*columns, title=title)
    for one in values:
        table.add_row(*[_told(getattr(one, column)) for column in columns])
    stdout.print(table)


@feed_noun.command("entitlements")
def feed_entitlements(
    ctx: typer.Context,
    since: Annotated[
        int, typer.Option("--since", min=0, max=MOST_ROWS, help="The number that the last answer gave as next.")
    ] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many changes.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Changes of entitlements after a number, oldest first, each once."""
    with open_issuer(ctx) as issuer:
        feed = entitlement_feed(issuer.register, since=since, most=limit)
    if as_json:
        print_json(plain(feed))
        return
    _table("Changes", feed.changes, ("number", "at", "change", "entitlement_id", "account_ref", "order_ref", "by"))
    say(f"{'There are more' if feed.more else 'That is all'}; next time: --since {feed.next}")


def _told(value: object) -> str:
    match value:
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case date():
            return value.isoformat()
        case _:
            return cell(value)
