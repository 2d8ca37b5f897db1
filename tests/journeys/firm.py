"""A vendor's office and one customer's site, side by side: what is sold here is felt there.

Rules
1. The office is opened anew for each act, as by its commands; what it does reaches the site by a bundle and comes back
   by a report, and by nothing else.
2. Both sides live by the site's clock, which can be turned (``stage.TurnedSite``); commands that are typed live in
   right time, so a firm whose clock was turned types none of the vendor's.
3. Who asks does so over plain HTTP, as a program without our client would.
"""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lls.issuer import Issuer
from lls.licensing.fields import write_instant
from tests.journeys.stage import TurnedSite
from tests.journeys.warm import Warm
from tests.journeys.world import ANSWER_SECONDS, COMMAND_SECONDS, Answer, token

ACCOUNT, NAME = "C-42", "Example Works"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What somebody asked for, and the answer."""

    answer: Answer
    lease_id: str
    secret: str = field(repr=False)

    @property
    def lease(self) -> dict[str, Any]:
        assert 201 == self.answer.status, self.answer.body
        lease: dict[str, Any] = self.answer.body["lease"]
        return lease


@contextmanager
def a_firm(catalog: str, *, now: datetime | None = None) -> Iterator[Firm]:
    """A customer whose server runs, at a vendor who sells that; closed whatever happens."""
    firm = Firm(now=now)
    try:
        firm.open(catalog)
        yield firm
    finally:
        firm.close()


class Firm:
    """See the module."""

    server_id: str

    def __init__(self, *, now: datetime | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="lls-"))
        self.desk = self.root / "desk"
        self.desk.mkdir()
        self.site = TurnedSite(self.root, now=now or datetime.now(UTC), policy=False)
        self._commands = self.orders = 0

    def open(self, catalog: str) -> None:
        """Keys, catalogue and customer; a server that runs and is registered."""
        with Issuer.create(self.site.vendor, now=self.now, passphrase=None) as issuer:
            issuer.load_catalog(catalog, now=self.now)
            issuer.put_customer(ACCOUNT, name=NAME, now=self.now)
            self.site.keys.write_text(issuer.keyring.newest.token, "ascii")
        self.site.start()
        request = self.site.admin_bytes("POST", "/v1/admin/server/request")
        with self.office() as issuer:
            self.server_id = issuer.register_server(request, customer=ACCOUNT, now=self.now).server_id

    @property
    def now(self) -> datetime:
        return self.site.now()

    def close(self) -> None:
        self.site.close()
        shutil.rmtree(self.root)

    # ---------------------------------------------------------------- the office

    @contextmanager
    def office(self) -> Iterator[Issuer]:
        with Issuer(self.site.vendor, now=self.now) as issuer:
            yield issuer

    def order(self, **line: Any) -> str:
        """Fulfil an order of one line, which comes twice, and carry the bundle; the entitlement's id."""
        self.orders += 1
        document = {
            "order_ref": f"SO-{self.orders}", "account_ref": ACCOUNT, "server_id": self.server_id,
            "lines": [{"line": 1, **line}],
        }  # fmt: skip
        with self.office() as issuer:
            (fulfilled,) = issuer.fulfil(json.dumps(document).encode(), now=self.now)
            (known,) = issuer.fulfil(json.dumps(document).encode(), now=self.now)
        assert (False, True) == (fulfilled.again, known.again)
        self.carry()
        return fulfilled.entitlements[0].entitlement_id

    def carry(self) -> None:
        """The current state of everything, by a bundle."""
        with self.office() as issuer:
            data = issuer.issue_bundle(self.server_id, now=self.now).data
        assert self.site.admin("POST", "/v1/admin/bundles", data)["applied"]

    def report(self) -> None:
        """The site's report in, the receipt out."""
        report = self.desk / "usage.llsreport"
        report.write_bytes(self.site.admin_bytes("POST", "/v1/admin/reports", b'{"pseudonymise": false}'))
        with self.office() as issuer:
            taken = issuer.ingest(report, now=self.now)
            receipt = issuer.issue_receipt(taken.report.report_id, now=self.now).token
        self.site.admin("POST", "/v1/admin/receipts", receipt.encode())

    def billed(self, sku: str) -> dict[tuple[str, str], float]:
        """Of one SKU (feature, meter) -> quantity, added up over the months."""
        with self.office() as issuer:
            lines = [line for line in issuer.usage(customer=ACCOUNT) if line.sku == sku]
        found: dict[tuple[str, str], float] = {}
        for line in lines:
            key = (line.feature, line.meter.value)
            found[key] = found.get(key, 0) + float(line.quantity)
        return found

    def typed(self, *words: str | Path, status: int = 0) -> str:
        """A command of the vendor's; all that it said."""
        self._commands += 1
        said = self.root / f"command {self._commands}.txt"
        command = Warm(["lls-issuer", "--home", str(self.site.vendor), *map(str, words)], cwd=self.desk, said=said)
        ended = command.wait(COMMAND_SECONDS)
        text = said.read_text("utf-8") if said.exists() else ""
        assert "Traceback" not in text, text
        assert status == ended, f"{words}: {text}"
        return text

    def save(self, name: str, text: str) -> Path:
        (self.desk / name).write_text(text, "utf-8")
        return self.desk / name

    # ---------------------------------------------------------------- the site

    def until(self, day: datetime) -> None:
        """Let time pass on both sides; the server was awake all the while, and nobody held a seat."""
        assert day > self.now, write_instant(day)
        self.site.passed += day - self.now
        self.site.turn(awake=True)

    def checkout(self, product: str, *, who: str = "", **body: Any) -> Seat:
        lease_id, secret = str(uuid.uuid4()), token(uuid.uuid4().bytes * 2)
        holder = {"seat_id": who or f"ws-{lease_id}", "user": "ada"}
        asked = {"lease_id": lease_id, "product": product, "holder": holder, "nonce": token(uuid.uuid4().bytes), **body}
        return Seat(answer=self.ask("POST", "/v1/leases", asked, secret=secret), lease_id=lease_id, secret=secret)

    def use(self, seat: Seat, feature: str, amount: int) -> Answer:
        body = {"amount": amount, "request_id": str(uuid.uuid4())}
        return self.ask("POST", f"/v1/leases/{seat.lease_id}/features/{feature}/use", body, secret=seat.secret)

    def lease(self, seat: Seat) -> Answer:
        return self.ask("GET", f"/v1/leases/{seat.lease_id}", secret=seat.secret)

    def checkin(self, seat: Seat) -> None:
        assert 204 == self.ask("DELETE", f"/v1/leases/{seat.lease_id}", secret=seat.secret).status

    def ask(self, method: str, path: str, body: Any = None, *, secret: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {secret}"} | ({"Content-Type": "application/json"} if body else {})
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            content = response.read()
            return Answer(status=response.status, body=json.loads(content) if content else None, headers={})
        finally:
            connection.close()
