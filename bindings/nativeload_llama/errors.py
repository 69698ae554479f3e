"""What can go wrong between a model and its text.

One rule: as in nativeload.errors, an error carries its facts, and the last native error line is part of its text.
"""

from __future__ import annotations

from nativeload.errors import NativeLoadError


class LlamaError(NativeLoadError):
    """What all errors of these bindings are; never raised itself."""


class ModelError(LlamaError):
    """A model file cannot be loaded or used.

    Attributes:
        path: the model file.
        reason: why, in llama.cpp's words where it said anything.
    """

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path, self.reason = path, reason


class ContextError(LlamaError):
    """A context cannot be made from a model, or a batch cannot be decoded.

    Attributes:
        code: llama_decode's return code where it was a decode: 1 no room, 2 aborted, -1 bad batch, lower is fatal.
    """

    def __init__(self, message: str, *, code: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class PromptTooLongError(LlamaError, ValueError):
    """The prompt leaves no room in the context.

    Attributes:
        n_tokens: tokens in the prompt.
        n_ctx: tokens the context holds.
    """

    def __init__(self, n_tokens: int, n_ctx: int) -> None:
        hint = f"Make the context larger (n_ctx={n_tokens + 256}; --ctx on the command line) or the prompt shorter."
        super().__init__(f"the prompt has {n_tokens} tokens and the context holds {n_ctx}", hint=hint)
        self.n_tokens, self.n_ctx = n_tokens, n_ctx


class ClosedError(LlamaError):
    """The Llama, or the model or context that was asked, was closed or freed."""


class BusyError(LlamaError):
    """A generation of this Llama is under way in the same thread."""

    hint = "Exhaust or close() the first generator, or use a second Llama."


class AbortedError(ContextError):
    """A decode or a load was ended from outside: a flag was raised, or a progress callback said stop."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=2)


class SamplerError(LlamaError, ValueError):
    """A number or a text that no sampler can have.

    Attributes:
        argument: its name.
    """

    def __init__(self, argument: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.argument = argument


class GrammarError(LlamaError, ValueError):
    """A GBNF grammar or a JSON schema cannot be used.

    Attributes:
        where: the line of the grammar, or the JSON pointer into the schema; empty where neither is known.
        reason: why.
    """

    def __init__(self, reason: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason, hint=hint)
        self.where, self.reason = where, reason


class AdapterError(LlamaError):
    """A LoRA adapter or a control vector cannot be used with this model.

    Attributes:
        path: its file, or what stands for it.
        reason: why.
    """

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path, self.reason = path, reason


class StateError(LlamaError, ValueError):
    """Saved state that does not belong to this model and context, or was damaged."""


class TemplateError(LlamaError, ValueError):
    """A chat template that cannot render these messages."""
