"""How does one token follow another in a context?

One rule: one generation at a time in each context, and what the context holds is known: a prompt that begins as the
last one did is not decoded again.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import time
import weakref

from nativeload_llama import low_level
from nativeload_llama.errors import AbortedError, BusyError, ClosedError, ContextError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any, NoReturn

    from nativeload_llama.low_level import Batch, Context
    from nativeload_llama.native import Native
    from nativeload_llama.sampling import Draw
    from nativeload_llama.shapes import FinishReason

    Draft = Callable[[list[int]], Sequence[int]]

_FULL = 1  # llama_decode: no room
_AT_ONCE = 8  # tokens: a step this small is over before anybody presses Ctrl-C


class Turn:
    """Something under way in a context: as long as its generator keeps this and has not said that it is over."""

    def __init__(self, session: Session) -> None:
        self.session, self.native = session, session.native
        self.thread = _thread.get_ident()
        self.reader: object = None  # the asyncio task that reads it, where one does: its steps run in any thread
        self.over = self.cancelled = False

    def cancel(self) -> None:
        """End it from another thread: now, in the middle of a decode (on the CPU), or at its next step."""
        self.cancelled = True
        if self.native.decoding == id(self):  # the flag ends whatever decodes
            self.native.flag.set()

    def go_on(self) -> None:
        """Say before each step, with the lock held, that this thread takes it.

        Raises:
            ClosedError: the Llama was closed.
            AbortedError: it was cancelled.
        """
        self.thread = _thread.get_ident()  # a generator may be handed from one thread to another
        self.native.decoding = id(self)
        self.native.flag.clear()
        self.native.check()
        if self.cancelled:  # asked for after the flag is lowered, which `cancel` raises last
            raise AbortedError("the generation was cancelled")


class Session:
    """One context's tokens, and whose turn it is: other threads wait, the same thread is told it waits for itself.

    Nothing is released by hand, so that no Ctrl-C at a bad moment can leave it taken: a generator that is gone is over.

    Args:
        native: the pointers.
        n_keep: tokens at the beginning that stay when a full context is shifted; None where it is not.
    """

    def __init__(self, native: Native, n_keep: int | None = None) -> None:
        self.native = native
        self.n_keep = n_keep
        self.held: list[int] = []
        self.ends: dict[int, bool] = {}
        kinds = low_level.model_is_recurrent, low_level.model_is_hybrid
        self.recurrent = any(kind(native.model) for kind in kinds)
        self._gate = _thread.allocate_lock()
        self._current: weakref.ref[Turn] | None = None
        self._one: low_level.SingleToken | None = None
        self._many: Batch | None = None

    def begin(self, turn: Turn) -> None:
        """Wait for the turn of a generation.

        Raises:
            BusyError: this thread is in the middle of another one.
            ClosedError: the Llama was closed while this waited.
        """
        self.native.entered()  # says that this is a forked child: nobody there would ever end the parent's turn
        turn.thread = _thread.get_ident()
        while not self.taken(turn):
            if self.native.closed:
                raise ClosedError("this Llama is closed")
            if turn.cancelled:
                raise AbortedError("the generation was cancelled")
            time.sleep(0.002)

    def taken(self, turn: Turn) -> bool:
        """Take the turn if it is nobody's; return whether it is this one's now.

        Raises:
            BusyError: it is that of whoever asks, which would wait for itself.
        """
        with self._gate:
            current = self._current() if self._current is not None else None
            if current is None or current.over or current is turn:
                self._current = weakref.ref(turn)
                return True
        if current.reader is not None:
            same = current.reader is (turn.reader or _task())
        else:
            same = turn.reader is None and current.thread == turn.thread
        if same:
            raise BusyError("another generation of this Llama is under way in this thread")
        return False

    @contextlib.contextmanager
    def alone(self) -> Generator[None, None, None]:
        """Do something that no generation may be in the middle of; errors as `begin`."""
        turn = Turn(self)
        try:
            self.begin(turn)
            yield
        finally:
            turn.over = True

    def is_end(self, token: int) -> bool:
        """Whether a token ends the text; C is asked once for each."""
        known = self.ends.get(token)
        if known is None:
            known = self.ends[token] = low_level.vocab_is_eog(self.native.model, token)
        return known

    # What follows is called with the lock held.

    def forget(self) -> None:
        """Empty the context, where it is not known what it holds or what it holds is of no use any more."""
        self.held.clear()
        low_level.memory_clear(self.native.context())

    def reuse(self, prompt: Sequence[int]) -> int:
        """Leave in the context what a prompt begins with; return how many tokens that is, less than the prompt's."""
        context = self.native.context()
        if low_level.memory_seq_pos_max(context, 0) + 1 != len(self.held):  # a step was interrupted
            self.forget()
        common = min(_common(self.held, prompt), len(prompt) - 1)
        window = low_level.model_n_swa(context.model)
        gone = window and low_level.memory_seq_pos_min(context, 0) > max(0, common - window)
        if gone or not (common == len(self.held) or low_level.memory_seq_rm(context, 0, common, -1)):
            self.forget()
            return 0
        del self.held[common:]
        return common

    def decode(self, tokens: Sequence[int], *, all_rows: bool = False) -> None:
        """Decode tokens after what the context holds: the last one gets logits, or all do.

        Raises:
            ContextError: the context is full, or a backend failed.
            AbortedError: the flag was raised.
        """
        context = self.native.context()
        if len(tokens) == 1:
            self.held.append(tokens[0])
            self.single().decode(tokens[0])
            return
        if self._many is None:
            self._many = low_level.Batch(context.api, context.n_batch)
        batch, first, last = self._many, len(self.held), len(tokens) - 1
        batch.clear()
        for place, token in enumerate(tokens):
            batch.add(token, first + place, (0,), all_rows or place == last)
        self.held.extend(tokens)
        if len(tokens) <= _AT_ONCE:
            low_level.decode(context, batch)
        else:
            self.native.call(lambda: low_level.decode(context, batch))

    def single(self) -> low_level.SingleToken:
        """Return what decodes one token after the other."""
        if self._one is None:
            self._one = low_level.SingleToken(self.native.context())
        return self._one

    def make_room(self, count: int) -> bool:
        """Return whether ``count`` tokens fit and leave room for one; shift a full context where that is wanted."""
        context = self.native.context()
        if len(self.held) + count < context.n_ctx:
            return True
        if self.n_keep is None or not low_level.memory_can_shift(context):
            return False
        kept = min(self.n_keep, context.n_ctx // 2)
        dropped = max((len(self.held) - kept) // 2, count)
        end = kept + dropped
        if end > len(self.held):
            return False
        held = self.held[:]
        self.held.clear()  # interrupted from here on, it is not known what the context holds
        if shifted := low_level.memory_seq_rm(context, 0, kept, end):
            low_level.memory_seq_add(context, 0, end, -1, -dropped)
            del held[kept:end]
        self.held.extend(held)
        return shifted


class Generation(Turn):
    """The tokens that follow one prompt.

    Args:
        session: the context.
        prompt: its tokens, checked.
        max_tokens: how many at most; None is until the model ends or the context is full.
        draw: how they are drawn; freed at the end.
        draft: guesses the next tokens from those so far; guesses that come true cost one decode together.
        scored: told of the logits before each token of the prompt but the first: (row, token).

    Attributes:
        finish_reason: ``stop`` where the model ended, else ``length``.
        cached: tokens of the prompt that the context held already.
        row: which logits of the last decode the last token was drawn from.
        drafted, accepted: tokens that were guessed, and those that came true.
    """

    def __init__(
        self,
        session: Session,
        prompt: list[int],
        max_tokens: int | None,
        draw: Draw,
        *,
        draft: Draft | None = None,
        scored: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(session)
        self.prompt = prompt
        self.owner: object = None  # what is written from outlives the name of its Llama
        self.finish_reason: FinishReason = "length"
        self.cached = self.drafted = self.accepted = 0
        self.row = -1
        self.max_tokens, self._draw = max_tokens, draw
        self._draft, self._scored = draft, scored
        self._tokens = list(prompt)

    @property
    def drawn(self) -> list[int]:
        """The prompt's tokens and those drawn so far; not a copy."""
        return self._tokens

    def tokens(self) -> Generator[int, None, None]:
        """Yield the tokens.

        Raises:
            BusyError, ClosedError, ContextError, AbortedError: as the session's verbs.
        """
        try:
            self.session.begin(self)
            self._prefill()
            with self.native.entered():
                self.go_on()
                bare = self.session.single().bare() if self._draw.plain and self._draft is None else None
            if self.max_tokens != 0:
                yield from self._drawn() if bare is None else self._plain(*bare)
        finally:
            self.over = True
            self._draw.free()

    def _prefill(self) -> None:
        """Decode the prompt in steps of n_batch; others may have the lock between two of them."""
        session, native = self.session, self.native
        with native.entered():
            if self._scored:
                session.forget()
            start = self.cached = session.reuse(self.prompt)
            size = native.context().n_batch
        while start < len(self.prompt):
            part = self.prompt[start : start + size]
            with native.entered():
                self.go_on()
                self._decode(part, all_rows=self._scored is not None)
                if self._scored:
                    for row, token in enumerate(self.prompt[start + 1 : start + len(part) + 1]):
                        self._scored(row, token)
            start += len(part)

    def _decode(self, tokens: Sequence[int], *, all_rows: bool) -> None:
        """Decode; where that is ended from outside, say by whom. The lock is held."""
        try:
            self.session.decode(tokens, all_rows=all_rows)
        except AbortedError:
            self.go_on()
            raise

    def _plain(self, array: Any, decode: Any, context: Any, batch: Any) -> Generator[int, None, None]:
        """Yield tokens one by one, with everything between two of them written out.

        A decode leaves nothing of Python in the processor's caches: each call of a function costs 1 to 1.5 us here, ten
        times what it does elsewhere, and ten of them were 8 % of a token (benchmarks/decode.py, 32k vocabulary).
        """
        session, native, tokens, held = self.session, self.native, self._tokens, self.session.held
        lock, owned, flag, ends = native.lock, native.is_mine, native.flag.text, session.ends
        getpid, pid, ident, own = os.getpid, native.pid, _thread.get_ident, id(self)
        (sample, chain), limit, count = self._draw.bare(), self.max_tokens, 0
        with native.entered():
            self.go_on()
            room = native.contexts["text"].n_ctx - 1
            token = sample(chain, context, -1)
        while True:
            tokens.append(token)
            if ends[token] if token in ends else session.is_end(token):
                self.finish_reason = "stop"
                return
            yield token
            count += 1
            if count == limit:
                return
            if getpid() != pid or owned():
                native.entered()  # says what is wrong
            with lock:
                self.thread = ident()
                native.decoding = own
                flag[0] = 0
                if native.closed or self.cancelled or native.ending or native.aside is not None:
                    self.go_on()  # says what is wrong
                if len(held) >= room and not session.make_room(1):
                    return
                held.append(token)
                array[0] = token
                if code := decode(context, batch):
                    if code == _FULL:
                        return
                    self._fail(code)
                token = sample(chain, context, -1)

    def _fail(self, code: int) -> NoReturn:
        """Raise what a code of llama_decode means; the lock is held."""
        error = self.session.single().failed(code)
        if isinstance(error, AbortedError):
            self.go_on()  # says who ended it
        raise error

    def _drawn(self) -> Generator[int, None, None]:
        """Yield tokens with whatever there is to be done between two of them."""
        session, native, draw = self.session, self.native, self._draw
        limit, count = self.max_tokens, 0
        with native.entered():
            got, first = [self._next(draw, native.context(), -1)], -1
        while True:
            for place, token in enumerate(got):
                self.row = first + place
                if token < 0 or session.is_end(token):
                    self.finish_reason = "stop"
                    return
                yield token
                count += 1
                if count == limit:
                    return
            guesses = self._guesses(limit, count) if self._draft else ()
            with native.entered():
                self.go_on()
                if not session.make_room(1 + len(guesses)):
                    return
                try:
                    self._decode((got[-1], *guesses), all_rows=True)
                except ContextError as error:
                    if error.code == _FULL:
                        return
                    raise
                first = 0 if guesses else -1
                got = self._verified(draw, native.context(), guesses)

    def _next(self, draw: Draw, context: Context, row: int) -> int:
        token = draw.next(context, row, self._tokens)
        self._tokens.append(token)
        return token

    def _guesses(self, limit: int | None, count: int) -> tuple[int, ...]:
        """Ask for a draft: never more than may still be yielded, or fits."""
        session = self.session
        context = self.native.contexts.get("text")
        if self._draft is None or context is None or session.recurrent:  # what such a state took in stays in
            return ()
        room = min(context.n_batch - 1, context.n_ctx - len(session.held) - 2)
        if limit is not None:
            room = min(room, limit - count - 1)
        return tuple(self._draft(self._tokens))[: max(room, 0)]

    def _verified(self, draw: Draw, context: Context, guesses: tuple[int, ...]) -> list[int]:
        """Draw a token after each guess that came true, and take what was guessed wrong out of the context."""
        if not guesses:
            return [self._next(draw, context, -1)]
        got = [self._next(draw, context, 0)]
        for row, guess in enumerate(guesses):
            if got[-1] != guess or self.session.is_end(guess):
                break
            got.append(self._next(draw, context, row + 1))
        right = len(got) - 1
        self.drafted, self.accepted = self.drafted + len(guesses), self.accepted + right
        if wrong := len(guesses) - right:
            del self.session.held[-wrong:]
            low_level.memory_seq_rm(context, 0, len(self.session.held), -1)
        return got


def _task() -> object:
    """Return the asyncio task that runs in this thread, or None."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None else asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return None


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike, by halving: slices compare at C's speed."""
    low, high = 0, min(len(held), len(prompt))
    if held[:high] == prompt[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if held[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
