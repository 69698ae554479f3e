"""How does a conversation become a prompt, and what the model writes an answer?

One rule: the model's own template says how it is spoken to, in a sandbox; what cannot be rendered, or called, or
constrained is an error before anything is decoded.
"""

from __future__ import annotations

import os

from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.completion import Writer, envelope
from nativeload_llama.errors import TemplateError
from nativeload_llama.shapes import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    TokenLogprob,
    ToolCall,
    ToolFunction,
)
from nativeload_llama.stream import Stream
from nativeload_llama.text import Pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from typing import Any

    from nativeload_llama.chat.template import ChatTemplate
    from nativeload_llama.chat.tools import ToolGrammar
    from nativeload_llama.completion import Written
    from nativeload_llama.llama import Llama
    from nativeload_llama.options import Message, SamplingOptions


class Conversation(Value):
    """What a chat request asks of the model.

    Attributes:
        tokens: the prompt's.
        stops: texts that end the answer, the template's own among them.
        grammar: what the answer must follow, or None.
        tools: how calls are written, where tools were given.
    """

    tokens: list[int]
    stops: tuple[str, ...]
    grammar: Any
    tools: ToolGrammar | None


def conversation(
    llama: Llama,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: str | Mapping[str, Any] | None,
    response_format: Mapping[str, Any] | None,
    stops: tuple[str, ...],
    grammar: Any,
) -> Conversation:
    """Render messages, and find what the answer must follow.

    Raises:
        TemplateError: the template refuses these messages.
        GrammarError: a schema or a grammar cannot be followed.
        ValueError: two things that the answer cannot follow at once.
    """
    from nativeload_llama.chat.tools import checked_tools, tool_grammar

    template = llama._template()
    offered = checked_tools(tools) if tools else []
    calls = tool_grammar(offered, tool_choice, template=template) if offered else None
    constraint = _constraint(response_format, grammar)
    if calls is not None and constraint is not None:
        raise ValueError("an answer cannot be a tool call and follow a grammar or response_format as well")
    tokens = _rendered(llama, template, messages, offered if calls else [])
    return Conversation(tokens, (*stops, *template.stop), constraint or calls, calls)


def _rendered(
    llama: Llama,
    template: ChatTemplate | ListedTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
) -> list[int]:
    """Return the tokens of a rendered conversation; a beginning-of-sequence token never comes twice."""
    text = template.render(messages, tools=tools or None)
    begun = bool(template.bos_token) and text.startswith(template.bos_token)
    return llama.tokenize(text, add_special=not begun, parse_special=True)


def _constraint(response_format: Mapping[str, Any] | None, grammar: Any) -> Any:
    """Return the grammar that an answer must follow, or None."""
    if response_format is None:
        return grammar
    if not hasattr(response_format, "get"):
        raise TypeError(f"response_format is a mapping with a type, not {type(response_format).__name__}")
    if response_format.get("type", "text") == "text":
        return grammar
    if grammar is not None:
        raise ValueError("response_format and grammar cannot both be given")
    from nativeload_llama.grammar import LlamaGrammar
    from nativeload_llama.grammar.json_schema import json_object_gbnf

    kind = response_format.get("type")
    schema = response_format.get("schema")
    if kind == "json_schema":
        named = response_format.get("json_schema") or {}
        if not hasattr(named, "get"):
            raise TypeError(f"response_format's json_schema is a mapping with a schema, not {type(named).__name__}")
        schema = named.get("schema", schema)
        if schema is None:
            raise ValueError("response_format of type json_schema needs json_schema.schema")
    elif kind != "json_object":
        raise ValueError(f"response_format type {kind!r} is not one of text, json_object, json_schema")
    if schema is None:
        return LlamaGrammar.from_string(json_object_gbnf())
    return LlamaGrammar.from_json_schema(schema)


def template_of(llama: Llama, bos: str, eos: str) -> ChatTemplate | ListedTemplate:
    """Return the template that a model file brings; without one a model is spoken to in ChatML, as llama.cpp does."""
    from nativeload_llama.chat.template import for_model, named

    try:
        return for_model(llama.metadata, bos=bos, eos=eos) or named("chatml", bos=bos, eos=eos)
    except TemplateError as error:
        return ListedTemplate(llama, error)


class ListedTemplate:
    """A template that Jinja cannot read, as one of those that llama.cpp knows by their looks.

    Args:
        llama: the model whose template it is.
        error: what Jinja said; raised where llama.cpp does not know it either.
    """

    tool_format = None
    bos_token = ""
    stop: tuple[str, ...] = ()

    def __init__(self, llama: Llama, error: TemplateError) -> None:
        self._llama, self._error = llama, error

    def render(self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Return the prompt.

        Raises:
            TemplateError: llama.cpp does not know the template, or a message is more than role and text.
        """
        from nativeload_llama.chat.template import plain_messages
        from nativeload_llama.chat.tools import checked_tools, with_tools_described

        said = with_tools_described(messages, checked_tools(tools)) if tools else messages
        with self._llama._native.entered():
            self._llama._native.check()
            model = self._llama._model
            source = low_level.model_chat_template(model) or ""
            try:
                return low_level.chat_apply_template(model.api, source, plain_messages(said), add_assistant=True)
            except TemplateError:
                raise self._error from None


class Answer:
    """The writing of one answer.

    Args:
        llama: the model.
        asked: what was asked for.
        max_tokens: how many at most.
        sampling: how they are drawn.
        top_logprobs: how many rivals to report for each token; None is no likelihoods at all.
        model: the name to report (default: the file's).
    """

    def __init__(
        self,
        llama: Llama,
        asked: Conversation,
        max_tokens: int | None,
        sampling: SamplingOptions,
        *,
        top_logprobs: int | None,
        model: str | None,
    ) -> None:
        self._asked = asked
        self._pieces = Pieces(llama._native, special=True) if asked.tools else llama._pieces
        scorer = None if top_logprobs is None else llama._scorer(top_logprobs)
        how = sampling.copy()
        how["grammar"] = asked.grammar
        self.writer: Writer = llama._writer(
            asked.tokens, max_tokens, asked.stops, how, scorer=scorer, pieces=self._pieces
        )
        self._scored = scorer is not None
        self._name = os.path.basename(llama.model_path) if model is None else model

    def whole(self) -> ChatCompletion:
        """Return the answer when it is finished."""
        parts = list(self.writer.written())
        text = "".join(part.text for part in parts)
        message = ChatMessage(role="assistant", content=text)
        reason = self.writer.finish_reason
        if self._asked.tools is not None:
            content, calls = self._asked.tools.parse(text)
            message["content"] = content
            if calls:
                message["tool_calls"] = [_call(call) for call in calls]
                reason = "tool_calls"
        choice = ChatChoice(index=0, message=message, logprobs=self._logprobs(parts), finish_reason=reason)
        head = envelope("chat.completion", self._name)
        return ChatCompletion(head, choices=[choice], usage=self.writer.usage())

    def chunks(self) -> Generator[ChatCompletionChunk, None, None]:
        """Yield the answer piece by piece: the role first, the reason of the end and the usage last."""
        head = envelope("chat.completion.chunk", self._name)
        yield _chunk(head, ChatDelta(role="assistant", content=""))
        tools = self._asked.tools.stream() if self._asked.tools is not None else None
        called = False
        held: list[Written] = []
        for part in self.writer.written():
            held.append(part)
            deltas = [{"content": part.text}] if tools is None else tools.feed(part.text)
            for delta in deltas:
                called = called or "tool_calls" in delta
                yield _chunk(head, _delta(delta), self._logprobs(held) if held else None)
                held = []
        for delta in tools.finish() if tools is not None else ():
            called = called or "tool_calls" in delta
            yield _chunk(head, _delta(delta), self._logprobs(held) if held else None)
            held = []
        last = _chunk(head, ChatDelta(), self._logprobs(held) if held else None)
        last["choices"][0]["finish_reason"] = "tool_calls" if called else self.writer.finish_reason
        last["usage"] = self.writer.usage()
        yield last

    def stream(self) -> Stream[ChatCompletionChunk]:
        """Return the chunks as a stream."""
        return Stream(self.chunks(), self.writer.generation)

    def _logprobs(self, parts: Sequence[Written]) -> ChatLogprobs | None:
        if not self._scored:
            return None

        def entry(token: bytes, logprob: float | None) -> TokenLogprob:
            return TokenLogprob(token=token.decode("utf-8", "replace"), bytes=list(token), logprob=logprob)

        return ChatLogprobs(
            content=[
                TokenLogprob(
                    entry(piece, likelihood.logprob),
                    top_logprobs=[entry(self._pieces(token), value) for token, value in likelihood.rivals],
                )
                for part in parts
                for likelihood, piece, _ in part.tokens
            ],
            refusal=None,
        )


def _chunk(head: Mapping[str, object], delta: ChatDelta, logprobs: ChatLogprobs | None = None) -> ChatCompletionChunk:
    choice = ChatChunkChoice(index=0, delta=delta, logprobs=logprobs, finish_reason=None)
    return ChatCompletionChunk(head, choices=[choice])


def _delta(delta: Mapping[str, Any]) -> ChatDelta:
    made = ChatDelta(delta)
    if "tool_calls" in made:
        made["tool_calls"] = [_call(call) for call in made["tool_calls"]]
    return made


def _call(call: Mapping[str, Any]) -> ToolCall:
    return ToolCall(call, function=ToolFunction(call["function"]))
