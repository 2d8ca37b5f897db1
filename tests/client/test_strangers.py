"""The files of the client are those that the server's own readers and writers know: two hands, one format."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lls.client import Borrowed, BorrowRequest, accept_grant, machine_fingerprint, make_return
from lls.signed.borrow import make_grant, read_borrow_request, read_borrow_return
from tests.client.fakes import FakeServer, Vendor

UNTIL = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)


def test_the_servers_reader_reads_our_request_and_return_and_we_read_its_grant(vendor: Vendor, tmp_path: Path) -> None:
    made = BorrowRequest.make("cad", until=UNTIL, features={"gpu": 2}, version="2026.1", released_on="2026-03-01")
    read = read_borrow_request(made.document)
    assert (made.lease_id, "cad", UNTIL, machine_fingerprint(), (("gpu", 2),)) == (
        read.lease_id, read.product, read.until, read.fingerprint, read.features,
    )  # fmt: skip
    server = FakeServer(vendor)
    server.close()
    parts = json.loads(server.grant(made.document.encode()))
    claims = parts["capability"].split(".")[1]
    bound = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["cnf"]
    assert {"jkt": read.jkt} == bound
    grant = make_grant(**{name: parts[name] for name in ("capability", "certificate", "keys", "lease")})
    accept_grant(grant, vendor_keys=vendor.first)
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid
    make_return(tmp_path / "back.llsborrow", lease_id=made.lease_id)
    returned = read_borrow_return((tmp_path / "back.llsborrow").read_bytes(), server_id=server.server_id)
    assert (made.lease_id, read.jkt) == (returned.lease_id, returned.jkt)
