"""What does an operating system's answer say about the processor?

One rule: pure functions from recorded answers to feature names; a bit that nobody set is a feature that is
absent.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

CPUID_LEAVES = (0, 1, 6)
"""glibc's numbers of CPUID leaf 1, leaf 7.0 and leaf 7.1 (sysdeps/x86/bits/platform/x86.h)."""

_EAX, _EBX, _ECX, _EDX = range(4)

_CPUID = (  # feature, glibc's leaf number, register, bit (Intel SDM volume 2, CPUID)
    ("sse3", 0, _ECX, 0),
    ("ssse3", 0, _ECX, 9),
    ("fma", 0, _ECX, 12),
    ("sse4_1", 0, _ECX, 19),
    ("sse4_2", 0, _ECX, 20),
    ("popcnt", 0, _ECX, 23),
    ("avx", 0, _ECX, 28),
    ("f16c", 0, _ECX, 29),
    ("bmi1", 1, _EBX, 3),
    ("avx2", 1, _EBX, 5),
    ("bmi2", 1, _EBX, 8),
    ("avx512f", 1, _EBX, 16),
    ("avx512dq", 1, _EBX, 17),
    ("avx512cd", 1, _EBX, 28),
    ("avx512bw", 1, _EBX, 30),
    ("avx512vl", 1, _EBX, 31),
    ("avx512_vbmi", 1, _ECX, 1),
    ("avx512_vnni", 1, _ECX, 11),
    ("amx_tile", 1, _EDX, 24),
    ("amx_int8", 1, _EDX, 25),
    ("avx_vnni", 6, _EAX, 4),
    ("avx512_bf16", 6, _EAX, 5),
)

_HWCAP = (("asimdhp", 10), ("asimddp", 20), ("sve", 22))  # AT_HWCAP, arch/arm64/include/uapi/asm/hwcap.h
_HWCAP2 = (("sve2", 1), ("i8mm", 13), ("sme", 23))  # AT_HWCAP2, the same file

_LINUX_NAMES = {"pni": "sse3", "avx512vbmi": "avx512_vbmi"}  # the kernel's own spellings

_SYSCTL = (  # feature, macOS name below hw.optional; a missing name is a missing feature
    ("sse3", "sse3"),
    ("ssse3", "supplementalsse3"),
    ("sse4_1", "sse4_1"),
    ("sse4_2", "sse4_2"),
    ("avx", "avx1_0"),
    ("f16c", "f16c"),
    ("fma", "fma"),
    ("bmi1", "bmi1"),
    ("avx2", "avx2_0"),
    ("bmi2", "bmi2"),
    ("avx512f", "avx512f"),
    ("avx512cd", "avx512cd"),
    ("avx512dq", "avx512dq"),
    ("avx512bw", "avx512bw"),
    ("avx512vl", "avx512vl"),
    ("avx512_vbmi", "avx512vbmi"),
    ("asimdhp", "arm.FEAT_FP16"),
    ("asimddp", "arm.FEAT_DotProd"),
    ("i8mm", "arm.FEAT_I8MM"),
    ("sme", "arm.FEAT_SME"),
)

_WINDOWS = (  # feature, PF_* number (winnt.h, and the page of IsProcessorFeaturePresent)
    ("sse3", 13),
    ("ssse3", 36),
    ("sse4_1", 37),
    ("sse4_2", 38),
    ("avx", 39),
    ("avx2", 40),
    ("avx512f", 41),
    ("asimddp", 43),
    ("sve", 46),
    ("sve2", 47),
    ("i8mm", 66),
    ("asimdhp", 67),
    ("sme", 70),
)
_WITH_AVX2 = frozenset({"bmi1", "bmi2", "f16c", "fma", "popcnt"})

KNOWN = frozenset(row[0] for table in (_CPUID, _HWCAP, _HWCAP2) for row in table)
"""Every feature name that detection can report."""


def from_cpuid(active: Mapping[int, Sequence[int]]) -> frozenset[str]:
    """Read CPUID registers (eax, ebx, ecx, edx) by glibc's leaf number: the *active* ones."""
    return frozenset(name for name, leaf, word, bit in _CPUID if active[leaf][word] >> bit & 1)


def from_flags(words: Iterable[str]) -> frozenset[str]:
    """Read the words of a ``flags`` or ``Features`` line of Linux, or of py-cpuinfo, which copies them."""
    return KNOWN & {_LINUX_NAMES.get(word, word) for word in words}


def from_cpuinfo(lines: Iterable[str]) -> frozenset[str] | None:
    """Read the first processor of /proc/cpuinfo; None if no line names flags."""
    words = cpuinfo_field(lines, ("flags", "Features"))
    return None if words is None else from_flags(words.split())


def cpuinfo_field(lines: Iterable[str], names: tuple[str, ...]) -> str | None:
    """Return the value of the first line of /proc/cpuinfo that has one of the names."""
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip() in names:
            return value.strip()
    return None


def from_hwcap(hwcap: int, hwcap2: int) -> frozenset[str]:
    """Read the two capability words of the aarch64 kernel."""
    rows = [(name, hwcap >> bit) for name, bit in _HWCAP] + [(name, hwcap2 >> bit) for name, bit in _HWCAP2]
    return frozenset(name for name, shifted in rows if shifted & 1)


def from_sysctl(number: Callable[[str], int | None]) -> frozenset[str]:
    """Ask macOS through ``number(name)``, which returns a sysctl's value or None."""
    return frozenset(name for name, key in _SYSCTL if number(f"hw.optional.{key}"))


def from_windows(present: Callable[[int], bool]) -> frozenset[str]:
    """Ask Windows through ``present(number)``, which is IsProcessorFeaturePresent.

    Windows has no number for FMA and F16C, and one for BMI2 only since 2024. Every AVX2 processor of Intel
    and AMD has the three; a few of VIA lack FMA, and there the probe child meets the illegal instruction
    first.
    """
    found = frozenset(name for name, number in _WINDOWS if present(number))
    return found | _WITH_AVX2 if "avx2" in found else found
