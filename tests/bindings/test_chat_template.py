"""Messages become prompts as a template says; what a stranger's template cannot do; what is refused in words."""

from __future__ import annotations

import json
import sys
import threading
import time
from types import MappingProxyType

import pytest

from nativeload_llama.chat.calls import HERMES
from nativeload_llama.chat.formats import FORMATS
from nativeload_llama.chat.template import ChatTemplate, for_model, named, plain_messages, without_bos
from nativeload_llama.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

USER = {"role": "user", "content": "Hi"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Bye"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "dry"},
]

# In the manner of four families of models; only the markers are theirs.
CHATML = """
{%- if tools %}{{ '<|im_start|>system\n<tools>' }}
    {%- for tool in tools %}{{ '\n' ~ tool|tojson }}{% endfor %}
    {{- '\n</tools>\nWrite <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments|tojson }}
        {{- '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
PARTS = """
{%- for message in messages %}[{{ message.role }}]
    {%- for part in message.content %}
        {%- if part.type == 'text' %}{{ '(' ~ part.text ~ ')' }}{% endif %}
    {%- endfor %}
{%- endfor %}"""
EITHER = """
{%- for message in messages %}
    {%- if message.content is string %}{{ '[' ~ message.content ~ ']' }}
    {%- else %}{% for part in message.content %}{{ '(' ~ part.text ~ ')' }}{% endfor %}{% endif %}
{%- endfor %}"""


def template(source: str, **options: Any) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", **options)  # noqa: S106 - tokens of a model


def rendered(source: str, *messages: dict[str, Any], **values: Any) -> str:
    return template(source).render(messages or [USER], **values)


# -- rendering ---------------------------------------------------------------------------------------------------------


def test_a_conversation_is_rendered_with_the_place_of_the_answer() -> None:
    """Roles and contents stand where the template puts them; the generation prompt can be left out."""
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert template(CHATML).render(CHAT[:2]) == f"{turns}<|im_start|>assistant\n"
    assert template(CHATML).render(CHAT[:2], add_generation_prompt=False) == turns


def test_a_template_reads_the_models_tokens_and_extra_values() -> None:
    """bos_token and eos_token are variables, and so is whatever else is given."""
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ enable_thinking }}{{ tools }}"
    assert rendered(source, enable_thinking=False) == "<s>Hi</s>FalseNone"


def test_the_settings_are_those_of_transformers() -> None:
    """Blocks leave no lines behind, loops can be left, and the tag of training data is no obstacle."""
    assert rendered("  {% if true %}\nyes\n  {% endif %}\n") == "yes\n"
    assert rendered("{% for n in range(9) %}{% if n == 3 %}{% break %}{% endif %}{{ n }}{% endfor %}") == "012"
    assert rendered("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "Hi"
    assert rendered("{{ strftime_now('%Y') }}") == time.strftime("%Y")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("v|tojson", '{"a": ["<é>", 1]}'),
        ("v|tojson(ensure_ascii=true)", '{"a": ["<\\u00e9>", 1]}'),
        ("v|tojson(separators=(',', ':'))", '{"a":["<é>",1]}'),
        ("v|tojson(indent=1)", '{\n "a": [\n  "<é>",\n  1\n ]\n}'),
        ("v|items|list", "[('a', ['<é>', 1])]"),
        ("v.items()|list|length", "1"),
        ("'a' in v and 'b' not in v and v == v and 1 < 2 < 3", "True"),
        ("['b', 'a']|sort|join('+') ~ 1 ~ none", "a+b1None"),
        ("'{}-{n}-{:03}'.format('x', 7, n=2)", "x-2-007"),
        ("('a' * 3).replace('a', 'bc', 1).split('c')", "['b', 'aa']"),
        ("' x '.strip() ~ 'xy'|trim('y') ~ 'x\ny'|indent(2)", "xxx\n  y"),
        ("messages[::-1][:1]|map(attribute='content')|first", "Hi"),
        ("[{'n': 1}, {'n': 2}]|selectattr('n', 'eq', 2)|list", "[{'n': 2}]"),
        ("7 // 2 + 7 % 4 - 2 ** 2", "2"),
        ("'x'|default('y') ~ nothing|default('y') ~ nothing", "xy"),
    ],
)
def test_expressions_mean_what_they_mean_in_jinja(expression: str, expected: str) -> None:
    """The sandbox changes no value: text, JSON, lists, comparisons and numbers are Jinja's."""
    assert rendered(f"{{{{ {expression} }}}}", v={"a": ["<é>", 1]}) == expected


def test_macros_namespaces_and_recursive_loops_work() -> None:
    """What longer templates are built of works."""
    source = (
        "{% macro m(x) %}<{{ x }}{{ varargs }}{{ caller() if caller }}>{% endmacro %}{% set ns = namespace(t='') %}"
        "{% for n in tree recursive %}{% set ns.t = ns.t ~ n.v %}{{ loop(n.c) if n.c }}{% endfor %}"
        "{{ m(ns.t, 1) }}{% call m(2) %}!{% endcall %}{% set b %}{{ ns.t }}{% endset %}{{ b|upper }}"
    )
    tree = [{"v": "a", "c": [{"v": "b", "c": []}]}, {"v": "c", "c": []}]
    assert rendered(source, tree=tree) == "<abc(1,)><2()!>ABC"


def test_the_given_messages_are_not_changed() -> None:
    """A template gets a copy; what is no dict or list, but reads like one, will do."""
    messages = [MappingProxyType(message) for message in CALLED]
    before = json.dumps([dict(message) for message in messages])
    template(CHATML).render(tuple(messages), tools=[MappingProxyType(TOOL)])
    assert json.dumps([dict(message) for message in messages]) == before


def test_one_template_renders_in_several_threads() -> None:
    """Each thread has its own prompt and its own budget."""
    shared, texts = template(CHATML), dict[int, str]()

    def render(number: int) -> None:
        for _ in range(20):
            texts[number] = shared.render([{"role": "user", "content": f"thread {number}"}] * 20)

    threads = [threading.Thread(target=render, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(texts[number].count(f"thread {number}") == 20 for number in range(4))


# -- content -----------------------------------------------------------------------------------------------------------


def test_text_parts_become_what_the_template_takes() -> None:
    """Parts stay parts where the template reads them, become text where it does not, and text becomes a part."""
    parts = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    assert rendered(EITHER, USER, parts) == "[Hi](one)(two)"
    assert rendered(GEMMA, parts).startswith("<s><start_of_turn>user\none\ntwo<end_of_turn>")
    assert rendered(PARTS, USER, parts) == "[user](Hi)[user](one)(two)"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", None])
def test_parts_that_are_no_text_are_refused(kind: str | None) -> None:
    """An image is named where it stands, and never left out."""
    image = {"type": kind, "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(TemplateError, match=rf"messages\[1\]\.content\[1\].*{kind}.*only text"):
        rendered(CHATML, USER, {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("Hi", "messages is a str"),
        ({"role": "user"}, "messages is a dict"),
        (["Hi"], r"messages\[0\] is not a mapping with a role"),
        ([{"content": "Hi"}], r"messages\[0\] is not a mapping with a role"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": None}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\.content is neither text nor a list"),
        ([{"role": "user", "content": ["Hi"]}], r"messages\[0\]\.content is neither text nor a list"),
        ([{"role": "user", "content": "Hi", "when": time.gmtime}], "no JSON"),
        ([{"role": "user", "content": "Hi", "map": {1: 2}}], "key that is no text"),
        ([USER, {"role": "assistant", "tool_calls": ["x"]}], r"messages\[1\]\.tool_calls\[0\] is not a call"),
    ],
)
def test_what_is_no_conversation_is_a_type_error(messages: Any, words: str) -> None:
    """The place and the reason are named."""
    with pytest.raises(TypeError, match=words):
        template(CHATML).render(messages)


def test_arguments_are_a_mapping_for_the_template() -> None:
    """OpenAI's arguments are JSON text; templates write them as JSON or one by one."""
    text = template(CHATML).render(CALLED, tools=[TOOL])
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>' in text
    one_by_one = "{% for k, v in messages[1].tool_calls[0].function.arguments|items %}{{ k }}={{ v }}{% endfor %}"
    assert rendered(one_by_one, *CALLED) == "city=Rome"


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", 7, [1], "[" * 10_000])
def test_arguments_that_are_no_object_are_refused(arguments: object) -> None:
    """They would be rendered as something that the model never wrote."""
    call = {"function": {"name": "weather", "arguments": arguments}}
    with pytest.raises((TemplateError, TypeError), match=r"messages\[1\]\.tool_calls\[0\]: the arguments"):
        rendered(CHATML, USER, {"role": "assistant", "tool_calls": [call]})


def test_absent_values_are_not_defined() -> None:
    """None and an empty list of calls mean nothing; templates ask whether a key is there."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [], "name": None}
    assert rendered("{{ messages[1]|tojson }}", USER, message) == '{"role": "assistant", "content": ""}'


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    """OpenAI's newer role is passed on only to templates that speak of it."""
    message = {"role": "developer", "content": "x"}
    assert rendered("{{ messages[0].role }}", message) == "system"
    assert rendered("{{ messages[0].role == 'developer' }}", message) == "True"


# -- tools -------------------------------------------------------------------------------------------------------------


def test_tools_go_to_a_template_that_has_a_place_for_them() -> None:
    """They are rendered by the template, in its own format."""
    chat = template(CHATML)
    assert chat.tool_format == HERMES
    text = chat.render([USER], tools=[TOOL])
    assert text.count('"name": "weather"') == 1
    assert "<tools>" in text


def test_tools_are_described_where_the_template_has_no_place_for_them() -> None:
    """In the user's words where there is no system; results are the user's too, so that roles go on alternating."""
    chat = template(GEMMA)
    assert chat.tool_format is None
    text = chat.render(CALLED, tools=[TOOL])
    assert text.startswith("<s><start_of_turn>user\nYou can call these functions")
    assert '<start_of_turn>model\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>' in text
    assert "<start_of_turn>user\n<tool_response>\ndry\n</tool_response><end_of_turn>\n<start_of_turn>model\n" in text
    assert named("chatml", bos="", eos="").render([USER], tools=[TOOL]).startswith("<|im_start|>system\nYou can call")


def test_earlier_calls_are_told_without_tools() -> None:
    """A conversation that went on without tools still holds what was called and what came of it."""
    text = template(GEMMA).render(CALLED)
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in text
    assert "dry" in text
    assert "You can call" not in text


def test_a_models_second_template_is_for_tools() -> None:
    """GGUF keeps it under a name of its own."""
    metadata = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": CHATML}
    chat = for_model(metadata, bos="<s>", eos="</s>")
    assert chat is not None
    assert chat.render([USER]) == "plain"
    assert "Rome" in ChatTemplate(GEMMA, bos_token="", eos_token="", tool_source=CHATML).render(CALLED)
    assert "<tools>" in chat.render([USER], tools=[TOOL])
    assert chat.tool_format == HERMES


def test_a_model_without_a_template_has_none() -> None:
    """An empty one is none."""
    assert for_model({}, bos="", eos="") is None
    assert for_model({"tokenizer.chat_template": ""}, bos="", eos="") is None


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_template_refuses_in_its_own_words() -> None:
    """raise_exception() is the template's, and printable."""
    with pytest.raises(TemplateError, match="refuses these messages: System role not supported"):
        rendered(GEMMA, *CHAT)
    with pytest.raises(TemplateError, match="refuses these messages: Roles must alternate user/assistant"):
        rendered(GEMMA, USER, USER)
    with pytest.raises(TemplateError) as caught:
        rendered("{{ raise_exception('\x1b[31m' ~ 'x' * 9999) }}")
    assert str(caught.value.args[0]).isprintable()
    assert len(str(caught.value)) < 700
    assert "chat_format" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("\n\n{% if %}", "the chat template mine, line 3: Expected an expression"),
        ("\n{{ a.b.c }}", "line 2: 'a' is undefined"),
        ("{% macro m() %}\n\n{{ 1 / 0 }}{% endmacro %}\n{{ m() }}", "line 3: division by zero"),
        ("{% for %}", "line 1: "),
        ("x\n{{ x|no_such_filter }}", "line 2: No filter named 'no_such_filter'"),
        ("{% include 'x' %}", "line 1: no loader"),
        ("{{ '\udfff' ", "line 1: "),
    ],
)
def test_errors_name_the_line(source: str, words: str) -> None:
    """Of a template that cannot be compiled, and of one that fails."""
    with pytest.raises(TemplateError, match=words):
        template(source, name="mine").render([USER])


def test_the_beginning_of_sequence_can_be_taken_off() -> None:
    """Once, and only from the beginning; the tokenizer adds its own."""
    assert without_bos(template(GEMMA).render([USER]), "<s>").startswith("<start_of_turn>")
    assert without_bos("<s><s>x<s>", "<s>") == "<s>x<s>"
    assert without_bos("x", "") == "x"


# -- formats by name ---------------------------------------------------------------------------------------------------


MARKERS = {
    "alpaca": (
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nYes?</s>\n\n### Instruction:\nBye\n\n### Response:\n"
    ),
    "gemma": (
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    ),
    "llama-2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Yes? </s><s>[INST] Bye [/INST]",
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral-instruct": "<s>[INST] Be brief.\n\nHi [/INST] Yes?</s>[INST] Bye [/INST]",
    "phi-3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYes?<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n"
    ),
    "vicuna": "Be brief. USER: Hi ASSISTANT: Yes?</s>USER: Bye ASSISTANT:",
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nYes?</s>\n<|user|>\nBye</s>\n<|assistant|>\n"
    ),
}


@pytest.mark.parametrize(("name", "expected"), list(MARKERS.items()), ids=list(MARKERS))
def test_formats_have_their_models_markers(name: str, expected: str) -> None:
    """As these models were trained; what the system says comes first, in one way or another."""
    assert named(name, bos="<s>", eos="</s>").render(CHAT) == expected


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_tells_everything(name: str) -> None:
    """Nothing of a conversation, or of its tools, is lost; stop texts are texts."""
    chat = named(name, bos="<s>", eos="</s>")
    text = chat.render([CHAT[0], *CALLED, {"role": "assistant", "content": "No."}, CHAT[3]], tools=[TOOL])
    for word in ("Be brief.", "Rain in Rome?", "weather", '{"city": "Rome"}', "dry", "No.", "Bye", "Today's"):
        assert word in text
    assert chat.name == name
    assert all(chat.stop) or not chat.stop


def test_an_unknown_format_names_the_known_ones() -> None:
    """The list is in the error."""
    with pytest.raises(ValueError, match=r"'llama3' is not one of alpaca, chatml, .*, llama-3, .*zephyr"):
        named("llama3", bos="", eos="")


def test_an_unknown_role_is_refused_by_a_format() -> None:
    """It would be left out otherwise."""
    with pytest.raises(TemplateError, match="there is no role narrator"):
        named("gemma", bos="", eos="").render([{"role": "narrator", "content": "x"}])


def test_plain_messages_are_roles_and_texts() -> None:
    """For llama.cpp's own formats; tools and calls are told in words, and a NUL is refused."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert plain_messages(messages) == [("user", "a\nb"), ("assistant", "")]
    told = plain_messages(CALLED, [TOOL])
    assert [role for role, _ in told] == ["system", "user", "assistant", "user"]
    assert "Today's weather." in told[0][1]
    assert '{"city": "Rome"}' in told[2][1]
    assert "dry" in told[3][1]
    with pytest.raises(TemplateError, match="a message has a NUL"):
        plain_messages([{"role": "user", "content": "a\0b"}])


# -- strangers' templates ----------------------------------------------------------------------------------------------

GROWING = "{%% set ns = namespace(x=%s, y=[1]) %%}{%% for i in range(99999) %%}%s{%% endfor %%}{{ %s }}"
TUPLES = "{% macro m() %}{% set ns.x = varargs %}{% endmacro %}{% set ns = namespace(x=1) %}{% for i in range(N) %}"
HOSTILE = {
    "a long text": "{{ 'x' * 10**10 }}",
    "a long text, the other way": "{{ 10**10 * 'x' }}",
    "a long list": "{{ [1, 2] * 10**9 }}",
    "text that doubles": GROWING % ("'ab'", "{% set ns.x = ns.x + ns.x %}", "1"),
    "text that doubles with ~": GROWING % ("'ab'", "{% set ns.x = ns.x ~ ns.x %}", "1"),
    "text that doubles in a block": GROWING % ("'ab'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", "1"),
    "escaped text that grows": GROWING % ("'<'", "{% set ns.x = ns.x|string|e|string|replace('&', '&&') %}", "1"),
    "escaped text in a block": "{% autoescape true %}{% set x = '<' * 9999999 %}{% set y %}"
    + "{{ x }}" * 200
    + "{% endset %}{% endautoescape %}",
    "a text as a list": "{{ ('\U0001f600' * 15000000)|list|length }}",
    "a text that is split": "{{ ('x ' * 4000000).split(' ')|length }}",
    "a list that doubles": GROWING % ("[1]", "{% set ns.x = ns.x + ns.x %}", "1"),
    "lists of themselves": GROWING % ("[1]", "{% set ns.x = [ns.x, ns.x] %}", "ns.x"),
    "mappings of themselves": GROWING % ("[1]", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}", "ns.x|tojson"),
    "lists compared": GROWING % ("[1]", "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}", "ns.x == ns.y"),
    "tuples of themselves": TUPLES.replace("N", "60") + "{{ m(ns.x, ns.x) }}{% endfor %}{{ {ns.x: 1} }}",
    "a deep tuple as a key": TUPLES.replace("N", "30000") + "{{ m(ns.x) }}{% endfor %}{{ {ns.x: 1} }}",
    "a deep tuple looked for": TUPLES.replace("N", "30000") + "{{ m(ns.x) }}{% endfor %}{{ ns.x in {1: 2} }}",
    "a deep tuple as an index": TUPLES.replace("N", "30000") + "{{ m(ns.x) }}{% endfor %}{{ {1: 2}[ns.x] }}",
    "a deep tuple made unique": TUPLES.replace("N", "30000")
    + "{{ m(ns.x) }}{% endfor %}{% macro k() %}{{ kwargs|items|unique|list }}{% endmacro %}{{ k(a=ns.x) }}",
    "a number that squares": GROWING % ("3", "{% set ns.x = ns.x * ns.x %}", "1"),
    "a power": "{{ 9 ** (9 ** 9) }}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "loops that pass over": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops that look": "{% for a in range(99999) %}{% set x = 'x' in range(99999) %}{% endfor %}",
    "loops that list": "{% for a in range(99999) %}{% set x = range(99999)|map('string')|list %}{% endfor %}",
    "loops that sort": "{% for a in range(99999) %}{% set x = range(99999)|max %}{% endfor %}",
    "loops that split": "{% for a in range(99999) %}{% set x = ('x' * 99999).split('x') %}{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a range": "{{ range(10**9)|list }}",
    "a wide indent": "{{ 'x\ny'|indent(10**9) }}",
    "a wide format": "{{ '{:1000000000}'.format('x') }}",
    "a wide format in a format": "{{ '{:{}}'.format('x', 10**9) }}",
    "a wide percent format": "{{ '%1000000000s' % 'x' }}",
    "a wide field": "{{ 'x'.center(10**9) }}",
    "a wide filter": "{{ 'x'|center(10**9) }}",
    "tabs": "{{ '\t'.expandtabs(10**9) }}",
    "a replaced text": "{{ ('x' * 99999).replace('', 'y' * 99999) }}",
    "a replaced text, by the filter": "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
    "a joined text": "{{ ('y' * 99999).join('x' * 99999) }}",
    "a joined text, by the filter": "{{ ('x' * 99999)|join('y' * 99999) }}",
    "a stripped text": "{{ ('a' * 999999).strip('b' * 999999 ~ 'a') }}",
    "JSON with a wide indent": "{{ [1, [2]]|tojson(indent=10**9) }}",
    "JSON with a long separator": "{{ range(9999)|list|tojson(separators=('x' * 99999, '')) }}",
    "deep JSON": "{{ ('[' * 99999)|from_json }}",
    "a long date": "{{ strftime_now('%Y' * 99999) }}",
    "bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
    "batches": "{{ [1]|batch(10**9, 'x')|list }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "a class, by the filter": "{{ ''|attr('__class__') }}",
    "a class, by a format": "{{ '{0.__class__}'.format('') }}",
    "the globals of a function": "{{ cycler.__init__.__globals__ }}",
    "a function's own globals": "{{ raise_exception.__globals__.x }}",
    "a changed message": "{{ messages.append(1) }}",
    "a class method": "{{ dict.fromkeys(range(9), 1) }}",
    "a function as text": "{{ range }}",
    "nested parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested loops": "{% for a in [1] %}" * 30 + "x" + "{% endfor %}" * 30,
    "nested conditions": "{% if 1 %}" * 3000 + "x" + "{% endif %}" * 3000,
    "a long sum": "{{ 1" + "+1" * 20000 + " }}",
    "a long choice": "{% if a == 0 %}" + "{% elif a == 1 %}x" * 5000 + "{% endif %}",
    "a long number": "{{ 1" + "0" * 5000 + " }}",
    "a long template": "x" * 200_000,
}


@pytest.mark.parametrize("source", list(HOSTILE.values()), ids=list(HOSTILE))
def test_a_strangers_template_ends_in_an_error(source: str) -> None:
    """No bomb goes off: neither time nor memory nor the process is lost."""
    began = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        rendered(source)
    assert time.monotonic() - began < 60  # a few seconds where nothing else runs
    assert str(caught.value.args[0]).isprintable()
    assert len(str(caught.value)) < 700


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to an address space")
def test_what_is_written_is_paid_for_before_it_is_there(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Every bomb of text and lists together takes less than 600 MiB of address space, with Python's own."""
    code = (
        "import json, resource, sys\n"
        "from nativeload_llama.chat.template import ChatTemplate\n"
        "from nativeload_llama.errors import TemplateError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))\n"
        "for source in json.load(sys.stdin):\n"
        "    try:\n"
        "        ChatTemplate(source, bos_token='', eos_token='').render([{'role': 'user', 'content': 'Hi'}])\n"
        "    except TemplateError as error:\n"
        "        assert 'MemoryError' not in str(error), (source[:60], error)\n"
    )
    words = ("text", "list", "wide", "mappings", "JSON", "write", "bytes", "batches", "range", "power", "number")
    bombs = [source for name, source in HOSTILE.items() if any(word in name for word in words)]
    done = run_python(code, stdin=json.dumps(bombs))
    assert done.returncode == 0, done.stderr


def test_the_budget_is_one_renderings() -> None:
    """A template that has been refused can render the next conversation, and one that has rendered many goes on."""
    chat = template(
        "{% for n in range(messages[0].content|int) %}{% for m in range(99999) %}{% endfor %}{% endfor %}ok"
    )
    with pytest.raises(TemplateError, match="more work"):
        chat.render([{"role": "user", "content": "99999"}])
    assert all(chat.render([{"role": "user", "content": "4"}]) == "ok" for _ in range(4))


def test_long_conversations_are_within_the_budget() -> None:
    """A thousand messages, a long one, and a template that adds each to one growing text."""
    growing = (
        "{% set ns = namespace(t='') %}{% for m in messages %}"
        "{% if m == messages[-1] or m in messages[:3] %}{% endif %}"
        "{% set ns.t = ns.t ~ m.role ~ '\n' ~ m.content|trim ~ '\n' %}{% endfor %}{{ ns.t }}"
    )
    many = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"{n} " + "word " * 100} for n in range(1000)]
    long = {"role": "user", "content": "word " * 200_000}
    for source in (CHATML, growing, EITHER):
        assert len(rendered(source, *many)) > 500_000
        assert len(rendered(source, long, long)) > 1_999_990


# -- templates of real models ------------------------------------------------------------------------------------------

SETS: list[list[dict[str, Any]]] = [
    [USER],
    CHAT,
    [
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "dry"},
    ],
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
]


def sources(binaries: Path) -> Iterator[tuple[str, str]]:
    folder = binaries / "templates" / "xllamacpp-2026.10.11549"
    assert folder.is_dir(), f"{folder} is missing: run tools/fetch_real.py"
    for file in sorted(folder.glob("*.jinja")):
        yield file.name, file.read_text(encoding="utf-8")


def plain_jinja() -> Any:
    """Jinja as transformers sets it up, without a budget."""
    from jinja2.exceptions import TemplateRuntimeError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from nativeload_llama.chat.sandbox import _Generation

    def refuse(words: str) -> None:
        raise TemplateRuntimeError(words)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    extensions = [loopcontrols, _Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters |= {"tojson": tojson, "from_json": json.loads}
    environment.globals |= {"raise_exception": refuse, "strftime_now": time.strftime}
    return environment


@pytest.mark.real_bundle
def test_templates_of_real_models_render_as_in_plain_jinja(binaries: Path) -> None:
    """73 templates, 8 conversations each: the same text, or an error on both sides."""
    from nativeload_llama.chat.program import Program

    compared = 0
    for name, source in sources(binaries):
        ours, theirs = Program(source, name), plain_jinja().from_string(source)
        for messages in SETS:
            for tools in (None, [TOOL]):
                values: dict[str, Any] = {"messages": messages, "tools": tools, "bos_token": "<s>", "eos_token": "</s>"}
                values["add_generation_prompt"] = True
                try:
                    expected: str | None = theirs.render(**values)
                except Exception:  # noqa: BLE001 - whatever a template raises
                    expected = None
                try:
                    found: str | None = ours.run(values)
                except TemplateError:
                    found = None
                assert found == expected, name
                compared += 1
    assert compared == 73 * 8


@pytest.mark.real_bundle
def test_templates_of_real_models_tell_of_tools(binaries: Path) -> None:
    """By themselves or in our words, a call, its result and the tools are in the prompt of all but four of them."""
    lost = []
    for name, source in sources(binaries):
        try:
            text = template(source).render(CALLED, tools=[TOOL])
        except TemplateError:
            lost.append(name)
            continue
        assert "Rome" in text, name
        assert "weather" in text, name
        assert "dry" in text, name
    assert sorted(lost) == [
        "CohereForAI-c4ai-command-r-plus-tool_use.jinja",
        "IFM-K2-Horizon.jinja",
        "fireworks-ai-llama-3-firefunction-v2.jinja",
        "google-translategemma-4b-it.jinja",
    ]
