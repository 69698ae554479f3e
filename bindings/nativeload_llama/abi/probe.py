"""What does an opened library show of the llama.h it was compiled with?

One rule: it runs in the probe child and calls only functions without arguments, whose signature cannot be
wrong. A struct is never passed by value before its layout is known.

On x86-64, with System V's and Windows' calling convention alike, a struct of this size is returned through a
pointer that the caller passes as a hidden first argument. Declaring that pointer shows which bytes the
library writes: those that still hold the fill after two calls with different fills are padding. Elsewhere the
defaults are taken as an oversized struct, and only their values are compared.
"""

from __future__ import annotations

import ctypes
import os
import sys

from nativeload_llama.abi import LAYOUTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from nativeload_llama.abi import Layout

_ROOM = 2048  # twelve times the largest of these structs
_FILLS = (0xA5, 0x5A)
_MINUS_ONE = int.from_bytes(b"\xbf\x80\x00\x00", "big", signed=True)  # the bits of -1.0f

# llama_*_default_params() of every build from 0.4.0-dev to 0.6.0-dev. The place of offload_kqv tells b10809
# from b11549, that of lazy_mode tells b10809 from the layout before it.
CANARIES: dict[str, dict[str, int]] = {
    "model": {
        "n_gpu_layers": -1,
        "split_mode": 1,
        "load_mode": -1,
        "lazy_mode": 1,
        "use_extra_bufts": 1,
    },
    "context": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_threads": 4,
        "rope_scaling_type": -1,
        "pooling_type": -1,
        "attention_type": -1,
        "flash_attn_type": -1,
        "yarn_ext_factor": _MINUS_ONE,
        "type_k": 1,
        "type_v": 1,
        "offload_kqv": 1,
        "op_offload": 1,
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
        Plain data: ``model_written``, ``model_holes``, ``context_written``, ``context_holes`` (None where the
        platform does not show them or the function is not exported), ``canaries``, ``exports``, ``missing``
        (layout name -> declared functions that are not exported), ``llama_version``, ``ggml_version``,
        ``ggml_commit``.
    """
    facts: dict[str, Any] = {}
    defaults: dict[str, bytes] = {}
    for struct in CANARIES:
        passes = _defaults(handles, f"llama_{struct}_default_params")
        defaults[struct] = passes[0] if passes else b""
        written, holes = _extent(passes) if len(passes) == len(_FILLS) else (None, None)
        facts |= {f"{struct}_written": written, f"{struct}_holes": holes}
    facts["canaries"] = {layout.name: _agrees(layout, defaults) for layout in LAYOUTS}
    symbols = sorted({symbol for layout in LAYOUTS for symbol in layout.required})
    facts["exports"] = {symbol: _find(handles, symbol) is not None for symbol in symbols}
    facts["missing"] = {
        layout.name: [name for name in layout.expected().FUNCTIONS if _find(handles, name) is None]
        for layout in LAYOUTS
    }
    return facts | {name: _text(handles, name) for name in ("llama_version", "ggml_version", "ggml_commit")}


def returns_through_argument() -> bool:
    """Whether the hidden pointer to a returned struct is an ordinary first argument here: on x86-64 only."""
    machine = os.environ.get("PROCESSOR_ARCHITECTURE", "") if sys.platform == "win32" else os.uname().machine
    return machine.lower() in {"x86_64", "amd64"} and ctypes.sizeof(ctypes.c_void_p) == 8  # noqa: PLR2004


def _find(handles: Sequence[ctypes.CDLL], symbol: str) -> Any:
    for handle in handles:
        try:
            return handle[symbol]  # unlike getattr, a fresh function each time: its types are ours
        except AttributeError:
            continue
    return None


def _text(handles: Sequence[ctypes.CDLL], symbol: str) -> str | None:
    function = _find(handles, symbol)
    if function is None:
        return None
    function.argtypes, function.restype = (), ctypes.c_char_p
    text = function()
    return None if text is None else text.decode("utf-8", "replace")


def _defaults(handles: Sequence[ctypes.CDLL], symbol: str) -> list[bytes]:
    """Call a default-params function: memory after one call for each fill, or just the struct, or nothing."""
    function = _find(handles, symbol)
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


def _agrees(layout: Layout, defaults: Mapping[str, bytes]) -> bool:
    """Whether every canary is found where this layout has its field."""
    expected = layout.expected()
    places = {"model": expected.MODEL_PARAMS, "context": expected.CONTEXT_PARAMS}
    for struct, values in CANARIES.items():
        for field, value in values.items():
            offset, size = places[struct][field]
            if int.from_bytes(defaults[struct][offset : offset + size], sys.byteorder, signed=True) != value:
                return False
    return True
