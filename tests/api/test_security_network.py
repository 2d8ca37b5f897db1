"""A real daemon over TLS: who may connect, who is believed, and what a credential may travel on."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lls.api.sessions import TOKEN_HEADER
from lls.config import Access, Admin, ClientCertificate, Config, ForwardedHeader, TlsMode
from lls.daemon import Daemon
from lls.faults import SetupFault
from tests.api.people import PASSWORD
from tests.vendor import NOW, Vendor

ADMIN_ON = Admin(http=True)
FAILURES = 4  # a minute: the next is allowed after a quarter of it, however busy the machine is


@dataclass(frozen=True, kw_only=True)
class House:
    """A daemon that runs, with its two doors."""

    url: str
    port: int
    admin: aiohttp.ClientSession
    trust: ssl.SSLContext

    @asynccontextmanager
    async def browser(self, **more: Any) -> AsyncIterator[aiohttp.ClientSession]:
        tls = more.pop("tls", self.trust)
        connector = aiohttp.TCPConnector(ssl=tls if self.url.startswith("https") else False, force_close=True)
        async with aiohttp.ClientSession(
            self.url, connector=connector, cookie_jar=aiohttp.CookieJar(unsafe=True), **more
        ) as session:
            yield session

    async def add_user(self, name: str, role: str = "admin") -> None:
        body = {"name": name, "role": role, "password": PASSWORD}
        async with self.admin.post("/v1/admin/users", json=body) as response:
            assert 201 == response.status

    async def key(self) -> dict[str, str]:
        async with self.admin.post("/v1/admin/keys", json={"name": "probe", "role": "viewer"}) as response:
            return {"Authorization": f"Bearer {(await response.json())['secret']}"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a UNIX socket's may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="lls"))
    previous = os.umask(0o077)
    yield path
    os.umask(previous)
    rmtree(path)


Open = Callable[..., Any]


@pytest.fixture
def house(folder: Path) -> Open:
    @asynccontextmanager
    async def opened(*, mode: TlsMode = TlsMode.SELF, **tables: Any) -> AsyncIterator[House]:
        keys, plain = folder / "vendor.llskeys", Config()
        keys.write_text(Vendor().key_sets[0], "ascii")
        server = replace(
            plain.server,
            listen=("127.0.0.1:0",),
            state_dir=str(folder / "state"),
            admin_socket=str(folder / "admin.sock"),
            request_seconds=2,
            failures_per_minute=FAILURES,
        )
        tls, trust = replace(plain.tls, mode=mode), replace(plain.trust, keys=str(keys))
        daemon = Daemon(replace(plain, server=server, tls=tls, trust=trust, **tables))
        await daemon.start()
        try:
            trusting = ssl.create_default_context()
            if mode is TlsMode.SELF:
                trusting.load_verify_locations(folder / "state" / "tls.crt")
            connector = aiohttp.UnixConnector(str(folder / "admin.sock"))
            (url,) = daemon.urls
            async with aiohttp.ClientSession("http://admin", connector=connector) as admin:
                yield House(url=url, port=int(url.rsplit(":", 1)[1]), admin=admin, trust=trusting)
        finally:
            await daemon.stop()

    return opened


async def status_of(session: aiohttp.ClientSession, method: str, path: str, **more: Any) -> int:
    async with session.request(method, path, **more) as response:
        await response.read()
        return response.status


# ---------------------------------------------------------------- TLS


async def test_a_browser_logs_in_over_tls_works_and_logs_out(house: Open) -> None:
    async with house(admin=ADMIN_ON) as one, one.browser() as browser:
        await one.add_user("alice")
        body = {"user": "alice", "password": PASSWORD}
        async with browser.post("/v1/admin/session", json=body, headers={"Origin": one.url}) as response:
            assert 200 == response.status
            token = {TOKEN_HEADER: (await response.json())["token"]}
        assert 200 == await status_of(browser, "GET", "/v1/admin/server")
        assert 403 == await status_of(browser, "POST", "/v1/admin/reload")
        assert 200 == await status_of(browser, "POST", "/v1/admin/reload", headers=token)
        assert 204 == await status_of(browser, "DELETE", "/v1/admin/session", headers=token)
        assert 401 == await status_of(browser, "GET", "/v1/admin/server")


async def test_users_and_keys_survive_a_restart_and_sessions_do_not(house: Open) -> None:
    async with house(admin=ADMIN_ON) as one, one.browser() as browser:
        await one.add_user("alice")
        key = await one.key()
        assert 200 == await status_of(
            browser, "POST", "/v1/admin/session", json={"user": "alice", "password": PASSWORD}
        )
        cookie = "; ".join(f"{morsel.key}={morsel.value}" for morsel in browser.cookie_jar)
        assert "__Host-lls" in cookie
    async with house(admin=ADMIN_ON) as one, one.browser() as browser:
        assert 401 == await status_of(browser, "GET", "/v1/admin/server", headers={"Cookie": cookie})
        assert 200 == await status_of(browser, "GET", "/v1/admin/server", headers=key)
        assert 200 == await status_of(
            browser, "POST", "/v1/admin/session", json={"user": "alice", "password": PASSWORD}
        )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_below_1_2_is_refused_by_the_server(house: Open, version: ssl.TLSVersion) -> None:
    async with house() as one:
        for most, welcome in ((version, False), (ssl.TLSVersion.TLSv1_2, True)):
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.set_ciphers("ALL:@SECLEVEL=0")  # this side would take anything
            old.minimum_version, old.maximum_version = min(version, most), most
            async with one.browser(tls=old) as browser:
                if welcome:
                    assert 200 == await status_of(browser, "GET", "/livez")
                else:
                    with pytest.raises(aiohttp.ClientError):
                        await status_of(browser, "GET", "/livez")


# ---------------------------------------------------------------- plain HTTP and proxies


async def test_on_a_plain_way_no_credential_is_looked_at_unless_a_trusted_proxy_says_https(house: Open) -> None:
    access = Access(trusted_proxies=("127.0.0.1/32",))
    private = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    async with house(mode=TlsMode.OFF, admin=ADMIN_ON, access=access) as one, one.browser() as browser:
        await one.add_user("alice")
        key = await one.key()
        login = {"json": {"user": "alice", "password": PASSWORD}}
        for headers, status in (
            ({}, 403),
            ({"X-Forwarded-For": "192.0.2.7"}, 403),
            (private | {"X-Forwarded-Proto": "http"}, 403),
            (private, 200),
        ):
            assert status == await status_of(browser, "GET", "/v1/admin/server", headers={**headers, **key})
            assert status == await status_of(browser, "POST", "/v1/admin/session", headers=headers, **login)


async def test_without_a_proxy_a_plain_way_within_the_machine_is_enough(house: Open) -> None:
    async with house(mode=TlsMode.OFF, admin=ADMIN_ON) as one, one.browser() as browser:
        assert 200 == await status_of(browser, "GET", "/v1/admin/server", headers=await one.key())


@pytest.mark.parametrize(
    ("proxies", "forwarded", "allowed"),
    [
        ((), "192.0.2.7", False),
        (("127.0.0.1/32",), "192.0.2.7", True),
        (("127.0.0.1/32",), "192.0.2.7, 198.51.100.1", False),
        (("127.0.0.1/32",), "198.51.100.1, 192.0.2.7", True),
        (("127.0.0.1/32",), "nonsense", False),
        (("10.0.0.0/8",), "192.0.2.7", False),
    ],
)
async def test_an_address_list_is_not_opened_by_a_header(
    house: Open, proxies: tuple[str, ...], forwarded: str, allowed: bool
) -> None:
    access = Access(allow=("192.0.2.0/24",), trusted_proxies=proxies)
    admin = Admin(http=True, allow=("192.0.2.0/24",))
    headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https", "Forwarded": "for=192.0.2.7;proto=https"}
    async with house(admin=admin, access=access) as one, one.browser() as browser:
        key = await one.key()
        for path in ("/livez", "/v1/server", "/v1/nothing"):
            status = 404 if path == "/v1/nothing" else 200
            assert (status if allowed else 403) == await status_of(browser, "GET", path, headers=headers)
        status = await status_of(browser, "GET", "/v1/admin/server", headers=headers | key)
        assert (200 if allowed else 403) == status
        assert 200 == await status_of(one.admin, "GET", "/v1/admin/server"), "the admin socket knows no addresses"


@pytest.mark.parametrize("header", list(ForwardedHeader))
async def test_failures_policy_and_log_go_by_the_clients_address(
    house: Open, header: ForwardedHeader, caplog: pytest.LogCaptureFixture
) -> None:
    access = Access(trusted_proxies=("127.0.0.1/32",), forwarded_header=header)

    def coming_from(address: str) -> dict[str, str]:
        if header is ForwardedHeader.FORWARDED:
            return {"Forwarded": f"for={address};proto=https"}
        return {"X-Forwarded-For": address, "X-Forwarded-Proto": "https"}

    async with house(admin=ADMIN_ON, access=access) as one, one.browser() as browser:
        broken = {"Content-Type": "application/json", "Authorization": "Bearer " + "A" * 43}
        bad: dict[str, Any] = {"data": b"{", "headers": coming_from("192.0.2.1") | broken}
        statuses = [await status_of(browser, "POST", "/v1/leases", **bad) for _ in range(FAILURES + 1)]
        assert [400] * FAILURES + [429] == statuses
        bad["headers"] |= coming_from("192.0.2.2")
        assert 400 == await status_of(browser, "POST", "/v1/leases", **bad)
        login = {"json": {"user": "eve", "password": PASSWORD}, "headers": coming_from("192.0.2.3")}
        assert 401 == await status_of(browser, "POST", "/v1/admin/session", **login)
    told = [one.__dict__["fields"] for one in caplog.records if one.message == "login_refused"]
    assert ["192.0.2.3"] == [one["address"] for one in told]


# ---------------------------------------------------------------- client certificates


class Authority:
    """A certificate authority of a site."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._key = folder, name, ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._certify(self._subject, self._key, authority=True).public_bytes(Encoding.PEM))

    def client(self, name: str, trust: Path) -> ssl.SSLContext:
        """What a client of that name shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        both = self._folder / f"{self._name}-{name}.pem"
        both.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + self._certify(subject, key, authority=False).public_bytes(Encoding.PEM)
        )
        context = ssl.create_default_context(cafile=str(trust))
        context.load_cert_chain(both)
        return context

    def _certify(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=3_650))
            .not_valid_after(NOW + timedelta(days=3_650))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


@pytest.mark.parametrize("exchanged", [False, True], ids=["at first", "after an exchange"])
@pytest.mark.parametrize("asked_for", list(ClientCertificate))
async def test_a_client_certificate_opens_none_is_as_the_site_wants_and_a_strangers_never(
    house: Open, folder: Path, asked_for: ClientCertificate, *, exchanged: bool
) -> None:
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    access = Access(client_ca=str(ours.file), client_certificate=asked_for)
    async with house(access=access) as one:
        if exchanged:
            async with one.admin.post("/v1/admin/tls") as answer:
                assert 200 == answer.status
        trust = folder / "state" / "tls.crt"
        for tls, welcome in (
            (ours.client("ws-17", trust), True),
            (ssl.create_default_context(cafile=str(trust)), asked_for is ClientCertificate.OPTIONAL),
            (theirs.client("ws-17", trust), False),
        ):
            async with one.browser(tls=tls) as browser:
                if welcome:
                    assert 200 == await status_of(browser, "GET", "/livez")
                else:
                    with pytest.raises((aiohttp.ClientError, OSError)):
                        await status_of(browser, "GET", "/livez", headers={"X-SSL-Client-Verify": "SUCCESS"})


async def test_an_authority_that_cannot_be_read_keeps_the_server_from_starting(house: Open, folder: Path) -> None:
    with pytest.raises(SetupFault, match=r"access\.client_ca"):
        async with house(access=Access(client_ca=str(folder / "nothing.pem"))):
            pass
