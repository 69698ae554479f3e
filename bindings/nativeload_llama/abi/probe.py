"""What does an opened library show of the llama.h it was compiled with?

One rule: it runs in the probe child and makes only calls that are right whatever llama.h it is. A struct is never
passed by value before its layout is known.

On x86-64, with System V's and Windows' calling convention alike, a struct of this size is returned through a
pointer that the caller passes as a hidden first argument. Declaring that pointer shows which bytes the
library writes: those that still hold the fill after two calls with different fills are padding. Elsewhere the
defaults are taken as an oversized struct, and only their values are compared.

Two sampler constructors got other parameters under the same name and with the same structs. Integers and floats go in
registers of their own, so one call can say one thing by the old order and another by the new one; the name of what it
makes tells which one was heard.
"""

from __future__ import annotations

import ctypes
import os
import sys

from nativeload_llama.abi import LAYOUTS
from nativeload_llama.abi._layout_expected import FIELDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from nativeload_llama.abi import Layout

_ROOM = 2048  # twelve times the largest of these structs
_FILLS = (0xA5, 0x5A)
_MINUS_ONE = int.from_bytes(b"\xbf\x80\x00\x00", "big", signed=True)  # the bits of -1.0f

_STRUCTS = {
    "model": "llama_model_default_params",
    "context": "llama_context_default_params",
    "quantize": "llama_model_quantize_default_params",
}

# What llama_*_default_params() say, each where the layout has the field. They tell all layouts apart but b9538 from
# b9713, which differ in a pointer at the end.
CANARIES: dict[str, dict[str, tuple[int, ...]]] = {
    "model": {
        "n_gpu_layers": (-1,),
        "split_mode": (1,),
        "use_mmap": (1,),
        "load_mode": (-1, 1),  # there was no LLAMA_LOAD_MODE_AUTO at first
        "lazy_mode": (1,),
        "use_extra_bufts": (1,),
    },
    "context": {
        "n_ctx": (512,),
        "n_batch": (2048,),
        "n_ubatch": (512,),
        "n_seq_max": (1,),
        "n_outputs_max_per_seq": (1,),
        "n_threads": (4,),
        "rope_scaling_type": (-1,),
        "pooling_type": (-1,),
        "attention_type": (-1,),
        "flash_attn_type": (-1,),
        "yarn_ext_factor": (_MINUS_ONE,),
        "type_k": (1,),
        "type_v": (1,),
        "offload_kqv": (1,),
        "op_offload": (1,),
    },
    "quantize": {
        "quantize_output_tensor": (1,),
        "max_buf_size": (1 << 33,),
    },
}


class _Oversize(ctypes.Structure):
    """Room for any of these structs, returned by value: one so large always goes through memory."""

    _fields_ = (("words", ctypes.c_uint64 * 64),)


def inspect(handles: list[ctypes.CDLL]) -> dict[str, Any]:
    """Measure the facts that `nativeload_llama.abi.identify` decides by.

    Args:
        handles: the opened files of one set; each symbol is taken from the first that exports it.

    Returns:
        Plain data: ``model_written``, ``model_holes``, and so for ``context`` and ``quantize`` (None where the
        platform does not show them or the function is not exported), ``odd_defaults`` (layout name -> fields whose
        known default value is not where it has them), ``exports`` (symbol -> bool), ``parameters`` (function -> their
        number, or None), ``llama_version``, ``ggml_version``, ``ggml_commit``.
    """
    facts: dict[str, Any] = {}
    defaults: dict[str, bytes] = {}
    for struct, function in _STRUCTS.items():
        passes = _defaults(handles, function)
        defaults[struct] = passes[0] if passes else b""
        written, holes = _extent(passes) if len(passes) == len(_FILLS) else (None, None)
        facts |= {f"{struct}_written": written, f"{struct}_holes": holes}
    facts["odd_defaults"] = {layout.name: odd_defaults(layout, defaults) for layout in LAYOUTS}
    symbols = sorted({symbol for layout in LAYOUTS for symbol in layout.required})
    facts["exports"] = {symbol: find(handles, symbol) is not None for symbol in symbols}
    facts["parameters"] = _parameters(handles)
    return facts | {name: _text(handles, name) for name in ("llama_version", "ggml_version", "ggml_commit")}


def returns_through_argument() -> bool:
    """Whether the hidden pointer to a returned struct is an ordinary first argument here: on x86-64 only."""
    machine = os.environ.get("PROCESSOR_ARCHITECTURE", "") if sys.platform == "win32" else os.uname().machine
    return machine.lower() in {"x86_64", "amd64"} and ctypes.sizeof(ctypes.c_void_p) == 8  # noqa: PLR2004


def find(handles: Sequence[ctypes.CDLL], symbol: str) -> Any:
    """Return a function of the first file that exports it, or None."""
    for handle in handles:
        try:
            return handle[symbol]  # unlike getattr, a fresh function each time: its types are ours
        except AttributeError:
            continue
    return None


def _text(handles: Sequence[ctypes.CDLL], symbol: str) -> str | None:
    function = find(handles, symbol)
    if function is None:
        return None
    function.argtypes, function.restype = (), ctypes.c_char_p
    text = function()
    return None if text is None else text.decode("utf-8", "replace")


def _defaults(handles: Sequence[ctypes.CDLL], symbol: str) -> list[bytes]:
    """Call a default-params function: memory after one call for each fill, or just the struct, or nothing."""
    function = find(handles, symbol)
    if function is None:
        return []
    if not returns_through_argument():
        function.argtypes, function.restype = (), _Oversize
        return [bytes(function())]
    function.argtypes, function.restype = (ctypes.c_void_p,), ctypes.c_void_p
    room = ctypes.create_string_buffer(_ROOM)
    passes: list[bytes] = []
    for fill in _FILLS:
        ctypes.memset(room, fill, _ROOM)
        function(room)
        passes.append(room.raw)
    return passes


def _extent(passes: Sequence[bytes]) -> tuple[int, list[int]]:
    """Return the end of the last byte written and the bytes before it that were left alone."""
    alone = {place for place, pair in enumerate(zip(*passes, strict=True)) if pair == _FILLS}
    written = max((place for place in range(_ROOM) if place not in alone), default=-1) + 1
    return written, sorted(place for place in alone if place < written)


def odd_defaults(layout: Layout, defaults: Mapping[str, bytes]) -> list[str]:
    """Name the fields of a layout whose known default value is not where the layout has them.

    Args:
        layout: it may lack some of the fields.
        defaults: the structs as the library fills them in; empty where it does not export quantize.
    """
    odd = []
    for struct, values in CANARIES.items():
        places = FIELDS[layout.name][struct]
        if not defaults[struct] and struct == "quantize":
            continue
        for field, allowed in values.items():
            offset, size = places.get(field, (0, 0))
            found = int.from_bytes(defaults[struct][offset : offset + size], sys.byteorder, signed=True)
            if size and found not in allowed:
                odd.append(field)
    return odd


def _parameters(handles: Sequence[ctypes.CDLL]) -> dict[str, int | None]:
    """Count the parameters of the sampler constructors that changed them; None where that cannot be told.

    Each is called so that by the newer order its last-n is 0, which makes a sampler that does nothing and is named
    so, and by the older one it is not. Nothing is read through the pointers either way.
    """
    int32, real, pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p
    penalties = (int32, int32, real, real, real), (64, 0, 1.5, 0.0, 0.0)
    dry = (pointer, real, real, int32, int32, pointer, pointer, pointer), (None, 1.5, 1.75, 1, 0, 1, None, None)
    counts = (
        ("llama_sampler_init_penalties", *penalties, {b"penalties": 4, b"?penalties": 5}),
        ("llama_sampler_init_dry", *dry, {b"dry": 8, b"?dry": 7}),
    )
    name_of, free = find(handles, "llama_sampler_name"), find(handles, "llama_sampler_free")
    found: dict[str, int | None] = {}
    for name, types, arguments, meanings in counts:
        function = find(handles, name)
        if None in (function, name_of, free) or sys.platform == "win32":  # there, a place is for either kind
            found[name] = None
            continue
        function.argtypes, function.restype = types, pointer
        name_of.argtypes, name_of.restype = (pointer,), ctypes.c_char_p
        free.argtypes, free.restype = (pointer,), None
        sampler = pointer(function(*arguments))
        found[name] = meanings.get(name_of(sampler)) if sampler else None
        free(sampler)
    return found
