"""``lls journal archive`` as it is typed: what leaves, what stays, and what every command says afterwards."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lls.issuer import Issuer
from tests.journeys import later
from tests.journeys.world import Asked, Site


def test_nothing_leaves_where_everything_is_kept(site: Site) -> None:
    site.licensed(lease_seconds=60)
    assert "keep_days is 0" in site.lls("journal", "archive", status=1).stderr


def test_lines_of_today_stay_although_they_are_acknowledged(site: Site) -> None:
    with site.config.open("a") as settings:
        settings.write("[journal]\nkeep_days = 1\n")
    site.licensed(lease_seconds=60)
    assert 201 == site.https().checkout(Asked.new(random.Random(5))).status
    assert site.reported() > 0
    before = site.journal()
    assert {"files": [], "lines": 0, "names": 0} == json.loads(site.lls("journal", "archive", "--json").stdout)
    assert "No line may leave yet" in site.lls("journal", "archive").stdout
    assert before == site.journal()
    checked = json.loads(site.lls("journal", "verify", "--json").stdout)
    assert (True, 0, 0) == (checked["ok"], checked["archived_lines"], checked["left_out_upto"])


@pytest.fixture
def lived(site: Site) -> Site:
    """A site whose people came, were refused, and were reported; then forty days go by."""
    site.program = "tests.journeys.later"
    (site.root / later.FILE).write_text("0")
    with site.config.open("a") as settings:
        settings.write("[journal]\nkeep_days = 30\n")
    site.licensed(lease_seconds=60)
    luck = random.Random(7)
    asked = [Asked.new(luck) for _ in range(6)]
    assert [201] * 5 + [409] == [site.https().checkout(one).status for one in asked]
    site.https().checkin(asked[0])
    assert site.reported() > 0
    assert 0 == site.stop()
    (site.root / later.FILE).write_text("40")
    site.start()
    return site


def reported_later(site: Site) -> int:
    """The vendor lives forty days later, too; the number of the last line that he took in."""
    report, now = site.root / "later.llsreport", datetime.now(UTC) + timedelta(days=40)
    site.lls("report", "export", "-o", report, "--force")
    with Issuer(site.vendor, now=now) as issuer:
        taken = issuer.ingest(report, now=now)
        receipt = issuer.issue_receipt(taken.report.report_id, now=now).token
    site.admin("POST", "/v1/admin/receipts", receipt.encode())
    return taken.report.to_seq


def test_old_lines_leave_reports_go_on_and_every_command_says_what_is_archived(lived: Site, tmp_path: Path) -> None:
    site = lived
    assert "no_seat" in site.lls("denials").stdout
    told = json.loads(site.lls("journal", "archive", "--json").stdout)
    assert (True, 1) == (told["lines"] > 5, len(told["files"]))
    assert told["names"] > 0
    assert told["lines"] + 1 == site.journal()[0]["seq"]
    assert (site.state / "archive" / told["files"][0]).stat().st_mode & 0o777 == 0o600
    checked = json.loads(site.lls("journal", "verify", "--json").stdout)
    assert (True, told["lines"], 0) == (checked["ok"], checked["archived_lines"], checked["left_out_upto"])
    for noun in ("usage", "denials"):
        assert "archived and not counted here" in site.lls(noun).stdout
    assert "no_seat" not in site.lls("denials").stdout
    assert 201 == site.https().checkout(Asked.new(random.Random(8))).status
    assert reported_later(site) > told["lines"]

    backup = tmp_path / "pruned.llsbackup"
    site.lls("backup", "-o", backup)
    assert 0 == site.stop()
    assert "whole" in site.lls("restore", backup, "--check").stdout
    site.lls("restore", backup, "--force")
    site.start()
    assert json.loads(site.lls("journal", "verify", "--json").stdout)["ok"]
    found = {
        one["check"]: one["state"] for one in json.loads(site.lls("doctor", "--full", "--json").stdout)["findings"]
    }
    assert ("ok", "warn") == (found["journal"], found["restored"])
    reported_later(site)
