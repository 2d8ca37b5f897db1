"""What sales and support look at: what ends soon, and how a customer stands as of its last report.

Rules
1. Nothing here is newer than the reports that came in, and every view says how old it is. What a site does today, only
   the site knows.
2. A renewal is due from its window on until the grace is over; what lapsed after that is no renewal any more but a
   sale. Maintenance that ends before the term does is a renewal of its own.
3. Peaks of several entitlements of a product are summed by the day, as in ``billing``: an upper bound.
4. A refusal is *capacity* where nobody could have been seated (more seats help), *policy* where a rule of the site
   refused (its administrator helps), *terms* where it was not sold.
5. A server is overdue when the deadline of its newest bundle for the next report has passed: from then on it refuses
   new checkouts by itself.

It reads and changes nothing. It refuses to own quantities to be billed (``billing``) and how a view is drawn
(``plots``, ``cli``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final

from lls.issuer.lookup import customer_in
from lls.issuer.register import Customer, IngestedReport, Register, Server, Sold
from lls.licensing.denial import cause_of, remedy_of
from lls.licensing.fields import Fields
from lls.licensing.usage import UsageLine, merge

WINDOWS: Final = (7, 30, 90)
"""Days: the sizes in which people sort what ends soon."""
_HOUR: Final = 3600


class Ending(StrEnum):
    """What comes to an end."""

    TERM = "term"
    MAINTENANCE = "maintenance"


class Standing(StrEnum):
    """How a server stands."""

    REPORTING = "reporting"
    OVERDUE = "overdue"
    NEVER_REPORTED = "never_reported"
    RETIRED = "retired"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """Something that ends soon, or did and is in its grace. ``within``: the smallest of the windows that holds it."""

    account_ref: str
    customer: str
    entitlement_id: str
    sku: str
    product: str
    seats: int | None
    ending: Ending
    ends_at: datetime
    days_left: int
    within: int | None
    grace_until: datetime
    status: str
    order_ref: str
    server_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """A server as of its last report; ``report_due_at``: when it refuses new checkouts unless one is acknowledged."""

    server_id: str
    name: str
    version: str
    standing: Standing
    registered_at: datetime
    last_report_id: str | None
    last_report_at: datetime | None
    last_line: int | None
    report_due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitlementView:
    """An entitlement; ``in_use`` as of the last report of its server, None where there is none."""

    entitlement_id: str
    sku: str
    product: str
    status: str
    seats: int | None
    in_use: int | None
    starts_at: datetime | None
    expires_at: datetime | None
    server_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Seats of one product on one day; ``seats`` None: unlimited."""

    day: date
    product: str
    peak: int
    seats: int | None
    seat_hours: float
    denials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """How often somebody was refused, and why; ``cause``: capacity, policy, terms, or other."""

    product: str
    feature: str
    code: str
    cause: str
    count: int
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerView:
    """How a customer stands; ``days`` and ``refused`` are of the days from ``since`` on."""

    customer: Customer
    as_of: datetime | None
    since: date | None
    servers: tuple[ServerView, ...]
    entitlements: tuple[EntitlementView, ...]
    days: tuple[Day, ...]
    refused: tuple[Refused, ...]


# ---------------------------------------------------------------- what ends soon


def renewals(register: Register, *, within: int, now: datetime) -> list[Renewal]:
    """What ends within so many days, or did and is in its grace; the earliest first."""
    owners = {customer.customer_id: customer for customer in register.customers()}
    due = [
        renewal for sold in register.entitlements() for renewal in _due(sold, owners[sold.customer_id], within, now=now)
    ]
    return sorted(due, key=lambda one: (one.ends_at, one.account_ref, one.entitlement_id))


def _due(sold: Sold, customer: Customer, within: int, *, now: datetime) -> Iterator[Renewal]:
    terms = Fields(sold.document, place="entitlement")
    ends_at, until = terms.optional_instant("expires_at"), now + timedelta(days=within)
    grace = timedelta(seconds=terms.optional_integer("grace_seconds") or 0)
    maintained = terms.optional_day("maintenance_expires_on")
    ends = [] if ends_at is None else [(Ending.TERM, ends_at, grace)]
    if maintained is not None:
        over = datetime.combine(maintained + timedelta(days=1), time(), tzinfo=UTC)  # the day itself is covered
        if ends_at is None or over < ends_at:
            ends.append((Ending.MAINTENANCE, over, timedelta(0)))
    for ending, end, longer in ends:
        if now < end + longer and end <= until:
            left = (end - now) // timedelta(days=1)
            yield Renewal(
                account_ref=customer.account_ref,
                customer=customer.name,
                entitlement_id=sold.entitlement_id,
                sku=terms.object("offering").text("sku"),
                product=terms.object("product").word("key"),
                seats=terms.optional_integer("seats"),
                ending=ending,
                ends_at=end,
                days_left=left,
                within=next((days for days in WINDOWS if end <= now + timedelta(days=days)), None),
                grace_until=end + longer,
                status=terms.text("status"),
                order_ref=sold.order_ref,
                server_id=sold.server_id,
            )


# ---------------------------------------------------------------- one customer


def customer_view(register: Register, key: str, *, days: int, now: datetime) -> CustomerView:
    """How a customer stands, with the last ``days`` days that it reported. Raises NotKnown."""
    customer = customer_in(register, key)
    servers = [one for one in register.servers() if one.customer_id == customer.customer_id]
    newest = {one.server_id: _newest(register.reports(server_id=one.server_id)) for one in servers}
    as_of = max((report.made_at for report in newest.values() if report is not None), default=None)
    since = None if as_of is None else as_of.date() - timedelta(days=days - 1)
    levels = {one.server_id: _levels(register, one.server_id) for one in servers}
    return CustomerView(
        customer=customer,
        as_of=as_of,
        since=since,
        servers=tuple(_server_view(register, one, newest[one.server_id], now=now) for one in servers),
        entitlements=tuple(
            _entitlement_view(one, levels.get(one.server_id or "", {}))
            for one in register.entitlements(customer_id=customer.customer_id)
        ),
        days=() if since is None else tuple(_days(register.usage(customer_id=customer.customer_id), since)),
        refused=() if since is None else tuple(_refused(register, customer.customer_id, since)),
    )


def _newest(reports: Iterable[IngestedReport]) -> IngestedReport | None:
    return max(reports, key=lambda report: (report.to_seq, report.made_at), default=None)


def _server_view(register: Register, server: Server, newest: IngestedReport | None, *, now: datetime) -> ServerView:
    due = _report_due(register, server)
    return ServerView(
        server_id=server.server_id,
        name=server.name,
        version=server.version,
        standing=_standing(server, newest, due, now=now),
        registered_at=server.registered_at,
        last_report_id=newest.report_id if newest else None,
        last_report_at=newest.made_at if newest else None,
        last_line=newest.to_seq if newest else None,
        report_due_at=due,
    )


def _standing(server: Server, newest: IngestedReport | None, due: datetime | None, *, now: datetime) -> Standing:
    if server.retired_at is not None:
        return Standing.LOST if server.lost else Standing.RETIRED
    if due is not None and now > due:
        return Standing.OVERDUE
    return Standing.NEVER_REPORTED if newest is None else Standing.REPORTING


def _report_due(register: Register, server: Server) -> datetime | None:
    """By the newest bundle's own words: so many days after the last acknowledged report, at first after the issue."""
    bundles = register.bundles(server.server_id)
    if not bundles:
        return None
    license_ = Fields(bundles[-1].payload, place="bundle").object("server_license")
    allowed = license_.optional_integer("sync_within_days")
    acknowledged = [register.report(receipt.report_id) for receipt in register.receipts(server.server_id)[-1:]]
    since = [report.made_at for report in acknowledged if report is not None] or [bundles[0].issued_at]
    return None if allowed is None else since[0] + timedelta(days=allowed)


def _levels(register: Register, server_id: str) -> dict[str, int]:
    """Seats in use at the end of the last report, by entitlement."""
    end = register.journal_end(server_id)
    carried = None if end is None else register.carry(server_id, up_to=end[0])
    if carried is None:
        return {}
    pools: Any = carried[1]["pools"]
    return {pool["entitlement_id"]: pool["level"] for pool in pools}


def _entitlement_view(sold: Sold, levels: Mapping[str, int]) -> EntitlementView:
    terms = Fields(sold.document, place="entitlement")
    return EntitlementView(
        entitlement_id=sold.entitlement_id,
        sku=terms.object("offering").text("sku"),
        product=terms.object("product").word("key"),
        status=terms.text("status"),
        seats=terms.optional_integer("seats"),
        in_use=levels.get(sold.entitlement_id),
        starts_at=terms.optional_instant("starts_at"),
        expires_at=terms.optional_instant("expires_at"),
        server_id=sold.server_id,
    )


def _days(usage: Iterable[UsageLine], since: date) -> Iterator[Day]:
    groups: dict[tuple[str, str], list[UsageLine]] = defaultdict(list)
    for line in merge(usage):
        if not line.feature and line.day >= since.isoformat():
            groups[line.day, line.product].append(line)
    for (day, product), lines in sorted(groups.items()):
        own = [line for line in lines if line.entitlement_id]
        limits = [line.seats for line in own if line.seats is not None]
        yield Day(
            day=date.fromisoformat(day),
            product=product,
            peak=sum(line.peak for line in own),
            seats=sum(limits) if len(limits) == len(own) else None,
            seat_hours=round(sum(line.seat_seconds for line in own) / _HOUR, 2),
            denials=sum(line.denials for line in lines),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RefusalRow:
    product: str
    feature: str
    code: str
    total: int


def _refused(register: Register, customer_id: str, since: date) -> Iterator[Refused]:
    rows = register.select(
        _RefusalRow,
        """SELECT product, feature, code, sum(count) AS total FROM refusal JOIN server USING (server_id)
           WHERE customer_id = ? AND day >= ?
           GROUP BY product, feature, code ORDER BY total DESC, product, feature, code""",
        customer_id,
        since.isoformat(),
    )
    for row in rows:
        yield Refused(
            product=row.product,
            feature=row.feature,
            code=row.code,
            cause="other" if row.code == "…" else str(cause_of(row.code)),
            count=row.total,
            remedy=remedy_of(row.code),
        )
