"""What is in a cache is used without a network, exactly as it was published: anything else is put away and said."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from nativeload.cache import LibraryCache, digests, store
from nativeload.cli import cli
from nativeload.config import NativeLibraryConfig
from nativeload.errors import CacheError, IntegrityError, LibraryNotFoundError, ManifestError, UnsafeCacheError
from nativeload.host import Host
from nativeload.manifest import canonical
from nativeload.resolve import installed
from nativeload.resolve.resolution import Rejected, Source, Unknown
from tests.releases import BUILD, CORE, REPO, Release, release
from tests.scenarios import STUB_LINUX, WHY_NOT, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nativeload.cache import Stamp
    from nativeload.resolve.resolution import LibrarySet
    from tests.hub import Hub

    Listing = dict[str, tuple[int, ...]]

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

NEEDED = (*CORE, "libggml-cpu-sse42.so")
SIZE = 4096  # bytes of every file
NOBODY = 65534


def _content(name: str, build: str = BUILD) -> bytes:
    return (f"{build} {name} ".encode() * SIZE)[:SIZE]


def _release(path: Path, build: str = BUILD, platform: str = "linux-x86_64", *, endings: str = ".so") -> Release:
    path.mkdir()
    for name in (*NEEDED, "libggml-cpu-x64.so"):
        file = name if endings == ".so" else name.removeprefix("lib").replace(".so", endings)
        (path / file).write_bytes(_content(name, build))
    return release({platform: path}, build=build)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No distribution is found, and every module can still be imported."""
    monkeypatch.setattr(installed, "_site_directories", list)


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> Release:
    return _release(tmp_path / "build").push(hub)


@pytest.fixture
def config(published: Release, hub: Hub) -> NativeLibraryConfig:
    """What may fetch the build."""
    return _pinned(published).with_auto_download(endpoint=hub.url)


def _pinned(published: Release) -> NativeLibraryConfig:
    return NativeLibraryConfig().with_pin(published.pin, repo=REPO, commit=published.commit)


@pytest.fixture
def cached(config: NativeLibraryConfig, hub: Hub) -> LibrarySet:
    """The set of this machine, which was fetched."""
    chosen = config.resolve().chosen
    assert chosen is not None
    hub.forget()
    return chosen


def _cache() -> Path:
    return Path(os.environ["NATIVELOAD_CACHE"])


def _listing(root: Path) -> Listing:
    """Return all that a file system knows of a directory, to tell whether anything in it was changed."""
    found = {path: path.lstat() for path in [root, *root.rglob("*")]}
    return {
        str(path): (facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        for path, facts in found.items()
    }


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a published file as its owner can, and set the time of its last change back."""
    before, folder = path.stat(), path.parent.stat()
    path.parent.chmod(0o700)
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.parent.chmod(stat.S_IMODE(folder.st_mode))


def _flip(data: bytes) -> bytes:
    return data[:99] + bytes([data[99] ^ 4]) + data[100:]


def _names(hub: Hub) -> list[str]:
    return sorted(item.path.rpartition("/")[2] for item in hub.gets())


# -- no network -------------------------------------------------------------------------------------------------------


def test_a_cached_set_needs_nobody(cached: LibrarySet, config: NativeLibraryConfig, hub: Hub) -> None:
    """Whether a download is allowed or not, pinned or not yet offline: the same set, by no request."""
    hub.stop()
    for each in (config, config.with_offline(), config.with_auto_download(False)):
        found = each.resolve()
        assert found.chosen is not None
        assert (found.chosen.source, found.chosen.directory) == (Source.CACHED, cached.directory)
        assert found.verified_by == "manifest"
        assert each.plan() == found
    assert hub.requests == []


def test_using_a_cached_set_changes_nothing_in_the_cache(cached: LibrarySet, config: NativeLibraryConfig) -> None:
    before = _listing(_cache())
    for _ in range(2):
        assert config.resolve().verified
    assert _listing(_cache()) == before


def test_a_cache_that_cannot_be_written_serves(cached: LibrarySet, config: NativeLibraryConfig) -> None:
    """A file system that is mounted read-only, in practice. Root can write here all the same, and does not."""
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in [_cache(), *_cache().rglob("*")] if path.is_dir()}
    for path in before:
        path.chmod(0o500)
    listing = _listing(_cache())
    assert config.resolve().verified
    assert _listing(_cache()) == listing
    for path, mode in before.items():
        path.chmod(mode)


def test_a_set_that_cannot_be_kept_is_an_error_that_names_another_place(config: NativeLibraryConfig) -> None:
    """Nothing goes to /tmp instead. Root writes through a mode: for it, a file in the way stands for the rest."""
    if os.geteuid() == 0:
        (_cache() / "tmp").touch()
    else:
        _cache().chmod(0o500)
    with pytest.raises(CacheError) as caught:
        config.resolve()
    assert str(_cache()) in caught.value.path
    assert os.geteuid() == 0 or "with_cache_dir() or NATIVELOAD_CACHE" in caught.value.hint
    assert not list(_cache().glob("llama/*/*"))
    _cache().chmod(0o700)
    (_cache() / "tmp").unlink(missing_ok=True)
    assert config.resolve().verified


@pytest.mark.usefixtures("nothing_installed")
def test_a_config_without_a_pin_uses_the_newest_build_that_runs_here(hub: Hub, tmp_path: Path) -> None:
    """As numbers, not as text; a newer one of which only another machine's set is here is passed over."""
    for build, platform in (("b9999", None), ("b11146", None), ("b11200", None), ("b11300", "windows-x86_64")):
        endings = ".dll" if platform else ".so"
        made = _release(tmp_path / build, build, platform or "linux-x86_64", endings=endings).push(hub)
        _pinned(made).download_native_library(os=platform or "auto", endpoint=hub.url)
    hub.stop()
    for bare in (NativeLibraryConfig(), NativeLibraryConfig().with_offline()):
        found = bare.resolve()
        assert found.chosen is not None
        assert (found.chosen.source, found.chosen.build) == (Source.CACHED, "b11200")
        assert found.verified_by == "manifest"
    windows = NativeLibraryConfig().plan(Host.compose("windows-x86_64"))
    assert windows.to_dict()["build"] == "b11300"
    with pytest.raises(LibraryNotFoundError):
        NativeLibraryConfig("whisper").resolve()


@pytest.mark.usefixtures("nothing_installed", "cached")
def test_a_note_in_the_cache_pins_nothing(published: Release, tmp_path: Path) -> None:
    """Whoever alters what a cache says of itself only makes it useless: a manifest is what its digest says."""
    (note,) = (_cache() / "pins").iterdir()
    note.write_text(note.read_text().replace(published.manifest.pin.digest, "0" * 64))
    with pytest.raises(LibraryNotFoundError):
        NativeLibraryConfig().resolve()
    note.write_text("pin nonsense\nend\n")
    with pytest.raises(LibraryNotFoundError):
        NativeLibraryConfig().resolve()


@pytest.mark.usefixtures("nothing_installed", "cached")
def test_a_damaged_manifest_does_not_stand_in_the_way_for_ever(published: Release, tmp_path: Path) -> None:
    """Who pins nothing hears of it once; then the newest of the others serves, as if it had never been there."""
    path = _cache() / published.path
    path.write_bytes(_flip(published.raw))
    with pytest.raises(IntegrityError):
        NativeLibraryConfig().resolve()
    assert not path.exists()
    with pytest.raises(LibraryNotFoundError):
        NativeLibraryConfig().resolve()


@pytest.mark.usefixtures("nothing_installed", "cached")
def test_a_manifest_of_a_newer_release_is_passed_over_where_nothing_is_pinned(published: Release) -> None:
    """It shares the cache, and its manifests may have another form: what this one can read serves."""
    newer = canonical(json.loads(published.raw) | {"schema": 2, "build": "b99999"})
    pin = f"b99999@sha256:{hashlib.sha256(newer).hexdigest()}"
    (_cache() / "manifests" / f"{pin.rpartition(':')[2]}.json").write_bytes(newer)
    note = {"library": "llama", "pin": pin, "repo": REPO, "commit": "0" * 40}
    LibraryCache(str(_cache())).write("pins", f"llama-{pin.rpartition(':')[2][:32]}", note)
    assert NativeLibraryConfig().resolve().to_dict()["build"] == BUILD
    with pytest.raises(ManifestError, match="schema 2, and this release reads 1"):
        NativeLibraryConfig().with_pin(pin).resolve()


# -- damaged sets -----------------------------------------------------------------------------------------------------


def _replaced(directory: Path, name: str, make: Callable[[Path], object]) -> None:
    directory.chmod(0o700)
    (directory / name).unlink(missing_ok=True)
    make(directory / name)
    directory.chmod(0o500)


def _outside(directory: Path) -> Path:
    """Return a folder beside the cache, for what does not belong into it."""
    folder = Path(os.environ["NATIVELOAD_CACHE"]).parent / "outside"
    folder.mkdir(exist_ok=True)
    return folder


def _linked(directory: Path, name: str) -> None:
    """Put a link in a file's place; its target has the right bytes."""
    kept = shutil.copy(directory / name, _outside(directory) / name)
    _replaced(directory, name, lambda path: path.symlink_to(kept))


def _hard_linked(directory: Path, name: str) -> None:
    os.link(directory / name, _outside(directory) / name)


def _open_to_a_group(directory: Path, name: str) -> None:
    (directory / name).chmod(0o460)


def _moved_and_linked(directory: Path, name: str) -> None:
    """Put a link in the place of the whole set; its target is the set."""
    directory.chmod(0o700)
    moved = _outside(directory) / "moved"
    directory.rename(moved)
    moved.chmod(0o555)
    directory.symlink_to(moved)


DAMAGE: dict[str, Callable[[Path, str], object]] = {
    "one bit, and the old time": lambda directory, name: _rewrite(directory / name, _flip),
    "the bytes of another build": lambda directory, name: _rewrite(directory / name, lambda _: _content(name, "b9")),
    "the bytes of another file": lambda directory, name: _rewrite(directory / name, lambda _: _content(NEEDED[-1])),
    "cut short": lambda directory, name: _rewrite(directory / name, lambda data: data[:-1]),
    "empty": lambda directory, name: _rewrite(directory / name, lambda data: b""),
    "one byte more": lambda directory, name: _rewrite(directory / name, lambda data: data + b"\0"),
    "gone": lambda directory, name: _replaced(directory, name, lambda path: None),
    "a link": _linked,
    "a hard link": _hard_linked,
    "a pipe": lambda directory, name: _replaced(directory, name, os.mkfifo),
    "a directory": lambda directory, name: _replaced(directory, name, os.mkdir),
    "open to a group": _open_to_a_group,
    "one file more": lambda directory, name: _replaced(directory, "libggml-cuda.so", Path.touch),
    "a hidden file more": lambda directory, name: _replaced(directory, ".hidden", Path.touch),
    "the set a link": _moved_and_linked,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_put_away_whole_and_the_next_run_fetches_it_again(
    damage: str, cached: LibrarySet, config: NativeLibraryConfig, hub: Hub
) -> None:
    """The first run ends there: no other set serves, nothing is fetched, and the error says where the set is now."""
    directory = Path(cached.directory)
    DAMAGE[damage](directory, "libllama.so")
    before = _listing(_cache())
    with pytest.raises(IntegrityError) as planned:
        config.plan()
    assert _listing(_cache()) == before  # a plan only looks
    with pytest.raises(IntegrityError) as caught:
        config.resolve()
    assert caught.value.path == planned.value.path
    assert caught.value.path.startswith(str(directory))
    assert hub.requests == []
    assert not directory.exists()
    assert not directory.is_symlink()
    (away,) = (_cache() / "quarantine").iterdir()
    assert str(away) in caught.value.hint
    assert config.with_offline().plan().chosen is None
    again = config.resolve()
    assert _names(hub) == sorted(NEEDED)
    assert again.chosen is not None
    assert (again.chosen.directory, again.verified) == (cached.directory, True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {name: _content(name) for name in NEEDED}


def test_a_file_where_a_set_should_be_is_put_away_too(
    cached: LibrarySet, config: NativeLibraryConfig, hub: Hub
) -> None:
    """Whatever is in its place, a set is here again after the next run, or the one after that."""
    directory = Path(cached.directory)
    directory.chmod(0o700)
    shutil.rmtree(directory)
    directory.touch()
    try:
        found = config.resolve()
    except IntegrityError:
        found = config.resolve()
    assert found.verified
    assert _names(hub) == sorted(NEEDED)


def test_without_a_network_a_damaged_set_is_an_error_and_then_no_set(
    cached: LibrarySet, config: NativeLibraryConfig
) -> None:
    _rewrite(Path(cached.directory) / "libggml.so", _flip)
    offline = config.with_offline()
    with pytest.raises(IntegrityError, match="run again to fetch or import it anew"):
        offline.resolve()
    with pytest.raises(LibraryNotFoundError, match="nativeload prefetch"):
        offline.resolve()


def test_a_large_file_goes_by_its_stamp_and_is_hashed_when_that_moves(
    cached: LibrarySet, config: NativeLibraryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt saves the hash; the time of the last change of anything about it cannot be set back."""
    monkeypatch.setattr(store, "HASH_ALWAYS_BELOW", 1)
    monkeypatch.setattr(store, "_SETTLED", 0)
    hashed: list[str] = []

    def sha256_of(path: str) -> tuple[str, Stamp]:
        hashed.append(Path(path).name)
        return digests.sha256_of(path)

    monkeypatch.setattr(store, "sha256_of", sha256_of)
    for expected in (sorted(NEEDED), []):
        assert config.resolve().verified
        assert sorted(hashed) == expected
        hashed.clear()
    time.sleep(0.02)  # ctime moves in ticks
    _rewrite(Path(cached.directory) / "libllama.so", _flip)
    with pytest.raises(IntegrityError):
        config.resolve()
    assert hashed == ["libllama.so"]


def test_who_asks_for_it_has_every_file_hashed_every_time(
    published: Release, config: NativeLibraryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a large one whose receipt says that it was hashed and has not changed."""
    monkeypatch.setattr(store, "HASH_ALWAYS_BELOW", 1)
    monkeypatch.setattr(store, "_SETTLED", 0)
    config.resolve()
    hashed: list[str] = []

    def sha256_of(path: str) -> tuple[str, Stamp]:
        hashed.append(path)
        return digests.sha256_of(path)

    monkeypatch.setattr(store, "sha256_of", sha256_of)
    config.resolve()
    assert hashed == []
    config.with_verify("always").resolve()
    assert len(hashed) == len(NEEDED)


def test_a_plan_keeps_no_receipts(
    cached: LibrarySet, config: NativeLibraryConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of a large file, which it has to hash; it goes by the receipt that a run left."""
    monkeypatch.setattr(store, "HASH_ALWAYS_BELOW", 1)
    monkeypatch.setattr(store, "_SETTLED", 0)
    before = _listing(_cache())
    assert config.plan().verified
    assert _listing(_cache()) == before
    assert config.resolve().verified
    assert len(list((_cache() / "receipts").iterdir())) == len(NEEDED)


def test_a_damaged_manifest_is_put_away_and_fetched_again(
    cached: LibrarySet, config: NativeLibraryConfig, published: Release, hub: Hub
) -> None:
    """It is even a good one, of another revision. The set that lies beside it is as good as before."""
    path = _cache() / published.path
    path.write_bytes(published.manifest.__replace__(revision=2).to_bytes())
    before = _listing(_cache())
    with pytest.raises(IntegrityError):
        config.plan()
    assert _listing(_cache()) == before
    with pytest.raises(IntegrityError, match="expected the pinned manifest, sha256 ") as caught:
        config.resolve()
    assert caught.value.path == str(path)
    (away,) = (_cache() / "quarantine").iterdir()
    assert f"The damaged manifest is in {away} now" in caught.value.hint
    assert hub.requests == []
    with pytest.raises(LibraryNotFoundError, match="not here: resolve or import it"):
        config.with_auto_download(False).resolve()
    found = config.resolve().chosen
    assert found is not None
    assert found.source is Source.CACHED
    assert _names(hub) == [path.name]
    assert path.read_bytes() == published.raw


@pytest.mark.parametrize("what", ["a link", "a pipe", "a directory", "too large"])
def test_what_is_no_file_of_ours_is_no_manifest(
    what: str, cached: LibrarySet, config: NativeLibraryConfig, published: Release, hub: Hub, tmp_path: Path
) -> None:
    """It is not followed, waited for or read to its end; in the end the manifest is here, or an error says why not."""
    path = _cache() / published.path
    path.unlink()
    if what == "a link":
        (tmp_path / "elsewhere").write_bytes(published.raw)
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a directory":
        path.mkdir()
    else:
        path.write_bytes(published.raw + b" " * (1 << 21))
    errors: list[str] = []
    for _ in range(2):
        try:
            found = config.resolve().chosen
        except (IntegrityError, CacheError) as error:
            errors.append(type(error).__name__)
        else:
            assert found is not None
            assert (found.directory, found.source) == (cached.directory, Source.CACHED)
            assert path.read_bytes() == published.raw
            assert not path.is_symlink()
    assert errors == {"too large": ["IntegrityError"], "a directory": ["CacheError", "CacheError"]}.get(what, [])


# -- an operator's cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def shared(published: Release, hub: Hub, tmp_path: Path) -> Path:
    """A cache that its operator made for others to read, and nobody can write."""
    root, folder = tmp_path / "shared", str(tmp_path / "folder")
    root.mkdir()
    root.chmod(0o755)
    where = ["--repo", REPO, "--commit", published.commit, "--endpoint", hub.url]
    for words in (
        ["prefetch", "--pin", published.pin, *where, "--out", folder],
        ["import", folder, "--sha256", published.pin, "--shared", "--cache", str(root)],
    ):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    hub.forget()
    return root


@pytest.mark.parametrize("how", ["with_shared_cache", "NATIVELOAD_SHARED_CACHE", "with_search_directory"])
def test_an_operators_cache_serves_and_is_never_written(
    how: str, shared: Path, published: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stop()
    config = _pinned(published).with_offline()
    if how == "NATIVELOAD_SHARED_CACHE":
        monkeypatch.setenv(how, f"/nonexistent{os.pathsep}{shared}")
    else:
        config = getattr(config, how)(shared)
    before, own = _listing(shared), _listing(_cache())
    monkeypatch.setattr(store, "HASH_ALWAYS_BELOW", 1)  # so that receipts are wanted
    monkeypatch.setattr(store, "_SETTLED", 0)
    for _ in range(2):
        found = config.resolve().chosen
        assert found is not None
        assert (found.source, found.directory.startswith(str(shared))) == (Source.CACHED, True)
    assert _listing(shared) == before
    assert {Path(path).parent.name for path in set(_listing(_cache())) - set(own)} == {"cache", "receipts"}
    files = [path for path in shared.rglob("*") if path.is_file() and path.parent.name != "locks"]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o444 for path in files} == {0o444}, "others must be able to read it"


@pytest.mark.usefixtures("nothing_installed")
def test_an_operators_cache_serves_who_names_no_pin(shared: Path, hub: Hub, tmp_path: Path) -> None:
    """The newest build of all caches, whoever they belong to."""
    config = NativeLibraryConfig().with_shared_cache(shared)
    for build, best in (("b9999", BUILD), ("b11147", "b11147")):
        made = _release(tmp_path / build, build).push(hub)
        assert config.resolve().to_dict()["build"] == BUILD
        _pinned(made).download_best_native_library(endpoint=hub.url)
        found = config.resolve()
        assert (found.to_dict()["source"], found.to_dict()["build"]) == ("cached", best)


def test_an_operators_cache_that_is_damaged_is_only_an_error(
    shared: Path, config: NativeLibraryConfig, hub: Hub
) -> None:
    """It is not ours to mend: nothing is moved, nothing is fetched in its place, however often."""
    (directory,) = shared.glob(f"llama/{BUILD}/*")
    _rewrite(directory / "libllama.so", _flip)
    before = _listing(shared)
    for _ in range(2):
        with pytest.raises(IntegrityError, match="is not ours to mend: have its owner import the set again"):
            config.with_shared_cache(shared).resolve()
    assert _listing(shared) == before
    assert not list(_cache().glob("quarantine/*"))
    assert not [name for name in _names(hub) if name.endswith(".so")]


@pytest.mark.parametrize("place", ["", "llama", f"llama/{BUILD}", f"llama/{BUILD}/*", f"llama/{BUILD}/*/libllama.so"])
def test_an_operators_cache_that_others_can_write_is_refused(
    place: str, shared: Path, config: NativeLibraryConfig
) -> None:
    """At any height; the digests are right, and somebody could change that between the hash and the opening."""
    (path,) = shared.glob(place) if place else [shared]
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o020)
    with pytest.raises(IntegrityError if path.is_file() else UnsafeCacheError, match=f"^{re.escape(str(path))}: "):
        config.with_shared_cache(shared).resolve()


def test_an_operators_cache_is_root_s_or_ones_own(shared: Path, config: NativeLibraryConfig) -> None:
    """Only root can make another user's to try; anybody else tries one's own, which is fine."""
    config = config.with_shared_cache(shared)
    if os.geteuid() == 0:
        (directory,) = shared.glob(f"llama/{BUILD}/*")
        os.chown(directory, NOBODY, NOBODY)
        with pytest.raises(UnsafeCacheError, match=f"owned by uid {NOBODY}"):
            config.resolve()
    else:
        assert config.resolve().verified


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_without_the_manifest_is_unknown(config: NativeLibraryConfig, published: Release, hub: Hub) -> None:
    """Whether a set of it fits cannot be said; that is not the same as no."""
    found = config.plan()
    assert found.chosen is None
    digest = published.manifest.pin.digest
    verdicts = {item.candidate: item.verdict for item in found.decisions if item.candidate == published.pin}
    assert verdicts == {published.pin: Unknown(f"manifest {digest} not here: resolve or import it")}
    assert hub.requests == []
    config.resolve()
    assert config.plan().chosen is not None


HOSTS = [
    ("linux-x86_64", None, "x64"),
    ("linux-x86_64", "avx512", "sse42"),
    ("linux-x86_64", "zen4", "sse42"),
    ("linux-aarch64", None, None),
    ("windows-x86_64", "avx2", None),
    ("macos-arm64", "apple_m1", None),
]


@pytest.mark.parametrize(("platform", "cpu", "best"), HOSTS)
def test_a_plan_for_any_machine_changes_no_file(
    platform: str, cpu: str | None, best: str | None, cached: LibrarySet, config: NativeLibraryConfig, hub: Hub
) -> None:
    """What the manifest has for it is known, here or to be fetched; what it has not is said."""
    before = _listing(_cache())
    found = config.plan(Host.compose(platform, cpu=cpu))
    assert _listing(_cache()) == before
    assert hub.requests == []
    assert found.to_dict()["variant"] == (best and f"{platform}-{best}")
    assert found.to_dict()["source"] == {"sse42": "cached", "x64": "download", None: None}[best]
    if best is None:
        reason = f"it has nothing for {platform}, only for linux-x86_64"
        assert Rejected(reason) in [item.verdict for item in found.decisions]


def test_plans_start_nothing_and_ask_nobody(cached: LibrarySet, published: Release, hub: Hub, tmp_path: Path) -> None:
    """Counted by the interpreter: sockets, child processes, libraries opened by name. Then the same for one of each,
    done on purpose: the counter counts."""
    code = """
    import ctypes, socket, subprocess, sys
    counted = set()
    def count(event, args):
        if event == "ctypes.dlopen" and args[0] is None:
            return  # a handle to this program itself: nothing is opened
        if event.startswith(("ctypes.dlopen", "socket.")) or event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            counted.add(event)
    sys.addaudithook(count)
    from nativeload import Host, NativeLibraryConfig
    config = NativeLibraryConfig().with_auto_download(endpoint=os.environ["ENDPOINT"])
    sources = []
    for each in (config, config.with_cache_dir(os.environ["EMPTY"]), config.with_cuda(), config.with_offline()):
        for host in (None, *(Host.compose(name, cuda=13) for name in ("linux-x86_64", "windows-x86_64"))):
            sources.append(each.plan(host).to_dict()["source"])
    planned = sorted(counted)
    try:
        ctypes.CDLL("/nonexistent.so")
    except OSError:
        subprocess.run(["/bin/true"])
        socket.socket().close()
    say([planned, sorted(counted), sources])
    """
    said = {"PIN": published.pin, "REPO": REPO, "COMMIT": published.commit}
    env: dict[str, Any] = {f"NATIVELOAD_{name}": word for name, word in said.items()}
    planned, control, sources = run(code, ENDPOINT=hub.url, EMPTY=tmp_path / "empty", **env)
    assert planned == []
    assert {"ctypes.dlopen", "socket.__new__", "subprocess.Popen"} <= set(control)
    here = ["cached", "download", None]
    assert sources == [*here, None, None, None, *here, "cached", None, None]
    assert hub.requests == []
