"""What a client is told of its lease: the view, and the capability that is signed now over its nonce.

Rules
1. Features are told as of the last commit: what this lease holds, and what is left for anybody.
2. A capability's ``features`` claim names every switch of the entitlement, and beside them the units that this lease
   holds. It is the same text for all leases of an entitlement that hold nothing, and is made once for them.
3. A borrowed lease ends at its date, to the second, whatever the moment of the answer; its capability is bound to the
   machine: to the key that it made (``jkt``), else to its fingerprint.

Heartbeats pass through here (design §8): no await, and nothing is made that the answer does not need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from lls.api.edge import Edge, Shown, optional_instant, second
from lls.api.wire import FeatureView, LeaseView, ProductView, StandingView
from lls.licensing.entitlement import Entitlement, FeatureType, Standing
from lls.licensing.instant import Now
from lls.licensing.lease import Lease
from lls.licensing.ledger import Ledger
from lls.licensing.meters import FeatureLevel
from lls.licensing.seating import Pool
from lls.signed.capability import terms_claims

LAST_DAYS: Final = timedelta(days=30)


def lease_view(edge: Edge, lease: Lease, terms: Entitlement, now: Now) -> LeaseView:
    """A lease as its client sees it."""
    ledger, issued_at, shown = edge.writer.ledger, int(now.wall.timestamp()), _shown(edge, terms)
    left = ledger.remaining(lease, now)
    return LeaseView(
        lease_id=lease.lease_id,
        state=lease.state,
        mode=lease.mode,
        product=lease.product,
        entitlement_id=lease.entitlement_id,
        edition=terms.edition,
        seats=lease.seats,
        overdraft=lease.overdraft,
        holder=lease.holder.named(),
        granted_at=second(int(lease.granted_at.timestamp())),
        expires_at=second(expires_at(lease, issued_at=issued_at, left=left)),
        expires_in_seconds=left,
        heartbeat_seconds=ledger.pace(lease),
        idle_return_seconds=ledger.pools.policy.idle(lease.product),
        features=[feature_view(level) for level in ledger.feature_levels(lease, now)],
        attributes=shown.attributes,
        entitlement=_standing_view(shown, now),
    )


def expires_at(lease: Lease, *, issued_at: int, left: int) -> int:
    """The NumericDate at which a lease ends that has ``left`` seconds."""
    return issued_at + left if lease.until is None else int(lease.until.timestamp())


def capability_of(
    edge: Edge, lease: Lease, terms: Entitlement, *, issued_at: int, ends: int, left: int, nonce: str
) -> asyncio.Future[str]:
    """The server's word for a lease, soon: ``ends`` is from :func:`expires_at`."""
    shown = _shown(edge, terms)
    message = edge.airgap.capabilities.prepare(
        product=lease.product,
        lease_id=lease.lease_id,
        issued_at=issued_at,
        expires_at=ends,
        ttl=left,
        nonce=nonce,
        mode=lease.mode,
        entitlement_id=lease.entitlement_id,
        seats=lease.seats,
        seat_id=lease.holder.seat_id,
        terms=_with_held(shown, lease) if lease.features else shown.claims,
        cnf=None if lease.until is None else _bound_to(lease),
    )
    return edge.signing.sign(message)


def feature_view(level: FeatureLevel) -> FeatureView:
    """A feature's figures on the wire."""
    return FeatureView(
        key=level.key,
        type=level.type,
        value=level.value,
        unit=level.unit,
        currency=level.currency,
        held=level.held,
        available=level.available,
        total=level.total,
        consumed=level.consumed,
        overage=level.overage,
        ends_at=optional_instant(level.ends_at),
    )


def product_view(ledger: Ledger, product: str, pools: list[Pool], now: Now) -> ProductView:
    """The seats of all entitlements in force; one without limit makes the product's unlimited."""
    in_force = [
        pool.entitlement for pool in pools if pool.entitlement.standing(now.wall) in (Standing.ACTIVE, Standing.GRACE)
    ]
    seats = [terms.seats for terms in in_force]
    free = [free_seats(ledger, terms) for terms in in_force]
    return ProductView(
        product=product,
        name=pools[0].entitlement.product_name,
        seats=_sum(seats),
        in_use=sum(ledger.in_use(terms.entitlement_id) for terms in in_force),
        available=_sum(free),
    )


def free_seats(ledger: Ledger, terms: Entitlement) -> int | None:
    """Seats that could still be taken, the overdraft included; None is unlimited."""
    return None if terms.capacity is None else max(0, terms.capacity - ledger.in_use(terms.entitlement_id))


def last_days(ends: datetime | None, now: Now) -> int | None:
    """The whole days to an end that is near; None when it is not."""
    if ends is None or ends - now.wall > LAST_DAYS:
        return None
    return max(0, (ends - now.wall).days)


# ---------------------------------------------------------------- parts


def _standing_view(shown: Shown, now: Now) -> StandingView:
    terms = shown.terms
    standing = terms.standing(now.wall)
    return StandingView(
        status=standing,
        expires_at=shown.expires_at,
        expires_in_days=last_days(terms.expires_at, now),
        grace_expires_at=optional_instant(terms.ends_at) if standing is Standing.GRACE else None,
        maintenance_expires_on=terms.maintenance_expires_on,
    )


def _bound_to(lease: Lease) -> Mapping[str, str]:
    return {"fingerprint": lease.holder.seat_id} if lease.key is None else {"jkt": lease.key}


def _with_held(shown: Shown, lease: Lease) -> str:
    terms = shown.terms
    return terms_claims({**shown.switches, **lease.features}, terms.attributes, edition=terms.edition)


def _shown(edge: Edge, terms: Entitlement) -> Shown:
    kept = edge.shown.get(terms.entitlement_id)
    if kept is None or kept.terms is not terms:
        switches = {feature.key: feature.value > 0 for feature in terms.features if feature.type is FeatureType.BOOL}
        kept = edge.shown[terms.entitlement_id] = Shown(
            terms=terms,
            claims=terms_claims(switches, terms.attributes, edition=terms.edition),
            switches=switches,
            attributes=dict(terms.attributes),
            expires_at=optional_instant(terms.expires_at),
        )
    return kept


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
