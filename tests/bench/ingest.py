"""Makes a vendor's home and a site's report of so many lines, which `measures` then has ingested by the real command.

The order (JSON in the first argument): ``folder``, ``lines``. The answer: ``home``, ``report``, ``megabytes``,
``seconds`` (of the making). The site has 500 machines in turn at 400 seats and at a pool of units, over 30 days.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from lls.issuer import Issuer
from lls.licensing.journal import FIRST_PREV, Entry, Kind
from lls.licensing.usage import Fold, usage_csv
from lls.signed.report import write_report
from tests.issuer.appliance import METERED, Appliance, line, order

DAYS: Final = 30
SEATS: Final = 400
HOLDERS: Final = 500


def make(folder: Path, lines: int) -> Path:
    """A home that knows the site, and the report beside it."""
    now = datetime.now(UTC).replace(microsecond=0)
    site = Appliance.new()
    site.now = now - timedelta(days=DAYS, hours=1)
    with Issuer.create(folder / "home", now=site.now, passphrase=None) as issuer:
        issuer.load_catalog(METERED, now=site.now)
        issuer.register_server(site.request(), now=site.now)
        issuer.fulfil(order(site, line(sku=_sku(issuer), quantity=SEATS)), now=site.now)
        bundle, _ = site.open(issuer.issue_bundle(site.server_id, now=site.now).data, issuer.keyring.newest)
    (sold,) = bundle.entitlements
    fold, journal = Fold(server_id=site.server_id), folder / "journal.ndjson"
    with journal.open("wb") as file:
        for each in _entries(site, sold.entitlement_id, lines):
            file.write(each.line + b"\n")
            fold.step(json.loads(each.line))
    path = folder / "site.llsreport"
    with journal.open("rb") as stored:
        write_report(
            path,
            report_id="rpt_" + "A" * 22,
            server_id=site.server_id,
            from_seq=1,
            to_seq=site.head.seq,
            prev_head=FIRST_PREV,
            head=site.head.hash,
            made_at=site.now,
            lines=(one.rstrip(b"\n") for one in stored),
            usage_csv=usage_csv(fold.lines()),
            names=_names(),
            key=site.signing_key,
            report_key=site.report_key,
        )
    journal.unlink()
    return path


def _entries(site: Appliance, entitlement_id: str, lines: int) -> Iterator[Entry]:
    """Seats taken and given back, a refusal now and then, and the seal; of the site only its newest line is kept."""
    yield from site.entries
    step = timedelta(days=DAYS) / lines
    taken = 0
    while site.head.seq < lines - 1:
        holder = f"{site.head.seq % HOLDERS:064x}"
        if taken < SEATS:
            site.grant(entitlement_id, holder=holder)
            taken += 1
        elif site.head.seq % 7 == 0:
            site.post(Kind.DENIED, **_refusal(entitlement_id, holder))
        else:
            site.give_back(entitlement_id)
            taken -= 1
        site.now += step
        del site.entries[:-1]
        yield site.entries[-1]
    yield site.post(Kind.REPORT_SEALED, report_id="rpt_" + "A" * 22, from_seq=1)


def _refusal(entitlement_id: str, holder: str) -> dict[str, object]:
    return {
        "code": "no_seat", "rule": "seats", "product": "cad", "entitlement_id": entitlement_id, "feature": None,
        "seats": 1, "in_use": SEATS, "limit": SEATS, "holder": holder, "count": 1,
    }  # fmt: skip


def _names() -> Iterator[bytes]:
    for number in range(HOLDERS):
        for field in ("user", "host"):
            told = {"commitment": f"{number:064x}", "field": field, "value": f"{field}-{number:03}"}
            yield json.dumps(told).encode()


def _sku(issuer: Issuer) -> str:
    return next(iter(issuer.catalog().offerings))


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    begun = time.perf_counter()
    made = make(Path(asked["folder"]), asked["lines"])
    told = {"home": str(made.parent / "home"), "report": str(made), "megabytes": made.stat().st_size / 1e6}
    print(json.dumps({**told, "seconds": time.perf_counter() - begun}), flush=True)
