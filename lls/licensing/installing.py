"""Judging a verified bundle against what this server already holds: rules of import, nothing applied.

Rules (design §4, contract §3), in order
1. The very file already applied changes nothing and succeeds.
2. A sequence not above the highest ever seen is refused: ``replayed`` when that bundle is known here, else ``older``.
3. What this version cannot enforce, entitlement or command, refuses the bundle as ``format``.
4. Each entitlement by its session and own sequence: of a closed session → skipped; new; lower → the bundle is refused
   as ``older``; equal must be identical, else ``replayed``; higher → updated. An absent entitlement stays as it is.
5. Commands that are known are skipped. A receipt that is known is skipped; one whose head is not ours is not applied
   and warned of, and the bundle goes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import Now
from lls.licensing.terms import Acknowledgement, Change, Installation, License, Outcome, Step

if TYPE_CHECKING:
    from lls.licensing.ledger import Ledger

KNOWN_COMMANDS: Final = frozenset({"clock_reset"})


def judge(ledger: Ledger, installation: Installation, *, now: Now) -> Outcome:
    """What this bundle would change. Raises RefusedDocument when it must not be applied."""
    kept = installation.kept
    known = ledger.bundles.get(kept.bundle_id)
    if known is not None and known.digest == kept.digest:
        steps = tuple(_step(ledger, terms) for terms in installation.entitlements)
        return Outcome(steps=steps, already_applied=True)
    if kept.sequence <= ledger.server.sequence_seen:
        _refuse_sequence(ledger, installation)
    _refuse_beyond_us(installation)
    _refuse_twice(installation)
    acknowledged, warnings = _acknowledged(ledger, installation)
    if installation.terms.license(now, sync_from=ledger.server.sync_from or kept.issued_at) is License.EXPIRED:
        warnings.append("The server licence in this bundle has ended already, so no new lease will be granted.")
    return Outcome(
        steps=tuple(_step(ledger, terms) for terms in installation.entitlements),
        commands=tuple(command for command in installation.commands if command not in ledger.commands),
        acknowledged=acknowledged,
        forked=_is_forked(ledger, installation),
        warnings=tuple(warnings),
    )


def _refuse_sequence(ledger: Ledger, installation: Installation) -> None:
    kept, seen = installation.kept, ledger.server.sequence_seen
    if kept.bundle_id in ledger.bundles:
        raise RefusedDocument(Refusal.REPLAYED, f"Bundle {kept.bundle_id} was imported before with other content.")
    raise RefusedDocument(
        Refusal.OLDER,
        f"This bundle has sequence {kept.sequence}, and {seen} was seen here already; ask the vendor for a new one.",
    )


def _refuse_beyond_us(installation: Installation) -> None:
    for terms in installation.entitlements:
        if terms.beyond_us:
            raise RefusedDocument(
                Refusal.FORMAT,
                f"Entitlement {terms.entitlement_id} needs {terms.beyond_us}, which this version cannot enforce;"
                " upgrade the server, then import the bundle again.",
            )
    for command_id, kind in installation.commands.items():
        if kind not in KNOWN_COMMANDS:
            raise RefusedDocument(Refusal.FORMAT, f"Command {command_id} ({kind}) is unknown here; upgrade the server.")


def _refuse_twice(installation: Installation) -> None:
    ids = [terms.entitlement_id for terms in installation.entitlements]
    if len(ids) != len(set(ids)):
        raise RefusedDocument(Refusal.MALFORMED, "The bundle names an entitlement twice.")


def _step(ledger: Ledger, terms: Entitlement) -> Step:
    pool = ledger.pools.get(terms.entitlement_id)
    placed = ledger.placed.get(terms.entitlement_id)
    before = pool.entitlement if pool is not None else None
    if terms.session_id in ledger.closed_sessions:
        reason = "its hosting session was closed by a return"
        return Step(entitlement=terms, before=before, change=Change.SKIPPED, reason=reason)
    if placed is None:
        return Step(entitlement=terms, before=None, change=Change.NEW)
    if placed.session_id == terms.session_id and terms.sequence < placed.sequence:
        raise RefusedDocument(
            Refusal.OLDER,
            f"Entitlement {terms.entitlement_id} has sequence {terms.sequence} in it, {placed.sequence} is in force.",
        )
    if placed.session_id == terms.session_id and terms.sequence == placed.sequence and before is not None:
        if before != terms:
            raise RefusedDocument(
                Refusal.REPLAYED,
                f"Entitlement {terms.entitlement_id} differs from the one applied under its sequence {terms.sequence}.",
            )
        return Step(entitlement=terms, before=before, change=Change.UNCHANGED)
    return Step(entitlement=terms, before=before, change=Change.UPDATED)


def _acknowledged(ledger: Ledger, installation: Installation) -> tuple[Acknowledgement | None, list[str]]:
    receipt = installation.acknowledgement
    if receipt is None or _is_known(ledger, receipt):
        return None, []
    if _is_forked(ledger, installation):
        return None, [
            f"Receipt {receipt.receipt_id} acknowledges a line that is not in this server's journal: chain_forked."
        ]
    return receipt, []


def _is_known(ledger: Ledger, receipt: Acknowledgement) -> bool:
    return receipt.receipt_id in ledger.receipts or receipt.up_to_seq <= ledger.server.acknowledged.seq


def _is_forked(ledger: Ledger, installation: Installation) -> bool:
    receipt = installation.acknowledgement
    return receipt is not None and not _is_known(ledger, receipt) and installation.known_head != receipt.head
