"""llama.cpp for Python, on whichever libllama nativeload chose: `Llama`, and the floors below it.

Three floors: ``abi`` (raw declarations per llama.h), ``low_level`` (one function per C function), ``llama`` (friendly).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.errors import (
        BusyError,
        ClosedError,
        ContextError,
        LlamaError,
        ModelError,
        PromptTooLongError,
    )
    from nativeload_llama.llama import Llama, bundled_model

_ERRORS = ("BusyError", "ClosedError", "ContextError", "LlamaError", "ModelError", "PromptTooLongError")
_HOMES = {"Llama": "llama", "bundled_model": "llama", **dict.fromkeys(_ERRORS, "errors")}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'nativeload_llama' has no attribute {name!r}")
    value: object = getattr(__import__(f"nativeload_llama.{_HOMES[name]}", fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "BusyError",
    "ClosedError",
    "ContextError",
    "Llama",
    "LlamaError",
    "ModelError",
    "PromptTooLongError",
    "bundled_model",
]
