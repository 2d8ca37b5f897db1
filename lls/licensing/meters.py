"""The meters of a server: what leases check out, return, use and undo of features, and what is lost when grants end.

Rules (contract §2 and §3)
1. Every call is checked whole, then changes, then posts. A lack of units is a value (:class:`Denial`); what does not
   fit the feature or the lease is raised.
2. A call that was answered is known by its lease and request id (``answered``): again it gets the same answer, with
   other content it is refused. Refusals are not kept.
3. What a lease holds (element pools, tracked switches) goes with the lease; what it used up stays used.
4. A use may be undone once, within its time, for its whole amount; its units go back to the very lots. The vendor's
   command to begin anew closes all uses before it, and so does the entitlement's return. Late is what either clock
   says of itself, guarded and strict: a clock that is put forward after a use refuses it, one that was ahead already
   does not.
5. A lot that is over is ended in the journal once: by the sweep, or before the next call of its feature is judged. Of
   the monthly periods only those get a line that were in force here or of which something was used; years in which
   nobody was here are no thousands of lines.
6. An import changes what was given, never what was used; a grant that it does not name any more ends. An import or a
   clock brings no ended lot back. Where an import moves the start, the month in force goes on under another name with
   all that it has counted (``GrantEnded`` with ``into``), and so do the uses that may still be undone.
7. The vendor's command to begin anew is about counters, whether terms name their feature at the moment or not. What the
   same bundle brings back begins anew too.
8. Reads may ask for the last commit: of every meter that the group in flight touches, the figures of before are kept.

It refuses to own leases (``ledger``), entitlements that are not in force (``seating``), seats and the clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from lls.faults import AlreadyUndone, BadRequest, NotHeld, RequestIdTaken, UndoTooLate, UnknownFeature
from lls.licensing.answered import Answered
from lls.licensing.changes import REQUESTS_KEPT, AnsweredRequest, FeatureAct, LotUse
from lls.licensing.denial import Denial
from lls.licensing.entitlement import MOST_UNITS, Entitlement, Feature, FeatureType
from lls.licensing.fields import write_instant
from lls.licensing.instant import Now
from lls.licensing.journal import Kind
from lls.licensing.lease import Lease
from lls.licensing.lots import FIRST, LAST, OVERDRAFT, Lot, is_monthly
from lls.licensing.meter import Draws, FeatureLevel, Meter, switch_level
from lls.licensing.posting import Posting
from lls.licensing.terms import KnownMeter

__all__ = ["FeatureLevel", "Meter", "Meters"]

RETRY_AFTER_SECONDS: Final = 30
"""When to ask again for units that others hold."""

_USUAL_SECONDS: Final = int(REQUESTS_KEPT.total_seconds())
_NO_METERS: Final[Mapping[str, Meter]] = {}
_NO_TERMS: Final[Mapping[str, Entitlement]] = {}


@dataclass(slots=True)
class _Hosted:
    """The meters of one entitlement: of its terms (``metered``), and those that only keep counters beside them."""

    terms: Entitlement | None = None
    meters: dict[str, Meter] = field(default_factory=dict)
    metered: dict[str, Meter] = field(default_factory=dict)

    def meter(self, entitlement_id: str, key: str) -> Meter:
        known = self.meters.get(key)
        if known is None:
            known = self.meters[key] = Meter(entitlement_id, key)
        return known


class Meters:
    """See the module."""

    def __init__(
        self, posting: Posting, *, lots: Iterable[LotUse] = (), requests: Iterable[AnsweredRequest] = ()
    ) -> None:
        """Build from the store's rows; ``requests`` in the order of their instants."""
        self._posting = posting
        self._hosted: dict[str, _Hosted] = {}
        self._answered = Answered(requests)
        self._due: list[tuple[datetime, str, str]] = []
        self._looks: dict[tuple[str, str], datetime] = {}
        """When to look at which meter again; of its entries in ``_due`` only that one counts."""
        self._terms_before: dict[str, Entitlement | None] = {}
        self._closed: dict[str, _Hosted] = {}
        self._figures_before: dict[Meter, FeatureLevel] = {}
        self._levels_before: dict[Meter, int] = {}
        for row in lots:
            meter = self._host(row.entitlement_id).meter(row.entitlement_id, row.feature)
            meter.used[row.lot] = row.used
            if row.ended:
                meter.ended.add(row.lot)

    # ---------------------------------------------------------------- what leases do

    def short_of(
        self, entitlement_id: str, wanted: Iterable[tuple[str, int]], *, now: Now
    ) -> tuple[str, FeatureLevel] | None:
        """The first feature of which not enough is there for all that is wanted together; None: there is."""
        metered, needs = self.of(entitlement_id), dict[str, int]()
        for key, amount in wanted:
            meter = metered.get(key)
            if meter is None or meter.feature is None or not meter.feature.counted:
                continue
            needs[key] = needs.get(key, 0) + amount
            if needs[key] > meter.room(now):
                return key, meter.figures(now)
        return None

    def hold_at_grant(self, entitlement_id: str, wanted: Iterable[tuple[str, int]]) -> Mapping[str, int]:
        """The part of a checkout's features that its lease holds; of a switch there is one."""
        metered, held = self.of(entitlement_id), dict[str, int]()
        for key, amount in wanted:
            meter = metered.get(key)
            if meter is None or meter.feature is None or meter.feature.consumed:
                continue
            held[key] = held.get(key, 0) + amount if meter.feature.counted else 1
        return held

    def take_at_grant(self, lease: Lease, wanted: Iterable[tuple[str, int]], *, now: Now) -> None:
        """Post what the new lease holds, and use up what it wants of the consumed features; seating has judged it.

        A use at the grant is known by the lease's own id; of several the further ones by that and their key.
        """
        metered, kind, first = self.of(lease.entitlement_id), Kind.FEATURE_CHECKED_OUT, True
        for key, amount in lease.features.items():
            size = metered[key].size(now)
            self._posting.feature_moved(kind, lease, key, now, amount=amount, request_id=None, limit=size)
        for key, amount in wanted:
            meter = metered.get(key)
            if meter is not None and meter.feature is not None and meter.feature.consumed:
                self._turn(meter, now)
                kept_as = lease.lease_id if first else _further(lease.lease_id, key)
                self._use(lease, meter, amount=amount, request_id=lease.lease_id, kept_as=kept_as, now=now)
                first = False
        if lease.features:
            self.note_overdraft(lease.entitlement_id, now)

    def answered(self, lease_id: str, request_id: str) -> AnsweredRequest | None:
        """The call of that id, when it was answered before."""
        return self._answered.get(lease_id, request_id)

    def repeated(self, request: AnsweredRequest, *, now: Now) -> FeatureLevel:
        """The answer that the call got; what was not part of it (consumption, dates) as it is now.

        Of a feature that is not here any more, what was answered is all that is known.
        """
        terms = self._terms(request.entitlement_id, committed=False)
        if terms is None or terms.feature(request.feature) is None:
            level = switch_level(Feature(key=request.feature, type=FeatureType.USAGE_COUNT, value=0))
        else:
            level = self.level(None, request.entitlement_id, request.feature, now=now, committed=False)
        return level._replace(held=request.held, available=request.available, total=request.total)

    def act(
        self, lease: Lease, key: str, *, act: FeatureAct, amount: int, request_id: str, now: Now
    ) -> tuple[Mapping[str, int], FeatureLevel] | Denial:
        """Check out, return or use: the lease's new ``features`` and the answer, or a denial, nothing posted.

        The level moves here: put the features into the lease, and neither remove nor add it. That the entitlement is in
        force and the clock right is the caller's to see to, after :meth:`answered`.
        Raises UnknownFeature, BadRequest, NotHeld, RequestIdTaken.
        """
        known = self._known(lease, request_id, key)
        if known is not None:
            if (known.act, known.feature, known.amount) != (act, key, amount):
                raise RequestIdTaken
            return lease.features, self.repeated(known, now=now)
        meter = self._meter_for(lease, key, act=act, amount=amount)
        if isinstance(meter, Denial):
            return meter
        if act is FeatureAct.USE:
            return self._try_use(lease, meter, amount=amount, request_id=request_id, now=now)
        if act is FeatureAct.CHECKOUT:
            return self._check_out(lease, meter, amount=amount, request_id=request_id, now=now)
        return self._give_back(lease, meter, amount=amount, request_id=request_id, now=now)

    def undo(self, lease: Lease, key: str, *, amount: int, request_id: str, now: Now) -> FeatureLevel:
        """Undo the use of that request id, whole.

        Raises UnknownFeature, BadRequest, NotHeld, RequestIdTaken, AlreadyUndone, UndoTooLate.
        """
        feature = self._feature(lease.entitlement_id, key)
        if not feature.consumed:
            raise BadRequest(f"Nothing of {key} is used up, so nothing can be undone; return it instead.")
        known = self._known(lease, request_id, key)
        if known is None or known.entitlement_id != lease.entitlement_id:  # of the id's lease before this one
            raise NotHeld(f"This lease has no use of {key} under that request id; name the request id of the use.")
        if (known.act, known.feature, known.amount) != (FeatureAct.USE, key, amount):
            raise RequestIdTaken(f"That request id is not a use of {amount} of {key}; a use is undone whole.")
        if known.undone:
            raise AlreadyUndone
        # A use that lies in the future was made before the vendor set the clock back: nobody knows how long ago.
        gone = max(now.wall - known.at, now.strict - (known.strict or known.at))
        if not known.draws or known.at > now.wall or gone >= timedelta(seconds=feature.undo_seconds):
            raise UndoTooLate
        meter = self.of(lease.entitlement_id)[key]
        self._touch(meter, now)
        meter.give_back(known.draws)
        draws = dict(known.draws)
        over = _overdrawn(known.draws)
        self._posting.used(Kind.UNDONE, lease, key, now, draws=draws, over=over, request_id=request_id)
        self._note_rows(meter, draws)
        self._keep(replace(known, undone=True, kept_until=None))
        return meter.figures(now)

    def add(self, lease: Lease) -> None:
        """A lease holds what it holds."""
        for key, amount in lease.features.items():
            self._move(self._host(lease.entitlement_id).meter(lease.entitlement_id, key), amount)

    def remove(self, lease: Lease) -> None:
        """It holds it no more."""
        hosted = self._hosted.get(lease.entitlement_id)
        meters = {} if hosted is None else hosted.meters
        for key, amount in lease.features.items():
            if key in meters:
                self._move(meters[key], -amount)

    # ---------------------------------------------------------------- what is told

    def of(self, entitlement_id: str) -> Mapping[str, Meter]:
        """The counted and tracked features of an entitlement's terms, in the vendor's order."""
        hosted = self._hosted.get(entitlement_id)
        return _NO_METERS if hosted is None else hosted.metered

    def counters(self, entitlement_id: str) -> AbstractSet[str]:
        """The features of which anything is kept, whether terms name them or not."""
        hosted = self._hosted.get(entitlement_id)
        return frozenset() if hosted is None else hosted.meters.keys()

    def held(self, entitlement_id: str, key: str) -> int:
        """The units of a feature that leases hold, whether terms name it or not."""
        hosted = self._hosted.get(entitlement_id)
        meter = None if hosted is None else hosted.meters.get(key)
        return 0 if meter is None else meter.level

    def level(self, lease: Lease | None, entitlement_id: str, key: str, *, now: Now, committed: bool) -> FeatureLevel:
        """A feature's figures, with what the lease holds; ``committed``: without the group in flight.

        Raises UnknownFeature.
        """
        terms = self._terms(entitlement_id, committed=committed)
        feature = None if terms is None else terms.feature(key)
        if feature is None:
            raise UnknownFeature
        meters = self._meters(entitlement_id, committed=committed)
        return self._level(lease, meters, feature, now=now, committed=committed)

    def levels(self, lease: Lease | None, entitlement_id: str, *, now: Now, committed: bool) -> list[FeatureLevel]:
        """The same of all features, in the vendor's order; none of an entitlement that is not here."""
        terms = self._terms(entitlement_id, committed=committed)
        features = () if terms is None else terms.features
        meters = self._meters(entitlement_id, committed=committed)
        return [self._level(lease, meters, one, now=now, committed=committed) for one in features]

    def final(self, entitlement_id: str, *, now: Now) -> list[dict[str, object]]:
        """What each meter says last, as a return carries it; those first that the terms name, in the vendor's order.

        Of features that the last terms name no more, those of which anything was counted or is held, under the type
        that they had. Where that was before the server's start, nobody knows it: what is held is then told as a pool,
        all else as a usage count.
        """
        told: list[dict[str, object]] = []
        meters = {} if entitlement_id not in self._hosted else self._hosted[entitlement_id].meters
        named = self.of(entitlement_id)
        others = sorted(key for key in meters.keys() - named.keys() if _is_telling(meters[key]))
        for key in (*named, *others):
            meter = meters[key]
            kind, unit = _last_known(meter)
            accounts = meter.accounts(now)
            lots = [{"lot": one.lot, "amount": one.amount, "used": one.used, "ended": one.ended} for one in accounts]
            told.append(
                {
                    "feature": key,
                    "type": kind.value,
                    "unit": unit,
                    "lots": lots,
                    "consumed": sum(one.used for one in accounts),
                    "overage": sum(one.used for one in accounts if one.lot.startswith(OVERDRAFT)),
                    "in_use": meter.level,
                }
            )
        return told

    # ---------------------------------------------------------------- terms

    def open(self, entitlement: Entitlement, *, now: Now | None) -> None:
        """Put terms in force; counters stay. With ``now``, grants that are not in them any more are ended and posted.

        At a load there is no ``now`` and nothing is posted: the first sweep looks at everything.
        """
        entitlement_id = entitlement.entitlement_id
        hosted = self._host(entitlement_id)
        if now is not None:
            self._terms_before.setdefault(entitlement_id, hosted.terms)
            for meter in hosted.metered.values():
                self._touch(meter, now)
            self._carry_months(hosted, entitlement, now)
        gone = self._govern(hosted, entitlement)
        for meter in hosted.metered.values():
            self._look_at(FIRST, entitlement_id, meter.key)
        if now is None:
            return
        for meter, lots in gone:
            for lot in lots:
                self._end(meter, lot, now)
        for meter in hosted.metered.values():
            self._turn(meter, now, see=True)

    def resume(self, now: Now) -> None:
        """After a load, with every lease added: what the store has is what everybody sees.

        Which pools are over is no news, unless it is by lots that ended meanwhile: their end is still to be told.
        """
        for hosted in self._hosted.values():
            for meter in hosted.metered.values():
                meter.over = meter.was_over(now)
        self._levels_before.clear()

    def put_back(self, entitlement_id: str, before: Entitlement | None) -> None:
        """The terms of the last commit again; counters as they are: reads take them from before the group."""
        if entitlement_id in self._closed:
            self._hosted[entitlement_id] = self._closed.pop(entitlement_id)
        hosted = self._host(entitlement_id)
        if before is not None:
            self._govern(hosted, before)
        else:
            hosted.terms, hosted.metered = None, {}

    def close(self, entitlement_id: str) -> None:
        """An entitlement went back to the vendor: its counters go. What borrowed leases hold stays held."""
        hosted = self._hosted.pop(entitlement_id, None)
        if hosted is None:
            return
        self._terms_before.setdefault(entitlement_id, hosted.terms)
        self._closed.setdefault(entitlement_id, hosted)
        for key, meter in hosted.meters.items():
            for lot in meter.used:
                self._posting.batch.lots[entitlement_id, key, lot] = None
            if meter.level:
                left = self._host(entitlement_id).meter(entitlement_id, key)
                left.level, left.last = meter.level, meter.last
        self._close_uses(entitlement_id, hosted.meters.keys())

    def reset(
        self, orders: Iterable[tuple[str, str | None]], *, coming: Mapping[str, Entitlement] = _NO_TERMS, now: Now
    ) -> list[dict[str, object]]:
        """The vendor's commands: of an entitlement's consumed feature (None: of all) what has not ended counts anew.

        ``coming`` are the terms that are placed next; they say what is in force of features that have no terms so far.
        What had been consumed, for the Installed line.
        """
        told: dict[tuple[str, str], dict[str, object]] = {}
        for entitlement_id, feature in orders:
            hosted = self._hosted.get(entitlement_id)
            wanted = () if hosted is None else [one for one in hosted.meters.values() if feature in (None, one.key)]
            for meter in wanted:
                taken = self._begin_anew(meter, coming.get(entitlement_id), now)
                if taken is not None:
                    line = {"entitlement_id": entitlement_id, "feature": meter.key}
                    told.setdefault((entitlement_id, meter.key), {**line, "consumed": taken[0], "overage": taken[1]})
        for entitlement_id in {one for one, _key in told}:
            self._close_uses(entitlement_id, {key for one, key in told if one == entitlement_id})
        return list(told.values())

    def know(self, told: Iterable[KnownMeter]) -> None:
        """After a restore: the vendor's counters in place of those of the backup, of every consumed feature.

        A feature that he does not name was not used. What was used before can be undone no more. Lots that have ended
        here or there stay ended.
        """
        named = {(one.entitlement_id, one.feature): one.lots for one in told}
        ours = {(key, one.key) for key, hosted in self._hosted.items() for one in hosted.meters.values() if one.used}
        for entitlement_id, key in sorted(named.keys() | ours):
            meter = self._host(entitlement_id).meter(entitlement_id, key)
            if meter.feature is not None and not meter.feature.consumed:
                continue
            self._note_rows(meter, meter.know(named.get((entitlement_id, key), ())))
            self._close_uses(entitlement_id, {key})

    # ---------------------------------------------------------------- time

    def sweep(self, now: Now, *, limit: int) -> bool:
        """End what is over, at most about ``limit`` lots; whether more may be."""
        due = self._due
        while due and due[0][0] <= now.wall and limit > 0:
            at, entitlement_id, key = heapq.heappop(due)
            if self._looks.get((entitlement_id, key)) != at:
                continue
            del self._looks[entitlement_id, key]
            meter = self.of(entitlement_id).get(key)
            if meter is None:
                continue
            limit -= 1 + self._turn(meter, now)
            if meter.next_change is not None:
                self._look_at(meter.next_change, entitlement_id, key)
                due = self._due
        return bool(due) and due[0][0] <= now.wall

    def forget(self, now: Now) -> None:
        """Forget calls that were answered long ago."""
        forgotten = self._answered.forget(now)
        for request in forgotten.changed:
            self._posting.batch.requests[request.lease_id, request.request_id] = request
        if forgotten.before is not None:
            self._posting.batch.forget_requests_before = forgotten.before

    def note_overdraft(self, entitlement_id: str, now: Now) -> None:
        """Post when more of a pool is held than there is, and when that is over, not each step between."""
        for meter in self.of(entitlement_id).values():
            if meter.is_pool:
                self._note_over(meter, now)

    # ---------------------------------------------------------------- the group in flight

    def settle(self) -> None:
        """The store has the group: what it changed is what everybody sees."""
        self._terms_before.clear()
        self._closed.clear()
        self._figures_before.clear()
        self._levels_before.clear()

    def abandon(self) -> None:
        """The store has not taken the group: reads go on with the last commit, and no verb comes any more."""
        for entitlement_id, before in self._terms_before.items():
            self.put_back(entitlement_id, before)

    # ---------------------------------------------------------------- the acts

    def _known(self, lease: Lease, request_id: str, key: str) -> AnsweredRequest | None:
        known = self._answered.get(lease.lease_id, request_id)
        if known is not None and known.feature != key and request_id == lease.lease_id:
            return self._answered.get(lease.lease_id, _further(request_id, key)) or known
        return known

    def _feature(self, entitlement_id: str, key: str) -> Feature:
        meter = self.of(entitlement_id).get(key)
        if meter is not None and meter.feature is not None:
            return meter.feature
        terms = self._terms(entitlement_id, committed=False)
        feature = None if terms is None else terms.feature(key)
        if feature is None:
            raise UnknownFeature(f"The entitlement of this lease has no feature {key}.")
        return feature

    def _meter_for(self, lease: Lease, key: str, *, act: FeatureAct, amount: int) -> Meter | Denial:
        """The meter that takes this act. Raises UnknownFeature, BadRequest, NotHeld."""
        feature = self._feature(lease.entitlement_id, key)
        if not 1 <= amount <= MOST_UNITS:
            raise BadRequest(f"An amount is a whole number from 1 to {MOST_UNITS}.")
        if feature.consumed is not (act is FeatureAct.USE):
            how = "used up by /use" if feature.consumed else "held: it is checked out and returned"
            raise BadRequest(f"The feature {key} ({feature.type}) is {how}.")
        if feature.type is FeatureType.BOOL:
            if amount != 1:
                raise BadRequest(f"The feature {key} is a switch; its amount is 1.")
            if act is FeatureAct.CHECKOUT and not feature.value:
                return _not_entitled(lease, key)
            if not feature.tracked:
                raise BadRequest(f"The feature {key} is a switch that nobody counts; read it from the lease.")
            if act is FeatureAct.CHECKOUT and key in lease.features:
                raise BadRequest(f"This lease holds {key} already.")
        held = lease.features.get(key, 0)
        if act is FeatureAct.RETURN and amount > held:
            raise NotHeld(f"This lease holds {held} of {key}, and {amount} were to be returned.")
        return self.of(lease.entitlement_id)[key]

    def _try_use(
        self, lease: Lease, meter: Meter, *, amount: int, request_id: str, now: Now
    ) -> tuple[Mapping[str, int], FeatureLevel] | Denial:
        self._turn(meter, now)
        if amount > meter.room(now):
            return _short(lease, meter, amount=amount, now=now)
        level = self._use(lease, meter, amount=amount, request_id=request_id, kept_as=request_id, now=now)
        return lease.features, level

    def _use(self, lease: Lease, meter: Meter, *, amount: int, request_id: str, kept_as: str, now: Now) -> FeatureLevel:
        self._touch(meter, now)
        draws = meter.draw(amount, now)
        units = dict(draws)
        over = _overdrawn(draws)
        self._posting.used(Kind.USED, lease, meter.key, now, draws=units, over=over, request_id=request_id)
        self._note_rows(meter, units)
        level = meter.figures(now)
        undo = 0 if meter.feature is None else meter.feature.undo_seconds
        act, key = FeatureAct.USE, meter.key
        self._answer(
            lease, key, level, act=act, amount=amount, kept_as=kept_as, now=now, draws=draws, undo_seconds=undo
        )
        return level

    def _check_out(
        self, lease: Lease, meter: Meter, *, amount: int, request_id: str, now: Now
    ) -> tuple[Mapping[str, int], FeatureLevel] | Denial:
        self._turn(meter, now)
        if meter.is_pool and amount > meter.room(now):
            return _short(lease, meter, amount=amount, now=now)
        kind, act = Kind.FEATURE_CHECKED_OUT, FeatureAct.CHECKOUT
        return self._hold(lease, meter, kind, act=act, units=amount, request_id=request_id, now=now)

    def _give_back(
        self, lease: Lease, meter: Meter, *, amount: int, request_id: str, now: Now
    ) -> tuple[Mapping[str, int], FeatureLevel]:
        kind, act = Kind.FEATURE_RETURNED, FeatureAct.RETURN
        return self._hold(lease, meter, kind, act=act, units=-amount, request_id=request_id, now=now)

    def _hold(
        self, lease: Lease, meter: Meter, kind: Kind, *, act: FeatureAct, units: int, request_id: str, now: Now
    ) -> tuple[Mapping[str, int], FeatureLevel]:
        """Hold so many units more, or fewer."""
        held, amount = lease.features.get(meter.key, 0) + units, abs(units)
        features = {**lease.features, meter.key: held}
        if not held:
            del features[meter.key]
        self._move(meter, units)
        limit = meter.size(now) if units > 0 else None
        self._posting.feature_moved(kind, lease, meter.key, now, amount=amount, request_id=request_id, limit=limit)
        self._note_over(meter, now)
        level = meter.figures(now, held=held)
        self._answer(lease, meter.key, level, act=act, amount=amount, kept_as=request_id, now=now)
        return features, level

    def _answer(
        self,
        lease: Lease,
        key: str,
        level: FeatureLevel,
        *,
        act: FeatureAct,
        amount: int,
        kept_as: str,
        now: Now,
        draws: Draws = (),
        undo_seconds: int = 0,
    ) -> None:
        before = self._answered.get(lease.lease_id, kept_as)  # of a lease of that id long ago: this takes its row
        request = AnsweredRequest(
            seq=self._posting.batch.head.seq if before is None else before.seq,
            lease_id=lease.lease_id,
            request_id=kept_as,
            act=act,
            entitlement_id=lease.entitlement_id,
            feature=key,
            amount=amount,
            at=now.wall,
            held=level.held,
            available=level.available,
            total=level.total,
            draws=draws,
            strict=now.strict if now.strict > now.wall else None,
            kept_until=_kept_until(undo_seconds, now) if undo_seconds > _USUAL_SECONDS else None,
        )
        self._keep(request)

    def _keep(self, request: AnsweredRequest) -> None:
        self._answered.keep(request)
        self._posting.batch.requests[request.lease_id, request.request_id] = request

    def _close_uses(self, entitlement_id: str, keys: Collection[str]) -> None:
        """What was used until now was told for good: none of it can be undone any more."""
        for request in self._answered.open_uses(entitlement_id):
            if request.feature in keys:
                self._keep(replace(request, draws=(), kept_until=None))

    def _begin_anew(self, meter: Meter, coming: Entitlement | None, now: Now) -> tuple[int, int] | None:
        """What had been consumed of a meter, and overdrawn, that counts anew now; None of one that has nothing to."""
        if meter.feature is None and coming is not None:
            feature = coming.feature(meter.key)
            if feature is not None and feature.consumed:
                self._carry_month(meter, feature, coming, now)
                meter.govern(feature, coming)
        if meter.feature is None or not meter.feature.consumed:
            changed, consumed, overage = meter.begin_blind()
            self._note_rows(meter, changed)
            return (consumed, overage) if changed else None
        self._turn(meter, now)
        self._touch(meter, now)
        changed, consumed, overage = meter.begin_anew(now)
        self._note_rows(meter, changed)
        return consumed, overage

    # ---------------------------------------------------------------- how lots move

    def _turn(self, meter: Meter, now: Now, *, see: bool = False) -> int:
        """End what is over; how many lots. ``see``: note the period in force although none was over."""
        due: Sequence[Lot] = ()
        if see or meter.has_due(now):
            due = meter.due(now)
            for lot in due:
                self._end(meter, lot, now)
            period = meter.see_period(now)
            if period is not None:
                self._note_rows(meter, (period,))
        if meter.is_pool:
            self._note_over(meter, now)
        return len(due)

    def _end(self, meter: Meter, lot: Lot, now: Now) -> None:
        if meter.feature is not None:
            self._touch(meter, now)
        used = meter.end(lot.lot_id)
        amount = max(lot.amount, used)
        ids, limit = (meter.entitlement_id, meter.key, lot.lot_id), meter.size(now)
        self._posting.grant_ended(*ids, now, amount=amount, consumed=used, lost=amount - used, limit=limit)
        self._note_rows(meter, (lot.lot_id,))

    def _carry_months(self, hosted: _Hosted, terms: Entitlement, now: Now) -> None:
        """Give the months in force the names that they have under terms with another start."""
        features = {one.key: one for one in terms.features}
        carried = {key: self._carry_month(one, features.get(key), terms, now) for key, one in hosted.meters.items()}
        for request in self._answered.open_uses(terms.entitlement_id) if any(carried.values()) else ():
            names = carried.get(request.feature, {})
            draws = tuple((names.get(lot, lot), units) for lot, units in request.draws)
            if draws != request.draws:
                self._keep(replace(request, draws=draws))

    def _carry_month(self, meter: Meter, feature: Feature | None, terms: Entitlement, now: Now) -> Mapping[str, str]:
        """The same of one meter: the new names of lots of which something was used."""
        carried, names = meter.carry_month(feature, terms, now), dict[str, str]()
        for lot, into, units in carried:
            self._posting.batch.lots[meter.entitlement_id, meter.key, lot] = None
            self._note_rows(meter, (into,))
            if units:
                ids, names[lot] = (meter.entitlement_id, meter.key, lot), into
                self._posting.grant_ended(*ids, now, amount=units, consumed=units, lost=0, into=into)
        return names

    def _look_at(self, at: datetime, entitlement_id: str, key: str) -> None:
        """Have the sweep look at a meter at that instant, or earlier where it does already."""
        known = self._looks.get((entitlement_id, key))
        if known is not None and known <= at:
            return
        self._looks[entitlement_id, key] = at
        heapq.heappush(self._due, (at, entitlement_id, key))
        if len(self._due) > 2 * len(self._looks):
            self._due = [(when, *meter) for meter, when in self._looks.items()]
            heapq.heapify(self._due)

    def _move(self, meter: Meter, units: int) -> None:
        """The one door of a level."""
        self._levels_before.setdefault(meter, meter.level)
        meter.level += units

    def _note_over(self, meter: Meter, now: Now) -> None:
        if meter.terms is None or not meter.is_pool:
            return
        over = meter.over_by(now)
        if (over > 0) == meter.over:
            return
        meter.over = over > 0
        total = meter.size(now)
        self._posting.overdraft(meter.terms, now, in_use=meter.level, over=over, feature=meter.key, total=total)

    def _note_rows(self, meter: Meter, lots: Iterable[str]) -> None:
        rows, entitlement_id, key = self._posting.batch.lots, meter.entitlement_id, meter.key
        for lot in lots:
            rows[entitlement_id, key, lot] = LotUse(
                entitlement_id=entitlement_id, feature=key, lot=lot, used=meter.used[lot], ended=lot in meter.ended
            )

    def _touch(self, meter: Meter, now: Now) -> None:
        """Remember the figures of the last commit, once."""
        if meter not in self._figures_before:
            self._figures_before[meter] = meter.figures(now, level=self._levels_before.get(meter))

    # ---------------------------------------------------------------- what is hosted

    def _host(self, entitlement_id: str) -> _Hosted:
        hosted = self._hosted.get(entitlement_id)
        if hosted is None:
            hosted = self._hosted[entitlement_id] = _Hosted()
        return hosted

    def _govern(self, hosted: _Hosted, terms: Entitlement) -> Sequence[tuple[Meter, list[Lot]]]:
        """Other terms for all meters; the lots that each does not know any more."""
        hosted.terms = terms
        metered = {feature.key: feature for feature in terms.features if feature.counted or feature.tracked}
        hosted.metered = {key: hosted.meter(terms.entitlement_id, key) for key in metered}
        return [(meter, meter.govern(metered.get(key), terms)) for key, meter in hosted.meters.items()]

    def _terms(self, entitlement_id: str, *, committed: bool) -> Entitlement | None:
        if committed and entitlement_id in self._terms_before:
            return self._terms_before[entitlement_id]
        hosted = self._hosted.get(entitlement_id)
        return None if hosted is None else hosted.terms

    def _meters(self, entitlement_id: str, *, committed: bool) -> Mapping[str, Meter]:
        hosted = self._hosted.get(entitlement_id)
        if committed:
            hosted = self._closed.get(entitlement_id, hosted)
        return _NO_METERS if hosted is None else hosted.meters

    def _level(
        self, lease: Lease | None, meters: Mapping[str, Meter], feature: Feature, *, now: Now, committed: bool
    ) -> FeatureLevel:
        held = 0 if lease is None else lease.features.get(feature.key, 0)
        meter = meters.get(feature.key)
        if meter is None or not (feature.counted or feature.tracked):
            return switch_level(feature, held=held)
        if committed and meter in self._figures_before:
            return self._figures_before[meter]._replace(held=held)
        return meter.figures(now, held=held, level=self._levels_before.get(meter) if committed else None)


def _further(lease_id: str, key: str) -> str:
    """The id of a further use at a lease's grant; no client's id has a space."""
    return f"{lease_id} {key}"


def _kept_until(undo_seconds: int, now: Now) -> datetime:
    try:
        return now.wall + timedelta(seconds=undo_seconds)
    except OverflowError:
        return LAST


def _is_telling(meter: Meter) -> bool:
    """Whether there is anything to say of a meter without terms; lots that ended must not be given out again."""
    return any(meter.used.values()) or bool(meter.ended) or meter.level > 0


def _last_known(meter: Meter) -> tuple[FeatureType, str | None]:
    """Type and unit."""
    if meter.last is not None:
        return meter.last.type, meter.last.unit
    # Of what is consumed the vendor also reads which lots ended, so that he does not sell them twice.
    held = meter.level > 0 and not any(meter.used.values())
    return FeatureType.ELEMENT_POOL if held else FeatureType.USAGE_COUNT, None


def _overdrawn(draws: Draws) -> int:
    return sum(units for lot, units in draws if lot.startswith(OVERDRAFT))


def _not_entitled(lease: Lease, key: str) -> Denial:
    return Denial(
        code="not_entitled",
        rule="feature",
        detail=f"Feature {key} of {lease.product} is not part of what was bought.",
        product=lease.product,
        entitlement_id=lease.entitlement_id,
        feature=key,
        remedy=f"Order an offering of {lease.product} that contains {key}.",
    )


def _short(lease: Lease, meter: Meter, *, amount: int, now: Now) -> Denial:
    level, unit = meter.figures(now), "units"
    if meter.feature is not None and meter.feature.unit:
        unit = meter.feature.unit
    left = meter.room(now)
    return Denial(
        code="no_feature_units",
        rule="units",
        detail=f"{amount} ({unit}) of {meter.key} were asked for; {left} are left.",
        product=lease.product,
        entitlement_id=lease.entitlement_id,
        feature=meter.key,
        asked=amount,
        in_use=meter.level if meter.is_pool else level.consumed,
        limit=meter.capacity(now),
        retry_after_seconds=RETRY_AFTER_SECONDS if meter.is_pool else None,
        remedy=_remedy(meter, level, missing=amount - left),
    )


def _remedy(meter: Meter, level: FeatureLevel, *, missing: int) -> str:
    if meter.is_pool:
        return f"{missing} more of {meter.key} would do: wait until others return some, or order more."
    if meter.feature is not None and is_monthly(meter.feature) and level.ends_at is not None:
        return f"{missing} more of {meter.key} would do: order a grant, or wait until {write_instant(level.ends_at)}."
    return f"{missing} more of {meter.key} would do: order a grant."
