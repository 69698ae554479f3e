"""What does a caller want of a context, and can it be?

One rule: a number reaches llama_context_params only where this library has the field and C can do with it what is said.
"""

from __future__ import annotations

import math
import operator

from nativeload.errors import NotInThisBuild
from nativeload_llama.errors import ContextError
from nativeload_llama.low_level.model import model_meta, model_meta_val_str, model_n_embd, model_n_head
from nativeload_llama.low_level.rules import architecture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from nativeload_llama.low_level.handles import AbortFlag, Model

    class ContextOptions(TypedDict, total=False):
        """What `init_from_model` takes by name; None is llama.cpp's own choice."""

        n_ubatch: int | None
        n_seq_max: int
        n_threads_batch: int | None
        n_outputs_max: int | None
        n_rs_seq: int | None
        embeddings: bool
        pooling_type: int | None
        attention_type: int | None
        flash_attn: bool | None
        kv_unified: bool | None
        offload_kqv: bool
        op_offload: bool | None
        swa_full: bool | None
        type_k: str | int | None
        type_v: str | int | None
        rope_scaling_type: int | None
        rope_freq_base: float | None
        rope_freq_scale: float | None
        yarn_ext_factor: float | None
        yarn_attn_factor: float | None
        yarn_beta_fast: float | None
        yarn_beta_slow: float | None
        yarn_orig_ctx: int | None
        moe_cache_size: int | None
        no_perf: bool
        abort: AbortFlag | None


MAX_THREADS = 512
"""GGML_MAX_N_THREADS: ggml keeps its threads in arrays of this size and does not look."""

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ: the same, of sequences."""

_MAX_INT32 = 2**31 - 1
_LARGEST_BATCH = 1 << 24  # tokens: C makes arrays of this length at once
_CACHE_TYPES = {
    "f32": "F32",
    "f16": "F16",
    "bf16": "BF16",
    "q8_0": "Q8_0",
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
    "iq4_nl": "IQ4_NL",
    "q5_0": "Q5_0",
    "q5_1": "Q5_1",
}  # the types that llama.cpp's own programs offer; with others it asserts, or computes nonsense
_AVERAGED = {1, 4}  # LLAMA_POOLING_TYPE_MEAN, and _RANK, which is a mean for some
_BLOCK = 32  # numbers that share a scale in all of the quantized ones above
_BOOLEANS = ("embeddings", "offload_kqv", "op_offload", "swa_full", "kv_unified", "no_perf")
_ENUMS = {"pooling_type": (-1, 4), "attention_type": (-1, 1), "rope_scaling_type": (-1, 3)}
_FLOATS = {
    "rope_freq_base": (0.0, 1e12),
    "rope_freq_scale": (0.0, 1e6),
    "yarn_ext_factor": (-1.0, 1e6),
    "yarn_attn_factor": (-1.0, 1e6),
    "yarn_beta_fast": (-1.0, 1e6),
    "yarn_beta_slow": (-1.0, 1e6),
}
_WHOLE = {
    "n_outputs_max": (1, _LARGEST_BATCH),
    "n_rs_seq": (0, 64),
    "yarn_orig_ctx": (0, _MAX_INT32),
    "moe_cache_size": (0, 1 << 50),
}


def context_params(model: Model, *, n_ctx: int, n_batch: int, n_threads: int, options: ContextOptions) -> Any:
    """Return llama_context_params for a model; what it points to is the caller's to set.

    Raises:
        ContextError: a number that cannot be.
        NotInThisBuild: this library has no such option.
    """
    params = model.api.function("llama_context_default_params")()
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None and name != "abort"}
    params.n_ctx, params.n_threads = _checked("n_ctx", n_ctx, 1), _checked("n_threads", n_threads, 1, MAX_THREADS)
    params.n_batch = min(_checked("n_batch", n_batch, 1), _LARGEST_BATCH)
    params.n_ubatch = min(params.n_batch, _checked("n_ubatch", given.pop("n_ubatch", params.n_ubatch), 1))
    params.n_seq_max = _checked("n_seq_max", given.pop("n_seq_max", 1), 1, MAX_SEQUENCES)
    params.n_threads_batch = _checked("n_threads_batch", given.pop("n_threads_batch", n_threads), 1, MAX_THREADS)
    if (flash := given.pop("flash_attn", None)) is not None:
        params.flash_attn_type = int(bool(flash))
    for name in ("type_k", "type_v"):
        if name in given:
            setattr(params, name, _cache_type(model, name, given.pop(name)))
    for name, value in given.items():
        setattr(params, _field(model, name), _value(name, value))
    _check_outputs(params, asked="n_outputs_max" in given)
    if _pooling(model, params) in _AVERAGED:
        _fit_sequences(params)
    if 0 < params.rope_freq_scale < 1e-6:  # noqa: PLR2004 - a context of 2**31 tokens fits 1e-6, and C divides by it
        raise ContextError(f"rope_freq_scale is {params.rope_freq_scale}, and must be 0 (the model's) or 1e-6 and more")
    return params


def _check_outputs(params: Any, *, asked: bool) -> None:
    """Refuse what output_reserve() asserts: there is room for one output of each sequence."""
    least, most = int(params.n_seq_max), min(int(params.n_batch), int(params.n_ctx))
    if least > most:
        raise ContextError(f"n_batch is {most} (n_ctx is its bound), and must be at least n_seq_max ({least})")
    if asked and not least <= params.n_outputs_max:
        raise ContextError(f"n_outputs_max is {params.n_outputs_max}, and must be at least n_seq_max ({least})")
    if hasattr(params, "n_rs_seq") and params.n_rs_seq >= params.n_ubatch:
        raise ContextError(f"n_rs_seq is {params.n_rs_seq}, and must be below n_ubatch ({params.n_ubatch})")


def _fit_sequences(params: Any) -> None:
    """Round up to what llama.cpp's dry run of a mean asserts (since build 9538): as many tokens for each sequence.

    Raises:
        ContextError: fewer outputs were asked for than there are tokens.
    """
    over = int(min(params.n_ubatch, params.n_ctx)) % params.n_seq_max
    if over:
        params.n_ubatch = min(params.n_ubatch, params.n_ctx) + params.n_seq_max - over
        params.n_batch, params.n_ctx = max(params.n_batch, params.n_ubatch), max(params.n_ctx, params.n_ubatch)
    if 0 < getattr(params, "n_outputs_max", 0) < params.n_ubatch:
        raise ContextError(f"n_outputs_max is {params.n_outputs_max}, and a mean needs n_ubatch ({params.n_ubatch})")


def _pooling(model: Model, params: Any) -> int:
    """Return how embeddings will be pooled, a member of llama_pooling_type."""
    said = model_meta_val_str(model, f"{architecture(model)}.pooling_type") or ""
    return int(params.pooling_type) if params.pooling_type >= 0 else int(said) if said.isdecimal() else 0


def _field(model: Model, name: str) -> str:
    """Return an option's field in this library's llama.h."""
    if name not in {*_BOOLEANS, *_ENUMS, *_FLOATS, *_WHOLE}:
        raise TypeError(f"a context cannot be made with the option {name!r}")
    if name not in dict(model.api.ffi.typeof("struct llama_context_params").fields):
        raise NotInThisBuild(f"llama_context_params.{name}", model.api.loaded.path)
    return name


def _value(name: str, value: Any) -> Any:
    if name in _BOOLEANS:
        return bool(value)
    if name in _FLOATS:
        least, most = _FLOATS[name]
        if not (math.isfinite(value) and least <= value <= most):
            raise ContextError(f"{name} is {value}, and must be between {least:g} and {most:g}")
        return float(value)
    return _checked(name, value, *(_ENUMS.get(name) or _WHOLE[name]))


def _checked(name: str, value: int, least: int, most: int = _MAX_INT32) -> int:
    number = operator.index(value)
    if not least <= number <= most:
        bound = f"at least {least}" if number < least else f"at most {most}"
        raise ContextError(f"{name} is {number}, and must be {bound}")
    return number


def check_threads(name: str, value: int) -> int:
    """Return a number of threads, checked.

    Raises:
        ContextError: 1 to 512 it must be.
    """
    return _checked(name, value, 1, MAX_THREADS)


def _cache_type(model: Model, name: str, asked: str | int) -> int:
    """Return the ggml_type of a cache; the quantized ones need heads of whole blocks, which C does not always check."""
    members = model.api.ffi.typeof("enum ggml_type").relements
    known = {word: members[f"GGML_TYPE_{member}"] for word, member in _CACHE_TYPES.items()}
    number = known.get(asked.lower(), -1) if isinstance(asked, str) else operator.index(asked)
    if number not in known.values():
        raise ContextError(f"{name} is {asked!r}, and must be one of {', '.join(known)}")
    if number not in {known["f32"], known["f16"], known["bf16"]}:
        for size in _head_sizes(model):
            if size % _BLOCK:
                raise ContextError(f"{name} is {asked!r}, which needs heads of a multiple of {_BLOCK}, not of {size}")
    return number


def _head_sizes(model: Model) -> set[int]:
    """Return the sizes of the attention's heads, as the model file has them or from its width."""
    arch, heads = architecture(model), model_n_head(model)
    words = (f"{arch}.attention.key_length", f"{arch}.attention.value_length")
    said = {int(value) for key, value in model_meta(model).items() if key.startswith(words) and value.isdigit()}
    return said or ({model_n_embd(model) // heads} if heads else set())
