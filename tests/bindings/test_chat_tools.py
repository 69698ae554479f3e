"""Functions are offered, called and read: what a request may say, what the model may write, what is a call."""

from __future__ import annotations

import json
import random
import re

import pytest

from nativeload_llama import bundled_model, low_level
from nativeload_llama.chat.formats import FORMATS
from nativeload_llama.chat.template import named
from nativeload_llama.chat.tools import (
    FUNCTIONARY,
    FUNCTIONS,
    HERMES,
    LLAMA_3,
    MISTRAL,
    MISTRAL_ARGS,
    ToolCallStream,
    ToolFormat,
    ToolGrammar,
    checked_tools,
    chosen,
    detected,
    parse_tool_calls,
    tool_grammar,
    with_tools_described,
)
from nativeload_llama.errors import GrammarError, TemplateError
from nativeload_llama.library import open_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nativeload_llama.low_level import Model

ALL = [HERMES, LLAMA_3, MISTRAL, MISTRAL_ARGS, FUNCTIONARY, FUNCTIONS]
SEVERAL = [form for form in ALL if form.several]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Today's weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = checked_tools([WEATHER, NOW])
NESTED: dict[str, Any] = {"city": 'Rome } " \\ ] </tool_call> é \u2028', "more": [{"a": {}}, None, -1.5e300]}

by_name = pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    api = open_library()
    low_level.sampler_free(low_level.sampler_chain_init(api))
    loaded = low_level.model_load_from_file(api, bundled_model())
    yield loaded
    low_level.model_free(loaded)


def grammar_of(form: ToolFormat, choice: object = "required", *, parallel: bool = True) -> ToolGrammar:
    made = tool_grammar(TOOLS, choice, form=form, parallel=parallel)
    assert made is not None
    return made


def allowed(model: Model, grammar: ToolGrammar, text: str) -> bool:
    """Whether llama.cpp's sampler allows a whole answer, and its end."""
    if grammar.lazy:
        sampler = low_level.sampler_init_grammar_lazy_patterns(
            model, grammar.gbnf, grammar.root, grammar.trigger_patterns, ()
        )
    else:
        sampler = low_level.sampler_init_grammar(model, grammar.gbnf, grammar.root)
    letters = {low_level.token_to_piece(model, token): token for token in range(model.n_vocab)}
    tokens = [letters[bytes([byte])] for byte in text.encode()]  # the tokenizer would begin with a blank
    try:
        for token in [*tokens, low_level.vocab_eos(model)]:
            if not low_level.grammar_accepts(sampler, token):
                return False
            low_level.sampler_accept(sampler, token)
    finally:
        low_level.sampler_free(sampler)
    return True


# -- what a request says -----------------------------------------------------------------------------------------------


def test_tools_are_filled_up() -> None:
    """A function without parameters takes none; what is not said is empty."""
    assert TOOLS[0] == WEATHER
    function = TOOLS[1]["function"]
    assert function == {
        "name": "now",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    }
    untyped = checked_tools([{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}])
    assert untyped[0]["function"]["parameters"]["type"] == "object"


@pytest.mark.parametrize(
    ("tools", "error", "words"),
    [
        ("x", TypeError, "tools is a str"),
        (WEATHER, TypeError, "tools is a dict"),
        ([5], TypeError, r"tools\[0\] is not"),
        ([{"name": "f"}], TypeError, r"tools\[0\] is not"),
        ([NOW, {"type": "retrieval", "function": {"name": "f"}}], ValueError, r"tools\[1\]\.type is 'retrieval'"),
        ([{"type": "function", "function": {}}], ValueError, r"tools\[0\]\.function\.name is None"),
        ([{"type": "function", "function": {"name": "a b"}}], ValueError, "name is 'a b'"),
        ([{"type": "function", "function": {"name": "a\n"}}], ValueError, r"name is 'a\\n'"),
        ([{"type": "function", "function": {"name": "x" * 65}}], ValueError, "1 to 64"),
        ([{"type": "function", "function": {"name": "f", "description": 5}}], TypeError, "description"),
        ([{"type": "function", "function": {"name": "f", "parameters": [1]}}], TypeError, "parameters"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}], ValueError, "an object"),
        ([{"type": "function", "function": {"name": "f", "parameters": {"x": {1}}}}], TypeError, "no JSON"),
        ([NOW, WEATHER, NOW], ValueError, "two functions of the name now"),
        ([{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)], ValueError, "129 tools"),
    ],
)
def test_what_is_no_tool_is_refused(tools: Any, error: type[Exception], words: str) -> None:
    """The place and the reason are named."""
    with pytest.raises(error, match=words):
        checked_tools(tools)


def test_parameters_too_deep_are_refused() -> None:
    """They would be walked by recursion later."""
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(TemplateError, match=r"tools\[0\]\.function\.parameters is nested too deeply"):
        checked_tools([{"type": "function", "function": {"name": "f", "parameters": schema}}])


def test_a_choice_says_what_may_and_must_be_called() -> None:
    """OpenAI's four."""
    assert chosen(TOOLS, None) == (TOOLS, False)
    assert chosen(TOOLS, "auto") == (TOOLS, False)
    assert chosen(TOOLS, "none") == ([], False)
    assert chosen(TOOLS, "required") == (TOOLS, True)
    assert chosen(TOOLS, {"type": "function", "function": {"name": "now"}}) == ([TOOLS[1]], True)
    assert chosen([], "required") == ([], False)


@pytest.mark.parametrize(
    "choice",
    [
        "now",
        "any",
        5,
        {},
        {"type": "function"},
        {"function": {"name": "now"}},
        {"type": "x", "function": {"name": "now"}},
    ],
)
def test_a_choice_that_is_none_is_refused(choice: object) -> None:
    """With what it can be."""
    with pytest.raises(ValueError, match="is not 'none', 'auto', 'required' or a function"):
        chosen(TOOLS, choice)


def test_a_choice_of_an_unknown_function_is_refused() -> None:
    """It names none of the tools."""
    with pytest.raises(ValueError, match="names 'later', which is none of the tools"):
        chosen(TOOLS, {"type": "function", "function": {"name": "later"}})


def test_tools_are_described_in_the_system_message() -> None:
    """After its own words; the first of them only."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    told = with_tools_described(messages, TOOLS, HERMES)
    assert [message["role"] for message in told] == ["system", "user"]
    assert told[0]["content"].startswith("Be brief.\n\n")
    for word in ("get_weather", "Today's weather.", '"city"', "<tool_call>", "now"):
        assert word in told[0]["content"]
    assert messages[0]["content"] == "Be brief."
    alone = with_tools_described(messages[1:], TOOLS, HERMES)
    assert [message["role"] for message in alone] == ["system", "user"]


def test_results_that_follow_each_other_are_one_message() -> None:
    """Roles go on alternating."""
    call = {"type": "function", "function": {"name": "now", "arguments": {}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "Well.", "tool_calls": [call, call]},
        {"role": "tool", "content": "5"},
        {"role": "tool", "content": "6"},
        {"role": "assistant", "content": "Six."},
    ]
    told = with_tools_described(messages, (), FUNCTIONS)
    assert [message["role"] for message in told] == ["user", "assistant", "user", "assistant"]
    assert told[1]["content"] == "Well.\nfunctions.now:\n{}\nfunctions.now:\n{}\n"
    assert told[2] == {
        "role": "user",
        "content": "<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response>",
    }


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ('<tool_call>\n{"name": <name>, "arguments": <args>}\n</tool_call>', HERMES),
        ("'<tool_call>\\n{\\\"name\\\": ' ~ '\\\"arguments\\\": '", HERMES),
        ("<tool_call>\n<function=x>\n<parameter=y>", None),
        ("<tool_call>{name}\n<arg_key>", None),
        ('<tool_call></tool_call><tool_calls>[{"name": 1, "arguments": 2}]</tool_calls>', None),
        ('<|start_header_id|>{"name": "\' + name, \'"parameters": \'', LLAMA_3),
        ('"[TOOL_CALLS][" + call|tojson', MISTRAL),
        ("[TOOL_CALLS]' + name + '[ARGS]' + args", MISTRAL_ARGS),
        ("<function=' + name + '>'", FUNCTIONARY),
        (FORMATS["chatml-function-calling"][0], FUNCTIONS),
        (FORMATS["chatml"][0], None),
        ("<|channel|>commentary to=functions.x", None),
        ("", None),
    ],
)
def test_the_format_is_found_in_the_template(source: str, form: ToolFormat | None) -> None:
    """By its markers; a format that is not one of ours is none, rather than the nearest."""
    assert detected(source) == form


@by_name
def test_a_format_is_one_text(form: ToolFormat) -> None:
    """What is written for a history is read back, begins with the trigger, and matches the pattern of it."""
    calls = [("get_weather", NESTED), ("now", {})][: 2 if form.several else 1]
    text = form.written(calls)
    content, found = parse_tool_calls(text, form)
    assert content is None
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in found] == calls
    assert (form.start + form.before).startswith(form.trigger)
    (pattern,) = grammar_of(form, "auto").trigger_patterns
    met = next(end for end in range(len(text)) if re.search(pattern, text[:end]))
    assert form.marker in text[:met]
    assert re.search(pattern, text) is None


# -- the grammar, in llama.cpp -----------------------------------------------------------------------------------------


@by_name
def test_calls_of_the_tools_are_allowed(model: Model, form: ToolFormat) -> None:
    """With every blank there may be, and again and again where a format has several calls."""
    one, two = [("get_weather", {"city": 'a "b" é'})], [("get_weather", {"city": "x"}), ("now", {})]
    assert allowed(model, grammar_of(form), form.written(one))
    for blanks in ("", "\n", "\n \t "):
        around = [
            re.sub(r"\s+", blanks, part) for part in (form.start + form.before, form.between, form.after + form.end)
        ]
        text = around[0] + "get_weather" + around[1] + '{"city":"x"}' + around[2]
        assert allowed(model, grammar_of(form), text), text
        assert len(parse_tool_calls(text, form)[1]) == 1
    assert allowed(model, grammar_of(form), form.written(two)) == form.several
    assert not allowed(model, grammar_of(form, parallel=False), form.written(two))


@by_name
def test_everything_else_is_not_allowed(model: Model, form: ToolFormat) -> None:
    """Words, other functions, arguments that the schema does not have, half a call."""
    whole = form.written([("get_weather", {"city": "x"})])
    for text in (
        "Sunny.",
        form.written([("get_rain", {"city": "x"})]),
        form.written([("get_weather", {})]),
        form.written([("get_weather", {"city": 5})]),
        form.written([("now", {"city": "x"})]),
        whole.rstrip()[:-1],
        whole + "x",
    ):
        assert not allowed(model, grammar_of(form), text), text


@by_name
def test_a_named_function_is_called_once(model: Model, form: ToolFormat) -> None:
    """And no other."""
    grammar = grammar_of(form, {"type": "function", "function": {"name": "now"}})
    assert not grammar.lazy
    assert allowed(model, grammar, form.written([("now", {})]))
    assert not allowed(model, grammar, form.written([("get_weather", {"city": "x"})]))
    assert not allowed(model, grammar, form.written([("now", {}), ("now", {})]))


@by_name
def test_the_answer_is_free_until_a_call_begins(model: Model, form: ToolFormat) -> None:
    """With "auto", any words may be written; from the trigger on, only a call of a tool."""
    grammar = grammar_of(form, "auto")
    assert grammar.lazy
    assert allowed(model, grammar, 'Sunny. {"name": "x"} <tool')
    assert allowed(model, grammar, form.written([("now", {})]))
    assert not allowed(model, grammar, form.written([("later", {})]))
    assert not allowed(model, grammar, form.written([("now", {})]) + "And then?")
    after = "It is " + form.written([("later", {})])
    assert allowed(model, grammar, after) == form.anchored


def test_a_mistral_call_may_have_its_id(model: Model) -> None:
    """Nine letters and digits, as the template of Nemo has them."""
    text = '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abcDEF123"}]'
    assert allowed(model, grammar_of(MISTRAL), text)
    assert not allowed(model, grammar_of(MISTRAL), text.replace("123", "12"))
    assert grammar_of(MISTRAL).parse(text)[1][0]["id"] == "abcDEF123"


def test_nothing_is_constrained_where_nothing_may_be_called() -> None:
    """No tools, or none of them."""
    assert tool_grammar([], "auto") is None
    assert tool_grammar(TOOLS, "none") is None


def test_the_format_is_the_templates(model: Model) -> None:
    """Or Hermes, where a template knows no tools."""
    for name, form in (("chatml-function-calling", FUNCTIONS), ("gemma", HERMES)):
        grammar = tool_grammar(TOOLS, "required", template=named(name, bos="", eos=""))
        assert grammar is not None
        assert grammar.form == form
        assert allowed(model, grammar, form.written([("now", {})]))


def test_schemas_of_several_tools_do_not_mix(model: Model) -> None:
    """Each tool has its own rules and its own definitions, however they are called."""
    schemas = [
        {"properties": {"v": {"$ref": "#/$defs/root"}}, "required": ["v"], "$defs": {"root": {"const": n}}}
        for n in ("one", 'two]" {3}', 3)
    ]
    tools = checked_tools(
        [{"type": "function", "function": {"name": f"f{n}", "parameters": s}} for n, s in enumerate(schemas)]
    )
    grammar = tool_grammar(tools, "required")
    assert grammar is not None
    values = ["one", 'two]" {3}', 3]
    for n in range(3):
        for m, value in enumerate(values):
            assert allowed(model, grammar, HERMES.written([(f"f{n}", {"v": value})])) == (n == m)


def test_a_schema_that_cannot_be_followed_names_its_tool() -> None:
    """And the place in it."""
    tools = checked_tools(
        [NOW, {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#/no"}}}}}]
    )
    with pytest.raises(GrammarError, match=r"^f\.parameters #"):
        tool_grammar(tools)


# -- what the model wrote ----------------------------------------------------------------------------------------------

ANSWERS: list[tuple[ToolFormat, str, str | None, list[tuple[str, Any]]]] = [
    (HERMES, "Sunny.\n", "Sunny.\n", []),
    (HERMES, "", "", []),
    (HERMES, " \n", " \n", []),
    (HERMES, 'Let me see. \n<tool_call>{"name":"now","arguments":{}}</tool_call>\n', "Let me see.", [("now", {})]),
    (HERMES, '<tool_call>\n{"arguments": {"a": "}"}, "name": "f"}\n</tool_call>', None, [("f", {"a": "}"})]),
    (HERMES, '<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}', None, [("f", {"a": 1})]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call> Done.', " Done.", [("f", {})]),
    (HERMES, "a < b <tool b <tool_call", "a < b <tool b <tool_call", []),
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": ', '<tool_call>\n{"name": "f", "arguments": {"a": ', []),
    (HERMES, "<tool_call> is the marker", "<tool_call> is the marker", []),
    (HERMES, "<tool_call>{'name': 'f'}</tool_call>", "<tool_call>{'name': 'f'}</tool_call>", []),
    (HERMES, '<tool_call>{"name": 5, "arguments": {}}', '<tool_call>{"name": 5, "arguments": {}}', []),
    (HERMES, '<tool_call>{"name": "f", "arguments": [1]}', '<tool_call>{"name": "f", "arguments": [1]}', []),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}',
        [],
    ),
    (HERMES, '<tool_call><tool_call>{"name": "f"}</tool_call>', "<tool_call>", [("f", {})]),
    (HERMES, "<tool_call>" + "x" * 200, "<tool_call>" + "x" * 200, []),
    (LLAMA_3, '{"name": "f", "parameters": {"a": 1}}', None, [("f", {"a": 1})]),
    (LLAMA_3, '<|python_tag|>{"type": "function", "name": "f", "parameters": {}}', None, [("f", {})]),
    (LLAMA_3, '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', None, [("f", {}), ("g", {})]),
    (LLAMA_3, '{"name": "Bob", "age": 5}', '{"name": "Bob", "age": 5}', []),
    (LLAMA_3, '{"a": {"name": "f", "parameters": {}}}', '{"a": {"name": "f", "parameters": {}}}', []),
    (LLAMA_3, ' Say {"name": "f", "parameters": {}}', ' Say {"name": "f", "parameters": {}}', []),
    (LLAMA_3, "{oh", "{oh", []),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a": [1]}}]',
        None,
        [("f", {}), ("g", {"a": [1]})],
    ),
    (MISTRAL, 'So [TOOL_CALLS]{"name": "f", "arguments": {}}', "So", [("f", {})]),
    (
        MISTRAL_ARGS,
        '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{}',
        None,
        [("f", {"a": 1}), ("g", {})],
    ),
    (FUNCTIONARY, 'Hm.<function=f>{"a": 1}</function><function=g>{}</function>', "Hm.", [("f", {"a": 1}), ("g", {})]),
    (FUNCTIONS, 'functions.f:\n{"a": 1}\nfunctions.g:\n{}\n', None, [("f", {"a": 1}), ("g", {})]),
    (FUNCTIONS, "message: functions.f: {}", None, [("f", {})]),
    (FUNCTIONS, "message:\nHello functions.f: {}", "Hello functions.f: {}", []),
    (FUNCTIONS, "functions.f is one of them", "functions.f is one of them", []),
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), ANSWERS)
def test_answers_are_read(form: ToolFormat, text: str, content: str | None, calls: list[tuple[str, Any]]) -> None:
    """Whole calls are calls; everything else is content, as it was written."""
    found, made = parse_tool_calls(text, form)
    assert found == content
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made] == calls


@pytest.mark.parametrize(("form", "text", "content", "calls"), ANSWERS)
def test_answers_are_read_piece_by_piece(
    form: ToolFormat, text: str, content: str | None, calls: list[tuple[str, Any]]
) -> None:
    """However a text is cut, it says the same; no piece of content is half of a marker."""
    dice = random.Random(text)
    for most in (1, 2, 3, 7, 7, 30, 30, 30):
        deltas: list[dict[str, Any]] = []
        stream, left = ToolCallStream(form), text
        while left:
            size = dice.randint(1, most)
            deltas += stream.feed(left[:size])
            left = left[size:]
        assert form.marker == "{" or calls == [] or not any(form.marker[:3] in d.get("content", "") for d in deltas)
        deltas += stream.finish()
        assert "".join(delta.get("content", "") for delta in deltas) == (content or "")
        assert all(delta.get("content") != "" for delta in deltas)
        made = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made] == calls
        assert [call["index"] for call in made] == list(range(len(calls)))


def test_content_is_not_held_back() -> None:
    """Words come at once; only blanks and what may be a marker wait."""
    stream = ToolCallStream(HERMES)
    assert stream.feed("Hello") == [{"content": "Hello"}]
    assert stream.feed(" ") == []
    assert stream.feed("you <") == [{"content": " you"}]
    assert stream.feed("b> <tool_c") == [{"content": " <b>"}]
    assert stream.feed("up>") == [{"content": " <tool_cup>"}]
    assert ToolCallStream(LLAMA_3).feed("Hello") == [{"content": "Hello"}]


def test_a_call_comes_when_it_is_whole() -> None:
    """In OpenAI's form of a delta."""
    stream = ToolCallStream(HERMES)
    assert stream.feed('<tool_call>\n{"name": "f", "arguments": {"a": "\\') == []
    assert stream.feed('"}') == []
    (delta,) = stream.feed('"}}')
    (call,) = delta["tool_calls"]
    assert set(call) == {"index", "id", "type", "function"}
    assert call["type"] == "function"
    assert call["function"] == {"name": "f", "arguments": '{"a": "\\"}"}'}
    assert stream.feed("\n</tool_call>\n") == []
    assert stream.finish() == []


@by_name
def test_ids_are_new_each_time(form: ToolFormat) -> None:
    """Mistral's templates want nine letters and digits."""
    ids = {parse_tool_calls(form.written([("f", {})]), form)[1][0]["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch("[a-z0-9]{9}" if form.id_letters else "call_[a-z0-9]{24}", one) for one in ids)


@pytest.mark.parametrize("value", ["\ud800", "\u2028é😀", "\0"])
def test_arguments_are_text_that_can_be_sent(value: str) -> None:
    """JSON that UTF-8 can hold, and with letters as letters."""
    text = HERMES.written([("f", {"a": "VALUE"})]).replace('"VALUE"', json.dumps(value))
    ((call,),) = parse_tool_calls(text, HERMES)[1:]
    assert json.loads(call["function"]["arguments"].encode()) == {"a": value}


@pytest.mark.parametrize("inside", ['"' + "x" * 400_000 + '"', "[" * 400_000, '{"a":' * 100_000, "9" * 400_000])
def test_long_and_deep_arguments_are_read_in_one_pass(inside: str) -> None:
    """In small pieces too: the work grows with the text, and no depth or length is an error."""
    stream = ToolCallStream(HERMES)
    text = f'<tool_call>\n{{"name": "f", "arguments": {{"a": {inside}}}}}'
    deltas = [delta for at in range(0, len(text), 50) for delta in stream.feed(text[at : at + 50])]
    deltas += stream.finish()
    called = any("tool_calls" in delta for delta in deltas)
    assert called == inside.startswith('"')
    assert called or "".join(delta["content"] for delta in deltas) == text
