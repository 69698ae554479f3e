"""Which installed distributions carry the library?

One rule: distributions are data. Their names come from directory listings and their files from RECORD; nothing of
theirs is imported, and a file that RECORD gives no hash for is not used.
"""

from __future__ import annotations

import os
import sys

from nativeload.errors import IntegrityError, LoadError
from nativeload.resolve import backend_package
from nativeload.resolve.bundle import Bundle, classify, has_library
from nativeload.resolve.resolution import NOT_INSTALLED, Decision, LibraryFile, Rejected, Source
from nativeload.value import Value, replace
from nativeload.variant import Role, normalized_package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nativeload.variant import Platform

# What we know of the PyPI packages that carry these libraries: (library, folder inside site-packages).
_FOREIGN = {
    "xllamacpp": ("llama", "xllamacpp"),
    "llama-cpp-python": ("llama", "llama_cpp/lib"),
    "pywhispercpp": ("whisper", "pywhispercpp.libs"),
}


class Distribution(Value, kw_only=True):
    """An installed distribution, known by its ``*.dist-info`` directory."""

    name: str
    version: str
    root: str
    info: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def distributions(path: Sequence[str] | None = None) -> Iterator[Distribution]:
    """List the distributions on ``sys.path``, the first of a name winning, as imports do."""
    seen: set[str] = set()
    for root in dict.fromkeys(_site_directories() if path is None else path):
        found: dict[str, list[Distribution]] = {}
        for entry in _listdir(root):
            if entry.endswith(".dist-info") and not entry.startswith("~"):
                name, _, version = entry[: -len(".dist-info")].rpartition("-")
                info = os.path.join(os.path.abspath(root), entry)
                each = Distribution(
                    name=normalized_package(name), version=version, root=os.path.abspath(root), info=info
                )
                found.setdefault(each.name, []).append(each)
        for name, several in sorted(found.items()):
            if name not in seen:
                seen.add(name)
                yield several[0] if len(several) == 1 else _newest(several)


def _site_directories() -> list[str]:
    """Return ``sys.path`` without the current directory: what lies there was not installed."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        here = ""
    return [root for root in sys.path if root and (os.path.abspath(root) != here or root.endswith("-packages"))]


def _newest(several: list[Distribution]) -> Distribution:
    """Return the newest of several left-over versions of one distribution; its RECORD decides whether it is whole."""
    from packaging.version import InvalidVersion, Version

    def key(item: Distribution) -> Version:
        try:
            return Version(item.version)
        except InvalidVersion:
            return Version("0")

    return max(several, key=key)


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # sys.path may name zip files and folders that are gone
        return []


def record(distribution: Distribution) -> dict[str, str]:
    """Return the sha256 (hex) of each file that the distribution's RECORD vouches for, by its path in RECORD.

    Raises:
        OSError: there is no RECORD.
    """
    hashes: dict[str, str] = {}
    with open(os.path.join(distribution.info, "RECORD"), encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name, _, rest = line.rstrip("\n").rpartition(",")[0].rpartition(",")
            if name and not name.startswith('"') and rest.startswith("sha256="):
                hashes[name] = _hex(rest.removeprefix("sha256="))
    return hashes


def _hex(urlsafe: str) -> str:
    import binascii

    try:
        return binascii.a2b_base64(urlsafe.replace("-", "+").replace("_", "/") + "=" * (-len(urlsafe) % 4)).hex()
    except ValueError:
        return "unreadable"


def accepted(distribution: Distribution, packages: Iterable[str]) -> bool:
    """Whether a distribution may serve as a backend package: ``nativeload-*``, or named by the user."""
    return distribution.name.startswith("nativeload-") or distribution.name in packages


def find(
    library: str, platform: Platform, *, packages: Sequence[str] = (), path: Sequence[str] | None = None
) -> Iterator[Bundle | Decision]:
    """Yield what each known distribution carries of a library, or why it cannot serve.

    Args:
        library: what is asked for.
        platform: the platform of this machine.
        packages: distributions the user named as backend packages.
        path: where to look instead of ``sys.path``.

    Raises:
        IntegrityError: a backend package's own description is not the one RECORD vouches for.
    """
    missing = set(packages)
    for distribution in distributions(path):
        missing.discard(distribution.name)
        foreign = _FOREIGN.get(distribution.name)
        if foreign and foreign[0] == library:
            found = _checked(distribution, lambda item: _foreign(item, library, platform))
        elif accepted(distribution, packages):
            found = _checked(distribution, lambda item: _own(item, library, platform))
        else:
            continue
        if found is not None:
            yield found
    for name in sorted(missing):
        yield _rejected(name, NOT_INSTALLED)


def _rejected(candidate: object, reason: str) -> Decision:
    return Decision(Source.INSTALLED, str(candidate), Rejected(reason))


def _checked(distribution: Distribution, read: _Reader) -> Bundle | Decision | None:
    try:
        return read(distribution)
    except OSError as error:
        return _rejected(distribution, f"its RECORD cannot be read ({error.strerror}): it is not verifiable")
    except LoadError as error:
        return _rejected(distribution, error.reason)
    except ValueError as error:  # a RECORD that is no UTF-8
        return _rejected(distribution, f"its RECORD cannot be read ({error}): it is not verifiable")


def _foreign(distribution: Distribution, library: str, platform: Platform) -> Bundle | Decision:
    folder = _FOREIGN[distribution.name][1]
    hashes = {
        os.path.join(distribution.root, name): digest
        for name, digest in record(distribution).items()
        if os.path.dirname(name) == folder
    }
    if distribution.name == "xllamacpp":
        return _xllamacpp(distribution, library, platform, hashes)
    parts = classify(hashes, library)
    if not has_library(parts["core"], library):
        return _rejected(distribution, f"RECORD vouches for no {library} library in {folder}")
    return _bundle(distribution, library, platform, _vouched(parts, hashes))


def _xllamacpp(
    distribution: Distribution, library: str, platform: Platform, hashes: dict[str, str]
) -> Bundle | Decision:
    """The module is the library: llama.cpp and ggml are linked into it, and it exports their C functions."""
    if platform.startswith("windows"):
        return _rejected(distribution, "its Windows module exports no C functions")
    modules = [path for path in hashes if os.path.basename(path).startswith("xllamacpp.") and path.endswith(".so")]
    if len(modules) != 1:
        return _rejected(distribution, f"RECORD vouches for {len(modules)} xllamacpp modules, not one")
    main = LibraryFile(path=modules[0], role=Role.CORE, label=library)
    return _bundle(distribution, library, platform, _vouched({"core": (main,)}, hashes))


def _vouched(parts: dict[str, tuple[LibraryFile, ...]], hashes: dict[str, str]) -> dict[str, tuple[LibraryFile, ...]]:
    return {key: tuple(replace(file, declared=hashes[file.path]) for file in files) for key, files in parts.items()}


def _bundle(
    distribution: Distribution, library: str, platform: Platform, parts: dict[str, tuple[LibraryFile, ...]]
) -> Bundle:
    return Bundle(
        library=library,
        platform=platform,
        source=Source.INSTALLED,
        origin=str(distribution),
        directory=os.path.dirname(parts["core"][-1].path),
        vouched="RECORD",
        core=parts["core"],
        cpus=parts.get("cpus", ()),
        gpus=parts.get("gpus", ()),
        runtime=parts.get("runtime", ()),
    )


def _own(distribution: Distribution, library: str, platform: Platform) -> Bundle | Decision | None:
    """Return a backend package's files, why it cannot serve, or None where it carries another library."""
    hashes = record(distribution)
    names = [name for name in hashes if os.path.basename(name) == backend_package.FILE]
    if len(names) != 1:
        return _rejected(distribution, f"RECORD vouches for {len(names)} {backend_package.FILE}, not one")
    path = os.path.join(distribution.root, names[0])
    described = backend_package.read(path, digest=hashes[names[0]])
    if described.library != library:
        return None
    if described.platform != platform:
        return _rejected(distribution, f"made for {described.platform}, and this is {platform}")
    prefix = os.path.dirname(names[0])
    for name, declared in described.digests.items():
        vouched = hashes.get(f"{prefix}/{described.directory}/{name}" if prefix else f"{described.directory}/{name}")
        if vouched != declared:
            raise IntegrityError(os.path.join(path, name), expected=f"sha256 {declared}", actual=f"RECORD {vouched}")
    return replace(described.bundle(path), origin=str(distribution))


def bundled(soname: str, *, path: Sequence[str] | None = None) -> Iterator[LibraryFile]:
    """Yield copies of a system library that installed distributions bring, vouched for by their RECORD.

    Only a file with that very SONAME helps: the loader knows it by no other name, and auditwheel renames most of them.
    """
    from nativeload.elf import read_elf

    for distribution in distributions(path):
        try:
            hashes = record(distribution)
        except (OSError, ValueError):  # no RECORD, or one that is no UTF-8
            continue
        for name, digest in hashes.items():
            file = os.path.join(distribution.root, name)
            if os.path.basename(name).startswith(soname.partition(".so")[0]) and ".so" in name:
                try:
                    found = read_elf(file).soname == soname
                except LoadError:
                    continue
                if found:
                    yield LibraryFile(path=file, role=Role.RUNTIME, label=soname, declared=digest)


def unaccepted(packages: Sequence[str] = (), *, path: Sequence[str] | None = None) -> Iterator[Decision]:
    """Yield distributions with a backend description that are not accepted (for `doctor`: it reads all RECORDs)."""
    for distribution in distributions(path):
        if accepted(distribution, packages) or distribution.name in _FOREIGN:
            continue
        try:
            carries = any(os.path.basename(name) == backend_package.FILE for name in record(distribution))
        except (OSError, ValueError):
            continue
        if carries:
            hint = f"not accepted: name it with with_backend_package({distribution.name!r})"
            yield _rejected(distribution, hint)


if TYPE_CHECKING:
    from collections.abc import Callable

    _Reader = Callable[[Distribution], Bundle | Decision | None]
