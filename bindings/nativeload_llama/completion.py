"""What does a prompt become: one text, or pieces of it as they come, in OpenAI's shapes?

One rule: a chunk is made once and never looked at again, so that the thousandth token costs what the first did.
"""

from __future__ import annotations

import os
import time

from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.likelihood import Likelihood
from nativeload_llama.sampling import as_array
from nativeload_llama.shapes import Completion, CompletionChoice, CompletionChunk, CompletionLogprobs, Record, Usage
from nativeload_llama.text import Decoder, Stops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from nativeload_llama.generation import Generation
    from nativeload_llama.likelihood import Scorer
    from nativeload_llama.native import Native
    from nativeload_llama.options import StoppingCriteria
    from nativeload_llama.shapes import FinishReason
    from nativeload_llama.text import Pieces


class Written(Value):
    """A piece of text, and the tokens that it is made of where likelihoods were asked for.

    Attributes:
        text: the piece; never a part of a character.
        tokens: (likelihood, the token's bytes, where it begins in the generated text).
    """

    text: str
    tokens: tuple[tuple[Likelihood, bytes, int], ...] = ()


class Writer:
    """Writes the text of one generation.

    Args:
        generation: the tokens.
        pieces: their bytes.
        stops: texts that end it, and are not part of it.
        scorer: computes likelihoods, where they are wanted.
        until: asked after each token, with all of them and the logits of the last one, whether to stop.

    Attributes:
        n_tokens: how many came so far.
        finish_reason: why it ended; None while it goes on.
        stopped_by: the stop text that ended it, or None.
    """

    def __init__(
        self,
        generation: Generation,
        pieces: Pieces,
        stops: tuple[str, ...] = (),
        scorer: Scorer | None = None,
        until: StoppingCriteria | None = None,
    ) -> None:
        self.generation, self.pieces, self._stops = generation, pieces, Stops(stops)
        self._scorer, self._until = scorer, until
        self.n_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stopped_by: str | None = None
        self._waiting: list[tuple[Likelihood, bytes, int]] = []
        self._shown = self._read = 0

    def texts(self) -> Generator[str, None, None]:
        """Yield pieces of text, none of them empty."""
        known, stops, until, idle = self.pieces.texts, self._stops, self._until, True
        searched = stops.searches
        decoder, tokens = Decoder(), self.generation.tokens()
        try:
            for token in tokens:
                self.n_tokens += 1
                if idle and token in known:
                    text = known[token]
                else:
                    text, was = decoder.feed(self.pieces(token)), idle
                    idle = decoder.idle
                    if was and idle:
                        known[token] = text
                if self._scorer is not None:
                    self._score(token, len(text))
                if searched:
                    text = stops.feed(text)
                if text:
                    yield text
                if stops.found is not None or (until is not None and self._asked(until)):
                    break
            if stops.found is None and (rest := stops.feed(decoder.finish()) + stops.finish()):
                yield rest
            self.stopped_by = stops.found
            self.finish_reason = "stop" if stops.found is not None else self.generation.finish_reason
        finally:
            tokens.close()

    def written(self) -> Generator[Written, None, None]:
        """Yield pieces of text with the tokens they are made of; the last one may be empty."""
        for text in self.texts():
            yield self._show(text)
        if self._waiting and self.stopped_by is None:
            yield self._show("", last=True)

    def _asked(self, until: StoppingCriteria) -> bool:
        """Ask whether to stop, with the tokens so far and the logits that the last one was drawn from."""
        native = self.generation.native
        with native.entered():
            native.check()
            logits = low_level.get_logits_ith(native.contexts["text"], self.generation.row)
        return bool(until(self.generation.drawn, as_array(logits)))

    def _score(self, token: int, length: int) -> None:
        native = self.generation.session.native
        with native.entered():
            native.check()
            likelihood = self._scorer.of(native.contexts["text"], self.generation.row, token)  # type: ignore[union-attr]
        self._waiting.append((likelihood, self.pieces(token), self._read))
        self._read += length

    def _show(self, text: str, *, last: bool = False) -> Written:
        self._shown += len(text)
        count = 0
        for _, _, place in self._waiting:
            if place >= self._shown and not last:
                break
            count += 1
        tokens, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        return Written(text, tokens)

    def usage(self) -> Usage:
        """Count the tokens."""
        prompt = len(self.generation.prompt)
        cached = Record(cached_tokens=self.generation.cached)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=self.n_tokens,
            total_tokens=prompt + self.n_tokens,
            prompt_tokens_details=cached,
        )


class Echo(Value):
    """A prompt that comes back before its continuation; empty where it does not.

    Attributes:
        text: its text.
        tokens: its tokens with their likelihoods, where they were asked for; filled while the prompt is decoded.
    """

    text: str = ""
    tokens: list[tuple[Likelihood, bytes, int]] | tuple[()] = ()


class PromptScores:
    """Collects the likelihoods of a prompt's own tokens while it is decoded; the lock is held when it is called.

    Attributes:
        entries: (likelihood, the token's bytes, where it begins in the prompt), one for each token so far.
    """

    def __init__(self, native: Native, pieces: Pieces, scorer: Scorer, prompt: list[int], text: str) -> None:
        written = b"".join(pieces(token) for token in prompt).decode("utf-8", "replace")
        blank = max(0, len(written) - len(text))  # the tokenizer's own, before the text
        self._native, self._scorer = native, scorer
        self._pieces = [pieces(token) for token in prompt]
        self._place, self._decoder = -blank, Decoder()
        self.entries: list[tuple[Likelihood, bytes, int]] = []
        for token in prompt[:1]:
            self._add(Likelihood(token, None, ()))

    def _add(self, likelihood: Likelihood) -> None:
        piece = self._pieces[len(self.entries)]
        self.entries.append((likelihood, piece, max(0, self._place)))
        self._place += len(self._decoder.feed(piece))

    def __call__(self, row: int, token: int) -> None:
        """Take a token of the prompt, and the row of logits that it was predicted by."""
        self._add(self._scorer.of(self._native.contexts["text"], row, token))


def envelope(kind: str, model: str) -> dict[str, object]:
    """Return what every answer and each of its chunks carry: an id of its own, its kind, when, and of which model."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{os.urandom(16).hex()}", "object": kind, "created": int(time.time()), "model": model}


def whole(writer: Writer, model: str, echo: Echo, *, logprobs: bool) -> Completion:
    """Return a completion."""
    parts = list(writer.written())
    scored = [one for part in parts for one in part.tokens]
    choice = CompletionChoice(
        text=echo.text + "".join(part.text for part in parts),
        index=0,
        logprobs=_logprobs(writer.pieces, [*echo.tokens, *_moved(scored, len(echo.text))]) if logprobs else None,
        finish_reason=writer.finish_reason,
    )
    return Completion(**envelope("text_completion", model), choices=[choice], usage=writer.usage())


def chunks(writer: Writer, model: str, echo: Echo, *, logprobs: bool) -> Generator[CompletionChunk, None, None]:
    """Yield a completion piece by piece; the last chunk has the reason of the end and the usage."""
    head = envelope("text_completion", model)
    shift, first = len(echo.text), echo.text != ""

    def prompt() -> CompletionChunk:
        return _chunk(head, echo.text, _logprobs(writer.pieces, list(echo.tokens)) if logprobs else None)

    if not logprobs:
        if first:
            yield prompt()
        for text in writer.texts():
            yield _chunk(head, text, None)
    else:
        for part in writer.written():
            if first:
                yield prompt()
                first = False
            yield _chunk(head, part.text, _logprobs(writer.pieces, _moved(part.tokens, shift)))
        if first:
            yield prompt()
    last = _chunk(head, "", None)
    last["choices"][0]["finish_reason"] = writer.finish_reason
    last["usage"] = writer.usage()
    yield last


def _chunk(head: dict[str, object], text: str, logprobs: CompletionLogprobs | None) -> CompletionChunk:
    choice = CompletionChoice(text=text, index=0, logprobs=logprobs, finish_reason=None)
    return CompletionChunk(head, choices=[choice])


def _moved(
    tokens: list[tuple[Likelihood, bytes, int]] | tuple[tuple[Likelihood, bytes, int], ...], shift: int
) -> list[tuple[Likelihood, bytes, int]]:
    return [(likelihood, piece, place + shift) for likelihood, piece, place in tokens]


def _logprobs(pieces: Pieces, tokens: list[tuple[Likelihood, bytes, int]]) -> CompletionLogprobs:
    def rivals(likelihood: Likelihood) -> dict[str, float] | None:
        if likelihood.logprob is None:
            return None  # likeliest last, so that of two tokens with one text the likelier one stays
        return {
            pieces(token).decode("utf-8", "replace"): value
            for token, value in sorted(likelihood.rivals, key=lambda one: one[1])
        }

    return CompletionLogprobs(
        tokens=[piece.decode("utf-8", "replace") for _, piece, _ in tokens],
        token_logprobs=[likelihood.logprob for likelihood, _, _ in tokens],
        top_logprobs=[rivals(likelihood) for likelihood, _, _ in tokens],
        text_offset=[place for _, _, place in tokens],
    )
