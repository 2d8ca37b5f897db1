"""What the administrator sees and does, on the admin socket.

Rules
1. Each view is a plain function from the edge (or its ledger) to a value, so that pages can show the same without HTTP;
   the handlers below them only read the request and write the answer.
2. Lists show the last commit, never a group in flight.
3. Whoever acts is named in the journal, as the kernel names the peer.
4. Files travel as bytes: a bundle in, a request or report out with its file name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from aiohttp import web

from lls.airgap import Imported
from lls.api.admin_wire import (
    BundlesView,
    BundleView,
    CheckView,
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
    ReceiptView,
    ReleaseForm,
    ReportForm,
    ReportsView,
    ReportView,
    ServerView,
    StepView,
    StoreView,
    UsageView,
    WaitingView,
    WritershipView,
)
from lls.api.edge import (
    BYTES,
    EDGE,
    Edge,
    Query,
    Route,
    answer,
    done,
    instant,
    instant_of,
    number_of,
    parameters,
    read_document,
    read_form,
)
from lls.api.leases import FLOATING, feature_views, free_seats
from lls.api.status import chain_state
from lls.api.wire import LARGEST, Form
from lls.faults import BadRequest
from lls.licensing.changes import SealedReport
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import ClockState, Now
from lls.licensing.lease import Holder, Lease
from lls.licensing.ledger import Ledger
from lls.licensing.terms import Step
from lls.licensing.usage import COLUMNS, Bucket, UsageLine

ACTOR: Final = web.RequestKey("actor", str)
"""Where the guard leaves the administrator's name."""
NDJSON: Final = "application/x-ndjson"
MOST_LINES: Final = 100_000

_RELEASE, _REPORT = Form(ReleaseForm), Form(ReportForm)

# ---------------------------------------------------------------- views


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
        clock=_clock(now),
        writership=WritershipView(epoch=writer.epoch, seq=ledger.batch.before.seq, head=ledger.batch.before.hash),
        store=StoreView(kind=setting.store_kind, up=writer.down is None),
        chain=chain_state(ledger),
        started_at=setting.started_at,
        leases=sum(1 for _ in ledger.committed_leases()),
    )


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


def entitlements_view(ledger: Ledger, now: Now) -> EntitlementsView:
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
    return EntitlementsView(entitlements=[*(_entitlement(ledger, terms, now) for terms in known), *broken])


def leases_view(ledger: Ledger, now: Now, *, product: str | None = None, holder: str | None = None) -> LeasesView:
    """Who holds what and who waits; ``holder`` finds a part of any of a holder's fields, whatever its case."""
    wanted = [lease for lease in ledger.committed_leases() if _matches(lease.product, lease.holder, product, holder)]
    wanted.sort(key=lambda lease: (lease.granted_at, lease.lease_id))
    return LeasesView(
        leases=[_held(ledger, lease, now) for lease in wanted],
        waiting=[
            WaitingView(
                product=waiter.checkout.product,
                lease_id=waiter.checkout.lease_id,
                holder=waiter.checkout.holder.named(),
                seats=waiter.checkout.seats,
                position=ledger.waiting.position(waiter.checkout.lease_id) or 0,
                since=waiter.since.wall,
                open=waiter.open,
            )
            for waiter in ledger.waiting
            if _matches(waiter.checkout.product, waiter.checkout.holder, product, holder)
        ],
    )


async def denials_view(edge: Edge, since: datetime | None) -> DenialsView:
    """Who was refused, and by which rule."""
    return DenialsView(
        denials=[
            DenialView(
                at=line.at,
                code=line.code,
                rule=line.rule,
                product=line.product,
                entitlement_id=line.entitlement_id,
                holder=dict(line.holder),
                seats=line.seats,
                in_use=line.in_use,
                limit=line.limit,
                count=line.count,
            )
            for line in await edge.airgap.denials(since=since)
        ]
    )


async def usage_view(edge: Edge, *, since: datetime | None, until: datetime | None, bucket: Bucket) -> UsageView:
    """The usage table by day or hour."""
    lines = await edge.airgap.usage(since=since, until=until, bucket=bucket)
    return UsageView(lines=[usage_line(line, bucket=bucket) for line in lines])


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


# ---------------------------------------------------------------- handlers


async def server(request: web.Request) -> web.StreamResponse:
    """Who we are and how we are."""
    return answer(server_view(request.app[EDGE]))


async def activation_request(request: web.Request) -> web.StreamResponse:
    """The file that goes to the vendor."""
    airgap = request.app[EDGE].airgap
    return _file(airgap.request(), f"{airgap.identity.server_id}.llsreq")


async def import_bundle(request: web.Request) -> web.StreamResponse:
    """Apply a bundle, or show what it would change."""
    dry_run = _flag(parameters(request, "dry_run").get("dry_run"), "dry_run")
    data = await read_document(request)
    imported = await request.app[EDGE].airgap.import_bundle(data, actor=request[ACTOR], dry_run=dry_run)
    return answer(import_view(imported))


async def bundles(request: web.Request) -> web.StreamResponse:
    """The history."""
    return answer(await bundles_view(request.app[EDGE]))


async def entitlements(request: web.Request) -> web.StreamResponse:
    """What is hosted."""
    writer = request.app[EDGE].writer
    return answer(entitlements_view(await writer.settled(), writer.now()))


async def leases(request: web.Request) -> web.StreamResponse:
    """Who holds what."""
    given, writer = parameters(request, "product", "holder"), request.app[EDGE].writer
    ledger = await writer.settled()
    return answer(leases_view(ledger, writer.now(), product=given.get("product"), holder=given.get("holder")))


async def release(request: web.Request) -> web.StreamResponse:
    """Take a seat back."""
    edge, lease_id, actor = request.app[EDGE], request.match_info["lease_id"].lower(), request[ACTOR]
    form = await read_form(request, edge, _RELEASE)
    await edge.writer.do(lambda ledger, now: ledger.release(lease_id, actor=actor, reason=form.reason, now=now))
    return done()


async def denials(request: web.Request) -> web.StreamResponse:
    """Who was refused."""
    since = instant_of(parameters(request, "since").get("since"), "since")
    return answer(await denials_view(request.app[EDGE], since))


async def usage(request: web.Request) -> web.StreamResponse:
    """Peaks and seat-hours."""
    given = parameters(request, "from", "to", "bucket")
    since, until = instant_of(given.get("from"), "from"), instant_of(given.get("to"), "to")
    text = given.get("bucket", Bucket.DAY)
    if text not in set(Bucket):
        raise BadRequest("bucket must be hour or day.")
    return answer(await usage_view(request.app[EDGE], since=since, until=until, bucket=Bucket(text)))


async def journal(request: web.Request) -> web.StreamResponse:
    """Canonical lines, as they stand in the store."""
    given = parameters(request, "after", "limit")
    after = number_of(given.get("after"), "after", default=0, most=LARGEST)
    limit = number_of(given.get("limit"), "limit", default=1_000, most=MOST_LINES)
    chunks = request.app[EDGE].airgap.journal(after=after, limit=limit)
    # The first chunk comes before the status: a store that is down must not look like an empty journal.
    nothing: list[bytes] = []
    first = await anext(chunks, nothing)
    response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
    await response.prepare(request)
    await response.write(_joined(first))
    async for chunk in chunks:
        await response.write(_joined(chunk))
    await response.write_eof()
    return response


async def verify_journal(request: web.Request) -> web.StreamResponse:
    """Does the chain hold."""
    check = await request.app[EDGE].airgap.verify_journal()
    return answer(
        CheckView(
            ok=check.ok,
            lines=check.lines,
            head=check.head,
            first_seq=check.first_seq,
            last_seq=check.last_seq,
            problem=check.problem,
        )
    )


async def preview_report(request: web.Request) -> web.StreamResponse:
    """Exactly what would leave."""
    return answer(await preview_view(request.app[EDGE]))


async def export_report(request: web.Request) -> web.StreamResponse:
    """Seal a report and hand it out."""
    edge = request.app[EDGE]
    form = await read_form(request, edge, _REPORT)
    return _report(*await edge.airgap.export_report(pseudonymise=form.pseudonymise, actor=request[ACTOR]))


async def reports(request: web.Request) -> web.StreamResponse:
    """What was handed out."""
    return answer(reports_view(await request.app[EDGE].writer.settled()))


async def report(request: web.Request) -> web.StreamResponse:
    """The identical document again."""
    return _report(*await request.app[EDGE].airgap.report_file(request.match_info["report_id"]))


async def import_receipt(request: web.Request) -> web.StreamResponse:
    """The vendor's acknowledgement."""
    data = await read_document(request)
    receipt, already_applied = await request.app[EDGE].airgap.import_receipt(data, actor=request[ACTOR])
    return answer(
        ReceiptView(
            receipt_id=receipt.receipt_id,
            report_id=receipt.report_id,
            up_to_seq=receipt.up_to_seq,
            already_applied=already_applied,
        )
    )


# ---------------------------------------------------------------- parts of views


def _customer(ledger: Ledger) -> CustomerView | None:
    terms = ledger.server.terms
    if terms is None:
        return None
    return CustomerView(customer_id=terms.customer_id, name=terms.customer_name, account_ref=terms.account_ref)


def _license(ledger: Ledger, now: Now) -> LicenseView:
    terms = ledger.server.terms
    if terms is None:
        return LicenseView(state=ledger.server.license(now), expires_at=None, sync_within_days=None, sync_due_at=None)
    ends = [at for at in (terms.certificate_ends_at, terms.license_ends_at) if at is not None]
    return LicenseView(
        state=ledger.server.license(now),
        expires_at=min(ends),
        sync_within_days=None if terms.sync_within is None else terms.sync_within.days,
        sync_due_at=terms.sync_due_at(ledger.server.sync_from),
    )


def _clock(now: Now) -> ClockView:
    """While behind, the machine says less than the mark; after a jump ahead it says more."""
    machine = now.wall - timedelta(seconds=now.behind_seconds) if now.state is ClockState.BEHIND else now.strict
    return ClockView(now=machine, mark=now.wall, state=now.state, behind_seconds=now.behind_seconds)


def _entitlement(ledger: Ledger, terms: Entitlement, now: Now) -> EntitlementView:
    in_use, placed = ledger.in_use(terms.entitlement_id), ledger.placed.get(terms.entitlement_id)
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
        sharing=terms.sharing,
        lease_seconds=terms.lease_seconds,
        bundle_id=placed.bundle_id if placed else None,
        sequence=terms.sequence,
        features=feature_views(terms),
        attributes=terms.attributes,
    )


def _held(ledger: Ledger, lease: Lease, now: Now) -> HeldView:
    pool, left = ledger.pools.get(lease.entitlement_id), ledger.remaining(lease, now)
    return HeldView(
        lease_id=lease.lease_id,
        state=lease.state,
        mode=FLOATING,
        product=lease.product,
        entitlement_id=lease.entitlement_id,
        edition=pool.entitlement.edition if pool else None,
        seats=lease.seats,
        overdraft=lease.overdraft,
        holder=lease.holder.named(),
        granted_at=lease.granted_at,
        expires_at=now.wall + timedelta(seconds=left),
        expires_in_seconds=left,
        last_beat=lease.beat,
        clone_alarms=lease.clone_alarms,
    )


def _matches(product: str, holder: Holder, wanted_product: str | None, wanted_holder: str | None) -> bool:
    if wanted_product is not None and product != wanted_product:
        return False
    part = (wanted_holder or "").casefold()
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


# ---------------------------------------------------------------- parts of handlers


def _flag(text: str | None, name: str) -> bool:
    if text not in (None, "0", "1"):
        raise BadRequest(f"{name} must be 0 or 1.")
    return text == "1"


def _file(data: bytes, name: str) -> web.Response:
    headers = {
        "Content-Type": BYTES,
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return web.Response(body=data, headers=headers)


def _report(sealed: SealedReport, path: Path) -> web.FileResponse:
    return web.FileResponse(
        path,
        headers={
            "Content-Type": BYTES,
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{sealed.report_id}.llsreport"',
            "X-Report-Id": sealed.report_id,
        },
    )


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


# ---------------------------------------------------------------- routes

_ALWAYS: Final = ("forbidden", "internal")
_BODY: Final = ("bad_request", "too_large", "unsupported_media_type", "timeout")
_WRITES: Final = ("overloaded", "not_primary", "store_down")

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/server",
        handler=server,
        summary="Identity, licence, clock, writership",
        answers={200: ServerView},
        faults=_ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/server/request",
        handler=activation_request,
        summary="The activation request for the vendor",
        answers={200: BYTES},
        faults=_ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/bundles",
        handler=import_bundle,
        summary="Apply a bundle, or show what it would change",
        answers={200: ImportView},
        media=BYTES,
        query=(Query(name="dry_run", meaning="1: change nothing"),),
        faults=(*_ALWAYS, *_BODY, *_WRITES, "refused_document"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/bundles",
        handler=bundles,
        summary="Every bundle ever applied",
        answers={200: BundlesView},
        faults=(*_ALWAYS, "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/entitlements",
        handler=entitlements,
        summary="What is hosted and how much of it is in use",
        answers={200: EntitlementsView},
        faults=_ALWAYS,
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/leases",
        handler=leases,
        summary="Who holds what, who waits",
        answers={200: LeasesView},
        query=(Query(name="product", meaning="a product key"), Query(name="holder", meaning="part of a holder field")),
        faults=(*_ALWAYS, "bad_request"),
        by="administrator",
    ),
    Route(
        method="DELETE",
        path="/v1/admin/leases/{lease_id}",
        handler=release,
        summary="Take a seat back",
        answers={204: None},
        form=ReleaseForm,
        faults=(*_ALWAYS, *_BODY, *_WRITES, "unknown_lease"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/denials",
        handler=denials,
        summary="Who was refused and why",
        answers={200: DenialsView},
        query=(Query(name="since", meaning="an instant or a day"),),
        faults=(*_ALWAYS, "bad_request", "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/usage",
        handler=usage,
        summary="Usage by day or hour",
        answers={200: UsageView},
        query=(
            Query(name="from", meaning="an instant or a day"),
            Query(name="to", meaning="an instant or a day"),
            Query(name="bucket", meaning="hour or day"),
        ),
        faults=(*_ALWAYS, "bad_request", "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/journal",
        handler=journal,
        summary="Journal lines, canonical",
        answers={200: NDJSON},
        query=(
            Query(name="after", meaning="a line number", kind="integer"),
            Query(name="limit", meaning="how many at most", kind="integer"),
        ),
        faults=(*_ALWAYS, "bad_request", "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/journal/verify",
        handler=verify_journal,
        summary="Check the chain",
        answers={200: CheckView},
        faults=(*_ALWAYS, "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/reports/preview",
        handler=preview_report,
        summary="What the next report would carry",
        answers={200: PreviewView},
        faults=(*_ALWAYS, "store_down"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/reports",
        handler=export_report,
        summary="Seal a report; its id stands in X-Report-Id",
        answers={200: BYTES},
        form=ReportForm,
        faults=(*_ALWAYS, *_BODY, *_WRITES),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/reports",
        handler=reports,
        summary="Every report that was made",
        answers={200: ReportsView},
        faults=_ALWAYS,
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/reports/{report_id}",
        handler=report,
        summary="The identical document again",
        answers={200: BYTES},
        faults=(*_ALWAYS, "not_found", "store_down"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/receipts",
        handler=import_receipt,
        summary="Take in the vendor's receipt",
        answers={200: ReceiptView},
        media=BYTES,
        faults=(*_ALWAYS, *_BODY, *_WRITES, "refused_document"),
        by="administrator",
    ),
)
