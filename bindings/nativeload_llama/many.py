"""How are many prompts continued at once?

One rule: continuous batching: each decode takes one token of every text that is being written and fills up with prompts
that wait; a text that ends makes room for the next one.
"""

from __future__ import annotations

import os

from nativeload_llama import low_level
from nativeload_llama.completion import envelope
from nativeload_llama.errors import AbortedError
from nativeload_llama.generation import Turn
from nativeload_llama.sampling import Draw
from nativeload_llama.shapes import Completion, CompletionChoice, Usage
from nativeload_llama.text import Decoder, Stops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from nativeload_llama.low_level import Batch, Context
    from nativeload_llama.opened import OpenedModel
    from nativeload_llama.sampling import Sampling
    from nativeload_llama.shapes import FinishReason
    from nativeload_llama.text import Pieces

USUAL_PARALLEL = 16
"""Texts written at once; on a CPU a batch of 16 is worth about twice one by one, and more is worth little more."""

_CONTEXTS = 4  # times the memory of the Llama's own context that the default may take


class Text:
    """One prompt and what was written for it so far.

    Attributes:
        index: its place among the prompts.
        tokens: the prompt's and the drawn ones.
        n_drawn: how many were drawn.
        finish_reason: why it ended; None while it goes on.
    """

    def __init__(self, index: int, prompt: list[int], stops: tuple[str, ...]) -> None:
        self.index, self.tokens = index, list(prompt)
        self.n_prompt, self.n_drawn = len(prompt), 0
        self.finish_reason: FinishReason | None = None
        self.seq = -1
        self.decoded = 0  # tokens that the context holds
        self.row = -1  # in the batch; -1 where nothing is drawn after it
        self.draw: Draw | None = None
        self._decoder, self._stops = Decoder(), Stops(stops)

    def add(self, batch: Batch) -> None:
        """Put into a batch what fits of the tokens that were not decoded yet."""
        room = batch.capacity - len(batch)
        part = self.tokens[self.decoded : self.decoded + room]
        self.row = -1
        for token in part:
            last = self.decoded + 1 == len(self.tokens)
            row = batch.add(token, self.decoded, (self.seq,), last)
            self.decoded += 1
            if last:
                self.row = row

    def shown(self, piece: bytes) -> str:
        """Return the text that can be shown after a token's bytes."""
        text = self._stops.feed(self._decoder.feed(piece))
        if self._stops.found is not None:
            self.finish_reason = "stop"
        return text

    def rest(self) -> str:
        """Return what is left at the end."""
        if self._stops.found is not None:
            return ""
        return self._stops.feed(self._decoder.finish()) + self._stops.finish()


class Many(Turn):
    """The texts that follow many prompts.

    Args:
        llama: the model.
        prompts: their tokens, checked.
        max_tokens: how many at most for each; None is to the end of its context.
        sampling: how they are drawn, the same for all.
        stops: texts that end one.
        n_parallel: how many are written at once; None is as many as take four times the memory of one.
    """

    def __init__(
        self,
        llama: OpenedModel,
        prompts: Sequence[list[int]],
        max_tokens: int | None,
        sampling: Sampling,
        *,
        stops: tuple[str, ...],
        n_parallel: int | None,
    ) -> None:
        super().__init__(llama._crowd)
        self._llama, self._max_tokens, self._sampling = llama, max_tokens, sampling
        self.texts = [Text(index, prompt, stops) for index, prompt in enumerate(prompts)]
        longest, most = max(map(len, prompts), default=1), llama.n_ctx
        self._room = most if max_tokens is None else min(most, longest + max_tokens)
        usual = max(1, min(USUAL_PARALLEL, _CONTEXTS * most // self._room))
        rows = llama._context_options["n_batch"]  # a batch must hold a token of each
        self._parallel = max(1, min(usual if n_parallel is None else n_parallel, len(prompts), rows))

    def written(self) -> Generator[tuple[int, str], None, None]:
        """Yield (place of the prompt, piece of its text) as they come; the end of a text is an empty piece."""
        llama, native = self._llama, self.native
        waiting, running = self.texts[::-1], list[Text]()
        try:
            self.session.begin(self)
            if self._max_tokens == 0:
                waiting.clear()
                for text in self.texts:
                    text.finish_reason = "length"
                    yield text.index, ""
                return
            with native.entered():
                self.go_on()
                batch = _batch(self._context())
            free = list(range(self._parallel))[::-1]
            while waiting or running:
                with native.entered():
                    self.go_on()
                    context = self._context()
                    while waiting and free:
                        running.append(self._begun(waiting.pop(), free.pop()))
                    running.sort(key=lambda one: one.seq)
                    drawn = self._step(context, running, batch)
                for text, token in drawn:
                    yield from self._told(text, token, llama._pieces)
                for text in [text for text in running if text.finish_reason is not None]:
                    running.remove(text)
                    free.append(text.seq)
                    self._ended(text)
                free.sort(reverse=True)
        finally:
            self.over = True
            for text in running:
                self._ended(text)

    def _context(self) -> Context:
        """Return a context with room for every text; the lock is held."""
        contexts, key = self.native.contexts, "many"
        known = contexts.get(key)
        if known is not None and (known.n_seq_max < self._parallel or known.n_ctx // known.n_seq_max < self._room):
            low_level.free(contexts.pop(key))
        size = self._parallel * -(-self._room // 256) * 256  # llama.cpp rounds the room of each sequence up to this
        return self._llama._side_context(key, n_ctx=size, n_seq_max=self._parallel, kv_unified=False)

    def _begun(self, text: Text, seq: int) -> Text:
        text.seq = seq
        context = self.native.contexts["many"]
        low_level.memory_seq_rm(context, seq, -1, -1)
        text.draw = Draw(self.native.model, self._sampling, text.tokens)
        return text

    def _step(self, context: Context, running: list[Text], batch: Batch) -> list[tuple[Text, int]]:
        """Decode once and draw: texts under way first, then prompts.

        llama.cpp computes sequences together only where their numbers ascend in the batch without a gap: in any other
        order sixteen texts cost sixteen times one (benchmarks/many.py).
        """
        batch.clear()
        for text in sorted(running, key=lambda one: len(one.tokens) - one.decoded > 1):
            text.add(batch)
        self.native.decoding = id(self)
        try:
            self.native.call(lambda: low_level.decode(context, batch))
        except AbortedError:
            self.go_on()  # says who ended it
            raise
        drawn = []
        for text in running:
            if text.row >= 0 and text.draw is not None:
                token = text.draw.next(context, text.row, text.tokens)
                text.tokens.append(token)
                drawn.append((text, token))
        return drawn

    def _told(self, text: Text, token: int, pieces: Pieces) -> Generator[tuple[int, str], None, None]:
        """Yield what a token adds to a text, and its end."""
        if token < 0 or self._llama._session.is_end(token):
            text.finish_reason = "stop"
        else:
            text.n_drawn += 1
            if shown := text.shown(pieces(token)):
                yield text.index, shown
            if text.finish_reason is None and (text.n_drawn == self._max_tokens or len(text.tokens) >= self._room):
                text.finish_reason = "length"
        if text.finish_reason is not None:
            if rest := text.rest():
                yield text.index, rest
            yield text.index, ""

    def _ended(self, text: Text) -> None:
        draw, text.draw = text.draw, None
        if draw is not None and os.getpid() == self.native.model.api.loaded.pid:
            draw.free()


def _batch(context: Context) -> Batch:
    return low_level.Batch(context.api, context.n_batch)


def completions(many: Many, model: str) -> list[Completion]:
    """Return the texts when all are finished."""
    parts: list[list[str]] = [[] for _ in many.texts]
    for place, piece in many.written():
        parts[place].append(piece)
    return [_completion(text, "".join(pieces), model) for text, pieces in zip(many.texts, parts, strict=True)]


def _completion(text: Text, words: str, model: str) -> Completion:
    counts = text.n_prompt, text.n_drawn
    usage = Usage(prompt_tokens=counts[0], completion_tokens=counts[1], total_tokens=sum(counts))
    choice = CompletionChoice(text=words, index=0, logprobs=None, finish_reason=text.finish_reason)
    return Completion(envelope("text_completion", model), choices=[choice], usage=usage)
