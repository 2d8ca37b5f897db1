"""What must hold before a server serves: the chain's head, whose history it is, and every stored bundle verified again.

Rules (design §2, *Restart*; §4)
1. A history whose last line does not fit its head, or that is another identity's, is no history to go on with.
2. Stored bundles are verified against the key set that was in force at their import; one that fails takes out its own
   entitlements only.
3. Key sets are believed as far as root signatures link them to the installed one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

from lls.faults import Refusal, RefusedDocument, SetupFault
from lls.identity import Identity
from lls.licensing.changes import Fact, KeptBundle, Loaded
from lls.licensing.journal import Head, head_of, parse_line, verify_line
from lls.licensing.terms import HostBinding, ServerTerms
from lls.signed.bundle import Binding, BindingPolicy, Bundle, verify_stored
from lls.signed.keys import KeySet, read_key_set

_log = logging.getLogger(__name__)


def check_head(loaded: Loaded) -> None:
    """A start with a broken last line would go on with a broken chain; nobody could tell it from a forgery later."""
    if loaded.last_line is None:
        whole = loaded.head == Head()
    else:
        try:
            line = parse_line(loaded.last_line)
            whole = (
                head_of(verify_line(loaded.last_line, after=Head(seq=line["seq"] - 1, hash=line["prev"])))
                == loaded.head
            )
        except RefusedDocument:
            whole = False
    if not whole:
        raise SetupFault(
            "The journal's last line does not fit the head of its chain: the database was changed or damaged."
            " Restore a backup, and tell your vendor."
        )


def chain_of_key_sets(anchor: KeySet, stored: Mapping[int, str]) -> dict[int, KeySet]:
    """Every key set that is linked to the installed one, upwards and downwards, by root signatures."""
    chain = {anchor.version: anchor}
    version = anchor
    for number in range(anchor.version + 1, max(stored, default=0) + 1):
        if number not in stored:
            break
        try:
            version = chain[number] = version.successor(stored[number])
        except RefusedDocument as fault:
            _log.error("key_set_distrusted", extra={"fields": {"version": number, "why": fault.detail}})
            break
    newer = anchor
    for number in range(anchor.version - 1, 0, -1):
        if number not in stored:
            break
        try:
            older = read_key_set(stored[number])
            older.successor(newer.token)
        except RefusedDocument as fault:
            _log.error("key_set_distrusted", extra={"fields": {"version": number, "why": fault.detail}})
            break
        newer = chain[number] = older
    return chain


def in_force(loaded: Loaded) -> list[KeptBundle]:
    """The bundles that somebody's terms come from; the others are known by their ids only."""
    ids = {placed.bundle_id for placed in loaded.placed} | {loaded.facts.get(Fact.TERMS_FROM)}
    return [kept for kept in loaded.bundles if kept.bundle_id in ids]


def check_identity(identity: Identity, loaded: Loaded) -> None:
    """New keys beside an old history are a loss, not a first start: every bundle and certificate names the old."""
    kept = loaded.facts.get(Fact.SERVER_ID, identity.server_id)
    if kept != identity.server_id:
        raise SetupFault(
            f"The database is that of the server {kept}, and the keys beside it are those of"
            f" {identity.server_id}: put the keys folder back from your backup,"
            " or start with an empty state directory and ask your vendor for a new bundle."
        )


def verified(
    identity: Identity, kept: Sequence[KeptBundle], keys: Mapping[int, KeySet]
) -> tuple[dict[str, Bundle], dict[str, str]]:
    """The bundles that still verify, and why the others do not, by id."""
    bundles: dict[str, Bundle] = {}
    problems: dict[str, str] = {}
    for one in kept:
        try:
            bundles[one.bundle_id] = _verify_again(identity, one, keys.get(one.keys_version))
        except RefusedDocument as fault:
            problems[one.bundle_id] = fault.detail
            _log.error("bundle_distrusted", extra={"fields": {"bundle_id": one.bundle_id, "why": fault.detail}})
    return bundles, problems


def _verify_again(identity: Identity, kept: KeptBundle, keys: KeySet | None) -> Bundle:
    if keys is None:
        raise RefusedDocument(Refusal.SIGNATURE, f"Key set {kept.keys_version} of its import is not there any more.")
    server_id, jwk = identity.server_id, identity.signing.public_jwk()
    bundle = verify_stored(kept.jws, keys=keys, server_id=server_id, server_jwk=jwk)
    if bundle.bundle_id != kept.bundle_id:
        raise RefusedDocument(Refusal.SIGNATURE, "The stored bundle is another one than its row says.")
    return bundle


def server_terms(bundle: Bundle) -> ServerTerms:
    """What a bundle says of the server itself, as the ledger takes it."""
    license_, customer = bundle.server_license, bundle.customer
    return ServerTerms(
        bundle_id=bundle.bundle_id,
        certificate=bundle.certificate.token,
        certificate_ends_at=bundle.certificate.not_after,
        products=frozenset(bundle.certificate.products),
        license_ends_at=license_.expires_at,
        sync_within=timedelta(days=license_.sync_within_days) if license_.sync_within_days else None,
        customer_id=customer.customer_id,
        customer_name=customer.name,
        account_ref=customer.account_ref,
        binding=_host_binding(license_.binding),
    )


def _host_binding(binding: Binding) -> HostBinding | None:
    if binding.policy is BindingPolicy.KEY_ONLY:
        return None
    return HostBinding(required=binding.required, components=binding.components, grace=binding.grace)
