"""Where do the loader's and the native library's lines go?

One rule: nothing is printed. Lines go to the user's callback, else to stdlib logging if the program uses it at all;
logging is never imported for them (it costs 5 ms, and a program that did not import it has no handler).
"""

from __future__ import annotations

import sys

from nativeload.errors import PreferenceWarning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # logging's numbers


def warn(text: str) -> None:
    """Warn at the line of the program that called us."""
    import warnings

    depth = 1
    while (sys._getframe(depth).f_globals.get("__name__") or "").partition(".")[0].startswith("nativeload"):  # noqa: SLF001
        depth += 1
    warnings.warn(text, PreferenceWarning, stacklevel=depth + 1)


def teller(callback: Callable[[int, str], None] | None) -> Callable[[str], None]:
    """Return what hands on the lines of the loader's own work, as `emit` does."""
    return lambda line: emit(callback, "nativeload", INFO, line)


def emit(callback: Callable[[int, str], None] | None, name: str, level: int, line: str) -> None:
    """Hand one line on: to the callback, else to the logger ``name`` (``nativeload``, ``nativeload.llama``)."""
    if callback is not None:
        try:
            callback(level, line)
        except Exception:  # noqa: BLE001 - a failing listener is shown, as logging does, and harms nothing
            sys.excepthook(*sys.exc_info())
        return
    logging = sys.modules.get("logging")
    if logging is None:
        return
    root = logging.getLogger("nativeload")
    if not root.handlers:  # without one, logging prints warnings to stderr by itself
        root.addHandler(logging.NullHandler())
    logging.getLogger(name).log(level, "%s", line)
