"""Which libraries does a file want, which of them are missing on this host, and what brings them?

One rule: the answer is what ld.so would find, given without it: no file is opened by the loader, no program runs.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections import deque

from nativeload.elf import ElfFacts, read_elf
from nativeload.errors import LoadError
from nativeload.mapped import mapped_files
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_MOST_FILES = 512  # the closure of a CUDA build of PyTorch is about 60 files
_LD_SO_CONF = "/etc/ld.so.conf"

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


class Missing(Value, kw_only=True):
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


class _Search:
    """Where does this host keep libraries? Its directories and files are looked at once per question."""

    def __init__(self, env: Mapping[str, str], system: Sequence[str] | None) -> None:
        self.env, self.system = env, system
        self.mapped = {os.path.basename(path): path for path in mapped_files()}
        self.configured = tuple(_conf_directories(_LD_SO_CONF, set()))
        self.facts: dict[str, ElfFacts | None] = {}

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
