"""NVIDIA's own wheels: the runtime is found whole in them, and a published CUDA backend binds to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from nativeload import needs
from nativeload.elf import read_elf
from nativeload.needs import find_library
from nativeload.resolve.cuda_runtime import major_of, wanted
from tests.resolve.cuda_words import find, why_not
from tests.scenarios import ROOT, STUB_LINUX, WHY_NOT

if TYPE_CHECKING:
    from pathlib import Path

    from nativeload.resolve.cuda_runtime import CudaRuntime

pytestmark = [pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT), pytest.mark.real_bundle]

MAJORS = (12, 13)
BACKEND = "node-llama-cpp-linux-x64-cuda/package/bins/linux-x64-cuda/libggml-cuda.so"


def names_of(major: int) -> tuple[str, ...]:
    return (f"libcudart.so.{major}", f"libcublas.so.{major}")


def wheels(binaries: Path, major: int) -> Path:
    """The folder that the two wheels of a major were installed to; where binaries are named, it must be there."""
    folder = binaries / f"nvidia-{major}"
    assert folder.is_dir(), f"{folder} is missing: run tools/fetch_real.py"
    return folder


def found_in(folder: Path, major: int) -> CudaRuntime:
    found = find(names_of(major), path=[str(folder)], mapped=())
    assert found is not None
    return found


def hashed(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("major", MAJORS)
def test_the_wheels_bring_the_runtime(binaries: Path, major: int) -> None:
    """Three files in load order; each is known to the loader by its label, and wants of CUDA only what came before."""
    found = found_in(wheels(binaries, major), major)
    suffix = "-cu12" if major == 12 else ""
    pattern = rf"nvidia-cublas{suffix} {major}\.[\d.]+ and nvidia-cuda-runtime{suffix} {major}\.[\d.]+"
    assert re.fullmatch(pattern, found.place)
    assert found.major == major
    labels = [file.label for file in found.files]
    assert labels == [f"libcudart.so.{major}", f"libcublasLt.so.{major}", f"libcublas.so.{major}"]
    facts = [read_elf(file.path) for file in found.files]
    assert [each.soname for each in facts] == labels
    assert [wanted(each.needed) for each in facts] == [(), (), (f"libcublasLt.so.{major}",)]
    assert all(major_of([file.name]) == major for file in found.files)


@pytest.mark.parametrize("major", MAJORS)
def test_cudart_is_what_its_record_says(binaries: Path, major: int) -> None:
    cudart = found_in(wheels(binaries, major), major).files[0]
    assert hashed(cudart.path) == cudart.declared


def test_cublas_is_what_its_record_says(binaries: Path) -> None:
    """Half a gigabyte: one major stands for both."""
    _, *rest = found_in(wheels(binaries, 13), 13).files
    assert [hashed(file.path) for file in rest] == [file.declared for file in rest]


@pytest.mark.parametrize("major", MAJORS)
def test_another_major_does_not_help(binaries: Path, major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_library", lambda *_, **__: None)  # this host may have a whole one
    other = str(wheels(binaries, sum(MAJORS) - major))
    assert find(names_of(major), path=[other], mapped=()) is None
    assert find(names_of(major), path=[other, str(wheels(binaries, major))], mapped=()) is not None


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("kept", ["cublas", "cuda_runtime"])
def test_one_wheel_of_two_is_no_runtime(
    binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, major: int, kept: str
) -> None:
    """The other one is named, and nothing else."""
    monkeypatch.setattr(needs, "find_library", lambda *_, **__: None)
    folder = wheels(binaries, major)
    (info,) = folder.glob(f"nvidia_{kept}*.dist-info")
    for place in (info, folder / "nvidia"):
        (tmp_path / place.name).symlink_to(place)
    assert find(names_of(major), path=[str(tmp_path)], mapped=()) is None
    said = why_not(names_of(major), path=[str(tmp_path)], mapped=())
    missing = "nvidia-cuda-runtime" if kept == "cublas" else "nvidia-cublas"
    assert re.findall(r"pip install (nvidia-[a-z-]+?)(?:-cu12|==13\.\*)", said) == [missing]
    assert names_of(major)[kept == "cuda_runtime"] in said
    assert names_of(major)[kept == "cublas"] not in said


PRELOAD = """
    import ctypes, json, os, sys
    from nativeload.resolve.cuda_runtime import search as find
    base, backend, folder, control, *names = sys.argv[1:]
    ctypes.CDLL(base)
    def attempt():
        try:
            ctypes.CDLL(backend)
        except OSError as error:
            return str(error)
        return ""
    before = attempt() if control else ""
    for file in find(names, path=[folder]).files:
        ctypes.CDLL(file.path)
    after, again = attempt(), find(names, path=[folder])
    print(json.dumps([before, after, again.place, again.files, again.paths]))
"""


def test_a_published_backend_lacks_only_the_driver_then(binaries: Path, tmp_path: Path) -> None:
    """Before, it lacks the runtime (unless the loader here has one); after, libcuda (unless there is a driver)."""
    backend = binaries / BACKEND
    assert backend.is_file(), f"{backend} is missing: run tools/fetch_real.py"
    names, folder = wanted(read_elf(backend).needed), wheels(binaries, 13)
    assert names == names_of(13)
    environ = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    control = find(names, path=[], mapped=(), env={}) is None
    arguments = [backend.with_name("libggml-base.so"), backend, folder, "control" if control else "", *names]
    ended = subprocess.run(
        [sys.executable, "-c", dedent(PRELOAD), *map(str, arguments)],
        env=environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    before, after, place, files, paths = json.loads(ended.stdout)
    assert bool(re.search(r"lib(cudart|cublas)\.so\.13: cannot open shared object", before)) is control
    has_driver = find_library("libcuda.so.1", env={}, machine="x86_64") is not None
    expected = "" if has_driver else "libcuda.so.1: cannot open shared object file: No such file or directory"
    assert after == expected
    assert (place, files) == ("this process", [])
    assert paths == list(found_in(folder, 13).paths)


def test_both_majors_share_a_process(binaries: Path) -> None:
    """A process that has CUDA 12, as PyTorch may bring it, takes CUDA 13 beside it: the names differ."""
    code = """
        import ctypes, json, sys
        from nativeload.resolve.cuda_runtime import search as find
        places, versions = [], []
        for major, folder in zip((12, 13), sys.argv[1:]):
            names = (f"libcudart.so.{major}",)
            found = find(names, path=[folder])
            places.append(found.place.partition(" ")[0])
            for file in found.files:
                library, version = ctypes.CDLL(file.path), ctypes.c_int()
            library.cudaRuntimeGetVersion(ctypes.byref(version))
            versions.append(version.value // 1000)
        print(json.dumps([places, versions]))
    """
    folders = [str(wheels(binaries, major)) for major in MAJORS]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", dedent(code), *folders]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [["nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime"], [12, 13]]
