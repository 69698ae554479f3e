"""What does the macOS kernel say under a name?

One rule: a name that the kernel does not know is None. Never run by this project's own tests, which run on
Linux.
"""

from __future__ import annotations

import ctypes

_TEXT_BYTES = 256


def number(name: str) -> int | None:
    """Return an integer of four or eight bytes."""
    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)  # little-endian: four bytes fill the low half
    return value.value if _ask(name, value, size) else None


def text(name: str) -> str | None:
    """Return a string."""
    value, size = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.c_size_t(_TEXT_BYTES)
    return value.value.decode(errors="replace") if _ask(name, value, size) else None


def _ask(name: str, value: ctypes.c_uint64 | ctypes.Array[ctypes.c_char], size: ctypes.c_size_t) -> bool:
    sysctlbyname = ctypes.CDLL(None).sysctlbyname
    status: int = sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return status == 0
