"""The vendor's keys on disk: private ones encrypted, every version of the key set kept.

Layout of ``keys/`` (mode 0700)
- ``v1.llskeys``, ``v2.llskeys`` …: the key sets, public. The highest is in force.
- ``<kid>.pem``: a private signing key, PKCS #8, encrypted with the passphrase unless the vendor chose none (0600).
- ``<kid>.command``: a key that is not here, and the command that signs with it (0600, for it may name a PIN).
- ``<kid>.llskey``: the public part of a key that somebody else holds, with its name.
- ``report.pem``: the private key that usage reports are encrypted to (0600).

Rules
1. The key set's file is the moment of truth: private keys are written before it, so that a crash leaves at most a key
   that nothing names.
2. Version n+1 is signed by the root keys of n and by its own (design §4), and everything issued from then on is signed
   by its keys. What changes from one to the next is a :class:`Change`. Old private keys stay, because nothing gains
   from their loss.
3. A chain on disk that does not verify is refused: a vendor who signs with a broken chain locks every site out.
4. Where this home cannot reach a threshold by itself, it makes what people pass around (``pending``), with its own
   signatures on a key set already there.

It refuses to own what is signed (``issue``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.pending import Kind, Paper, Pending
from lls.issuer.refusals import Conflict, HomeRefused, KeysLocked, NotKnown, PendingRefused, SignaturesMissing
from lls.issuer.signers import LARGEST_FILE, PublicPart, is_encrypted, read_part_file, read_private_key
from lls.issuer.signing_agent import CommandSigner, signer_of
from lls.signed.encoding import malformed
from lls.signed.jose import EncryptionKey, PublicKey, Signer, SigningKey
from lls.signed.keys import ROLES, KeySet, Role, key_set_payload, read_key_set, unsigned_key_set

LIFE: Final = timedelta(days=730)
"""How long a key set may be used to issue; bundles refuse to be made after it, leases never end for it."""

_REPORT_KEY: Final = "report.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a next version of the key set has that this one has not.

    ``adding`` are keys of other people or tokens by their role; ``making``: a new key of this home for each of these
    roles (twice named: two); ``without``: kids that leave every role.
    """

    adding: Mapping[str, Sequence[PublicPart]] = field(default_factory=dict)
    making: Sequence[str] = ()
    without: Collection[str] = ()
    thresholds: Mapping[str, int] = field(default_factory=dict)


OWN_KEYS: Final = Change(making=ROLES)
"""A new key of this home for each role: what ``init`` makes unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDraft:
    """A next version before it is anywhere; ``made`` are this home's new private keys by their role."""

    pending: Pending
    made: Mapping[str, Sequence[SigningKey]] = field(repr=False)
    added: Sequence[PublicPart]


class Keyring:
    """The keys of one vendor. Public parts are read at once, private ones when they are needed."""

    def __init__(self, folder: Path, *, passphrase: bytes | None) -> None:
        """Reads and verifies the chain of key sets. Raises :class:`HomeRefused`."""
        self._folder = folder
        self._passphrase = passphrase
        self.versions = _read_chain(folder)

    def __repr__(self) -> str:
        return f"Keyring(versions={len(self.versions)})"

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        passphrase: bytes | None,
        now: datetime,
        change: Change = OWN_KEYS,
        pending_id: str = "",
    ) -> Pending | None:
        """New keys and version 1 of the key set; or, where others have to sign it, what they pass around."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        keyring = cls.__new__(cls)
        keyring._folder, keyring._passphrase, keyring.versions = folder, passphrase, []  # noqa: SLF001 - our own
        write_whole(folder / _REPORT_KEY, EncryptionKey.generate().to_pem(passphrase), mode=PRIVATE)
        draft = keyring.draft(change, pending_id=pending_id, now=now, partial=True)
        made = keyring.keep(keyring.signed_draft(draft, now=now), now=now)
        return made if isinstance(made, Pending) else None

    @property
    def newest(self) -> KeySet:
        """The key set in force. Raises :class:`HomeRefused` while the first one is not complete."""
        if not self.versions:
            raise HomeRefused(
                f"The first key set of {self._folder.parent} still waits for signatures: have its people sign it "
                "(lls-issuer keys sign), then seal it here (lls-issuer keys seal). If it had one, "
                "put keys/ back from the backup."
            )
        return self.versions[-1]

    def version(self, number: int) -> KeySet:
        """One version. Raises :class:`NotKnown`."""
        if not 1 <= number <= len(self.versions):
            raise NotKnown(f"There is no key set version {number}; the newest is {self.newest.version}.")
        return self.versions[number - 1]

    def after(self, number: int) -> list[str]:
        """The signed key sets after version ``number``, in order."""
        return [keys.token for keys in self.versions if keys.version > number]

    def refresh(self) -> None:
        """Reads the key sets anew: somebody else may have made one. Raises :class:`HomeRefused`."""
        self.versions = _read_chain(self._folder)

    # -- who signs ----------------------------------------------------------------------------------------------------

    def check_reaches(self, role: str) -> None:
        """Raises SignaturesMissing where this home cannot reach a role's threshold, and KeysLocked."""
        needed, here = self.newest.roles[role], self.here(role)
        if len(here) < needed.threshold:
            raise SignaturesMissing(
                f"The role {role} needs {needed.threshold} signatures, and this home has {len(here)} of its keys. Let "
                "it be passed around (lls-issuer bundle issue, or receipt issue, with --unsigned -o FILE.pending), or "
                "replace a key that was lost (lls-issuer keys rotate --without KID)."
            )
        for kid in here[: needed.threshold]:
            self.signer(kid)

    def signer(self, kid: str) -> Signer:
        """The signer of one key of the set in force that is here. Raises :class:`KeysLocked`."""
        return self._signer(self.newest.keys[kid])

    def here(self, role: str) -> list[str]:
        """The kids of a role in force that this home can sign with, its files before its commands."""
        return self._here(self.newest.roles[role].kids)

    def _here(self, kids: Collection[str]) -> list[str]:
        files = [kid for kid in sorted(kids) if self._private(kid).exists()]
        return files + [kid for kid in sorted(kids) if kid not in files and self._command(kid).exists()]

    def _signer(self, key: PublicKey) -> Signer:
        path = self._private(key.kid)
        if path.exists():
            data = read_bounded(path, what="private key", most=LARGEST_FILE)
            signer = read_private_key(data, passphrase=lambda: self._passphrase, whose="The vendor's key")
            if signer.kid != key.kid:
                raise HomeRefused(f"{path} holds another key than its name says; put the right file back.")
            return signer
        return self._by_command(key)

    def _by_command(self, key: PublicKey) -> CommandSigner:
        path = self._command(key.kid)
        try:
            words = json.loads(read_bounded(path, what="signing command", most=LARGEST_FILE))["command"]
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise malformed("command must be a list of texts")
        except (ValueError, TypeError, KeyError, RefusedDocument) as failure:
            raise HomeRefused(
                f"{path} does not name a signing command; say it again with lls-issuer keys hold."
            ) from failure
        return signer_of(tuple(words), public=key)

    def report_key(self) -> EncryptionKey:
        """The private key of usage reports. Raises :class:`KeysLocked`."""
        data = read_bounded(self._folder / _REPORT_KEY, what="private key", most=LARGEST_FILE)
        passphrase = self._passphrase if is_encrypted(data) else None
        if is_encrypted(data) and passphrase is None:
            raise KeysLocked(
                "The vendor's keys are encrypted: give the passphrase with --passphrase-file or LLS_ISSUER_PASSPHRASE."
            )
        try:
            return EncryptionKey.from_pem(data, passphrase)
        except RefusedDocument as refused:
            raise KeysLocked("The passphrase does not open the vendor's keys; nothing was signed.") from refused

    def hold(self, part: PublicPart, signer: CommandSigner) -> None:
        """Remembers which command signs with a key; tried once, so that a wrong one is found now."""
        signer.sign(b"lls-issuer keys hold")
        self.remember(part)
        document = json.dumps({"command": list(signer.command)}) + "\n"
        write_whole(self._command(part.kid), document.encode(), mode=PRIVATE)

    def remember(self, part: PublicPart) -> None:
        """Keeps somebody's public part, for its name."""
        write_whole(self._folder / f"{part.kid}.llskey", part.token.encode())

    def holder_of(self, kid: str) -> str:
        """Who or what holds a key, for people to read."""
        if self._private(kid).exists():
            return "this home"
        path = self._folder / f"{kid}.llskey"
        name = read_part_file(path).name if path.exists() else None
        where = "a command of this home" if self._command(kid).exists() else "somebody else"
        return where if name is None else f"{name} ({where})"

    # -- the next version ---------------------------------------------------------------------------------------------

    def rotation(self, *, without: Collection[str] = ()) -> Change:
        """A new key of this home for each one that it has in its files, and for each of ``without``."""
        roles = self.newest.roles
        leaving = {kid for role in roles.values() for kid in role.kids if self._private(kid).exists()} | set(without)
        making = [name for name, role in roles.items() for _ in role.kids & leaving]
        return Change(making=making, without=sorted(leaving))

    def draft(
        self, change: Change, *, pending_id: str, now: datetime, partial: bool = False, life: timedelta = LIFE
    ) -> KeyDraft:
        """The next version, not signed and not on the disk yet.

        Raises :class:`Conflict` where the roles cannot be what they must, and :class:`SignaturesMissing` where others
        have to sign and ``partial`` is not said.
        """
        before = self.versions[-1] if self.versions else None
        planned = _planned(before, change)
        if not partial:
            self._check_reached(before, change, planned)
        made = {role: tuple(SigningKey.generate() for _ in range(change.making.count(role))) for role in ROLES}
        roles = {
            name: Role(threshold=threshold, kids=frozenset({*keys, *(key.kid for key in made[name])}))
            for name, (threshold, keys) in planned.items()
        }
        publics = {kid: key for _, keys in planned.values() for kid, key in keys.items()}
        publics |= {key.kid: key.public for keys in made.values() for key in keys}
        payload = key_set_payload(
            version=1 if before is None else before.version + 1,
            expires_at=now.replace(microsecond=0) + life,
            roles=roles,
            keys=[_described(publics[kid]) for kid in sorted(publics)],
        )
        _check_takeable(payload)
        pending = Pending(
            pending_id=pending_id,
            kind=Kind.KEYS,
            keys=before,
            papers=(Paper(name="keys", payload=payload),),
            made_at=now.replace(microsecond=0),
            not_after=now.replace(microsecond=0) + timedelta(days=60),
        )
        added = tuple(part for parts in change.adding.values() for part in parts)
        return KeyDraft(pending=pending, made=made, added=added)

    def signed_draft(self, draft: KeyDraft, *, now: datetime) -> KeyDraft:
        """With the signatures of this home's own root keys, the new ones among them."""
        making = {key.kid: key for key in draft.made["root"]}
        return replace(draft, pending=self.signed_here(draft.pending, making=making, now=now))

    def follows(self, draft: KeyDraft) -> bool:
        """Whether the version that a draft was made to follow is still the newest."""
        newest = self.versions[-1] if self.versions else None
        return (newest and newest.token) == (draft.pending.keys and draft.pending.keys.token)

    def keep(self, draft: KeyDraft, *, now: datetime) -> KeySet | Pending:
        """A signed draft, written and in force; or what still waits for others' signatures."""
        for key in (key for keys in draft.made.values() for key in keys):
            write_whole(self._private(key.kid), key.to_pem(self._passphrase), mode=PRIVATE)
        for part in draft.added:
            self.remember(part)
        return self.adopt(draft.pending, now=now) if draft.pending.complete else draft.pending

    def signed_here(
        self, pending: Pending, *, making: Mapping[str, SigningKey] = MappingProxyType({}), now: datetime
    ) -> Pending:
        """A key set with the signatures of this home's own root keys; ``making`` are those not on the disk yet."""
        judges = [*([pending.keys] if pending.keys else []), unsigned_key_set(pending.payload("keys"))]
        publics = {kid: judge.keys[kid] for judge in judges for kid in judge.roles["root"].kids}
        for kid in [*making, *(kid for kid in self._here(publics) if kid not in making)]:
            if pending.waits_for(kid):
                pending, _ = pending.signed_by(making.get(kid) or self._signer(publics[kid]), now=now)
        return pending

    def _check_reached(
        self, before: KeySet | None, change: Change, planned: Mapping[str, tuple[int, Mapping[str, PublicKey]]]
    ) -> None:
        threshold, keys = planned["root"]
        own = len(self._here(keys)) + change.making.count("root")
        old = before.roles["root"] if before else None
        if own >= threshold and (old is None or len(self._here(old.kids)) >= old.threshold):
            return
        raise SignaturesMissing(
            "The next key set needs root signatures that this home cannot make. Say where to write what its people "
            "pass around: -o FILE.pending."
        )

    def adopt(self, pending: Pending, *, now: datetime) -> KeySet:
        """Puts a complete key set in force. Raises PendingRefused, SignaturesMissing."""
        pending.check_time(now)
        token = pending.finished()["keys"]
        before = self.versions[-1] if self.versions else None
        proposed = unsigned_key_set(pending.payload("keys"))
        expected = 1 if before is None else before.version + 1
        if proposed.version != expected or (before and before.token) != (pending.keys and pending.keys.token):
            raise PendingRefused(
                f"This is version {proposed.version} of the key set, made to follow another one than this home has: "
                f"the next one here is {expected}. Make a new one."
            )
        try:
            following = read_key_set(token) if before is None else before.successor(token)
        except RefusedDocument as refused:
            raise PendingRefused(f"The key set does not verify: {refused.detail}") from refused
        write_whole(self._folder / f"v{following.version}.llskeys", token.encode())
        self.versions = [*self.versions, following]
        return following

    def _private(self, kid: str) -> Path:
        return self._folder / f"{kid}.pem"

    def _command(self, kid: str) -> Path:
        return self._folder / f"{kid}.command"


def are_encrypted(folder: Path) -> bool:
    """Whether the private keys in ``folder`` need a passphrase; false where there are none."""
    path = folder / _REPORT_KEY
    return path.exists() and is_encrypted(read_bounded(path, what="private key", most=LARGEST_FILE))


def _planned(before: KeySet | None, change: Change) -> dict[str, tuple[int, dict[str, PublicKey]]]:
    """Each role's threshold, and its keys but for those that are to be made. Raises Conflict."""
    if unknown := sorted({*change.adding, *change.making, *change.thresholds} - set(ROLES)):
        raise Conflict(f"There is no role {unknown[0]}; the roles are {', '.join(ROLES)}.")
    present = {kid for role in before.roles.values() for kid in role.kids} if before else set()
    if missing := sorted(set(change.without) - present):
        raise Conflict(f"No role has the key {missing[0]}; see lls-issuer keys show.")
    planned = {}
    for name in ROLES:
        old = before.roles[name] if before else Role(threshold=1, kids=frozenset())
        keys = {kid: before.keys[kid] for kid in old.kids - set(change.without)} if before else {}
        for part in change.adding.get(name, ()):
            if part.kid in keys:
                raise Conflict(f"The key {part.kid} ({part.name}) is in the role {name} already.")
            keys[part.kid] = part.key
        threshold, count = change.thresholds.get(name, old.threshold), len(keys) + list(change.making).count(name)
        if not 1 <= threshold <= count:
            raise Conflict(
                f"The role {name} would have {count} keys, of which {threshold} must sign: that can never be. Add "
                f"keys, or say another threshold (--threshold {name}=N)."
            )
        planned[name] = (threshold, keys)
    return planned


def _described(key: PublicKey) -> dict[str, str]:
    return {**key.jwk, "kid": key.kid, "alg": key.alg, "use": "sig"}


def _check_takeable(payload: dict[str, object]) -> None:
    try:
        unsigned_key_set(payload)
    except RefusedDocument as refused:
        raise Conflict(f"No server would take that key set: {refused.detail}") from refused


def _read_chain(folder: Path) -> list[KeySet]:
    numbers = sorted(int(path.stem[1:]) for path in folder.glob("v*.llskeys") if path.stem[1:].isdecimal())
    if not numbers and not (folder / _REPORT_KEY).exists():
        raise HomeRefused(f"There is no key set in {folder}; make one with lls-issuer init, or check --home.")
    if numbers != list(range(1, len(numbers) + 1)):
        raise HomeRefused(f"The key sets in {folder} have a gap: there are {', '.join(map(str, numbers))}.")
    chain: list[KeySet] = []
    try:
        for number in numbers:
            token = read_bounded(folder / f"v{number}.llskeys", what="key set", most=LARGEST_FILE)
            chain.append(chain[-1].successor(token) if chain else read_key_set(token))
    except RefusedDocument as refused:
        raise HomeRefused(f"The key set {len(chain) + 1} in {folder} does not verify: {refused.detail}") from refused
    return chain
