"""What prompt does a chat template make of these messages?

One rule: nothing that was given is left out in silence: what a template cannot say is put in a form that it can, or
refused.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

from nativeload_llama.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload_llama.chat.calls import ToolFormat
    from nativeload_llama.chat.program import Program

    Message = Mapping[str, Any]

_DEEPEST = 90  # lists in lists of what is given; the sandbox ends at 100
_PROBE = "squirrel"  # a word that no template writes by itself


class ChatTemplate:
    """A Jinja template that turns messages into a prompt.

    Args:
        source: the template.
        bos_token: the text of the model's beginning-of-sequence token, which most templates write themselves.
        eos_token: the text of its end-of-sequence token.
        name: what it is called in errors.
        tool_source: another template, for when tools are given.
        stop: texts that end an answer where no end-of-generation token does.

    Attributes:
        source, bos_token, eos_token, name, stop: as given.

    Raises:
        TemplateError: a template cannot be compiled; with its line.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        name: str = "",
        tool_source: str | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        from nativeload_llama.chat.program import Program

        self.source, self.name, self.stop = source, name, tuple(stop)
        self.bos_token, self.eos_token = bos_token, eos_token
        label = f"the chat template {name}" if name else "the chat template"
        self._program = self._with_tools = Program(source, label)
        if tool_source is not None:
            self._with_tools = Program(tool_source, f"{label} for tools")
        self._tool_source = source if tool_source is None else tool_source

    def __repr__(self) -> str:
        return f"ChatTemplate({self.name!r}, {len(self.source)} letters)"

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """Return the prompt.

        Where the template has no place for tools, they are described in the system message (in the first of the user's
        where there can be none), and earlier calls and their results are written out.

        Args:
            messages: OpenAI's: each a role, content (text, None or text parts), and what else the template reads.
            tools: OpenAI's: functions with JSON schemas.
            add_generation_prompt: end where the assistant's answer begins.
            extra: variables of this template, such as ``enable_thinking``: JSON values.

        Raises:
            TemplateError: the template refuses the messages, in its own words, or fails; or a part is no text.
            TypeError: a message is not of the form above.
            ValueError: a tool is not of OpenAI's form.
        """
        from nativeload_llama.chat.tools import HERMES, checked_tools, with_tools_described

        given, program = _messages(messages), self._with_tools if tools else self._program
        offered = checked_tools(tools) if tools else None
        source = self._tool_source if tools else self.source
        if (offered and self.tool_format is None) or (_tells_of_calls(given) and "tool_calls" not in source):
            given = with_tools_described(given, offered or (), HERMES, in_system=self.takes_system)
            offered, program = None, self._program
        if "developer" not in self.source:
            given = [{**message, "role": "system"} if message["role"] == "developer" else message for message in given]
        written = [{**message, "content": self._content(message["content"])} for message in given]
        values = {**extra, "tools": offered, "add_generation_prompt": add_generation_prompt}
        return self._run(program, written, values)

    @functools.cached_property
    def tool_format(self) -> ToolFormat | None:
        """How this template has the model write calls; None where it knows no tools, or writes calls in a rare way."""
        from nativeload_llama.chat.calls import detected

        return detected(self._tool_source) if "tools" in self._with_tools.names else None

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether a system message is written; some templates refuse it, or leave it out."""
        user = {"role": "user", "content": self._content("hello")}
        return _PROBE in self._tried([{"role": "system", "content": self._content(_PROBE)}, user])

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether content that is a list of text parts is written as its text."""
        told = self._tried([{"role": "user", "content": [{"type": "text", "text": _PROBE}]}])
        return _PROBE in told and "'type'" not in told and '"type"' not in told

    @functools.cached_property
    def needs_parts(self) -> bool:
        """Whether content must be a list of parts."""
        return _PROBE not in self._tried([{"role": "user", "content": _PROBE}]) and self.takes_parts

    def _content(self, content: Any) -> Any:
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if self.needs_parts else content
        return content if self.takes_parts else _joined(content)

    def _tried(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._run(self._program, messages, {"tools": None, "add_generation_prompt": True})
        except TemplateError:
            return ""  # it does not take them: that is the answer

    def _run(self, program: Program, messages: list[dict[str, Any]], values: dict[str, Any]) -> str:
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return program.run(tokens | plain(values, "the values for the template") | {"messages": messages})


def for_model(metadata: Mapping[str, str], *, bos: str, eos: str) -> ChatTemplate | None:
    """Return the template that a model file brings, or None.

    Args:
        metadata: the model's, as model_meta() gives them.
        bos: the text of its beginning-of-sequence token, or an empty text.
        eos: the text of its end-of-sequence token, or an empty text.

    Raises:
        TemplateError: it cannot be compiled.
    """
    source = metadata.get("tokenizer.chat_template")
    if not source:
        return None
    tool_source = metadata.get("tokenizer.chat_template.tool_use") or None
    return ChatTemplate(source, bos_token=bos, eos_token=eos, name="of this model", tool_source=tool_source)


def named(name: str, *, bos: str, eos: str) -> ChatTemplate:
    """Return one of the formats that are known by name.

    Raises:
        ValueError: there is none of that name; the known ones are listed.
    """
    from nativeload_llama.chat.formats import FORMATS

    if name not in FORMATS:
        raise ValueError(f"chat_format {name!a} is not one of {', '.join(sorted(FORMATS))}")
    source, *stop = FORMATS[name]
    return ChatTemplate(source, bos_token=bos, eos_token=eos, name=name, stop=stop)


def without_bos(text: str, bos: str) -> str:
    """Return a rendered prompt without the beginning-of-sequence token that the tokenizer will add."""
    return text.removeprefix(bos) if bos else text


def plain_messages(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
) -> list[tuple[str, str]]:
    """Return messages as roles and texts, which is all that llama.cpp's own formats know.

    Tools, calls and their results are told in words, as render() does where a template has no place for them.

    Raises:
        TemplateError: a part is no text, or a text has a NUL, where C would end it.
        TypeError: a message is not of OpenAI's form.
        ValueError: a tool is not of OpenAI's form.
    """
    from nativeload_llama.chat.tools import HERMES, checked_tools, with_tools_described

    told = with_tools_described(_messages(messages), checked_tools(tools) if tools else (), HERMES)
    pairs = [(message["role"], _joined(message["content"])) for message in told]
    for role, text in pairs:
        if "\0" in role + text:
            raise TemplateError("a message has a NUL character")
    return pairs


# -- messages ----------------------------------------------------------------------------------------------------------


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as plain JSON: content as text or text parts, arguments as mappings, nothing that is None."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TypeError(f"messages is a {type(messages).__name__}, not a list of messages")
    return [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def _tells_of_calls(messages: Sequence[Message]) -> bool:
    return any("tool_calls" in message or message["role"] in {"tool", "function"} for message in messages)


def _message(message: Message, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise TypeError(f"{where} is not a mapping with a role")
    rest = {key: plain(value, f"{where}.{key}") for key, value in message.items() if value is not None}
    calls = rest.pop("tool_calls", None) or []
    content = _parts(rest.pop("content", ""), f"{where}.content")
    if message.get("content") is None and rest["role"] in {"user", "system", "developer"}:
        raise TypeError(f"{where} has no content")
    if calls:
        rest["tool_calls"] = [_tool_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(calls)]
    return {**rest, "content": content}


def _parts(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise TypeError(f"{where} is neither text nor a list of parts")
    for place, part in enumerate(content):
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = str(part.get("type"))[:40]
            raise TemplateError(f"{where}[{place}] is a part of type {kind!a}; only text can be said to this model")
    return [{"type": "text", "text": part["text"]} for part in content]


def _joined(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    """Return a call with its arguments as a mapping: templates write them as JSON, or one by one."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TypeError(f"{where} is not a call of a function with a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise TemplateError(f"{where}: the arguments are not a JSON object")
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Return a copy in JSON's own types: a template gets no object of anybody's.

    Raises:
        TemplateError: it is nested too deeply.
        TypeError: something in it is no JSON.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    if depth > _DEEPEST:
        raise TemplateError(f"{where} is nested too deeply")
    if isinstance(value, Mapping):
        return {_key(key, where): plain(inner, where, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, where, depth + 1) for inner in value]
    raise TypeError(f"{where} has a {type(value).__name__}, which is no JSON")


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has a key that is no text: {key!a}")
    return str.__str__(key)


__all__ = ["ChatTemplate", "for_model", "named", "plain", "plain_messages", "without_bos"]
