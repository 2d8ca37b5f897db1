"""``lls policy`` and ``lls reload``: the site's own rules, what they say to somebody, and putting them in force.

A policy file is checked here for its form, without the server; whether its products and seats are there, only the
running server can say.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lls.cli import files, show
from lls.cli.admin import admin
from lls.cli.frame import UNREACHABLE, AsJson, Failure, given, noun
from lls.cli.show import column
from lls.faults import RefusedDocument

app = noun("policy", "The site's own rules: reservations, limits, who may use what.")

_LONGEST_CODE: Final = 200


def register(app: typer.Typer) -> None:
    """Add ``lls reload``."""
    app.command("reload")(reload)


def reload(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Read the site's policy and its TLS certificate again; a refused one changes nothing. No lease ends by it."""
    answer = admin(ctx).tell("POST", "reload", {})
    if as_json:
        show.document(answer)
        return
    change = answer.get("policy", {})
    for sign, name in (("+", "added"), ("-", "removed")):
        for rule in change.get(name, []):
            show.say(f"{sign} {rule}")
    changed = bool(change.get("added") or change.get("removed"))
    rules = show.count(change.get("rules", 0), "rule")
    show.say(f"The policy is in force: {rules}." if changed else f"Nothing has changed: {rules}.")
    if answer.get("tls_changed"):
        show.say("Another TLS certificate is shown from now on; lls tls show names its keys.")
    _read_out_doubts(change)


@app.command("show")
def show_command(
    ctx: typer.Context,
    *,
    text: Annotated[bool, typer.Option("--text", help="Print the file as it was read.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rules in force."""
    if text and as_json:
        raise typer.BadParameter("--text and --json exclude each other.", param_hint="--text")
    answer = admin(ctx).get("policy")
    if as_json:
        show.document(answer)
    elif text:
        for line in str(answer.get("text", "")).splitlines():
            show.say(line)
    else:
        columns = (column("RULE", "rule", whole=True), column("PRODUCT", "product"), column("NAME", "name"))
        show.table(answer.get("rules", []), columns, empty="There are no rules: seats go to whoever comes first.")
        _read_out_doubts(answer)


@app.command()
def check(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy file, in force or not.")],
) -> None:
    """Look for every mistake in a policy file. Nothing is changed."""
    from lls.licensing.policy_file import read_policy

    content = files.content(file)
    try:
        rules = len(read_policy(content.decode("utf-8")).rules)
    except UnicodeDecodeError:
        raise Failure(f"{file} is not UTF-8; write it anew.") from None
    except RefusedDocument as fault:
        raise _wrong(file, fault.problems or (fault.detail,)) from None
    try:
        answer = admin(ctx).upload("policy/check", content)
    except Failure as failure:
        if failure.status != UNREACHABLE:
            raise
        show.say(f"{file} is well-formed: {show.count(rules, 'rule')}.")
        show.say("The server does not run here, so its products and seats were not looked at.")
        return
    if doubts := answer.get("doubts"):
        raise _wrong(file, [str(doubt) for doubt in doubts])
    show.say(f"{file} is right: {show.count(rules, 'rule')}.")
    show.say("Next: lls reload, if this is the file that policy.file names")


def _wrong(file: Path, problems: Sequence[str]) -> Failure:
    if len(problems) == 1:
        return Failure(problems[0])
    return Failure(f"{file} has {len(problems)} problems; mend them and check again.", problems=problems)


@app.command()
def explain(
    ctx: typer.Context,
    *,
    product: Annotated[str, typer.Option(metavar="KEY", help="What is asked for.")],
    user: Annotated[str | None, typer.Option(help="Who asks.", show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="The name of the machine that asks.", show_default=False)] = None,
    seat_id: Annotated[str | None, typer.Option(help="The machine's fingerprint.", show_default=False)] = None,
    address: Annotated[str | None, typer.Option(help="The machine's network address.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option(help="The application's version.", show_default=False)] = None,
    edition: Annotated[str | None, typer.Option(help="The edition asked for.", show_default=False)] = None,
    seats: Annotated[int, typer.Option(min=1, help="How many seats.")] = 1,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Ask with an activation code: from LLS_CODE, else typed or piped in.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would be decided of a checkout now, and by which rules. Nothing is granted or written."""
    answer = admin(ctx).get(
        "policy/explain",
        product=product,
        user=user,
        host=host,
        seat_id=seat_id,
        address=address,
        version=version,
        edition=edition,
        seats=seats,
        activation_code=_activation_code(ctx) if with_code else None,
    )
    if as_json:
        show.document(answer)
        return
    columns = (
        column("RULE", "rule", whole=True),
        column("VERDICT", "verdict"),
        column("WHY", "words"),
        column("ENTITLEMENT", "entitlement_id", whole=True),
    )
    show.table(answer.get("steps", []), columns, empty="No rule was asked.")
    show.say()
    show.say(_outcome(answer))


def _activation_code(ctx: typer.Context) -> str:
    """No argument: every user of this machine may read those of a running program."""
    code = given(ctx)[1].get("LLS_CODE", "")
    if not code and sys.stdin.isatty():
        code = str(typer.prompt("Activation code", hide_input=True))
    elif not code:
        code = sys.stdin.readline(_LONGEST_CODE)
    if not code.strip():
        raise typer.BadParameter("no code came: set LLS_CODE, type it, or pipe it in.", param_hint="--with-code")
    return code.strip()


def _outcome(answer: Mapping[str, Any]) -> str:
    outcome = answer.get("outcome", {})
    if answer.get("granted"):
        seat = f"A seat of {show.said(outcome.get('entitlement_id'))} would be granted"
        return f"{seat}, in overdraft." if outcome.get("overdraft") else f"{seat}."
    said = f"Refused [{show.said(outcome.get('code'))}]: {show.said(outcome.get('detail'))}"
    return f"{said} {outcome['remedy']}" if outcome.get("remedy") else said


def _read_out_doubts(answer: Mapping[str, Any]) -> None:
    for doubt in answer.get("doubts", []):
        show.say(f"Warning: {doubt}")
