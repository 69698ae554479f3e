"""Why was something not found?

One rule: a probe that fails leaves one printable line, ``<what>: <why>``, and never an exception.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def one_line(text: object) -> str:
    """Return foreign text (a device's name, a loader's error) with spaces for what cannot be printed."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def attempt(what: str, probe: Callable[[], T], otherwise: T, notes: list[str]) -> T:
    """Return what ``probe`` finds; if it fails, note why and return ``otherwise``."""
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - whatever a driver or a /proc file does, detection goes on
        notes.append(f"{what}: {one_line(error) or type(error).__name__}")
        return otherwise
