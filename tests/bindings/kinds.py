"""How do tests get models of other kinds than the bundled one: with an encoder, a state, learned positions, a window?

One rule: as small as llama.cpp takes them, without a vocabulary, and with weights that mean nothing; they compute.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

from tests.bindings.gguf_writer import BOOL, F32, STRING, TENSOR_F32, U32, Gguf, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, LAYERS, TOKENS, TRAINED, INNER = 32, 2, 48, 64, 64
"""Numbers of the hidden state, layers, tokens, positions it was trained with, numbers in the middle of a layer."""

_SQUARE = (WIDTH, WIDTH)


def write(kind: str) -> bytes:
    """Return a model file: ``gpt2`` (learned positions), ``bert`` (an encoder), ``t5`` (an encoder and a decoder),
    ``mamba`` (a state in place of a cache) or ``gemma2`` (a cache with a window)."""
    made, draw = Gguf(), random.Random(kind)
    for key, form, value in _fields(kind):
        made.put(key, form, value)
    for name, shape in _TENSORS[kind]():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        middle = 1.0 if name.endswith("norm.weight") else -1.0 if name.endswith("ssm_a") else 0.0
        numbers = [middle + draw.uniform(-0.1, 0.1) for _ in range(count)]
        made.tensors.append(Tensor(name.encode(), shape, TENSOR_F32, struct.pack(f"<{count}f", *numbers)))
    return made.to_bytes()


def _fields(kind: str) -> Iterator[tuple[str, int, Any]]:
    yield "general.architecture", STRING, kind.encode()
    yield "tokenizer.ggml.model", STRING, b"no_vocab"
    heads = 0 if kind == "mamba" else 2
    numbers = {
        "vocab_size": TOKENS,
        "context_length": TRAINED,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": 0 if kind == "mamba" else INNER,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        **_MORE.get(kind, {}),
    }
    for key, value in numbers.items():
        yield f"{kind}.{key}", U32, value
    for key in ("layer_norm_epsilon", "layer_norm_rms_epsilon"):
        yield f"{kind}.attention.{key}", F32, 1e-5
    if kind == "bert":
        yield "bert.attention.causal", BOOL, False
        yield "tokenizer.ggml.token_type_count", U32, 1


_MORE = {
    "bert": {"pooling_type": 1},
    "t5": {"attention.relative_buckets_count": 8, "attention.key_length": 16, "attention.value_length": 16},
    "gemma2": {"attention.sliding_window": 16, "attention.key_length": 16, "attention.value_length": 16},
    "mamba": {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * WIDTH, "ssm.state_size": 8, "ssm.time_step_rank": 2},
}


def _norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (WIDTH,)
    yield f"{name}.bias", (WIDTH,)


def _gpt2() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (WIDTH, TOKENS)
    yield "position_embd.weight", (WIDTH, TRAINED)
    yield from _norm("output_norm")
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        yield from _norm(f"{at}.attn_norm")
        yield f"{at}.attn_qkv.weight", (WIDTH, 3 * WIDTH)
        yield f"{at}.attn_qkv.bias", (3 * WIDTH,)
        yield f"{at}.attn_output.weight", _SQUARE
        yield f"{at}.attn_output.bias", (WIDTH,)
        yield from _norm(f"{at}.ffn_norm")
        yield f"{at}.ffn_down.weight", (INNER, WIDTH)
        yield f"{at}.ffn_down.bias", (WIDTH,)
        yield f"{at}.ffn_up.weight", (WIDTH, INNER)
        yield f"{at}.ffn_up.bias", (INNER,)


def _bert() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (WIDTH, TOKENS)
    yield "token_types.weight", (WIDTH, 1)
    yield "position_embd.weight", (WIDTH, TRAINED)
    yield from _norm("token_embd_norm")
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        for part in ("q", "k", "v", "output"):
            yield f"{at}.attn_{part}.weight", _SQUARE
            yield f"{at}.attn_{part}.bias", (WIDTH,)
        yield from _norm(f"{at}.attn_output_norm")
        yield f"{at}.ffn_up.weight", (WIDTH, INNER)
        yield f"{at}.ffn_up.bias", (INNER,)
        yield f"{at}.ffn_down.weight", (INNER, WIDTH)
        yield f"{at}.ffn_down.bias", (WIDTH,)
        yield from _norm(f"{at}.layer_output_norm")


def _t5() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (WIDTH, TOKENS)
    yield "enc.output_norm.weight", (WIDTH,)
    yield "dec.output_norm.weight", (WIDTH,)
    for layer in range(LAYERS):
        for side, parts in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
            at = f"{side}.blk.{layer}"
            for part in parts:
                yield f"{at}.{part}_norm.weight", (WIDTH,)
                for matrix in "qkvo":
                    yield f"{at}.{part}_{matrix}.weight", _SQUARE
            if not layer:
                yield f"{at}.attn_rel_b.weight", (2, 8)
            yield f"{at}.ffn_norm.weight", (WIDTH,)
            yield f"{at}.ffn_down.weight", (INNER, WIDTH)
            yield f"{at}.ffn_up.weight", (WIDTH, INNER)


def _mamba() -> Iterator[tuple[str, tuple[int, ...]]]:
    inner = 2 * WIDTH
    yield "token_embd.weight", (WIDTH, TOKENS)
    yield "output_norm.weight", (WIDTH,)
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        yield f"{at}.attn_norm.weight", (WIDTH,)
        yield f"{at}.ssm_in.weight", (WIDTH, 2 * inner)
        yield f"{at}.ssm_conv1d.weight", (4, inner)
        yield f"{at}.ssm_conv1d.bias", (inner,)
        yield f"{at}.ssm_x.weight", (inner, 2 + 2 * 8)
        yield f"{at}.ssm_dt.weight", (2, inner)
        yield f"{at}.ssm_dt.bias", (inner,)
        yield f"{at}.ssm_a", (8, inner)
        yield f"{at}.ssm_d", (inner,)
        yield f"{at}.ssm_out.weight", (inner, WIDTH)


def _gemma2() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (WIDTH, TOKENS)
    yield "output_norm.weight", (WIDTH,)
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            yield f"{at}.{norm}.weight", (WIDTH,)
        for part in ("q", "k", "v", "output"):
            yield f"{at}.attn_{part}.weight", _SQUARE
        yield f"{at}.ffn_gate.weight", (WIDTH, INNER)
        yield f"{at}.ffn_up.weight", (WIDTH, INNER)
        yield f"{at}.ffn_down.weight", (INNER, WIDTH)


_TENSORS = {"gpt2": _gpt2, "bert": _bert, "t5": _t5, "mamba": _mamba, "gemma2": _gemma2}
KINDS = tuple(_TENSORS)
