"""llama.cpp for Python, on whichever libllama nativeload chose: `Llama`, and the floors below it.

Three floors: ``abi`` (raw declarations per llama.h), ``low_level`` (one function per C function), `Llama` (friendly).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.errors import (
        AbortedError,
        AdapterError,
        BusyError,
        ClosedError,
        ContextError,
        GrammarError,
        LlamaError,
        ModelError,
        PromptTooLongError,
        SamplerError,
        StateError,
        TemplateError,
    )
    from nativeload_llama.grammar import LlamaGrammar
    from nativeload_llama.llama import Llama
    from nativeload_llama.llama_speculative import DraftModel, LlamaPromptLookupDecoding
    from nativeload_llama.opened import bundled_model
    from nativeload_llama.sampling import Sampling
    from nativeload_llama.shapes import (
        ChatCompletion,
        ChatCompletionChunk,
        Completion,
        CompletionChunk,
        Embedding,
    )
    from nativeload_llama.state import LlamaState
    from nativeload_llama.stream import Stream

_NAMES = {
    "errors": """
        AbortedError AdapterError BusyError ClosedError ContextError GrammarError
        LlamaError ModelError PromptTooLongError SamplerError StateError TemplateError
    """,
    "grammar": "LlamaGrammar",
    "llama": "Llama",
    "llama_speculative": "DraftModel LlamaPromptLookupDecoding",
    "opened": "bundled_model",
    "sampling": "Sampling",
    "shapes": "ChatCompletion ChatCompletionChunk Completion CompletionChunk Embedding",
    "state": "LlamaState",
    "stream": "Stream",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'nativeload_llama' has no attribute {name!r}")
    value: object = getattr(__import__(f"nativeload_llama.{_HOMES[name]}", fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AbortedError",
    "AdapterError",
    "BusyError",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ClosedError",
    "Completion",
    "CompletionChunk",
    "ContextError",
    "DraftModel",
    "Embedding",
    "GrammarError",
    "Llama",
    "LlamaError",
    "LlamaGrammar",
    "LlamaPromptLookupDecoding",
    "LlamaState",
    "ModelError",
    "PromptTooLongError",
    "SamplerError",
    "Sampling",
    "StateError",
    "Stream",
    "TemplateError",
    "bundled_model",
]
