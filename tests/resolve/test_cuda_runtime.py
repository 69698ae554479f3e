"""Find the CUDA runtime whole in one place, or not at all.

The libraries are small ones of a CUDA major that nobody has, so that no test meets the machine's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from nativeload import needs
from nativeload.resolve.cuda_runtime import CudaRuntime, major_of, wanted
from nativeload.variant import Role
from tests.resolve.conftest import SitePackages, sha
from tests.resolve.cuda_words import find, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the loader is Linux's")

CUDART, LT, CUBLAS = "libcudart.so.97", "libcublasLt.so.97", "libcublas.so.97"
NAMES = ("libggml-base.so", CUDART, CUBLAS, "libcuda.so.1", "libc.so.6")
IN_ORDER = (CUDART, LT, CUBLAS)


def add_wheels(site: SitePackages, major: int = 97, *, only: str = "") -> None:
    """Install the two wheels as they lie since CUDA 13."""
    lib = f"nvidia/cu{major}/lib"
    wheels = {
        "nvidia_cuda_runtime": (f"libcudart.so.{major}",),
        "nvidia_cublas": (f"libcublas.so.{major}", f"libcublasLt.so.{major}", f"libnvblas.so.{major}"),
    }
    for name, files in wheels.items():
        if only in {"", name}:
            site.add(name, f"{major}.1", {f"{lib}/{file}": file.encode() for file in files})


def look(site: SitePackages, names: tuple[str, ...] = NAMES, *, mapped: tuple[str, ...] = ()) -> CudaRuntime | None:
    """Look in the wheels of one folder, on a host that has no runtime elsewhere."""
    return find(names, path=site.path, mapped=mapped, env={})


def why(site: SitePackages, names: tuple[str, ...] = NAMES, *, mapped: tuple[str, ...] = ()) -> str:
    return why_not(names, path=site.path, mapped=mapped, env={})


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "of_cuda", "major"),
    [
        (("libggml-base.so", "libcudart.so.13", "libcublas.so.13", "libcuda.so.1"), (1, 2), 13),
        (("libcudart.so.11.0", "libcublas.so.11", "libcublasLt.so.11"), (0, 1, 2), 11),
        (("cublas64_12.dll", "KERNEL32.dll", "nvcuda.dll", "cudart64_12.dll"), (0, 3), 12),
        (("cudart64_110.dll", "cublas64_11.dll", "cublasLt64_11.dll"), (0, 1, 2), 11),
        (("libcudart.so.13", "libcudart.so.13"), (0,), 13),
        (("libcublas.so.13",), (0,), 13),
        (("libcudart.so.12", "libcublas.so.13"), (0, 1), None),
        ((), (), None),
        (("libvulkan.so.1", "libggml-cuda.so", "libcuda.so.1", "libnvblas.so.13", "libcudart_static.a"), (), None),
    ],
)
def test_the_names_of_the_runtime_are_known(
    names: tuple[str, ...], of_cuda: tuple[int, ...], major: int | None
) -> None:
    """The driver's libcuda is no part of it; two majors at once are none."""
    assert wanted(names) == tuple(names[index] for index in of_cuda)
    assert major_of(names) == major


@pytest.mark.parametrize(
    "name",
    [
        "libcudart.so",
        "libcudart.so.",
        "libcudart.so.x",
        "libcudart.so.13.x",
        "libcudart.so.13..0",
        "libcudart.so.-13",
        "libcudart.so.١٣",
        "libcudart.so." + "9" * 5000,
        "libcudart.so.13\n",
        "libcudart-d0da41ae.so.13",
        "lib/opt/libcudart.so.13",
        "/opt/libcudart.so.13",
        "../libcudart.so.13",
        "libcudart.13.dylib",
        "libcudart64_13.dll",
        "cudart64_13",
        "cudart64_.dll",
        "cudart64_x.dll",
        "cudart.dll",
        ".dll",
        "",
    ],
)
def test_other_names_are_not_of_the_runtime(name: str) -> None:
    """Renamed copies and paths are none, and what a hostile file may want is no error."""
    assert wanted([name]) == ()
    assert major_of([name]) is None


# -- wheels -----------------------------------------------------------------------------------------------------------


def test_wheels_bring_it_in_load_order(site: SitePackages) -> None:
    """What is preloaded is absolute, vouched for by RECORD, and includes what cuBLAS leads to."""
    add_wheels(site)
    found = look(site)
    assert found is not None
    assert (found.major, found.place) == (97, "nvidia-cublas 97.1 and nvidia-cuda-runtime 97.1")
    assert tuple(file.label for file in found.files) == IN_ORDER
    assert found.paths == tuple(str(site.root / "nvidia/cu97/lib" / name) for name in IN_ORDER)
    assert tuple(file.path for file in found.files) == found.paths
    assert {file.role for file in found.files} == {Role.RUNTIME}
    assert [file.declared for file in found.files] == [sha(name.encode()) for name in IN_ORDER]
    assert why(site) == ""


def test_wheels_are_looked_for_on_the_path(only_site: SitePackages) -> None:
    add_wheels(only_site)
    found = find(NAMES)
    assert found is not None
    assert len(found.files) == 3


def test_wheels_up_to_cuda_12_have_the_major_in_their_name(site: SitePackages) -> None:
    site.add("nvidia_cuda_runtime_cu12", "12.9.79", {"nvidia/cuda_runtime/lib/libcudart.so.12": b"rt"})
    files = {f"nvidia/cublas/lib/libcublas{x}.so.12": x.encode() for x in ("", "Lt")}
    site.add("nvidia_cublas_cu12", "12.9.3", files)
    found = look(site, ("libcudart.so.12", "libcublas.so.12"))
    assert found is not None
    assert found.place == "nvidia-cublas-cu12 12.9.3 and nvidia-cuda-runtime-cu12 12.9.79"
    assert [file.name for file in found.files] == ["libcudart.so.12", "libcublasLt.so.12", "libcublas.so.12"]


def test_windows_wheels_bring_dlls(site: SitePackages) -> None:
    """CUDA 11's cudart has two digits after its major, and the folder is another one."""
    site.add("nvidia_cuda_runtime_cu11", "11.8", {"nvidia/cuda_runtime/bin/cudart64_110.dll": b"rt"})
    files = {f"nvidia/cublas/bin/cublas{x}64_11.dll": x.encode() for x in ("", "Lt")}
    site.add("nvidia_cublas_cu11", "11.11", files)
    found = look(site, ("cudart64_110.dll", "cublas64_11.dll"))
    assert found is not None
    assert [file.name for file in found.files] == ["cudart64_110.dll", "cublasLt64_11.dll", "cublas64_11.dll"]


def test_a_backend_that_wants_less_needs_less(site: SitePackages) -> None:
    """One that carries its cuBLAS inside wants libcudart alone, and one that wants nothing of CUDA finds nothing."""
    add_wheels(site, only="nvidia_cuda_runtime")
    found = look(site, (CUDART,))
    assert found is not None
    assert [file.label for file in found.files] == [CUDART]
    assert found.place == "nvidia-cuda-runtime 97.1"
    assert look(site, ("libc.so.6",)) is None
    assert why(site, ("libc.so.6",)) == "no CUDA runtime is wanted"


@pytest.mark.parametrize(
    ("only", "missing"),
    [
        ("nvidia_cuda_runtime", "libcublasLt.so.13 and libcublas.so.13 (pip install nvidia-cublas==13.*)"),
        ("nvidia_cublas", "libcudart.so.13 (pip install nvidia-cuda-runtime==13.*)"),
    ],
)
def test_one_wheel_of_two_is_no_runtime(
    only: str, missing: str, site: SitePackages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "find_library", lambda *_, **__: None)  # this host may have the real one
    add_wheels(site, 13, only=only)
    names = ("libcudart.so.13", "libcublas.so.13")
    assert look(site, names) is None
    assert why(site, names) == f"no CUDA 13 runtime is here whole; missing: {missing}"


def test_nothing_installed_names_both_wheels(site: SitePackages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_library", lambda *_, **__: None)
    said = why(site, ("cudart64_12.dll", "cublas64_12.dll"))
    assert "cudart64_12.dll (pip install nvidia-cuda-runtime-cu12)" in said
    assert "cublasLt64_12.dll and cublas64_12.dll (pip install nvidia-cublas-cu12)" in said
    assert "no known package brings it" in why(site)
    assert "\n" not in said


def test_empty_placeholders_are_no_runtime(site: SitePackages) -> None:
    """Since CUDA 13 the packages with the major in their name carry nothing; the plain ones beside them do."""
    for name in ("nvidia_cuda_runtime_cu97", "nvidia_cublas_cu97"):
        site.add(name, "0.0.1", {f"{name}/__init__.py": b""})
    assert look(site) is None
    assert "is not whole" not in why(site)
    add_wheels(site)
    found = look(site)
    assert found is not None
    assert found.place == "nvidia-cublas 97.1 and nvidia-cuda-runtime 97.1"


def test_majors_are_never_mixed(site: SitePackages) -> None:
    """Neither a wheel of another major nor a backend that wants two is served."""
    add_wheels(site, 97, only="nvidia_cuda_runtime")
    add_wheels(site, 96, only="nvidia_cublas")
    assert look(site) is None
    assert look(site, (CUDART, "libcublas.so.96")) is None
    assert why(site, (CUDART, "libcublas.so.96")) == f"{CUDART} and libcublas.so.96 are of different CUDA majors"


def test_cublas_and_its_lt_come_from_one_wheel(site: SitePackages) -> None:
    site.add("nvidia_cublas", "97.1", {f"nvidia/cu97/lib/{CUBLAS}": b"newer"})
    site.add("nvidia_cublas_cu97", "97.0", {f"nvidia/cublas/lib/{LT}": b"older"})
    assert look(site, (CUBLAS,)) is None


def test_two_wheels_of_one_thing_are_not_mixed(site: SitePackages, tmp_path: Path) -> None:
    """The first that is whole serves; the two wheels of a runtime may lie in different folders of the path."""
    user = SitePackages(tmp_path / "user")
    add_wheels(user, only="nvidia_cuda_runtime")
    add_wheels(site, only="nvidia_cublas")
    site.add("nvidia_cublas_cu97", "97.0", {f"nvidia/cublas/lib/{file}": b"older" for file in (LT, CUBLAS)})
    found = find(NAMES, path=[*user.path, *site.path], mapped=(), env={})
    assert found is not None
    assert found.place == "nvidia-cublas 97.1 and nvidia-cuda-runtime 97.1"
    assert [Path(path).parent.name for path in found.paths] == ["lib"] * 3
    assert [Path(path).parents[3] for path in found.paths] == [user.root, site.root, site.root]


@pytest.mark.parametrize("name", ["nvidia_cublas_cu96", "nvidia_cublas_cu97_mirror", "other"])
def test_only_nvidias_wheels_count(name: str, site: SitePackages) -> None:
    """Whatever else carries a file of that name was not installed to be the runtime."""
    site.add(name, "1.0", {f"x/{file}": file.encode() for file in (LT, CUBLAS)})
    assert look(site, (CUBLAS,)) is None


@pytest.mark.parametrize(
    "damage", ["a file is gone", "no hash", "no RECORD", "it leaves the folder", "absolute", "backslash", "stubs"]
)
def test_a_damaged_wheel_is_no_runtime(damage: str, site: SitePackages, tmp_path: Path) -> None:
    """What RECORD does not vouch for, or what it names elsewhere, is not opened."""
    files = {f"nvidia/cu97/lib/{file}": file.encode() for file in (LT, CUBLAS)}
    lines = [f"{path},sha256={'A' * 43},1" for path in files]
    bad = {
        "it leaves the folder": f"../{CUBLAS}",
        "absolute": f"{tmp_path}/{CUBLAS}",
        "backslash": f"..\\{CUBLAS}/{CUBLAS}",
        "stubs": f"lib/stubs/{CUBLAS}",
    }.get(damage)
    if bad is not None:
        place = Path(os.path.join(site.root, bad))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"planted")
        lines[1] = f"{bad},sha256={'A' * 43},1"
    unhashed = [f"nvidia/cu97/lib/{CUBLAS}"] if damage == "no hash" else []
    info = site.add("nvidia_cublas", "97.1", files, record=lines if bad else None, unhashed=unhashed)
    if damage == "a file is gone":
        (site.root / f"nvidia/cu97/lib/{LT}").unlink()
    elif damage == "no RECORD":
        (info / "RECORD").unlink()
    assert look(site, (CUBLAS,)) is None
    assert f"{LT} and {CUBLAS} (nvidia-cublas 97.1 is not whole: install it again)" in why(site, (CUBLAS,))


# -- this process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mapped",
    [
        ("/a/libcudart.so.97", "/a/libcublas.so.97", "/a/libcublasLt.so.97"),
        ("/opt/cuda/lib64/libcudart.so.97.0.96", "/opt/cuda/lib64/libcublas.so.97.1.0.3"),
        ("/a/libcudart.so.97 (deleted)", "/a/libcublas.so.97 (deleted)"),
        ("/a/libcudart.so.96", "/a/libcublas.so.96", "/b/libcudart.so.97", "/b/libcublas.so.97"),
    ],
)
def test_what_is_mapped_needs_no_help(mapped: tuple[str, ...], site: SitePackages) -> None:
    """The real files of a toolkit have longer versions than their SONAMEs; mapped comes before wheels."""
    add_wheels(site)
    found = look(site, mapped=mapped)
    assert found is not None
    assert (found.place, found.files, found.major) == ("this process", (), 97)
    kept = [path.removesuffix(" (deleted)") for path in mapped if ".so.97" in path]
    assert sorted(found.paths) == sorted(kept)
    assert "cudart" in found.paths[0]
    assert found.paths[-1].partition(".so")[0].endswith("cublas")


@pytest.mark.parametrize(
    "mapped",
    [
        ("/a/libcudart.so.96", "/a/libcublas.so.96", "/a/libcublasLt.so.96"),
        ("/a/torch.libs/libcudart-d0da41ae.so.97", "/a/torch.libs/libcublas-1f3e5a77.so.97"),
        ("/a/libcudart.so", "/a/libcublas.so.97.debug"),
    ],
)
def test_what_nothing_binds_to_does_not_count_as_mapped(mapped: tuple[str, ...], site: SitePackages) -> None:
    """Another major and renamed copies may be in the process; the wheels serve beside them."""
    assert look(site, mapped=mapped) is None
    add_wheels(site)
    found = look(site, mapped=mapped)
    assert found is not None
    assert len(found.files) == 3


def test_half_a_runtime_from_elsewhere_is_not_completed(site: SitePackages) -> None:
    """The backend would bind to the mapped half, so the wheels are not what would run."""
    add_wheels(site)
    mapped = ("/opt/other/libcudart.so.97.0.96",)
    assert look(site, mapped=mapped) is None
    said = why(site, mapped=mapped)
    assert said.startswith(f"{CUDART} is in this process from /opt/other/libcudart.so.97.0.96")
    assert str(site.root) in said


def test_half_of_the_same_runtime_is_completed(site: SitePackages, tmp_path: Path) -> None:
    """Whatever its path: what counts is the file."""
    add_wheels(site)
    link = tmp_path / "lib"
    link.symlink_to(site.root / "nvidia/cu97/lib")
    found = look(site, mapped=(str(link / CUDART), str(link / LT)))
    assert found is not None
    assert tuple(file.label for file in found.files) == IN_ORDER


# -- the system loader ------------------------------------------------------------------------------------------------


@pytest.fixture
def toolkit(build: Callable[..., Path], tmp_path: Path) -> Path:
    """A toolkit's folder with libraries of the right names, SONAMEs and wishes."""
    folder = tmp_path / "toolkit" / "lib64"
    folder.mkdir(parents=True)
    lt = build("crash.c", LT, f"-Wl,-soname,{LT}")
    cublas = build("crash.c", CUBLAS, f"-Wl,-soname,{CUBLAS}", "-Wl,--no-as-needed", str(lt))
    for library in (build("crash.c", CUDART, f"-Wl,-soname,{CUDART}"), lt, cublas):
        shutil.copy(library, folder)
    return folder


def with_loader(*folders: Path | str, path: tuple[str, ...] = ()) -> CudaRuntime | None:
    env = {"LD_LIBRARY_PATH": ":".join(map(str, folders))}
    return find(NAMES, path=path, mapped=(), env=env)


@ON_LINUX
def test_the_loader_has_it(toolkit: Path) -> None:
    """Nothing is preloaded then; where it lies is said."""
    found = with_loader("/nowhere", toolkit)
    assert found is not None
    assert (found.place, found.files) == (f"the system loader ({toolkit})", ())
    assert found.paths == tuple(str(toolkit / name) for name in IN_ORDER)


@ON_LINUX
@pytest.mark.parametrize("name", IN_ORDER)
def test_a_toolkit_that_lacks_one_is_no_runtime(name: str, toolkit: Path, site: SitePackages) -> None:
    """Not even where wheels could fill in: one place brings all of it."""
    (toolkit / name).unlink()
    add_wheels(site, only="nvidia_cublas" if name != CUDART else "nvidia_cuda_runtime")
    assert with_loader(toolkit, path=tuple(site.path)) is None


@ON_LINUX
def test_wheels_come_before_the_loader(toolkit: Path, site: SitePackages) -> None:
    add_wheels(site)
    found = with_loader(toolkit, path=tuple(site.path))
    assert found is not None
    assert len(found.files) == 3


@ON_LINUX
def test_half_a_runtime_in_this_process_decides_for_its_place(toolkit: Path, site: SitePackages) -> None:
    """Mapped from the loader's place, that one serves and not the wheels; mapped from elsewhere, neither does."""
    add_wheels(site)
    env = {"LD_LIBRARY_PATH": str(toolkit)}
    found = find(NAMES, path=site.path, mapped=(str(toolkit / CUDART),), env=env)
    assert found is not None
    assert found.place == f"the system loader ({toolkit})"
    assert find(NAMES, path=site.path, mapped=("/opt/other/libcudart.so.97",), env=env) is None
    assert find(NAMES, path=(), mapped=("/opt/other/libcudart.so.97",), env=env) is None


@ON_LINUX
def test_a_folder_that_exists_is_not_the_loaders(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_PATH", "CUDA_HOME", "CUDA_ROOT", "CUDAToolkit_ROOT"):
        monkeypatch.setenv(name, str(toolkit.parent))
    monkeypatch.setenv("PATH", f"{toolkit}:{os.environ['PATH']}")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert find(NAMES, path=()) is None
    monkeypatch.setenv("LD_LIBRARY_PATH", str(toolkit))  # the control: the folder would serve
    assert find(NAMES, path=()) is not None


@ON_LINUX
def test_stubs_are_no_runtime(toolkit: Path) -> None:
    stubs = toolkit / "stubs"
    stubs.mkdir()
    (toolkit / CUBLAS).rename(stubs / CUBLAS)
    assert with_loader(toolkit, stubs) is None


@ON_LINUX
def test_the_current_folder_is_no_place(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader would look there, so a file that anybody could have put there would be opened."""
    monkeypatch.chdir(toolkit)
    assert with_loader(".") is None


@ON_LINUX
def test_cublas_is_opened_with_the_lt_beside_it(toolkit: Path, tmp_path: Path) -> None:
    """An older cuBLASLt earlier on LD_LIBRARY_PATH does not come between them."""
    older = tmp_path / "older"
    older.mkdir()
    shutil.copy(toolkit / LT, older)
    found = with_loader(older, toolkit)
    assert found is not None
    assert found.paths == tuple(str(toolkit / name) for name in IN_ORDER)


# -- what really happens ----------------------------------------------------------------------------------------------


def run(code: str, *arguments: object) -> str:
    prelude = "import ctypes, json, sys\nfrom nativeload.resolve.cuda_runtime import search as find\n"
    environ = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    ended = subprocess.run(
        [sys.executable, "-c", prelude + dedent(code), *map(str, arguments)],
        env=environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@ON_LINUX
def test_a_backend_opens_after_the_files(build: Callable[..., Path], toolkit: Path, tmp_path: Path) -> None:
    """In this order, by path; then the runtime is in the process, and by these paths another process can open it."""
    site = SitePackages(tmp_path / "site-packages")
    for name, files in (("nvidia_cuda_runtime", (CUDART,)), ("nvidia_cublas", (LT, CUBLAS))):
        site.add(name, "97.1", {f"nvidia/{name}/{file}": (toolkit / file).read_bytes() for file in files})
    flags = ("-Wl,--no-as-needed", f"-Wl,-rpath-link,{toolkit}", str(toolkit / CUDART), str(toolkit / CUBLAS))
    backend = shutil.copy(build("crash.c", "wants-cuda-97.so", *flags), tmp_path)
    shutil.rmtree(toolkit)
    code = """
        backend, names, path = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
        try:
            ctypes.CDLL(backend)
        except OSError as error:
            before = str(error)
        found = find(names, path=path)
        for file in found.files:
            ctypes.CDLL(file.path)
        ctypes.CDLL(backend)
        again = find(names, path=path)
        print(json.dumps([before, found.paths, again.place, again.files, again.paths]))
    """
    before, paths, place, files, again = json.loads(run(code, backend, " ".join(NAMES), site.root))
    assert f"{CUDART}: cannot open shared object file" in before
    assert (place, files) == ("this process", [])
    assert [os.path.basename(path) for path in paths] == list(IN_ORDER)
    assert again == paths


def test_wheels_are_found_without_any_third_party(site: SitePackages) -> None:
    """Nor is much else imported: this is on the way to the first native call."""
    add_wheels(site)
    code = """
        import nativeload.host
        before = set(sys.modules)
        assert find(sys.argv[1].split(), path=sys.argv[2:], mapped=())
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    imported = json.loads(run(code, " ".join(NAMES), site.root))
    assert {name for name in imported if not name.startswith("nativeload.")} <= {"binascii"}
    assert {"nativeload.elf", "nativeload.needs"} & set(imported) == set()


def test_naming_the_runtime_imports_nothing() -> None:
    code = """
        from nativeload.resolve.cuda_runtime import major_of, wanted
        before = set(sys.modules)
        assert major_of(wanted(sys.argv[1:])) == 97
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    assert json.loads(run(code, *NAMES)) == []


@pytest.mark.parametrize("text", ["97\x1b[2J", "97\nnvidia 1.0"])
def test_the_place_is_one_printable_line(text: str, site: SitePackages) -> None:
    """A version is a folder's name, which may hold anything."""
    site.add("nvidia_cuda_runtime", text, {f"lib/{CUDART}": b"rt"})
    found = look(site, (CUDART,))
    assert found is not None
    assert found.place.isprintable()
