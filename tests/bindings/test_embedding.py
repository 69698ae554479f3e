"""Texts become vectors: what llama.cpp pools is what its vectors of tokens give, however texts are put together."""

from __future__ import annotations

import json
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.embedding import create_embedding, embed
from nativeload_llama.errors import ContextError, ModelError, PromptTooLongError
from nativeload_llama.opened import OpenedModel
from nativeload_llama.reranking import rerank
from tests.bindings import bert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TEXTS = ["Once upon a time", "The dog ran to the big tree and", "Hello", "One day, a little girl named Lily", "x"]
POOLED = ("mean", "last", "cls")


@pytest.fixture
def llama(_one_cache: None) -> Iterator[OpenedModel]:
    """The story model, which writes; a vector of each token is its own way to embed."""
    with OpenedModel(bundled_model(), n_threads=1) as opened:
        yield opened


@pytest.fixture
def opened(_one_cache: None, tmp_path: Path) -> Iterator[Callable[..., tuple[OpenedModel, bert.Head]]]:
    """Write a random BERT and open it; arguments are those of `bert.write`, and `options` of the model."""
    models: list[OpenedModel] = []

    def open_one(options: dict[str, Any] | None = None, **about: Any) -> tuple[OpenedModel, bert.Head]:
        head = bert.write(tmp_path / "bert.gguf", **about)
        exact = {"n_threads": 1, "flash_attn": False}  # with it, numbers are rounded as the batch is large
        models.append(OpenedModel(tmp_path / "bert.gguf", **{**exact, **(options or {})}))
        return models[-1], head

    yield open_one
    for model in models:
        model.close()


def pooled(rows: Sequence[Sequence[float]], pooling: str) -> list[float]:
    """Pool vectors of tokens as the name says."""
    if pooling == "mean":
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return list(rows[-1 if pooling == "last" else 0])


def alike(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def near(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two vectors are the same but for rounding."""
    return len(one) == len(other) and one == pytest.approx(other, abs=1e-4)


# -- any model that writes --------------------------------------------------------------------------------------------


def test_a_model_that_writes_has_a_vector_for_each_token(llama: OpenedModel) -> None:
    rows = embed(llama, TEXTS[0])
    assert [len(row) for row in rows] == [llama.n_embd] * len(llama.tokenize(TEXTS[0]))


@pytest.mark.parametrize("pooling", POOLED)
def test_what_is_pooled_is_pooled_of_the_tokens(llama: OpenedModel, pooling: Any) -> None:
    assert near(embed(llama, TEXTS[0], pooling=pooling), pooled(embed(llama, TEXTS[0]), pooling))


@pytest.mark.parametrize("pooling", POOLED)
def test_texts_together_are_the_texts_one_by_one(llama: OpenedModel, pooling: Any) -> None:
    texts = [*TEXTS, "Tom and Sue went to the park. " * 40, *TEXTS[::-1], "She said that " * 90, "end"]
    together = embed(llama, texts, pooling=pooling)
    assert len(together) == len(texts)
    for text, vector in zip(texts, together, strict=True):
        assert alike(vector, embed(llama, text, pooling=pooling)) > 0.999


def test_texts_together_have_their_own_tokens(llama: OpenedModel) -> None:
    for text, rows in zip(TEXTS, embed(llama, TEXTS, pooling="none"), strict=True):
        alone = embed(llama, text, pooling="none")
        assert len(rows) == len(alone)
        assert min(map(alike, rows, alone)) > 0.999


def test_many_texts_are_few_decodes(llama: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = low_level.decode

    def counted(context: low_level.Context, batch: low_level.Batch) -> None:
        sizes.append(len(batch))
        decode(context, batch)

    monkeypatch.setattr(low_level, "decode", counted)
    texts = TEXTS * 20
    embed(llama, texts, pooling="mean")
    assert sum(sizes) == sum(len(llama.tokenize(text)) for text in texts)
    assert len(sizes) == -(-len(texts) // 64)


@pytest.mark.parametrize("pooling", [*POOLED, "none"])
def test_a_text_longer_than_a_batch_goes_in_steps(llama: OpenedModel, pooling: Any) -> None:
    text = "The cat sat on the mat and looked at the bird. " * 12
    whole = embed(llama, text, pooling=pooling)
    with OpenedModel(bundled_model(), n_threads=1, n_batch=37) as stepping:
        found = embed(stepping, ["x", text, "y"], pooling=pooling)[1]
        context = stepping._native.contexts[f"embedding:{pooling}"]
        assert context.n_batch == 37 < len(stepping.tokenize(text)) <= context.n_ctx
    if pooling == "none":
        assert len(found) == len(whole)
        assert min(map(alike, found, whole)) > 0.999
    else:
        assert alike(found, whole) > 0.999


def test_texts_and_tokens_alone_and_in_lists(llama: OpenedModel) -> None:
    tokens = llama.tokenize(TEXTS[0])
    one = embed(llama, TEXTS[0], pooling="mean")
    assert embed(llama, [TEXTS[0]], pooling="mean") == [one]
    assert embed(llama, tokens, pooling="mean") == one
    assert embed(llama, [tokens], pooling="mean") == [one]
    assert embed(llama, (tuple(tokens),), pooling="mean") == [one]
    assert embed(llama, [], pooling="mean") == []


def test_markers_in_a_text_do_not_count(llama: OpenedModel) -> None:
    assert len(embed(llama, "<s>")) > len(embed(llama, llama.tokenize("<s>", parse_special=True)))


def test_vectors_of_length_one(llama: OpenedModel) -> None:
    plain, unit = (embed(llama, TEXTS[:2], pooling="mean", normalize=how) for how in (False, True))
    for one, other in zip(plain, unit, strict=True):
        assert math.hypot(*other) == pytest.approx(1)
        assert near([value * math.hypot(*one) for value in other], one)
    assert [math.hypot(*row) for row in embed(llama, "x y", normalize=True)] == pytest.approx([1] * 4, abs=1e-6)


def test_the_count_is_of_what_was_embedded(llama: OpenedModel) -> None:
    long = "The cat sat. " * 400
    _, count = embed(llama, [TEXTS[0], long], pooling="mean", return_count=True)
    assert count == len(llama.tokenize(TEXTS[0])) + llama.n_ctx


def test_openai_s_shape(llama: OpenedModel) -> None:
    answer = create_embedding(llama, TEXTS[:2], pooling="mean")
    count = sum(len(llama.tokenize(text)) for text in TEXTS[:2])
    assert answer.object == "list"
    assert answer.model == "stories.gguf"
    assert [(one.object, one.index) for one in answer.data] == [("embedding", 0), ("embedding", 1)]
    assert answer.data[1].embedding == embed(llama, TEXTS[:2], pooling="mean")[1]
    assert answer.usage == {"prompt_tokens": count, "total_tokens": count}
    assert json.loads(json.dumps(answer)) == answer.model_dump()
    assert create_embedding(llama, "x", "name").model == "name"
    assert len(create_embedding(llama, "x").data) == 1


def test_what_is_too_long_is_cut_or_refused(llama: OpenedModel) -> None:
    tokens = llama.tokenize("The cat sat. " * 400)
    assert embed(llama, tokens, pooling="last") == embed(llama, tokens[: llama.n_ctx], pooling="last")
    with pytest.raises(PromptTooLongError) as caught:
        embed(llama, tokens, truncate=False)
    assert (caught.value.n_tokens, caught.value.n_ctx) == (len(tokens), llama.n_ctx)


def test_embedding_leaves_what_is_written_alone(llama: OpenedModel) -> None:
    prompt = llama.tokenize(TEXTS[0])
    expected = list(llama.generate(prompt, max_tokens=20, temperature=0))
    words = llama.generate(prompt, max_tokens=20, temperature=0)
    first = [next(words) for _ in range(5)]
    embed(llama, TEXTS)
    assert first + list(words) == expected


def test_threads_embed_and_write_at_once(llama: OpenedModel) -> None:
    prompt = llama.tokenize(TEXTS[0])
    expected = embed(llama, TEXTS, pooling="mean"), list(llama.generate(prompt, max_tokens=40, temperature=0))
    found: list[Any] = []
    calls = [
        lambda: found.append((0, embed(llama, TEXTS, pooling="mean"))),
        lambda: found.append((1, list(llama.generate(prompt, max_tokens=40, temperature=0)))),
    ]
    threads = [threading.Thread(target=call) for call in calls * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(value == expected[place] for place, value in found)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([[]], ValueError),
        (["good", []], ValueError),
        ([5, 1_000_000], ModelError),
        ([[5, -1]], ModelError),
        ([1.5], TypeError),
        ([[1.5]], TypeError),
        ([True], TypeError),
        (5, TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_text(llama: OpenedModel, given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        embed(llama, given)


def test_what_no_pooling_is(llama: OpenedModel) -> None:
    with pytest.raises(ValueError, match="none, mean, cls, last, rank"):
        embed(llama, "x", pooling="sum")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no classifier"):
        embed(llama, "x", pooling="rank")
    with pytest.raises(ModelError, match="no classifier"):
        rerank(llama, "x", ["y"])


def test_the_vocabulary_alone_embeds_nothing() -> None:
    with (
        OpenedModel(bundled_model(), n_threads=1, vocab_only=True) as vocabulary,
        pytest.raises(ContextError, match="vocabulary"),
    ):
        embed(vocabulary, "x")


# -- a model that reads both ways -------------------------------------------------------------------------------------


def test_bert_pools_as_its_file_says(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, _ = opened()
    text = "the cat sat on the mat"
    rows = embed(model, text, pooling="none")
    assert len(rows) == 8  # [CLS] and [SEP] too
    assert near(embed(model, text), pooled(rows, "mean"))
    assert near(embed(model, text, pooling="cls"), rows[0])
    other = embed(model, "the cat sat on the tree", pooling="none")
    assert not near(rows[0], other[0])  # the first token has seen the last


def test_a_pooling_for_all_that_the_model_embeds(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, _ = opened({"pooling_type": 2})
    text = "a small dog"
    assert near(embed(model, text), embed(model, text, pooling="none")[0])


def test_berts_together_are_those_one_by_one(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, _ = opened()
    texts = ["the cat", "a big dog ran under the tree and sat on the mat", "who", "where is it " * 20, "not small"] * 30
    together = embed(model, texts)
    for place in range(5):
        alone = embed(model, texts[place])
        assert all(near(vector, alone) for vector in together[place::5])


def test_a_longer_text_gets_a_larger_context(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    """A BERT is computed at once: a batch that is too small for a text would end the process."""
    model, _ = opened({"n_batch": 8, "n_ubatch": 4})
    short, long = "the cat", "the dog sat on the mat and " * 10
    assert near(embed(model, short), pooled(embed(model, short, pooling="none"), "mean"))
    assert near(embed(model, long), pooled(embed(model, long, pooling="none"), "mean"))


def test_a_text_longer_than_the_positions_keeps_its_end(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, _ = opened({"n_ctx": 4096})  # more than the model has positions
    tokens = model.tokenize("the cat " * 500)
    rows = embed(model, tokens, pooling="none")
    assert len(rows) == bert.N_CTX
    cut = [*tokens[: bert.N_CTX - 1], bert.SEP]
    assert near(embed(model, tokens), embed(model, cut))
    with pytest.raises(PromptTooLongError):
        embed(model, tokens, truncate=False)


def test_a_pooling_type_that_is_none(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, _ = opened(pooling=77)
    with pytest.raises(ModelError, match="77"):
        embed(model, "the cat")
    assert len(embed(model, "the cat", pooling="mean")) == bert.N_EMBD


# -- ranking ----------------------------------------------------------------------------------------------------------


def scored(row: Sequence[float], head: bert.Head) -> list[float]:
    """Compute what a classifier makes of the first token's vector."""

    def product(matrix: list[list[float]], vector: Sequence[float], bias: list[float]) -> list[float]:
        return [sum(map(float.__mul__, line, vector)) + more for line, more in zip(matrix, bias, strict=True)]

    dense = [math.tanh(value) for value in product(head.dense, row, head.dense_bias)]
    return product(head.out, dense, head.out_bias)


DOCUMENTS = ["the dog ran under the tree", "the cat sat on the mat", "", "it is not", "big or small"]


def test_scores_are_the_classifiers(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, head = opened(pooling=bert.RANK, n_cls=3)
    found = embed(model, DOCUMENTS)
    for text, scores in zip(DOCUMENTS, found, strict=True):
        assert scores == pytest.approx(scored(embed(model, text, pooling="none")[0], head), abs=1e-4)


def test_documents_come_best_first(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    """Query and document are a pair: [CLS] query [SEP] document."""
    model, head = opened(pooling=bert.RANK, n_cls=1)
    query = "where is the cat"
    pairs = [
        [bert.CLS, *model.tokenize(query, add_special=False), bert.SEP, *model.tokenize(each, add_special=False)]
        for each in DOCUMENTS
    ]
    expected = [scored(embed(model, pair, pooling="none")[0], head)[0] for pair in pairs]
    found = rerank(model, query, DOCUMENTS)
    assert sorted(one.index for one in found) == list(range(len(DOCUMENTS)))
    assert [one.relevance_score for one in found] == sorted((one.relevance_score for one in found), reverse=True)
    for one in found:
        assert one.relevance_score == pytest.approx(expected[one.index], abs=1e-4)
        assert one.document == DOCUMENTS[one.index]
    assert rerank(model, query, DOCUMENTS, top_n=2) == found[:2]
    assert rerank(model, query, DOCUMENTS, 99) == found
    assert rerank(model, query, []) == []


def test_a_template_of_the_model_is_filled(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    """What is filled in is filled in once, though it looks like a place to fill."""
    model, head = opened(pooling=bert.RANK, n_cls=1, template="[CLS]{query} or {document}[SEP]")
    (found,) = rerank(model, "the {document} cat", ["{query} dog"])
    tokens = model.tokenize("[CLS]the {document} cat or {query} dog[SEP]", add_special=False, parse_special=True)
    assert tokens.count(bert.CLS) == tokens.count(bert.SEP) == 1
    assert found.relevance_score == pytest.approx(scored(embed(model, tokens, pooling="none")[0], head)[0], abs=1e-4)


@pytest.mark.parametrize("template", ["", "[CLS]{query}[SEP]{document}[SEP]"])
def test_a_document_that_is_too_long_is_cut(
    opened: Callable[..., tuple[OpenedModel, bert.Head]], template: str
) -> None:
    model, _ = opened(pooling=bert.RANK, n_cls=1, template=template)
    long = "the cat sat on " * 100
    found = rerank(model, "who", [long, long + "not this"])
    assert found[0].relevance_score == pytest.approx(found[1].relevance_score, abs=1e-3)
    with pytest.raises(PromptTooLongError):
        rerank(model, "who", [long], truncate=False)
    with pytest.raises(PromptTooLongError):
        rerank(model, long, ["who"])


def test_what_cannot_be_ranked(opened: Callable[..., tuple[OpenedModel, bert.Head]]) -> None:
    model, _ = opened(pooling=bert.RANK, n_cls=1)
    for top_n in (0, -1):
        with pytest.raises(ValueError, match="top_n"):
            rerank(model, "who", DOCUMENTS, top_n=top_n)
    with pytest.raises(TypeError):
        rerank(model, "who", "one text")


@pytest.mark.parametrize("labels", [0, 500])
def test_a_ranking_model_without_a_classifier(
    opened: Callable[..., tuple[OpenedModel, bert.Head]], labels: int
) -> None:
    """llama.cpp would take numbers that are no scores; with more labels than numbers it would end the process."""
    model, _ = opened(pooling=bert.RANK, n_cls=0, labels=labels)
    with pytest.raises(ModelError, match="no classifier"):
        embed(model, "the cat")
    with pytest.raises(ModelError, match="no classifier"):
        rerank(model, "who", ["the cat"])
