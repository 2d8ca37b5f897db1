"""What a pending document says, in words, for the person who is asked to sign it. Pure.

Rules
1. Everything that will be signed and can do harm is told: whose, which server, until when, every entitlement with its
   seats, end, features and grants, every command, and for a key set every key that comes, stays or goes.
2. What changed since the last bundle is told member by member, so that nothing hides in a long list. The last bundle is
   the office's word; the rest is what the signature covers.
3. Nothing of it reaches a terminal as a control character: a stranger may have written the file.

4. What cannot be told because it is not of its shape is refused: nobody signs what nobody can read.

It refuses to own layout and colour.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.pending import Kind, Pending
from lls.issuer.refusals import PendingRefused
from lls.licensing.entitlement import read_entitlement
from lls.licensing.fields import write_instant
from lls.signed.keys import ROLES, KeySet, unsigned_key_set

_MOST_CHANGES: Final = 200
_LONGEST_VALUE: Final = 120
_SILENT: Final = frozenset({"sequence"})
_SECRET: Final = frozenset({"activation_codes"})
_KEYED_BY: Final = ("entitlement_id", "grant_id", "key")


def told(pending: Pending) -> list[str]:
    """The lines that a signer reads before signing. Raises PendingRefused (rule 4)."""
    tell = {Kind.BUNDLE: _bundle, Kind.RECEIPT: _receipt, Kind.KEYS: _keys}[pending.kind]
    try:
        lines = [*tell(pending), *_state(pending)]
    except (RefusedDocument, KeyError, TypeError, AttributeError, ValueError) as failure:
        # A signature covers whatever stands there, so there is no telling a part of it.
        raise PendingRefused(
            f"This file has not the shape of a {pending.kind.value}, so nobody can say what a signature on it would "
            "cover. Do not sign it; have the office make a new one."
        ) from failure
    return [_printable(line) for line in lines]


def _state(pending: Pending) -> Iterator[str]:
    for need in pending.needs():
        yield (
            f"{need.paper}: {len(need.signed)} of {need.threshold} signatures of the role {need.role} in key set "
            f"{need.version}" + (f", by {', '.join(sorted(need.signed))}" if need.signed else "")
        )
    yield f"To be signed until {write_instant(pending.not_after)}."
    yield f"Fingerprint, to compare with the office over the telephone: {pending.spoken}"


def _bundle(pending: Pending) -> Iterator[str]:
    bundle: Any = pending.payload("bundle")
    customer, terms = bundle["customer"], bundle["server_license"]
    yield (
        f"Bundle {bundle['sequence']} for the server {pending.about.get('server')} ({bundle['server_id']}) of "
        f"{customer['name']} ({customer.get('account_ref')}), to be imported until {bundle['not_after']}"
    )
    binding = terms["binding"]
    bound = f"{binding['required']} parts of its machine" if binding["policy"] == "host" else "its keys alone"
    days = terms["sync_within_days"]
    yield f"  server licence until {terms['expires_at']}, a report every {days} days, bound to {bound}"
    if any(paper.name == "certificate" for paper in pending.papers):
        words = pending.payload("certificate")
        yield f"  with a new server certificate until {words['not_after']} for {_short(words['products'])}"
    if bundle["keys"]:
        yield f"  with {len(bundle['keys'])} newer key sets"
    yield f"{len(bundle['entitlements'])} entitlements:"
    for one in bundle["entitlements"]:
        seats = "unlimited" if one["seats"] is None else one["seats"]
        read_entitlement(one)  # as its server will read it; else it has no such words
        yield (
            f"  {one['entitlement_id']} {one['offering']['sku']}: {seats} seats of {one['product']['key']}, "
            f"{one['status']}, until {one['expires_at'] or 'ever'}"
        )
        yield from (f"    {line}" for line in _allowed(one))
    for one in bundle["commands"]:
        rest = {name: value for name, value in one.items() if name not in {"command_id", "type"}}
        yield f"Order to the server: {one['type']} {_short(rest) if rest else ''}".rstrip()
    yield from _since_the_last(bundle, pending.about.get("previous"))


def _allowed(entitlement: Any) -> Iterator[str]:
    if (overdraft := entitlement["overdraft"])["type"] != "none":
        yield f"overdraft of seats: {_short(overdraft)}"
    if (borrow := entitlement.get("borrow")) and borrow["max_seats"]:
        yield f"{borrow['max_seats']} seats can be borrowed for {borrow['max_seconds']} seconds"
    for feature in entitlement["features"]:
        grants = "".join(f", {grant['amount']} granted" for grant in feature.get("grants", ()))
        over = feature.get("overdraft") or {"type": "none"}
        beyond = "" if over["type"] == "none" else f", overdraft {_short(over)}"
        unit = feature.get("currency") or feature.get("unit") or ""
        yield f"{feature['key']} ({feature['type']}): {_short(feature['value'])} {unit}".rstrip() + grants + beyond


def _since_the_last(bundle: Any, previous: Any) -> Iterator[str]:
    if not isinstance(previous, Mapping):
        yield "It is the first bundle of this server."
        return
    changes = [
        *_changes("server_license", previous.get("server_license"), bundle["server_license"]),
        *_changes("", previous.get("entitlements"), bundle["entitlements"]),
    ]
    yield f"Since bundle {previous.get('sequence')}: {'nothing changed' if not changes else f'{len(changes)} changes'}"
    yield from (f"  {line}" for line in changes[:_MOST_CHANGES])
    if len(changes) > _MOST_CHANGES:
        yield f"  and {len(changes) - _MOST_CHANGES} more, in the file"


def _changes(place: str, before: Any, after: Any) -> Iterator[str]:
    """Member by member; lists of things with an id are compared by it."""
    if before == after:
        return
    if isinstance(before, list) and isinstance(after, list) and (key := _key_of([*before, *after])):
        before, after = ({str(one[key]): one for one in items} for items in (before, after))
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        secret = place.rpartition(".")[2] in _SECRET
        yield f"{place}: changed" if secret else f"{place}: {_short(before)} → {_short(after)}"
        return
    for name in sorted({*before, *after} - _SILENT):
        at = f"{place}.{name}" if place else name
        if name not in before:
            yield f"{at}: new"
        elif name not in after:
            yield f"{at}: gone"
        else:
            yield from _changes(at, before[name], after[name])


def _key_of(items: list[Any]) -> str | None:
    return next(
        (key for key in _KEYED_BY if items and all(isinstance(one, Mapping) and key in one for one in items)), None
    )


def _receipt(pending: Pending) -> Iterator[str]:
    words = pending.payload("receipt")
    yield (
        f"Receipt for the server {pending.about.get('server')} ({words['server_id']}): its report {words['report_id']} "
        f"was taken in, everything up to line {words['up_to_seq']} of its journal"
    )


def _keys(pending: Pending) -> Iterator[str]:
    proposed, before = unsigned_key_set(pending.payload("keys")), pending.keys
    after = "the first" if before is None else f"after version {before.version}"
    yield f"Key set version {proposed.version} ({after}), to be used until {write_instant(proposed.expires_at)}"
    for name in ROLES:
        role = proposed.roles[name]
        was = before.roles[name] if before else None
        threshold = "" if was is None or was.threshold == role.threshold else f" (was {was.threshold})"
        yield f"  {name}: {role.threshold} of {len(role.kids)} keys must sign{threshold}"
        yield from (f"    {_movement(kid, name, before)} {kid}" for kid in sorted(role.kids))
        yield from (f"    goes  {kid}" for kid in sorted((was.kids if was else frozenset()) - role.kids))


def _movement(kid: str, role: str, before: KeySet | None) -> str:
    return "stays" if before is not None and kid in before.roles[role].kids else "comes"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
