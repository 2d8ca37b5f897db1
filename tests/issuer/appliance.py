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
from lls.licensing.journal import FIRST_PREV, Entry, Head, Kind, entry
from lls.licensing.usage import Fold, usage_csv
from lls.signed.bundle import Bundle, open_bundle
from lls.signed.jose import EncryptionKey, SigningKey
from lls.signed.keys import KeySet
from lls.signed.report import write_report
from lls.signed.request import make_request

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
                }
                for each in bundle.entitlements
            ],
            skipped=[],
            commands=[],
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
