"""A site in memory: entitlements, bundles, checkouts and ledgers, everything right unless a test changes it.

Bundles come here already verified (``signed`` has its own tests); what they say is remembered by ``Vendor``, so that a
ledger can be built again from what a store loaded.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from lls.licensing.calendar import Term, Unit
from lls.licensing.changes import Batch, Fact, KeptBundle, Loaded
from lls.licensing.entitlement import (
    Concurrency,
    Entitlement,
    Feature,
    FeatureType,
    Grant,
    GrantExpiry,
    LicenseType,
    Overdraft,
    Sharing,
    Start,
    Status,
)
from lls.licensing.instant import ClockState, Now
from lls.licensing.lease import Checkout, Holder
from lls.licensing.ledger import Ledger, Setting
from lls.licensing.policy_file import read_policy
from lls.licensing.terms import RESET_USAGE, Acknowledgement, Command, Installation, ServerTerms

T0: Final = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)
GRACE: Final = 30.0


def at(seconds: float = 0.0, *, state: ClockState = ClockState.OK) -> Now:
    """So many seconds after the beginning."""
    wall = T0 + timedelta(seconds=seconds)
    behind = 600 if state is ClockState.BEHIND else 0
    return Now(wall=wall, strict=wall, elapsed=1_000.0 + seconds, state=state, behind_seconds=behind)


def commit_to(value: str) -> str:
    return hmac.new(b"site key", value.encode(), hashlib.sha256).hexdigest()


def secret_of(lease_id: str, salt: str = "") -> bytes:
    return hashlib.sha256(f"secret {salt} {lease_id}".encode()).digest()


def entitlement(name: str = "cad", **changes: Any) -> Entitlement:
    """50 seats for a year; ``overdraft`` may be an Overdraft, ``grace`` a timedelta."""
    made = Entitlement(
        entitlement_id=f"ent_{name:A<22}",
        group_id=f"egr_{'':A<22}",
        session_id=f"ses_{name:A<22}",
        sequence=1,
        order_ref="SO-1",
        activation_codes=frozenset(),
        product="cad",
        product_name="CAD",
        sku="CAD-1Y",
        offering="CAD for a year",
        edition="pro",
        license_type=LicenseType.SUBSCRIPTION,
        start=Start.FIXED,
        status=Status.ACTIVE,
        starts_at=T0 - timedelta(days=1),
        expires_at=T0 + timedelta(days=365),
        grace=timedelta(0),
        maintenance_expires_on=None,
        concurrency=Concurrency.CONCURRENT,
        max_version=None,
        seats=50,
        overdraft=Overdraft(),
        sharing=Sharing.NONE,
        lease_seconds=600,
        linger_seconds=0,
        features=(),
        attributes={},
    )
    return replace(made, **changes)


def on_first_lease(name: str = "cad", *, days: int = 30, **changes: Any) -> Entitlement:
    """An entitlement whose dates the first lease sets."""
    undated = {"starts_at": None, "expires_at": None, "term": Term(unit=Unit.DAY, count=days)}
    return entitlement(name, start=Start.ON_FIRST_LEASE, **undated, **changes)


def counted(key: str = "frames", value: int = 10, *grants: Grant, **changes: Any) -> Feature:
    """A usage count."""
    return Feature(key=key, type=FeatureType.USAGE_COUNT, value=value, unit="frame", grants=grants, **changes)


def units(key: str = "tokens", value: int = 4, *grants: Grant, **changes: Any) -> Feature:
    """An element pool."""
    return Feature(key=key, type=FeatureType.ELEMENT_POOL, value=value, unit="token", grants=grants, **changes)


def switch(key: str = "render", value: int = 1, *, tracked: bool = True) -> Feature:
    return Feature(key=key, type=FeatureType.BOOL, value=value, tracked=tracked)


def grant(name: str, amount: int, *, seconds: float | None = None, **changes: Any) -> Grant:
    """Units from a day before the beginning on; ``seconds`` after the beginning they end, else never."""
    if seconds is not None:
        changes = {"expiry": GrantExpiry.AT, "at": T0 + timedelta(seconds=seconds), **changes}
    wanted = {"active_from": T0 - timedelta(days=1), "expiry": GrantExpiry.NEVER, **changes}
    return Grant(grant_id=f"grt_{name:A<22}", amount=amount, **wanted)


def reset_of(entitlement_id: str, feature: str | None = None) -> Command:
    return Command(type=RESET_USAGE, entitlement_id=entitlement_id, feature=feature)


def checkout(lease_id: str, *, seat_id: str | None = None, content: str = "", salt: str = "", **wish: Any) -> Checkout:
    """A wish of a holder of its own; ``user`` and ``host`` name the holder further."""
    named = {key: wish.pop(key) for key in ("user", "host") if key in wish}
    return Checkout(
        lease_id=lease_id,
        secret=secret_of(lease_id, salt),
        content=hashlib.sha256(content.encode()).digest(),
        holder=Holder(seat_id=seat_id or f"seat of {lease_id}", **named),
        nonce=f"nonce of {lease_id}",
        **{"product": "cad", **wish},
    )


@dataclass(kw_only=True)
class Vendor:
    """Issues bundles with rising sequences and remembers what stood in them."""

    products: frozenset[str] = frozenset({"cad", "cam"})
    sync_within: timedelta | None = None
    license_ends_at: datetime | None = None
    sequence: int = 0
    said: dict[str, dict[str, Entitlement]] = field(default_factory=dict)
    terms: dict[str, ServerTerms] = field(default_factory=dict)

    def bundle(self, *entitlements: Entitlement, now: Now | None = None, **changes: Any) -> Installation:
        now = now or at()
        self.sequence += 1
        bundle_id = f"bnd_{self.sequence:0>22}"
        terms = ServerTerms(
            bundle_id=bundle_id,
            certificate="certificate",
            certificate_ends_at=T0 + timedelta(days=4_000),
            products=self.products,
            license_ends_at=self.license_ends_at,
            sync_within=self.sync_within,
            customer_id=f"cus_{'':A<22}",
            customer_name="ACME",
            account_ref="ACME",
        )
        self.said[bundle_id] = {one.entitlement_id: one for one in entitlements}
        self.terms[bundle_id] = terms
        kept = KeptBundle(
            bundle_id=bundle_id,
            sequence=self.sequence,
            keys_version=1,
            issued_at=now.wall,
            imported_at=now.wall,
            digest=f"digest {self.sequence}",
            jws=f"bundle {self.sequence}",
        )
        made = Installation(
            kept=kept,
            terms=terms,
            entitlements=entitlements,
            commands={},
            key_sets={},
            acknowledgement=None,
            known_head=None,
            usage_carry=None,
        )
        return replace(made, **changes)

    def verified(self, loaded: Loaded, *, distrusted: frozenset[str] = frozenset()) -> dict[str, Entitlement]:
        """What the loaded bundles say, but for those that do not verify any more."""
        return {
            placed.entitlement_id: self.said[placed.bundle_id][placed.entitlement_id]
            for placed in loaded.placed
            if placed.bundle_id not in distrusted
        }

    def build(
        self, loaded: Loaded, now: Now, *, setting: Setting | None = None, distrusted: frozenset[str] = frozenset()
    ) -> Ledger:
        """The ledger that a daemon would build."""
        trusted = self.verified(loaded, distrusted=distrusted)
        newest = loaded.facts.get(Fact.TERMS_FROM)
        return Ledger(
            loaded,
            terms=self.terms[newest] if newest and newest not in distrusted else None,
            entitlements=trusted,
            problems={p.entitlement_id: "signature" for p in loaded.placed if p.entitlement_id not in trusted},
            now=now,
            commit_to=commit_to,
            setting=setting or Setting(grace_seconds=GRACE),
            policy=read_policy(loaded.facts.get(Fact.POLICY, "")),
        )


def ledger_of(*entitlements: Entitlement, vendor: Vendor | None = None, now: Now | None = None) -> Ledger:
    """A new server that has imported one bundle, committed."""
    vendor, now = vendor or Vendor(), now or at()
    ledger = vendor.build(Loaded(), now)
    ledger.install(vendor.bundle(*entitlements, now=now), actor="admin", now=now)
    ledger.settle()
    return ledger


def kinds(batch: Batch) -> list[str]:
    """What a group has posted."""
    return [entry.kind.value for entry in batch.entries]


def posted(batch: Batch, kind: str) -> list[Mapping[str, Any]]:
    """The data of the group's lines of one kind."""
    return [entry.data for entry in batch.entries if entry.kind == kind]


def receipt(report_id: str, *, up_to_seq: int, head: str, name: str = "one", now: Now | None = None) -> Acknowledgement:
    return Acknowledgement(
        receipt_id=f"rcp_{name:A<22}",
        report_id=report_id,
        up_to_seq=up_to_seq,
        head=head,
        made_at=(now or at()).wall,
    )
