"""Many prompts at once: the same texts as one by one."""

from __future__ import annotations

import pytest

from nativeload_llama import ClosedError, Llama, PromptTooLongError, bundled_model

PROMPTS = [
    f"{start} {what}"
    for start in ("Once upon a time", "The dog", "One cold day", "Lucy had")
    for what in ("there was", "a red ball", "and the", "in the sun")
]


def test_texts_are_those_of_single_calls(llama: Llama) -> None:
    """Greedy: equal for every prompt, in the order of the prompts, however many run at once."""
    single = [llama.create_completion(prompt, temperature=0, max_tokens=24) for prompt in PROMPTS]
    for parallel in (1, 3, 16, 100):
        many = llama.generate_many(PROMPTS, temperature=0, max_tokens=24, n_parallel=parallel)
        assert [one.choices[0].text for one in many] == [one.choices[0].text for one in single]
        assert [one.choices[0].finish_reason for one in many] == [one.choices[0].finish_reason for one in single]
        assert [one.usage.completion_tokens for one in many] == [one.usage.completion_tokens for one in single]


def test_texts_of_different_lengths_make_room_for_each_other(llama: Llama) -> None:
    """Long and short prompts, texts that end by themselves and by a stop text."""
    prompts = ["Once upon a time", "The dog " * 40, "a", "Lucy had a red ball. " * 10] * 3
    single = [llama.create_completion(prompt, temperature=0, stop=". ") for prompt in prompts]
    many = llama.generate_many(prompts, temperature=0, stop=". ", n_parallel=4)
    assert [one.choices[0].text for one in many] == [one.choices[0].text for one in single]


def test_pieces_come_with_the_place_of_their_prompt(llama: Llama) -> None:
    """stream=True: pieces of several texts, mixed."""
    texts = [""] * 4
    places = []
    for place, piece in llama.generate_many(PROMPTS[:4], temperature=0, max_tokens=16, stream=True):
        texts[place] += piece
        places.append(place)
    assert texts == [llama.complete(prompt, temperature=0, max_tokens=16) for prompt in PROMPTS[:4]]
    assert places != sorted(places)


def test_a_grammar_holds_for_each(llama: Llama) -> None:
    """Each text has its own place in it."""
    for answer in llama.generate_many(PROMPTS, grammar='root ::= "yes" | "no"', temperature=1.5):
        assert answer.choices[0].text in {"yes", "no"}


def test_nothing_and_too_much(llama: Llama) -> None:
    """No prompts are no answers; one that does not fit is refused before any is begun."""
    assert llama.generate_many([]) == []
    assert [one.choices[0].text for one in llama.generate_many(["a", "b"], max_tokens=0)] == ["", ""]
    with pytest.raises(PromptTooLongError):
        llama.generate_many(["a", "The dog " * 1000])
    with pytest.raises(TypeError, match="list"):
        llama.generate_many("hello")
    with Llama(bundled_model(), n_threads=1, n_batch=8) as small:
        assert len(small.generate_many(PROMPTS, max_tokens=2, temperature=0)) == 16
    with pytest.raises(ValueError, match="n_parallel"):
        llama.generate_many(["a"], n_parallel=0)


def test_breaking_out_and_closing() -> None:
    """Neither leaves anything behind."""
    with Llama(bundled_model(), n_threads=1) as llama:
        for _ in llama.generate_many(PROMPTS, stream=True):
            break
        running = llama.generate_many(PROMPTS, stream=True)
        next(running)
        llama.close()
        with pytest.raises(ClosedError):
            list(running)
