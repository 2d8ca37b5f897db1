"""Counted features as the contract words them, in small: the fake server's other half. No clock, no socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Verdict = tuple[int, dict[str, Any]]


@dataclass
class Counted:
    """One feature of the fake's only entitlement. ``undo`` says whether its window is open."""

    key: str
    type: str
    value: int = 0
    unit: str | None = None
    currency: str | None = None
    overdraft: int | None = 0
    undo: bool = True
    tracked: bool = True
    consumed: int = 0
    ends_at: str | None = "2030-01-01T00:00:00Z"


def sold() -> dict[str, Counted]:
    features = [
        Counted("render", "usage_count", 4, unit="frame"),
        Counted("cash", "credit", 500, currency="USD", overdraft=100, undo=False),
        Counted("metered", "usage_count", 0, overdraft=None),
        Counted("gpu", "element_pool", 4, unit="card"),
        Counted("expert", "bool", 1),
        Counted("plain", "bool", 1, tracked=False),
        Counted("later", "bool", 0),
    ]
    return {feature.key: feature for feature in features}


@dataclass
class Counters:
    """Every act is judged here: amounts, ids that were seen, pools, lots, undo."""

    features: dict[str, Counted] = field(default_factory=sold)
    held: dict[tuple[str, str], int] = field(default_factory=dict)
    answered: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    undone: set[tuple[str, str]] = field(default_factory=set)
    judged: list[tuple[str, str, int, str]] = field(default_factory=list)

    def act(self, lease_id: str, key: str, verb: str, body: Any) -> Verdict:
        if set(body) != {"amount", "request_id"} or type(body["amount"]) is not int or body["amount"] < 1:
            return 400, {"code": "bad_request"}
        feature, amount, named = self.features.get(key), body["amount"], (lease_id, body["request_id"])
        self.judged.append((verb, key, amount, body["request_id"]))
        if feature is None:
            return 404, {"code": "unknown_feature"}
        if verb == "undo":
            return self._undo(feature, amount, named)
        if named in self.answered:
            content, view = self.answered[named]
            return (200, view) if content == (verb, key, amount) else (409, {"code": "request_id_taken"})
        refusal = self._refusal(lease_id, feature, verb, amount)
        if refusal is not None:
            return refusal
        if verb == "use":
            feature.consumed += amount
        else:
            change = amount if verb == "checkout" else -amount
            self.held[lease_id, key] = self.held.get((lease_id, key), 0) + change
        view = self.view(feature, lease_id)
        self.answered[named] = ((verb, key, amount), view)
        return 200, view

    def view(self, feature: Counted, lease_id: str) -> dict[str, Any]:
        counts = feature.type in ("usage_count", "credit")
        free = self._free(feature)
        return {
            "key": feature.key,
            "type": feature.type,
            "value": feature.value,
            "unit": feature.unit,
            "currency": feature.currency,
            "held": self.held.get((lease_id, feature.key), 0),
            "available": None if feature.type == "bool" else free,
            "total": None if feature.type == "bool" else feature.value,
            "consumed": feature.consumed if counts else None,
            "overage": max(0, feature.consumed - feature.value) if counts else None,
            "ends_at": feature.ends_at if counts else None,
            "of_a_later_version": 1,
        }

    def held_by(self, lease_id: str) -> dict[str, int]:
        return {key: amount for (at, key), amount in self.held.items() if at == lease_id}

    def end(self, lease_id: str) -> None:
        self.held = {at: amount for at, amount in self.held.items() if at[0] != lease_id}

    def _free(self, feature: Counted) -> int | None:
        if feature.overdraft is None:
            return None
        taken = sum(amount for (_, key), amount in self.held.items() if key == feature.key)
        return feature.value + feature.overdraft - taken - feature.consumed

    def _refusal(self, lease_id: str, feature: Counted, verb: str, amount: int) -> Verdict | None:
        acts = {"usage_count": ["use"], "credit": ["use"]}.get(feature.type, ["checkout", "return"])
        if verb not in acts or not feature.tracked:
            return 400, {"code": "bad_request"}
        if verb == "return":
            return None if self.held.get((lease_id, feature.key), 0) >= amount else (409, {"code": "not_held"})
        if feature.type == "bool":
            return None if feature.value else (403, {"code": "not_entitled", "rule": "feature"})
        free = self._free(feature)
        if free is None or amount <= free:
            return None
        detail, remedy = f"Only {free} are left.", f"{amount - free} more would have helped."
        return 409, {
            "code": "no_feature_units", "detail": detail, "remedy": remedy, "feature": feature.key,
            "rule": "feature units",
        }  # fmt: skip

    def _undo(self, feature: Counted, amount: int, named: tuple[str, str]) -> Verdict:
        content, _ = self.answered.get(named, (None, {}))
        if content is None:
            return 409, {"code": "not_held"}
        if content != ("use", feature.key, amount):
            return 409, {"code": "request_id_taken"}
        if named in self.undone:
            return 409, {"code": "already_undone"}
        if not feature.undo:
            return 409, {"code": "undo_too_late", "detail": "The time for taking it back is over."}
        self.undone.add(named)
        feature.consumed -= amount
        return 200, self.view(feature, named[0])
