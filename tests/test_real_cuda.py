"""A real CUDA backend and NVIDIA's real runtime wheels on a machine without a GPU: all up to the missing driver."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.hub import Hub
from tests.releases import REPO, release
from tests.scenarios import run
from tests.test_real_bundles import NPM, NPM_CUDA, fetched

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real_bundle

WANTS = ("libcublas.so.13", "libcuda.so.1", "libcudart.so.13")
NEEDS = (
    "nvidia :: cuda_version_lower_bound :: 13.0",
    "nvidia :: sm_arch :: 86_real",
    "nvidia :: sm_arch :: 90_virtual",
)

# Only the driver's answer is composed: a card, and a driver for CUDA 13.1. Files, wheels and loader are real.
LOAD = """
    import sys, warnings
    from nativeload import Host, NativeLibraryConfig
    from nativeload.host import Gpu, Nvidia
    from nativeload.value import replace
    from nativeload.variant import Backend
    card = Gpu(backend=Backend.CUDA, index=0, name="a card", compute_capability=(9, 0))
    host = replace(Host.detect(), gpus=(card,), nvidia=Nvidia(driver="590.44", cuda=(13, 1)))
    Host.detect = classmethod(lambda cls, **_: host)
    sys.path += [folder for folder in os.environ["WHEELS"].split(os.pathsep) if folder]
    config = NativeLibraryConfig().with_cuda()
    if os.environ.get("LIBRARY"):
        config = config.with_library(os.environ["LIBRARY"])
    else:
        config = config.with_pin(os.environ["PIN"], repo=os.environ["REPO"], commit=os.environ["COMMIT"])
        config = config.with_auto_download(endpoint=os.environ["ENDPOINT"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = attempt(config.load)
    say(said | {"warnings": [str(item.message) for item in caught]})
"""


@pytest.fixture(autouse=True)
def _no_gpu() -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has an NVIDIA GPU, and the tests are about one that has none")


def load(wheels: str = "", **more: Any) -> dict[str, Any]:
    """Load with CUDA preferred, with these folders of installed wheels on the path."""
    said: dict[str, Any] = run(LOAD, WHEELS=wheels, LD_LIBRARY_PATH="", **more)
    return said


def reasons(said: dict[str, Any], part: str) -> list[str]:
    """Return what was decided about the candidates with a part in their name."""
    return [item["reason"] for item in said["decisions"] if part in item["candidate"]]


def test_with_nvidias_wheels_only_the_driver_is_missing(binaries: Path) -> None:
    """The runtime is found in the wheels and opened in the probe; what fails then is libcuda.so.1, and nothing else."""
    said = load(str(fetched(binaries, "nvidia-13")), LIBRARY=fetched(binaries, NPM_CUDA))
    assert [item["backend"] for item in said["devices"]] == ["cpu"]
    (found,) = reasons(said, ": libggml-cuda.so")
    assert found == "CUDA 13 runtime from nvidia-cublas 13.10.0.20 and nvidia-cuda-runtime 13.5.37"
    tried = reasons(said, "[cuda + ")
    assert tried
    assert all("libcuda.so.1: cannot open shared object file" in reason for reason in tried)
    assert not any(name in reason for reason in tried for name in ("libcudart", "libcublas"))
    (warning,) = said["warnings"]
    assert "libcuda.so.1" in warning


def test_without_a_runtime_the_reason_says_what_to_install(binaries: Path) -> None:
    """No probe is needed to know it; the CPU serves."""
    said = load(LIBRARY=fetched(binaries, NPM_CUDA))
    assert said["gpu"] is None
    (reason,) = reasons(said, ": libggml-cuda.so")
    assert "libcublas.so.13" in reason
    assert "pip install nvidia-cublas" in reason
    (warning,) = said["warnings"]
    assert "pip install nvidia-cublas" in warning


def test_a_runtime_of_another_major_is_none(binaries: Path) -> None:
    """CUDA 12's wheels do nothing for a backend of CUDA 13."""
    said = load(str(fetched(binaries, "nvidia-12")), LIBRARY=fetched(binaries, NPM_CUDA))
    (reason,) = reasons(said, ": libggml-cuda.so")
    assert "libcublas.so.13" in reason


def test_a_cuda_set_without_a_runtime_here_is_not_fetched(binaries: Path, tmp_path: Path) -> None:
    """160 MB that could not run stay where they are; with the wheels there they come."""
    sets = {"linux-x86_64": fetched(binaries, NPM), "linux-x86_64+cuda13": fetched(binaries, NPM_CUDA)}
    made = release(sets, wants={"libggml-cuda.so": WANTS}, requirements={"libggml-cuda.so": NEEDS})
    with Hub(tmp_path / "hub") as hub:
        made.push(hub)
        words = {"PIN": made.pin, "REPO": REPO, "COMMIT": made.commit, "ENDPOINT": hub.url}
        said = load(**words)
        assert said["gpu"] is None
        assert hub.gets("libggml-cuda.so") == []
        said = load(str(fetched(binaries, "nvidia-13")), **words)
        assert len(hub.gets("libggml-cuda.so")) == 1
        assert all("libcuda.so.1" in reason for reason in reasons(said, "[cuda + "))
