"""Promises about the certificate that is shown to a site which asks for one: what is refused here, and in which words.

What a server that asks makes of it is played with the real one, in ``tests/journeys/test_client_certificates.py``.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import typer

from lls.cli.run import run_command
from lls.client import BadSetup, ClientCertificate, LicenseServers, NoAnswer, Unreachable, Untrusted, aio
from lls.client.environment import client_certificate
from lls.client.tls import Tls
from tests.client.authority import Authority
from tests.client.fakes import FakeServer, TlsKey, Vendor, running

SECRET = "a passphrase for tests"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "site's authority")


def require_fit(pair: ClientCertificate | None) -> None:
    """``BadSetup`` unless it can be shown."""
    assert pair is not None
    Tls(ca_file=None, ours=pair).context()


def no_passphrase() -> str:
    raise LookupError(SECRET)


def key_of(pair: ClientCertificate) -> Path:
    return Path(str(pair.key))


# ---------------------------------------------------------------- refused where it is set


def a_missing_certificate(site: Authority) -> ClientCertificate:
    pair = site.issue()
    Path(pair.certificate).unlink()
    return pair


def a_missing_key(site: Authority) -> ClientCertificate:
    pair = site.issue()
    key_of(pair).unlink()
    return pair


def another_key(site: Authority) -> ClientCertificate:
    return replace(site.issue(), key=site.issue().key)


def a_key_for_everybody(site: Authority) -> ClientCertificate:
    pair = site.issue()
    key_of(pair).chmod(0o644)
    return pair


def a_key_that_the_group_may_write(site: Authority) -> ClientCertificate:
    pair = site.issue()
    key_of(pair).chmod(0o660)
    return pair


def no_certificate_in_the_file(site: Authority) -> ClientCertificate:
    pair = site.issue()
    return replace(pair, certificate=str(pair.key))


def no_key_in_the_file(site: Authority) -> ClientCertificate:
    pair = site.issue()
    key_of(pair).write_text("-----BEGIN PRIVATE KEY-----\n")
    return pair


def a_certificate_alone(site: Authority) -> ClientCertificate:
    pair = site.issue()
    Path(pair.certificate).chmod(0o600)
    return replace(pair, key=None)


def a_passphrase_that_nobody_named(site: Authority) -> ClientCertificate:
    return replace(site.issue(passphrase=SECRET), passphrase=None)


def another_passphrase(site: Authority) -> ClientCertificate:
    return replace(site.issue(passphrase=SECRET), passphrase=f"not {SECRET}")


def a_passphrase_that_could_not_be_told(site: Authority) -> ClientCertificate:
    return replace(site.issue(passphrase=SECRET), passphrase=no_passphrase)


def a_passphrase_that_is_too_long(site: Authority) -> ClientCertificate:
    return replace(site.issue(passphrase=SECRET), passphrase=60 * SECRET)


def a_passphrase_in_another_encoding(site: Authority) -> ClientCertificate:
    """As the environment tells one whose bytes are no UTF-8."""
    return replace(site.issue(passphrase=SECRET), passphrase=os.fsdecode(f"{SECRET} é".encode("latin-1")))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (a_missing_certificate, r"ws-0\.crt .* cannot be read: No such file"),
        (a_missing_key, r"ws-0\.key .* cannot be read: No such file"),
        (another_key, r"The key .*ws-1\.key does not fit the client certificate .*ws-0\.crt\."),
        (a_key_for_everybody, r"open to other users; run: chmod g-w,o= .*ws-0\.key"),
        (a_key_that_the_group_may_write, r"open to other users"),
        (no_certificate_in_the_file, r"ws-0\.key holds no certificate in PEM form"),
        (no_key_in_the_file, r"ws-0\.key holds no key in PEM form"),
        (a_certificate_alone, r"ws-0\.crt holds no key in PEM form"),
        (a_passphrase_that_nobody_named, r"is encrypted: pass its `passphrase`, or set LLS_CLIENT_KEY_PASSPHRASE\."),
        (another_passphrase, r"The passphrase does not open the key .*ws-0\.key"),
        (a_passphrase_that_could_not_be_told, r"The passphrase of .*ws-0\.key was not told: LookupError\."),
        (a_passphrase_that_is_too_long, r"ws-0\.key cannot be tried: it is longer than 1024 bytes, or not UTF-8\."),
        (a_passphrase_in_another_encoding, r"ws-0\.key cannot be tried"),
    ],
)
def test_what_cannot_work_is_refused_before_anybody_is_asked_and_in_words_without_secrets(
    mistake: Callable[[Authority], ClientCertificate], words: str, authority: Authority, vendor: Vendor
) -> None:
    pair = mistake(authority)
    with pytest.raises(BadSetup, match=words) as told:
        LicenseServers("https://127.0.0.1:1", vendor_keys=vendor.first, client_certificate=pair)
    assert SECRET not in f"{''.join(traceback.format_exception(told.value))}{pair!r}"
    with pytest.raises(BadSetup, match=words):
        aio.AsyncLicenseServers("https://127.0.0.1:1", vendor_keys=vendor.first, client_certificate=pair)


def test_a_key_for_the_group_of_its_users_is_fine(authority: Authority) -> None:
    pair = authority.issue()
    key_of(pair).chmod(0o640)
    require_fit(pair)


def test_one_file_may_hold_both(authority: Authority, tmp_path: Path) -> None:
    pair, both = authority.issue(), tmp_path / "both.pem"
    both.write_bytes(key_of(pair).read_bytes() + Path(pair.certificate).read_bytes())
    both.chmod(0o600)
    require_fit(ClientCertificate(both))


@pytest.mark.parametrize("told", [SECRET, lambda: SECRET], ids=["a text", "a call"])
def test_an_encrypted_key_opens_with_its_passphrase(authority: Authority, told: str | Callable[[], str]) -> None:
    require_fit(replace(authority.issue(passphrase=SECRET), passphrase=told))


# ---------------------------------------------------------------- the environment


def test_the_environment_names_what_the_caller_does_not(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = authority.issue(passphrase=SECRET)
    monkeypatch.setenv("LLS_CLIENT_CERT", str(pair.certificate))
    monkeypatch.setenv("LLS_CLIENT_KEY", str(pair.key))
    monkeypatch.setenv("LLS_CLIENT_KEY_PASSPHRASE", SECRET)
    assert ClientCertificate(str(pair.certificate), str(pair.key), SECRET) == client_certificate(None)
    require_fit(client_certificate(replace(pair, passphrase=None)))
    mine = authority.issue("mine", passphrase="my own")
    assert mine == client_certificate(mine)


def test_nothing_is_shown_where_nothing_is_named() -> None:
    assert client_certificate(None) is None


def test_a_key_without_its_certificate_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, vendor: Vendor
) -> None:
    key = key_of(authority.issue())
    monkeypatch.setenv("LLS_CLIENT_KEY", str(key))
    with pytest.raises(BadSetup, match="LLS_CLIENT_CERT"):
        LicenseServers("https://127.0.0.1:1", vendor_keys=vendor.first)
    with pytest.raises(typer.BadParameter, match="--client-cert"):
        run_command(["true"], product="cad", client_key=key)


# ---------------------------------------------------------------- renewed


def test_a_renewal_is_read_once_and_half_of_one_never(authority: Authority) -> None:
    pair = authority.issue("ws")
    tls = Tls(ca_file=None, ours=pair)
    first = tls.context()
    assert first is tls.context()

    former = Path(pair.certificate).read_bytes()
    authority.issue("ws")
    certificate, renewed = Path(pair.certificate), Path(pair.certificate).read_bytes()
    certificate.write_bytes(former)
    assert first is tls.context()
    assert "What lies there now is not used: The key" in tls.advice()

    certificate.write_bytes(renewed)
    second = tls.context()
    assert (False, True) == (first is second, second is tls.context())
    assert "not used" not in tls.advice()


def test_a_file_that_went_away_leaves_what_was_read_of_it(authority: Authority) -> None:
    pair = authority.issue()
    tls = Tls(ca_file=None, ours=pair)
    first = tls.context()
    key_of(pair).unlink()
    assert first is tls.context()
    assert "cannot be read" in tls.advice()


# ---------------------------------------------------------------- the server is judged as without it


def test_a_server_that_its_list_does_not_vouch_for_stays_untrusted(
    server: FakeServer, vendor: Vendor, authority: Authority
) -> None:
    server.lies.statement_keys = ["0" * 64]
    with (
        LicenseServers(server.url, vendor_keys=vendor.first, client_certificate=authority.issue()) as known,
        pytest.raises(Untrusted, match="not one of the license server's own"),
    ):
        known.checkout("cad", patience=0)
    assert [] == server.lease_calls()


def test_a_server_that_we_refuse_is_not_said_to_have_refused_us(
    server: FakeServer, vendor: Vendor, authority: Authority
) -> None:
    ours = authority.issue()
    known = LicenseServers(server.url, vendor_keys=vendor.first, ca_file=str(authority.file), client_certificate=ours)
    with known, pytest.raises(Unreachable) as told:
        known.checkout("cad", patience=0)
    assert "client certificate" not in str(told.value)


def test_who_hangs_up_later_is_not_said_to_have_refused_us(server: FakeServer, vendor: Vendor) -> None:
    with LicenseServers(server.url, vendor_keys=vendor.first) as known:
        server.lies.lose_answers = 100
        with pytest.raises(NoAnswer) as told:
            known.checkout("cad", patience=0)
    assert "client certificate" not in str(told.value)


def test_a_port_that_speaks_no_tls_is_not_said_to_have_refused_us(vendor: Vendor) -> None:
    with running(FakeServer(vendor)) as plain:
        known = LicenseServers(plain.url.replace("http:", "https:"), vendor_keys=vendor.first)
        with known, pytest.raises(Unreachable) as told:
            known.checkout("cad", patience=0)
    assert "client certificate" not in str(told.value)


@pytest.mark.parametrize("alerts", [True, False], ids=["with an alert", "without a word"])
def test_who_ends_the_handshake_itself_is_understood_too(
    vendor: Vendor, tmp_path: Path, authority: Authority, *, alerts: bool
) -> None:
    """TLS 1.2, which many proxies speak, and the two ways of saying no: OpenSSL's own, and asyncio's."""
    asking = Asking(tmp_path, authority)
    with refusing(asking) if alerts else running(FakeServer(vendor, tls=asking)) as server:
        for ours, words in ((None, "pass `client_certificate`"), (authority.issue(days=-1), "it expired on")):
            known = LicenseServers(server.url, vendor_keys=vendor.first, client_certificate=ours)
            with known, pytest.raises(Unreachable, match=words) as told:
                known.products()
            assert alerts == ("alert" in str(told.value))


class Asking(TlsKey):
    """A server that asks for certificates of an authority, by TLS 1.2."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        super().__init__(directory)
        self._authority = authority

    def context(self) -> ssl.SSLContext:
        context = super().context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self._authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass
class Refusing:
    """What shakes hands, and never gets to the end of it."""

    url: str


@contextmanager
def refusing(tls: Asking) -> Iterator[Refusing]:
    def shake_hands() -> None:
        for _ in range(2):
            with door.accept()[0] as line, suppress(ssl.SSLError), tls.context().wrap_socket(line, server_side=True):
                pass

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=shake_hands, daemon=True)
        thread.start()
        yield Refusing(f"https://127.0.0.1:{door.getsockname()[1]}")
        thread.join(10)


def test_a_forked_child_connects_though_another_thread_was_reading(authority: Authority) -> None:
    tls = Tls(ca_file=None, ours=authority.issue())
    before = tls.context()
    tls._lock.acquire()  # noqa: SLF001 - as a thread that does not exist in the child
    tls.forget_in_child()
    assert before is tls.context()
