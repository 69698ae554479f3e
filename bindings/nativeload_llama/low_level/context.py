"""How is a context made, asked, changed and freed?

One rule: what C would answer with a crash is refused here. What comes out of a context is valid until its next decode.
"""

from __future__ import annotations

from nativeload_llama.errors import ContextError, ModelError, PromptTooLongError
from nativeload_llama.low_level.context_params import MAX_THREADS as MAX_THREADS  # noqa: PLC0414 - it is public here
from nativeload_llama.low_level.context_params import check_threads, context_params
from nativeload_llama.low_level.handles import Context, taken
from nativeload_llama.low_level.model import model_has_encoder, model_n_cls_out, model_n_embd_out
from nativeload_llama.low_level.rules import Rules, check_shares, rules, sequence
from nativeload_llama.low_level.vocab import check_tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Unpack

    from nativeload_llama.low_level.context_params import ContextOptions
    from nativeload_llama.low_level.handles import AbortFlag, Model

_POOLING_NONE, _POOLING_RANK = 0, 4
_NO_ROW = -(2**31)
_SIZES = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "pooling_type")


def init_from_model(
    model: Model, *, n_ctx: int, n_batch: int, n_threads: int, **options: Unpack[ContextOptions]
) -> Context:
    """Make a context.

    Args:
        model: a loaded model.
        n_ctx: tokens it holds, of all sequences; llama.cpp rounds up to 256 (for each sequence, if not kv_unified).
        n_batch: tokens one decode may take.
        n_threads: CPU threads, for single tokens and (see n_threads_batch) for batches.
        **options:
            n_ubatch: tokens computed at once (512); a model that is not causal takes no more in one batch. For a mean
                of several sequences it, and with it n_batch and n_ctx, becomes a multiple of n_seq_max.
            n_seq_max: sequences it holds, at most 256; n_batch must be as large.
            n_threads_batch: CPU threads for batches (n_threads).
            n_outputs_max: tokens of one batch that may ask for logits (n_batch); fewer need less memory.
            n_rs_seq: tokens by which a recurrent state can be rolled back.
            embeddings: compute embeddings; each token of a batch is an output then.
            pooling_type: how they become one of the sequence, a member of llama_pooling_type.
            attention_type: causal or not, a member of llama_attention_type.
            flash_attn: use it; None is where the device can.
            kv_unified: one cache shared by all sequences, in place of one each.
            offload_kqv: keep the cache on the GPU.
            op_offload: let the GPU compute on weights that lie in host memory.
            swa_full: a cache of full size also for layers with a sliding window.
            type_k, type_v: of the cache's numbers: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl.
            rope_scaling_type: a member of llama_rope_scaling_type.
            rope_freq_base, rope_freq_scale: 0 is the model's.
            yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow: below 0 is the model's.
            yarn_orig_ctx: 0 is the model's.
            moe_cache_size: bytes on the GPU for experts that lie in host memory.
            no_perf: do not measure (`perf_context` shows zeros).
            abort: ends a decode when it is raised (on the CPU backend).

    Raises:
        ContextError: a number out of range, or refused by llama.cpp (no memory, mostly).
        NotInThisBuild: this library has no such option.
        ModelError: the model has no weights, or no tokens.
    """
    api = model.api
    if model.vocab_only or api.function("llama_vocab_n_tokens")(model.vocab) < 1:
        raise ModelError(model.path, "a model without weights or without tokens has nothing to decode")
    params = context_params(model, n_ctx=n_ctx, n_batch=n_batch, n_threads=n_threads, options=options)
    check_shares(model, params)
    keep: dict[str, Any] = {}
    if (flag := options.get("abort")) is not None:
        keep["abort"] = (flag, *flag.callback(api))
        params.abort_callback, params.abort_callback_data = keep["abort"][1:]
    api.log.clear()
    pointer = api.function("llama_init_from_model")(model.pointer, params)
    if pointer == api.ffi.NULL:
        reason = api.log.said() or "llama.cpp could not make a context and did not say why"
        raise ContextError(f"{reason} (n_ctx={n_ctx})", hint="A smaller n_ctx needs less memory.")
    if (error := api.log.interruption()) is not None:
        api.function("llama_free")(pointer)
        raise error
    keep["rules"] = Rules(model, pointer, params)
    asked = 0 if model_has_encoder(model) else int(getattr(params, "n_outputs_max", 0))  # as C does
    tokens, batch, ubatch, sequences, pooling = (int(api.function(f"llama_{name}")(pointer)) for name in _SIZES)
    return Context(api, model, pointer, tokens, batch, ubatch, sequences, pooling, asked or batch, keep)


def free(context: Context) -> None:
    """Free a context; adapters that it uses are freed after it. Once more is nothing."""
    call = context.api.function("llama_free")
    if (pointer := taken(context)) is not None:
        call(pointer)


def n_ctx(context: Context) -> int:
    """Return how many tokens the context holds, of all sequences."""
    return int(context.api.function("llama_n_ctx")(context.pointer))


def n_ctx_seq(context: Context) -> int:
    """Return how many tokens one sequence can have."""
    return int(context.api.function("llama_n_ctx_seq")(context.pointer))


def n_batch(context: Context) -> int:
    """Return how many tokens one decode takes."""
    return int(context.api.function("llama_n_batch")(context.pointer))


def n_ubatch(context: Context) -> int:
    """Return how many tokens are computed at once."""
    return int(context.api.function("llama_n_ubatch")(context.pointer))


def n_seq_max(context: Context) -> int:
    """Return how many sequences the context holds."""
    return int(context.api.function("llama_n_seq_max")(context.pointer))


def pooling_type(context: Context) -> int:
    """Return how embeddings become one of the sequence, a member of llama_pooling_type."""
    return int(context.api.function("llama_pooling_type")(context.pointer))


def set_n_threads(context: Context, n_threads: int, n_threads_batch: int) -> None:
    """Set the CPU threads for single tokens, and for batches.

    Raises:
        ContextError: not between 1 and 512.
    """
    threads = check_threads("n_threads", n_threads), check_threads("n_threads_batch", n_threads_batch)
    context.api.function("llama_set_n_threads")(context.pointer, *threads)


def n_threads(context: Context) -> int:
    """Return the CPU threads for single tokens."""
    return int(context.api.function("llama_n_threads")(context.pointer))


def n_threads_batch(context: Context) -> int:
    """Return the CPU threads for batches."""
    return int(context.api.function("llama_n_threads_batch")(context.pointer))


def set_embeddings(context: Context, embeddings: bool) -> None:
    """Compute embeddings from the next decode on, or no more."""
    context.api.function("llama_set_embeddings")(context.pointer, bool(embeddings))
    rules(context).embeddings = bool(embeddings)


def set_causal_attn(context: Context, causal: bool) -> None:
    """Let a token see those before it alone, or all; then a batch is at most n_ubatch long."""
    context.api.function("llama_set_causal_attn")(context.pointer, bool(causal))
    rules(context).causal = bool(causal)


def set_warmup(context: Context, warmup: bool) -> None:
    """Let the next decodes touch all weights (of every expert), so that they are in memory."""
    context.api.function("llama_set_warmup")(context.pointer, bool(warmup))


def set_abort_flag(context: Context, flag: AbortFlag | None) -> None:
    """Set the flag that ends a decode on the CPU backend; None takes it away."""
    api = context.api
    kept = (None, api.ffi.NULL, api.ffi.NULL) if flag is None else (flag, *flag.callback(api))
    api.function("llama_set_abort_callback")(context.pointer, *kept[1:])
    context.keep["abort"] = kept  # the one before is let go of when C has let go of it


def synchronize(context: Context) -> None:
    """Wait until everything that was asked for is computed; reading an output does this by itself."""
    context.api.function("llama_synchronize")(context.pointer)


def get_logits_ith(context: Context, i: int) -> memoryview:
    """Return the logits of a token: float32, as many as the vocabulary has tokens, in C's own memory.

    Args:
        context: a context.
        i: the token's index in the last batch, or -1 for the last one that has logits, -2 for the one before, ...

    Raises:
        ContextError: it has none.
    """
    api = context.api
    pointer = api.function("llama_get_logits_ith")(context.pointer, _row(i))
    if pointer == api.ffi.NULL:
        raise ContextError(f"there are no logits for token {i} of the last batch")
    count = context.model.n_vocab or api.function("llama_vocab_n_tokens")(context.model.vocab)
    floats: memoryview[Any] = memoryview(api.ffi.buffer(pointer, 4 * count)).cast("f")
    return floats


def _row(i: int) -> int:
    return i if _NO_ROW < i < -_NO_ROW else _NO_ROW + 1


def get_embeddings_ith(context: Context, i: int) -> list[float]:
    """Return the embedding of a token, as long as model_n_embd_out(); ``i`` as of `get_logits_ith`.

    Raises:
        ContextError: it has none: embeddings were not asked for, or are pooled (see `get_embeddings_seq`).
    """
    api = context.api
    if context.pooling_type != _POOLING_NONE:
        raise ContextError("embeddings are pooled: a sequence has one, its tokens have none")
    pointer = api.function("llama_get_embeddings_ith")(context.pointer, _row(i))
    if pointer == api.ffi.NULL:
        hint = "Make the context with embeddings=True, or call set_embeddings() before the decode."
        raise ContextError(f"there is no embedding for token {i} of the last batch", hint=hint)
    return list(api.ffi.unpack(pointer, model_n_embd_out(context.model)))


def get_embeddings_seq(context: Context, seq: int) -> list[float]:
    """Return the embedding of a sequence of the last batch, as long as model_n_embd_out().

    Pooled by rank it is a classifier's scores instead, model_n_cls_out() of them.

    Raises:
        ContextError: it has none: embeddings were not asked for, or are not pooled (see `get_embeddings_ith`).
    """
    api = context.api
    pointer = api.function("llama_get_embeddings_seq")(context.pointer, sequence(context, seq))
    if pointer == api.ffi.NULL:
        hint = "Make the context with embeddings=True and a pooling_type, and decode tokens of that sequence."
        raise ContextError(f"there is no embedding for sequence {seq}", hint=hint)
    ranked = context.pooling_type == _POOLING_RANK
    return list(api.ffi.unpack(pointer, (model_n_cls_out if ranked else model_n_embd_out)(context.model)))


def check_prompt(context: Context, tokens: Sequence[int]) -> None:
    """Refuse a prompt that cannot be decoded.

    Raises:
        ValueError: it is empty.
        PromptTooLongError: it leaves no room for one more token.
        ModelError: no such token.
    """
    if not tokens:
        raise ValueError("the prompt has no tokens")
    if len(tokens) >= context.n_ctx:
        raise PromptTooLongError(len(tokens), context.n_ctx)
    check_tokens(context.model, tokens)
