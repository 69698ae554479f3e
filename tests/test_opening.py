"""A set's files are opened by absolute path, in dependency order, and ggml is never left to search for more."""

from __future__ import annotations

import shutil
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios import STUB_LINUX, WHY_NOT, cpu_module, gpu_module, run, stub_bundle, watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

LOAD = """
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
    say(attempt(config.load))
"""
OPEN = """
    from nativeload.opening import devices, open_set
    from nativeload.resolve.resolution import LibraryFile
    from nativeload.variant import Role
    folder = Path(os.environ["LIBRARY"])
    def file(name, role, label=""):
        return LibraryFile(path=str(folder / name), role=Role(role), label=label)
    core = [file("libggml-base.so", "core"), file("libggml.so", "core"), file("libllama.so", "core")]
"""
NPM = "node-llama-cpp-linux-x64/package/bins/linux-x64"


def marker(build: Callable[..., Path], name: str, mark: Path) -> Path:
    """Compile a stub that leaves a letter in a file whenever it is opened."""
    part = "BASE" if name == "libggml-base.so" else "MODULE"
    return build("stub_ggml.c", f"marker-{mark.parent.name}-{part}.so", f"-DPART={part}", f'-DMARK="{mark}"')


def npm(binaries: Path) -> Path:
    """Return the directory of the real split bundle."""
    folder = binaries / NPM
    assert folder.is_dir(), f"{folder} was not fetched"
    return folder


# -- order and paths ------------------------------------------------------------------------------------------------


def test_files_are_opened_in_order_by_absolute_path(build: Callable[..., Path], tmp_path: Path) -> None:
    """The core first, base before what needs it, then the GPU and the one CPU backend, each announced before."""
    modules = {"libggml-cpu-x64.so": cpu_module(build), "libggml-cuda.so": gpu_module(build)}
    code = f"""{OPEN}
    steps, gpu, cpu = [], file("libggml-cuda.so", "gpu", "cuda"), file("libggml-cpu-x64.so", "cpu", "x64")
    handles = open_set([*core, gpu, cpu], steps.append, quiet=True)
    say([steps, [handle._name for handle in handles], [device.name for device in devices(handles)]])
    """
    bundle = stub_bundle(build, tmp_path / "bundle", modules)
    steps, handles, found = run(code, LIBRARY=bundle)
    names = ["libggml-base.so", "libggml.so", "libllama.so"]
    assert steps == [str(bundle / name) for name in [*names, "libggml-cuda.so", "libggml-cpu-x64.so"]]
    assert handles == [str(bundle / name) for name in names]
    assert found == ["CUDA0", "CPU"]


def test_a_load_opens_exactly_one_cpu_backend(build: Callable[..., Path], tmp_path: Path) -> None:
    """Of several CPU backends in a directory the best one alone is mapped."""
    modules = {f"libggml-cpu-{name}.so": cpu_module(build) for name in ("x64", "sse42")}
    said = run(LOAD, LIBRARY=stub_bundle(build, tmp_path / "bundle", modules))
    assert [path.rpartition("/")[2] for path in said["mapped"] if "ggml-cpu" in path] == ["libggml-cpu-sse42.so"]
    assert len(said["devices"]) == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("(folder / 'libggml.so').write_bytes(b'no library')", ["libggml.so", "too short"]),
        ("(folder / 'libggml.so').unlink()", ["libggml.so", "cannot open shared object file"]),
        ("core = core[:1]", ["libggml-cpu-x64.so", "without ggml's registry"]),
    ],
)
def test_what_cannot_be_opened_is_a_load_error_in_the_loaders_words(
    build: Callable[..., Path], tmp_path: Path, spoil: str, words: list[str]
) -> None:
    """The error carries the file and the system loader's reason."""
    code = f"""{OPEN}
    {spoil}
    say(attempt(lambda: open_set([*core, file("libggml-cpu-x64.so", "cpu", "x64")], quiet=True)))
    """
    error = run(code, LIBRARY=stub_bundle(build, tmp_path / "bundle"))
    assert error["error"] == "LoadError"
    assert error["path"].endswith(words[0])
    assert words[1] in error["reason"]


def test_a_backend_that_refuses_this_cpu_says_so(build: Callable[..., Path], tmp_path: Path) -> None:
    """ggml is silent about a score of 0; the error is not."""
    bundle = stub_bundle(build, tmp_path / "bundle", {"libggml-cpu-x64.so": cpu_module(build, score=0)})
    code = (
        f'{OPEN}\n    say(attempt(lambda: open_set([*core, file("libggml-cpu-x64.so", "cpu", "x64")], quiet=True)))\n'
    )
    assert "its own check says this CPU cannot run it" in run(code, LIBRARY=bundle)["reason"]


def test_a_library_without_a_registry_has_no_devices(build: Callable[..., Path]) -> None:
    """A set that carries no ggml is opened, and shows no device."""
    code = """
    import ctypes
    from nativeload.opening import devices, has_registry
    handles = [ctypes.CDLL(os.environ["LIBRARY"])]
    say([has_registry(handles), devices(handles)])
    """
    assert run(code, LIBRARY=build("crash.c", "libcrash-FINE.so", "-DHOW=FINE")) == [False, []]


# -- quiet ----------------------------------------------------------------------------------------------------------


def test_quiet_keeps_the_library_from_printing(build: Callable[..., Path], tmp_path: Path) -> None:
    """Without quiet the stub prints on both streams (so this test can fail), with it on neither."""
    code = f"""{OPEN}
    open_set([*core, file("libggml-cpu-x64.so", "cpu", "x64")], quiet=bool(int(os.environ["QUIET"])))
    say(None)
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    loud, quiet = watch(code, LIBRARY=bundle, QUIET=0), watch(code, LIBRARY=bundle, QUIET=1)
    assert "load_backend" in loud.stdout
    assert "load_backend" in loud.stderr
    assert (quiet.stdout, quiet.stderr) == ("", "")


@pytest.mark.real_bundle
def test_a_real_bundle_prints_nothing(binaries: Path) -> None:
    """npm's build, which says on stderr which backend it loaded, is silent from the load to the end of the process."""
    binding = "from nativeload_llama.library import open_library\n" + dedent(LOAD)
    for code in (LOAD, binding.replace("config.load", "lambda: open_library(config).loaded")):
        ended = watch(code, LIBRARY=npm(binaries))
        assert [device["name"] for device in ended.value["devices"]] == ["CPU"]
        assert (ended.stdout, ended.stderr) == ("", "")


# -- nobody else's files --------------------------------------------------------------------------------------------


def plant(build: Callable[..., Path], folder: Path, mark: Path, *names: str) -> Path:
    """Fill a directory with libraries of these names that leave a mark when opened."""
    folder.mkdir()
    for name in names:
        shutil.copy(marker(build, name, mark), folder / name)
    return folder


def check_untouched(library: Path, mark: Path, **how: Any) -> None:
    """Load a bundle under these circumstances and look for the mark."""
    said = run(LOAD, LIBRARY=library, **how)
    assert [device["name"] for device in said["devices"]] == ["CPU"]
    assert not mark.exists()


NAIVE = """
    import ctypes
    folder, library = Path(os.environ["LIBRARY"]), os.environ["ASK"]
    handle = ctypes.CDLL(str(folder / library))
    if os.environ["SEARCH"]:
        handle.ggml_backend_load_all()
    say(handle.ggml_backend_dev_count())
"""


@pytest.mark.parametrize("way", ["library path", "current directory", "backend path"])
def test_a_naive_loader_opens_what_is_planted(build: Callable[..., Path], tmp_path: Path, way: str) -> None:
    """The control of the tests below: each way does reach a loader that opens by name or lets ggml search."""
    bundle, mark = stub_bundle(build, tmp_path / "bundle"), tmp_path / "mark"
    name = "libggml-base.so" if way == "library path" else "libggml-cpu-x64.so"
    folder = plant(build, tmp_path / "evil", mark, name)
    if way == "library path":
        code = "import ctypes; attempt(lambda: ctypes.CDLL(os.environ['LIBRARY'] + '/libggml.so')); say(1)"
        run(code, LIBRARY=bundle, LD_LIBRARY_PATH=folder)
    elif way == "current directory":
        run(NAIVE, LIBRARY=bundle, ASK="libggml.so", SEARCH=1, cwd=folder)
    else:
        run(NAIVE, LIBRARY=bundle, ASK="libggml.so", SEARCH=1, GGML_BACKEND_PATH=folder / name)
    assert mark.exists()


def test_the_library_path_of_the_environment_is_not_searched(build: Callable[..., Path], tmp_path: Path) -> None:
    """LD_LIBRARY_PATH with files of our names: dependants bind to what was opened by absolute path before them."""
    folder = plant(build, tmp_path / "evil", tmp_path / "mark", "libggml-base.so", "libggml.so", "libggml-cpu-x64.so")
    bundle = stub_bundle(build, tmp_path / "bundle")
    check_untouched(bundle, tmp_path / "mark", LD_LIBRARY_PATH=folder)


def test_a_backend_in_the_current_directory_is_not_loaded(build: Callable[..., Path], tmp_path: Path) -> None:
    """Files of backends' names in the directory the program is started from stay closed."""
    names = ("libggml-cpu-x64.so", "libggml-cpu-sse42.so", "libggml-cpu-haswell.so", "libggml-base.so")
    folder = plant(build, tmp_path / "evil", tmp_path / "mark", *names)
    check_untouched(stub_bundle(build, tmp_path / "bundle"), tmp_path / "mark", cwd=folder)


def test_a_backend_path_of_the_environment_is_not_loaded(build: Callable[..., Path], tmp_path: Path) -> None:
    """GGML_BACKEND_PATH names a backend for ggml's own search, which is never started."""
    folder = plant(build, tmp_path / "evil", tmp_path / "mark", "libggml-cpu-x64.so")
    bundle = stub_bundle(build, tmp_path / "bundle")
    check_untouched(bundle, tmp_path / "mark", GGML_BACKEND_PATH=folder / "libggml-cpu-x64.so")


REAL = """
    from nativeload import NativeLibraryConfig
    from nativeload_llama import Llama, bundled_model
    config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
    with Llama(bundled_model(), config=config, n_threads=1, n_ctx=64) as llama:
        said = described(llama.library)
        said["text"] = llama.complete("Once", temperature=0, max_tokens=4)
    say(said | {"mapped": mapped()})
"""


@pytest.mark.real_bundle
def test_a_real_bundle_loads_nothing_from_the_environment(
    build: Callable[..., Path], binaries: Path, tmp_path: Path
) -> None:
    """npm's build from an evil directory, with an evil library path and backend path, generates with its own files."""
    bundle, mark = npm(binaries), tmp_path / "mark"
    names = sorted(path.name for path in bundle.iterdir() if path.suffix == ".so" and "llama" not in path.name)
    folder = plant(build, tmp_path / "evil", mark, *names, "libggml-blas.so", "libggml-cuda.so", "libggml-cpu.so")
    backend = folder / "libggml-cpu-x64.so"
    said = run(REAL, LIBRARY=bundle, cwd=folder, LD_LIBRARY_PATH=folder, GGML_BACKEND_PATH=backend)
    assert [device["name"] for device in said["devices"]] == ["CPU"]
    assert said["text"]
    assert not mark.exists()
    assert not [path for path in said["mapped"] if path.startswith(str(folder))]
    assert len([path for path in said["mapped"] if "libggml-cpu-" in path]) == 1


@pytest.mark.real_bundle
def test_ggmls_own_search_opens_what_is_planted(build: Callable[..., Path], binaries: Path, tmp_path: Path) -> None:
    """The control of the test above: npm's ggml, left to search, opens a backend from the current directory."""
    mark = tmp_path / "mark"
    folder = plant(build, tmp_path / "evil", mark, "libggml-cpu-x64.so")
    run(NAIVE, LIBRARY=npm(binaries), ASK="libggml.v0.5.0.so", SEARCH=1, cwd=folder)
    assert mark.exists()
