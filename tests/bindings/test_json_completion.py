"""Answers that follow a JSON schema, from a model that knows nothing of JSON: every time, whatever it would say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from nativeload_llama import Llama, LlamaGrammar, bundled_model

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "height": {"type": "number"},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "maxItems": 2},
        "mood": {"enum": ["happy", "sad", None]},
        "awake": {"type": "boolean"},
    },
    "required": ["name", "age", "friends", "mood"],
    "additionalProperties": False,
    "$defs": {
        "friend": {
            "type": "object",
            "properties": {"kind": {"const": "dog"}, "born": {"type": "string", "format": "date"}},
            "required": ["kind"],
            "additionalProperties": False,
        }
    },
}
CHECK = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """One Llama for all: a hundred answers take less time than opening it a hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NATIVELOAD_CACHE", str(tmp_path_factory.mktemp("cache", numbered=True)))
        with Llama(bundled_model(), n_threads=1) as opened:
            yield opened


def test_a_hundred_chat_answers_follow_their_schema(model: Llama) -> None:
    """At temperature 1: each one parses, validates and has come to its end."""
    answers = []
    for seed in range(100):
        answer = model.create_chat_completion(
            [{"role": "user", "content": "Who is Lucy?"}],
            response_format={"type": "json_object", "schema": SCHEMA},
            temperature=1.0,
            seed=seed,
        )
        assert answer.choices[0].finish_reason == "stop"
        content = answer.choices[0].message.content
        assert content is not None
        answers.append(json.loads(content))
        CHECK.validate(answers[-1])
    assert len({json.dumps(answer) for answer in answers}) > 90


def test_a_hundred_completions_follow_their_schema(model: Llama) -> None:
    """The same with a grammar and a story as the prompt, hot and without any cut."""
    grammar = LlamaGrammar.from_json_schema(SCHEMA)
    for seed in range(100):
        text = model.complete(
            "Once upon a time", grammar=grammar, temperature=1.0, top_k=0, top_p=1, min_p=0, seed=seed
        )
        CHECK.validate(json.loads(text))


def test_any_json_object_is_an_object(model: Llama) -> None:
    """Without a schema, in OpenAI's older form, and with OpenAI's newer one."""
    for seed in range(20):
        form: dict[str, Any] = {"type": "json_object"}
        answer = model.create_chat_completion([{"role": "user", "content": "x"}], response_format=form, seed=seed)
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
        newer = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        answer = model.create_chat_completion([{"role": "user", "content": "x"}], response_format=newer, seed=seed)
        CHECK.validate(json.loads(answer.choices[0].message.content or ""))
