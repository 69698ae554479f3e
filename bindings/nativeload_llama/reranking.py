"""Which document answers a query best?

One rule: query and document are read together, in the form that the model was trained on; what is too long is cut off
the document.
"""

from __future__ import annotations

import operator
import re

from nativeload_llama import low_level
from nativeload_llama.embedding import Embedder
from nativeload_llama.errors import PromptTooLongError
from nativeload_llama.shapes import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nativeload_llama.opened import OpenedModel


class Reranked(Record):
    """One document's place: ``index`` among those given, how well it answers (higher is better), and itself."""

    if TYPE_CHECKING:
        index: int
        relevance_score: float
        document: str


def rerank(
    llama: OpenedModel, query: str, documents: Sequence[str], top_n: int | None = None, *, truncate: bool = True
) -> list[Reranked]:
    """Return documents, the one that answers a query best first.

    Args:
        llama: a reranker: a model with a classifier that was trained for it.
        query: what is asked.
        documents: texts.
        top_n: how many to return (default: all).
        truncate: cut off the end of a document that is too long.

    Returns:
        places with the score as the model gives it: what it means, and its range, are the model's.

    Raises:
        ModelError: the model is no reranker.
        PromptTooLongError: a document is too long and is not to be cut, or the query is.
        ValueError: a top_n below 1.
    """
    if isinstance(documents, (str, bytes)):
        raise TypeError("documents is a list of texts, not one text")
    most = len(documents) if top_n is None else operator.index(top_n)
    if most < 1 and documents:
        raise ValueError(f"top_n is {top_n}, and must be 1 or more")
    embedder = Embedder(llama, "rank")
    prompt = _prompt(llama)
    sequences = [_fitting(prompt, query, document, embedder.limit, truncate=truncate) for document in documents]
    scores = [one.rows[0][0] for one in embedder.embedded(sequences, truncate=False, normalize=False)]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [Reranked(index=index, relevance_score=scores[index], document=documents[index]) for index in order[:most]]


def _prompt(llama: OpenedModel) -> Callable[[str, str], list[int]]:
    """Return what makes a query and a document into tokens: by the model's own template, or as pairs are for BERT.

    As llama.cpp's server does: what a template is filled with is read with it, and markers of the model count there.
    """
    with llama._native.entered():
        llama._native.check()
        model = llama._model
        template = low_level.model_chat_template(model, "rerank")
        end, separator = low_level.vocab_eos(model), low_level.vocab_sep(model)
        first = [low_level.vocab_bos(model)] if low_level.vocab_get_add_bos(model) else []
        last = [end if end >= 0 else separator] if low_level.vocab_get_add_eos(model) else []
        between = [*last, *([separator] if low_level.vocab_get_add_sep(model) else [])]

    def filled(query: str, document: str) -> list[int]:
        given = {"{query}": query, "{document}": document}
        text = re.sub(r"\{query\}|\{document\}", lambda found: given[found[0]], template or "")
        return llama.tokenize(text, add_special=False, parse_special=True)

    def paired(query: str, document: str) -> list[int]:
        before, after = (llama.tokenize(text, add_special=False) for text in (query, document))
        return [token for token in [*first, *before, *between, *after, *last] if token >= 0]

    return paired if template is None else filled


def _fitting(
    prompt: Callable[[str, str], list[int]], query: str, document: str, limit: int, *, truncate: bool
) -> list[int]:
    """Return the tokens of a query and of as much of a document as there is room for."""
    rest = document
    while len(tokens := prompt(query, rest)) > limit:
        if not (truncate and rest):
            raise PromptTooLongError(len(tokens), limit)
        rest = rest[: len(rest) * limit // len(tokens)]  # shorter each time, for there are more tokens than the limit
    return tokens
