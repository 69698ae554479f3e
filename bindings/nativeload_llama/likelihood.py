"""How likely was a token, and what would have been likelier?

One rule: llama.cpp computes it, and only when it is asked for: no flag at loading, no copy of the vocabulary into
Python objects.
"""

from __future__ import annotations

import math
import operator

from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.sampling import owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.low_level import Candidates, Context, Model, Sampler

MOST = 100
"""Rivals that may be asked for; OpenAI's limit is 20, the work grows with the logarithm."""


class Likelihood(Value):
    """One token and its likeliest rivals, as natural logarithms of probability before any sampler.

    Attributes:
        token: its id; -1 before the first token of a prompt.
        logprob: its logarithm; None where nothing was predicted.
        rivals: (token, logarithm), likeliest first; the token itself may be among them.
    """

    token: int
    logprob: float | None
    rivals: tuple[tuple[int, float], ...]


class Scorer:
    """Computes likelihoods of one model's logits; the lock is held when it is called.

    Args:
        model: the model.
        count: how many rivals.

    Raises:
        ValueError: less than 0 or more than `MOST`.
    """

    def __init__(self, model: Model, count: int) -> None:
        if not 0 <= operator.index(count) <= MOST:
            raise ValueError(f"logprobs is {count}, and must be between 0 and {MOST}")
        self._count = count
        self._candidates: Candidates = low_level.Candidates(model.api, model.n_vocab)
        self._softmax: Sampler = low_level.sampler_init_dist(model.api, 0)  # it computes every probability to draw
        self._top: Sampler = low_level.sampler_init_top_k(model.api, max(count, 1))
        self._owned = [owned(self._softmax), owned(self._top)]

    def of(self, context: Context, row: int, token: int) -> Likelihood:
        """Return the likelihood of a token under the logits of a row of the last decode."""
        candidates = self._candidates
        candidates.fill(low_level.get_logits_ith(context, row))
        logit = candidates.logit(token)
        low_level.sampler_apply(self._softmax, candidates)
        low_level.sampler_apply(self._top, candidates)
        best = math.log(candidates.p(0)) - candidates.logit(0)
        rivals = tuple((candidates.token(place), candidates.logit(place) + best) for place in range(self._count))
        return Likelihood(token, logit + best, rivals)
