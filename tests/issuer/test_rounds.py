"""While a signature waits for its agent the register is everybody's; what is issued is what it says in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lls.issuer import Issuer, sample_catalog
from lls.issuer.cli import app
from lls.issuer.delivery import deliver
from lls.issuer.keyring import Change
from lls.issuer.refusals import Conflict, SigningFailed
from lls.issuer.rounds import ROUNDS
from lls.licensing.entitlement import Status
from lls.signed.bundle import Bundle
from lls.signed.jose import EncryptionKey
from lls.signed.receipt import read_receipt
from tests.issuer.appliance import NOW, Appliance, Chance, line, order, reported
from tests.issuer.slow_agent import SlowAgent, home_with

ROOT = Path(__file__).parents[2]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[SlowAgent]:
    with SlowAgent(tmp_path) as running:
        yield running


@pytest.fixture
def office(agent: SlowAgent, home: Path, appliance: Appliance) -> Iterator[Issuer]:
    """A vendor whose bundles an agent signs, with a customer's server that has its 50 seats already."""
    with home_with(agent, home) as issuer:
        sells(issuer, appliance)
        taken(issuer, appliance)
        agent.times = 0
        yield issuer


def sells(issuer: Issuer, appliance: Appliance, *, ref: str = "SO-1001") -> None:
    issuer.load_catalog(sample_catalog(), now=NOW)
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, order_ref=ref), now=NOW)


def taken(issuer: Issuer, appliance: Appliance) -> Bundle:
    """The next bundle, as the appliance takes it."""
    data = issuer.issue_bundle(appliance.server_id, now=NOW).data
    return appliance.open(data, issuer.keyring.version(1))[0]


class Colleague:
    """Somebody else at the same home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._seeds = iter(range(50_000, 900_000, 1000))

    def does(self, act: Callable[[Issuer], object]) -> Callable[[], object]:
        def done() -> None:
            with Issuer(self.home, now=NOW, random=Chance(next(self._seeds))) as issuer:
                act(issuer)

        return done


@pytest.fixture
def colleague(home: Path) -> Colleague:
    return Colleague(home)


def sold_more(issuer: Issuer, appliance: Appliance) -> None:
    issuer.fulfil(order(appliance, line(quantity=7), order_ref="SO-2"), now=NOW)


def disabled(issuer: Issuer, appliance: Appliance) -> None:
    (sold,) = issuer.register.entitlements(server_id=appliance.server_id)
    issuer.amending.disable(sold.entitlement_id, now=NOW)


def terms_agreed(issuer: Issuer, appliance: Appliance) -> None:
    issuer.serving.agree(appliance.server_id, {"sync_days": 9}, now=NOW)


def clock_reset(issuer: Issuer, appliance: Appliance) -> None:
    issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW)


def renamed(issuer: Issuer, appliance: Appliance) -> None:
    issuer.put_customer("ACME", name="Example Works", now=NOW)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (sold_more, lambda bundle: sorted(one.seats or 0 for one in bundle.entitlements) == [7, 50]),
        (disabled, lambda bundle: bundle.entitlements[0].status is Status.DISABLED),
        (terms_agreed, lambda bundle: bundle.server_license.sync_within_days == 9),
        (clock_reset, lambda bundle: len(bundle.commands) == 1),
        (renamed, lambda bundle: bundle.customer.name == "Example Works"),
    ],
)
def test_what_is_changed_while_a_bundle_waits_is_in_it(  # noqa: PLR0917 - fixtures
    office: Issuer,
    agent: SlowAgent,
    appliance: Appliance,
    colleague: Colleague,
    change: Callable[[Issuer, Appliance], None],
    seen: Callable[[Bundle], bool],
) -> None:
    agent.meanwhile(colleague.does(lambda issuer: change(issuer, appliance)))
    bundle = taken(office, appliance)
    assert seen(bundle)
    assert (3, 2) == (bundle.sequence, agent.times)  # 2 was signed, too, and is nowhere
    assert [1, 3] == [one.sequence for one in office.register.bundles(appliance.server_id)]
    office.audit.verify()


def test_what_does_not_concern_a_bundle_costs_it_no_second_signature(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague
) -> None:
    other = Appliance.new(seed=7000)
    agent.meanwhile(colleague.does(lambda issuer: sells(issuer, other, ref="SO-9")))
    assert (2, 1) == (taken(office, appliance).sequence, agent.times)


def test_of_two_who_issue_to_one_server_at_once_each_has_a_number_and_the_later_one_knows_the_other(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague
) -> None:
    data: list[bytes] = []
    agent.meanwhile(colleague.does(lambda issuer: data.append(issuer.issue_bundle(appliance.server_id, now=NOW).data)))
    mine = office.issue_bundle(appliance.server_id, now=NOW)
    sequences = [appliance.open(one, office.keyring.newest)[0].sequence for one in (*data, mine.data)]
    assert [3, 4] == sequences  # as they were settled, so that the server takes both in turn
    assert [1, 3, 4] == [one.sequence for one in office.register.bundles(appliance.server_id)]


def test_a_server_that_asks_anew_meanwhile_gets_what_it_can_open(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague
) -> None:
    appliance.encryption_key = EncryptionKey.generate()
    request = appliance.request()
    agent.meanwhile(colleague.does(lambda issuer: issuer.register_server(request, now=NOW)))
    assert 3 == taken(office, appliance).sequence


def test_a_server_that_is_retired_meanwhile_gets_nothing(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague
) -> None:
    agent.meanwhile(
        colleague.does(lambda issuer: issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW))
    )
    with pytest.raises(Conflict, match="was retired"):
        office.issue_bundle(appliance.server_id, now=NOW)
    assert [1] == [one.sequence for one in office.register.bundles(appliance.server_id)]


def test_what_never_stands_still_is_refused_in_the_end_and_issued_when_it_does(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague
) -> None:
    def again(issuer: Issuer) -> None:
        issuer.put_customer("ACME", name=f"Works {agent.times}", now=NOW)

    for _ in range(ROUNDS):
        agent.meanwhile(colleague.does(again))
    with pytest.raises(Conflict, match=r"was decided 5 times.*then try again"):
        office.issue_bundle(appliance.server_id, now=NOW)
    assert [1] == [one.sequence for one in office.register.bundles(appliance.server_id)]
    bundle = taken(office, appliance)
    assert (f"Works {ROUNDS}", 1 + ROUNDS + 1) == (bundle.customer.name, bundle.sequence)


def test_a_signature_that_fails_costs_its_number_and_nothing_else(
    office: Issuer, agent: SlowAgent, appliance: Appliance
) -> None:
    lines, agent.mute = len(list(office.audit.lines())), True
    with pytest.raises(SigningFailed):
        office.issue_bundle(appliance.server_id, now=NOW)
    assert lines == len(list(office.audit.lines()))
    assert [] == list(office.serving.show(appliance.server_id, keys=office.keyring.newest).waiting)
    agent.mute = False
    assert 3 == taken(office, appliance).sequence


def test_of_two_who_sign_one_receipt_at_once_both_hold_the_same(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague, tmp_path: Path
) -> None:
    report_id = reported(office, appliance, tmp_path / "1").report.report_id
    tokens: list[str] = []
    agent.meanwhile(colleague.does(lambda issuer: tokens.append(issuer.issue_receipt(report_id, now=NOW).token)))
    assert [office.issue_receipt(report_id, now=NOW).token] == tokens
    assert 2 == agent.times


def test_a_receipt_that_is_made_meanwhile_comes_along(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague, tmp_path: Path
) -> None:
    report_id = reported(office, appliance, tmp_path / "1").report.report_id
    agent.meanwhile(colleague.does(lambda issuer: issuer.issue_receipt(report_id, now=NOW)))
    bundle = taken(office, appliance)
    assert bundle.receipt is not None
    assert report_id == read_receipt(bundle.receipt, office.keyring.newest, appliance.server_id).report_id


def test_a_receipt_whose_keys_are_replaced_meanwhile_is_signed_again_before_the_bundle_carries_it(
    home: Path, agent: SlowAgent, appliance: Appliance, colleague: Colleague, tmp_path: Path
) -> None:
    with home_with(agent, home, roles=("certificate",)) as office:
        sells(office, appliance)
        short = office.issue_bundle(appliance.server_id, now=NOW, terms={"certificate_days": 2})
        appliance.open(short.data, office.keyring.newest)
        report_id = reported(office, appliance, tmp_path / "1").report.report_id
        before = office.issue_receipt(report_id, now=NOW)
        appliance.wait(days=1)  # the certificate is renewed with the next bundle, and the agent asked
        agent.meanwhile(colleague.does(lambda issuer: issuer.rotate_keys(now=appliance.now)))
        written = office.issue_bundle(appliance.server_id, now=appliance.now)
        bundle, keys = appliance.open(written.data, office.keyring.version(1))
        assert 2 == keys.version
        assert bundle.receipt is not None
        assert before.receipt_id == read_receipt(bundle.receipt, keys, appliance.server_id).receipt_id
        assert bundle.receipt != before.token


def test_a_bundle_that_is_refused_has_no_receipt_signed_for_it(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    sells(issuer, appliance)
    taken(issuer, appliance)
    report_id = reported(issuer, appliance, tmp_path / "1").report.report_id
    before = issuer.issue_receipt(report_id, now=NOW)
    issuer.rotate_keys(now=NOW)
    issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)
    with pytest.raises(Conflict, match="was retired"):
        issuer.issue_bundle(appliance.server_id, now=NOW)
    assert before == issuer.register.receipt_of(report_id)


def test_of_two_versions_of_the_key_set_made_at_once_the_later_follows_the_other(
    home: Path, agent: SlowAgent, colleague: Colleague
) -> None:
    with home_with(agent, home, roles=("root",)) as office:
        agent.meanwhile(colleague.does(lambda issuer: issuer.rotate_keys(now=NOW)))
        assert 3 == office.rotate_keys(now=NOW).version
        assert 3 == agent.times
        office.audit.verify()
    with Issuer(home, now=NOW) as again:  # which reads and verifies the whole chain
        assert [1, 2, 3] == [keys.version for keys in again.keyring.versions]
        again.keyring.check_reaches("bundle")


def test_a_rotation_that_was_overtaken_renews_the_keys_that_it_finds(
    home: Path, agent: SlowAgent, colleague: Colleague
) -> None:
    with home_with(agent, home, roles=("root",), now=datetime.now(UTC)) as office:
        agent.meanwhile(colleague.does(lambda issuer: issuer.rotate_keys(now=datetime.now(UTC))))
        done = CliRunner().invoke(app, ["--home", str(home), "keys", "rotate"])
        assert (0, 3) == (done.exit_code, agent.times), done.output
        office.keyring.refresh()
        assert 3 == office.keyring.newest.version


def test_a_key_that_a_colleague_has_taken_out_meanwhile_is_not_taken_out_twice(
    home: Path, agent: SlowAgent, colleague: Colleague
) -> None:
    with home_with(agent, home, roles=("root",)) as office:
        (old,) = office.keyring.newest.roles["bundle"].kids
        change = Change(making=["bundle"], without=[old])
        agent.meanwhile(colleague.does(lambda issuer: issuer.rotating.change(change, now=NOW)))
        with pytest.raises(Conflict, match=f"No role has the key {old}"):
            office.rotating.change(change, now=NOW)
        assert 2 == office.keyring.newest.version


def test_a_file_for_several_people_says_what_was_changed_while_its_certificate_was_signed(
    home: Path, agent: SlowAgent, appliance: Appliance, colleague: Colleague
) -> None:
    with home_with(agent, home, roles=("certificate",)) as office:
        sells(office, appliance)
        agent.meanwhile(colleague.does(lambda issuer: sold_more(issuer, appliance)))
        pending = office.issuing.draft_bundle(appliance.server_id, now=NOW).pending
        waiting = office.serving.show(appliance.server_id, keys=office.keyring.newest).waiting
        assert [pending.fingerprint] == [one.fingerprint for one in waiting]
        written = office.issuing.seal_bundle(office.issuing.sign_here(pending, now=NOW), now=NOW)
        assert 2 == len(appliance.open(written.data, office.keyring.newest)[0].entitlements)


def test_a_letter_never_tells_of_an_order_that_was_changed_while_its_bundles_were_signed(
    office: Issuer, agent: SlowAgent, appliance: Appliance, colleague: Colleague, tmp_path: Path
) -> None:
    agent.meanwhile(colleague.does(lambda issuer: disabled(issuer, appliance)))
    with pytest.raises(Conflict, match="Deliver it again"):
        deliver(office, "SO-1001", directory=tmp_path / "out", now=NOW)
    delivery = deliver(office, "SO-1001", directory=tmp_path / "out", now=NOW)
    (written,) = delivery.bundles.values()
    assert Status.DISABLED is appliance.open(written.data, office.keyring.newest)[0].entitlements[0].status


def test_a_signature_inside_a_transaction_is_a_fault_and_no_lock_that_is_held_in_silence(
    office: Issuer, appliance: Appliance
) -> None:
    with office.register.transaction(), pytest.raises(RuntimeError, match="would hold the register's lock"):
        office.issue_bundle(appliance.server_id, now=NOW)


def test_an_issue_killed_at_any_step_leaves_nothing_or_a_whole_bundle_and_the_next_one_is_taken(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "tests" / "issuer" / "killed_issue.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert 0 == ran.returncode, ran.stderr
    found = json.loads(ran.stdout)
    assert found["nothing"] >= 30  # killed before it was settled, some of them with a signature made
    assert found["recorded"] >= 2  # killed between the register and the file
    assert found["carried"] >= 1
