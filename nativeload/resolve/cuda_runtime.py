"""Where is the CUDA runtime that a CUDA backend wants: in this process, in pip's wheels, with the system loader?

One rule: one place brings all of it or counts for nothing: every wanted name, and cuBLAS only with its own cuBLASLt.
A toolkit's directory that merely exists is no place, nor are its stubs.
"""

from __future__ import annotations

import os
import sys

from nativeload.resolve.resolution import LibraryFile
from nativeload.value import Value
from nativeload.variant import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nativeload.resolve.installed import Distribution

    _Parts = dict[str, str]  # part -> the name it is wanted by

# In load order: libcublas wants libcublasLt, and neither wants libcudart (they carry their own).
_PARTS = ("cudart", "cublasLt", "cublas")

# NVIDIA's wheels; up to CUDA 12 their names end in -cu<major>. What they carry is read from their RECORD: from 13 on
# the packages named -cu13 are empty.
_WHEELS = {"nvidia-cuda-runtime": ("cudart",), "nvidia-cublas": ("cublasLt", "cublas")}

_MOST_DIGITS = 3  # of a number in a name, which may come from anywhere


class CudaRuntime(Value, kw_only=True):
    """A CUDA runtime that was found.

    Attributes:
        major: the CUDA major, such as 13.
        place: where, for people: ``this process``, ``nvidia-cublas 13.10.0.20 and nvidia-cuda-runtime 13.5.37``,
            ``the system loader (/opt/cuda/lib64)``.
        files: what to preload before the backend, in this order; empty where the loader of this process needs no help.
        paths: where all of it lies, in the same order, whatever the place. Another process (the probe's child) has
            nothing mapped, and a search by name may end in the current directory: these can be opened by path.
    """

    major: int
    place: str
    files: tuple[LibraryFile, ...] = ()
    paths: tuple[str, ...] = ()


def wanted(names: Iterable[str]) -> tuple[str, ...]:
    """Return, of the names that a file wants, those of the CUDA runtime: ``libcudart.so.13``, ``cublas64_13.dll``."""
    return tuple(dict.fromkeys(name for name in names if _read(name)))


def major_of(names: Iterable[str]) -> int | None:
    """Return the CUDA major of the names that a file wants; None where none is of the runtime, or they disagree."""
    majors = {read[1] for name in names if (read := _read(name))}
    return majors.pop() if len(majors) == 1 else None


def _read(name: str) -> tuple[str, int] | None:
    """Read part and major out of a name; a renamed copy (``libcudart-d0da41ae.so.12``) is none: nothing binds to it."""
    if name.startswith("lib"):
        part, _, version = name[3:].partition(".so.")
        numbers = version.split(".")
    else:
        part, _, version = name.partition("64_")
        numbers = [version.removesuffix(".dll") if version.endswith(".dll") else ""]
        if len(numbers[0]) == _MOST_DIGITS:  # cudart64_110.dll is CUDA 11's
            numbers = [numbers[0][:-1]]
    if part not in _PARTS or not all(each.isascii() and each.isdecimal() for each in numbers):
        return None
    return (part, int(numbers[0])) if len(numbers[0]) <= _MOST_DIGITS else None


def search(
    names: Sequence[str],
    *,
    path: Sequence[str] | None = None,
    mapped: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> CudaRuntime | str:
    """Return the first place that has all of the runtime, or in one line why none has: what is missing, what brings it.

    Args:
        names: the names that a CUDA backend wants.
        path: where installed wheels lie, instead of ``sys.path``.
        mapped: the files mapped into this process; read from it where none are given.
        env: the environment to take LD_LIBRARY_PATH from; this process's by default.
    """
    from nativeload.host.notes import one_line

    asked, major = wanted(names), major_of(names)
    if major is None:
        return f"{_and(asked)} are of different CUDA majors" if asked else "no CUDA runtime is wanted"
    parts = _whole(asked)
    held = _held(major, mapped)
    if all(_part(name) in held for name in asked):
        return CudaRuntime(major=major, place="this process", paths=tuple(held[p] for p in _PARTS if p in held))
    files, origins, broken = _in_wheels(parts, major, path)
    paths = tuple(files[part].path for part in parts if part in files)
    clash = ""
    if len(files) == len(parts):
        clash = _clash(held, parts, paths)
        if not clash:
            chosen = tuple(files[part] for part in parts)
            return CudaRuntime(major=major, place=one_line(_and(sorted(origins))), files=chosen, paths=paths)
    paths = _with_loader(parts, env)
    if paths and not _clash(held, parts, paths):
        folders = dict.fromkeys(os.path.dirname(path) for path in paths)
        return CudaRuntime(major=major, place=one_line(f"the system loader ({', '.join(folders)})"), paths=paths)
    return one_line(clash or _lacking({part: name for part, name in parts.items() if part not in files}, major, broken))


def _part(name: str) -> str:
    read = _read(name)
    return read[0] if read else ""


def _whole(asked: Sequence[str]) -> _Parts:
    """Return what is asked for with what that leads to, by part and in load order."""
    found = {_part(name): name for name in asked}
    if "cublas" in found:
        found.setdefault("cublasLt", found["cublas"].replace("cublas", "cublasLt", 1))
    return {part: found[part] for part in _PARTS if part in found}


def _held(major: int, mapped: Iterable[str] | None) -> _Parts:
    """Return the parts of this major that are mapped; a toolkit's files have a longer version than their SONAME."""
    from nativeload.mapped import mapped_files

    held: _Parts = {}
    for path in mapped_files() if mapped is None else mapped:
        kept = path.removesuffix(" (deleted)")  # an update replaced it, and this process still has it
        read = _read(os.path.basename(kept))
        if read and read[1] == major:
            held.setdefault(read[0], kept)
    return held


def _clash(held: _Parts, parts: _Parts, paths: Sequence[str]) -> str:
    """Say which part is mapped from elsewhere, if one is: the backend would bind to that one."""
    for (part, name), path in zip(parts.items(), paths, strict=True):
        if part in held and not _same(held[part], path):
            return f"{name} is in this process from {held[part]}, and the rest of the runtime is not: {path} is another"
    return ""


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # it was deleted since: what lies there now, if anything, is not what is mapped
        return False


def _in_wheels(
    parts: _Parts, major: int, path: Sequence[str] | None
) -> tuple[dict[str, LibraryFile], list[str], dict[str, str]]:
    """Return the files that installed wheels bring, by part; these wheels; and by part the wheels that are not whole.

    What one wheel is for comes from one wheel: two versions of cuBLAS and cuBLASLt do not fit each other.
    """
    from nativeload.resolve.installed import distributions

    files: dict[str, LibraryFile] = {}
    origins: list[str] = []
    broken: dict[str, str] = {}
    for distribution in distributions(path):
        package = _WHEELS.get(distribution.name.removesuffix(f"-cu{major}"), ())
        mine = {part: parts[part] for part in package if part in parts and part not in files}
        if not mine:
            continue
        found, whole = _vouched(distribution, mine)
        if len(found) == len(mine):
            files |= found
            origins.append(str(distribution))
        elif found or not whole:
            broken |= dict.fromkeys(mine, str(distribution))
    return files, origins, broken


def _vouched(distribution: Distribution, parts: _Parts) -> tuple[dict[str, LibraryFile], bool]:
    """Return the files of these names that a wheel's RECORD vouches for, and whether all that it names are there."""
    from nativeload.resolve.installed import record

    try:
        hashes = record(distribution)
    except (OSError, ValueError):  # nobody vouches for anything
        return {}, False
    found: dict[str, LibraryFile] = {}
    whole = True
    wants = {name: part for part, name in parts.items()}
    for entry, digest in hashes.items():
        *folders, name = entry.split("/")
        if name not in wants or os.path.isabs(entry) or "\\" in entry or {"..", "stubs"} & set(folders):
            continue
        path = os.path.join(distribution.root, *folders, name)
        if os.path.isfile(path):
            file = LibraryFile(path=path, role=Role.RUNTIME, label=name, declared=digest)
            found.setdefault(wants[name], file)
        else:
            whole = False
    return found, whole


def _with_loader(parts: _Parts, env: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return where the system loader would find each part, in load order; () where it lacks one.

    A relative entry of LD_LIBRARY_PATH is passed over: whoever can write to the current directory could plant files.
    """
    if sys.platform != "linux":  # on Windows a DLL is loaded from System32 or by its path, and CUDA is not in System32
        return ()
    from nativeload.needs import find_library

    machine = os.uname().machine
    found: _Parts = {}
    for part in sorted(parts, key=("cudart", "cublas", "cublasLt").index):
        beside = [os.path.dirname(found["cublas"])] if part == "cublasLt" and "cublas" in found else []
        place = find_library(parts[part], directories=beside, env=env, machine=machine)
        if place is None or not os.path.isabs(place):
            return ()
        found[part] = place
    return tuple(found[part] for part in parts)


def _lacking(parts: _Parts, major: int, broken: Mapping[str, str]) -> str:
    """Say what pip's wheels lack, and what brings it: they can be completed, whoever owns the system."""
    from nativeload.needs import package_of

    remedies: dict[str, list[str]] = {}
    for part, name in parts.items():
        package = package_of(f"lib{part}.so.{major}") or "no known package brings it"
        remedy = f"{broken[part]} is not whole: install it again" if part in broken else package
        remedies.setdefault(remedy, []).append(name)
    missing = ", ".join(f"{_and(names)} ({remedy})" for remedy, names in remedies.items())
    return f"no CUDA {major} runtime is here whole; missing: {missing}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)
