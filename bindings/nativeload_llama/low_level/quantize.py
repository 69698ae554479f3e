"""How is a model written anew in fewer bits?

One rule: nothing reaches C that it cannot finish: types that need an importance matrix or can abort are refused, and
the new file takes its name when it is whole.
"""

from __future__ import annotations

import os

from nativeload_llama.errors import ModelError
from nativeload_llama.low_level.load import check_gguf
from nativeload_llama.low_level.written import written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.library import Api

_MAX_THREADS = 512  # GGML_MAX_N_THREADS
_NEED_IMATRIX = ("IQ1", "IQ2", "IQ3_XXS", "IQ3_XS", "Q2_K_S")
_ABORT = ("IQ3",)  # on weights beyond what half precision can hold, whatever the build


def model_quantize(
    api: Api,
    source: str,
    target: str,
    *,
    ftype: int | str,
    n_threads: int = 0,
    allow_requantize: bool = False,
    quantize_output_tensor: bool = True,
    only_copy: bool = False,
    pure: bool = False,
) -> None:
    """Quantize a GGUF file; it cannot be interrupted.

    Args:
        api: the library.
        source: the model file.
        target: the file to write; one that is there is replaced at the end.
        ftype: a member of llama_ftype, by number or by name, such as ``Q4_K_M``.
        n_threads: CPU threads, at most 512; 0 is one for each core.
        allow_requantize: also quantize tensors that are quantized already, which costs quality.
        quantize_output_tensor: quantize output.weight too.
        only_copy: change no type.
        pure: one type for all tensors; their rows must be whole blocks of it.

    Raises:
        NotInThisBuild: this library cannot quantize.
        ModelError: the source cannot be read, the target not be written, or llama.cpp refused (its words follow).
    """
    call = api.function("llama_model_quantize")
    params = api.function("llama_model_quantize_default_params")()
    word, params.ftype = _ftype(api, source, ftype)
    if not 0 <= n_threads <= _MAX_THREADS:
        raise ModelError(source, f"n_threads is {n_threads}, and must be between 0 and {_MAX_THREADS}")
    params.nthread = n_threads
    params.allow_requantize, params.only_copy, params.pure = bool(allow_requantize), bool(only_copy), bool(pure)
    params.quantize_output_tensor = bool(quantize_output_tensor)
    check_gguf(source)
    if pure:
        _check_rows(source, word)
    if os.path.exists(target) and os.path.samefile(source, target):
        raise ModelError(target, "the source and the target are the same file")
    with written(target) as place:
        api.log.clear()
        if call(os.fsencode(source), os.fsencode(place), api.ffi.new("llama_model_quantize_params *", params)) != 0:
            raise ModelError(source, api.log.said() or "llama.cpp could not quantize it and did not say why")


def _ftype(api: Api, source: str, ftype: int | str) -> tuple[str, int]:
    """Return the name and number of a type that can be written here.

    Raises:
        ModelError: this library has no such type, or it needs an importance matrix.
    """
    prefixes = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
    known: dict[str, int] = {}
    for name, number in api.ffi.typeof("enum llama_ftype").relements.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is not None:
            known[name.removeprefix(prefix)] = number
    word = ftype if isinstance(ftype, str) else next((word for word in known if known[word] == ftype), "")
    if word not in known:
        raise ModelError(source, f"ftype is {ftype!r}, and this library knows {', '.join(known)}")
    if word.startswith(_ABORT) and not word.startswith(_NEED_IMATRIX):
        raise ModelError(source, f"{word} is not offered: llama.cpp may abort on large weights")
    if word.startswith(_NEED_IMATRIX):
        raise ModelError(source, f"{word} needs an importance matrix, which is not offered here")
    return word, known[word]


def _check_rows(source: str, word: str) -> None:
    """Refuse rows that are no whole blocks: builds before b10068 abort or read past them.

    Raises:
        ModelError: naming the tensor; or the model is split, and the other files' rows are not known.
    """
    from nativeload_llama.gguf import TYPES, read

    blocks = {name: block for name, block, _ in TYPES.values()}
    block = blocks.get(word) or blocks.get(word.rpartition("_")[0]) or 256
    file = read(source)
    if int(file.metadata.get("split.count", 0)) > 1:
        raise ModelError(source, "pure: the model is split over several files")
    for tensor in file.tensors:
        if len(tensor.shape) > 1 and tensor.shape[0] % block:
            raise ModelError(source, f"pure: {tensor.name} has rows of {tensor.shape[0]}, and {word} blocks of {block}")
