"""Would llama.cpp end the process over this LoRA file?

One rule: keys have the types that C asserts, and each pair of matrices fits its tensor of the model in all dimensions:
C compares two of them when it loads, and aborts on the others when it computes.
"""

from __future__ import annotations

import os

from nativeload_llama.gguf import STRING, TYPES, DamageError, Header, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nativeload_llama.low_level.handles import Model

    Shapes = dict[str, tuple[tuple[int, ...], str]]  # tensor -> shape, rows first, and type

_U32, _F32 = 4, 6
_KINDS = {
    "general.type": STRING,
    "general.architecture": STRING,
    "adapter.type": STRING,
    "adapter.lora.alpha": _F32,
    "general.alignment": _U32,
}
_TYPES = {"F32", "F16", "BF16", "Q8_0"}  # what llama.cpp's converter writes; with some others there is no product
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


def fault_of(path: str, model: Model) -> str | None:
    """Return why llama.cpp would end the process over a LoRA file of a model, or None.

    Raises:
        OSError: the file cannot be read.
        ValueError: the path has a NUL character.
    """
    try:
        with mapped(path) as data:
            header = Header(data)
            return next(_faults(header, model), None)
    except DamageError as damage:
        return str(damage)


def _faults(header: Header, model: Model) -> Iterator[str]:
    for key, field in header.fields.items():
        if "\0" in key:
            yield f"the key {key!r} has a NUL byte"
        if key in _KINDS and (field.kind != _KINDS[key] or field.count is not None):
            yield f"{key} is of a type that it cannot be of"
    parts: Shapes = {}
    for name, shape, number, _, _ in header.tensors:
        kind = TYPES.get(number, ("", 1, 0))[0]
        if name.endswith((".lora_a", ".lora_b")):
            if kind not in _TYPES or min(shape, default=0) < 1:
                yield f"{name} is of type {kind or number} and shape {shape}, which no adapter is of"
            if name.count(".lora_") > 1:  # C takes all of them off
                yield f"{name} is no name of an adapter's matrix"
            parts[name] = (shape, kind)
    known = _tensors(model)
    for name, (shape, _) in parts.items():
        base = name[: -len(".lora_a")]
        if name.endswith(".lora_a") and f"{base}.lora_b" in parts:  # C refuses one without the other
            yield from _pair_faults(base, shape, parts[f"{base}.lora_b"][0], known)


def _tensors(model: Model) -> Shapes:
    """Return the tensors of a model by the headers of its files."""
    found: Shapes = {}
    for path in _files(model.path):
        with mapped(path) as data:
            for name, shape, number, _, _ in Header(data).tensors:
                found[name] = (_full(shape), TYPES.get(number, ("", 1, 0))[0])
    return found


def _files(path: str) -> Iterator[str]:
    """Yield the file of a model, and the others that it is split into, which llama.cpp opens by their names."""
    yield path
    stem, _, count = path.removesuffix(".gguf").rpartition("-of-")
    if path.endswith(".gguf") and stem.endswith("-00001") and count.isascii() and count.isdigit():
        for part in range(2, int(count) + 1):
            name = f"{stem.removesuffix('-00001')}-{part:05}-of-{count}.gguf"
            if not os.path.exists(name):
                return
            yield name


def _full(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1, 1)[:4]


def _pair_faults(base: str, first: tuple[int, ...], second: tuple[int, ...], known: Shapes) -> Iterator[str]:
    """Yield what is wrong with two matrices: the product of them has the shape of the tensor."""
    if base not in known:
        yield f"the model has no tensor {base}"
        return
    of, kind = known[base]
    a, b = _full(first), _full(second)
    if kind == "NVFP4":
        yield f"{base} is of type NVFP4, to which llama.cpp adds no adapters"
    if base == _EMBEDDING:
        if a != (b[0], of[1], 1, 1) or b != (a[0], of[0], 1, 1):
            yield f"{base} has the shape {of[:2]}, and the adapter's matrices {a} and {b}"
        if _OUTPUT not in known:
            yield f"{base} is also the output of this model, and llama.cpp cannot add an adapter to both"
    elif a != (of[0], b[0], *of[2:]) or b != (a[1], of[1], *of[2:]):
        yield f"{base} has the shape {of}, and the adapter's matrices {a} and {b}"
