"""Which metadata may a caller have read in place of the file's?

One rule: only what cannot make llama.cpp abort. It asserts that shapes and counts fit the tensors, so whoever wants
other ones makes another file.

=====================================================  ======  ======================================================
key                                                    type    value
=====================================================  ======  ======================================================
``tokenizer.ggml.pre``                                 str     a pre-tokenizer that llama.cpp knows
``tokenizer.ggml.add_{bos,eos,sep}_token``             bool
``tokenizer.ggml.{add_space_prefix,                    bool
remove_extra_whitespaces}``
``tokenizer.ggml.<name>_token_id``                     int     a token
``general.name``                                       str
``<arch>.context_length``                              int     tokens, 1 or more
``<arch>.expert_used_count``                           int     1 to the model's number of experts
``<arch>.expert_weights_norm``                         bool
``<arch>.rope.scaling.type``                           str     none, linear, yarn or longrope
``<arch>.rope.scaling.original_context_length``        int     tokens, 1 or more
``<arch>.rope.scaling.finetuned``                      bool
``<arch>.rope.{freq_base,freq_base_swa}``              float   above 0
``<arch>.rope.scaling.{factor,attn_factor,             float   above 0
yarn_*}``
``<arch>.attention.layer_norm[_rms]_epsilon``          float   0 or more
``<arch>.{logit_scale,attention.scale,                 float   any finite number
expert_weights_scale,*_softcapping}``
=====================================================  ======  ======================================================
"""

from __future__ import annotations

import fnmatch
import math

from nativeload_llama.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nativeload_llama.library import Api

_SPACE = 127  # bytes of a key or a text in llama_model_kv_override, without the NUL
_LEAST, _LARGEST = 1e-30, 3e38  # as float32: above 0, and finite
_MAX_INT32 = 2**31 - 1
_TOKENIZER = (
    ("tokenizer.ggml.pre", str, None),
    ("tokenizer.ggml.add_bos_token", bool, None),
    ("tokenizer.ggml.add_eos_token", bool, None),
    ("tokenizer.ggml.add_sep_token", bool, None),
    ("tokenizer.ggml.add_space_prefix", bool, None),
    ("tokenizer.ggml.remove_extra_whitespaces", bool, None),
    ("tokenizer.ggml.?*_token_id", int, (0, _MAX_INT32)),
    ("general.name", str, None),
)
_MODEL = (
    ("context_length", int, (1, _MAX_INT32)),
    ("expert_used_count", int, (1, _MAX_INT32)),
    ("expert_weights_norm", bool, None),
    ("expert_weights_scale", float, (-_LARGEST, _LARGEST)),
    ("rope.scaling.type", str, ("none", "linear", "yarn", "longrope")),
    ("rope.scaling.original_context_length", int, (1, _MAX_INT32)),
    ("rope.scaling.finetuned", bool, None),
    ("rope.scaling.factor", float, (_LEAST, _LARGEST)),
    ("rope.scaling.attn_factor", float, (_LEAST, _LARGEST)),
    ("rope.scaling.yarn_?*", float, (_LEAST, _LARGEST)),
    ("rope.freq_base", float, (_LEAST, _LARGEST)),
    ("rope.freq_base_swa", float, (_LEAST, _LARGEST)),
    ("attention.layer_norm_epsilon", float, (0.0, _LARGEST)),
    ("attention.layer_norm_rms_epsilon", float, (0.0, _LARGEST)),
    ("attention.scale", float, (-_LARGEST, _LARGEST)),
    ("logit_scale", float, (-_LARGEST, _LARGEST)),
    ("?*_softcapping", float, (-_LARGEST, _LARGEST)),
)
_FIELDS: dict[type, tuple[str, str]] = {
    bool: ("LLAMA_KV_OVERRIDE_TYPE_BOOL", "val_bool"),
    int: ("LLAMA_KV_OVERRIDE_TYPE_INT", "val_i64"),
    float: ("LLAMA_KV_OVERRIDE_TYPE_FLOAT", "val_f64"),
    str: ("LLAMA_KV_OVERRIDE_TYPE_STR", "val_str"),
}


def kv_overrides(api: Api, path: str, given: Mapping[str, bool | float | str]) -> Any:
    """Return an array of llama_model_kv_override, ended by an empty key; whoever hands it to C keeps it.

    Raises:
        ModelError: a key that cannot be overridden, or a value that it cannot have.
    """
    array = api.ffi.new("struct llama_model_kv_override[]", len(given) + 1)
    tags = api.ffi.typeof("enum llama_model_kv_override_type").relements
    for place, (key, value) in zip(array, given.items(), strict=False):
        kind = _checked(api, path, key, value)
        tag, field = _FIELDS[kind]
        place.tag, place.key = tags[tag], _bytes(path, key, key)
        setattr(place, field, _bytes(path, key, value) if isinstance(value, str) else kind(value))
    return array


def _checked(api: Api, path: str, key: str, value: bool | float | str) -> type:
    """Return the type that C expects of a key.

    Raises:
        ModelError: no such key here, or not such a value.
    """
    _, _, rest = key.partition(".")
    for rows, name in ((_TOKENIZER, key), (_MODEL, rest)):
        for pattern, kind, allowed in rows:
            if fnmatch.fnmatchcase(name, pattern):
                _check_value(path, key, value, kind, allowed)
                if pattern == "expert_used_count":
                    _check_experts(api, path, key, value)
                return kind
    hint = "Those that can are listed in nativeload_llama.low_level.overrides."
    raise ModelError(path, f"kv_overrides: {key!r} cannot be overridden: llama.cpp may abort", hint=hint)


def _check_value(path: str, key: str, value: bool | float | str, kind: type, allowed: tuple[Any, Any] | Any) -> None:
    fits = isinstance(value, (float, int) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if fits and isinstance(value, str):
        fits = allowed is None or value in allowed
    elif fits and allowed is not None:
        fits = math.isfinite(value) and allowed[0] <= value <= allowed[1]  # type: ignore[arg-type]
    if not fits:
        bounds = ""
        if allowed is not None:
            bounds = f" among {', '.join(allowed)}" if kind is str else f" between {allowed[0]} and {allowed[1]}"
        raise ModelError(path, f"kv_overrides: {key} is {value!r}, and must be {kind.__name__}{bounds}")


def _bytes(path: str, key: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if len(raw) > _SPACE or b"\0" in raw:
        raise ModelError(path, f"kv_overrides: {key!r}: a key or text has at most {_SPACE} bytes, and no NUL")
    return raw


def _check_experts(api: Api, path: str, key: str, value: Any) -> None:
    """Refuse more experts than the model has: llama.cpp asserts it."""
    from nativeload_llama.low_level.load import model_load_from_file
    from nativeload_llama.low_level.model import model_free, model_meta_val_str

    model = model_load_from_file(api, path, vocab_only=True)
    try:
        most = model_meta_val_str(model, key.replace("expert_used_count", "expert_count")) or "0"
    finally:
        model_free(model)
    if not most.isdigit() or value > int(most):
        raise ModelError(path, f"kv_overrides: {key} is {value}, and the model has {most} experts")
