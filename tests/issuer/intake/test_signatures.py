"""Only who shares the secret is believed, and only now."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.faults import Unauthenticated
from lls.issuer.intake.settings import read_settings
from lls.issuer.intake.signatures import Proof, Scheme
from lls.issuer.refusals import IntakeRefused
from tests.issuer.appliance import NOW
from tests.issuer.intake.sources import SECRETS, mac, proof, timestamped

BODY = b'{"id":"evt_1"}'


def of(name: str, scheme: Scheme) -> Proof:
    return Proof(scheme=scheme, header="X-Signature", secrets=(b"another", SECRETS[name].encode()), username="zuora")


SCHEMES = [
    ("stripe", Scheme.TIMESTAMPED),
    ("fastspring", Scheme.BASE64),
    ("chargify", Scheme.HEX),
    ("zuora", Scheme.BASIC),
]


@pytest.mark.parametrize(("name", "scheme"), SCHEMES)
def test_the_right_signature_fits_with_any_of_the_secrets(name: str, scheme: Scheme) -> None:
    of(name, scheme).check(proof(name, BODY, NOW), BODY, now=NOW)


@pytest.mark.parametrize(("name", "scheme"), [pair for pair in SCHEMES if pair[1] is not Scheme.BASIC])
def test_another_body_does_not_fit(name: str, scheme: Scheme) -> None:
    with pytest.raises(Unauthenticated):
        of(name, scheme).check(proof(name, BODY, NOW), BODY + b" ", now=NOW)


@pytest.mark.parametrize(("name", "scheme"), SCHEMES)
@given(text=st.text())
def test_nothing_else_fits_whatever_it_is(name: str, scheme: Scheme, text: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        of(name, scheme).check(text, BODY, now=NOW)
    assert SECRETS[name] not in str(refused.value)


@pytest.mark.parametrize("header", [None, "", "\udcff", "t=1", "x" * 5_000, f"t={int(NOW.timestamp())},v1=\udcff"])
@pytest.mark.parametrize(("name", "scheme"), SCHEMES)
def test_a_missing_or_broken_header_is_refused(name: str, scheme: Scheme, header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        of(name, scheme).check(header, BODY, now=NOW)


@pytest.mark.parametrize(("seconds", "fits"), [(300, True), (301, False), (-300, True), (-301, False), (10**9, False)])
def test_a_recording_is_good_for_the_tolerance_only(seconds: int, fits: bool) -> None:
    header = timestamped("stripe", BODY, NOW)
    late = NOW + timedelta(seconds=seconds)
    if fits:
        of("stripe", Scheme.TIMESTAMPED).check(header, BODY, now=late)
    else:
        with pytest.raises(Unauthenticated, match="300 seconds"):
            of("stripe", Scheme.TIMESTAMPED).check(header, BODY, now=late)


def test_the_time_is_part_of_what_was_signed() -> None:
    header = timestamped("stripe", BODY, NOW - timedelta(days=1)).partition(",")[2]
    with pytest.raises(Unauthenticated):
        of("stripe", Scheme.TIMESTAMPED).check(f"t={int(NOW.timestamp())},{header}", BODY, now=NOW)


def test_one_good_signature_of_several_is_enough_and_other_versions_are_nothing() -> None:
    good = timestamped("stripe", BODY, NOW)
    of("stripe", Scheme.TIMESTAMPED).check(good.replace(",v1", f",v1={'0' * 64},v0=1,v1"), BODY, now=NOW)
    with pytest.raises(Unauthenticated):
        of("stripe", Scheme.TIMESTAMPED).check(good.replace("v1", "v0"), BODY, now=NOW)


def test_basic_needs_the_name_too() -> None:
    other = "Basic " + base64.b64encode(f"zuorb:{SECRETS['zuora']}".encode()).decode()
    with pytest.raises(Unauthenticated):
        of("zuora", Scheme.BASIC).check(other, BODY, now=NOW)


def test_secrets_have_no_text_form(config: Path) -> None:
    shown = repr(read_settings(config))
    assert [] == [name for name, secret in SECRETS.items() if secret in shown]


def test_zuora_may_sign_instead_of_naming_itself(config: Path) -> None:
    text = config.read_text().replace('username = "zuora"', 'scheme = "base64"\nheader = "X-Works-Signature"')
    config.write_text(text)
    signed = base64.b64encode(mac("zuora", BODY)).decode()
    read_settings(config).sources["zuora"].proof.check(signed, BODY, now=NOW)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[stripes]\n", "perhaps 'stripe'"),
        ('[stripe]\nsecret = "x"\n', "stripe.secret"),
        ("[stripe]\n", "either secret_file or secret_env"),
        ('[stripe]\nsecret_env = "NOT_THERE"\n', "NOT_THERE"),
        ('[stripe]\nsecret_file = "nowhere"\n', "cannot be read"),
        ('[stripe]\nsecret_env = "EMPTY"\n', "empty"),
        ('[stripe]\nsecret_env = "GOOD"\non_end = "never"\n', "stripe.on_end"),
        ('[zuora]\nsecret_env = "GOOD"\n', "zuora.username"),
        ('[zuora]\nsecret_env = "GOOD"\nscheme = "hex"\n', "zuora.header"),
        ('[zuora]\nsecret_env = "GOOD"\nscheme = "timestamped"\n', "zuora.scheme"),
        ('[generic]\nsecret_env = "GOOD"\ntolerance_seconds = 0\n', "generic.tolerance_seconds"),
        ('[netsuite]\nsecret_env = "GOOD"\n[netsuite.columns]\nsuk = "x"\n', "perhaps 'sku'"),
        ("[skus]\np = 5\n", "skus.'p'"),
        ('[skus]\np = { sku = "A B" }\n', "skus.'p'.sku"),
        ("listen = 5\n", "listen"),
        ("[", "not valid TOML"),
    ],
)
def test_settings_are_read_strictly(tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "intake.toml").write_text(text)
    with pytest.raises(Exception, match=names) as refused:
        read_settings(tmp_path / "intake.toml", {"EMPTY": " \n", "GOOD": "s3cret-value"})
    assert "s3cret-value" not in str(refused.value)
    assert isinstance(refused.value, IntakeRefused) or "cannot be read" in str(refused.value)
