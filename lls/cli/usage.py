"""``lls usage``: peaks, hours and consumption, as a table or as the columns of ``usage.csv``.

With ``--what-if`` it says instead what another number of seats would have done.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from lls.cli import show, when
from lls.cli.admin import admin
from lls.cli.frame import AsJson
from lls.cli.show import column

_SECONDS_PER_HOUR: Final = 3_600
_WHAT_IF: Final = re.compile(r"seats=([0-9]{1,10})")


class Bucket(StrEnum):
    """How long one line lasts."""

    HOUR = "hour"
    DAY = "day"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("usage")(usage)


def usage(
    ctx: typer.Context,
    *,
    begin: Annotated[str | None, typer.Option("--from", metavar="T", help=when.HELP, show_default=False)] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="The same forms.", show_default=False)] = None,
    bucket: Annotated[
        Bucket | None, typer.Option(help="One line for each; a day by itself.", show_default=False)
    ] = None,
    what_if: Annotated[
        str | None,
        typer.Option(
            "--what-if", metavar="seats=N", help="How many denials N seats would have left.", show_default=False
        ),
    ] = None,
    product: Annotated[
        str | None, typer.Option(metavar="P", help="The product that --what-if is about.", show_default=False)
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the columns of usage.csv.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show peaks, hours and consumption; or with --what-if how many denials another number of seats would have left."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other.", param_hint="--csv")
    span = {"from": when.instant(begin, "--from"), "to": when.instant(end, "--to")}
    if span["from"] and span["to"] and span["from"] >= span["to"]:
        raise typer.BadParameter("--to must be after --from.", param_hint="--to")
    if what_if is not None:
        seats, product = _asked(what_if, product, lined=as_csv or bucket is not None)
        outcome = admin(ctx).get("usage/what-if", product=product, seats=seats, **span)
        if as_json:
            show.document(outcome)
        else:
            _say_outcome(outcome)
        return
    if product is not None:
        raise typer.BadParameter("--product goes with --what-if.", param_hint="--product")
    bucket = bucket or Bucket.DAY
    answer = admin(ctx).get("usage", bucket=bucket, **span)
    if as_json:
        show.document(answer)
    elif as_csv:
        _write_csv(answer.get("lines", []), bucket)
    else:
        show.table(answer.get("lines", []), COLUMNS, empty="Nothing was used in that time.")
        show.archived(answer)


def _asked(what_if: str, product: str | None, *, lined: bool) -> tuple[int, str]:
    """The number of seats and the product that ``--what-if`` asks about."""
    said = _WHAT_IF.fullmatch(what_if)
    if said is None:
        raise typer.BadParameter(f"{what_if!r} is no question; write seats=60.", param_hint="--what-if")
    if not product:
        raise typer.BadParameter("--what-if is about one product: name it with --product.", param_hint="--product")
    if lined:
        raise typer.BadParameter("--what-if gives one answer: no --csv and no --bucket.", param_hint="--what-if")
    return int(said[1]), product


def _say_outcome(outcome: Mapping[str, Any]) -> None:
    if not outcome.get("requests"):
        show.say(f"Nobody asked for a seat of {show.said(outcome.get('product'))} in that time.")
        return
    wanting = bool(outcome.get("true_denials"))
    if not wanting:
        show.say("No request was refused for want of a seat: more seats would have changed nothing.")
        show.say()
    facts = [
        ("Product", outcome.get("product")),
        ("Seats", outcome.get("seats")),
        ("Requests", outcome.get("requests")),
        ("Denials", _of_holders(outcome, "denials", "denied_holders")),
        ("All seats taken", outcome.get("true_denials")),
        ("Site's policy", outcome.get("policy_denials")),
        ("Would remain", _of_holders(outcome, "would_remain", "would_remain_holders")),
        ("Peak", outcome.get("peak")),
    ]
    only_where_wanting = {"All seats taken", "Would remain"}
    show.facts([fact for fact in facts if wanting or fact[0] not in only_where_wanting])
    if wanting and outcome.get("assumption"):
        show.say()
        show.say(f"Assumed: {outcome['assumption']}")


def _of_holders(outcome: Mapping[str, Any], count: str, holders: str) -> object:
    """``12, of 3 machines``."""
    machines = outcome.get(holders)
    return (
        f"{outcome[count]}, of {show.count(machines, 'machine')}"
        if outcome.get(count) and machines
        else outcome.get(count)
    )


def _write_csv(lines: list[Mapping[str, Any]], bucket: Bucket) -> None:
    names = ["bucket" if bucket is Bucket.HOUR else "day", *_CSV]
    table = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(lines)


# Contract §3, usage.csv, after its first column.
_CSV: Final = (
    *("server_id", "customer_ref", "entitlement_id", "sku", "product", "feature", "unit", "seats", "peak", "low"),
    *("seat_seconds", "checkouts", "denials", "denied_holders", "overdraft_peak", "overdraft_seconds", "consumed"),
    *("undone", "overage", "period_start", "period_end"),
)


def _when(row: Mapping[str, Any]) -> str:
    return show.instant(row["bucket"]) if "bucket" in row else show.said(row.get("day"))


def _meter(row: Mapping[str, Any]) -> object:
    """``seats``, or the feature and what it counts: hours are of that."""
    feature, unit = row.get("feature"), row.get("unit")
    if not feature:
        return "seats"
    return f"{feature} ({unit})" if unit else feature


def _hours(row: Mapping[str, Any]) -> object:
    seconds = row.get("seat_seconds")
    return f"{seconds / _SECONDS_PER_HOUR:.1f}" if isinstance(seconds, int | float) else None


COLUMNS: Final = (
    column("WHEN", _when, whole=True),
    column("PRODUCT", "product"),
    column("SKU", "sku"),
    column("METER", _meter),
    column("LIMIT", "seats", number=True),
    column("PEAK", "peak", number=True),
    column("HOURS", _hours, number=True),
    column("CHECKOUTS", "checkouts", number=True),
    column("DENIALS", "denials", number=True),
    column("CONSUMED", "consumed", number=True),
    column("UNDONE", "undone", number=True),
    column("OVERAGE", "overage", number=True),
)
