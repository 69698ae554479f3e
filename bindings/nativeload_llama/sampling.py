"""How is the next token drawn from a model's logits?

One rule: every number is checked by making the sampler, before a generation begins; the order of the samplers is
llama.cpp's own.
"""

from __future__ import annotations

import operator
import sys

from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.errors import SamplerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from nativeload_llama.low_level import Candidates, Context, Model, Sampler
    from nativeload_llama.options import LogitsProcessor, SamplingOptions


_NO_PENALTIES = (1.0, 0.0, 0.0)


class Sampling(Value, kw_only=True):
    """How tokens are drawn.

    Attributes:
        temperature: 0 always takes the likeliest token (greedy).
        top_k: draw among this many likeliest tokens; 0 or less is all.
        top_p: draw among the likeliest tokens that make up this probability.
        min_p: leave out tokens less likely than this fraction of the likeliest.
        typical_p: draw among the tokens of typical surprise that make up this probability; 1 is off.
        top_n_sigma: leave out tokens this many standard deviations below the likeliest logit; below 0 is off.
        xtc_probability: how often the likeliest tokens are left out (XTC); 0 is off.
        xtc_threshold: tokens above this probability count for XTC.
        dynatemp_range: let the temperature vary by this much with the entropy; 0 is off.
        dynatemp_exponent: how the entropy maps to it.
        repeat_penalty: divides the logits of tokens seen lately; 1 is off.
        frequency_penalty: subtracted from a token's logit for each time it was seen lately.
        presence_penalty: subtracted once from the logit of each token seen lately.
        penalty_last_n: how many tokens are "lately"; 0 is none, -1 the whole context.
        dry_multiplier: strength of the penalty on repeated sequences (DRY); 0 is off.
        dry_base: its growth with each token of the repetition.
        dry_allowed_length: repetitions up to this many tokens are free.
        dry_penalty_last_n: how far back DRY looks; -1 is the whole context.
        dry_sequence_breakers: texts across which nothing counts as repeated.
        mirostat_mode: 1 or 2 keeps the surprise at `mirostat_tau` instead of cutting; 0 is off.
        mirostat_tau: the surprise to keep, in bits.
        mirostat_eta: how fast it is corrected.
        adaptive_target: draw near this probability (adaptive-p); below 0 is off.
        adaptive_decay: how slowly that adapts, 0 to 0.99.
        logit_bias: token id -> what is added to its logit; -inf forbids it.
        logits_processor: functions of (tokens so far, logits) that may change the logits in place, or return new ones.
        grammar: what the text must follow: a `LlamaGrammar`, or GBNF text.
        seed: of the draws; None is a new one each time.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    logit_bias: Mapping[int, float] | Mapping[str, float] | None = None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None
    grammar: Any = None
    seed: int | None = None

    def processors(self) -> tuple[LogitsProcessor, ...]:
        """The logits processors, in order."""
        given = self.logits_processor
        return () if given is None else (given,) if callable(given) else tuple(given)


_OTHER_WORDS = {
    "temp": "temperature",
    "functions": "tools",
    "function_call": "tool_choice",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "tfs_z": "",
    "best_of": "",
    "n": "generate_many()",
}
_WORDS = frozenset(Sampling.__annotations__)


def checked_words(given: SamplingOptions) -> SamplingOptions:
    """Refuse a keyword that no verb has.

    Raises:
        TypeError: naming it, and the one that was probably meant.
    """
    for word in given:
        if word not in _WORDS:
            meant = _OTHER_WORDS.get(word) or next((one for one in sorted(_WORDS) if one.startswith(word[:4])), "")
            raise TypeError(f"there is no option {word!r}" + (f"; did you mean {meant}?" if meant else ""))
    return given


def checked_seed(seed: int | None) -> int:
    """Return the seed that C takes; None is a random one.

    Raises:
        ValueError: it does not fit 32 bits, or is the number that means a random one.
    """
    if seed is None:
        return low_level.DEFAULT_SEED
    if seed in (-1, low_level.DEFAULT_SEED):  # llama-cpp-python's words for "none"
        return low_level.DEFAULT_SEED
    if not 0 <= operator.index(seed) < low_level.DEFAULT_SEED:
        raise ValueError(f"seed is {seed}, and must be between 0 and 2**32 - 2")
    return seed


class Draw:
    """The samplers of one generation: ``token = draw.next(context, row, tokens)``.

    Raises:
        SamplerError: a number that no sampler can have.
        GrammarError: the grammar is none.
    """

    def __init__(self, model: Model, sampling: Sampling, history: Sequence[int] = ()) -> None:
        self._model = model
        self._processors = sampling.processors()
        self._processed_at, self._processed = -1, None
        self._grammar: Sampler | None = None
        self._candidates: Candidates | None = None
        self.chain = low_level.sampler_chain_init(model.api)
        self._owned = [owned(self.chain)]
        for sampler in _samplers(model, sampling):
            low_level.sampler_chain_add(self.chain, sampler)
        if sampling.grammar is not None:
            self._grammar = _grammar(model, sampling.grammar)
            self._owned.append(owned(self._grammar))
        for token in _remembered(sampling, history):
            low_level.sampler_accept(self.chain, token)
        self.plain = self._grammar is None and not self._processors

    def bare(self) -> tuple[Any, Any]:
        """Return (llama_sampler_sample, the chain), for a loop that has just decoded and has no time for `next`."""
        return self.chain.keep.draw, self.chain.pointer

    def next(self, context: Context, row: int, tokens: list[int]) -> int:
        """Draw a token from the logits of a row of the last decode; -1 where the grammar allows none."""
        if self.plain:
            return low_level.sampler_sample(self.chain, context, row)
        candidates = self._filled(context, row, tokens)
        low_level.sampler_apply(self.chain, candidates)
        token = candidates.token(candidates.selected)
        if self._grammar is not None and not low_level.grammar_accepts(self._grammar, token):
            candidates = self._filled(context, row, tokens)
            low_level.sampler_apply(self._grammar, candidates)
            low_level.sampler_apply(self.chain, candidates)
            token = candidates.token(candidates.selected)
            if not low_level.grammar_accepts(self._grammar, token):
                return -1
        low_level.sampler_accept(self.chain, token)
        if self._grammar is not None:
            low_level.sampler_accept(self._grammar, token)
        return token

    def _filled(self, context: Context, row: int, tokens: list[int]) -> Candidates:
        """Return every token with its logit, as the processors leave it."""
        if self._candidates is None:
            self._candidates = low_level.Candidates(self._model.api, self._model.n_vocab)
        self._candidates.fill(self._logits(context, row, tokens))
        return self._candidates

    def _logits(self, context: Context, row: int, tokens: list[int]) -> Any:
        """Return the logits as the processors leave them; they are asked once for each token.

        What a processor gets is its own: C's memory changes with the next decode, and likelihoods are read from it.
        """
        logits: Any = low_level.get_logits_ith(context, row)
        if not self._processors:
            return logits
        if self._processed_at != len(tokens):
            import array

            logits = memoryview(array.array("f", logits.tobytes()))
            for processor in self._processors:
                logits = _processed(processor, tokens, logits)
            self._processed_at, self._processed = len(tokens), logits
        return self._processed

    def free(self) -> None:
        """Free the samplers now, and not when nobody holds this any more."""
        while self._owned:
            self._model.api.ffi.release(self._owned.pop())


def owned(sampler: Sampler) -> Any:
    """Return what frees a sampler when nobody holds it: C does, so that no signal can come between."""
    api = sampler.api
    return api.ffi.gc(sampler.pointer, api.function("llama_sampler_free"))


def _remembered(given: Sampling, history: Sequence[int]) -> Sequence[int]:
    """Return the tokens before the first one that the penalties must know of."""
    counts = []
    if (given.repeat_penalty, given.frequency_penalty, given.presence_penalty) != _NO_PENALTIES:
        counts.append(given.penalty_last_n)
    if given.dry_multiplier != 0:
        counts.append(given.dry_penalty_last_n)
    if not any(counts):
        return ()
    return history if min(counts) < 0 else history[-max(counts) :]


def as_array(logits: memoryview) -> Any:
    """Return logits as numpy has them where the program uses numpy, else as they are; neither is a copy."""
    numpy = sys.modules.get("numpy")
    return logits if numpy is None else numpy.asarray(logits)


def _processed(processor: LogitsProcessor, tokens: list[int], logits: Any) -> Any:
    """Let a processor change the logits, in place or by returning others."""
    given = as_array(logits)
    made = processor(tokens, given)
    made = given if made is None else made
    if len(made) != len(logits):
        raise SamplerError("logits_processor", f"it returned {len(made)} logits instead of {len(logits)}")
    if made is given:
        return logits
    import array

    return memoryview(array.array("f", made))


def _grammar(model: Model, grammar: Any) -> Sampler:
    """Make the sampler of a `LlamaGrammar`, of what tools are called by, or of GBNF text."""
    text, root = getattr(grammar, "gbnf", grammar), getattr(grammar, "root", "root")
    if not isinstance(text, str):
        raise TypeError(f"a grammar is a LlamaGrammar or GBNF text, not {type(text).__name__}")
    if getattr(grammar, "lazy", False):
        return low_level.sampler_init_grammar_lazy_patterns(model, text, root, grammar.trigger_patterns, ())
    return low_level.sampler_init_grammar(model, text, root)


def _samplers(model: Model, given: Sampling) -> Iterator[Sampler]:
    """Make the samplers of a chain one by one, in the order of llama.cpp's own programs."""
    api = model.api
    seed = checked_seed(given.seed)
    if given.logit_bias:
        yield low_level.sampler_init_logit_bias(model, _biases(given.logit_bias))
    if (given.repeat_penalty, given.frequency_penalty, given.presence_penalty) != _NO_PENALTIES:
        lately = given.penalty_last_n
        yield low_level.sampler_init_penalties(
            model, lately, given.repeat_penalty, given.frequency_penalty, given.presence_penalty
        )
    if given.dry_multiplier != 0:
        rule = given.dry_base, given.dry_allowed_length, given.dry_penalty_last_n
        yield low_level.sampler_init_dry(model, given.dry_multiplier, *rule, tuple(given.dry_sequence_breakers))
    if given.temperature != 0:
        yield from _cutting(model, given, seed)
        return
    for sampler in _cutting(model, given, seed):
        low_level.sampler_free(sampler)  # a number that cannot be is refused, whether it counts or not
    yield low_level.sampler_init_greedy(api)


def _cutting(model: Model, given: Sampling, seed: int) -> Iterator[Sampler]:
    """Make the samplers that leave tokens out, and the one that draws."""
    api = model.api
    heat = given.temperature, given.dynatemp_range, given.dynatemp_exponent
    if given.mirostat_mode not in {0, 1, 2}:
        raise SamplerError("mirostat_mode", f"mirostat_mode is {given.mirostat_mode!r}, and must be 0, 1 or 2")
    if given.mirostat_mode:
        yield low_level.sampler_init_temp_ext(api, *heat)
        how = given.mirostat_tau, given.mirostat_eta
        if given.mirostat_mode == 1:
            yield low_level.sampler_init_mirostat(model, seed, *how)
        else:
            yield low_level.sampler_init_mirostat_v2(api, seed, *how)
        return
    if given.top_n_sigma >= 0:
        yield low_level.sampler_init_top_n_sigma(api, given.top_n_sigma)
    yield low_level.sampler_init_top_k(api, given.top_k)
    if given.typical_p != 1:
        yield low_level.sampler_init_typical(api, given.typical_p)
    yield low_level.sampler_init_top_p(api, given.top_p)
    yield low_level.sampler_init_min_p(api, given.min_p)
    if given.xtc_probability != 0:
        yield low_level.sampler_init_xtc(api, given.xtc_probability, given.xtc_threshold, 1, seed)
    yield low_level.sampler_init_temp_ext(api, *heat)
    if given.adaptive_target >= 0:
        yield low_level.sampler_init_adaptive_p(api, given.adaptive_target, given.adaptive_decay, seed)
    else:
        yield low_level.sampler_init_dist(api, seed)


def _biases(given: Mapping[int, float] | Mapping[str, float]) -> dict[int, float]:
    """Return a logit bias by token id; OpenAI's JSON has the ids as text."""
    if not hasattr(given, "items"):
        raise TypeError(f"logit_bias is a mapping of token to number, not {type(given).__name__}")
    try:
        return {int(token): float(bias) for token, bias in given.items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise SamplerError("logit_bias", f"logit_bias maps token ids to numbers: {error}") from error
