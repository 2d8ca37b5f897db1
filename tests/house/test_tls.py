"""What the doors show, and how it is exchanged: real files, real handshakes."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lls.faults import SetupFault
from lls.tls import LIFETIME, RENEW_BEFORE, Doors, make_certificate

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = ["127.0.0.1", "licenses.example"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def doors(folder: Path, *, self_made: bool = True, now: Callable[[], datetime] = lambda: NOW) -> Doors:
    names = (lambda: NAMES) if self_made else None
    return Doors(folder / "tls.crt", folder / "tls.key", names=names, now=now)


def shown(opened: Doors) -> str:
    """The key that a client meets now."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.settimeout(10)
        theirs.settimeout(10)
        server = threading.Thread(target=lambda: opened.context.wrap_socket(theirs, server_side=True).close())
        server.start()
        with trust.wrap_socket(ours) as client:
            encoded = client.getpeercert(binary_form=True)
        server.join()
    assert encoded is not None
    public = x509.load_der_x509_certificate(encoded).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def test_the_first_start_makes_a_pair_and_the_next_one_keeps_it(folder: Path) -> None:
    first = doors(folder)
    assert 0o600 == stat.S_IMODE((folder / "tls.key").stat().st_mode)
    assert (NOW + LIFETIME, ["licenses.example", "127.0.0.1"]) == (first.ends_at, sorted(first.names, reverse=True))
    assert first.spki_sha256 == doors(folder).spki_sha256 == (shown(first),)


def test_a_renewal_shows_another_key_and_remembers_the_one_of_living_connections(folder: Path) -> None:
    opened = doors(folder)
    (before,) = opened.spki_sha256
    opened.renew()
    after = shown(opened)
    assert before != after
    assert (after, before) == opened.spki_sha256
    assert (after,) == doors(folder).spki_sha256
    assert not opened.look()


def test_one_of_our_own_is_renewed_before_it_ends(folder: Path) -> None:
    now = [NOW]
    opened = doors(folder, now=lambda: now[0])
    now[0] = NOW + LIFETIME - RENEW_BEFORE - timedelta(days=1)
    assert not opened.look()
    now[0] += timedelta(days=2)
    assert opened.look()
    assert now[0] + LIFETIME == opened.ends_at


def test_files_of_the_site_are_shown_as_soon_as_they_are_looked_at(folder: Path) -> None:
    make_certificate(folder / "tls.crt", folder / "tls.key", names=NAMES, now=NOW)
    opened = doors(folder, self_made=False)
    assert not opened.look()
    make_certificate(folder / "tls.crt", folder / "tls.key", names=["other.example"], now=NOW)
    before = shown(opened)
    assert opened.look()
    assert (["other.example"], True) == (opened.names, before != shown(opened))
    with pytest.raises(SetupFault, match="lls reload"):
        opened.renew()


@pytest.mark.parametrize("broken", ["another key", "no key", "no certificate", "not PEM"])
def test_files_that_do_not_fit_are_refused_and_the_pair_of_before_is_shown(folder: Path, broken: str) -> None:
    certificate, key = folder / "tls.crt", folder / "tls.key"
    make_certificate(certificate, key, names=NAMES, now=NOW)
    opened = doors(folder, self_made=False)
    before = shown(opened)
    kept = certificate.read_bytes(), key.read_bytes()
    match broken:
        case "another key":
            make_certificate(folder / "other.crt", key, names=NAMES, now=NOW)
        case "no key":
            key.unlink()
        case "no certificate":
            certificate.unlink()
        case "not PEM":
            certificate.write_text("hello", "ascii")
    with pytest.raises(SetupFault):
        opened.look()
    assert opened.trouble
    assert before == shown(opened)
    certificate.write_bytes(kept[0])
    key.write_bytes(kept[1])
    opened.look()
    assert ("", before) == (opened.trouble, shown(opened))


def test_a_pair_of_our_own_that_a_power_cut_has_parted_is_made_anew(folder: Path) -> None:
    doors(folder)
    make_certificate(folder / "other.crt", folder / "tls.key", names=NAMES, now=NOW)
    os.unlink(folder / "other.crt")  # noqa: PTH108 - as plain as the power cut
    opened = doors(folder)
    assert (shown(opened),) == opened.spki_sha256


def test_a_pair_of_the_site_that_does_not_fit_is_no_start(folder: Path) -> None:
    make_certificate(folder / "tls.crt", folder / "tls.key", names=NAMES, now=NOW)
    make_certificate(folder / "other.crt", folder / "tls.key", names=NAMES, now=NOW)
    with pytest.raises(SetupFault, match="cannot be used"):
        doors(folder, self_made=False)


def test_no_handshake_meets_half_an_exchange_and_renewals_at_once_leave_one_pair(folder: Path) -> None:
    opened, over = doors(folder), threading.Event()
    troubles: list[BaseException] = []

    def renew() -> None:
        try:
            while not over.is_set():
                opened.renew()
        except SetupFault as fault:
            troubles.append(fault)

    renewing = [threading.Thread(target=renew) for _ in range(2)]
    for one in renewing:
        one.start()
    met = {shown(opened) for _ in range(100)}
    over.set()
    for one in renewing:
        one.join()
    assert [] == troubles
    assert met <= set(opened.spki_sha256)
    assert opened.spki_sha256[0] == shown(opened) == doors(folder).spki_sha256[0]
