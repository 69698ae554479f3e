"""What the operating systems' answers mean, from recorded ones."""

from __future__ import annotations

import pytest

from nativeload.host import features

SSE = frozenset({"popcnt", "sse3", "sse4_1", "sse4_2", "ssse3"})
HASWELL = SSE | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma"}
SKYLAKE_X = HASWELL | {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
ZEN4 = SKYLAKE_X | {"avx512_vbmi", "avx512_vnni", "avx512_bf16"}
GRANITE_RAPIDS = ZEN4 | {"avx_vnni", "amx_tile", "amx_int8"}

CPUINFO_HASWELL = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz
flags\t\t: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush dts acpi \
mmx fxsr sse sse2 ss ht tm pbe syscall nx pdpe1gb rdtscp lm constant_tsc arch_perfmon pebs bts \
rep_good nopl xtopology pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 sdbg fma cx16 xtpr \
pdcm pcid sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand lahf_lm abm \
cpuid_fault epb invpcid_single pti fsgsbase bmi1 avx2 smep bmi2 erms invpcid xsaveopt dtherm ida \
arat pln pts
bogomips\t: 6784.50
"""
CPUINFO_GRAVITON3 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt \
fcma lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg \
dcpodp svei8mm svebf16 i8mm bf16 dgh rng
CPU implementer\t: 0x41
"""


def test_the_first_processor_of_cpuinfo_tells_the_features() -> None:
    assert features.from_cpuinfo(CPUINFO_HASWELL.splitlines()) == HASWELL
    assert features.from_cpuinfo(CPUINFO_GRAVITON3.splitlines()) == frozenset({"asimddp", "asimdhp", "i8mm", "sve"})


def test_a_later_processor_of_cpuinfo_changes_nothing() -> None:
    assert features.from_cpuinfo(["flags : avx", "flags : avx avx2"]) == frozenset({"avx"})


@pytest.mark.parametrize("text", ["", "processor : 0", "flags", "flags without a colon", "\0\0\0", "vmx flags : avx"])
def test_cpuinfo_without_flags_is_no_answer(text: str) -> None:
    """None lets the next source answer; an empty set would settle on the baseline."""
    assert features.from_cpuinfo(text.splitlines()) is None


def test_the_kernels_own_spellings_become_ours() -> None:
    line = "pni avx512vbmi avx512_vbmi2 avx512_vnni avx512_bf16 avx_vnni amx_tile amx_int8 amx_bf16"
    expected = {"sse3", "avx512_vbmi", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8"}
    assert features.from_flags(line.split()) == expected


def test_cpuid_words_of_known_processors() -> None:
    """Leaves 1, 7.0 and 7.1 as such processors give them, with all their features enabled."""
    nehalem = {0: (0x106A5, 0, 0x0098E3BD, 0xBFEBFBFF), 1: (0, 0, 0, 0), 6: (0, 0, 0, 0)}
    haswell = {0: (0x306C3, 0, 0x7FFAFBBF, 0xBFEBFBFF), 1: (0, 0x000027AB, 0, 0x9C000000), 6: (0, 0, 0, 0)}
    zen4 = {
        0: (0xA60F12, 0, 0x7EF8320B, 0x178BFBFF),
        1: (1, 0xF1BF97A9, 0x00405FCE, 0x10000010),
        6: (0x20, 0, 0, 0),
    }
    assert features.from_cpuid(nehalem) == SSE
    assert features.from_cpuid(haswell) == HASWELL
    assert features.from_cpuid(zen4) == ZEN4


def test_each_cpuid_bit_stands_for_one_feature() -> None:
    """All bits give every x86 feature, each single bit at most one, and no bit gives none."""
    everything = features.from_cpuid(dict.fromkeys(features.CPUID_LEAVES, (0xFFFFFFFF,) * 4))
    assert everything == GRANITE_RAPIDS
    singles = []
    for leaf in features.CPUID_LEAVES:
        for bit in range(128):
            words = dict.fromkeys(features.CPUID_LEAVES, (0, 0, 0, 0))
            words[leaf] = tuple(1 << bit % 32 if word == bit // 32 else 0 for word in range(4))  # type: ignore[assignment]
            singles += sorted(features.from_cpuid(words))
    assert sorted(singles) == sorted(everything)


@pytest.mark.parametrize(
    ("hwcap", "hwcap2", "expected"),
    [
        (0, 0, set()),
        (0x8FF, 0, set()),  # Cortex-A72: no half precision, no dot product
        (0x119FFF, 0, {"asimdhp", "asimddp"}),  # Neoverse N1, graviton2
        (0x3FFFFF | 1 << 22, 1 << 13, {"asimdhp", "asimddp", "sve", "i8mm"}),  # Neoverse V1, graviton3
        (
            1 << 10 | 1 << 20 | 1 << 22,
            1 << 1 | 1 << 13 | 1 << 23,
            {"asimdhp", "asimddp", "sve", "sve2", "i8mm", "sme"},
        ),
    ],
)
def test_the_capability_words_of_aarch64(hwcap: int, hwcap2: int, expected: set[str]) -> None:
    assert features.from_hwcap(hwcap, hwcap2) == expected


def test_macos_names_of_intel_and_apple_processors() -> None:
    """A name that the kernel has with 0, or does not have, is a feature that is absent."""
    intel = dict.fromkeys(("sse3", "supplementalsse3", "sse4_1", "sse4_2", "avx1_0", "f16c", "fma", "bmi1"), 1)
    intel |= {"avx2_0": 1, "bmi2": 1, "avx512f": 0}
    apple_m2 = {"arm.FEAT_FP16": 1, "arm.FEAT_DotProd": 1, "arm.FEAT_I8MM": 1, "arm.FEAT_SME": 0, "neon": 1}

    def asked(answers: dict[str, int]) -> frozenset[str]:
        return features.from_sysctl(lambda name: answers.get(name.removeprefix("hw.optional.")))

    assert asked(intel) == HASWELL - {"popcnt"}
    assert asked(apple_m2) == {"asimdhp", "asimddp", "i8mm"}


def test_windows_numbers() -> None:
    """AVX2 brings FMA, F16C and BMI2 along, which Windows has no old number for; AVX alone brings nothing."""
    assert features.from_windows({13, 36, 37, 38, 39, 40}.__contains__) == HASWELL
    assert features.from_windows({13, 36, 37, 38, 39}.__contains__) == (SSE | {"avx"}) - {"popcnt"}
    assert features.from_windows({43, 67}.__contains__) == {"asimddp", "asimdhp"}
    assert features.from_windows(frozenset().__contains__) == frozenset()


def test_avx512f_alone_on_windows_promises_no_other_part_of_avx512() -> None:
    """Knights Landing has it without VL, DQ and BW, and Windows has no number for those."""
    assert features.from_windows({13, 36, 37, 38, 39, 40, 41}.__contains__) == HASWELL | {"avx512f"}
