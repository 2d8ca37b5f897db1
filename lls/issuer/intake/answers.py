"""Every answer of the intake: successes, the one form of a failure (RFC 9457), and the OpenAPI 3.1 document of both.

Rules
1. A failure is a code, a status from the one table here, and the fault's own sentence. No input is answered with 500:
   what the table does not know is a fault of this program.
2. Events are answered with 200, also those that were there before: some sources read another meaning into 202.
3. 401 names the scheme (RFC 9110 §11.6.1); Zuora sends its password only after it was asked for it like this.
4. The document is made from the settings and the table: it shows the sources that may send, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from lls.faults import (
    BadRequest,
    Fault,
    MethodNotAllowed,
    NotFound,
    Timeout,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from lls.issuer.intake.facts import Adapter
from lls.issuer.intake.processing import Taken
from lls.issuer.intake.settings import Settings
from lls.issuer.intake.signatures import Scheme
from lls.issuer.refusals import Conflict, HomeRefused

PROBLEM: Final = "application/problem+json"
RETRY_SECONDS: Final = 30
STATUSES: Final[Mapping[str, HTTPStatus]] = {
    BadRequest.code: HTTPStatus.BAD_REQUEST,
    Unauthenticated.code: HTTPStatus.UNAUTHORIZED,
    NotFound.code: HTTPStatus.NOT_FOUND,
    MethodNotAllowed.code: HTTPStatus.METHOD_NOT_ALLOWED,
    Timeout.code: HTTPStatus.REQUEST_TIMEOUT,
    Conflict.code: HTTPStatus.CONFLICT,
    TooLarge.code: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType.code: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HomeRefused.code: HTTPStatus.SERVICE_UNAVAILABLE,
}
_OF_EVENTS: Final = tuple(code for code in STATUSES if code not in (NotFound.code, MethodNotAllowed.code))


def problem(fault: Fault, *, scheme: Scheme | None = None) -> web.Response:
    """A failure. Whatever is not in the table is raised again: nobody may take it for an answer."""
    if fault.code not in STATUSES:
        raise fault
    status = STATUSES[fault.code]
    # Why the register cannot be written is for the vendor's own people; who sends events only has to come again.
    unwritable = fault.code == HomeRefused.code
    detail = "Events cannot be stored now; send it again later." if unwritable else fault.detail
    headers = {}
    if unwritable:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Basic realm="lls-issuer"' if scheme is Scheme.BASIC else "Signature"
    body = {
        "type": f"urn:lls:problem:{fault.code}",
        "code": fault.code,
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    return web.Response(body=json.dumps(body).encode(), status=status, content_type=PROBLEM, headers=headers)


def stored(taken: Sequence[Taken]) -> web.Response:
    """The events of a body, each stored now or before."""
    events = [{"event_id": one.event_id, "status": "known" if one.again else "stored"} for one in taken]
    return web.json_response({"events": events})


def openapi(settings: Settings, adapters: Mapping[str, Adapter], *, version: str, most_bytes: int) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the sources that have settings."""
    paths: dict[str, Any] = {
        f"/v1/events/{name}": {"post": _events(adapters[name], settings, most_bytes)} for name in settings.sources
    }
    paths["/v1/openapi.json"] = {"get": _read("This document", {"type": "object"})}
    paths["/v1/health"] = {"get": _read("Whether the register can be read", _schema_of_health())}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Purchase events of lls-issuer", "version": version},
        "paths": paths,
        "components": {"schemas": {"Problem": _PROBLEM_SCHEMA, "Stored": _STORED_SCHEMA}},
    }


def _events(adapter: Adapter, settings: Settings, most_bytes: int) -> dict[str, Any]:
    proof = settings.sources[adapter.source].proof
    return {
        "operationId": f"post_events_{adapter.source}",
        "summary": adapter.about,
        "description": f"At most {most_bytes} bytes. Answered once the events are stored; processed afterwards, once.",
        "parameters": [
            {
                "name": proof.header,
                "in": "header",
                "required": True,
                "description": f"Proves the body: {proof.scheme}",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {"required": True, "content": {media: {"schema": {}} for media in adapter.media}},
        "responses": {
            "200": {
                "description": "All events of the body are stored",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Stored"}}},
            },
            **{str(int(STATUSES[code])): _failure(code) for code in _OF_EVENTS},
        },
    }


def _failure(code: str) -> dict[str, Any]:
    return {"description": code, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _read(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
            str(int(STATUSES[HomeRefused.code])): _failure(HomeRefused.code),
        },
    }


def _schema_of_health() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["status", "waiting", "failed"],
        "properties": {"status": {"const": "ok"}, "waiting": {"type": "integer"}, "failed": {"type": "integer"}},
    }


_PROBLEM_SCHEMA: Final = {
    "type": "object",
    "required": ["type", "code", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "code": {"enum": list(STATUSES)},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_STORED_SCHEMA: Final = {
    "type": "object",
    "required": ["events"],
    "properties": {
        "events": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["event_id", "status"],
                "properties": {"event_id": {"type": "string"}, "status": {"enum": ["stored", "known"]}},
            },
        }
    },
}
