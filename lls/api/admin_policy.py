"""The site's policy as the administrator sees it: its text and rules, what they say to somebody, and reading it again.

Rules
1. An explanation asks the very rules that decide, and posts nothing: it can be asked as often as one likes.
2. A policy that is refused changes nothing; the refusal names every problem.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from lls.api import problems
from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.admin_wire import (
    ExplanationView,
    PolicyChangeView,
    PolicyCheckView,
    PolicyView,
    ReloadView,
    RuleView,
    StepOfExplanation,
)
from lls.api.edge import ACTOR, BYTES, EDGE, Edge, Query, Route, answer, number_of, parameters, read_document
from lls.api.wire import MOST_SEATS
from lls.faults import BadRequest, Refusal, RefusedDocument, Scalar, SetupFault
from lls.licensing.changes import Fact
from lls.licensing.denial import Denial
from lls.licensing.entitlement import normalise_code
from lls.licensing.explaining import Explanation
from lls.licensing.lease import Checkout, Holder
from lls.licensing.policy_file import read_policy

_ASKED: Final = (
    Query(name="product", meaning="a product key; needed"),
    Query(name="user", meaning="who asks"),
    Query(name="host", meaning="the name of the machine that asks"),
    Query(name="seat_id", meaning="the fingerprint of the machine that asks"),
    Query(name="address", meaning="the network address that asks"),
    Query(name="version", meaning="the version of the application"),
    Query(name="edition", meaning="the edition that the application asks for"),
    Query(name="seats", meaning="how many seats; 1 if left out", kind="integer"),
    Query(name="activation_code", meaning="the activation code, where the entitlement has any"),
)


async def policy(request: web.Request) -> web.StreamResponse:
    """What is in force."""
    edge = request.app[EDGE]
    ledger = await edge.writer.settled()
    in_force = ledger.pools.policy
    return answer(
        PolicyView(
            text=ledger.facts.get(Fact.POLICY, ""),
            rules=[RuleView(rule=rule.rule, name=rule.name, product=rule.product) for rule in in_force.rules],
            doubts=list(in_force.doubts(ledger.pools)),
        )
    )


async def check(request: web.Request) -> web.StreamResponse:
    """What would be said of another text."""
    text = await _policy_text(request)
    proposed = await asyncio.to_thread(read_policy, text)
    ledger = await request.app[EDGE].writer.settled()
    return answer(PolicyCheckView(rules=len(proposed.rules), doubts=list(proposed.doubts(ledger.pools))))


async def explain(request: web.Request) -> web.StreamResponse:
    """What would be decided of a checkout now, and by which rules."""
    given, writer = parameters(request, *(query.name for query in _ASKED)), request.app[EDGE].writer
    wish = _wish(given)
    # In a group of its own: nothing that is not committed yet may be told.
    told = await writer.do(lambda ledger, now: ledger.explain(wish, now=now))
    return answer(_explanation_view(told))


async def reload(request: web.Request) -> web.StreamResponse:
    """Read the policy's file again."""
    edge = request.app[EDGE]
    change = await edge.airgap.reload_policy(actor=request[ACTOR])
    view = PolicyChangeView(
        added=list(change.added), removed=list(change.removed), rules=change.rules, doubts=list(change.doubts)
    )
    return answer(ReloadView(policy=view, tls_changed=await _reload_certificate(edge)))


async def _reload_certificate(edge: Edge) -> bool:
    try:
        return edge.doors is not None and await asyncio.to_thread(edge.doors.look)
    except SetupFault as fault:
        raise RefusedDocument(Refusal.MALFORMED, f"The policy is in force. {fault.detail}") from fault


async def _policy_text(request: web.Request) -> str:
    try:
        return (await read_document(request)).decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedDocument(Refusal.MALFORMED, "The policy is not UTF-8.") from None


def _wish(given: dict[str, str]) -> Checkout:
    if not given.get("product"):
        raise BadRequest("Name the product that is asked for: ?product=KEY.")
    seats = number_of(given.get("seats"), "seats", default=1, most=MOST_SEATS)
    if not seats:
        raise BadRequest("seats must be 1 or more.")
    code = given.get("activation_code")
    return Checkout(
        lease_id="",
        secret=b"",
        content=b"",
        product=given["product"],
        holder=Holder(seat_id=given.get("seat_id", ""), user=given.get("user"), host=given.get("host")),
        nonce="",
        seats=seats,
        activation_code=None if code is None else normalise_code(code),
        edition=given.get("edition"),
        version=given.get("version"),
        address=given.get("address"),
    )


def _explanation_view(told: Explanation) -> ExplanationView:
    outcome = told.outcome
    steps = [
        StepOfExplanation(rule=step.rule, verdict=step.verdict, words=step.words, entitlement_id=step.entitlement_id)
        for step in told.steps
    ]
    if isinstance(outcome, Denial):
        return ExplanationView(steps=steps, granted=False, outcome=problems.of_denial(outcome))
    entitlement_id = outcome.pool.entitlement.entitlement_id
    seat: dict[str, Scalar] = {"entitlement_id": entitlement_id, "taken": outcome.taken, "overdraft": outcome.overdraft}
    return ExplanationView(steps=steps, granted=True, outcome=seat)


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/policy",
        handler=policy,
        summary="The site's policy in force",
        answers={200: PolicyView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/policy/check",
        handler=check,
        summary="What would be said of another policy; nothing is changed",
        answers={200: PolicyCheckView},
        media=BYTES,
        faults=(*ALWAYS, *BODY, "refused_document"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/policy/explain",
        handler=explain,
        summary="What would be decided of a checkout now, and by which rules",
        answers={200: ExplanationView},
        query=_ASKED,
        faults=(*ALWAYS, "bad_request", "bad_activation_code", "unknown_product"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/reload",
        handler=reload,
        summary="Read the site's policy and its TLS certificate again and put them in force",
        answers={200: ReloadView},
        faults=(*ALWAYS, *WRITES, "refused_document"),
        by="administrator",
    ),
)
