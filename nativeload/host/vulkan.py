"""Which devices can Vulkan 1.2 use?

One rule: the loader library is asked for devices; a software rasteriser (llvmpipe, SwiftShader) is none.
"""

from __future__ import annotations

import ctypes
import sys

from nativeload.host.clibrary import CLibrary, decoded
from nativeload.host.facts import Gpu
from nativeload.variant import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARY = ("vulkan-1.dll",) if sys.platform == "win32" else ("libvulkan.so.1",)
_API_1_2 = 1 << 22 | 2 << 12  # VK_API_VERSION_1_2, the least that ggml's Vulkan backend takes
_TYPE_CPU = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
_PROPERTIES_BYTES = 4096  # VkPhysicalDeviceProperties has 824
_NAME_BYTES = 256


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("application_name", ctypes.c_char_p),
        ("application_version", ctypes.c_uint32),
        ("engine_name", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _Properties(ctypes.Structure):
    """The beginning of VkPhysicalDeviceProperties, with room for the rest."""

    _fields_ = (
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("device_type", ctypes.c_uint32),
        ("device_name", ctypes.c_char * _NAME_BYTES),
        ("rest", ctypes.c_char * _PROPERTIES_BYTES),
    )


def devices(notes: list[str], *, library: Sequence[str] = LIBRARY) -> tuple[Gpu, ...]:
    """Return the devices that are hardware, noting the others.

    Raises:
        DriverError: the loader is absent, or it or every driver refuses.
    """
    vulkan = CLibrary(*library)
    application = _ApplicationInfo(type=0, application_name=b"nativeload", api_version=_API_1_2)
    info = _InstanceCreateInfo(type=1, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    vulkan.call("vkCreateInstance", ctypes.byref(info), None, ctypes.byref(instance))
    try:
        found = [_properties(vulkan, handle) for handle in _handles(vulkan, instance)]
    finally:
        vulkan.function("vkDestroyInstance")(instance, None)
    return _usable(found, notes)


def _handles(vulkan: CLibrary, instance: ctypes.c_void_p) -> list[ctypes.c_void_p]:
    count = ctypes.c_uint32()
    vulkan.call("vkEnumeratePhysicalDevices", instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vulkan.call("vkEnumeratePhysicalDevices", instance, ctypes.byref(count), handles)
    return [ctypes.c_void_p(handle) for handle in handles[: count.value]]


def _properties(vulkan: CLibrary, handle: ctypes.c_void_p) -> _Properties:
    properties = _Properties()
    vulkan.function("vkGetPhysicalDeviceProperties")(handle, ctypes.byref(properties))
    return properties


def _usable(found: list[_Properties], notes: list[str]) -> tuple[Gpu, ...]:
    software, names = [], []
    for device in found:
        name = decoded(device.device_name)
        if device.device_type == _TYPE_CPU:
            software.append(name)
        elif device.api_version < _API_1_2:
            version = f"{device.api_version >> 22 & 0x7F}.{device.api_version >> 12 & 0x3FF}"
            notes.append(f"Vulkan: {name} offers Vulkan {version}, ggml needs 1.2")
        else:
            names.append(name)
    if not found:
        notes.append("Vulkan: no driver reports a device")
    elif len(software) == len(found):
        notes.append(f"Vulkan: only a software rasteriser ({', '.join(software)})")
    return tuple(Gpu(backend=Backend.VULKAN, index=index, name=name) for index, name in enumerate(names))
