"""From one version of the key set to the next, alone or with several people.

Rules
1. Two changes at once would make two versions of one number: the next one is put on the disk under the register's write
   lock, and only behind the version that it was made to follow. It is signed before, without the lock (``rounds``).
2. What others have to sign stands in the register before it is handed out, with its fingerprint. While the first key
   set of all waits, nothing else can be signed here; while a later one waits, the present one stays in force.
3. A compromised key is taken out (``Change.without``): a server refuses what it signs as soon as it has the version
   without it, and gets that version with its next bundle.

It refuses to own keys and files (``keyring``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.keyring import Change, KeyDraft, Keyring
from lls.issuer.pending import Kind, Pending
from lls.issuer.pending_register import PendingRegister
from lls.issuer.refusals import PendingRefused, SignaturesMissing
from lls.issuer.register import Register
from lls.issuer.rounds import settled_in_rounds
from lls.issuer.signers import PublicPart
from lls.issuer.signing_agent import read_command
from lls.signed.keys import KeySet


class Rotating:
    """See the module. Each method is done whole or not at all."""

    def __init__(self, register: Register, *, keyring: Keyring, random: Random) -> None:
        self._register = register
        self._keyring = keyring
        self._pending = PendingRegister(register)
        self._random = random

    def rotate(self, *, now: datetime) -> KeySet:
        """A new key for each one of this home. Raises SignaturesMissing where others have to sign."""
        made = self.change(Change(), now=now, renewing=True)
        if isinstance(made, Pending):
            raise SignaturesMissing(made.still_needed())
        return made

    def change(
        self, change: Change, *, now: datetime, partial: bool = False, renewing: bool = False
    ) -> KeySet | Pending:
        """Another version; with ``partial``, what waits for others where this home cannot finish it.

        ``renewing``: for each key that leaves and each of this home a new one, as they are when it is decided.
        """

        def decide() -> KeyDraft:
            wanted = change
            if renewing:
                wanted = replace(self._keyring.rotation(without=change.without), thresholds=change.thresholds)
            return self._keyring.draft(wanted, pending_id=new_id("pnd", self._random), now=now, partial=partial)

        def settle(draft: KeyDraft) -> KeySet | Pending:
            made = self._keyring.keep(draft, now=now)
            if isinstance(made, Pending):
                self._pending.add(made)
            else:
                # The key set's file is the moment of truth, so a crash right here leaves a rotation without its line.
                self.note(Deed.KEYS_ROTATED, made, now=now)
            return made

        return settled_in_rounds(
            self._register,
            self._keyring,
            what="The next version of the key set",
            decide=decide,
            sign=lambda draft: self._keyring.signed_draft(draft, now=now),
            stands=self._keyring.follows,
            settle=settle,
        )

    def await_first(self, pending: Pending) -> None:
        """Remembers the very first version, which others have to sign; inside the transaction of its making."""
        self._pending.add(pending)

    def sign_here(self, pending: Pending, *, now: datetime) -> Pending:
        """With the signatures of this home's own root keys. Raises PendingRefused where none of them may sign."""
        signed = self._keyring.signed_here(pending, now=now)
        if signed == pending:
            raise PendingRefused(
                f"No key of this home can add a signature to this. {pending.still_needed()} Sign with --key FILE."
            )
        return signed

    def hold(self, part: PublicPart, command: str) -> None:
        """Lets a command sign with a key for this home, once it has shown that it can."""
        self._keyring.hold(part, read_command(command, public=part.key))

    def seal(self, pending: Pending, *, now: datetime) -> KeySet:
        """Puts a version that enough have signed in force. Raises PendingRefused, SignaturesMissing."""
        if pending.kind is not Kind.KEYS:
            raise PendingRefused(
                f"This file becomes a {pending.kind.value} and no key set: lls-issuer {pending.kind.value} seal."
            )
        with self._register.transaction():
            self._keyring.refresh()
            versions = self._keyring.versions
            known = next((one for one in versions if one.token == pending.papers[0].token), None)
            if known is not None:
                return known  # the very file again
            self._pending.check(pending, keys=versions[-1] if versions else None, now=now)
            first = not versions
            keys = self._keyring.adopt(pending, now=now)
            self._pending.note_sealed(pending, now=now)
            self.note(Deed.KEYS_MADE if first else Deed.KEYS_ROTATED, keys, now=now)
        return keys

    def note(self, deed: Deed, keys: KeySet, *, now: datetime) -> None:
        """Writes the history's line of a version."""
        roles = {name: sorted(role.kids) for name, role in keys.roles.items()}
        thresholds = {name: role.threshold for name, role in keys.roles.items()}
        self._register.note(deed, at=now, what={"version": keys.version, "roles": roles, "thresholds": thresholds})
