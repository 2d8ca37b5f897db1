"""The bill of materials: CycloneDX 1.6 in JSON, of exactly the wheels that are carried.

Names, versions and hashes are those of the files; licences are what each package declares of itself. Serial number and
time follow from the content and ``SOURCE_DATE_EPOCH``, so that the same package has the same bill.
"""

from __future__ import annotations

import importlib.metadata
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from parcel.wheels import Target, Wheel

PROJECT: Final = "local-license-server"
_SPACE: Final = uuid.UUID("6f1c7f0a-9a52-5d0e-8a0c-1d3b7f9b3c11")
_TROVE: Final = "License :: OSI Approved :: "


def bill(house: Mapping[Target, Iterable[Wheel]], *, time: int, extra: Iterable[Wheel] = ()) -> str:
    """The document. ``extra`` are wheels that the package carries beside the program (the installer)."""
    files: dict[str, dict[str, Wheel]] = {}
    for wheel in (*(one for wheels in house.values() for one in wheels), *extra):
        files.setdefault(wheel.name, {})[wheel.path.name] = wheel
    components = {name: _component(list(some.values())) for name, some in sorted(files.items())}
    bom = Bom(components=[one for name, one in components.items() if name != PROJECT])
    bom.metadata.component = components[PROJECT]
    bom.metadata.timestamp = datetime.fromtimestamp(time, UTC)
    bom.metadata.tools.components.add(this_component())
    bom.serial_number = uuid.uuid5(_SPACE, "\n".join(sorted(w.sha256 for f in files.values() for w in f.values())))
    for name, component in components.items():
        bom.register_dependency(component, [components[one] for one in _direct(name, house) if one in components])
    written: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return written + "\n"


def _component(wheels: list[Wheel]) -> Component:
    """One package; each of its files with its hash as a part of its own when it comes in several."""
    first = min(wheels, key=lambda wheel: wheel.path.name)
    metadata = importlib.metadata.metadata(first.name)
    is_ours = first.name == PROJECT
    component = Component(
        name=first.name,
        version=first.version,
        type=ComponentType.APPLICATION if is_ours else ComponentType.LIBRARY,
        bom_ref=f"pkg:{first.name}@{first.version}",
        purl=PackageURL("pypi", name=first.name, version=first.version),
        licenses=[_licence(metadata)],
        description=_told(metadata, "Summary"),
        hashes=[_hash(first)] if len(wheels) == 1 else [],
    )
    if len(wheels) > 1:
        component.components.update(
            Component(
                name=wheel.path.name,
                version=wheel.version,
                type=ComponentType.FILE,
                bom_ref=f"file:{wheel.path.name}",
                hashes=[_hash(wheel)],
            )
            for wheel in wheels
        )
    return component


def _hash(wheel: Wheel) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)


def _licence(metadata: importlib.metadata.PackageMetadata) -> License:
    """The newest field first: an expression, else the trove's word, else what somebody wrote."""
    trove = [one.removeprefix(_TROVE) for one in metadata.get_all("Classifier") or [] if one.startswith(_TROVE)]
    written = _told(metadata, "License").strip().partition("\n")[0]
    told = _told(metadata, "License-Expression") or " OR ".join(trove) or written or "not declared"
    return LicenseFactory().make_from_string(told, license_acknowledgement=LicenseAcknowledgement.DECLARED)


def _told(metadata: importlib.metadata.PackageMetadata, name: str) -> str:
    found: list[str] = metadata.get_all(name) or []
    return found[0] if found else ""


def _direct(name: str, house: Mapping[Target, Iterable[Wheel]]) -> list[str]:
    """What a package itself requires for one of the Pythons it is carried for."""
    requirements = [Requirement(text) for text in importlib.metadata.requires(name) or []]
    environments = [target.environment() | {"extra": ""} for target in house]
    return sorted(
        {
            canonicalize_name(one.name)
            for one in requirements
            if one.marker is None or any(one.marker.evaluate(environment) for environment in environments)
        }
    )
