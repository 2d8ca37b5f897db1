"""The bundle: everything the vendor grants to one server, sealed so that only this server can read it.

:func:`open_bundle` judges in this order, and the code repeats the numbers:

1. Size.
2. Decryption with this server's key.
3. Signatures and threshold of the role ``bundle``, under the newest version known here. Where they do not hold, the
   key-set versions that the bundle brings are looked for in its bytes, and each is verified by the one before: that
   chain needs no trust, it proves itself or is refused. Nothing else of the payload is read before its signature holds:
   encrypting to a server takes only its public key, so whoever saw its request could send it a file that takes minutes
   to read.
4. The chain as the payload has it, and the signatures under the newest version that it leads to.
5. ``format``: a later one may mean other things by the same words, so nothing else is read of it.
6. Audience.
7. The server certificate: signed for its role, for this server, for this server's key.
8. The shape of everything else. An embedded receipt stays a token; its own reader judges it.

Dates are asked for separately (:meth:`Bundle.check_dates`), because an expired bundle is refused and yet remembered
for its sequence. :func:`verify_stored` repeats 4 to 8 at each start, under the version in force at the import.

Limits: 64 MiB sealed, 10,000 entitlements, 1,000 commands, 64 key sets of 1 MiB together.
Refuses to own: sequences, sessions, what changes (the ledger's), and the clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing import terms
from lls.licensing.entitlement import Entitlement, read_entitlement
from lls.licensing.fields import Fields, write_instant
from lls.licensing.journal import Head
from lls.signed.certificate import ServerCertificate, read_certificate
from lls.signed.encoding import Json, hash_text, malformed, members, read_json, required, texts
from lls.signed.jose import (
    MOST_SEALED,
    EncryptionKey,
    Jwk,
    Signer,
    decrypt,
    encrypt,
    read_encryption_jwk,
    read_public_key,
    sign_document,
    token_text,
    unverified_bytes,
)
from lls.signed.keys import KeySet, follow

TYP: Final = "lls-bundle+jws"
FORMAT: Final = 1
AHEAD_TOLERANCE: Final = timedelta(days=1)
_MOST_ENTITLEMENTS: Final = 10_000
_MOST_COMMANDS: Final = 1_000
_MOST_METERS: Final = 100_000
_MOST_KEY_SETS: Final = 64
_MOST_KEY_BYTES: Final = 2**20
_MOST_KEY_PLACES: Final = 16
_KEYS_NAME: Final = b'"keys"'
_KEYS_ARRAY: Final = re.compile(rb'\s*+:\s*+(\[\s*+"(?:[^"\\]|\\.)*+"(?:\s*+,\s*+"(?:[^"\\]|\\.)*+")*+\s*+\])')
"""A member's value that is a list of texts, one at least; possessive, so that it cannot backtrack."""
_LONGEST_GRACE_SECONDS: Final = 3650 * 86_400
_MEMBERS: Final = (
    "format",
    "bundle_id",
    "server_id",
    "sequence",
    "certificate",
    "keys",
    "issued_at",
    "not_after",
    "report_key",
    "server_license",
    "customer",
    "entitlements",
    "receipt",
    "commands",
)


class BindingPolicy(StrEnum):
    """What a server has to keep of the machine that it was licensed on."""

    HOST = "host"
    KEY_ONLY = "key_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """``required`` of the hashed ``components`` must still match; a changed host goes on for ``grace``."""

    policy: BindingPolicy
    required: int
    components: Mapping[str, str]
    grace: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLicense:
    """Until when this server may lease at all, and how often the vendor wants to hear from it."""

    expires_at: datetime
    sync_within_days: int
    binding: Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Whose server this is; ``custom_fields`` are the vendor's own and are shown, never judged."""

    customer_id: str
    name: str
    account_ref: str
    custom_fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the vendor orders once, under the id that keeps it from being carried out twice.

    ``data`` is everything beside ``command_id`` and ``type``, as it came: of a type that is unknown here nothing is
    read, and it is the ledger that refuses it.
    """

    command_id: str
    order: terms.Command
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose signatures, audience and certificate are right; its dates are still to be asked for."""

    format: int
    bundle_id: str
    server_id: str
    sequence: int
    certificate: ServerCertificate
    issued_at: datetime
    not_after: datetime
    report_key: Mapping[str, str] | None
    server_license: ServerLicense
    customer: Customer
    entitlements: tuple[Entitlement, ...]
    receipt: str | None = field(repr=False)
    commands: tuple[Command, ...]

    def check_dates(self, now: datetime) -> None:
        """``not_yet_valid`` more than a day before ``issued_at``, ``expired`` after ``not_after``.

        The day is for sites whose clocks nobody watches; the issue time is the vendor's and is never in the future.
        """
        if self.issued_at > now + AHEAD_TOLERANCE:
            sentence = f"The bundle was issued at {write_instant(self.issued_at)}; this server's clock is behind that."
            raise RefusedDocument(Refusal.NOT_YET_VALID, sentence)
        if now > self.not_after:
            end = write_instant(self.not_after)
            sentence = f"The bundle had to be imported until {end}; ask the vendor for a new one."
            raise RefusedDocument(Refusal.EXPIRED, sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBundle:
    """``jws`` and ``key_sets`` (new ones, in order) are what to store; ``keys`` is the version then in force."""

    bundle: Bundle
    jws: str = field(repr=False)
    key_sets: tuple[str, ...] = field(repr=False)
    keys: KeySet


def open_bundle(
    data: bytes, *, encryption_key: EncryptionKey, server_id: str, keys: KeySet, server_jwk: Jwk
) -> OpenedBundle:
    """The bundle in a ``.llsbundle`` file, by the rules above.

    ``keys`` is the newest version that this server knows, ``server_jwk`` its own public signing key.
    Refusals: ``too_large``, ``malformed``, ``decryption``, ``older``, ``forked``, ``signature``, ``threshold``,
    ``format``, ``audience``.
    """
    plain = decrypt(data, key=encryption_key, limit=MOST_SEALED)  # 1, 2
    jws = token_text(plain)
    signed_under = keys
    if not keys.has_signed(jws, role="bundle", typ=TYP, limit=MOST_SEALED):  # 3
        signed_under, _ = follow(keys, _keys_somewhere_in(unverified_bytes(jws, limit=MOST_SEALED)))
    payload = signed_under.verify(jws, role="bundle", typ=TYP, limit=MOST_SEALED)
    brought = Fields(payload, place="bundle").list("keys", most=_MOST_KEY_SETS)
    in_force, new = follow(keys, [_token(item, "keys") for item in brought])  # 4
    if in_force.version != signed_under.version:
        # By keys that the bundle itself replaces.
        in_force.verify(jws, role="bundle", typ=TYP, limit=MOST_SEALED)
    bundle = _judge(payload, keys=in_force, server_id=server_id, server_jwk=server_jwk)  # 5 to 8
    return OpenedBundle(bundle=bundle, jws=jws, key_sets=new, keys=in_force)


def verify_stored(jws: str, *, keys: KeySet, server_id: str, server_jwk: Jwk | None = None) -> Bundle:
    """The bundle in a stored ``jws``, judged anew. ``keys`` is the version that was in force when it was imported."""
    payload = keys.verify(jws, role="bundle", typ=TYP, limit=MOST_SEALED)  # 4
    return _judge(payload, keys=keys, server_id=server_id, server_jwk=server_jwk)


def _judge(payload: Json, *, keys: KeySet, server_id: str, server_jwk: Jwk | None) -> Bundle:
    fields = Fields(payload, place="bundle")
    if fields.integer("format") != FORMAT:  # 5
        sentence = f"The bundle is of format {payload['format']}, and this server reads {FORMAT}; upgrade the server."
        raise RefusedDocument(Refusal.FORMAT, sentence)
    if fields.id("server_id", "lls_") != server_id:  # 6
        raise RefusedDocument(Refusal.AUDIENCE, "The bundle is for another server.")
    required(payload, *_MEMBERS)
    certificate = read_certificate(_token(payload["certificate"], "certificate"), keys)  # 7
    if certificate.server_id != server_id:
        raise RefusedDocument(Refusal.AUDIENCE, "The certificate in the bundle is for another server.")
    if server_jwk is not None and certificate.kid != read_public_key(server_jwk).kid:
        sentence = "The certificate in the bundle is for another key than this server's; carry out a new request."
        raise RefusedDocument(Refusal.AUDIENCE, sentence)
    return _read(payload, certificate)  # 8


def _keys_somewhere_in(payload: bytes) -> list[str]:
    """The first non-empty list of texts that follows the name ``keys``; none where there is none.

    A guess, and that is enough: what it finds proves itself, and is compared with what the payload really has once that
    may be read. Linear in the payload, whatever it holds.
    """
    at = -1
    for _ in range(_MOST_KEY_PLACES):
        at = payload.find(_KEYS_NAME, at + 1)
        if at < 0:
            break
        begin = at + len(_KEYS_NAME)
        if found := _KEYS_ARRAY.match(payload, begin, begin + _MOST_KEY_BYTES):
            listed = read_json(b'{"keys":%b}' % found[1], most=_MOST_KEY_BYTES)
            return [_token(item, "keys") for item in Fields(listed, place="bundle").list("keys", most=_MOST_KEY_SETS)]
    return []


def seal_bundle(payload: Mapping[str, object], *, signers: Sequence[Signer], encryption_jwk: Jwk) -> bytes:
    """The bytes of a ``.llsbundle`` file: ``payload`` (contract §3) signed by all ``signers``, sealed to one server."""
    return seal_signed(sign_document(payload, signers=signers, typ=TYP), encryption_jwk=encryption_jwk)


def seal_signed(jws: str, *, encryption_jwk: Jwk) -> bytes:
    """The same from a JWS whose signatures were gathered one by one."""
    return encrypt(jws.encode("ascii"), to=encryption_jwk).encode("ascii")


def _read(payload: Json, certificate: ServerCertificate) -> Bundle:
    fields = Fields(payload, place="bundle")
    issued_at, not_after = fields.instant("issued_at"), fields.instant("not_after")
    if not_after < issued_at:
        raise malformed("The bundle ends before it was issued.")
    listed = fields.list("entitlements", most=_MOST_ENTITLEMENTS)
    entitlements = tuple(read_entitlement(item, place=f"entitlements[{n}]") for n, item in enumerate(listed))
    if len({entitlement.entitlement_id for entitlement in entitlements}) != len(entitlements):
        raise malformed("The bundle names an entitlement twice.")
    commands = tuple(_read_command(item) for item in fields.list("commands", most=_MOST_COMMANDS))
    if len({command.command_id for command in commands}) != len(commands):
        raise malformed("The bundle names a command twice.")
    return Bundle(
        format=FORMAT,
        bundle_id=fields.id("bundle_id", "bnd_"),
        server_id=certificate.server_id,
        sequence=fields.integer("sequence", least=1),
        certificate=certificate,
        issued_at=issued_at,
        not_after=not_after,
        report_key=read_encryption_jwk(members(payload, "report_key")) if fields.has("report_key") else None,
        server_license=_read_license(members(payload, "server_license")),
        customer=_read_customer(members(payload, "customer")),
        entitlements=entitlements,
        receipt=_token(payload["receipt"], "receipt") if fields.has("receipt") else None,
        commands=commands,
    )


def _read_license(document: Json) -> ServerLicense:
    required(document, "expires_at", "sync_within_days", "binding")
    fields, bound = Fields(document, place="server_license"), members(document, "binding")
    binding = Fields(bound, place="server_license.binding")
    policy = binding.kind("policy", BindingPolicy)
    components = texts(bound, "components") if binding.has("components") else {}
    count = binding.integer("required", most=len(components)) if binding.has("required") else 0
    if policy is BindingPolicy.HOST and count < 1:
        raise malformed("A binding to the host must require at least one of its components.")
    return ServerLicense(
        expires_at=fields.instant("expires_at"),
        sync_within_days=fields.integer("sync_within_days", least=1, most=36_500),
        binding=Binding(
            policy=policy,
            required=count,
            components=components,
            grace=timedelta(seconds=binding.integer("grace_seconds", most=_LONGEST_GRACE_SECONDS)),
        ),
    )


def _read_customer(document: Json) -> Customer:
    fields = Fields(document, place="customer")
    return Customer(
        customer_id=fields.id("customer_id", "cus_"),
        name=fields.text("name"),
        account_ref=fields.optional_text("account_ref") or "",
        custom_fields=members(document, "custom_fields") if fields.has("custom_fields") else {},
    )


def _read_command(document: object) -> Command:
    fields = Fields(document, place="command")
    command_id, kind = fields.text("command_id", most=100), fields.word("type")
    data = {key: value for key, value in _object(document).items() if key not in {"command_id", "type"}}
    order = terms.Command(type=kind)
    if kind == terms.RESET_USAGE:
        # Neither may be left out: a forgotten ``feature`` would reset them all.
        required(data, "entitlement_id", "feature")
        entitlement_id, feature = fields.id("entitlement_id", "ent_"), fields.optional_word("feature")
        order = terms.Command(type=kind, entitlement_id=entitlement_id, feature=feature)
    elif kind == terms.CHAIN_ADOPT:
        order = terms.Command(type=kind, adoption=_read_adoption(_object(document)))
    return Command(command_id=command_id, order=order, data=data)


def _read_adoption(document: Json) -> terms.Adoption:
    required(
        document, "restore_id", "from_seq", "prev_head", "keep_seq", "meters", "bundle_sequence", "closed_sessions"
    )
    fields = Fields(document, place="chain_adopt")
    return terms.Adoption(
        restore_id=fields.id("restore_id", "rst_"),
        onto=Head(seq=fields.integer("from_seq", least=1) - 1, hash=hash_text(document, "prev_head")),
        keep_seq=fields.optional_integer("keep_seq"),
        bundle_sequence=fields.integer("bundle_sequence"),
        meters=tuple(_read_meter(one) for one in fields.objects("meters", most=_MOST_METERS)),
        closed_sessions=frozenset(fields.texts("closed_sessions", most=_MOST_METERS)),
    )


def _read_meter(fields: Fields) -> terms.KnownMeter:
    lots = fields.objects("lots", most=_MOST_METERS)
    return terms.KnownMeter(
        entitlement_id=fields.id("entitlement_id", "ent_"),
        feature=fields.word("feature"),
        lots=tuple((lot.text("lot"), lot.integer("used"), lot.flag("ended")) for lot in lots),
    )


def _object(document: object) -> Json:
    if not isinstance(document, dict):
        raise malformed("A command must be an object.")
    return document


def _token(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise malformed(f"The member {name!r} must be a signed document in a text.")
    return value
