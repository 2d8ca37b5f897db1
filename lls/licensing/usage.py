"""Usage: what a range of journal lines says about the seats in use, as the lines of ``usage.csv``.

Rules (contract §3, ``usage.csv``)
1. There is one line per bucket (a UTC day; for pages also an hour), entitlement and meter. The meter here is the seats:
   feature ``""``, unit ``seat``. A bucket in which no seat was in use and nothing happened gives no line; one without
   any journal line, but with seats in use, does.
2. The level is what the journal says is occupied: ``taken`` of Granted less ``freed`` of Returned, Expired and
   Released. More freed than taken is a faulty server's data and leaves zero. The limit is what the last Installed said;
   another limit changes no level, only how much of it is overdraft. An entitlement that is disabled keeps its level
   until its leases end, line by line.
3. A range begins where the one before it ended, at the instant of its last line, with the levels of that instant
   (``carry``). The first range of a chain begins with its first line.
4. The journal's time goes back only where the vendor said so: an Installed line with ``clock_reset_to`` allows its
   next other stamp to be earlier, down to that instant. What ran until then stays told, and time goes on from there;
   between the two nothing ran. A day that comes twice is still one line: the sums of both (:func:`merge`). Any other
   step back is a fault of the data and counts as zero.
5. Both sides recompute the same bytes: time is summed in integer microseconds and floored once per line, and the rest
   is carried into the next range. So a range that is split anywhere gives lines that ``merge`` to the whole's, with two
   exceptions: ``denied_holders`` adds up to an upper bound; and a part of a bucket in which an entitlement was idle
   gives no line and so does not widen the merged period.
6. Denials that fall on no entitlement (no product of that name, say) get a line with an empty ``entitlement_id`` for
   each product that was asked for; its ``seats`` is empty because there are none.

State is held per entitlement and, until a bucket ends, per denied holder of that bucket; never per journal line.

It refuses to own the chain (``journal``), prices and what a customer bought (the vendor's register).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import LARGEST, Fields, malformed, read_instant, write_instant
from lls.licensing.journal import Kind

SEAT: Final = "seat"
"""The unit of the seat meter."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_FREEING = {Kind.RETURNED, Kind.EXPIRED, Kind.RELEASED}


class Bucket(StrEnum):
    """How long one line lasts. Both begin on UTC's round hours."""

    HOUR = "hour"
    DAY = "day"


_WIDTHS = {Bucket.HOUR: 3_600 * _SECOND, Bucket.DAY: 86_400 * _SECOND}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """One line of ``usage.csv``; the fields stand in the order of its columns."""

    day: str
    """``2026-11-21``; in a table by the hour the instant at which the hour begins."""
    server_id: str
    customer_ref: str
    """The vendor's account reference, from the import that last touched the entitlement."""
    entitlement_id: str
    sku: str
    product: str
    feature: str = ""
    unit: str = SEAT
    seats: int | None
    """The limit in force at the period's end; None (empty) is unlimited, or that no import of it is known."""
    peak: int
    """The highest level in the period; a seat that was taken and freed within one instant counts."""
    low: int
    """The lowest level in the period; the level with which the period began counts."""
    seat_seconds: int
    """The integral of the level over the period."""
    checkouts: int = 0
    """Granted lines."""
    denials: int = 0
    """The sum of the counts of Denied lines."""
    denied_holders: int = 0
    """Distinct holders among the denials of this range's part of the bucket; those that the server no longer told apart
    are not among them. After a merge a sum: an upper bound."""
    overdraft_peak: int = 0
    """The most seats in use beyond ``seats``."""
    overdraft_seconds: int = 0
    """How long more than ``seats`` were in use."""
    consumed: int = 0
    """Of usage counts and credits; always 0 for seats, like the two that follow."""
    undone: int = 0
    overage: int = 0
    period_start: datetime
    """The part of the bucket that the range covers: from here…"""
    period_end: datetime
    """…to here. Where the range goes on beyond the bucket this is the beginning of the next."""


COLUMNS: Final = tuple(column.name for column in fields(UsageLine))


class Fold:
    """Folds one range of journal lines: ``step`` each in order, then take ``lines`` and ``carry``.

    ``carry`` is what the fold of the range before it gave; None at the beginning of a chain. A carry of another bucket
    width may be given: then the fractions of a second that it carries are dropped.
    """

    __slots__ = (
        "_again",
        "_bucket",
        "_closed",
        "_customer_ref",
        "_end",
        "_now",
        "_open",
        "_pools",
        "_read",
        "_reset_to",
        "_server_id",
        "_start",
    )

    def __init__(self, carry: Mapping[str, Any] | None = None, *, server_id: str, bucket: Bucket = Bucket.DAY) -> None:
        self._server_id = server_id
        self._bucket = bucket
        self._customer_ref = ""
        self._pools: dict[str, _Pool] = {}
        self._open: dict[tuple[str, str], _Tally] = {}
        self._closed: list[UsageLine] = []
        self._again = False  # whether a bucket may have come twice
        self._reset_to: int | None = None
        self._read: object = None
        self._start = self._end = self._now = _NOWHERE
        if carry is not None and carry["at"] is not None:
            self._resume(carry)

    def step(self, line: Mapping[str, Any]) -> None:
        """The next line of the range: an object with ``at``, ``kind`` and ``data``, parsed from a journal line.

        ``at`` may be an aware datetime too, so that a posted entry needs no parsing. Kinds that say nothing of seats
        only move the time. Raises :class:`~lls.faults.RefusedDocument` (``malformed``) that names a member of ``data``
        which is not what the ledger writes; the fold is of no use afterwards.
        """
        if line["at"] != self._read or self._reset_to is not None:
            self._advance(line["at"])
        kind = line["kind"]
        if kind == Kind.GRANTED:
            self._granted(Fields(line["data"], place="data"))
        elif kind in _FREEING:
            self._freed(Fields(line["data"], place="data"))
        elif kind == Kind.DENIED:
            self._denied(Fields(line["data"], place="data"))
        elif kind == Kind.INSTALLED:
            self._installed(Fields(line["data"], place="data"))
        elif kind == Kind.DISTRUSTED:
            self._distrusted(Fields(line["data"], place="data"))

    def lines(self) -> list[UsageLine]:
        """The lines of all that was stepped so far, by bucket, entitlement and product; the fold may go on afterwards.

        The open bucket's lines end at the instant of the last step.
        """
        told = [*self._closed, *self._current(until=self._now)]
        return merge(told) if self._again else told

    def carry(self) -> dict[str, Any]:
        """The state at the range's end, for the fold of the next range; JSON can carry it.

        ``{at, reset_to, bucket, customer_ref, pools: [{entitlement_id, product, sku, customer_ref, seats, level}…],
        rests: [{entitlement_id, used, over}…]}``; ``reset_to`` is the instant to which the next other stamp may go
        back; ``rests`` are the microseconds below a whole second that the open bucket's lines do not show.
        """
        rests = [
            {"entitlement_id": tally.pool.entitlement_id, "used": used % _SECOND, "over": over % _SECOND}
            for tally in self._open.values()
            for used, over in (tally.sums(self._now),)
            if used % _SECOND or over % _SECOND
        ]
        return {
            "at": None if self._now == _NOWHERE else write_instant(_instant(self._now)),
            "reset_to": None if self._reset_to is None else write_instant(_instant(self._reset_to)),
            "bucket": str(self._bucket),
            "customer_ref": self._customer_ref,
            "pools": [{name: getattr(pool, name) for name in _POOL} for pool in self._pools.values()],
            "rests": rests,
        }

    def _resume(self, carry: Mapping[str, Any]) -> None:
        self._customer_ref = carry["customer_ref"]
        self._advance(carry["at"])
        if carry.get("reset_to") is not None:
            self._reset_to = _microseconds(read_instant(carry["reset_to"], place="reset_to"))
        for pool in carry["pools"]:
            self._pools[pool["entitlement_id"]] = _Pool(**pool)
        for pool in self._pools.values():
            if pool.level:
                self._open[pool.entitlement_id, ""] = _Tally(pool, self._now)
        for rest in carry["rests"] if carry["bucket"] == self._bucket else ():
            tally = self._tally(self._pools[rest["entitlement_id"]])
            tally.used, tally.over = rest["used"], rest["over"]

    def _advance(self, at: object) -> None:
        self._read = at
        now = _microseconds(at if isinstance(at, datetime) else read_instant(at, place="at"))
        if self._now == _NOWHERE:
            self._start, self._end = now, self._end_of(now)
        elif now <= self._now:
            if self._reset_to is not None and self._reset_to <= now < self._now:
                self._go_back(now)
            return
        self._now, self._reset_to = now, None
        while self._end <= now:
            self._turn(now)

    def _go_back(self, now: int) -> None:
        """The clock was put right: close what ran in the wrong time and go on with its levels."""
        self._closed += self._current(until=self._now)
        self._again, self._reset_to = True, None
        self._open = {key: _Tally(tally.pool, now) for key, tally in self._open.items() if tally.pool.level}
        self._now = self._start = now
        self._end = self._end_of(now)

    def _turn(self, now: int) -> None:
        """Close the bucket and open the next in which there is something to say."""
        self._closed += self._current(until=self._end)
        tallies = self._open.items()
        self._open = {key: _Tally(tally.pool, self._end) for key, tally in tallies if tally.pool.level}
        # With nothing in use the years of an idle server need no walk.
        self._start = self._end if self._open else self._end_of(now) - _WIDTHS[self._bucket]
        self._end = self._end_of(self._start)

    def _end_of(self, now: int) -> int:
        width = _WIDTHS[self._bucket]
        return now - now % width + width

    def _current(self, *, until: int) -> list[UsageLine]:
        spoken = [tally for tally in self._open.values() if tally.touched or tally.peak]
        spoken.sort(key=lambda tally: (tally.pool.entitlement_id, tally.pool.product))
        if not spoken:
            return []
        began = _instant(self._end - _WIDTHS[self._bucket])
        day = began.date().isoformat() if self._bucket is Bucket.DAY else write_instant(began)
        start, end = _instant(self._start), _instant(until)
        return [self._line(tally, day=day, start=start, end=end, until=until) for tally in spoken]

    def _line(self, tally: _Tally, *, day: str, start: datetime, end: datetime, until: int) -> UsageLine:
        used, over = tally.sums(until)
        return UsageLine(
            day=day,
            server_id=self._server_id,
            customer_ref=tally.pool.customer_ref,
            entitlement_id=tally.pool.entitlement_id,
            sku=tally.pool.sku,
            product=tally.pool.product,
            seats=tally.pool.seats,
            peak=tally.peak,
            low=tally.low,
            seat_seconds=used // _SECOND,
            checkouts=tally.checkouts,
            denials=tally.denials,
            denied_holders=len(tally.holders),
            overdraft_peak=tally.over_peak,
            overdraft_seconds=over // _SECOND,
            period_start=start,
            period_end=end,
        )

    def _granted(self, data: Fields) -> None:
        tally = self._touched(data)
        tally.checkouts += 1
        tally.move(self._now, level=tally.pool.level + data.integer("taken", least=-LARGEST))

    def _freed(self, data: Fields) -> None:
        tally = self._touched(data)
        tally.move(self._now, level=max(0, tally.pool.level - data.integer("freed")))

    def _denied(self, data: Fields) -> None:
        if data.has("entitlement_id"):
            tally = self._touched(data)
        else:
            product = data.text("product")
            tally = self._tally(_Pool(entitlement_id="", product=product))
            tally.pool.customer_ref = self._customer_ref
        tally.touched = True
        tally.denials += data.integer("count", least=1)
        if data.has("holder"):
            tally.holders.add(_abridged(data.text("holder")))

    def _installed(self, data: Fields) -> None:
        self._customer_ref = data.text("customer_ref")
        if data.has("clock_reset_to"):
            self._reset_to = _microseconds(data.instant("clock_reset_to"))
        for item in data.objects("entitlements"):
            entitlement_id = item.text("entitlement_id")
            pool = self._pools.get(entitlement_id) or _Pool(entitlement_id=entitlement_id)
            tally = self._tally(self._pools.setdefault(entitlement_id, pool))
            tally.touched = True
            # What has run so far was judged by the old limit.
            tally.settle(self._now)
            pool.customer_ref, pool.product, pool.sku = self._customer_ref, item.text("product"), item.text("sku")
            pool.seats = item.optional_integer("seats")
            # Other terms may seat the same leases on fewer or more seats (sharing).
            in_use = item.optional_integer("in_use")
            tally.move(self._now, level=pool.level if in_use is None else in_use)

    def _distrusted(self, data: Fields) -> None:
        """Its terms are out of force: nobody holds a seat of it, and the ends of its leases free nothing."""
        self._touched(data).move(self._now, level=0)

    def _touched(self, data: Fields) -> _Tally:
        """The open tally of the entitlement that the line names."""
        entitlement_id = data.text("entitlement_id")
        pool = self._pools.get(entitlement_id)
        if pool is None:
            # A journal that is read from its middle without a carry: what we do not know stays empty.
            product = data.optional_text("product") or ""
            pool = _Pool(entitlement_id=entitlement_id, product=product, customer_ref=self._customer_ref)
            self._pools[entitlement_id] = pool
        tally = self._tally(pool)
        tally.touched = True
        return tally

    def _tally(self, pool: _Pool) -> _Tally:
        key = (pool.entitlement_id, "" if pool.entitlement_id else pool.product)
        tally = self._open.get(key)
        if tally is None:
            tally = self._open[key] = _Tally(pool, self._now)
        return tally


def merge(lines: Iterable[UsageLine]) -> list[UsageLine]:
    """The lines of consecutive ranges, given in the ranges' order → one line per bucket, server, entitlement and meter.

    Time and counts add up, peaks take the highest, ``low`` the lowest; texts and ``seats`` are those of the last line
    given; the period runs from the earliest start to the latest end.
    ``denied_holders`` adds up too: whoever was denied in two ranges counts twice, so it is an upper bound.
    """
    merged: dict[tuple[str, ...], UsageLine] = {}
    for line in lines:
        key = _key(line)
        before = merged.get(key)
        merged[key] = line if before is None else _join(before, line)
    return [merged[key] for key in sorted(merged)]


def usage_csv(lines: Iterable[UsageLine]) -> bytes:
    """The table as RFC 4180 CSV: UTF-8, a header, CRLF, quotes only where they are needed.

    A text that a spreadsheet would take for a formula gets an apostrophe in front (an account reference is the vendor's
    free choice); :func:`read_usage_csv` takes it off again.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_WRITERS[name](getattr(line, name)) for name in COLUMNS] for line in lines)
    return table.getvalue().encode()


def read_usage_csv(table: bytes) -> list[UsageLine]:
    """The lines of a ``usage.csv``.

    Raises :class:`~lls.faults.RefusedDocument` (``malformed``) that names the line and the column.
    """
    try:
        rows = list(csv.reader(io.StringIO(table.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise RefusedDocument(Refusal.MALFORMED, "usage.csv is no CSV in UTF-8.") from None
    if not rows or rows[0] != list(COLUMNS):
        raise RefusedDocument(Refusal.MALFORMED, "usage.csv does not begin with the columns of the contract.")
    return [_read_row(row, place=f"usage.csv line {n}") for n, row in enumerate(rows[1:], start=2)]


@dataclass(slots=True, kw_only=True)
class _Pool:
    """What is known of an entitlement from one bucket to the next."""

    entitlement_id: str
    product: str = ""
    sku: str = ""
    customer_ref: str = ""
    seats: int | None = None
    level: int = 0


_POOL = tuple(member.name for member in fields(_Pool))


@dataclass(slots=True)
class _Tally:
    """A pool's sums in the open bucket, in microseconds, complete up to ``since``."""

    pool: _Pool
    since: int
    used: int = 0
    over: int = 0
    peak: int = field(init=False)
    low: int = field(init=False)
    over_peak: int = field(init=False)
    checkouts: int = 0
    denials: int = 0
    holders: set[int] = field(default_factory=set)
    touched: bool = False

    def __post_init__(self) -> None:
        self.peak = self.low = self.pool.level
        self.over_peak = self._excess()

    def sums(self, now: int) -> tuple[int, int]:
        """Seat-microseconds in use and microseconds in overdraft up to ``now``."""
        gone = now - self.since
        return self.used + self.pool.level * gone, self.over + gone if self._excess() else self.over

    def settle(self, now: int) -> None:
        self.used, self.over = self.sums(now)
        self.since = now

    def move(self, now: int, *, level: int) -> None:
        if now > self.since:
            self.settle(now)
        self.pool.level = level
        self.peak = max(self.peak, level)
        self.low = min(self.low, level)
        self.over_peak = max(self.over_peak, self._excess())

    def _excess(self) -> int:
        seats = self.pool.seats
        return 0 if seats is None else max(0, self.pool.level - seats)


_NOWHERE: Final = -(2**62)
"""Before any line; no instant is that early."""


def _microseconds(at: datetime) -> int:
    gone = at - _EPOCH
    return (gone.days * 86_400 + gone.seconds) * _SECOND + gone.microseconds


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _abridged(commitment: str) -> int:
    """60 bits of a commitment: a small integer in place of a long text, and still no two holders of a day alike."""
    try:
        return int(commitment[:15], 16)
    except ValueError:
        raise malformed("data.holder", "must be a commitment in hex") from None


def _key(line: UsageLine) -> tuple[str, ...]:
    product = "" if line.entitlement_id else line.product
    return line.day, line.server_id, line.entitlement_id, product, line.feature, line.unit


def _join(one: UsageLine, other: UsageLine) -> UsageLine:
    return replace(
        other,  # not the one that ends later: where the clock was set back, the later word has the earlier end
        peak=max(one.peak, other.peak),
        low=min(one.low, other.low),
        seat_seconds=one.seat_seconds + other.seat_seconds,
        checkouts=one.checkouts + other.checkouts,
        denials=one.denials + other.denials,
        denied_holders=one.denied_holders + other.denied_holders,
        overdraft_peak=max(one.overdraft_peak, other.overdraft_peak),
        overdraft_seconds=one.overdraft_seconds + other.overdraft_seconds,
        consumed=one.consumed + other.consumed,
        undone=one.undone + other.undone,
        overage=one.overage + other.overage,
        period_start=min(one.period_start, other.period_start),
        period_end=max(one.period_end, other.period_end),
    )


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_NUMBER = re.compile(r"[0-9]{1,30}")


def _write_text(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text


def _read_text(cell: str, *, place: str) -> str:  # noqa: ARG001  # all readers are called alike
    return cell.removeprefix("'")


def _read_number(cell: str, *, place: str) -> int:
    if not _NUMBER.fullmatch(cell):
        raise malformed(place, "must be a whole number")
    return int(cell)


def _read_limit(cell: str, *, place: str) -> int | None:
    return _read_number(cell, place=place) if cell else None


_TEXTS = ("day", "server_id", "customer_ref", "entitlement_id", "sku", "product", "feature", "unit")
_INSTANTS = ("period_start", "period_end")
_WRITERS: Mapping[str, Callable[[Any], object]] = (
    dict.fromkeys(COLUMNS, lambda value: value)  # numbers; the writer leaves None empty
    | dict.fromkeys(_TEXTS, _write_text)
    | dict.fromkeys(_INSTANTS, write_instant)
)
_READERS: Mapping[str, Callable[..., object]] = (
    dict.fromkeys(COLUMNS, _read_number)
    | dict.fromkeys(_TEXTS, _read_text)
    | dict.fromkeys(_INSTANTS, read_instant)
    | {"seats": _read_limit}
)


def _read_row(row: list[str], *, place: str) -> UsageLine:
    if len(row) != len(COLUMNS):
        raise malformed(place, f"must have {len(COLUMNS)} columns")
    cells: dict[str, Any] = {
        name: _READERS[name](cell, place=f"{place}, {name}") for name, cell in zip(COLUMNS, row, strict=True)
    }
    return UsageLine(**cells)
