"""Which library did the user name?

One rule: strict. What is named and cannot serve raises; nothing else is looked at in its place.
"""

from __future__ import annotations

import os

from nativeload.cache import check_directory
from nativeload.errors import CacheError, ConfigError, LoadError
from nativeload.resolve.bundle import Bundle, classify, has_library, role_of
from nativeload.resolve.resolution import LibraryFile, Source
from nativeload.value import replace
from nativeload.variant import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload.variant import Platform


def find(library: str, path: str, platform: Platform, *, sha256: str | None = None) -> Bundle:
    """Return what lies at a path that the user named.

    A file beside a split build (``libllama.so`` next to ``libggml-base.so``) brings its siblings; any other file is
    taken as self-contained, and the system loader finds what it needs.

    Raises:
        LoadError: nothing there, or not a library.
        ConfigError: a digest for a directory.
    """
    if os.path.isdir(path):
        if sha256:
            raise ConfigError("sha256", "a digest names a file, and the path is a directory", hint=f"Path: {path}")
        return _in_directory(library, path, platform)
    try:
        os.stat(path)
    except OSError as error:
        hint = "Check the path: it must name a library file, or a directory that holds one."
        raise LoadError(path, (error.strerror or str(error)).lower(), hint=hint) from error
    if not os.path.isfile(path):
        raise LoadError(path, "neither a regular file nor a directory")
    return _file(library, path, platform, sha256)


def search(library: str, directory: str, platform: Platform) -> Bundle | None:
    """Return what lies in a search directory, or None where it has no such library.

    Raises:
        LoadError: somebody else could write to the directory, or it holds two builds.
    """
    _check_ownership(directory)
    parts = classify(_files(directory), library)
    for file in (*parts["core"], *parts["cpus"], *parts["gpus"], *parts["runtime"]):
        if os.name == "posix" and os.stat(file.path).st_mode & 0o022:
            raise LoadError(file.path, "others can write to this file", hint=f"Run: chmod go-w {file.path}")
    return _bundle(library, platform, directory, directory, parts) if has_library(parts["core"], library) else None


def _check_ownership(directory: str) -> None:
    try:
        check_directory(directory, shared=True)
    except CacheError as error:
        reason = f"others can write to this search directory ({error.args[0]})"
        raise LoadError(directory, reason, hint="It must belong to root or to you alone.") from error


def _in_directory(library: str, path: str, platform: Platform) -> Bundle:
    parts = classify(_files(path), library)
    if not has_library(parts["core"], library):
        raise LoadError(path, f"no {library} library in this directory", hint=f"Expected lib{library}.so or the like.")
    return _bundle(library, platform, path, path, parts)


def _file(library: str, path: str, platform: Platform, sha256: str | None) -> Bundle:
    directory = os.path.dirname(path)
    main = LibraryFile(path=path, role=Role.CORE, label=library, declared=sha256)
    parts: dict[str, tuple[LibraryFile, ...]] = {"core": (main,)}
    if role_of(path, library) == (Role.CORE, library):
        others = [item for item in _files(directory) if role_of(item, library) != (Role.CORE, library)]
        siblings = classify(others, library)
        if siblings["core"]:
            parts = {**siblings, "core": (*siblings["core"], main)}
    bundle = _bundle(library, platform, path, directory, parts)
    return replace(bundle, vouched="sha256") if sha256 else bundle


def _files(directory: str) -> list[str]:
    try:
        return [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    except OSError as error:
        raise LoadError(directory, error.strerror or str(error)) from error


def _bundle(
    library: str, platform: Platform, origin: str, directory: str, parts: dict[str, tuple[LibraryFile, ...]]
) -> Bundle:
    return Bundle(
        library=library,
        platform=platform,
        source=Source.EXPLICIT,
        origin=origin,
        directory=directory,
        core=parts["core"],
        cpus=parts.get("cpus", ()),
        gpus=parts.get("gpus", ()),
        runtime=parts.get("runtime", ()),
    )
