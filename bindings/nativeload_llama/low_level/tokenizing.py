"""How is a text with long lines tokenized, where llama.cpp would run out of stack and end the process?

One rule: many vocabularies cut texts up by std::regex, which recurses once for each character of a match. What may go
deep runs on a thread whose stack is large enough, and what no stack is large enough for is refused.
"""

from __future__ import annotations

import _thread

from nativeload_llama.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nativeload_llama.library import Api
    from nativeload_llama.low_level.handles import Model

SHALLOW = 4096
"""Characters: a text that is no longer fits the stack of any thread (1.5 MB; measured are 360 bytes for each)."""

_BPE = 2  # LLAMA_VOCAB_TYPE_BPE
_FRAME = 1024  # bytes of stack for each character, three times what was measured
_MOST_STACK = 1 << 30
_SPLIT_BY_HAND = frozenset({"gpt-2", "llama-bpe", "llama3", "llama-v3"})
"""Pre-tokenizers for which every llama.cpp has code of its own, and no regular expression."""


def recurses(api: Api, vocab: Any, pre_tokenizer: str) -> bool:
    """Whether a vocabulary cuts texts up by std::regex."""
    return api.function("llama_vocab_type")(vocab) == _BPE and pre_tokenizer not in _SPLIT_BY_HAND


def deeply(model: Model, text: str, call: Callable[[], Any]) -> Any:
    """Call what recurses as deep as a text has characters in a line.

    Raises:
        ModelError: no thread can have a stack that large.
    """
    depth = max(map(len, text.split("\n")))
    if text.count("\n") > SHALLOW:  # white space is the one match that goes beyond a line
        import re

        depth = max(depth, *map(len, re.findall(r"\s+", text)))
    if depth <= SHALLOW:
        return call()
    size = depth * _FRAME + (1 << 20)
    if size > _MOST_STACK:
        reason = f"a line of {depth} characters cannot be tokenized: llama.cpp would need too large a stack"
        raise ModelError(model.path, reason, hint="Break the line, or tokenize it in parts.")
    return _on_large_stack(model, size, call)


_starting = _thread.allocate_lock()  # the size is said for all threads that start


def _on_large_stack(model: Model, size: int, call: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    errors: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            errors.append(error)
        finally:
            done.release()

    with _starting:
        before = _thread.stack_size(-(-size // 65536) * 65536)
        try:
            _thread.start_new_thread(run, ())
        except RuntimeError as error:
            raise ModelError(model.path, f"no thread with a stack of {size} bytes can be had: {error}") from error
        finally:
            _thread.stack_size(before)
    interrupted = _waited(done)
    if interrupted is not None or errors:
        raise interrupted or errors[0]
    return answers[0]


def _waited(done: _thread.LockType) -> BaseException | None:
    """Wait for C; return what a signal handler raised in the meantime: C must not be left alone with its buffers."""
    interrupted: BaseException | None = None
    while True:
        try:
            with done:
                return interrupted
        except BaseException as error:  # noqa: BLE001 - raised by the caller, after C is done
            interrupted = error
