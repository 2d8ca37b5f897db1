"""People with keys of their own, and offices that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lls.issuer import Issuer, sample_catalog
from lls.issuer.keyring import Change
from lls.issuer.pending import Pending, read_pending
from lls.issuer.signers import PublicPart, make_public_part
from lls.signed.jose import SigningKey
from tests.issuer.appliance import NOW, Chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with a key, on a machine of their own."""

    name: str
    key: SigningKey

    @classmethod
    def named(cls, name: str) -> Person:
        return cls(name=name, key=SigningKey.generate())

    @property
    def part(self) -> PublicPart:
        return make_public_part(self.key, public=self.key.public, name=self.name, now=NOW)

    def signs(self, pending: Pending) -> Pending:
        """As it goes by file: read, signed, written."""
        signed, _ = read_pending(pending.to_bytes()).signed_by(self.key, now=NOW)
        return read_pending(signed.to_bytes())


def office(
    home: Path,
    people: Mapping[str, Sequence[Person]],
    *,
    thresholds: Mapping[str, int],
    own: Sequence[str] = (),
    sealed_by: Sequence[Person] = (),
) -> Issuer:
    """An office whose first key set has these people's keys; ``sealed_by`` signed it."""
    change = Change(
        adding={role: [one.part for one in members] for role, members in people.items()},
        making=own,
        thresholds=thresholds,
    )
    issuer = Issuer.create(home, now=NOW, passphrase=None, random=Chance(), keys=change)
    if issuer.first_keys is not None:
        pending = issuer.first_keys
        for person in sealed_by:
            pending = person.signs(pending)
        issuer.rotating.seal(pending, now=NOW)
    issuer.load_catalog(sample_catalog(), now=NOW)
    return issuer
