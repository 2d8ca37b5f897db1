"""The verbs of units, borrowing, named users, the site's policy and an entitlement's return, each with what must hold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from lls.faults import (
    AlreadyUndone,
    BadRequest,
    ClockBehind,
    Fault,
    Forbidden,
    LeaseEnded,
    LeaseIdTaken,
    NotFound,
    NotHeld,
    RequestIdTaken,
    StillBorrowed,
    UndoTooLate,
    UnknownFeature,
    UnknownLease,
    UnknownProduct,
)
from lls.licensing.changes import FeatureAct, ReturnedEntitlement
from lls.licensing.entitlement import Concurrency, Entitlement, Feature, FeatureType, Status
from lls.licensing.hosting import Draining
from lls.licensing.instant import ClockState
from lls.licensing.lease import Holder, LeaseState, Mode
from lls.licensing.ledger import Seated
from lls.licensing.meters import FeatureLevel
from lls.licensing.policy_file import read_policy
from lls.licensing.seating import Denial
from tests.ledgers import checkout, reset_of
from tests.licensing.machine import REQUESTS_KEPT_SECONDS, Asked, Known, id_of
from tests.licensing.machine_seats import SeatVerbs
from tests.licensing.site_rules import POLICIES
from tests.licensing.wishes import GrantWish

LENIENT_SECONDS = 60
WRONG = b"?" * 32


class LifeVerbs(SeatVerbs):
    """See the module."""

    # ------------------------------------------------------------ units

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
            assert expected == fault.code
            assert before == self.fingerprint()
            return
        self.judge()
        if isinstance(answer, Denial):
            assert answer.code in {expected, "no_feature_units"}
            assert answer.code == expected or (feature is not None and self.is_short(known, feature, amount))
            return
        assert expected is None
        assert feature is not None
        self.answered(known, feature, act, amount, request, answer)

    def feature_of(self, known: Known, key: str) -> Feature | None:
        pool = self.ledger.pools.get(known.entitlement_id)
        return None if pool is None else pool.entitlement.feature(key)

    def refusal_of(self, known: Known, feature: Feature | None, act: FeatureAct, amount: int) -> str | None:
        """The code that refuses this call before units are looked at; of several the first in the contract's order."""
        if self.is_over(known):
            return "lease_ended"
        terms = self.ledger.pools[known.entitlement_id].entitlement
        if act is not FeatureAct.RETURN:
            if self.state is ClockState.BEHIND:
                return "clock_behind"
            if terms.status is not Status.ACTIVE:
                return "entitlement_disabled"
            if terms.ends_at is not None and self.now.wall >= terms.ends_at:
                return "entitlement_expired"
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

    def is_short(self, known: Known, feature: Feature, amount: int) -> bool:
        room = self.room(self.ledger.pools[known.entitlement_id].entitlement, feature)
        return room is not None and amount > room

    def answered(
        self, known: Known, feature: Feature, act: FeatureAct, amount: int, request: str, answer: FeatureLevel
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
            gone = self.ended_long_ago(lease_id)
            wrong = {"amount": RequestIdTaken, "key": RequestIdTaken, "secret": UnknownLease}.get(how)
            hosted = self.ledger.pools.get(asked.entitlement_id)
            known = hosted is not None and hosted.entitlement.feature(asked.feature) is not None
            assert gone or (isinstance(fault, wrong) if wrong else not known and isinstance(fault, UnknownFeature))
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
        except UnknownFeature:
            assert feature is None
            return
        except RequestIdTaken:
            assert more
            return
        except (AlreadyUndone, UndoTooLate, NotHeld) as fault:
            assert feature is not None
            late = self.seconds - asked.at >= feature.undo_seconds
            old = self.seconds - asked.at >= REQUESTS_KEPT_SECONDS - 10 and late
            reasons = {AlreadyUndone: asked.undone, UndoTooLate: late or asked.closed, NotHeld: old}
            assert reasons[type(fault)] or (old and not isinstance(fault, AlreadyUndone))
            assert before == self.fingerprint()
            return
        self.judge()
        assert feature is not None
        assert not more
        assert not asked.undone
        assert not asked.closed
        assert self.seconds - asked.at < feature.undo_seconds
        asked.undone = True
        self.books.account(asked.entitlement_id, key).give_back(asked.draws)
        assert answer.key == key

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
        self.watch()
        command = reset_of(entitlement_id, key)
        made = self.vendor.bundle(now=self.now, commands={f"cmd {self.vendor.sequence}": command})
        self.ledger.install(made, actor="admin", now=self.now)
        self.judge_lines()
        for one in pool.entitlement.features:
            if one.consumed and key in {None, one.key}:
                self.books.account(entitlement_id, one.key).begin_anew(one, pool.entitlement, self.now)
                for asked in self.books.asked.values():
                    if (asked.entitlement_id, asked.feature) == (entitlement_id, one.key):
                        asked.closed = True
        self.judge()
        before = self.fingerprint()
        again = replace(made, kept=replace(made.kept, bundle_id=f"{made.kept.bundle_id} again"))
        again = replace(again, kept=replace(again.kept, sequence=made.kept.sequence))
        with pytest.raises(Fault):  # the same sequence under another id is older
            self.ledger.install(again, actor="admin", now=self.now)
        assert before == self.fingerprint()

    # ------------------------------------------------------------ borrowing

    def borrow(self, lease_id: str, seconds: int, *, right: bool) -> None:
        lease_id = self.live(lease_id)
        known = self.known.get(lease_id)
        if known is not None:
            self.lend(lease_id, known, self.now.wall.replace(microsecond=0) + timedelta(seconds=seconds), right=right)

    def borrow_again(self, lease_id: str, later: int) -> None:
        away = sorted(key for key, known in self.known.items() if known.until is not None)
        if not away:
            return
        lease_id = away[len(lease_id) % len(away)]
        known = self.known[lease_id]
        assert known.until is not None
        self.lend(lease_id, known, known.until + timedelta(seconds=later), right=True)

    def lend(self, lease_id: str, known: Known, until: datetime, *, right: bool) -> None:
        fingerprint = known.wish.holder.seat_id if right else "another machine"
        expected = self.loan_refusal(lease_id, known, until, right=right)
        before, repeated = self.fingerprint(), right and known.until == until
        self.watch()
        try:
            answer = self.ledger.borrow(
                lease_id, secret=known.wish.secret, until=until, fingerprint=fingerprint, now=self.now
            )
        except (LeaseEnded, ClockBehind, StillBorrowed, BadRequest) as fault:
            assert expected == fault.code
            assert before == self.fingerprint()
            return
        if isinstance(answer, Denial):
            assert expected == answer.code
        else:
            assert expected is None
            assert repeated is answer.again
            assert (Mode.BORROWED, until) == (answer.lease.mode, answer.lease.until)
            assert not repeated or before == self.fingerprint()
            known.until = until
        self.judge()

    def loan_refusal(self, lease_id: str, known: Known, until: datetime, *, right: bool) -> str | None:
        if self.is_over(known):
            return "lease_ended"
        if known.until is not None and known.until == until and right:
            return None
        if known.until is not None and until < known.until:
            return "borrowed"
        if self.state is ClockState.BEHIND:
            return "clock_behind"
        terms = self.ledger.pools[known.entitlement_id].entitlement
        return self.caps_refusal(terms, known.wish.holder, known.wish.seats, until, right=right, without=lease_id)

    def caps_refusal(
        self, terms: Entitlement, holder: Holder, seats: int, until: datetime, *, right: bool, without: str
    ) -> str | None:
        """The contract's rules of borrowing, once more."""
        wall, vendor = self.now.wall, terms.borrow
        longest, most = self.books.rules.caps(holder) if terms.product == "cad" else (None, None)
        longest = vendor.max_seconds if longest is None else min(longest, vendor.max_seconds)
        others = [
            one for lease_id, one in self.known.items() if lease_id != without and one.wish.product == terms.product
        ]
        others = [one for one in others if one.until is not None and one.until > wall]
        away_in_all = sum(one.wish.seats for one in others)
        away = sum(one.wish.seats for one in others if one.entitlement_id == terms.entitlement_id)
        ends = terms.ends_at
        if not right:
            return "wrong_machine"
        if terms.status is not Status.ACTIVE:
            return "entitlement_disabled"
        if ends is not None and wall >= ends:
            return "entitlement_expired"
        if until <= wall:
            return "bad_request"
        if not longest or not vendor.max_seats or most == 0:
            return "borrow_not_allowed"
        in_time = until <= wall + timedelta(seconds=longest + LENIENT_SECONDS)
        if not in_time or (ends is not None and until > ends):
            return "borrow_too_long"
        too_many = away + seats > vendor.max_seats or (most is not None and away_in_all + seats > most)
        return "borrow_not_allowed" if too_many else None

    def borrow_by_file(self, lease_id: str, seconds: int, holder: Holder, seats: int, *, right: bool) -> None:
        """A machine without the network asks with a key of its own."""
        key = f"key of {lease_id}"
        secret = hashlib.sha256(f"borrow {key}".encode()).digest()
        until = self.now.wall.replace(microsecond=0) + timedelta(seconds=seconds)
        wish = checkout(f"file {lease_id}", content=f"{holder} {seats}", seats=seats)
        self.wished = wish = replace(wish, holder=holder, secret=secret)
        known, before = self.known.get(wish.lease_id), self.fingerprint()
        expected = None if known is None else self.loan_refusal(wish.lease_id, known, until, right=right)
        self.watch()
        try:
            answer = self.ledger.grant_borrow(
                wish, until=until, fingerprint=holder.seat_id if right else "another", key=key, now=self.now
            )
        except (LeaseEnded, LeaseIdTaken, ClockBehind, StillBorrowed, BadRequest, UnknownProduct) as fault:
            if known is not None and not isinstance(fault, LeaseIdTaken):
                assert expected == fault.code
            elif isinstance(fault, ClockBehind):
                assert self.state is ClockState.BEHIND
            return
        if isinstance(answer, Seated):
            lease = answer.lease
            assert (Mode.BORROWED, until, key) == (lease.mode, lease.until, lease.key)
            assert expected is None
            self.judge()
            self.known[wish.lease_id].until = until
            if known is None:
                terms = self.ledger.pools[lease.entitlement_id].entitlement
                caps = self.caps_refusal(terms, holder, seats, until, right=right, without=wish.lease_id)
                assert caps is None, "more was lent than may be"
            return
        if known is not None:
            assert expected == answer.code
            assert before[:2] == self.fingerprint()[:2]
        self.judge()
        assert wish.lease_id in self.known or wish.lease_id not in self.ledger.leases

    def return_by_file(self, lease_id: str, *, right: bool) -> None:
        wish = f"file {lease_id}"
        mine = sorted(key for key in self.known if key.startswith("file "))
        wish = mine[IDS_AT[lease_id] % len(mine)] if mine else wish
        key = wish.replace("file", "key of") if right else "another key"
        secret, before = hashlib.sha256(f"borrow {key}".encode()).digest(), self.fingerprint()
        known = self.known.get(wish)
        self.watch()
        if right:
            self.excuse(wish)
        try:
            came = self.ledger.return_borrow(wish, key=key, secret=secret, now=self.now)
        except UnknownLease:
            assert known is None or not right
            assert before == self.fingerprint()
            return
        assert right
        assert came == (known is not None) or wish not in self.ledger.leases
        self.judge()
        assert wish not in self.known

    def to_the_end_of_a_loan(self, *, sweep: bool) -> None:
        ends = [known.until for known in self.known.values() if known.until is not None]
        if ends and min(ends) > self.now.wall:
            self.seconds += (min(ends) - self.now.wall).total_seconds() - 0.25
            self.sweep(limit=2_000)
            assert len(self.ledger.borrowed) == len(ends)
            self.seconds += 0.25
            if sweep:
                self.sweep(limit=2_000)

    # ------------------------------------------------------------ an entitlement's return

    def give_back(self, name: str, *, force: bool) -> None:
        entitlement_id = id_of(name)
        hosted = entitlement_id in self.ledger.pools
        mine = {key: one for key, one in self.known.items() if one.entitlement_id == entitlement_id}
        at_work = [key for key, one in mine.items() if one.until is None]
        self.watch()
        session = self.ledger.placed[entitlement_id].session_id if hosted else ""
        if hosted and (force or not at_work):
            self.excused |= set(at_work)
        try:
            answer = self.ledger.return_entitlement(entitlement_id, force=force, actor="admin", now=self.now)
        except NotFound:
            assert not hosted
            assert entitlement_id not in self.books.returned
            return
        if not hosted:
            assert self.books.returned[entitlement_id] == answer, "a return was told in other words"
            return
        if isinstance(answer, Draining):
            assert not force
            assert len(at_work) == answer.leases
            self.books.returning.add(entitlement_id)
            self.judge()
            return
        self.judge_lines()
        self.judge_return(answer, session, mine)
        self.judge()

    def judge_return(self, answer: ReturnedEntitlement, session: str, mine: dict[str, Known]) -> None:
        entitlement_id = answer.entitlement_id
        away = max((one.until for one in mine.values() if one.until is not None), default=None)
        head = self.ledger.batch.entries[-1]
        assert (session, away) == (answer.session_id, answer.borrowed_until)
        assert entitlement_id not in self.ledger.pools
        assert session in self.ledger.closed_sessions
        assert answer.up_to_seq <= head.seq
        for told in json.loads(answer.meters):
            account = self.books.account(entitlement_id, told["feature"])
            used = {lot["lot"]: lot["used"] for lot in told["lots"]}
            assert {lot: units for lot, units in account.used.items() if units} == {
                lot: units for lot, units in used.items() if units
            }
            assert sum(used.values()) == told["consumed"]
            assert all(lot["used"] <= lot["amount"] for lot in told["lots"])
        self.books.returned[entitlement_id] = answer
        self.books.accounts = {key: one for key, one in self.books.accounts.items() if key[0] != entitlement_id}
        self.books.returning.discard(entitlement_id)
        for kept in (self.books.started, self.books.assigned, self.books.taken_back):
            kept.pop(entitlement_id, None)

    def keep(self, name: str) -> None:
        entitlement_id = id_of(name)
        if entitlement_id in self.books.returning:
            self.ledger.keep_entitlement(entitlement_id, actor="admin", now=self.now)
            self.books.returning.discard(entitlement_id)
            return
        with pytest.raises(NotFound):
            self.ledger.keep_entitlement(entitlement_id, actor="admin", now=self.now)

    # ------------------------------------------------------------ named users, policy

    def assign(self, name: str, user: str) -> None:
        entitlement_id = id_of(name)
        terms = self.terms_of(entitlement_id)
        before, mine = self.fingerprint(), self.books.assigned.get(entitlement_id, set())
        try:
            self.ledger.assign_user(entitlement_id, user, actor="admin", now=self.now)
        except (NotFound, Forbidden) as fault:
            if terms is None:
                assert isinstance(fault, NotFound)
                return
            full = terms.seats is not None and len({*mine, *map(str.lower, terms.named_users.names)}) >= terms.seats
            assert full or not self.site_names(terms)
            assert before == self.fingerprint()
            return
        assert terms is not None
        assert self.site_names(terms)
        named = {*mine, *map(str.lower, terms.named_users.names)}
        if user.lower() not in named:
            assert terms.seats is None or len(named) < terms.seats
            self.books.assigned[entitlement_id] = {*mine, user.lower()}

    def unassign(self, name: str, user: str) -> None:
        entitlement_id = id_of(name)
        terms = self.terms_of(entitlement_id)
        before, mine = self.fingerprint(), self.books.assigned.get(entitlement_id, set())
        month = f"{self.now.wall:%Y-%m}"
        lately = [at for at in self.books.taken_back.get(entitlement_id, []) if f"{at:%Y-%m}" == month]
        sitting = {
            key
            for key, one in self.known.items()
            if one.entitlement_id == entitlement_id
            and one.until is None
            and (one.wish.holder.user or "").lower() == user.lower()
        }
        self.watch()
        try:
            self.ledger.unassign_user(entitlement_id, user, actor="admin", now=self.now)
        except (NotFound, Forbidden):
            allowed = terms is not None and self.site_names(terms)
            often = terms is not None and len(lately) >= terms.named_users.changes_per_month
            assert not allowed or user.lower() not in mine or often
            assert before == self.fingerprint()
            return
        assert terms is not None
        assert len(lately) < terms.named_users.changes_per_month
        assert user.lower() in mine
        self.books.assigned[entitlement_id] = mine - {user.lower()}
        self.books.taken_back.setdefault(entitlement_id, []).append(self.now.wall)
        self.excused |= sitting
        assert not sitting & self.ledger.leases.keys()
        self.judge()

    def terms_of(self, entitlement_id: str) -> Entitlement | None:
        pool = self.ledger.pools.get(entitlement_id)
        return None if pool is None else pool.entitlement

    @staticmethod
    def site_names(terms: Entitlement) -> bool:
        return terms.concurrency is Concurrency.NAMED_USER and terms.named_users.by_site

    def govern(self, pick: int) -> None:
        """Another policy: nobody loses a seat, and who waits may be let in."""
        self.watch()
        leases = set(self.ledger.leases)
        before = self.books.policy
        self.books.policy = pick
        added, removed = self.ledger.govern(
            read_policy(POLICIES[pick].text), text=POLICIES[pick].text, actor="admin", now=self.now
        )
        assert POLICIES[before].rules + len(added) - len(removed) == POLICIES[pick].rules
        assert (before == pick) == (not added and not removed)
        assert leases <= set(self.ledger.leases)
        self.judge()


IDS_AT = {f"lease-{number}": number for number in range(9)}

__all__ = ["LeaseState", "LifeVerbs"]
