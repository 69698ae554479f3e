"""Where in an ELF, PE or Mach-O file do its sections lie?

One rule: every offset and size in a header is compared with the file's size before it is used; what does not fit is a
LoadError. Only 64-bit little-endian files of the two processor families that builds exist for are read.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct

from nativeload.errors import LoadError
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

_LARGEST = 4 << 30  # no published file comes near; offsets in PE files end there
_MOST_SECTIONS = 4096  # real files have up to 40

_ELF_MACHINES = {62: "x86_64", 183: "arm64"}
_PE_MACHINES = {0x8664: "x86_64", 0xAA64: "arm64"}
_MACHO_MACHINES = {0x01000007: "x86_64", 0x0100000C: "arm64"}

_ELF_HEADER = struct.Struct("<16x 2H I 3Q I 6H")
_ELF_SECTION = struct.Struct("<2I 4Q 2I 2Q")
_PE_HEADER = struct.Struct("<4s 2H 12x 2H")
_PE_OPTIONAL = struct.Struct("<H 22x Q 76x 2I 4x I")
_PE_SECTION = struct.Struct("<8s 4I 12x I")
_MACHO_HEADER = struct.Struct("<8I")
_MACHO_COMMAND = struct.Struct("<2I")
_MACHO_SEGMENT = struct.Struct("<8x 16s 4Q 8x 2I")
_MACHO_SECTION = struct.Struct("<16s 16s 2Q I 12x I 12x")


class Section(Value, kw_only=True):
    """One section, with as many bytes as the file holds of it.

    Attributes:
        name: as it is written; PE cuts it after eight bytes.
        address: where it is loaded, relative to the image's base.
        offset: where its bytes begin in the file.
        size: how many bytes the file holds; 0 for zero-filled memory.
        memory: how many bytes it has once loaded.
        executable: whether it is marked as machine code.
    """

    name: str
    address: int
    offset: int
    size: int
    memory: int
    executable: bool


class Image(Value, kw_only=True):
    """An open file whose headers were read.

    Attributes:
        path: the file, as it was given.
        format: ``elf``, ``pe`` or ``macho``.
        machine: ``x86_64`` or ``arm64``.
        library: whether it is a shared library, not an object file or a program.
        base: what addresses are relative to: PE's image base, else 0.
        size: of the file, in bytes.
        sections: in the file's order.
        exports: the address of PE's export directory, or 0.
        imports: the address of PE's import directory, or 0.
        commands: Mach-O's load commands: number, bytes.
        stream: the open file.
    """

    path: str
    format: str
    machine: str
    library: bool
    base: int
    size: int
    sections: tuple[Section, ...]
    exports: int = 0
    imports: int = 0
    commands: tuple[tuple[int, bytes], ...] = ()
    stream: BinaryIO

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file.

        Raises:
            LoadError: they are not all there.
        """
        return _read(self.path, self.stream, offset, length, self.size)

    def content(self, section: Section) -> bytes:
        """Return a section's bytes."""
        return self.read(section.offset, section.size)

    def loaded(self, address: int, length: int, *, or_less: bool = False) -> bytes:
        """Return the bytes that are loaded to an address.

        Raises:
            LoadError: they are not all in one section of the file (``or_less``: none of them is).
        """
        for section in self.sections:
            left = section.address + section.size - address
            if section.address <= address and (left >= length or (or_less and left > 0)):
                return self.read(section.offset + address - section.address, min(length, left))
        raise LoadError(self.path, f"damaged: there is nothing at {address:#x}")


@contextlib.contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image]:
    """Open a library and read where its sections lie.

    Raises:
        LoadError: it is no such file, truncated, damaged, for another processor, above 4 GiB, or cannot be opened.
    """
    text = os.fspath(path)
    # Without O_NONBLOCK a FIFO in the place of a library would wait for its writer for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        stream = open(text, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115 - closed below
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the path
        raise LoadError(text, getattr(e, "strerror", None) or str(e)) from e
    with stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise LoadError(text, "not a regular file")
        if status.st_size > _LARGEST:
            raise LoadError(text, f"{status.st_size >> 30} GiB is no library's size")
        yield _image(text, stream, status.st_size)


def _image(path: str, stream: BinaryIO, size: int) -> Image:
    magic = _read(path, stream, 0, min(4, size), size)
    if magic == b"\x7fELF":
        fields = _elf(path, stream, size)
    elif magic[:2] == b"MZ":
        fields = _pe(path, stream, size)
    elif magic == b"\xcf\xfa\xed\xfe":
        fields = _macho(path, stream, size)
    elif magic in {b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"}:
        raise LoadError(path, "a universal file of several processors", hint="Take it apart with lipo -thin first.")
    else:
        raise LoadError(path, "not an ELF, PE or Mach-O file" + ("" if size else ": it is empty"))
    if fields["machine"] is None:
        raise LoadError(path, "for a processor that no builds exist for")
    for section in fields["sections"]:
        if section.offset + section.size > size:
            raise LoadError(path, f"truncated: section {section.name!r} lies beyond its end")
    if sum(section.size for section in fields["sections"]) > size:
        raise LoadError(path, "damaged: its sections overlap")
    return Image(path=path, stream=stream, size=size, **fields)


def _read(path: str, stream: BinaryIO, offset: int, length: int, size: int) -> bytes:
    if offset + length > size:
        raise LoadError(path, "truncated or damaged: a table lies beyond its end")
    try:
        stream.seek(offset)
        found = stream.read(length)
    except OSError as e:
        raise LoadError(path, e.strerror or str(e)) from e
    if len(found) != length:
        raise LoadError(path, "it shrank while it was read")
    return found


def _counted(path: str, count: int) -> int:
    if count > _MOST_SECTIONS:
        raise LoadError(path, f"damaged: it claims {count} sections or load commands")
    return count


def _name(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("ascii", "backslashreplace")


def _elf(path: str, stream: BinaryIO, size: int) -> dict[str, Any]:
    header = _read(path, stream, 0, _ELF_HEADER.size, size)
    kind, machine, _, _, _, table, _, _, _, _, step, count, names = _ELF_HEADER.unpack(header)
    if header[4:6] != b"\x02\x01":
        machine = None  # 32 bits, or big-endian
    raw = _read(path, stream, table, _counted(path, count) * step, size) if count else b""
    if step < _ELF_SECTION.size and count:
        raise LoadError(path, "damaged: its section headers are too short")
    rows = [_ELF_SECTION.unpack_from(raw, index * step) for index in range(count)]
    texts = b""
    if names < count and rows[names][1] == 3:  # noqa: PLR2004 - SHT_STRTAB
        texts = _read(path, stream, rows[names][4], rows[names][5], size)
    sections = tuple(
        Section(
            name=_name(texts[name : name + 256]),
            address=address,
            offset=offset if kind != 8 else 0,  # noqa: PLR2004 - SHT_NOBITS
            size=length if kind != 8 else 0,  # noqa: PLR2004 - the same
            memory=length,
            executable=bool(flags & 4),  # SHF_EXECINSTR
        )
        for name, kind, flags, address, offset, length, *_ in rows
        if kind
    )
    return {
        "format": "elf",
        "machine": _ELF_MACHINES.get(machine),
        "library": kind == 3,  # noqa: PLR2004 - ET_DYN
        "base": 0,
        "sections": sections,
    }


def _pe(path: str, stream: BinaryIO, size: int) -> dict[str, Any]:
    (start,) = struct.unpack("<I", _read(path, stream, 0x3C, 4, size))
    header = _read(path, stream, start, _PE_HEADER.size, size)
    magic, machine, count, optional, flags = _PE_HEADER.unpack(header)
    if magic != b"PE\0\0":
        raise LoadError(path, "not an ELF, PE or Mach-O file: a DOS program")
    table = start + _PE_HEADER.size
    fixed = _read(path, stream, table, _PE_OPTIONAL.size, size)
    kind, base, directories, exports, imports = _PE_OPTIONAL.unpack(fixed)
    raw = _read(path, stream, table + optional, _counted(path, count) * 40, size)
    rows = [_PE_SECTION.unpack_from(raw, index * 40) for index in range(count)]
    sections = tuple(
        Section(
            name=_name(name),
            address=address,
            offset=offset if length else 0,
            size=min(length, memory or length),
            memory=memory or length,
            executable=bool(marks & 0x20000020),  # IMAGE_SCN_MEM_EXECUTE, IMAGE_SCN_CNT_CODE
        )
        for name, memory, address, length, offset, marks in rows
    )
    return {
        "format": "pe",
        "machine": _PE_MACHINES.get(machine) if kind == 0x20B else None,  # noqa: PLR2004 - PE32+
        "library": bool(flags & 0x2000),  # IMAGE_FILE_DLL
        "base": base,
        "sections": sections,
        "exports": exports if directories > 0 else 0,
        "imports": imports if directories > 1 else 0,
    }


def _macho(path: str, stream: BinaryIO, size: int) -> dict[str, Any]:
    header = _read(path, stream, 0, _MACHO_HEADER.size, size)
    _, machine, _, kind, count, length, _, _ = _MACHO_HEADER.unpack(header)
    raw = _read(path, stream, _MACHO_HEADER.size, length, size)
    commands: list[tuple[int, bytes]] = []
    at = 0
    for _ in range(_counted(path, count)):
        command, step = _MACHO_COMMAND.unpack_from(raw, at) if at + 8 <= length else (0, 0)
        if step < _MACHO_COMMAND.size or at + step > length:
            raise LoadError(path, "damaged: its load commands do not fit")
        commands.append((command, raw[at : at + step]))
        at += step
    return {
        "format": "macho",
        "machine": _MACHO_MACHINES.get(machine),
        "library": kind in {6, 8},  # MH_DYLIB, MH_BUNDLE
        "base": 0,
        "sections": tuple(
            section
            for command, data in commands
            if command == 0x19  # noqa: PLR2004 - LC_SEGMENT_64
            for section in _segment(path, data, size)
        ),
        "commands": tuple(commands),
    }


def _segment(path: str, raw: bytes, size: int) -> Iterator[Section]:
    """Read the sections of one segment; its own bytes, such as those of __LINKEDIT, have to be there too."""
    if len(raw) < _MACHO_SEGMENT.size:
        raise LoadError(path, "damaged: a segment does not fit")
    name, _, _, offset, length, count, _ = _MACHO_SEGMENT.unpack_from(raw)
    if offset + length > size:
        raise LoadError(path, f"truncated: segment {_name(name)!r} lies beyond its end")
    if _MACHO_SEGMENT.size + count * _MACHO_SECTION.size > len(raw):
        raise LoadError(path, "damaged: a segment's sections do not fit")
    for index in range(_counted(path, count)):
        row = _MACHO_SECTION.unpack_from(raw, _MACHO_SEGMENT.size + index * _MACHO_SECTION.size)
        title, _, address, memory, start, flags = row
        filled = flags & 0xFF not in {0x01, 0x0C, 0x12}  # S_ZEROFILL, S_GB_ZEROFILL, S_THREAD_LOCAL_ZEROFILL
        yield Section(
            name=_name(title),
            address=address,
            offset=start if filled else 0,
            size=memory if filled else 0,
            memory=memory,
            executable=bool(flags & 0x80000400),  # S_ATTR_PURE_INSTRUCTIONS, S_ATTR_SOME_INSTRUCTIONS
        )
