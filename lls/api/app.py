"""The two applications: one for the network, one for the admin socket; and the one middleware.

Rules
1. ``door`` stands before every handler of both: faults become problems, failures are counted against their address,
   answers are counted by route. What is no fault is our mistake: it is logged with its trace and told as ``internal``.
2. The admin socket serves everything under ``/v1/admin`` and the operation calls. ``guard`` lets in only whom the
   kernel names. Where the site wants it (``admin.http``) the network serves the same administration and logins;
   ``gatekeeper`` lets in whom ``callers`` admits. ``within`` keeps applications to the site's networks.
3. Nothing is swallowed: a cancelled handler (the client is gone) stays cancelled.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from lls.api import (
    admin,
    admin_accounts,
    admin_backup,
    admin_care,
    admin_events,
    admin_hosting,
    admin_policy,
    admin_session,
    admin_tls,
    documents,
    features,
    leases,
    openapi,
    problems,
    status,
)
from lls.api.auth import COUNTED, administrator
from lls.api.callers import CALLER, Caller, admitted
from lls.api.connections import Refuse
from lls.api.edge import ACTOR, EDGE, Edge, Handler, Route
from lls.api.roles import rule_of
from lls.faults import BadActivationCode, Fault, Field, Forbidden, TooManyRequests
from lls.licensing.account import Role

LAN_ROUTES: Final = (*leases.ROUTES, *features.ROUTES, *documents.ROUTES, *status.ROUTES, status.LAN_METRICS)
ADMIN_ROUTES: Final = (
    *admin.ROUTES,
    *admin_hosting.ROUTES,
    *admin_policy.ROUTES,
    *admin_care.ROUTES,
    *admin_accounts.ROUTES,
    *admin_backup.ROUTES,
    *admin_events.ROUTES,
    *admin_tls.ROUTES,
    *status.ROUTES,
    status.METRICS,
)
ADMINISTRATION: Final = "/v1/admin/"
NETWORK_ADMIN_ROUTES: Final = (
    *admin_session.ROUTES,
    *(route for route in ADMIN_ROUTES if route.path.startswith(ADMINISTRATION)),
)
"""What the network serves beside ``LAN_ROUTES`` where administration over it is on."""

_UNMATCHED: Final = "unmatched"
_MALFORMED: Final = "malformed"

_log = logging.getLogger(__name__)


def init_app(edge: Edge) -> web.Application:
    """The application for the network: leases, documents, operation, and administration where the site wants it."""
    routes = (*LAN_ROUTES, *NETWORK_ADMIN_ROUTES) if edge.setting.admin_http else LAN_ROUTES
    return _application(edge, routes=routes, socket=False)


def init_admin_app(edge: Edge) -> web.Application:
    """The application for the UNIX admin socket: administration, operation."""
    return _application(edge, routes=ADMIN_ROUTES, socket=True)


def door(edge: Edge, name: str, handler: Handler) -> Handler:
    """Rule 1, around one handler. A middleware would do the same for 4 µs more a request (a tenth of a beat)."""
    tally = edge.tally(name)

    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            response = await handler(request)
        except Fault as fault:
            if fault.code == Fault.code:
                _log.exception("request_failed", extra={"fields": {"route": name}})
            response = _refused(request, edge, problems.of_fault(fault))
        except web.HTTPException as raised:
            response = _refused(request, edge, problems.of_http(raised))
            if "Allow" in raised.headers:
                response.headers["Allow"] = raised.headers["Allow"]
        except Exception:  # noqa: BLE001  # rule 1: logged with its trace, answered as `internal`
            _log.exception("request_failed", extra={"fields": {"route": name}})
            response = _refused(request, edge, problems.of_fault(Fault()))
        tally[response.status] += 1
        return response

    return answered


def guard(edge: Edge, handler: Handler) -> Handler:
    """Rule 2, around one handler."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        request[ACTOR] = administrator(request, group=edge.setting.admin_group)
        request[CALLER] = Caller(actor=request[ACTOR], role=Role.ADMIN)
        return await handler(request)

    return guarded


def gatekeeper(edge: Edge, route: Route) -> Handler:
    """Rule 2, for administration on the network."""
    rule = rule_of(route.method, route.path)

    async def guarded(request: web.Request) -> web.StreamResponse:
        caller = admitted(request, edge, rule)
        if caller is not None:
            request[ACTOR], request[CALLER] = caller.actor, caller
        return await route.handler(request)

    return guarded


def within(edge: Edge, handler: Handler) -> Handler:
    """Rule 2, for applications; costs nothing where the site names no networks."""
    if not edge.setting.networks:
        return handler

    async def inside(request: web.Request) -> web.StreamResponse:
        if not edge.setting.networks.hold(edge.origin.address(request)):
            raise Forbidden("This address may not use the server (access.allow).")
        return await handler(request)

    return inside


def refuse(edge: Edge) -> Refuse:
    """Rule 1 for what comes to no handler because it is no HTTP."""
    tally = edge.tally(_MALFORMED)

    def refused(request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        response = _refused(request, edge, problems.of_fault(fault))
        tally[response.status] += 1
        return response

    return refused


def _refused(request: web.BaseRequest, edge: Edge, members: dict[str, Field]) -> web.StreamResponse:
    """The problem, or ``too_many_requests`` in its place when this address has failed too often."""
    # The peers of the admin socket have no address, and are known by name.
    address = edge.origin.address(request)
    if members["code"] in COUNTED and address:
        try:
            limit = edge.guesses if members["code"] == BadActivationCode.code else edge.failures
            limit.fail(address, elapsed=edge.writer.now().elapsed)
        except TooManyRequests as fault:
            members = problems.of_fault(fault)
    response = problems.response(members)
    if not request.content.is_eof():
        response.force_close()  # the rest of a body that nobody will read
    return response


def _application(edge: Edge, *, routes: Sequence[Route], socket: bool) -> web.Application:
    # The limits are ours (edge.read_body): aiohttp's would answer in another form.
    application = web.Application(client_max_size=0)
    application[EDGE] = edge
    application[openapi.DOCUMENT] = openapi.document(routes, version=edge.setting.version, socket=socket)
    for route in routes:
        handler = door(edge, route.path, _entered(edge, route, socket=socket))
        application.router.add_route(route.method, route.path, handler)
        if route.method == "GET":
            application.router.add_route("HEAD", route.path, handler)
    unmatched = _unmatched(routes)
    application.router.add_route(
        "*", "/{rest:.*}", door(edge, _UNMATCHED, guard(edge, unmatched) if socket else within(edge, unmatched))
    )
    return application


def _entered(edge: Edge, route: Route, *, socket: bool) -> Handler:
    if socket:
        return guard(edge, route.handler)
    if route.path.startswith(ADMINISTRATION):
        return gatekeeper(edge, route)
    return within(edge, route.handler)


def _unmatched(routes: Sequence[Route]) -> Handler:
    """What answers where no route does: another method's address, or none at all."""
    patterns = [(re.compile(re.sub(r"{\w+}", "[^{}/]+", route.path)), route.method) for route in routes]

    async def unmatched(request: web.Request) -> web.StreamResponse:
        allowed = {method for pattern, method in patterns if pattern.fullmatch(request.path)}
        if not allowed:
            raise web.HTTPNotFound
        if "GET" in allowed:
            allowed.add("HEAD")
        raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))

    return unmatched
