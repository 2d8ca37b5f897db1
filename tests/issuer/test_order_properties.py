"""Whatever is ordered in whatever order: every bundle can be imported, sequences rise, and nothing is done twice."""

from __future__ import annotations

import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lls.issuer import Issuer, sample_catalog
from lls.issuer.balances import State
from lls.issuer.catalog import Stage
from lls.issuer.refusals import Conflict, OrderRefused
from lls.licensing.entitlement import read_entitlement
from tests.issuer.appliance import NOW, Appliance, Chance

BOTH = """
[offerings.CAD-MORE]
name = "Another year, a seat and some credit"
actions = ["renew", "add_seats", "add_grant"]
product = "cad"
grants = [{ feature = "cloud", amount = 7 }]
"""
MOST = 6
NEW = st.sampled_from(["CAD-PRO-1Y", "CAD-STD-1Y", "CAD-STD-NAMED", "CAD-PRO-TRIAL", "VIEWER-SITE", "CAD-PRO-PARTNER"])
CHANGES = st.sampled_from([
    ("renew", "CAD-PRO-RENEW"), ("add_seats", "CAD-SEATS-10"), ("upgrade", "CAD-TO-PRO"), ("add_grant", "CLOUD-1000"),
    (None, "CAD-MORE"),
])  # fmt: skip


class Orders(RuleBasedStateMachine):
    """A vendor that sells to one site, and the site that takes each bundle."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = NOW
        self.appliance = Appliance.new()
        self.issuer = Issuer.create(Path(self.folder.name) / "vendor", now=NOW, passphrase=None, random=Chance())
        self.accepted: list[bytes] = []
        self.sequences: dict[str, tuple[int, Any]] = {}
        self.orders = 0

    def teardown(self) -> None:
        self.issuer.close()
        self.folder.cleanup()

    @initialize()
    def open_shop(self) -> None:
        self.issuer.load_catalog(sample_catalog() + BOTH, now=NOW)
        self.issuer.register_server(self.appliance.request(), now=NOW)
        for sku in ("CAD-PRO-1Y", "CAD-STD-1Y"):
            self.sell(sku, 20)

    def order(self, *lines: dict[str, Any]) -> None:
        """An order; refused, it leaves nothing."""
        self.orders += 1
        document = {
            "order_ref": f"SO-{self.orders}", "account_ref": "ACME", "server_id": self.appliance.server_id,
            "customer": {"name": "Acme"}, "lines": [{"line": n, **one} for n, one in enumerate(lines, start=1)],
        }  # fmt: skip
        data = json.dumps(document).encode()
        before = self.state()
        try:
            self.issuer.fulfil(data, now=self.now)
        except OrderRefused as refused:
            assert f"SO-{self.orders}" in refused.detail  # noqa: PT017 - a refusal is one of two right answers
            assert before == self.state()
            return
        self.accepted.append(data)

    def state(self) -> Any:
        return self.issuer.register.entitlements(), self.issuer.balances.balances(), self.issuer.ordering.sales()

    @precondition(lambda self: len(self.state()[0]) < MOST)
    @rule(sku=NEW, quantity=st.integers(1, 40))
    def sell(self, sku: str, quantity: int) -> None:
        self.order({"action": "new", "sku": sku, "quantity": quantity})

    def one(self, data: st.DataObject, *editions: str) -> str:
        """An entitlement of these editions; the shop was opened with one of each."""
        fitting = [sold.entitlement_id for sold in self.state()[0] if sold.document["edition"] in editions]
        return data.draw(st.sampled_from(fitting)) if fitting else "ent_" + 22 * "0"

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        self.order({"action": "renew", "sku": "CAD-PRO-RENEW", "entitlement_id": self.one(data, "pro")})

    @rule(data=st.data(), quantity=st.integers(-3, 3).filter(bool))
    def add_seats(self, data: st.DataObject, quantity: int) -> None:
        key = self.one(data, "std", "pro")
        self.order({"action": "add_seats", "sku": "CAD-SEATS-10", "quantity": quantity, "entitlement_id": key})

    @rule(data=st.data())
    def upgrade(self, data: st.DataObject) -> None:
        self.order({"action": "upgrade", "sku": "CAD-TO-PRO", "entitlement_id": self.one(data, "std")})

    @rule(data=st.data(), quantity=st.integers(1, 3))
    def add_grant(self, data: st.DataObject, quantity: int) -> None:
        key = self.one(data, "std", "pro")
        self.order({"action": "add_grant", "sku": "CLOUD-1000", "quantity": quantity, "entitlement_id": key})

    @rule(data=st.data())
    def all_at_once(self, data: st.DataObject) -> None:
        self.order({"sku": "CAD-MORE", "quantity": 1, "entitlement_id": self.one(data, "std", "pro")})

    @precondition(lambda self: self.state()[0])
    @rule(
        data=st.data(),
        picks=st.lists(st.tuples(CHANGES, st.sampled_from([1, 2, -1, -2, 40, None])), min_size=1, max_size=3),
    )
    def change(self, data: st.DataObject, picks: list[tuple[tuple[str | None, str], int | None]]) -> None:
        known = [sold.entitlement_id for sold in self.state()[0]]
        lines: list[dict[str, Any]] = []
        for (action, sku), quantity in picks:
            target = data.draw(st.sampled_from([*known, None]))
            members = {"action": action, "sku": sku, "quantity": quantity, "entitlement_id": target}
            lines.append({name: value for name, value in members.items() if value is not None})
        self.order(*lines)

    @precondition(lambda self: self.state()[1])
    @rule(data=st.data(), amount=st.integers(1, 10**6), revokes=st.booleans())
    def alter(self, data: st.DataObject, amount: int, revokes: bool) -> None:
        grant_id = data.draw(st.sampled_from([balance.grant_id for balance in self.state()[1]]))
        if revokes:
            self.issuer.balances.revoke(grant_id, now=self.now)
            return
        try:
            self.issuer.balances.alter(grant_id, amount=amount, now=self.now)
        except Conflict:
            assert State.REVOKED is self.issuer.balances.balance(grant_id).state  # the only reason

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), stage=st.sampled_from(Stage))
    def pay(self, data: st.DataObject, stage: Stage) -> None:
        ref = json.loads(data.draw(st.sampled_from(self.accepted)))["order_ref"]
        self.issuer.balances.release(ref, stage=stage, now=self.now)
        assert [] == self.issuer.balances.release(ref, stage=stage, now=self.now)

    @rule(days=st.integers(1, 500))
    def wait(self, days: int) -> None:
        self.now += timedelta(days=days)
        self.appliance.now = self.now
        keys = self.issuer.keyring.newest
        if self.now > keys.expires_at - timedelta(days=365):
            self.issuer.rotate_keys(now=self.now)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def order_again(self, data: st.DataObject) -> None:
        before = self.state()
        (again,) = self.issuer.fulfil(data.draw(st.sampled_from(self.accepted)), now=self.now)
        assert again.again
        assert before == self.state()

    @precondition(lambda self: self.accepted)
    @rule()
    def carry(self) -> None:
        """The appliance takes the bundle, and what is in it is what the register says."""
        data = self.issuer.issue_bundle(self.appliance.server_id, now=self.now).data
        before = self.appliance.bundle_sequence
        bundle, _ = self.appliance.open(data, self.issuer.keyring.version(1))
        assert bundle.sequence > before
        sold = {one.entitlement_id: read_entitlement(one.document) for one in self.state()[0]}
        assert sold == {one.entitlement_id: one for one in bundle.entitlements}

    @invariant()
    def sequences_rise_with_every_change(self) -> None:
        for sold in self.issuer.register.entitlements():
            sequence = read_entitlement(sold.document).sequence
            before = self.sequences.setdefault(sold.entitlement_id, (sequence, sold.document))
            assert sequence > before[0] or sold.document == before[1]
            self.sequences[sold.entitlement_id] = (sequence, sold.document)

    @invariant()
    def balances_are_what_the_documents_carry(self) -> None:
        carried = {
            grant.grant_id: (feature.key, grant.amount)
            for sold in self.issuer.register.entitlements()
            for feature in read_entitlement(sold.document).features
            for grant in feature.grants
        }
        given = {one.grant_id: (one.feature, one.amount) for one in self.issuer.balances.balances(state=State.GIVEN)}
        assert given == carried


TestOrders = Orders.TestCase
TestOrders.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
