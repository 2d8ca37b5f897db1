"""Rows ⇄ values: how leases, bundles and the rest stand in a table. The same for every SQL database.

Instants are integers, microseconds since 1970 in UTC: exact, short, and compared by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from lls.faults import LeaseEnd
from lls.licensing.changes import Ended, KeptBundle, Placed, SealedReport
from lls.licensing.lease import Holder, Lease, LeaseState

Row = Sequence[Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

LEASE_COLUMNS: Final = (
    "lease_id, secret, content, product, entitlement_id, seat_id, seat_name, user, host, process,"
    " seats, ttl, overdraft, granted_at, state"
)
REPORT_COLUMNS: Final = "report_id, from_seq, to_seq, prev_head, head, made_at, pseudonymised"
BUNDLE_COLUMNS: Final = "bundle_id, sequence, keys_version, issued_at, imported_at, digest, jws"


@lru_cache(maxsize=256)
def to_micros(at: datetime) -> int:
    """An aware instant → microseconds."""
    return (at - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Microseconds → an aware instant."""
    return _EPOCH + timedelta(microseconds=micros)


def lease_row(lease: Lease) -> Row:
    """In the order of ``LEASE_COLUMNS``."""
    holder = lease.holder
    return (
        lease.lease_id,
        lease.secret,
        lease.content,
        lease.product,
        lease.entitlement_id,
        holder.seat_id,
        holder.seat_name,
        holder.user,
        holder.host,
        holder.process,
        lease.seats,
        lease.ttl,
        int(lease.overdraft),
        to_micros(lease.granted_at),
        lease.state.value,
    )


def read_leases(rows: Sequence[Row]) -> list[Lease]:
    """Many at once: a start with a hundred thousand leases stands or falls with this loop."""
    same: dict[str, str] = {}  # one text for a product or entitlement that thousands of rows name
    share = same.setdefault
    states = {state.value: state for state in LeaseState}
    return [
        Lease(
            lease_id=lease_id,
            secret=secret,
            content=content,
            product=share(product, product),
            entitlement_id=share(entitlement_id, entitlement_id),
            holder=Holder(seat_id=seat_id, seat_name=seat_name, user=user, host=host, process=process),
            seats=seats,
            ttl=ttl,
            overdraft=overdraft == 1,
            granted_at=_EPOCH + timedelta(microseconds=granted_at),
            state=states[state],
        )
        for (
            lease_id,
            secret,
            content,
            product,
            entitlement_id,
            seat_id,
            seat_name,
            user,
            host,
            process,
            seats,
            ttl,
            overdraft,
            granted_at,
            state,
        ) in rows
    ]


def ended_row(lease_id: str, ended: Ended) -> Row:
    """``lease_id, secret, reason, at``."""
    return lease_id, ended.secret, ended.reason.value, to_micros(ended.at)


def read_ended(row: Row) -> tuple[str, Ended]:
    """The other way."""
    lease_id, secret, reason, at = row
    return lease_id, Ended(secret=secret, reason=LeaseEnd(reason), at=from_micros(at))


def bundle_row(kept: KeptBundle) -> Row:
    """In the order of ``BUNDLE_COLUMNS``."""
    stamps = to_micros(kept.issued_at), to_micros(kept.imported_at)
    return kept.bundle_id, kept.sequence, kept.keys_version, *stamps, kept.digest, kept.jws


def read_bundle(row: Row) -> KeptBundle:
    """The other way."""
    bundle_id, sequence, keys_version, issued_at, imported_at, digest, jws = row
    return KeptBundle(
        bundle_id=bundle_id,
        sequence=sequence,
        keys_version=keys_version,
        issued_at=from_micros(issued_at),
        imported_at=from_micros(imported_at),
        digest=digest,
        jws=jws,
    )


def placed_row(placed: Placed) -> Row:
    """``entitlement_id, session_id, sequence, bundle_id``."""
    return placed.entitlement_id, placed.session_id, placed.sequence, placed.bundle_id


def read_placed(row: Row) -> Placed:
    """The other way."""
    entitlement_id, session_id, sequence, bundle_id = row
    return Placed(entitlement_id=entitlement_id, session_id=session_id, sequence=sequence, bundle_id=bundle_id)


def report_row(report: SealedReport) -> Row:
    """In the order of ``REPORT_COLUMNS``."""
    span = report.from_seq, report.to_seq, report.prev_head, report.head
    return report.report_id, *span, to_micros(report.made_at), int(report.pseudonymised)


def read_report(row: Row) -> SealedReport:
    """The other way."""
    report_id, from_seq, to_seq, prev_head, head, made_at, pseudonymised = row
    return SealedReport(
        report_id=report_id,
        from_seq=from_seq,
        to_seq=to_seq,
        prev_head=prev_head,
        head=head,
        made_at=from_micros(made_at),
        pseudonymised=pseudonymised == 1,
    )
