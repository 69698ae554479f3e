"""What device code a CUDA library carries: a published one of each system, and containers made by hand to mislead."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from nativeload.errors import LoadError
from nativeload.publish.fatbin import sm_archs, toolkit
from tests import handmade
from tests.handmade import container, entry

if TYPE_CHECKING:
    from pathlib import Path

PTX, SASS, LTO = 1, 2, 8
ARCH, FAMILY = 0x108011, 0x208011  # with the flags of sm_120a and sm_120f

# The architectures that ggml-cuda's CMakeLists.txt names for CUDA 13.
OF_CUDA_13 = ("75_virtual", "80_virtual", "86_real", "89_real", "90_virtual", "120a_real", "121a_real")


def made(tmp_path: Path, code: bytes, *, dll: bool = False) -> Path:
    """Write a library with this device code."""
    path = tmp_path / "made"
    path.write_bytes(handmade.pe(more={".nv_fatb": code}) if dll else handmade.elf({".nv_fatbin": code}))
    return path


@pytest.mark.real_bundle
@pytest.mark.parametrize(("name", "file"), [("linux-x64-cuda", "libggml-cuda.so"), ("win-x64-cuda", "ggml-cuda.dll")])
def test_a_published_library_has_what_its_build_names(binaries: Path, name: str, file: str) -> None:
    """Both were built with CUDA 13.1, which both say within their compressed code, where it is not read."""
    path = binaries / f"node-llama-cpp-{name}" / "package" / "bins" / name / file
    assert path.exists(), f"{path} is missing: run tools/fetch_real.py"
    assert sm_archs(path) == OF_CUDA_13
    assert toolkit(path) == (13, 1)


@pytest.mark.real_bundle
def test_a_library_without_device_code_has_no_architectures(binaries: Path) -> None:
    path = binaries / "node-llama-cpp-linux-x64" / "package" / "bins" / "linux-x64" / "libggml-base.so"
    assert path.exists(), f"{path} is missing: run tools/fetch_real.py"
    with pytest.raises(LoadError, match="no CUDA device code"):
        sm_archs(path)
    assert toolkit(path) is None


@pytest.mark.parametrize("dll", [False, True])
def test_architectures_are_spelled_as_cmake_spells_them_lowest_first(tmp_path: Path, *, dll: bool) -> None:
    """The flags say whether code is for one capability alone or for its family: the number says nothing of it."""
    entries = [
        entry(120, SASS, flags=FAMILY),
        entry(120, SASS, flags=ARCH),
        entry(121, SASS),
        entry(90, SASS, flags=ARCH),
        entry(90, PTX, flags=ARCH),
        entry(86, SASS),
        entry(75, PTX),
    ]
    expected = ("75_virtual", "86_real", "90a_real", "90a_virtual", "120a_real", "120f_real", "121_real")
    assert sm_archs(made(tmp_path, container(*entries), dll=dll)) == expected


def test_only_what_all_containers_have_is_told(tmp_path: Path) -> None:
    """A GPU needs a code of each kernel; order and repetitions say nothing, a container without code neither."""
    one = container(entry(75, PTX), entry(86, SASS), entry(89, SASS))
    other = container(entry(89, SASS), entry(90, SASS), entry(75, PTX), entry(75, PTX))
    assert sm_archs(made(tmp_path, one + container() + other)) == ("75_virtual", "89_real")


def test_kernels_that_no_gpu_can_run_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="different architectures"):
        sm_archs(made(tmp_path, container(entry(86, SASS)) + container(entry(89, SASS))))


def test_linkers_fill_gaps_between_containers_with_zeros(tmp_path: Path) -> None:
    code = container(entry(86, SASS)) + bytes(8) + container(entry(86, SASS), entry(89, SASS)) + bytes(40)
    assert sm_archs(made(tmp_path, code)) == ("86_real",)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([(7, 0)], (11, 0)),
        ([(7, 8)], (11, 8)),
        ([(8, 4)], (12, 4)),
        ([(8, 5)], (12, 5)),
        ([(8, 6)], (12, 7)),
        ([(8, 8)], (12, 9)),
        ([(9, 0)], (13, 0)),
        ([(9, 4)], (13, 4)),
        ([(8, 7), (9, 1), (7, 8)], (13, 1)),
    ],
)
def test_the_toolkit_is_that_of_the_newest_ptx(
    tmp_path: Path, versions: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    """A driver has to compile all of it."""
    code = b"".join(container(entry(75, PTX, version=version), entry(86, SASS)) for version in versions)
    assert toolkit(made(tmp_path, code)) == expected


def test_machine_code_alone_tells_no_toolkit(tmp_path: Path) -> None:
    """The numbers in its place are those of the container's format."""
    assert toolkit(made(tmp_path, container(entry(86, SASS, version=(1, 8))))) is None


@pytest.mark.parametrize("version", [(9, 5), (10, 0), (6, 5), (0, 0), (65535, 65535)])
def test_ptx_of_an_unknown_version_is_refused(tmp_path: Path, version: tuple[int, int]) -> None:
    """A newer one needs a newer driver than any that could be named."""
    path = made(tmp_path, container(entry(75, PTX, version=version)))
    with pytest.raises(LoadError, match=f"PTX ISA {version[0]}.{version[1]} is of no CUDA known"):
        toolkit(path)


GOOD = container(entry(86, SASS))


@pytest.mark.parametrize(
    "code",
    [
        b"\x01",
        GOOD[:8],
        GOOD[:-1],
        GOOD[:40],
        GOOD + b"\x01" + GOOD,
        GOOD + bytes(64) + GOOD,  # a gap as wide as none
        bytes(1 << 20),
        container(entry(86, SASS), magic=0x466243B1),
        container(entry(86, SASS), header=0),
        container(entry(86, SASS), header=15),
        container(entry(86, SASS), header=0xFFFF),
        container(entry(86, SASS), size=1 << 63),
        container(entry(86, SASS), size=0xFFFFFFFFFFFFFFFF),
        container(entry(86, SASS), size=73),
        container(entry(86, SASS), size=20),
        container(entry(86, SASS, header=0)),
        container(entry(86, SASS, header=63)),
        container(entry(86, SASS, header=0xFFFFFFF0)),
        container(entry(86, SASS, size=9)),
        container(entry(86, SASS, size=1 << 63)),
        container(entry(86, SASS, size=0xFFFFFFFFFFFFFFC0)),  # with its header: 0, were it cut to 64 bits
        container(entry(86, SASS), entry(89, SASS)[:50]),
    ],
)
@pytest.mark.parametrize("dll", [False, True])
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, code: bytes, *, dll: bool) -> None:
    """Each would lead out of the file, into the middle of something, or round in a circle."""
    path = made(tmp_path, code, dll=dll)
    for read in (sm_archs, toolkit):
        with pytest.raises(LoadError, match=r"damaged|no CUDA device code"):
            read(path)


@pytest.mark.parametrize(("kind", "number"), [(LTO, 75), (0, 75), (16, 75), (SASS, 0), (SASS, 9), (PTX, 1000)])
def test_code_of_an_unknown_kind_is_refused(tmp_path: Path, kind: int, number: int) -> None:
    """Left out it would be a GPU that is promised and not served, or the other way round."""
    path = made(tmp_path, container(entry(86, SASS), entry(number, kind)))
    for read in (sm_archs, toolkit):
        with pytest.raises(LoadError, match="unknown kind"):
            read(path)


def test_a_section_of_nothing_but_entries_is_bounded(tmp_path: Path) -> None:
    """A quarter of a million entries without payload, in one container or in as many, and containers of nothing."""
    empty = entry(86, SASS, payload=b"")
    for code in (container(empty * (1 << 18)), container(empty) * (1 << 18), container() * (1 << 18)):
        with pytest.raises(LoadError, match="that fits"):
            sm_archs(made(tmp_path, code))


def test_flipped_bytes_are_read_or_are_a_load_error(tmp_path: Path) -> None:
    chance, refused = random.Random(4), 0
    whole = container(entry(75, PTX), entry(86, SASS)) + container(entry(86, SASS), entry(75, PTX))
    for _ in range(1500):
        code = bytearray(whole)
        for _ in range(chance.choice([1, 2, 4])):
            code[chance.randrange(len(code))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        path = made(tmp_path, bytes(code))
        for read in (sm_archs, toolkit):
            try:
                read(path)
            except LoadError:
                refused += 1
    assert 500 < refused < 3000


# The first 48 bytes of the entries that nvcc 13.0 makes for compute_120a and sm_120a.
BY_NVCC = (
    "01000101500000000801000000000000 08010000400000000000090078000000 00000000000000001180100000000000",
    "02000101700000009814000000000000 00000000400000000800010078000000 00000000000000001100100100000000",
)


def test_the_headers_are_those_that_nvcc_writes(tmp_path: Path) -> None:
    entries = []
    for text in BY_NVCC:
        fixed = bytes.fromhex(text)
        header, payload = struct.unpack_from("<I Q", fixed, 4)
        entries.append(fixed.ljust(header + payload, b"\0"))
    path = made(tmp_path, container(*entries))
    assert sm_archs(path) == ("120a_real", "120a_virtual")
    assert toolkit(path) == (13, 0)
