"""The parts of a machine, read from a tree of files as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lls.host import host_components, in_container

SERVER_ID = "lls_AAAAAAAAAAAAAAAAAAAAAA"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small machine: a disk with a partition, two real network ports, a bridge and the loop."""
    files = {
        "etc/machine-id": "3d1219c7c4c5404aaa1f6d2a48adfda4\n",
        "sys/class/dmi/id/product_uuid": "4c4c4544-0042-3510-8052-b4c04f4e4d32\n",
        "sys/class/dmi/id/board_serial": ".CN7620.\n",
        "sys/class/net/eth0/address": "52:54:00:AA:BB:01\n",
        "sys/class/net/eth0/addr_assign_type": "0\n",
        "sys/class/net/eth1/address": "52:54:00:aa:bb:02\n",
        "sys/class/net/eth1/addr_assign_type": "0\n",
        "sys/class/net/br0/address": "52:54:00:aa:bb:01\n",
        "sys/class/net/br0/addr_assign_type": "0\n",
        "sys/class/net/lo/address": "00:00:00:00:00:00\n",
        "sys/class/net/lo/addr_assign_type": "0\n",
        "sys/block/vda/serial": "S3Z8NB0K\n",
        "sys/block/vda/vda1/partition": "1\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    for port in ("eth0", "eth1"):
        (tmp_path / "sys/class/net" / port / "device").mkdir()
    number = tmp_path.stat().st_dev
    link = tmp_path / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "sys/block/vda/vda1")
    return tmp_path


def parts(root: Path, server_id: str = SERVER_ID) -> dict[str, str]:
    return host_components(server_id, root, root=root, environment={})


def test_five_parts_are_named_and_none_is_told(root: Path) -> None:
    found = parts(root)
    assert {"machine_id", "product_uuid", "board_serial", "disk", "macs"} == set(found)
    assert [64] * 4 + [129] == [len(value) for value in found.values()]
    assert not [name for name in ("3d1219c7", "CN7620", "S3Z8NB0K", "52:54") if name in str(found)]


def test_two_servers_on_one_machine_share_no_hash(root: Path) -> None:
    mine, yours = parts(root), parts(root, "lls_BBBBBBBBBBBBBBBBBBBBBB")
    assert not {hashed for value in mine.values() for hashed in value.split()} & {
        hashed for value in yours.values() for hashed in value.split()
    }


@pytest.mark.parametrize(
    ("path", "content", "changed"),
    [
        ("etc/machine-id", "uninitialized\n", "machine_id"),
        ("sys/class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000\n", "product_uuid"),
        ("sys/class/dmi/id/board_serial", "To be filled by O.E.M.\n", "board_serial"),
        ("sys/block/vda/serial", "", "disk"),
    ],
)
def test_what_nobody_filled_in_is_no_part(root: Path, path: str, content: str, changed: str) -> None:
    (root / path).write_text(content, "utf-8")
    assert {changed} == set(parts(root).keys()) ^ {"machine_id", "product_uuid", "board_serial", "disk", "macs"}


def test_what_systemd_hands_over_goes_before_what_we_may_read(root: Path, tmp_path: Path) -> None:
    handed_over = tmp_path / "credentials"
    handed_over.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(handed_over)}
    read = parts(root)
    assert read == host_components(SERVER_ID, root, root=root, environment=environment)
    (handed_over / "host.product_uuid").write_text("4c4c4544-0042-3510-8052-b4c04f4e4d33\n", "ascii")
    (handed_over / "host.board_serial").write_text("none", "ascii")  # the unit's word for: there is none, or not ours
    found = host_components(SERVER_ID, root, root=root, environment=environment)
    assert {"product_uuid"} == {name for name in read if read[name] != found[name]}


def test_an_exchanged_part_changes_its_own_hash_only(root: Path) -> None:
    before = parts(root)
    (root / "sys/block/vda/serial").write_text("another", "ascii")
    after = parts(root)
    assert {"disk"} == {name for name in before if before[name] != after[name]}


def test_a_port_that_comes_or_goes_leaves_the_others_hashes(root: Path) -> None:
    both = set(parts(root)["macs"].split())
    (root / "sys/class/net/eth1/device").rmdir()
    (one,) = parts(root)["macs"].split()
    assert one in both


def test_an_address_that_software_gave_is_no_part(root: Path) -> None:
    for port in ("eth0", "eth1"):
        (root / "sys/class/net" / port / "addr_assign_type").write_text("3\n", "ascii")
    assert "macs" not in parts(root)
    (root / "sys/class/net/eth0/bonding_slave").mkdir()
    (root / "sys/class/net/eth0/bonding_slave/perm_hwaddr").write_text("52:54:00:aa:bb:01\n", "ascii")
    assert 64 == len(parts(root)["macs"])


def test_nothing_is_a_part_that_cannot_be_read(tmp_path: Path) -> None:
    assert {} == parts(tmp_path)


@pytest.mark.parametrize("mark", ["run/.containerenv", ".dockerenv", "run/secrets/kubernetes.io", None])
def test_a_container_has_no_parts(root: Path, mark: str | None) -> None:
    if mark is not None:
        (root / mark).parent.mkdir(parents=True, exist_ok=True)
        (root / mark).touch()
    environment = {} if mark else {"container": "podman"}
    assert in_container(root=root, environment=environment)
    assert {} == host_components(SERVER_ID, root, root=root, environment=environment)
