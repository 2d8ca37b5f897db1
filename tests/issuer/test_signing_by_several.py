"""Two of three people sign, each on a machine of their own; what they pass around cannot be bent on its way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lls.client import trust
from lls.issuer import Issuer
from lls.issuer.keyring import Change
from lls.issuer.pending import Kind, Paper, Pending, read_pending
from lls.issuer.refusals import Conflict, HomeRefused, PendingRefused, SignaturesMissing
from lls.issuer.telling import told
from lls.signed.jose import sign_general
from lls.signed.keys import Role, key_set_payload, read_key_set
from lls.signed.receipt import read_receipt
from tests.issuer.appliance import METERED, NOW, Appliance, line, order
from tests.issuer.people import Person, office

ANN, BOB, CAT = (Person.named(name) for name in ("ann", "bob", "cat"))
ROOTS = (ANN, BOB, CAT)
EVE = Person.named("eve")


@pytest.fixture
def two_of_three(home: Path, appliance: Appliance) -> Iterator[Issuer]:
    """Root and bundle need two of three people; certificates are the office's own."""
    people = {"root": ROOTS, "bundle": ROOTS}
    thresholds = {"root": 2, "bundle": 2, "certificate": 1}
    with office(home, people, thresholds=thresholds, own=["certificate"], sealed_by=[ANN, BOB]) as issuer:
        issuer.register_server(appliance.request(), now=NOW)
        issuer.fulfil(order(appliance), now=NOW)
        yield issuer


def drafted(issuer: Issuer, appliance: Appliance) -> Pending:
    return read_pending(issuer.issuing.draft_bundle(appliance.server_id, now=NOW).pending.to_bytes())


def test_a_bundle_signed_by_two_of_three_is_taken_by_its_server(two_of_three: Issuer, appliance: Appliance) -> None:
    pending = CAT.signs(ANN.signs(drafted(two_of_three, appliance)))
    written = two_of_three.issuing.seal_bundle(pending, now=NOW)
    bundle, _ = appliance.open(written.data, two_of_three.keyring.newest)
    assert (1, 50) == (bundle.sequence, bundle.entitlements[0].seats)
    assert bundle.certificate.token.count(".") == 2  # one signature: any JOSE library reads it
    trusted = trust.KeySet.read(two_of_three.keyring.version(1).token)
    assert appliance.server_id == trusted.certificate(bundle.certificate.token).server_id


def test_the_office_alone_cannot_issue_and_says_what_to_do(two_of_three: Issuer, appliance: Appliance) -> None:
    with pytest.raises(SignaturesMissing, match=r"The role bundle needs 2 signatures.*--unsigned"):
        two_of_three.issue_bundle(appliance.server_id, now=NOW)
    assert 0 == two_of_three.server(appliance.server_id).bundle_sequence


def test_one_signature_too_few_seals_nothing(two_of_three: Issuer, appliance: Appliance) -> None:
    pending = ANN.signs(drafted(two_of_three, appliance))
    with pytest.raises(SignaturesMissing, match="1 more on the bundle"):
        two_of_three.issuing.seal_bundle(pending, now=NOW)
    assert [] == two_of_three.register.bundles(appliance.server_id)


@given(signers=st.permutations(range(4)), many=st.integers(0, 4), need=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_any_people_in_any_order_are_enough_exactly_when_they_reach_the_threshold(
    signers: list[int], many: int, need: int
) -> None:
    people = [ANN, BOB, CAT, EVE]  # the last one's key is in no role
    keys = Role(threshold=need, kids=frozenset(one.key.kid for one in ROOTS))
    payload = key_set_payload(
        version=1,
        expires_at=NOW,
        roles=dict.fromkeys(("root", "bundle", "certificate"), keys),
        keys=[one.key.public_jwk() for one in ROOTS],
    )
    token = sign_general(payload, keys=[one.key for one in ROOTS], typ="lls-keys+jws")
    pending = Pending(
        pending_id="pnd_" + "A" * 22,
        kind=Kind.RECEIPT,
        keys=read_key_set(token),
        papers=(Paper(name="receipt", payload={"receipt_id": "any"}),),
        made_at=NOW,
        not_after=NOW,
    )
    chosen = signers[:many]
    for at in chosen:
        assert pending.waits_for(people[at].key.kid) is (at < 3)
        pending = people[at].signs(pending) if at < 3 else pending
    assert pending.complete is (len([at for at in chosen if at < 3]) >= need)
    if pending.complete and pending.keys is not None:
        told_as = pending.keys.verify(pending.finished()["receipt"], role="bundle", typ="lls-receipt+jws")
        assert {"receipt_id": "any"} == told_as


def test_no_change_of_a_byte_makes_another_document(two_of_three: Issuer, appliance: Appliance) -> None:
    genuine = ANN.signs(drafted(two_of_three, appliance))
    data = genuine.to_bytes()
    for at in range(0, len(data), 41):
        bent = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            read = read_pending(bent)
        except PendingRefused:
            continue
        assert genuine.fingerprint == read.fingerprint


def test_a_key_signs_once(two_of_three: Issuer, appliance: Appliance) -> None:
    with pytest.raises(PendingRefused, match="has signed this already"):
        ANN.signs(ANN.signs(drafted(two_of_three, appliance)))


def test_a_strangers_key_signs_nothing(two_of_three: Issuer, appliance: Appliance) -> None:
    with pytest.raises(PendingRefused, match="may not sign this under key set 1"):
        EVE.signs(drafted(two_of_three, appliance))


@pytest.mark.parametrize(
    "bend",
    [
        pytest.param(lambda file: file["papers"][-1]["payload"]["entitlements"][0].update(seats=5000), id="seats"),
        pytest.param(lambda file: file.update(not_after="2036-01-01T00:00:00Z"), id="end"),
        pytest.param(lambda file: file["about"].update(server="another"), id="what signers read"),
        pytest.param(
            lambda file: file["papers"][-1]["signatures"].append(file["papers"][-1]["signatures"][0]), id="twice"
        ),
        pytest.param(lambda file: file["papers"][-1]["signatures"][0].update(signature="A" * 86), id="signature"),
        pytest.param(lambda file: file["papers"].pop(0), id="no certificate"),
        pytest.param(lambda file: file.update(keys=None), id="no key set"),
        pytest.param(lambda file: file.update(kind="receipt"), id="kind"),
        pytest.param(lambda file: file.update(format=2), id="format"),
    ],
)
def test_a_bent_file_is_refused_before_anybody_signs(
    two_of_three: Issuer, appliance: Appliance, bend: Callable[[Any], object]
) -> None:
    file = json.loads(ANN.signs(drafted(two_of_three, appliance)).to_bytes())
    bend(file)
    with pytest.raises(PendingRefused):
        read_pending(json.dumps(file).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"format":1}', b"not json", b'{"format":1,"papers":7}'])
def test_what_is_no_pending_file_is_refused(data: bytes) -> None:
    with pytest.raises(PendingRefused):
        read_pending(data)


def test_another_content_with_a_fingerprint_of_its_own_is_found_when_it_is_sealed(
    two_of_three: Issuer, appliance: Appliance
) -> None:
    genuine = drafted(two_of_three, appliance)
    papers: Any = json.loads(json.dumps([{"payload": one.payload} for one in genuine.papers]))
    papers[-1]["payload"]["entitlements"][0]["seats"] = 5000
    forged = Pending(
        pending_id=genuine.pending_id,
        kind=Kind.BUNDLE,
        keys=genuine.keys,
        papers=(genuine.papers[0], type(genuine.papers[1])(name="bundle", payload=papers[-1]["payload"])),
        about=genuine.about,
        made_at=genuine.made_at,
        not_after=genuine.not_after,
    )
    with pytest.raises(PendingRefused, match="does not say any more"):
        two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(forged)), now=NOW)


def test_what_another_office_drafted_is_not_sealed_here(two_of_three: Issuer, appliance: Appliance) -> None:
    genuine = drafted(two_of_three, appliance)
    file = json.loads(genuine.to_bytes())
    other = Pending(
        pending_id="pnd_" + "A" * 22,
        kind=genuine.kind,
        keys=genuine.keys,
        papers=genuine.papers,
        about=file["about"],
        made_at=genuine.made_at,
        not_after=genuine.not_after,
    )
    with pytest.raises(PendingRefused, match="not made by this office"):
        two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(other)), now=NOW)


def test_its_time_ends_for_signing_and_for_sealing(two_of_three: Issuer, appliance: Appliance) -> None:
    pending = drafted(two_of_three, appliance)
    late = NOW + timedelta(days=15)
    with pytest.raises(PendingRefused, match="had to be signed until"):
        pending.signed_by(ANN.key, now=late)
    with pytest.raises(PendingRefused, match="had to be signed until"):
        two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(pending)), now=late)


def test_it_is_sealed_under_the_keys_that_it_was_made_for(two_of_three: Issuer, appliance: Appliance) -> None:
    waiting = BOB.signs(ANN.signs(drafted(two_of_three, appliance)))
    change = two_of_three.rotating.change(Change(without=[CAT.key.kid]), now=NOW, partial=True)
    assert isinstance(change, Pending)
    two_of_three.rotating.seal(BOB.signs(ANN.signs(change)), now=NOW)
    with pytest.raises(PendingRefused, match="made for key set 1, and key set 2"):
        two_of_three.issuing.seal_bundle(waiting, now=NOW)


def test_a_bundle_that_a_newer_one_has_overtaken_is_not_sealed(two_of_three: Issuer, appliance: Appliance) -> None:
    first, second = drafted(two_of_three, appliance), drafted(two_of_three, appliance)
    shown = two_of_three.serving.show(appliance.server_id, keys=two_of_three.keyring.newest)
    assert [first.pending_id, second.pending_id] == [one.pending_id for one in shown.waiting]
    two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(second)), now=NOW)
    with pytest.raises(PendingRefused, match="bundle 2 was issued to it since"):
        two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(first)), now=NOW)


def test_sealing_again_gives_the_same_bundle_and_remembers_it_once(two_of_three: Issuer, appliance: Appliance) -> None:
    pending = BOB.signs(ANN.signs(drafted(two_of_three, appliance)))
    bundles = [two_of_three.issuing.seal_bundle(pending, now=NOW).bundle for _ in range(2)]
    assert bundles[0] == bundles[1]
    assert 1 == len(two_of_three.register.bundles(appliance.server_id))


def test_a_signer_reads_whose_it_is_and_what_changes(two_of_three: Issuer, appliance: Appliance) -> None:
    first = drafted(two_of_three, appliance)
    text = "\n".join(told(first))
    assert "Acme GmbH (ACME)" in text
    assert "50 seats of cad" in text
    assert "first bundle of this server" in text
    two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(first)), now=NOW)
    two_of_three.fulfil(order(appliance, line(quantity=7), order_ref="SO-2"), now=NOW)
    old = two_of_three.register.entitlements(order_ref="SO-1001")[0]
    two_of_three.amending.disable(old.entitlement_id, now=NOW)
    added = two_of_three.register.entitlements(order_ref="SO-2")[0]
    text = "\n".join(told(drafted(two_of_three, appliance)))
    assert f"{old.entitlement_id}.status: active → disabled" in text
    assert f"{added.entitlement_id}: new" in text


@pytest.mark.parametrize(
    "payload",
    [{}, {"entitlements": 7}, {"customer": [], "server_license": {}}, {"entitlements": [{}]}, {"entitlements": [7]}],
)
def test_what_cannot_be_told_is_not_signed(
    two_of_three: Issuer, appliance: Appliance, payload: dict[str, object]
) -> None:
    genuine = drafted(two_of_three, appliance)
    whole = {**genuine.payload("bundle"), **payload} if payload else {}
    strange = replace(genuine, papers=(genuine.papers[0], Paper(name="bundle", payload=whole)))
    with pytest.raises(PendingRefused, match="has not the shape of a bundle"):
        told(read_pending(strange.to_bytes()))


def test_a_signer_reads_how_much_of_what_is_counted(home: Path, appliance: Appliance) -> None:
    with office(home, {"bundle": [ANN, BOB]}, thresholds={"bundle": 2}, own=["root", "certificate"]) as issuer:
        issuer.load_catalog(METERED, now=NOW)
        issuer.register_server(appliance.request(), now=NOW)
        issuer.fulfil(order(appliance, line(sku="CAD", quantity=1)), now=NOW)
        text = "\n".join(told(drafted(issuer, appliance)))
    assert "frames (usage_count): 100 frame, overdraft" in text
    assert "cloud (credit): 0 EUR, 1000 granted" in text
    assert "5 seats can be borrowed for 1209600 seconds" in text


def test_what_a_stranger_wrote_reaches_no_terminal_as_a_control_character(
    two_of_three: Issuer, appliance: Appliance
) -> None:
    pending = drafted(two_of_three, appliance)
    pending.about["server"] = "a\x1b[2Jb"
    assert all(text.isprintable() for text in told(pending))


def test_a_receipt_is_signed_by_two_as_well(two_of_three: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    written = two_of_three.issuing.seal_bundle(BOB.signs(ANN.signs(drafted(two_of_three, appliance))), now=NOW)
    appliance.open(written.data, two_of_three.keyring.newest)
    report_id = appliance.report(tmp_path / "r")
    two_of_three.ingest(tmp_path / "r", now=NOW)
    with pytest.raises(SignaturesMissing):
        two_of_three.issue_receipt(report_id, now=NOW)
    pending = CAT.signs(BOB.signs(two_of_three.issuing.draft_receipt(report_id, now=NOW).pending))
    receipt = two_of_three.issuing.seal_receipt(pending, now=NOW)
    assert report_id == read_receipt(receipt.token, two_of_three.keyring.newest, appliance.server_id).report_id
    assert receipt == two_of_three.issue_receipt(report_id, now=NOW)
    with pytest.raises(PendingRefused, match="receipt seal"):
        two_of_three.issuing.seal_bundle(pending, now=NOW)


def test_a_certificate_that_several_sign_is_complete_before_the_bundle_is_signed(
    home: Path, appliance: Appliance
) -> None:
    people = {"root": [ANN], "bundle": [ANN, BOB], "certificate": [BOB, CAT]}
    thresholds = {"bundle": 2, "certificate": 2}
    with office(home, people, thresholds=thresholds, sealed_by=[ANN]) as issuer:
        issuer.register_server(appliance.request(), now=NOW)
        issuer.fulfil(order(appliance), now=NOW)
        pending = drafted(issuer, appliance)
        with pytest.raises(PendingRefused, match="certificate has to be complete first"):
            ANN.signs(pending)
        pending = ANN.signs(BOB.signs(CAT.signs(BOB.signs(pending))))
        bundle, keys = appliance.open(issuer.issuing.seal_bundle(pending, now=NOW).data, issuer.keyring.newest)
        assert appliance.server_id == trust.KeySet.read(keys.token).certificate(bundle.certificate.token).server_id


def test_until_its_first_key_set_is_signed_an_office_issues_nothing(home: Path) -> None:
    change = Change(adding={"root": [ANN.part, BOB.part]}, making=["bundle", "certificate"], thresholds={"root": 2})
    with Issuer.create(home, now=NOW, passphrase=None, keys=change) as issuer:
        assert issuer.first_keys is not None
        with pytest.raises(HomeRefused, match="keys seal"):
            issuer.issue_bundle("lls_" + "A" * 22, now=NOW)
        one = ANN.signs(issuer.first_keys)
        with pytest.raises(SignaturesMissing):
            issuer.rotating.seal(one, now=NOW)
        keys = issuer.rotating.seal(BOB.signs(one), now=NOW)
        assert 2 == read_key_set(keys.token).roles["root"].threshold
        assert keys == issuer.rotating.seal(BOB.signs(one), now=NOW)


def test_a_first_key_set_of_other_keys_is_not_put_in_force(home: Path, tmp_path: Path) -> None:
    change = Change(adding={"root": [ANN.part, BOB.part]}, making=["bundle", "certificate"], thresholds={"root": 2})
    evil = Change(adding={"root": [EVE.part]}, making=["bundle", "certificate"])
    with (
        Issuer.create(home, now=NOW, passphrase=None, keys=change) as issuer,
        Issuer.create(tmp_path / "eve", now=NOW, passphrase=None, keys=evil) as other,
    ):
        assert other.first_keys is not None
        with pytest.raises(PendingRefused, match="not made by this office"):
            issuer.rotating.seal(EVE.signs(other.first_keys), now=NOW)
        assert [] == issuer.keyring.versions


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (Change(without=["nobody"]), "No role has the key nobody"),
        (Change(thresholds={"bundle": 4}), "has 3|would have 3"),
        (Change(without=[ANN.key.kid, BOB.key.kid]), "can never be"),
        (Change(adding={"bundle": [ANN.part]}), "in the role bundle already"),
        (Change(adding={"ruler": [EVE.part]}), "no role ruler"),
    ],
)
def test_a_key_set_that_can_never_sign_is_not_made(two_of_three: Issuer, change: Change, sentence: str) -> None:
    with pytest.raises(Conflict, match=sentence):
        two_of_three.rotating.change(change, now=NOW, partial=True)
    assert 1 == two_of_three.keyring.newest.version


def test_a_key_set_made_to_follow_another_one_is_refused(two_of_three: Issuer) -> None:
    waiting = [
        two_of_three.rotating.change(change, now=NOW, partial=True)
        for change in (Change(without=[CAT.key.kid]), Change(adding={"bundle": [EVE.part]}))
    ]
    first, second = (BOB.signs(ANN.signs(one)) for one in waiting if isinstance(one, Pending))
    two_of_three.rotating.seal(first, now=NOW)
    with pytest.raises(PendingRefused, match="made for key set 1"):
        two_of_three.rotating.seal(second, now=NOW)


def test_a_rotation_that_needs_others_makes_no_key_before_it_is_told_where_to_write(two_of_three: Issuer) -> None:
    folder = two_of_three.home / "keys"
    before = sorted(folder.iterdir())
    with pytest.raises(SignaturesMissing, match=r"-o FILE\.pending"):
        two_of_three.rotate_keys(now=NOW)
    assert before == sorted(folder.iterdir())
