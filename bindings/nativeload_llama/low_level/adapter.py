"""How is a model changed while it runs: by LoRA adapters, and by control vectors?

One rule: an adapter is used with the model it was loaded for, and freed before it and after the contexts that use it.
"""

from __future__ import annotations

import math
import os

from nativeload_llama.errors import AdapterError
from nativeload_llama.low_level.handles import Adapter
from nativeload_llama.low_level.model import model_n_embd, model_n_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nativeload_llama.low_level.handles import Context, Model

_MAX_INT32 = 2**31 - 1
_LARGEST = 1e30  # fits float32 with room to compute
_CONTROL_VECTOR = "control vector"


def adapter_lora_init(model: Model, path: str) -> Adapter:
    """Load a LoRA adapter for a model, without using it (see `set_adapters_lora`).

    Raises:
        AdapterError: no such file, not a LoRA adapter, damaged, or of another model.
    """
    api = model.api
    from nativeload_llama.low_level.lora import fault_of  # few use adapters

    if model.vocab_only:
        raise AdapterError(path, "the model was loaded without its weights (vocab_only)")
    try:
        reason = fault_of(path, model)
    except OSError as error:
        raise AdapterError(path, error.strerror or str(error)) from error
    except ValueError as error:  # a NUL byte
        raise AdapterError(repr(path), str(error)) from error
    if reason:
        raise AdapterError(path, reason, hint="It is damaged, or was made for another model.")
    api.log.clear()
    pointer = api.function("llama_adapter_lora_init")(model.pointer, os.fsencode(path))
    if pointer == api.ffi.NULL:
        raise AdapterError(path, api.log.said() or "llama.cpp could not load it and did not say why")
    return Adapter(api, model, path, pointer)


def adapter_lora_free(adapter: Adapter) -> None:
    """Free an adapter that no context uses any more; once more is nothing."""
    pointer, null = adapter.pointer, adapter.api.ffi.NULL
    if pointer != null:
        adapter.api.function("llama_adapter_lora_free")(pointer)
        object.__setattr__(adapter, "pointer", null)  # whoever uses it now is told


def _living(adapter: Adapter) -> Any:
    if adapter.pointer == adapter.api.ffi.NULL:
        raise AdapterError(adapter.path, "the adapter was freed")
    return adapter.pointer


def adapter_meta(adapter: Adapter) -> dict[str, str]:
    """Return the metadata of an adapter's file that is no array, as llama.cpp writes it as text.

    Raises:
        AdapterError: it was freed.
    """
    api, pointer = adapter.api, _living(adapter)
    count = api.function("llama_adapter_meta_count")(pointer)
    words = ("llama_adapter_meta_key_by_index", "llama_adapter_meta_val_str_by_index")
    key, value = (api.function(word) for word in words)
    return {_text(api.ffi, key, pointer, place): _text(api.ffi, value, pointer, place) for place in range(count)}


def _text(ffi: Any, call: Any, pointer: Any, place: int) -> str:
    length = call(pointer, place, ffi.new("char[1]"), 1)
    buffer = ffi.new("char[]", length + 1)
    call(pointer, place, buffer, length + 1)
    return bytes(ffi.buffer(buffer, length)).decode("utf-8", "replace")


def set_adapters_lora(context: Context, adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Use these adapters, each with its scale, from the next decode on, in place of those before; [] is none.

    Raises:
        AdapterError: one is of another model or was freed, or a scale is no number.
    """
    for adapter, scale in adapters:
        if adapter.model.pointer != context.model.pointer:
            raise AdapterError(adapter.path, f"it was loaded for another model: {adapter.model.path}")
        if not -_LARGEST <= scale <= _LARGEST:
            raise AdapterError(adapter.path, f"its scale is {scale}, and must be a finite number")
    api, new = context.api, context.api.ffi.new
    pointers = new("struct llama_adapter_lora *[]", [_living(adapter) for adapter, _ in adapters])
    scales = new("float[]", [float(scale) for _, scale in adapters])
    if api.function("llama_set_adapters_lora")(context.pointer, pointers, len(adapters), scales):
        raise AdapterError(", ".join(adapter.path for adapter, _ in adapters), "llama.cpp could not use them")
    context.keep["adapters"] = tuple(adapters)


def set_adapter_cvec(context: Context, data: Sequence[float] | None, n_embd: int, il_start: int, il_end: int) -> None:
    """Add a vector to the output of each layer of a range; None takes the one before off.

    Args:
        context: a context.
        data: n_embd numbers for each layer from layer 1 on (layer 0 has none); layers that are left out get zeros.
        n_embd: the width of the model's hidden state.
        il_start: the first layer it is used in.
        il_end: the last one.

    Raises:
        AdapterError: the numbers do not fit the model.
    """
    call, ffi = context.api.function("llama_set_adapter_cvec"), context.api.ffi
    if data is None:
        call(context.pointer, ffi.NULL, 0, 0, 0, 0)
        return
    width, layers = model_n_embd(context.model), model_n_layer(context.model) - 1
    if n_embd != width or len(data) % width or not 1 <= len(data) // width <= layers:
        reason = f"{len(data)} numbers, n_embd={n_embd}: the model has {layers} layers that take {width} each"
        raise AdapterError(_CONTROL_VECTOR, reason)
    if not all(map(math.isfinite, data)) or max(map(abs, data)) > _LARGEST:
        raise AdapterError(_CONTROL_VECTOR, "not all of its numbers are finite")
    if not (0 <= il_start <= _MAX_INT32 and 0 <= il_end <= _MAX_INT32):
        raise AdapterError(_CONTROL_VECTOR, f"layers {il_start} to {il_end} cannot be")
    rows = ffi.new("float[]", width * layers)
    rows[0 : len(data)] = list(data)
    context.api.log.clear()
    if call(context.pointer, rows, len(rows), width, il_start, il_end):
        raise AdapterError(_CONTROL_VECTOR, context.api.log.said() or "llama.cpp could not use it")
