"""What does a GGUF file say?

One rule: every number in the file is hostile: nothing is read, sliced or counted by it before it is known to lie within
the file.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from _collections_abc import Mapping  # as os does: collections.abc brings all of collections
from itertools import repeat

from nativeload.value import Value
from nativeload_llama.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    _Values = Mapping[str, Any]
else:
    _Values = Mapping

U8, I8, U16, U32, I32, F32, BOOL, STRING, _ARRAY = 0, 1, 2, 4, 5, 6, 7, 8, 9
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VERSIONS = (2, 3)
_MOST = 1 << 18  # keys, tensors; a model of many experts that were never merged has 50,000
_MOST_TEXTS = 1 << 22  # elements of all arrays of text; the largest vocabularies have 800,000 tokens and merges
_MOST_LAYERED = 512  # LLAMA_MAX_LAYERS: what is said for each layer
_MOST_DIMENSIONS, _LONGEST_NAME = 4, 63  # GGML_MAX_DIMS, GGML_MAX_NAME and its NUL

# ggml's types: number -> name, elements of a block, bytes of a block (ggml-common.h)
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip


class GGUFTensor(Value):
    """A tensor: ``shape`` in ggml's order (rows first), ``offset`` from `GGUFFile.data_offset`, ``size`` in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


class GGUFFile(Value, eq=False):
    """What the header of a GGUF file says; nothing of the file stays open.

    Attributes:
        path: the file.
        version: of the format, 2 or 3.
        metadata: key -> number, bool, text or list; an array becomes a list when it is asked for.
        tensors: in the order of the file.
        alignment: of the tensors' data, in bytes.
        data_offset: where the tensors' data begins.
        file_size: in bytes.
    """

    path: str
    version: int
    metadata: Metadata
    tensors: tuple[GGUFTensor, ...]
    alignment: int
    data_offset: int
    file_size: int

    def tensor_data(self, name: str) -> memoryview[float]:
        """Read a tensor of type F32 or F16; return its elements as floats, rows first.

        Raises:
            ModelError: no such tensor, one of another type, or the file has become shorter.
        """
        tensor = next((one for one in self.tensors if one.name == name), None)
        if tensor is None:
            raise ModelError(self.path, f"there is no tensor {name}")
        if tensor.type not in {"F32", "F16"}:
            raise ModelError(self.path, f"{name} is of type {tensor.type}, and F32 and F16 are read")
        with open(self.path, "rb") as file:
            file.seek(self.data_offset + tensor.offset)
            data = file.read(tensor.size)
        if len(data) != tensor.size:
            raise ModelError(self.path, f"the file has become shorter: {name} is not all there")
        if tensor.type == "F32":
            return memoryview(data).cast("f")
        wide = struct.pack(f"<{tensor.size // 2}f", *struct.unpack(f"<{tensor.size // 2}e", data))
        return memoryview(wide).cast("f")


class Metadata(_Values):
    """The keys of a GGUF file and their values; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, header: bytes, fields: dict[str, Field]) -> None:
        self._header, self._fields = header, fields
        self._lists: dict[str, list[Any]] = {}

    def __getitem__(self, key: str) -> Any:
        field = self._fields[key]
        if field.count is None:
            return field.values(self._header)[0]
        if key not in self._lists:
            self._lists[key] = field.values(self._header)
        return self._lists[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields  # Mapping's own would make the list

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def first(self, key: str, most: int) -> tuple[list[Any], int | None]:
        """Return the first elements of an array, and how many it has (None: one number or text); no more is read."""
        field = self._fields[key]
        shorter = field if field.count is None else Field(field.kind, field.place, min(field.count, most))
        return shorter.values(self._header), field.count


class Field(Value):
    """Where a value lies: ``count`` elements of an array, or None: one number or text."""

    kind: int
    place: int
    count: int | None

    def values(self, data: bytes | mmap.mmap) -> list[Any]:
        """Return its elements, or the one number or text there is."""
        count = 1 if self.count is None else self.count
        if self.kind == STRING:
            return [text.decode("utf-8", "replace") for text in _texts(data, self.place, count)[0]]
        return list(struct.unpack_from(f"<{count}{FORMATS[self.kind]}", data, self.place))


def read(path: str | os.PathLike[str]) -> GGUFFile:
    """Read the header of a GGUF file.

    Raises:
        ModelError: no such file, not GGUF, damaged, of version 1, for big-endian machines, or with types not known.
    """
    name = os.fspath(path)
    try:
        with mapped(name) as data:
            return Header(data).file(name)
    except DamageError as damage:
        raise ModelError(name, str(damage)) from None
    except OSError as error:
        raise ModelError(name, error.strerror or str(error)) from error
    except ValueError as error:  # a NUL byte in the path
        raise ModelError(repr(name), str(error)) from error


def fault(path: str) -> str | None:
    """Return why llama.cpp would end the process over a model file, or None; damage that it notices itself included."""
    from nativeload_llama.gguf.faults import fault_of

    return fault_of(path)


def printable(text: str, most: int = _LONGEST_NAME) -> str:
    """Return a text of the file's as an error can have it: short, and nothing in it acts on a terminal."""
    short = text if len(text) <= most else f"{text[:most]}..."
    return short if short.isprintable() else ascii(short)


class DamageError(Exception):
    """The file is no GGUF file, or not any more; the text says why."""


def mapped(path: str) -> mmap.mmap:
    """Map a regular file that is not empty."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise DamageError("a directory" if stat.S_ISDIR(mode) else "not a regular file")
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise DamageError("not a GGUF file: it is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Header:
    """A header, read to its end and found whole: where its values lie, and its tensors (of unknown types, size -1)."""

    def __init__(self, data: mmap.mmap, *, keep: str = "") -> None:
        self.data, self.place, self.kept = data, 0, list[bytes]()
        self.fields = dict[str, Field]()
        self.tensors = list[tuple[str, tuple[int, ...], int, int, int]]()  # name, shape, type, offset, size
        self._texts_left, self._keep = _MOST_TEXTS, keep
        try:
            self._read()
        except (struct.error, OverflowError):
            raise DamageError(f"cut short, or damaged: {len(data):,} bytes do not hold its header") from None

    def _read(self) -> None:
        if self._bytes(4) != b"GGUF":
            raise DamageError("not a GGUF file")
        self.version = self._number("I")
        _check_version(self.version)
        n_tensors, n_fields = self._number("Q"), self._number("Q")
        for what, count, least in (("tensors", n_tensors, 24), ("keys", n_fields, 13)):
            if count > min(_MOST, (len(self.data) - self.place) // least):
                raise DamageError(f"damaged: it says that it has {count:,} {what}")
        for _ in range(n_fields):
            self._read_field()
        self.alignment = self.number("general.alignment", 0 if "general.alignment" in self.fields else 32)
        if not self.alignment or self.alignment & (self.alignment - 1):
            raise DamageError(f"general.alignment is {self.alignment}, and must be a power of two")
        for _ in range(n_tensors):
            self.tensors.append(self._tensor())
        self.data_offset = self.place + -self.place % self.alignment
        self._check_places()

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return int(value)

    def _bytes(self, count: int) -> bytes:
        self._skip(count)
        return self.data[self.place - count : self.place]

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self.data):
            raise struct.error

    def _read_field(self) -> None:
        raw = self._bytes(self._number("Q"))
        key, kind, count = raw.decode("utf-8", "backslashreplace"), self._number("I"), None
        if not raw or key in self.fields:
            raise DamageError(f"damaged: the key {printable(key)} is there twice" if raw else "damaged: a key is empty")
        if kind == _ARRAY:
            kind, count = self._number("I"), self._number("Q")
        if kind != STRING and kind not in FORMATS:
            raise DamageError(f"damaged: {printable(key)} is of type {kind}, which is none")
        self.fields[key] = Field(kind, self.place, count)
        if kind != STRING:
            self._skip((1 if count is None else count) * struct.calcsize(f"<{FORMATS[kind]}"))
        elif count is None:
            self._skip(self._number("Q"))
        else:
            self._read_texts(key, count)

    def _read_texts(self, key: str, count: int) -> None:
        self._texts_left -= count
        if self._texts_left < 0 or 8 * count > len(self.data) - self.place:
            raise DamageError(f"damaged: it says that {printable(key)} has {count:,} elements")
        if key == self._keep:
            self.kept, end = _texts(self.data, self.place, count)
        else:
            end = _end_of_texts(self.data, self.place, count)
        self._skip(end - self.place)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int, int]:
        name = self._bytes(self._number("Q")).decode("utf-8", "backslashreplace")
        dimensions = self._number("I")
        if not 0 < len(name) <= _LONGEST_NAME or dimensions > _MOST_DIMENSIONS:
            raise DamageError(f"damaged: the tensor {printable(name)} has {dimensions} dimensions")
        shape = tuple([self._number("Q") for _ in range(dimensions)])
        kind, offset = self._number("I"), self._number("Q")
        _, block, size = TYPES.get(kind, ("", 1, 0))
        elements = math.prod(shape)
        if elements >= 1 << 63 or max(shape, default=0) >= 1 << 63 or (shape[0] if shape else 1) % block:
            raise DamageError(f"damaged: the tensor {printable(name)} has the shape {shape}")
        return name, shape, kind, offset, elements // block * size if size else -1

    def _check_places(self) -> None:
        """Refuse data outside of the file, and tensors that share some."""
        names, end, room = set[str](), 0, len(self.data) - self.data_offset
        for name, _, _, offset, size in sorted(self.tensors, key=lambda one: one[3:]):
            if name in names:
                raise DamageError(f"damaged: the tensor {printable(name)} is there twice")
            names.add(name)
            if offset % self.alignment or offset < end:
                raise DamageError(
                    f"damaged: the data of {printable(name)} begins within another tensor's, or off its alignment"
                )
            end = offset + max(size, 0)
            if end > room:
                more = f"{end - room:,} bytes"
                raise DamageError(f"cut short, or damaged: the data of {printable(name)} ends {more} after the file")

    def number(self, key: str, default: int) -> int:
        """Return a key's value where it is a 32-bit number without a sign, which is all that llama.cpp takes."""
        field = self.fields.get(key)
        known = field is not None and field.kind == U32 and field.count is None
        return int(field.values(self.data)[0]) if field is not None and known else default

    def numbers(self, key: str, kinds: frozenset[int]) -> list[Any]:
        """Return a key's number, or those of its array, where they are of one of these types, and not too many."""
        field = self.fields.get(key)
        if field is None or field.kind not in kinds or (field.count or 1) > _MOST_LAYERED:
            return []
        return field.values(self.data)

    def word(self, key: str) -> str:
        """Return a key's text as C sees it, to its first NUL; nothing where it is none."""
        field = self.fields.get(key)
        if field is None or field.kind != STRING or field.count is not None:
            return ""
        return str(field.values(self.data)[0]).partition("\0")[0]

    def file(self, path: str) -> GGUFFile:
        """Return what `read` returns.

        Raises:
            DamageError: a tensor is of an unknown type.
        """
        tensors = []
        for name, shape, kind, offset, size in self.tensors:
            if kind not in TYPES:
                raise DamageError(f"the tensor {printable(name)} is of type {kind}, which is not known here")
            tensors.append(GGUFTensor(name, shape, TYPES[kind][0], offset, size))
        metadata = Metadata(self.data[: self.place], self.fields)
        return GGUFFile(path, self.version, metadata, tuple(tensors), self.alignment, self.data_offset, len(self.data))


def _check_version(version: int) -> None:
    if version == 1:
        raise DamageError("GGUF version 1, which llama.cpp gave up in 2023")
    if version and not version & 0xFFFF:
        raise DamageError("a GGUF file for big-endian machines")
    if version not in _VERSIONS:
        raise DamageError(f"GGUF version {version}, and versions 2 and 3 are known")


def _texts(data: bytes | mmap.mmap, place: int, count: int) -> tuple[list[bytes], int]:
    """Return texts that follow each other, and where they end: beyond the data where the last one is cut short."""
    unpack, found = struct.Struct("<Q").unpack_from, list[bytes]()
    add = found.append
    for _ in repeat(None, count):
        end = place + 8 + unpack(data, place)[0]
        add(data[place + 8 : end])
        place = end
    return found, place


def _end_of_texts(data: mmap.mmap, place: int, count: int) -> int:
    """Return where texts end that follow each other; four at a time, as there are 280,000 merges to walk over."""
    unpack = struct.Struct("<Q").unpack_from
    for _ in repeat(None, count >> 2):
        place += unpack(data, place)[0] + 8
        place += unpack(data, place)[0] + 8
        place += unpack(data, place)[0] + 8
        place += unpack(data, place)[0] + 8
    for _ in repeat(None, count & 3):
        place += unpack(data, place)[0] + 8
    return place
