"""Which devices can ROCm use?

One rule: AMD's HIP runtime is asked for devices; it obeys HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES
itself.
"""

from __future__ import annotations

import ctypes

from nativeload.host.clibrary import CLibrary, DriverError, decoded
from nativeload.host.facts import Gpu
from nativeload.variant import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARY = ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so")
_NAME_BYTES = 256


def devices(*, library: Sequence[str] = LIBRARY) -> tuple[Gpu, ...]:
    """Return the devices of the HIP runtime; never run on AMD hardware by this project.

    Raises:
        DriverError: the runtime is absent, refuses or has no device.
    """
    hip = CLibrary(*library)
    count = ctypes.c_int()
    hip.call("hipGetDeviceCount", ctypes.byref(count))
    if count.value < 1:
        raise DriverError(f"{hip.name} reports no device")
    return tuple(_device(hip, index) for index in range(count.value))


def _device(hip: CLibrary, index: int) -> Gpu:
    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    hip.call("hipDeviceGetName", name, ctypes.c_int(_NAME_BYTES), ctypes.c_int(index))
    hip.call("hipDeviceTotalMem", ctypes.byref(memory), ctypes.c_int(index))
    return Gpu(backend=Backend.ROCM, index=index, name=decoded(name.value), memory=memory.value)
