"""Would llama.cpp abort on this model file's header?

One rule: only what llama.cpp asserts is judged, and only what can be read is; anything else is left to llama.cpp,
which refuses it with an error.
"""

from __future__ import annotations

import mmap
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, llama-hparams.h
_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ENOUGH = 1 << 20  # keys, tensors, tokens: more is no model, and llama.cpp says so


def fault(path: str) -> str | None:
    """Return what llama.cpp would abort on, or None."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return next(_faults(_Header(data)), None)
    except (struct.error, KeyError, ValueError, OverflowError):
        return None


class _Header:
    """A place in a GGUF file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place = data, 4

    def number(self, kind: str) -> float:
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.place)
        self.place += struct.calcsize(f"<{kind}")
        return value  # type: ignore[no-any-return]

    def text(self) -> bytes:
        length = int(self.number("Q"))
        self.place += length
        if self.place > len(self.data):
            raise ValueError(length)
        return self.data[self.place - length : self.place]

    def texts(self, count: int) -> Iterator[bytes]:
        unpack, data, place = struct.Struct("<Q").unpack_from, self.data, self.place
        for _ in range(count):
            end = place + 8 + unpack(data, place)[0]
            yield data[place + 8 : end]
            place = end
        self.place = place


def _faults(header: _Header) -> Iterator[str]:
    header.number("I")
    tensors, keys = int(header.number("Q")), int(header.number("Q"))
    if max(tensors, keys) > _ENOUGH:
        return
    for _ in range(keys):
        key, kind = header.text().decode(), int(header.number("I"))
        if kind == _STRING:
            header.text()
        elif kind == _ARRAY:
            yield from _array_faults(header, key)
        else:
            yield from _number_faults(key, header.number(_SIZES[kind]))
    for _ in range(tensors):
        name, dimensions = header.text().decode(), int(header.number("I"))
        header.place += 8 * dimensions
        if int(header.number("I")) and name.endswith("norm.weight"):
            yield f"{name} is not of type F32"
        header.place += 8


def _number_faults(key: str, value: float) -> Iterator[str]:
    if key.endswith(".block_count") and not 1 <= value <= _MAX_LAYERS:
        yield f"{key} is {value}, and must be between 1 and {_MAX_LAYERS}"
    if key.endswith((".layer_norm_rms_epsilon", ".layer_norm_epsilon")) and not value >= 0:
        yield f"{key} is {value}, and must be 0 or more"


def _array_faults(header: _Header, key: str) -> Iterator[str]:
    kind, count = int(header.number("I")), int(header.number("Q"))
    if kind != _STRING:
        header.place += count * struct.calcsize(_SIZES[kind])
        return
    if count > _ENOUGH:
        raise ValueError(count)
    words = [word for word in header.texts(count) if word]
    if key == "tokenizer.ggml.tokens" and len(set(words)) != len(words):
        yield f"{len(words) - len(set(words))} tokens have the text of another one"
