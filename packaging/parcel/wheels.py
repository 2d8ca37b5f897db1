"""Which wheels the appliance needs, and the wheels: from the lock, and no other way.

Rules
1. What is needed is what ``pyproject.toml`` names and what that in turn requires, for the system and the Python that
   the package is for (PEP 508 markers), found in the metadata of the environment that `make venv` made from the lock.
2. All extras are carried but those of developers: a site cannot fetch a driver afterwards.
3. pip downloads with ``--require-hashes``; what it brings is compared with the lock once more.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

NOT_CARRIED: Final = {"dev", "package", "test"}
INSTALLER: Final = "pip"
GLIBC: Final = (2, 28)
"""The oldest C library that is served: RHEL 8's and Debian 10's. Wheels that want a newer one are not taken."""
DEBIAN: Final = {"x86_64": "amd64", "aarch64": "arm64"}

_PIN: Final = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)


class Refused(Exception):
    """The package cannot be made; its text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A Python on a kind of machine: ``3.11``, ``x86_64``."""

    python: str
    machine: str

    @property
    def tag(self) -> str:
        """As wheels call it: ``cp311``."""
        return "cp" + self.python.replace(".", "")

    def environment(self) -> dict[str, str]:
        """What markers are judged by."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def platforms(self) -> list[str]:
        """Platform tags, the most particular first."""
        newest = [f"manylinux_2_{minor}_{self.machine}" for minor in range(GLIBC[1], 16, -1)]
        oldest = ["manylinux2014", "manylinux_2_12", "manylinux2010", "manylinux_2_5", "manylinux1"]
        return [*newest, *(f"{one}_{self.machine}" for one in oldest if self.machine == "x86_64" or "2014" in one)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One entry of the lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]

    def is_for(self, target: Target) -> bool:
        """Whether the lock means this one there."""
        return not self.marker or Marker(self.marker).evaluate(target.environment())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A file of the wheelhouse."""

    name: str
    version: str
    path: Path
    sha256: str

    @property
    def requirement(self) -> str:
        """Its line for pip."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def read_lock(text: str) -> list[Pin]:
    """Every entry. Raises Refused when a line is left over that was not understood."""
    pins = [
        Pin(
            name=name,
            version=version,
            marker=marker,
            hashes=frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", hashes)),
        )
        for name, version, marker, hashes in _PIN.findall(text)
    ]
    if len(pins) != len(re.findall(r"^[^\s#]", text, re.MULTILINE)) or not all(pin.hashes for pin in pins):
        raise Refused("requirements.lock has entries without a version or a hash; write it anew with: make lock")
    return pins


def needed(project: Mapping[str, Any], pins: Iterable[Pin], target: Target) -> list[Pin]:
    """What must be carried for that Python, by name. Raises Refused when the environment is not that of the lock."""
    known = {pin.name: pin for pin in pins if pin.is_for(target)}
    found: dict[str, Pin] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in _direct(project)]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate(target.environment() | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in known:
            raise Refused(f"{name} is needed and not in requirements.lock; write it anew with: make lock")
        found[name] = known[name]
        for one in ("", *sorted(requirement.extras)):
            if (name, one) not in seen:
                seen.add((name, one))
                waiting += [(Requirement(text), one) for text in _requires(known[name])]
    return [found[name] for name in sorted(found)]


def _direct(project: Mapping[str, Any]) -> Iterator[Requirement]:
    extras = project["project"].get("optional-dependencies", {})
    yield from map(Requirement, project["project"]["dependencies"])
    for name in sorted(set(extras) - NOT_CARRIED):
        yield from map(Requirement, extras[name])


def _requires(pin: Pin) -> list[str]:
    try:
        installed = importlib.metadata.distribution(pin.name)
    except importlib.metadata.PackageNotFoundError:
        raise Refused(f"{pin.name} is in the lock and not in the environment; run: make venv") from None
    if installed.version != pin.version:
        raise Refused(f"{pin.name} is {installed.version} here and {pin.version} in the lock; run: make venv")
    return installed.requires or []


def wheelhouse(root: Path, folder: Path, targets: Iterable[Target]) -> dict[Target, list[Wheel]]:
    """The wheels for each Python, this project's own among them; downloaded to ``folder``, or there already."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    pins = read_lock((root / "requirements.lock").read_text("utf-8"))
    own = own_wheel(root, folder / "own")
    house = {}
    for target in targets:
        wanted = needed(project, pins, target)
        house[target] = sorted([*download(wanted, target, folder), own], key=lambda wheel: wheel.name)
    return house


def installer(root: Path, folder: Path, target: Target) -> Wheel:
    """The wheel of pip itself: it runs from the file, on systems whose Python came without it."""
    pins = read_lock((root / "requirements.lock").read_text("utf-8"))
    (wheel,) = download([pin for pin in pins if pin.name == INSTALLER and pin.is_for(target)], target, folder)
    return wheel


def download(pins: Iterable[Pin], target: Target, folder: Path) -> list[Wheel]:
    """The wheel of each pin that fits. Raises Refused when there is none, or one that the lock does not know."""
    wanted = {pin.name: pin for pin in pins}
    lines = [
        f"{pin.name}=={pin.version} {' '.join(f'--hash=sha256:{one}' for one in sorted(pin.hashes))}"
        for _, pin in sorted(wanted.items())
    ]
    listed = "\n".join(lines) + "\n"
    place = folder / f"{target.tag}-{target.machine}-{hashlib.sha256(listed.encode()).hexdigest()[:16]}"
    if not place.is_dir():
        unfinished = place.with_suffix(".new")
        unfinished.mkdir(parents=True, exist_ok=True)
        (unfinished / "requirements.txt").write_text(listed, "ascii")
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--implementation=cp"]
        options += [f"--python-version={target.python}", *(f"--abi={abi}" for abi in (target.tag, "abi3", "none"))]
        options += [f"--platform={platform}" for platform in target.platforms()]
        _run("pip", "download", "--quiet", *options, "--dest", unfinished, "-r", unfinished / "requirements.txt")
        unfinished.rename(place)
    wheels = [read_wheel(path) for path in sorted(place.glob("*.whl"))]
    strangers = [w.path.name for w in wheels if w.name not in wanted or w.sha256 not in wanted[w.name].hashes]
    if strangers or len(wheels) != len(wanted):
        raise Refused(f"What lies in {place} is not what the lock names; remove that folder and try again.")
    return wheels


def own_wheel(root: Path, folder: Path) -> Wheel:
    """This checkout as a wheel; flit takes its times from ``SOURCE_DATE_EPOCH``."""
    folder.mkdir(parents=True, exist_ok=True)
    build = "import sys; from flit_core.buildapi import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", build, str(folder)], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(f"The project's own wheel cannot be built: {done.stderr.strip()}")
    return read_wheel(folder / done.stdout.strip())


def read_wheel(path: Path) -> Wheel:
    """A wheel by its file."""
    name, version, _, _ = parse_wheel_filename(path.name)
    return Wheel(name=name, version=str(version), path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def unpack(wheels: Iterable[Wheel], target: Target, folder: Path) -> None:
    """Install into ``folder`` as into site-packages: no bytecode, no scripts, and no trace of where it was done."""
    house = folder.with_name("links")
    house.mkdir()
    listed = house / "requirements.txt"
    for wheel in wheels:
        (house / wheel.path.name).symlink_to(wheel.path.resolve())
    listed.write_text("".join(f"{wheel.requirement}\n" for wheel in wheels), "ascii")
    options = ["--no-deps", "--no-index", "--no-compile", "--only-binary=:all:", "--require-hashes"]
    options += ["--implementation=cp", f"--python-version={target.python}"]
    options += [f"--abi={abi}" for abi in (target.tag, "abi3", "none")]
    options += [f"--platform={platform}" for platform in target.platforms()]
    _run("pip", "install", "--quiet", *options, "--find-links", house, "--target", folder, "-r", listed)
    for record in folder.glob("*.dist-info/RECORD"):
        kept = [line for line in record.read_text("utf-8").splitlines() if not line.startswith(("../", "bin/"))]
        record.write_text("\n".join(kept) + "\n", "utf-8")


def _run(module: str, *words: str | Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", module, *map(str, words)], env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(f"{module} {words[0]} has failed: {done.stderr.strip()}")
