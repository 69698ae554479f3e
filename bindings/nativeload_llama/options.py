"""Which keywords do the verbs of `Llama` take?

One rule: only type checkers read this; what a keyword means stands where it is used: `Sampling`, and the verb itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

LogitsProcessor = Callable[[list[int], Any], Any]
StoppingCriteria = Callable[[list[int], Any], bool]
Message = Mapping[str, Any]


class SamplingOptions(TypedDict, total=False):
    """The keywords of everything that draws tokens; `Sampling` says what each one means."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    dynatemp_range: float
    dynatemp_exponent: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat_mode: int
    mirostat_tau: float
    mirostat_eta: float
    adaptive_target: float
    adaptive_decay: float
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None
    grammar: Any
    seed: int | None


class TextOptions(SamplingOptions, total=False):
    """The keywords of everything that writes text."""

    max_tokens: int | None
    stop: str | Sequence[str] | None


class CompletionOptions(TextOptions, total=False):
    """The keywords of `Llama.create_completion`."""

    logprobs: int | None
    echo: bool
    model: str | None
    stopping_criteria: StoppingCriteria | None


class ChatOptions(TextOptions, total=False):
    """The keywords of `Llama.create_chat_completion`."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    logprobs: bool | None
    top_logprobs: int | None
    model: str | None


class ManyOptions(TextOptions, total=False):
    """The keywords of `Llama.generate_many`."""

    n_parallel: int | None
