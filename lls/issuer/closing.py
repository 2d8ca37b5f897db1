"""Closing months: what was billed never changes, and what is known later is billed later.

    issuer.closing.close("2026-10", now=now)         # the lines of October and of all months before are frozen
    issuer.closing.lines(period="2026-11")           # what is billed, and what is still to be

Rules
1. Months are closed in their order: closing one closes those before it. A month that is not over is refused; one that
   is closed already changes nothing.
2. A month is refused while a server that hosts something has not reported beyond its end, and the sentence names those
   servers. Air-gapped sites report when somebody carries a file, so the vendor may close all the same (``anyway``).
3. A line of a closed month is what was stored at the closing, word for word: no later report, no renamed customer and
   no other rounding changes it.
4. What reports tell of a closed month afterwards is the difference to all that was billed of it. It becomes a line of
   the first month that is open, with ``used_in`` naming the month it is about. It may be below zero, as when an upgrade
   in the midst of a day puts that day under another SKU.
5. So for each customer, month of use, SKU, feature, meter and unit: billed + unbilled = journalled, at every moment.
   Of peaks too: a peak that turns out higher is billed with what it is higher by.
6. Of a customer that was deleted nothing is known any more; what was billed stays, and is not taken back.

It refuses to own quantities (``billing``) and prices.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeAlias

from lls.issuer.billing import BillingLine, Meter, billing_lines, correction, in_order, month_ends
from lls.issuer.history import Deed
from lls.issuer.refusals import Conflict
from lls.issuer.register import Register, Server
from lls.licensing.fields import read_instant, write_instant

_PERIOD: Final = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])")
_NAMED: Final = 5
_Key: TypeAlias = tuple[str, str, str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A month that is closed; ``awaited`` servers had not reported beyond its end. ``again``: it was before."""

    period: str
    closed_at: datetime
    awaited: int
    lines: tuple[BillingLine, ...]
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClosingRow:
    period: str
    closed_at: str
    awaited: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _BilledRow:
    line_id: str
    closing: str
    period: str
    used_in: str
    customer_id: str
    account_ref: str
    customer: str
    sku: str
    product: str
    feature: str
    meter: str
    unit: str
    quantity: str
    final: int
    as_of: str


class Closing:
    """The part of the office that says what is billed and what is not."""

    def __init__(self, register: Register) -> None:
        self._register = register

    def lines(self, *, customer_id: str | None = None, period: str | None = None) -> list[BillingLine]:
        """Billing lines, closed and open: of one customer or all, billed in one month or in any."""
        with self._register.snapshot():  # a month that somebody closes just now would be there twice
            return self._lines(customer_id=customer_id, period=period)

    def _lines(self, *, customer_id: str | None, period: str | None) -> list[BillingLine]:
        through = self.through()
        billed = self._billed(customer_id=customer_id)
        if period is not None and through is not None and period <= through:
            unbilled: Iterable[BillingLine] = ()
        else:
            # A correction may be about any month before; a month beyond the first open one has none.
            alone = period is not None and (through is None or period > _next_month(through))
            journalled = self.journalled(customer_id=customer_id, period=period if alone else None)
            known = {one.customer_id for one in self._register.customers()}
            unbilled = _unbilled(journalled, billed, through=through, known=known)
        return in_order(one for one in (*billed, *unbilled) if period is None or one.period == period)

    def journalled(self, *, customer_id: str | None = None, period: str | None = None) -> Iterator[BillingLine]:
        """What all reports together say, whatever was billed; reckoned as it is asked for."""
        customers = {known.customer_id: known for known in self._register.customers()}
        return billing_lines(
            self._register.usage(customer_id=customer_id, month=period),
            owners={
                server.server_id: customers[server.customer_id]
                for server in self._register.servers()
                if server.customer_id in customers
            },
            reported_until=self.reported_until(),
        )

    def reported_until(self) -> dict[str, datetime]:
        """By server: when it made the newest of its reports."""
        until: dict[str, datetime] = {}
        for report in self._register.reports():
            until[report.server_id] = max(until.get(report.server_id, report.made_at), report.made_at)
        return until

    def through(self) -> str | None:
        """The newest month that is closed."""
        closings = self._closings()
        return closings[-1].period if closings else None

    def close(self, period: str, *, now: datetime, anyway: bool = False) -> Closed:
        """Closes a month, with all before it. Raises Conflict; see the rules."""
        if not _PERIOD.fullmatch(period):
            raise Conflict(f"{period} is no month; write it like 2026-11.")
        ends = month_ends(period)
        if now < ends:
            raise Conflict(f"{period} is not over: it can be closed from {write_instant(ends)} on.")
        with self._register.transaction():
            covering = next((one for one in self._closings() if one.period >= period), None)
            if covering is not None:
                return self._closed_before(covering)
            awaited = self.awaited(ends)
            if awaited and not anyway:
                raise Conflict(_awaited_sentence(period, awaited, self.reported_until()))
            lines = [replace(one, closed=True) for one in self.lines() if not one.closed and one.period <= period]
            self._register.insert(
                "closing", _ClosingRow(period=period, closed_at=write_instant(now), awaited=len(awaited))
            )
            for line in lines:
                self._register.insert("billed", _row(line, closing=period))
            self._register.note(
                Deed.PERIOD_CLOSED, at=now, what={"period": period, "lines": len(lines), "awaited": len(awaited)}
            )
        return Closed(period=period, closed_at=now, awaited=len(awaited), lines=tuple(lines), again=False)

    def awaited(self, until: datetime) -> list[Server]:
        """Servers that host something, had begun before ``until`` and have not reported beyond it."""
        reported = self.reported_until()
        return [
            server
            for server in self._register.servers()
            if server.customer_id is not None
            and server.retired_at is None
            and not (server.server_id in reported and reported[server.server_id] >= until)
            and any(
                session.ended_at is None and (session.began_at < until or server.server_id in reported)
                for session in self._register.sessions(server_id=server.server_id)
            )
        ]

    def _closed_before(self, closing: _ClosingRow) -> Closed:
        return Closed(
            period=closing.period,
            closed_at=read_instant(closing.closed_at, place="closed_at"),
            awaited=closing.awaited,
            lines=tuple(self._billed(closing=closing.period)),
            again=True,
        )

    def _closings(self) -> list[_ClosingRow]:
        return self._register.select(_ClosingRow, "SELECT period, closed_at, awaited FROM closing ORDER BY period")

    def _billed(self, *, customer_id: str | None = None, closing: str | None = None) -> list[BillingLine]:
        rows = self._register.select(
            _BilledRow,
            """SELECT * FROM billed WHERE (?1 IS NULL OR customer_id = ?1) AND (?2 IS NULL OR closing = ?2)
               ORDER BY line_id""",
            customer_id,
            closing,
        )
        return in_order(_line(row) for row in rows)


def _unbilled(
    journalled: Iterable[BillingLine], billed: Iterable[BillingLine], *, through: str | None, known: Collection[str]
) -> Iterator[BillingLine]:
    """What is not billed yet; of the months up to ``through`` only what they turned out to be short of."""
    sums: dict[_Key, Decimal] = {}
    newest: dict[_Key, BillingLine] = {}
    for one in billed:
        sums[_key(one)] = sums.get(_key(one), Decimal(0)) + one.quantity
        newest[_key(one)] = one
    for line in journalled:
        if through is None or line.period > through:
            yield line
            continue
        short = line.quantity - sums.pop(_key(line), Decimal(0))
        if short:
            yield correction(line, quantity=short, period=_next_month(through))
    for key, over in sums.items():  # not in the journal any more under that name
        if through is not None and over and newest[key].customer_id in known:
            yield correction(newest[key], quantity=-over, period=_next_month(through))


def _key(line: BillingLine) -> _Key:
    return line.customer_id, line.used_in, line.sku, line.feature, line.meter, line.unit


def _next_month(period: str) -> str:
    return f"{month_ends(period):%Y-%m}"


def _awaited_sentence(period: str, awaited: Sequence[Server], reported: dict[str, datetime]) -> str:
    def told(server: Server) -> str:
        newest = reported.get(server.server_id)
        return f"{server.server_id} ({'never reported' if newest is None else f'reported until {newest:%Y-%m-%d}'})"

    more = f" and {len(awaited) - _NAMED} more" if len(awaited) > _NAMED else ""
    return (
        f"{period} was not closed: {', '.join(told(one) for one in awaited[:_NAMED])}{more} did not report beyond its "
        "end. Ask these sites for their reports, or close it with --anyway: what they report later is then billed in "
        "the first month that is open."
    )


def _row(line: BillingLine, *, closing: str) -> _BilledRow:
    return _BilledRow(
        line_id=line.line_id,
        closing=closing,
        period=line.period,
        used_in=line.used_in,
        customer_id=line.customer_id,
        account_ref=line.account_ref,
        customer=line.customer,
        sku=line.sku,
        product=line.product,
        feature=line.feature,
        meter=line.meter.value,
        unit=line.unit,
        quantity=str(line.quantity),
        final=int(line.final),
        as_of=write_instant(line.as_of),
    )


def _line(row: _BilledRow) -> BillingLine:
    return BillingLine(
        line_id=row.line_id,
        period=row.period,
        customer_id=row.customer_id,
        account_ref=row.account_ref,
        customer=row.customer,
        sku=row.sku,
        product=row.product,
        feature=row.feature,
        meter=Meter(row.meter),
        unit=row.unit,
        quantity=Decimal(row.quantity),
        final=bool(row.final),
        used_in=row.used_in,
        as_of=read_instant(row.as_of, place="as_of"),
        closed=True,
    )
