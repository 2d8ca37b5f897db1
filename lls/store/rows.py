"""Rows ⇄ values: how leases, bundles and the rest stand in a table. The same for every SQL database.

Instants are integers, microseconds since 1970 in UTC: exact, short, and compared by number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from lls.faults import LeaseEnd
from lls.licensing.account import ApiKey, Role, User
from lls.licensing.changes import (
    REQUESTS_KEPT,
    AnsweredRequest,
    Ended,
    FeatureAct,
    KeptBundle,
    LotUse,
    Placed,
    ReturnedEntitlement,
    SealedReport,
)
from lls.licensing.journal import Head
from lls.licensing.lease import NOTHING_HELD, Holder, Lease, LeaseState, Mode
from lls.licensing.retention import ArchivedRange

Row = Sequence[Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REQUEST_KEPT: Final = REQUESTS_KEPT // _MICROSECOND

LEASE_COLUMNS: Final = (
    "lease_id, secret, content, product, entitlement_id, seat_id, seat_name, user, host, process,"
    " seats, ttl, overdraft, granted_at, state, mode, features, until, key, address, silent_since"
)
PLACED_COLUMNS: Final = "entitlement_id, session_id, sequence, bundle_id, started_at, draining, assigned, renamed_at"
LOT_COLUMNS: Final = "entitlement_id, feature, lot, used, ended"
REQUEST_COLUMNS: Final = (
    "seq, lease_id, request_id, act, entitlement_id, feature, amount, at, held, available, total, draws, undone,"
    " strict, kept_until"
)
RETURN_COLUMNS: Final = "entitlement_id, session_id, up_to_seq, head, meters, borrowed_until, made_at"
REPORT_COLUMNS: Final = "report_id, from_seq, to_seq, prev_head, head, made_at, pseudonymised"
ARCHIVE_COLUMNS: Final = "to_seq, from_seq, prev_head, head, last_at, made_at, file, sha256, carry"
USER_COLUMNS: Final = "name, role, password, totp, totp_step, invite, invite_until, version, made_at"
KEY_COLUMNS: Final = "key_id, name, digest, role, scopes, expires_at, made_at"
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
        None if lease.mode is Mode.FLOATING else lease.mode.value,
        _write_json(dict(lease.features)) if lease.features else None,
        None if lease.until is None else to_micros(lease.until),
        lease.key,
        lease.address,
        None if lease.silent_since is None else to_micros(lease.silent_since),
    )


def read_leases(rows: Iterable[Row]) -> list[Lease]:
    """Many at once: a start with a hundred thousand leases stands or falls with this loop, in time and in memory."""
    # One object for what many rows have alike: product, entitlement, process number, time to live, the group's instant.
    same: dict[Any, Any] = {}
    share: Callable[[Any, Any], Any] = same.setdefault
    instants = _Instants()
    states = {state.value: state for state in LeaseState}
    modes: dict[str | None, Mode] = {mode.value: mode for mode in Mode}
    modes[None] = Mode.FLOATING
    return [
        Lease(
            lease_id=lease_id,
            secret=secret,
            content=content,
            product=share(product, product),
            entitlement_id=share(entitlement_id, entitlement_id),
            holder=Holder(seat_id=seat_id, seat_name=seat_name, user=user, host=host, process=share(process, process)),
            seats=seats,
            ttl=share(ttl, ttl),
            overdraft=overdraft == 1,
            granted_at=instants[granted_at],
            state=states[state],
            mode=modes[mode],
            features=NOTHING_HELD if features is None else json.loads(features),
            until=None if until is None else from_micros(until),
            key=key,
            address=share(address, address),
            silent_since=None if silent_since is None else from_micros(silent_since),
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
            mode,
            features,
            until,
            key,
            address,
            silent_since,
        ) in rows
    ]


class _Instants(dict[int, datetime]):
    """Instants by their microseconds: whoever was granted in one group shares one."""

    def __missing__(self, micros: int) -> datetime:
        instant = self[micros] = _EPOCH + timedelta(microseconds=micros)
        return instant


def ended_row(lease_id: str, ended: Ended) -> Row:
    """``lease_id, secret, reason, at``."""
    return lease_id, ended.secret, ended.reason.value, to_micros(ended.at)


def read_ended(rows: Iterable[Row]) -> dict[str, Ended]:
    """The other way, many at once: a day of returned leases stands in this table."""
    reasons, instants = {reason.value: reason for reason in LeaseEnd}, _Instants()
    return {
        lease_id: Ended(secret=secret, reason=reasons[reason], at=instants[at]) for lease_id, secret, reason, at in rows
    }


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
    """In the order of ``PLACED_COLUMNS``."""
    return (
        placed.entitlement_id,
        placed.session_id,
        placed.sequence,
        placed.bundle_id,
        None if placed.started_at is None else to_micros(placed.started_at),
        int(placed.returning),
        _write_json(placed.assigned),
        _write_json([to_micros(at) for at in placed.renamed_at]),
    )


def read_placed(row: Row) -> Placed:
    """The other way."""
    entitlement_id, session_id, sequence, bundle_id, started_at, draining, assigned, renamed_at = row
    return Placed(
        entitlement_id=entitlement_id,
        session_id=session_id,
        sequence=sequence,
        bundle_id=bundle_id,
        started_at=None if started_at is None else from_micros(started_at),
        returning=draining == 1,
        assigned=tuple(json.loads(assigned)),
        renamed_at=tuple(from_micros(at) for at in json.loads(renamed_at)),
    )


def lot_row(lot: LotUse) -> Row:
    """In the order of ``LOT_COLUMNS``."""
    return lot.entitlement_id, lot.feature, lot.lot, lot.used, int(lot.ended)


def read_lot(row: Row) -> LotUse:
    """The other way."""
    entitlement_id, feature, lot, used, ended = row
    return LotUse(entitlement_id=entitlement_id, feature=feature, lot=lot, used=used, ended=ended == 1)


def request_row(request: AnsweredRequest) -> Row:
    """In the order of ``REQUEST_COLUMNS``."""
    at, kept = to_micros(request.at), request.kept_until
    return (
        request.seq,
        request.lease_id,
        request.request_id,
        request.act.value,
        request.entitlement_id,
        request.feature,
        request.amount,
        at,
        request.held,
        request.available,
        request.total,
        _write_json(request.draws) if request.draws else None,
        int(request.undone),
        None if request.strict is None else to_micros(request.strict),
        at + _REQUEST_KEPT if kept is None else to_micros(kept),
    )


def read_requests(rows: Iterable[Row]) -> list[AnsweredRequest]:
    """Many at once: a day of uses stands in this table."""
    same: dict[str, str] = {}  # one text for the ids that thousands of rows name
    share, instants = same.setdefault, _Instants()
    acts = {act.value: act for act in FeatureAct}
    return [
        AnsweredRequest(
            seq=seq,
            lease_id=share(lease_id, lease_id),
            request_id=request_id,
            act=acts[act],
            entitlement_id=share(entitlement_id, entitlement_id),
            feature=share(feature, feature),
            amount=amount,
            at=instants[at],
            held=held,
            available=available,
            total=total,
            draws=() if draws is None else tuple((share(lot, lot), units) for lot, units in json.loads(draws)),
            undone=undone == 1,
            strict=None if strict is None else from_micros(strict),
            kept_until=None if kept_until - at == _REQUEST_KEPT else from_micros(kept_until),
        )
        for (
            seq,
            lease_id,
            request_id,
            act,
            entitlement_id,
            feature,
            amount,
            at,
            held,
            available,
            total,
            draws,
            undone,
            strict,
            kept_until,
        ) in rows
    ]


def return_row(returned: ReturnedEntitlement) -> Row:
    """In the order of ``RETURN_COLUMNS``."""
    until = None if returned.borrowed_until is None else to_micros(returned.borrowed_until)
    line = returned.up_to_seq, returned.head, returned.meters
    return returned.entitlement_id, returned.session_id, *line, until, to_micros(returned.made_at)


def read_return(row: Row) -> ReturnedEntitlement:
    """The other way."""
    entitlement_id, session_id, up_to_seq, head, meters, borrowed_until, made_at = row
    return ReturnedEntitlement(
        entitlement_id=entitlement_id,
        session_id=session_id,
        up_to_seq=up_to_seq,
        head=head,
        meters=meters,
        borrowed_until=None if borrowed_until is None else from_micros(borrowed_until),
        made_at=from_micros(made_at),
    )


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


def archive_row(archive: ArchivedRange) -> Row:
    """In the order of ``ARCHIVE_COLUMNS``."""
    chain = archive.end.seq, archive.from_seq, archive.prev_head, archive.end.hash
    return *chain, to_micros(archive.last_at), to_micros(archive.made_at), archive.file, archive.sha256, archive.carry


def read_archive(row: Row) -> ArchivedRange:
    """The other way."""
    to_seq, from_seq, prev_head, head, last_at, made_at, file, sha256, carry = row
    return ArchivedRange(
        from_seq=from_seq,
        end=Head(seq=to_seq, hash=head),
        prev_head=prev_head,
        last_at=from_micros(last_at),
        made_at=from_micros(made_at),
        file=file,
        sha256=sha256,
        carry=carry,
    )


def user_row(user: User) -> Row:
    """In the order of ``USER_COLUMNS``."""
    until = None if user.invite_until is None else to_micros(user.invite_until)
    factor = user.password, user.totp, user.totp_step
    return user.name, user.role.value, *factor, user.invite, until, user.version, to_micros(user.made_at)


def read_user(row: Row) -> User:
    """The other way."""
    name, role, password, totp, totp_step, invite, invite_until, version, made_at = row
    return User(
        name=name,
        role=Role(role),
        password=password,
        totp=totp,
        totp_step=totp_step,
        invite=invite,
        invite_until=None if invite_until is None else from_micros(invite_until),
        version=version,
        made_at=from_micros(made_at),
    )


def key_row(key: ApiKey) -> Row:
    """In the order of ``KEY_COLUMNS``."""
    expires = None if key.expires_at is None else to_micros(key.expires_at)
    return key.key_id, key.name, key.digest, key.role.value, _write_json(key.scopes), expires, to_micros(key.made_at)


def read_key(row: Row) -> ApiKey:
    """The other way."""
    key_id, name, digest, role, scopes, expires_at, made_at = row
    return ApiKey(
        key_id=key_id,
        name=name,
        digest=digest,
        role=Role(role),
        scopes=tuple(json.loads(scopes)),
        expires_at=None if expires_at is None else from_micros(expires_at),
        made_at=from_micros(made_at),
    )


def _write_json(value: Mapping[str, int] | Sequence[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
