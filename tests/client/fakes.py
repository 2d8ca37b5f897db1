"""The other side for the SDK's tests: a vendor, and a small strict license server written from the contract alone.

The server speaks contract §2 over a real socket, in its own thread, and misbehaves when told to (``Lies``). It grants
borrow requests by file too. It imports nothing of the project, so that what the SDK gets wrong about the contract is
not wrong here in the same way. Counted features are judged in ``counting``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from joserfc import jws
from joserfc.jwk import ECKey

from tests.client.counting import Counters

CHECKOUT_FIELDS = {
    "lease_id", "product", "activation_code", "holder", "seats", "features", "edition", "version",
    "released_on", "nonce",
}  # fmt: skip
BODY: web.RequestKey[Any] = web.RequestKey("body", object)
HOLDER_FIELDS = {"seat_id", "seat_name", "user", "host", "process"}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Key:
    """A P-256 signing key with its RFC 7638 thumbprint."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        numbers = self.private.public_key().public_numbers()
        self.jwk = {"crv": "P-256", "kty": "EC", "x": b64(numbers.x.to_bytes(32)), "y": b64(numbers.y.to_bytes(32))}
        self.kid = b64(hashlib.sha256(json.dumps(self.jwk, separators=(",", ":"), sort_keys=True).encode()).digest())
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._jose = ECKey.import_key(pem)

    def compact(self, claims: Mapping[str, Any], typ: str, **header: Any) -> str:
        protected = {"alg": "ES256", "typ": typ, "kid": self.kid, **header}
        return jws.serialize_compact(protected, json.dumps(claims).encode(), self._jose, registry=_anything())

    def entry(self, payload: str, typ: str) -> dict[str, str]:
        """One signature of a general JSON serialisation, made by hand from RFC 7515 §7.2.1."""
        protected = b64(json.dumps({"alg": "ES256", "typ": typ, "kid": self.kid}).encode())
        r, s = decode_dss_signature(self.private.sign(f"{protected}.{payload}".encode(), ec.ECDSA(hashes.SHA256())))
        return {"protected": protected, "signature": b64(r.to_bytes(32) + s.to_bytes(32))}


def _anything() -> jws.JWSRegistry:
    return jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)


def general(claims: Mapping[str, Any], typ: str, *signers: Key) -> str:
    payload = b64(json.dumps(claims).encode())
    return json.dumps({"payload": payload, "signatures": [signer.entry(payload, typ) for signer in signers]})


class Vendor:
    """Two root keys (threshold 2) and one certificate key."""

    def __init__(self) -> None:
        self.roots = [Key(), Key()]
        self.certifier = Key()
        self.version = 1
        self.sets = [self._make(self.roots, self.roots)]

    @property
    def first(self) -> str:
        return self.sets[0]

    def rotate(self) -> None:
        """New certificate key and one new root: signed by the thresholds of the old and of the new version."""
        old = list(self.roots)
        self.roots = [self.roots[0], Key()]
        self.certifier = Key()
        self.version += 1
        self.sets.append(self._make(self.roots, [*old, self.roots[1]]))

    def certify(self, server_id: str, key: Key, products: list[str], *, threshold_form: bool = False) -> str:
        claims = {
            "server_id": server_id, "customer_id": "cus_x", "jwk": key.jwk, "products": products,
            "issued_at": "2026-01-01T00:00:00Z", "not_after": "2020-01-01T00:00:00Z",
        }  # fmt: skip
        if threshold_form:
            return general(claims, "lls-server+jws", self.certifier)
        return self.certifier.compact(claims, "lls-server+jws")

    def _make(self, roots: list[Key], signers: list[Key]) -> str:
        keys = [*roots, self.certifier]
        return general(
            {
                "version": self.version,
                "expires_at": "2020-01-01T00:00:00Z",
                "roles": {
                    "root": {"threshold": 2, "kids": [key.kid for key in roots]},
                    "bundle": {"threshold": 1, "kids": [self.certifier.kid]},
                    "certificate": {"threshold": 1, "kids": [self.certifier.kid]},
                },
                "keys": [key.jwk for key in keys],
            },
            "lls-keys+jws",
            *signers,
        )


class TlsKey:
    """A self-made TLS certificate, and the fingerprint that a statement lists."""

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lls")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        certificate = (
            builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.sha256 = hashlib.sha256(spki).hexdigest()
        self.path = directory / f"{self.sha256[:12]}.pem"
        self.path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        return context


@dataclass
class Lies:
    """How the server misbehaves. Counters count down, one for each answer of a lease call."""

    lose_answers: int = 0
    delay_seconds: float = 0.0
    wrong_nonce: int = 0
    wrong_key: bool = False
    replay: str | None = None
    busy: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    statement_keys: list[str] | None = None
    statement_nonce: str | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    lose_deletes: int = 0
    refuse_get: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    refuse_beat: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


@dataclass
class FakeLease:
    secret: str
    content: str
    product: str
    seat_id: str
    beat: int = 0
    nonce: str = ""
    state: str = "active"
    reason: str = ""
    mode: str = "floating"
    ends_at: float = 0.0
    jkt: str = ""


class FakeServer:
    """One license server on an ephemeral port of the loopback interface."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        tls: TlsKey | None = None,
        seats: int = 5,
        ttl: int = 600,
        beat: int = 60,
        port: int = 0,
    ) -> None:
        self.vendor, self.tls = vendor, tls
        self.server_id = f"lls_{b64(secrets.token_bytes(16))}"
        self.key = Key()
        self.certificate = vendor.certify(self.server_id, self.key, ["cad"])
        self.seats, self.ttl, self.beat_seconds = seats, ttl, beat
        self.leases: dict[str, FakeLease] = {}
        self.asked: list[tuple[str, str, Mapping[str, str], Any]] = []
        self.capabilities: list[str] = []
        self.deleted_unknown: set[str] = set()
        self.counters = Counters()
        self.borrow_seconds = 14 * 86400
        self.borrow_seats = 5
        self.lies = Lies()
        self.port = port
        self.told = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self._doors: list[int] = []

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def used(self) -> int:
        return self.counters.features["render"].consumed

    # -- the test's hand --

    def start(self) -> None:
        self._do(self._start())

    def stop(self) -> None:
        self._do(self._stop())

    def restart(self, *, forget: bool = False) -> None:
        """``forget``: as after a restore; else leases get a full term, as the design says."""
        self.stop()
        if forget:
            self.leases.clear()
        self.start()

    def end(self, reason: str) -> None:
        for lease in self.leases.values():
            lease.state, lease.reason = "ended", reason

    def grant(self, document: bytes) -> bytes:
        """What ``lls borrow grant`` does: the request's own key signed it, and the seat is bound to that key.

        The same lease again with the same content and a later end is an extension.
        """
        claims, jwk = self._self_signed(document, "lls-borrow-request+jws")
        needed = {"lease_id", "product", "holder", "fingerprint", "until", "nonce", "made_at"}
        assert needed <= set(claims) <= needed | {"activation_code", "features", "version", "released_on", "edition"}
        assert claims["fingerprint"] == claims["holder"]["seat_id"]
        assert set(claims["holder"]) <= HOLDER_FIELDS
        content = json.dumps(claims | {"until": "", "nonce": "", "made_at": ""}, sort_keys=True)
        lease = FakeLease(secret="", content=content, product=claims["product"], seat_id=claims["fingerprint"])
        lease.mode, lease.ends_at = "borrowed", datetime.fromisoformat(claims["until"]).timestamp()
        canonical = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
        lease.jkt = b64(hashlib.sha256(canonical.encode()).digest())
        known = self.leases.setdefault(claims["lease_id"], lease)
        assert (lease.jkt, lease.content) == (known.jkt, known.content), "another request has that lease id"
        assert known.ends_at <= lease.ends_at, "the seat is borrowed for longer already"
        known.ends_at, lease = lease.ends_at, known
        document_of = {
            "format": 1,
            "capability": self._capability(claims["lease_id"], lease, claims["nonce"]),
            "certificate": self.certificate,
            "keys": self.vendor.sets[1:],
            "lease": self._lease(claims["lease_id"], lease),
        }
        return json.dumps(document_of).encode()

    def take_return(self, document: bytes) -> None:
        """What ``lls borrow return`` does."""
        claims, jwk = self._self_signed(document, "lls-borrow-return+jws")
        lease = self.leases[claims["lease_id"]]
        canonical = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
        assert lease.jkt == b64(hashlib.sha256(canonical.encode()).digest())
        assert self.server_id == claims["server_id"]
        lease.state, lease.reason = "ended", "checked_in"

    def _self_signed(self, document: bytes, typ: str) -> tuple[dict[str, Any], dict[str, str]]:
        head = document.split(b".")[0]
        header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
        assert (typ, "ES256") == (header["typ"], header["alg"])
        assert {"alg", "typ", "kid", "jwk"} == set(header)
        assert {"kty", "crv", "x", "y"} == set(header["jwk"])
        signed = jws.deserialize_compact(document, ECKey.import_key(header["jwk"]), registry=_anything())
        return json.loads(signed.payload), header["jwk"]

    def active(self) -> list[FakeLease]:
        return [lease for lease in self.leases.values() if lease.state == "active"]

    def lease_calls(self) -> list[tuple[str, str, Mapping[str, str], Any]]:
        return [call for call in self.asked if call[1].startswith("/v1/leases")]

    def until(self, promise: Callable[[], bool], seconds: float = 8.0) -> None:
        with self.told:
            assert self.told.wait_for(promise, seconds), "the promise was not kept in time"

    # -- HTTP --

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(
            [
                web.get("/v1/server", self._server),
                web.get("/v1/keys", self._keys),
                web.get("/v1/products", self._products),
                web.post("/v1/leases", self._checkout),
                web.post("/v1/leases/{id}/heartbeat", self._heartbeat),
                web.get("/v1/leases/{id}", self._get),
                web.delete("/v1/leases/{id}", self._delete),
                web.post("/v1/leases/{id}/borrow", self._borrow),
                web.post("/v1/leases/{id}/features/{key}/{verb}", self._feature),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        context = self.tls.context() if self.tls else None
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True)
        await site.start()
        listening: Any = site._server  # noqa: SLF001  (it has no other name)
        self._doors = [one.fileno() for one in listening.sockets]
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        """As a server that is pulled out of the wall: orderly TLS would wait for the peer's goodbye.

        Nothing of a connection outlives it; one that is still shaking hands is known to the loop alone.
        """
        if self._runner is None:
            return
        for door in self._doors:
            self._loop.remove_reader(door)
        for _ in range(3):  # whoever was let in last gets a transport, a protocol and a task
            await asyncio.sleep(0)
        known: Any = self._loop
        async with asyncio.timeout(5):
            while left := [one for one in list(known._transports.values()) if one._sock is not None]:  # noqa: SLF001
                for transport in left:
                    transport.abort()
                await asyncio.sleep(0)
        await self._runner.cleanup()
        self._runner = None

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        if body is not None and request.content_type != "application/json":
            return problem(415, "unsupported_media_type")
        request[BODY] = body
        is_lease_call = request.path.startswith("/v1/leases")
        with self.told:
            self.asked.append((request.method, request.path, dict(request.headers), body))
            self.told.notify_all()
        if is_lease_call and not request.headers.get("Authorization", "").startswith("Bearer "):
            return problem(401, "unauthenticated")
        if is_lease_call and request.method == "POST" and self.lies.busy:
            status, fields, headers = self.lies.busy.pop(0)
            return problem(status, headers=headers, **fields)
        if is_lease_call and self.lies.delay_seconds:
            await asyncio.sleep(self.lies.delay_seconds)
        answer: web.StreamResponse = await handler(request)
        if is_lease_call and self.lies.lose_answers:
            self.lies.lose_answers -= 1
            if request.transport is not None:
                request.transport.abort()
        if request.method == "DELETE" and self.lies.lose_deletes:
            self.lies.lose_deletes -= 1
            if request.transport is not None:
                request.transport.abort()
        with self.told:
            self.told.notify_all()
        return answer

    async def _server(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            return problem(400, "bad_request")
        listed = [self.tls.sha256] if self.tls else []
        claims = {
            "server_id": self.server_id,
            "tls_spki_sha256": listed if self.lies.statement_keys is None else self.lies.statement_keys,
            "nonce": self.lies.statement_nonce or request.query["nonce"],
            "iat": int(time.time()),
        }
        return web.json_response(
            {
                "server_id": self.server_id, "name": "lls", "version": "1", "certificate": self.certificate,
                "time": "2026-01-01T00:00:00Z", "primary": True,
                "statement": self.key.compact(claims, "lls-statement+jwt"),
            }
        )  # fmt: skip

    async def _keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": self.vendor.sets[int(request.query["since"]) :]})

    async def _products(self, _request: web.Request) -> web.Response:
        used = len(self.active())
        line = {"product": "cad", "name": "CAD", "seats": self.seats, "in_use": used, "available": self.seats - used}
        return web.json_response({"products": [line]})

    async def _checkout(self, request: web.Request) -> web.Response:
        body, secret = request[BODY], bearer(request)
        content = json.dumps({name: body[name] for name in sorted(body) if name != "nonce"})
        if set(body) - CHECKOUT_FIELDS or set(body["holder"]) - HOLDER_FIELDS or len(body["nonce"]) < 22:
            return problem(400, "bad_request")
        if body["product"] != "cad":
            return problem(404, "unknown_product", detail="No such product here.")
        lease_id = body["lease_id"]
        if lease_id in self.deleted_unknown:
            return problem(410, "lease_ended", reason="checked_in")
        known = self.leases.get(lease_id)
        if known is not None:
            if (known.secret, known.content) != (secret, content):
                return problem(409, "lease_id_taken")
            if known.state == "ended":
                return problem(410, "lease_ended", reason=known.reason)
            return self._shown(lease_id, known, body["nonce"], status=200)
        if not await self._free(request):
            return problem(409, "no_seat", detail="All seats are taken.", queue_position=1, rule="seats")
        if lease_id in self.deleted_unknown:
            return problem(410, "lease_ended", reason="checked_in")
        lease = FakeLease(secret=secret, content=content, product="cad", seat_id=body["holder"]["seat_id"])
        lease.nonce = body["nonce"]
        self.leases[lease_id] = lease
        return self._shown(lease_id, lease, body["nonce"], status=201)

    async def _free(self, request: web.Request) -> bool:
        wait = request.headers.get("Prefer", "")
        deadline = time.monotonic() + (float(wait.removeprefix("wait=")) if wait else 0)
        while len(self.active()) >= self.seats:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = dict(request[BODY])
        shown = body.pop("capability", None)
        if set(body) != {"beat", "nonce"} or not isinstance(body["beat"], int) or body["beat"] < (shown is None):
            return problem(400, "bad_request")
        if self.lies.refuse_beat:
            status, fields = self.lies.refuse_beat.pop(0)
            return problem(status, **fields)
        if shown is not None:
            self._take_up(request.match_info["id"], bearer(request), shown)
        lease_id, lease, refusal = self._found(request)
        if lease is None:
            return refusal
        if lease.mode == "borrowed":
            body["beat"] = lease.beat
        elif body["beat"] < lease.beat or (body["beat"] == lease.beat and body["nonce"] != lease.nonce):
            return problem(409, "lease_cloned", detail="Two processes use one lease.")
        lease.beat, lease.nonce = body["beat"], body["nonce"]
        answer = {
            "expires_at": stamp(self.ttl), "expires_in_seconds": self.ttl, "heartbeat_seconds": self.beat_seconds,
            "state": lease.state, "capability": self._capability(lease_id, lease, body["nonce"]), "later": {"a": 1},
        }  # fmt: skip
        return web.json_response(answer)

    def _take_up(self, lease_id: str, secret: str, capability: str) -> None:
        """A loan that was forgotten (``restart(forget=True)``), on the word that we signed for it."""
        assert capability in self.capabilities
        claims = json.loads(base64.urlsafe_b64decode(capability.split(".")[1] + "=="))
        assert ("borrowed", lease_id) == (claims["mode"], claims["sub"])
        if lease_id not in self.leases and lease_id not in self.deleted_unknown:
            lease = FakeLease(secret=secret, content="", product=claims["aud"], seat_id=claims["seat_id"])
            lease.mode, lease.ends_at = "borrowed", claims["exp"]
            self.leases[lease_id] = lease

    async def _get(self, request: web.Request) -> web.Response:
        if self.lies.refuse_get:
            status, fields = self.lies.refuse_get.pop(0)
            return problem(status, **fields)
        lease_id, lease, refusal = self._found(request)
        return refusal if lease is None else web.json_response({"lease": self._lease(lease_id, lease)})

    async def _delete(self, request: web.Request) -> web.Response:
        lease = self.leases.get(request.match_info["id"])
        if lease is None:
            self.deleted_unknown.add(request.match_info["id"])
        elif lease.secret != bearer(request):
            return problem(404, "unknown_lease")
        elif lease.state == "active":
            lease.state, lease.reason = "ended", "checked_in"
            self.counters.end(request.match_info["id"])
        return web.Response(status=204)

    async def _borrow(self, request: web.Request) -> web.Response:
        lease_id, lease, refusal = self._found(request)
        if lease is None:
            return refusal
        body = request[BODY]
        if set(body) != {"until", "fingerprint", "nonce"} or not body["until"].endswith("Z"):
            return problem(400, "bad_request")
        until = datetime.fromisoformat(body["until"]).timestamp()
        if body["fingerprint"] != lease.seat_id:
            return problem(403, "wrong_machine", detail="Another machine holds that lease.")
        if until <= time.time():
            return problem(400, "bad_request", detail="That is over already.")
        if lease.mode != "borrowed" and self.borrow_seats <= sum(one.mode == "borrowed" for one in self.active()):
            return problem(403, "borrow_not_allowed", detail="No seat may leave.", remedy="Wait for one to come back.")
        if until > time.time() + self.borrow_seconds:
            return problem(409, "borrow_too_long", detail="That is too long.", until_latest=stamp(self.borrow_seconds))
        if until < lease.ends_at:
            return problem(409, "borrowed", detail="It is borrowed for longer already.")
        lease.mode, lease.ends_at = "borrowed", until
        return self._shown(lease_id, lease, body["nonce"], status=200)

    async def _feature(self, request: web.Request) -> web.Response:
        lease_id, lease, refusal = self._found(request)
        if lease is None:
            return refusal
        key, verb = request.match_info["key"], request.match_info["verb"]
        status, answer = self.counters.act(lease_id, key, verb, request[BODY])
        return web.json_response(answer) if status == 200 else problem(status, **answer)

    # -- words --

    def _found(self, request: web.Request) -> tuple[str, FakeLease | None, web.Response]:
        lease_id = request.match_info["id"]
        lease = self.leases.get(lease_id)
        if lease is None or lease.secret != bearer(request):
            return lease_id, None, problem(404, "unknown_lease", detail="There is no such lease here.")
        if lease.state == "ended":
            return lease_id, None, problem(410, "lease_ended", reason=lease.reason, detail="The lease has ended.")
        return lease_id, lease, problem(500, "internal")

    def _shown(self, lease_id: str, lease: FakeLease, nonce: str, *, status: int) -> web.Response:
        capability = self._capability(lease_id, lease, nonce)
        return web.json_response({"lease": self._lease(lease_id, lease), "capability": capability}, status=status)

    def _lease(self, lease_id: str, lease: FakeLease) -> dict[str, Any]:
        return {
            "lease_id": lease_id, "state": lease.state, "mode": lease.mode, "product": lease.product,
            "entitlement_id": "ent_x", "edition": "pro", "seats": 1, "overdraft": False,
            "holder": {"seat_id": lease.seat_id},
            "granted_at": stamp(0), "expires_at": stamp(self.ttl), "expires_in_seconds": self.ttl,
            "heartbeat_seconds": self.beat_seconds,
            "features": [self.counters.view(one, lease_id) for one in self.counters.features.values()],
            "attributes": {"max_layers": 64},
            "entitlement": {"status": "active", "expires_at": "2030-01-01T00:00:00Z", "grace_expires_at": None,
                            "maintenance_expires_on": "2027-01-01"},
            "of_a_later_version": True,
        }  # fmt: skip

    def _capability(self, lease_id: str, lease: FakeLease, nonce: str) -> str:
        if self.lies.replay is not None:
            return self.lies.replay
        if self.lies.wrong_nonce:
            self.lies.wrong_nonce -= 1
            nonce = b64(secrets.token_bytes(32))
        # `exp` and `iat` lie in the past on purpose: a floating lease must not look at them.
        claims = {
            "iss": self.server_id, "aud": lease.product, "sub": lease_id, "iat": 1, "exp": 2, "ttl": self.ttl,
            "nonce": nonce, "mode": lease.mode, "ent": "ent_x", "seats": 1, "seat_id": lease.seat_id,
            "features": {"expert": True, "plain": True, "later": False} | self.counters.held_by(lease_id),
            "attributes": {"max_layers": 64}, "edition": "pro",
        }  # fmt: skip
        if lease.mode == "borrowed":
            bound = {"jkt": lease.jkt} if lease.jkt else {"fingerprint": lease.seat_id}
            claims |= {"iat": int(time.time()), "exp": int(lease.ends_at), "cnf": bound}
        claims |= self.lies.claims
        token = (Key() if self.lies.wrong_key else self.key).compact(claims, "lls-capability+jwt")
        self.capabilities.append(token)
        return token

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _ended(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # such as those that would wait for a seat
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def close(self) -> None:
        self.stop()
        self._do(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def problem(
    status: int, code: str = "internal", *, detail: str = "", headers: dict[str, str] | None = None, **fields: Any
) -> web.Response:
    body = {"type": f"urn:lls:{code}", "title": code, "status": status, "code": code, "detail": detail, **fields}
    return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")


def bearer(request: web.Request) -> str:
    return request.headers["Authorization"].removeprefix("Bearer ")


def stamp(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")


def twin_of(server: FakeServer) -> FakeServer:
    """Another daemon of the same server: same id, keys and leases, another port."""
    twin = FakeServer(server.vendor, tls=server.tls, ttl=server.ttl, beat=server.beat_seconds)
    twin.server_id, twin.key, twin.certificate = server.server_id, server.key, server.certificate
    twin.leases, twin.counters = server.leases, server.counters
    return twin


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    server.start()
    try:
        yield server
    finally:
        server.close()
