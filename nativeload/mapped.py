"""Which files are in this process already, and would one of them be taken for a file of a set?

One rule: glibc matches what a library needs by SONAME, so two builds of ggml under one name share the first one opened;
the second one is refused before anything of it is.
"""

from __future__ import annotations

import os

from nativeload.errors import LoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nativeload.resolve.resolution import LibraryFile

_MAPS = "/proc/self/maps"
_FIELDS = 6  # of a line of /proc/self/maps that ends in a path


def mapped_files() -> list[str]:
    """Return the files mapped into this process (Linux; elsewhere nothing is known)."""
    try:
        with open(_MAPS, encoding="utf-8", errors="surrogateescape") as maps:
            lines = [line.split(None, _FIELDS - 1) for line in maps]
    except OSError:
        return []
    paths = (parts[-1].rstrip("\n") for parts in lines if len(parts) == _FIELDS)
    return list(dict.fromkeys(path for path in paths if path.startswith("/")))


def refuse_clash(files: Sequence[LibraryFile], sonames: Iterable[str]) -> None:
    """Refuse files of which one is mapped under the same SONAME from elsewhere: dependants would bind to that one.

    Args:
        files: the files of a set.
        sonames: ``name=soname`` of each, as the probe read them.

    Raises:
        LoadError: naming both files.
    """
    from nativeload.resolve.bundle import stem_of

    known = dict(item.split("=", 1) for item in sonames)
    mine = {os.path.realpath(file.path) for file in files}
    stems = {stem: file for file in files if (stem := stem_of(file.name)) is not None}
    for path in mapped_files():
        file = stems.get(stem_of(os.path.basename(path)) or "")
        if file is not None and path not in mine and known.get(file.name, file.name) == _soname(path):
            reason = f"another {os.path.basename(path)} is already in this process: {path}"
            hint = "Two builds of ggml under one name cannot share a process: use a process for each."
            raise LoadError(file.path, reason, hint=hint)


def _soname(path: str) -> str:
    from nativeload.elf import read_elf

    try:
        return read_elf(path).soname or os.path.basename(path)
    except LoadError:  # it is mapped, so the loader could read it; its name is all there is to go by
        return os.path.basename(path)
