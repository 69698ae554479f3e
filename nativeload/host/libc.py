"""Which C library does this process use?

One rule: the library that is mapped answers, not files on disk. Only Linux has a choice of them.
"""

from __future__ import annotations

import ctypes

from nativeload.host.facts import Libc

MAPS = "/proc/self/maps"


def detect() -> Libc:
    """Ask the mapped C library; musl has no version call, so its version stays empty."""
    ask = getattr(ctypes.CDLL(None), "gnu_get_libc_version", None)
    if ask is not None:
        ask.restype, ask.argtypes = ctypes.c_char_p, ()
        return Libc(name="glibc", version=parse_version(ask().decode("ascii", "replace")))
    with open(MAPS, encoding="utf-8", errors="replace") as maps:
        return from_maps(maps.read())


def from_maps(maps: str) -> Libc:
    """Name the C library whose loader is among the mapped files: musl's is ``ld-musl-<machine>.so.1``."""
    return Libc(name="musl" if "/ld-musl-" in maps else "other")


def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``2.36.9000-dev`` is ``(2, 36, 9000)``."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
