"""Which instructions may this process use?

One rule: the operating system is asked first, since it knows what it has enabled; whoever answers first is
believed, and when nobody does it is the baseline.
"""

from __future__ import annotations

import ctypes
import sys

from nativeload.host import features, limits, sysctl
from nativeload.host.facts import Cpu
from nativeload.host.notes import attempt, one_line
from nativeload.variant import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Probe = Callable[[], frozenset[str] | None]

CPUINFO = "/proc/cpuinfo"
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ROSETTA = "sysctl.proc_translated"


def detect(platform: Platform, notes: list[str], *, brand: bool = False) -> Cpu:
    """Describe the processor; ``brand`` also looks for its name (see `find_brand` for the cost)."""
    found, source = find_features(_ladder(platform), notes)
    name = attempt("brand", lambda: find_brand(platform), None, notes) if brand else None
    cores = attempt("cores", limits.usable_cores, 1, notes)
    return Cpu(features=found, brand=name, source=source, cores=cores)


def find_features(ladder: tuple[tuple[str, Probe], ...], notes: list[str]) -> tuple[frozenset[str], str]:
    """Return the first answer of a ladder of (source, probe), and its source."""
    for source, probe in ladder:
        found = attempt(f"CPU by {source}", probe, None, notes)
        if found is not None:
            return found, source
    notes.append("CPU: nothing named its features, so the baseline is assumed")
    return frozenset(), "nothing"


def find_brand(platform: Platform) -> str | None:
    """Return the processor's name from /proc/cpuinfo or sysctl, else from py-cpuinfo in about 1.2 s."""
    name: str | None = None
    if platform.is_linux:
        with open(CPUINFO, encoding="utf-8", errors="replace") as lines:
            name = features.cpuinfo_field(lines, ("model name",))
    elif sys.platform == "darwin":
        name = sysctl.text("machdep.cpu.brand_string")
    return one_line(name or _py_cpuinfo().get("brand_raw") or "") or None


def is_translated(platform: Platform) -> bool:
    """Return whether Rosetta runs this x86-64 process on Apple silicon."""
    return platform is Platform.MACOS_X86_64 and sys.platform == "darwin" and sysctl.number(_ROSETTA) == 1


def by_glibc() -> frozenset[str] | None:
    """Ask glibc >= 2.33, whose *active* words hold only what the OS has enabled; None without it.

    It executed CPUID itself, so it is right under an emulator, where /proc/cpuinfo shows the physical
    processor.
    """
    ask = getattr(ctypes.CDLL(None), "__x86_get_cpuid_feature_leaf", None)
    if ask is None:
        return None
    ask.restype, ask.argtypes = ctypes.POINTER(ctypes.c_uint32 * 8), (ctypes.c_uint,)
    return features.from_cpuid({leaf: ask(leaf).contents[4:] for leaf in features.CPUID_LEAVES})


def by_cpuinfo(path: str = CPUINFO) -> frozenset[str] | None:
    """Read the first processor's flags; the kernel leaves out what it has disabled."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        return features.from_cpuinfo(lines)


def by_auxv() -> frozenset[str] | None:
    """Ask the aarch64 kernel through getauxval, which glibc and musl both have."""
    ask = ctypes.CDLL(None).getauxval
    ask.restype, ask.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return features.from_hwcap(ask(_AT_HWCAP), ask(_AT_HWCAP2))


def by_windows() -> frozenset[str] | None:
    """Ask Windows; never run by this project's own tests, which run on Linux."""
    if sys.platform != "win32":
        return None
    present = ctypes.WinDLL("kernel32").IsProcessorFeaturePresent
    return features.from_windows(lambda number: bool(present(number)))


def by_sysctl() -> frozenset[str] | None:
    """Ask macOS; never run by this project's own tests, which run on Linux."""
    return features.from_sysctl(sysctl.number) if sys.platform == "darwin" else None


def by_py_cpuinfo() -> frozenset[str] | None:
    """Ask py-cpuinfo, the last resort: it takes about 1.2 s and counts what the OS has disabled."""
    flags = _py_cpuinfo().get("flags")
    return features.from_flags(flags) if flags else None


def _py_cpuinfo() -> dict[str, Any]:
    from cpuinfo import get_cpu_info

    answer: dict[str, Any] = get_cpu_info()
    return answer


def _ladder(platform: Platform) -> tuple[tuple[str, Probe], ...]:
    last: tuple[str, Probe] = ("py-cpuinfo", by_py_cpuinfo)
    if platform.is_linux:
        linux: tuple[tuple[str, Probe], ...] = (("glibc", by_glibc),) if platform.is_x86 else (("getauxval", by_auxv),)
        return (*linux, (CPUINFO, by_cpuinfo), last)
    if platform in {Platform.MACOS_ARM64, Platform.MACOS_X86_64}:
        return (("sysctl", by_sysctl), last)
    return (("IsProcessorFeaturePresent", by_windows), last)
