"""How is a model changed while it is open: by LoRA adapters, and by control vectors?

One rule: what was computed with other adapters is forgotten, and all contexts of a Llama use the same ones. A file is
read once, and again where it has changed.
"""

from __future__ import annotations

import array
import hashlib
import math
import os
import weakref

from nativeload.value import Value
from nativeload_llama import low_level
from nativeload_llama.errors import AdapterError, ModelError
from nativeload_llama.identity import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nativeload_llama.low_level import Adapter, Context
    from nativeload_llama.native import Native
    from nativeload_llama.opened import OpenedModel

    Vectors = Mapping[int, Sequence[float]]

_VECTOR = "control vector"
_ARCHITECTURE = "controlvector"
_DIRECTION = "direction."


class LoraAdapter(Value, eq=False):
    """A LoRA adapter that was loaded, to be used with `set_lora`.

    Attributes:
        path: its file.
        metadata: what the file says, as text.
    """

    path: str
    metadata: dict[str, str]

    def __repr__(self) -> str:
        return f"<LoraAdapter {self.path}>"


class _Known(Value, eq=False):
    """A file that was loaded, as it was then."""

    adapter: Adapter
    stamp: tuple[int, int, int]
    fingerprint: str


_known: weakref.WeakKeyDictionary[Native, dict[str, _Known]] = weakref.WeakKeyDictionary()


def load_lora(llama: OpenedModel, path: str | Path) -> LoraAdapter:
    """Load a LoRA adapter without using it: switching to it later takes no time.

    Raises:
        AdapterError: no such file, no LoRA adapter, damaged, or of another model.
    """
    native = llama._native
    with native.entered():
        llama._text_context()
        adapter = _loaded(native, path)
        return LoraAdapter(adapter.path, low_level.adapter_meta(adapter))


def set_lora(llama: OpenedModel, adapters: Mapping[str | Path | LoraAdapter, float]) -> None:
    """Use these LoRA adapters, each with its scale, in place of those before; ``{}`` takes all off.

    Args:
        llama: the model.
        adapters: a file, or what `load_lora` returned, -> its strength; 1.0 is as it was trained.

    Raises:
        AdapterError: as `load_lora`, a scale that is no finite number, or one file twice; nothing has changed then.
        BusyError: a generation is under way in this thread; those of other threads are waited for.
    """
    if not hasattr(adapters, "items"):
        raise TypeError(f"adapters are a mapping of file to scale, not {type(adapters).__name__}")
    native = llama._native
    with llama._session.alone(), llama._crowd.alone(), native.entered():
        text = llama._text_context()
        chosen: dict[Adapter, float] = {}
        for one, scale in adapters.items():
            adapter = _loaded(native, one.path if isinstance(one, LoraAdapter) else one)
            if adapter in chosen:
                raise AdapterError(adapter.path, "the adapter is named twice")
            chosen[adapter] = _finite(adapter.path, scale)
        if chosen == dict(_used(text)):
            return
        llama._session.forget()
        for context in native.contexts.values():
            low_level.set_adapters_lora(context, list(chosen.items()))


def lora_adapters(llama: OpenedModel) -> dict[str, float]:
    """Return the LoRA adapters in use: file -> scale."""
    with llama._native.entered():
        return {adapter.path: scale for adapter, scale in _used(llama._text_context())}


def set_control_vector(
    llama: OpenedModel,
    vector: str | Path | Vectors | None,
    *,
    scale: float = 1.0,
    layers: tuple[int, int] | None = None,
) -> None:
    """Add a vector to what each layer gives on, in place of the one before; None takes it off.

    Args:
        llama: the model.
        vector: a GGUF file with tensors ``direction.<layer>``, or layer -> n_embd numbers; layers count from 1.
        scale: its strength; below 0 it leads the other way.
        layers: the first and the last layer to use of it (default: all).

    Raises:
        AdapterError: no control vector, one of another model, or numbers that are not finite.
        BusyError: as `set_lora`.
    """
    native = llama._native
    with llama._session.alone(), llama._crowd.alone(), native.entered():
        text = llama._text_context()
        used = None if vector is None else _directions(text, vector, scale, layers)
        if used == _steered(text):
            return
        llama._session.forget()
        for context in native.contexts.values():
            _steer(context, used)


def carry_over(llama: OpenedModel, context: Context) -> None:
    """Let a new context use what the text context uses; the lock is held."""
    text = llama._text_context()
    if adapters := _used(text):
        low_level.set_adapters_lora(context, adapters)
    if (used := _steered(text)) is not None:
        _steer(context, used)


def active(native: Native) -> dict[str, str]:
    """Return what is used, to be compared; the lock is held."""
    text, known = native.contexts["text"], _known.get(native, {})
    prints = {each.adapter: each.fingerprint for each in known.values()}
    found = {f"lora {prints.get(adapter, '')[:16]}": repr(scale) for adapter, scale in _used(text) if scale}
    if (used := _steered(text)) is not None:
        found[_VECTOR] = f"{hashlib.sha256(used.numbers.tobytes()).hexdigest()[:16]} {used.first}-{used.last}"
    return found


# What follows is called with the lock held.


def _used(context: Context) -> tuple[tuple[Adapter, float], ...]:
    used: tuple[tuple[Adapter, float], ...] = context.keep.get("adapters", ())
    return used


def _loaded(native: Native, path: str | Path) -> Adapter:
    """Return the adapter of a file, which is read if it is another one than before."""
    name = os.path.abspath(os.path.expanduser(os.fspath(path)))
    known = _known.setdefault(native, {})
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        raise AdapterError(repr(name), getattr(error, "strerror", "") or str(error)) from error
    stamp = found.st_ino, found.st_size, found.st_mtime_ns
    if name not in known or known[name].stamp != stamp:
        adapter = low_level.adapter_lora_init(native.model, name)
        native.adapters.append(adapter)
        known[name] = _Known(adapter, stamp, fingerprint(name))
    return known[name].adapter


class _Steering(Value):
    """A control vector as C takes it: n_embd numbers for each layer from 1 on, and the layers it is used in."""

    numbers: array.array[float]
    first: int
    last: int


def _steered(context: Context) -> _Steering | None:
    used: _Steering | None = context.keep.get("control_vector")
    return used


def _steer(context: Context, used: _Steering | None) -> None:
    n_embd = low_level.model_n_embd(context.model)
    if used is None:
        low_level.set_adapter_cvec(context, None, n_embd, 0, 0)
    else:
        low_level.set_adapter_cvec(context, used.numbers, n_embd, used.first, used.last)
    context.keep["control_vector"] = used


def _directions(text: Context, vector: str | Path | Vectors, scale: float, layers: tuple[int, int] | None) -> _Steering:
    """Return a control vector, checked against the model and scaled."""
    n_embd, most = low_level.model_n_embd(text.model), low_level.model_n_layer(text.model) - 1
    if isinstance(vector, (str, os.PathLike)):
        origin = os.path.expanduser(os.fspath(vector))
        given: Vectors = _read(origin, n_embd)
    else:
        origin, given = _VECTOR, vector
    first, last = layers or (1, most)
    if not 1 <= first <= last <= most:
        raise AdapterError(origin, f"layers are {first} to {last}, and this model's are 1 to {most}")
    strength, numbers = _finite(origin, scale), array.array("f", bytes(4 * n_embd * most))
    for layer, row in given.items():
        if not 1 <= layer <= most:
            raise AdapterError(origin, f"it has layer {layer}, and this model's are 1 to {most}")
        if len(row) != n_embd:
            raise AdapterError(origin, f"layer {layer} has {len(row)} numbers, and this model's have {n_embd}")
        scaled = array.array("f", [strength * value for value in row])
        if not all(map(math.isfinite, scaled)):
            raise AdapterError(origin, f"layer {layer} has numbers that are not finite")
        numbers[(layer - 1) * n_embd : layer * n_embd] = scaled
    if not given:
        raise AdapterError(origin, "it has no directions")
    return _Steering(numbers, first, last)


def _read(path: str, n_embd: int) -> dict[int, memoryview[float]]:
    """Return the directions of a file: layer -> n_embd numbers."""
    from nativeload_llama.gguf import read

    try:
        file = read(path)
        if (kind := file.metadata.get("general.architecture")) != _ARCHITECTURE:
            raise AdapterError(path, f"its general.architecture is {kind!r}, and must be {_ARCHITECTURE!r}")
        found = {}
        for tensor in file.tensors:
            layer = tensor.name.removeprefix(_DIRECTION)
            if not (tensor.name.startswith(_DIRECTION) and layer.isascii() and layer.isdecimal()):
                raise AdapterError(path, f"the tensor {tensor.name!r} is no direction of a layer")
            if tensor.shape != (n_embd,):
                raise AdapterError(path, f"{tensor.name} has the shape {tensor.shape}, and this model's is ({n_embd},)")
            found[int(layer)] = file.tensor_data(tensor.name)
    except ModelError as error:
        raise AdapterError(path, error.reason) from error
    return found


def _finite(origin: str, scale: float) -> float:
    number = math.nan if isinstance(scale, str) else float(scale)
    if not math.isfinite(number):
        raise AdapterError(origin, f"its scale is {scale!r}, and must be a finite number")
    return number
