"""What machine is meant by a few words: a platform, a CPU level, a CUDA version?

One rule: a composed host has what the words promise and nothing more, so that what is chosen for it runs on every
machine they describe.
"""

from __future__ import annotations

from nativeload import cpu_variants
from nativeload.errors import ConfigError
from nativeload.host.facts import Cpu, Gpu, Nvidia
from nativeload.variant import AvxLevel, Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The least that a level promises: Haswell's features are those of every processor with AVX2.
_LEAST: dict[str, str] = {
    AvxLevel.NONE: "x64",
    AvxLevel.AVX: "sandybridge",
    AvxLevel.AVX2: "haswell",
    AvxLevel.AVX512: "skylakex",
}
# What every machine of a platform has. Windows 11 24H2 does not start without SSE4.2 and POPCNT, and is the oldest that
# Microsoft supports in general; the first Mac with Apple's processor is an M1.
_BASELINES = {Platform.MACOS_ARM64: "apple_m1", Platform.WINDOWS_X86_64: "sse42"}
_NEWEST_MINOR = 99  # a composed driver supports every minor version of its CUDA major


def facts(platform: Platform, *, cpu: str | None, cuda: int | None) -> dict[str, Any]:
    """Return the fields of a host of a platform.

    Args:
        platform: what it runs.
        cpu: a level or a variant's name; None is the least of the platform.
        cuda: a CUDA major that its NVIDIA driver supports; None has no such card.

    Raises:
        ConfigError: the CPU word says nothing about this platform, or it has no such CUDA.
    """
    table = cpu_variants.variants(platform)
    word = cpu_variants.check_ceiling(cpu) if cpu else _BASELINES.get(platform, "")
    cpu_variants.allowed(word or None, platform)  # refuses a word of another processor family
    needs = table.get(_LEAST.get(word, word), frozenset())
    if cuda is not None and (platform.startswith("macos") or not 10 <= cuda <= 99):  # noqa: PLR2004 - two-digit majors
        raise ConfigError("cuda", f"there is no CUDA {cuda} on {platform}")
    gpus: list[Gpu] = []
    if cuda is not None:
        gpus.append(Gpu(backend=Backend.CUDA, index=0, name=f"a CUDA {cuda} device"))
    if platform is Platform.MACOS_ARM64:
        gpus.append(Gpu(backend=Backend.METAL, index=0, name="Apple silicon"))
    return {
        "platform": platform,
        "cpu": Cpu(features=needs, source="composed", cores=1),
        "nvidia": Nvidia(driver="", cuda=(cuda, _NEWEST_MINOR)) if cuda is not None else None,
        "gpus": tuple(gpus),
        "notes": ("GPU: not composed with one",),
    }
