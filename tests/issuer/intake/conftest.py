"""A vendor whose catalogue can be subscribed to, and an intake with all sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer
from lls.issuer.intake.inbox import Status
from lls.issuer.intake.processing import Fate, Intake, Taken
from lls.issuer.intake.settings import Settings, read_settings
from lls.licensing.entitlement import Entitlement, read_entitlement
from tests.issuer.appliance import NOW, Appliance, Chance
from tests.issuer.intake.sources import SECRETS, body_of, proof

CATALOG = """
format = 1
[products.cad]
name = "CAD"
[products.cad.features.render]
type = "bool"
[products.cad.features.cloud]
type = "credit"
currency = "EUR"
[products.cad.editions.std]
name = "Standard"
[products.cad.editions.pro]
name = "Professional"
features = { render = true }
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }
[offerings.CAD-STD]
name = "CAD Standard"
actions = ["new", "renew", "add_seats"]
product = "cad"
edition = "std"
plan = "year"
[offerings.CAD-PRO]
name = "CAD Professional"
actions = ["new", "renew", "add_seats"]
product = "cad"
edition = "pro"
plan = "year"
[offerings.TO-PRO]
name = "From Standard to Professional"
actions = ["upgrade"]
product = "cad"
edition = "pro"
becomes = "CAD-PRO"
[offerings.CLOUD]
name = "Cloud credit"
actions = ["add_grant"]
product = "cad"
[[offerings.CLOUD.grants]]
feature = "cloud"
amount = 100000
given_on = "invoice_paid"
"""

INTAKE = """
[skus]
price_std = "CAD-STD"
price_pro = { sku = "CAD-PRO", upgrade = "TO-PRO" }
price_cloud = { sku = "CLOUD", action = "add_grant" }
price_setup = ""
cad-pro = "CAD-PRO"
cad-base = ""
seats = "CAD-PRO"
cloud = "CLOUD"

[generic]
secret_file = "generic.secret"
[stripe]
secret_file = "stripe.secret"
[fastspring]
secret_file = "fastspring.secret"
[chargify]
secret_file = "chargify.secret"
[zuora]
username = "zuora"
secret_file = "zuora.secret"
[salesforce]
secret_file = "salesforce.secret"
[netsuite]
secret_file = "netsuite.secret"
"""


@pytest.fixture
def issuer(home: Path) -> Iterator[Issuer]:
    with Issuer.create(home, now=NOW, passphrase=None, random=Chance()) as made:
        made.load_catalog(CATALOG, now=NOW)
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name, secret in SECRETS.items():
        (tmp_path / f"{name}.secret").write_text(f"{secret}\n")
    (tmp_path / "intake.toml").write_text(INTAKE)
    return tmp_path / "intake.toml"


@pytest.fixture
def settings(config: Path) -> Settings:
    return read_settings(config)


@dataclass
class Desk:
    """The intake with a clock, and what a test wants to know of it."""

    issuer: Issuer
    intake: Intake
    now: datetime = NOW

    def receive(self, source: str, document: Any) -> list[Taken]:
        body, media = body_of(source, document)
        return self.intake.receive(source, body, media=media, proof=proof(source, body, self.now), now=self.now)

    def send(self, source: str, document: Any) -> Fate:
        """Received and processed; what became of this event itself."""
        taken = self.receive(source, document)
        fates = {fate.event_id: fate for fate in self.intake.process(now=self.now)}
        return fates[taken[-1].event_id]

    def statuses(self) -> list[str]:
        return [stored.status.value for stored in self.intake.inbox.listed()]

    def entitlements(self) -> list[Entitlement]:
        return [read_entitlement(sold.document) for sold in self.issuer.register.entitlements()]

    @property
    def entitlement(self) -> Entitlement:
        (only,) = self.entitlements()
        return only


@pytest.fixture
def desk(issuer: Issuer, settings: Settings) -> Desk:
    return Desk(issuer, Intake(issuer, settings))


@pytest.fixture
def hosted(issuer: Issuer, appliance: Appliance) -> Appliance:
    issuer.register_server(appliance.request(), now=NOW)
    return appliance


DONE, HELD, FAILED, IGNORED = Status.DONE, Status.HELD, Status.FAILED, Status.IGNORED
