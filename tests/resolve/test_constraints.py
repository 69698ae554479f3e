"""What the user insists on comes before the order of sources; pins come from the user, a lock file or this release."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nativeload import pins
from nativeload.cache import LibraryCache
from nativeload.cache.upkeep import verify_sets
from nativeload.config import NativeLibraryConfig
from nativeload.errors import (
    BackendUnavailableError,
    ConfigError,
    DownloadUnavailableError,
    IntegrityError,
    LibraryNotFoundError,
    ManifestError,
    PreferenceWarning,
)
from nativeload.host import Host
from nativeload.resolve import installed
from nativeload.resolve.resolution import Rejected, Source, Unknown
from nativeload.variant import Backend
from tests.releases import BUILD, CORE, REPO, Release, release
from tests.scenarios import STUB_LINUX, WHY_NOT, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nativeload.resolve.resolution import Resolution
    from tests.hub import Hub
    from tests.resolve.conftest import SitePackages

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

XLLAMACPP = {"xllamacpp/xllamacpp.abi3.so": b"library"}
CUDA_RUNTIME = ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13")
WITHOUT_GPU = Host.compose("linux-x86_64", cpu="avx2")
WITH_CUDA = Host.compose("linux-x86_64", cpu="avx2", cuda=13)


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(f"{path.name} {name}".encode())
    return path


@pytest.fixture
def site(site: SitePackages, monkeypatch: pytest.MonkeyPatch) -> SitePackages:
    """The only place where distributions are found; modules come from where they always do."""
    monkeypatch.setattr(installed, "_site_directories", lambda: [str(site.root)])
    return site


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Release:
    """A build with a set for the CPU alone and one with CUDA, which wants the runtime from elsewhere."""
    plain = _folder(tmp_path / "plain", *CORE, "libggml-cpu-x64.so")
    cuda = _folder(tmp_path / "cuda", *CORE, "libggml-cpu-x64.so", "libggml-cuda.so")
    sets = {"linux-x86_64": plain, "linux-x86_64+cuda": cuda}
    return release(sets, wants={"libggml-cuda.so": CUDA_RUNTIME}).push(hub)


def _pinned(published: Release) -> NativeLibraryConfig:
    return NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)


def _lock(path: Path, published: Release, **changes: Any) -> Path:
    entry = {"pin": published.pin, "repo": REPO, "commit": published.commit, "manifest": json.loads(published.raw)}
    path.write_text(json.dumps({"format": 1, "libraries": {"llama": entry | changes}}))
    return path


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Release], Path]:
    """Let this release of nativeload pin a build; return where it keeps its manifest."""

    def put(published: Release) -> Path:
        package = tmp_path / "package"
        (package / "manifests").mkdir(parents=True)
        entry = {"pin": published.pin, "repo": REPO, "commit": published.commit}
        (package / "pins.json").write_text(json.dumps({"schema": 1, "libraries": {"llama": entry}}))
        kept = package / published.path
        kept.write_bytes(published.raw)
        for function in (pins.pinned, pins.shipped):
            if function.__kwdefaults__:
                monkeypatch.setitem(function.__kwdefaults__, "package", str(package))
        return kept

    return put


def _on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine be another one."""
    monkeypatch.setattr(Host, "detect", lambda **_: host)


def _told(found: Resolution) -> dict[str, str]:
    return {item.candidate: item.verdict.reason for item in found.decisions}


# -- installed packages and pins --------------------------------------------------------------------------------------


def test_an_installed_package_serves_who_pins_nothing_and_never_a_pin(
    site: SitePackages, published: Release, hub: Hub
) -> None:
    site.add("xllamacpp", "1.0", XLLAMACPP)
    bare, pinned = NativeLibraryConfig(), _pinned(published)
    assert bare.resolve().to_dict()["source"] == "installed"
    with pytest.raises(LibraryNotFoundError, match=r"xllamacpp 1\.0: rejected: not the pinned build"):
        pinned.resolve()
    assert pinned.plan().chosen is None
    found = pinned.with_auto_download(endpoint=hub.url).resolve()
    assert (found.to_dict()["source"], found.to_dict()["build"]) == ("download", BUILD)
    assert _told(found)["xllamacpp 1.0"] == "not the pinned build"
    assert bare.resolve().to_dict()["source"] == "installed"  # the cached set is no reason to change
    site.add_backend()
    assert pinned.resolve().to_dict()["source"] == "cached"  # of the same build by name, and still another


@pytest.mark.parametrize("how", ["cached", "download"])
def test_an_installed_package_does_not_hide_a_cuda_set(
    how: str,
    site: SitePackages,
    published: Release,
    hub: Hub,
    ship: Callable[[Release], Path],
) -> None:
    """A preference comes before the order of sources where the host can run it, and only there."""
    site.add("xllamacpp", "1.0", XLLAMACPP)
    site.add_backend()
    config = NativeLibraryConfig()
    if how == "cached":
        _pinned(published).download_native_library(os="linux-x86_64", use_cuda=True, endpoint=hub.url)
    else:
        ship(published)
        config = config.with_auto_download(endpoint=hub.url)
    hub.forget()
    found = config.with_cuda().plan(WITH_CUDA)
    assert found.chosen is not None
    assert (str(found.chosen.source), found.chosen.gpu, found.chosen.build) == (how, "cuda", BUILD)
    assert _told(found)["xllamacpp 1.0"].startswith("passed over: ")
    assert found.shortfall == ()
    for other, host in ((config, WITH_CUDA), (config, WITHOUT_GPU), (config.with_cuda(False), WITH_CUDA)):
        assert other.plan(host).to_dict()["source"] == "installed"
    lacking = config.with_cuda().plan(WITHOUT_GPU)
    assert lacking.to_dict()["source"] == "installed"
    assert [backend for backend, _ in lacking.shortfall] == [Backend.CUDA]
    assert hub.requests == []


def test_without_a_configured_source_for_cuda_the_installed_package_serves(
    site: SitePackages, published: Release, hub: Hub
) -> None:
    """Nothing is fetched that nobody allowed: the preference is not met, and that is said."""
    site.add_backend()
    found = NativeLibraryConfig().with_cuda().plan(WITH_CUDA)
    assert found.to_dict()["source"] == "installed"
    assert found.shortfall == ((Backend.CUDA, "no cuda backend in any candidate"),)
    assert hub.requests == []


def test_a_required_backend_without_a_device_is_an_error(
    site: SitePackages, published: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the installed package nor the published CPU set takes its place, and no set is fetched to find out."""
    site.add_backend()
    _on(WITHOUT_GPU, monkeypatch)
    for config in (NativeLibraryConfig(), _pinned(published).with_auto_download(endpoint=hub.url)):
        with pytest.raises(BackendUnavailableError, match="cuda is required") as caught:
            config.with_cuda("require").resolve()
        assert caught.value.backend == "cuda"
        assert caught.value.hint == "Say with_cuda() to prefer it without requiring it."
        assert config.with_cuda("require").plan().chosen is None
    assert [item.path for item in hub.gets()] == [item.path for item in hub.gets(published.path)]


def test_a_required_backend_that_is_there_is_taken(site: SitePackages, published: Release, hub: Hub) -> None:
    site.add_backend()
    config = _pinned(published).with_auto_download(endpoint=hub.url)
    config.download_best_native_library()
    found = config.with_cuda("require").plan(WITH_CUDA)
    assert found.chosen is not None
    assert (found.chosen.gpu, found.chosen.source) == ("cuda", Source.DOWNLOAD)


# -- the CUDA runtime of this machine ---------------------------------------------------------------------------------


def _wheels(site: SitePackages) -> None:
    """Install the CUDA runtime as pip's wheels bring it."""
    for name, files in (("nvidia_cuda_runtime", CUDA_RUNTIME[:1]), ("nvidia_cublas", CUDA_RUNTIME[1:])):
        site.add(name, "13.0", {f"nvidia/cu13/lib/{file}": f"of a wheel: {file}".encode() for file in files})


def test_a_published_cuda_set_uses_the_runtime_that_this_machine_has(
    site: SitePackages, published: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no part of what is fetched, of its directory, or of its name; and the next run finds the same set."""
    _wheels(site)
    _on(WITH_CUDA, monkeypatch)
    config = _pinned(published).with_auto_download(endpoint=hub.url).with_cuda()
    for source in (Source.DOWNLOAD, Source.CACHED):
        assert config.plan().chosen is None or config.plan().to_dict()["source"] == source
        found = config.resolve()
        assert found.chosen is not None
        assert (found.chosen.source, found.chosen.gpu, found.verified_by) == (source, "cuda", "manifest")
        own = [*CORE, "libggml-cuda.so", "libggml-cpu-x64.so"]
        assert sorted(path.name for path in Path(found.chosen.directory).iterdir()) == sorted(own)
        paths = [file.path for file in found.chosen.files]
        assert paths[:3] == [str(site.root / "nvidia/cu13/lib" / name) for name in CUDA_RUNTIME]
        assert paths[3:] == [f"{found.chosen.directory}/{name}" for name in own]
    asked = sorted(item.path.rpartition("/")[2] for item in hub.gets("/llama/"))
    assert asked == sorted(own)
    described = config.download_native_library(os="linux-x86_64", use_cuda=True)
    assert described.to_dict()["directory"] == found.to_dict()["directory"], "one set has one place"


def test_a_published_cuda_set_without_a_runtime_here_gives_way_and_says_why(
    site: SitePackages, published: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would lack at its opening is known before anything of it is fetched."""
    _on(WITH_CUDA, monkeypatch)
    monkeypatch.setattr("nativeload.resolve.cuda_runtime._with_loader", lambda *_: ())
    found = _pinned(published).with_auto_download(endpoint=hub.url).with_cuda().resolve()
    assert found.chosen is not None
    assert found.chosen.gpu is None
    ((backend, why),) = found.shortfall
    assert (backend, why.startswith("no CUDA 13 runtime is here whole; missing: ")) == (Backend.CUDA, True)
    assert not hub.gets("libggml-cuda.so")


@pytest.mark.parametrize("here", [False, True])
def test_a_runtime_that_is_published_is_fetched_only_where_there_is_none(
    here: bool, site: SitePackages, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of megabytes, in practice."""
    if here:
        _wheels(site)
    _on(WITH_CUDA, monkeypatch)
    monkeypatch.setattr("nativeload.resolve.cuda_runtime._with_loader", lambda *_: ())
    folder = _folder(tmp_path / "whole", *CORE, "libggml-cpu-x64.so", "libggml-cuda.so", *CUDA_RUNTIME)
    published = release({"linux-x86_64+cuda": folder}, wants={"libggml-cuda.so": CUDA_RUNTIME}).push(hub)
    for _ in range(2):
        found = _pinned(published).with_auto_download(endpoint=hub.url).with_cuda().resolve()
        assert found.chosen is not None
        assert (found.chosen.gpu, found.verified_by) == ("cuda", "manifest")
        paths = [file.path for file in found.chosen.files][:3]
        place = str(site.root / "nvidia/cu13/lib") if here else found.chosen.directory
        assert paths == [f"{place}/{name}" for name in CUDA_RUNTIME]
    fetched = {item.path.rpartition("/")[2] for item in hub.gets()} & set(CUDA_RUNTIME)
    assert fetched == (set() if here else set(CUDA_RUNTIME))
    hub.stop()
    bare = NativeLibraryConfig().with_cuda().resolve()
    assert bare.to_dict()["directory"] == found.to_dict()["directory"], "who pins nothing finds it too"


def test_a_set_that_came_with_its_runtime_serves_where_there_is_another(
    site: SitePackages, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was carried here for machines of this kind is whole: it is used, and nothing is fetched in its place."""
    folder = _folder(tmp_path / "whole", *CORE, "libggml-cpu-x64.so", "libggml-cuda.so", *CUDA_RUNTIME)
    published = release({"linux-x86_64+cuda": folder}, wants={"libggml-cuda.so": CUDA_RUNTIME}).push(hub)
    config = _pinned(published)
    brought = config.download_native_library(os="linux-x86_64", use_cuda=True, endpoint=hub.url)
    hub.stop()
    _wheels(site)
    _on(WITH_CUDA, monkeypatch)
    for each in (config.with_offline(), config.with_auto_download(endpoint=hub.url), NativeLibraryConfig()):
        found = each.with_cuda().resolve()
        assert (found.to_dict()["source"], found.to_dict()["directory"]) == ("cached", brought.to_dict()["directory"])


# -- paths ------------------------------------------------------------------------------------------------------------


def test_a_path_and_a_pin_exclude_each_other(published: Release, hub: Hub, tmp_path: Path) -> None:
    """Even where the file is the very one that the manifest describes; a download does not come instead."""
    config = _pinned(published).with_auto_download(endpoint=hub.url).with_library(tmp_path / "plain")
    assert config.plan().chosen is None
    with pytest.raises(LibraryNotFoundError, match="not the pinned build") as caught:
        config.resolve()
    assert caught.value.hint == "The path that was named is not what was pinned: take one of them back."
    assert hub.requests == []


def test_a_search_directory_serves_who_pins_nothing_and_never_a_pin(
    site: SitePackages, published: Release, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    folder.chmod(0o755)
    assert NativeLibraryConfig().with_search_directory(folder).resolve().to_dict()["source"] == "explicit"
    found = _pinned(published).with_auto_download(endpoint=hub.url).with_search_directory(folder).resolve()
    assert found.to_dict()["source"] == "download"


# -- offline ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["with_offline", "NATIVELOAD_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_no_socket_and_a_way_on(how: str, published: Release, hub: Hub) -> None:
    """Counted by the interpreter; then one is made on purpose: the counter counts."""
    code = """
    import sys
    counted = set()
    sys.addaudithook(lambda event, args: event.startswith("socket.") and counted.add(event))
    from nativeload import NativeLibraryConfig
    config = NativeLibraryConfig().with_auto_download(endpoint=os.environ["ENDPOINT"])
    config = config.with_offline() if os.environ["HOW"] == "with_offline" else config
    said = [attempt(config.resolve), attempt(config.load), attempt(config.download_best_native_library)]
    before = sorted(counted)
    import socket
    socket.socket().close()
    say([before, len(counted) > 0, said])
    """
    words = {"PIN": published.pin, "REPO": REPO, "COMMIT": published.commit}
    env: dict[str, Any] = {f"NATIVELOAD_{name}": word for name, word in words.items()}
    env |= {} if how == "with_offline" else {how: "1"}
    before, control, said = run(code, HOW=how, ENDPOINT=hub.url, **env)
    assert (before, control) == ([], True)
    assert [each["error"] for each in said] == [*["LibraryNotFoundError"] * 2, "DownloadUnavailableError"]
    for each in said[:2]:
        assert "not here: resolve or import it" in each["text"]
        assert f"nativeload prefetch --library llama --pin {published.pin} --repo {REPO}" in each["text"]
        assert f"nativeload import DIR --sha256 {published.pin}" in each["text"]
    assert "offline" in said[2]["text"]
    assert hub.requests == []


# -- nobody pinned anything -------------------------------------------------------------------------------------------


def test_a_download_of_nothing_in_particular_names_three_ways(site: SitePackages, hub: Hub) -> None:
    config = NativeLibraryConfig().with_auto_download(endpoint=hub.url)
    with pytest.raises(DownloadUnavailableError) as caught:
        config.resolve()
    assert "this release pins no build of it to fetch" in str(caught.value)
    for way in ("with_pin(", "NATIVELOAD_PIN", "with_lock(", "NATIVELOAD_LOCK", "pip install 'nativeload[cpu]'"):
        assert way in caught.value.hint
    site.add("xllamacpp", "1.0", XLLAMACPP)
    with pytest.warns(PreferenceWarning, match=r"xllamacpp 1\.0 is used: .*pins no build .* Three ways on: a pin .*"):
        found = config.resolve()
    assert found.to_dict()["source"] == "installed"
    assert any(item.source is Source.DOWNLOAD and isinstance(item.verdict, Rejected) for item in found.decisions)
    assert hub.requests == []


# -- lock files -------------------------------------------------------------------------------------------------------


def test_a_lock_file_brings_its_manifest(site: SitePackages, published: Release, hub: Hub, tmp_path: Path) -> None:
    """A plan needs no network, for any machine; what is installed is not what was locked; a download fetches files."""
    site.add("xllamacpp", "1.0", XLLAMACPP)
    config = NativeLibraryConfig().with_lock(_lock(tmp_path / "nativeload.lock", published))
    found = config.plan()
    assert found.chosen is None
    assert not any(isinstance(item.verdict, Unknown) for item in found.decisions)
    assert _told(found)["xllamacpp 1.0"] == "not the pinned build"
    with pytest.raises(LibraryNotFoundError, match=f"--pin {published.pin} --repo {REPO} --commit {published.commit}"):
        config.resolve()
    fetching = config.with_auto_download(endpoint=hub.url)
    for host in (None, WITHOUT_GPU, WITH_CUDA):
        assert fetching.plan(host).to_dict()["source"] == "download"
    assert hub.requests == []
    assert fetching.resolve().to_dict()["build"] == BUILD
    assert len(hub.requests) == len(CORE) + 1  # no manifest: it was here
    assert config.resolve().to_dict()["source"] == "cached"
    assert [wrong for _, wrong in verify_sets(LibraryCache(os.environ["NATIVELOAD_CACHE"]))] == [""]


def test_a_lock_file_is_said_in_the_environment_too(
    published: Release, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATIVELOAD_LOCK", str(_lock(tmp_path / "nativeload.lock", published)))
    monkeypatch.setenv("NATIVELOAD_AUTO_DOWNLOAD", "1")
    monkeypatch.setenv("NATIVELOAD_ENDPOINT", hub.url)
    assert NativeLibraryConfig().resolve().to_dict()["build"] == BUILD


def test_a_lock_file_is_held_to_its_own_pin(published: Release, hub: Hub, tmp_path: Path) -> None:
    """A manifest altered in review, a file that is none, a library that it does not lock: each says what is wrong."""
    lock = tmp_path / "nativeload.lock"

    def config(library: str = "llama") -> NativeLibraryConfig:
        return NativeLibraryConfig(library).with_lock(lock).with_auto_download(endpoint=hub.url)

    _lock(lock, published, manifest=json.loads(published.raw) | {"revision": 2})
    with pytest.raises(IntegrityError, match="expected the pinned manifest, sha256 ") as caught:
        config().resolve()
    assert caught.value.path == str(lock)
    _lock(lock, published, commit="main")
    with pytest.raises(ManifestError, match="'main' is not a 40-digit commit hash"):
        config().plan()
    _lock(lock, published)
    with pytest.raises(ManifestError, match="it does not lock whisper"):
        config("whisper").plan()
    for text, words in (
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"format": 2}', "format 2"),
        ("[" * 9999, "JSON"),
    ):
        lock.write_text(text)
        with pytest.raises(ManifestError, match=words):
            config().plan()
    lock.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        config().plan()
    assert hub.requests == []


def test_another_repository_may_hold_what_was_locked(published: Release, hub: Hub, tmp_path: Path) -> None:
    """The bytes are the same, wherever they come from."""
    published.push(hub, "mirror/of-it")
    lock = _lock(tmp_path / "nativeload.lock", published, repo="gone/away", commit="0" * 40)
    config = NativeLibraryConfig(repo="mirror/of-it", commit=hub.commit("mirror/of-it")).with_lock(lock)
    assert config.with_auto_download(endpoint=hub.url).resolve().verified
    assert {item.path.split("/resolve/")[0] for item in hub.requests} == {"/mirror/of-it"}


# -- what this release pins -------------------------------------------------------------------------------------------


def test_what_this_release_pins_is_what_a_download_brings(
    site: SitePackages, published: Release, hub: Hub, ship: Callable[[Release], Path]
) -> None:
    """Planned without a network; it forbids nothing: what is installed serves before it."""
    ship(published)
    config = NativeLibraryConfig().with_auto_download(endpoint=hub.url)
    for host in (None, WITHOUT_GPU, WITH_CUDA):
        assert config.plan(host).to_dict()["source"] == "download"
    with pytest.raises(LibraryNotFoundError):
        NativeLibraryConfig().resolve()
    assert hub.requests == []
    assert config.resolve().to_dict()["build"] == BUILD
    assert len(hub.requests) == len(CORE) + 1
    assert NativeLibraryConfig().resolve().to_dict()["source"] == "cached"
    site.add("xllamacpp", "1.0", XLLAMACPP)
    assert config.resolve().to_dict()["source"] == "installed"


@pytest.mark.usefixtures("site")
def test_what_this_release_pins_is_planned_where_nothing_may_be_fetched(
    published: Release, hub: Hub, ship: Callable[[Release], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is in the wheel: what is here of it serves, and the trace says what would be fetched."""
    kept = ship(published)
    monkeypatch.setattr("nativeload.resolve.offers._SHIPPED", str(kept.parent))
    bare = NativeLibraryConfig()
    assert bare.plan(WITHOUT_GPU).chosen is None
    bare.with_auto_download(endpoint=hub.url).resolve()
    hub.stop()
    assert bare.plan().to_dict()["source"] == "cached"
    assert bare.plan().to_dict()["build"] == BUILD


def test_a_damaged_package_of_ours_is_an_error(published: Release, hub: Hub, ship: Callable[[Release], Path]) -> None:
    kept = ship(published)
    kept.write_bytes(published.raw.replace(b"llama", b"evil1", 1))
    config = NativeLibraryConfig().with_auto_download(endpoint=hub.url)
    with pytest.raises(IntegrityError, match=r"^this release: expected the pinned manifest"):
        config.resolve()
    (kept.parent.parent / "pins.json").write_text("{")
    with pytest.raises(ManifestError, match="no JSON") as caught:
        config.resolve()
    assert "install it again" in caught.value.hint.lower()
    assert hub.requests == []


def test_the_users_pin_goes_before_the_lock_file_and_that_before_this_release(
    site: SitePackages, hub: Hub, tmp_path: Path, ship: Callable[[Release], Path]
) -> None:
    made = {}
    for build in ("b1", "b2", "b3"):
        folder = _folder(tmp_path / build, *CORE, "libggml-cpu-x64.so")
        made[build] = release({"linux-x86_64": folder}, build=build).push(hub)
    ship(made["b3"])
    config = NativeLibraryConfig().with_auto_download(endpoint=hub.url)
    locked = config.with_lock(_lock(tmp_path / "nativeload.lock", made["b2"]))
    pinned = locked.with_pin(made["b1"].pin, repo=REPO, commit=made["b1"].commit)
    for each, build in ((config, "b3"), (locked, "b2"), (pinned, "b1")):
        assert each.resolve().to_dict()["build"] == build
    same = locked.with_pin(made["b2"].pin)  # where to fetch it from is in the lock file
    assert same.resolve().to_dict()["build"] == "b2"
    assert locked.with_pin(made["b3"].pin).resolve().to_dict()["build"] in {"b3", None}


def test_a_lock_file_forbids_what_is_installed_and_a_newer_build_in_the_cache(
    site: SitePackages, hub: Hub, tmp_path: Path
) -> None:
    for build in ("b5", "b4"):
        folder = _folder(tmp_path / build, *CORE, "libggml-cpu-x64.so")
        published = release({"linux-x86_64": folder}, build=build).push(hub)
        _pinned(published).download_best_native_library(endpoint=hub.url)
    hub.stop()
    site.add("xllamacpp", "1.0", XLLAMACPP)
    locked = NativeLibraryConfig().with_lock(_lock(tmp_path / "nativeload.lock", published))
    found = locked.resolve()
    assert (found.to_dict()["build"], found.to_dict()["source"]) == ("b4", "cached")
    assert _told(found)["xllamacpp 1.0"] == "not the pinned build"
