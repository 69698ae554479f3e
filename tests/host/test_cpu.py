"""Who is asked for the processor, and what happens when nobody answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nativeload.host import cpu, features
from nativeload.variant import Platform

ROOT = Path(__file__).parents[2]
linux_x86 = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="asks this machine as Linux on x86-64"
)
SSE = frozenset({"popcnt", "sse3", "sse4_1", "sse4_2", "ssse3"})


def test_the_first_answer_counts() -> None:
    """A source that has no answer or fails passes on, the failure noted; the rest is not asked."""
    notes: list[str] = []

    def fail() -> frozenset[str]:
        raise OSError("no such\nfile")

    def never() -> frozenset[str]:
        pytest.fail("asked although an answer was there")

    ladder = (("a", lambda: None), ("b", fail), ("c", lambda: frozenset({"avx"})), ("d", never))
    assert cpu.find_features(ladder, notes) == (frozenset({"avx"}), "c")
    assert notes == ["CPU by b: no such file"]


def test_an_empty_answer_is_an_answer() -> None:
    """A processor without any of the features is no reason to ask a worse source."""
    assert cpu.find_features((("a", frozenset), ("b", lambda: frozenset({"avx2"}))), []) == (frozenset(), "a")


def test_unknown_means_the_baseline() -> None:
    notes: list[str] = []
    assert cpu.find_features((("a", lambda: None),), notes) == (frozenset(), "nothing")
    assert notes == ["CPU: nothing named its features, so the baseline is assumed"]


@linux_x86
def test_glibc_names_no_feature_that_the_kernel_does_not() -> None:
    """Outside an emulator the two see one processor."""
    told = cpu.by_glibc()
    if told is None:
        pytest.skip("this C library is not glibc >= 2.33")
    assert told == cpu.by_cpuinfo()


@linux_x86
def test_without_glibcs_function_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl and old glibc have no such symbol."""
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    found = cpu.detect(Platform.LINUX_X86_64, [])
    assert found.source == cpu.CPUINFO
    assert found.features == cpu.by_cpuinfo()


def test_py_cpuinfo_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_py_cpuinfo", lambda: {"flags": ["avx2", "avx512vbmi", "3dnow"]})
    monkeypatch.setattr(cpu, "by_cpuinfo", lambda: None)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    found = cpu.detect(Platform.LINUX_X86_64, [])
    assert (found.features, found.source) == (frozenset({"avx2", "avx512_vbmi"}), "py-cpuinfo")


def test_py_cpuinfo_knows_this_processor() -> None:
    """It answers for real, in the words that the parser takes; it may count disabled features too."""
    told = cpu.by_py_cpuinfo()
    if sys.platform == "linux":
        assert told is not None
        assert told >= (features.KNOWN & (cpu.by_cpuinfo() or frozenset()))


def test_the_brand_is_looked_for_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Platform.current()
    monkeypatch.setattr(cpu, "_py_cpuinfo", lambda: {"brand_raw": "Fallback\tBrand"})
    assert cpu.detect(platform, []).brand is None
    assert cpu.detect(platform, [], brand=True).brand
    monkeypatch.setattr(cpu, "CPUINFO", os.devnull)
    if platform.is_linux:
        assert cpu.detect(platform, [], brand=True).brand == "Fallback Brand"


def test_only_an_intel_python_on_macos_can_be_translated() -> None:
    assert not cpu.is_translated(Platform.LINUX_X86_64)
    assert not cpu.is_translated(Platform.MACOS_ARM64)


@pytest.mark.qemu
@linux_x86
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Nehalem", SSE),
        ("SandyBridge", SSE | {"avx"}),
        ("Haswell", SSE | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma"}),
    ],
)
def test_under_an_emulator_the_features_are_the_emulated_ones(model: str, expected: frozenset[str]) -> None:
    """/proc/cpuinfo shows the physical processor there, and a library chosen by it would die of SIGILL."""
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("no qemu-x86_64 on PATH")
    if cpu.by_glibc() is None:
        pytest.skip("this C library is not glibc >= 2.33, the only source that is right under an emulator")
    code = (
        f"import sys, json; sys.path.insert(0, {str(ROOT)!r})\nfrom nativeload.host import Host\n"
        "host = Host.detect(gpu=False); print(json.dumps([host.cpu.source, sorted(host.cpu.features)]))"
    )
    command = ["qemu-x86_64", "-cpu", model, sys.executable, "-I", "-S", "-c", code]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(run.stdout) == ["glibc", sorted(expected)]
