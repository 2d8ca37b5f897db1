"""The vendor's side in memory: keys, certificates, bundles and receipts for any server, honest or not.

After the manner of python-tuf's repository simulator: everything is right unless a test changes it *before* signing.
Each maker takes ``change``, a function that edits the payload in place, and keyword arguments that replace top-level
members; ``REMOVED`` takes a member out. Signers, recipients and types can be replaced too, so an attack is one line:

    vendor.bundle(site, server_id=new_id("lls_", "another"))            wrong audience, rightly signed
    vendor.bundle(site, signers=[vendor.root[0]])                       a key of another role

Keys and ids are derived from names: the same test makes the same bytes every time.
"""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from lls.licensing.fields import write_instant
from lls.signed.bundle import seal_signed
from lls.signed.encoding import b64encode, write_json
from lls.signed.jose import EncryptionKey, SigningKey, sign_document, sign_general
from lls.signed.keys import KeySet, read_key_set
from lls.signed.request import make_request
from lls.signed.returned import EntitlementReturn, read_return

Document: TypeAlias = dict[str, object]
Change: TypeAlias = Callable[[Document], object]

NOW: Final = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)
REMOVED: Final = object()
NO_HEAD: Final = "0" * 64


class Recipient(Protocol):
    """What a bundle has to know of its server; an ActivationRequest has it too."""

    @property
    def server_id(self) -> str: ...

    @property
    def signing_jwk(self) -> Mapping[str, str]: ...

    @property
    def encryption_jwk(self) -> Mapping[str, str]: ...


def new_id(prefix: str, name: str) -> str:
    """A well-formed id, always the same for the same name."""
    return prefix + b64encode(hashlib.sha256(f"{prefix}{name}".encode()).digest()[:16])


def signing_key(name: str) -> SigningKey:
    """A P-256 key, always the same for the same name."""
    return SigningKey(_p256(name))


def ed25519_key(name: str) -> SigningKey:
    """An Ed25519 key, always the same for the same name."""
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def encryption_key(name: str) -> EncryptionKey:
    """A P-256 key to encrypt to, always the same for the same name."""
    return EncryptionKey(_p256(f"encryption of {name}"))


def changed(payload: Document, change: Change | None, members: Mapping[str, object]) -> Document:
    """A copy of ``payload`` with ``members`` put in place (or REMOVED) and ``change`` applied."""
    edited = copy.deepcopy(payload)
    for name, value in members.items():
        if value is REMOVED:
            edited.pop(name)
        else:
            edited[name] = value
    if change is not None:
        change(edited)
    return edited


def forged(header: Mapping[str, object] | bytes, payload: Mapping[str, object] | bytes, key: SigningKey) -> str:
    """A compact token whose header and payload are whatever a test says, and whose signature is right over that."""
    head, body = (b64encode(part if isinstance(part, bytes) else write_json(part)) for part in (header, payload))
    return f"{head}.{body}.{b64encode(key.sign(f'{head}.{body}'.encode()))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A server's keys and id, for tests that need no server."""

    name: str = "site"
    server_id: str
    signing: SigningKey
    encryption: EncryptionKey

    @classmethod
    def named(cls, name: str = "site") -> Site:
        return cls(
            name=name,
            server_id=new_id("lls_", name),
            signing=signing_key(f"server {name}"),
            encryption=encryption_key(f"server {name}"),
        )

    @property
    def signing_jwk(self) -> Mapping[str, str]:
        return self.signing.public_jwk()

    @property
    def encryption_jwk(self) -> Mapping[str, str]:
        return self.encryption.public_jwk()

    def request(self, *, keys_version: int = 1, bundle_sequence: int = 0, sessions: Sequence[str] = ()) -> str:
        return make_request(
            server_id=self.server_id,
            name=self.name,
            signing_key=self.signing,
            encryption_jwk=self.encryption_jwk,
            host={"machine_id": "a" * 64, "product_uuid": "b" * 64},
            version="1.0.0",
            keys_version=keys_version,
            bundle_sequence=bundle_sequence,
            sessions=sessions,
            made_at=NOW,
            seq=0,
            head=NO_HEAD,
        )

    def entitlement_return(
        self,
        *,
        signers: Sequence[SigningKey] | None = None,
        typ: str = "lls-return+jws",
        change: Change | None = None,
        **members: object,
    ) -> str:
        """The server's word that it hosts ``cad`` no more, with one meter of ``render``."""
        payload: Document = {
            "server_id": self.server_id,
            "entitlement_id": new_id("ent_", "cad"),
            "session_id": new_id("ses_", "cad"),
            "up_to_seq": 7,
            "head": "a" * 64,
            "meters": [meter()],
            "borrowed_until": None,
            "made_at": write_instant(NOW),
        }
        return sign_document(changed(payload, change, members), signers=signers or [self.signing], typ=typ)


def meter(**members: object) -> Document:
    """The last account of a feature that is used up, as a return tells it."""
    document: Document = {
        "feature": "render",
        "type": "usage_count",
        "unit": "frame",
        "lots": [{"lot": "allowance", "amount": 100, "used": 40, "ended": False}],
        "consumed": 40,
        "overage": 0,
        "in_use": 0,
    }
    return changed(document, None, members)


def entitlement(name: str = "cad", **members: object) -> Document:
    """An entitlement of the contract's form, active for a year: 50 floating seats of the product ``name``."""
    document: Document = {
        "entitlement_id": new_id("ent_", name),
        "group_id": new_id("egr_", name),
        "session_id": new_id("ses_", name),
        "sequence": 1,
        "order_ref": "SO-1001",
        "activation_codes": [],
        "product": {"key": name, "name": name.upper()},
        "offering": {"sku": f"{name.upper()}-PRO-1Y", "name": f"{name.upper()} Pro, one year"},
        "edition": "pro",
        "plan": {"license_type": "subscription", "start": "on_issue", "term": {"unit": "year", "count": 1}},
        "status": "active",
        "starts_at": write_instant(NOW - timedelta(days=1)),
        "expires_at": write_instant(NOW + timedelta(days=365)),
        "grace_seconds": 604800,
        "maintenance_expires_on": None,
        "concurrency": "concurrent",
        "named_users": [],
        "named_user_assignment": {"by_site": True, "changes_per_month": 2},
        "node_lock_release_after_seconds": None,
        "max_version": None,
        "seats": 50,
        "overdraft": {"type": "none"},
        "sharing": "none",
        "lease_seconds": 600,
        "linger_seconds": 0,
        "borrow": {"max_seconds": 0, "max_seats": 0},
        "features": [],
        "attributes": [{"key": "max_layers", "type": "number", "value": 64}],
    }
    return changed(document, None, members)


def reset_usage(
    entitlement_id: str, feature: str | None = None, /, *, name: str = "reset", **members: object
) -> Document:
    """A bundle's command by which one counted feature, or all of them, begin anew."""
    document: Document = {
        "command_id": f"cmd_{name}",
        "type": "reset_usage",
        "entitlement_id": entitlement_id,
        "feature": feature,
    }
    return changed(document, None, members)


def clock_reset(*, name: str = "clock", **members: object) -> Document:
    """A bundle's command that lowers a wrong high-water mark."""
    return changed({"command_id": f"cmd_{name}", "type": "clock_reset"}, None, members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A workstation without the network: its fingerprint and the key that it made to borrow."""

    name: str = "laptop"
    now: datetime = NOW
    key: SigningKey

    @classmethod
    def named(cls, name: str = "laptop", *, now: datetime = NOW) -> Machine:
        return cls(name=name, now=now, key=signing_key(f"machine {name}"))

    @property
    def lease_id(self) -> str:
        """The lease that it asks for, unless a test names another."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.name))

    @property
    def fingerprint(self) -> str:
        return f"fingerprint of {self.name}"

    def borrow_request(
        self,
        *,
        typ: str = "lls-borrow-request+jws",
        header: Mapping[str, object] | None = None,
        change: Change | None = None,
        **members: object,
    ) -> str:
        """What it asks for: a seat of ``cad`` for a week. ``header`` replaces members of the header."""
        payload: Document = {
            "lease_id": self.lease_id,
            "product": "cad",
            "holder": {"seat_id": self.fingerprint, "user": "alice", "host": self.name},
            "fingerprint": self.fingerprint,
            "until": write_instant(self.now + timedelta(days=7)),
            "nonce": "n" * 43,
            "made_at": write_instant(self.now),
        }
        return self._signed(changed(payload, change, members), typ, header)

    def borrow_return(
        self,
        server_id: str,
        /,
        *,
        typ: str = "lls-borrow-return+jws",
        header: Mapping[str, object] | None = None,
        change: Change | None = None,
        **members: object,
    ) -> str:
        """Its word that it uses the seat no more."""
        payload: Document = {
            "lease_id": self.lease_id,
            "server_id": server_id,
            "made_at": write_instant(self.now),
        }
        return self._signed(changed(payload, change, members), typ, header)

    def _signed(self, payload: Document, typ: str, header: Mapping[str, object] | None) -> str:
        own: Document = {"alg": self.key.alg, "typ": typ, "kid": self.key.kid, "jwk": self.key.public.jwk}
        return forged(changed(own, None, header or {}), payload, self.key)


@dataclass(slots=True, kw_only=True)
class Vendor:
    """A vendor with two root keys (both needed), two bundle keys and one certificate key."""

    name: str = "vendor"
    now: datetime = NOW
    root_threshold: int = 2
    bundle_threshold: int = 1
    certificate_threshold: int = 1
    root: list[SigningKey] = field(init=False)
    bundle_keys: list[SigningKey] = field(init=False)
    certificate_keys: list[SigningKey] = field(init=False)
    report_key: EncryptionKey = field(init=False)
    key_sets: list[str] = field(init=False, default_factory=list)
    sequences: dict[str, int] = field(init=False, default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.root = [signing_key(f"{self.name} root {n}") for n in (1, 2)]
        self.bundle_keys = [signing_key(f"{self.name} bundle {n}") for n in (1, 2)]
        self.certificate_keys = [signing_key(f"{self.name} certificate {n}") for n in (1, 2)]
        self.report_key = encryption_key(f"{self.name} report")
        self.key_sets.append(self.key_set_token())

    @property
    def keys(self) -> KeySet:
        """The newest key set."""
        return read_key_set(self.key_sets[-1])

    @property
    def first_keys(self) -> KeySet:
        """The key set that sites have installed."""
        return read_key_set(self.key_sets[0])

    def key_set_token(
        self, *, signers: Sequence[SigningKey] | None = None, change: Change | None = None, **members: object
    ) -> str:
        """The next version from the present keys, not yet published."""
        everyone = [*self.root, *self.bundle_keys, *self.certificate_keys]
        payload: Document = {
            "version": len(self.key_sets) + 1,
            "expires_at": write_instant(self.now + timedelta(days=3650)),
            "roles": {
                "root": {"threshold": self.root_threshold, "kids": [key.kid for key in self.root]},
                "bundle": {"threshold": self.bundle_threshold, "kids": [key.kid for key in self.bundle_keys]},
                "certificate": {
                    "threshold": self.certificate_threshold,
                    "kids": [key.kid for key in self.certificate_keys],
                },
            },
            "keys": [key.public_jwk() for key in everyone],
        }
        edited = changed(payload, change, members)
        return sign_general(edited, keys=self.root if signers is None else signers, typ="lls-keys+jws")

    def rotate(self, *, root: bool = False) -> str:
        """Publish a version with new bundle keys (and new root keys), signed by the roots before and after."""
        signers = list(self.root)
        version = len(self.key_sets) + 1
        self.bundle_keys = [signing_key(f"{self.name} bundle {n} of {version}") for n in (1, 2)]
        if root:
            self.root = [signing_key(f"{self.name} root {n} of {version}") for n in (1, 2)]
            signers += self.root
        self.key_sets.append(self.key_set_token(signers=signers))
        return self.key_sets[-1]

    def certificate(
        self,
        site: Recipient,
        *,
        signers: Sequence[SigningKey] | None = None,
        typ: str = "lls-server+jws",
        change: Change | None = None,
        **members: object,
    ) -> str:
        """The server certificate of a site."""
        payload: Document = {
            "server_id": site.server_id,
            "customer_id": new_id("cus_", "acme"),
            "jwk": dict(site.signing_jwk),
            "products": ["cad", "cam"],
            "issued_at": write_instant(self.now),
            "not_after": write_instant(self.now + timedelta(days=400)),
        }
        default = self.certificate_keys[: self.certificate_threshold]
        return sign_document(
            changed(payload, change, members), signers=default if signers is None else signers, typ=typ
        )

    def payload(self, site: Recipient, *, change: Change | None = None, **members: object) -> Document:
        """A bundle's payload; its sequence is one higher each time unless ``sequence`` is given."""
        self.sequences[site.server_id] += 1
        payload: Document = {
            "format": 1,
            "bundle_id": new_id("bnd_", f"{site.server_id} {self.sequences[site.server_id]}"),
            "server_id": site.server_id,
            "sequence": self.sequences[site.server_id],
            "certificate": self.certificate(site) if "certificate" not in members else "",
            "keys": self.key_sets[1:],
            "issued_at": write_instant(self.now),
            "not_after": write_instant(self.now + timedelta(days=30)),
            "report_key": self.report_key.public_jwk(),
            "server_license": {
                "expires_at": write_instant(self.now + timedelta(days=365)),
                "sync_within_days": 90,
                "binding": {"policy": "key_only", "required": 0, "components": {}, "grace_seconds": 604800},
            },
            "customer": {
                "customer_id": new_id("cus_", "acme"),
                "name": "Acme GmbH",
                "account_ref": "ACME-1",
                "custom_fields": {"region": "EMEA"},
            },
            "entitlements": [entitlement()],
            "receipt": None,
            "commands": [],
        }
        return changed(payload, change, members)

    def signed_bundle(
        self,
        site: Recipient,
        *,
        signers: Sequence[SigningKey] | None = None,
        typ: str = "lls-bundle+jws",
        change: Change | None = None,
        **members: object,
    ) -> str:
        """A bundle's JWS before it is encrypted."""
        default = self.bundle_keys[: self.bundle_threshold]
        payload = self.payload(site, change=change, **members)
        return sign_document(payload, signers=default if signers is None else signers, typ=typ)

    def bundle(
        self,
        site: Recipient,
        *,
        signers: Sequence[SigningKey] | None = None,
        encryption_jwk: Mapping[str, str] | None = None,
        typ: str = "lls-bundle+jws",
        change: Change | None = None,
        **members: object,
    ) -> bytes:
        """A ``.llsbundle`` file for a site."""
        jws = self.signed_bundle(site, signers=signers, typ=typ, change=change, **members)
        return seal_signed(jws, encryption_jwk=encryption_jwk or site.encryption_jwk)

    def receipt(
        self,
        site: Recipient,
        *,
        report_id: str,
        up_to_seq: int,
        head: str,
        signers: Sequence[SigningKey] | None = None,
        typ: str = "lls-receipt+jws",
        change: Change | None = None,
        **members: object,
    ) -> str:
        """A receipt for a report of a site."""
        payload: Document = {
            "receipt_id": new_id("rcp_", report_id),
            "server_id": site.server_id,
            "report_id": report_id,
            "up_to_seq": up_to_seq,
            "head": head,
            "made_at": write_instant(self.now),
        }
        default = self.bundle_keys[: self.bundle_threshold]
        return sign_document(
            changed(payload, change, members), signers=default if signers is None else signers, typ=typ
        )

    @staticmethod
    def read_return(data: bytes | str, site: Recipient) -> EntitlementReturn:
        """A site's return of an entitlement, by the key that its request proved."""
        return read_return(data, server_jwk=site.signing_jwk, server_id=site.server_id)


def _p256(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1, ec.SECP256R1())
