"""TLS keys are exchanged under live leases, in a real daemon, and no client loses its seat."""

from __future__ import annotations

import random
import shutil
import signal
from datetime import UTC, datetime

import pytest

from lls.client import LicenseServers
from lls.tls import make_certificate
from tests.journeys.world import Asked, Site, until


def keys(site: Site) -> list[str]:
    found: list[str] = site.admin("GET", "/v1/admin/tls")["spki_sha256"]
    return found


def test_a_seat_of_the_library_outlives_every_exchange(site: Site) -> None:
    site.licensed()
    with LicenseServers(site.url, vendor_keys=site.keys) as servers, servers.checkout("cad") as seat:
        lease_id = seat.lease.lease_id
        for _ in range(2):
            before = keys(site)
            site.lls("tls", "renew")
            assert before == keys(site)[1:], "a living connection may still ask whose its key is"
            seat.refresh()
            site.kill()  # and the library's connection with it: the next one meets the new key
            site.start()
            seat.refresh()
            assert before != keys(site)
        assert [lease_id] == [lease["lease_id"] for lease in site.admin("GET", "/v1/admin/leases")["leases"]]
        with LicenseServers(site.url, vendor_keys=site.keys) as late, late.checkout("cad") as other:
            assert other.lease.lease_id != lease_id
    assert ["tls_renew"] * 2 == [
        line["data"]["act"] for line in site.journal() if "AdminActed" == line["kind"] and "tls" in line["data"]["act"]
    ]


@pytest.mark.parametrize("how", ["reload", "SIGHUP"])
def test_a_certificate_of_the_site_is_exchanged_by_a_reload_and_a_wrong_one_is_not(site: Site, how: str) -> None:
    certificate, key = site.site / "site.crt", site.site / "site.key"
    make_certificate(certificate, key, names=["127.0.0.1"], now=datetime.now(UTC))
    with site.config.open("a", encoding="utf-8") as settings:
        settings.write(f'[tls]\nmode = "files"\ncert = "{certificate}"\nkey = "{key}"\n')
    site.licensed()
    (first,) = keys(site)
    shutil.copy(certificate, site.state / "tls.crt")
    old, held = site.https(), Asked.new(random.Random(3))
    assert 201 == old.checkout(held).status

    make_certificate(site.site / "other.crt", key, names=["127.0.0.1"], now=datetime.now(UTC))
    refused = site.lls("reload", status=1)
    assert "cannot be used" in refused.stderr
    assert [first] == keys(site)

    (site.site / "other.crt").replace(certificate)
    if how == "reload":
        assert "Another TLS certificate is shown" in site.lls("reload").stdout
    else:
        site.signal(signal.SIGHUP)
    until(lambda: first != keys(site)[0], seconds=10, what="another key", log=site.log)
    assert [first] == keys(site)[1:]
    assert 200 == old.heartbeat(held).status, "a living connection goes on"
    shutil.copy(certificate, site.state / "tls.crt")
    assert 200 == site.https().heartbeat(held).status
