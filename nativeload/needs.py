"""Which libraries does a file want, which of them are missing on this host, and what brings them?

One rule: files are read as bytes by pure Python; nothing is opened by the dynamic loader, no program runs.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections import deque
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from nativeload.errors import LoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# A hostile file may claim anything. Real ones stay far below: 40 dynamic tags, 15 segments, 30 versions.
_MOST_SEGMENTS, _MOST_TAGS, _MOST_VERSIONS, _MOST_NAMES, _LONGEST_TEXT = 256, 4096, 4096, 256, 16384
_MOST_FILES = 512  # the closure of a CUDA build of PyTorch is about 60 files

_MACHINES = {  # pyelftools' name, word size, byte order -> the word used here
    ("EM_X86_64", 64, True): "x86_64",
    ("EM_AARCH64", 64, True): "aarch64",
    ("EM_386", 32, True): "i386",
}
_LD_SO_CONF, _MAPS = "/etc/ld.so.conf", "/proc/self/maps"

# NVIDIA's wheels carry their CUDA major in the name up to 12; from 13 the plain name is the package and the
# -cu13 names of the runtime and of cuBLAS are empty placeholders (version 0.0.1). NCCL kept the suffix.
_PACKAGES = (
    (r"libcuda\.so\.1", "the NVIDIA driver (libcuda1 / nvidia-driver-cuda), installed on the host"),
    (r"libcudart\.so\.(11|12)(\..*)?", r"pip install nvidia-cuda-runtime-cu\1"),
    (r"libcudart\.so\.13", "pip install nvidia-cuda-runtime==13.*"),
    (r"libcublas(Lt)?\.so\.(11|12)", r"pip install nvidia-cublas-cu\2"),
    (r"libcublas(Lt)?\.so\.13", "pip install nvidia-cublas==13.*"),
    (r"libnccl\.so\.2", "pip install nvidia-nccl-cu12 or nvidia-nccl-cu13, as the CUDA of the build"),
    (r"lib(amdhip64|rocblas|hipblas(lt)?)\.so(\..*)?", "AMD ROCm, installed on the host"),
    (r"libgomp\.so\.1", "libgomp1 (Debian, Ubuntu) or libgomp (Fedora)"),
    (r"libomp\.so(\..*)?", "libomp-dev (Debian, Ubuntu) or libomp (Fedora)"),
    (r"libstdc\+\+\.so\.6", "libstdc++6 (Debian, Ubuntu) or libstdc++ (Fedora)"),
    (r"libgcc_s\.so\.1", "libgcc-s1 (Debian, Ubuntu) or libgcc (Fedora)"),
    (r"libvulkan\.so\.1", "libvulkan1 (Debian, Ubuntu) or vulkan-loader (Fedora)"),
    (r"libopenblas\.so\.0", "libopenblas0 (Debian, Ubuntu)"),
    (r"libc\.so\.6|ld-linux-.*", "glibc, which a musl system such as Alpine does not have"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One library that a file wants and this host does not have.

    Attributes:
        name: the library's name, as it is wanted.
        wanted_by: the path of the file that wants it.
        via: the files that lead to ``wanted_by``, from a given file on; empty when that was given itself.
        package: what brings the library, in words, or None where that is not known.
    """

    name: str
    wanted_by: str
    via: tuple[str, ...] = ()
    package: str | None = None


@dataclass(frozen=True, slots=True)
class _Image:
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


@dataclass(slots=True)
class _Search:
    """Where does this host keep libraries? Its directories and files are looked at once per question."""

    env: Mapping[str, str]
    system: Sequence[str] | None
    mapped: dict[str, str] = field(default_factory=lambda: {os.path.basename(p): p for p in _mapped_files()})
    configured: tuple[str, ...] = field(default_factory=lambda: tuple(_conf_directories(_LD_SO_CONF, set())))
    facts: dict[str, ElfFacts | None] = field(default_factory=dict)

    def directories(self, machine: str) -> Iterator[str]:
        """Yield the user's and the system's directories, in the order of ld.so."""
        yield from (d or os.curdir for d in re.split("[:;]", self.env.get("LD_LIBRARY_PATH", "")) if d)
        if self.system is not None:
            yield from self.system
            return
        yield from self.configured
        yield from (f"/lib/{machine}-linux-gnu", f"/usr/lib/{machine}-linux-gnu")
        yield from ("/lib", "/usr/lib", "/lib64", "/usr/lib64")

    def read(self, path: str) -> ElfFacts | None:
        """Return the facts of a file that could be loaded, or None."""
        if path not in self.facts:
            self.facts[path] = None
            if os.path.isfile(path) and not _is_stub(path):
                with contextlib.suppress(LoadError):
                    self.facts[path] = read_elf(path)
        return self.facts[path]

    def find(self, name: str, directories: Iterable[str], machine: str) -> ElfFacts | None:
        """Return the first file of that name for that machine; one with a slash is a path, as for ld.so."""
        if "/" in name:
            places = [name]
        else:
            places = [os.path.join(d, name) for d in (*directories, *self.directories(machine))]
            places = [self.mapped[name], *places] if name in self.mapped else places
        found = (self.read(place) for place in dict.fromkeys(places))
        return next((facts for facts in found if facts and facts.machine == machine), None)


def _is_stub(path: str) -> bool:
    """Is this one of the CUDA toolkit's stubs, or a link to one? They serve the linker: every call fails."""
    return any("stubs" in place.split(os.sep)[:-1] for place in (path, os.path.realpath(path)))


def _mapped_files() -> list[str]:
    """Which files are mapped into this process? None where the system does not say."""
    try:
        with open(_MAPS, encoding="utf-8", errors="backslashreplace") as maps:
            return re.findall(r" (/.*)$", maps.read(), re.MULTILINE)
    except OSError:
        return []


def _conf_directories(conf: str, seen: set[str]) -> Iterator[str]:
    """Which directories does ld.so.conf list? Includes are globs beside the file; each file is read once."""
    if conf in seen:
        return
    seen.add(conf)
    try:
        with open(conf, encoding="utf-8", errors="backslashreplace") as stream:
            lines = [line.partition("#")[0].strip() for line in stream]
    except OSError:
        return
    for words in filter(None, (line.split() for line in lines)):
        if words[0] == "include":
            for pattern in words[1:]:
                for path in sorted(glob.glob(os.path.join(os.path.dirname(conf), pattern))):
                    yield from _conf_directories(path, seen)
        elif words[0] != "hwcap":
            yield words[0].partition("=")[0]


def find_library(
    name: str, *, directories: Sequence[str] = (), env: Mapping[str, str] | None = None, machine: str
) -> str | None:
    """Where would ld.so find this library? Only a readable ELF file of the same machine counts, never a stub.

    Already mapped files come first, then ``directories``, LD_LIBRARY_PATH, the directories of ld.so.conf and
    the system's own. Not ld.so.cache but its source is read: a directory counts before ldconfig has run.

    Args:
        name: the name a file wants; one with a slash is a path.
        directories: searched first: the wanter's run path, the directory its siblings are loaded from.
        env: the environment to take LD_LIBRARY_PATH from; this process's by default.
        machine: as in ``ElfFacts.machine``.
    """
    found = _Search(os.environ if env is None else env, None).find(name, directories, machine)
    return found.path if found else None


def missing_libraries(
    paths: Iterable[str | os.PathLike[str]],
    *,
    directories: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    system: Sequence[str] | None = None,
) -> tuple[Missing, ...]:
    """Which libraries do these files, and what they lead to, want in vain? Each is told once per wanter.

    The files count as preloaded by absolute path, so their names and directories serve one another.

    Args:
        paths: the files of a set.
        directories: more directories to preload from, such as those of installed ``nvidia-*`` packages.
        env: as in ``find_library``.
        system: instead of the system's directories of this host.

    Raises:
        LoadError: a given file cannot be read, or the files lead to more than 512 libraries.
    """
    given = [read_elf(path) for path in dict.fromkeys([os.fspath(path) for path in paths])]
    search = _Search(os.environ if env is None else env, system)
    own = (*directories, *(os.path.dirname(os.path.abspath(facts.path)) for facts in given))
    preloaded = {(n, f.machine) for f in given for n in (f.soname, os.path.basename(f.path))}
    return tuple(_walk(given, search, tuple(dict.fromkeys(own)), preloaded))


def _walk(
    given: list[ElfFacts], search: _Search, own: tuple[str, ...], preloaded: set[tuple[str | None, str]]
) -> Iterator[Missing]:
    """What is missing, breadth first, so that ``via`` is shortest? What is mapped has all it wants."""
    seen = {os.path.realpath(path) for path in (*(facts.path for facts in given), *search.mapped.values())}
    most = len(seen) + _MOST_FILES
    queue: deque[tuple[ElfFacts, tuple[str, ...], tuple[str, ...]]] = deque((f, (), ()) for f in given)
    while queue:
        facts, via, inherited = queue.popleft()
        inherited = (*facts.runpath, *inherited) if facts.inherited else inherited
        for name in facts.needed:
            if (name, facts.machine) in preloaded:
                continue
            found = search.find(name, (*facts.runpath, *inherited, *own), facts.machine)
            if found is None:
                yield Missing(name=name, wanted_by=facts.path, via=via, package=package_of(name))
            elif (real := os.path.realpath(found.path)) not in seen:
                seen.add(real)
                queue.append((found, (*via, facts.path), inherited))
        if len(seen) > most:
            raise LoadError(facts.path, f"it leads to more than {_MOST_FILES} libraries")


def package_of(name: str) -> str | None:
    """What brings the library of this name? A line for people; None where it is not known."""
    for pattern, package in _PACKAGES:
        if match := re.fullmatch(pattern, name):
            return match.expand(package)
    return None


def explain_missing(missing: Iterable[Missing]) -> str:
    """How is it said to a person? One line for each, without control characters: names come from files."""
    lines = []
    for item in missing:
        way = " -> ".join(os.path.basename(path) for path in item.via)
        wanter = os.path.basename(item.wanted_by) + (f" (through {way})" if way else "")
        line = f"{item.name}, wanted by {wanter}: {item.package or 'no known package brings it'}"
        lines.append("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
    return "\n".join(lines)
