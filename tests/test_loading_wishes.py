"""A GPU that is preferred or required and cannot serve: one warning that names the true reason, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios import (
    STUB_LINUX,
    WHY_NOT,
    count,
    counting_python,
    cpu_module,
    gpu_module,
    orphan,
    run,
    stub_bundle,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)


CUDA = """
    import warnings
    from nativeload import NativeLibraryConfig
    want = True if os.environ["WANT"] == "prefer" else os.environ["WANT"]
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"]).with_cuda(want).with_skip_check()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attempt(config.load)
    said = [f"{item.category.__name__}: {item.message}" for item in caught]
    say([result, said, [item.filename for item in caught], mapped()])
"""


def cuda_bundle(build: Callable[..., Path], folder: Path, cuda: Path | None) -> Path:
    """Lay out a split build with a CPU backend and, if given, a CUDA one."""
    modules = {"libggml-cpu-x64.so": cpu_module(build)}
    return stub_bundle(build, folder, modules | ({"libggml-cuda.so": cuda} if cuda else {}))


@pytest.mark.parametrize("want", ["prefer", "require"])
def test_a_gpu_that_registers_a_device_serves(build: Callable[..., Path], tmp_path: Path, want: str) -> None:
    """A wish that is granted says nothing."""
    bundle = cuda_bundle(build, tmp_path / "bundle", gpu_module(build))
    result, caught, *_ = run(CUDA, LIBRARY=bundle, WANT=want)
    assert (result["gpu"], [device["backend"] for device in result["devices"]]) == ("cuda", ["cuda", "cpu"])
    assert caught == []


@pytest.mark.parametrize(
    ("which", "reason"),
    [("orphan", "liblost.so.7"), ("none", "registered no cuda device"), ("crash", "SIGSEGV")],
)
def test_a_preferred_gpu_that_cannot_serve_is_one_warning(
    build: Callable[..., Path], tmp_path: Path, which: str, reason: str
) -> None:
    """The library runs on the CPU, and one warning at the caller's line names the reason."""
    crash = build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV")
    cuda = {"orphan": orphan(build), "none": gpu_module(build, devices=False), "crash": crash}[which]
    result, caught, files, _ = run(CUDA, LIBRARY=cuda_bundle(build, tmp_path / "bundle", cuda), WANT="prefer")
    assert [device["backend"] for device in result["devices"]] == ["cpu"]
    (warning,) = caught
    assert warning.startswith("PreferenceWarning: cuda preferred")
    assert reason in warning
    assert not files[0].endswith("loading.py")


@pytest.mark.parametrize(
    ("which", "reason"), [("orphan", "liblost.so.7"), ("none", "no cuda device"), ("absent", "cuda is required")]
)
def test_a_required_gpu_that_cannot_serve_raises_and_opens_nothing(
    build: Callable[..., Path], tmp_path: Path, which: str, reason: str
) -> None:
    """A requirement never becomes the CPU; the reason is in the text, and the process has none of the files."""
    cuda = {"orphan": orphan(build), "none": gpu_module(build, devices=False), "absent": None}[which]
    bundle = cuda_bundle(build, tmp_path / "bundle", cuda)
    error, caught, _, mapped = run(CUDA, LIBRARY=bundle, WANT="require")
    assert error["error"] == "BackendUnavailableError"
    assert error["backend"] == "cuda"
    assert reason in error["text"]
    assert not [path for path in mapped if path.startswith(str(bundle))]
    assert caught == []


def test_a_warning_made_an_error_leaves_the_next_load_whole(build: Callable[..., Path], tmp_path: Path) -> None:
    """Under `-W error` the load raises; the next one must not register every backend a second time."""
    code = """
    import warnings
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"]).with_cuda().with_skip_check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = attempt(config.load)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        say([first, attempt(config.load)])
    """
    first, second = run(code, LIBRARY=cuda_bundle(build, tmp_path / "bundle", None))
    assert first["error"] == "PreferenceWarning"
    assert len(second["devices"]) == 1


def test_the_reason_is_not_taken_from_a_file_that_only_lies_in_a_gpus_directory(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    """A directory called linux-x64-cuda does not make what is said of its CPU backends the reason for no CUDA."""
    modules = {f"libggml-cpu-{name}.so": cpu_module(build) for name in ("x64", "sse42")}
    modules["libggml-cuda.so"] = gpu_module(build, devices=False)
    result, caught, *_ = run(CUDA, LIBRARY=stub_bundle(build, tmp_path / "linux-x64-cuda", modules), WANT="prefer")
    assert [device["backend"] for device in result["devices"]] == ["cpu"]
    (warning,) = caught
    assert "registered no cuda device" in warning
    assert "passed over" not in warning


def test_a_requirement_does_not_probe_sets_without_the_backend(build: Callable[..., Path], tmp_path: Path) -> None:
    """A set that has no CUDA module cannot meet a requirement of CUDA: no child is started for it."""
    bundle = cuda_bundle(build, tmp_path / "bundle", orphan(build))
    python, started = counting_python(tmp_path)
    error, *_ = run(CUDA, LIBRARY=bundle, WANT="require", NATIVELOAD_PYTHON=python)
    assert error["error"] == "BackendUnavailableError"
    assert count(started) == 1
