"""The words a build is described with parse from, and print to, their own text."""

from __future__ import annotations

import os
import sys

import pytest

from nativeload.errors import ConfigError
from nativeload.variant import GPU_BACKENDS, AvxLevel, Backend, Platform, Variant, normalized_package


@pytest.mark.parametrize("kind", [Platform, Backend, AvxLevel])
def test_a_word_is_its_own_text(kind: type[Platform | Backend | AvxLevel]) -> None:
    for word in kind:
        assert kind(str(word)) is word
        assert f"{word}" == word.value == str(word)
    with pytest.raises(ValueError, match="nonsense"):
        kind("nonsense")


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", Platform.LINUX_X86_64),
        ("linux", "aarch64", Platform.LINUX_AARCH64),
        ("linux", "arm64", Platform.LINUX_AARCH64),
        ("darwin", "arm64", Platform.MACOS_ARM64),
        ("darwin", "x86_64", Platform.MACOS_X86_64),
        ("win32", "AMD64", Platform.WINDOWS_X86_64),
        ("win32", "ARM64", Platform.WINDOWS_ARM64),
    ],
)
def test_a_platform_has_the_names_python_gives_it(system: str, machine: str, expected: Platform) -> None:
    assert Platform.of(system, machine) is expected


@pytest.mark.parametrize(
    ("system", "machine"),
    [("linux", "i686"), ("linux", "riscv64"), ("linux", ""), ("freebsd14", "amd64"), ("darwin", "ppc"), ("", "x86_64")],
)
def test_a_machine_without_builds_is_an_error_that_names_it(system: str, machine: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Platform.of(system, machine)
    assert caught.value.option == "platform"
    assert f"no builds exist for {system} on {machine}" in str(caught.value)


def test_a_platform_knows_its_family() -> None:
    assert {str(platform) for platform in Platform if platform.is_x86} == {
        "linux-x86_64",
        "macos-x86_64",
        "windows-x86_64",
    }
    assert {str(platform) for platform in Platform if platform.is_linux} == {"linux-x86_64", "linux-aarch64"}


def test_the_current_platform_is_this_python() -> None:
    if sys.platform != "win32":
        assert Platform.current() is Platform.of(sys.platform, os.uname().machine)
    assert Platform.current() in list(Platform)


def test_gpu_backends_are_all_backends_but_the_cpu() -> None:
    assert set(GPU_BACKENDS) == set(Backend) - {Backend.CPU}
    assert len(GPU_BACKENDS) == len(set(GPU_BACKENDS))


@pytest.mark.parametrize(
    ("gpu", "cpu", "label"),
    [
        (None, None, "linux-x86_64"),
        (None, "zen4", "linux-x86_64-zen4"),
        ("cuda", "zen4", "linux-x86_64-cuda-zen4"),
        ("vulkan", None, "linux-x86_64-vulkan"),
    ],
)
def test_a_variant_is_a_label(gpu: str | None, cpu: str | None, label: str) -> None:
    assert str(Variant(platform=Platform.LINUX_X86_64, gpu=gpu, cpu=cpu)) == label


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("xllamacpp", "xllamacpp"),
        ("llama_cpp_python", "llama-cpp-python"),
        ("Llama_CPP.Python", "llama-cpp-python"),
        ("a--b__c..d", "a-b-c-d"),
        ("nativeload_backend_llama", "nativeload-backend-llama"),
    ],
)
def test_a_package_name_has_one_normal_form(name: str, normal: str) -> None:
    """As PEP 503 says, and as packaging does it; a normal form stays as it is."""
    from packaging.utils import canonicalize_name

    assert normalized_package(name) == normal == canonicalize_name(name)
    assert normalized_package(normal) == normal
