"""Libraries of all systems, real and made by hand, say what they are; damage is always a LoadError."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from nativeload.errors import LoadError
from nativeload.publish.binary import BinaryFacts, read_binary
from nativeload.variant import Platform
from tests import handmade

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="cc makes ELF files on Linux")

BUNDLES = {
    "linux-x64": Platform.LINUX_X86_64,
    "linux-x64-cuda": Platform.LINUX_X86_64,
    "linux-arm64": Platform.LINUX_AARCH64,
    "win-x64": Platform.WINDOWS_X86_64,
    "win-x64-cuda": Platform.WINDOWS_X86_64,
    "mac-arm64-metal": Platform.MACOS_ARM64,
}


def bundle(binaries: Path, name: str) -> Path:
    """Return the folder of a published bundle; the one that tools/fetch_real.py was to bring must be there."""
    folder = binaries / f"node-llama-cpp-{name}" / "package" / "bins" / name
    assert folder.is_dir(), f"{folder} is missing: run tools/fetch_real.py"
    return folder


def libraries(binaries: Path, name: str) -> list[Path]:
    """Return all libraries of a bundle."""
    files = [path for path in sorted(bundle(binaries, name).iterdir()) if path.suffix in {".so", ".dll", ".dylib"}]
    assert len(files) > 8
    return files


def made(tmp_path: Path, data: bytes, name: str = "made") -> Path:
    """Write a library made by hand."""
    path = tmp_path / name
    path.write_bytes(data)
    return path


# --- real files ---


@pytest.mark.real_bundle
@pytest.mark.parametrize(("name", "platform"), BUNDLES.items())
def test_every_library_of_a_bundle_is_for_its_platform_and_names_the_others(
    binaries: Path, name: str, platform: Platform
) -> None:
    """The names by which files of one bundle want each other are those of files in it."""
    files = libraries(binaries, name)
    facts = [read_binary(path) for path in files]
    assert {each.platform for each in facts} == {platform}
    wanted = {each for fact in facts for each in fact.needed if "ggml" in each or "llama" in each}
    assert wanted
    assert wanted <= {path.name for path in files}
    named = [fact for fact in facts if fact.soname is not None]
    assert {fact.soname for fact in named} == {os.path.basename(fact.path) for fact in named}


@pytest.mark.real_bundle
@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        (
            "linux-x64",
            "libggml-base.so",
            {
                "format": "elf",
                "soname": "libggml-base.so",
                "needed": ("libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"),
                "glibc": "2.29",
                "glibcxx": "3.4.29",
            },
        ),
        ("linux-x64-cuda", "libggml-cuda.so", {"soname": None, "glibc": "2.34", "glibcxx": "3.4.30", "macos": None}),
        ("linux-arm64", "libllama.v0.5.0.so", {"soname": "libllama.v0.5.0.so", "glibc": "2.34"}),
        (
            "win-x64",
            "llama.v0.4.0.dll",
            {
                "format": "pe",
                "soname": "llama.v0.4.0.dll",
                "needed": ("ggml.v0.4.0.dll", "ggml-base.dll", "KERNEL32.dll", "MSVCP140.dll", "VCRUNTIME140.dll"),
                "runpath": (),
                "glibc": None,
            },
        ),
        (
            "mac-arm64-metal",
            "libggml.metal.v0.4.0.dylib",
            {
                "format": "macho",
                "soname": "libggml.metal.v0.4.0.dylib",
                "needed": ("libggml-base.dylib", "/usr/lib/libc++.1.dylib", "/usr/lib/libSystem.B.dylib"),
                "runpath": ("@loader_path",),
                "macos": "14.0",
            },
        ),
    ],
)
def test_known_files_say_what_is_known_of_them(
    binaries: Path, name: str, file: str, expected: dict[str, object]
) -> None:
    facts = read_binary(bundle(binaries, name) / file)
    found = {field: getattr(facts, field) for field in expected}
    if name == "win-x64":
        found["needed"] = facts.needed[:5]
    assert found == expected


@pytest.mark.real_bundle
def test_a_cuda_library_of_windows_wants_cublas_and_no_driver(binaries: Path) -> None:
    """The CUDA runtime is linked in, and it opens the driver itself; on Linux both are wanted by name."""
    windows = read_binary(bundle(binaries, "win-x64-cuda") / "ggml-cuda.dll")
    linux = read_binary(bundle(binaries, "linux-x64-cuda") / "libggml-cuda.so")
    assert [name for name in windows.needed if "cu" in name] == ["cublas64_13.dll"]
    assert {"libcudart.so.13", "libcublas.so.13", "libcuda.so.1"} <= set(linux.needed)


@pytest.mark.real_bundle
@pytest.mark.parametrize("name", BUNDLES)
def test_lief_reads_the_same_names(binaries: Path, name: str) -> None:
    """Another reader as the judge: of sound files it says the same."""
    import lief

    lief.logging.disable()
    for path in libraries(binaries, name):
        facts = read_binary(path)
        assert (facts.soname, list(facts.needed), facts.macos) == _by_lief(lief, path), path


def _by_lief(lief: Any, path: Path) -> tuple[str | None, list[str], str | None]:
    parsed = lief.parse(str(path))
    if isinstance(parsed, lief.ELF.Binary):
        soname = parsed.get(lief.ELF.DynamicEntry.TAG.SONAME)
        return (soname.name if soname else None), list(parsed.libraries), None
    if isinstance(parsed, lief.PE.Binary):
        export = parsed.get_export()
        return (export.name if export else None), [item.name for item in parsed.imports], None
    own = lief.MachO.LoadCommand.TYPE.ID_DYLIB
    names = [(item.command == own, item.name) for item in parsed.libraries]
    install = next((name for is_own, name in names if is_own), None)
    needed = [name.removeprefix("@rpath/") for is_own, name in names if not is_own]
    oldest = ".".join(map(str, parsed.build_version.minos[:2]))
    return (install.removeprefix("@rpath/") if install else None), needed, oldest


# --- files made by hand ---


def test_a_dll_says_its_name_and_what_it_wants(tmp_path: Path) -> None:
    path = made(tmp_path, handmade.pe(name="own.dll", needed=("Second.DLL", "first.dll")))
    assert read_binary(path) == BinaryFacts(
        path=str(path),
        format="pe",
        platform=Platform.WINDOWS_X86_64,
        soname="own.dll",
        needed=("Second.DLL", "first.dll"),
    )


def test_a_dll_without_exports_or_imports_has_neither(tmp_path: Path) -> None:
    facts = read_binary(made(tmp_path, handmade.pe(machine=0xAA64, name=None, needed=())))
    assert (facts.platform, facts.soname, facts.needed) == (Platform.WINDOWS_ARM64, None, ())


def test_a_dylib_says_its_name_what_it_wants_and_its_macos(tmp_path: Path) -> None:
    """Paths of the system stay whole, those that the loader puts together are cut to the name."""
    wants = ("@rpath/liba.dylib", "/usr/lib/libSystem.B.dylib", "@loader_path/../b/libb.dylib", "/opt/libc.dylib")
    path = made(
        tmp_path, handmade.macho(install="/usr/local/lib/libown.dylib", needed=wants, runpath=("@loader_path", "/opt"))
    )
    assert read_binary(path) == BinaryFacts(
        path=str(path),
        format="macho",
        platform=Platform.MACOS_X86_64,
        soname="libown.dylib",
        needed=("liba.dylib", "/usr/lib/libSystem.B.dylib", "libb.dylib", "/opt/libc.dylib"),
        runpath=("@loader_path", "/opt"),
        macos="14.0",
    )


def test_a_bundle_of_an_older_linker_has_no_name_and_says_its_macos_too(tmp_path: Path) -> None:
    data = handmade.macho(
        machine=0x0100000C, install=None, minos=(13, 3, 1), old=True, kind=handmade.BUNDLE, needed=(), runpath=()
    )
    facts = read_binary(made(tmp_path, data))
    assert (facts.platform, facts.soname, facts.macos) == (Platform.MACOS_ARM64, None, "13.3.1")


@ON_LINUX
def test_an_elf_file_says_what_its_own_reader_reads(build: Callable[..., Path]) -> None:
    path = build("crash.c", "libfacts.so", "-DHOW=3", "-Wl,-soname,libfacts.so.1", "-Wl,-rpath,$ORIGIN")
    facts = read_binary(path)
    assert (facts.format, facts.soname, facts.runpath) == ("elf", "libfacts.so.1", (str(path.parent),))
    assert "libc.so.6" in facts.needed
    assert facts.glibc is not None
    assert (facts.platform, facts.macos) == (Platform.current(), None)


# --- what is refused ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"\x7f", "not an ELF, PE or Mach-O file"),
        (b"<!DOCTYPE html>" * 99, "not an ELF, PE or Mach-O file"),
        (random.Random(1).randbytes(5000), "not an ELF, PE or Mach-O file"),
        (b"MZ" + bytes(500), "a DOS program"),
        (b"MZ" + b"\xff" * 500, "a table lies beyond its end"),
        (b"\xca\xfe\xba\xbe" + bytes(500), "lipo -thin"),
        (b"\xfe\xed\xfa\xcf" + bytes(500), "not an ELF, PE or Mach-O file"),  # big-endian
        (handmade.elf({}, machine=3), "for a processor that no builds exist for"),
        (handmade.elf({}, machine=243), "for a processor that no builds exist for"),
        (handmade.elf({}, kind=1), "not a shared library"),
        (handmade.elf({})[:4] + b"\x01" + handmade.elf({})[5:], "for a processor that no builds exist for"),
        (handmade.pe(machine=0x14C), "for a processor that no builds exist for"),
        (handmade.pe(flags=0x22), "not a shared library"),
        (handmade.pe(needed=("a\nb.dll",)), "is no library's name"),
        (handmade.pe(needed=("\N{LATIN SMALL LETTER E WITH ACUTE}.dll",)), "is no library's name"),
        (handmade.pe(needed=[f"{n}.dll" for n in range(300)]), "too many libraries"),
        (handmade.pe(needed=["same.dll"] * 300), "too many libraries"),
        (handmade.pe(name=""), "is no library's name"),
        (handmade.macho(machine=7), "for a processor that no builds exist for"),
        (handmade.macho(kind=handmade.EXECUTE), "not a shared library"),
        (handmade.macho(platform=handmade.IOS), "another of Apple's systems"),
        (handmade.macho(minos=None), "does not say which macOS"),
        (handmade.macho(needed=("",)), "is no library's name"),
        (handmade.macho(runpath=("/opt/\x7f",)), "is no library's name"),
        (handmade.macho(needed=[f"/{n}.dylib" for n in range(300)]), "too many libraries"),
    ],
)
def test_what_no_manifest_describes_is_a_load_error(tmp_path: Path, data: bytes, reason: str) -> None:
    path = made(tmp_path, data)
    with pytest.raises(LoadError, match=reason) as caught:
        read_binary(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("where", [0, 0xFFFFFFF, 0xFFFFFFFF, 0x1000])
def test_a_damaged_name_is_never_left_out(tmp_path: Path, where: int) -> None:
    """lief returns the first of these three names then, and says nothing."""
    data = bytearray(handmade.pe(needed=("one.dll", "two.dll", "three.dll")))
    row = data.index(struct.pack("<I", 0x3000 + data.index(b"two.dll") - 0x600))  # .rdata's address and place
    data[row : row + 4] = struct.pack("<I", where)
    with pytest.raises(LoadError, match="damaged"):
        read_binary(made(tmp_path, bytes(data)))


def _elf_of_cc(tmp_path: Path) -> bytes:
    source = tmp_path / "small.c"
    source.write_text('#include <stdio.h>\nint f(void) { return puts("x"); }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "small.so"), str(source)], check=True)
    return (tmp_path / "small.so").read_bytes()


@pytest.mark.parametrize("kind", ["elf", "pe", "macho", pytest.param("cc", marks=ON_LINUX)])
def test_a_cut_file_is_a_load_error_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    """A download that ended early, at any of sixty places."""
    whole = {
        "elf": lambda: handmade.elf({".text": b"\xc3" * 300, ".rodata": b"x" * 300}),
        "pe": lambda: handmade.pe(b"\xc3" * 1024, more={".data": b"x" * 1024}),
        "macho": lambda: handmade.macho(b"\xc3" * 1024),
        "cc": lambda: _elf_of_cc(tmp_path),
    }[kind]()
    assert read_binary(made(tmp_path, whole)).needed is not None
    for step in range(60):
        with pytest.raises(LoadError):
            read_binary(made(tmp_path, whole[: len(whole) * step // 60]))


@pytest.mark.parametrize("kind", ["elf", "pe", "macho"])
def test_flipped_bytes_are_read_or_are_a_load_error(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is raised, nothing is printed, and it always ends."""
    whole = {
        "elf": handmade.elf({".text": b"\xc3" * 300, ".rodata": b"x" * 300}),
        "pe": handmade.pe(b"\xc3" * 512, needed=("a.dll", "b.dll")),
        "macho": handmade.macho(b"\xc3" * 512, needed=("/usr/lib/a.dylib", "@rpath/b.dylib")),
    }[kind]
    places = [at for at, byte in enumerate(whole) if byte or at < 1024]
    chance, refused = random.Random(kind), 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 2, 4])):
            data[chance.choice(places)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        try:
            read_binary(made(tmp_path, bytes(data)))
        except LoadError:
            refused += 1
    assert 20 < refused < 1500
    assert capfd.readouterr() == ("", "")


def test_sections_that_hold_one_another_are_a_load_error(tmp_path: Path) -> None:
    """A small file may not claim to hold the same bytes a thousand times: they would all be read."""
    data = bytearray(handmade.elf({f".s{n}": b"x" * 16 for n in range(40)} | {".big": b"x" * 4096}))
    count = struct.unpack_from("<H", data, 60)[0]
    table = struct.unpack_from("<Q", data, 40)[0]
    big = table + 41 * 64
    for row in range(1, count - 2):
        data[table + row * 64 + 24 : table + row * 64 + 40] = data[big + 24 : big + 40]
    with pytest.raises(LoadError, match="overlap"):
        read_binary(made(tmp_path, bytes(data)))


def test_a_segment_without_sections_has_to_be_there_too(tmp_path: Path) -> None:
    """A dylib ends with its symbols, which belong to no section."""
    data = handmade.macho()
    size = struct.pack("<4Q", 0, 0x2000, 0, 0x1001)
    assert data.count(size) == 1
    with pytest.raises(LoadError, match="truncated: segment '__TEXT'"):
        read_binary(made(tmp_path, data.replace(size, struct.pack("<4Q", 0, 0x2000, 0, 0x1002))))


@pytest.mark.parametrize("size", [0, 7, 8000, 0xFFFFFFFF])
def test_a_load_command_of_a_false_size_is_a_load_error(tmp_path: Path, size: int) -> None:
    data = bytearray(handmade.macho())
    data[36:40] = struct.pack("<I", size)
    with pytest.raises(LoadError, match="load commands do not fit"):
        read_binary(made(tmp_path, bytes(data)))


@pytest.mark.parametrize("size", [0, 32, 63])
def test_section_headers_that_are_too_short_are_a_load_error(tmp_path: Path, size: int) -> None:
    data = bytearray(handmade.elf({".text": b"\xc3"}))
    data[58:60] = struct.pack("<H", size)
    with pytest.raises(LoadError, match="section headers are too short"):
        read_binary(made(tmp_path, bytes(data)))


def test_a_hundred_thousand_load_commands_are_too_many(tmp_path: Path) -> None:
    count = 100_000
    header = struct.pack("<8I", 0xFEEDFACF, 0x01000007, 3, handmade.DYLIB, count, 8 * count, 0, 0)
    with pytest.raises(LoadError, match="it claims 100000"):
        read_binary(made(tmp_path, header + struct.pack("<2I", 1, 8) * count))


@ON_LINUX
def test_what_is_no_file_is_a_load_error(tmp_path: Path) -> None:
    """A FIFO would wait for ever, a device has no end; none of them is read."""
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/dev/zero", tmp_path / "zero")
    for path in (tmp_path / "fifo", tmp_path / "zero", tmp_path, tmp_path / "absent", "a\0b", "", "x" * 5000):
        with pytest.raises(LoadError):
            read_binary(path)


def test_a_file_of_more_than_four_gib_is_not_read(tmp_path: Path) -> None:
    path = made(tmp_path, handmade.pe())
    os.truncate(path, (4 << 30) + 1)  # sparse: it takes no room
    with pytest.raises(LoadError, match="4 GiB"):
        read_binary(path)
