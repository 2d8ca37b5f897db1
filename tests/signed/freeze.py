"""The documents of ``golden/``, made anew from fixed keys: to compare with the frozen ones, and once to freeze them."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from lls.signed.borrow import make_borrow_request, make_borrow_return, make_grant, read_borrow_request
from lls.signed.bundle import seal_signed
from lls.signed.capability import CapabilitySigner, terms_claims
from lls.signed.certificate import make_certificate
from lls.signed.jose import unverified_payload
from lls.signed.receipt import make_receipt
from lls.signed.report import write_report
from lls.signed.returned import make_return
from tests.vendor import NO_HEAD, NOW, Machine, Site, Vendor, clock_reset, entitlement, meter, new_id, reset_usage

NOT_REPEATABLE: Final = frozenset(
    {"site.llsbundle", "sealed.llsreport", "site.llsreport", "bundle.jws", "commands.jws"}
)
"""Fresh keys each time, another version of zlib, or a payload whose members belong to other tests' taste."""

_TOKENS: Final = (
    *(".jws", ".jwt", ".llskeys", ".llsreq", ".llsreceipt", ".llsreturn"),
    *("request.llsborrow", "return.llsborrow"),
)


def documents() -> dict[str, bytes]:
    """All documents by file name."""
    vendor, site = Vendor(name="golden"), Site.named("golden")
    vendor.rotate(root=True)
    bundle = vendor.signed_bundle(site, entitlements=[entitlement("cad"), entitlement("cam", seats=None)])
    signer = CapabilitySigner(site.signing, site.server_id)
    found = {
        "vendor-1.llskeys": vendor.key_sets[0],
        "vendor-2.llskeys": vendor.key_sets[1],
        "site.llsreq": site.request(sessions=[new_id("ses_", "cad")]),
        "certificate.jws": make_certificate(
            server_id=site.server_id,
            customer_id=new_id("cus_", "acme"),
            jwk=site.signing_jwk,
            products=["cad", "cam"],
            issued_at=NOW,
            not_after=NOW + timedelta(days=400),
            signers=vendor.certificate_keys[:1],
        ),
        "bundle.jws": bundle,
        "site.llsbundle": seal_signed(bundle, encryption_jwk=site.encryption_jwk).decode(),
        "site.llsreceipt": make_receipt(
            receipt_id=new_id("rcp_", new_id("rpt_", "golden")),
            server_id=site.server_id,
            report_id=new_id("rpt_", "golden"),
            up_to_seq=3,
            head="a" * 64,
            made_at=NOW,
            signer=vendor.bundle_keys[0],
        ),
        "capability.jwt": signer.signed(
            signer.prepare(
                product="cad",
                lease_id="0d9c0000-0000-4000-8000-000000000000",
                issued_at=int(NOW.timestamp()),
                expires_at=int(NOW.timestamp()) + 600,
                ttl=600,
                nonce="n" * 43,
                mode="floating",
                entitlement_id=new_id("ent_", "cad"),
                seats=1,
                seat_id="fingerprint",
                terms=terms_claims({"render": 1}, {"max_layers": 64}),
            )
        ),
        "statement.jwt": signer.statement(
            server_id=site.server_id, tls_spki_sha256=["b" * 64], nonce="n" * 43, issued_at=NOW
        ),
    }
    found |= _later(vendor, site, certificate=found["certificate.jws"])
    return {name: token.encode() for name, token in found.items()} | _reports(vendor, site)


def _later(vendor: Vendor, site: Site, *, certificate: str) -> dict[str, str]:
    """Borrowing, commands and the return of an entitlement."""
    machine, cad = Machine.named("golden"), new_id("ent_", "cad")
    wish = read_borrow_request(machine.borrow_request())
    return {
        "commands.jws": vendor.signed_bundle(site, commands=[reset_usage(cad, "render"), clock_reset()]),
        "request.llsborrow": make_borrow_request(
            lease_id=wish.lease_id,
            product="cad",
            holder=wish.holder,
            fingerprint=wish.fingerprint,
            until=wish.until,
            nonce=wish.nonce,
            made_at=NOW,
            key=machine.key,
            activation_code="Y64E-G6QX",
            features={"render": 1},
            edition="pro",
            version="2026.1",
            released_on=date(2026, 3, 1),
        ),
        "grant.llsborrow": make_grant(
            capability=_borrowed(site, machine, {"jkt": machine.key.kid}),
            certificate=certificate,
            keys=vendor.key_sets[1:],
            lease={"lease_id": wish.lease_id, "mode": "borrowed"},
        ).decode(),
        "return.llsborrow": make_borrow_return(
            lease_id=wish.lease_id, server_id=site.server_id, made_at=NOW, key=machine.key
        ),
        "borrowed.jwt": _borrowed(site, machine, {"fingerprint": machine.fingerprint}),
        "site.llsreturn": make_return(
            server_id=site.server_id,
            entitlement_id=cad,
            session_id=new_id("ses_", "cad"),
            up_to_seq=7,
            head="a" * 64,
            meters=[meter(), meter(feature="gpu", type="element_pool", unit=None, lots=[], consumed=0, in_use=2)],
            borrowed_until=wish.until,
            made_at=NOW,
            key=site.signing,
        ),
    }


def _borrowed(site: Site, machine: Machine, cnf: Mapping[str, str]) -> str:
    signer = CapabilitySigner(site.signing, site.server_id)
    week = 7 * 86_400
    message = signer.prepare(
        product="cad",
        lease_id=machine.lease_id,
        issued_at=int(NOW.timestamp()),
        expires_at=int(NOW.timestamp()) + week,
        ttl=week,
        nonce="n" * 43,
        mode="borrowed",
        entitlement_id=new_id("ent_", "cad"),
        seats=1,
        seat_id=machine.fingerprint,
        terms=terms_claims({"render": 1}, {"max_layers": 64}),
        cnf=cnf,
    )
    return signer.signed(message)


def _reports(vendor: Vendor, site: Site) -> dict[str, bytes]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, report_key in (("site.llsreport", None), ("sealed.llsreport", vendor.report_key.public_jwk())):
            path = Path(folder) / name
            write_report(
                path,
                report_id=new_id("rpt_", "golden"),
                server_id=site.server_id,
                from_seq=1,
                to_seq=3,
                prev_head=NO_HEAD,
                head="a" * 64,
                made_at=NOW,
                lines=[b'{"seq":1}', b'{"seq":2}', b'{"seq":3}'],
                usage_csv=b"day,seats\r\n2026-11-21,3\r\n",
                names=[b'{"field":"user","value":"alice"}'],
                key=site.signing,
                report_key=report_key,
            )
            found[name] = path.read_bytes()
    return found


def freeze(folder: Path) -> None:
    """Write what is not there yet; a frozen document is never replaced."""
    known = folder / "expected.json"
    payloads = json.loads(known.read_text("utf-8")) if known.exists() else {}
    for name, content in documents().items():
        if (folder / name).exists():
            continue
        (folder / name).write_bytes(content)
        if name.endswith(_TOKENS):
            payloads[name] = unverified_payload(content)
    known.write_text(json.dumps(payloads, indent=1), "utf-8")


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
