"""Which llama.cpp is this, and what can it compute on?

One rule: ggml is never left to search for backends; what is registered is what nativeload registered.
"""

from __future__ import annotations

from nativeload.errors import ConfigError, NotInThisBuild
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload_llama.library import Api


class Device(Value, kw_only=True):
    """A compute device that ggml registered.

    Attributes:
        name: ggml's name, such as ``CPU`` or ``CUDA0``.
        description: the hardware's name.
        type: a member of ggml_backend_dev_type: 0 CPU, 1 GPU, 2 integrated GPU, 3 accelerator.
        memory_free: bytes; 0 where the backend does not say.
        memory_total: bytes; 0 where the backend does not say.
    """

    name: str
    description: str
    type: int
    memory_free: int
    memory_total: int


def version(api: Api) -> str:
    """Return llama_version(), such as ``0.5.0-dev``."""
    return _string(api, api.function("llama_version")())


def print_system_info(api: Api) -> str:
    """Return what each backend says of itself: the processor's features, the GPU architectures."""
    return _string(api, api.function("llama_print_system_info")())


def _string(api: Api, pointer: Any) -> str:
    return str(api.ffi.string(pointer).decode("utf-8", "replace")) if pointer != api.ffi.NULL else ""


def max_devices(api: Api) -> int:
    """Return how many devices one model can be spread over."""
    return int(api.function("llama_max_devices")())


def supports_mmap(api: Api) -> bool:
    """Whether model files can be mapped."""
    return bool(api.function("llama_supports_mmap")())


def supports_mlock(api: Api) -> bool:
    """Whether weights can be kept from being swapped out."""
    return bool(api.function("llama_supports_mlock")())


def supports_gpu_offload(api: Api) -> bool:
    """Whether a GPU is registered."""
    return bool(api.function("llama_supports_gpu_offload")())


def supports_rpc(api: Api) -> bool:
    """Whether the backend for other machines is registered."""
    return bool(api.function("llama_supports_rpc")())


def time_us(api: Api) -> int:
    """Return llama.cpp's clock, in microseconds."""
    return int(api.function("llama_time_us")())


def numa_init(api: Api, strategy: int) -> None:
    """Tell the CPU backend how to use NUMA nodes; the first call counts.

    Args:
        api: the library.
        strategy: a member of ggml_numa_strategy: 0 off, 1 distribute, 2 isolate, 3 numactl, 4 mirror.

    Raises:
        ConfigError: no such strategy, or no CPU backend to tell.
    """
    known = api.ffi.typeof("enum ggml_numa_strategy")
    if strategy not in known.elements or known.elements[strategy].endswith("_COUNT"):
        raise ConfigError("strategy", f"{strategy!r} is not between 0 and {len(known.elements) - 2}")
    if not any(device.kind == "cpu" for device in api.loaded.devices):
        raise ConfigError("strategy", "there is no CPU backend to tell it")
    api.function("llama_numa_init")(strategy)


def devices(api: Api) -> tuple[Device, ...]:
    """Return the compute devices, and the memory they have now; a GPU may be woken up by the question.

    Raises:
        NotInThisBuild: the library hides ggml's functions.
    """
    count, get = _ggml(api, "ggml_backend_dev_count"), _ggml(api, "ggml_backend_dev_get")
    return tuple(_device(api, get(number)) for number in range(count()))


def _device(api: Api, pointer: Any) -> Device:
    free, total = api.ffi.new("size_t *"), api.ffi.new("size_t *")
    _ggml(api, "ggml_backend_dev_memory")(pointer, free, total)
    return Device(
        name=_string(api, _ggml(api, "ggml_backend_dev_name")(pointer)),
        description=_string(api, _ggml(api, "ggml_backend_dev_description")(pointer)),
        type=int(_ggml(api, "ggml_backend_dev_type")(pointer)),
        memory_free=int(free[0]),
        memory_total=int(total[0]),
    )


def _ggml(api: Api, name: str) -> Any:
    """Return a function of ggml: it may lie in a file of its own, and Windows looks into one file alone."""
    try:
        return api.function(name)
    except NotInThisBuild as missing:
        for handle in reversed(api.loaded.handles):
            try:
                return getattr(api.ffi.dlopen(api.ffi.cast("void *", handle._handle)), name)
            except AttributeError:
                continue
        raise missing from None
