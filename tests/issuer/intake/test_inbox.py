"""Stored first, processed once: whatever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lls.issuer import Issuer
from lls.issuer.intake.facts import Event
from lls.issuer.intake.inbox import Settled, Status
from lls.issuer.intake.processing import Intake
from lls.issuer.intake.settings import Settings
from lls.issuer.ordering import Ordering
from lls.issuer.refusals import Conflict, HomeRefused
from tests.issuer.appliance import NOW
from tests.issuer.intake.conftest import DONE, Desk
from tests.issuer.intake.sources import invoice, session, stripe

PAID = stripe("evt_2", "invoice.paid", invoice(metadata={"account_ref": "C-42"}, customer_name="Works"), created=NOW)


def test_other_content_under_a_known_id_is_refused_and_nothing_of_its_post_is_stored(desk: Desk) -> None:
    desk.receive("stripe", PAID)
    with pytest.raises(Conflict, match="evt_2"):
        desk.receive("stripe", stripe("evt_2", "invoice.paid", invoice("in_9"), created=NOW))
    assert ["waiting"] == desk.statuses()


def test_what_was_stored_before_a_crash_is_processed_once_after_it(desk: Desk, home: Path, settings: Settings) -> None:
    desk.receive("stripe", PAID)
    desk.issuer.close()  # a process that died right after its answer
    with Issuer(home, now=NOW) as second, Issuer(home, now=NOW) as third:
        assert [DONE] == [fate.status for fate in Intake(second, settings).process(now=NOW)]
        assert [] == Intake(third, settings).process(now=NOW)
        assert 1 == len(third.register.entitlements())


def test_two_who_process_at_once_process_once(desk: Desk, home: Path, settings: Settings) -> None:
    desk.receive("stripe", PAID)
    with Issuer(home, now=NOW) as other:
        theirs = Intake(other, settings)
        seen = desk.intake.inbox.next(now=NOW)
        assert seen is not None
        assert DONE == getattr(theirs.process_next(now=NOW), "status", None)
        assert not desk.intake.inbox.settle(seen, Settled(status=Status.FAILED, outcome="too late"), now=NOW)
        assert desk.intake.process_next(now=NOW) is None
    assert ["done"] == desk.statuses()


def test_a_crash_while_processing_leaves_it_waiting_and_nothing_half_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def fulfilled_and_killed(self: Ordering, *args: object, **kwargs: object) -> object:
        real(self, *args, **kwargs)  # type: ignore[arg-type]
        raise Killed

    real = Ordering.fulfil
    desk.receive("stripe", PAID)
    monkeypatch.setattr(Ordering, "fulfil", fulfilled_and_killed)
    with pytest.raises(Killed):
        desk.intake.process(now=NOW)
    assert (["waiting"], []) == (desk.statuses(), desk.entitlements())
    monkeypatch.undo()
    desk.intake.process(now=NOW)
    assert (["done"], 1) == (desk.statuses(), len(desk.entitlements()))


KILLED = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from lls.issuer import Issuer
from lls.issuer.intake.processing import Intake
from lls.issuer.intake.settings import read_settings
from lls.issuer.ordering import Ordering

real = Ordering.fulfil
def killed(self, *args, **kwargs):
    real(self, *args, **kwargs)
    os.kill(os.getpid(), 9)
Ordering.fulfil = killed
with Issuer(Path(sys.argv[1]), now=datetime.now(UTC)) as issuer:
    Intake(issuer, read_settings(Path(sys.argv[2]))).process(now=datetime.fromisoformat(sys.argv[3]))
"""


def test_a_real_process_that_is_killed_in_the_middle_loses_and_doubles_nothing(
    desk: Desk, home: Path, config: Path
) -> None:
    desk.receive("stripe", PAID)
    words = [sys.executable, "-c", KILLED, str(home), str(config), NOW.isoformat()]
    died = subprocess.run(words, check=False, cwd=Path(__file__).parents[3], env=os.environ, timeout=60)
    assert -signal.SIGKILL == died.returncode
    assert (["waiting"], []) == (desk.statuses(), desk.entitlements())
    desk.intake.process(now=NOW)
    assert (["done"], 1) == (desk.statuses(), len(desk.entitlements()))


def test_a_fault_of_the_program_fails_that_event_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> object:
        raise KeyError("in4")

    desk.receive("stripe", PAID)
    desk.receive("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    monkeypatch.setattr(Issuer, "fulfil", broken)
    with pytest.raises(KeyError):
        desk.intake.process(now=NOW)
    desk.intake.process(now=NOW)
    assert ["failed", "done"] == desk.statuses()
    assert "KeyError" in desk.intake.inbox.get(1).outcome


def test_a_register_that_cannot_be_written_leaves_the_event_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> object:
        raise HomeRefused("The disk is full.")

    desk.receive("stripe", PAID)
    monkeypatch.setattr(Issuer, "fulfil", full)
    with pytest.raises(HomeRefused):
        desk.intake.process(now=NOW)
    assert ["waiting"] == desk.statuses()


def test_a_failed_event_is_tried_again_or_dropped_and_a_done_one_neither(desk: Desk) -> None:
    desk.send("stripe", PAID)
    failed = desk.send("generic", {
        "event_id": "g1", "type": "order", "occurred_at": "2026-11-21T07:00:00Z",
        "order": {
            "order_ref": "SO-1", "account_ref": "NOBODY", "lines": [{"line": 1, "sku": "CAD-PRO", "quantity": 1}],
        },
    })  # fmt: skip
    assert "NOBODY" in failed.outcome
    with pytest.raises(Conflict, match="is done"):
        desk.intake.inbox.retry(1)
    with pytest.raises(Conflict, match="is done"):
        desk.intake.inbox.drop(1, reason="no")
    desk.issuer.put_customer("NOBODY", name="Somebody", now=NOW)
    desk.intake.inbox.retry(failed.key)
    assert [DONE] == [fate.status for fate in desk.intake.process(now=NOW)]


def test_a_dropped_event_stays_dropped_when_it_comes_again(desk: Desk) -> None:
    desk.receive("stripe", PAID)
    desk.intake.inbox.drop(1, reason="sold by hand")
    assert [True] == [taken.again for taken in desk.receive("stripe", PAID)]
    assert [] == desk.intake.process(now=NOW)
    assert ("dropped", "sold by hand") == (desk.intake.inbox.get(1).status, desk.intake.inbox.get(1).outcome)


def test_looking_for_what_is_open_does_not_read_what_is_done(desk: Desk) -> None:
    """The server looks every few seconds, and the inbox never gets shorter."""
    asked: list[str] = []
    desk.issuer.register._sql.set_trace_callback(asked.append)  # noqa: SLF001 - there is no other way to see it
    assert desk.intake.inbox.next(now=NOW) is None
    desk.issuer.register._sql.set_trace_callback(None)  # noqa: SLF001
    (statement,) = asked
    plan = desk.issuer.register.select(dict, f"EXPLAIN QUERY PLAN {statement}")
    assert "event_open" in plan[0]["detail"]


def test_the_history_names_the_source_and_the_event(desk: Desk) -> None:
    desk.send("stripe", PAID)
    rows = desk.issuer.register.select(dict, "SELECT line FROM history ORDER BY seq DESC LIMIT 1")
    assert '"by":"stripe"' in rows[0]["line"]
    assert '"reason":"event 1"' in rows[0]["line"]


def test_the_contents_hash_does_not_hang_on_what_may_differ_between_deliveries() -> None:
    one, other = (Event(event_id="e", kind="k", document={"a": 1, "n": n}, volatile=frozenset({"n"})) for n in (1, 2))
    assert one.sha256 == other.sha256
