"""What the administrator sees and does, on the admin socket.

Rules
1. Handlers only read the request and write the answer; what is shown is made in ``admin_views``.
2. Whoever acts is named in the journal, as the kernel names the peer.
3. What was asked for is done even if the caller has gone.
4. Files travel as bytes: a bundle in, a request or report out with its file name.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from lls.api.admin_views import (
    bundles_view,
    clock_view,
    denials_view,
    entitlements_view,
    import_view,
    leases_view,
    preview_view,
    reports_view,
    server_view,
    sliced,
    usage_view,
)
from lls.api.admin_wire import (
    BundlesView,
    CheckView,
    ClockForm,
    ClockView,
    DenialsView,
    EntitlementsView,
    GapView,
    ImportView,
    LeasesView,
    PreviewView,
    ReceiptView,
    ReleaseForm,
    ReportForm,
    ReportsView,
    ServerView,
    UsageView,
)
from lls.api.edge import (
    ACTOR,
    BYTES,
    EDGE,
    JSON,
    Pieces,
    Query,
    Route,
    answer,
    done,
    encode,
    file_answer,
    instant_of,
    number_of,
    parameters,
    read_document,
    read_form,
)
from lls.api.wire import LARGEST, MOST_SEATS, Form
from lls.faults import BadRequest
from lls.licensing import whatif
from lls.licensing.changes import SealedReport
from lls.licensing.usage import Bucket

NDJSON: Final = "application/x-ndjson"
MOST_LINES: Final = 100_000

_CLOCK, _RELEASE, _REPORT = Form(ClockForm), Form(ReleaseForm), Form(ReportForm)


async def server(request: web.Request) -> web.StreamResponse:
    """Who we are and how we are."""
    return answer(server_view(request.app[EDGE]))


async def activation_request(request: web.Request) -> web.StreamResponse:
    """The file that goes to the vendor."""
    airgap = request.app[EDGE].airgap
    return file_answer(airgap.request(), f"{airgap.identity.server_id}.llsreq")


async def clock(request: web.Request) -> web.StreamResponse:
    """What the machine says, and what the server goes by."""
    return answer(clock_view(request.app[EDGE].writer.now()))


async def set_clock(request: web.Request) -> web.StreamResponse:
    """Believe a clock that jumped ahead."""
    edge, actor = request.app[EDGE], request[ACTOR]
    await read_form(request, edge, _CLOCK)
    await edge.airgap.accept_clock(actor=actor)
    return answer(clock_view(edge.writer.now()))


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
    return answer(await entitlements_view(await writer.settled(), writer.now()))


async def leases(request: web.Request) -> web.StreamResponse:
    """Who holds what."""
    given, writer = parameters(request, "product", "holder"), request.app[EDGE].writer
    ledger = await writer.settled()
    return await _told_in_slices(
        request, await leases_view(ledger, writer.now(), product=given.get("product"), holder=given.get("holder"))
    )


async def release(request: web.Request) -> web.StreamResponse:
    """Take a seat back."""
    edge, lease_id, actor = request.app[EDGE], request.match_info["lease_id"].lower(), request[ACTOR]
    form = await read_form(request, edge, _RELEASE)
    # A command that is interrupted once it has asked has asked.
    await asyncio.shield(
        edge.writer.do(lambda ledger, now: ledger.release(lease_id, actor=actor, reason=form.reason, now=now))
    )
    return done()


async def denials(request: web.Request) -> web.StreamResponse:
    """Who was refused."""
    since = instant_of(parameters(request, "since").get("since"), "since")
    edge = request.app[EDGE]
    return answer(await edge.costly.read("denials", lambda: denials_view(edge, since), asked=since))


async def usage(request: web.Request) -> web.StreamResponse:
    """Peaks and seat-hours."""
    given = parameters(request, "from", "to", "bucket")
    since, until = instant_of(given.get("from"), "from"), instant_of(given.get("to"), "to")
    text, edge = given.get("bucket", Bucket.DAY), request.app[EDGE]
    if text not in set(Bucket):
        raise BadRequest("bucket must be hour or day.")
    bucket = Bucket(text)
    view = await edge.costly.read(
        "usage", lambda: usage_view(edge, since=since, until=until, bucket=bucket), asked=(since, until, bucket)
    )
    return answer(view)


async def what_if(request: web.Request) -> web.StreamResponse:
    """What another number of seats would have done."""
    given = parameters(request, "product", "seats", "from", "to")
    product, seats = given.get("product"), given.get("seats")
    if product is None or seats is None:
        raise BadRequest("Name the product and the number of seats: ?product=KEY&seats=N.")
    edge, wanted = request.app[EDGE], number_of(seats, "seats", default=0, most=MOST_SEATS)
    since, until = instant_of(given.get("from"), "from"), instant_of(given.get("to"), "to")
    outcome = await edge.costly.read(
        "what_if",
        lambda: edge.airgap.what_if(product, seats=wanted, since=since, until=until),
        asked=(product, wanted, since, until),
    )
    return answer(outcome)


async def journal(request: web.Request) -> web.StreamResponse:
    """Canonical lines, as they stand in the store."""
    given = parameters(request, "after", "limit")
    after = number_of(given.get("after"), "after", default=0, most=LARGEST)
    limit = number_of(given.get("limit"), "limit", default=1_000, most=MOST_LINES)
    chunks = request.app[EDGE].airgap.journal(after=after, limit=limit)
    # The first chunk comes before the status: a store that is down must not look like an empty journal.
    nothing: list[bytes] = []
    first = await anext(chunks, nothing)
    response = Pieces(NDJSON)
    await response.prepare(request)
    await response.write(_joined(first))
    async for chunk in chunks:
        await response.write(_joined(chunk))
    await response.write_eof()
    return response


async def verify_journal(request: web.Request) -> web.StreamResponse:
    """Does the chain hold."""
    edge = request.app[EDGE]
    check = await edge.costly.read("verify", edge.airgap.verify_journal)
    return answer(
        CheckView(
            ok=check.ok,
            lines=check.lines,
            head=check.head,
            first_seq=check.first_seq,
            last_seq=check.last_seq,
            problem=check.problem,
            archived_lines=check.archived_lines,
            left_out_upto=check.left_out_upto,
            gaps=[GapView(from_seq=first, to_seq=last) for first, last in check.gaps],
        )
    )


async def preview_report(request: web.Request) -> web.StreamResponse:
    """Exactly what would leave."""
    edge = request.app[EDGE]
    return answer(await edge.costly.read("preview", lambda: preview_view(edge)))


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


# ---------------------------------------------------------------- parts of handlers


def _flag(text: str | None, name: str) -> bool:
    if text not in (None, "0", "1"):
        raise BadRequest(f"{name} must be 0 or 1.")
    return text == "1"


async def _told_in_slices(request: web.Request, view: LeasesView) -> web.StreamResponse:
    """The same bytes as in one piece: putting thirty megabytes together would hold the loop for a tenth of a second."""
    response = Pieces(JSON)
    await response.prepare(request)
    lead = b'{"leases":['
    for items in (view.leases, view.waiting):
        await response.write(lead)
        for count, part in enumerate(sliced(list[Any](items))):
            await response.write((b"," if count else b"") + encode(part)[1:-1])
            await asyncio.sleep(0)
        lead = b'],"waiting":['
    await response.write(b"]}")
    await response.write_eof()
    return response


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

ALWAYS: Final = ("forbidden", "internal")
BODY: Final = ("bad_request", "too_large", "unsupported_media_type", "timeout")
WRITES: Final = ("overloaded", "not_primary", "store_down")

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/server",
        handler=server,
        summary="Identity, licence, clock, writership",
        answers={200: ServerView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/server/request",
        handler=activation_request,
        summary="The activation request for the vendor",
        answers={200: BYTES},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/clock",
        handler=clock,
        summary="What the machine's clock says, and what the server goes by",
        answers={200: ClockView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/clock",
        handler=set_clock,
        summary="Believe a clock that jumped ahead",
        answers={200: ClockView},
        form=ClockForm,
        faults=(*ALWAYS, *BODY, *WRITES),
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
        faults=(*ALWAYS, *BODY, *WRITES, "refused_document"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/bundles",
        handler=bundles,
        summary="Every bundle ever applied",
        answers={200: BundlesView},
        faults=(*ALWAYS, "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/entitlements",
        handler=entitlements,
        summary="What is hosted and how much of it is in use",
        answers={200: EntitlementsView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/leases",
        handler=leases,
        summary="Who holds what, who waits",
        answers={200: LeasesView},
        query=(Query(name="product", meaning="a product key"), Query(name="holder", meaning="part of a holder field")),
        faults=(*ALWAYS, "bad_request"),
        by="administrator",
    ),
    Route(
        method="DELETE",
        path="/v1/admin/leases/{lease_id}",
        handler=release,
        summary="Take a seat back",
        answers={204: None},
        form=ReleaseForm,
        faults=(*ALWAYS, *BODY, *WRITES, "unknown_lease", "borrowed"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/denials",
        handler=denials,
        summary="Who was refused and why",
        answers={200: DenialsView},
        query=(Query(name="since", meaning="an instant or a day"),),
        faults=(*ALWAYS, "bad_request", "store_down", "overloaded"),
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
        faults=(*ALWAYS, "bad_request", "store_down", "overloaded"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/usage/what-if",
        handler=what_if,
        summary="What another number of seats would have done",
        answers={200: whatif.Outcome},
        query=(
            Query(name="product", meaning="a product key; needed"),
            Query(name="seats", meaning="how many seats; needed", kind="integer"),
            Query(name="from", meaning="an instant or a day"),
            Query(name="to", meaning="an instant or a day"),
        ),
        faults=(*ALWAYS, "bad_request", "unknown_product", "not_found", "store_down", "overloaded"),
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
        faults=(*ALWAYS, "bad_request", "store_down"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/journal/verify",
        handler=verify_journal,
        summary="Check the chain",
        answers={200: CheckView},
        faults=(*ALWAYS, "store_down", "overloaded"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/reports/preview",
        handler=preview_report,
        summary="What the next report would carry",
        answers={200: PreviewView},
        faults=(*ALWAYS, "store_down", "overloaded"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/reports",
        handler=export_report,
        summary="Seal a report; its id stands in X-Report-Id",
        answers={200: BYTES},
        form=ReportForm,
        faults=(*ALWAYS, *BODY, *WRITES),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/reports",
        handler=reports,
        summary="Every report that was made",
        answers={200: ReportsView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/reports/{report_id}",
        handler=report,
        summary="The identical document again",
        answers={200: BYTES},
        faults=(*ALWAYS, "not_found", "store_down"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/receipts",
        handler=import_receipt,
        summary="Take in the vendor's receipt",
        answers={200: ReceiptView},
        media=BYTES,
        faults=(*ALWAYS, *BODY, *WRITES, "refused_document"),
        by="administrator",
    ),
)
