"""Billing lines: what each customer used of each SKU in each month, for the vendor's own invoices.

Rules
1. One line per customer, period (a UTC month), SKU, feature, meter and unit. Its id is derived from these, so that an
   export made again after a later report replaces the same lines instead of adding others. Once its month is closed a
   line never changes (``closing``).
2. Meters of the seats: ``seats_peak`` (most seats in use), ``seat_hours``, ``overdraft_peak`` (most seats beyond those
   bought) and ``overdraft_hours`` (how long any were).
3. Meters of a feature: ``consumed`` (units used up less those undone; of a credit minor units of its currency) and
   ``overage`` (those of them beyond everything granted); of what is held ``units_peak`` and ``units_overdraft_peak``
   (beyond the pool). A feature of which nothing was used or held gives no line.
4. An undo counts in the month in which it was made, so that no month that is final changes: where it undoes a use of
   the month before, ``consumed`` and ``overage`` may be below zero.
5. Where a customer has several entitlements of one SKU, a day's peak is the sum of theirs. They need not have fallen
   into the same second, so it is an upper bound; with one entitlement it is exact.
6. ``final`` is false while a server that the line draws on has not reported beyond the period's end; ``as_of`` is the
   instant up to which all of them have, and at most the period's last second.
7. Hours are rounded half up to four decimals once, at the end; nothing is rounded before.

It refuses to own prices: they differ by contract and belong to the vendor's invoicing.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from itertools import groupby
from typing import Final

from lls.issuer.register import Customer
from lls.licensing.fields import write_instant
from lls.licensing.usage import UsageLine, merge

_FOUR_PLACES: Final = Decimal("0.0001")


class Meter(StrEnum):
    """What is measured."""

    SEATS_PEAK = "seats_peak"
    SEAT_HOURS = "seat_hours"
    OVERDRAFT_PEAK = "overdraft_peak"
    OVERDRAFT_HOURS = "overdraft_hours"
    CONSUMED = "consumed"
    OVERAGE = "overage"
    UNITS_PEAK = "units_peak"
    UNITS_OVERDRAFT_PEAK = "units_overdraft_peak"


_UNITS: Final = {
    Meter.SEATS_PEAK: "seat",
    Meter.SEAT_HOURS: "seat_hour",
    Meter.OVERDRAFT_PEAK: "seat",
    Meter.OVERDRAFT_HOURS: "hour",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingLine:
    """One quantity to bill, or not; the fields stand in the order of the columns."""

    line_id: str
    period: str
    customer_id: str
    account_ref: str
    customer: str
    sku: str
    product: str
    feature: str
    """Its key; empty: the seats."""
    meter: Meter
    unit: str
    quantity: Decimal
    final: bool
    used_in: str
    """The month in which it was used: the period, or an earlier one that was closed before this was known."""
    as_of: datetime
    closed: bool
    """Billed: it never changes any more."""


COLUMNS: Final = tuple(column.name for column in fields(BillingLine))


def billing_lines(
    usage: Iterable[UsageLine], *, owners: Mapping[str, Customer], reported_until: Mapping[str, datetime]
) -> Iterator[BillingLine]:
    """The billing lines of ``usage``, by customer, period, SKU, feature (the seats first) and meter.

    ``usage`` comes by customer and month; of it one customer's month at a time stands in memory. ``owners`` and
    ``reported_until`` are by server id; every server in ``usage`` has an owner.
    """
    for (_, period), lines in groupby(usage, key=lambda line: (owners[line.server_id].customer_id, line.day[:7])):
        by_sku: dict[str, list[UsageLine]] = defaultdict(list)
        for line in merge(lines):
            if line.entitlement_id:
                by_sku[line.sku].append(line)
        for _, own in sorted(by_sku.items()):
            until = min(reported_until[one.server_id] for one in own)
            yield from _bill(owners[own[0].server_id], period, own, until=until)


def in_order(lines: Iterable[BillingLine]) -> list[BillingLine]:
    """By customer, period, SKU, feature (the seats first), unit, meter and the month in which it was used."""
    place = {meter: n for n, meter in enumerate(Meter)}
    return sorted(
        lines,
        key=lambda one: (one.account_ref, one.period, one.sku, one.feature, one.unit if one.feature else "",
                         place[one.meter], one.used_in),
    )  # fmt: skip


def correction(line: BillingLine, *, quantity: Decimal, period: str) -> BillingLine:
    """What ``line`` is short of (below zero: over), to be billed in ``period``. It has an id of its own."""
    parts = (line.feature, line.unit) if line.feature else ()
    return replace(
        line,
        line_id=_line_id(line.customer_id, line.used_in, line.sku, line.meter, *parts, "corrected in", period),
        period=period,
        quantity=quantity,
        closed=False,
    )


def month_ends(period: str) -> datetime:
    """The instant at which a month such as ``2026-11`` is over."""
    year, month = int(period[:4]), int(period[5:7])
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def _bill(customer: Customer, period: str, lines: list[UsageLine], *, until: datetime) -> Iterator[BillingLine]:
    ends = month_ends(period)
    by_meter: dict[tuple[str, str], list[UsageLine]] = defaultdict(list)
    for line in lines:
        by_meter[line.feature, line.unit].append(line)
    for (feature, unit), own in sorted(by_meter.items()):
        for meter, quantity in (_of_feature(own) if feature else _of_seats(own)).items():
            # The ids of the seats' lines are from before there were features.
            parts = (feature, unit) if feature else ()
            yield BillingLine(
                line_id=_line_id(customer.customer_id, period, own[-1].sku, meter, *parts),
                period=period,
                customer_id=customer.customer_id,
                account_ref=customer.account_ref,
                customer=customer.name,
                sku=own[-1].sku,
                product=own[-1].product,
                feature=feature,
                meter=meter,
                unit=unit if feature else _UNITS[meter],
                quantity=quantity,
                final=until >= ends,
                used_in=period,
                as_of=min(until, ends - timedelta(seconds=1)).replace(microsecond=0),
                closed=False,
            )


def _of_seats(lines: list[UsageLine]) -> dict[Meter, Decimal]:
    return {
        Meter.SEATS_PEAK: Decimal(_highest_day(lines, "peak")),
        Meter.SEAT_HOURS: _hours(sum(line.seat_seconds for line in lines)),
        Meter.OVERDRAFT_PEAK: Decimal(_highest_day(lines, "overdraft_peak")),
        Meter.OVERDRAFT_HOURS: _hours(sum(line.overdraft_seconds for line in lines)),
    }


def _of_feature(lines: list[UsageLine]) -> dict[Meter, Decimal]:
    """What a feature is, its lines do not say; what happened to it, they do."""
    quantities = {}
    if any(line.consumed or line.undone or line.overage for line in lines):
        quantities[Meter.CONSUMED] = Decimal(sum(line.consumed - line.undone for line in lines))
        quantities[Meter.OVERAGE] = Decimal(sum(line.overage for line in lines))
    if any(line.peak for line in lines):
        quantities[Meter.UNITS_PEAK] = Decimal(_highest_day(lines, "peak"))
        quantities[Meter.UNITS_OVERDRAFT_PEAK] = Decimal(_highest_day(lines, "overdraft_peak"))
    return quantities


def _highest_day(lines: list[UsageLine], meter: str) -> int:
    days: dict[str, int] = defaultdict(int)
    for line in lines:
        days[line.day] += getattr(line, meter)
    return max(days.values())


def _hours(seconds: int) -> Decimal:
    return (Decimal(seconds) / 3600).quantize(_FOUR_PLACES, rounding=ROUND_HALF_UP)


def _line_id(*parts: str) -> str:
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"bil_{base64.urlsafe_b64encode(digest[:16]).decode().rstrip('=')}"


def billing_csv(lines: Iterable[BillingLine]) -> bytes:
    """RFC 4180 CSV in UTF-8. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(line, name)) for name in COLUMNS] for line in lines)
    return table.getvalue().encode()


def billing_document(line: BillingLine) -> dict[str, object]:
    """One line for JSON; ``quantity`` is a decimal text, so that no reader rounds it."""
    return {name: _json(getattr(line, name)) for name in COLUMNS}


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return write_instant(value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "'")):
        return "'" + value
    return value


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return write_instant(value)
    return str(value) if isinstance(value, Decimal | Meter) else value
