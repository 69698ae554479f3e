"""Which samplers are there, and which numbers can they have?

One rule: NaN, infinities and numbers out of range are refused by the names under which users know them; C computes with
whatever it gets, or aborts.
"""

from __future__ import annotations

import math
import operator

from nativeload_llama.errors import ModelError, SamplerError
from nativeload_llama.low_level.model import model_n_ctx_train
from nativeload_llama.low_level.sampler_keep import made
from nativeload_llama.low_level.vocab import vocab_eos, vocab_eot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from nativeload_llama.library import Api
    from nativeload_llama.low_level.handles import Model, Sampler

DEFAULT_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED: a random seed."""

_MAX_INT32 = 2**31 - 1
_LARGEST = 1e30  # fits float32 with room to compute
_COOLEST = 1e-30  # logits divided by less are infinite
_LONGEST = 1 << 24  # tokens that a penalty looks back: C reserves them at once
_PIECE = 512  # bytes: the infill sampler's buffer, which it cannot enlarge


def sampler_init_greedy(api: Api) -> Sampler:
    """Make a sampler that chooses the likeliest token."""
    return made(api, "greedy", api.function("llama_sampler_init_greedy")())


def sampler_init_dist(api: Api, seed: int) -> Sampler:
    """Make a sampler that draws a token by its probability.

    Raises:
        SamplerError: the seed is not between 0 and 2**32 - 1 (which is a random one).
    """
    return made(api, "dist", api.function("llama_sampler_init_dist")(_seed(seed)))


def sampler_init_top_k(api: Api, k: int) -> Sampler:
    """Make a sampler that keeps the k likeliest tokens; 0 or less keeps all.

    Raises:
        SamplerError: a number that does not fit 32 bits.
    """
    return made(api, "top_k", api.function("llama_sampler_init_top_k")(_whole("top_k", k, -_MAX_INT32)))


def sampler_init_top_p(api: Api, p: float, min_keep: int = 1) -> Sampler:
    """Make a sampler that keeps the likeliest tokens that make up a probability, 0 to 1.

    Raises:
        SamplerError: a number out of range.
    """
    return made(api, "top_p", api.function("llama_sampler_init_top_p")(_share("top_p", p), _min_keep(min_keep)))


def sampler_init_min_p(api: Api, p: float, min_keep: int = 1) -> Sampler:
    """Make a sampler that drops tokens less likely than a fraction of the likeliest, 0 to 1.

    Raises:
        SamplerError: a number out of range.
    """
    return made(api, "min_p", api.function("llama_sampler_init_min_p")(_share("min_p", p), _min_keep(min_keep)))


def sampler_init_typical(api: Api, p: float, min_keep: int = 1) -> Sampler:
    """Make a sampler that keeps tokens of typical surprise that make up a probability, 0 to 1 (off).

    Raises:
        SamplerError: a number out of range.
    """
    numbers = _share("typical_p", p), _min_keep(min_keep)
    return made(api, "typical", api.function("llama_sampler_init_typical")(*numbers))


def sampler_init_temp(api: Api, t: float) -> Sampler:
    """Make a sampler that divides logits by a temperature; 0 leaves the likeliest token alone.

    Raises:
        SamplerError: a number out of range.
    """
    return made(api, "temp", api.function("llama_sampler_init_temp")(_temperature(t)))


def sampler_init_temp_ext(api: Api, t: float, delta: float, exponent: float) -> Sampler:
    """Make a sampler whose temperature varies by delta with the entropy, raised to an exponent; delta 0 is off.

    Raises:
        SamplerError: a number out of range.
    """
    call = api.function("llama_sampler_init_temp_ext")
    varied = _number("dynatemp_range", delta, 0, _LARGEST), _number("dynatemp_exponent", exponent, 0, 1e6)
    return made(api, "temp_ext", call(_temperature(t), *varied))


def sampler_init_xtc(api: Api, p: float, t: float, min_keep: int, seed: int) -> Sampler:
    """Make a sampler that drops, with probability p, all tokens above the threshold t but the least likely of them.

    Raises:
        SamplerError: a number out of range.
    """
    shares = _share("xtc_probability", p), _share("xtc_threshold", t)
    return made(api, "xtc", api.function("llama_sampler_init_xtc")(*shares, _min_keep(min_keep), _seed(seed)))


def sampler_init_top_n_sigma(api: Api, n: float) -> Sampler:
    """Make a sampler that drops tokens n standard deviations below the largest logit; 0 or less is off.

    Raises:
        SamplerError: a number out of range.
    """
    number = _number("top_n_sigma", n, -_LARGEST, _LARGEST)
    return made(api, "top_n_sigma", api.function("llama_sampler_init_top_n_sigma")(number))


def sampler_init_mirostat(model: Model, seed: int, tau: float, eta: float, m: int = 100) -> Sampler:
    """Make a sampler that chooses so that the surprise stays at tau (bits), learning by eta from m tokens.

    Raises:
        SamplerError: a number out of range.
        ModelError: the model has no vocabulary.
    """
    api, numbers = model.api, (_seed(seed), *_mirostat(tau, eta), _whole("mirostat_m", m, 1))
    return made(api, "mirostat", api.function("llama_sampler_init_mirostat")(_vocabulary(model), *numbers))


def sampler_init_mirostat_v2(api: Api, seed: int, tau: float, eta: float) -> Sampler:
    """Make a sampler that chooses so that the surprise stays at tau (bits), learning by eta.

    Raises:
        SamplerError: a number out of range.
    """
    call = api.function("llama_sampler_init_mirostat_v2")
    return made(api, "mirostat_v2", call(_seed(seed), *_mirostat(tau, eta)))


def _mirostat(tau: float, eta: float) -> tuple[float, float]:
    return _number("mirostat_tau", tau, 0, 1e6), _number("mirostat_eta", eta, 0, 1e6)


def sampler_init_penalties(model: Model, last_n: int, repeat: float, freq: float, present: float) -> Sampler:
    """Make a sampler that makes the last tokens less likely.

    Args:
        model: whose tokens they are.
        last_n: how many tokens count; 0 is off, -1 as many as the model's training context has.
        repeat: divides their logits; 1 is off.
        freq: subtracted for each time that a token was there.
        present: subtracted once.

    Raises:
        SamplerError: a number out of range.
    """
    api, call = model.api, model.api.function("llama_sampler_init_penalties")
    numbers = (
        _lately(model, "penalty_last_n", last_n),
        _number("repeat_penalty", repeat, 1e-6, 1e6),
        _number("frequency_penalty", freq, -1e6, 1e6),
        _number("presence_penalty", present, -1e6, 1e6),
    )
    sized = len(api.ffi.typeof(call).args) > len(numbers)  # llama.h of 2026-08 on asks for n_vocab first
    n_vocab = api.function("llama_vocab_n_tokens")(model.vocab)
    return made(api, "penalties", call(n_vocab, *numbers) if sized else call(*numbers))


def sampler_init_dry(  # noqa: PLR0917 - as in C
    model: Model,
    multiplier: float,
    base: float,
    allowed_length: int,
    last_n: int,
    breakers: Sequence[str],
) -> Sampler:
    """Make a sampler that makes tokens less likely that would continue a repetition (DRY).

    Args:
        model: whose tokens they are.
        multiplier: the penalty of the shortest repetition that counts; 0 is off.
        base: its growth with each token more; below 1 is off.
        allowed_length: tokens of a repetition that does not count yet.
        last_n: how many tokens to look back; 0 is off, -1 as many as the model's training context has.
        breakers: texts that end a repetition, of which C reads 40 bytes.

    Raises:
        SamplerError: a number out of range, or a breaker with a NUL character.
        ModelError: the model has no vocabulary.
    """
    api, ffi, call = model.api, model.api.ffi, model.api.function("llama_sampler_init_dry")
    _vocabulary(model)
    texts = [_breaker(ffi, text) for text in breakers]
    numbers = [
        _number("dry_multiplier", multiplier, 0, 1e6),
        _number("dry_base", base, 0, 1e6),
        _whole("dry_allowed_length", allowed_length, 0),
        _lately(model, "dry_penalty_last_n", last_n),
    ]
    if len(ffi.typeof(call).args) > len(numbers) + 3:  # llama.h before 2026-08 asks for n_ctx_train too
        numbers.insert(0, model_n_ctx_train(model))
    pointers = ffi.new("const char *[]", texts)  # C copies what it needs of them
    return made(api, "dry", call(model.vocab, *numbers, pointers, len(texts)))


def _breaker(ffi: Any, text: str) -> Any:
    if "\0" in text:
        raise SamplerError("dry_sequence_breakers", "dry_sequence_breakers: a text with a NUL character breaks nothing")
    return ffi.new("char[]", text.encode("utf-8", "replace"))


def sampler_init_adaptive_p(api: Api, target: float, decay: float, seed: int) -> Sampler:
    """Make a sampler that chooses near a target probability, 0 to 1; below 0 it draws as `sampler_init_dist`.

    Args:
        api: the library.
        target: the probability.
        decay: how slowly it adapts, 0 to 0.99.
        seed: of the draws.

    Raises:
        SamplerError: a number out of range.
    """
    numbers = _number("adaptive_target", target, -1, 1), _number("adaptive_decay", decay, 0, 0.99), _seed(seed)
    return made(api, "adaptive_p", api.function("llama_sampler_init_adaptive_p")(*numbers))


def sampler_init_logit_bias(model: Model, biases: Mapping[int, float]) -> Sampler:
    """Make a sampler that adds to the logits of tokens; minus infinity forbids one.

    Raises:
        SamplerError: no such token, or NaN or plus infinity.
    """
    api, n_vocab = model.api, model.api.function("llama_vocab_n_tokens")(model.vocab)
    pairs = []
    for token, bias in biases.items():
        if not 0 <= operator.index(token) < n_vocab:
            raise SamplerError("logit_bias", f"logit_bias: token {token} is not between 0 and {n_vocab - 1}")
        if not (-_LARGEST <= bias <= _LARGEST or bias == -math.inf):
            raise SamplerError("logit_bias", f"logit_bias: {bias} cannot be added to a logit")
        pairs.append((token, bias))
    native = api.ffi.new("llama_logit_bias[]", pairs)  # C copies it
    return made(api, "logit_bias", api.function("llama_sampler_init_logit_bias")(n_vocab, len(pairs), native))


def sampler_init_infill(model: Model) -> Sampler:
    """Make a sampler for filling in the middle: it joins tokens that begin alike, and prefers to end.

    It compares each candidate with each other one, so a `sampler_init_top_k` belongs before it.

    Raises:
        ModelError: the vocabulary has no token that ends a text, or one of more than 512 bytes (C would abort).
    """
    api, n_vocab = model.api, _vocabulary(model)
    if vocab_eot(model) < 0 and vocab_eos(model) < 0:
        raise ModelError(model.path, "its vocabulary has no token that ends a text, and the infill sampler needs one")
    piece, buffer = api.function("llama_token_to_piece"), api.ffi.new("char[]", _PIECE)
    for token in range(n_vocab):
        if piece(model.vocab, token, buffer, _PIECE, 0, False) < 0:
            raise ModelError(model.path, f"token {token} is too long for the infill sampler")
    return made(api, "infill", api.function("llama_sampler_init_infill")(model.vocab), n_vocab=n_vocab)


def _vocabulary(model: Model) -> int:
    if not model.n_vocab:
        raise ModelError(model.path, "the model has no vocabulary, and the sampler needs one")
    return model.n_vocab


def _number(name: str, value: float, least: float, most: float) -> float:
    number = float(value)
    if not least <= number <= most:  # also of NaN
        raise SamplerError(name, f"{name} is {value}, and must be between {least:g} and {most:g}")
    return number


def _share(name: str, value: float) -> float:
    return _number(name, value, 0, 1)


def _whole(name: str, value: int, least: int, most: int = _MAX_INT32) -> int:
    number = operator.index(value)
    if not least <= number <= most:
        raise SamplerError(name, f"{name} is {number}, and must be between {least} and {most}")
    return number


def _temperature(value: float) -> float:
    number = _number("temperature", value, 0, _LARGEST)
    if 0 < number < _COOLEST:
        raise SamplerError("temperature", f"temperature is {value}, and must be 0 or at least {_COOLEST:g}")
    return number


def _min_keep(value: int) -> int:
    return _whole("min_keep", value, 0)


def _seed(value: int) -> int:
    return _whole("seed", value, 0, DEFAULT_SEED)


def _lately(model: Model, name: str, value: int) -> int:
    number = _whole(name, value, -1, _LONGEST)
    return min(model_n_ctx_train(model), _LONGEST) if number == -1 else number
