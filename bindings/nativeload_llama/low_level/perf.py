"""How long did loading, decoding and sampling take?

One rule: llama.cpp's own counters, as they are. They count where the context was made with no_perf=False.
"""

from __future__ import annotations

from nativeload.value import Value
from nativeload_llama.errors import SamplerError
from nativeload_llama.low_level.sampler_keep import living

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.low_level.handles import Context, Sampler


class ContextPerf(Value, kw_only=True):
    """What a context has counted since it was made or reset; a decode counts once its results are waited for.

    Attributes:
        t_start_ms: when it began, in milliseconds of llama.cpp's clock.
        t_load_ms: milliseconds from loading the model to the first decode.
        t_p_eval_ms: milliseconds in batches of several tokens.
        t_eval_ms: milliseconds in batches of one token.
        n_p_eval: tokens in batches of several; 1 where there were none.
        n_eval: batches of one token; 1 where there were none.
        n_reused: how often a compute graph was used again.
    """

    t_start_ms: float
    t_load_ms: float
    t_p_eval_ms: float
    t_eval_ms: float
    n_p_eval: int
    n_eval: int
    n_reused: int


class SamplerPerf(Value, kw_only=True):
    """What a sampler chain has counted.

    Attributes:
        t_sample_ms: milliseconds spent in it.
        n_sample: tokens drawn.
    """

    t_sample_ms: float
    n_sample: int


def perf_context(context: Context) -> ContextPerf:
    """Return the counters of a context."""
    data = context.api.function("llama_perf_context")(context.pointer)
    return ContextPerf(
        t_start_ms=data.t_start_ms,
        t_load_ms=data.t_load_ms,
        t_p_eval_ms=data.t_p_eval_ms,
        t_eval_ms=data.t_eval_ms,
        n_p_eval=data.n_p_eval,
        n_eval=data.n_eval,
        n_reused=data.n_reused,
    )


def perf_context_reset(context: Context) -> None:
    """Set the counters of a context to zero."""
    context.api.function("llama_perf_context_reset")(context.pointer)


def perf_sampler(chain: Sampler) -> SamplerPerf:
    """Return the counters of a sampler chain.

    Raises:
        SamplerError: one sampler alone counts nothing; C would abort.
    """
    _check_chain(chain)
    data = chain.api.function("llama_perf_sampler")(chain.pointer)
    return SamplerPerf(t_sample_ms=data.t_sample_ms, n_sample=data.n_sample)


def perf_sampler_reset(chain: Sampler) -> None:
    """Set the counters of a sampler chain to zero.

    Raises:
        SamplerError: as `perf_sampler`.
    """
    _check_chain(chain)
    chain.api.function("llama_perf_sampler_reset")(chain.pointer)


def _check_chain(chain: Sampler) -> None:
    if living(chain).kind != "chain":
        raise SamplerError("chain", "one sampler alone has no counters: only a chain has")
