"""The terms of a license server, what is shown of it, and the order that takes a wrong clock back."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lls.issuer import Issuer, Terms
from lls.issuer.cli import app
from lls.issuer.refusals import Conflict, NotKnown
from lls.licensing.fields import write_instant
from lls.licensing.terms import CLOCK_RESET
from tests.issuer.appliance import NOW, Appliance, hosted, imported, reported

DAY = timedelta(days=1)
HOST = {"machine_id": "ab" * 32, "product_uuid": "cd" * 32, "board": "ef" * 32, "disk": "01" * 32}


def test_terms_of_a_server_go_out_with_every_bundle(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    ends = NOW + 200 * DAY
    said = {"license_until": write_instant(ends), "sync_days": 30, "valid_days": 10, "rebind_grace_days": 3}
    issuer.serving.agree(appliance.server_id, said, now=NOW)
    for _ in range(2):
        bundle = imported(issuer, appliance)
        terms = bundle.server_license
        assert (ends, 30, 10 * DAY, 3 * DAY) == (
            terms.expires_at,
            terms.sync_within_days,
            bundle.not_after - bundle.issued_at,
            terms.binding.grace,
        )


def test_a_term_is_taken_back_to_the_standard_and_the_others_stay(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    said = {"license_until": write_instant(NOW + DAY), "sync_days": 30}
    issuer.serving.agree(appliance.server_id, said, now=NOW)
    issuer.serving.agree(appliance.server_id, {"license_until": None}, now=NOW)
    assert Terms(sync_within_days=30) == issuer.serving.terms(appliance.server_id)
    bundle = imported(issuer, appliance)
    assert bundle.certificate.not_after == bundle.server_license.expires_at


def test_terms_said_for_one_bundle_are_of_that_one(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    data = issuer.issue_bundle(appliance.server_id, now=NOW, terms={"sync_days": 7}).data
    assert 7 == appliance.open(data, issuer.keyring.newest)[0].server_license.sync_within_days
    assert 90 == imported(issuer, appliance).server_license.sync_within_days


@pytest.mark.parametrize(("required", "expected"), [(None, 3), (1, 1), (4, 4)])
def test_a_server_is_bound_to_as_many_parts_as_its_terms_say(
    issuer: Issuer, appliance: Appliance, required: int | None, expected: int
) -> None:
    hosted(issuer, appliance)
    issuer.register_server(appliance.request(host=HOST), now=NOW)
    issuer.serving.agree(appliance.server_id, {"required": required}, binding="host", now=NOW)
    binding = imported(issuer, appliance).server_license.binding
    assert ("host", expected, HOST) == (binding.policy, binding.required, dict(binding.components))


@pytest.mark.parametrize(("parts", "expected"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_one_exchanged_part_never_stops_a_site_that_has_two(
    issuer: Issuer, appliance: Appliance, parts: int, expected: int
) -> None:
    hosted(issuer, appliance)
    host = dict(list(HOST.items())[:parts])
    issuer.register_server(appliance.request(host=host), binding="host", now=NOW)
    assert expected == imported(issuer, appliance).server_license.binding.required


def test_a_machine_may_be_renewed_part_by_part(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    host = dict(HOST)
    issuer.register_server(appliance.request(host=host), binding="host", now=NOW)
    for name in HOST:
        host[name] = f"new {name}"
        issuer.register_server(appliance.request(host=host), now=NOW)
        assert host == dict(imported(issuer, appliance).server_license.binding.components)
    told = [line.what.get("changed_parts") for line in issuer.audit.lines() if line.kind == "server_registered"]
    assert [[name] for name in HOST] == [changed for changed in told if changed]


def test_whoever_registers_a_changed_machine_hears_which_parts_it_had(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    """Else a machine is exchanged in three requests of which each is nearly the one before."""
    issuer.register_server(appliance.request(host=HOST), binding="host", now=NOW)
    (tmp_path / "request").write_text(appliance.request(host={**HOST, "disk": "e" * 64}))
    command = ["--home", str(issuer.home), "server", "register", str(tmp_path / "request")]
    told = CliRunner().invoke(app, command)
    assert (0, True) == (told.exit_code, "Other than before, or gone: disk." in told.output.replace("\n", " "))
    assert [] == json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["changed_parts"]


def test_another_machine_is_believed_for_a_reason_only(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.register_server(appliance.request(host=HOST), binding="host", now=NOW)
    other = appliance.request(host={**HOST, "disk": "x", "board": "y"})
    with pytest.raises(Conflict, match=r"board, disk of its 4 parts differ.*--rebind REASON"):
        issuer.register_server(other, now=NOW)
    assert HOST == dict(imported(issuer, appliance).server_license.binding.components)

    issuer.register_server(other, rebind="lightning, says Mr Weber", now=NOW)
    assert "x" == imported(issuer, appliance).server_license.binding.components["disk"]
    line = [line for line in issuer.audit.lines() if line.kind == "server_registered"][-1]
    assert (["board", "disk"], "lightning, says Mr Weber") == (
        sorted(line.what["changed_parts"]),
        line.what["rebind"],
    )


def test_a_server_that_moves_into_a_container_is_bound_to_its_key(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.register_server(appliance.request(host=HOST), binding="host", now=NOW)
    with pytest.raises(Conflict, match="--binding key_only"):
        issuer.register_server(appliance.request(host={}), now=NOW)
    issuer.register_server(appliance.request(host={}), binding="key_only", now=NOW)
    assert "key_only" == imported(issuer, appliance).server_license.binding.policy


@pytest.mark.parametrize(
    ("said", "binding", "sentence"),
    [
        ({"license_until": write_instant(NOW - DAY)}, None, "would have ended"),
        ({"license_until": "tomorrow"}, None, "refused"),
        ({"sync_days": 0}, None, "sync_days"),
        ({"sync_days": 36_501}, None, "sync_days"),
        ({"valid_days": "ten"}, None, "valid_days"),
        ({"required": 2}, "host", "can never match"),
    ],
)
def test_terms_that_no_server_would_take_change_nothing(
    issuer: Issuer, appliance: Appliance, said: dict[str, object], binding: str | None, sentence: str
) -> None:
    hosted(issuer, appliance)
    with pytest.raises(Conflict, match=sentence):
        issuer.serving.agree(appliance.server_id, said, binding=binding, now=NOW)
    assert Terms() == issuer.serving.terms(appliance.server_id)
    assert "key_only" == issuer.server(appliance.server_id).binding


def test_a_licence_that_ends_before_what_it_serves_is_told(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.serving.agree(appliance.server_id, {"license_until": write_instant(NOW + 10 * DAY)}, now=NOW)
    (warning,) = issuer.issue_bundle(appliance.server_id, now=NOW).warnings
    assert "licence ends on 2026-12-01" in warning


def test_a_clock_reset_rides_along_until_a_report_shows_that_it_was_carried_out(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    hosted(issuer, appliance)
    ordered = issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW)
    again = issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW)
    assert (False, True, ordered.command) == (ordered.again, again.again, again.command)
    for _ in range(2):  # the first may be lost
        (command,) = imported(issuer, appliance).commands
        assert (ordered.command.command_id, CLOCK_RESET) == (command.command_id, command.order.type)
    assert (ordered.command.command_id,) == reported(issuer, appliance, tmp_path / "r").applied
    assert () == imported(issuer, appliance).commands
    assert not issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW).again


def test_a_clock_reset_is_confirmed_by_the_servers_name(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    for wrong in (None, "other", ""):
        with pytest.raises(Conflict, match="--confirm 'site'"):
            issuer.serving.reset_clock(appliance.server_id, confirm=wrong, now=NOW)
    assert () == imported(issuer, appliance).commands


def test_another_server_shows_nothing_of_this_ones_orders(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    hosted(issuer, appliance)
    ordered = issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW)
    other = Appliance.new(5_000)
    issuer.register_server(other.request(), now=NOW)
    issuer.register.note_applied(ordered.command.command_id, server_id=other.server_id, at=NOW)
    assert [ordered.command] == issuer.register.pending_commands(appliance.server_id)


def test_nothing_is_agreed_or_ordered_for_a_retired_server(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.hosting.retire(appliance.server_id, now=NOW)
    with pytest.raises(Conflict, match="retired"):
        issuer.serving.agree(appliance.server_id, {"sync_days": 3}, now=NOW)
    with pytest.raises(Conflict, match="retired"):
        issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW)


def test_a_server_is_shown_with_all_that_hangs_on_it(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    bundle = hosted(issuer, appliance)
    issuer.serving.reset_clock(appliance.server_id, confirm="site", now=NOW)
    shown = issuer.serving.show(appliance.server_id, keys=issuer.keyring.newest)
    assert shown.last_bundle is not None
    assert shown.certificate is not None
    assert (1, None, 1, 1) == (
        shown.last_bundle.sequence,
        shown.last_report,
        len(shown.entitlements),
        len(shown.commands),
    )
    assert NOW + 90 * DAY == shown.report_due_at
    appliance.wait(days=20)
    taken = reported(issuer, appliance, tmp_path / "r").report
    issuer.issue_receipt(taken.report_id, now=appliance.now)
    shown = issuer.serving.show(appliance.server_id, keys=issuer.keyring.newest)
    assert (taken, NOW + 110 * DAY) == (shown.last_report, shown.report_due_at)
    assert bundle.certificate == shown.certificate
    with pytest.raises(NotKnown):
        issuer.serving.show("lls_" + "A" * 22, keys=issuer.keyring.newest)
