"""What a customer gets for an order is there whole, readable by its owner only, and safe to look at."""

from __future__ import annotations

import json
from email import message_from_bytes
from email.policy import default
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lls.issuer import Issuer, sample_catalog
from lls.issuer.delivery import deliver, write_delivery
from lls.issuer.refusals import HomeRefused, NotKnown
from tests.issuer.appliance import NOW, Appliance, line, order

HOSTILE = '<script>alert("1")</script> & Söhne'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser calls it so
        self.seen.add(tag)

    def handle_data(self, data: str) -> None:
        self.said += data


def delivered(issuer: Issuer, directory: Path, *, ref: str = "SO-1001") -> dict[str, bytes]:
    write_delivery(deliver(issuer, ref, directory=directory, now=NOW), directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def registered(issuer: Issuer, appliance: Appliance) -> Issuer:
    issuer.register_server(appliance.request(), now=NOW)
    return issuer


def test_a_delivery_holds_the_bundle_the_codes_and_the_letter(
    registered: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    (fulfilled,) = registered.fulfil(order(appliance, line(1), line(2, sku="CAD-PRO-TRIAL", quantity=1)), now=NOW)
    files = delivered(registered, tmp_path / "out")
    bundle = f"{appliance.server_id}.llsbundle"
    assert {"letter.txt", "letter.html", "letter.eml", "delivery.json", bundle} == set(files)
    opened, _ = appliance.open(files[bundle], registered.keyring.version(1))
    assert {sold.entitlement_id for sold in fulfilled.entitlements} == {
        one.entitlement_id for one in opened.entitlements
    }
    codes = fulfilled.entitlements[1].document["activation_codes"]
    assert isinstance(codes, list)
    for name in ("letter.txt", "letter.html"):
        text = files[name].decode()
        for word in ("SO-1001", "Acme GmbH", codes[0], "2027-11-21", bundle, "30 days from the first use on"):
            assert word in text
    told = json.loads(files["delivery.json"])
    assert (codes, bundle) == (told["lines"][1]["activation_codes"], told["bundles"][0]["file"])


def test_a_letter_without_a_bundle_needs_nobodys_signature(home: Path, appliance: Appliance, tmp_path: Path) -> None:
    with Issuer.create(home, now=NOW, passphrase=b"a passphrase") as made:
        made.load_catalog(sample_catalog(), now=NOW)
        made.fulfil(order(appliance, server_id=None), now=NOW)
    with Issuer(home, now=NOW) as locked:
        files = delivered(locked, tmp_path / "out")
    assert {"letter.txt", "letter.html", "letter.eml", "delivery.json"} == set(files)


def test_the_message_can_be_sent_as_it_is(registered: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    registered.fulfil(order(appliance), now=NOW)
    files = delivered(registered, tmp_path / "out")
    mail = message_from_bytes(files["letter.eml"], policy=default)
    kinds = [part.get_content_type() for part in mail.walk() if not part.is_multipart()]
    assert ["text/plain", "text/html", "application/octet-stream"] == kinds
    assert "Your licences, order SO-1001" == mail["Subject"]
    (attached,) = mail.iter_attachments()
    assert files[f"{appliance.server_id}.llsbundle"] == attached.get_payload(decode=True)


def test_an_order_number_is_no_header(registered: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    ref = "SO =?utf-8?q?1=0D=0ABcc=3A_x=40example.org=0D=0A=0D=0Abody?="  # printable, until a mailer decodes it
    registered.fulfil(order(appliance, order_ref=ref), now=NOW)
    mail = message_from_bytes(delivered(registered, tmp_path / "out", ref=ref)["letter.eml"], policy=default)
    assert ["Subject", "MIME-Version", "Content-Type"] == mail.keys()
    assert "Your licences, order SO = ?utf-8?q?1=0D" == mail["Subject"][:39]


def test_a_name_is_never_markup(registered: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    registered.fulfil(order(appliance, customer={"name": HOSTILE}), now=NOW)
    tags = Tags()
    tags.feed(delivered(registered, tmp_path / "out")["letter.html"].decode())
    assert "script" not in tags.seen
    assert HOSTILE in tags.said


def test_a_dollar_in_a_name_is_a_dollar(registered: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    registered.fulfil(order(appliance, customer={"name": "Ca$h & $lines"}), now=NOW)
    assert "Dear Ca$h & $lines," in delivered(registered, tmp_path / "out")["letter.txt"].decode()


def test_an_order_without_a_server_says_how_to_ask(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    issuer.fulfil(order(appliance, server_id=None), now=NOW)
    files = delivered(issuer, tmp_path / "out")
    assert {"letter.txt", "letter.html", "letter.eml", "delivery.json"} == set(files)
    assert "lls server request" in files["letter.txt"].decode()


def test_the_vendors_own_letter_is_used_and_checked(
    registered: Issuer, appliance: Appliance, home: Path, tmp_path: Path
) -> None:
    registered.fulfil(order(appliance), now=NOW)
    (home / "letter.txt").write_text("To $customer: $$5 off")
    assert b"To Acme GmbH: $5 off" == delivered(registered, tmp_path / "1")["letter.txt"]
    before = registered.server(appliance.server_id)
    for wrong in ("Dear $custmer", "Dear ${", "5 $"):
        (home / "letter.txt").write_text(wrong)
        with pytest.raises(HomeRefused, match="which nothing fills; there are"):
            delivered(registered, tmp_path / "2")
    (home / "letter.txt").write_bytes(b"\xff")
    with pytest.raises(HomeRefused, match="not UTF-8"):
        delivered(registered, tmp_path / "2")
    assert not (tmp_path / "2").exists()
    assert before == registered.server(appliance.server_id)


def test_a_directory_that_is_there_is_left_alone_and_no_bundle_is_issued(
    registered: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    registered.fulfil(order(appliance), now=NOW)
    (tmp_path / "out").mkdir()
    for directory in (tmp_path / "out", tmp_path / "no such" / "out"):
        with pytest.raises(HomeRefused, match="cannot be made"):
            delivered(registered, directory)
    assert [] == registered.register.bundles(appliance.server_id)
    with pytest.raises(NotKnown, match="No order SO-9 was fulfilled"):
        delivered(registered, tmp_path / "new", ref="SO-9")


def test_only_its_owner_reads_it(registered: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    registered.fulfil(order(appliance), now=NOW)
    delivered(registered, tmp_path / "out")
    assert 0o700 == (tmp_path / "out").stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert ["out"] == [path.name for path in tmp_path.iterdir() if "out" in path.name]
