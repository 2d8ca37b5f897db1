"""The activation request: what a server tells the vendor about itself, carried out by hand.

Rules
1. It is signed by the key that it names as ``signing_key``, which is also its header's ``jwk``: proof of possession.
   That the request comes from the customer it seems to come from is for the vendor's people to know.
2. ``host`` holds hashes only; nothing in it says which machine this is to anybody who does not know the machine.
3. ``restores`` are there while a server that was put back from backups waits for the vendor's answer (decision 0021).
4. ``journal`` names the head of the server's chain, so that the vendor sees a fork before it sells to both branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields, write_instant
from lls.signed.encoding import Json, hash_text, malformed, members, required, texts
from lls.signed.jose import (
    Jwk,
    SigningKey,
    Token,
    read_encryption_jwk,
    read_public_key,
    sign_compact,
    thumbprint,
    token_text,
    verify_self_signed,
)

TYP: Final = "lls-request+jws"
_MOST_RESTORES: Final = 100
_MEMBERS: Final = (
    "server_id",
    "name",
    "signing_key",
    "encryption_key",
    "host",
    "version",
    "keys_version",
    "bundle_sequence",
    "sessions",
    "made_at",
    "journal",
)


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore from a backup that ended at this line, and for which the vendor's answer is awaited."""

    restore_id: str
    seq: int
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRequest:
    """A request whose sender holds the private key of ``signing_jwk``; ``seq`` and ``head`` are its journal's end."""

    server_id: str
    name: str
    signing_jwk: Mapping[str, str]
    encryption_jwk: Mapping[str, str]
    host: Mapping[str, str]
    version: str
    keys_version: int
    bundle_sequence: int
    sessions: tuple[str, ...]
    made_at: datetime
    seq: int
    head: str
    restores: tuple[Restore, ...]
    token: str

    @property
    def fingerprint(self) -> str:
        """The signing key's thumbprint: what two people compare over the telephone."""
        return thumbprint(self.signing_jwk)


def make_request(
    *,
    server_id: str,
    name: str,
    signing_key: SigningKey,
    encryption_jwk: Jwk,
    host: Mapping[str, str],
    version: str,
    keys_version: int,
    bundle_sequence: int,
    sessions: Sequence[str],
    made_at: datetime,
    seq: int,
    head: str,
    restores: Sequence[Restore] = (),
) -> str:
    """The signed request. ``sessions``: the hosting sessions (``ses_…``) now open; ``host``: component → hash."""
    payload: Json = {
        "server_id": server_id,
        "name": name,
        "signing_key": signing_key.public_jwk(),
        "encryption_key": dict(encryption_jwk),
        "host": dict(host),
        "version": version,
        "keys_version": keys_version,
        "bundle_sequence": bundle_sequence,
        "sessions": list(sessions),
        "made_at": write_instant(made_at),
        "journal": {"seq": seq, "head": head},
    }
    if restores:
        payload["restores"] = [{"restore_id": one.restore_id, "seq": one.seq, "head": one.head} for one in restores]
    return sign_compact(payload, key=signing_key, typ=TYP, header={"jwk": signing_key.public.jwk})


def read_request(data: Token) -> ActivationRequest:
    """The request in ``data``. Refusals: ``signature``, ``malformed``, ``too_large``."""
    verified, key = verify_self_signed(data, typ=TYP)
    payload = verified.payload
    required(payload, *_MEMBERS)
    if read_public_key(members(payload, "signing_key")).kid != key.kid:
        raise RefusedDocument(Refusal.SIGNATURE, "The request is signed by another key than the one that it names.")
    fields = Fields(payload, place="request")
    sessions = fields.texts("sessions")
    if len(set(sessions)) != len(sessions):
        raise malformed("The request names a session twice.")
    journal = members(payload, "journal")
    return ActivationRequest(
        server_id=fields.id("server_id", "lls_"),
        name=fields.text("name"),
        signing_jwk=key.jwk,
        encryption_jwk=read_encryption_jwk(members(payload, "encryption_key")),
        host=texts(payload, "host"),
        version=fields.text("version", most=50),
        keys_version=fields.integer("keys_version"),
        bundle_sequence=fields.integer("bundle_sequence"),
        sessions=sessions,
        made_at=fields.instant("made_at"),
        seq=Fields(journal, place="request.journal").integer("seq"),
        head=hash_text(journal, "head"),
        restores=tuple(_read_restore(one) for one in fields.list("restores", most=_MOST_RESTORES))
        if fields.has("restores")
        else (),
        token=token_text(data),
    )


def _read_restore(document: object) -> Restore:
    fields = Fields(document, place="request.restores")
    if not isinstance(document, dict):
        raise malformed("A restore must be an object.")
    return Restore(fields.id("restore_id", "rst_"), fields.integer("seq"), hash_text(document, "head"))
