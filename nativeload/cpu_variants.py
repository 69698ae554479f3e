"""Which CPU backends does ggml build, what does each need, and which are allowed and best here?

One rule: the table is upstream's (ggml/src/CMakeLists.txt, `ggml_add_cpu_backend_variant`); feature names are those
of the wheel-variant properties (PEP 825), and the score counts the same bits as ggml's `ggml_backend_score`.
"""

from __future__ import annotations

from nativeload.errors import ConfigError
from nativeload.variant import AvxLevel, Platform

_SSE42 = frozenset({"sse4_2"})
_AVX = _SSE42 | {"avx"}
_IVY = _AVX | {"f16c"}
_AVX2 = _IVY | {"fma", "avx2", "bmi2"}
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
_VNNI = _AVX512 | {"avx512_vnni"}
_ZEN4 = _VNNI | {"avx512_vbmi", "avx512_bf16"}

X86_64: dict[str, frozenset[str]] = {
    "x64": frozenset(),
    "sse42": _SSE42,
    "sandybridge": _AVX,
    "ivybridge": _IVY,
    "piledriver": _IVY | {"fma"},
    "haswell": _AVX2,
    "alderlake": _AVX2 | {"avx_vnni"},
    "skylakex": _AVX512,
    "cannonlake": _AVX512 | {"avx512_vbmi"},
    "cascadelake": _VNNI,
    "icelake": _VNNI | {"avx512_vbmi"},
    "cooperlake": _VNNI | {"avx512_bf16"},
    "zen4": _ZEN4,
    "sapphirerapids": _ZEN4 | {"amx_tile", "amx_int8"},
}

_DOT = frozenset({"asimddp"})
_FP16 = _DOT | {"asimdhp"}
_SVE = _FP16 | {"sve"}
_I8MM = _SVE | {"i8mm"}

ARM64: dict[str, frozenset[str]] = {
    "armv8.0_1": frozenset(),
    "armv8.2_1": _DOT,
    "armv8.2_2": _FP16,
    "armv8.2_3": _SVE,
    "armv8.6_1": _I8MM,
    "armv8.6_2": _I8MM | {"sve2"},
    "armv9.2_1": _I8MM | {"sme"},
    "armv9.2_2": _I8MM | {"sve2", "sme"},
    "apple_m1": _DOT,
    "apple_m2_m3": _DOT | {"i8mm"},
    "apple_m4": _DOT | {"i8mm", "sme"},
}

# The bits of ggml's score: ggml/src/ggml-cpu/arch/{x86,arm}/cpu-feats.cpp. AVX-512 is one bit for its five features.
_SCORE = {
    "fma": 1, "f16c": 2, "sse4_2": 4, "bmi2": 8, "avx": 16, "avx2": 32, "avx_vnni": 64, "avx512f": 128,
    "avx512_vbmi": 256, "avx512_bf16": 512, "avx512_vnni": 1024, "amx_int8": 2048,
    "asimddp": 2, "asimdhp": 4, "sve": 8, "i8mm": 16, "sve2": 32, "sme": 64,
}  # fmt: skip

_LEVELS: dict[str, frozenset[str]] = {
    AvxLevel.NONE: frozenset({"x64", "sse42"}),
    AvxLevel.AVX: frozenset({"x64", "sse42", "sandybridge", "ivybridge", "piledriver"}),
}
_LEVELS[AvxLevel.AVX2] = _LEVELS[AvxLevel.AVX] | {"haswell", "alderlake"}
_LEVELS[AvxLevel.AVX512] = frozenset(X86_64)


def score(features: frozenset[str]) -> int:
    """Return ggml's score of a CPU backend that needs these features: 1 for the baseline, higher is better."""
    return 1 + sum(_SCORE.get(feature, 0) for feature in features)


def variants(platform: Platform) -> dict[str, frozenset[str]]:
    """Return the variants of a platform's processor family with the features each one needs."""
    return X86_64 if platform.is_x86 else ARM64


def check_ceiling(word: str) -> str:
    """Return a ceiling word in its normal form.

    Raises:
        ConfigError: the word is neither one of the four levels nor a variant's name.
    """
    text = str(word).lower()
    if text in _LEVELS or text in X86_64 or text in ARM64:
        return text
    levels, names = ", ".join(AvxLevel), ", ".join([*X86_64, *ARM64])
    raise ConfigError("cpu", f"{word!r} is no CPU level", hint=f"Levels: {levels}. Variants: {names}.")


def allowed(ceiling: str | None, platform: Platform) -> frozenset[str]:
    """Return the variants that a ceiling allows on a platform; no ceiling allows all.

    A level allows the variants listed for it; a variant's name allows exactly those whose needs are a subset of its.

    Raises:
        ConfigError: one of the four x86 levels, or a variant of another processor family, for this platform.
    """
    table = variants(platform)
    if ceiling is None:
        return frozenset(table)
    if ceiling in table:
        return frozenset(name for name, needs in table.items() if needs <= table[ceiling])
    if platform.is_x86 and ceiling in _LEVELS:
        return _LEVELS[ceiling]
    raise ConfigError(
        "cpu",
        f"{ceiling!r} says nothing about {platform}",
        hint=f"Use one of its variants: {', '.join(table)}.",
    )
