"""How does a GGUF file become a model?

One rule: every file that C will read is looked at first, and every number is checked: C aborts on the unexpected.
"""

from __future__ import annotations

import math
import operator
import os
import stat

from nativeload_llama.errors import AbortedError, ModelError
from nativeload_llama.low_level.handles import Model
from nativeload_llama.low_level.tokenizing import recurses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypedDict, Unpack

    from nativeload_llama.library import Api, NativeLog

    class LoadOptions(TypedDict, total=False):
        """What `model_load_from_file` takes by name."""

        n_gpu_layers: int
        split_mode: int | None
        main_gpu: int | None
        tensor_split: Sequence[float] | None
        vocab_only: bool
        use_mmap: bool
        use_mlock: bool
        check_tensors: bool
        kv_overrides: Mapping[str, bool | int | float | str] | None
        use_extra_bufts: bool
        progress: Callable[[float], bool | None] | None


_VOCAB_NONE = 0  # LLAMA_VOCAB_TYPE_NONE: tokenize() on it aborts
_MAX_INT32 = 2**31 - 1
_PRE = "tokenizer.ggml.pre"
_DEFAULTS: LoadOptions = {
    "n_gpu_layers": -1,
    "split_mode": None,
    "main_gpu": None,
    "tensor_split": None,
    "vocab_only": False,
    "use_mmap": True,
    "use_mlock": False,
    "check_tensors": False,
    "kv_overrides": None,
    "use_extra_bufts": True,
    "progress": None,
}


def model_load_from_file(api: Api, path: str, **options: Unpack[LoadOptions]) -> Model:
    """Load a GGUF file; of a split model the first one, and the others beside it.

    Args:
        api: the library.
        path: the model file.
        **options:
            n_gpu_layers: layers to keep on GPUs; -1 (default) is all.
            split_mode: how to use several GPUs, a member of llama_split_mode.
            main_gpu: the GPU for what is not split, from 0.
            tensor_split: the share of each GPU, in any unit; at most llama_max_devices() of them.
            vocab_only: load no weights: the model can tokenize, and nothing else.
            use_mmap: map the file instead of reading it (default).
            use_mlock: keep the weights from being swapped out.
            check_tensors: look for NaN and the like in all weights; slow.
            kv_overrides: metadata to read in place of the file's: see `nativeload_llama.low_level.overrides`.
            use_extra_bufts: repack weights for this processor where that is faster (default).
            progress: called with the fraction loaded, 0 to 1; False ends the load. What it raises ends it too.

    Raises:
        ModelError: not there, not GGUF, refused by llama.cpp (its own words follow), or an option that cannot be.
        AbortedError: ``progress`` said so.
    """
    return _load(api, [path], options, by_splits=False)


def model_load_from_splits(api: Api, paths: Sequence[str], **options: Unpack[LoadOptions]) -> Model:
    """Load a model from its split files, whatever their names; options as of `model_load_from_file`.

    Args:
        api: the library.
        paths: all files, in order.
        **options: as of `model_load_from_file`.

    Raises:
        ModelError: as `model_load_from_file`, of any of the files.
        AbortedError: ``progress`` said so.
    """
    if not paths:
        raise ModelError("splits", "a model needs at least one file")
    return _load(api, list(paths), options, by_splits=True)


def _load(api: Api, paths: list[str], options: LoadOptions, *, by_splits: bool) -> Model:
    if unknown := options.keys() - _DEFAULTS.keys():
        raise TypeError(f"a model cannot be loaded with the option {min(unknown)!r}")
    given: LoadOptions = {**_DEFAULTS, **options}
    for path in paths:
        check_gguf(path)
    path = paths[0]
    params, keep = _params(api, path, given)
    progress = _Progress(given["progress"], api.log)
    callback = api.ffi.callback("llama_progress_callback", progress, error=False, onerror=progress.failed)
    params.progress_callback = callback
    api.log.clear()
    if by_splits:
        names = [api.ffi.new("char[]", os.fsencode(name)) for name in paths]
        files = api.ffi.new("const char *[]", names)
        pointer = api.function("llama_model_load_from_splits")(files, len(names), params)
    else:
        pointer = api.function("llama_model_load_from_file")(os.fsencode(path), params)
    _conclude(api, path, pointer, progress)
    return _model(api, path, pointer, given, keep)


def _model(api: Api, path: str, pointer: Any, options: LoadOptions, keep: list[Any]) -> Model:
    """Return the handle of a loaded model, with what must be known of its vocabulary.

    Raises:
        ModelError: an override names a token that is not there; nothing stays loaded.
    """
    vocab = api.function("llama_model_get_vocab")(pointer)
    empty = api.function("llama_vocab_type")(vocab) == _VOCAB_NONE
    n_vocab = 0 if empty else int(api.function("llama_vocab_n_tokens")(vocab))
    overrides = options["kv_overrides"] or {}
    pre_tokenizer = overrides.get(_PRE) or _meta(api, pointer, _PRE)
    model = Model(
        api,
        path,
        pointer,
        vocab,
        n_vocab,
        vocab_only=bool(options["vocab_only"]),
        extra_bufts=bool(options["use_extra_bufts"]),
        recurses=recurses(api, vocab, str(pre_tokenizer)),
        keep=keep,
    )
    for key, value in overrides.items():
        if key.endswith("_token_id") and int(value) >= n_vocab:  # llama.cpp would leave it at a warning
            api.function("llama_model_free")(pointer)
            raise ModelError(path, f"kv_overrides: {key} is {value}, and the vocabulary has {n_vocab} tokens")
    return model


def _meta(api: Api, pointer: Any, key: str) -> str:
    buffer = api.ffi.new("char[128]")
    api.function("llama_model_meta_val_str")(pointer, key.encode(), buffer, 128)
    return str(api.ffi.string(buffer).decode("utf-8", "replace"))


class _Progress:
    """What C calls after each tensor. It is called also where nobody asked, so that Ctrl-C can end a load."""

    def __init__(self, asked: Callable[[float], bool | None] | None, log: NativeLog) -> None:
        self.asked, self.cancelled, self._log = asked, False, log
        self.error: BaseException | None = None

    def __call__(self, fraction: float, _: Any) -> bool:
        self.error = self.error or self._log.interruption()
        if self.error is None and not self.cancelled and self.asked is not None:
            answer = self.asked(fraction)
            self.cancelled = answer is not None and not answer
        return self.error is None and not self.cancelled

    def failed(self, _kind: Any, error: BaseException, _traceback: Any) -> None:
        """Keep what was raised; C is told False."""
        self.error = error


def _conclude(api: Api, path: str, pointer: Any, progress: _Progress) -> None:
    """Raise what ended a load; nothing stays loaded then."""
    loaded = pointer != api.ffi.NULL
    progress.error = progress.error or api.log.interruption()
    if loaded and progress.error is None:
        return
    if loaded:
        api.function("llama_model_free")(pointer)
    if progress.error is not None:
        raise progress.error
    if progress.cancelled:
        raise AbortedError(f"{path}: the load was ended by its progress callback")
    raise ModelError(path, api.log.said() or "llama.cpp could not load it and did not say why")


def _params(api: Api, path: str, options: LoadOptions) -> tuple[Any, list[Any]]:
    """Return llama_model_params, and what they point to."""
    params = api.function("llama_model_default_params")()
    keep: list[Any] = []
    _set_devices(api, path, params, options, keep)
    _set_reading(api, path, params, mmap=options["use_mmap"], mlock=options["use_mlock"])
    for name in ("vocab_only", "check_tensors", "use_extra_bufts"):
        setattr(params, name, bool(options[name]))
    if options["kv_overrides"]:
        from nativeload_llama.low_level.overrides import kv_overrides  # few ask for them

        keep.append(kv_overrides(api, path, options["kv_overrides"]))
        params.kv_overrides = keep[-1]
    return params, keep


def _set_devices(api: Api, path: str, params: Any, options: LoadOptions, keep: list[Any]) -> None:
    params.n_gpu_layers = _number(path, "n_gpu_layers", options["n_gpu_layers"], -1, _MAX_INT32)
    if (mode := options["split_mode"]) is not None:
        known = api.ffi.typeof("enum llama_split_mode").elements
        if mode not in known:
            words = ", ".join(f"{number} ({name})" for number, name in sorted(known.items()))
            raise ModelError(path, f"split_mode is {mode!r}, and this library knows {words}")
        params.split_mode = mode
    if (gpu := options["main_gpu"]) is not None:
        gpus = sum(device.kind in {"gpu", "igpu"} for device in api.loaded.devices)
        params.main_gpu = _number(path, "main_gpu", gpu, 0, max(gpus - 1, 0))
    if (split := options["tensor_split"]) is not None:
        most = int(api.function("llama_max_devices")())
        shares = [float(share) for share in split]
        if len(shares) > most or not all(math.isfinite(share) and share >= 0 for share in shares):
            raise ModelError(path, f"tensor_split is {shares}, and must be at most {most} numbers, each 0 or more")
        keep.append(api.ffi.new("float[]", shares + [0.0] * (most - len(shares))))  # C reads all of them
        params.tensor_split = keep[-1]


def _number(path: str, name: str, value: int, least: int, most: int) -> int:
    number = operator.index(value)
    if not least <= number <= most:
        raise ModelError(path, f"{name} is {number}, and must be between {least} and {most}")
    return number


def _set_reading(api: Api, path: str, params: Any, *, mmap: bool, mlock: bool) -> None:
    """Say how the file is read, as this library's llama.h has it: two booleans, or one mode."""
    if mlock and not api.function("llama_supports_mlock")():
        raise ModelError(path, "use_mlock: this library cannot keep memory from being swapped out")
    fields = dict(api.ffi.typeof("struct llama_model_params").fields)
    if "load_mode" not in fields:
        params.use_mmap, params.use_mlock = bool(mmap), bool(mlock)
        return
    word = {(False, False): "NONE", (True, False): "", (False, True): "MLOCK", (True, True): "MMAP_MLOCK"}
    if mode := word[bool(mmap), bool(mlock)]:  # the default maps, except where that is known to be worse
        modes = fields["load_mode"].type.relements
        params.load_mode = modes.get(f"LLAMA_LOAD_MODE_{mode}", modes["LLAMA_LOAD_MODE_MLOCK"])


def check_gguf(path: str) -> None:
    """Refuse a file that is no GGUF file, or one that llama.cpp would abort on.

    Raises:
        ModelError: it cannot be read, or why not.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ModelError(path, "a directory" if stat.S_ISDIR(mode) else "not a regular file")
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(path, error.strerror or str(error)) from error
    except ValueError as error:  # a NUL byte
        raise ModelError(repr(path), str(error)) from error
    if magic != b"GGUF":
        raise ModelError(path, "not a GGUF file", hint="Models for llama.cpp end in .gguf.")
    from nativeload_llama.gguf import fault  # struct and mmap are not needed to open a library

    if reason := fault(path):
        raise ModelError(path, reason, hint="The file is damaged: fetch it again.")
