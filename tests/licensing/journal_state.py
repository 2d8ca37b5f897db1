"""The state that the journal alone tells: a fold of its own, beside ``usage``, which bills, and the ledger, which acts.

Deadlines and beats are not in the journal; nor are the terms. Who was assigned is a commitment, so names are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lls.licensing.journal import Kind
from lls.licensing.ledger import Ledger

OVERDRAFT = "overdraft"


@dataclass(kw_only=True)
class Sitting:
    """A lease, as far as lines tell it."""

    entitlement_id: str
    seats: int
    mode: str
    until: str | None = None
    lingers: bool = False
    features: dict[str, int] = field(default_factory=dict)

    def told(self) -> tuple[object, ...]:
        return self.entitlement_id, self.seats, self.mode, self.until, self.lingers, self.features


class JournalState:
    """Folded line by line."""

    def __init__(self) -> None:
        self.leases: dict[str, Sitting] = {}
        self.used: dict[tuple[str, str], dict[str, int]] = {}
        self.ended: dict[tuple[str, str], set[str]] = {}
        self.closed: set[str] = set()
        self.hosted: dict[str, str] = {}
        self.started: dict[str, str] = {}
        self.assigned: dict[str, int] = {}
        self.returning: set[str] = set()
        self.rules = 0

    def step(self, line: Mapping[str, Any]) -> None:
        act = getattr(self, f"_{Kind(line['kind']).name.lower()}", None)
        if act is not None:
            act(line["data"])

    # ------------------------------------------------------------ leases

    def _granted(self, data: Mapping[str, Any]) -> None:
        if data["replaces"] is not None:
            del self.leases[data["replaces"]]
        assert data["lease_id"] not in self.leases
        self.leases[data["lease_id"]] = Sitting(
            entitlement_id=data["entitlement_id"], seats=data["seats"], mode=data["mode"]
        )

    def _returned(self, data: Mapping[str, Any]) -> None:
        self._leaves(data, stays=data["lingers_seconds"] > 0)

    def _expired(self, data: Mapping[str, Any]) -> None:
        self._leaves(data, stays=bool(data.get("kept")))

    def _released(self, data: Mapping[str, Any]) -> None:
        self._leaves(data, stays=False)

    def _leaves(self, data: Mapping[str, Any], *, stays: bool) -> None:
        sitting = self.leases[data["lease_id"]]
        assert sitting.features == data.get("features", {}), "the line of an end tells other units than were held"
        if stays:
            sitting.lingers, sitting.features = True, {}
        else:
            del self.leases[data["lease_id"]]

    def _borrowed(self, data: Mapping[str, Any]) -> None:
        sitting = self.leases[data["lease_id"]]
        assert data["extends"] == (sitting.until is not None)
        sitting.mode, sitting.until = "borrowed", data["until"]

    # ------------------------------------------------------------ units

    def _feature_checked_out(self, data: Mapping[str, Any]) -> None:
        held = self.leases[data["lease_id"]].features
        held[data["feature"]] = held.get(data["feature"], 0) + data["amount"]

    def _feature_returned(self, data: Mapping[str, Any]) -> None:
        held = self.leases[data["lease_id"]].features
        held[data["feature"]] -= data["amount"]
        if not held[data["feature"]]:
            del held[data["feature"]]

    def _used(self, data: Mapping[str, Any]) -> None:
        assert data["amount"] == sum(data["draws"].values())
        assert data["over"] == sum(units for lot, units in data["draws"].items() if lot.startswith(OVERDRAFT))
        used = self._lots(data)
        for lot, units in data["draws"].items():
            assert lot not in self._gone(data), "units came out of a lot that had ended"
            used[lot] = used.get(lot, 0) + units

    def _undone(self, data: Mapping[str, Any]) -> None:
        used = self._lots(data)
        for lot, units in data["draws"].items():
            used[lot] -= units

    def _grant_ended(self, data: Mapping[str, Any]) -> None:
        assert data["amount"] == data["consumed"] + data["lost"]
        assert self._lots(data).get(data["lot"], 0) == data["consumed"]
        assert data["lot"] not in self._gone(data), "a lot ended twice"
        if "into" in data:
            used = self._lots(data)
            used[data["into"]] = used.get(data["into"], 0) + used.pop(data["lot"])
        else:
            self._gone(data).add(data["lot"])

    def _lots(self, data: Mapping[str, Any]) -> dict[str, int]:
        return self.used.setdefault((data["entitlement_id"], data["feature"]), {})

    def _gone(self, data: Mapping[str, Any]) -> set[str]:
        return self.ended.setdefault((data["entitlement_id"], data["feature"]), set())

    # ------------------------------------------------------------ entitlements

    def _installed(self, data: Mapping[str, Any]) -> None:
        for reset in data.get("resets", ()):
            self._reset(reset)
        for item in data["entitlements"]:
            before = self.hosted.get(item["entitlement_id"])
            if before != item["session_id"]:
                self.closed |= set() if before is None else {before}
                self.started.pop(item["entitlement_id"], None)
                self.assigned.pop(item["entitlement_id"], None)
                self.returning.discard(item["entitlement_id"])
            self.hosted[item["entitlement_id"]] = item["session_id"]

    def _reset(self, data: Mapping[str, Any]) -> None:
        """The line tells sums: which lots they were, the rest of the journal tells."""
        used, gone = self._lots(data), self._gone(data)
        plain = [lot for lot in used if not lot.startswith(OVERDRAFT) and lot not in gone]
        assert data["consumed"] - data["overage"] == sum(used[lot] for lot in plain)
        over = sorted(lot for lot in used if lot.startswith(OVERDRAFT) and used[lot])
        if over and data["overage"]:
            # Under terms it is the month in force; of a feature that no terms name, all that was ever overdrawn.
            anew = over if data["overage"] == sum(used[lot] for lot in over) else over[-1:]
            assert data["overage"] == sum(used[lot] for lot in anew)
            plain += anew
        for lot in plain:
            used[lot] = 0

    def _started(self, data: Mapping[str, Any]) -> None:
        assert data["entitlement_id"] not in self.started, "an entitlement began twice"
        self.started[data["entitlement_id"]] = data["starts_at"]

    def _returned_entitlement(self, data: Mapping[str, Any]) -> None:
        entitlement_id = data["entitlement_id"]
        assert self.hosted.pop(entitlement_id) == data["session_id"]
        self.closed.add(data["session_id"])
        self.returning.discard(entitlement_id)
        for kept in (self.started, self.assigned):
            kept.pop(entitlement_id, None)
        for told in data["meters"]:
            key = entitlement_id, told["feature"]
            used = {lot["lot"]: lot["used"] for lot in told["lots"] if lot["used"]}
            assert {lot: units for lot, units in self.used.get(key, {}).items() if units} == used
        for counters in (self.used, self.ended):
            for key in [key for key in counters if key[0] == entitlement_id]:
                del counters[key]

    def _admin_acted(self, data: Mapping[str, Any]) -> None:
        entitlement_id = data.get("entitlement_id", "")
        match data["act"]:
            case "named_user_assigned":
                self.assigned[entitlement_id] = self.assigned.get(entitlement_id, 0) + 1
            case "named_user_removed":
                self.assigned[entitlement_id] -= 1
            case "entitlement_return_begun":
                self.returning.add(entitlement_id)
            case "entitlement_kept":
                self.returning.discard(entitlement_id)

    def _policy_changed(self, data: Mapping[str, Any]) -> None:
        assert self.rules + len(data["added"]) - len(data["removed"]) == data["rules"]
        self.rules = data["rules"]

    # ------------------------------------------------------------ the same of a ledger

    def told(self) -> dict[str, object]:
        return {
            "leases": {lease_id: sitting.told() for lease_id, sitting in self.leases.items()},
            "used": {key: some for key, used in self.used.items() if (some := _some(used))},
            "ended": {key: gone for key, gone in self.ended.items() if gone},
            "closed": self.closed,
            "hosted": self.hosted,
            "started": self.started,
            "assigned": {key: count for key, count in self.assigned.items() if count},
            "returning": self.returning,
            "rules": self.rules,
        }


def told_by(ledger: Ledger) -> dict[str, object]:
    """What the journal should tell of a ledger that has committed."""
    meters = {
        (entitlement_id, key): meter
        for entitlement_id, hosted in ledger.meters._hosted.items()  # noqa: SLF001 - counters without terms are in here
        for key, meter in hosted.meters.items()
    }
    return {
        "leases": {
            lease.lease_id: (
                lease.entitlement_id,
                lease.seats,
                lease.mode.value,
                None if lease.until is None else f"{lease.until:%Y-%m-%dT%H:%M:%S}Z",
                lease.state == "lingering",
                dict(lease.features),
            )
            for lease in ledger.leases.values()
        },
        "used": {key: some for key, meter in meters.items() if (some := _some(meter.used))},
        "ended": {key: meter.ended for key, meter in meters.items() if meter.ended},
        "closed": ledger.closed_sessions,
        "hosted": {key: placed.session_id for key, placed in ledger.placed.items()},
        "started": {
            key: f"{placed.started_at:%Y-%m-%dT%H:%M:%S}Z" for key, placed in ledger.placed.items() if placed.started_at
        },
        "assigned": {key: len(placed.assigned) for key, placed in ledger.placed.items() if placed.assigned},
        "returning": {key for key, placed in ledger.placed.items() if placed.returning},
        "rules": len(ledger.pools.policy.rules),
    }


def _some(used: Mapping[str, int]) -> dict[str, int]:
    return {lot: units for lot, units in used.items() if units}
