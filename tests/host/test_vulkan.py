"""Vulkan's devices, from a stand-in of its loader and, where asked for, from the real one."""

from __future__ import annotations

import pytest

from nativeload.host import vulkan
from nativeload.host.clibrary import DriverError
from nativeload.host.facts import Gpu
from nativeload.variant import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[..., str]


def test_hardware_counts_in_the_loaders_order(build: Build) -> None:
    """A software rasteriser beside it is left out without a word."""
    notes: list[str] = []
    found = vulkan.devices(notes, library=(build("vulkan", TYPES="2,4,1,"),))
    assert found == (
        Gpu(backend=Backend.VULKAN, index=0, name="discrete"),
        Gpu(backend=Backend.VULKAN, index=1, name="integrated"),
    )
    assert notes == []


def test_a_software_rasteriser_is_no_device(build: Build) -> None:
    notes: list[str] = []
    assert vulkan.devices(notes, library=(build("vulkan"),)) == ()
    assert notes == ["Vulkan: only a software rasteriser (llvmpipe (LLVM 15.0.6, 256 bits))"]


def test_a_device_of_vulkan_1_1_is_too_old(build: Build) -> None:
    notes: list[str] = []
    assert vulkan.devices(notes, library=(build("vulkan", TYPES="2,", API=1),)) == ()
    assert notes == ["Vulkan: discrete offers Vulkan 1.1, ggml needs 1.2"]


def test_no_device_at_all_is_said(build: Build) -> None:
    notes: list[str] = []
    assert vulkan.devices(notes, library=(build("vulkan", TYPES=""),)) == ()
    assert notes == ["Vulkan: no driver reports a device"]


def test_a_loader_without_drivers_refuses(build: Build) -> None:
    """VK_ERROR_INCOMPATIBLE_DRIVER."""
    with pytest.raises(DriverError, match=r"vkCreateInstance of .* failed with -9"):
        vulkan.devices([], library=(build("vulkan", CREATE="(-9)"),))


def test_an_absent_loader_is_said() -> None:
    with pytest.raises(DriverError, match=r"^libvulkan-none\.so\.1 not found$"):
        vulkan.devices([], library=("libvulkan-none.so.1",))


@pytest.mark.llvmpipe
def test_the_real_llvmpipe_is_refused_by_name() -> None:
    notes: list[str] = []
    assert vulkan.devices(notes) == ()
    assert len(notes) == 1
    assert notes[0].startswith("Vulkan: only a software rasteriser (llvmpipe")
