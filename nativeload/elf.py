"""What does the dynamic section of an ELF file say?

One rule: a file is read as bytes by pure Python, at checked offsets, every count bounded; whatever is wrong with it is
a LoadError. The dynamic loader never sees it.
"""

from __future__ import annotations

import os
import re
import stat

from nativeload.errors import LoadError
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

# A hostile file may claim anything. Real ones stay far below: 40 dynamic tags, 15 segments, 30 versions.
_MOST_SEGMENTS, _MOST_TAGS, _MOST_VERSIONS, _MOST_NAMES, _LONGEST_TEXT = 256, 4096, 4096, 256, 16384

_MACHINES = {  # pyelftools' name, word size, byte order -> the word used here
    ("EM_X86_64", 64, True): "x86_64",
    ("EM_AARCH64", 64, True): "aarch64",
    ("EM_386", 32, True): "i386",
}


class ElfFacts(Value, kw_only=True):
    """What the dynamic section of one ELF file says.

    Attributes:
        path: the file, as it was given.
        soname: the name it is known by once loaded, or None.
        needed: the names it wants, in its order.
        runpath: the directories it names (DT_RUNPATH, else DT_RPATH), ``$ORIGIN`` expanded, empty ones ``.``.
        inherited: whether ``runpath`` is a DT_RPATH, which the libraries it wants search as well.
        machine: ``x86_64``, ``aarch64``, ``i386``, or pyelftools' word with word size and byte order.
        glibc: the highest ``GLIBC_x.y`` symbol version it wants, such as ``2.28``, or None.
        glibcxx: the highest ``GLIBCXX_x.y.z`` it wants, or None.
    """

    path: str
    soname: str | None
    needed: tuple[str, ...]
    runpath: tuple[str, ...]
    inherited: bool = False
    machine: str
    glibc: str | None
    glibcxx: str | None


class _Image(Value):
    """An open ELF file, read at checked offsets only."""

    stream: BinaryIO
    structs: Any
    size: int
    loads: tuple[tuple[int, int, int], ...]  # address, offset, length of each PT_LOAD

    def parse(self, struct: Any, offset: int) -> Any:
        from elftools.common.utils import struct_parse

        if offset + struct.sizeof() > self.size:
            raise _DamagedError("truncated: a table lies beyond its end")
        return struct_parse(struct, self.stream, stream_pos=offset)

    def offset(self, address: int) -> int:
        for start, offset, length in self.loads:
            if start <= address < start + length:
                return offset + address - start
        raise _DamagedError("damaged: a table lies outside the loaded segments")

    def text(self, offset: int) -> str:
        self.stream.seek(min(offset, self.size))
        raw, end, _ = self.stream.read(_LONGEST_TEXT).partition(b"\0")
        if not end:
            raise _DamagedError("truncated or damaged: a name has no end")
        return raw.decode("utf-8", "backslashreplace")


class _DamagedError(Exception):
    """The file's tables contradict each other or its size."""


def read_elf(path: str | os.PathLike[str]) -> ElfFacts:
    """What does this file want? Only headers and the dynamic section are read, whatever the file's size.

    As ld.so does, program headers alone are trusted; a file without section headers reads the same.

    Raises:
        LoadError: it is not an ELF file, it is truncated or damaged, or it cannot be opened.
    """
    text = os.fspath(path)
    # Without O_NONBLOCK a FIFO in the place of a library would wait for its writer for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(text, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
            return _read_stream(text, stream)
    except _DamagedError as e:
        raise LoadError(text, str(e)) from e
    except OSError as e:
        raise LoadError(text, e.strerror or str(e)) from e
    except ImportError:  # no fault of the file
        raise
    except Exception as e:  # pyelftools promises no closed list of what a broken file makes it raise
        raise LoadError(text, f"truncated or damaged ELF file ({type(e).__name__})") from e


def _read_stream(path: str, stream: BinaryIO) -> ElfFacts:
    """What do the program headers lead to? Every offset is compared with the file's size first."""
    from elftools.elf.elffile import ELFFile

    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise _DamagedError("not a regular file")
    if stream.read(4) != b"\x7fELF":
        raise _DamagedError("not an ELF file" if status.st_size else "not an ELF file: it is empty")
    elf: Any = ELFFile(stream)
    key = (elf["e_machine"], elf.elfclass, elf.little_endian)
    word = f"{key[0]}-{elf.elfclass}{'le' if elf.little_endian else 'be'}"
    image, dynamic = _segments(_Image(stream, elf.structs, status.st_size, ()), elf.header)
    tags = list(_tags(image, dynamic))
    strings = next((image.offset(value) for tag, value in tags if tag == "DT_STRTAB"), image.size)
    soname, needed, rpath, runpath = (
        [image.text(strings + value) for tag, value in tags if tag == f"DT_{word}"]
        for word in ("SONAME", "NEEDED", "RPATH", "RUNPATH")
    )
    versions = list(_versions(image, dict(tags), strings))
    return ElfFacts(
        path=path,
        soname=soname[-1] if soname else None,  # of a tag given twice, ld.so keeps the last
        needed=_bounded(filter(None, needed)),
        runpath=_bounded(_expanded((runpath or rpath)[-1:], path)),
        inherited=bool(rpath) and not runpath,
        machine=_MACHINES.get(key) or word.lower().removeprefix("em_"),
        glibc=_highest(versions, "GLIBC_"),
        glibcxx=_highest(versions, "GLIBCXX_"),
    )


def _segments(image: _Image, header: Any) -> tuple[_Image, tuple[int, int] | None]:
    """Where are the loaded bytes and the dynamic section? One beyond the end means a cut file."""
    if header["e_phnum"] > _MOST_SEGMENTS:
        raise _DamagedError(f"damaged: it claims {header['e_phnum']} segments")
    loads: list[tuple[int, int, int]] = []
    dynamic = None
    for index in range(header["e_phnum"]):
        segment = image.parse(image.structs.Elf_Phdr, header["e_phoff"] + index * header["e_phentsize"])
        if segment["p_type"] not in ("PT_LOAD", "PT_DYNAMIC"):
            continue
        if segment["p_offset"] + segment["p_filesz"] > image.size:
            raise _DamagedError("truncated: a segment lies beyond its end")
        if segment["p_type"] == "PT_LOAD":
            loads.append((segment["p_vaddr"], segment["p_offset"], segment["p_filesz"]))
        else:
            dynamic = (segment["p_offset"], segment["p_filesz"])
    return _Image(image.stream, image.structs, image.size, tuple(loads)), dynamic


def _tags(image: _Image, dynamic: tuple[int, int] | None) -> Iterator[tuple[Any, int]]:
    """Which entries has the dynamic section, up to its DT_NULL? A file without one has none."""
    start, length = dynamic or (0, 0)
    step = image.structs.Elf_Dyn.sizeof()
    if length // step > _MOST_TAGS:
        raise _DamagedError("damaged: the dynamic section is too long")
    for index in range(length // step):
        entry = image.parse(image.structs.Elf_Dyn, start + index * step)
        if entry["d_tag"] == "DT_NULL":
            return
        yield entry["d_tag"], entry["d_val"]


def _versions(image: _Image, tags: dict[Any, int], strings: int) -> Iterator[str]:
    """Which symbol versions are wanted? Offsets link the lists, so the steps are bounded."""
    if "DT_VERNEED" not in tags:
        return
    at, left = image.offset(tags["DT_VERNEED"]), _MOST_VERSIONS
    for _ in range(min(tags.get("DT_VERNEEDNUM", 0), _MOST_TAGS)):
        need = image.parse(image.structs.Elf_Verneed, at)
        aux = at + need["vn_aux"]
        for _ in range(need["vn_cnt"]):
            left -= 1
            if left < 0:
                raise _DamagedError("damaged: it wants too many symbol versions")
            entry = image.parse(image.structs.Elf_Vernaux, aux)
            yield image.text(strings + entry["vna_name"])
            aux += entry["vna_next"]
        if not need["vn_next"]:
            return
        at += need["vn_next"]


def _expanded(runpaths: Iterable[str], path: str) -> list[str]:
    """Which directories does a run path name? ``$ORIGIN`` is the file's own, an empty one the current."""
    origin = os.path.dirname(os.path.abspath(path))
    entries = [entry for runpath in runpaths for entry in runpath.split(":")]
    return [re.sub(r"\$(ORIGIN\b|\{ORIGIN\})", lambda _: origin, entry) or os.curdir for entry in entries]


def _bounded(names: Iterable[str]) -> tuple[str, ...]:
    """Are these few enough to look for each, directory by directory? Repeated ones count once."""
    found = tuple(dict.fromkeys(names))
    if len(found) > _MOST_NAMES:
        raise _DamagedError(f"damaged: it names {len(found)} libraries or directories")
    return found


def _highest(versions: Iterable[str], prefix: str) -> str | None:
    """Which is the highest numbered version with this prefix? Compared as numbers; GLIBC_PRIVATE is none."""
    found = [v.removeprefix(prefix) for v in versions if re.fullmatch(prefix + r"[0-9]{1,6}(\.[0-9]{1,6})*", v)]
    return max(found, key=lambda v: [int(part) for part in v.split(".")], default=None)
