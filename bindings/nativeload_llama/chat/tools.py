"""How does a model call a function, and how is its call read?

One rule: one description of a format writes its grammar, its trigger, its examples and its history, so that what a
model is told, held to and understood by is the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nativeload.value import Value
from nativeload_llama.chat.calls import (
    FUNCTIONARY,
    FUNCTIONS,
    HERMES,
    LLAMA_3,
    MISTRAL,
    MISTRAL_ARGS,
    ToolCallStream,
    ToolFormat,
    detected,
    parse_tool_calls,
)
from nativeload_llama.errors import GrammarError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    Tool = dict[str, Any]

    class Template(Protocol):
        """What renders messages, and may know how its model writes calls."""

        @property
        def tool_format(self) -> ToolFormat | None: ...


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST = 128  # tools at once, as with OpenAI
_BLANKS = "[ \\t\\n]{0,4}"  # the same in GBNF and in a regular expression
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


# -- what a request says -----------------------------------------------------------------------------------------------


def checked_tools(tools: Sequence[Mapping[str, Any]]) -> list[Tool]:
    """Return OpenAI's tools, each with a name, a description and parameters.

    Raises:
        TypeError: something has the wrong type.
        ValueError: a name or a value that no tool can have, or a name that comes twice.
        TemplateError: parameters that are nested too deeply.
    """
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise TypeError(f"tools is a {type(tools).__name__}, not a list")
    if len(tools) > _MOST:
        raise ValueError(f"{len(tools)} tools, and at most {_MOST} can be offered")
    checked = [_checked_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    names = [_name(tool) for tool in checked]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"tools has two functions of the name {min(twice)}")
    return checked


def _checked_tool(tool: object, where: str) -> Tool:
    from nativeload_llama.chat.template import plain

    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(function, Mapping):
        raise TypeError(f'{where} is not {{"type": "function", "function": {{...}}}}')
    if tool.get("type", "function") != "function":
        raise ValueError(f"{where}.type is {tool['type']!a}, and only 'function' can be called")
    name, description = function.get("name"), function.get("description")
    parameters = function.get("parameters") or _NO_PARAMETERS
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}.function.name is {name!a}; a name has 1 to 64 letters, digits, _ and -")
    if not isinstance(description, str | None) or not isinstance(parameters, Mapping):
        raise TypeError(f"{where}.function has a description that is no text, or parameters that are no JSON schema")
    if parameters.get("type", "object") != "object":
        raise ValueError(f"{where}.function.parameters is not the schema of an object")
    schema = {"type": "object", **plain(parameters, f"{where}.function.parameters")}
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": schema}}


def chosen(tools: Sequence[Tool], choice: object) -> tuple[list[Tool], bool]:
    """Return the tools that may be called, and whether one must be.

    Args:
        tools: what checked_tools() returned.
        choice: OpenAI's tool_choice: None and "auto", "none", "required", or the function by its name.

    Raises:
        ValueError: it is none of these, or names no tool.
    """
    if choice in ("none", "auto", "required", None):
        return [] if choice == "none" else list(tools), choice == "required" and bool(tools)
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    if not isinstance(function, Mapping):
        raise ValueError(f"tool_choice {choice!a} is not 'none', 'auto', 'required' or a function")  # noqa: TRY004
    named = [tool for tool in tools if _name(tool) == function.get("name")]
    if not named:
        raise ValueError(f"tool_choice names {function.get('name')!a}, which is none of the tools")
    return named, True


def with_tools_described(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], form: ToolFormat = HERMES, *, in_system: bool = True
) -> list[dict[str, Any]]:
    """Return messages that tell a model of tools in plain words, and hold calls and results as text.

    Args:
        messages: with content as text or text parts, and arguments as mappings.
        tools: what checked_tools() returned.
        form: how calls are to be written.
        in_system: say it in the system message; else in the first one of the user's.
    """
    told: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] in {"tool", "function"}:
            result = f"<tool_response>\n{_text(message['content'])}\n</tool_response>"
            if told and told[-1].get("results"):
                told[-1]["content"] += f"\n{result}"
            else:
                told.append({"role": "user", "content": result, "results": True})
        elif "tool_calls" in message:
            made = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
            content = "\n".join(filter(None, (_text(message["content"]), form.written(made))))
            told.append({"role": message["role"], "content": content})
        else:
            told.append(dict(message))
    told = [{key: value for key, value in message.items() if key != "results"} for message in told]
    return _told_of(told, _described(tools, form), in_system=in_system) if tools else told


def _described(tools: Sequence[Tool], form: ToolFormat) -> str:
    example = form.written([("NAME", {"ARGUMENT": "VALUE"})])
    listed = "\n".join(_json(tool["function"]) for tool in tools)
    return (
        f"You can call these functions; the parameters of each are a JSON schema:\n{listed}\n\n"
        f"To call one, write this and nothing after it:\n{example}\n\n"
        "You are then told what it returned. When no function is needed, answer in plain words."
    )


def _told_of(messages: list[dict[str, Any]], words: str, *, in_system: bool) -> list[dict[str, Any]]:
    role = "system" if in_system else "user"
    for place, message in enumerate(messages):
        if message["role"] in {role, "developer"} and (not in_system or place == 0):
            text = _text(message["content"])
            content = f"{text}\n\n{words}" if in_system else f"{words}\n\n{text}"
            return [*messages[:place], {**message, "content": content}, *messages[place + 1 :]]
    return [{"role": role, "content": words}, *messages]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content or ())


def _name(tool: Mapping[str, Any]) -> str:
    name: str = tool["function"]["name"]
    return name


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- what the model may write ------------------------------------------------------------------------------------------


class ToolGrammar(Value, kw_only=True):
    """What constrains an answer that may or must be a call.

    Attributes:
        gbnf, root: the grammar and its first rule.
        lazy: whether the answer is free until a trigger is written.
        trigger_patterns: regular expressions for the sampler; each matches only where the grammar can take over.
        form: how the calls are written.
    """

    gbnf: str
    root: str = "root"
    lazy: bool
    trigger_patterns: tuple[str, ...] = ()
    form: ToolFormat

    def parse(self, text: str) -> tuple[str | None, list[dict[str, Any]]]:
        """Return the content and the calls of a whole answer; see parse_tool_calls()."""
        return parse_tool_calls(text, self.form)

    def stream(self) -> ToolCallStream:
        """Return what reads an answer while it is written."""
        return ToolCallStream(self.form)


def tool_grammar(
    tools: Sequence[Tool],
    choice: object = "auto",
    *,
    template: Template | None = None,
    form: ToolFormat | None = None,
    parallel: bool = True,
) -> ToolGrammar | None:
    """Return what constrains the answer, or None where nothing may be called.

    Args:
        tools: what checked_tools() returned.
        choice: OpenAI's tool_choice; a function by name is called once.
        template: whose format it is, where ``form`` does not say; HERMES where the template has none.
        form: how calls are written.
        parallel: whether there may be several calls.

    Raises:
        GrammarError: the parameters of a tool are a schema that cannot be followed.
        ValueError: the choice is none.
    """
    offered, required = chosen(tools, choice)
    if not offered:
        return None
    form = form or (template and template.tool_format) or HERMES
    several = parallel and form.several and not isinstance(choice, Mapping)
    more = f"({_gbnf(form.separator)} call)*" if several else ""
    one = " | ".join(f"tool{n}" for n in range(len(offered)))
    rules = [
        f"root ::= {_gbnf(form.start)} call {more} {_gbnf(form.end)}",
        f"call ::= {_gbnf(form.before)} ({one}) {form.more} {_gbnf(form.after)}",
        f"blanks ::= {_BLANKS}",
    ]
    for n, tool in enumerate(offered):
        rules.append(f"tool{n} ::= {_gbnf(_name(tool) + form.between)} tool{n}-root")
        rules.append(_arguments(tool, f"tool{n}-"))
    patterns = () if required else (_trigger(form),)
    return ToolGrammar(gbnf="\n".join(rules) + "\n", lazy=not required, trigger_patterns=patterns, form=form)


def _arguments(tool: Tool, prefix: str) -> str:
    """Return the grammar of a tool's arguments; its rules get a prefix, so that several fit into one."""
    from nativeload_llama.grammar.json_schema import to_gbnf

    try:
        text = to_gbnf(tool["function"]["parameters"])
    except GrammarError as error:
        raise GrammarError(error.reason, where=f"{_name(tool)}.parameters {error.where}", hint=error.hint) from error
    return _RULE_NAME.sub(lambda found: found[0] if found[1] is None else prefix + found[1], text)


# Whatever is no rule's name comes first: texts, classes, comments, repetitions, tokens.
_RULE_NAME = re.compile(
    r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|#[^\n]*|\{[^}\n]*\}|<[^>\n]*>|([A-Za-z0-9-]+)', re.DOTALL
)


def _gbnf(text: str) -> str:
    """Return a GBNF sequence for a text of a format, with room for its blanks."""
    parts = (part for part in re.split(r"(\s+)", text) if part)
    return " ".join("blanks" if part.isspace() else json.dumps(part) for part in parts)


def _trigger(form: ToolFormat) -> str:
    """Return the pattern of the text at which the grammar takes over, which must be the last that was written.

    A token may hold the end of a marker and more than the grammar allows; then nothing is constrained.
    """
    parts = (part for part in re.split(r"(\s+)", form.trigger) if part)
    wanted = "".join(_BLANKS if part.isspace() else re.sub(r"([\^$\\.*+?()\[\]{}|])", r"\\\1", part) for part in parts)
    leads = "|".join(re.sub(r"([|])", r"\\\1", lead) for lead in form.leads)
    begin = f"^\\s{{0,8}}(?:{leads})?\\s{{0,8}}" if form.anchored else ""
    return f"{begin}({wanted})(?![\\s\\S])"


__all__ = [
    "FUNCTIONARY",
    "FUNCTIONS",
    "HERMES",
    "LLAMA_3",
    "MISTRAL",
    "MISTRAL_ARGS",
    "ToolCallStream",
    "ToolFormat",
    "ToolGrammar",
    "checked_tools",
    "chosen",
    "detected",
    "parse_tool_calls",
    "tool_grammar",
    "with_tools_described",
]
