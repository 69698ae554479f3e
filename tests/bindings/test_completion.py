"""Completions in OpenAI's shapes: whole and in chunks, with what stands in them true."""

from __future__ import annotations

import json
import math
import pickle

import pytest

from nativeload_llama import GrammarError, Llama, ModelError, PromptTooLongError, SamplerError, bundled_model, low_level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROMPT = "Once upon a time"


def test_a_completion_has_openai_s_shape(llama: Llama) -> None:
    """Items are attributes too, the counts are right, and it is JSON."""
    answer = llama.create_completion(PROMPT, max_tokens=12, temperature=0)
    assert answer["object"] == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == "stories.gguf"
    assert (
        answer.choices[0].text == answer["choices"][0]["text"] == llama.complete(PROMPT, max_tokens=12, temperature=0)
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage.prompt_tokens == len(llama.tokenize(PROMPT))
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (12, 12 + answer.usage.prompt_tokens)
    assert json.loads(json.dumps(answer)) == answer.model_dump()
    assert pickle.loads(pickle.dumps(answer)) == answer  # noqa: S301 - our own bytes
    assert str(answer) == answer.choices[0].text
    assert llama(PROMPT, max_tokens=12, temperature=0).choices == answer.choices


def test_chunks_are_the_completion_in_pieces(llama: Llama) -> None:
    """One id for all; the last chunk has the reason and the usage."""
    whole = llama.create_completion(PROMPT, max_tokens=20, temperature=0)
    chunks = list(llama.create_completion(PROMPT, max_tokens=20, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1].usage.completion_tokens == 20
    assert len(chunks) > 10


def test_a_story_that_ends_by_itself_says_stop(llama: Llama) -> None:
    """The model's own end is the reason ``stop``."""
    assert llama.create_completion(PROMPT, temperature=0).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_is_not_part_of_the_completion(llama: Llama, stream: bool) -> None:
    """The text ends before it, the reason is ``stop``, and no likelihood is told of what was cut off."""
    whole = llama.complete(PROMPT, temperature=0)
    stop = whole[40:46]
    options: dict[str, Any] = {"temperature": 0, "stop": [stop, "never there"], "logprobs": 0}
    if stream:
        chunks = list(llama.create_completion(PROMPT, stream=True, **options))
        text = "".join(chunk.choices[0].text for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
        places = [
            place for chunk in chunks if chunk.choices[0].logprobs for place in chunk.choices[0].logprobs.text_offset
        ]
    else:
        choice = llama.create_completion(PROMPT, **options).choices[0]
        text, reason = choice.text, choice.finish_reason
        assert choice.logprobs is not None
        places = choice.logprobs.text_offset
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"
    assert max(places) < len(text)


def test_echo_puts_the_prompt_first(llama: Llama) -> None:
    """Also in a stream, and also where the prompt is tokens."""
    text = PROMPT + llama.complete(PROMPT, max_tokens=8, temperature=0)
    options: dict[str, Any] = {"echo": True, "max_tokens": 8, "temperature": 0}
    assert llama.create_completion(PROMPT, **options).choices[0].text == text
    assert "".join(c.choices[0].text for c in llama.create_completion(PROMPT, stream=True, **options)) == text
    assert llama.create_completion(llama.tokenize(PROMPT), **options).choices[0].text == text


# -- likelihoods ---------------------------------------------------------------------------------------------------


def softmax(logits: list[float]) -> list[float]:
    """Return the logarithms of probability, in double precision."""
    top = max(logits)
    total = math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - top - total for logit in logits]


def test_likelihoods_are_those_of_the_logits(llama: Llama) -> None:
    """Each token's logarithm, and its likeliest rivals', are what double precision makes of the model's logits."""
    choice = llama.create_completion(PROMPT, max_tokens=10, temperature=1.0, seed=3, logprobs=4).choices[0]
    found = choice.logprobs
    assert found is not None
    assert "".join(found.tokens) == choice.text
    assert found.text_offset == [len("".join(found.tokens[:place])) for place in range(10)]
    tokens = llama.tokenize(PROMPT)
    for place, text in enumerate(found.tokens):
        next(running := llama.generate(tokens, temperature=0, max_tokens=2))
        with llama._native.entered():
            right = softmax(list(low_level.get_logits_ith(llama._native.contexts["text"], -1)))
        running.close()
        token = next(t for t in sorted(range(640), key=lambda t: -right[t]) if llama._pieces(t).decode() == text)
        assert found.token_logprobs[place] == pytest.approx(right[token], abs=1e-4)
        top = sorted(right, reverse=True)[:4]
        rivals = found.top_logprobs[place]
        assert rivals is not None
        assert sorted(rivals.values(), reverse=True) == pytest.approx(top, abs=1e-4)
        tokens.append(token)


def test_echo_with_likelihoods_scores_the_prompt(llama: Llama) -> None:
    """The first token has none; the others have what the model gave them, as if it had written them."""
    story = llama.complete(PROMPT, max_tokens=12, temperature=0)
    written = llama.create_completion(PROMPT, max_tokens=12, temperature=0, logprobs=1).choices[0].logprobs
    assert written is not None
    read = (
        llama.create_completion(PROMPT + story, max_tokens=1, temperature=0, logprobs=1, echo=True).choices[0].logprobs
    )
    assert read is not None
    assert read.token_logprobs[0] is None
    assert read.top_logprobs[0] is None
    start = len(llama.tokenize(PROMPT))
    assert read.token_logprobs[start : start + 12] == pytest.approx(written.token_logprobs, abs=1e-3)


@pytest.mark.parametrize("prompt", ["Once upon", "Tom said \u201chi\u201d to", "\u65e5\u672c a"])
def test_echoed_tokens_stand_where_they_begin(llama: Llama, prompt: str) -> None:
    """Places grow, and the first generated token begins where the prompt ends."""
    choice = llama.create_completion(prompt, max_tokens=2, temperature=0, logprobs=0, echo=True).choices[0]
    assert choice.logprobs is not None
    places = choice.logprobs.text_offset
    assert places == sorted(places)
    assert places[len(llama.tokenize(prompt))] == len(prompt)
    assert choice.text.startswith(prompt)


@pytest.mark.parametrize("count", [-1, 101, 10**6])
def test_a_number_of_rivals_that_cannot_be_is_refused(llama: Llama, count: int) -> None:
    """Naming the bound."""
    with pytest.raises(ValueError, match="between 0 and 100"):
        llama.create_completion(PROMPT, logprobs=count)


# -- drawing -------------------------------------------------------------------------------------------------------


def test_a_logit_bias_forbids_and_forces(llama: Llama) -> None:
    """-inf takes a token out, a large number puts it in; ids may be text, as in JSON."""
    prompt = llama.tokenize(PROMPT)
    first = next(llama.generate(prompt, temperature=0))
    assert next(llama.generate(prompt, temperature=0, logit_bias={first: float("-inf")})) != first
    assert list(llama.generate(prompt, temperature=0, logit_bias={"77": 1000.0}, max_tokens=3)) == [77] * 3


def test_a_logits_processor_changes_the_logits(llama: Llama) -> None:
    """It is given the tokens so far, and may write into the logits or return others."""
    seen: list[int] = []

    def only(token: int) -> Any:
        def process(tokens: list[int], logits: Any) -> None:
            seen.append(len(tokens))
            for place in range(len(logits)):
                logits[place] = 0.0 if place == token else -1e9

        return process

    prompt = llama.tokenize(PROMPT)
    assert list(llama.generate(prompt, max_tokens=3, logits_processor=only(99))) == [99] * 3
    assert seen == [len(prompt), len(prompt) + 1, len(prompt) + 2]
    assert list(
        llama.generate(prompt, max_tokens=2, logits_processor=[lambda _, logits: [-x for x in logits], only(98)])
    )
    with pytest.raises(SamplerError, match="logits"):
        list(llama.generate(prompt, logits_processor=lambda *_: [1.0]))


def test_a_processor_that_raises_ends_the_generation(llama: Llama) -> None:
    """Its own exception comes out, and the next generation works."""
    with pytest.raises(ZeroDivisionError):
        list(llama.generate([1], logits_processor=lambda *_: 1 / 0))
    assert llama.complete(PROMPT, max_tokens=2, temperature=0)


def test_stopping_criteria_end_the_text(llama: Llama) -> None:
    """Asked after each token, with all tokens and the logits of the last one."""
    limit = len(llama.tokenize(PROMPT)) + 5

    def enough(tokens: list[int], logits: Any) -> bool:
        return len(tokens) >= limit and len(logits) == 640

    answer = llama.create_completion(PROMPT, temperature=0, stopping_criteria=enough)
    assert answer.usage.completion_tokens == 5


def test_an_unknown_word_is_refused_and_the_likely_one_named(llama: Llama) -> None:
    """By whichever verb, and it says what was probably meant."""
    with pytest.raises(TypeError, match="'temp'; did you mean temperature"):
        llama.complete(PROMPT, temp=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'functions'; did you mean tools"):
        llama.create_chat_completion([{"role": "user", "content": "x"}], functions=[])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="there is no option 'best_of'"):
        llama.create_completion(PROMPT, best_of=2)  # type: ignore[call-overload]


def test_penalties_keep_a_text_from_repeating_itself(llama: Llama) -> None:
    """Greedy with a strong penalty on what was seen never takes a token twice in a row."""
    tokens = list(llama.generate([1], temperature=0, max_tokens=40, frequency_penalty=50.0, penalty_last_n=-1))
    assert len(set(tokens)) == len(tokens)


GRAMMAR = 'root ::= "yes" | "no"'


def test_a_grammar_is_followed_to_its_end(llama: Llama) -> None:
    """Whatever the temperature: the text is one that the grammar allows, and then it ends."""
    for seed in range(12):
        answer = llama.create_completion(PROMPT, grammar=GRAMMAR, temperature=1.5, seed=seed)
        assert answer.choices[0].text in {"yes", "no"}
        assert answer.choices[0].finish_reason == "stop"


def test_a_grammar_that_is_none_is_refused_before_anything_happens(llama: Llama) -> None:
    """At the call, not at the first token."""
    with pytest.raises(GrammarError):
        llama.generate([1], grammar="root ::= (")
    with pytest.raises(TypeError, match="grammar"):
        llama.generate([1], grammar=5)


@pytest.mark.parametrize(
    "options",
    [
        {"mirostat_mode": 1},
        {"mirostat_mode": 2, "mirostat_tau": 2.0},
        {"typical_p": 0.5},
        {"xtc_probability": 0.5},
        {"top_n_sigma": 1.0},
        {"dynatemp_range": 0.5},
        {"dry_multiplier": 0.8},
        {"repeat_penalty": 1.3, "presence_penalty": 0.2},
        {"adaptive_target": 0.5},
    ],
    ids=str,
)
def test_every_way_of_drawing_draws(llama: Llama, options: dict[str, Any]) -> None:
    """The same seed gives the same text."""
    texts = {llama.complete(PROMPT, max_tokens=16, seed=5, **options) for _ in range(2)}
    assert len(texts) == 1
    assert texts != {""}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mirostat_mode": 3},
        {"typical_p": math.nan},
        {"repeat_penalty": math.inf},
        {"dry_base": math.nan, "dry_multiplier": 1.0},
        {"xtc_probability": 2.0},
        {"logit_bias": {640: 1.0}},
        {"logit_bias": {"x": 1.0}},
        {"logit_bias": {1: math.nan}},
        {"temprature": 0.5},
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(llama: Llama, wrong: dict[str, Any]) -> None:
    """With a ValueError or a TypeError of the call itself; a misspelt word is one too."""
    with pytest.raises((ValueError, TypeError)):
        llama.generate([1], **wrong)


def test_filling_in_the_middle_needs_a_model_for_it(llama: Llama) -> None:
    """The story model has no tokens for it."""
    with pytest.raises(ModelError, match="middle"):
        llama.create_completion(PROMPT, suffix=" The end.")


def test_a_prompt_that_does_not_fit_is_refused_by_every_verb(llama: Llama) -> None:
    """By its number of tokens."""
    with pytest.raises(PromptTooLongError):
        llama.create_completion([5] * 600)
    with pytest.raises(PromptTooLongError):
        llama.stream(PROMPT * 1000)


def test_seeds_of_the_object_and_of_the_call() -> None:
    """The call's counts; -1 is a random one."""
    with Llama(bundled_model(), n_threads=1, seed=11) as llama:
        assert llama.complete(PROMPT, max_tokens=8) == llama.complete(PROMPT, max_tokens=8, seed=11)
        drawn = {llama.complete(PROMPT, max_tokens=24, seed=-1, temperature=2.0, top_k=0, min_p=0) for _ in range(4)}
        assert len(drawn) > 1
