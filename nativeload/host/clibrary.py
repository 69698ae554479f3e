"""How is a driver's C library asked?

One rule: it is opened by the name the system loader knows, and each thing it cannot do is a DriverError of
one line.
"""

from __future__ import annotations

import ctypes

from nativeload.host.notes import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class DriverError(Exception):
    """A driver's library is absent or refuses; the text becomes a note."""


class CLibrary:
    """A library whose functions return 0 for success, opened under the first of its names that exists.

    Raises:
        DriverError: it cannot be opened; a function is missing or returns anything but 0.
    """

    def __init__(self, *names: str, error_text: str = "") -> None:
        self._error_text = error_text  # the library's own function from a status to a text
        failures = []
        for name in names:
            try:
                self._library = ctypes.CDLL(name)
            except OSError as error:
                absent = isinstance(error, FileNotFoundError) or str(error).startswith(f"{name}: cannot open")
                failures.append(f"{name} not found" if absent else one_line(error))
            else:
                self.name = name
                return
        raise DriverError(", ".join(failures))

    def function(self, name: str) -> Any:
        """Return a function as ctypes knows it, for those that return no status."""
        try:
            return getattr(self._library, name)
        except AttributeError:
            raise DriverError(f"{self.name} has no function {name}") from None

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that returns a status."""
        status: int = self.function(name)(*arguments)
        if status:
            raise DriverError(f"{name} of {self.name} failed with {status}{self._explain(status)}")

    def _explain(self, status: int) -> str:
        explain = getattr(self._library, self._error_text, None) if self._error_text else None
        if explain is None:
            return ""
        explain.restype = ctypes.c_char_p
        text = explain(status)
        return f" ({decoded(text)})" if text else ""


def decoded(text: bytes) -> str:
    """Return a C string as one printable line."""
    return one_line(text.decode("utf-8", "replace")).strip()
