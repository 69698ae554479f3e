"""Which set does each machine get from a real release, or why does it get none?

The manifest is what `nativeload publish` reads out of npm's builds (tests/real_release.py); a test on the real binaries
holds it to them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nativeload import Host, NativeLibraryConfig
from nativeload.cpu_variants import ARM64, X86_64
from nativeload.host.facts import Cpu, Gpu, Libc, Nvidia
from nativeload.resolve import plan
from nativeload.variant import Backend, Platform
from tests.real_release import BUILD, arguments

if TYPE_CHECKING:
    from nativeload.resolve.resolution import Resolution

RECORDED = Path(__file__).parent / "recorded" / f"{BUILD}.json"
HOSTS = Path(__file__).parents[1] / "host" / "recorded"
COMMIT = "0123456789" * 4

LINUX, ARM, MAC, WINDOWS = "linux-x86_64", "linux-aarch64", "macos-arm64", "windows-x86_64"

# The newest CUDA that NVIDIA's driver branches support (release notes of the CUDA toolkits).
DRIVERS = {
    "450.80": (11, 0), "470.57": (11, 4), "525.60": (12, 0), "535.54": (12, 2), "550.54": (12, 4),
    "570.86": (12, 8), "580.65": (13, 0), "590.44": (13, 1),
}  # fmt: skip
CARDS = {
    "GTX 1080": (6, 1), "P100": (6, 0), "K80": (3, 7), "V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "RTX 3090": (8, 6),
    "RTX 4090": (8, 9), "H200": (9, 0), "B200": (10, 0), "RTX 5090": (12, 0), "DGX Spark": (12, 1),
}  # fmt: skip


def machine(
    platform: str = LINUX,
    cpu: str = "haswell",
    *,
    libc: str = "glibc 2.35",
    driver: str | None = None,
    cards: tuple[str, ...] = (),
    backend: Backend | None = None,
) -> Host:
    """Compose a host: a CPU by the name of a variant, an NVIDIA driver with cards, or a device of another backend."""
    gpus = [
        Gpu(backend=Backend.CUDA, index=index, name=name, compute_capability=CARDS[name])
        for index, name in enumerate(cards)
    ]
    if backend is not None:
        gpus.append(Gpu(backend=backend, index=0, name=f"a {backend} device"))
    name, _, numbers = libc.partition(" ")
    return Host(
        platform=Platform(platform),
        cpu=Cpu(features=(X86_64 | ARM64)[cpu], source="the table", cores=4),
        libc=Libc(name=name, version=tuple(map(int, numbers.split("."))) if numbers else ()) if libc else None,
        nvidia=Nvidia(driver=driver, cuda=DRIVERS[driver]) if driver else None,
        gpus=tuple(gpus),
        notes=("CUDA: no NVIDIA device node (/dev/nvidiactl)", "Vulkan: libvulkan.so.1 not found", "Metal: not here"),
    )


def recorded(name: str) -> Host:
    """Read one of the recorded hosts."""
    return Host.from_file(HOSTS / f"{name}.json")


def nvidia(driver: str, *cards: str, platform: str = LINUX, cpu: str = "zen4") -> Host:
    """Compose a host with NVIDIA cards."""
    return machine(platform, cpu, driver=driver, cards=cards, libc="glibc 2.35" if platform == LINUX else "")


def mac(cpu: str) -> Host:
    """Compose a Mac."""
    return machine(MAC, cpu, libc="", backend=Backend.METAL)


NO_GLIBC = "needs glibc 2.29, and this system has musl"
PTX13 = "has only PTX for"

# what -> (host, words said of the config, the set's label or None, a reason that must be in the trace)
TABLE: dict[str, tuple[Host, dict[str, Any], str | None, str]] = {
    # -- processors
    "Core 2: nothing but the baseline": (machine(cpu="x64"), {}, "linux-x86_64-x64", "needs sse4_2"),
    "Nehalem": (machine(cpu="sse42"), {}, "linux-x86_64-sse42", "needs avx"),
    "Nehalem with Debian 11": (recorded("nehalem"), {}, None, "needs glibc 2.34, and this is 2.31"),
    "Sandy Bridge": (machine(cpu="sandybridge"), {}, "linux-x86_64-sandybridge", ""),
    "Ivy Bridge": (machine(cpu="ivybridge"), {}, "linux-x86_64-ivybridge", ""),
    "Piledriver": (machine(cpu="piledriver"), {}, "linux-x86_64-piledriver", ""),
    "Haswell": (recorded("haswell"), {}, "linux-x86_64-haswell", "needs avx_vnni"),
    "Alder Lake": (machine(cpu="alderlake"), {}, "linux-x86_64-alderlake", ""),
    "Skylake-X": (machine(cpu="skylakex"), {}, "linux-x86_64-skylakex", ""),
    "Cannon Lake": (machine(cpu="cannonlake"), {}, "linux-x86_64-cannonlake", ""),
    "Cascade Lake": (machine(cpu="cascadelake"), {}, "linux-x86_64-cascadelake", ""),
    "Ice Lake": (machine(cpu="icelake"), {}, "linux-x86_64-icelake", ""),
    "Cooper Lake": (machine(cpu="cooperlake"), {}, "linux-x86_64-cooperlake", ""),
    "Zen 4": (machine(cpu="zen4"), {}, "linux-x86_64-zen4", "needs amx_int8, amx_tile"),
    "Zen 4 with a Radeon": (recorded("zen4"), {}, "linux-x86_64-vulkan-zen4", "needs amx_int8, amx_tile"),
    "Sapphire Rapids": (machine(cpu="sapphirerapids"), {}, "linux-x86_64-sapphirerapids", ""),
    "Granite Rapids": (recorded("granite-rapids"), {}, "linux-x86_64-sapphirerapids", ""),
    "Zen 4 under a ceiling": (machine(cpu="zen4"), {"cpu": "avx2"}, "linux-x86_64-haswell", "above the ceiling 'avx2'"),
    "Graviton 3": (recorded("graviton3"), {}, "linux-aarch64-armv8.6_1", "needs sve2"),
    "Graviton 2": (machine(ARM, "armv8.2_2"), {}, "linux-aarch64-armv8.2_2", ""),
    "Graviton 4": (machine(ARM, "armv8.6_2"), {}, "linux-aarch64-armv8.6_2", ""),
    "Raspberry Pi 4": (machine(ARM, "armv8.0_1"), {}, "linux-aarch64-armv8.0_1", "needs asimddp"),
    "Arm with SME": (machine(ARM, "armv9.2_2"), {}, "linux-aarch64-armv9.2_2", ""),
    "Apple M1": (recorded("apple-m1"), {}, "macos-arm64-metal-apple_m1", "needs i8mm"),
    "Apple M2": (mac("apple_m2_m3"), {}, "macos-arm64-metal-apple_m2_m3", "needs sme"),
    "Apple M3 without Metal asked for": (mac("apple_m2_m3"), {"wants": "metal=off"}, "macos-arm64-apple_m2_m3", ""),
    "Apple M4": (mac("apple_m4"), {}, "macos-arm64-metal-apple_m4", ""),
    "a Mac in a virtual machine has no Metal": (machine(MAC, "apple_m1", libc=""), {}, "macos-arm64-apple_m1", ""),
    "a Mac with an Intel processor": (
        machine("macos-x86_64", "haswell", libc=""), {}, None, "it has nothing for macos-x86_64",
    ),
    "Windows on Arm": (machine("windows-arm64", "armv8.2_1", libc=""), {}, None, "it has nothing for windows-arm64"),
    "Windows, Haswell": (recorded("windows-haswell"), {}, "windows-x86_64-haswell", ""),
    "Windows, Zen 4": (machine(WINDOWS, "zen4", libc=""), {}, "windows-x86_64-zen4", ""),
    # -- C libraries
    "Alpine": (recorded("alpine-container"), {}, None, NO_GLIBC),
    "Alpine on Arm": (machine(ARM, "armv8.2_1", libc="musl"), {}, None, NO_GLIBC),
    "RHEL 8": (machine(libc="glibc 2.28"), {}, None, "needs glibc 2.29, and this is 2.28"),
    "Debian 11": (machine(libc="glibc 2.31"), {}, None, "needs glibc 2.34, and this is 2.31"),
    "RHEL 9": (machine(libc="glibc 2.34"), {}, "linux-x86_64-haswell", ""),
    "Debian 11, told to skip the check": (machine(libc="glibc 2.31"), {"skip_check": True}, "linux-x86_64", ""),
    # -- NVIDIA: driver and card
    "no GPU, CUDA preferred": (machine(), {"wants": "cuda"}, "linux-x86_64-haswell", "no NVIDIA device node"),
    "no GPU, CUDA required": (machine(), {"wants": "cuda=require"}, None, "cuda is required"),
    "driver 450": (nvidia("450.80", "T4"), {}, "linux-x86_64-zen4", "supports up to 11.0"),
    "driver 470": (nvidia("470.57", "A100"), {"wants": "cuda"}, "linux-x86_64-zen4", "supports up to 11.4"),
    "driver 525 and a card with machine code": (
        nvidia("525.60", "RTX 3090"), {}, "linux-x86_64-cuda12-zen4", "needs a driver for CUDA 13.0",
    ),
    "driver 525 and a card with PTX alone": (nvidia("525.60", "V100"), {}, "linux-x86_64-zen4", PTX13),
    "driver 535 and an RTX 4090": (nvidia("535.54", "RTX 4090"), {}, "linux-x86_64-cuda12-zen4", ""),
    "driver 550 and a V100": (nvidia("550.54", "V100"), {}, "linux-x86_64-cuda12-zen4", ""),
    "driver 550 and a GTX 1080": (nvidia("550.54", "GTX 1080"), {}, "linux-x86_64-cuda12-zen4", ""),
    "driver 570 and an H200": (nvidia("570.86", "H200"), {}, "linux-x86_64-cuda12-zen4", ""),
    "driver 570 and an RTX 5090": (nvidia("570.86", "RTX 5090"), {}, "linux-x86_64-cuda12-zen4", ""),
    "driver 580 and an RTX 4090": (nvidia("580.65", "RTX 4090"), {}, "linux-x86_64-cuda13-zen4", ""),
    "driver 580 and an RTX 5090": (nvidia("580.65", "RTX 5090"), {}, "linux-x86_64-cuda13-zen4", ""),
    "driver 580 and a DGX Spark's GPU": (nvidia("580.65", "DGX Spark"), {}, "linux-x86_64-cuda13-zen4", ""),
    "driver 580 and an A100: the newer build's PTX is too new for it": (
        nvidia("580.65", "A100"), {}, "linux-x86_64-cuda12-zen4", PTX13,
    ),
    "driver 590 and an A100": (nvidia("590.44", "A100"), {}, "linux-x86_64-cuda13-zen4", ""),
    "driver 590 and a T4": (nvidia("590.44", "T4"), {}, "linux-x86_64-cuda13-zen4", ""),
    "driver 590 and a B200": (nvidia("590.44", "B200"), {}, "linux-x86_64-cuda13-zen4", ""),
    "driver 580 and a P100: too old for CUDA 13": (
        nvidia("580.65", "P100"), {}, "linux-x86_64-cuda12-zen4", "has no code for P100",
    ),
    "driver 470 and a K80": (nvidia("470.57", "K80"), {}, "linux-x86_64-zen4", "has no code for K80"),
    "CUDA 12 asked for on driver 590": (
        nvidia("590.44", "RTX 4090"), {"wants": "cuda=12"}, "linux-x86_64-cuda12-zen4", "CUDA 12 was asked for",
    ),
    "CUDA switched off": (
        nvidia("590.44", "RTX 4090"), {"wants": "cuda=off"}, "linux-x86_64-zen4", "cuda is switched off",
    ),
    "two GPUs, one of them old: the build that covers both": (
        nvidia("580.65", "RTX 4090", "GTX 1080"), {}, "linux-x86_64-cuda12-zen4", "has no code for GTX 1080",
    ),
    "two GPUs, recorded": (recorded("two-nvidia"), {}, "linux-x86_64-cuda12-haswell", "has no code for"),
    "two GPUs, one of them of the stone age": (
        nvidia("470.57", "RTX 3090", "K80"), {}, "linux-x86_64-zen4", "has no code for K80",
    ),
    "an old processor beside a new GPU": (
        nvidia("590.44", "RTX 4090", cpu="sse42"), {}, "linux-x86_64-cuda13-sse42", "needs avx",
    ),
    "WSL: Linux with the driver of Windows": (nvidia("580.65", "RTX 4090"), {}, "linux-x86_64-cuda13-zen4", ""),
    "Windows with CUDA": (
        nvidia("580.65", "RTX 4090", platform=WINDOWS, cpu="haswell"), {}, "windows-x86_64-cuda13-haswell", "",
    ),
    "Windows with CUDA has fewer CPU variants": (
        nvidia("590.44", "RTX 4090", platform=WINDOWS, cpu="zen4"), {}, "windows-x86_64-cuda13-icelake", "",
    ),
    "Windows with CUDA on a processor without POPCNT: that build uses it unasked": (
        nvidia("590.44", "RTX 4090", platform=WINDOWS, cpu="x64"), {}, "windows-x86_64-x64",
        "llama.cuda.v0.4.0.dll needs sse4_2, which this CPU lacks",
    ),
    "Windows and an old driver": (
        nvidia("550.54", "RTX 4090", platform=WINDOWS, cpu="haswell"), {}, "windows-x86_64-haswell", "up to 12.4",
    ),
    # -- other GPUs
    "Vulkan": (machine(backend=Backend.VULKAN), {}, "linux-x86_64-vulkan-haswell", ""),
    "Vulkan beside CUDA, preferred": (
        machine(driver="580.65", cards=("RTX 4090",), backend=Backend.VULKAN), {"wants": "vulkan"},
        "linux-x86_64-vulkan-haswell", "",
    ),
    "Vulkan beside CUDA, nothing said": (
        machine(driver="580.65", cards=("RTX 4090",), backend=Backend.VULKAN), {}, "linux-x86_64-cuda13-haswell", "",
    ),
    "ROCm: no such build": (machine(backend=Backend.ROCM), {"wants": "rocm"}, "linux-x86_64-haswell", ""),
    "ROCm required": (machine(backend=Backend.ROCM), {"wants": "rocm=require"}, None, "rocm is required"),
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NativeLibraryConfig:
    """A config that pins the recorded release and may fetch it: plan() itself never does."""
    raw = RECORDED.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    (cache / "manifests").mkdir()
    (cache / "manifests" / f"{digest}.json").write_bytes(raw)
    pin = f"{BUILD}@sha256:{digest}"
    return NativeLibraryConfig().with_pin(pin, repo="me/llama", commit=COMMIT).with_auto_download(cache_dir=cache)


def decide(config: NativeLibraryConfig, host: Host, said: dict[str, Any]) -> Resolution:
    """Plan for a host."""
    from nativeload.settings import backend_word
    from nativeload.value import replace

    words = {name: backend_word(word) if name == "wants" else word for name, word in said.items()}
    return plan(replace(config, **words).settled(), host)


@pytest.mark.parametrize("name", TABLE)
def test_each_machine_gets_its_set_or_its_reason(config: NativeLibraryConfig, name: str) -> None:
    host, said, expected, reason = TABLE[name]
    found = decide(config, host, said)
    trace = found.explain()
    if expected is None:
        assert found.chosen is None, trace
    else:
        assert found.chosen is not None, trace
        assert found.chosen.variant.startswith(expected), trace
        assert found.chosen.pin == config.pin
    assert reason in trace


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 40


@pytest.mark.parametrize("name", TABLE)
def test_a_set_is_core_one_cpu_backend_and_at_most_one_gpu(config: NativeLibraryConfig, name: str) -> None:
    """And of one flavour: never a library of one build beside another's."""
    host, said, expected, _ = TABLE[name]
    chosen = decide(config, host, said).chosen
    if expected is None or chosen is None:
        assert expected is None
        assert chosen is None
        return
    roles = [str(file.role) for file in chosen.files]
    assert roles.count("cpu") == 1
    assert roles.count("gpu") <= 1
    assert 3 <= roles.count("core") <= 4
    assert len({file.declared for file in chosen.files}) == len(chosen.files)


def test_the_download_of_a_cpu_set_is_small(config: NativeLibraryConfig) -> None:
    """At most 8 MB on Linux x86-64, about 11 on Windows, of the hundreds that the release has."""
    for name, limit in (("Zen 4", 8e6), ("Granite Rapids", 8e6), ("Nehalem", 8e6), ("Windows, Zen 4", 12e6)):
        host, said, _, _ = TABLE[name]
        chosen = decide(config, host, said).chosen
        assert chosen is not None
        assert sum(file.size for file in chosen.files) <= limit


@pytest.mark.real_bundle
def test_the_recorded_manifest_is_what_publish_reads_out_of_the_binaries(binaries: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nativeload", *arguments(binaries, tmp_path), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == RECORDED.read_text()
