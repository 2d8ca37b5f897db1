"""What a story's vendor sells: entitlements as a story words them, made whole, signed and sealed for the site.

Rules
1. What a story leaves unsaid is nothing: no grace, no overdraft, no borrowing, no limit of the server's own licence.
2. Each bundle names all that is sold by now; whatever is changed gets the next sequence.
3. Ids are made of names, so that ``{entitlement cad}`` and ``{grant spring}`` can stand for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from lls.signed.request import ActivationRequest
from tests.journeys.story import Wrong, written
from tests.vendor import Vendor, entitlement, new_id

FAR = timedelta(days=3650)
NAMES_OF_A_CHANGE = ("entitlement", "features", "session")


class Shop:
    """The vendor beyond the gap."""

    def __init__(self, now: datetime, *, license_: Mapping[str, Any]) -> None:
        self.vendor = Vendor(name="story", now=now)
        self.recipient: ActivationRequest
        self.bundle = b""
        """The newest one, as a file."""
        self._license = license_
        self._sold: dict[str, dict[str, Any]] = {}

    def sell(
        self,
        now: datetime,
        *,
        add: Sequence[Mapping[str, Any]] = (),
        change: Sequence[Mapping[str, Any]] = (),
        remove: Sequence[str] = (),
        commands: Sequence[Mapping[str, Any]] = (),
    ) -> bytes:
        """Make the next bundle."""
        self.vendor.now = now
        for words in add:
            self._sold[str(words.get("name", words["product"]))] = _entitlement(dict(words), now)
        for words in change:
            self._change(words)
        for name in remove:
            del self._sold[name]
        products = sorted({document["product"]["key"] for document in self._sold.values()})
        self.bundle = self.vendor.bundle(
            self.recipient,
            entitlements=list(self._sold.values()),
            commands=[self._command(one) for one in commands],
            certificate=self.vendor.certificate(self.recipient, products=products, not_after=written(now + FAR)),
            server_license={
                "expires_at": written(now + FAR),
                "sync_within_days": 3650,
                "binding": {"policy": "key_only", "required": 0, "components": {}, "grace_seconds": 0},
                **self._license,
            },
        )
        return self.bundle

    def entitlement_id(self, name: str) -> str:
        return str(self._sold[name]["entitlement_id"])

    def only_product(self) -> str:
        """What is meant by a step that names no product."""
        products = {document["product"]["key"] for document in self._sold.values()}
        if len(products) != 1:
            raise Wrong("Which product? More than one is sold.")
        return str(products.pop())

    def _change(self, words: Mapping[str, Any]) -> None:
        document = self._sold[words["entitlement"]]
        changed = {key: value for key, value in words.items() if key not in NAMES_OF_A_CHANGE}
        document.update(_known(changed, document), sequence=document["sequence"] + 1)
        if "session" in words:
            document["session_id"] = new_id("ses_", words["session"])
        for feature in words.get("features", []):
            others = [one for one in document["features"] if one["key"] != feature["key"]]
            document["features"] = [*others, _feature(feature)]

    def _command(self, words: Mapping[str, Any]) -> dict[str, Any]:
        command = {"command_id": f"cmd_{words['name']}", "type": words["type"], "feature": words.get("feature")}
        if "entitlement" in words:
            command["entitlement_id"] = self.entitlement_id(words["entitlement"])
        return command


def _entitlement(words: dict[str, Any], now: datetime) -> dict[str, Any]:
    words.pop("name", None)
    product = words.pop("product")
    plan = {"license_type": "subscription", "start": "on_issue", "term": {"unit": "year", "count": 1}}
    document: dict[str, Any] = entitlement(
        product,
        starts_at=written(now - timedelta(days=1)),
        expires_at=written(now + timedelta(days=365)),
        grace_seconds=0,
        edition=None,
        named_user_assignment={"by_site": False, "changes_per_month": 0},
        attributes=[],
    )
    document["plan"] = {**plan, **words.pop("plan", {})}
    document["features"] = [_feature(feature) for feature in words.pop("features", [])]
    if "id" in words:
        name = words.pop("id")
        document.update(entitlement_id=new_id("ent_", name), session_id=new_id("ses_", name))
    return {**document, **_known(words, document)}


def _known(words: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The words, each of which must be a member of an entitlement: unknown ones are ignored by the server."""
    unknown = sorted(set(words) - set(document))
    if unknown:
        raise Wrong(f"An entitlement has no {', '.join(unknown)}.")
    return words


def _feature(words: Mapping[str, Any]) -> dict[str, Any]:
    if words["type"] == "bool":
        return dict(words)
    grants = [_grant(grant) for grant in words.get("grants", [])]
    return {"unit": None, "currency": None, "value": 0, **words, "grants": grants}


def _grant(words: Mapping[str, Any]) -> dict[str, Any]:
    grant = {key: value for key, value in words.items() if key != "name"}
    return {"grant_id": new_id("grt_", words["name"]), "expiry": {"type": "never"}, **grant}
