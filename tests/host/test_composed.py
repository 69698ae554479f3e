"""A composed host has what its words promise, and nothing more."""

from __future__ import annotations

import itertools
import json

import pytest

from nativeload import cpu_variants
from nativeload.errors import ConfigError
from nativeload.host import Host
from nativeload.variant import AvxLevel, Backend, Platform

X86 = [platform for platform in Platform if platform.is_x86]
ARM = [platform for platform in Platform if not platform.is_x86]
EVERY_WORD = [None, *map(str, AvxLevel), *cpu_variants.X86_64, *cpu_variants.ARM64]

LEAST = {
    None: frozenset(),
    "none": frozenset(),
    "avx": frozenset({"sse4_2", "avx"}),
    "avx2": frozenset({"sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"}),
    "avx512": frozenset({"sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"})
    | {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"},
}


def runs(host: Host) -> set[str]:
    """Return the CPU variants that a host can run."""
    return {name for name, needs in cpu_variants.variants(host.platform).items() if needs <= host.cpu.features}


@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("word", EVERY_WORD)
def test_every_word_is_a_host_or_an_error(platform: Platform, word: str | None) -> None:
    """A word of the platform's own family is a host that stands being written down; any other is refused."""
    table = cpu_variants.variants(platform)
    fits = word is None or word in table or (platform.is_x86 and word in list(AvxLevel))
    if not fits:
        with pytest.raises(ConfigError, match=f"{word!r} says nothing about {platform}") as caught:
            Host.compose(platform, cpu=word)
        assert "Use one of its variants" in caught.value.hint
        return
    host = Host.compose(str(platform), cpu=word)
    assert host.platform is platform
    assert Host.from_dict(json.loads(json.dumps(host.to_dict()))) == host
    if word in table:
        assert host.cpu.features == table[word]


@pytest.mark.parametrize("platform", X86)
@pytest.mark.parametrize("word", LEAST)
def test_a_level_promises_only_the_least(platform: Platform, word: str | None) -> None:
    """What every processor of the level has: FMA came later than AVX, VNNI later than AVX-512."""
    host = Host.compose(platform, cpu=word)
    least = {"sse4_2"} if word is None and platform is Platform.WINDOWS_X86_64 else LEAST[word]
    assert host.cpu.features == least, "Windows itself needs SSE4.2"
    assert runs(host) <= cpu_variants.allowed(word, platform), "nothing above the ceiling of the same name"


@pytest.mark.parametrize("platform", X86)
def test_a_higher_level_runs_all_that_a_lower_one_does(platform: Platform) -> None:
    levels = [runs(Host.compose(platform, cpu=level)) for level in AvxLevel]
    assert levels[0] == {"x64"}
    assert levels[1] == {"x64", "sse42", "sandybridge"}
    assert "haswell" in levels[2] - levels[1]
    assert "alderlake" not in levels[2]
    assert "skylakex" in levels[3] - levels[2]
    assert not levels[3] & {"cannonlake", "icelake", "zen4", "sapphirerapids"}
    assert all(lower < higher for lower, higher in itertools.pairwise(levels))


@pytest.mark.parametrize("platform", ARM)
@pytest.mark.parametrize("word", [*map(str, AvxLevel), "haswell", "zen4", "x64"])
def test_arm_refuses_the_words_of_x86(platform: Platform, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Host.compose(platform, cpu=word)
    assert caught.value.option == "cpu"


@pytest.mark.parametrize("platform", X86)
@pytest.mark.parametrize("word", ["apple_m1", "armv8.0_1", "armv9.2_2"])
def test_x86_refuses_the_words_of_arm(platform: Platform, word: str) -> None:
    with pytest.raises(ConfigError):
        Host.compose(platform, cpu=word)


@pytest.mark.parametrize("word", ["avx3", "avx-512", "native", "", "zen4 ", "none,avx", "x" * 10_000])
def test_a_word_that_nobody_knows_is_refused(word: str) -> None:
    if not word:
        assert Host.compose("linux-x86_64", cpu=word) == Host.compose("linux-x86_64")
        return
    with pytest.raises(ConfigError) as caught:
        Host.compose("linux-x86_64", cpu=word)
    assert "Levels: none, avx, avx2, avx512" in caught.value.hint


def test_words_are_read_in_any_case() -> None:
    assert Host.compose("linux-x86_64", cpu="ZEN4") == Host.compose("linux-x86_64", cpu="zen4")
    assert Host.compose("linux-x86_64", cpu="AVX2") == Host.compose("linux-x86_64", cpu="avx2")


def test_apple_silicon_is_at_least_an_m1() -> None:
    """Every Mac of that platform has its features; on Linux, arm64 may be anything since ARMv8.0."""
    assert Host.compose("macos-arm64").cpu.features == cpu_variants.ARM64["apple_m1"]
    assert Host.compose("linux-aarch64").cpu.features == frozenset()
    assert Host.compose("windows-arm64").cpu.features == frozenset()
    assert Host.compose("macos-arm64", cpu="armv8.0_1").cpu.features == frozenset(), "said is said"


@pytest.mark.parametrize("platform", list(Platform))
def test_only_apple_silicon_has_metal(platform: Platform) -> None:
    backends = [gpu.backend for gpu in Host.compose(platform).gpus]
    assert backends == ([Backend.METAL] if platform is Platform.MACOS_ARM64 else [])
    assert (Host.compose(platform).why_no("metal") == "") == bool(backends)


@pytest.mark.parametrize("cuda", [11, 12, 13])
def test_cuda_is_a_driver_of_that_major_and_one_card(cuda: int) -> None:
    """Any minor version of it, and any card: the manifest's own list decides where the card is known."""
    host = Host.compose("linux-x86_64", cuda=cuda)
    assert host.nvidia is not None
    assert host.nvidia.cuda[0] == cuda
    assert (cuda, 9) <= host.nvidia.cuda < (cuda + 1, 0)
    assert [(gpu.backend, gpu.index, gpu.compute_capability) for gpu in host.gpus] == [(Backend.CUDA, 0, None)]
    assert host.why_no("cuda") == ""
    assert Host.from_dict(json.loads(json.dumps(host.to_dict()))) == host
    assert host.cpu == Host.compose("linux-x86_64").cpu


def test_without_cuda_there_is_no_driver() -> None:
    host = Host.compose("linux-x86_64", cpu="zen4")
    assert (host.nvidia, host.gpus) == (None, ())
    for backend in ("cuda", "vulkan", "rocm", "metal"):
        assert host.why_no(backend) == "not composed with one"


@pytest.mark.parametrize(
    "platform", ["", "linux", "linux-x86-64", "Linux-x86_64", "linux-riscv64", "auto", "../x", "x" * 10_000]
)
def test_another_platform_is_refused(platform: str) -> None:
    with pytest.raises(ConfigError, match="is none of linux-x86_64, linux-aarch64") as caught:
        Host.compose(platform)
    assert caught.value.option == "platform"


@pytest.mark.parametrize("platform", list(Platform))
def test_nothing_else_is_promised(platform: Platform) -> None:
    """Not this machine's memory, cores or C library: the words said nothing of them."""
    host = Host.compose(platform)
    assert (host.libc, host.memory, host.translated) == (None, None, False)
    assert (host.cpu.cores, host.cpu.brand, host.cpu.source) == (1, None, "composed")


def test_a_composed_host_is_the_same_each_time() -> None:
    first, second = (Host.compose("linux-x86_64", cpu="avx2", cuda=13) for _ in range(2))
    assert first == second
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != Host.compose("linux-x86_64", cpu="avx2", cuda=12).fingerprint


@pytest.mark.parametrize(("platform", "cuda"), [("linux-x86_64", 0), ("linux-x86_64", -1), ("macos-arm64", 13)])
def test_a_cuda_that_cannot_be_is_refused(platform: str, cuda: int) -> None:
    with pytest.raises(ConfigError, match="there is no CUDA"):
        Host.compose(platform, cuda=cuda)
