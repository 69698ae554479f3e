"""A host as a whole: detected, given, compared."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nativeload.host import Cpu, Gpu, Host, Nvidia, cpu, gpu, libc, limits
from nativeload.value import replace
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "recorded"
HEAVY = {"typing", "json", "logging", "subprocess", "pathlib", "platform", "importlib.metadata", "cpuinfo"}
NODES = ("nvidiactl", "nvidia0", "dxg", "nvmap", "nvhost-ctrl", "kfd", "dri")


def test_this_machine_is_what_python_says_it_is() -> None:
    host = Host.detect(gpu=False)
    assert host.platform is Platform.current()
    assert 1 <= host.cpu.cores <= (os.cpu_count() or 1)
    assert host.page_size == limits.page_size()
    assert (host.libc is not None) == host.platform.is_linux
    assert host.nvidia is None
    assert host.gpus == ()
    assert host.notes == ("GPU: not looked for",)


@pytest.mark.skipif(
    sys.platform != "linux" or any(os.path.exists(f"/dev/{node}") for node in NODES),
    reason="the promise is for a Linux machine without a GPU",
)
def test_a_machine_without_a_gpu_is_known_within_a_millisecond() -> None:
    """It stands in the way of every first call. Measured 0.35 ms on a busy two-core virtual machine."""
    took = []
    for _ in range(50):
        start = time.perf_counter()
        Host.detect()
        took.append(time.perf_counter() - start)
    assert statistics.median(took) < 1e-3


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        "from nativeload.host import Host; Host.detect(gpu=False)\n"
        f"heavy = (set(sys.modules) - before) & {HEAVY!r}; assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_no_failure_escapes_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every probe fails here at once; what is left is the baseline and the reasons."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    for module, names in {
        cpu: [*(name for name in dir(cpu) if name.startswith("by_")), "find_brand", "is_translated"],
        limits: ["usable_cores", "usable_memory", "page_size"],
        libc: ["detect"],
        gpu: ["_cuda", "_rocm", "_metal", "_vulkan"],
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, fail)
    host = Host.detect(brand=True)
    assert host == Host(
        platform=Platform.current(),
        cpu=Cpu(features=frozenset(), source="nothing", cores=1),
        notes=host.notes,
    )
    broken = [note.removesuffix(": broken") for note in host.notes if note.endswith(": broken")]
    expected = {"CUDA", "ROCm", "Metal", "Vulkan", "brand", "cores", "memory", "page size", "Rosetta"}
    assert expected <= set(broken)


def test_a_probe_that_fails_for_real_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    monkeypatch.setattr(libc, "MAPS", "/nonexistent/maps")
    host = Host.detect(gpu=False)
    if host.platform.is_linux:
        assert host.libc is None
        assert "libc: [Errno 2] No such file or directory: '/nonexistent/maps'" in host.notes


@pytest.mark.parametrize(
    ("name", "feature", "cores"),
    [("zen4", "avx512_bf16", 32), ("graviton3", "sve", 64), ("apple-m1", "asimddp", 8)],
)
def test_recorded_hosts_stand_for_hardware_that_is_not_here(name: str, feature: str, cores: int) -> None:
    host = Host.from_file(RECORDED / f"{name}.json")
    assert feature in host.cpu.features
    assert host.cpu.cores == cores


def test_a_host_is_a_value() -> None:
    host = Host.from_file(RECORDED / "two-nvidia.json")
    assert hash(host) == hash(Host.from_file(RECORDED / "two-nvidia.json"))
    with pytest.raises(AttributeError):
        host.page_size = 1  # type: ignore[misc]


def test_the_fingerprint_changes_with_what_decides_a_probe() -> None:
    host = Host.from_file(RECORDED / "two-nvidia.json")
    nvidia = host.nvidia
    assert nvidia is not None
    others = [
        replace(host, platform=Platform.WINDOWS_X86_64),
        replace(host, cpu=replace(host.cpu, features=host.cpu.features - {"avx2"})),
        replace(host, nvidia=None),
        replace(host, nvidia=replace(nvidia, driver="580.95.06")),
        replace(host, nvidia=replace(nvidia, cuda=(13, 1))),
        replace(host, nvidia=replace(nvidia, visible="0")),
        replace(host, nvidia=replace(nvidia, visible="")),
        replace(host, gpus=host.gpus[:1]),
        replace(host, gpus=host.gpus[::-1]),
    ]
    assert len({host.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_the_fingerprint_ignores_what_decides_nothing() -> None:
    """It names cached verdicts, so it must not change between two starts on one machine."""
    host = Host.from_file(RECORDED / "two-nvidia.json")
    same = replace(host, memory=1, notes=(), page_size=65536, cpu=replace(host.cpu, brand=None, cores=1, source="x"))
    assert host.fingerprint == same.fingerprint
    assert Host.detect().fingerprint == Host.detect().fingerprint


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    """A change of it would throw away every user's cached verdicts; this is the known answer for one host."""
    known = "16f1fab93f998e45737b01baf9f688f93d30d8a8a6b7eaa48b2de9fd35cd22c4"
    assert Host.from_file(RECORDED / "two-nvidia.json").fingerprint == known


def test_why_there_is_no_device() -> None:
    haswell, apple, windows, two = (
        Host.from_file(RECORDED / f"{name}.json") for name in ("haswell", "apple-m1", "windows-haswell", "two-nvidia")
    )
    assert haswell.why_no(Backend.CUDA) == "no NVIDIA device node (/dev/nvidiactl)"
    assert windows.why_no("cuda") == "nvml.dll not found; nvcuda.dll not found"
    assert apple.why_no("metal") == two.why_no("cuda") == haswell.why_no("cpu") == ""
    assert replace(haswell, notes=()).why_no("rocm") == "no ROCm device was found"
    assert Host.detect(gpu=False).why_no("vulkan") == "not looked for"


def test_a_host_can_be_written_by_hand() -> None:
    """Only the platform and the processor have no default."""
    host = Host(
        platform=Platform.LINUX_X86_64,
        cpu=Cpu(features=frozenset({"avx2"}), source="test", cores=4),
        nvidia=Nvidia(driver="580.95.05", cuda=(13, 0)),
        gpus=(Gpu(backend=Backend.CUDA, index=0, name="a card", compute_capability=(9, 0)),),
    )
    assert Host.from_dict(host.to_dict()) == host


def test_python_on_an_unknown_system_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one error of detection: there is no platform to put into a host."""
    from nativeload.errors import ConfigError

    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(ConfigError, match="no builds exist for plan9"):
        Host.detect()


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is a shared object of Linux")
def test_a_whole_host_with_two_devices(
    build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the device node through the driver's library to what a record of it says."""
    from nativeload.host import nvidia

    (tmp_path / "nvmap").touch()  # no Vulkan looks at this one
    library = (build("nvml"),)
    devices, detect = nvidia.devices, gpu.detect
    monkeypatch.setattr(nvidia, "devices", lambda notes: devices(notes, nvml=library, environ={}))
    monkeypatch.setattr(gpu, "detect", lambda platform, notes: detect(platform, notes, dev=str(tmp_path)))
    found, recorded = Host.detect(), Host.from_file(RECORDED / "two-nvidia.json")
    assert (found.nvidia, found.gpus) == (recorded.nvidia, recorded.gpus)
    assert Host.from_dict(found.to_dict()) == found
