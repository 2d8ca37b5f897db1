"""The tutorial, typed: from an empty vendor and an empty site to a bill and a receipt."""

from __future__ import annotations

import json
import random
import shutil
import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from lls.client import LicenseServers
from tests.journeys.world import CATALOG, Asked, Site


def carry(file: Path, *, to: Path) -> Path:
    """Over the gap, in a pocket."""
    to.mkdir(exist_ok=True)
    return Path(shutil.copy(file, to))


def license_by_hand(site: Site) -> None:
    site.issuer("init", "--no-passphrase")
    (site.vendor / "catalog.toml").write_text(CATALOG, "utf-8")
    site.issuer("catalog", "load", site.vendor / "catalog.toml")
    site.issuer("customer", "add", "ACME", "ACME Turbines")
    site.issuer("keys", "export", "-o", site.keys)
    site.start()
    site.lls("server", "request", "-o", site.site / "site.llsreq")
    request = carry(site.site / "site.llsreq", to=site.vendor)
    server = json.loads(site.issuer("server", "register", request, "--customer", "ACME", "--json").stdout)
    order = {
        "order_ref": "SO-1001",
        "account_ref": "ACME",
        "server_id": server["server_id"],
        "lines": [{"line": 1, "action": "new", "sku": "CAD-1Y", "quantity": 60, "lease_seconds": 30}],
    }
    (site.vendor / "order.json").write_text(json.dumps(order), "utf-8")
    site.issuer("order", "fulfil", site.vendor / "order.json")
    site.issuer("bundle", "issue", "--server", server["server_id"], "-o", site.vendor / "site.llsbundle")
    bundle = carry(site.vendor / "site.llsbundle", to=site.site)
    site.lls("bundle", "show", bundle)
    site.lls("bundle", "import", bundle)
    assert json.loads(site.lls("bundle", "import", bundle, "--json").stdout)["already_applied"]


def work_for_a_while(site: Site) -> None:
    """Fifty seats through the SDK and ten over plain HTTPS, for about two seconds."""
    https, asked = site.https(), Asked.new(random.Random(1), seats=10)
    with (
        LicenseServers(site.url, vendor_keys=site.keys) as servers,
        servers.checkout("cad", seats=50) as seat,
    ):
        assert 201 == https.checkout(asked).status
        assert seat.valid
        refused = https.checkout(Asked.new(random.Random(2)))
        assert (409, "no_seat", 60) == (refused.status, refused.code, refused.body["in_use"])
        listed = json.loads(site.lls("lease", "list", "--json").stdout)["leases"]
        assert {seat.lease.lease_id, asked.lease_id} == {lease["lease_id"] for lease in listed}
        time.sleep(1)
        assert 200 == https.heartbeat(asked).status
        assert 204 == https.checkin(asked).status
    https.close()


def seat_seconds(lines: list[dict[str, Any]]) -> float:
    """Seats times seconds, from first principles."""
    begun: dict[str, tuple[datetime, int]] = {}
    total = 0.0
    for line in lines:
        at, data = datetime.fromisoformat(line["at"]), line["data"]
        if line["kind"] == "Granted":
            begun[data["lease_id"]] = at, data["seats"]
        elif line["kind"] in ("Returned", "Expired", "Released"):
            since, seats = begun.pop(data["lease_id"])
            total += seats * (at - since).total_seconds()
    assert {} == begun
    return total


def test_the_loop_from_the_first_key_to_the_bill(site: Site) -> None:
    license_by_hand(site)
    work_for_a_while(site)
    told = site.lls("journal", "tail", "-n", "100000", "--json").stdout
    used = seat_seconds([json.loads(line) for line in told.splitlines()])

    site.lls("report", "export", "-o", site.site / "usage.llsreport")
    report = carry(site.site / "usage.llsreport", to=site.vendor)
    (taken,) = json.loads(site.issuer("report", "ingest", report, "--json").stdout)["reports"]
    site.issuer("receipt", "issue", "--report", taken["report_id"], "-o", site.vendor / "usage.llsreceipt")
    receipt = carry(site.vendor / "usage.llsreceipt", to=site.site)
    site.lls("receipt", "import", receipt)
    site.lls("journal", "verify")
    (listed,) = json.loads(site.lls("report", "list", "--json").stdout)["reports"]
    assert (taken["report_id"], True) == (listed["report_id"], listed["acknowledged"])

    billed = json.loads(site.issuer("usage", "export", "--format", "json").stdout)["lines"]
    quantities = {line["meter"]: Decimal(line["quantity"]) for line in billed}
    assert Decimal(60) == quantities["seats_peak"]
    # A bill is rounded to four decimals of an hour, the table under it to whole seat-seconds.
    assert abs(used - float(quantities["seat_hours"]) * 3600) < 2
    assert 50 < used < 60 * 60
    assert 0 == site.stop()


def test_a_refused_command_says_why_and_changes_nothing(site: Site) -> None:
    site.open_vendor()
    assert "No license server answers" in site.lls("server", "show", status=3).stderr
    site.start()
    (site.site / "junk.llsbundle").write_bytes(b"not a bundle")
    before = site.admin("GET", "/v1/admin/server")["writership"]["seq"]
    refused = site.lls("bundle", "import", site.site / "junk.llsbundle", status=1)
    assert ("", 1) == (refused.stdout, refused.stderr.count("\n"))
    assert before == site.admin("GET", "/v1/admin/server")["writership"]["seq"]
    assert "unlicensed" == site.admin("GET", "/v1/admin/server")["license"]["state"]
    assert 2 == site.lls("report", "export", status=2).returncode
