"""How do tests write GGUF files that no converter would write?

One rule: nothing is checked and nothing is corrected: what a test puts into a `Gguf` is what the file has.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
"""The types of metadata values."""

FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

TENSOR_F32, TENSOR_F16, TENSOR_Q4_0, TENSOR_Q8_0 = 0, 1, 2, 8


@dataclass
class Field:
    """A key and its value; of an array, ``item`` is the type of its elements."""

    key: bytes
    kind: int
    value: Any
    item: int = U32
    claimed: int | None = None  # elements that the file says there are

    def to_bytes(self) -> bytes:
        """Write it as it lies in the file."""
        head = text(self.key) + struct.pack("<I", self.kind)
        if self.kind not in FORMATS and not isinstance(self.value, list):
            return head + (text(self.value) if isinstance(self.value, bytes) else scalar(U32, int(self.value)))
        if not isinstance(self.value, list):
            return head + scalar(self.kind, self.value)
        count = len(self.value) if self.claimed is None else self.claimed
        return head + struct.pack("<IQ", self.item, count) + b"".join(scalar(self.item, one) for one in self.value)


@dataclass
class Tensor:
    """A tensor; without ``offset`` it lies behind the one before."""

    name: bytes
    shape: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class Gguf:
    """A GGUF file in pieces."""

    fields: list[Field] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    n_fields: int | None = None
    n_tensors: int | None = None

    def header(self) -> bytes:
        """Write everything before the data; not padded."""
        counts = (
            len(self.tensors) if self.n_tensors is None else self.n_tensors,
            len(self.fields) if self.n_fields is None else self.n_fields,
        )
        parts = [self.magic, struct.pack("<IQQ", self.version, *counts), *(one.to_bytes() for one in self.fields)]
        place = 0
        for tensor in self.tensors:
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            offset = place if tensor.offset is None else tensor.offset
            parts += [text(tensor.name), shape, struct.pack("<IQ", tensor.kind, offset)]
            place += len(padded(tensor.data, self.alignment))
        return b"".join(parts)

    def to_bytes(self) -> bytes:
        """Write the file."""
        data = [padded(tensor.data, self.alignment) for tensor in self.tensors]
        return b"".join([padded(self.header(), self.alignment), *data])

    def copy(self) -> Gguf:
        """Return one whose lists, fields and tensors can be changed; values are to be replaced, not changed."""
        return replace(
            self, fields=[replace(one) for one in self.fields], tensors=[replace(one) for one in self.tensors]
        )

    def get(self, key: str) -> Field:
        """Return the first field of that key."""
        return next(one for one in self.fields if one.key == key.encode())

    def put(self, key: str, kind: int, value: object, item: int = U32) -> None:
        """Set a field: in its place, or at the end."""
        made = Field(key.encode(), kind, value, item)
        for index, one in enumerate(self.fields):
            if one.key == made.key:
                self.fields[index] = made
                return
        self.fields.append(made)

    def tensor(self, name: str) -> Tensor:
        """Return the first tensor of that name."""
        return next(one for one in self.tensors if one.name == name.encode())


def text(value: bytes) -> bytes:
    """Write a text: its length and its bytes."""
    return struct.pack("<Q", len(value)) + value


def scalar(kind: int, value: Any) -> bytes:
    """Write one value; a type that is none is written as 32 bits."""
    return text(value) if kind == STRING else struct.pack("<" + FORMATS.get(kind, "I"), value)


def padded(data: bytes, alignment: int) -> bytes:
    """Fill up with zeros."""
    return data + bytes(-len(data) % alignment) if alignment > 0 else data


def parse(raw: bytes) -> Gguf:
    """Take a well-formed file to pieces; a second opinion on what the product reads."""
    place = 4

    def take(form: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from("<" + form, raw, place)
        place += struct.calcsize("<" + form)
        return value

    def take_one(kind: int) -> Any:
        return take(f"{take('Q')}s") if kind == STRING else take(FORMATS[kind])

    def take_field() -> Field:
        key, kind = take_one(STRING), take("I")
        if kind != ARRAY:
            return Field(key, kind, take_one(kind))
        item, count = take("I"), take("Q")
        return Field(key, kind, [take_one(item) for _ in range(count)], item)

    version, n_tensors, n_fields = take("I"), take("Q"), take("Q")
    fields = [take_field() for _ in range(n_fields)]
    found = []
    for _ in range(n_tensors):
        name = take_one(STRING)
        shape = tuple(take("Q") for _ in range(take("I")))
        found.append((name, shape, take("I"), take("Q")))
    start = place + -place % 32
    ends = [*sorted(offset for *_, offset in found)[1:], len(raw) - start]
    return Gguf(fields, [_tensor(raw, start, one, ends) for one in found], version)


def _tensor(raw: bytes, start: int, found: tuple[bytes, tuple[int, ...], int, int], ends: list[int]) -> Tensor:
    name, shape, kind, offset = found
    end = min(end for end in ends if end > offset)
    return Tensor(name, shape, kind, raw[start + offset : start + end])
