"""How is the next token chosen?

One rule: C is called only where it can go on: with samplers that live, tokens of the vocabulary, a chain whose last
sampler chooses, and a grammar that allows what it is told.

A sampler that was added to a chain is the chain's: it can be looked at and told things, and is freed with the chain.
One that was made for a model is freed before the model.
"""

from __future__ import annotations

import math

from nativeload_llama.errors import ContextError, GrammarError, SamplerError
from nativeload_llama.low_level.context import get_logits_ith
from nativeload_llama.low_level.grammar_sampler import grammar_accepts
from nativeload_llama.low_level.handles import Candidates
from nativeload_llama.low_level.sampler_keep import Known, known, living, made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nativeload_llama.library import Api
    from nativeload_llama.low_level.handles import Context, Sampler

_MAX_INT32 = 2**31 - 1


def sampler_chain_init(api: Api, *, no_perf: bool = True) -> Sampler:
    """Make an empty chain; with ``no_perf=False`` it measures itself for `perf_sampler`."""
    params = api.function("llama_sampler_chain_default_params")()
    params.no_perf = bool(no_perf)
    return made(api, "chain", api.function("llama_sampler_chain_init")(params))


def sampler_chain_add(chain: Sampler, sampler: Sampler) -> None:
    """Give a sampler to a chain, as its last one.

    Raises:
        SamplerError: it is in a chain already, is that chain or holds it, or is a lazy grammar; or it is no chain.
    """
    into, added = _chain(chain), living(sampler)
    if added.owner is not None or into in added.within():
        raise SamplerError("sampler", f"the sampler ({added.kind}) is in a chain already, or would be in itself")
    if added.grammar is not None and added.grammar.trigger is not None:
        hint = "Call sampler_apply() and sampler_accept() for it beside the chain."
        raise SamplerError("sampler", "a lazy grammar cannot be part of a chain", hint=hint)
    chain.api.function("llama_sampler_chain_add")(chain.pointer, sampler.pointer)
    added.owner = into
    into.children.append(sampler)
    into.settle()


def sampler_chain_n(chain: Sampler) -> int:
    """Return how many samplers a chain has."""
    _chain(chain)
    return int(chain.api.function("llama_sampler_chain_n")(chain.pointer))


def sampler_chain_get(chain: Sampler, i: int) -> Sampler:
    """Return the sampler at a place of a chain, from 0; it stays the chain's.

    Raises:
        IndexError: no such place.
    """
    children = _chain(chain).children
    if not 0 <= i < len(children):
        raise IndexError(f"place {i} is not between 0 and {len(children) - 1}")
    return children[i]


def sampler_chain_remove(chain: Sampler, i: int) -> Sampler:
    """Take the sampler at a place out of a chain, from 0; it is the caller's to free then.

    Raises:
        IndexError: no such place.
    """
    taken, facts = sampler_chain_get(chain, i), _chain(chain)
    chain.api.function("llama_sampler_chain_remove")(chain.pointer, i)
    del facts.children[i]
    known(taken).owner = None
    facts.settle()
    return taken


def _chain(sampler: Sampler) -> Known:
    facts = living(sampler)
    if facts.kind != "chain":
        raise SamplerError("chain", f"a {facts.kind} sampler is no chain")
    return facts


def sampler_name(sampler: Sampler) -> str:
    """Return llama.cpp's name of a sampler; a question mark before it means that its numbers turn it off."""
    living(sampler)
    return str(sampler.api.ffi.string(sampler.api.function("llama_sampler_name")(sampler.pointer)).decode())


def sampler_get_seed(sampler: Sampler) -> int:
    """Return the seed in use; DEFAULT_SEED where there is none."""
    living(sampler)
    return int(sampler.api.function("llama_sampler_get_seed")(sampler.pointer))


def sampler_sample(chain: Sampler, context: Context, i: int = -1) -> int:
    """Choose a token from the logits of a token of the last batch, and tell the chain.

    Args:
        chain: a chain whose last sampler chooses, or such a sampler by itself.
        context: where something was decoded.
        i: which token's logits, as of `get_logits_ith`.

    Raises:
        ContextError: there are no logits.
        SamplerError: nothing chooses.
        GrammarError: a grammar in the chain allows none of the tokens that were left.
    """
    facts: Known = chain.keep
    if not facts.plain:
        return _sample_watched(chain, living(chain), context, i)
    try:
        if not facts.logits(context.pointer, i):
            raise ContextError(f"there are no logits to sample from for token {i}: decode something first")
        token: int = facts.draw(chain.pointer, context.pointer, i)
    except OverflowError as error:
        raise ContextError(f"there is no token {i} in the last batch") from error
    return token


def _sample_watched(chain: Sampler, facts: Known, context: Context, i: int) -> int:
    """Do what llama_sampler_sample() does, and look before each step that could abort."""
    if not facts.chooses():
        hint = "End it with a greedy, dist, mirostat or adaptive_p sampler."
        raise SamplerError("chain", f"the last sampler of the {facts.kind} does not choose a token", hint=hint)
    logits = get_logits_ith(context, i)
    if facts.candidates is None or _width(facts.candidates) != len(logits):
        facts.candidates = Candidates(chain.api, len(logits))
    candidates = facts.candidates
    candidates.fill(logits)
    sampler_apply(chain, candidates)
    place = candidates.selected
    if place < 0:
        raise SamplerError("chain", "no token was chosen")
    token = candidates.token(place)
    if candidates.logit(place) == -math.inf:
        raise GrammarError("none of the tokens that were left is allowed")
    sampler_accept(chain, token)
    return token


def sampler_accept(sampler: Sampler, token: int) -> None:
    """Tell a sampler (or all of a chain) which token was chosen.

    Raises:
        GrammarError: a grammar does not allow it (`grammar_accepts` tells before); no sampler was told.
        SamplerError: no such token.
    """
    facts = living(sampler)
    if not 0 <= token < (facts.n_vocab or _MAX_INT32):
        raise SamplerError("token", f"token {token} is not between 0 and {(facts.n_vocab or _MAX_INT32) - 1}")
    if facts.grammar is not None:
        facts.grammar.tell(sampler, token)
        return
    for grammar in _grammars(sampler) if facts.watched else ():
        if not grammar_accepts(grammar, token):
            raise GrammarError(f"the grammar does not allow token {token} here")
    sampler.api.function("llama_sampler_accept")(sampler.pointer, token)


def _grammars(sampler: Sampler) -> Iterator[Sampler]:
    facts = known(sampler)
    if facts.grammar is not None:
        yield sampler
    for child in facts.children:
        yield from _grammars(child)


def sampler_apply(sampler: Sampler, candidates: Candidates) -> None:
    """Let a sampler (or all of a chain) change the tokens to choose among, and choose one if it is one that does.

    Raises:
        SamplerError: the sampler is of a smaller vocabulary than the tokens.
    """
    facts = living(sampler)
    if facts.n_vocab and _width(candidates) > facts.n_vocab:
        reason = f"the sampler is of a vocabulary of {facts.n_vocab} tokens, and there are {_width(candidates)}"
        raise SamplerError("candidates", reason)
    if facts.grammar is not None and facts.grammar.waits():
        return
    sampler.api.function("llama_sampler_apply")(sampler.pointer, candidates.native)


def _width(candidates: Candidates) -> int:
    """Return how many tokens the vocabulary of candidates has."""
    return candidates._n_vocab


def sampler_reset(sampler: Sampler) -> None:
    """Let a sampler forget what it was told; random ones begin with their seed again."""
    facts = living(sampler)
    sampler.api.function("llama_sampler_reset")(sampler.pointer)
    if facts.grammar is not None:
        facts.grammar.forget()


def sampler_clone(sampler: Sampler) -> Sampler:
    """Return a copy in the same state; it is the caller's."""
    living(sampler)
    api = sampler.api
    return _copied(api, sampler, api.function("llama_sampler_clone")(sampler.pointer))


def _copied(api: Api, of: Sampler, pointer: Any) -> Sampler:
    facts = known(of)
    copy = made(api, facts.kind, pointer, n_vocab=facts.n_vocab, grammar=facts.grammar and facts.grammar.copy())
    for place, child in enumerate(facts.children):
        made_of = _copied(api, child, api.function("llama_sampler_chain_get")(pointer, place))
        known(made_of).owner = known(copy)
        known(copy).children.append(made_of)
    known(copy).settle()
    if facts.kind == "adaptive_p":
        # A clone remembers the token that was chosen last and not what it compares it with; a token that never was
        # makes it forget that one.
        api.function("llama_sampler_accept")(pointer, _MAX_INT32)
    return copy


def sampler_free(sampler: Sampler) -> None:
    """Free a sampler, or a chain with all in it; once more is nothing.

    Raises:
        SamplerError: it is a chain's, which frees it.
    """
    facts = known(sampler)
    if not facts.alive:
        return
    if facts.owner is not None:
        raise SamplerError("sampler", f"the sampler ({facts.kind}) is freed with the chain that it was added to")
    facts.end()
    sampler.api.function("llama_sampler_free")(sampler.pointer)
