"""Text in, tokens and text out: what a Llama reads and writes, and the numbers it takes."""

from __future__ import annotations

import math
import unicodedata

import pytest

from nativeload_llama import Llama, bundled_model, low_level
from nativeload_llama.errors import ModelError, PromptTooLongError
from nativeload_llama.text import Decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROMPT = "Once upon a time"
TEXTS = {
    "plain": "Once upon a time there was a small girl.",
    "accents": "naïve café, Ærøskøbing",
    "decomposed": unicodedata.normalize("NFD", "été"),
    "japanese": "日本語",
    "emoji": "a 😀 b 👩‍👩‍👧",
    "right to left": "שלום مرحبا",
    "leading blanks": "   three blanks",
    "lines": "one\n\n\ttwo\r\n",
    "nul": "a\0b\0",
    "a byte order mark": "\ufeffx",
    "looks like a marker": "<s></s><unk>",
    "empty": "",
}


def greedy(llama: Llama, tokens: list[int], count: int | None = None) -> list[int]:
    return list(llama.generate(tokens, temperature=0, max_tokens=count))


# -- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
def test_text_comes_back_from_its_tokens_without_special_ones(llama: Llama, text: str) -> None:
    """Without the beginning-of-sequence token, detokenize() is the exact inverse of tokenize()."""
    assert llama.detokenize(llama.tokenize(text, add_special=False)) == text


@pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
def test_text_comes_back_from_its_tokens_by_default(llama: Llama, text: str) -> None:
    """With the defaults of both, detokenize() is the exact inverse too: the tokenizer's own blank is not text."""
    assert llama.detokenize(llama.tokenize(text)) == text


def test_add_special_adds_the_beginning_of_sequence(llama: Llama) -> None:
    """The model's beginning-of-sequence token comes first when it is asked for, and only then."""
    bare = llama.tokenize(PROMPT, add_special=False)
    assert llama.tokenize(PROMPT) == [1, *bare]
    assert llama.tokenize("") == [1]
    assert llama.tokenize("", add_special=False) == []


def test_markers_are_text_unless_parsing_is_asked_for(llama: Llama) -> None:
    """A marker in text from outside never becomes a control token by itself."""
    assert llama.tokenize("</s>", add_special=False, parse_special=True) == [2]
    assert 2 not in llama.tokenize("</s>", add_special=False)


def test_special_tokens_are_written_when_asked_for(llama: Llama) -> None:
    """detokenize() leaves special tokens out by default and writes their markers with special=True."""
    assert llama.detokenize([1, 2]) == ""
    assert llama.detokenize([1, 2], special=True) == "<s></s>"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc00\ud800 x"])
def test_lone_surrogates_become_question_marks(llama: Llama, text: str) -> None:
    """Text that has no UTF-8 form is tokenized with ``?`` in place of each lone surrogate."""
    expected = "".join("?" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    assert llama.detokenize(llama.tokenize(text, add_special=False)) == expected


def test_a_long_text_is_tokenized_whole(llama: Llama) -> None:
    """100,000 characters of one to four bytes come back unchanged."""
    text = "x é日😀" * 20_000
    assert len(text) == 100_000
    assert llama.detokenize(llama.tokenize(text, add_special=False)) == text


def test_detokenize_takes_any_iterable(llama: Llama) -> None:
    """A generator's tokens can be given straight to detokenize()."""
    tokens = llama.tokenize(PROMPT, add_special=False)
    assert llama.detokenize(iter(tokens)) == PROMPT


def test_bytes_that_are_no_utf8_become_replacement_characters(llama: Llama) -> None:
    """Half a character is U+FFFD in detokenize(), never an exception."""
    half = llama.tokenize("日", add_special=False)[1:-1]
    assert set(llama.detokenize(half).strip()) == {"\ufffd"}


@pytest.mark.parametrize("bad", [-1, 640, 2**31, 10**30, True, 5.0, 1.5, math.nan, None, "3", b"3"], ids=repr)
@pytest.mark.parametrize("verb", ["generate", "detokenize"])
def test_what_is_no_token_is_refused(llama: Llama, verb: str, bad: object) -> None:
    """A token is an int of the vocabulary; anything else is an error of the call itself."""
    with pytest.raises((ModelError, TypeError, ValueError)):
        getattr(llama, verb)([1, bad])


# -- generating ----------------------------------------------------------------------------------------------------


def test_greedy_is_the_same_each_time(llama: Llama) -> None:
    """Temperature 0 gives the same tokens again, also after another prompt and in another context."""
    prompt = llama.tokenize(PROMPT)
    first = greedy(llama, prompt, 32)
    greedy(llama, llama.tokenize("The dog"), 8)
    assert greedy(llama, prompt, 32) == first
    with Llama(bundled_model(), n_threads=1) as other:
        assert greedy(other, prompt, 32) == first


def test_the_story_is_english_and_ends_by_itself(llama: Llama) -> None:
    """The bundled model tells whole sentences and ends before the context does."""
    prompt = llama.tokenize(PROMPT)
    tokens = greedy(llama, prompt)
    text = llama.detokenize(tokens)
    assert len(prompt) + len(tokens) < llama.n_ctx
    assert text.count(".") >= 2
    assert text.rstrip().endswith((".", "!", "?", '"'))


def test_the_seed_decides_the_draw(llama: Llama) -> None:
    """The same seed gives the same tokens; other seeds give others."""
    prompt = llama.tokenize(PROMPT)

    def drawn(seed: int) -> tuple[int, ...]:
        return tuple(llama.generate(prompt, seed=seed, max_tokens=24, temperature=1.0))

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in range(8)}) > 1


def test_the_seed_of_the_object_serves_every_generation() -> None:
    """Llama(seed=) is the seed of each generation that names none."""
    with Llama(bundled_model(), n_threads=1, seed=11) as llama:
        texts = {llama.complete(PROMPT, max_tokens=24, temperature=1.0) for _ in range(3)}
        assert len(texts) == 1
        assert texts == {llama.complete(PROMPT, max_tokens=24, temperature=1.0, seed=11)}


def test_without_a_seed_draws_differ(llama: Llama) -> None:
    """Without any seed, each generation draws anew."""
    assert len({llama.complete(PROMPT, max_tokens=48, temperature=1.5, min_p=0) for _ in range(6)}) > 1


def test_narrow_sampling_is_greedy(llama: Llama) -> None:
    """One candidate left by top-k, or a min-p of 1, is the likeliest token whatever the temperature."""
    prompt = llama.tokenize(PROMPT)
    first = greedy(llama, prompt, 16)
    assert list(llama.generate(prompt, top_k=1, temperature=2.0, max_tokens=16)) == first
    assert list(llama.generate(prompt, min_p=1, temperature=2.0, max_tokens=16)) == first
    assert list(llama.generate(prompt, top_p=1e-9, temperature=2.0, max_tokens=16)) == first


WRONG: list[dict[str, Any]] = [
    {"temperature": -0.1},
    {"temperature": math.nan},
    {"temperature": math.inf},
    {"temperature": "hot"},
    {"top_k": 2**31},
    {"top_k": -(2**31) - 1},
    {"top_k": 1.5},
    {"top_k": "many"},
    {"top_p": -0.1},
    {"top_p": 1.01},
    {"top_p": math.nan},
    {"min_p": -0.01},
    {"min_p": 1.01},
    {"min_p": math.nan},
    {"max_tokens": -2},
    {"max_tokens": "all"},
    {"seed": -2},
    {"seed": 2**32},
    {"seed": 2**70},
    {"seed": 1.5},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_number_is_refused_before_anything_happens(llama: Llama, wrong: dict[str, Any]) -> None:
    """The call itself raises, not the first step, and a generation under way is not disturbed."""
    with pytest.raises((ValueError, TypeError)):
        llama.generate([1], **wrong)
    assert greedy(llama, [1], 1)


@pytest.mark.parametrize("top_k", [0, -1, 1_000_000])
def test_no_top_k_is_all(llama: Llama, top_k: int) -> None:
    """A top-k of zero or less, or beyond the vocabulary, leaves every token in."""
    assert len(list(llama.generate([1], top_k=top_k, max_tokens=4, seed=1))) <= 4


def test_max_tokens_is_a_limit(llama: Llama) -> None:
    """0 yields nothing, 1 yields one, None goes to the end of the text."""
    prompt = llama.tokenize(PROMPT)
    assert greedy(llama, prompt, 0) == []
    whole = greedy(llama, prompt)
    assert greedy(llama, prompt, 1) == whole[:1]
    assert greedy(llama, prompt, 5) == whole[:5]
    assert greedy(llama, prompt, 10**9) == whole


def test_an_empty_prompt_is_refused(llama: Llama) -> None:
    """There is nothing to continue without a token; empty text still has its beginning-of-sequence token."""
    with pytest.raises(ValueError, match="no tokens"):
        llama.generate([])
    assert llama.complete("", max_tokens=4, temperature=0)


@pytest.mark.parametrize("excess", [0, 1, 1000])
def test_a_prompt_that_does_not_fit_names_both_numbers(llama: Llama, excess: int) -> None:
    """PromptTooLongError has the prompt's and the context's size, as attributes and in its text."""
    tokens = [5] * (llama.n_ctx + excess)
    with pytest.raises(PromptTooLongError) as caught:
        llama.generate(tokens)
    assert (caught.value.n_tokens, caught.value.n_ctx) == (len(tokens), llama.n_ctx)
    assert str(len(tokens)) in str(caught.value)
    assert str(llama.n_ctx) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_longest_prompt_leaves_room_for_one_token(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of n_ctx - 1 tokens is taken and yields one."""
    monkeypatch.setattr(low_level, "vocab_is_eog", lambda *_: False)
    assert len(greedy(llama, [5] * (llama.n_ctx - 1))) == 1


def test_a_full_context_ends_the_generation(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model does not end, the context does: without an exception, and the next generation starts anew."""
    prompt = llama.tokenize(PROMPT)
    first = greedy(llama, prompt, 8)
    with monkeypatch.context() as patch:
        patch.setattr(low_level, "vocab_is_eog", lambda *_: False)
        assert len(greedy(llama, prompt)) == llama.n_ctx - len(prompt)
    assert greedy(llama, prompt, 8) == first


@pytest.mark.parametrize("n_batch", [1, 32, 33, 10**9])
def test_a_prompt_in_pieces_gives_the_same_tokens(llama: Llama, n_batch: int) -> None:
    """A prompt longer than n_batch is decoded in pieces, to the same continuation."""
    prompt = llama.tokenize("Once upon a time there was a small girl named Lucy. She had a red ball. " * 5)
    assert len(prompt) > 100
    with Llama(bundled_model(), n_threads=1, n_batch=n_batch) as pieces:
        assert greedy(pieces, prompt, 12) == greedy(llama, prompt, 12)


# -- text ----------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_stream_are_the_completion(llama: Llama) -> None:
    """stream() yields the text of complete() in several pieces, none of them empty."""
    pieces = list(llama.stream(PROMPT, temperature=0))
    assert len(pieces) > 10
    assert all(pieces)
    assert "".join(pieces) == llama.complete(PROMPT, temperature=0)


def written(llama: Llama, tokens: list[int]) -> list[str]:
    """Return the pieces of text that a stream of these tokens shows."""
    decoder = Decoder()
    pieces = [decoder.feed(llama._pieces(token)) for token in tokens]
    return [piece for piece in [*pieces, decoder.finish()] if piece]


@pytest.mark.parametrize("text", ["日本語", "😀", "é"])
def test_a_piece_never_ends_inside_a_character(llama: Llama, text: str) -> None:
    """Characters that the vocabulary has only as bytes come whole."""
    tokens = llama.tokenize(text, add_special=False)[1:]
    assert len(tokens) > len(text)
    pieces = written(llama, tokens)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_a_generation_that_ends_inside_a_character_says_so(llama: Llama) -> None:
    """Bytes left over at the end become one U+FFFD instead of nothing."""
    assert written(llama, llama.tokenize("日", add_special=False)[1:-1]) == ["\ufffd"]
