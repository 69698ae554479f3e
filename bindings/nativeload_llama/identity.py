"""Which model, build and options were these numbers computed with?

One rule: what is cheap to know and differs where the numbers would; it tells things apart and proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref

from nativeload_llama import low_level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nativeload_llama.library import Api
    from nativeload_llama.native import Native

_SAMPLES, _SAMPLE = 16, 4096  # of a file, and bytes of each
_COMPUTED_WITH = (
    "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast",
    "yarn_beta_slow", "yarn_orig_ctx", "type_k", "type_v", "swa_full",
)  # fmt: skip
_files: weakref.WeakKeyDictionary[Native, str] = weakref.WeakKeyDictionary()


def of_model(native: Native) -> dict[str, str]:
    """Return which model this is; the lock is held."""
    model = native.model
    if native not in _files:  # once: the file may be gone, or another one, later on
        _files[native] = fingerprint(model.path)
    return {
        "description": low_level.model_desc(model),
        "n_vocab": str(model.n_vocab),
        "n_params": str(low_level.model_n_params(model)),
        "size": str(low_level.model_size(model)),
        "metadata": digest(low_level.model_meta(model)),
        "file": _files[native],
    }


def of_build(api: Api) -> dict[str, str]:
    """Return which llama.cpp this is."""
    facts, chosen = api.loaded.facts, api.loaded.chosen
    return {
        "layout": api.layout.name,
        "library": chosen.build or ("" if os.sep in chosen.origin else chosen.origin),
        **{key: str(facts.get(key) or "") for key in ("llama_version", "ggml_version", "ggml_commit")},
    }


def of_options(native: Native, options: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a context's options the numbers depend on; the lock is held."""
    given = {name: str(options[name]) for name in _COMPUTED_WITH if options.get(name) is not None}
    metadata = low_level.model_meta(native.model)
    # A context that is longer than the one before a model was stretched has other positions in some models.
    original = metadata.get(f"{metadata.get('general.architecture')}.rope.scaling.original_context_length", "")
    if original.isdecimal() and native.contexts["text"].n_ctx > int(original):
        given["stretched"] = "yes"
    return given


def fingerprint(path: str) -> str:
    """Return a digest of a file's size and of some parts of it; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.sha256(b"%d" % size)
            for number in range(_SAMPLES):
                file.seek(size * number // _SAMPLES)
                found.update(file.read(_SAMPLE))
            return found.hexdigest()
    except (OSError, ValueError):
        return ""


def digest(value: object) -> str:
    """Return the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differing(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return in words how two identities differ, empty where they do not; a file that nobody could read is any."""
    keys = sorted(key for key in {*there, *here} if there.get(key, "") != here.get(key, ""))
    keys = [key for key in keys if key != "file" or (there.get(key) and here.get(key))]
    return "; ".join(f"{key} was {_short(there.get(key, ''))}, is {_short(here.get(key, ''))}" for key in keys)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:12]}...") if text else "not there"  # noqa: PLR2004 - a digest
