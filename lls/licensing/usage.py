"""Usage: what a range of journal lines says about seats and features in use, as the lines of ``usage.csv``.

Rules (contract §3, ``usage.csv``)
1. There is one line per bucket (a UTC day; for pages also an hour), entitlement and meter. The meters are the seats
   (feature ``""``, unit ``seat``) and each counted or tracked feature in its unit. A bucket in which nothing of a meter
   was in use and nothing happened to it gives no line; one without any journal line, but with seats in use, does.
2. The level is what the journal says is occupied: ``taken`` of Granted less ``freed`` of Returned, Expired and
   Released; of a feature what was checked out less what came back, with a lease's end too. More freed than taken is a
   faulty server's data and leaves zero. The limit is what the last Installed said, less the grants that have ended
   since; another limit changes no level, only how much of it is overdraft. An entitlement that is disabled keeps its
   levels until its leases end, line by line.
3. A range begins where the one before it ended, at the instant of its last line, with the levels of that instant
   (``carry``). The first range of a chain begins with its first line.
4. The journal's time goes back only where the vendor said so: an Installed line with ``clock_reset_to`` allows its
   next other stamp to be earlier, down to that instant. What ran until then stays told, and time goes on from there;
   between the two nothing ran. A day that comes twice is still one line: the sums of both (:func:`merge`). Any other
   step back is a fault of the data and counts as zero.
5. Both sides recompute the same bytes: time is summed in integer microseconds and floored once per line, and the rest
   is carried into the next range. So a range that is split anywhere gives lines that ``merge`` to the whole's, with two
   exceptions: ``denied_holders`` adds up to an upper bound; and a part of a bucket in which a meter was idle gives no
   line and so does not widen the merged period.
6. Denials that fall on no entitlement (no product of that name, say, or one that is gone) get a line with an empty
   ``entitlement_id`` for each product that was asked for; its ``seats`` is empty because there are none. A denial of a
   feature falls on the feature's line where it has one, else on the seats': what clients ask for makes no meters.
7. What is used up has no level: ``consumed``, ``undone`` and ``overage`` are flows and stay in the bucket in which they
   flowed, so ``overage`` is below zero where an earlier bucket's is undone. A reset of the counters is no flow.
8. A line says what happened; what the terms make of the feature is not asked. So units that are out when an update
   changes the feature's type, or drops it, stay out until they come back. Another unit is another meter: what is out
   goes over to it. A dropped pool has the limit 0.
9. A ``Restored`` line says what is hosted and in use from there on; nothing is known of the time before it, since the
   last line that there is. So nothing ran then, and whoever begins a range with it needs no state of before.
10. An entitlement that went back holds nothing; what ends there later (a borrowed seat, say) frees nothing.

State is held per entitlement and feature and, until a bucket ends, per denied holder of that bucket; never per journal
line.

It refuses to own the table's bytes (``usage_csv``), the chain (``journal``), the counters themselves (``meters``),
prices and what a customer bought (the vendor's register).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final

from lls.licensing.entitlement import FeatureType
from lls.licensing.fields import LARGEST, Fields, malformed, read_instant, write_instant
from lls.licensing.journal import Kind
from lls.licensing.usage_csv import COLUMNS, LEASE, SEAT, UNIT, UsageLine, read_usage_csv, usage_csv

__all__ = ["COLUMNS", "SEAT", "Bucket", "Fold", "UsageLine", "merge", "read_usage_csv", "usage_csv"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_FREEING = {Kind.RETURNED, Kind.EXPIRED, Kind.RELEASED}


class Bucket(StrEnum):
    """How long one line lasts. Both begin on UTC's round hours."""

    HOUR = "hour"
    DAY = "day"


_WIDTHS = {Bucket.HOUR: 3_600 * _SECOND, Bucket.DAY: 86_400 * _SECOND}


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
        "_meters",
        "_now",
        "_open",
        "_pools",
        "_read",
        "_reset_to",
        "_server_id",
        "_start",
        "_stepped",
    )

    def __init__(self, carry: Mapping[str, Any] | None = None, *, server_id: str, bucket: Bucket = Bucket.DAY) -> None:
        self._server_id = server_id
        self._bucket = bucket
        self._customer_ref = ""
        self._pools: dict[str, _Pool] = {}
        self._meters: dict[str, dict[str, _Pool]] = {}
        self._open: dict[_Key, _Tally] = {}
        self._closed: list[UsageLine] = []
        self._again = False  # whether a bucket may have come twice
        self._stepped = False
        self._reset_to: int | None = None
        self._read: object = None
        self._start = self._end = self._now = _NOWHERE
        if carry is not None and carry["at"] is not None:
            self._resume(carry)

    def step(self, line: Mapping[str, Any]) -> None:
        """The next line of the range: an object with ``at``, ``kind`` and ``data``, parsed from a journal line.

        ``at`` may be an aware datetime too, so that a posted entry needs no parsing. Kinds that say nothing of seats
        and features only move the time. Raises :class:`~lls.faults.RefusedDocument` (``malformed``) that names a member
        of ``data`` which is not what the ledger writes; the fold is of no use afterwards.
        """
        kind = line["kind"]
        if kind == Kind.RESTORED:
            self._forget(Fields(line["data"], place="data"))
        if line["at"] != self._read or self._reset_to is not None:
            self._advance(line["at"])
        self._stepped = True
        if kind == Kind.GRANTED:
            self._granted(Fields(line["data"], place="data"))
        elif kind in _FREEING:
            self._freed(Fields(line["data"], place="data"), line["data"].get("features"))
        elif kind == Kind.DENIED:
            self._denied(Fields(line["data"], place="data"))
        elif kind == Kind.INSTALLED:
            self._installed(Fields(line["data"], place="data"))
        elif (further := self._FURTHER.get(kind)) is not None:
            further(self, Fields(line["data"], place="data"))

    def lines(self) -> list[UsageLine]:
        """The lines of all that was stepped so far, by bucket, entitlement and meter; the fold may go on afterwards.

        The open bucket's lines end at the instant of the last step.
        """
        told = [*self._closed, *self._current(until=self._now)]
        return merge(told) if self._again else told

    def carry(self) -> dict[str, Any]:
        """The state at the range's end, for the fold of the next range; JSON can carry it.

        ``{at, reset_to, bucket, customer_ref, pools: [{entitlement_id, product, sku, customer_ref, seats, level}…],
        meters: [the same and {feature, unit}…], rests: [{entitlement_id, feature, unit, used, over}…]}``; ``reset_to``
        is the instant to which the next other stamp may go back; ``rests`` are the microseconds below a whole second
        that the open bucket's lines do not show. A carry from before there were meters is read as well.
        """
        rests = [
            {**_members(tally.pool, _NAMES), "used": used % _SECOND, "over": over % _SECOND}
            for tally in self._open.values()
            for used, over in (tally.sums(self._now),)
            if used % _SECOND or over % _SECOND
        ]
        return {
            "at": None if self._now == _NOWHERE else write_instant(_instant(self._now)),
            "reset_to": None if self._reset_to is None else write_instant(_instant(self._reset_to)),
            "bucket": str(self._bucket),
            "customer_ref": self._customer_ref,
            "pools": [_members(pool, _SEATS) for pool in self._pools.values()],
            "meters": [_members(meter, _METER) for hosted in self._meters.values() for meter in hosted.values()],
            "rests": rests,
        }

    @property
    def levels(self) -> int:
        """How many lines a day gives in which nothing happens: that many meters are in use."""
        return sum(1 for tally in self._open.values() if tally.pool.level)

    def _resume(self, carry: Mapping[str, Any]) -> None:
        self._customer_ref = carry["customer_ref"]
        self._advance(carry["at"])
        if carry.get("reset_to") is not None:
            self._reset_to = _microseconds(read_instant(carry["reset_to"], place="reset_to"))
        for pool in carry["pools"]:
            self._take_up(self._pools, pool["entitlement_id"], _Pool(**pool))
        for meter in carry.get("meters", ()):
            self._take_up(self._meters.setdefault(meter["entitlement_id"], {}), meter["feature"], _Pool(**meter))
        for rest in carry["rests"] if carry["bucket"] == self._bucket else ():
            # What a rest belongs to may have left the state; its line is still open.
            owner = _Pool(**{name: rest[name] for name in _NAMES if name in rest})
            tally = self._tally(self._known(owner) or owner)
            tally.used, tally.over = rest["used"], rest["over"]

    def _take_up(self, state: dict[str, _Pool], name: str, pool: _Pool) -> None:
        state[name] = pool
        if pool.level:
            self._open[pool.key] = _Tally(pool, self._now)

    def _known(self, owner: _Pool) -> _Pool | None:
        """The pool of the state that has this one's key."""
        hosted = self._meters.get(owner.entitlement_id, {})
        pool = hosted.get(owner.feature) if owner.feature else self._pools.get(owner.entitlement_id)
        return pool if pool is not None and pool.key == owner.key else None

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
        spoken.sort(key=lambda tally: tally.pool.key)
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
            feature=tally.pool.feature,
            unit=tally.pool.unit,
            seats=tally.pool.seats,
            peak=tally.peak,
            low=tally.low,
            seat_seconds=used // _SECOND,
            checkouts=tally.checkouts,
            denials=tally.denials,
            denied_holders=len(tally.holders),
            overdraft_peak=tally.over_peak,
            overdraft_seconds=over // _SECOND,
            consumed=tally.consumed,
            undone=tally.undone,
            overage=tally.overage,
            period_start=start,
            period_end=end,
        )

    def _granted(self, data: Fields) -> None:
        entitlement_id = data.text("entitlement_id")
        pool = self._pools.get(entitlement_id)
        if pool is None:
            # A journal that is read from its middle without a carry: what we do not know stays empty.
            product = data.optional_text("product") or ""
            pool = _Pool(entitlement_id=entitlement_id, product=product, customer_ref=self._customer_ref)
            self._pools[entitlement_id] = pool
        tally = self._touched(pool)
        tally.checkouts += 1
        tally.move(self._now, level=pool.level + data.integer("taken", least=-LARGEST))

    def _freed(self, data: Fields, held: Any) -> None:
        entitlement_id, freed = data.text("entitlement_id"), data.integer("freed")
        pool = self._pools.get(entitlement_id)
        if pool is not None:
            self._touched(pool).move(self._now, level=max(0, pool.level - freed))
        if held is not None:
            self._let_go(entitlement_id, data.object("features"), held)

    def _let_go(self, entitlement_id: str, amounts: Fields, features: Iterable[str]) -> None:
        """A lease ended with these units; what was never checked out is not freed."""
        hosted = self._meters.get(entitlement_id, {})
        for feature in features:
            amount = amounts.integer(feature, least=1)
            meter = hosted.get(feature)
            if meter is not None:
                self._touched(meter).move(self._now, level=max(0, meter.level - amount))

    def _denied(self, data: Fields) -> None:
        tally = self._touched(self._refused(data))
        tally.denials += data.integer("count", least=1)
        if data.has("holder"):
            tally.holders.add(_abridged(data.text("holder")))

    def _refused(self, data: Fields) -> _Pool:
        """On whose line a denial falls."""
        if data.has("entitlement_id"):
            entitlement_id = data.text("entitlement_id")
            meter = self._meters.get(entitlement_id, {}).get(data.optional_text("feature") or "")
            pool = meter or self._pools.get(entitlement_id)
            if pool is not None:
                return pool
        return _Pool(entitlement_id="", product=data.text("product"), customer_ref=self._customer_ref)

    def _installed(self, data: Fields) -> None:
        self._customer_ref = data.text("customer_ref")
        if data.has("clock_reset_to"):
            self._reset_to = _microseconds(data.instant("clock_reset_to"))
        self._hosts(data)

    def _restored(self, data: Fields) -> None:
        """A backup of a server that had imported nothing yet names no customer."""
        self._customer_ref = data.optional_text("customer_ref") or ""
        self._hosts(data)

    def _hosts(self, data: Fields) -> None:
        for item in data.objects("entitlements"):
            entitlement_id = item.text("entitlement_id")
            pool = self._pools.get(entitlement_id) or _Pool(entitlement_id=entitlement_id)
            self._pools[entitlement_id] = pool
            limit = item.optional_integer("seats")
            tally = self._retold(pool, item, limit=limit)
            # Other terms may seat the same leases on fewer or more seats (sharing).
            in_use = item.optional_integer("in_use")
            tally.move(self._now, level=pool.level if in_use is None else in_use)
            if item.has("features"):
                self._features(entitlement_id, item)

    def _forget(self, data: Fields) -> None:
        """A restored server begins here; what was told of the lines before stays told."""
        if data.integer("part", least=1) > 1:
            return
        if self._stepped:
            self._closed += self._current(until=self._now)
            self._again = True
        self._pools, self._meters, self._open = {}, {}, {}
        self._read, self._reset_to = None, None
        self._start = self._end = self._now = _NOWHERE

    def _features(self, entitlement_id: str, item: Fields) -> None:
        """The features that are counted or tracked under new terms; those that are not named any more leave."""
        hosted = self._meters.setdefault(entitlement_id, {})
        named = set()
        for feature in item.objects("features"):
            key = feature.word("feature")
            if key in named:
                raise malformed(f"{feature.place}.feature", "is named twice")
            named.add(key)
            self._feature(hosted, key, feature, item)
        for key in hosted.keys() - named:
            dropped = hosted[key]
            tally = self._retold(dropped, item, limit=None if dropped.seats is None else 0)
            tally.move(self._now, level=dropped.level)
            if not dropped.level:
                del hosted[key]

    def _feature(self, hosted: dict[str, _Pool], key: str, feature: Fields, item: Fields) -> None:
        unit, limit = _unit(feature), feature.optional_integer("limit")
        meter = hosted.get(key)
        level = 0 if meter is None else meter.level
        if meter is None or meter.unit != unit:
            if level and meter is not None:
                self._tally(meter).move(self._now, level=0)
            meter = hosted[key] = _Pool(entitlement_id=item.text("entitlement_id"), feature=key, unit=unit)
        in_use = feature.optional_integer("in_use")
        self._retold(meter, item, limit=limit).move(self._now, level=level if in_use is None else in_use)

    def _retold(self, pool: _Pool, item: Fields, *, limit: int | None) -> _Tally:
        """New terms of a pool. What has run so far was judged by the old limit."""
        tally = self._touched(pool)
        tally.settle(self._now)
        pool.customer_ref, pool.product, pool.sku = self._customer_ref, item.text("product"), item.text("sku")
        pool.seats = limit
        return tally

    def _checked_out(self, data: Fields) -> None:
        tally = self._metered(data)
        self._limited(tally, data)
        tally.checkouts += 1
        tally.move(self._now, level=tally.pool.level + data.integer("amount", least=1))

    def _checked_in(self, data: Fields) -> None:
        tally = self._metered(data)
        self._limited(tally, data)
        tally.move(self._now, level=max(0, tally.pool.level - data.integer("amount", least=1)))

    def _used(self, data: Fields) -> None:
        tally = self._metered(data)
        amount, over = _amounts(data)
        tally.consumed += amount
        tally.overage += over

    def _undone(self, data: Fields) -> None:
        tally = self._metered(data)
        amount, over = _amounts(data)
        tally.undone += amount
        tally.overage -= over

    def _grant_ended(self, data: Fields) -> None:
        """Its units are no longer part of a pool; of what is consumed there is no limit."""
        tally = self._metered(data)
        amount, limit = data.integer("amount"), tally.pool.seats
        if not self._limited(tally, data) and limit is not None:
            self._limit(tally, max(0, limit - amount))

    def _overdrawn(self, data: Fields) -> None:
        """Of a pool of units it says how many there are: a grant that begins has no line of its own."""
        if data.has("feature"):
            tally = self._metered(data)
            total = data.optional_integer("seats")
            if total is not None:
                self._limit(tally, total)

    def _distrusted(self, data: Fields) -> None:
        """Its terms are out of force: nobody holds a seat of it, and the ends of its leases free nothing."""
        entitlement_id = data.text("entitlement_id")
        for pool in self._hosted(entitlement_id):
            self._touched(pool).move(self._now, level=0)

    def _went_back(self, data: Fields) -> None:
        self._distrusted(data)
        entitlement_id = data.text("entitlement_id")
        self._pools.pop(entitlement_id, None)
        self._meters.pop(entitlement_id, None)

    def _hosted(self, entitlement_id: str) -> Iterable[_Pool]:
        """All meters of an entitlement, the seats first."""
        if entitlement_id in self._pools:
            yield self._pools[entitlement_id]
        yield from self._meters.get(entitlement_id, {}).values()

    def _metered(self, data: Fields) -> _Tally:
        """The open tally of the feature that the line names."""
        entitlement_id, feature = data.text("entitlement_id"), data.word("feature")
        hosted = self._meters.setdefault(entitlement_id, {})
        meter = hosted.get(feature)
        if meter is None:
            # No import has named it: it was hosted by a release that told no features, or we read from the middle.
            seats = self._pools.get(entitlement_id) or _Pool(entitlement_id="", customer_ref=self._customer_ref)
            meter = replace(seats, entitlement_id=entitlement_id, feature=feature, unit=UNIT, seats=None, level=0)
            hosted[feature] = meter
        return self._touched(meter)

    def _limited(self, tally: _Tally, data: Fields) -> bool:
        """Take the limit that a line states; whether it does."""
        limit = data.optional_integer("limit")
        if limit is None:
            return False
        self._limit(tally, limit)
        return True

    def _limit(self, tally: _Tally, limit: int) -> None:
        tally.settle(self._now)
        tally.pool.seats = limit
        tally.move(self._now, level=tally.pool.level)

    def _touched(self, pool: _Pool) -> _Tally:
        tally = self._tally(pool)
        tally.touched = True
        return tally

    def _tally(self, pool: _Pool) -> _Tally:
        """The pool's open tally. One that left the state and came back goes on with its own: it left at zero."""
        tally = self._open.get(pool.key)
        if tally is None:
            tally = self._open[pool.key] = _Tally(pool, self._now)
        elif tally.pool is not pool:
            tally.settle(self._now)
            tally.pool = pool
        return tally

    # What comes seldom stands behind a look-up, so that the lines of seats do not wait for it.
    _FURTHER: ClassVar[Mapping[str, Callable[[Fold, Fields], None]]] = {
        Kind.FEATURE_CHECKED_OUT: _checked_out,
        Kind.FEATURE_RETURNED: _checked_in,
        Kind.USED: _used,
        Kind.UNDONE: _undone,
        Kind.GRANT_ENDED: _grant_ended,
        Kind.OVERDRAFT: _overdrawn,
        Kind.DISTRUSTED: _distrusted,
        Kind.RETURNED_ENTITLEMENT: _went_back,
        Kind.RESTORED: _restored,
    }


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


_Key = tuple[str, str, str, str]
"""Which line: entitlement, product where there is no entitlement, feature, unit."""


@dataclass(slots=True, kw_only=True)
class _Pool:
    """What is known of a meter from one bucket to the next; ``seats`` is the limit of whatever it counts."""

    entitlement_id: str
    product: str = ""
    sku: str = ""
    customer_ref: str = ""
    seats: int | None = None
    level: int = 0
    feature: str = ""
    unit: str = SEAT
    key: _Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.entitlement_id, "" if self.entitlement_id else self.product, self.feature, self.unit)


_SEATS = ("entitlement_id", "product", "sku", "customer_ref", "seats", "level")
_METER = (*_SEATS, "feature", "unit")
_NAMES = ("entitlement_id", "feature", "unit")


def _members(pool: _Pool, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(pool, name) for name in names}


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
    consumed: int = 0
    undone: int = 0
    overage: int = 0
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


def _unit(feature: Fields) -> str:
    kind = feature.kind("type", FeatureType)
    if kind is FeatureType.BOOL:
        return LEASE
    currency = feature.optional_text("currency", most=3) if kind is FeatureType.CREDIT else None
    return currency or feature.optional_text("unit", most=50) or UNIT


def _amounts(data: Fields) -> tuple[int, int]:
    """The units of a use and, of these, those beyond all grants."""
    amount = data.integer("amount", least=1)
    return amount, data.integer("over", most=amount)


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
