"""The one table from codes to HTTP statuses, and the form of every failure (RFC 9457).

Rules
1. A code stands here or it cannot be answered; faults and denials know no status.
2. ``detail`` is the fault's own sentence, ``fields`` stand beside it. ``type`` is ``urn:lls:problem:<code>``.
3. ``Retry-After`` (RFC 9110 §10.2.3) goes with every answer that says when to come again: the problem's own
   ``retry_after_seconds``, else what the table says for states that pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from lls.faults import BadRequest, Fault, Field, MethodNotAllowed, NotFound, Scalar, Timeout, TooLarge
from lls.licensing.denial import Denial

MEDIA_TYPE: Final = "application/problem+json"
F = TypeVar("F", bound=Field)


@dataclass(frozen=True, slots=True)
class Kind:
    """One code: its status, its title, and when to come again where its state passes by itself."""

    status: HTTPStatus
    title: str
    retry_after_seconds: int | None = None


_BAD, _AUTH, _NO, _GONE = HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.GONE
_MISSING, _CONFLICT, _LATER = HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE

KINDS: Final[Mapping[str, Kind]] = {
    "bad_request": Kind(_BAD, "Malformed request"),
    "unauthenticated": Kind(_AUTH, "Credential needed"),
    "bad_activation_code": Kind(_AUTH, "Wrong activation code"),
    "not_entitled": Kind(_NO, "Not entitled"),
    "entitlement_not_started": Kind(_NO, "Entitlement not started"),
    "entitlement_expired": Kind(_NO, "Entitlement expired"),
    "entitlement_disabled": Kind(_NO, "Entitlement disabled"),
    "edition_not_covered": Kind(_NO, "Edition not covered"),
    "version_not_covered": Kind(_NO, "Version not covered"),
    "excluded": Kind(_NO, "Excluded by the site's policy"),
    "not_a_named_user": Kind(_NO, "Not a named user"),
    "wrong_machine": Kind(_NO, "Wrong machine"),
    "borrow_not_allowed": Kind(_NO, "Borrowing not allowed"),
    "server_not_licensed": Kind(_NO, "Server not licensed"),
    "report_overdue": Kind(_NO, "Usage report overdue"),
    "forbidden": Kind(_NO, "Forbidden"),
    "unknown_lease": Kind(_MISSING, "Unknown lease"),
    "unknown_product": Kind(_MISSING, "Unknown product"),
    "unknown_feature": Kind(_MISSING, "Unknown feature"),
    "not_found": Kind(_MISSING, "Not found"),
    "method_not_allowed": Kind(HTTPStatus.METHOD_NOT_ALLOWED, "Method not allowed"),
    "timeout": Kind(HTTPStatus.REQUEST_TIMEOUT, "Request took too long"),
    "no_seat": Kind(_CONFLICT, "No seat free"),
    "reserved": Kind(_CONFLICT, "Seats reserved for others"),
    "holder_limit": Kind(_CONFLICT, "Holder's limit reached"),
    "no_feature_units": Kind(_CONFLICT, "No units of the feature free"),
    "lease_cloned": Kind(_CONFLICT, "Lease used twice"),
    "lease_id_taken": Kind(_CONFLICT, "Lease id taken"),
    "request_id_taken": Kind(_CONFLICT, "Request id taken"),
    "name_taken": Kind(_CONFLICT, "Name taken"),
    "not_held": Kind(_CONFLICT, "Not held"),
    "undo_too_late": Kind(_CONFLICT, "Too late to undo"),
    "already_undone": Kind(_CONFLICT, "Already undone"),
    "borrow_too_long": Kind(_CONFLICT, "Borrowed for too long"),
    "borrowed": Kind(_CONFLICT, "Borrowed"),
    "restored": Kind(_CONFLICT, "Restored from a backup"),
    "lease_ended": Kind(_GONE, "Lease ended"),
    "too_large": Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request too large"),
    "unsupported_media_type": Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Unsupported media type"),
    "refused_document": Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "Document refused"),
    "too_many_requests": Kind(HTTPStatus.TOO_MANY_REQUESTS, "Too many failed requests", 60),
    "internal": Kind(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error"),
    "overloaded": Kind(_LATER, "Overloaded", 1),
    "not_primary": Kind(_LATER, "Not the primary", 2),
    "store_down": Kind(_LATER, "Store down", 2),
    "clock_behind": Kind(_LATER, "Clock behind", 60),
    "unbound": Kind(_LATER, "Server not on its machine", 300),
    "draining": Kind(_LATER, "Stopping", 5),
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 with the stable ``code``; a kind of failure may add fields of its own beside these."""

    type: str
    title: str
    status: int
    detail: str
    code: str


def of_fault(fault: Fault) -> dict[str, Field]:
    """The members of a fault's answer. A code that the table lacks is our own mistake and is told as ``internal``."""
    return _members(fault.code if fault.code in KINDS else Fault.code, fault.detail, fault.fields)


def of_denial(denial: Denial) -> dict[str, Scalar]:
    """The members of a denial's answer: in words and in fields which rule decided, and what would have helped."""
    fields: dict[str, Scalar] = {
        "rule": denial.rule,
        "cause": denial.cause.value,
        "product": denial.product,
        "feature": denial.feature,
        "in_use": denial.in_use,
        "seats": denial.seats,
        "limit": denial.limit,
        "retry_after_seconds": denial.retry_after_seconds,
        "queue_position": denial.queue_position,
        "until_latest": denial.until_latest,
        "remedy": denial.remedy or None,
    }
    # A null limit says "unlimited" nowhere among denials; what is not known is left out.
    known: dict[str, Scalar] = {name: value for name, value in fields.items() if value is not None}
    return _members(denial.code, denial.detail, known)


def of_http(raised: web.HTTPException) -> dict[str, Field]:
    """The members for what aiohttp itself refuses (no such route, wrong method, …)."""
    return of_fault(fault_of(raised.status))


def fault_of(status: int) -> Fault:
    """What aiohttp means by a status."""
    kinds: dict[int, type[Fault]] = {
        _MISSING: NotFound,
        HTTPStatus.METHOD_NOT_ALLOWED: MethodNotAllowed,
        HTTPStatus.REQUEST_TIMEOUT: Timeout,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    }
    known = kinds.get(status)
    if known is not None:
        return known()
    return BadRequest() if status < HTTPStatus.INTERNAL_SERVER_ERROR else Fault()


def response(members: Mapping[str, Field]) -> web.Response:
    """The answer with its status, and ``Retry-After``, ``WWW-Authenticate`` where they belong."""
    code = str(members["code"])
    kind = KINDS[code]
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"}
    retry_after = members.get("retry_after_seconds", kind.retry_after_seconds)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=kind.status, body=msgspec.json.encode(members), headers=headers)


def phrase(status: int) -> str:
    """HTTP's own words for a status."""
    return HTTPStatus(status).phrase


def _members(code: str, detail: str, fields: Mapping[str, F]) -> dict[str, F | str | int]:
    kind = KINDS[code]
    return {
        "type": f"urn:lls:problem:{code}",
        "title": kind.title,
        "status": int(kind.status),
        "detail": detail,
        "code": code,
        **fields,
    }
