"""The OpenAPI 3.1 document, made from the very routes and types that serve: it cannot say anything else than the code.

On the network, where strangers read it, it has the contract's version; the program's is an administrator's business.

Every failure is one ``Problem``; which codes a call may answer stands beside each status, from the one table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec
from aiohttp import web

from lls.api.edge import JSON, Query, Route
from lls.api.problems import KINDS, MEDIA_TYPE, Problem, phrase
from lls.api.sessions import COOKIE, TOKEN_HEADER

DOCUMENT: Final = web.AppKey("openapi", bytes)

CONTRACT: Final = "1"
"""The version of the contract: what stands in ``/v1``."""

_REFERENCE: Final = "#/components/schemas/{name}"
_SECURITY: Final[dict[str, list[dict[str, list[str]]]]] = {
    "secret": [{"leaseSecret": []}],
    "administrator": [{"apiKey": []}, {"session": []}],
    "session": [{"session": []}],
}
_REFUSED_AT_THE_DOOR: Final = ("unauthenticated", "too_many_requests")
"""What a call of administration is answered on the network before its handler is asked."""
_SCHEMES: Final = {
    "leaseSecret": {
        "type": "http",
        "scheme": "bearer",
        "description": "The lease's secret: 32 random bytes of the client's own making, in base64url",
    },
    "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: llsk_ and 43 characters"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": f"A session; what changes something carries its token as {TOKEN_HEADER}",
    },
}


def document(routes: Iterable[Route], *, version: str, socket: bool = False) -> bytes:
    """The document as JSON; ``version`` is the program's.

    On the admin ``socket`` the kernel names the caller, and nobody sends a credential.
    """
    listed = [_on_socket(route) if socket else _on_network(route) for route in routes]
    types = [kind for kind in dict.fromkeys(_types(listed)) if kind is not Problem]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=_REFERENCE)
    of_type = dict(zip([*types, Problem], schemas, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for route in listed:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, of_type)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "Local License Server", "version": version if socket else CONTRACT},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }
    return msgspec.json.encode(whole)


def _on_socket(route: Route) -> Route:
    return replace(route, by="anyone")


def _on_network(route: Route) -> Route:
    if route.by not in ("administrator", "session", "login"):
        return route
    return replace(route, faults=tuple(dict.fromkeys((*route.faults, *_REFUSED_AT_THE_DOOR))))


def _types(routes: list[Route]) -> Iterable[type]:
    for route in routes:
        if route.form is not None:
            yield route.form
        yield from (kind for kind in route.answers.values() if isinstance(kind, type))


def _operation(route: Route, schemas: dict[type, dict[str, Any]]) -> dict[str, object]:
    operation: dict[str, object] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "responses": {**_successes(route, schemas), **_failures(route, schemas)},
    }
    parameters = [*_path_parameters(route), *map(_query_parameter, route.query), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.form is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[route.form]}}}
    elif route.media is not None:
        operation["requestBody"] = {"required": True, "content": {route.media: {}}}
    if route.by in _SECURITY:
        operation["security"] = _SECURITY[route.by]
    return operation


def _successes(route: Route, schemas: dict[type, dict[str, Any]]) -> dict[str, object]:
    responses: dict[str, object] = {}
    for status, kind in route.answers.items():
        response: dict[str, object] = {"description": phrase(status)}
        if isinstance(kind, type):
            response["content"] = {JSON: {"schema": schemas[kind]}}
        elif kind is not None:
            response["content"] = {kind: {}}
        responses[str(status)] = response
    return responses


def _failures(route: Route, schemas: dict[type, dict[str, Any]]) -> dict[str, object]:
    by_status: dict[int, list[str]] = {}
    for code in route.faults:
        by_status.setdefault(KINDS[code].status, []).append(code)
    content = {MEDIA_TYPE: {"schema": schemas[Problem]}}
    return {
        str(int(status)): {"description": f"One of the codes {', '.join(codes)}", "content": content}
        for status, codes in sorted(by_status.items())
    }


def _operation_id(route: Route) -> str:
    return f"{route.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', route.path.lower()).strip('_')}"


def _path_parameters(route: Route) -> list[dict[str, object]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _query_parameter(query: Query) -> dict[str, object]:
    return {
        "name": query.name,
        "in": "query",
        "required": False,
        "description": query.meaning,
        "schema": {"type": query.kind},
    }


def _header_parameters(route: Route) -> list[dict[str, object]]:
    return [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in route.headers.items()
    ]
