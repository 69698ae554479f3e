"""A file's role is read off its upstream name; what is not recognised is left alone."""

from __future__ import annotations

import random

import pytest

from nativeload.cpu_variants import ARM64, X86_64
from nativeload.errors import LoadError
from nativeload.resolve.bundle import classify, has_library, role_of, stem_of
from nativeload.variant import Role

NPM = [
    "_nlcBuildMetadata.json",
    "libggml-base.so",
    *(f"libggml-cpu-{name}.so" for name in X86_64),
    "libggml.v0.5.0.so",
    "libllama-common.so",
    "libllama.v0.5.0.so",
    "llama-addon.node",
]
NPM_CUDA = [
    "libggml-base.so",
    "libggml-cpu-x64.so",
    "libggml-cuda.so",
    "libggml.cuda.v0.5.0.so",
    "libllama-common.so",
    "libllama.cuda.v0.5.0.so",
]
# What llama-cpp-python's wheel makes of upstream's links: three copies of each file.
LLAMA_CPP_PYTHON = [
    f"lib{stem}.so{tail}"
    for stem in ("ggml-base", "ggml-cpu", "ggml", "llama", "llama-common", "mtmd")
    for tail in ("", ".0", ".0.25.3")
]
PYWHISPERCPP = [
    "libggml-684d824a.so.0.13.1",
    "libggml-base-319ad4fb.so.0.13.1",
    "libggml-cpu-67036419.so.0.13.1",
    "libgomp-e985bcbb.so.1.0.0",
    "libwhisper-1ab89ae8.so.1.8.5",
]
WINDOWS = [
    "ggml-base.dll",
    "ggml-cpu-haswell.dll",
    "ggml-cpu-x64.dll",
    "ggml-cuda.dll",
    "ggml-vulkan.dll",
    "ggml.dll",
    "libomp140.x86_64.dll",
    "llama-common.dll",
    "llama-server.exe",
    "llama.dll",
]
MACOS = ["libggml-base.dylib", "libggml-blas.dylib", "libggml-cpu.dylib", "libggml-metal.dylib", "libggml.dylib"]


def _names(paths: list[str], library: str) -> dict[str, list[str]]:
    return {key: [file.name for file in files] for key, files in classify(paths, library).items() if files}


def _at(names: list[str]) -> list[str]:
    return [f"/lib/{name}" for name in names]


@pytest.mark.parametrize(
    ("names", "library", "expected"),
    [
        (
            NPM,
            "llama",
            {
                "core": ["libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so"],
                "cpus": sorted(f"libggml-cpu-{name}.so" for name in X86_64),
            },
        ),
        (
            NPM_CUDA,
            "llama",
            {
                "core": ["libggml-base.so", "libggml.cuda.v0.5.0.so", "libllama.cuda.v0.5.0.so"],
                "cpus": ["libggml-cpu-x64.so"],
                "gpus": ["libggml-cuda.so"],
            },
        ),
        (
            LLAMA_CPP_PYTHON,
            "llama",
            {"core": ["libggml-base.so.0", "libggml-cpu.so.0", "libggml.so.0", "libllama.so.0"]},
        ),
        (
            PYWHISPERCPP,
            "whisper",
            {
                "core": [
                    "libggml-base-319ad4fb.so.0.13.1",
                    "libggml-cpu-67036419.so.0.13.1",
                    "libggml-684d824a.so.0.13.1",
                    "libwhisper-1ab89ae8.so.1.8.5",
                ],
                "runtime": ["libgomp-e985bcbb.so.1.0.0"],
            },
        ),
        (
            WINDOWS,
            "llama",
            {
                "core": ["ggml-base.dll", "ggml.dll", "llama.dll"],
                "cpus": ["ggml-cpu-haswell.dll", "ggml-cpu-x64.dll"],
                "gpus": ["ggml-cuda.dll", "ggml-vulkan.dll"],
            },
        ),
        (
            [*MACOS, "libllama.dylib", "libllama-common.dylib"],
            "llama",
            {
                "core": [
                    "libggml-base.dylib",
                    "libggml-cpu.dylib",
                    "libggml-blas.dylib",
                    "libggml.dylib",
                    "libllama.dylib",
                ],
                "gpus": ["libggml-metal.dylib"],
            },
        ),
    ],
    ids=["npm", "npm-cuda", "llama-cpp-python", "pywhispercpp", "windows", "macos"],
)
def test_published_builds_are_understood(names: list[str], library: str, expected: dict[str, list[str]]) -> None:
    """Core files in load order, whatever the order in which they are listed."""
    assert _names(_at(names), library) == expected
    for seed in range(5):
        mixed = _at(names)
        random.Random(seed).shuffle(mixed)
        assert _names(mixed, library) == expected


def test_the_links_of_a_macos_build_are_one_file() -> None:
    """The official archives hold three names of each library; the one with the SONAME's number is the one to open."""
    names = [f"lib{stem}{tail}.dylib" for stem in ("ggml-base", "ggml", "llama") for tail in ("", ".0", ".0.5.0")]
    assert _names(_at(names), "llama") == {"core": ["libggml-base.0.dylib", "libggml.0.dylib", "libllama.0.dylib"]}


def test_llama_common_is_never_taken() -> None:
    for name in ("libllama-common.so", "libllama-common.so.0", "llama-common.dll", "libllama-common.dylib"):
        for library in ("llama", "whisper", "ggml"):
            assert role_of(f"/lib/{name}", library) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "llama",
        "llama.so",
        "libllama.a",
        "libllama.so.sha256",
        "libllama.so.sig",
        "libllama.so.0.debug",
        "libllama.so.0.",
        "libllama.sock",
        "libllama-1234567.so",
        "libllama-123456789.so",
        "libllama-ABCDEF01.so",
        "libllamafoo.so",
        "libllama-extra.so",
        "libggml-cpu-.so",
        "libggml-cpu-pentium.so",
        "libggml-opencl.so",
        "libggml-rpc.so",
        "libmtmd.so",
        "libwhisper.so",
        "README.md",
    ],
)
def test_another_name_is_left_alone(name: str) -> None:
    assert role_of(f"/lib/{name}", "llama") is None


@pytest.mark.parametrize("variant", [*X86_64, *ARM64])
def test_every_cpu_variant_is_known_with_what_it_needs(variant: str) -> None:
    (file,) = classify([f"/lib/libggml-cpu-{variant}.so"], "llama")["cpus"]
    assert (file.role, file.label, file.needs) == (Role.CPU, variant, (X86_64 | ARM64)[variant])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("libggml-cuda.so", "cuda"),
        ("libggml-hip.so", "rocm"),
        ("libggml-vulkan.so", "vulkan"),
        ("libggml-metal.so", "metal"),
        ("ggml-cuda.dll", "cuda"),
    ],
)
def test_a_gpu_module_is_labelled_with_its_backend(name: str, label: str) -> None:
    assert role_of(f"/lib/{name}", "llama") == (Role.GPU, label)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("libggml-base.so", "ggml-base"),
        ("libggml-base.so.0", "ggml-base"),
        ("libggml-base.so.0.25.3", "ggml-base"),
        ("ggml-base.dll", "ggml-base"),
        ("libllama.dll", "llama"),
        ("libllama.dylib", "llama"),
        ("libllama.v0.5.0.so", "llama.v0.5.0"),
        ("libllama.so_old", None),
        ("xllamacpp.abi3.so", None),
    ],
)
def test_a_stem_is_the_bare_name(name: str, stem: str | None) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize(
    "names",
    [
        ["libllama.so", "libllama.v0.5.0.so"],
        ["libllama.v0.4.0.so", "libllama.v0.5.0.so"],
        ["libggml-684d824a.so.0.13.1", "libggml.so", "libllama.so"],
        ["libggml.v0.5.0.so", "libggml.cuda.v0.5.0.so", "libllama.so"],
    ],
)
def test_two_builds_in_one_place_are_an_error(names: list[str]) -> None:
    """Which of them belongs to the other files cannot be told."""
    with pytest.raises(LoadError, match="two builds in one place") as caught:
        classify(_at(names), "llama")
    assert caught.value.path == "/lib"
    assert "Name the library file itself" in caught.value.hint


def test_two_copies_of_a_module_are_one_candidate() -> None:
    assert _names(_at(["libggml-cuda.so", "libggml-cuda.so.0"]), "llama") == {"gpus": ["libggml-cuda.so.0"]}


def test_the_other_library_is_no_part_of_this_one() -> None:
    both = _at(["libggml-base.so", "libggml.so", "libllama.so", "libwhisper.so"])
    assert _names(both, "llama")["core"][-1] == "libllama.so"
    assert _names(both, "whisper")["core"][-1] == "libwhisper.so"
    assert _names(both, "ggml")["core"] == ["libggml-base.so", "libggml.so"]
    assert has_library(classify(both, "ggml")["core"], "ggml")
    assert not has_library(classify(_at(["libggml.so"]), "llama")["core"], "llama")
    assert not has_library((), "llama")


def test_nothing_makes_nothing() -> None:
    assert classify([], "llama") == {"core": (), "cpus": (), "gpus": (), "runtime": ()}
