"""What lies in one place, before anything is chosen for a host?

One rule: a file's role is read off its upstream name (ggml's own loader does the same), and what is not recognised is
left alone.
"""

from __future__ import annotations

import os

from nativeload import cpu_variants
from nativeload.errors import LoadError
from nativeload.resolve.resolution import LibraryFile, Source
from nativeload.value import Value
from nativeload.variant import Backend, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nativeload.variant import Platform

_MODULES = {
    "ggml-cuda": Backend.CUDA,
    "ggml-vulkan": Backend.VULKAN,
    "ggml-hip": Backend.ROCM,
    "ggml-metal": Backend.METAL,
}

# Dependency order of the core: ggml-base first, what ggml itself may be linked with next, the library last.
CORE_ORDER = ("ggml-base", "ggml-cpu", "ggml-blas", "ggml", "whisper", "llama")


CUDA_RUNTIME = ("cudart", "cublaslt", "cublas")
"""Labels of NVIDIA's runtime, in load order."""


class Bundle(Value, kw_only=True):
    """The library files in one place.

    Attributes:
        library, platform, source, origin, directory, build, vouched: as in `LibrarySet`.
        core: in load order, the library last.
        cpus: CPU backend modules, one of which is loaded; empty where the library carries its own.
        gpus: GPU backend modules.
        runtime: files preloaded before the core.
        own: whether this is a backend package made for nativeload.
        pin: the manifest it is a part of, for what is published by one.
        flavour: the kind of set, where one place has several.
        indivisible: whether a GPU module is part of every set (another flavour serves without one).
    """

    library: str
    platform: Platform
    source: Source
    origin: str
    directory: str
    core: tuple[LibraryFile, ...]
    cpus: tuple[LibraryFile, ...] = ()
    gpus: tuple[LibraryFile, ...] = ()
    runtime: tuple[LibraryFile, ...] = ()
    build: str | None = None
    vouched: str | None = None
    own: bool = False
    pin: str | None = None
    flavour: str = ""
    indivisible: bool = False


def stem_of(name: str) -> str | None:
    """Return a shared library's bare name: ``libggml-base.so.0``, ``libggml-base.0.dylib`` and ``ggml-base.dll``.

    All three are ``ggml-base``; a version that is part of the name (``libllama.v0.5.0.so``) stays.
    """
    if name.endswith(".dll"):
        return name[:-4].removeprefix("lib")
    if not name.startswith("lib"):
        return None
    head, dot, tail = name[3:].partition(".so")
    if dot and (
        not tail or (tail[0] == "." and all(part.isdecimal() for part in tail[1:].split(".")))
    ):  # not libllama.so.sha256
        return head
    if not name.endswith(".dylib"):
        return None
    stem = name[3:-6]
    while stem.rpartition(".")[2].isdecimal():
        stem = stem.rpartition(".")[0]
    return stem


def _major(path: str) -> str:
    """Return the first number after ``.so``: two of them are two libraries, not two names of one."""
    return os.path.basename(path).partition(".so.")[2].partition(".")[0]


def role_of(path: str, library: str) -> tuple[Role, str] | None:
    """Return a file's role and label by its name, or None where it is not part of the library."""
    stem = stem_of(os.path.basename(path))
    if stem is None:
        return None
    if stem in _MODULES:
        return Role.GPU, str(_MODULES[stem])
    if stem.partition("-")[0] == "gomp":
        return Role.RUNTIME, "gomp"
    if (part := stem.partition("64_")[0].lower()) in CUDA_RUNTIME:  # libcudart.so.13, cudart64_13.dll
        return Role.RUNTIME, part
    variant = stem.removeprefix("ggml-cpu-")
    if variant != stem and (variant in cpu_variants.X86_64 or variant in cpu_variants.ARM64):
        return Role.CPU, variant
    for core in CORE_ORDER:
        tail = stem.removeprefix(core) if stem.startswith(core) else "?"
        # A renamed core is "ggml.v0.5.0" or, by auditwheel, "ggml-base-319ad4fb"; "llama-common" is none of ours.
        if (not tail or tail[0] == "." or _is_hash(tail)) and (core.startswith("ggml") or core == library):
            return Role.CORE, core
    return None


def _is_hash(tail: str) -> bool:
    return len(tail) == 9 and tail[0] == "-" and set(tail[1:]) <= set("0123456789abcdef")  # noqa: PLR2004


def _preference(path: str) -> tuple[int, int, str]:
    """Order the copies of one file: its SONAME (``.so.0``, ``.0.dylib``), then the bare name, then the full version."""
    name = os.path.basename(path)
    tail = name.rpartition(".so")[2]
    if name.endswith(".dylib"):
        tail = name[:-6].removeprefix(f"lib{stem_of(name)}")
    return (0 if tail.count(".") == 1 else 1 if not tail else 2, len(path), path)


def classify(paths: Iterable[str], library: str) -> dict[str, tuple[LibraryFile, ...]]:
    """Sort the files of one place into ``core``, ``cpus``, ``gpus`` and ``runtime``; copies of one file count once.

    Raises:
        LoadError: two different libraries claim the same role.
    """
    slots: dict[tuple[Role, str], list[str]] = {}
    for path in paths:
        if role := role_of(path, library):
            slots.setdefault(role, []).append(path)
    files = [_file(role, label, copies) for (role, label), copies in slots.items()]
    files.sort(key=_load_order)
    return {
        key: tuple(file for file in files if file.role is role)
        for key, role in (
            ("core", Role.CORE),
            ("cpus", Role.CPU),
            ("gpus", Role.GPU),
            ("runtime", Role.RUNTIME),
        )
    }


def _load_order(file: LibraryFile) -> tuple[int, str]:
    for order in (CORE_ORDER, CUDA_RUNTIME):
        if file.label in order:
            return order.index(file.label), file.path
    return 0, file.path


def _file(role: Role, label: str, copies: list[str]) -> LibraryFile:
    stems = {stem_of(os.path.basename(path)) for path in copies}
    if role is Role.CORE and (len(stems) > 1 or len({_major(path) for path in copies} - {""}) > 1):
        names = ", ".join(sorted(os.path.basename(path) for path in copies))
        hint = "Name the library file itself, or keep one build in a directory."
        raise LoadError(os.path.dirname(copies[0]), f"two builds in one place: {names}", hint=hint)
    needs = (cpu_variants.X86_64 | cpu_variants.ARM64)[label] if role is Role.CPU else frozenset()
    return LibraryFile(path=min(copies, key=_preference), role=role, label=label, needs=needs)


def has_library(core: tuple[LibraryFile, ...], library: str) -> bool:
    """Whether the core files end in the library that was asked for."""
    return bool(core) and core[-1].label == library
