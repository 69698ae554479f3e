"""What is to be known of a sampler that C does not tell?

One rule: nothing is given to C that was freed, belongs to another chain, or would make C abort; what that takes is kept
beside the pointer, in ``Sampler.keep``.
"""

from __future__ import annotations

from nativeload_llama.errors import SamplerError
from nativeload_llama.low_level.handles import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nativeload_llama.library import Api
    from nativeload_llama.low_level.grammar_sampler import Grammar
    from nativeload_llama.low_level.handles import Candidates

_CHOOSING = frozenset({"adaptive_p", "dist", "greedy", "mirostat", "mirostat_v2"})
_WATCHED = frozenset({"grammar", "infill"})


class Known:
    """What is known of one sampler.

    Attributes:
        kind: the name after ``llama_sampler_init_``, or ``chain``.
        n_vocab: tokens and candidates are below this; 0 is any.
        grammar: of a grammar: what it takes to ask it before it is told.
        children: of a chain: its samplers.
        owner: the chain that a sampler was added to.
        alive: it was not freed.
        watched: C could abort in choosing or being told.
        plain: it chooses a token, and C needs no watching at that.
        logits, draw: llama_get_logits_ith and llama_sampler_sample, at hand for each token.
        candidates: where C needs watching: the tokens it chooses among.
    """

    __slots__ = (
        "alive",
        "candidates",
        "children",
        "draw",
        "grammar",
        "kind",
        "logits",
        "n_vocab",
        "owner",
        "plain",
        "watched",
    )

    def __init__(self, api: Api, kind: str, n_vocab: int = 0, grammar: Grammar | None = None) -> None:
        self.kind, self.n_vocab, self.grammar = kind, n_vocab, grammar
        self.children: list[Sampler] = []
        self.owner: Known | None = None
        self.candidates: Candidates | None = None
        self.logits: Any = api.function("llama_get_logits_ith")
        self.draw: Any = api.function("llama_sampler_sample")
        self.alive = True
        self.plain = self.watched = False
        self.settle()

    def chooses(self) -> bool:
        """Whether a token is chosen in the end: llama_sampler_sample() asserts it."""
        if self.kind == "chain":
            return bool(self.children) and known(self.children[-1]).chooses()
        return self.kind in _CHOOSING

    def settle(self) -> None:
        """Draw the conclusions, here and in the chains that this is in."""
        if self.kind == "chain":
            self.n_vocab = min((size for one in self.children if (size := known(one).n_vocab)), default=0)
        self.watched = any(one.kind in _WATCHED for one in self.within())
        self.plain = self.alive and self.chooses() and not self.watched
        if self.owner is not None:
            self.owner.settle()

    def within(self) -> Iterator[Known]:
        """Yield this one and everything in it."""
        yield self
        for child in self.children:
            yield from known(child).within()

    def end(self) -> None:
        """Take note that it was freed, and what is in it."""
        for one in list(self.within()):
            one.alive = one.plain = False


def made(api: Api, kind: str, pointer: Any, *, n_vocab: int = 0, grammar: Grammar | None = None) -> Sampler:
    """Return the handle of a new sampler.

    Raises:
        SamplerError: C made none.
    """
    if pointer == api.ffi.NULL:
        raise SamplerError(kind, f"llama.cpp could not make a sampler ({kind}): {api.log.said() or 'no reason given'}")
    return Sampler(api, pointer, Known(api, kind, n_vocab, grammar))


def known(sampler: Sampler) -> Known:
    """Return what is known of a sampler, freed or not."""
    found: Known = sampler.keep
    return found


def living(sampler: Sampler) -> Known:
    """Return what is known of a sampler.

    Raises:
        SamplerError: it was freed.
    """
    found = known(sampler)
    if not found.alive:
        raise SamplerError("sampler", f"the sampler ({found.kind}) was freed")
    return found
