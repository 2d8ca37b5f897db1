"""What a server used up of the lots of an entitlement, so that the next one does not give it out again.

Rules
1. Of features that are consumed (usage counts, credits) the allowance, the grants and the overdraft are carried from
   one hosting session to the next: the next server gets what is left. A lot that has ended there stays ended.
2. What comes by the month is not: no bundle can name a part of one month. On another server the month's allowance
   begins anew, and whoever hosts it there is told.
3. Element pools and switches are held and not used up: nothing of them is carried.
4. A return tells the final figures. Of a server that was lost the journal tells them, as far as it was reported.
5. Where a counter begins anew, nothing used of that feature is carried; that holds too where the vendor had ordered it
   and the server never did it. A lot that has ended stays ended all the same: units that were lost do not come back.

Pure. It refuses to own which session follows which (``hosting``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from lls.licensing.entitlement import Entitlement, FeatureType, OverdraftType, Reset
from lls.licensing.journal import Kind
from lls.licensing.lots import ALLOWANCE, OVERDRAFT
from lls.signed.returned import FinalMeter

Carried: TypeAlias = Mapping[str, Mapping[str, Mapping[str, int]]]
"""``{feature: {lot: {"used": units, "ended": 0 or 1}}}``; JSON can carry it."""

_CONSUMED: Final = frozenset({FeatureType.USAGE_COUNT.value, FeatureType.CREDIT.value})


def added(carried: Carried, more: Carried, *, but: Collection[str | None] = ()) -> dict[str, Any]:
    """Both together, lot by lot; ``but`` names features that begin anew (None: all)."""
    total: dict[str, dict[str, dict[str, int]]] = {}
    for source in (carried, more):
        for feature, lots in source.items():
            for lot, one in lots.items():
                sums = total.setdefault(feature, {}).setdefault(lot, {"used": 0, "ended": 0})
                sums["used"] += one["used"]
                sums["ended"] |= one["ended"]
    return anew(total, but)


def anew(carried: Carried, features: Collection[str | None]) -> dict[str, Any]:
    """Without what was used of these features (None among them: of any); what has ended stays."""
    kept = {
        feature: {lot: one for lot, one in lots.items() if one["ended"]} if {feature, None} & set(features) else lots
        for feature, lots in carried.items()
    }
    return {feature: lots for feature, lots in kept.items() if lots}


def of_return(meters: Iterable[FinalMeter]) -> dict[str, Any]:
    """What a return says."""
    return {
        meter.feature: {
            lot.lot: {"used": lot.used, "ended": int(lot.ended)} for lot in meter.lots if not is_monthly(lot.lot)
        }
        for meter in meters
        if meter.type in _CONSUMED
    }


@dataclass(slots=True, kw_only=True)
class _Account:
    """One entitlement's lots in its newest session, by feature and lot."""

    session_id: str
    used: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    ended: set[tuple[str, str]] = field(default_factory=set)

    def begin_anew(self, feature: str) -> None:
        for key in [key for key in self.used if key[0] == feature and key not in self.ended]:
            del self.used[key]

    def told(self) -> dict[str, Any]:
        lots: dict[str, dict[str, dict[str, int]]] = {}
        for feature, lot in sorted({*self.used, *self.ended}):
            if not is_monthly(lot):
                used, ended = self.used[feature, lot], int((feature, lot) in self.ended)
                lots.setdefault(feature, {})[lot] = {"used": max(0, used), "ended": ended}
        return lots


def of_journal(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a server reported of the newest session of each entitlement, by its id. ``lines`` are parsed, in order.

    They were taken in by ``ingest``, which has checked the shape of what is read here.
    """
    accounts: dict[str, _Account] = {}
    for line in lines:
        kind, data = line["kind"], line["data"]
        if kind == Kind.INSTALLED:
            _install(accounts, data)
            continue
        account = accounts.get(data.get("entitlement_id", ""))
        if account is None:
            continue
        if kind in (Kind.USED, Kind.UNDONE):
            sign = 1 if kind == Kind.USED else -1
            for lot, units in data["draws"].items():
                account.used[data["feature"], lot] += sign * units
        elif kind == Kind.GRANT_ENDED:
            account.ended.add((data["feature"], data["lot"]))
    return {entitlement_id: account.told() for entitlement_id, account in accounts.items()}


def _install(accounts: dict[str, _Account], data: Mapping[str, Any]) -> None:
    for reset in data.get("resets", ()):
        if reset["entitlement_id"] in accounts:
            accounts[reset["entitlement_id"]].begin_anew(reset["feature"])
    for item in data["entitlements"]:
        known = accounts.get(item["entitlement_id"])
        if known is None or known.session_id != item["session_id"]:
            accounts[item["entitlement_id"]] = _Account(session_id=item["session_id"])


def is_monthly(lot: str) -> bool:
    """Whether a lot belongs to one month."""
    return lot.startswith((f"{ALLOWANCE} ", f"{OVERDRAFT} "))


def begins_anew(entitlement: Entitlement) -> list[str]:
    """The features whose allowance of this month another server gives out once more (rule 2)."""
    return [one.key for one in entitlement.features if one.consumed and one.reset is Reset.MONTHLY and one.value]


def left_of(document: Mapping[str, object], carried: Carried) -> dict[str, object]:
    """An entitlement's document with what is left of its lots: what the next bundle carries."""
    if not carried:
        return dict(document)
    features: Any = document["features"]
    return {**document, "features": [_left(feature, carried.get(feature["key"], {})) for feature in features]}


def _left(feature: Mapping[str, Any], lots: Mapping[str, Mapping[str, int]]) -> Mapping[str, Any]:
    if not lots or feature["type"] not in _CONSUMED:
        return feature

    def used(lot: str) -> int:
        return lots[lot]["used"] if lot in lots else 0

    overdraft: dict[str, Any] = dict(feature["overdraft"])
    if overdraft["type"] == OverdraftType.ABSOLUTE:
        overdraft["value"] = max(0, overdraft["value"] - used(OVERDRAFT))
    grants = [
        {**grant, "amount": grant["amount"] - used(grant["grant_id"])}
        for grant in feature["grants"]
        if used(grant["grant_id"]) < grant["amount"] and not lots.get(grant["grant_id"], {}).get("ended")
    ]
    return {**feature, "value": max(0, feature["value"] - used(ALLOWANCE)), "overdraft": overdraft, "grants": grants}
