"""What does a library say of itself: its platform, its name, what it wants, and how new a system it needs?

One rule: the answers are read out of the file, as its system's loader would read them; a file that is damaged, or of a
kind that no manifest describes, is a LoadError. A name that cannot be read is never left out.

ELF is read by `nativeload.elf`; PE's directories and Mach-O's load commands here. lief, which reads both, skips what it
cannot read: it returns one of three imports where the name of the second is damaged.
"""

from __future__ import annotations

import struct

from nativeload.elf import read_elf
from nativeload.errors import LoadError
from nativeload.publish.sections import open_image
from nativeload.value import Value
from nativeload.variant import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from typing import Any

    from nativeload.publish.sections import Image

_SYSTEMS = {"elf": "linux", "pe": "win32", "macho": "darwin"}
_MOST_NAMES = 256  # as in nativeload.elf; real files want up to 20
_LONGEST_NAME = 1024

# Load commands of Mach-O: <mach-o/loader.h>.
_ID_DYLIB, _RPATH, _VERSION_MIN_MACOSX, _BUILD_VERSION = 0x0D, 0x8000001C, 0x24, 0x32
_LOAD_DYLIB = {0x0C, 0x20, 0x80000018, 0x8000001F, 0x80000023}  # also lazy, weak, re-exported, upward
_PLATFORM_MACOS = 1


class BinaryFacts(Value, kw_only=True):
    """What one shared library says of itself.

    Attributes:
        path: the file, as it was given.
        format: ``elf``, ``pe`` or ``macho``.
        platform: the system and processor it is for.
        soname: the name by which others want it: DT_SONAME, the last part of Mach-O's install name, the name in PE's
            export directory; None where it has none.
        needed: the names it wants, in its order. Mach-O's are cut to the last part where they begin with ``@rpath``
            and its like, and whole otherwise; PE's do not include those loaded at first use.
        runpath: where it looks for them: as in `nativeload.elf.ElfFacts`, with ``$ORIGIN`` filled in, or as Mach-O
            writes them. PE has none.
        glibc: the highest ``GLIBC_x.y`` it wants, such as ``2.34``, or None.
        glibcxx: the highest ``GLIBCXX_x.y.z`` it wants, or None.
        macos: the oldest macOS it runs on, such as ``14.0``, or None.
    """

    path: str
    format: str
    platform: Platform
    soname: str | None = None
    needed: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    glibc: str | None = None
    glibcxx: str | None = None
    macos: str | None = None


def read_binary(path: str | os.PathLike[str]) -> BinaryFacts:
    """Read what a shared library says of itself; it is not loaded.

    Raises:
        LoadError: it is no ELF, PE or Mach-O library for a platform of ours, a universal file, truncated, damaged,
            above 4 GiB, or it cannot be opened.
    """
    with open_image(path) as image:
        if not image.library:
            raise LoadError(image.path, "an object file or a program, not a shared library")
        facts = {"elf": _elf, "pe": _pe, "macho": _macho}[image.format](image)
        platform = Platform.of(_SYSTEMS[image.format], image.machine)
        return BinaryFacts(path=image.path, format=image.format, platform=platform, **facts)


def _elf(image: Image) -> dict[str, Any]:
    facts = read_elf(image.path)
    return {name: getattr(facts, name) for name in ("soname", "needed", "runpath", "glibc", "glibcxx")}


def _pe(image: Image) -> dict[str, Any]:
    """Read the names in the export and the import directory."""
    soname = None
    if image.exports:
        (at,) = struct.unpack("<12x I 24x", image.loaded(image.exports, 40))
        soname = _pe_name(image, at)
    return {"soname": soname, "needed": _few(image, _pe_needed(image))}


def _pe_needed(image: Image) -> Iterator[str]:
    at = image.imports
    while at and any(row := image.loaded(at, 20)):
        yield _pe_name(image, struct.unpack("<12x I 4x", row)[0])
        at += 20


def _pe_name(image: Image, at: int) -> str:
    return _name(image, image.loaded(at, _LONGEST_NAME, or_less=True))


def _macho(image: Image) -> dict[str, Any]:
    """Read the load commands."""
    install = [_command_name(image, data) for number, data in image.commands if number == _ID_DYLIB]
    needed = _few(image, (_command_name(image, data) for number, data in image.commands if number in _LOAD_DYLIB))
    return {
        "soname": install[0].rpartition("/")[2] if install else None,
        "needed": tuple(name.rpartition("/")[2] if name.startswith("@") else name for name in needed),
        "runpath": _few(image, (_command_name(image, data) for number, data in image.commands if number == _RPATH)),
        "macos": _oldest(image),
    }


def _command_name(image: Image, data: bytes) -> str:
    """Read the name in a load command, which says at its ninth byte where the name begins."""
    at = struct.unpack_from("<I", data, 8)[0] if len(data) >= 12 else 0  # noqa: PLR2004 - with the number and the size
    return _name(image, data[at:] if at else b"")


def _oldest(image: Image) -> str:
    for number, data in image.commands:
        if number == _BUILD_VERSION and len(data) >= 16:  # noqa: PLR2004 - platform, then version
            platform, version = struct.unpack_from("<2I", data, 8)
        elif number == _VERSION_MIN_MACOSX and len(data) >= 12:  # noqa: PLR2004 - version
            platform, version = _PLATFORM_MACOS, struct.unpack_from("<I", data, 8)[0]
        else:
            continue
        if platform != _PLATFORM_MACOS:
            raise LoadError(image.path, "built for another of Apple's systems than macOS")
        major, minor, patch = version >> 16, version >> 8 & 0xFF, version & 0xFF
        return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"
    raise LoadError(image.path, "it does not say which macOS it is for")


def _name(image: Image, raw: bytes) -> str:
    name, end, _ = raw.partition(b"\0")
    if not end or not name or not name.isascii() or not (text := name.decode("ascii")).isprintable():
        raise LoadError(image.path, f"damaged: {name[:40]!r} is no library's name")
    return text


def _few(image: Image, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names once each; too many are refused before they are all read."""
    found: dict[str, None] = {}
    for count, name in enumerate(names):
        if count >= _MOST_NAMES:
            raise LoadError(image.path, "damaged: it names too many libraries or directories")
        found[name] = None
    return tuple(found)
