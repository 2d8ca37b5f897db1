"""The other side: shops and billing systems as they send and sign; their shapes, with values made up for the tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

SECRETS = {
    name: f"whsec-{name}-0123456789"
    for name in ("generic", "stripe", "fastspring", "chargify", "zuora", "salesforce", "netsuite")
}


def timestamped(name: str, body: bytes, at: datetime) -> str:
    when = int(at.timestamp())
    return f"t={when},v1={mac(name, f'{when}.'.encode() + body).hex()}"


def mac(name: str, body: bytes) -> bytes:
    return hmac.new(SECRETS[name].encode(), body, hashlib.sha256).digest()


def proof(name: str, body: bytes, at: datetime) -> str:
    """The value of the source's header."""
    match name:
        case "fastspring":
            return base64.b64encode(mac(name, body)).decode()
        case "chargify":
            return mac(name, body).hex()
        case "zuora":
            return "Basic " + base64.b64encode(f"zuora:{SECRETS[name]}".encode()).decode()
        case _:
            return timestamped(name, body, at)


def body_of(name: str, document: Any) -> tuple[bytes, str]:
    """A document as its source sends it, with its media type."""
    if name == "chargify":
        return urlencode(list(_form("", document))).encode(), "application/x-www-form-urlencoded"
    return json.dumps(document).encode(), "application/json"


def _form(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _form(f"{name}[{key}]" if name else key, inner)
    else:
        yield name, "" if value is None else str(value)


# -- Stripe -----------------------------------------------------------------------------------------------------------


def stripe(event_id: str, kind: str, about: dict[str, Any], *, created: datetime) -> dict[str, Any]:
    return {
        "id": event_id, "object": "event", "api_version": "2025-03-31.basil", "created": int(created.timestamp()),
        "data": {"object": about}, "livemode": True, "pending_webhooks": 1, "request": {"id": None}, "type": kind,
    }  # fmt: skip


def session(**changes: Any) -> dict[str, Any]:
    return {
        "id": "cs_1", "object": "checkout.session", "client_reference_id": "C-42", "customer": "cus_1",
        "customer_details": {"email": "buy@works.example", "name": "Example Works"}, "invoice": "in_1", "metadata": {},
        "mode": "subscription", "payment_status": "paid", "status": "complete", "subscription": "sub_1", **changes,
    }  # fmt: skip


def invoice(
    number: str = "in_1", reason: str = "subscription_create", quantity: int = 5, **changes: Any
) -> dict[str, Any]:
    return {
        "id": number, "object": "invoice", "billing_reason": reason, "customer": "cus_1", "metadata": {},
        "lines": {"object": "list", "has_more": False, "data": [{
            "id": f"il_{number}", "object": "line_item", "quantity": quantity,
            "parent": {"type": "subscription_item_details", "subscription_item_details": {
                "subscription": "sub_1", "subscription_item": "si_1", "proration": False,
            }},
            "pricing": {"type": "price_details", "price_details": {"price": "price_pro", "product": "prod_1"}},
        }]},
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1", "metadata": {}}},
        "status": "paid", **changes,
    }  # fmt: skip


def subscription(*, quantity: int = 5, price: str = "price_pro", ends: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "metadata": {},
        "cancel_at_period_end": False, "items": {"object": "list", "has_more": False, "data": [{
            "id": "si_1", "object": "subscription_item", "price": {"id": price, "object": "price"},
            "quantity": quantity,
            "current_period_end": int(ends.timestamp()),
        }]}, **changes,
    }  # fmt: skip


# -- FastSpring -------------------------------------------------------------------------------------------------------


def fastspring(*events: dict[str, Any]) -> dict[str, Any]:
    return {"events": list(events)}


def fs_event(event_id: str, kind: str, data: dict[str, Any], *, created: datetime) -> dict[str, Any]:
    return {
        "id": event_id, "processed": False, "created": int(created.timestamp() * 1000), "type": kind, "live": True,
        "data": data,
    }  # fmt: skip


def fs_subscription(*, quantity: int = 5, changed: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "id": "fsSub1", "subscription": "fsSub1", "active": True, "state": "active",
        "changed": int(changed.timestamp() * 1000), "currency": "EUR", "product": "cad-pro", "quantity": quantity,
        "account": {"id": "fsAcc1", "contact": {"first": "Ada", "last": "Example", "company": "Example Works"},
                    "lookup": {"global": "g1", "custom": "C-42"}},
        **changes,
    }  # fmt: skip


# -- Maxio (Chargify) -------------------------------------------------------------------------------------------------


def chargify(number: int, event: str, at: str, subscription: dict[str, Any], **payload: Any) -> dict[str, Any]:
    return {
        "id": number, "event": event, "created_at": at,
        "payload": {
            "site": {"id": 7, "subdomain": "works"},
            "subscription": {
                "id": 900, "state": "active", "updated_at": at,
                "customer": {"id": 31, "reference": "C-42", "organization": "Example Works", "first_name": "Ada"},
                "product": {"id": 11, "handle": "cad-base", "name": "CAD"}, **subscription,
            },
            **payload,
        },
    }  # fmt: skip


# -- Zuora ------------------------------------------------------------------------------------------------------------


def zuora(kind: str, at: str, version: int, quantity: str = "5.0", **subscription: Any) -> dict[str, Any]:
    return {
        "EventType": kind, "EventDate": at, "Account": {"Id": "8a1", "AccountNumber": "C-42", "Name": "Example Works"},
        "Subscription": {"SubscriptionNumber": "A-S1", "Version": str(version), **subscription},
        "Charges": [{"ChargeNumber": "C-0001", "ProductRatePlanChargeId": "cad-pro", "Quantity": quantity}],
    }  # fmt: skip
