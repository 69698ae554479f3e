"""What does llama.cpp assert of the work of one context, and tell nobody?

One rule: each assertion that a caller's numbers can reach is kept here as a number or a yes, found out when the context
is made.

Sources: GGML_ASSERT and array bounds in llama-context.cpp (encode, decode, output_reserve), llama-kv-cache.cpp and
llama-graph.cpp (cross attention) of builds 8672 to 11549.
"""

from __future__ import annotations

import contextlib

from nativeload.errors import NotInThisBuild
from nativeload_llama.errors import ContextError
from nativeload_llama.low_level.model import (
    model_has_decoder,
    model_has_encoder,
    model_is_diffusion,
    model_is_hybrid,
    model_is_recurrent,
    model_meta_val_str,
    model_n_ctx_train,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload_llama.low_level.handles import Context, Model

MAX_POSITION = 1 << 30
"""Positions stay below this: llama.cpp adds to them in 32 bits and does not look."""

_LEARNED = frozenset({"bert", "gpt2", "mpt", "starcoder"})  # a table of positions, n_ctx_train long: get_rows asserts
_UNCAUSAL = frozenset({"gemma-embedding", "gemma-embedding2"})  # where llama.cpp's code says so, and no metadata


class Rules:
    """What holds in one context.

    Attributes:
        memory: it remembers what was decoded; without, decode() is encode().
        unified: its sequences share one cache, so that they can share cells.
        whole_copies: a sequence can only be copied whole to another one.
        encodes: `encode` is possible.
        awaits: `decode` asserts that something was encoded before.
        encoded: that was done.
        embeddings: every token of a batch gives an output.
        causal: a token sees those before it alone; otherwise a batch has to be computed at once.
        n_positions: positions are below this.
        shifts: the cache's numbers can be turned to other positions: the CPU backend crashes over all but f16 and f32.
    """

    __slots__ = (
        "awaits",
        "causal",
        "embeddings",
        "encoded",
        "encodes",
        "memory",
        "n_positions",
        "shifts",
        "unified",
        "whole_copies",
    )

    def __init__(self, model: Model, pointer: Any, params: Any) -> None:
        api, arch = model.api, architecture(model)
        self.memory = api.function("llama_get_memory")(pointer) != api.ffi.NULL
        self.unified = bool(params.kv_unified) or params.n_seq_max == 1
        self.whole_copies = not self.unified or model_is_recurrent(model) or model_is_hybrid(model)
        self.encodes = not self.memory or model_has_encoder(model)
        self.awaits = self.memory and model_has_encoder(model)
        self.encoded = False
        self.embeddings = bool(params.embeddings)
        self.causal = _causal(model, pointer, int(params.attention_type), arch)
        types = api.ffi.typeof("enum ggml_type").relements
        self.shifts = params.type_k in {types["GGML_TYPE_F16"], types["GGML_TYPE_F32"]}
        self.n_positions = model_n_ctx_train(model) if arch in _LEARNED else MAX_POSITION

    def most(self, context: Context) -> int:
        """Return how many tokens one decode can take."""
        if self.causal and self.memory:
            return context.n_batch
        return min(context.n_batch, context.n_ubatch)


def rules(context: Context) -> Rules:
    """Return what holds in a context."""
    found: Rules = context.keep["rules"]
    return found


def architecture(model: Model) -> str:
    """Return the name of a model's architecture, such as ``llama``."""
    return model_meta_val_str(model, "general.architecture") or ""


def _causal(model: Model, pointer: Any, asked: int, arch: str) -> bool:
    """Whether attention is causal: a getter exists since build 11549, metadata and llama.cpp's code before."""
    with contextlib.suppress(NotInThisBuild):
        return bool(model.api.function("llama_get_causal_attn")(pointer))
    if asked >= 0:
        return asked == 0
    said = model_meta_val_str(model, f"{arch}.attention.causal")
    return said != "false" and arch not in _UNCAUSAL and not model_is_diffusion(model)


def check_shares(model: Model, params: Any) -> None:
    """Refuse sequences with caches of their own where the cross attention asserts that there is one.

    Raises:
        ContextError: naming the way on.
    """
    if params.n_seq_max > 1 and not params.kv_unified and model_has_encoder(model) and model_has_decoder(model):
        hint = "Pass kv_unified=True."
        raise ContextError("an encoder-decoder model needs one cache for all sequences", hint=hint)


def sequence(context: Context, seq: int) -> int:
    """Return a sequence's number, checked.

    Raises:
        ContextError: the context has no such sequence.
    """
    if not 0 <= seq < context.n_seq_max:
        raise ContextError(f"sequence {seq} is not between 0 and {context.n_seq_max - 1}")
    return seq
