"""Which tokens will probably come next, so that several can be checked in one decode?

One rule: a draft only guesses. What is written is drawn from the model's own logits, guess or no guess.
"""

from __future__ import annotations

import operator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nativeload_llama.opened import OpenedModel

_LOOK_BACK = 4096  # tokens searched for an n-gram: the work for a token must not grow with the text


class LlamaPromptLookupDecoding:
    """Guesses that what followed the last few tokens earlier will follow them again.

    Good where a text repeats its prompt: summaries, edits, code. Costs nothing but a search.

    Args:
        max_ngram_size: how many last tokens must have occurred before; fewer are tried after it, down to one.
        num_pred_tokens: how many tokens to guess.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        for name, value in (("max_ngram_size", max_ngram_size), ("num_pred_tokens", num_pred_tokens)):
            if operator.index(value) < 1:
                raise ValueError(f"{name} is {value}, and must be at least 1")
        self.max_ngram_size, self.num_pred_tokens = max_ngram_size, num_pred_tokens

    def __call__(self, tokens: list[int]) -> Sequence[int]:
        """Return the guess, or nothing."""
        seen = tokens[-_LOOK_BACK:]
        for size in range(min(self.max_ngram_size, len(seen) - 1), 0, -1):
            end = seen[-size:]
            last = end[-1]
            place = len(seen) - 1
            while (place := _last_index(seen, last, place)) >= size - 1:
                if seen[place - size + 1 : place + 1] == end:
                    return seen[place + 1 : place + 1 + self.num_pred_tokens]
        return ()


def _last_index(seen: list[int], token: int, before: int) -> int:
    """Return the last place of a token before another place, or -1."""
    for place in range(before - 1, -1, -1):
        if seen[place] == token:
            return place
    return -1


class DraftModel:
    """Guesses with a smaller model of the same vocabulary.

    Args:
        llama: the smaller model; it is used by nobody else meanwhile.
        num_pred_tokens: how many tokens to guess.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, llama: OpenedModel, num_pred_tokens: int = 8) -> None:
        if operator.index(num_pred_tokens) < 1:
            raise ValueError(f"num_pred_tokens is {num_pred_tokens}, and must be at least 1")
        self.llama, self.num_pred_tokens = llama, num_pred_tokens

    def __call__(self, tokens: list[int]) -> Sequence[int]:
        """Return the guess: what the smaller model would write, greedily."""
        if len(tokens) + self.num_pred_tokens >= self.llama.n_ctx:
            return ()
        return tuple(self.llama.generate(tokens, max_tokens=self.num_pred_tokens, temperature=0))
