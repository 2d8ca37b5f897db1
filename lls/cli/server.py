"""``lls server``: who this server is, how it is, and its request to the vendor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from lls.cli import clock, files, show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, Failure, Force, Output, noun
from lls.faults import RefusedDocument

app = noun("server", "This license server, and its request to the vendor.")


@app.command("show")
def show_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show identity, licence, clock and writership, and what to do next."""
    answer = admin(ctx).get("server")
    if as_json:
        show.document(answer)
        return
    show.facts(_facts(answer))
    steps = list(_next_steps(answer))
    if steps:
        show.say()
    for step in steps:
        show.say(f"Next: {step}")


@app.command()
def request(ctx: typer.Context, output: Output, force: Force = False) -> None:
    """Write the activation request that your vendor needs to make a bundle for this server."""
    daemon = admin(ctx)
    with (
        files.written(output, mode=files.SHARED, force=force) as file,
        daemon.download("POST", "server/request") as arriving,
    ):
        arriving.save(file)
    show.say(f"Wrote {output}.")
    show.say(f"Your vendor may ask for its key's fingerprint, by telephone: {fingerprint(output)}")
    show.say("Next: send it to your vendor, and import the bundle that comes back: lls bundle import FILE")


def fingerprint(path: Path) -> str:
    """What two people compare over the telephone: the thumbprint of the key that signed a request."""
    from lls.signed.request import read_request  # only here: its libraries would slow every other command down

    try:
        return read_request(files.content(path)).fingerprint
    except RefusedDocument:
        raise Failure(f"{path} is no activation request; name another file.") from None


def _facts(answer: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    now = _part(answer, "clock").get("now")
    writer, store = _part(answer, "writership"), _part(answer, "store")
    yield (
        "Server",
        f"{show.said(answer.get('server_id'))} ({show.said(answer.get('name'))}), version {answer.get('version')}",
    )
    yield "Started", show.until(answer.get("started_at"), now)
    yield "Customer", _customer(answer.get("customer"))
    yield "Licence", _licence(_part(answer, "license"), now)
    yield "Receipt due", _sync(_part(answer, "license"), now)
    yield "Machine", _machine(_part(answer, "binding"), now)
    yield "Clock", clock.told(_part(answer, "clock"))
    yield "Key set", f"version {show.said(answer.get('keys_version'))}"
    yield "Last bundle", f"sequence {answer['bundle_sequence']}" if answer.get("bundle_sequence") else "none yet"
    yield "Writership", f"epoch {show.said(writer.get('epoch'))}, line {show.said(writer.get('seq'))}"
    yield "Journal head", writer.get("head")
    yield (
        "Journal chain",
        {"ok": "whole", "forked": "FORKED", "restored": "RESTORED"}.get(str(answer.get("chain")), answer.get("chain")),
    )
    yield "Store", f"{show.said(store.get('kind'))}, {'up' if store.get('up') else 'DOWN'}"
    yield "Leases", answer.get("leases")


def _next_steps(answer: Mapping[str, Any]) -> Iterator[str]:
    match _part(answer, "license").get("state"):
        case "unlicensed":
            yield "lls server request -o FILE and send it to your vendor; then lls bundle import the answer."
        case "expired":
            yield "this server's licence has ended and no lease is granted; ask your vendor for a renewed bundle."
        case "report_overdue":
            yield "lls report export -o FILE and send it to your vendor; its receipt opens new leases again."
    if _part(answer, "binding").get("state") == "unbound":
        yield "lls server request -o FILE and send it to your vendor, who issues a bundle for this machine; import it."
    elif _part(answer, "binding").get("changed"):
        yield "a part of this machine was exchanged; send your vendor a new lls server request before another one is."
    if step := clock.ADVICE.get(str(_part(answer, "clock").get("state"))):
        yield step
    if answer.get("chain") == "restored":
        yield "lls server request -o FILE and send it to your vendor, who says where to go on; import the answer."
    if answer.get("chain") == "forked":
        yield "the vendor's record of this journal is another one (was this machine cloned or rolled back?); tell them."
    if _part(answer, "store").get("up") is False:
        yield "the store takes no changes; check its disk or database, then journalctl -u lls."


def _customer(customer: object) -> object:
    if not isinstance(customer, Mapping):
        return None
    return f"{show.said(customer.get('name'))} ({show.said(customer.get('customer_id'))})"


def _licence(licence: Mapping[str, Any], now: object) -> str:
    state = str(licence.get("state", show.NOTHING)).replace("_", " ")
    return f"{state}, until {show.until(licence['expires_at'], now)}" if licence.get("expires_at") else state


def _sync(licence: Mapping[str, Any], now: object) -> object:
    if not licence.get("sync_due_at"):
        return None
    return f"{show.until(licence['sync_due_at'], now)}, every {show.count(licence.get('sync_within_days'), 'day')}"


def _machine(binding: Mapping[str, Any], now: object) -> object:
    match binding.get("state"):
        case "key_only":
            return "any: the licence is bound to this server's key alone"
        case "bound":
            return f"the licensed one{_changed(binding)}"
        case "unbound":
            since, ends = show.instant(binding.get("since")), show.until(binding.get("ends_at"), now)
            return f"NOT THE LICENSED ONE since {since}; new leases until {ends}{_changed(binding)}"
    return binding.get("state")


def _changed(binding: Mapping[str, Any]) -> str:
    parts = binding.get("changed")
    if not isinstance(parts, list) or not parts:
        return ""
    names = ", ".join(str(part).replace("_", " ") for part in parts)
    return f" (changed: {names}; {binding.get('required')} of {binding.get('enrolled')} parts must still be there)"


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = answer.get(name)
    return part if isinstance(part, Mapping) else {}
