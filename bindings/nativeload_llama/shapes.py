"""What do completions look like?

One rule: OpenAI's shapes, as dictionaries whose items are attributes too: ``answer["choices"][0]["text"]`` and
``answer.choices[0].text`` are the same. They are plain JSON.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Self

    FinishReason = Literal["stop", "length", "tool_calls"]


class Record(dict[str, "Any"]):
    """A dictionary whose items are attributes."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; it has {', '.join(map(repr, self))}"
            ) from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})

    def __copy__(self) -> Self:
        return type(self)(self)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (dict(self),)

    def model_dump(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as OpenAI's client does under this name."""
        return {key: _plain(value) for key, value in self.items()}


def _plain(value: object) -> Any:
    if isinstance(value, Record):
        return value.model_dump()
    return [_plain(item) for item in value] if isinstance(value, list) else value


class Usage(Record):
    """Tokens of a request.

    Attributes:
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens generated.
        total_tokens: their sum.
        prompt_tokens_details: ``cached_tokens`` of the prompt were in the context already.
    """

    if TYPE_CHECKING:
        prompt_tokens: int
        completion_tokens: int
        total_tokens: int
        prompt_tokens_details: Record


class CompletionLogprobs(Record):
    """The probabilities behind a text, one entry a token.

    Attributes:
        tokens: the text of each token.
        token_logprobs: its natural logarithm of probability; None for the first token of an echoed prompt.
        top_logprobs: the likeliest tokens' text -> logarithm.
        text_offset: where each token begins, in characters of the whole text.
    """

    if TYPE_CHECKING:
        tokens: list[str]
        token_logprobs: list[float | None]
        top_logprobs: list[dict[str, float] | None]
        text_offset: list[int]


class CompletionChoice(Record):
    """One answer, or one piece of it."""

    if TYPE_CHECKING:
        text: str
        index: int
        logprobs: CompletionLogprobs | None
        finish_reason: FinishReason | None


class Completion(Record):
    """The answer to `create_completion`; also the shape of its chunks, which carry `usage` only at the end."""

    if TYPE_CHECKING:
        id: str
        object: str
        created: int
        model: str
        choices: list[CompletionChoice]
        usage: Usage

    def __str__(self) -> str:
        return str(self["choices"][0]["text"])


class CompletionChunk(Completion):
    """A piece of a completion."""


class ToolFunction(Record):
    """The function of a tool call; ``arguments`` is JSON text."""

    if TYPE_CHECKING:
        name: str
        arguments: str


class ToolCall(Record):
    """One call that the model asks for."""

    if TYPE_CHECKING:
        id: str
        type: Literal["function"]
        function: ToolFunction


class ChatMessage(Record):
    """The answer of the assistant; ``tool_calls`` is there only when there are some."""

    if TYPE_CHECKING:
        role: str
        content: str | None
        tool_calls: list[ToolCall]


class TokenLogprob(Record):
    """One token of a chat answer and its likeliest rivals."""

    if TYPE_CHECKING:
        token: str
        bytes: list[int]
        logprob: float
        top_logprobs: list[TokenLogprob]


class ChatLogprobs(Record):
    """The probabilities behind a chat answer."""

    if TYPE_CHECKING:
        content: list[TokenLogprob]
        refusal: None


class ChatChoice(Record):
    """One chat answer."""

    if TYPE_CHECKING:
        index: int
        message: ChatMessage
        logprobs: ChatLogprobs | None
        finish_reason: FinishReason | None


class ChatCompletion(Record):
    """The answer to `create_chat_completion`."""

    if TYPE_CHECKING:
        id: str
        object: str
        created: int
        model: str
        choices: list[ChatChoice]
        usage: Usage

    def __str__(self) -> str:
        return self["choices"][0]["message"]["content"] or ""


class ChatDelta(Record):
    """What one chunk adds to a chat answer: any of ``role``, ``content`` and ``tool_calls``."""


class ChatChunkChoice(Record):
    """One piece of a chat answer."""

    if TYPE_CHECKING:
        index: int
        delta: ChatDelta
        logprobs: ChatLogprobs | None
        finish_reason: FinishReason | None


class ChatCompletionChunk(Record):
    """A piece of a chat completion; the last one carries ``usage``."""

    if TYPE_CHECKING:
        id: str
        object: str
        created: int
        model: str
        choices: list[ChatChunkChoice]

    def __str__(self) -> str:
        return self["choices"][0]["delta"].get("content") or ""


class EmbeddingData(Record):
    """The embedding of one input: a list of floats, or one such list a token."""

    if TYPE_CHECKING:
        object: str
        index: int
        embedding: list[float] | list[list[float]]


class Embedding(Record):
    """The answer to `create_embedding`."""

    if TYPE_CHECKING:
        object: str
        model: str
        data: list[EmbeddingData]
        usage: Usage
