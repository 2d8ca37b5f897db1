"""The verbs of borrowing, named users, the site's policy and an entitlement's return, each with what must hold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from lls.faults import (
    BadRequest,
    ClockBehind,
    Forbidden,
    LeaseEnded,
    LeaseIdTaken,
    NotFound,
    StillBorrowed,
    UnknownLease,
    UnknownProduct,
)
from lls.licensing.changes import ReturnedEntitlement
from lls.licensing.entitlement import Concurrency, Entitlement, Status
from lls.licensing.hosting import Draining
from lls.licensing.instant import ClockState
from lls.licensing.lease import Checkout, Holder, Mode
from lls.licensing.ledger import Seated
from lls.licensing.policy_file import read_policy
from lls.licensing.seating import Denial
from tests.ledgers import checkout
from tests.licensing.machine import Known, id_of
from tests.licensing.machine_units import UnitVerbs
from tests.licensing.site_rules import POLICIES
from tests.licensing.wishes import IDS, NAMES

LENIENT_SECONDS = 60
WRONG = b"?" * 32


class LifeVerbs(UnitVerbs):
    """See the module."""

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
            self.judge_fault(fault, expected=expected, before=before)
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
        if self.is_without_terms(known):
            return "borrowed"
        if known.until is not None and known.until == until and right:
            return None
        if known.until is not None and until < known.until:
            return "borrowed"
        if self.state is ClockState.BEHIND:
            return "clock_behind"
        terms = self.ledger.pools[known.entitlement_id].entitlement
        return self.caps_refusal(terms, known.wish, until, right=right, without=lease_id)

    def caps_refusal(
        self, terms: Entitlement, wish: Checkout, until: datetime, *, right: bool, without: str
    ) -> str | None:
        """The contract's rules of borrowing, once more."""
        wall, vendor, seats = self.now.wall, terms.borrow, wish.seats
        longest, most = self.books.rules.caps(wish) if terms.product == "cad" else (None, None)
        longest = vendor.max_seconds if longest is None else min(longest, vendor.max_seconds)
        others = [
            one for lease_id, one in self.known.items() if lease_id != without and one.wish.product == terms.product
        ]
        others = [one for one in others if one.until is not None and one.until > wall]
        away_in_all = sum(one.wish.seats for one in others)
        away = sum(one.wish.seats for one in others if one.entitlement_id == terms.entitlement_id)
        if terms.starts_on_first_lease:
            terms = terms.begun(wall.replace(microsecond=0))
        ends = terms.ends_at
        if until <= wall:
            return "bad_request"
        if terms.entitlement_id in self.books.returning:
            return "entitlement_disabled"
        if not right:
            return "wrong_machine"
        if terms.status is not Status.ACTIVE:
            return "entitlement_disabled"
        if ends is not None and self.now.strict >= ends:
            return "entitlement_expired"
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
                self.judge_fault(fault, expected=expected, before=before)
            return
        if isinstance(answer, Seated):
            lease = answer.lease
            assert (Mode.BORROWED, until, key) == (lease.mode, lease.until, lease.key)
            assert expected is None
            self.judge()
            self.known[wish.lease_id].until = until
            if known is None:
                terms = self.ledger.pools[lease.entitlement_id].entitlement
                caps = self.caps_refusal(terms, wish, until, right=right, without=wish.lease_id)
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
            assert len(self.ledger.loans) == len(ends)
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
        except Forbidden:
            assert entitlement_id in self.ledger.problems, "what is without terms cannot be told"
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
        for asked in self.books.asked.values():
            asked.closed = asked.closed or asked.entitlement_id == entitlement_id
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
        except NotFound:
            assert terms is None
            return
        except Forbidden:
            assert terms is not None
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
            assert not self.may_unassign(terms, user, mine, lately=len(lately))
            assert before == self.fingerprint()
            return
        assert self.may_unassign(terms, user, mine, lately=len(lately))
        self.books.assigned[entitlement_id] = mine - {user.lower()}
        self.books.taken_back.setdefault(entitlement_id, []).append(self.now.wall)
        self.excused |= sitting
        assert not sitting & self.ledger.leases.keys()
        self.judge()

    @staticmethod
    def may_unassign(terms: Entitlement | None, user: str, mine: set[str], *, lately: int) -> bool:
        if terms is None or terms.concurrency is not Concurrency.NAMED_USER:
            return False
        theirs = user.lower() in {one.lower() for one in terms.named_users.names}
        often = terms.named_users.by_site and lately >= terms.named_users.changes_per_month
        return user.lower() in mine and not theirs and not often

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

    # ------------------------------------------------------------ several in a row, seldom found by chance

    def govern_in_vain(self, pick: int, *, kept: bool) -> None:
        """Two wait, another policy orders them otherwise, and its commit fails: they stand as the store says."""
        for lease_id, seat_id, user in ((IDS[-2], "beta", "ann"), (IDS[-1], "alpha", "bob")):
            holder = Holder(seat_id=seat_id, user=user, host="ws1")
            self.check_out_plainly(lease_id=lease_id, holder=holder, seats=1, wait=True)
        self.commit()
        self.govern(pick)
        self.commit_fails(kept=kept)

    def take_one_away(self, lease_id: str, holder: Holder, seconds: int) -> None:
        self.check_out_plainly(lease_id=lease_id, holder=holder, seats=1, wait=False)
        if lease_id in self.known:
            until = self.now.wall.replace(microsecond=0) + timedelta(seconds=seconds)
            self.lend(lease_id, self.known[lease_id], until, right=True)

    def give_back_what_is_away(self, *, settle: bool, again: dict[str, Any] | None) -> None:
        """An entitlement goes while a laptop has a seat of it, and may be hosted anew before the laptop is back."""
        away = sorted(one.entitlement_id for one in self.known.values() if one.until is not None)
        name = next((name for name in NAMES if id_of(name) in away), None)
        if name is None:
            return
        self.give_back(name, force=True)
        if settle:
            self.commit()
        if again is not None:
            self.install(name, again, same=False, session=True)


IDS_AT = {lease_id: place for place, lease_id in enumerate(IDS)}
