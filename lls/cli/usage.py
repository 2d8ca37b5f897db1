"""``lls usage``: peaks, seat-hours and consumption, as a table or as the columns of ``usage.csv``."""

from __future__ import annotations

import csv
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
    bucket: Annotated[Bucket, typer.Option(help="One line for each.")] = Bucket.DAY,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the columns of usage.csv.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show peaks, seat-hours and consumption."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other.", param_hint="--csv")
    span = {"from": when.instant(begin, "--from"), "to": when.instant(end, "--to")}
    if span["from"] and span["to"] and span["from"] >= span["to"]:
        raise typer.BadParameter("--to must be after --from.", param_hint="--to")
    answer = admin(ctx).get("usage", bucket=bucket, **span)
    if as_json:
        show.document(answer)
    elif as_csv:
        _write_csv(answer.get("lines", []), bucket)
    else:
        show.table(answer.get("lines", []), COLUMNS, empty="Nothing was used in that time.")


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


def _hours(row: Mapping[str, Any]) -> object:
    seconds = row.get("seat_seconds")
    return f"{seconds / _SECONDS_PER_HOUR:.1f}" if isinstance(seconds, int | float) else None


COLUMNS: Final = (
    column("WHEN", _when, whole=True),
    column("PRODUCT", "product"),
    column("SKU", "sku"),
    column("METER", lambda row: row.get("feature") or "seats"),
    column("LIMIT", "seats", number=True),
    column("PEAK", "peak", number=True),
    column("SEAT-HOURS", _hours, number=True),
    column("CHECKOUTS", "checkouts", number=True),
    column("DENIALS", "denials", number=True),
    column("CONSUMED", "consumed", number=True),
    column("OVERAGE", "overage", number=True),
)
