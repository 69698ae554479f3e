"""One Python function for each C function of llama.h: allocate, call, check, raise.

One rule: what C would answer with a crash is refused here. Pointers are the caller's to keep: a model outlives its
contexts, and nothing here locks.
"""

from __future__ import annotations

import operator
import os
import stat

from nativeload.value import Value
from nativeload_llama.errors import ContextError, ModelError, PromptTooLongError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nativeload_llama.library import Api

DEFAULT_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED: a random seed."""

MAX_THREADS = 512
"""GGML_MAX_N_THREADS: ggml keeps its threads in arrays of this size and does not look."""

_VOCAB_NONE = 0  # LLAMA_VOCAB_TYPE_NONE: tokenize() on it aborts
_MAX_INT32 = 2**31 - 1


class Model(Value, eq=False):
    """A loaded model: ``pointer`` is llama_model *, ``vocab`` llama_vocab *, ``n_vocab`` tokens (0: no vocabulary)."""

    api: Api
    path: str
    pointer: Any
    vocab: Any
    n_vocab: int


class Context(Value, eq=False):
    """A context of a model: ``pointer`` is llama_context *; sizes are in tokens."""

    api: Api
    model: Model
    pointer: Any
    n_ctx: int
    n_batch: int


def model_load_from_file(api: Api, path: str, *, n_gpu_layers: int = -1) -> Model:
    """Load a GGUF file.

    Args:
        api: the library.
        path: the model file.
        n_gpu_layers: layers to keep on GPUs; -1 is all.

    Raises:
        ModelError: not there, not GGUF, or refused by llama.cpp (its own words follow).
    """
    _check_gguf(path)
    if not -1 <= n_gpu_layers <= _MAX_INT32:
        raise ModelError(path, f"n_gpu_layers is {n_gpu_layers}, and must be -1 (all) or more")
    params = api.function("llama_model_default_params")()
    params.n_gpu_layers = n_gpu_layers
    api.log.clear()
    pointer = api.function("llama_model_load_from_file")(os.fsencode(path), params)
    if pointer == api.ffi.NULL:
        raise ModelError(path, api.log.said() or "llama.cpp could not load it and did not say why")
    vocab = api.function("llama_model_get_vocab")(pointer)
    empty = api.function("llama_vocab_type")(vocab) == _VOCAB_NONE
    return Model(api, path, pointer, vocab, 0 if empty else api.function("llama_vocab_n_tokens")(vocab))


def _check_gguf(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ModelError(path, "a directory" if stat.S_ISDIR(mode) else "not a regular file")
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(path, error.strerror or str(error)) from error
    except ValueError as error:  # a NUL byte
        raise ModelError(repr(path), str(error)) from error
    if magic != b"GGUF":
        raise ModelError(path, "not a GGUF file", hint="Models for llama.cpp end in .gguf.")
    from nativeload_llama.gguf import fault  # struct and mmap are not needed to open a library

    if reason := fault(path):
        raise ModelError(path, reason, hint="The file is damaged: fetch it again.")


def model_free(model: Model) -> None:
    """Free a model; its contexts must be freed before."""
    model.api.function("llama_model_free")(model.pointer)


def model_n_ctx_train(model: Model) -> int:
    """Return the context the model was trained with, in tokens."""
    return int(model.api.function("llama_model_n_ctx_train")(model.pointer))


def check_generates(model: Model) -> None:
    """Refuse a model that cannot continue a text with llama_decode() alone.

    Raises:
        ModelError: it needs an encoder pass, or has no decoder.
    """
    encoder = model.api.function("llama_model_has_encoder")(model.pointer)
    if encoder or not model.api.function("llama_model_has_decoder")(model.pointer):
        raise ModelError(model.path, "not a model that generates text by itself (it needs an encoder pass)")


def model_desc(model: Model) -> str:
    """Return llama.cpp's one-line description, such as ``llama 1B Q8_0``."""
    buffer = model.api.ffi.new("char[256]")
    model.api.function("llama_model_desc")(model.pointer, buffer, 256)
    return str(model.api.ffi.string(buffer).decode("utf-8", "replace"))


def vocab_bos(model: Model) -> int:
    """Return the beginning-of-sequence token that the model adds, or -1 where it adds none."""
    if not model.n_vocab or not model.api.function("llama_vocab_get_add_bos")(model.vocab):
        return -1
    return int(model.api.function("llama_vocab_bos")(model.vocab))


def version(api: Api) -> str:
    """Return llama_version(), such as ``0.5.0-dev``."""
    return str(api.ffi.string(api.function("llama_version")()).decode("utf-8", "replace"))


def init_from_model(model: Model, *, n_ctx: int, n_batch: int, n_threads: int) -> Context:
    """Make a context.

    Args:
        model: a loaded model.
        n_ctx: tokens it holds.
        n_batch: tokens one decode may take.
        n_threads: CPU threads, for single tokens and for batches.

    Raises:
        ContextError: a size out of range, or refused by llama.cpp (no memory, mostly).
    """
    for name, value, most in (("n_ctx", n_ctx, _MAX_INT32), ("n_batch", n_batch, _MAX_INT32)):
        _check_range(name, value, most)
    _check_range("n_threads", n_threads, MAX_THREADS)
    api = model.api
    params = api.function("llama_context_default_params")()
    params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, min(n_batch, params.n_ubatch)
    params.n_threads = params.n_threads_batch = n_threads
    api.log.clear()
    pointer = api.function("llama_init_from_model")(model.pointer, params)
    if pointer == api.ffi.NULL:
        reason = api.log.said() or "llama.cpp could not make a context and did not say why"
        raise ContextError(f"{reason} (n_ctx={n_ctx})", hint="A smaller n_ctx needs less memory.")
    sizes = api.function("llama_n_ctx")(pointer), api.function("llama_n_batch")(pointer)
    return Context(api, model, pointer, int(sizes[0]), int(sizes[1]))


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        bound = "at least 1" if value < 1 else f"at most {most}"
        raise ContextError(f"{name} is {value}, and must be {bound}")


def free(context: Context) -> None:
    """Free a context."""
    context.api.function("llama_free")(context.pointer)


def memory_clear(context: Context) -> None:
    """Forget everything the context holds."""
    memory = context.api.function("llama_get_memory")(context.pointer)
    if memory != context.api.ffi.NULL:
        context.api.function("llama_memory_clear")(memory, True)


def _check_vocab(model: Model) -> None:
    if not model.n_vocab:
        raise ModelError(model.path, "the model has no vocabulary: it takes and gives token ids alone")


def _check_tokens(model: Model, tokens: Sequence[int]) -> None:
    for token in tokens:
        if not 0 <= token < model.n_vocab:
            raise ModelError(model.path, f"token {token} is not between 0 and {model.n_vocab - 1}")


def tokenize(model: Model, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    """Turn text into token ids.

    Args:
        model: a loaded model.
        text: any text; surrogates become ``?``.
        add_special: add the beginning-of-sequence token where the model wants one.
        parse_special: read markers such as ``<|eot|>`` as tokens; wrong for text from outside.

    Raises:
        ModelError: the model has no vocabulary, or the text is too long.
    """
    _check_vocab(model)
    raw = text.encode("utf-8", "replace")
    if len(raw) > _MAX_INT32 // 2:
        raise ModelError(model.path, f"a text of {len(raw)} bytes is too long to tokenize at once")
    call, ffi = model.api.function("llama_tokenize"), model.api.ffi
    size = len(raw) + 8
    for _ in range(2):
        buffer = ffi.new("llama_token[]", size)
        count = call(model.vocab, raw, len(raw), buffer, size, add_special, parse_special)
        if count >= 0:
            return list(ffi.unpack(buffer, count)) if count else []
        size = -count
    raise ModelError(model.path, "the text cannot be tokenized")


def token_to_piece(model: Model, token: int, *, special: bool = False) -> bytes:
    """Return a token's bytes; a piece may hold part of a UTF-8 character.

    Raises:
        ModelError: no vocabulary, or no such token (C would abort).
    """
    _check_vocab(model)
    _check_tokens(model, (token,))
    call, ffi = model.api.function("llama_token_to_piece"), model.api.ffi
    size = 64
    for _ in range(2):
        buffer = ffi.new("char[]", size)
        count = call(model.vocab, token, buffer, size, 0, special)
        if count >= 0:
            return bytes(ffi.buffer(buffer, count))
        size = -count
    raise ModelError(model.path, f"token {token} has no text")


def detokenize(model: Model, tokens: Sequence[int], *, remove_special: bool, unparse_special: bool) -> bytes:
    """Turn token ids into bytes of text.

    Args:
        model: a loaded model.
        tokens: ids, each below the vocabulary's size.
        remove_special: leave out the beginning- and end-of-sequence tokens where the model adds them.
        unparse_special: write special tokens as their markers.

    Raises:
        ModelError: no vocabulary, or no such token.
    """
    _check_vocab(model)
    _check_tokens(model, tokens)
    call, ffi = model.api.function("llama_detokenize"), model.api.ffi
    given = ffi.new("llama_token[]", list(tokens))
    size = 16 * len(tokens) + 64
    for _ in range(2):
        buffer = ffi.new("char[]", size)
        count = call(model.vocab, given, len(tokens), buffer, size, remove_special, unparse_special)
        if count >= 0:
            return bytes(ffi.buffer(buffer, count))
        size = -count
    raise ModelError(model.path, "these tokens have no text")


def vocab_is_eog(model: Model, token: int) -> bool:
    """Whether a token ends the generation.

    Raises:
        ModelError: no such token.
    """
    _check_tokens(model, (token,))
    return bool(model.api.function("llama_vocab_is_eog")(model.vocab, token))


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
    _check_tokens(context.model, tokens)


def new_tokens(api: Api, count: int) -> Any:
    """Return a C array of ``count`` tokens, to be decoded over and over."""
    return api.ffi.new("llama_token[]", count)


def decode(context: Context, tokens: Any, count: int) -> None:
    """Decode the first ``count`` tokens of a C array after what the context holds; the last one gets logits.

    Raises:
        ContextError: the context is full (code 1), the batch is bad (-1), or a backend failed.
    """
    api = context.api
    if not 1 <= count <= min(context.n_batch, len(tokens)):
        reason = f"{count} tokens of an array of {len(tokens)}, and n_batch is {context.n_batch}"
        raise ContextError(f"the batch is not valid: {reason}", code=-1)
    batch = api.function("llama_batch_get_one")(tokens, count)
    api.log.clear()
    code = api.function("llama_decode")(context.pointer, batch)
    if code != 0:
        words = {1: "the context is full", 2: "the decode was aborted", -1: "the batch is not valid"}
        reason = words.get(code, f"llama_decode failed with {code}")
        said = api.log.said()
        raise ContextError(f"{reason}: {said}" if said else reason, code=code)


def check_sampling(*, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Refuse numbers that no sampler can have.

    Raises:
        ValueError: naming the number.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, and must be 0 or more")
    if not -_MAX_INT32 <= operator.index(top_k) <= _MAX_INT32:
        raise ValueError(f"top_k is {top_k}, and must fit 32 bits")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, and must be above 0 and at most 1")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p is {min_p}, and must be between 0 and 1")


def sampler_chain(api: Api, *, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> Any:
    """Make a sampler chain: greedy at temperature 0, else top-k, top-p, min-p, temperature, and a draw.

    Raises:
        ValueError: as `check_sampling`.
        ContextError: llama.cpp could not make it.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    params = api.function("llama_sampler_chain_default_params")()
    chain = api.function("llama_sampler_chain_init")(params)
    if chain == api.ffi.NULL:
        raise ContextError("llama.cpp could not make a sampler chain")
    add = api.function("llama_sampler_chain_add")
    if temperature == 0:
        add(chain, api.function("llama_sampler_init_greedy")())
        return chain
    add(chain, api.function("llama_sampler_init_top_k")(top_k))
    add(chain, api.function("llama_sampler_init_top_p")(top_p, 1))
    add(chain, api.function("llama_sampler_init_min_p")(min_p, 1))
    add(chain, api.function("llama_sampler_init_temp")(temperature))
    add(chain, api.function("llama_sampler_init_dist")(seed))
    return chain


def sampler_free(api: Api, chain: Any) -> None:
    """Free a sampler chain and the samplers in it."""
    api.function("llama_sampler_free")(chain)


def sampler_sample(context: Context, chain: Any) -> int:
    """Draw the next token from the logits of the last decoded one; the chain has accepted it.

    Raises:
        ContextError: nothing was decoded (C would abort).
    """
    if context.api.function("llama_get_logits_ith")(context.pointer, -1) == context.api.ffi.NULL:
        raise ContextError("there are no logits to sample from: decode something first")
    return int(context.api.function("llama_sampler_sample")(chain, context.pointer, -1))
