"""How is a grammar asked before it is told?

One rule: C ends the process where a grammar is given a token that it does not allow, so each token is put to it as the
only candidate first.

A lazy grammar is llama.cpp's grammar with its triggers looked for here: in llama.cpp a pattern that is no regular
expression of C++, a long text before the trigger, and a token that goes on behind the trigger with what the grammar
does not allow each end the process.
"""

from __future__ import annotations

import math
import re

from nativeload_llama.errors import GrammarError
from nativeload_llama.low_level.sampler_keep import living, made
from nativeload_llama.low_level.vocab import check_tokens, token_to_piece, vocab_is_eog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nativeload_llama.low_level.handles import Model, Sampler


class Grammar:
    """A grammar in C and what it takes to ask it."""

    def __init__(self, model: Model, trigger: Trigger | None = None) -> None:
        new = model.api.ffi.new
        self.model, self.trigger = model, trigger
        self._pieces: dict[bytes, int] = {}
        self._one = new("llama_token_data *")
        self._alone = new("llama_token_data_array *")
        self._apply = model.api.function("llama_sampler_apply")

    def allows(self, sampler: Sampler, token: int) -> bool:
        """Whether the grammar allows a token next.

        C looks at a piece up to its first NUL character when it is asked, and at all of it when it is told.

        Raises:
            ModelError: no such token.
        """
        check_tokens(self.model, (token,))
        if self.waits():
            return True
        self._one.id, self._one.logit, alone = token, 0.0, self._alone
        alone.data, alone.size, alone.selected, alone.sorted = self._one, 1, -1, False
        self._apply(sampler.pointer, alone)
        if self._one.logit == -math.inf:
            return False
        return vocab_is_eog(self.model, token) or b"\0" not in token_to_piece(self.model, token, special=True)

    def waits(self) -> bool:
        """Whether it is a lazy one that did not see its trigger yet."""
        return self.trigger is not None and self.trigger.awaited

    def forget(self) -> None:
        """Wait for the trigger again."""
        if self.trigger is not None:
            self.trigger.forget()

    def copy(self) -> Grammar:
        """Return what it takes to ask a clone of the grammar."""
        return Grammar(self.model, None if self.trigger is None else self.trigger.copy())

    def tell(self, sampler: Sampler, token: int) -> None:
        """Tell the grammar a token.

        Raises:
            GrammarError: it does not allow it; after a trigger, it waits for the next one then.
            ModelError: no such token.
        """
        if self.trigger is None or not self.waits():
            self._tell(sampler, token)
            return
        check_tokens(self.model, (token,))
        behind = self.trigger.seen(self.model, token)
        if behind is None:
            return
        self.trigger.forget()
        self.trigger.awaited = False
        try:
            for one, piece in behind:
                for spelled in self._spelled(one, piece):
                    self._tell(sampler, spelled)
        except GrammarError as error:
            self.model.api.function("llama_sampler_reset")(sampler.pointer)
            self.trigger.forget()
            raise GrammarError("the text at the trigger is not what the grammar begins with") from error

    def _tell(self, sampler: Sampler, token: int) -> None:
        if not self.allows(sampler, token):
            raise GrammarError(f"the grammar does not allow token {token} here")
        self.model.api.function("llama_sampler_accept")(sampler.pointer, token)

    def _spelled(self, token: int, piece: bytes) -> Iterator[int]:
        """Yield tokens that make up a piece: the token itself, or of a part of it others, longest first."""
        if piece == token_to_piece(self.model, token, special=True):
            yield from (token,) if piece else ()
            return
        if not self._pieces:
            tokens = (one for one in range(self.model.n_vocab) if not vocab_is_eog(self.model, one))
            self._pieces = {token_to_piece(self.model, one, special=True): one for one in tokens}
        while piece:
            length = next((size for size in range(len(piece), 0, -1) if piece[:size] in self._pieces), 0)
            if not length:
                raise GrammarError(f"the model has no tokens for {piece!r}")
            yield self._pieces[piece[:length]]
            piece = piece[length:]


class Trigger:
    """What a lazy grammar waits for: a token, or a text that a pattern is found in.

    Attributes:
        awaited: it was not seen yet.
    """

    def __init__(self, patterns: Sequence[str], tokens: Sequence[int]) -> None:
        self.awaited = True
        self._tokens = frozenset(tokens)
        self._patterns = tuple(map(_compiled, patterns))
        self._text = bytearray()
        self._ends: list[tuple[int, int]] = []  # (token, where its piece ends in the text)

    def forget(self) -> None:
        """Wait again, from the beginning."""
        self.awaited = True
        self._text.clear()
        self._ends.clear()

    def copy(self) -> Trigger:
        """Return another one in the same state."""
        other = Trigger((), ())
        other.awaited, other._tokens, other._patterns = self.awaited, self._tokens, self._patterns
        other._text, other._ends = bytearray(self._text), list(self._ends)
        return other

    def seen(self, model: Model, token: int) -> list[tuple[int, bytes]] | None:
        """Take note of a token; return what the grammar is to be told where the trigger is seen now, else None."""
        piece = token_to_piece(model, token, special=True)
        if token in self._tokens:
            return [(token, piece)]
        self._text += piece
        self._ends.append((token, len(self._text)))
        starts = (_start(pattern, self._text) for pattern in self._patterns)
        start = next((place for place in starts if place >= 0), -1)
        return None if start < 0 else list(self._behind(start))

    def _behind(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield the tokens from a place of the text on, the first one perhaps in part."""
        begin = 0
        for token, end in self._ends:
            if end > start:
                yield token, bytes(self._text[max(begin, start) : end])
            begin = end


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode())
    except (re.error, UnicodeEncodeError, RecursionError, OverflowError) as error:
        raise GrammarError(f"the trigger pattern {pattern!r} is no regular expression: {error}") from error


def _start(pattern: re.Pattern[bytes], text: bytearray) -> int:
    """Return where the grammar begins: where the first group that matched something does, else the match; else -1."""
    match = pattern.search(text)
    if match is None:
        return -1
    groups = range(1, pattern.groups + 1)
    return next((match.start(group) for group in groups if match.group(group)), match.start())


def sampler_init_grammar(model: Model, gbnf: str, root: str = "root") -> Sampler:
    """Make a sampler that allows only tokens that a grammar allows.

    Args:
        model: whose tokens they are.
        gbnf: the grammar, in llama.cpp's notation.
        root: the rule that the whole text must follow.

    Raises:
        GrammarError: llama.cpp would not understand it, or end the process over it.
        ModelError: the model has no vocabulary.
    """
    return _made(model, gbnf, root, Grammar(model))


def _made(model: Model, gbnf: str, root: str, grammar: Grammar) -> Sampler:
    api = model.api
    from nativeload_llama.grammar import check_gbnf  # few generations have a grammar

    check_tokens(model, ())
    check_gbnf(gbnf, root)
    api.log.clear()
    pointer = api.function("llama_sampler_init_grammar")(model.vocab, gbnf.encode(), root.encode())
    if pointer == api.ffi.NULL:
        raise GrammarError(api.log.said() or "llama.cpp does not accept the grammar and does not say why")
    return made(api, "grammar", pointer, n_vocab=model.n_vocab, grammar=grammar)


def sampler_init_grammar_lazy_patterns(
    model: Model, gbnf: str, root: str, trigger_patterns: Sequence[str], trigger_tokens: Sequence[int]
) -> Sampler:
    """Make a grammar that allows everything until a trigger is seen; it cannot be part of a chain.

    Args:
        model: whose tokens they are.
        gbnf: the grammar; it holds from the trigger on, which is part of what it must allow.
        root: its first rule.
        trigger_patterns: regular expressions as of Python's `re`, searched for in all the text since the beginning; the
            grammar begins at the first group that matched something, else at the match.
        trigger_tokens: tokens that are triggers by themselves.

    Raises:
        GrammarError: as `sampler_init_grammar`, or a pattern that is none.
        ModelError: as `sampler_init_grammar`, or no such trigger token.
    """
    check_tokens(model, trigger_tokens)
    trigger = Trigger(trigger_patterns, trigger_tokens)
    return _made(model, gbnf, root, Grammar(model, trigger))


def grammar_accepts(sampler: Sampler, token: int) -> bool:
    """Whether a grammar allows a token next; a lazy one allows every token until its trigger is seen.

    Raises:
        ModelError: no such token.
        SamplerError: the sampler was freed.
        TypeError: it is no grammar.
    """
    grammar = living(sampler).grammar
    if grammar is None:
        raise TypeError(f"a {living(sampler).kind} sampler is no grammar")
    return grammar.allows(sampler, token)
