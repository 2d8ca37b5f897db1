"""A vendor's office whose token or agent takes its time, at several desks: nobody waits for it but who asked it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lls.issuer import Issuer, sample_catalog
from lls.signed.keys import KeySet
from tests.issuer.appliance import Appliance, line, order
from tests.issuer.slow_agent import PATIENCE, Asked, SlowAgent, home_with

LESS_THAN_A_LOCK_IS_WAITED_FOR = 25
"""Who met the register's lock would give up after 30 seconds; so whoever is done by then has not met it."""


class Office:
    """The commands, each a process; two sites of one customer, whose bundles the agent signs."""

    def __init__(self, folder: Path, agent: SlowAgent) -> None:
        self.folder, self.agent, self.now = folder, agent, datetime.now(UTC)
        self.sites = [Appliance.new(seed=seed) for seed in (1000, 5000)]
        with home_with(agent, folder / "vendor", now=self.now) as issuer:
            issuer.load_catalog(sample_catalog(), now=self.now)
            for number, site in enumerate(self.sites):
                site.now = self.now
                issuer.register_server(site.request(), now=self.now)
                issuer.fulfil(order(site, order_ref=f"SO-{number}"), now=self.now)
                site.open(issuer.issue_bundle(site.server_id, now=self.now).data, issuer.keyring.newest)
            self.keys: KeySet = issuer.keyring.newest

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "lls.issuer", "--home", str(self.folder / "vendor"), *map(str, words)]

    def run(self, *words: str | Path) -> str:
        ran = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=LESS_THAN_A_LOCK_IS_WAITED_FOR, check=False
        )
        assert 0 == ran.returncode, ran.stderr
        return ran.stdout

    def issue(self, site: Appliance, output: str) -> subprocess.Popen[str]:
        """An issue that goes on by itself."""
        command = self.command("bundle", "issue", "--server", site.server_id, "-o", self.folder / output, "--json")
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def waiting(self) -> Asked:
        """Whoever waits for a signature next."""
        return self.agent.asked.get(timeout=PATIENCE)

    def sequences(self, site: Appliance) -> list[int]:
        with Issuer(self.folder / "vendor", now=self.now) as issuer:
            issuer.audit.verify()
            return [one.sequence for one in issuer.register.bundles(site.server_id)]

    def carried(self, site: Appliance, file: str) -> list[int]:
        """Takes a file in at its site; the seats in it."""
        bundle, _ = site.open((self.folder / file).read_bytes(), self.keys)
        return sorted(one.seats or 0 for one in bundle.entitlements)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with SlowAgent(tmp_path) as agent:
        yield Office(tmp_path, agent)


def ended(process: subprocess.Popen[str]) -> str:
    told, complaint = process.communicate(timeout=PATIENCE)
    assert 0 == process.returncode, complaint
    return told


def test_while_a_bundle_waits_orders_reports_and_other_bundles_do_not(office: Office) -> None:
    here, there = office.sites
    office.agent.holds = True
    with office.issue(here, "here") as process:
        asked = office.waiting()
        office.agent.holds = False
        (office.folder / "order").write_bytes(order(there, line(quantity=7), order_ref="SO-7"))
        office.run("order", "fulfil", office.folder / "order")
        report_id = here.report(office.folder / "report")
        office.run("report", "ingest", office.folder / "report")
        office.run("receipt", "issue", "--report", report_id, "-o", office.folder / "receipt")
        office.run("bundle", "issue", "--server", there.server_id, "-o", office.folder / "there")
        assert [7, 50] == office.carried(there, "there")
        assert process.poll() is None
        asked.answer()
        told = json.loads(ended(process))
    assert [50] == office.carried(here, "here")
    assert told["receipt_id"] is not None  # made meanwhile, so the bundle was decided anew and carries it
    assert [1, 3] == office.sequences(here)


def test_two_desks_that_issue_to_one_server_at_once_have_two_numbers_and_the_site_takes_both(office: Office) -> None:
    here, _ = office.sites
    office.agent.holds = True
    with office.issue(here, "one") as first, office.issue(here, "two") as second:
        both = [office.waiting(), office.waiting()]
        office.agent.holds = False
        for asked in both:
            asked.answer()
        told = [json.loads(ended(process)) for process in (first, second)]
    sequences = [one["sequence"] for one in told]
    assert len(set(sequences)) == 2
    assert [1, *sorted(sequences)] == office.sequences(here)
    for file in sorted(("one", "two"), key=lambda name: sequences[("one", "two").index(name)]):
        assert [50] == office.carried(here, file)


def test_who_is_killed_while_waiting_leaves_nothing_behind_and_the_next_one_is_taken(office: Office) -> None:
    here, _ = office.sites
    office.agent.holds = True
    with office.issue(here, "killed") as process:
        asked = office.waiting()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
    office.agent.holds = False
    asked.answer()  # to nobody
    assert not (office.folder / "killed").exists()
    assert [1] == office.sequences(here)
    assert [] == json.loads(office.run("server", "show", here.server_id, "--json"))["waiting"]
    office.run("bundle", "issue", "--server", here.server_id, "-o", office.folder / "next")
    assert [50] == office.carried(here, "next")
    assert [1, 3] == office.sequences(here)
