"""Which NVIDIA driver is there, and which of its devices may this process use?

One rule: the driver's own libraries answer: NVML, which starts nothing on the device, else libcuda. Never a
toolkit's folder, a stub or the text of nvidia-smi.
"""

from __future__ import annotations

import ctypes
import os
import sys

from nativeload.host.clibrary import CLibrary, DriverError, decoded
from nativeload.host.facts import Gpu, Nvidia
from nativeload.host.notes import one_line
from nativeload.value import replace
from nativeload.variant import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Answer = tuple[Nvidia, tuple[Gpu, ...]]

NVML = ("nvml.dll",) if sys.platform == "win32" else ("libnvidia-ml.so.1",)
CUDA = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1",)
MODULE_VERSION = "/sys/module/nvidia/version"
_NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE and NVML_DEVICE_UUID_V2_BUFFER_SIZE
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_INDEX_DIGITS = 4


def devices(
    notes: list[str],
    *,
    nvml: Sequence[str] = NVML,
    cuda: Sequence[str] = CUDA,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Nvidia | None, tuple[Gpu, ...]]:
    """Return the driver and its visible devices.

    libcuda is asked only where NVML fails or counts devices otherwise than CUDA: it takes 0.1 s and more, and
    freezes CUDA_VISIBLE_DEVICES for this process.
    """
    every: Answer | None = None
    try:
        every = from_nvml(nvml, environ)
    except DriverError as error:
        notes.append(f"CUDA: {error}")
    if every and counts_like_cuda(environ, every[1]):
        return _only_visible(every, notes)
    try:
        return from_cuda(cuda, environ, notes)
    except DriverError as error:
        notes.append(f"CUDA: {error}")
    return _only_visible(every, notes) if every else (None, ())


def from_nvml(names: Sequence[str], environ: Mapping[str, str]) -> Answer:
    """Ask NVML for the driver and all devices it has, visible to CUDA or not, in the order of the PCI bus."""
    nvml = CLibrary(*names, error_text="nvmlErrorString")
    nvml.call("nvmlInit_v2")
    try:
        version, count = ctypes.c_int(), ctypes.c_uint()
        driver = ctypes.create_string_buffer(_NAME_BYTES)
        nvml.call("nvmlSystemGetDriverVersion", driver, ctypes.c_uint(_NAME_BYTES))
        nvml.call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(version))
        nvml.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        gpus = tuple(_nvml_device(nvml, index) for index in range(count.value))
        return _driver(decoded(driver.value), version.value, environ), gpus
    finally:
        nvml.function("nvmlShutdown")()


def from_cuda(names: Sequence[str], environ: Mapping[str, str], notes: list[str]) -> Answer:
    """Ask libcuda for the driver and the visible devices; it obeys CUDA_VISIBLE_DEVICES itself."""
    cuda = CLibrary(*names)
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.call("cuDriverGetVersion", ctypes.byref(version))
    nvidia = _driver(_module_version(), version.value, environ)
    status = cuda.function("cuInit")(ctypes.c_uint(0))
    if status == _NO_DEVICE:
        notes.append(f"CUDA: the driver shows no device (CUDA_VISIBLE_DEVICES={nvidia.visible!r})")
        return nvidia, ()
    if status:
        raise DriverError(f"cuInit of {cuda.name} failed with {status}")
    cuda.call("cuDeviceGetCount", ctypes.byref(count))
    return nvidia, tuple(_cuda_device(cuda, index) for index in range(count.value))


def visible_positions(visible: str | None, uuids: Sequence[str | None]) -> tuple[int, ...]:
    """Return the positions of the devices that CUDA_VISIBLE_DEVICES leaves, in its order.

    As CUDA does: unset leaves all, indices and GPU-uuid prefixes may be mixed, the first word that fits no
    device (or fits two) ends the list, and a device named twice leaves none.
    """
    if visible is None:
        return tuple(range(len(uuids)))
    chosen: list[int] = []
    for word in map(str.strip, visible.split(",")):
        if word.isascii() and word.isdecimal() and len(word) <= _INDEX_DIGITS:
            fits = [int(word)] if int(word) < len(uuids) else []
        else:
            fits = [i for i, uuid in enumerate(uuids) if word.startswith("GPU-") and (uuid or "").startswith(word)]
        if len(fits) != 1:
            break
        if fits[0] in chosen:
            return ()
        chosen += fits
    return tuple(chosen)


def counts_like_cuda(environ: Mapping[str, str], gpus: Sequence[Gpu]) -> bool:
    """Return whether NVML's numbers mean the same devices as the words of CUDA_VISIBLE_DEVICES.

    NVML counts along the PCI bus, CUDA from the fastest device on unless CUDA_DEVICE_ORDER says otherwise;
    among devices of one model that makes no difference to what can run. Slices of a device (MIG) only CUDA
    can tell.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    if "MIG-" in visible:
        return False
    has_index = any(word.strip().isdecimal() for word in visible.split(","))
    same = len({gpu.name for gpu in gpus}) <= 1
    return same or not has_index or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


def _only_visible(answer: Answer, notes: list[str]) -> Answer:
    nvidia, every = answer
    positions = visible_positions(nvidia.visible, [gpu.uuid for gpu in every])
    if not every:
        notes.append("CUDA: the driver has no device")
    elif not positions:
        notes.append(f"CUDA: CUDA_VISIBLE_DEVICES={nvidia.visible!r} hides every device")
    return nvidia, tuple(_renumbered(every[position], index) for index, position in enumerate(positions))


def _renumbered(gpu: Gpu, index: int) -> Gpu:
    return replace(gpu, index=index)


def _driver(driver: str, version: int, environ: Mapping[str, str]) -> Nvidia:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    cuda = (version // 1000, version % 1000 // 10)  # 13020 is CUDA 13.2
    return Nvidia(driver=driver, cuda=cuda, visible=None if visible is None else one_line(visible))


def _nvml_device(nvml: CLibrary, index: int) -> Gpu:
    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    name, uuid = (ctypes.create_string_buffer(_NAME_BYTES) for _ in range(2))
    nvml.call("nvmlDeviceGetName", handle, name, ctypes.c_uint(_NAME_BYTES))
    nvml.call("nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(_NAME_BYTES))
    nvml.call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
    memory = (ctypes.c_uint64 * 3)()  # nvmlMemory_t: total, free, used
    unknown = nvml.function("nvmlDeviceGetMemoryInfo")(handle, ctypes.byref(memory))  # Jetson shares the CPU's
    return Gpu(
        backend=Backend.CUDA,
        index=index,
        name=decoded(name.value),
        compute_capability=(major.value, minor.value),
        memory=None if unknown else memory[0],
        uuid=decoded(uuid.value),
    )


def _cuda_device(cuda: CLibrary, index: int) -> Gpu:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    cuda.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
    cuda.call("cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), device)
    cuda.call("cuDeviceGetAttribute", ctypes.byref(major), ctypes.c_int(_MAJOR), device)
    cuda.call("cuDeviceGetAttribute", ctypes.byref(minor), ctypes.c_int(_MINOR), device)
    cuda.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    capability = (major.value, minor.value)
    return Gpu(
        backend=Backend.CUDA,
        index=index,
        name=decoded(name.value),
        compute_capability=capability,
        memory=memory.value,
    )


def _module_version() -> str:
    try:
        with open(MODULE_VERSION, encoding="ascii", errors="replace") as file:
            return one_line(file.read()).strip()
    except OSError:  # Jetson, WSL: another kernel module, or none
        return ""
