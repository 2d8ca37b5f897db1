"""Attacks: whoever is not a server certified by the vendor gets no secret and grants no seat."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lls.client import BadSetup, EventKind, LicenseServers, Unreachable, Untrusted, checkout
from lls.client.trust import KeySet
from tests.client.fakes import FakeServer, Key, TlsKey, Vendor, b64, general, running
from tests.client.heard import Heard

NO_TIME = 0.1


def secrets_sent(server: FakeServer) -> list[str]:
    return [call[1] for call in server.asked if "Authorization" in call[2] or call[0] == "POST"]


def refused(*servers: FakeServer, keys: str) -> str:
    with (
        LicenseServers([server.url for server in servers], vendor_keys=keys, timeout=2) as known,
        pytest.raises(Untrusted) as caught,
    ):
        known.checkout("cad", patience=NO_TIME, activation_code="Y64E-G6QX")
    return str(caught.value)


def test_an_emulator_certified_by_another_vendor_hears_no_secret(server: FakeServer, vendor: Vendor) -> None:
    server.certificate = Vendor().certify(server.server_id, server.key, ["cad"])
    refused(server, keys=vendor.first)
    assert [] == secrets_sent(server)


def test_an_emulator_with_a_stolen_certificate_but_without_its_key_hears_no_secret(
    server: FakeServer, vendor: Vendor
) -> None:
    server.key = Key()
    refused(server, keys=vendor.first)
    assert [] == secrets_sent(server)


def test_a_tls_key_that_the_statement_does_not_list_hears_no_secret(server: FakeServer, vendor: Vendor) -> None:
    server.lies.statement_keys = ["0" * 64]
    assert "reads along" in refused(server, keys=vendor.first)
    assert [] == secrets_sent(server)


def test_an_old_statement_hears_no_secret(server: FakeServer, vendor: Vendor) -> None:
    server.lies.statement_nonce = b64(b"an old question an old question.")
    refused(server, keys=vendor.first)
    assert [] == secrets_sent(server)


def test_a_statement_for_another_server_is_refused(server: FakeServer, vendor: Vendor) -> None:
    server.server_id = "lls_another"
    refused(server, keys=vendor.first)
    assert [] == secrets_sent(server)


def test_a_relay_between_us_and_a_genuine_server_hears_no_secret(
    server: FakeServer, vendor: Vendor, tmp_path: Path
) -> None:
    with (
        relay(server, TlsKey(tmp_path)) as url,
        LicenseServers(url, vendor_keys=vendor.first, timeout=2) as known,
        pytest.raises(Untrusted),
    ):
        known.checkout("cad", patience=NO_TIME)
    assert [] == secrets_sent(server)


def test_a_swapped_tls_key_is_checked_again_before_the_next_secret(
    brisk: FakeServer, vendor: Vendor, connect: Callable[..., LicenseServers], heard: Heard, tmp_path: Path
) -> None:
    assert brisk.tls is not None
    listed = brisk.tls.sha256
    with connect(brisk).checkout("cad", on_event=heard):
        brisk.stop()
        brisk.tls = TlsKey(tmp_path)
        brisk.lies.statement_keys = [listed]
        brisk.asked.clear()
        brisk.start()
        heard.wait_for(EventKind.UNTRUSTED)
        assert [] == secrets_sent(brisk)
        brisk.lies.statement_keys = None
        heard.wait_for(EventKind.REGAINED)


def test_an_address_that_changed_hands_hears_no_secret_of_the_lease(
    vendor: Vendor, server: FakeServer, tmp_path: Path, connect: Callable[..., LicenseServers]
) -> None:
    seat = connect(server, timeout=0.5).checkout("cad")
    server.stop()
    with running(FakeServer(vendor, tls=TlsKey(tmp_path), port=server.port)) as stranger:
        with pytest.raises(Unreachable, match="Another server"):
            seat.refresh()
        assert ["/v1/server"] == sorted({call[1] for call in stranger.asked})
        # The stranger is known by now, and no better for it; the lease's own server is found when it is back.
        assert not seat.release()
        assert [] == secrets_sent(stranger)


def test_a_lease_is_found_again_behind_the_address_that_another_server_had_for_a_while(
    vendor: Vendor, server: FakeServer, tmp_path: Path, connect: Callable[..., LicenseServers]
) -> None:
    with connect(server, timeout=0.5).checkout("cad") as seat:
        server.stop()
        with running(FakeServer(vendor, tls=TlsKey(tmp_path), port=server.port)), pytest.raises(Unreachable):
            seat.refresh()
        server.start()
        assert "active" == seat.refresh().state


def test_without_a_list_of_tls_keys_every_connection_is_asked_whom_it_leads_to(
    vendor: Vendor, connect: Callable[..., LicenseServers]
) -> None:
    with running(FakeServer(vendor)) as plain:
        seat = connect(plain, timeout=0.5).checkout("cad")
        plain.stop()
        with running(FakeServer(vendor, port=plain.port)) as stranger:
            with pytest.raises(Unreachable, match="Another server"):
                seat.refresh()
            assert not seat.release()
            assert [] == secrets_sent(stranger)


def test_with_a_pinned_server_id_no_other_server_of_the_vendor_may_lend(server: FakeServer, vendor: Vendor) -> None:
    with (
        LicenseServers(server.url, vendor_keys=vendor.first, server_id="lls_mine") as known,
        pytest.raises(Unreachable, match="Another server"),
    ):
        known.checkout("cad", patience=NO_TIME)
    assert [] == secrets_sent(server)
    with checkout("cad", servers=server.url, vendor_keys=vendor.first, server_id=server.server_id) as seat:
        assert seat.valid


@pytest.mark.parametrize("member", ["payload", "protected", "signature"])
def test_a_document_with_foreign_letters_is_untrusted_and_the_next_server_helps(
    member: str, server: FakeServer, vendor: Vendor, tmp_path: Path
) -> None:
    with running(FakeServer(vendor, tls=TlsKey(tmp_path))) as liar:
        protected, payload, signature = liar.certificate.split(".")
        parts = {"payload": payload, "protected": protected, "signature": signature, member: "\u00e9"}
        entry = {"protected": parts["protected"], "signature": parts["signature"]}
        liar.certificate = json.dumps({"payload": parts["payload"], "signatures": [entry]})
        refused(liar, keys=vendor.first)
        with LicenseServers([liar.url, server.url], vendor_keys=vendor.first, timeout=2) as known:
            assert known.checkout("cad").release()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
def test_a_server_that_drips_holds_nobody_beyond_the_timeout(vendor: Vendor, head: bytes) -> None:
    with dripping(head) as url:
        begun = time.monotonic()
        with LicenseServers(url, vendor_keys=vendor.first, timeout=0.3) as known, pytest.raises(Unreachable):
            known.products()
        assert time.monotonic() - begun < 2.0


def test_a_pinned_key_is_not_asked_for_again(brisk: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    with connect(brisk).checkout("cad"):
        brisk.restart()
        calls = len(brisk.lease_calls())
        brisk.until(lambda: len(brisk.lease_calls()) > calls + 1)
    assert 1 == [call[1] for call in brisk.asked].count("/v1/server")


@pytest.mark.parametrize("lie", ["wrong_nonce", "wrong_key"])
def test_a_checkout_that_proves_nothing_holds_no_seat(server: FakeServer, vendor: Vendor, lie: str) -> None:
    setattr(server.lies, lie, 100)
    refused(server, keys=vendor.first)
    assert 0 == len(server.active())


def test_a_replayed_capability_prolongs_nothing(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        brisk.lies.replay = brisk.capabilities[0]
        heard.wait_for(EventKind.UNTRUSTED)
        heard.wait_for(EventKind.LEASE_ENDED)
        assert not seat.valid


def test_one_liar_in_the_list_does_not_keep_the_others_from_helping(
    server: FakeServer, vendor: Vendor, tmp_path: Path, connect: Callable[..., LicenseServers]
) -> None:
    with running(FakeServer(vendor, tls=TlsKey(tmp_path))) as liar:
        liar.lies.wrong_nonce = 100
        with connect(liar, server).checkout("cad", patience=10) as seat:
            assert server.server_id == seat.server_id


def test_a_new_certificate_is_learned_when_a_capability_names_it(
    brisk: FakeServer, vendor: Vendor, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        brisk.key = Key()
        brisk.certificate = vendor.certify(brisk.server_id, brisk.key, ["cad"])
        calls = len(brisk.lease_calls())
        brisk.until(lambda: len(brisk.lease_calls()) > calls + 3)
        assert seat.valid
        assert [] == heard.kinds


def test_rotated_vendor_keys_are_learned_from_the_server(tls: TlsKey) -> None:
    vendor = Vendor()
    vendor.rotate()
    vendor.rotate()
    with running(FakeServer(vendor, tls=tls)) as server, LicenseServers(server.url, vendor_keys=vendor.first) as known:
        with known.checkout("cad") as seat:
            assert seat.valid
        assert 3 == KeySet.read(known.vendor_keys).version


def test_a_rotation_that_the_old_root_did_not_sign_is_refused(tls: TlsKey) -> None:
    vendor, thief = Vendor(), Vendor()
    thief.rotate()
    with running(FakeServer(thief, tls=tls)) as server:
        refused(server, keys=vendor.first)
        assert [] == secrets_sent(server)


def test_a_certificate_in_the_threshold_form_is_read(
    server: FakeServer, vendor: Vendor, connect: Callable[..., LicenseServers]
) -> None:
    server.certificate = vendor.certify(server.server_id, server.key, ["cad"], threshold_form=True)
    with connect(server).checkout("cad") as seat:
        assert seat.valid


def test_a_server_without_a_certificate_says_what_to_do(server: FakeServer, vendor: Vendor) -> None:
    server.certificate = ""
    assert "bundle" in refused(server, keys=vendor.first)


def test_a_key_set_needs_its_own_root_threshold(vendor: Vendor) -> None:
    payload = json.loads(vendor.first)
    payload["signatures"] = [payload["signatures"][0]] * 2
    with pytest.raises(BadSetup):
        LicenseServers("https://127.0.0.1", vendor_keys=json.dumps(payload))


@pytest.mark.parametrize(
    "header", [{"jku": "https://x"}, {"jwk": {}}, {"crit": ["exp"]}, {"x5u": "x"}, {"alg": "none"}]
)
def test_headers_that_choose_the_key_or_the_algorithm_are_refused(vendor: Vendor, header: dict[str, Any]) -> None:
    key_set, key = KeySet.read(vendor.first), Key()
    token = vendor.certifier.compact({"server_id": "lls_x", "jwk": key.jwk, "products": []}, "lls-server+jws")
    assert "lls_x" == key_set.certificate(token).server_id
    protected = {"alg": "ES256", "typ": "lls-server+jws", "kid": vendor.certifier.kid, **header}
    payload = token.split(".")[1]
    entry = vendor.certifier.entry(payload, "lls-server+jws")
    forged = f"{b64(json.dumps(protected).encode())}.{payload}.{entry['signature']}"
    with pytest.raises(Untrusted):
        key_set.certificate(forged)


@pytest.mark.parametrize(
    "document", ["", "a.b.c", "{}", b"\xff", "[" * 100_000, '{"payload":"","signatures":[]}', "é.é.é", None, 7]
)
def test_rubbish_is_untrusted_and_nothing_else(vendor: Vendor, document: Any) -> None:
    with pytest.raises(Untrusted):
        KeySet.read(vendor.first).certificate(document)


def test_a_document_of_another_type_is_refused(vendor: Vendor) -> None:
    token = general({"server_id": "x", "jwk": Key().jwk, "products": []}, "lls-receipt+jws", vendor.certifier)
    with pytest.raises(Untrusted):
        KeySet.read(vendor.first).certificate(token)


@contextmanager
def relay(server: FakeServer, tls: TlsKey) -> Iterator[str]:
    """A man in the middle: ends TLS with a key of its own and passes everything on."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)
    ours, theirs = tls.context(), ssl.create_default_context()
    theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE

    def pump() -> None:
        accepted, _ = listener.accept()
        with (
            ours.wrap_socket(accepted, server_side=True) as near,
            socket.create_connection(("127.0.0.1", server.port)) as raw,
            theirs.wrap_socket(raw) as far,
        ):
            far.sendall(near.recv(65536))
            near.sendall(far.recv(65536))
            # The client hangs up here; anything more would have been a secret.
            near.settimeout(5)
            if more := near.recv(65536):
                far.sendall(more)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join(10)
        listener.close()


@contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """A server that sends ``head`` and then a letter every tenth of a second, for half a minute at most."""
    ended = threading.Event()

    def drip(taken: socket.socket) -> None:
        with taken, suppress(OSError):
            taken.recv(65536)
            taken.sendall(head)
            for _ in range(300):
                taken.sendall(b"a")
                if ended.wait(0.1):
                    return

    def serve() -> None:
        with suppress(OSError):
            for _ in range(20):
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
