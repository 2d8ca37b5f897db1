"""A site that asks for client certificates, in a real daemon: the library shows one, and says what to do without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lls.client import Borrowed, ClientCertificate, LicenseServers, Unreachable
from tests.client.authority import Authority
from tests.journeys.world import COMMAND_SECONDS, Site, environment


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def guarded(site: Site, authority: Authority) -> Site:
    with site.config.open("a", encoding="utf-8") as settings:
        settings.write(f'[access]\nclient_ca = "{authority.file}"\n')
    return site.licensed(borrow={"max_seconds": 86_400, "max_seats": 5})


def known(site: Site, ours: ClientCertificate | None, *, ca_file: str | None = None) -> LicenseServers:
    return LicenseServers(site.url, vendor_keys=site.keys, client_certificate=ours, ca_file=ca_file)


def refusal(servers: LicenseServers) -> str:
    with pytest.raises(Unreachable) as told:
        servers.checkout("cad", patience=0)
    return str(told.value)


def test_a_seat_is_held_with_a_certificate_and_refused_without_in_words_that_help(
    guarded: Site, authority: Authority, tmp_path: Path
) -> None:
    sealed = authority.issue(passphrase="a passphrase for tests")
    for ours, ca_file in (
        (authority.issue(), None),
        (replace(sealed, passphrase=lambda: "a passphrase for tests"), None),
        (authority.issue(), str(guarded.state / "tls.crt")),
    ):
        with known(guarded, ours, ca_file=ca_file) as servers, servers.checkout("cad") as seat:
            assert seat.valid
            assert [seat.lease.lease_id] == held(guarded)
    assert [] == held(guarded)

    with known(guarded, None) as servers:
        assert "pass `client_certificate`, or set LLS_CLIENT_CERT and LLS_CLIENT_KEY" in refusal(servers)
    with known(guarded, Authority(tmp_path / "theirs", "theirs").issue()) as servers:
        assert "ws-0.crt was shown; a license server hangs up on one that its authority" in refusal(servers)
    assert [] == held(guarded)


def test_a_renewed_certificate_is_taken_up_by_a_program_that_runs(guarded: Site, authority: Authority) -> None:
    pair = authority.issue("laptop", days=-1)
    with known(guarded, pair) as servers:
        assert "laptop.crt was shown, and it expired on" in refusal(servers)
        authority.issue("laptop")
        with servers.checkout("cad") as seat:
            servers.close()  # the next question needs a new connection …
            former = Path(pair.certificate).read_bytes()
            authority.issue("laptop")
            Path(pair.certificate).write_bytes(former)  # … while half of the next renewal is there
            assert seat.refresh().lease_id == seat.lease.lease_id
            # A seat that is held lives through an expired certificate as through an outage, and comes back.
            authority.issue("laptop", days=-1)
            servers.close()
            with pytest.raises(Unreachable, match="it expired on"):
                seat.refresh()
            authority.issue("laptop")
            assert seat.refresh().lease_id == seat.lease.lease_id


def test_a_loan_is_extended_and_given_back_with_the_certificate_that_the_environment_names(
    guarded: Site, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pair = tmp_path / "laptop", authority.issue()
    servers = LicenseServers(guarded.url, vendor_keys=guarded.keys, client_certificate=pair, borrowed_folder=folder)
    with servers, servers.checkout("cad") as seat:
        seat.borrow(datetime.now(UTC) + timedelta(hours=2))

    def extended() -> None:
        loan = Borrowed.load("cad", vendor_keys=guarded.keys, folder=folder, servers=guarded.url)
        loan.extend(loan.until + timedelta(hours=1))

    with pytest.raises(Unreachable, match="LLS_CLIENT_CERT"):
        extended()
    monkeypatch.setenv("LLS_CLIENT_CERT", str(pair.certificate))
    monkeypatch.setenv("LLS_CLIENT_KEY", str(pair.key))
    extended()
    assert Borrowed.load("cad", vendor_keys=guarded.keys, folder=folder, servers=guarded.url).give_back()
    assert [] == held(guarded)


def test_a_program_that_cannot_be_changed_is_held_a_seat_too(guarded: Site, authority: Authority) -> None:
    pair = authority.issue()
    certificate, key = str(pair.certificate), str(pair.key)
    by_environment = run(guarded, [], LLS_CLIENT_CERT=certificate, LLS_CLIENT_KEY=key)
    by_option = run(guarded, ["--client-cert", certificate, "--client-key", key])
    without = run(guarded, [])
    assert ([0, 0, 3], ["ran\n", "ran\n", ""]) == (
        [one.returncode for one in (by_environment, by_option, without)],
        [one.stdout for one in (by_environment, by_option, without)],
    )
    (said,) = without.stderr.splitlines()
    assert "give --client-cert and --client-key, or set LLS_CLIENT_CERT and LLS_CLIENT_KEY" in said
    wrong = run(guarded, ["--client-cert", certificate, "--client-key", str(authority.issue().key)])
    assert 2 == wrong.returncode
    (said,) = wrong.stderr.splitlines()
    assert "does not fit the client certificate" in said


def held(site: Site) -> list[str]:
    return [lease["lease_id"] for lease in site.admin("GET", "/v1/admin/leases")["leases"]]


def run(site: Site, options: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "print('ran')"]
    return subprocess.run(
        [sys.executable, "-m", "lls", "run", "--product", "cad", *options, "--", *program],
        env={**environment(), "LLS_SERVER": site.url, "LLS_VENDOR_KEYS": str(site.keys), **variables},
        cwd=site.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
