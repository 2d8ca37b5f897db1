"""``lls-issuer usage``: what was used, for the vendor's invoicing, and the closing of months."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from lls.issuer.billing import BillingLine, billing_csv, billing_document
from lls.issuer.cli.frame import AsJson, group, now, open_issuer, print_json, say, writable
from lls.issuer.closing import Closed
from lls.issuer.cloudevents import source_of, usage_events
from lls.issuer.files import PRIVATE, write_whole
from lls.licensing.fields import write_instant

noun = group("What was used, for billing.")
_MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


class Format(StrEnum):
    """How billing lines are written."""

    CSV = "csv"
    JSON = "json"
    CLOUDEVENTS = "cloudevents"


@noun.command("export")
def usage_export(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    format_: Annotated[
        Format, typer.Option("--format", help="csv, json, or cloudevents: one event a line.")
    ] = Format.CSV,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this account reference.")] = None,
    period: Annotated[str | None, typer.Option("--period", help="Only of this month, such as 2026-11.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Only lines that never change any more.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; else standard output.")] = None,
) -> None:
    """Billing lines per customer, month, SKU and meter, with ids that stay the same in every export."""
    if period is not None:
        _check_month(period)
    if output is not None:
        writable(output)
    with open_issuer(ctx) as issuer:
        lines = [line for line in issuer.usage(customer=customer, period=period) if line.closed or not closed]
        data = _written(lines, format_, source=source_of(issuer.keyring.version(1)))
    if output is None:
        typer.echo(data, nl=False)
    else:
        write_whole(output, data, mode=PRIVATE)
        say(f"Wrote {len(lines)} billing lines to {output}.")


def _written(lines: Sequence[BillingLine], format_: Format, *, source: str) -> bytes:
    match format_:
        case Format.CSV:
            return billing_csv(lines)
        case Format.JSON:
            return (json.dumps({"lines": [billing_document(line) for line in lines]}, indent=2) + "\n").encode()
        case Format.CLOUDEVENTS:
            return usage_events(lines, source=source)


@noun.command("close")
def usage_close(
    ctx: typer.Context,
    period: Annotated[str, typer.Option("--period", help="The month to close, with all before it.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Though servers have not reported beyond its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a month's lines: what is reported of it later is billed in the first month that is open."""
    _check_month(period)
    with open_issuer(ctx) as issuer:
        closed = issuer.closing.close(period, now=now(), anyway=anyway)
    if as_json:
        print_json(_closed_document(closed, asked=period))
    elif closed.again:
        say(f"{period} was closed before, with {closed.period} on {closed.closed_at:%Y-%m-%d}; nothing changed.")
    else:
        late = f" {closed.awaited} servers had not reported beyond its end." if closed.awaited else ""
        say(f"Closed {period}: {len(closed.lines)} lines will never change.{late}")
        say(f"Next: lls-issuer usage export --period {period} --closed -o FILE")


def _closed_document(closed: Closed, *, asked: str) -> dict[str, object]:
    return {
        "period": asked,
        "closed_with": closed.period,
        "closed_at": write_instant(closed.closed_at),
        "awaited": closed.awaited,
        "already_closed": closed.again,
        "lines": [billing_document(line) for line in closed.lines],
    }


def _check_month(period: str) -> None:
    if not _MONTH.fullmatch(period):
        raise typer.BadParameter(f"--period takes a month such as 2026-11, not {period!r}.")
