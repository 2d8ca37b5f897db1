"""Two people at one home at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer
from lls.issuer.refusals import HomeRefused, PendingRefused
from lls.issuer.register import Register
from tests.issuer.appliance import NOW, Appliance, Chance, hosted


def test_of_two_who_make_a_home_at_once_one_does_and_nothing_of_it_is_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def late(*args: Any, **kwargs: Any) -> Register:
        monkeypatch.undo()
        with pytest.raises(HomeRefused) as failure:
            Issuer.create(home, now=NOW, passphrase=None)
        refused.append(failure.value.detail)
        return Register(*args, **kwargs)

    monkeypatch.setattr("lls.issuer.founding.Register", late)
    with Issuer.create(home, now=NOW, passphrase=None) as made:
        assert 1 == made.keyring.newest.version
        assert 1 == len([line for line in made.audit.lines() if line.kind == "keys_made"])
    assert ["Somebody else is making an issuer" in sentence for sentence in refused] == [True]


def test_what_others_signed_is_not_sealed_under_keys_that_a_colleague_replaced(
    issuer: Issuer, appliance: Appliance, home: Path
) -> None:
    hosted(issuer, appliance)
    draft = issuer.issuing.draft_bundle(appliance.server_id, now=NOW).pending
    signed = issuer.issuing.sign_here(draft, now=NOW)
    with Issuer(home, now=NOW, random=Chance()) as colleague:
        colleague.rotating.rotate(now=NOW)
    with pytest.raises(PendingRefused, match="key set 2 is in force"):
        issuer.issuing.seal_bundle(signed, now=NOW)
    assert issuer.keyring.newest.version == 2
    issuer.issue_bundle(appliance.server_id, now=NOW)
