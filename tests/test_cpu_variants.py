"""CPU variants: upstream's table, ggml's score, and what a ceiling allows."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from nativeload.cpu_variants import ARM64, X86_64, allowed, check_ceiling, score, variants
from nativeload.errors import ConfigError
from nativeload.host import Host
from nativeload.variant import AvxLevel, Platform

RECORDED = Path(__file__).parent / "host" / "recorded"
LINUX, ARM, APPLE = Platform.LINUX_X86_64, Platform.LINUX_AARCH64, Platform.MACOS_ARM64

# What ggml_backend_score of each published module returned on a Zen 4 (alderlake and sapphirerapids, which need what
# that processor lacks, by the bits of the source: +64 for AVX-VNNI, +2048 for AMX).
SCORES = {
    "x64": 1,
    "sse42": 5,
    "sandybridge": 21,
    "ivybridge": 23,
    "piledriver": 24,
    "haswell": 64,
    "skylakex": 192,
    "cannonlake": 448,
    "cascadelake": 1216,
    "icelake": 1472,
    "cooperlake": 1728,
    "zen4": 1984,
    "alderlake": 128,
    "sapphirerapids": 4032,
}
# 1, DOTPROD +2, FP16 +4, SVE +8, I8MM +16, SVE2 +32, SME +64 over the features that upstream lists for each.
ARM_SCORES = {
    "armv8.0_1": 1,
    "armv8.2_1": 3,
    "armv8.2_2": 7,
    "armv8.2_3": 15,
    "armv8.6_1": 31,
    "armv8.6_2": 63,
    "armv9.2_1": 95,
    "armv9.2_2": 127,
    "apple_m1": 3,
    "apple_m2_m3": 19,
    "apple_m4": 83,
}
LEVELS = {
    "none": {"x64", "sse42"},
    "avx": {"x64", "sse42", "sandybridge", "ivybridge", "piledriver"},
    "avx2": {"x64", "sse42", "sandybridge", "ivybridge", "piledriver", "haswell", "alderlake"},
    "avx512": set(SCORES),
}


def test_scores_are_those_that_ggml_returns() -> None:
    assert {name: score(needs) for name, needs in X86_64.items()} == SCORES
    assert {name: score(needs) for name, needs in ARM64.items()} == ARM_SCORES


def test_needing_more_never_scores_less() -> None:
    for table in (X86_64, ARM64):
        for fewer in table.values():
            for more in table.values():
                assert not fewer <= more or score(fewer) <= score(more)


def test_an_unknown_feature_scores_nothing() -> None:
    assert score(frozenset({"sse4_2", "quantum"})) == 5
    assert score(frozenset()) == 1


def test_each_family_has_its_table() -> None:
    for platform in Platform:
        assert variants(platform) == (X86_64 if platform.is_x86 else ARM64)
    assert not set(X86_64) & set(ARM64)


@pytest.mark.parametrize("level", list(AvxLevel))
def test_a_level_allows_what_is_listed_for_it(level: AvxLevel) -> None:
    for platform in Platform:
        if platform.is_x86:
            assert allowed(level, platform) == LEVELS[level]


def test_levels_only_grow() -> None:
    sets = [allowed(level, LINUX) for level in ("none", "avx", "avx2", "avx512")]
    assert all(less < more for less, more in itertools.pairwise(sets))


@pytest.mark.parametrize(
    ("ceiling", "platform", "expected"),
    [
        ("x64", LINUX, {"x64"}),
        ("sse42", LINUX, {"x64", "sse42"}),
        ("piledriver", LINUX, {"x64", "sse42", "sandybridge", "ivybridge", "piledriver"}),
        ("haswell", LINUX, LEVELS["avx2"] - {"alderlake"}),
        ("alderlake", LINUX, LEVELS["avx2"]),
        ("cooperlake", LINUX, LEVELS["avx2"] - {"alderlake"} | {"skylakex", "cascadelake", "cooperlake"}),
        ("zen4", LINUX, set(SCORES) - {"alderlake", "sapphirerapids"}),
        ("sapphirerapids", LINUX, set(SCORES) - {"alderlake"}),
        ("armv8.0_1", ARM, {"armv8.0_1"}),
        ("armv8.2_1", ARM, {"armv8.0_1", "armv8.2_1", "apple_m1"}),
        ("apple_m2_m3", APPLE, {"armv8.0_1", "armv8.2_1", "apple_m1", "apple_m2_m3"}),
        ("armv9.2_1", ARM, set(ARM_SCORES) - {"armv8.6_2", "armv9.2_2"}),
    ],
)
def test_a_name_allows_what_needs_no_more(ceiling: str, platform: Platform, expected: set[str]) -> None:
    assert allowed(ceiling, platform) == expected


def test_no_ceiling_allows_all() -> None:
    assert allowed(None, LINUX) == set(X86_64)
    assert allowed(None, ARM) == set(ARM64)


@pytest.mark.parametrize("word", [*AvxLevel, "zen4", "x64"])
def test_x86_words_say_nothing_about_arm(word: str) -> None:
    with pytest.raises(ValueError, match="says nothing about linux-aarch64") as caught:
        allowed(word, ARM)
    assert isinstance(caught.value, ConfigError)
    assert "armv8.6_1" in str(caught.value)


def test_arm_words_say_nothing_about_x86() -> None:
    for name in ARM64:
        with pytest.raises(ConfigError, match="says nothing about linux-x86_64"):
            allowed(name, LINUX)


def test_every_word_has_a_normal_form() -> None:
    for word in (*AvxLevel, *X86_64, *ARM64):
        assert check_ceiling(word.upper()) == check_ceiling(word) == word


@pytest.mark.parametrize("word", ["", "avx1024", "avx 2", "sse4_2", "zen 4", "native", "auto"])
def test_another_word_is_an_error_with_all_words(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_ceiling(word)
    assert caught.value.option == "cpu"
    for known in (*AvxLevel, *X86_64, *ARM64):
        assert known in caught.value.hint


@pytest.mark.parametrize(
    ("host", "best"),
    [
        ("nehalem", "sse42"),
        ("haswell", "haswell"),
        ("windows-haswell", "haswell"),
        ("alpine-container", "skylakex"),
        ("zen4", "zen4"),
        ("granite-rapids", "sapphirerapids"),
        ("graviton3", "armv8.6_1"),
    ],
)
def test_the_detector_speaks_the_words_of_the_table(host: str, best: str) -> None:
    """Features are spelled alike on both sides, or nothing would match."""
    found = Host.from_file(RECORDED / f"{host}.json")
    runs = {name for name, needs in variants(found.platform).items() if needs <= found.cpu.features}
    assert max(runs, key=lambda name: score(variants(found.platform)[name])) == best
