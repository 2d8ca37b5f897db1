"""After a restore: what goes on, what is refused, and how the journal and the counters go on from the vendor's answer.

Both cases of the vendor's last report are played through: older than the backup, and newer (decision 0021).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lls.faults import Refusal, RefusedDocument, Restored, UnknownLease
from lls.licensing.changes import FeatureAct
from lls.licensing.denial import Denial
from lls.licensing.entitlement import BorrowTerms
from lls.licensing.lease import Carried, Mode
from lls.licensing.ledger import Seated
from lls.licensing.meters import FeatureLevel
from lls.licensing.terms import KnownMeter
from tests.ledgers import T0, checkout, counted, entitlement, secret_of, units
from tests.licensing.restores import Restorable

FRAMES = counted("frames", 100, undo_seconds=86_400)
CAD = entitlement(
    "cad", seats=3, features=(FRAMES, units("tokens", 4)), borrow=BorrowTerms(max_seconds=86_400, max_seats=3)
)
ENT = CAD.entitlement_id


def site() -> Restorable:
    """A server that lends CAD, with ann's lease."""
    made = Restorable(CAD)
    sit(made, "ann")
    return made


def sit(server: Restorable, lease_id: str, **wish: Any) -> Any:
    verdict = server.ledger.checkout(checkout(lease_id, **wish), now=server.now)
    server.commit()
    return verdict


def use(server: Restorable, lease_id: str, amount: int, request: str, *, feature: str = "frames") -> Any:
    act = FeatureAct.USE if feature == "frames" else FeatureAct.CHECKOUT
    verdict = server.ledger.feature(
        lease_id,
        secret=secret_of(lease_id),
        key=feature,
        act=act,
        amount=amount,
        request_id=request,
        now=server.now,
    )
    server.commit()
    return verdict


def consumed(server: Restorable) -> int:
    return server.ledger.meters.level(None, ENT, "frames", now=server.now, committed=True).consumed


def carried(lease_id: str, **changes: Any) -> Carried:
    """What a capability of the lost time says of a loan."""
    made = Carried(
        lease_id=lease_id,
        product="cad",
        entitlement_id=ENT,
        seats=1,
        seat_id=f"seat of {lease_id}",
        features={},
        issued_at=T0 + timedelta(seconds=30),
        until=T0 + timedelta(hours=5),
    )
    return replace(made, **changes)


# ---------------------------------------------------------------- what goes on, and what does not


def test_the_first_start_after_a_restore_says_so_once_and_leases_go_on() -> None:
    server = site()
    backup = server.backup()
    end = len(server.lines())

    server.restore(backup)

    assert ["Restored", "Resumed"] == server.kinds(after=end)
    assert server.ledger.leases["ann"].deadline > server.now.elapsed
    server.start()
    assert ["Restored", "Resumed", "Resumed"] == server.kinds(after=end)
    server.check_chain()


def test_a_server_that_had_imported_nothing_yet_can_be_restored_too() -> None:
    server = Restorable()
    server.database.execute("DELETE FROM facts WHERE key = 'terms_from'")
    server.restore(server.backup())
    server.report()
    server.install(server.answer())
    assert not server.ledger.server.restored


def test_many_entitlements_are_told_in_several_lines_and_begin_anew_once() -> None:
    many = [entitlement(f"e{number}", seats=1) for number in range(1_001)]
    server = Restorable(*many)
    sit(server, "ann")
    server.restore(server.backup())
    assert ["Restored", "Restored", "Resumed"] == server.kinds()[-3:]
    (line,) = (line for line in server.report() if line.peak)
    assert (1, 1, 1) == (line.peak, line.checkouts, line.low + 1)


def test_seats_and_element_pools_go_on_and_what_is_consumed_is_refused() -> None:
    server = site()
    server.restore(server.backup())

    assert isinstance(sit(server, "bob"), Seated)
    assert isinstance(use(server, "ann", 2, "r1", feature="tokens"), FeatureLevel)
    verdict = use(server, "ann", 1, "r2")
    assert isinstance(verdict, Denial)
    assert "restored" == verdict.code
    assert "Denied" == server.kinds()[-1]
    at_grant = sit(server, "cid", features=(("frames", 5),))
    assert isinstance(at_grant, Denial)
    assert "restored" == at_grant.code
    assert isinstance(sit(server, "cid", features=(("tokens", 1),)), Seated)


def test_a_use_of_before_is_not_undone_while_nobody_knows_whether_it_was() -> None:
    server = site()
    use(server, "ann", 5, "r1")
    server.restore(server.backup())
    with pytest.raises(Restored):
        server.ledger.undo("ann", secret=secret_of("ann"), key="frames", amount=5, request_id="r1", now=server.now)


def test_a_lease_granted_after_the_backup_is_unknown_and_its_client_checks_out_anew() -> None:
    server = site()
    backup = server.backup()
    sit(server, "bob")
    server.restore(backup)
    with pytest.raises(UnknownLease):
        server.ledger.heartbeat("bob", secret=secret_of("bob"), beat=1, nonce="n", now=server.now)
    assert isinstance(sit(server, "bob again"), Seated)


# ---------------------------------------------------------------- the vendor's answer


def test_all_that_was_reported_is_in_the_backup_so_the_journal_goes_on_as_it_is() -> None:
    server = site()
    use(server, "ann", 5, "r1")
    server.report()
    use(server, "ann", 7, "r2")  # in the backup, and not reported yet
    backup = server.backup()
    use(server, "ann", 20, "r3")  # lost: nobody ever heard of it
    before = server.lines()[: len(server.lines()) - 1]
    server.restore(backup)

    outcome = server.install(server.answer())

    assert outcome.adoption is not None
    assert before == server.lines()[: len(before)]
    assert 12 == consumed(server)
    assert isinstance(use(server, "ann", 1, "r4"), FeatureLevel)
    server.report()
    server.check_chain()
    assert 13 == consumed(server) == server.billed()


def test_more_was_reported_than_the_backup_has_so_the_journal_goes_on_behind_the_vendors_line() -> None:
    server = site()
    use(server, "ann", 5, "r1")
    backup = server.backup()
    kept = server.lines()
    use(server, "ann", 7, "r2")
    sit(server, "bob")
    server.report()
    known = server.end()
    use(server, "ann", 20, "r3")  # lost
    server.restore(backup)
    sit(server, "cid")
    since = server.kinds(after=len(kept))

    outcome = server.install(server.answer())

    assert outcome.adoption is not None
    assert kept == server.lines()[: len(kept)]
    assert [*since, "Installed"] == server.kinds(after=known.seq)
    assert known == server.ledger.server.acknowledged
    server.check_chain()
    assert 12 == consumed(server), "the counters are those of the vendor's last line"
    assert isinstance(use(server, "ann", 1, "r4"), FeatureLevel)
    server.report()
    assert 13 == consumed(server) == server.billed()
    server.start()
    server.check_chain()
    server.report()


def test_what_was_undone_is_not_undone_a_second_time_after_the_answer() -> None:
    server = site()
    use(server, "ann", 5, "r1")
    backup = server.backup()
    server.ledger.undo("ann", secret=secret_of("ann"), key="frames", amount=5, request_id="r1", now=server.now)
    server.report()
    server.restore(backup)
    server.install(server.answer())
    assert 0 == consumed(server) == server.billed()
    with pytest.raises(Exception, match="undone any more"):
        server.ledger.undo("ann", secret=secret_of("ann"), key="frames", amount=5, request_id="r1", now=server.now)


def test_lines_that_are_posted_while_the_answer_is_prepared_move_along() -> None:
    server = site()
    backup = server.backup()
    server.report()
    server.restore(backup)
    bundle = server.answer()
    install = server.ledger.install

    def late(*args: Any, **named: Any) -> Any:
        server.ledger.checkout(checkout("committed"), now=server.now)
        server.commit()
        server.ledger.checkout(checkout("in the same group"), now=server.now)
        return install(*args, **named)

    server.ledger.install = late  # type: ignore[method-assign]
    server.install(bundle)
    assert ["Granted", "Granted", "Installed"] == server.kinds()[-3:]
    server.check_chain()
    server.start()
    assert {"ann", "committed", "in the same group"} == set(server.ledger.leases)


def test_an_answer_counts_for_its_own_restore_only() -> None:
    server = site()
    backup = server.backup()
    use(server, "ann", 50, "r1")
    server.report()
    first = server.restore(backup)
    answered = server.answer()
    server.install(answered)
    use(server, "ann", 40, "r2")
    server.report()
    assert 90 == server.billed()

    server.restore(backup)  # once more, to before the answer
    again = server.answer(restore_id=first)
    outcome = server.install(again)

    assert outcome.adoption is None
    assert "another restore" in outcome.warnings[0]
    verdict = use(server, "ann", 50, "r3")
    assert isinstance(verdict, Denial)
    server.install(server.answer())
    assert 90 == consumed(server)
    server.report()
    server.check_chain()


def test_a_backup_of_a_restored_server_may_be_restored_and_nothing_moves_twice() -> None:
    server = site()
    use(server, "ann", 5, "r1")
    backup = server.backup()
    server.restore(backup)
    sit(server, "bob")
    later = server.backup()
    server.report()  # of the restored server: the vendor has its first Restored
    server.restore(later)
    server.install(server.answer())
    server.report()
    server.check_chain()
    assert 2 == [line["kind"] for line in map(_read, server.reported)].count("Restored")
    assert 1 == sum("bob" in str(line) for line in map(_read, server.reported) if line["kind"] == "Granted")


def _read(line: bytes) -> Any:
    import json  # noqa: PLC0415

    return json.loads(line)


def test_an_answer_that_fits_no_line_of_ours_is_refused_as_forked() -> None:
    server = site()
    server.report()
    server.restore(server.backup())
    strange = server.answer(onto=server.end()._replace(hash="f" * 64))
    with pytest.raises(RefusedDocument) as refused:
        server.install(strange)
    assert Refusal.FORKED is refused.value.reason
    assert server.ledger.server.restored


def test_a_session_that_is_over_for_the_vendor_ends_with_his_answer() -> None:
    server = site()
    server.report()
    server.restore(server.backup())
    bundle = replace(server.answer(closed_sessions=frozenset({CAD.session_id})), entitlements=())
    server.install(bundle)
    assert {} == dict(server.ledger.pools)
    assert {} == server.ledger.leases


def test_what_a_new_session_has_used_stays_although_the_backup_knows_the_old_one_only() -> None:
    server = site()
    backup = server.backup()
    server.report()
    server.restore(backup)
    new = replace(CAD, session_id=f"ses_{'new':A<22}", sequence=2)
    known = KnownMeter(entitlement_id=ENT, feature="frames", lots=(("allowance", 30, False),))
    bundle = server.answer(meters=(known,), closed_sessions=frozenset({CAD.session_id}))
    server.vendor.said[bundle.kept.bundle_id] = {ENT: new}
    server.install(replace(bundle, entitlements=(new,)))
    assert 30 == consumed(server)
    assert new.session_id == server.ledger.placed[ENT].session_id


def test_the_vendors_counters_stand_for_what_he_names_and_nothing_was_used_of_the_rest() -> None:
    server = site()
    use(server, "ann", 5, "r1")
    backup = server.backup()
    server.report()
    server.restore(backup)
    known = KnownMeter(entitlement_id=ENT, feature="frames", lots=(("allowance", 30, False),))
    server.install(server.answer(meters=(known,)))
    assert 30 == consumed(server)


# ---------------------------------------------------------------- what was lent


def test_a_loan_of_the_lost_time_is_taken_up_when_it_is_shown_also_beyond_the_seats() -> None:
    server = site()
    backup = server.backup()
    server.seconds = 60
    server.restore(backup)
    for name in ("bob", "cid"):
        sit(server, name)

    assert server.ledger.take_up(carried("dan", features={"tokens": 1}), secret=secret_of("dan"), now=server.now)
    server.commit()

    lease = server.ledger.leases["dan"]
    assert (Mode.BORROWED, T0 + timedelta(hours=5), True) == (lease.mode, lease.until, lease.overdraft)
    assert 4 == server.ledger.in_use(ENT)
    assert ["Granted", "FeatureCheckedOut", "Borrowed", "Overdraft"] == server.kinds()[-4:]
    assert not server.ledger.take_up(carried("dan"), secret=secret_of("dan"), now=server.now)
    server.start()
    assert "dan" in server.ledger.leases
    server.seconds = 5 * 3600 + 1
    server.ledger.sweep(now=server.now)
    assert "dan" not in server.ledger.leases


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (carried("dan", until=T0 + timedelta(seconds=61)), "it has ended"),
        (carried("dan", issued_at=T0 - timedelta(hours=1)), "the backup would know it"),
        (carried("dan", issued_at=T0 + timedelta(hours=1)), "it was made after the restore"),
        (carried("dan", product="cam"), "another product"),
        (carried("dan", entitlement_id=f"ent_{'x':A<22}"), "an entitlement that is not here"),
    ],
)
def test_what_is_no_loan_of_the_lost_time_is_an_unknown_lease(shown: Carried, why: str) -> None:
    server = site()
    server.restore(server.backup())
    server.seconds = 120
    with pytest.raises(UnknownLease):
        server.ledger.take_up(shown, secret=secret_of("dan"), now=server.now)
    assert server.ledger.batch.empty, why


def test_a_return_of_a_loan_that_the_backup_does_not_know_is_taken_and_changes_nothing() -> None:
    server = site()
    with pytest.raises(UnknownLease):
        server.ledger.return_borrow("lost", key="jkt", secret=b"s" * 32, now=server.now)
    backup = server.backup()
    server.restore(backup)
    before = server.lines()
    assert not server.ledger.return_borrow("lost", key="jkt", secret=b"s" * 32, now=server.now)
    with pytest.raises(UnknownLease):
        server.ledger.return_borrow("ann", key="jkt", secret=b"s" * 32, now=server.now)
    server.commit()
    assert before == server.lines()


def test_a_loan_that_was_given_back_before_it_was_shown_is_not_counted() -> None:
    """A program shows its loan in the background, and may give it back before that has arrived."""
    server = site()
    server.restore(server.backup())
    server.ledger.checkin("dan", secret=secret_of("dan"), now=server.now)
    with pytest.raises(UnknownLease):
        server.ledger.take_up(carried("dan"), secret=secret_of("dan"), now=server.now)
    server.ledger.checkin("eve", secret=b"another", now=server.now)
    assert server.ledger.take_up(carried("eve"), secret=secret_of("eve"), now=server.now)


def test_without_a_restore_nothing_is_taken_up() -> None:
    server = site()
    with pytest.raises(UnknownLease):
        server.ledger.take_up(carried("dan"), secret=secret_of("dan"), now=server.now)


def test_a_lease_that_was_lent_after_the_backup_counts_to_its_later_end() -> None:
    server = site()
    server.restore(server.backup())
    assert server.ledger.take_up(carried("ann"), secret=secret_of("ann"), now=server.now)
    assert T0 + timedelta(hours=5) == server.ledger.leases["ann"].until
    assert not server.ledger.take_up(carried("ann"), secret=b"another", now=server.now)
