"""Does a library whose llama.h is not known work by the declarations of the nearest one that is?

One rule: it runs in the probe child, where a crash is an answer, and is asked for only by `with_allow_unverified`. What
could write beyond the structs that are declared here is refused without a try: that harm could come later, elsewhere.

It sets numbers through the layout's offsets and asks them back, counts the calls of two callbacks that stand deep in
the structs, and compares the tokens that the bundled model continues with. Of these numbers alone the default values
may be others than expected: of every other field they are all that shows its place.
"""

from __future__ import annotations

import ctypes
import os

from nativeload_llama.abi import nearest
from nativeload_llama.abi._layout_expected import FIELDS, SIZES
from nativeload_llama.abi.probe import find, inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from nativeload_llama.abi import Layout

# What is set, what llama_<name>() says of it afterwards (default values are others), and how the bundled model goes on.
NUMBERS = {"n_ctx": 768, "n_batch": 96, "n_ubatch": 48, "n_seq_max": 3, "n_threads": 1, "n_threads_batch": 1}
PROMPT = (1, 403)
CONTINUATION = (591, 281, 259, 408, 409, 340, 319, 308)

_MODEL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "stories.gguf")
_CORE = ("llama_model_load_from_file", "llama_init_from_model", "llama_decode", "llama_batch_get_one")


def inspect_and_try(handles: list[ctypes.CDLL]) -> dict[str, Any]:
    """Measure what `probe.inspect` measures, then drive the library by the nearest layout.

    Returns:
        The facts, and ``trial``: ``layout``, ``refused`` (why it was not tried), ``expected`` and ``seen`` (name ->
        what should have come out, and what did; nothing where no context came of it).
    """
    facts = inspect(handles)
    layout, _ = nearest(facts)
    refused = list(_dangers(layout, facts, handles))
    seen = {} if refused else _drive(handles, layout)
    expected = {**NUMBERS, "progress": True, "abort": True, "tokens": list(CONTINUATION)}
    return facts | {"trial": {"layout": layout.name, "refused": refused, "expected": expected, "seen": seen}}


def _dangers(layout: Layout, facts: Mapping[str, Any], handles: list[ctypes.CDLL]) -> Iterator[str]:
    """Say what speaks against even a try: it could do harm that does not show in it."""
    for struct in FIELDS[layout.name]:
        if struct != "quantize" or facts["quantize_written"] is not None:
            yield from _struct_dangers(layout, struct, facts)
    for function, number in layout.parameters.items():
        if facts["parameters"].get(function) != number:
            yield f"its {function} has other parameters"
    if odd := [field for field in facts["odd_defaults"][layout.name] if field not in NUMBERS]:
        yield f"nothing shows where its {', '.join(odd)} stand"
    for function in _CORE:
        if find(handles, function) is None:
            yield f"it does not export {function}"


def _struct_dangers(layout: Layout, struct: str, facts: Mapping[str, Any]) -> Iterator[str]:
    size, written, holes = SIZES[layout.name][struct], facts[f"{struct}_written"], facts[f"{struct}_holes"]
    if written is None:
        yield f"how long its {struct} params are cannot be measured here"
    elif written > size:
        yield f"its {struct} params are {written} bytes long, and {size} are declared"
    elif set(holes) - set(getattr(layout, f"{struct}_holes")):
        yield f"its {struct} params lack a field that is declared"


def _drive(handles: list[ctypes.CDLL], layout: Layout) -> dict[str, Any]:
    """Load the bundled model, make a context, and continue the prompt with the likeliest tokens."""
    calls = {"progress": 0, "abort": 0}
    call = _caller(handles)
    model_params = _Params(call, layout, "model")
    context_params = _Params(call, layout, "context")

    def progress(fraction: float, _: object) -> bool:
        calls["progress"] += 0.0 <= fraction <= 1.0
        return True

    def abort(_: object) -> bool:
        calls["abort"] += 1
        return False

    on_progress = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_float, ctypes.c_void_p)(progress)
    on_abort = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(abort)
    model_params.set("progress_callback", _address(on_progress))
    context_params.set("abort_callback", _address(on_abort))
    for name, number in NUMBERS.items():
        context_params.set(name, number)
    call("llama_backend_init", None)
    model = call("llama_model_load_from_file", ctypes.c_void_p, os.fsencode(_MODEL), model_params.value)
    context = (
        call("llama_init_from_model", ctypes.c_void_p, ctypes.c_void_p(model), context_params.value) if model else 0
    )
    if not context:
        return {}
    pointer = ctypes.c_void_p(context)
    seen: dict[str, Any] = {name: call(f"llama_{name}", ctypes.c_int32, pointer) for name in NUMBERS}
    seen["tokens"] = _continue(call, ctypes.c_void_p(model), pointer)
    return seen | {name: count > 0 for name, count in calls.items()}


def _continue(call: Callable[..., Any], model: ctypes.c_void_p, context: ctypes.c_void_p) -> list[int]:
    """Return the greedy continuation of the prompt, or what came before a call failed."""
    vocab = ctypes.c_void_p(call("llama_model_get_vocab", ctypes.c_void_p, model))
    size = call("llama_vocab_n_tokens", ctypes.c_int32, vocab)
    tokens = list(PROMPT)
    fresh = tokens
    while len(tokens) < len(PROMPT) + len(CONTINUATION):
        array = (ctypes.c_int32 * len(fresh))(*fresh)
        batch = call("llama_batch_get_one", _block(56), array, ctypes.c_int32(len(fresh)))
        if call("llama_decode", ctypes.c_int32, context, batch) != 0:
            break
        logits = call("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), context, ctypes.c_int32(-1))
        row = logits[:size]
        fresh = [max(range(size), key=row.__getitem__)]
        tokens += fresh
    return tokens[len(PROMPT) :]


class _Params:
    """A params struct as the library fills it in, of which fields are set by the layout's offsets."""

    def __init__(self, call: Callable[..., Any], layout: Layout, struct: str) -> None:
        self.value = call(f"llama_{struct}_default_params", _block(SIZES[layout.name][struct]))
        self._fields = FIELDS[layout.name][struct]

    def set(self, field: str, number: int) -> None:
        offset, size = self._fields[field]
        ctypes.memmove(ctypes.addressof(self.value) + offset, number.to_bytes(size, "little"), size)


def _block(size: int) -> type[ctypes.Structure]:
    """Return a struct type of this many bytes: larger than 16, it is passed as any other of its size."""
    return type("Block", (ctypes.Structure,), {"_fields_": [("words", ctypes.c_uint64 * (size // 8))]})


def _address(callback: Any) -> int:
    return ctypes.cast(callback, ctypes.c_void_p).value or 0


def _caller(handles: list[ctypes.CDLL]) -> Callable[..., Any]:
    def call(name: str, result: Any, *arguments: Any) -> Any:
        function = find(handles, name)
        if function is None:
            raise LookupError(f"it does not export {name}")
        function.restype = result
        return function(*arguments)

    return call
