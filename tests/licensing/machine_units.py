"""The verbs of counted features, each with what its answer must say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lls.faults import (
    AlreadyUndone,
    Fault,
    LeaseEnded,
    NotHeld,
    RequestIdTaken,
    StillBorrowed,
    UndoTooLate,
    UnknownFeature,
    UnknownLease,
)
from lls.licensing.changes import FeatureAct
from lls.licensing.entitlement import Feature, FeatureType, Status
from lls.licensing.instant import ClockState
from lls.licensing.meters import FeatureLevel
from lls.licensing.seating import Denial
from tests.ledgers import reset_of
from tests.licensing.machine import REQUESTS_KEPT_SECONDS, Asked, Known, id_of
from tests.licensing.machine_seats import SeatVerbs
from tests.licensing.wishes import GrantWish

WRONG = b"?" * 32


class UnitVerbs(SeatVerbs):
    """See the module."""

    def act(self, lease_id: str, key: str, act: FeatureAct, amount: int, request: str, *, fit: bool) -> None:
        """``fit``: take the act that fits the feature, so that most calls mean something."""
        lease_id = self.live(lease_id)
        known = self.known.get(lease_id)
        if known is None or (lease_id, request, "") in self.books.asked:
            return
        feature = self.feature_of(known, key)
        if fit and feature is not None:
            act = FeatureAct.USE if feature.consumed else FeatureAct.CHECKOUT if act is FeatureAct.USE else act
            amount = 1 if feature.type is FeatureType.BOOL else max(1, amount)
        expected = self.refusal_of(known, feature, act, amount)
        before = self.fingerprint()
        self.watch()
        try:
            answer = self.ledger.feature(
                lease_id, secret=known.wish.secret, key=key, act=act, amount=amount, request_id=request, now=self.now
            )
        except Fault as fault:
            self.judge_fault(fault, expected=expected, before=before)
            return
        self.judge()
        if isinstance(answer, Denial):
            assert answer.code in {expected, "no_feature_units"}
            assert answer.code == expected or (feature is not None and self.is_short(known, feature, amount))
            return
        assert expected is None
        assert feature is not None
        self.answered(known, feature, act, amount, request=request, answer=answer)

    def feature_of(self, known: Known, key: str) -> Feature | None:
        pool = self.ledger.pools.get(known.entitlement_id)
        return None if pool is None else pool.entitlement.feature(key)

    def refusal_of(self, known: Known, feature: Feature | None, act: FeatureAct, amount: int) -> str | None:
        """The code that refuses this call before units are looked at; of several the first in the contract's order."""
        if self.is_over(known) or self.is_without_terms(known):
            return "lease_ended" if self.is_over(known) else "borrowed"
        refused = None if act is FeatureAct.RETURN else self.refusal_of_more(known)
        if refused is not None:
            return refused
        if feature is None:
            return "unknown_feature"
        held = known.held.get(feature.key, 0)
        switch = feature.type is FeatureType.BOOL
        if amount < 1 or feature.consumed is not (act is FeatureAct.USE) or (switch and amount != 1):
            return "bad_request"
        if switch and act is FeatureAct.CHECKOUT and not feature.value:
            return "not_entitled"
        if switch and (not feature.tracked or (act is FeatureAct.CHECKOUT and held)):
            return "bad_request"
        return "not_held" if act is FeatureAct.RETURN and amount > held else None

    def refusal_of_more(self, known: Known) -> str | None:
        """The code that refuses whatever takes something."""
        terms = self.ledger.pools[known.entitlement_id].entitlement
        if self.state is ClockState.BEHIND:
            return "clock_behind"
        if terms.status is not Status.ACTIVE:
            return "entitlement_disabled"
        over = terms.ends_at is not None and self.now.strict >= terms.ends_at
        return "entitlement_expired" if over else None

    def is_short(self, known: Known, feature: Feature, amount: int) -> bool:
        room = self.room(self.ledger.pools[known.entitlement_id].entitlement, feature)
        return room is not None and amount > room

    def answered(
        self, known: Known, feature: Feature, act: FeatureAct, amount: int, *, request: str, answer: FeatureLevel
    ) -> None:
        figures = answer.held, answer.available, answer.total
        if act is FeatureAct.USE:
            self.take(known, feature, amount, request_id=request, answer=figures)
        else:
            assert act is FeatureAct.RETURN or not feature.counted or not self.is_short(known, feature, amount)
            held = known.held.get(feature.key, 0) + (amount if act is FeatureAct.CHECKOUT else -amount)
            known.held = {**known.held, feature.key: held}
            if not held:
                del known.held[feature.key]
            self.books.asked[known.wish.lease_id, request, ""] = Asked(
                act=act,
                feature=feature.key,
                amount=amount,
                entitlement_id=known.entitlement_id,
                secret=known.wish.secret,
                at=self.seconds,
                strict=self.strict,
                answer=figures,
            )
        assert known.held.get(feature.key, 0) == answer.held
        if feature.counted:
            terms = self.ledger.pools[known.entitlement_id].entitlement
            account = self.books.account(known.entitlement_id, feature.key)
            level = self.level(known.entitlement_id, feature.key)
            told = account.figures(feature, terms, self.now, level=level)
            assert (told.available, told.total) == (answer.available, answer.total)
            assert (told.consumed, told.overage) == (answer.consumed, answer.overage)

    def repeat(self, pick: int, how: str) -> None:
        """A call again: the same answer and nothing taken, also after its lease's end; another call is refused."""
        found = self.recent(pick)
        if found is None or found[1].answer is None:
            return
        (lease_id, request, _own), asked = found
        amount = asked.amount + (how == "amount")
        key = asked.feature + ("x" if how == "key" else "")
        before = self.fingerprint()
        try:
            answer = self.ledger.feature(
                lease_id,
                secret=WRONG if how == "secret" else asked.secret,
                key=key,
                act=asked.act,
                amount=amount,
                request_id=request,
                now=self.now,
            )
        except (UnknownLease, RequestIdTaken, UnknownFeature) as fault:
            hosted = self.ledger.pools.get(asked.entitlement_id)
            known = hosted is not None and hosted.entitlement.feature(asked.feature) is not None
            wrong = {"amount": RequestIdTaken, "key": RequestIdTaken, "secret": UnknownLease}.get(how)
            expected = (wrong or UnknownFeature).code
            fits = fault.code == expected and (wrong is not None or not known)
            assert fits or self.ended_long_ago(lease_id)
        else:
            assert how == "same"
            assert isinstance(answer, FeatureLevel)
            assert asked.answer == (answer.held, answer.available, answer.total)
        assert before == self.fingerprint(), "a repeated call changed something"

    def recent(self, pick: int) -> tuple[tuple[str, str, str], Asked] | None:
        """One of the calls that must still be known."""
        kept = [
            (key, one) for key, one in self.books.asked.items() if self.seconds - one.at < REQUESTS_KEPT_SECONDS - 10
        ]
        return kept[pick % len(kept)] if kept else None

    def ended_long_ago(self, lease_id: str) -> bool:
        return lease_id not in self.ledger.leases and self.ledger._remembered.ended(lease_id) is None  # noqa: SLF001

    def undo(self, pick: int, more: int) -> None:
        uses = [(key, one) for key, one in self.books.asked.items() if one.act is FeatureAct.USE]
        if not uses:
            return
        (lease_id, request, own), asked = uses[pick % len(uses)]
        known, key = self.known.get(lease_id), own or asked.feature
        feature = None if known is None else self.feature_of(known, key)
        before = self.fingerprint()
        self.watch()
        try:
            answer = self.ledger.undo(
                lease_id, secret=asked.secret, key=key, amount=asked.amount + more, request_id=request, now=self.now
            )
        except (LeaseEnded, UnknownLease):
            assert known is None or self.is_over(known)
            assert before == self.fingerprint()
            return
        except StillBorrowed:
            assert self.is_without_terms(known)
            return
        except UnknownFeature:
            assert feature is None
            return
        except RequestIdTaken:
            assert more
            return
        except (AlreadyUndone, UndoTooLate, NotHeld) as fault:
            assert feature is not None
            late = self.gone_since(asked) >= feature.undo_seconds
            old = self.seconds - asked.at >= REQUESTS_KEPT_SECONDS - 10 and (late or asked.undone or asked.closed)
            reasons = {AlreadyUndone.code: asked.undone, UndoTooLate.code: late or asked.closed, NotHeld.code: old}
            reason = reasons[fault.code]
            assert reason
            assert before == self.fingerprint()
            return
        self.judge()
        assert feature is not None
        assert not more
        assert not asked.undone
        assert not asked.closed
        assert self.gone_since(asked) < feature.undo_seconds
        asked.undone = True
        self.books.account(asked.entitlement_id, key).give_back(asked.draws)
        assert answer.key == key

    def gone_since(self, asked: Asked) -> float:
        """The seconds since then, by whichever clock says more."""
        return max(self.seconds - asked.at, self.strict - asked.strict)

    def update_units(self, name: str, pick: int, how: str, extra: tuple[GrantWish, ...]) -> None:
        """Other grants under the same hosting: what was used stays used."""
        if id_of(name) not in self.ledger.pools:
            return
        said = self.said(id_of(name))
        if not said.features:
            return
        at, place = self.now.wall.replace(microsecond=0), pick % len(said.features)
        feature = said.features[place]
        grants = feature.grants
        match how:
            case "less" | "more":
                grants = tuple(
                    replace(one, amount=one.amount // 2 if how == "less" else one.amount + 3) for one in feature.grants
                )
            case "drop":
                grants = feature.grants[1:]
            case "add" if feature.counted:
                here = {one.grant_id for one in grants}
                grants += tuple(made for one in extra if (made := one.made(at)).grant_id not in here)
        changed = tuple(
            replace(one, grants=grants) if one is feature else one
            for one in said.features
            if one is not feature or how != "feature"
        )
        self.put(replace(said, features=changed, sequence=said.sequence + 1))

    def reset(self, name: str, key: str | None) -> None:
        """The vendor's command: what is in force begins anew, before the terms that come with it."""
        entitlement_id = id_of(name)
        pool = self.ledger.pools.get(entitlement_id)
        feature = None if pool is None or key is None else pool.entitlement.feature(key)
        if pool is None or (key is not None and (feature is None or not feature.consumed)):
            return
        if not any(one.consumed for one in pool.entitlement.features):
            return
        self.watch()
        command = reset_of(entitlement_id, key)
        made = self.vendor.bundle(now=self.now, commands={f"cmd {self.vendor.sequence}": command})
        self.ledger.install(made, actor="admin", now=self.now)
        self.judge_lines()
        for (owner, name_), account in self.books.accounts.items():
            if owner != entitlement_id or key not in {None, name_}:
                continue
            one = pool.entitlement.feature(name_)
            if one is not None and one.consumed:
                account.begin_anew(one, pool.entitlement, self.now)
            elif not any(units for lot, units in account.used.items() if lot not in account.ended):
                continue
            else:
                account.used = {lot: units if lot in account.ended else 0 for lot, units in account.used.items()}
            for asked in self.books.asked.values():
                if (asked.entitlement_id, asked.feature) == (entitlement_id, name_):
                    asked.closed = True
        self.judge()
        before = self.fingerprint()
        again = replace(made, kept=replace(made.kept, bundle_id=f"{made.kept.bundle_id} again"))
        again = replace(again, kept=replace(again.kept, sequence=made.kept.sequence))
        with pytest.raises(Fault):  # the same sequence under another id is older
            self.ledger.install(again, actor="admin", now=self.now)
        assert before == self.fingerprint()
