"""Frozen documents: what this version reads today, every later one must read, and write in the same bytes.

The files were written once. A test that fails here means that the format has drifted: a site's stored bundles and a
vendor's archive would no longer verify. Do not write them anew; write a reader for both forms. The first files came
from ``python -m tests.signed.freeze FOLDER``, which refuses to replace one that exists.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lls.licensing.terms import Command as Order
from lls.signed.borrow import read_borrow_request, read_borrow_return
from lls.signed.bundle import TYP as BUNDLE
from lls.signed.bundle import open_bundle, verify_stored
from lls.signed.capability import verify_capability
from lls.signed.certificate import read_certificate
from lls.signed.encoding import Json
from lls.signed.jose import sign_document, unverified_payload
from lls.signed.keys import follow, read_key_set
from lls.signed.receipt import read_receipt
from lls.signed.report import open_report
from lls.signed.request import read_request
from lls.signed.returned import read_return
from tests.signed import freeze
from tests.vendor import NOW, Machine, Site, Vendor, new_id

GOLDEN = Path(__file__).parent / "golden"
SITE = Site.named("golden")
VENDOR = Vendor(name="golden")
MACHINE = Machine.named("golden")


def text(name: str) -> str:
    return (GOLDEN / name).read_text("ascii")


def expected(name: str) -> Json:
    value = json.loads((GOLDEN / "expected.json").read_text("utf-8"))[name]
    assert isinstance(value, dict)
    return value


def test_every_document_is_still_written_in_the_same_bytes() -> None:
    for name, content in freeze.documents().items():
        if name not in freeze.NOT_REPEATABLE:
            assert (GOLDEN / name).read_bytes() == content, name


@pytest.mark.parametrize("name", ["bundle.jws", "commands.jws"])
def test_a_bundle_is_still_signed_in_the_same_bytes(name: str) -> None:
    vendor = Vendor(name="golden")
    vendor.rotate(root=True)

    assert text(name) == sign_document(expected(name), signers=vendor.bundle_keys[:1], typ=BUNDLE)


def test_every_payload_is_still_what_it_was() -> None:
    for name in (
        "vendor-1.llskeys",
        "site.llsreq",
        "certificate.jws",
        "capability.jwt",
        "site.llsreceipt",
        "bundle.jws",
        "commands.jws",
        "borrowed.jwt",
        "request.llsborrow",
        "return.llsborrow",
        "site.llsreturn",
    ):
        assert expected(name) == unverified_payload(text(name)), name


def test_the_frozen_key_sets_follow_each_other() -> None:
    keys, new = follow(read_key_set(text("vendor-1.llskeys")), [text("vendor-2.llskeys")])

    assert (2, 1) == (keys.version, len(new))


def test_the_frozen_request_is_read() -> None:
    assert SITE.server_id == read_request(text("site.llsreq")).server_id


def test_the_frozen_bundle_is_opened_and_verified() -> None:
    opened = open_bundle(
        (GOLDEN / "site.llsbundle").read_bytes(),
        encryption_key=SITE.encryption,
        server_id=SITE.server_id,
        keys=read_key_set(text("vendor-1.llskeys")),
        server_jwk=SITE.signing_jwk,
    )
    opened.bundle.check_dates(NOW)

    assert text("bundle.jws") == opened.jws
    assert opened.bundle == verify_stored(opened.jws, keys=opened.keys, server_id=SITE.server_id)
    assert "lls-bundle+jws" == BUNDLE


def test_the_frozen_chain_of_trust_holds_down_to_the_capability() -> None:
    keys = read_key_set(text("vendor-2.llskeys"))
    certificate = read_certificate(text("certificate.jws"), keys)

    assert expected("capability.jwt") == verify_capability(text("capability.jwt"), certificate=certificate)


def test_the_frozen_receipt_is_read() -> None:
    keys = read_key_set(text("vendor-2.llskeys"))

    assert 3 == read_receipt(text("site.llsreceipt"), keys, SITE.server_id).up_to_seq


def test_the_frozen_commands_are_read() -> None:
    bundle = verify_stored(text("commands.jws"), keys=read_key_set(text("vendor-2.llskeys")), server_id=SITE.server_id)

    assert [
        Order(type="reset_usage", entitlement_id=new_id("ent_", "cad"), feature="render"),
        Order(type="clock_reset"),
    ] == [command.order for command in bundle.commands]


def test_the_frozen_borrowing_is_read_from_the_request_to_the_return() -> None:
    request = read_borrow_request(text("request.llsborrow"))
    grant = json.loads(text("grant.llsborrow"))
    keys, _ = follow(read_key_set(text("vendor-1.llskeys")), grant["keys"])
    capability = verify_capability(grant["capability"], certificate=read_certificate(grant["certificate"], keys))
    back = read_borrow_return(text("return.llsborrow"), server_id=SITE.server_id)

    assert (MACHINE.lease_id, (("render", 1),)) == (request.lease_id, request.features)
    assert {"jkt": MACHINE.key.kid} == capability["cnf"]
    assert (request.lease_id, request.jkt) == (capability["sub"], MACHINE.key.kid) == (back.lease_id, back.jkt)


def test_the_frozen_loan_over_the_network_is_bound_to_its_machine() -> None:
    certificate = read_certificate(text("certificate.jws"), read_key_set(text("vendor-2.llskeys")))

    assert {"fingerprint": MACHINE.fingerprint} == verify_capability(text("borrowed.jwt"), certificate=certificate)[
        "cnf"
    ]


def test_the_frozen_return_is_read() -> None:
    read = read_return(text("site.llsreturn"), server_jwk=SITE.signing_jwk, server_id=SITE.server_id)

    assert (7, ["render", "gpu"]) == (read.up_to_seq, [meter.feature for meter in read.meters])


def test_the_frozen_reports_are_read() -> None:
    for name in ("site.llsreport", "sealed.llsreport"):
        with open_report(GOLDEN / name, report_key=VENDOR.report_key, server_jwk=SITE.signing_jwk) as report:
            assert [b'{"seq":1}', b'{"seq":2}', b'{"seq":3}'] == list(report.lines())
            assert b"day,seats\r\n2026-11-21,3\r\n" == report.usage_csv()
