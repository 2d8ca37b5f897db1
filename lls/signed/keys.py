"""Key sets: which vendor key may sign what, and how one version of that follows another.

A key set is the root of all trust here. The first one is trusted because somebody installed it; every later one
because the keys of the one before say so. Rules, in order

1. A version's signatures reach the ``root`` threshold of the version before *and* its own, so that neither a stolen
   old key alone nor a new set that nobody can renew gets through (the same rule as the root role of TUF §5.3).
2. Versions follow without a gap; the same version with other content is a fork.
3. A signature counts once per key. A ``kid`` is recomputed from its key, so one key cannot count under two names.
4. Each role's threshold can be reached by keys in the set. ``root`` and ``certificate`` keys are P-256, because
   clients that check them may have nothing else (contract §3).
5. Expiry refuses new bundles and nothing else (design §4).

Refuses to own: the storage of versions, and the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields, write_instant
from lls.signed.encoding import Json, malformed, members, required
from lls.signed.jose import (
    ES256,
    MOST_TOKEN,
    Jwk,
    PublicKey,
    Signer,
    Token,
    algorithms_of,
    read_public_key,
    sign_general,
    signers_of,
    token_text,
    unverified_payload,
    verify,
)

ROLES: Final = ("root", "bundle", "certificate")
TYP: Final = "lls-keys+jws"
_MOST_KEYS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """How many of which keys have to sign."""

    threshold: int
    kids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """One verified version of the vendor's keys; ``token`` is the signed document itself."""

    version: int
    expires_at: datetime
    roles: Mapping[str, Role]
    keys: Mapping[str, PublicKey]
    token: str

    def verify(self, token: Token, *, role: str, typ: str, limit: int = MOST_TOKEN) -> Json:
        """The payload of ``token`` when enough keys of ``role`` signed it.

        Refusals: ``signature`` when no key of the role did, ``threshold`` when too few did, and those of
        :func:`lls.signed.jose.verify`.
        """
        needed = self.roles[role]
        kids = needed.kids
        verified = verify(
            token,
            typ=typ,
            key_of=lambda kid: self.keys[kid] if kid in kids else None,
            algs=algorithms_of(typ),
            limit=limit,
        )
        if len(verified.kids) < needed.threshold:
            sentence = f"The document has {len(verified.kids)} of the {needed.threshold} signatures that it needs."
            raise RefusedDocument(Refusal.THRESHOLD, sentence)
        return verified.payload

    def has_signed(self, token: Token, *, role: str, typ: str, limit: int = MOST_TOKEN) -> bool:
        """Whether enough keys of ``role`` signed ``token``. Reads nothing of its payload.

        Refusals: ``too_large`` and ``malformed``, of what is around the payload.
        """
        needed = self.roles[role]
        found = signers_of(
            token, typ=typ, key_of=lambda kid: self.keys[kid] if kid in needed.kids else None, limit=limit
        )
        return len(found) >= needed.threshold

    def successor(self, token: Token) -> KeySet:
        """The next version, signed by the root threshold of this one and of its own.

        Refusals: ``older`` for this version or an earlier one, ``malformed`` for a gap, ``signature``, ``threshold``.
        """
        self.verify(token, role="root", typ=TYP)
        following = read_key_set(token)
        if following.version <= self.version:
            sentence = f"The key set has version {following.version}, and version {self.version} is known already."
            raise RefusedDocument(Refusal.OLDER, sentence)
        if following.version != self.version + 1:
            raise malformed(f"Key set version {self.version + 1} is missing before version {following.version}.")
        return following

    def check_expiry(self, now: datetime) -> None:
        """``expired`` after ``expires_at``: for new bundles only; what was imported before stays in force."""
        if now > self.expires_at:
            end = write_instant(self.expires_at)
            sentence = f"The vendor's key set {self.version} expired at {end}; ask the vendor for a newer bundle."
            raise RefusedDocument(Refusal.EXPIRED, sentence)


def read_key_set(token: Token) -> KeySet:
    """A key set that reaches its own root threshold: to be trusted if it was installed, or through ``successor``."""
    claimed = _read(unverified_payload(token), token)
    claimed.verify(token, role="root", typ=TYP)
    return claimed


def follow(keys: KeySet, tokens: Sequence[str]) -> tuple[KeySet, tuple[str, ...]]:
    """The newest version that ``tokens`` (in order) lead to, and those of them that were new.

    Versions known already are passed over, for a bundle may have been made from an older request; but the present
    version with other content is ``forked``: somebody else has the vendor's root keys.
    """
    new: list[str] = []
    for token in tokens:
        claimed = unverified_payload(token)
        version = Fields(claimed, place="key set").integer("version", least=1)
        if version == keys.version and claimed != unverified_payload(keys.token):
            keys.verify(token, role="root", typ=TYP)
            raise RefusedDocument(Refusal.FORKED, f"There are two different key sets of version {version}.")
        if version > keys.version:
            keys = keys.successor(token)
            new.append(token)
    return keys, tuple(new)


def make_key_set(
    *, version: int, expires_at: datetime, roles: Mapping[str, Role], keys: Sequence[Jwk], signers: Sequence[Signer]
) -> str:
    """The signed key set, always general JSON, so that another person's signature can be added."""
    payload = key_set_payload(version=version, expires_at=expires_at, roles=roles, keys=keys)
    return sign_general(payload, keys=signers, typ=TYP)


def key_set_payload(
    *, version: int, expires_at: datetime, roles: Mapping[str, Role], keys: Sequence[Jwk]
) -> dict[str, object]:
    """What a key set says, before anybody has signed it."""
    return {
        "version": version,
        "expires_at": write_instant(expires_at),
        "roles": {name: {"threshold": role.threshold, "kids": sorted(role.kids)} for name, role in roles.items()},
        "keys": [dict(jwk) for jwk in keys],
    }


def unsigned_key_set(payload: Json) -> KeySet:
    """What a proposed key set would be, for those who are to sign it: its ``token`` is empty and nobody may trust it.

    Raises ``malformed`` for what no server would take.
    """
    return _read(payload, "")


def _read(payload: Json, token: Token) -> KeySet:
    required(payload, "version", "expires_at", "roles", "keys")
    fields = Fields(payload, place="key set")
    keys: dict[str, PublicKey] = {}
    for jwk in fields.list("keys", most=_MOST_KEYS):
        if not isinstance(jwk, dict):
            raise malformed("Each of the key set's keys must be an object.")
        key = read_public_key(jwk)
        if key.kid in keys:
            raise malformed("The key set names a key twice.")
        keys[key.kid] = key
    roles = members(payload, "roles")
    return KeySet(
        version=fields.integer("version", least=1),
        expires_at=fields.instant("expires_at"),
        roles={name: _read_role(name, members(roles, name), keys) for name in ROLES},
        keys=keys,
        token=token_text(token),
    )


def _read_role(name: str, document: Json, keys: Mapping[str, PublicKey]) -> Role:
    fields = Fields(document, place=f"roles.{name}")
    kids = fields.texts("kids", most=_MOST_KEYS)
    threshold = fields.integer("threshold", least=1, most=_MOST_KEYS)
    if len(set(kids)) != len(kids) or threshold > len(kids):
        raise malformed(f"The threshold of the role {name!r} cannot be reached by its keys.")
    if not keys.keys() >= set(kids):
        raise malformed(f"The role {name!r} names a key that is not in the set.")
    if name != "bundle" and any(keys[kid].alg != ES256 for kid in kids):
        raise malformed(f"The keys of the role {name!r} must be P-256.")
    return Role(threshold=threshold, kids=frozenset(kids))
