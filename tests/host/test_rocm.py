"""ROCm's devices, from a stand-in of the HIP runtime."""

from __future__ import annotations

import pytest

from nativeload.host import rocm
from nativeload.host.clibrary import DriverError
from nativeload.host.facts import Gpu
from nativeload.variant import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_runtime_names_its_devices(build: Callable[..., str]) -> None:
    first, second = rocm.devices(library=("libnone.so.7", build("hip", COUNT=2)))
    assert first == Gpu(backend=Backend.ROCM, index=0, name="AMD Instinct MI300X 0", memory=192 << 30)
    assert second.name == "AMD Instinct MI300X 1"


def test_a_runtime_without_devices_is_none(build: Callable[..., str]) -> None:
    with pytest.raises(DriverError, match=r"libhip\.so reports no device$"):
        rocm.devices(library=(build("hip", COUNT=0),))
    with pytest.raises(DriverError, match=r"hipGetDeviceCount of .* failed with 100"):
        rocm.devices(library=(build("hip", COUNT=0, STATUS=100),))
