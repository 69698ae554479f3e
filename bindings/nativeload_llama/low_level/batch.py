"""How are tokens decoded?

One rule: a batch reaches C only where nothing in it can make C abort: its length, outputs, sequences and positions fit
the context. Tokens that are not in the vocabulary and positions that do not follow are refused by C itself.
"""

from __future__ import annotations

from nativeload_llama.errors import AbortedError, ContextError
from nativeload_llama.low_level.handles import Batch
from nativeload_llama.low_level.rules import MAX_POSITION, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nativeload_llama.low_level.handles import Context
    from nativeload_llama.low_level.rules import Rules

_ABORTED = 2
_WORDS = {1: "the context is full", -1: "the batch is not valid"}


def batch_get_one(context: Context, tokens: Sequence[int]) -> Batch:
    """Return a batch of tokens for sequence 0 that follow what the context holds now; the last one gets logits.

    Raises:
        ContextError: no tokens, or a number that is none.
    """
    count = len(tokens)
    batch = Batch(context.api, count)
    native, first = batch.native, _next_position(context)
    try:
        native.token[0:count] = list(tokens)
        native.pos[0:count] = list(range(first, first + count))
    except (OverflowError, TypeError) as error:
        raise _bad(str(error)) from error
    native.n_seq_id[0:count] = [1] * count
    native.logits[count - 1] = 1
    native.n_tokens = count
    return batch


def decode(context: Context, batch: Batch) -> None:
    """Compute a batch and remember it; logits and embeddings of the last batch are gone.

    A model that remembers nothing (BERT) does the same as with `encode`.

    Raises:
        ContextError: the context is full (code 1), the batch is bad (-1), or a backend failed (below -1).
        AbortedError: the abort flag was raised; the part of the batch before that may be remembered.
    """
    known = rules(context)
    if known.awaits and not known.encoded:
        raise _bad("an encoder-decoder model decodes after encode()")
    _check(context, known, batch)
    context.api.log.clear()
    if code := context.api.function("llama_decode")(context.pointer, batch.native):
        raise _failed(context, code)


def encode(context: Context, batch: Batch) -> None:
    """Compute a batch without remembering it, at most n_ubatch tokens; an encoder-decoder model decodes after this.

    Raises:
        ContextError: the model has no encoder, or as `decode`.
        AbortedError: the abort flag was raised.
    """
    known = rules(context)
    if not known.encodes:
        raise _bad("the model has no encoder: use decode()")
    _check(context, known, batch, most=context.n_ubatch)
    context.api.log.clear()
    if code := context.api.function("llama_encode")(context.pointer, batch.native):
        raise _failed(context, code)
    known.encoded = True


class SingleToken:
    """One token of sequence 0 after the other, as a text is written: a batch that is made once.

    Args:
        context: where they are decoded.
    """

    def __init__(self, context: Context) -> None:
        api = context.api
        self._token = api.ffi.new("llama_token[1]")
        self._batch = api.function("llama_batch_get_one")(self._token, 1)
        self._decode, self._log = api.function("llama_decode"), api.log
        self._context, self._rules = context, rules(context)
        self._bounded = self._rules.n_positions < MAX_POSITION

    def decode(self, token: int) -> None:
        """Compute a token after what the context holds, with logits.

        Raises:
            ContextError, AbortedError: as `decode`.
        """
        try:
            self._token[0] = token
        except (OverflowError, TypeError) as error:
            raise _bad(str(error)) from error
        if self._bounded or self._rules.awaits:
            self._check()
        self._log.clear()
        if code := self._decode(self._context.pointer, self._batch):
            raise _failed(self._context, code)

    def bare(self) -> tuple[Any, Any, Any, Any] | None:
        """Return what a loop needs that has no time for `decode`, or None where each call must be checked.

        Returns:
            (token array of one, llama_decode, context, batch); a code other than 0 goes to `failed`.
        """
        if self._bounded or self._rules.awaits:
            return None
        self._log.clear()
        return self._token, self._decode, self._context.pointer, self._batch

    def failed(self, code: int) -> ContextError:
        """Return the error that a code of llama_decode stands for."""
        return _failed(self._context, code)

    def _check(self) -> None:
        if self._rules.awaits and not self._rules.encoded:
            raise _bad("an encoder-decoder model decodes after encode()")
        if _next_position(self._context) >= self._rules.n_positions:
            raise ContextError(f"the model knows {self._rules.n_positions} positions", code=1)


def _next_position(context: Context) -> int:
    """Return the position after those of sequence 0."""
    api = context.api
    return int(api.function("llama_memory_seq_pos_max")(api.function("llama_get_memory")(context.pointer), 0)) + 1


def _check(context: Context, known: Rules, batch: Batch, most: int | None = None) -> None:
    """Refuse a batch that C would abort on.

    Raises:
        ContextError: code -1, naming what does not fit.
    """
    native, unpack = batch.native, context.api.ffi.unpack
    count, room = native.n_tokens, known.most(context) if most is None else most
    if not 1 <= count <= min(room, batch.capacity):
        raise _bad(f"{count} tokens, and one batch takes 1 to {room} here")
    if count > context.n_outputs_max:
        outputs = count if known.embeddings else sum(map(bool, unpack(native.logits, count)))
        if outputs > context.n_outputs_max:
            raise _bad(f"{outputs} outputs, and n_outputs_max is {context.n_outputs_max}")
    if (position := max(unpack(native.pos, count))) >= known.n_positions:
        raise _bad(f"position {position}, and they are below {known.n_positions} here")
    if batch.n_seq_max == 1:
        highest = max(unpack(native.seq_id[0], count))  # one row after the other
    else:
        highest = max(max(_sequences(native, row, known, unpack)) for row in range(count))
    if highest >= context.n_seq_max:
        raise _bad(f"sequence {highest}, and the context has {context.n_seq_max}")


def _sequences(native: Any, row: int, known: Rules, unpack: Any) -> list[int]:
    """Return the sequences of a token."""
    found: list[int] = unpack(native.seq_id[row], native.n_seq_id[row])
    if len(found) > 1 and (not known.unified or len(set(found)) < len(found)):
        raise _bad(f"token {row} is of sequences {found}, which need a shared cache (kv_unified) and to be different")
    return found


def _bad(reason: str) -> ContextError:
    return ContextError(f"the batch is not valid: {reason}", code=-1)


def _failed(context: Context, code: int) -> ContextError:
    if code == _ABORTED:
        return AbortedError("the decode was ended by its abort flag")
    said = context.api.log.said()
    reason = _WORDS.get(code, f"the decode failed with {code}")
    return ContextError(f"{reason}: {said}" if said else reason, code=code)
