"""How does a file that C writes come into its place whole or not at all?

One rule: C writes beside it; only what is complete takes the name. What was there before stays until then, also where C
has it mapped.
"""

from __future__ import annotations

import contextlib
import os

from nativeload_llama.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def written(path: str) -> Iterator[str]:
    """Give the name to write to, and put the file in its place at the end.

    Raises:
        ModelError: nothing can be written there, or what was written is no GGUF file.
    """
    place = f"{path}.{os.getpid()}.part"
    try:
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be written: {error}") from error
    try:
        if os.path.isdir(path):
            raise ModelError(path, "a directory")
        yield place
        _check(path, place)
        os.replace(place, path)
    except OSError as error:
        raise ModelError(path, f"cannot be written: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # it is where it belongs
            os.unlink(place)


def _check(path: str, place: str) -> None:
    """Refuse a file that C did not finish: it writes the header last."""
    with open(place, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(path, "llama.cpp did not finish the file: is the disk full?")
