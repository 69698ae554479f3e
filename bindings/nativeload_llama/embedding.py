"""What vector stands for a text?

One rule: texts are computed together, as many as a batch holds, in a context of their own that is as large as they
need. A text longer than a batch goes in steps where the model reads from left to right, and whole where it does not.
"""

from __future__ import annotations

import math
import os
import weakref

from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.errors import ModelError, PromptTooLongError
from nativeload_llama.low_level.rules import rules
from nativeload_llama.shapes import Embedding, EmbeddingData, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Literal

    from nativeload_llama.low_level import Batch, Context
    from nativeload_llama.native import Native
    from nativeload_llama.opened import OpenedModel

    Pooling = Literal["none", "mean", "cls", "last", "rank"]
    Texts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]

NONE, MEAN, CLS, LAST, RANK = range(5)  # enum llama_pooling_type
POOLINGS = ("none", "mean", "cls", "last", "rank")
_TOGETHER = 64  # texts in one batch
_LEAST = 512  # tokens: a smaller context is hardly smaller
_HEADS = {"cls.weight", "cls.output.weight"}
_ranking: weakref.WeakSet[Native] = weakref.WeakSet()  # those whose file was looked at


def embed(
    llama: OpenedModel,
    input: Texts,  # noqa: A002 - llama-cpp-python's and OpenAI's name
    *,
    normalize: bool = False,
    truncate: bool = True,
    pooling: Pooling | None = None,
    return_count: bool = False,
) -> Any:
    """Return the embedding of a text, or of each of several.

    Args:
        llama: the model; any that writes can embed, those that were trained for it do it well.
        input: a text, texts, the tokens of one, or those of several; in texts, markers of the model do not count.
        normalize: make vectors of length 1.
        truncate: cut off what is longer than n_ctx, but for a special token at the end.
        pooling: how the vectors of tokens become one: their ``mean``, the first one (``cls``), the ``last`` one, or a
            classifier's scores (``rank``); ``none`` leaves one for each token. The default is the model's own way.
        return_count: return a pair: the embeddings, and how many tokens were embedded.

    Returns:
        n_embd floats for a text, a list of such lists for texts; with pooling none a list of vectors for each text.

    Raises:
        ModelError: the model embeds nothing, or has no classifier.
        PromptTooLongError: a text is longer than n_ctx, and is not to be cut.
        ValueError: a text without tokens, or another pooling.
    """
    alone, sequences = _sequences(llama, input)
    done = Embedder(llama, pooling).embedded(sequences, truncate=truncate, normalize=normalize)
    found = [one.rows if one.per_token else one.rows[0] for one in done]
    answer = found[0] if alone else found
    return (answer, sum(one.n_tokens for one in done)) if return_count else answer


def create_embedding(
    llama: OpenedModel,
    input: Texts,  # noqa: A002
    model: str | None = None,
    *,
    normalize: bool = False,
    truncate: bool = True,
    pooling: Pooling | None = None,
) -> Embedding:
    """Return embeddings in OpenAI's shape; arguments and errors are those of `embed`, and the name to report."""
    _, sequences = _sequences(llama, input)
    found, count = embed(llama, sequences, normalize=normalize, truncate=truncate, pooling=pooling, return_count=True)
    data = [EmbeddingData(object="embedding", index=index, embedding=one) for index, one in enumerate(found)]
    name = os.path.basename(llama.model_path) if model is None else model
    return Embedding(object="list", model=name, data=data, usage=Usage(prompt_tokens=count, total_tokens=count))


class Embedded(Value, eq=False):
    """One text's vectors: one for each of its ``n_tokens`` tokens if ``per_token``, else one."""

    rows: list[list[float]]
    n_tokens: int
    per_token: bool


class Embedder:
    """How a model embeds.

    Args:
        llama: the model.
        pooling: as of `embed`.

    Attributes:
        kind: how vectors are pooled, a member of llama_pooling_type.
        limit: tokens a text can have.

    Raises:
        ModelError, ValueError: as `embed`.
    """

    def __init__(self, llama: OpenedModel, pooling: Pooling | None) -> None:
        self._llama, self._native = llama, llama._native
        with self._native.entered():
            context = llama._text_context()
            self.kind = _kind(llama, context, pooling)
            known = rules(context)
            self.limit = min(context.n_ctx, known.n_positions)
            self._whole = not known.causal or self.kind == RANK
            self._encodes = not low_level.model_has_decoder(context.model)
            self._together = 1 if known.whole_copies else _TOGETHER
            self._n_batch: int = llama._context_options["n_batch"]

    def embedded(self, sequences: Sequence[list[int]], *, truncate: bool, normalize: bool) -> list[Embedded]:
        """Return the vectors of texts, given as tokens."""
        fitting = [self._fitting(place, tokens, truncate=truncate) for place, tokens in enumerate(sequences)]
        done: list[Embedded] = []
        for group in self._groups(fitting):
            with self._native.entered():
                rows = self._computed(self._context(max(map(len, fitting))), group)
            rows = [[unit(row) for row in one] for one in rows] if normalize else rows
            done += [Embedded(one, len(tokens), self.kind == NONE) for one, tokens in zip(rows, group, strict=True)]
        return done

    def _fitting(self, place: int, tokens: list[int], *, truncate: bool) -> list[int]:
        """Return tokens that are some and not too many; the end that the model adds itself stays there."""
        if not tokens:
            raise ValueError(f"text {place} has no tokens, and so no embedding")
        model, limit = self._native.model, self.limit
        with self._native.entered():
            self._native.check()
            low_level.check_tokens(model, tokens)
            ends = {low_level.vocab_eos(model), low_level.vocab_sep(model)}
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise PromptTooLongError(len(tokens), limit)
        return [*tokens[: limit - 1], tokens[-1]] if tokens[-1] in ends else tokens[:limit]

    def _size(self, longest: int) -> int:
        """Return how many tokens a context is to hold: few different sizes, so that one serves many calls."""
        return min(max(_LEAST, 1 << (longest - 1).bit_length()), -(-self.limit // 256) * 256)

    def _context(self, longest: int) -> Context:
        """Return a context with room for the longest text; the lock is held."""
        contexts, key = self._native.contexts, f"embedding:{POOLINGS[self.kind]}"
        size = self._size(longest)
        if key in contexts and contexts[key].n_ctx < size:
            low_level.free(contexts.pop(key))
        n_batch = self._batch_size(size)
        return self._llama._side_context(
            key,
            n_ctx=size,
            n_batch=n_batch,
            n_ubatch=n_batch,
            n_seq_max=min(self._together, n_batch),
            kv_unified=True,
            embeddings=True,
            pooling_type=self.kind,
        )

    def _batch_size(self, size: int) -> int:
        return size if self._whole else min(size, self._n_batch)

    def _groups(self, sequences: Sequence[list[int]]) -> Iterator[list[list[int]]]:
        """Yield what is computed together: as many texts as a batch holds, or one that is longer than that."""
        if not sequences:
            return
        room = self._batch_size(self._size(max(map(len, sequences))))
        together = min(self._together, room)
        group: list[list[int]] = []
        for tokens in sequences:
            if group and (len(group) == together or sum(map(len, group)) + len(tokens) > room):
                yield group
                group = []
            group.append(tokens)
        yield group

    def _computed(self, context: Context, group: list[list[int]]) -> list[list[list[float]]]:
        """Return the vectors of some texts that fit a batch, or of a longer one."""
        low_level.memory_clear(context)
        batch = low_level.Batch(context.api, min(context.n_batch, sum(map(len, group))))
        if len(group) == 1 and len(group[0]) > context.n_batch:
            return [self._in_steps(context, batch, group[0])]
        for seq, tokens in enumerate(group):
            for position, token in enumerate(tokens):
                batch.add(token, position, (seq,), True)
        self._decode(context, batch)
        if self.kind != NONE:
            return [[low_level.get_embeddings_seq(context, seq)] for seq in range(len(group))]
        rows = iter(range(len(batch)))
        return [[low_level.get_embeddings_ith(context, next(rows)) for _ in tokens] for tokens in group]

    def _in_steps(self, context: Context, batch: Batch, tokens: list[int]) -> list[list[float]]:
        """Return the vectors of a text that is longer than a batch, of a model that reads from left to right."""
        rows: list[list[float]] = []
        for start in range(0, len(tokens), context.n_batch):
            part = tokens[start : start + context.n_batch]
            batch.clear()
            for position, token in enumerate(part, start):
                batch.add(token, position, (0,), True)
            self._decode(context, batch)
            if self.kind == NONE:
                rows += [low_level.get_embeddings_ith(context, row) for row in range(len(part))]
                continue
            row = low_level.get_embeddings_seq(context, 0)
            if not rows or self.kind == LAST:
                rows = [row]
            elif self.kind == MEAN:
                share = len(part) / (start + len(part))
                rows = [[old + (new - old) * share for old, new in zip(rows[0], row, strict=True)]]
        return rows

    def _decode(self, context: Context, batch: Batch) -> None:
        call = low_level.encode if self._encodes else low_level.decode
        self._native.call(lambda: call(context, batch))


def _kind(llama: OpenedModel, context: Context, pooling: Pooling | None) -> int:
    """Return how vectors are pooled; C aborts where the model cannot do it, or the number is none."""
    model = context.model
    if low_level.model_has_encoder(model) and low_level.model_has_decoder(model):
        raise ModelError(model.path, "an encoder-decoder model embeds no texts")
    own = llama._pooling_type
    kind = context.pooling_type if own is None else own
    if pooling is not None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}, and must be one of {', '.join(POOLINGS)}, or None")
        kind = POOLINGS.index(pooling)
    if kind not in range(len(POOLINGS)):
        raise ModelError(model.path, f"its pooling type is {kind}, which is none", hint="Say pooling='mean'.")
    if kind == RANK:
        _check_ranks(llama._native)
    return kind


def _check_ranks(native: Native) -> None:
    """Refuse a model without a classifier: it has no scores, and C reads them all the same; the lock is held.

    Raises:
        ModelError: its file has no such tensors, or names more labels than there are scores.
    """
    from nativeload_llama.gguf import read

    if native in _ranking:
        return
    model, file = native.model, read(native.model.path)
    names, parts = {tensor.name for tensor in file.tensors}, file.metadata.get("split.count", 1)
    hint = "Use a reranker, such as bge-reranker, or another pooling."
    if not (_HEADS & names or (isinstance(parts, int) and parts > 1)):  # in parts, it may be in another one
        raise ModelError(model.path, "the model has no classifier, and ranks nothing", hint=hint)
    if "cls.output.weight" not in names and low_level.model_n_cls_out(model) > low_level.model_n_embd_out(model):
        raise ModelError(model.path, "the model has more labels than its classifier has scores", hint=hint)
    _ranking.add(native)


def _sequences(llama: OpenedModel, given: Texts) -> tuple[bool, list[list[int]]]:
    """Return whether one text was given, and the tokens of each."""
    from nativeload_llama.opened import checked_tokens

    if isinstance(given, (str, bytes)):
        return True, [llama.tokenize(given)]
    items = list(given)
    if items and all(hasattr(item, "__index__") for item in items):
        return True, [checked_tokens(items)]  # type: ignore[arg-type]  # just seen
    return False, [llama.tokenize(item) if isinstance(item, (str, bytes)) else checked_tokens(item) for item in items]  # type: ignore[arg-type]


def unit(row: list[float]) -> list[float]:
    """Return a vector of length 1 in the same direction; zeros stay zeros."""
    length = math.hypot(*row)
    return [value / length for value in row] if length else row
