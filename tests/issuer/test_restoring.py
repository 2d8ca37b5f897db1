"""A server that was restored asks where to go on: what the vendor orders, and what he takes in after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer, ReportProblem, ReportRefused
from lls.issuer.refusals import Conflict
from lls.issuer.restoring import counters
from lls.licensing.journal import Kind, entry
from lls.signed.request import Restore
from tests.issuer.appliance import NOW, Appliance, metered

RESTORE = "rst_" + "A" * 22


@pytest.fixture
def entitlement_id(issuer: Issuer, appliance: Appliance) -> str:
    return metered(issuer, appliance).entitlement_id


def put_back(appliance: Appliance, *, lines: int, restore_id: str = RESTORE) -> Restore:
    """The appliance after ``lls restore`` of a backup that ended with that line, and its first start."""
    del appliance.entries[lines:]
    end = appliance.head
    appliance.wait(hours=1)
    appliance.post(
        Kind.RESTORED,
        restore_id=restore_id,
        backup={"seq": end.seq, "head": end.hash, "made_at": "2026-11-21T07:00:00Z"},
        customer_ref="ACME",
        part=1,
        entitlements=[],
    )
    return Restore(restore_id, end.seq, end.hash)


def adopted(issuer: Issuer, appliance: Appliance, *restores: Restore, **changes: Any) -> dict[str, Any]:
    answered = issuer.adopt(appliance.request(restores=restores), confirm="site", now=appliance.now, **changes)
    return dict(answered.command.document)


def moved(appliance: Appliance, *, keep: int, behind: list[Any]) -> None:
    """What the appliance does with an answer that names another line: its own lines behind the vendor's."""
    since = appliance.entries[keep:]
    appliance.entries[keep:] = behind[keep:]
    for line in since:
        appliance.entries.append(entry(appliance.head, at=line.at, kind=line.kind, data=line.data))


def test_all_that_was_reported_is_in_the_backup(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.use(entitlement_id, "frames", {"allowance": 5})
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    known = appliance.head
    appliance.use(entitlement_id, "frames", {"allowance": 7})
    point = put_back(appliance, lines=known.seq + 1)

    order = adopted(issuer, appliance, point)

    assert (known.seq + 1, known.hash, None, []) == (
        order["from_seq"], order["prev_head"], order["keep_seq"], order["meters"],
    )  # fmt: skip
    assert {"seq": known.seq + 2, "restore_id": RESTORE} == order["first"]
    appliance.report(tmp_path / "next", after=known.seq)
    issuer.ingest(tmp_path / "next", now=appliance.now)
    assert 12 == sum(line.consumed for line in issuer.register.usage())


def test_more_was_reported_than_the_backup_has(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.use(entitlement_id, "frames", {"allowance": 5})
    saved = len(appliance.entries)
    appliance.use(entitlement_id, "frames", {"allowance": 7, "overdraft": 2})
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    known, past = appliance.head, list(appliance.entries)
    point = put_back(appliance, lines=saved)

    order = adopted(issuer, appliance, point)

    assert (known.seq + 1, known.hash, saved) == (order["from_seq"], order["prev_head"], order["keep_seq"])
    lots = [
        {"lot": "allowance", "used": 12, "ended": False},
        {"lot": "overdraft", "used": 2, "ended": False},
    ]
    assert [{"entitlement_id": entitlement_id, "feature": "frames", "lots": lots}] == order["meters"]
    appliance.report(tmp_path / "forked", after=saved)
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "forked", now=appliance.now)
    assert ReportProblem.SET_BACK is refused.value.problem

    moved(appliance, keep=saved, behind=past)
    appliance.report(tmp_path / "next", after=known.seq)
    issuer.ingest(tmp_path / "next", now=appliance.now)
    assert 14 == sum(line.consumed for line in issuer.register.usage())


def test_a_report_of_before_the_restore_that_turns_up_after_the_answer_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    saved = len(appliance.entries)
    appliance.use(entitlement_id, "frames", {"allowance": 5})
    appliance.report(tmp_path / "late")
    point = put_back(appliance, lines=saved)
    adopted(issuer, appliance, point)
    with pytest.raises(ReportRefused, match="before the restore") as refused:
        issuer.ingest(tmp_path / "late", now=appliance.now)
    assert ReportProblem.SET_BACK is refused.value.problem
    appliance.report(tmp_path / "next")
    issuer.ingest(tmp_path / "next", now=appliance.now)


def test_asked_again_it_is_the_same_order_and_after_news_another(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    assert entitlement_id
    appliance.report(tmp_path / "r")
    point = put_back(appliance, lines=len(appliance.entries))
    first = adopted(issuer, appliance, point)
    again = issuer.adopt(appliance.request(restores=[point]), confirm="site", now=appliance.now)
    assert (True, first["command_id"]) == (again.again, again.command.command_id)
    issuer.ingest(tmp_path / "r", now=appliance.now)
    news = adopted(issuer, appliance, point)
    assert news["command_id"] != first["command_id"]
    waiting = [one.document for one in issuer.register.pending_commands(appliance.server_id)]
    assert [news["command_id"]] == [one["command_id"] for one in waiting if one["type"] == "chain_adopt"]


def test_a_backup_of_another_past_is_two_copies(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.use(entitlement_id, "frames", {"allowance": 5})
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    copy = appliance.clone()
    copy.entries[1:] = []
    copy.use(entitlement_id, "frames", {"allowance": 6})
    point = put_back(copy, lines=2)
    with pytest.raises(Conflict, match="another line 2"):
        adopted(issuer, copy, point)


def test_it_takes_the_servers_name_and_a_request_that_asks_for_it(
    issuer: Issuer, appliance: Appliance, entitlement_id: str
) -> None:
    assert entitlement_id
    with pytest.raises(Conflict, match="not of a server that was put back"):
        adopted(issuer, appliance)
    point = put_back(appliance, lines=len(appliance.entries))
    with pytest.raises(Conflict, match="--confirm 'site'"):
        issuer.adopt(appliance.request(restores=[point]), confirm="another", now=appliance.now)
    with pytest.raises(Conflict, match="server adopt"):
        issuer.register_server(appliance.request(restores=[point]), now=appliance.now)
    with pytest.raises(Conflict, match="before the one registered"):
        issuer.adopt(
            appliance.request(restores=[point], made_at=NOW.replace(year=2025)), confirm="site", now=appliance.now
        )
    assert "chain_adopted" not in [told.kind for told in issuer.audit.lines()]
    adopted(issuer, appliance, point)
    assert "chain_adopted" in [told.kind for told in issuer.audit.lines()]


def test_of_several_restores_the_one_counts_behind_which_the_lines_part(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    first = put_back(appliance, lines=len(appliance.entries))
    appliance.use(entitlement_id, "frames", {"allowance": 1})
    saved = len(appliance.entries)
    appliance.report(tmp_path / "r")  # of the restored server: the vendor has its first Restored
    issuer.ingest(tmp_path / "r", now=appliance.now)
    second = put_back(appliance, lines=saved, restore_id="rst_" + "B" * 22)
    order = adopted(issuer, appliance, first, second)
    assert (saved, "rst_" + "B" * 22) == (order["keep_seq"], order["restore_id"])


def test_counters_follow_undos_ends_months_and_resets() -> None:
    def line(kind: str, **data: Any) -> dict[str, Any]:
        return {"kind": kind, "data": {"entitlement_id": "ent_a", "feature": "f", **data}}

    told = [
        line("Used", draws={"allowance 2026-10": 5, "grt_1": 3}),
        line("Undone", draws={"grt_1": 1}),
        line("GrantEnded", lot="allowance 2026-10", consumed=5, into="allowance 2026-11"),
        line("GrantEnded", lot="grt_2", consumed=0),
        line("Used", draws={"overdraft": 4}),
    ]
    lots = [
        {"lot": "allowance 2026-11", "used": 5, "ended": False},
        {"lot": "grt_1", "used": 2, "ended": False},
        {"lot": "grt_2", "used": 0, "ended": True},
        {"lot": "overdraft", "used": 4, "ended": False},
    ]
    assert [{"entitlement_id": "ent_a", "feature": "f", "lots": lots}] == counters(told)
    reset = {"kind": "Installed", "data": {"resets": [{"entitlement_id": "ent_a", "feature": "f"}]}}
    ((anew,),) = ([one["lots"] for one in counters([*told, reset])],)
    assert {0} == {one["used"] for one in anew}
    assert [] == counters([*told, line("ReturnedEntitlement", session_id="ses_1")])
    again = {"kind": "Installed", "data": {"entitlements": [{"entitlement_id": "ent_a", "session_id": "ses_2"}]}}
    assert counters(told) == counters([*told, again, line("ReturnedEntitlement", session_id="ses_1")])
