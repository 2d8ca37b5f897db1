"""The drop folder of a real server: a bundle and a receipt go in by hand, a report comes out, a crash costs nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from lls.issuer import Issuer
from tests.journeys.world import Site, until


def test_a_site_that_only_ever_uses_its_drop_folder(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    with site.config.open("a") as settings:
        settings.write(f'[drop]\nfolder = "{folder}"\nreport_every = "day"\n')
    site.open_vendor()
    site.start()
    request, now = site.admin_bytes("POST", "/v1/admin/server/request"), datetime.now(UTC)
    with Issuer(site.vendor, now=now) as issuer:
        server = issuer.register_server(request, customer=None, binding=None, now=now)
        line = {"line": 1, "action": "new", "sku": "CAD-1Y", "quantity": 5}
        order: dict[str, object] = {"order_ref": "SO-1", "account_ref": "ACME", "server_id": server.server_id}
        order |= {"customer": {"name": "ACME"}, "lines": [line]}
        issuer.fulfil(json.dumps(order).encode(), now=now)
        bundle = issuer.issue_bundle(server.server_id, now=now).data
    until((folder / "in").is_dir, seconds=10, what="made", log=site.log)
    (folder / "in" / "site.llsbundle").write_bytes(bundle)
    until((folder / "done" / "site.llsbundle.txt").exists, seconds=30, what="imported", log=site.log)
    until(lambda: any((folder / "out").glob("*.llsreport")), seconds=30, what="reported", log=site.log)
    (report,) = (folder / "out").glob("*.llsreport")
    with Issuer(site.vendor, now=now) as issuer:
        taken = issuer.ingest(report, now=datetime.now(UTC))
        receipt = issuer.issue_receipt(taken.report.report_id, now=datetime.now(UTC)).token
    site.kill()
    (folder / "in" / "site.llsreceipt").write_text(receipt)
    (folder / "in" / "forged.llsreceipt").write_text(receipt[:-9] + "AAAAAAAAA")
    site.start()
    until((folder / "done" / "site.llsreceipt.txt").exists, seconds=30, what="acknowledged", log=site.log)
    until((folder / "refused" / "forged.llsreceipt.txt").exists, seconds=30, what="refused", log=site.log)
    kinds = [line["kind"] for line in site.journal()]
    assert (1, 1) == (kinds.count("Installed"), kinds.count("Acknowledged"))
    site.verify_journal()
