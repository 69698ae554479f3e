"""Limits of containers, from recorded cgroup trees of both versions."""

from __future__ import annotations

import os
import sys

import pytest

from nativeload.host import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


def tree(root: Path, own: str, files: dict[str, str]) -> tuple[str, str]:
    """Write a cgroup tree and this process's line in it."""
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    return str(root / "cgroup"), str(root / "own")


def test_version_2_without_a_limit(tmp_path: Path) -> None:
    where = tree(tmp_path, "0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"})
    assert limits.cgroup_cores(*where) is None
    assert limits.cgroup_memory(*where) is None


def test_version_2_with_a_limit(tmp_path: Path) -> None:
    where = tree(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n", "memory.max": f"{2 * GIB}\n"})
    assert limits.cgroup_cores(*where) == 1.5
    assert limits.cgroup_memory(*where) == 2 * GIB


def test_a_limit_of_a_parent_binds_its_children(tmp_path: Path) -> None:
    files = {
        "a.slice/cpu.max": "200000 100000",
        "a.slice/b.service/cpu.max": "400000 100000",
        "a.slice/memory.max": str(4 * GIB),
        "a.slice/b.service/memory.max": "max",
    }
    where = tree(tmp_path, "0::/a.slice/b.service\n", files)
    assert limits.cgroup_cores(*where) == 2
    assert limits.cgroup_memory(*where) == 4 * GIB


def test_version_1_inside_a_container(tmp_path: Path) -> None:
    """The path is the host's and absent here; the root of each mount is the container's own folder."""
    own = "12:memory:/docker/0123abcd\n4:cpu,cpuacct:/docker/0123abcd\n1:name=systemd:/docker/0123abcd\n0::/\n"
    files = {
        "cpu/cpu.cfs_quota_us": "300000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str(GIB),
    }
    where = tree(tmp_path, own, files)
    assert limits.cgroup_cores(*where) == 3
    assert limits.cgroup_memory(*where) == GIB


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    """Its words for none are -1 and the last page below 2**63, which the machine's size beats."""
    files = {
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    where = tree(tmp_path, "2:memory:/\n1:cpu:/\n", files)
    assert limits.cgroup_cores(*where) is None
    assert limits.cgroup_memory(*where) == 9223372036854771712


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "", "memory.max": ""},
        {"cpu.max": "1 0", "memory.max": "-5"},
        {"cpu.max": "a b c", "memory.max": "\0"},
        {"cpu.max": "1 2 3", "memory.max": "1e9"},
        {},
    ],
)
def test_files_that_make_no_sense_are_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    where = tree(tmp_path, "0::/\nnonsense\n\n::::\n", files)
    assert limits.cgroup_cores(*where) is None
    assert limits.cgroup_memory(*where) is None


def test_a_path_outside_the_mount_is_not_followed(tmp_path: Path) -> None:
    """A process moved out of its cgroup namespace sees ``/../other``."""
    where = tree(tmp_path, "0::/../other\n", {"../other/cpu.max": "100000 100000", "cpu.max": "200000 100000"})
    assert limits.cgroup_cores(*where) == 2


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert limits.cgroup_cores(str(tmp_path / "none"), str(tmp_path / "none")) is None


def test_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("affinity is asked on Linux only")
    monkeypatch.setattr(limits, "cgroup_cores", lambda: None)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert limits.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert limits.usable_cores() == len(before)


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 1), (2.0, 2), (64.0, 4)])
def test_part_of_a_core_is_no_core_but_the_first(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    if sys.platform != "linux":
        pytest.skip("quotas are asked on Linux only")
    monkeypatch.setattr(limits, "cgroup_cores", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert limits.usable_cores() == cores


def test_a_containers_memory_is_the_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("limits are asked on Linux only")
    monkeypatch.setattr(limits, "cgroup_memory", lambda: 1 << 20)
    assert limits.usable_memory() == 1 << 20
    monkeypatch.setattr(limits, "cgroup_memory", lambda: 1 << 62)
    assert limits.usable_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_page_is_a_power_of_two() -> None:
    size = limits.page_size()
    assert size >= 4096
    assert size & (size - 1) == 0
