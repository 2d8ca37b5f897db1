"""The other side of the loop, as small as it can be: a server that journals, seals reports and opens bundles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lls.issuer import Issuer
from lls.issuer.ids import new_id
from lls.issuer.ingest import Ingested
from lls.licensing.entitlement import Entitlement, FeatureType
from lls.licensing.fields import write_instant
from lls.licensing.journal import FIRST_PREV, Entry, Head, Kind, entry
from lls.licensing.terms import RESET_USAGE
from lls.licensing.usage import Fold, usage_csv
from lls.signed.bundle import Bundle, open_bundle
from lls.signed.jose import EncryptionKey, SigningKey
from lls.signed.keys import KeySet
from lls.signed.report import write_report
from lls.signed.request import make_request
from lls.signed.returned import make_return

NOW = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)


class Chance:
    """Randomness that repeats: a counter, hashed by nobody, different at each call."""

    def __init__(self, start: int = 1) -> None:
        self._next = start

    def __call__(self, size: int) -> bytes:
        self._next += 1
        value: int = self._next * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 8 * size)
        return value.to_bytes(size)


@dataclass
class Appliance:
    """One license server. ``clone`` gives a second one with the same keys and the same past."""

    server_id: str
    signing_key: SigningKey
    encryption_key: EncryptionKey
    chance: Chance
    now: datetime = NOW
    entries: list[Entry] = field(default_factory=list)
    keys_version: int = 1
    bundle_sequence: int = 0
    report_key: Mapping[str, str] | None = None
    commands: set[str] = field(default_factory=set)

    @classmethod
    def new(cls, seed: int = 1000) -> Appliance:
        chance = Chance(seed)
        return cls(
            server_id=new_id("lls", chance),
            signing_key=SigningKey.generate(),
            encryption_key=EncryptionKey.generate(),
            chance=chance,
        )

    def clone(self) -> Appliance:
        return Appliance(
            server_id=self.server_id,
            signing_key=self.signing_key,
            encryption_key=self.encryption_key,
            chance=Chance(777_777),
            now=self.now,
            entries=list(self.entries),
            report_key=self.report_key,
        )

    @property
    def head(self) -> Head:
        return Head(seq=self.entries[-1].seq, hash=self.entries[-1].hash) if self.entries else Head()

    @property
    def reported(self) -> int:
        """The last line that a report covers."""
        return max((each.seq for each in self.entries if each.kind is Kind.REPORT_SEALED), default=0)

    def post(self, kind: Kind, **data: Any) -> Entry:
        posted = entry(self.head, at=self.now, kind=kind, data=data)
        self.entries.append(posted)
        return posted

    def wait(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def request(self, **changes: Any) -> str:
        members: dict[str, Any] = {
            "server_id": self.server_id,
            "name": "site",
            "signing_key": self.signing_key,
            "encryption_jwk": self.encryption_key.public_jwk(),
            "host": {"machine_id": "ab" * 32},
            "version": "0.1.0",
            "keys_version": self.keys_version,
            "bundle_sequence": self.bundle_sequence,
            "sessions": [],
            "made_at": self.now,
            "seq": self.head.seq,
            "head": self.head.hash,
        }
        return make_request(**{**members, **changes})

    def open(self, data: bytes, keys: KeySet) -> tuple[Bundle, KeySet]:
        """Opens a bundle, remembers what a server remembers, and journals the import."""
        opened = open_bundle(
            data,
            encryption_key=self.encryption_key,
            server_id=self.server_id,
            keys=keys,
            server_jwk=self.signing_key.public_jwk(),
        )
        bundle = opened.bundle
        bundle.check_dates(self.now)
        self.report_key, self.bundle_sequence = bundle.report_key, bundle.sequence
        ordered = [each for each in bundle.commands if each.command_id not in self.commands]
        self.commands.update(each.command_id for each in ordered)
        self.post(
            Kind.INSTALLED,
            bundle_id=bundle.bundle_id,
            sequence=bundle.sequence,
            customer_ref=bundle.customer.account_ref,
            entitlements=[
                {
                    "entitlement_id": each.entitlement_id,
                    "session_id": each.session_id,
                    "sequence": each.sequence,
                    "change": "new",
                    "sku": each.sku,
                    "product": each.product,
                    "seats": each.seats,
                    "status": str(each.status),
                    "overdraft_limit": None,
                    "starts_at": None,
                    "expires_at": None,
                    "features": [
                        {
                            "feature": one.key,
                            "type": str(one.type),
                            "unit": one.unit,
                            "currency": one.currency,
                            "value": one.value,
                            "limit": one.value if one.type is FeatureType.ELEMENT_POOL else None,
                        }
                        for one in each.features
                        if one.counted or one.tracked
                    ],
                }
                for each in bundle.entitlements
            ],
            skipped=[],
            commands=[each.command_id for each in ordered],
            resets=[
                {"entitlement_id": each.order.entitlement_id, "feature": key, "consumed": 0, "overage": 0}
                for each in ordered
                if each.order.type == RESET_USAGE
                for key in ([each.order.feature] if each.order.feature else ["frames", "cloud"])
            ],
        )
        return bundle, opened.keys

    def grant(self, entitlement_id: str, *, seats: int = 1, holder: str = "aa" * 32) -> None:
        self.post(
            Kind.GRANTED,
            lease_id="lease",
            entitlement_id=entitlement_id,
            product="cad",
            seats=seats,
            taken=seats,
            overdraft=False,
            ttl=600,
            replaces=None,
            holder={"seat_id": holder},
        )

    def use(
        self, entitlement_id: str, feature: str, draws: Mapping[str, int], *, over: int = 0, kind: Kind = Kind.USED
    ) -> None:
        self.post(
            kind,
            lease_id="lease",
            entitlement_id=entitlement_id,
            feature=feature,
            amount=sum(draws.values()),
            over=over,
            draws=dict(draws),
            request_id="request",
        )

    def hold(self, entitlement_id: str, feature: str, amount: int) -> None:
        ids = {"lease_id": "lease", "entitlement_id": entitlement_id, "feature": feature}
        self.post(Kind.FEATURE_CHECKED_OUT, **ids, amount=amount, request_id=None)

    def start(self, entitlement_id: str, **dates: str | None) -> None:
        self.post(Kind.STARTED, entitlement_id=entitlement_id, **{"expires_at": None, **dates})

    def return_entitlement(
        self,
        entitlement: Entitlement,
        *,
        meters: Iterable[Mapping[str, object]] = (),
        borrowed_until: datetime | None = None,
        **changes: Any,
    ) -> str:
        """Journals the return and signs it."""
        told = list(meters)
        away = None if borrowed_until is None else write_instant(borrowed_until)
        line = {
            "entitlement_id": entitlement.entitlement_id,
            "session_id": entitlement.session_id,
            "forced": False,
            "leases_ended": 0,
            "meters": told,
            "borrowed_until": away,
            "actor": "aa" * 32,
        }
        self.post(Kind.RETURNED_ENTITLEMENT, **line)
        members: dict[str, Any] = {
            "server_id": self.server_id,
            "entitlement_id": entitlement.entitlement_id,
            "session_id": entitlement.session_id,
            "up_to_seq": self.head.seq,
            "head": self.head.hash,
            "meters": told,
            "borrowed_until": borrowed_until,
            "made_at": self.now,
            "key": self.signing_key,
        }
        return make_return(**{**members, **changes})

    def give_back(self, entitlement_id: str, *, seats: int = 1) -> None:
        self.post(Kind.RETURNED, lease_id="lease", entitlement_id=entitlement_id, freed=seats, lingers_seconds=0)

    def report(
        self,
        path: Path,
        *,
        after: int = 0,
        names: Iterable[bytes] | None = (b'{"commitment":"aa","field":"user","value":"alice"}',),
        report_id: str | None = None,
        table: bytes | None = None,
        **changes: Any,
    ) -> str:
        """Seals a report of everything after line ``after``; its id."""
        report_id = report_id or new_id("rpt", self.chance)
        self.post(Kind.REPORT_SEALED, report_id=report_id, from_seq=after + 1)
        covered = self.entries[after:]
        members: dict[str, Any] = {
            "report_id": report_id,
            "server_id": self.server_id,
            "from_seq": after + 1,
            "to_seq": self.head.seq,
            "prev_head": self.entries[after - 1].hash if after else FIRST_PREV,
            "head": self.head.hash,
            "made_at": self.now,
            "lines": [each.line for each in covered],
            "usage_csv": self.table(after=after) if table is None else table,
            "names": names,
            "key": self.signing_key,
            "report_key": self.report_key,
        }
        write_report(path, **{**members, **changes})
        return report_id

    def table(self, *, after: int = 0) -> bytes:
        """``usage.csv`` of everything after line ``after``."""
        before = Fold(server_id=self.server_id)
        for each in self.entries[:after]:
            before.step(json.loads(each.line))
        fold = Fold(before.carry(), server_id=self.server_id)
        for each in self.entries[after:]:
            fold.step(json.loads(each.line))
        return usage_csv(fold.lines())


def order(appliance: Appliance, *lines: Mapping[str, object], **changes: object) -> bytes:
    """An order of 50 CAD seats, or of ``lines``."""
    document: dict[str, object] = {
        "order_ref": "SO-1001",
        "account_ref": "ACME",
        "server_id": appliance.server_id,
        "customer": {"name": "Acme GmbH"},
        "lines": list(lines) or [line()],
    }
    return json.dumps({**document, **changes}).encode()


def line(number: int = 1, sku: str = "CAD-PRO-1Y", quantity: int = 50, **changes: object) -> dict[str, object]:
    return {"line": number, "action": "new", "sku": sku, "quantity": quantity, **changes}


def hosted(issuer: Issuer, appliance: Appliance) -> Bundle:
    """Registers the appliance, sells it 50 seats, and imports the bundle there."""
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance), now=NOW)
    bundle, _ = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, issuer.keyring.version(1))
    return bundle


def meter(
    feature: str, lots: Mapping[str, tuple[int, int]], *, kind: str = "usage_count", ended: Iterable[str] = ()
) -> dict[str, object]:
    """A return's account of a feature; ``lots`` are (amount, used)."""
    over = set(ended)
    return {
        "feature": feature,
        "type": kind,
        "unit": None,
        "lots": [
            {"lot": lot, "amount": amount, "used": used, "ended": lot in over} for lot, (amount, used) in lots.items()
        ],
        "consumed": sum(used for _, used in lots.values()),
        "overage": sum(used for lot, (_, used) in lots.items() if lot.startswith("overdraft")),
        "in_use": 0,
    }


METERED = """
format = 1
[products.cad]
name = "CAD"
[products.cad.features.frames]
type = "usage_count"
unit = "frame"
reset = "on_renewal"
overdraft = { type = "absolute", value = 50 }
[products.cad.features.pages]
type = "usage_count"
unit = "page"
reset = "monthly"
[products.cad.features.cloud]
type = "credit"
currency = "EUR"
[products.cad.features.gpu]
type = "element_pool"
[products.cad.editions.pro]
features = { frames = 100, pages = 10, gpu = 4 }
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }
maintenance = { unit = "year", count = 1 }
grace_seconds = 604800
[plans.later]
license_type = "trial"
start = "on_first_lease"
term = { unit = "month", count = 1 }
[plans.ever]
license_type = "perpetual"
[offerings.CAD]
name = "CAD"
product = "cad"
edition = "pro"
plan = "year"
borrow = { max_seconds = 1209600, max_seats = 5 }
[[offerings.CAD.grants]]
feature = "cloud"
amount = 1000
[offerings.CAD-TRY]
name = "CAD to try"
product = "cad"
edition = "pro"
plan = "later"
[offerings.CAD-EVER]
name = "CAD for ever"
product = "cad"
edition = "pro"
plan = "ever"
"""
"""A catalogue with a feature of every kind."""


def metered(issuer: Issuer, appliance: Appliance, *, sku: str = "CAD", quantity: int = 1) -> Entitlement:
    """Registers the appliance, sells it that of :data:`METERED`, and imports the bundle there."""
    issuer.load_catalog(METERED, now=NOW)
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, line(sku=sku, quantity=quantity)), now=NOW)
    return imported(issuer, appliance).entitlements[0]


def imported(issuer: Issuer, appliance: Appliance) -> Bundle:
    """The next bundle, as the appliance takes it."""
    data = issuer.issue_bundle(appliance.server_id, now=appliance.now).data
    return appliance.open(data, issuer.keyring.version(1))[0]


def reported(issuer: Issuer, appliance: Appliance, path: Path, *, after: int = 0) -> Ingested:
    """Everything after that line, reported and taken in."""
    appliance.report(path, after=after)
    return issuer.ingest(path, now=appliance.now)
