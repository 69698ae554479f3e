"""How much of the machine may this process use?

One rule: the smallest limit holds: the machine's size, the CPU affinity, and every cgroup from the process's
own up to the root, because a limit on a parent binds its children.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUP_ROOT = "/sys/fs/cgroup"
OWN_CGROUPS = "/proc/self/cgroup"


def usable_cores() -> int:
    """Return how many threads can run at once, at least 1.

    A quota of 1.5 cores counts as 1: llama.cpp's threads wait for each other, so one that is throttled holds
    up all.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = cgroup_cores() if sys.platform == "linux" else None
    return max(1, cores if quota is None else min(cores, int(quota)))


def usable_memory() -> int | None:
    """Return the bytes of memory this process may use, counting what others use at present."""
    if sys.platform == "win32":
        return _windows_memory()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = cgroup_memory() if sys.platform == "linux" else None
    return total if limit is None else min(total, limit)


def page_size() -> int:
    """Return the bytes of one memory page: 4096, or 16384 and 65536 on some arm64 systems."""
    if sys.platform == "win32":
        import mmap

        return mmap.PAGESIZE
    return os.sysconf("SC_PAGE_SIZE")


def cgroup_cores(root: str = CGROUP_ROOT, own: str = OWN_CGROUPS) -> float | None:
    """Return the CPU quota in cores; None means no limit.

    Version 2 has it in ``cpu.max`` ("quota period" or "max period"), version 1 in ``cpu.cfs_quota_us`` (-1:
    none).
    """
    quotas = []
    for folder in _folders("cpu", root, own):
        pair = _words(f"{folder}/cpu.max") or [
            *_words(f"{folder}/cpu.cfs_quota_us"),
            *_words(f"{folder}/cpu.cfs_period_us"),
        ]
        match [int(word) for word in pair if word.isdecimal()]:
            case [quota, period] if period:
                quotas.append(quota / period)
    return min(quotas, default=None)


def cgroup_memory(root: str = CGROUP_ROOT, own: str = OWN_CGROUPS) -> int | None:
    """Return the memory limit in bytes; None means no limit.

    Version 2 has it in ``memory.max`` ("max": none), version 1 in ``memory.limit_in_bytes`` (none: nearly
    2**63).
    """
    limits: list[str] = []
    for folder in _folders("memory", root, own):
        limits += _words(f"{folder}/memory.max") or _words(f"{folder}/memory.limit_in_bytes")
    return min((int(limit) for limit in limits if limit.isdecimal()), default=None)


def _folders(controller: str, root: str, own: str) -> Iterator[str]:
    """Yield the folders that may limit this process, innermost first.

    The path is the host's where the cgroup namespace is not our own; its folders are then absent here and the
    root of the mount is the container's. A ``..`` in it points outside that mount, so only the root is left.
    """
    for line in _lines(own):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = f"{root}/{controller}"
        else:
            continue
        parts = [part for part in path.strip().split("/") if part]
        while parts and ".." not in parts:
            yield "/".join([base, *parts])
            parts.pop()
        yield base


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:  # absent: that version, controller or limit does not exist here
        return []


def _words(path: str) -> list[str]:
    return " ".join(_lines(path)).split()


def _windows_memory() -> int | None:
    """Ask GlobalMemoryStatusEx; never run by this project's own tests, which run on Linux."""
    if sys.platform != "win32":
        return None
    # MEMORYSTATUSEX: two 32-bit words (its own length, load), then seven 64-bit ones, first the total
    status = (ctypes.c_uint64 * 8)(64)
    return status[1] if ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)) else None
