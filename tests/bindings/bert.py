"""How do tests get a model that reads both ways, and one that ranks? A BERT of random numbers, written here.

One rule: it is as small as llama.cpp takes one, and the numbers of its classifier are known to the test.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bindings import gguf_writer as gguf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

N_EMBD, N_FF, N_HEAD, N_LAYER, N_CTX = 32, 64, 2, 2, 96
MEAN, RANK = 1, 4
WORDS = [
    "the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "who", "where", "is", "it", "big", "small",
    "and", "or", "not", "but",
]  # fmt: skip
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in WORDS)]
PAD, UNK, CLS, SEP, MASK = range(5)
NORMAL, CONTROL = 1, 3  # token types


@dataclass
class Head:
    """A classifier: rows of ``dense`` and ``out``, and what is added to each."""

    dense: list[list[float]]
    dense_bias: list[float]
    out: list[list[float]]
    out_bias: list[float]


def write(path: Path, *, pooling: int = MEAN, n_cls: int = 0, labels: int | None = None, template: str = "") -> Head:
    """Write a model.

    Args:
        path: the file.
        pooling: what the file says.
        n_cls: scores of its classifier; 0 writes none.
        labels: how many labels the file claims (default: as many as scores, where there is a classifier).
        template: how a query and a document are written, in place of a pair.
    """
    numbers = random.Random(7)
    head = Head(
        _rows(numbers, N_EMBD, N_EMBD), _row(numbers, N_EMBD), _rows(numbers, n_cls, N_EMBD), _row(numbers, n_cls)
    )
    made = gguf.Gguf(_fields(pooling, n_cls if labels is None else labels))
    if template:
        made.put("tokenizer.chat_template.rerank", gguf.STRING, template.encode())
    made.tensors = [gguf.Tensor(name.encode(), shape, gguf.TENSOR_F32, data) for name, shape, data in _weights(numbers)]
    if n_cls:
        made.tensors += [
            _matrix("cls.weight", head.dense),
            _vector("cls.bias", head.dense_bias),
            _matrix("cls.output.weight", head.out),
            _vector("cls.output.bias", head.out_bias),
        ]
    path.write_bytes(made.to_bytes())
    return head


def _fields(pooling: int, labels: int) -> list[gguf.Field]:
    def field(key: str, kind: int, value: object, item: int = gguf.U32) -> gguf.Field:
        return gguf.Field(key.encode(), kind, value, item)

    sizes = {"block_count": N_LAYER, "context_length": N_CTX, "embedding_length": N_EMBD, "feed_forward_length": N_FF}
    special = {"bos": CLS, "unknown": UNK, "seperator": SEP, "padding": PAD, "cls": CLS, "mask": MASK}
    fields = [
        field("general.architecture", gguf.STRING, b"bert"),
        *(field(f"bert.{name}", gguf.U32, size) for name, size in sizes.items()),
        field("bert.attention.head_count", gguf.U32, N_HEAD),
        field("bert.attention.layer_norm_epsilon", gguf.F32, 1e-12),
        field("bert.attention.causal", gguf.BOOL, value=False),
        field("bert.pooling_type", gguf.U32, pooling),
        field("tokenizer.ggml.model", gguf.STRING, b"bert"),
        field("tokenizer.ggml.tokens", gguf.ARRAY, [word.encode() for word in TOKENS], gguf.STRING),
        field("tokenizer.ggml.token_type", gguf.ARRAY, [CONTROL] * 5 + [NORMAL] * len(WORDS), gguf.I32),
        field("tokenizer.ggml.token_type_count", gguf.U32, 2),
        *(field(f"tokenizer.ggml.{name}_token_id", gguf.U32, token) for name, token in special.items()),
    ]
    if labels:
        names = [b"label %d" % number for number in range(labels)]
        fields.append(field("bert.classifier.output_labels", gguf.ARRAY, names, gguf.STRING))
    return fields


def _weights(numbers: random.Random) -> list[tuple[str, tuple[int, ...], bytes]]:
    matrices = {
        "token_embd": (N_EMBD, len(TOKENS)),
        "token_types": (N_EMBD, 2),
        "position_embd": (N_EMBD, N_CTX),
    }
    norms = ["token_embd_norm"]
    biased: dict[str, tuple[int, int]] = {}
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        biased |= {f"{block}.attn_{part}": (N_EMBD, N_EMBD) for part in ("q", "k", "v", "output")}
        biased |= {f"{block}.ffn_up": (N_EMBD, N_FF), f"{block}.ffn_down": (N_FF, N_EMBD)}
        norms += [f"{block}.attn_output_norm", f"{block}.layer_output_norm"]
    found: list[tuple[str, tuple[int, ...], bytes]] = [
        (f"{name}.weight", shape, _floats(_row(numbers, shape[0] * shape[1])))
        for name, shape in {**matrices, **biased}.items()
    ]
    found += [(f"{name}.bias", (shape[1],), _floats(_row(numbers, shape[1]))) for name, shape in biased.items()]
    for name in norms:
        found.append((f"{name}.weight", (N_EMBD,), _floats([1 + value for value in _row(numbers, N_EMBD)])))
        found.append((f"{name}.bias", (N_EMBD,), _floats(_row(numbers, N_EMBD))))
    return found


def _row(numbers: random.Random, count: int) -> list[float]:
    return [numbers.gauss(0, 0.3) for _ in range(count)]


def _rows(numbers: random.Random, count: int, length: int) -> list[list[float]]:
    return [_row(numbers, length) for _ in range(count)]


def _floats(row: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(row)}f", *row)


def _matrix(name: str, rows: list[list[float]]) -> gguf.Tensor:
    data = b"".join(map(_floats, rows))
    return gguf.Tensor(name.encode(), (len(rows[0]), len(rows)), gguf.TENSOR_F32, data)


def _vector(name: str, row: list[float]) -> gguf.Tensor:
    return gguf.Tensor(name.encode(), (len(row),), gguf.TENSOR_F32, _floats(row))
