"""Judging a verified bundle against what this server already holds: rules of import, nothing applied.

Rules (design §4, contract §3), in order
1. The very file already applied, however long ago, changes nothing and succeeds; another file under the id of one that
   was applied is ``replayed``.
2. A sequence not above the highest ever seen is refused as ``older``.
3. What this version cannot enforce, entitlement or command, refuses the bundle as ``format``. A new ``reset_usage`` of
   an entitlement that is neither here nor in the bundle, or of a feature that is not consumed there, refuses it as
   ``malformed``: half of an order that somebody pays for must not pass unseen. The bundle's terms count before those in
   force, and those of a closed session too: there is then nothing left to reset, and that is no fault of the vendor.
4. Each entitlement by its session and own sequence: of a closed session → skipped; new; lower → the bundle is refused
   as ``older``; equal must be identical, else ``replayed``; higher → updated, but never of another product, else
   ``malformed``. An absent entitlement stays as it is.
5. Commands that are known are skipped. A receipt that is known is skipped; one whose head is not ours is not applied
   and warned of, and the bundle goes in. That holds for lines acknowledged long ago too: whoever acknowledges another
   line there has seen another journal.
6. A ``chain_adopt`` answers one restore. One that answers another is passed over and warned of. One that names a line
   which is neither ours nor behind the end of a backup that was put back refuses the bundle as ``forked``.
7. An import whose journal line would be longer than a line may be is ``too_large``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.entitlement import Entitlement
from lls.licensing.fields import LARGEST
from lls.licensing.instant import Now
from lls.licensing.journal import FIRST_PREV, LONGEST_LINE, Head, Kind, entry
from lls.licensing.posting import installed_data
from lls.licensing.terms import (
    CHAIN_ADOPT,
    CLOCK_RESET,
    RESET_USAGE,
    Acknowledgement,
    Adoption,
    Change,
    Installation,
    License,
    Outcome,
    Step,
)

if TYPE_CHECKING:
    from lls.licensing.hosting import Hosting

KNOWN_COMMANDS: Final = frozenset({CHAIN_ADOPT, CLOCK_RESET, RESET_USAGE})


def judge(ledger: Hosting, installation: Installation, *, now: Now) -> Outcome:
    """What this bundle would change. Raises RefusedDocument when it must not be applied."""
    kept = installation.kept
    known = ledger.bundles.get(kept.bundle_id)
    if known is not None:
        if known.digest != kept.digest:
            raise RefusedDocument(Refusal.REPLAYED, f"Bundle {kept.bundle_id} was imported before with other content.")
        steps = tuple(_kept_step(ledger, terms) for terms in installation.entitlements)
        return Outcome(steps=steps, already_applied=True)
    _refuse_sequence(ledger, installation)
    _refuse_beyond_us(installation)
    _refuse_twice(installation)
    acknowledged, warnings = _acknowledged(ledger, installation)
    if installation.terms.license(now, sync_from=ledger.server.sync_from or kept.issued_at) is License.EXPIRED:
        warnings.append("The server licence in this bundle has ended already, so no new lease will be granted.")
    adoption, passed_over = _adoption(ledger, installation)
    warnings += [
        f"Command {one} answers another restore than this server's last one; it is passed over." for one in passed_over
    ]
    commands = tuple(
        command for command in installation.commands if command not in ledger.commands and command not in passed_over
    )
    kinds = {installation.commands[command].type for command in commands}
    _refuse_empty_resets(ledger, installation, commands)
    outcome = Outcome(
        steps=tuple(_step(ledger, terms) for terms in installation.entitlements),
        commands=commands,
        clock_reset_to=kept.issued_at if CLOCK_RESET in kinds else None,
        acknowledged=acknowledged,
        forked=_is_forked(ledger, installation) and not ledger.server.restored,
        adoption=adoption,
        sequence=max(installation.kept.sequence, adoption.bundle_sequence if adoption is not None else 0),
        warnings=tuple(warnings),
    )
    _refuse_too_long(ledger, installation, outcome, now)
    return outcome


def _adoption(ledger: Hosting, installation: Installation) -> tuple[Adoption | None, list[str]]:
    """The answer to this server's last restore, and the ids of those that answer another. Raises RefusedDocument."""
    restores = ledger.server.restores
    answers = {
        command_id: command.adoption
        for command_id, command in installation.commands.items()
        if command.adoption is not None and command_id not in ledger.commands
    }
    ours = {one: answer for one, answer in answers.items() if restores and answer.restore_id == restores[-1].restore_id}
    if not ours:
        return None, list(answers)
    if len(ours) > 1:
        raise RefusedDocument(Refusal.MALFORMED, "The bundle answers one restore twice; ask the vendor for another.")
    (adoption,) = ours.values()
    ends = {point.seq for point in restores}
    if installation.adopted_hash != adoption.onto.hash and (
        adoption.keep_seq not in ends or adoption.onto.seq <= adoption.keep_seq
    ):
        raise RefusedDocument(
            Refusal.FORKED,
            f"The vendor's last line of this server ({adoption.onto.seq}) is none of its own, and it is not one that"
            " the backup lacks: two copies of this server exist. Tell your vendor.",
        )
    return adoption, [one for one in answers if one not in ours]


def _refuse_sequence(ledger: Hosting, installation: Installation) -> None:
    kept, seen = installation.kept, ledger.server.sequence_seen
    if kept.sequence <= seen:
        raise RefusedDocument(
            Refusal.OLDER,
            f"This bundle has sequence {kept.sequence}, and {seen} was seen here already;"
            " ask the vendor for a new one.",
        )


def _longest_resets(ledger: Hosting, installation: Installation, command_id: str) -> list[dict[str, object]]:
    """What the line may tell of a reset: of each feature that the entitlement has, gets, or only has counters of."""
    command = installation.commands[command_id]
    key = command.entitlement_id
    pool = ledger.pools.get(key or "")
    terms = [one for one in installation.entitlements if one.entitlement_id == key]
    known = [*terms, pool.entitlement] if pool is not None else terms
    features = {feature.key for one in known for feature in one.features} | ledger.meters.counters(key or "")
    if command.feature is not None:
        features &= {command.feature}
    return [{"entitlement_id": key, "feature": one, "consumed": LARGEST, "overage": LARGEST} for one in features]


def _refuse_too_long(ledger: Hosting, installation: Installation, outcome: Outcome, now: Now) -> None:
    """Written with the largest numbers that may come: whoever reads the journal refuses a longer line."""
    most = dict.fromkeys((step.entitlement.entitlement_id for step in outcome.steps), LARGEST)
    data = installed_data(installation, outcome, now, actor=FIRST_PREV, in_use=most, held=lambda *_key: LARGEST)
    data["resets"] = [item for one in outcome.commands for item in _longest_resets(ledger, installation, one)]
    longest = entry(Head(seq=LARGEST), at=now.wall.replace(microsecond=1), kind=Kind.INSTALLED, data=data)
    if len(longest.line) > LONGEST_LINE:
        raise RefusedDocument(
            Refusal.TOO_LARGE,
            f"The journal line of this import would be longer than {LONGEST_LINE} bytes;"
            " ask the vendor to send the entitlements in several bundles.",
        )


def _refuse_beyond_us(installation: Installation) -> None:
    for command_id, command in installation.commands.items():
        if command.type not in KNOWN_COMMANDS:
            sentence = f"Command {command_id} ({command.type}) is unknown here; upgrade the server."
            raise RefusedDocument(Refusal.FORMAT, sentence)


def _refuse_empty_resets(ledger: Hosting, installation: Installation, commands: Sequence[str]) -> None:
    here = {entitlement_id: pool.entitlement for entitlement_id, pool in ledger.pools.items()}
    here.update({terms.entitlement_id: terms for terms in installation.entitlements})
    for command_id in commands:
        command = installation.commands[command_id]
        if command.type != RESET_USAGE:
            continue
        terms = here.get(command.entitlement_id or "")
        if terms is None:
            what = f"entitlement {command.entitlement_id}, which is not here"
            raise RefusedDocument(Refusal.MALFORMED, f"Command {command_id} resets {what}; ask the vendor for another.")
        consumed = [one.key for one in terms.features if one.consumed]
        if command.feature is None and not consumed:
            what = f"{terms.entitlement_id}, of which nothing is consumed"
            raise RefusedDocument(Refusal.MALFORMED, f"Command {command_id} resets {what}; ask the vendor for another.")
        if command.feature is not None and command.feature not in consumed:
            what = f"{command.feature}, which is no consumed feature of {terms.entitlement_id}"
            raise RefusedDocument(Refusal.MALFORMED, f"Command {command_id} resets {what}; ask the vendor for another.")


def _refuse_twice(installation: Installation) -> None:
    ids = [terms.entitlement_id for terms in installation.entitlements]
    if len(ids) != len(set(ids)):
        raise RefusedDocument(Refusal.MALFORMED, "The bundle names an entitlement twice.")


def _kept_step(ledger: Hosting, terms: Entitlement) -> Step:
    """Of a bundle that was applied before: whatever came after it stands."""
    pool = ledger.pools.get(terms.entitlement_id)
    return Step(entitlement=terms, before=None if pool is None else pool.entitlement, change=Change.UNCHANGED)


def _step(ledger: Hosting, terms: Entitlement) -> Step:
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
        if before != ledger.dated(terms):
            raise RefusedDocument(
                Refusal.REPLAYED,
                f"Entitlement {terms.entitlement_id} differs from the one applied under its sequence {terms.sequence}.",
            )
        return Step(entitlement=terms, before=before, change=Change.UNCHANGED)
    if before is not None and before.product != terms.product:
        raise RefusedDocument(
            Refusal.MALFORMED,
            f"Entitlement {terms.entitlement_id} is hosted for {before.product}, and the bundle makes it one of"
            f" {terms.product}: leases of the one would become leases of the other. Ask the vendor for a new one.",
        )
    return Step(entitlement=terms, before=before, change=Change.UPDATED)


def _acknowledged(ledger: Hosting, installation: Installation) -> tuple[Acknowledgement | None, list[str]]:
    receipt = installation.acknowledgement
    if receipt is None or receipt.receipt_id in ledger.receipts:
        return None, []
    if ledger.server.restored and _is_forked(ledger, installation):
        return None, [
            f"Receipt {receipt.receipt_id} acknowledges a line that the backup lacks; the vendor's answer settles that."
        ]
    if _is_forked(ledger, installation):
        return None, [
            f"Receipt {receipt.receipt_id} acknowledges a line that is not in this server's journal: chain_forked."
        ]
    return (receipt if receipt.up_to_seq > ledger.server.acknowledged.seq else None), []


def _is_forked(ledger: Hosting, installation: Installation) -> bool:
    receipt = installation.acknowledgement
    if receipt is None or receipt.receipt_id in ledger.receipts:
        return False
    return installation.known_head != receipt.head
