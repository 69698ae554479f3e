"""The NVIDIA driver's answers, from stand-ins of its two libraries met through ctypes."""

from __future__ import annotations

import pytest

from nativeload.host import nvidia
from nativeload.host.facts import Gpu, Nvidia
from nativeload.variant import Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Build = Callable[..., str]

NONE = ("libnvidia-none.so.1",)
NEW = Gpu(
    backend=Backend.CUDA,
    index=0,
    name="NVIDIA GeForce RTX 4090",
    compute_capability=(8, 9),
    memory=25757220864,
    uuid="GPU-11111111-aaaa-bbbb-cccc-000000000001",
)
OLD = Gpu(
    backend=Backend.CUDA,
    index=1,
    name="NVIDIA GeForce GTX 1080",
    compute_capability=(6, 1),
    memory=8589934592,
    uuid="GPU-11112222-aaaa-bbbb-cccc-000000000002",
)


def found(
    nvml: str, environ: Mapping[str, str], cuda: tuple[str, ...] = NONE
) -> tuple[Nvidia | None, list[str], list[str]]:
    """Ask, and return the driver, the names of the devices and the notes."""
    notes: list[str] = []
    driver, gpus = nvidia.devices(notes, nvml=(nvml,), cuda=cuda, environ=environ)
    assert [gpu.index for gpu in gpus] == list(range(len(gpus)))
    return driver, [gpu.name for gpu in gpus], notes


def test_nvml_tells_the_driver_and_every_device(build: Build) -> None:
    notes: list[str] = []
    driver, gpus = nvidia.devices(notes, nvml=(build("nvml"),), cuda=NONE, environ={})
    assert driver == Nvidia(driver="580.95.05", cuda=(13, 0), visible=None)
    assert gpus == (NEW, OLD)
    assert notes == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", [NEW.name, OLD.name]),
        ("1,0", [OLD.name, NEW.name]),
        ("1", [OLD.name]),
        ("GPU-11112222", [OLD.name]),
        ("1,7,0", [OLD.name]),
        ("GPU-1111", []),
        ("", []),
        ("-1", []),
    ],
)
def test_only_visible_devices_count(build: Build, visible: str, expected: list[str]) -> None:
    """NVML ignores CUDA_VISIBLE_DEVICES, the CUDA backend does not."""
    driver, names, notes = found(build("nvml"), {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert driver is not None
    assert driver.visible == visible
    assert names == expected
    assert notes == ([] if expected else [f"CUDA: CUDA_VISIBLE_DEVICES={visible!r} hides every device"])


def test_the_words_of_cuda_visible_devices() -> None:
    """Unset is all; the first word that fits none or two ends the list; a device named twice leaves none."""
    uuids = ["GPU-aa11", "GPU-aa22", "GPU-bb33", None]

    def chosen(visible: str | None) -> tuple[int, ...]:
        return nvidia.visible_positions(visible, uuids)

    assert chosen(None) == (0, 1, 2, 3)
    assert chosen(" 2 , 0") == (2, 0)
    assert chosen("GPU-aa2,GPU-b,0") == (1, 2, 0)
    assert chosen("0,GPU-aa,1") == (0,)
    assert chosen("GPU-") == ()
    assert chosen("3,4,0") == (3,)
    assert chosen("0,-1,1") == (0,)
    assert chosen("0,1,0") == ()
    assert chosen("0,,1") == (0,)
    assert chosen("NoDevFiles") == chosen("all") == chosen("٣") == chosen("9" * 5000) == ()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, NEW.name),
        ({"CUDA_VISIBLE_DEVICES": "GPU-11111111"}, NEW.name),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, NEW.name),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "Orin"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-0123"}, "Orin"),
    ],
)
def test_where_nvml_counts_otherwise_than_cuda_libcuda_is_asked(
    build: Build, environ: Mapping[str, str], expected: str
) -> None:
    """CUDA's device 0 is the fastest one, NVML's the first on the PCI bus; only CUDA knows slices (MIG)."""
    _, names, notes = found(build("nvml"), environ, (build("cuda"),))
    assert names[0] == expected
    assert notes == []


def test_devices_of_one_model_need_no_libcuda(build: Build) -> None:
    twins = build("nvml", NAME='"NVIDIA GeForce GTX 1080"')
    assert found(twins, {"CUDA_VISIBLE_DEVICES": "1"}, (build("cuda"),))[1] == ["NVIDIA GeForce GTX 1080"]


def test_without_libcuda_nvmls_count_is_the_best_guess(build: Build) -> None:
    _, names, notes = found(build("nvml"), {"CUDA_VISIBLE_DEVICES": "1"})
    assert names == [OLD.name]
    assert notes == ["CUDA: libnvidia-none.so.1 not found"]


def test_libcuda_answers_where_nvml_is_absent(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's version is then the kernel module's, or empty where that is silent."""
    monkeypatch.setattr(nvidia, "MODULE_VERSION", "/dev/null")
    notes: list[str] = []
    driver, gpus = nvidia.devices(notes, nvml=NONE, cuda=(build("cuda"),), environ={})
    assert driver == Nvidia(driver="", cuda=(12, 4))
    assert gpus == (Gpu(backend=Backend.CUDA, index=0, name="Orin", compute_capability=(8, 7), memory=65536),)
    assert notes == ["CUDA: libnvidia-none.so.1 not found"]


def test_a_driver_without_devices_is_a_driver(build: Build) -> None:
    driver, names, notes = found("libnone.so", {"CUDA_VISIBLE_DEVICES": ""}, (build("cuda", INIT=100),))
    assert driver is not None
    assert names == []
    assert notes[-1] == "CUDA: the driver shows no device (CUDA_VISIBLE_DEVICES='')"
    driver, names, notes = found(build("nvml", COUNT=0), {})
    assert driver is not None
    assert (names, notes) == ([], ["CUDA: the driver has no device"])


def test_an_error_is_a_note_in_the_drivers_words(build: Build) -> None:
    """A driver updated under a running kernel module refuses, the toolkit's stub of libcuda always does."""
    driver, names, notes = found(build("nvml", INIT=18), {}, (build("cuda", INIT=34),))
    assert (driver, names) == (None, [])
    assert len(notes) == 2
    assert notes[0].startswith("CUDA: nvmlInit_v2 of ")
    assert notes[0].endswith(" failed with 18 (Driver/library version mismatch)")
    assert notes[1].startswith("CUDA: cuInit of ")
    assert notes[1].endswith(" failed with 34")


def test_a_missing_function_is_a_note_and_libcuda_answers(build: Build) -> None:
    _, names, notes = found(build("nvml", WITHOUT_CUDA_VERSION=1), {}, (build("cuda"),))
    assert names == ["Orin"]
    assert len(notes) == 1
    assert notes[0].endswith("has no function nvmlSystemGetCudaDriverVersion_v2")


def test_memory_that_the_driver_does_not_tell_is_unknown(build: Build) -> None:
    """Jetson's NVML answers NOT_SUPPORTED (3)."""
    _, gpus = nvidia.devices([], nvml=(build("nvml", MEMORY=3),), cuda=NONE, environ={})
    assert [gpu.memory for gpu in gpus] == [None, None]


def test_a_hostile_name_is_made_printable(build: Build) -> None:
    library = build("nvml", NAME='"\\033[31mred\\n\\377"', COUNT=1)
    driver, names, notes = found(library, {"CUDA_VISIBLE_DEVICES": "GPU-2\x1b[31m"})
    assert driver is not None
    assert driver.visible == "GPU-2 [31m"
    assert (names, notes) == ([], ["CUDA: CUDA_VISIBLE_DEVICES='GPU-2 [31m' hides every device"])
    _, names, _ = found(library, {})
    assert names == ["[31mred \ufffd"]


def test_neither_library_is_two_notes() -> None:
    notes: list[str] = []
    assert nvidia.devices(notes, nvml=NONE, cuda=("libcuda-none.so.1",), environ={}) == (None, ())
    assert notes == ["CUDA: libnvidia-none.so.1 not found", "CUDA: libcuda-none.so.1 not found"]
