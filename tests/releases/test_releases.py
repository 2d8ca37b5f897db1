"""Every release that was ever frozen: this program opens its state, loses nothing of it, and goes on with its chain."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.airgap import Airgap
from lls.clock import GuardedClock
from lls.faults import LeaseEnded
from lls.identity import load_identity
from lls.licensing.journal import Head
from lls.licensing.ledger import Setting
from lls.signed.bundle import open_bundle
from lls.signed.keys import read_key_set
from lls.signed.receipt import read_receipt
from lls.signed.report import open_report
from lls.signed.request import read_request
from lls.store.sqlite import SqliteStore, known_steps
from lls.writer import Writer
from tests.releases.freeze import THEN, wish
from tests.test_writer import Count
from tests.vendor import Vendor, new_id

HERE = Path(__file__).parent
RELEASES = sorted(path.parent.name for path in HERE.glob("*/lls.sql"))


def thaw(release: str, state: Path) -> dict[str, Any]:
    """The state folder as the release left it; what must be found in it."""
    frozen = HERE / release
    state.mkdir(mode=0o700)
    shutil.copytree(frozen / "keys", state / "keys")
    (state / "keys").chmod(0o700)
    for key in (state / "keys").iterdir():
        key.chmod(0o600)  # a repository keeps no such modes
    with sqlite3.connect(state / "lls.sqlite3") as database:
        database.executescript((frozen / "lls.sql").read_text())
    database.close()
    (state / "lls.sqlite3").chmod(0o600)
    found: dict[str, Any] = json.loads((frozen / "expected.json").read_text())
    return found


class Thawed:
    """This program over a frozen release's state."""

    def __init__(self, release: str, state: Path) -> None:
        self.expected = thaw(release, state)
        self.store = SqliteStore(state)
        self.raw = THEN + timedelta(hours=1)
        clock = GuardedClock(wall=lambda: self.raw, elapsed=lambda: 1_000.0)
        self.airgap = Airgap(
            identity=load_identity(state / "keys"),
            name="site",
            version="later",
            vendor_keys=(HERE / release / "vendor.llskeys").read_text(),
            store=self.store,
            clock=clock,
            state_dir=state,
            setting=Setting(),
            host=dict,
        )
        self.writer = self.airgap.writer = Writer(self.store, clock=clock, build=self.airgap.build, observer=Count())


def test_the_first_release_is_frozen() -> None:
    assert "0.1.0" in RELEASES


@pytest.fixture(params=RELEASES)
async def thawed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Thawed]:
    made = Thawed(request.param, tmp_path / "state")
    await made.writer.start(await made.store.take_writership())
    yield made
    await made.writer.stop()
    await made.store.close()


async def test_no_lease_unit_name_or_rule_of_an_old_release_is_lost(thawed: Thawed) -> None:
    ledger, expected, now = thawed.writer.ledger, thawed.expected, thawed.writer.now()
    leases = {
        lease.lease_id: (
            lease.mode.value,
            lease.product,
            lease.holder.user,
            dict(lease.features),
            None if lease.until is None else lease.until.isoformat(),
        )
        for lease in ledger.leases.values()
    }
    assert {
        lease_id: (one["mode"], one["product"], one["user"], one["features"], one["until"])
        for lease_id, one in expected["leases"].items()
    } == leases
    levels = ledger.meters.levels(None, new_id("ent_", "cad"), now=now, committed=True)
    assert expected["levels"] == {level.key: [level.held, level.available, level.total] for level in levels}
    assert expected["assigned"] == list(ledger.placed[new_id("ent_", "names")].assigned)
    assert expected["hosted"] == sorted(ledger.placed)
    assert expected["returned"] == sorted(ledger.returns)
    assert expected["reports"] == sorted(ledger.reports)
    assert expected["rules"] == [rule.rule for rule in ledger.pools.policy.rules]
    assert expected["acknowledged"] == ledger.server.acknowledged.seq
    assert {} == dict(ledger.problems)


async def test_the_chain_of_an_old_release_goes_on(thawed: Thawed) -> None:
    before = Head(**thawed.expected["head"])
    (first,) = [chunk[0] async for chunk in thawed.store.lines(after=before.seq, upto=before.seq + 1)]
    assert ("Resumed", before.hash) == (json.loads(first)["kind"], json.loads(first)["prev"])
    check = await thawed.airgap.verify_journal()
    assert (True, 1) == (check.ok, check.first_seq)
    _, path = await thawed.airgap.export_report(pseudonymise=False, actor="ann")
    assert path.exists()


async def test_an_ended_lease_of_an_old_release_stays_ended(thawed: Thawed) -> None:
    for number in (5, 6):
        with pytest.raises(LeaseEnded):
            await thawed.writer.checkout(wish(number, user=f"user-{number}"))


async def test_the_schema_is_this_programs_after_the_start(thawed: Thawed, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state" / "lls.sqlite3") as database:
        done = [version for (version,) in database.execute("SELECT version FROM migrations ORDER BY version")]
    database.close()
    assert sorted(known_steps()) == done


@pytest.mark.parametrize("release", RELEASES)
def test_the_documents_of_an_old_release_are_read(release: str, tmp_path: Path) -> None:
    folder = HERE / release
    expected = json.loads((folder / "expected.json").read_text())
    keys = read_key_set((folder / "vendor.llskeys").read_text())
    thaw(release, tmp_path / "state")
    identity = load_identity(tmp_path / "state" / "keys")
    request = read_request((folder / "site.llsreq").read_text())
    bundle = open_bundle(
        (folder / "site.llsbundle").read_bytes(),
        encryption_key=identity.encryption,
        server_id=identity.server_id,
        keys=keys,
        server_jwk=identity.signing.public_jwk(),
    ).bundle
    receipt = read_receipt((folder / "site.llsreceipt").read_bytes(), keys, identity.server_id)
    assert expected["server_id"] == request.server_id == bundle.server_id
    assert (expected["acknowledged"], expected["reports"]) == (receipt.up_to_seq, [receipt.report_id])
    with open_report(
        folder / "site.llsreport",
        report_key=Vendor(now=THEN).report_key,
        server_jwk=identity.signing.public_jwk(),
    ) as report:
        assert expected["acknowledged"] == report.manifest.to_seq
