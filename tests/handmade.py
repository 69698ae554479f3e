"""ELF, PE and Mach-O libraries and CUDA fat binaries made by hand, as small as their readers accept them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

X86_64, ARM64 = "x86_64", "arm64"
MACOS, IOS = 1, 2
DYLIB, BUNDLE, EXECUTE = 6, 8, 2


def padded(data: bytes, size: int) -> bytes:
    """Return the data with zeros up to a multiple of the size."""
    return data + bytes(-len(data) % size)


def elf(sections: Mapping[str, bytes], *, machine: int = 62, kind: int = 3) -> bytes:
    """Return an ELF file that has section headers and nothing else; ``.text`` is code."""
    names, body, rows = b"\0", b"", [bytes(64)]
    for name, data in sections.items():
        flags = 6 if name == ".text" else 2
        at = 0x1000 + len(body)
        rows.append(struct.pack("<2I 4Q 2I 2Q", len(names), 1, flags, at, at, len(data), 0, 0, 16, 0))
        names += name.encode() + b"\0"
        body += padded(data, 16)
    at = 0x1000 + len(body)
    rows.append(struct.pack("<2I 4Q 2I 2Q", len(names), 3, 0, 0, at, len(names) + 10, 0, 0, 1, 0))
    names += b".shstrtab\0"
    body += padded(names, 16)
    table = 0x1000 + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<2H I 3Q I 6H", kind, machine, 1, 0, 0, table, 0, 64, 56, 0, 64, len(rows), len(rows) - 1)
    return header.ljust(0x1000, b"\0") + body + b"".join(rows)


def pe(
    text: bytes = b"\xc3",
    *,
    machine: int = 0x8664,
    name: str | None = "made.dll",
    needed: Iterable[str] = ("KERNEL32.dll",),
    exports: Iterable[int] = (0x1000,),
    more: Mapping[str, bytes] | None = None,
    flags: int = 0x2022,
) -> bytes:
    """Return a DLL: ``.text`` at 0x1000, its tables in ``.rdata`` after it, further sections after that."""
    sections = {".text": text, ".rdata": b"", **(more or {})}
    addresses, at = {}, 0x1000
    for title, data in sections.items():
        addresses[title] = at
        at += 0x1000 + len(padded(data, 0x1000))
    base = addresses[".rdata"]
    table, exported = _exports(base, name, tuple(exports))
    imports = base + len(table)
    needed = tuple(needed)
    sections[".rdata"] = table + _imports(imports, needed)
    wanted = (imports, 40) if needed else (0, 0)
    directories = struct.pack("<4I", base if exported else 0, 40 if exported else 0, *wanted) + bytes(14 * 8)
    optional = struct.pack("<H 14x 2I Q 2I", 0x20B, 0x1000, 0x1000, 0x180000000, 0x1000, 0x200)
    optional += struct.pack("<6H I 2I I 2H 4Q 2I", 6, 0, 0, 0, 6, 0, 0, at, 0x400, 0, 2, 0, *(0x100000,) * 4, 0, 16)
    optional += directories
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    header += struct.pack("<4s 2H 3I 2H", b"PE\0\0", machine, len(sections), 0, 0, 0, len(optional), flags) + optional
    rows, body, offset = b"", b"", 0x400
    for title, data in sections.items():
        marks = 0x60000020 if title == ".text" else 0x40000040
        raw = padded(data, 0x200)
        row = (title.encode(), len(data), addresses[title], len(raw), offset, 0, 0, 0, 0, marks)
        rows += struct.pack("<8s 6I 2H I", *row)
        body += raw
        offset += len(raw)
    return (header + rows).ljust(0x400, b"\0") + body


def _exports(base: int, name: str | None, exports: tuple[int, ...]) -> tuple[bytes, bool]:
    if name is None:
        return b"", False
    functions = struct.pack(f"<{len(exports)}I", *exports)
    at = base + 40 + len(functions)
    directory = struct.pack("<10I", 0, 0, 0, at, 1, len(exports), 0, base + 40, 0, 0)
    return padded(directory + functions + name.encode() + b"\0", 16), True


def _imports(base: int, needed: tuple[str, ...]) -> bytes:
    rows, at, tail = b"", base + 20 * (len(needed) + 1), b""
    for each in needed:
        thunks = struct.pack("<2Q", 1 << 63 | 1, 0)  # one function, by its number
        rows += struct.pack("<5I", at, 0, 0, at + 32, at + 16)
        text = padded(each.encode() + b"\0", 16)
        tail += thunks + thunks + text
        at += 32 + len(text)
    return rows + bytes(20) + tail


def macho(
    text: bytes = b"\xc3",
    *,
    machine: int = 0x01000007,
    install: str | None = "@rpath/libmade.dylib",
    needed: Iterable[str] = ("/usr/lib/libSystem.B.dylib",),
    runpath: Iterable[str] = ("@loader_path",),
    minos: tuple[int, int, int] | None = (14, 0, 0),
    platform: int = MACOS,
    old: bool = False,
    kind: int = DYLIB,
) -> bytes:
    """Return a dylib or a bundle: ``__text`` at 0x1000, and a few load commands; ``old``: LC_VERSION_MIN_MACOSX."""
    end = 0x1000 + len(text)
    section = struct.pack("<16s16s2Q8I", b"__text", b"__TEXT", 0x1000, len(text), 0x1000, 4, 0, 0, 0x80000400, 0, 0, 0)
    segment = struct.pack("<16s4Q4I", b"__TEXT", 0, padded_size(end), 0, end, 5, 5, 1, 0) + section
    commands = [(0x19, segment)]
    if install is not None:
        commands.append((0x0D, _dylib(install)))
    commands += [(0x0C, _dylib(each)) for each in needed]
    if minos is not None:
        version = minos[0] << 16 | minos[1] << 8 | minos[2]
        commands.append(
            (0x24, struct.pack("<2I", version, 0)) if old else (0x32, struct.pack("<4I", platform, version, 0, 0))
        )
    commands += [(0x8000001C, struct.pack("<I", 12) + each.encode() + b"\0") for each in runpath]
    body = b"".join(struct.pack("<2I", number, 8 + len(padded(data, 8))) + padded(data, 8) for number, data in commands)
    header = struct.pack("<8I", 0xFEEDFACF, machine, 3, kind, len(commands), len(body), 0x85, 0)
    return (header + body).ljust(0x1000, b"\0") + text


def padded_size(size: int) -> int:
    """Return the size in whole pages."""
    return -(-size // 0x1000) * 0x1000


def _dylib(name: str) -> bytes:
    return struct.pack("<4I", 24, 2, 0, 0) + name.encode() + b"\0"


def entry(
    number: int,
    kind: int,
    *,
    flags: int = 0x8011,
    version: tuple[int, int] = (9, 1),
    payload: bytes = b"payload.",
    header: int = 64,
    size: int | None = None,
) -> bytes:
    """Return one entry of a fat binary: kind 1 is PTX, 2 is machine code."""
    length = len(payload) if size is None else size
    fields = (kind, 0x101, header, length, len(payload), 0, version[1], version[0], number, 0, 0, flags, 0, 0)
    return struct.pack("<2H I Q 2I 2H 3I 3Q", *fields).ljust(min(header, 4096), b"\0") + payload


def container(*entries: bytes, magic: int = 0xBA55ED50, header: int = 16, size: int | None = None) -> bytes:
    """Return a container of a fat binary."""
    body = b"".join(entries)
    return struct.pack("<I 2H Q", magic, 1, header, len(body) if size is None else size) + body
