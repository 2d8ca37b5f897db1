"""A server is lost under load and comes back on another machine from its backup: what goes on, and what is billed.

Both cases of the vendor's last report: before the backup was made, and after it.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.client import LicenseServers
from lls.client.borrowing import Borrowed
from lls.issuer import Issuer
from tests.issuer.appliance import METERED
from tests.journeys.world import Answer, Asked, Https, Site, until

SEATS = 8
PASSPHRASE = "a passphrase for tests"
NO_ANSWER = (OSError, http.client.HTTPException)


class User(threading.Thread):
    """Takes a seat, uses a unit, gives the seat back, without a pause; keeps what it was told to be used."""

    def __init__(self, site: Site, seed: int) -> None:
        super().__init__(daemon=True)
        self._https, self._luck = site.https(), random.Random(seed)
        self.stop = threading.Event()
        self.used = self.rounds = 0
        self.broken: list[object] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._round()
            except NO_ANSWER:
                return

    def _round(self) -> None:
        asked = Asked.new(self._luck)
        answer = self._https.checkout(asked)
        if answer.status == 201:
            used = use(self._https, asked, 1)
            self.used += used.status == 200
            if used.status not in (200, 409):
                self.broken.append(used)
            self._https.checkin(asked)
            self.rounds += 1


def use(https: Https, asked: Asked, amount: int) -> Answer:
    body = {"amount": amount, "request_id": str(uuid.uuid4())}
    return https.ask("POST", f"/v1/leases/{asked.lease_id}/features/cloud/use", body, secret=asked.secret)


def away(site: Site) -> list[str]:
    return [row["lease_id"] for row in site.admin("GET", "/v1/admin/borrows")["borrows"]]


@pytest.fixture
def licensed(site: Site) -> Site:
    now = datetime.now(UTC)
    with Issuer.create(site.vendor, now=now, passphrase=None) as issuer:
        issuer.load_catalog(METERED, now=now)
        issuer.put_customer("ACME", name="ACME", now=now)
        site.keys.write_text(issuer.keyring.newest.token, "ascii")
    site.start()
    with Issuer(site.vendor, now=now) as issuer:
        request = site.admin_bytes("POST", "/v1/admin/server/request")
        server_id = issuer.register_server(request, customer="ACME", now=now).server_id
        lines = [{"line": 1, "action": "new", "sku": "CAD", "quantity": SEATS}]
        order = {"order_ref": "SO-1", "account_ref": "ACME", "server_id": server_id, "lines": lines}
        issuer.fulfil(json.dumps(order).encode(), now=now)
        data = issuer.issue_bundle(server_id, now=now).data
    assert site.admin("POST", "/v1/admin/bundles", data)["applied"]
    return site


@pytest.fixture
def elsewhere(site: Site, tmp_path: Path) -> Iterator[Site]:
    """Another machine of the customer, with the same vendor."""
    other = Site(tmp_path / "elsewhere")
    other.vendor = site.vendor
    other.keys.write_text(site.keys.read_text("ascii") if site.keys.exists() else "", "ascii")
    try:
        yield other
    finally:
        other.close()


def vendors_lines(site: Site, server_id: str) -> list[dict[str, Any]]:
    with Issuer(site.vendor, now=datetime.now(UTC)) as issuer:
        end, _hash = issuer.register.journal_end(server_id) or (0, "")
        return [json.loads(line) for line in issuer.register.journal_lines(server_id, first=1, last=end)]


def billed(site: Site) -> int:
    """Credits on the vendor's own usage table."""
    out = site.issuer("usage", "export", "--format", "json").stdout
    rows = json.loads(out)
    listed = rows if isinstance(rows, list) else next(iter(rows.values()))
    meters = ("cloud", "consumed"), ("cloud", "overage")
    return sum(int(row["quantity"]) for row in listed if (row["feature"], row["meter"]) in meters)


@pytest.mark.parametrize("reported", ["before the backup", "after the backup"])
def test_a_server_that_was_lost_comes_back_from_its_backup_on_another_machine(  # noqa: PLR0915 - one story
    licensed: Site, elsewhere: Site, tmp_path: Path, reported: str
) -> None:
    site = licensed
    elsewhere.keys.write_text(site.keys.read_text("ascii"), "ascii")
    server_id = site.admin("GET", "/v1/admin/server")["server_id"]
    secret = tmp_path / "passphrase"
    secret.write_text(PASSPHRASE + "\n")
    https, kept = site.https(), Asked.new(random.Random(101))
    assert 201 == https.checkout(kept).status
    assert 200 == use(https, kept, 5).status

    users = [User(site, seed) for seed in range(3)]
    for user in users:
        user.start()
    until(lambda: sum(user.rounds for user in users) > 20, seconds=30, what="under load")
    if reported == "before the backup":
        site.reported()
    saved = tmp_path / "saved.llsbackup"
    rounds = sum(user.rounds for user in users)
    site.lls("backup", "-o", saved, "--passphrase-file", secret)
    assert sum(user.rounds for user in users) > rounds, "the server stood still while it was saved"
    assert 0o600 == saved.stat().st_mode & 0o777
    assert b"PRIVATE KEY" not in saved.read_bytes()
    if reported == "after the backup":
        site.reported()
    late = Asked.new(random.Random(102))
    until(lambda: https.checkout(late).status in (200, 201), seconds=20, what="seated")
    laptop = tmp_path / "laptop"
    with LicenseServers(site.url, vendor_keys=site.keys, borrowed_folder=laptop) as servers:
        borrowed = None
        with servers.checkout("cad", wait=20) as seat:
            borrowed = seat.borrow(datetime.now(UTC) + timedelta(days=2))
    for user in users:
        user.stop.set()
    for user in users:
        user.join(20)
    assert [] == [broken for user in users for broken in user.broken]
    site.kill()

    found = json.loads(elsewhere.lls("restore", saved, "--check", "--passphrase-file", secret, "--json").stdout)
    assert server_id == found["server_id"]
    said = elsewhere.lls("restore", saved, "--passphrase-file", secret).stdout
    assert f"Put {server_id} back" in said
    elsewhere.start()
    there = elsewhere.https()

    assert "restored" == elsewhere.admin("GET", "/v1/admin/server")["chain"]
    assert 200 == there.heartbeat(kept).status, "a floating lease goes on"
    assert "unknown_lease" == there.heartbeat(late).code
    assert 201 == there.checkout(Asked.new(random.Random(103))).status
    refused = use(there, kept, 1)
    assert (409, "restored") == (refused.status, refused.code)
    assert borrowed is not None
    again = Borrowed.load("cad", vendor_keys=site.keys, folder=laptop, servers=elsewhere.url)
    until(lambda: [again.lease_id] == away(elsewhere), seconds=20, what="counted again", log=elsewhere.log)
    again.extend(again.until + timedelta(hours=1))
    assert [again.lease_id] == away(elsewhere)

    request = tmp_path / "restored.llsreq"
    elsewhere.lls("server", "request", "-o", request)
    refusal = site.issuer("server", "register", request, status=1)
    assert "server adopt" in refusal.stderr
    site.issuer("--reason", "the disk is dead", "server", "adopt", request, "--confirm", "lls")
    bundle = tmp_path / "answer.llsbundle"
    site.issuer("bundle", "issue", "--server", server_id, "-o", bundle)
    elsewhere.lls("bundle", "import", bundle)

    assert "ok" == elsewhere.admin("GET", "/v1/admin/server")["chain"]
    assert 200 == use(there, kept, 3).status
    elsewhere.verify_journal()
    elsewhere.reported()
    lines = vendors_lines(site, server_id)
    uses = [line["data"] for line in lines if line["kind"] == "Used"]
    assert len(uses) == len({one["request_id"] for one in uses}), "nothing is there twice"
    assert 1 == [line["kind"] for line in lines].count("Restored")
    level = next(one for one in there.lease(kept).body["lease"]["features"] if one["key"] == "cloud")
    assert sum(one["amount"] for one in uses) == level["consumed"] == billed(site)
    ours = [line for line in elsewhere.journal() if line["seq"] > lines[-1]["seq"]]
    assert "Used" not in {line["kind"] for line in ours}, "all that is journalled was billed"
    restarted = elsewhere.stop()
    assert 0 == restarted
    elsewhere.start()
    elsewhere.verify_journal()
    elsewhere.reported()
    assert "restored" not in elsewhere.admin("GET", "/v1/admin/server")["chain"]
