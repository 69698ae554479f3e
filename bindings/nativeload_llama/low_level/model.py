"""What is a loaded model: its size, shape, metadata and abilities?

One rule: a function that this build lacks is NotInThisBuild when it is called, and what a model without weights cannot
say is refused.
"""

from __future__ import annotations

import os

from nativeload_llama.errors import ModelError
from nativeload_llama.low_level.handles import taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nativeload_llama.low_level.handles import Model


def model_free(model: Model) -> None:
    """Free a model, its contexts must be freed before; once more is nothing."""
    call = model.api.function("llama_model_free")
    if (pointer := taken(model, "vocab")) is not None:
        call(pointer)


def _of_whole(model: Model, name: str) -> Any:
    """Call a function that asks a model for its shape; C aborts where the layers were not loaded."""
    if model.vocab_only:
        raise ModelError(model.path, f"{name}: the model was loaded without its weights (vocab_only)")
    return model.api.function(f"llama_{name}")(model.pointer)


def model_desc(model: Model) -> str:
    """Return llama.cpp's one-line description, such as ``llama 1B Q8_0``."""
    call, pointer = model.api.function("llama_model_desc"), model.pointer
    return _text(model.api.ffi, lambda buffer, size: call(pointer, buffer, size)) or ""


def model_size(model: Model) -> int:
    """Return the size of all tensors, in bytes."""
    return int(model.api.function("llama_model_size")(model.pointer))


def model_n_params(model: Model) -> int:
    """Return the number of parameters."""
    return int(model.api.function("llama_model_n_params")(model.pointer))


def model_n_ctx_train(model: Model) -> int:
    """Return the context the model was trained with, in tokens."""
    return int(_of_whole(model, "model_n_ctx_train"))


def model_n_embd(model: Model) -> int:
    """Return the width of the hidden state."""
    return int(_of_whole(model, "model_n_embd"))


def model_n_embd_inp(model: Model) -> int:
    """Return the width of an embedding that goes in."""
    return int(_of_whole(model, "model_n_embd_inp"))


def model_n_embd_out(model: Model) -> int:
    """Return the width of an embedding that comes out."""
    return int(_of_whole(model, "model_n_embd_out"))


def model_n_layer(model: Model) -> int:
    """Return the number of layers."""
    return int(_of_whole(model, "model_n_layer"))


def model_n_head(model: Model) -> int:
    """Return the number of attention heads of the first layer."""
    return int(_of_whole(model, "model_n_head"))


def model_n_head_kv(model: Model) -> int:
    """Return the number of key and value heads of the first layer."""
    return int(_of_whole(model, "model_n_head_kv"))


def model_n_swa(model: Model) -> int:
    """Return the size of the sliding attention window, in tokens; 0 where there is none."""
    return int(_of_whole(model, "model_n_swa"))


def model_rope_type(model: Model) -> int:
    """Return the kind of rotary position embedding, a member of llama_rope_type; -1 is none."""
    return int(_of_whole(model, "model_rope_type"))


def model_rope_freq_scale_train(model: Model) -> float:
    """Return the RoPE frequency scale the model was trained with."""
    return float(_of_whole(model, "model_rope_freq_scale_train"))


def model_has_encoder(model: Model) -> bool:
    """Whether the model has an encoder, for `encode`."""
    return bool(model.api.function("llama_model_has_encoder")(model.pointer))


def model_has_decoder(model: Model) -> bool:
    """Whether the model has a decoder, for `decode`."""
    return bool(model.api.function("llama_model_has_decoder")(model.pointer))


def model_is_recurrent(model: Model) -> bool:
    """Whether the model has a state in place of a cache, as Mamba and RWKV."""
    return bool(model.api.function("llama_model_is_recurrent")(model.pointer))


def model_is_hybrid(model: Model) -> bool:
    """Whether the model has both a state and a cache, as Jamba and Granite."""
    return bool(model.api.function("llama_model_is_hybrid")(model.pointer))


def model_is_diffusion(model: Model) -> bool:
    """Whether the model fills in tokens in any order, as Dream and LLaDA."""
    return bool(model.api.function("llama_model_is_diffusion")(model.pointer))


def model_decoder_start_token(model: Model) -> int:
    """Return the token an encoder-decoder model's decoder starts with; -1 where there is none."""
    return int(_of_whole(model, "model_decoder_start_token"))


def check_generates(model: Model) -> None:
    """Refuse a model that cannot continue a text with llama_decode() alone.

    Raises:
        ModelError: it needs an encoder pass, or has no decoder.
    """
    if model_has_encoder(model) or not model_has_decoder(model):
        raise ModelError(model.path, "not a model that generates text by itself (it needs an encoder pass)")


def model_n_cls_out(model: Model) -> int:
    """Return the number of scores a classifier gives (1 also where the model is none)."""
    return int(_of_whole(model, "model_n_cls_out"))


def model_cls_label(model: Model, number: int) -> str | None:
    """Return the label of a classifier's score, from 0; None where it has none.

    Raises:
        ModelError: no such score.
    """
    if not 0 <= number < model_n_cls_out(model):
        raise ModelError(model.path, f"label {number} is not between 0 and {model_n_cls_out(model) - 1}")
    return _string(model, model.api.function("llama_model_cls_label")(model.pointer, number))


def model_chat_template(model: Model, name: str | None = None) -> str | None:
    """Return a chat template of the model, or None; without a name the default one."""
    if name is not None and "\0" in name:
        return None
    raw = model.api.ffi.NULL if name is None else name.encode("utf-8", "replace")
    return _string(model, model.api.function("llama_model_chat_template")(model.pointer, raw))


def _string(model: Model, pointer: Any) -> str | None:
    ffi = model.api.ffi
    return None if pointer == ffi.NULL else str(ffi.string(pointer).decode("utf-8", "replace"))


def model_meta(model: Model) -> dict[str, str]:
    """Return all metadata of the file that is no array, as llama.cpp writes it as text."""
    numbers = range(model_meta_count(model))
    return {model_meta_key_by_index(model, place): model_meta_val_str_by_index(model, place) for place in numbers}


def model_meta_count(model: Model) -> int:
    """Return how many metadata values there are."""
    return int(model.api.function("llama_model_meta_count")(model.pointer))


def model_meta_val_str(model: Model, key: str) -> str | None:
    """Return a metadata value as text, or None where there is no such key."""
    if "\0" in key:
        return None
    call, pointer, raw = model.api.function("llama_model_meta_val_str"), model.pointer, key.encode("utf-8", "replace")
    return _text(model.api.ffi, lambda buffer, size: call(pointer, raw, buffer, size))


def model_meta_key_by_index(model: Model, place: int) -> str:
    """Return the key of a metadata value, 0 to model_meta_count() - 1; they are in no order.

    Raises:
        IndexError: no such place.
    """
    return _at(model, "llama_model_meta_key_by_index", place)


def model_meta_val_str_by_index(model: Model, place: int) -> str:
    """Return a metadata value as text by its place.

    Raises:
        IndexError: no such place.
    """
    return _at(model, "llama_model_meta_val_str_by_index", place)


def _at(model: Model, name: str, place: int) -> str:
    if not 0 <= place < model_meta_count(model):
        raise IndexError(f"place {place} is not between 0 and {model_meta_count(model) - 1}")
    call, pointer = model.api.function(name), model.pointer
    return _text(model.api.ffi, lambda buffer, size: call(pointer, place, buffer, size)) or ""


def _text(ffi: Any, call: Callable[[Any, int], int]) -> str | None:
    """Call what writes a text into a buffer and returns its length; None where it returns less than 0."""
    size = 256
    for _ in range(2):
        buffer = ffi.new("char[]", size)
        length = call(buffer, size)
        if length < 0:
            return None
        if length < size:
            return bytes(ffi.buffer(buffer, length)).decode("utf-8", "replace")
        size = length + 1
    return None


_SAVED = frozenset({"llama", "qwen2", "qwen3", "gemma", "gemma2"})
"""Architectures whose tensors llama.cpp can write back; it aborts on others, and which they are changes."""


def model_save_to_file(model: Model, path: str) -> None:
    """Write a model as it is in memory into a GGUF file; llama.cpp leaves out the chat template.

    Raises:
        ModelError: weights were left out or repacked (load with use_extra_bufts=False), the architecture is none that
            llama.cpp can write without risk, or the file cannot be written.
    """
    arch = model_meta_val_str(model, "general.architecture")
    if model.vocab_only or model.extra_bufts:
        hint = "Load it with use_extra_bufts=False and with its weights."
        raise ModelError(model.path, "the weights may not lie in memory as they are in a file", hint=hint)
    if arch not in _SAVED or not model.n_vocab:
        raise ModelError(model.path, f"a model of architecture {arch} cannot be written back")
    from nativeload_llama.low_level.written import written  # few write models

    with written(path) as place:
        model.api.log.clear()
        model.api.function("llama_model_save_to_file")(model.pointer, os.fsencode(place))
        if said := model.api.log.said():
            raise ModelError(path, said)
