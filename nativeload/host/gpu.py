"""Which GPUs does this machine offer?

One rule: on Linux a device node comes first; without one, no driver library is opened and no driver module
imported.
"""

from __future__ import annotations

import os
import sys

from nativeload.host import sysctl
from nativeload.host.facts import Gpu
from nativeload.host.notes import attempt
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload.host.facts import Nvidia

    Found = tuple[Nvidia | None, tuple[Gpu, ...]]

DEV = "/dev"
NVIDIA_NODES = ("nvidiactl", "nvidia0", "dxg", "nvmap", "nvhost-ctrl")  # the driver, WSL, and two of Jetson
ROCM_NODE = "kfd"
_TITLES = {Backend.CUDA: "CUDA", Backend.VULKAN: "Vulkan", Backend.METAL: "Metal", Backend.ROCM: "ROCm"}


def detect(platform: Platform, notes: list[str], *, dev: str = DEV) -> Found:
    """Return the NVIDIA driver and the devices of every backend, and note why each other backend has none."""
    nothing: Found = (None, ())
    no_gpus: tuple[Gpu, ...] = ()
    nvidia, cuda = attempt("CUDA", lambda: _cuda(platform, notes, dev), nothing, notes)
    rocm = attempt("ROCm", lambda: _rocm(platform, notes, dev), no_gpus, notes)
    metal = attempt("Metal", lambda: _metal(platform, notes), no_gpus, notes)
    vulkan = attempt("Vulkan", lambda: _vulkan(platform, notes, dev), no_gpus, notes)
    return nvidia, (*cuda, *rocm, *metal, *vulkan)


def why_no(backend: Backend, notes: tuple[str, ...]) -> str:
    """Return what the notes say of a backend, or that they say nothing."""
    told = [note.partition(":")[2].strip() for note in notes if note.partition(":")[0] in {_TITLES[backend], "GPU"}]
    return "; ".join(told) or f"no {_TITLES[backend]} device was found"


def _cuda(platform: Platform, notes: list[str], dev: str) -> Found:
    if platform.is_linux and not any(os.path.exists(f"{dev}/{node}") for node in NVIDIA_NODES):
        notes.append(f"CUDA: no NVIDIA device node ({dev}/{NVIDIA_NODES[0]})")
        return None, ()
    if _is_macos(platform):
        notes.append("CUDA: macOS has no NVIDIA driver")
        return None, ()
    from nativeload.host import nvidia

    return nvidia.devices(notes)


def _rocm(platform: Platform, notes: list[str], dev: str) -> tuple[Gpu, ...]:
    if not platform.is_linux:
        notes.append("ROCm: looked for on Linux only")
        return ()
    if not os.path.exists(f"{dev}/{ROCM_NODE}"):
        notes.append(f"ROCm: no AMD compute device node ({dev}/{ROCM_NODE})")
        return ()
    from nativeload.host import rocm

    return rocm.devices()


def _vulkan(platform: Platform, notes: list[str], dev: str) -> tuple[Gpu, ...]:
    if _is_macos(platform):
        notes.append("Vulkan: not looked for on macOS, which has Metal")
        return ()
    if platform.is_linux and not _has_render_node(dev):
        notes.append(f"Vulkan: no GPU device node ({dev}/dri/renderD*)")
        return ()
    from nativeload.host import vulkan

    return vulkan.devices(notes)


def _metal(platform: Platform, notes: list[str]) -> tuple[Gpu, ...]:
    """Name the GPU of Apple silicon, which always has one; never run by this project's own tests."""
    if platform is not Platform.MACOS_ARM64 or sys.platform != "darwin":
        notes.append("Metal: looked for on Apple silicon only")
        return ()
    return (Gpu(backend=Backend.METAL, index=0, name=sysctl.text("machdep.cpu.brand_string") or "Apple GPU"),)


def _has_render_node(dev: str) -> bool:
    """Return whether a GPU is there: a render node, any NVIDIA device (they need no /dev/dri) or WSL's."""
    if os.path.isdir(f"{dev}/dri") and any(name.startswith("renderD") for name in os.listdir(f"{dev}/dri")):
        return True
    return any(os.path.exists(f"{dev}/{node}") for node in ("nvidiactl", "nvidia0", "dxg"))


def _is_macos(platform: Platform) -> bool:
    return platform in {Platform.MACOS_ARM64, Platform.MACOS_X86_64}
