"""From an empty cache to a loaded library, in fresh processes: what is asked of whom, what is opened, what is left."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from nativeload.cli import cli
from tests.releases import BUILD, CORE, REPO, Release, release
from tests.resolve.conftest import SitePackages
from tests.scenarios import (
    STUB_LINUX,
    WHY_NOT,
    count,
    counting_python,
    cpu_module,
    gpu_module,
    opened,
    run,
    stub_bundle,
    watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tests.hub import Hub

    Build = Callable[..., Path]

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

BEST = "libggml-cpu-sse42.so"  # of two: x64 and sse42, which every x86-64 of this century runs
NEEDED = (*CORE, BEST)

# Sockets are counted by the interpreter from its first line on, and modules at the last.
LOAD = """
    import sys
    counted = set()
    sys.addaudithook(lambda event, args: event.startswith("socket.") and counted.add(event))
    from nativeload import NativeLibraryConfig
    said = attempt(NativeLibraryConfig().load)
    sockets = sorted(counted)
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    import socket
    socket.socket().close()
    say({**said, "sockets": sockets, "control": len(counted), "modules": modules})
"""


def _bundle(build: Build, folder: Path, modules: Mapping[str, Path] | None = None) -> Path:
    """Lay out a split build whose modules differ in their bytes, though they do the same."""
    good = cpu_module(build)
    stub_bundle(build, folder, modules or {"libggml-cpu-x64.so": good, BEST: good})
    for module in folder.glob("libggml-c*.so"):
        module.write_bytes(module.read_bytes() + module.name.encode())
    return folder


@pytest.fixture
def published(build: Build, hub: Hub, tmp_path: Path) -> Release:
    return release({"linux-x86_64": _bundle(build, tmp_path / "build")}).push(hub)


def _said(published: Release, hub: Hub, **more: object) -> dict[str, Any]:
    """Return the environment that pins a build and lets it be fetched."""
    words = {"PIN": published.pin, "REPO": REPO, "COMMIT": published.commit, "ENDPOINT": hub.url, "AUTO_DOWNLOAD": "1"}
    home = str(Path(os.environ["NATIVELOAD_CACHE"]).parent / "hf")
    return {f"NATIVELOAD_{name}": word for name, word in words.items()} | {"HF_HOME": home} | more


def _cache() -> Path:
    return Path(os.environ["NATIVELOAD_CACHE"])


def _place() -> Path:
    (found,) = _cache().glob(f"llama/{BUILD}/*")
    return found


def _asked(hub: Hub) -> list[str]:
    """Return the names of the files that were asked for; every request must be such a GET."""
    assert [item.method for item in hub.requests] == ["GET"] * len(hub.gets())
    return sorted(item.path.rpartition("/")[2] for item in hub.gets())


def _flip(path: Path) -> None:
    """Change one bit of a published file, and set the time of its last change back."""
    before = path.stat()
    path.parent.chmod(0o700)
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(0o400)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.parent.chmod(0o500)


# -- the first run, the second, and the one without a network ---------------------------------------------------------


def test_the_first_run_fetches_what_this_machine_needs_and_the_second_asks_nobody(published: Release, hub: Hub) -> None:
    """One GET for the manifest and for each file of one set. Then no socket is made and nothing is imported that could
    make one, whether the Hub is there or not."""
    env = _said(published, hub)
    first = watch(LOAD, **env)
    manifest = published.path.rpartition("/")[2]
    assert _asked(hub) == sorted([manifest, *NEEDED])
    assert hub.bytes_sent() == len(published.raw) + published.size(*NEEDED)
    assert [device["name"] for device in first.value["devices"]] == ["CPU"]
    assert (first.value["cpu"], first.value["path"]) == ("sse42", str(_place() / "libllama.so"))
    assert [path for path in first.value["mapped"] if "ggml" in path or "llama" in path] == sorted(
        str(_place() / name) for name in NEEDED
    )
    assert (first.stdout, first.stderr) == ("", "")
    assert first.value["sockets"]
    hub.forget()
    for _ in range(2):
        said = watch(LOAD, **env)
        assert said.value["path"] == first.value["path"]
        assert said.value["devices"] == first.value["devices"]
        assert (said.value["sockets"], said.value["control"] > 0) == ([], True)
        network = {"huggingface_hub", "requests", "urllib3", "httpx2", "filelock", "ssl", "http", "socket", "_socket"}
        assert set(said.value["modules"]) & network == set()
        assert (said.stdout, said.stderr) == ("", "")
        assert hub.requests == []
        hub.stop()


def test_what_was_fetched_writes_text(hub: Hub, tmp_path: Path) -> None:
    """The real library of the extra `cpu`, published as one of ours: fetched, probed, opened, and driven."""
    try:
        distribution = importlib.metadata.distribution("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the extra `cpu`: xllamacpp is not installed")
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "libllama.so").symlink_to(Path(str(distribution.locate_file("xllamacpp/xllamacpp.abi3.so"))))
    published = release({"linux-x86_64": folder}).push(hub)
    code = """
    import sys
    counted = set()
    sys.addaudithook(lambda event, args: event.startswith("socket.") and counted.add(event))
    from nativeload_llama import Llama, bundled_model
    with Llama(bundled_model(), n_ctx=64, n_threads=1) as llama:
        text = llama.complete("Once upon a time", max_tokens=12, temperature=0.0)
        say([text, llama.library.chosen.source, sorted(counted)])
    """
    env = _said(published, hub)
    text, source, _ = run(code, **env)
    assert len(text.split()) > 4
    assert source == "download"
    assert len(_asked(hub)) == 2
    hub.stop()
    assert run(code, **env) == [text, "cached", []]
    for place in (_cache(), tmp_path / "hub"):  # a hundred megabytes each
        shutil.rmtree(place, ignore_errors=True)


def test_an_empty_cache_and_no_hub_is_an_error_that_says_how_to_go_on(published: Release, hub: Hub) -> None:
    hub.stop()
    said = run(LOAD, **_said(published, hub))
    assert said["error"] == "NetworkError"
    assert f"run: nativeload prefetch --library llama --pin {published.pin} " in said["text"]


def test_with_an_installed_package_beside_it_is_used_and_one_warning_says_that_nothing_is_fetched(
    build: Build, hub: Hub, tmp_path: Path
) -> None:
    """Auto-download is on and nobody pinned anything: who expects the newest build hears of it once."""
    code = """
    import warnings
    from nativeload import NativeLibraryConfig
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = attempt(NativeLibraryConfig().with_auto_download(endpoint=os.environ["ENDPOINT"]).load)
    say([said.get("origin"), [[item.category.__name__, str(item.message)] for item in caught]])
    """
    bundle = stub_bundle(build, tmp_path / "bundle")
    site = SitePackages(tmp_path / "site")
    site.add_backend(files={path.name: path.read_bytes() for path in sorted(bundle.iterdir(), key=_load_order)})
    origin, warned = run(code, PYTHONPATH=site.root, ENDPOINT=hub.url)
    assert origin == "nativeload-llama-test 1.0"
    ((category, text),) = warned
    assert category == "PreferenceWarning"
    assert "auto_download is on" in text
    assert "nothing can be fetched" in text
    assert origin in text
    assert hub.requests == []


def _load_order(path: Path) -> int:
    order = [*CORE, "libggml-cpu-x64.so"]
    return order.index(path.name)


def test_a_library_of_an_operators_cache_is_loaded_without_a_write_to_it(
    published: Release, hub: Hub, tmp_path: Path
) -> None:
    """The verdict of the probe goes to the user's own cache, and the next process finds it there."""
    folder, shared = tmp_path / "folder", tmp_path / "shared"
    env = _said(published, hub)
    for words in (("prefetch", "--out", folder), ("import", folder, "--shared", "--cache", shared)):
        done = CliRunner().invoke(cli, list(map(str, words)), env=env)
        assert done.exit_code == 0, done.output
    hub.stop()

    def listing() -> list[tuple[Path, int, int]]:
        facts = ((path, path.lstat()) for path in [shared, *shared.rglob("*")])
        return [(path, each.st_mode, each.st_ctime_ns) for path, each in facts]

    before = listing()
    python, started = counting_python(tmp_path)
    for _ in range(2):
        said = run(LOAD, NATIVELOAD_SHARED_CACHE=shared, NATIVELOAD_PYTHON=python, **env)
        assert said["path"].startswith(f"{shared}/llama/{BUILD}/")
        assert said["sockets"] == []
        assert count(started) == 1
    assert listing() == before
    assert {path.name for path in _cache().iterdir()} == {"probes"}


# -- damage -----------------------------------------------------------------------------------------------------------


def test_one_flipped_bit_is_found_before_anything_is_opened_and_mended_by_the_next_run(
    published: Release, hub: Hub, tmp_path: Path
) -> None:
    """Openings are counted by the system loader, in this process and in the probe's, had there been one."""
    env = _said(published, hub)
    first = run(LOAD, **env)
    _flip(_place() / "libggml.so")
    hub.forget()
    logs = tmp_path / "loader"
    logs.mkdir()
    python, started = counting_python(tmp_path)
    said = run(LOAD, LD_DEBUG="files", LD_DEBUG_OUTPUT=logs / "ld", NATIVELOAD_PYTHON=python, **env)
    assert said["error"] == "IntegrityError"
    assert said["path"].endswith("/libggml.so")
    assert not any(any(opened(logs, name).values()) for name in NEEDED)
    assert (count(started), said["sockets"], hub.requests) == (0, [], [])
    assert not list(_cache().glob(f"llama/{BUILD}/*"))
    assert len(list((_cache() / "quarantine").iterdir())) == 1
    again = run(LOAD, LD_DEBUG="files", LD_DEBUG_OUTPUT=logs / "ld", **env)
    assert (again["path"], again["devices"]) == (first["path"], first["devices"])
    assert _asked(hub) == sorted(NEEDED)
    assert all(any(opened(logs, name).values()) for name in NEEDED), "the loader wrote nothing: nothing was counted"


@pytest.mark.parametrize("how", ["beside", "in place of one", "by a link"])
def test_a_planted_library_is_never_opened(
    how: str, published: Release, hub: Hub, build: Build, tmp_path: Path
) -> None:
    """Its constructor would leave a mark. In the end it is opened on purpose, and does."""
    env, mark = _said(published, hub), tmp_path / "mark"
    run(LOAD, **env)
    evil = build("stub_ggml.c", f"evil-{tmp_path.name}.so", "-DPART=MODULE", f'-DMARK="{mark}"')
    place = _place()
    place.chmod(0o700)
    target = place / ("libggml-cpu-zen4.so" if how == "beside" else BEST)
    target.unlink(missing_ok=True)
    if how == "by a link":
        target.symlink_to(evil)
    else:
        shutil.copy(evil, target)
        target.chmod(0o400)
    place.chmod(0o500)
    said = run(LOAD, **env)
    assert said["error"] == "IntegrityError"
    assert said["path"] == str(target)
    assert not mark.exists()
    assert run(LOAD, **env)["path"] == str(place / "libllama.so")
    assert not mark.exists()
    run("import ctypes; ctypes.CDLL(os.environ['EVIL']); say(0)", EVIL=evil)
    assert mark.exists()


def test_wrong_bytes_are_never_opened(published: Release, hub: Hub, build: Build, tmp_path: Path) -> None:
    """A library that leaves a mark, from a Hub that was taken over: it is not even in the cache."""
    mark = tmp_path / "mark"
    evil = build("stub_ggml.c", f"evil-{tmp_path.name}.so", "-DPART=BASE", f'-DMARK="{mark}"').read_bytes()
    path = next(item.path for item in published.manifest.artifacts if item.name == "libggml-base.so")
    hub.corrupt(REPO, path, lambda data: evil.ljust(len(data), b"\0")[: len(data)])
    said = run(LOAD, **_said(published, hub))
    assert said["error"] == "IntegrityError"
    assert not mark.exists()
    assert not list(_cache().glob("llama/*/*"))
    assert list((_cache() / "tmp").iterdir()) == []


# -- a set that fails the probe ---------------------------------------------------------------------------------------


def test_a_cpu_backend_that_crashes_gives_way_to_the_next_set(build: Build, hub: Hub, tmp_path: Path) -> None:
    """The guilty file is fetched once; from then on nobody fetches, probes or opens it again."""
    crash = build("crash.c", "libcrash-ILL.so", "-DHOW=ILL")
    modules = {BEST: crash, "libggml-cpu-x64.so": cpu_module(build)}
    published = release({"linux-x86_64": _bundle(build, tmp_path / "build", modules)}).push(hub)
    python, started = counting_python(tmp_path)
    env = _said(published, hub, NATIVELOAD_PYTHON=python)
    for _ in range(2):
        said = run(LOAD, **env)
        assert (said["cpu"], [device["name"] for device in said["devices"]]) == ("x64", ["CPU"])
        reasons = [item["reason"] for item in said["decisions"] if item["candidate"].endswith("[sse42]")]
        assert any(f"SIGILL while opening {BEST}" in reason for reason in reasons)
        assert (len(hub.gets(BEST)), len(hub.gets("libggml-cpu-x64.so"))) == (1, 1)
        assert count(started) == 2
    assert said["sockets"] == []


def test_a_core_that_crashes_is_fetched_and_probed_once_for_all_its_sets(
    build: Build, hub: Hub, tmp_path: Path
) -> None:
    """Another CPU backend would not help it: nothing of the other set is fetched."""
    bundle = _bundle(build, tmp_path / "build")
    shutil.copy(build("crash.c", "libcrash-SEGV.so", "-DHOW=SEGV"), bundle / "libggml-base.so")
    published = release({"linux-x86_64": bundle}).push(hub)
    python, started = counting_python(tmp_path)
    said = run(LOAD, **_said(published, hub, NATIVELOAD_PYTHON=python))
    assert said["error"] == "LibraryNotFoundError"
    assert "SIGSEGV while opening libggml-base.so" in said["text"]
    assert count(started) == 1
    assert _asked(hub) == sorted([published.path.rpartition("/")[2], *NEEDED])


def test_without_fallback_the_first_set_is_final(build: Build, hub: Hub, tmp_path: Path) -> None:
    crash = build("crash.c", "libcrash-ILL.so", "-DHOW=ILL")
    modules = {BEST: crash, "libggml-cpu-x64.so": cpu_module(build)}
    published = release({"linux-x86_64": _bundle(build, tmp_path / "build", modules)}).push(hub)
    said = run(LOAD, **_said(published, hub, NATIVELOAD_AUTO_FALLBACK="0"))
    assert said["error"] == "LibraryNotFoundError"
    assert not hub.gets("libggml-cpu-x64.so")


def test_a_gpu_without_a_device_gives_way_to_the_cpu_with_a_warning(build: Build, hub: Hub, tmp_path: Path) -> None:
    """The driver shows a card, and the backend registers none: the set still runs, and who preferred CUDA hears why."""
    code = """
    import warnings
    from nativeload import Host, NativeLibraryConfig
    from nativeload.host import Gpu
    from nativeload.value import replace
    real = Host.detect()
    Host.detect = lambda **_: replace(real, gpus=(Gpu(backend="cuda", index=0, name="a card"),))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = attempt(NativeLibraryConfig().with_cuda().load)
    say([said, [str(item.message) for item in caught]])
    """
    modules = {BEST: cpu_module(build), "libggml-cuda.so": gpu_module(build, devices=False)}
    published = release({"linux-x86_64": _bundle(build, tmp_path / "build", modules)}).push(hub)
    said, warned = run(code, **_said(published, hub))
    assert [device["name"] for device in said["devices"]] == ["CPU"], said
    assert len(warned) == 1
    assert "cuda preferred" in warned[0]


# -- many processes at once -------------------------------------------------------------------------------------------

# Everything that a download needs is imported before the fork: so all of them really begin at once.
MANY = """
    import contextlib
    import filelock, requests, nativeload.cache.fetch_http, nativeload.loading, nativeload.resolve.download
    from huggingface_hub import constants, get_token, hf_hub_url
    from nativeload import NativeLibraryConfig
    from nativeload.cache import sets
    if os.environ["LOCKS"] == "none":
        sets.lock = lambda *_, **__: contextlib.nullcontext()
    gate, everyone = os.pipe(), []
    for _ in range(16):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate[1])
            os.read(gate[0], 1)
            said = attempt(NativeLibraryConfig().load)
            names = ("path", "error", "text", "devices")
            os.write(write, json.dumps({name: said.get(name) for name in names}).encode())
            os._exit(0)
        os.close(write)
        everyone.append((pid, read))
    os.close(gate[1])
    told = []
    for pid, read in everyone:
        with os.fdopen(read) as pipe:
            told.append(pipe.read())
        os.waitpid(pid, 0)
    say([json.loads(each or "{}") for each in told])
"""


@pytest.mark.parametrize("locks", ["held", "none"])
def test_sixteen_processes_on_an_empty_cache_load_one_set(locks: str, published: Release, hub: Hub) -> None:
    """Each file is fetched once in all. Without locks it may be fetched more often, and nothing else is different."""
    said = run(MANY, LOCKS=locks, **_said(published, hub))
    assert [each.get("error") for each in said] == [None] * 16, said
    assert {each["path"] for each in said} == {str(_place() / "libllama.so")}
    assert {device["name"] for each in said for device in each["devices"]} == {"CPU"}
    names = [name for name in _asked(hub) if name.endswith((".so", ".json"))]
    assert sorted(set(names)) == sorted([published.path.rpartition("/")[2], *NEEDED])
    assert len(names) == len(set(names)) or locks == "none"
    assert list((_cache() / "tmp").iterdir()) == []
    assert not list(_cache().glob("quarantine/*"))
    assert {path.name: path.read_bytes() for path in _place().iterdir()} == {
        item.name: published.files[item.path].read_bytes()
        for item in published.manifest.artifacts
        if item.name in NEEDED
    }
