"""Which GPUs does the device code in a CUDA library serve, and which CUDA must a driver know to compile its PTX?

One rule: the headers of NVIDIA's fat binaries are followed from the first byte of their section to its last, every size
compared with what is left; a kind of code or a version that is not known here is a LoadError, never left out.

NVIDIA documents none of the layout. What is used of it was measured, on containers made by nvcc 13.0 for sm_75 to
sm_121a and on published libraries built with CUDA 12 and 13: a container is (u32 magic, u16 version, u16 header size,
u64 size) and holds entries of (u16 kind, u16, u32 header size, u64 payload size, 8 bytes, u16 minor, u16 major, u32
architecture, 8 bytes, u64 flags, ...). Payloads are compressed and not looked at.
"""

from __future__ import annotations

import struct

from nativeload.errors import LoadError
from nativeload.publish.sections import open_image
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from nativeload.publish.sections import Image

_SECTIONS = {".nv_fatbin", ".nv_fatb"}  # ELF; PE, which cuts names after eight bytes
_MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<I 2H Q")
_ENTRY = struct.Struct("<2H I Q 8x 2H I 8x Q")
_KINDS = {1: "virtual", 2: "real"}  # PTX, SASS in an ELF file
_WIDEST_GAP = 64  # bytes; 8 and 16 were seen
_MOST_ENTRIES = 1 << 17  # ggml's library has 1,001

# Flags of an entry; nvcc 13.0 sets one for sm_120a and the other for sm_120f, in PTX and SASS alike, and CUDA 12
# (torchao 0.13) the first one for sm_90a and sm_100a.
_ARCH_SPECIFIC, _FAMILY_SPECIFIC = 1 << 20, 1 << 21

# PTX ISA -> the first CUDA that has it (PTX ISA, "Release Notes"; 12.6 has 8.5 too). A driver compiles the PTX of its
# own CUDA and of all before it.
_TOOLKITS = {(7, minor): (11, minor) for minor in range(9)}
_TOOLKITS |= {(8, minor): (12, minor) for minor in range(6)} | {(8, 6): (12, 7), (8, 7): (12, 8), (8, 8): (12, 9)}
_TOOLKITS |= {(9, minor): (13, minor) for minor in range(5)}


class _Entry(Value, kw_only=True):
    kind: str
    number: int
    suffix: str
    version: tuple[int, int]  # of the PTX ISA; of the SASS container format otherwise


def sm_archs(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the architectures that all device code of a library was built for, lowest first.

    In CMake's words with an underscore: ``75_virtual`` is PTX, ``86_real`` machine code, ``120a_real`` machine code for
    that one compute capability, ``100f_real`` for its family. Where containers differ, what only some have is left out:
    also the PTX of a library that nvcc itself linked, since its device linker adds an empty container without PTX.

    Raises:
        LoadError: it is no library, has no device code, none that serves the same GPUs, or it is damaged.
    """
    with open_image(path) as image:
        containers = [set(entries) for entries in _containers(image)]
        if not containers:
            raise LoadError(image.path, "it has no CUDA device code")
        shared = {(e.number, e.suffix, e.kind) for e in containers[0]}
        for entries in containers[1:]:
            shared &= {(e.number, e.suffix, e.kind) for e in entries}
        if not shared:
            raise LoadError(image.path, "its kernels are built for different architectures")
    return tuple(f"{number}{suffix}_{kind}" for number, suffix, kind in sorted(shared))


def toolkit(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the lowest CUDA (major, minor) whose driver can compile the PTX of a library; None where it has none.

    It follows from the PTX ISA version in the headers of the PTX, which is that of the CUDA toolkit that built it: 9.1
    is 13.1. Only 12.6 is told as 12.5, whose PTX ISA it has.

    Raises:
        LoadError: it is no library, it is damaged, or its PTX is newer than this release knows.
    """
    with open_image(path) as image:
        versions = {e.version for entries in _containers(image) for e in entries if e.kind == "virtual"}
        if unknown := sorted(versions - set(_TOOLKITS)):
            raise LoadError(image.path, f"PTX ISA {unknown[-1][0]}.{unknown[-1][1]} is of no CUDA known here")
    return max((_TOOLKITS[version] for version in versions), default=None)


def _containers(image: Image) -> Iterator[list[_Entry]]:
    """Yield the entries of each container that has any."""
    left = _MOST_ENTRIES
    for section in image.sections:
        if section.name not in _SECTIONS:
            continue
        at, end = section.offset, section.offset + section.size
        while (at := _next(image, at, end)) < end:
            magic, _, header, size = _CONTAINER.unpack(_within(image, at, _CONTAINER.size, end))
            if magic != _MAGIC or header < _CONTAINER.size or size > end - at - header or left < 0:
                raise LoadError(image.path, f"damaged device code at {at:#x}: no container that fits")
            entries = list(_entries(image, at + header, at + header + size, left))
            left -= len(entries) + 1  # an empty one counts too
            if entries:
                yield entries
            at += header + size


def _entries(image: Image, at: int, end: int, most: int) -> Iterator[_Entry]:
    while at < end:
        kind, _, header, size, minor, major, number, flags = _ENTRY.unpack(_within(image, at, _ENTRY.size, end))
        most -= 1
        if header < _ENTRY.size or header + size > end - at or most < 0:
            raise LoadError(image.path, f"damaged device code at {at:#x}: no entry that fits")
        if kind not in _KINDS or not 10 <= number < 1000:  # noqa: PLR2004 - two or three digits
            raise LoadError(image.path, f"device code of an unknown kind at {at:#x}: {kind}, for sm_{number}")
        suffix = ("a" if flags & _ARCH_SPECIFIC else "") + ("f" if flags & _FAMILY_SPECIFIC else "")
        yield _Entry(kind=_KINDS[kind], number=number, suffix=suffix, version=(major, minor))
        at += header + size


def _next(image: Image, at: int, end: int) -> int:
    """Return where the next container begins: linkers align them, and fill the gaps with zeros."""
    gap = image.read(at, min(_WIDEST_GAP, end - at))
    start = at + len(gap) - len(gap.lstrip(b"\0"))
    if start == at + _WIDEST_GAP:
        raise LoadError(image.path, f"damaged device code at {at:#x}: no container that fits")
    return start


def _within(image: Image, at: int, length: int, end: int) -> bytes:
    if at + length > end:
        raise LoadError(image.path, f"damaged device code at {at:#x}: cut off")
    return image.read(at, length)
