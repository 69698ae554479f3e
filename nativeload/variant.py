"""The words a build is described with: platforms, backends, CPU levels, build numbers, variant labels.

One rule: every word parses from and prints to its own text; a variant label is for people and decides nothing.
"""

from __future__ import annotations

import sys

from nativeload.errors import ConfigError
from nativeload.value import Value, Word

LIBRARIES = ("llama", "whisper", "ggml")
"""What a user can ask for."""


class Platform(Word):
    """An operating system and processor family, as in ``linux-x86_64``."""

    LINUX_X86_64 = "linux-x86_64"
    LINUX_AARCH64 = "linux-aarch64"
    MACOS_ARM64 = "macos-arm64"
    MACOS_X86_64 = "macos-x86_64"
    WINDOWS_X86_64 = "windows-x86_64"
    WINDOWS_ARM64 = "windows-arm64"

    @property
    def is_x86(self) -> bool:
        """Whether the processor family is x86-64."""
        return self.value.endswith("x86_64")

    @property
    def is_linux(self) -> bool:
        """Whether the operating system is Linux."""
        return self.value.startswith("linux")

    @classmethod
    def of(cls, system: str, machine: str) -> Platform:
        """Name the platform of a ``sys.platform`` and a machine name such as ``x86_64`` or ``AMD64``.

        Raises:
            ConfigError: no build of any library exists for such a machine.
        """
        os_name = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(system, system)
        arm = machine.lower() in {"aarch64", "arm64"}
        cpu = ("aarch64" if os_name == "linux" else "arm64") if arm else "x86_64"
        if machine.lower() not in {"aarch64", "arm64", "x86_64", "amd64"} or f"{os_name}-{cpu}" not in list(cls):
            raise ConfigError("platform", f"no builds exist for {system} on {machine}")
        return cls(f"{os_name}-{cpu}")

    @classmethod
    def current(cls) -> Platform:
        """Name the platform this Python runs on (the emulated one under an emulator)."""
        import os

        machine = os.environ.get("PROCESSOR_ARCHITECTURE", "") if sys.platform == "win32" else os.uname().machine
        return cls.of(sys.platform, machine)


class Backend(Word):
    """A ggml compute backend."""

    CPU = "cpu"
    CUDA = "cuda"
    VULKAN = "vulkan"
    METAL = "metal"
    ROCM = "rocm"


GPU_BACKENDS = (Backend.CUDA, Backend.ROCM, Backend.METAL, Backend.VULKAN)
"""The GPU backends in the order they are preferred where nothing else decides."""


class Role(Word):
    """What a file of a set is for."""

    RUNTIME = "runtime"  # preloaded before everything else, such as a bundled libgomp
    CORE = "core"  # ggml-base, ggml, llama: opened in dependency order
    GPU = "gpu"  # a ggml backend module
    CPU = "cpu"  # a ggml backend module; exactly one is loaded


class AvxLevel(Word):
    """The four CPU ceilings of LLamaSharp, kept as words for x86-64 (`nativeload.cpu_variants`)."""

    NONE = "none"
    AVX = "avx"
    AVX2 = "avx2"
    AVX512 = "avx512"


def normalized_package(name: str) -> str:
    """Return a distribution name in its normal form (PEP 503): ``Llama_CPP.Python`` is ``llama-cpp-python``."""
    parts = name.lower().replace("_", "-").replace(".", "-").split("-")
    return "-".join(part for part in parts if part)


def is_sha256(word: object) -> bool:
    """Whether this is a sha256 in lower-case hex."""
    return isinstance(word, str) and len(word) == 64 and set(word) <= set("0123456789abcdef")  # noqa: PLR2004


def build_order(build: str) -> tuple[str, tuple[int, ...]]:
    """Return what orders builds of one kind by age: ``b11146`` and ``v1.9.3`` as numbers, never as text.

    Builds of two kinds have no order of age; they compare by their kind.
    """
    kind, numbers = build[:1], build[1:].split(".")
    if kind in {"b", "v"} and all(part.isdecimal() and len(part) < 10 for part in numbers):  # noqa: PLR2004
        return kind, tuple(map(int, numbers))
    return "", ()


class Variant(Value, kw_only=True):
    """The label of a set, such as ``linux-x86_64-cuda-zen4``. For people: nothing is decided by it."""

    platform: Platform
    gpu: str | None = None
    cpu: str | None = None

    def __str__(self) -> str:
        return "-".join(part for part in (str(self.platform), self.gpu, self.cpu) if part)
