"""What the administrator is shown, as values: the pages and the admin socket show the same.

Rules
1. Each view is a plain function from the edge (or its ledger) to a value; none knows of HTTP.
2. Lists show the last commit, never a group in flight.
3. What can be long is made in slices of about 2 ms; others have their turn between them (design §2).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Final

from lls.airgap import Imported
from lls.api.admin_wire import (
    ArchiveNote,
    AssignmentView,
    BindingView,
    BorrowsView,
    BorrowView,
    BundlesView,
    BundleView,
    ClockView,
    CustomerView,
    DenialsView,
    DenialView,
    Difference,
    EntitlementsView,
    EntitlementView,
    HeldView,
    ImportView,
    LeasesView,
    LicenseView,
    PreviewView,
    ReceiptIn,
    ReportsView,
    ReportView,
    ServerView,
    StepView,
    StoreView,
    UsageView,
    WaitingView,
    WritershipView,
)
from lls.api.edge import Edge, instant
from lls.api.lease_views import feature_view, free_seats
from lls.api.status import binding_state, chain_state
from lls.api.wire import T
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import ClockState, Now
from lls.licensing.lease import Holder, Lease
from lls.licensing.ledger import Ledger
from lls.licensing.terms import Step
from lls.licensing.usage import COLUMNS, Bucket, UsageLine
from lls.licensing.waiting import Waiter
from lls.turns import in_turns

_IN_SLICE: Final = 256


def server_view(edge: Edge) -> ServerView:
    """Identity, licence, clock and writership."""
    writer, airgap, setting = edge.writer, edge.airgap, edge.setting
    ledger, now = writer.ledger, writer.now()
    return ServerView(
        server_id=airgap.identity.server_id,
        name=setting.name,
        version=setting.version,
        keys_version=airgap.keys_version,
        bundle_sequence=ledger.server.sequence_seen,
        customer=_customer(ledger),
        license=_license(ledger, now),
        clock=clock_view(now),
        binding=_binding(ledger),
        writership=WritershipView(epoch=writer.epoch, seq=ledger.batch.before.seq, head=ledger.batch.before.hash),
        store=StoreView(kind=setting.store_kind, up=writer.down is None),
        chain=chain_state(ledger),
        started_at=setting.started_at,
        leases=sum(1 for _ in ledger.committed_leases()),
    )


def clock_view(now: Now) -> ClockView:
    """While behind, the machine says less than the mark; after a jump ahead it says more."""
    machine = now.wall - timedelta(seconds=now.behind_seconds) if now.state is ClockState.BEHIND else now.strict
    return ClockView(now=machine, mark=now.wall, state=now.state, behind_seconds=now.behind_seconds)


def import_view(imported: Imported) -> ImportView:
    """What a bundle changed, or would change."""
    bundle, outcome = imported.bundle, imported.outcome
    receipt = outcome.acknowledged
    return ImportView(
        bundle_id=bundle.bundle_id,
        sequence=bundle.sequence,
        server_id=bundle.server_id,
        customer=CustomerView(
            customer_id=bundle.customer.customer_id,
            name=bundle.customer.name,
            account_ref=bundle.customer.account_ref,
        ),
        issued_at=bundle.issued_at,
        not_after=bundle.not_after,
        dry_run=imported.dry_run,
        applied=not imported.dry_run and not outcome.already_applied,
        already_applied=outcome.already_applied,
        keys_added=list(imported.keys_added),
        entitlements=[_step(step, outcome.leases_ended) for step in outcome.steps],
        receipt=ReceiptIn(report_id=receipt.report_id, up_to_seq=receipt.up_to_seq) if receipt else None,
        warnings=list(outcome.warnings),
        adopted_upto=None if outcome.adoption is None else outcome.adoption.onto.seq,
    )


async def bundles_view(edge: Edge) -> BundlesView:
    """Every bundle ever applied, newest first."""
    ledger = await edge.writer.settled()
    placed = Counter(one.bundle_id for one in ledger.placed.values())
    distrusted = {ledger.placed[entitlement_id].bundle_id for entitlement_id in ledger.problems}
    return BundlesView(
        bundles=[
            BundleView(
                bundle_id=kept.bundle_id,
                sequence=kept.sequence,
                imported_at=kept.imported_at,
                issued_at=kept.issued_at,
                entitlements=placed[kept.bundle_id],
                state="distrusted" if kept.bundle_id in distrusted else "applied",
            )
            for kept in await edge.airgap.bundles()
        ]
    )


async def entitlements_view(ledger: Ledger, now: Now) -> EntitlementsView:
    """What is hosted, by product and then by end; what did not verify again stands last, with the reason."""
    known = sorted(
        (pool.entitlement for pool in ledger.pools.values()),
        key=lambda terms: (terms.product, terms.ends_at is None, terms.ends_at or now.wall, terms.entitlement_id),
    )
    broken = [
        EntitlementView(
            entitlement_id=entitlement_id,
            bundle_id=ledger.placed[entitlement_id].bundle_id,
            sequence=ledger.placed[entitlement_id].sequence,
            problem=why,
        )
        for entitlement_id, why in sorted(ledger.problems.items())
    ]
    away = Counter[str]()
    for lease in ledger.loans:
        away[lease.entitlement_id] += lease.seats
    hosted = [_entitlement(ledger, terms, now, away=away[terms.entitlement_id]) async for terms in in_turns(known)]
    return EntitlementsView(entitlements=[*hosted, *broken])


async def leases_view(ledger: Ledger, now: Now, *, product: str | None = None, holder: str | None = None) -> LeasesView:
    """Who holds what and who waits; ``holder`` finds a part of any of a holder's fields, whatever its case.

    Of one moment, and yet made in slices: a site of a hundred thousand leases must not wait for its list.
    """
    slices = []
    for part in sliced(list(ledger.committed_leases())):
        wanted = [lease for lease in part if _matches(lease.product, lease.holder, product, holder)]
        slices.append(sorted(wanted, key=_since))
        await asyncio.sleep(0)
    held = []
    for count, lease in enumerate(heapq.merge(*slices, key=_since), start=1):
        held.append(_held(ledger, lease, now))
        if count % _IN_SLICE == 0:
            await asyncio.sleep(0)
    waiting, places = [], Counter[str]()
    for asking in sliced(list(ledger.waiting)):
        for waiter in asking:
            places[waiter.checkout.product] += 1
            if _matches(waiter.checkout.product, waiter.checkout.holder, product, holder):
                waiting.append(_waiting(waiter, position=places[waiter.checkout.product]))
        await asyncio.sleep(0)
    return LeasesView(leases=held, waiting=waiting)


async def borrows_view(ledger: Ledger, now: Now) -> BorrowsView:
    """Which seats are away, the first to end first."""
    away: list[tuple[datetime, str, Lease]] = []
    for part in sliced(list(ledger.committed_leases())):
        away += [(lease.until, lease.lease_id, lease) for lease in part if lease.until is not None]
        await asyncio.sleep(0)
    held = []
    for some in sliced(sorted(away, key=lambda one: one[:2])):
        held += [_held(ledger, lease, now) for _until, _id, lease in some]
        await asyncio.sleep(0)
    return BorrowsView(borrows=held)


async def denials_view(edge: Edge, since: datetime | None) -> DenialsView:
    """Who was refused, and by which rule."""
    return DenialsView(
        denials=[
            DenialView(
                at=line.at,
                code=line.code,
                rule=line.rule,
                cause=line.cause,
                remedy=line.remedy or None,
                product=line.product,
                feature=line.feature,
                entitlement_id=line.entitlement_id,
                holder=dict(line.holder),
                seats=line.seats,
                in_use=line.in_use,
                limit=line.limit,
                count=line.count,
            )
            for line in await edge.airgap.denials(since=since)
        ],
        archived=_archived(edge, since),
    )


async def usage_view(edge: Edge, *, since: datetime | None, until: datetime | None, bucket: Bucket) -> UsageView:
    """The usage table by day or hour."""
    lines = await edge.airgap.usage(since=since, until=until, bucket=bucket)
    return UsageView(lines=[usage_line(line, bucket=bucket) for line in lines], archived=_archived(edge, since))


async def preview_view(edge: Edge) -> PreviewView:
    """What the next report would carry."""
    preview = await edge.airgap.preview_report()
    return PreviewView(
        from_seq=preview.from_seq,
        to_seq=preview.to_seq,
        lines=preview.lines,
        usage=[usage_line(line) for line in preview.usage],
        kinds=dict(preview.kinds),
    )


def reports_view(ledger: Ledger) -> ReportsView:
    """Every report that was made, oldest first."""
    acknowledged = ledger.server.acknowledged.seq
    return ReportsView(
        reports=[
            ReportView(
                report_id=report.report_id,
                from_seq=report.from_seq,
                to_seq=report.to_seq,
                made_at=report.made_at,
                pseudonymised=report.pseudonymised,
                acknowledged=report.to_seq <= acknowledged,
            )
            for report in sorted(ledger.reports.values(), key=lambda report: report.to_seq)
        ]
    )


def usage_line(line: UsageLine, *, bucket: Bucket = Bucket.DAY) -> dict[str, str | int | None]:
    """A line of ``usage.csv`` as an object, its columns in their order."""
    names = {"day": "bucket"} if bucket is Bucket.HOUR else {}
    values = {column: getattr(line, column) for column in COLUMNS}
    return {
        names.get(column, column): instant(value) if isinstance(value, datetime) else value
        for column, value in values.items()
    }


# ---------------------------------------------------------------- parts of views


def _archived(edge: Edge, since: datetime | None) -> ArchiveNote | None:
    """What a question from ``since`` on does not reach any more."""
    last = edge.airgap.archived
    if last is None or (since is not None and since > last.last_at):
        return None
    return ArchiveNote(upto_seq=last.end.seq, last_at=last.last_at)


def _customer(ledger: Ledger) -> CustomerView | None:
    terms = ledger.server.terms
    if terms is None:
        return None
    return CustomerView(customer_id=terms.customer_id, name=terms.customer_name, account_ref=terms.account_ref)


def _license(ledger: Ledger, now: Now) -> LicenseView:
    terms = ledger.server.terms
    if terms is None:
        return LicenseView(state=ledger.server.license(now), expires_at=None, sync_within_days=None, sync_due_at=None)
    return LicenseView(
        state=ledger.server.license(now),
        expires_at=terms.ends_at,
        sync_within_days=None if terms.sync_within is None else terms.sync_within.days,
        sync_due_at=terms.sync_due_at(ledger.server.sync_from),
    )


def _binding(ledger: Ledger) -> BindingView:
    server = ledger.server
    terms = None if server.terms is None else server.terms.binding
    return BindingView(
        state=binding_state(ledger),
        since=server.unbound_since,
        ends_at=server.unbound_ends_at,
        changed=server.changed_parts,
        required=0 if terms is None else terms.required,
        enrolled=0 if terms is None else len(terms.components),
    )


def _entitlement(ledger: Ledger, terms: Entitlement, now: Now, *, away: int) -> EntitlementView:
    in_use, placed = ledger.in_use(terms.entitlement_id), ledger.placed.get(terms.entitlement_id)
    named, release = terms.named_users, terms.node_lock_release
    levels = ledger.meters.levels(None, terms.entitlement_id, now=now, committed=True)
    return EntitlementView(
        entitlement_id=terms.entitlement_id,
        order_ref=terms.order_ref,
        product=terms.product,
        product_name=terms.product_name,
        sku=terms.sku,
        offering=terms.offering,
        edition=terms.edition,
        status=terms.status,
        standing=terms.standing(now.wall),
        starts_at=terms.starts_at,
        expires_at=terms.expires_at,
        grace_expires_at=terms.ends_at,
        maintenance_expires_on=terms.maintenance_expires_on,
        seats=terms.seats,
        in_use=in_use,
        available=free_seats(ledger, terms),
        overdraft=0 if terms.seats is None else max(0, in_use - terms.seats),
        waiting=ledger.waiting.length(terms.product),
        concurrency=terms.concurrency,
        sharing=terms.sharing,
        lease_seconds=terms.lease_seconds,
        started_at=placed.started_at if placed else None,
        borrow=BorrowView(max_seconds=terms.borrow.max_seconds, max_seats=terms.borrow.max_seats),
        borrowed=away,
        named_users=list(named.names),
        named_user_assignment=AssignmentView(by_site=named.by_site, changes_per_month=named.changes_per_month),
        assigned=list(placed.assigned) if placed else [],
        node_lock_release_after_seconds=None if release is None else int(release.total_seconds()),
        returning=placed is not None and placed.returning,
        bundle_id=placed.bundle_id if placed else None,
        sequence=terms.sequence,
        features=[feature_view(level) for level in levels],
        attributes=terms.attributes,
    )


def _held(ledger: Ledger, lease: Lease, now: Now) -> HeldView:
    pool, left = ledger.pools.get(lease.entitlement_id), ledger.remaining(lease, now)
    return HeldView(
        lease_id=lease.lease_id,
        state=lease.state,
        mode=lease.mode,
        product=lease.product,
        entitlement_id=lease.entitlement_id,
        edition=pool.entitlement.edition if pool else None,
        seats=lease.seats,
        overdraft=lease.overdraft,
        holder=lease.holder.named(),
        granted_at=lease.granted_at,
        expires_at=now.wall + timedelta(seconds=left) if lease.until is None else lease.until,
        expires_in_seconds=left,
        until=lease.until,
        by_file=lease.key is not None,
        address=lease.address,
        features=dict(lease.features),
        last_beat=lease.beat,
        clone_alarms=lease.clone_alarms,
    )


def _waiting(waiter: Waiter, *, position: int) -> WaitingView:
    return WaitingView(
        product=waiter.checkout.product,
        lease_id=waiter.checkout.lease_id,
        holder=waiter.checkout.holder.named(),
        seats=waiter.checkout.seats,
        position=position,
        since=waiter.since.wall,
        open=waiter.open,
    )


def _since(lease: Lease) -> tuple[datetime, str]:
    return lease.granted_at, lease.lease_id


def sliced(items: list[T]) -> Iterator[list[T]]:
    """The same in pieces that take about 2 ms each."""
    return (items[start : start + _IN_SLICE] for start in range(0, len(items), _IN_SLICE))


def _matches(product: str, holder: Holder, wanted_product: str | None, wanted_holder: str | None) -> bool:
    if wanted_product is not None and product != wanted_product:
        return False
    if not wanted_holder:
        return True
    part = wanted_holder.casefold()
    return any(part in value.casefold() for value in holder.named().values())


def _step(step: Step, leases_ended: Mapping[str, int]) -> StepView:
    terms = step.entitlement
    return StepView(
        entitlement_id=terms.entitlement_id,
        product=terms.product,
        sku=terms.sku,
        edition=terms.edition,
        seats=terms.seats,
        change=step.change,
        reason=step.reason,
        differences=_differences(step.before, terms),
        leases_ended=leases_ended.get(terms.entitlement_id, 0),
    )


_NOT_SHOWN: Final = frozenset({"sequence", "activation_codes"})
"""The sequence always differs; codes are worth money and stay out of every list."""


def _differences(before: Entitlement | None, after: Entitlement) -> list[Difference]:
    if before is None:
        return []
    found = []
    for name in (one.name for one in fields(Entitlement) if one.name not in _NOT_SHOWN):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(Difference(field=name, old=_shown(old), new=_shown(new)))
    if before.activation_codes != after.activation_codes:
        counts = len(before.activation_codes), len(after.activation_codes)
        found.append(Difference(field="activation_codes", old=f"{counts[0]} codes", new=f"{counts[1]} codes"))
    return found


def _shown(value: object) -> object:
    return int(value.total_seconds()) if isinstance(value, timedelta) else value
