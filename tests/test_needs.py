"""Tell what a file wants and what is missing here, without opening anything."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from nativeload import mapped, needs
from nativeload.elf import read_elf
from nativeload.errors import LoadError
from nativeload.needs import Missing, explain_missing, find_library, missing_libraries, package_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF files and ld.so are Linux's")

_MACHINE = {"x86_64": "x86_64", "aarch64": "aarch64"}.get(os.uname().machine, "") if sys.platform == "linux" else ""
_X86_64, _AARCH64 = 62, 183


def build(path: Path, *wants: Path, flags: tuple[str, ...] = (), calls: str = "") -> Path:
    """Compile one small library; what it links against is named by its SONAME."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(f'#include <stdio.h>\nint f(void) {{ {calls} return puts("x"); }}\n')
    command = ["cc", "-shared", "-fPIC", "-nostartfiles", f"-Wl,-soname,{path.name}", "-Wl,--no-as-needed"]
    subprocess.run([*command, *flags, "-o", str(path), str(source), *map(str, wants)], check=True)
    source.unlink()
    return path


def with_machine(path: Path, machine: int) -> Path:
    """Patch e_machine, a half word at offset 18."""
    data = bytearray(path.read_bytes())
    data[18:20] = struct.pack("<H", machine)
    path.write_bytes(data)
    return path


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """A library that exists only while others are linked against it."""
    return build(tmp_path / "linktime" / "libzzz.so.9")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    other = build(folder / "libother.so.1")
    return build(folder / "libsmall.so", other, flags=("-Wl,-rpath,$ORIGIN:$ORIGIN/x",)).read_bytes()


# --- what one file says ---


def test_facts_are_those_of_the_dynamic_section(tmp_path: Path) -> None:
    """SONAME, NEEDED in order, the run path with its own directory filled in, the machine."""
    other = build(tmp_path / "libother.so.1")
    facts = read_elf(build(tmp_path / "liba.so", other, flags=("-Wl,-rpath,$ORIGIN:${ORIGIN}/sub:/opt/l:",)))
    assert facts.soname == "liba.so"
    assert facts.needed == ("libother.so.1", "libc.so.6")
    assert facts.runpath == (str(tmp_path), f"{tmp_path}/sub", "/opt/l", ".")
    assert not facts.inherited
    assert facts.machine == _MACHINE
    assert facts.glibcxx is None
    assert facts.glibc is not None


def test_the_versions_are_those_readelf_sees() -> None:
    """The highest GLIBC and GLIBCXX are compared as numbers: 2.9 is below 2.17."""
    path = find_library("libstdc++.so.6", machine=_MACHINE)
    assert path is not None
    wants = subprocess.run(["readelf", "-VW", path], check=True, capture_output=True, text=True).stdout
    wants = wants[wants.index("Version needs section") :]
    numbers = [tuple(map(int, n.split("."))) for n in re.findall(r"GLIBC_([0-9.]+)", wants)]
    assert read_elf(path).glibc == ".".join(map(str, max(numbers)))


def test_section_headers_are_not_needed(tmp_path: Path, small: bytes) -> None:
    """The file is read as ld.so reads it: by its program headers."""
    whole = tmp_path / "libwhole.so"
    whole.write_bytes(small)
    bare = bytearray(small)
    bare[40:48] = bytes(8)  # e_shoff
    bare[60:64] = bytes(4)  # e_shnum, e_shstrndx
    stripped = tmp_path / "libbare.so"
    stripped.write_bytes(bare)
    assert read_elf(stripped).needed == read_elf(whole).needed == ("libother.so.1", "libc.so.6")


def test_a_file_without_a_dynamic_section_wants_nothing(tmp_path: Path) -> None:
    """An object file is an ELF file that names no library."""
    source = tmp_path / "o.c"
    source.write_text("int x;\n")
    subprocess.run(["cc", "-c", "-o", str(tmp_path / "o.o"), str(source)], check=True)
    assert read_elf(tmp_path / "o.o").needed == ()


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda _: b"", "not an ELF file: it is empty"),
        (lambda _: b"\x7fEL", "not an ELF file"),
        (lambda _: b"MZ" + bytes(500), "not an ELF file"),
        (lambda _: b"<html>" * 90, "not an ELF file"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:64], "truncated"),
        (lambda data: data[:200], "truncated"),
        (_cut(0.5), "truncated"),
        (lambda data: data[:4] + b"\x07" + data[5:], "damaged"),
        (lambda data: data[:56] + b"\xff\xff" + data[58:], "65535 segments"),
        (lambda data: data[:32] + b"\xff" * 8 + data[40:], "truncated"),
    ],
)
def test_what_is_no_sound_elf_file_is_a_load_error(
    tmp_path: Path, small: bytes, break_it: Callable[[bytes], bytes], reason: str
) -> None:
    """Garbage, nothing, a cut file and false claims say what they are."""
    path = tmp_path / "libbad.so"
    path.write_bytes(break_it(small))
    with pytest.raises(LoadError, match=reason) as caught:
        read_elf(path)
    assert caught.value.path == str(path)


def test_what_is_no_file_is_a_load_error(tmp_path: Path) -> None:
    """A FIFO would wait for ever, /dev/zero has no end; neither is read."""
    os.mkfifo(tmp_path / "libfifo.so")
    os.symlink("/dev/zero", tmp_path / "libzero.so")
    for name in ("libfifo.so", "libzero.so"):
        with pytest.raises(LoadError, match="not a regular file"):
            read_elf(tmp_path / name)
    for name in ("", "absent.so", "a\0b", "x" * 5000):
        with pytest.raises(LoadError):
            read_elf(str(tmp_path / name))


def test_claims_of_size_cost_no_time(tmp_path: Path, small: bytes) -> None:
    """A dynamic section said to be as long as a file of 1 TiB is refused, not walked."""
    data = bytearray(small)
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for at in range(start, start + size * count, size):
        if struct.unpack_from("<I", data, at)[0] == 2:  # PT_DYNAMIC
            data[at + 32 : at + 40] = struct.pack("<Q", 1 << 39)  # p_filesz
    path = tmp_path / "libbig.so"
    path.write_bytes(data)
    os.truncate(path, 1 << 40)
    started = time.monotonic()
    with pytest.raises(LoadError, match="too long"):
        read_elf(path)
    assert time.monotonic() - started < 1


def _mutated(data: bytes, rng: random.Random) -> bytes:
    copy = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        # Half of the changes go where they hurt: the headers and the tables behind them.
        at = rng.randrange(0x400 if rng.random() < 0.5 else len(copy))
        match rng.randrange(4):
            case 0:
                copy[at] = rng.randrange(256)
            case 1:
                copy[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f"))
            case 2:
                copy[at : at + 4] = struct.pack("<I", rng.choice((1, 0x7FFFFFFF, len(copy), len(copy) - 1)))
            case _:
                source = rng.randrange(len(copy))
                copy[at : at + 16] = copy[source : source + 16]
    return bytes(copy[: rng.randrange(1, len(copy))] if rng.random() < 0.1 else copy)


def test_a_mutated_file_is_read_or_refused(tmp_path: Path, small: bytes) -> None:
    """300 broken copies: facts or LoadError, never another exception, never a hang."""
    rng, path = random.Random(20261120), tmp_path / "libfuzz.so"
    refused = 0
    # pytest's failure is no Exception, so that read_elf cannot turn it into a LoadError.
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("read_elf hangs"))
    try:
        for _ in range(300):
            path.write_bytes(_mutated(small, rng))
            signal.alarm(5)
            try:
                facts = read_elf(path)
            except LoadError:
                refused += 1
            else:
                assert all(isinstance(name, str) for name in (*facts.needed, *facts.runpath))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert 30 < refused < 300, "the mutations must reach both outcomes"


# --- where a library is ---


def test_only_the_same_machine_counts(tmp_path: Path) -> None:
    """A file of another machine is passed over, as ld.so does; the next directory is tried."""
    foreign = build(tmp_path / "one" / "libq.so.1")
    with_machine(foreign, _X86_64 if _MACHINE == "aarch64" else _AARCH64)
    assert read_elf(foreign).machine != _MACHINE
    assert find_library("libq.so.1", directories=[str(foreign.parent)], env={}, machine=_MACHINE) is None
    right = build(tmp_path / "two" / "libq.so.1")
    both = [str(foreign.parent), str(right.parent)]
    assert find_library("libq.so.1", directories=both, env={}, machine=_MACHINE) == str(right)


def test_a_broken_file_is_not_found(tmp_path: Path, small: bytes) -> None:
    """A cut library or a linker script of the right name does not count."""
    (tmp_path / "libq.so.1").write_bytes(small[: len(small) // 2])
    (tmp_path / "libr.so.1").write_text("INPUT(-lq)\n")
    for name in ("libq.so.1", "libr.so.1"):
        assert find_library(name, directories=[str(tmp_path)], env={}, machine=_MACHINE) is None


def test_a_stub_never_counts(tmp_path: Path) -> None:
    """Neither the toolkit's stubs directory nor a link into it is a driver."""
    stub = build(tmp_path / "lib" / "stubs" / "libq.so.1")
    (tmp_path / "libq.so.1").symlink_to(stub)
    for folder in (stub.parent, tmp_path):
        assert find_library("libq.so.1", directories=[str(folder)], env={}, machine=_MACHINE) is None
    plain = tmp_path / "lib" / "libq.so.1"
    shutil.copy(stub, plain)
    assert find_library("libq.so.1", directories=[str(plain.parent)], env={}, machine=_MACHINE) == str(plain)


def test_the_environment_is_the_one_given(tmp_path: Path) -> None:
    """LD_LIBRARY_PATH is split at colons and semicolons."""
    wanted = build(tmp_path / "libq.so.1")
    for text in (f"/nowhere:{tmp_path}", f"{tmp_path};/nowhere"):
        assert find_library("libq.so.1", env={"LD_LIBRARY_PATH": text}, machine=_MACHINE) == str(wanted)
    assert find_library("libq.so.1", env={}, machine=_MACHINE) is None


def test_the_loaders_configuration_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes are globs beside the file; comments, hwcap lines and circles do no harm."""
    wanted = build(tmp_path / "far" / "libq.so.1")
    conf = tmp_path / "ld.so.conf"
    conf.write_text("# first\nhwcap 0 nosegneg\ninclude conf.d/*.conf\ninclude absent/*.conf\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "far.conf").write_text(f"{wanted.parent}=libc6  # last\ninclude {conf}\n")
    monkeypatch.setattr(needs, "_LD_SO_CONF", str(conf))
    assert find_library("libq.so.1", env={}, machine=_MACHINE) == str(wanted)


def test_what_is_mapped_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that this process holds satisfies its name wherever it came from."""
    wanted = build(tmp_path / "with space" / "libq.so.1")
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 r-xp 00000000 08:01 42    {wanted}\n7f02-7f03 rw-p 00000000 00:00 0\n")
    monkeypatch.setattr(mapped, "_MAPS", str(maps))
    assert find_library("libq.so.1", env={}, machine=_MACHINE) == str(wanted)
    monkeypatch.setattr(mapped, "_MAPS", str(tmp_path / "absent"))
    assert find_library("libq.so.1", env={}, machine=_MACHINE) is None


def test_a_name_with_a_slash_is_a_path(tmp_path: Path) -> None:
    """ld.so does not search for those either."""
    wanted = build(tmp_path / "libq.so.1")
    assert find_library(str(wanted), env={}, machine=_MACHINE) == str(wanted)
    assert find_library("sub/libq.so.1", directories=[str(tmp_path)], env={}, machine=_MACHINE) is None


# --- what is missing ---


def test_a_neighbour_is_found_and_a_lost_library_is_told(tmp_path: Path, gone: Path) -> None:
    """Each missing name is told once, with the file that wants it."""
    b = build(tmp_path / "libb.so")
    a = build(tmp_path / "liba.so", b, gone, flags=("-Wl,-rpath,$ORIGIN",))
    gone.unlink()
    assert missing_libraries([a, a], env={}) == (Missing(name="libzzz.so.9", wanted_by=str(a)),)
    b.unlink()
    assert [m.name for m in missing_libraries([a], env={})] == ["libb.so", "libzzz.so.9"]


def test_each_wanter_is_told(tmp_path: Path, gone: Path) -> None:
    """Two files that want the same lost library are two lines."""
    files = [build(tmp_path / name, gone) for name in ("liba.so", "libb.so")]
    gone.unlink()
    assert [m.wanted_by for m in missing_libraries(files, env={})] == [str(file) for file in files]


def test_a_dependency_of_a_dependency_is_told_with_its_way(tmp_path: Path, gone: Path) -> None:
    """``via`` leads from the given file to the one that wants in vain."""
    c = build(tmp_path / "sub" / "libc1.so", gone)
    b = build(tmp_path / "sub" / "libb.so", c, flags=("-Wl,-rpath,$ORIGIN",))
    a = build(tmp_path / "liba.so", b, flags=("-Wl,-rpath,$ORIGIN/sub", "-Wl,--allow-shlib-undefined"))
    gone.unlink()
    found = missing_libraries([a], env={})
    assert found == (Missing(name="libzzz.so.9", wanted_by=str(c), via=(str(a), str(b))),)
    line = "libzzz.so.9, wanted by libc1.so (through liba.so -> libb.so): no known package brings it"
    assert explain_missing(found) == line


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_only_an_rpath_is_inherited(tmp_path: Path, tags: str) -> None:
    """DT_RPATH serves what the file's libraries want, DT_RUNPATH does not: ldd is asked for the truth."""
    c = build(tmp_path / "far" / "libc1.so")
    b = build(tmp_path / "near" / "libb.so", c)
    places = f"-Wl,-rpath,{b.parent}:{c.parent}"
    a = build(tmp_path / "liba.so", b, flags=(places, f"-Wl,{tags}", "-Wl,--allow-shlib-undefined"))
    names = [m.name for m in missing_libraries([a], env={})]
    assert names == _lost_by_ldd(a)
    assert names == ([] if "disable" in tags else ["libc1.so"])


def _lost_by_ldd(path: Path) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    said = subprocess.run(["ldd", str(path)], check=True, capture_output=True, text=True, env=env).stdout
    return re.findall(r"^\s*(\S+) => not found$", said, re.MULTILINE)


def test_the_files_of_a_set_serve_one_another(tmp_path: Path) -> None:
    """The loader opens them by absolute path: SONAME, file name and directory all count."""
    b = build(tmp_path / "one" / "libb.so")
    a = build(tmp_path / "two" / "liba.so", b)
    assert [m.name for m in missing_libraries([a], env={})] == ["libb.so"]
    renamed = b.rename(b.with_name("other-name.so"))
    assert missing_libraries([a, renamed], env={}) == ()
    renamed.rename(b)
    assert missing_libraries([a], directories=[str(b.parent)], env={}) == ()


def test_a_circle_ends(tmp_path: Path) -> None:
    """Two libraries that want each other are read once each."""
    b = build(tmp_path / "libb.so")
    a = build(tmp_path / "liba.so", b, flags=("-Wl,-rpath,$ORIGIN",))
    build(b, a, flags=("-Wl,-rpath,$ORIGIN",))
    assert missing_libraries([a], env={}) == ()


def test_the_walk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many libraries are an error that says so, never a shorter answer."""
    monkeypatch.setattr(needs, "_MOST_FILES", 0)
    b = build(tmp_path / "libb.so")
    with pytest.raises(LoadError, match="more than 0 libraries"):
        missing_libraries([build(tmp_path / "liba.so", b, flags=("-Wl,-rpath,$ORIGIN",))], env={})


def test_a_given_file_must_be_readable(tmp_path: Path) -> None:
    """A broken member of a set is an error, not a missing library."""
    (tmp_path / "libbad.so").write_bytes(b"not a library")
    with pytest.raises(LoadError, match="not an ELF file"):
        missing_libraries([tmp_path / "libbad.so"])


def test_nothing_is_opened_by_the_loader(tmp_path: Path, gone: Path) -> None:
    """Neither dlopen nor a program is seen by Python's audit hook, and the import is light."""
    a = build(tmp_path / "liba.so", gone)
    gone.unlink()
    child = (
        "import sys\n"
        "from nativeload.needs import missing_libraries\n"
        "assert not {'elftools', 'ctypes', 'subprocess'} & set(sys.modules), 'the import is heavy'\n"
        "bad = ('ctypes.dlopen', 'subprocess.Popen', 'os.system', 'os.posix_spawn', 'os.fork', 'os.exec')\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event in bad else None)\n"
        "print([m.name for m in missing_libraries(sys.argv[1:])], seen)\n"
        "import ctypes; ctypes.CDLL(None); assert 'ctypes.dlopen' in seen, 'the hook sees nothing'\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", child, str(a)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[0] == "['libzzz.so.9'] []"


# --- what brings it ---


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("libcuda.so.1", "the NVIDIA driver (libcuda1 / nvidia-driver-cuda), installed on the host"),
        ("libcudart.so.11.0", "pip install nvidia-cuda-runtime-cu11"),
        ("libcudart.so.12", "pip install nvidia-cuda-runtime-cu12"),
        ("libcudart.so.13", "pip install nvidia-cuda-runtime==13.*"),
        ("libcublas.so.12", "pip install nvidia-cublas-cu12"),
        ("libcublasLt.so.11", "pip install nvidia-cublas-cu11"),
        ("libcublasLt.so.13", "pip install nvidia-cublas==13.*"),
        ("libgomp.so.1", "libgomp1 (Debian, Ubuntu) or libgomp (Fedora)"),
        ("libstdc++.so.6", "libstdc++6 (Debian, Ubuntu) or libstdc++ (Fedora)"),
        ("libvulkan.so.1", "libvulkan1 (Debian, Ubuntu) or vulkan-loader (Fedora)"),
        ("libamdhip64.so.6", "AMD ROCm, installed on the host"),
        ("libcudart.so.14", None),
        ("libstdcxx.so.6", None),
    ],
)
def test_a_known_library_has_its_package(name: str, package: str | None) -> None:
    """A CUDA major whose package is not known has none: no name is guessed."""
    assert package_of(name) == package


def test_names_cannot_write_to_the_terminal() -> None:
    """A name comes out of the file: escape sequences and line ends are shown, not sent."""
    text = explain_missing([Missing(name="lib\x1b[2J\n.so", wanted_by="/x/liba.so")])
    assert text == r"lib\x1b[2J\n.so, wanted by liba.so: no known package brings it"


# --- real files ---

_CUDA = "node-llama-cpp-linux-x64-cuda/package/bins/linux-x64-cuda/libggml-cuda.so"
_BASE = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")


def _cuda_backend() -> str:
    """The published CUDA backend; where the folder is named, the file must be there."""
    root = os.environ.get("NATIVELOAD_TEST_BINARIES")
    if not root:
        pytest.skip("NATIVELOAD_TEST_BINARIES is not set: tools/fetch_real.py fills such a folder")
    path = os.path.join(root, _CUDA)
    assert os.path.isfile(path), f"{path} is missing: run tools/fetch_real.py"
    return path


@pytest.mark.real_bundle
def test_the_cuda_backend_wants_three_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host with a C++ runtime and nothing of NVIDIA's, whatever the host of this test has installed."""
    cuda_backend = _cuda_backend()
    stand_in = build(tmp_path / "stand-in", flags=("-nodefaultlibs", "-Wl,--unresolved-symbols=ignore-all"))
    for name in _BASE:
        shutil.copy(with_machine(stand_in, _X86_64), tmp_path / name)
    monkeypatch.setattr(mapped, "_MAPS", os.devnull)
    found = missing_libraries([cuda_backend], env={}, system=[str(tmp_path)])
    assert {m.name for m in found} == {"libcudart.so.13", "libcublas.so.13", "libcuda.so.1"}
    assert {m.wanted_by for m in found} == {cuda_backend}
    line = "libcudart.so.13, wanted by libggml-cuda.so: pip install nvidia-cuda-runtime==13.*"
    assert line in explain_missing(found).splitlines()


@pytest.mark.real_bundle
@pytest.mark.skipif(_MACHINE != "x86_64", reason="ldd reads files of its own machine")
def test_the_answer_is_that_of_ldd(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this very host the missing names are those that the system's loader does not find."""
    monkeypatch.setattr(mapped, "_MAPS", os.devnull)
    folder = os.path.dirname(_cuda_backend())
    for name in sorted(os.listdir(folder)):
        if name.endswith((".so", ".node")):
            path = os.path.join(folder, name)
            said = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
            lost = set(re.findall(r"^\s*(\S+) => not found$", said, re.MULTILINE))
            assert {m.name for m in missing_libraries([path])} == lost, name
