"""Which models do the benchmarks run: random weights of a known shape, so that nothing has to be fetched?

One rule: the same shape and seed give the same bytes, nothing but the standard library writes them, and what such a
model says is ASCII and never ends: only whole words can be drawn, each with one blank before it.

    python benchmarks/random_model.py {decode,many} FILE.gguf [--seed 1]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5  # enum gguf_type
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # enum llama_token_type
_ALIGNMENT = 32  # bytes, between tensors
_BLOCK = 32  # weights
_SILENT = -100.0  # times what the first dimension holds (5 or so): no such token is ever drawn


class Format(NamedTuple):
    """How weights are stored: blocks of 32, all of them with a mean of 0, or sums would grow from layer to layer."""

    number: int  # enum ggml_type
    file_type: int  # enum llama_ftype
    size: int  # bytes a block

    def blocks(self, count: int, deviation: float, rng: random.Random) -> bytearray:
        """Return random blocks."""
        data = bytearray(count * self.size)
        if self is F16:
            raw = rng.randbytes(_BLOCK * count)
            halves = [struct.pack("<e", deviation * math.sqrt(12) * (byte - 127.5) / 256) for byte in range(256)]
            for place in range(2):
                data[place::2] = raw.translate(bytes(half[place] for half in halves))
            return data
        scale = struct.pack("<e", deviation / _PAIRS_DEVIATION)
        for place in range(self.size):
            fixed = scale[place : place + 1] * count
            data[place :: self.size] = fixed or rng.randbytes(count).translate(_PAIRS)
        return data

    def block(self, first: float) -> bytes:
        """Return a block of one number and zeros."""
        if self is F16:
            return struct.pack("<e", first) + bytes(self.size - 2)
        return struct.pack("<e", first / -8) + b"\x80" + b"\x88" * 15  # 8 is zero, 0 is -8 times the scale


F16 = Format(1, 1, 64)
Q4_0 = Format(2, 2, 18)
_PAIRS = bytes((byte & 15 or 8) | (byte >> 4 or 8) << 4 for byte in range(256))  # -7 to 7, twice as many zeros
_PAIRS_DEVIATION = math.sqrt(2 * sum(number**2 for number in range(8)) / 16)


class Shape(NamedTuple):
    """Sizes of a llama model; every head has its own keys and values."""

    n_vocab: int
    n_layer: int
    n_embd: int
    n_head: int
    n_ff: int
    n_ctx: int
    format: Format

    @property
    def n_params(self) -> int:
        """How many weights it has."""
        return sum(math.prod(sizes) for _, sizes in _tensors(self))


DECODE = Shape(n_vocab=32_000, n_layer=1, n_embd=64, n_head=2, n_ff=128, n_ctx=8192, format=F16)
"""Costs next to nothing, so that what a binding adds to a token can be seen."""

MANY = Shape(n_vocab=8_000, n_layer=8, n_embd=768, n_head=12, n_ff=2048, n_ctx=8192, format=Q4_0)
"""69 million weights: more than a processor keeps near, as in a real model."""


def pieces(n_vocab: int) -> list[tuple[str, int]]:
    """Return a vocabulary of (piece, type): what every SPM vocabulary has, the letters, and made-up words."""
    known = [("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL)]
    known += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    known += [(letter, _NORMAL) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    syllables = [consonant + vowel for consonant in "bdfghjklmnprstvwyzcq" for vowel in "aeiou"]
    base = len(syllables)
    for index in range(n_vocab - len(known)):
        mixed = index * 617_389 % base**3  # coprime to 10: no word comes twice
        word = syllables[mixed % base] + syllables[mixed // base % base] + syllables[mixed // base**2]
        known.append(("▁" + word, _NORMAL))
    return known


def n_silent() -> int:
    """Return how many of the first tokens are never drawn: all but the words."""
    return len(pieces(0))


def write_model(path: Path, shape: Shape, *, seed: int = 1) -> Path:
    """Write a model, or leave the one that is there; return its path.

    Args:
        path: the file; it appears whole or not at all.
        shape: the sizes.
        seed: of the weights.
    """
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            for piece in _content(shape, random.Random(seed)):  # noqa: S311 - noise, no secret
                file.write(piece)
        part.replace(path)
    return path


def _content(shape: Shape, rng: random.Random) -> Iterator[bytes | bytearray]:
    """Yield the file piece by piece: header, metadata, where the tensors lie, the tensors."""
    facts, tensors = _facts(shape), list(_tensors(shape))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts)) + b"".join(facts)
    offset = 0
    for name, sizes in tensors:
        kind = shape.format.number if len(sizes) > 1 else 0  # the norms are F32
        head += _string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
        offset += _padded(_n_bytes(shape.format, sizes))
    yield head.ljust(_padded(len(head)), b"\0")
    for name, sizes in tensors:
        data = _weights(name, sizes, shape, rng) if len(sizes) > 1 else struct.pack("<f", 1.0) * sizes[0]
        yield data
        yield bytes(_padded(len(data)) - len(data))


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _n_bytes(kind: Format, sizes: tuple[int, ...]) -> int:
    return math.prod(sizes) // _BLOCK * kind.size if len(sizes) > 1 else 4 * sizes[0]


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and sizes, columns first as ggml counts them."""
    wide, ff = shape.n_embd, shape.n_ff
    yield "token_embd.weight", (wide, shape.n_vocab)
    yield "output_norm.weight", (wide,)
    yield "output.weight", (wide, shape.n_vocab)
    for layer in range(shape.n_layer):
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (wide,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", (wide, wide)
        for name, sizes in (("ffn_gate", (wide, ff)), ("ffn_up", (wide, ff)), ("ffn_down", (ff, wide))):
            yield f"blk.{layer}.{name}.weight", sizes


def _weights(name: str, sizes: tuple[int, ...], shape: Shape, rng: random.Random) -> bytearray:
    """Return random blocks of such a size that numbers stay near 1 on their way through the layers.

    The first block of an embedding is the same for all tokens and large in its first dimension, and that of an output
    row looks at this dimension alone: so a token can be kept from ever being drawn, whatever the other weights are.
    """
    columns, rows = sizes
    per_row = columns // _BLOCK
    deviation = 1.0 if name == "token_embd.weight" else 1 / math.sqrt(columns)
    data = shape.format.blocks(per_row * rows, deviation, rng)
    if name == "token_embd.weight":
        first = shape.format.block(math.sqrt(columns)) * rows
    elif name == "output.weight":
        first = shape.format.block(_SILENT) * n_silent() + shape.format.block(0.0) * (rows - n_silent())
    else:
        return data
    for place in range(shape.format.size):
        data[place :: per_row * shape.format.size] = first[place :: shape.format.size]
    return data


def _facts(shape: Shape) -> list[bytes]:
    """Return the metadata, one entry each."""
    vocabulary = pieces(shape.n_vocab)
    numbers = {
        "llama.vocab_size": shape.n_vocab,
        "llama.context_length": shape.n_ctx,
        "llama.embedding_length": shape.n_embd,
        "llama.block_count": shape.n_layer,
        "llama.feed_forward_length": shape.n_ff,
        "llama.attention.head_count": shape.n_head,
        "llama.attention.head_count_kv": shape.n_head,
        "llama.rope.dimension_count": shape.n_embd // shape.n_head,
        "general.file_type": shape.format.file_type,
        "general.quantization_version": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return [
        _fact("general.architecture", _STRING, _string("llama")),
        _fact("general.name", _STRING, _string(f"random weights, {shape.n_params} of them")),
        *(_fact(key, _U32, struct.pack("<I", value)) for key, value in numbers.items()),
        _fact("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5)),
        _fact("tokenizer.ggml.model", _STRING, _string("llama")),
        _fact("tokenizer.ggml.add_bos_token", _BOOL, b"\1"),
        _fact("tokenizer.ggml.tokens", _ARRAY, _array(_STRING, [_string(piece) for piece, _ in vocabulary])),
        _fact("tokenizer.ggml.scores", _ARRAY, _array(_F32, [struct.pack("<f", -i) for i in range(len(vocabulary))])),
        _fact("tokenizer.ggml.token_type", _ARRAY, _array(_I32, [struct.pack("<i", kind) for _, kind in vocabulary])),
    ]


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _fact(key: str, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _array(kind: int, values: Sequence[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def main() -> int:
    """Write one of the two models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=["decode", "many"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shape = DECODE if options.model == "decode" else MANY
    path = write_model(options.file, shape, seed=options.seed)
    print(f"{path}  {shape.n_params} weights  {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
