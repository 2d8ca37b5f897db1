"""``lls journal archive`` as it is typed: refused where everything is kept, and nothing young leaves."""

from __future__ import annotations

import json
import random

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
