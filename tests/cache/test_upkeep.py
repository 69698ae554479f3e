"""What is in a cache is listed, checked and removed by name or by age, and by nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nativeload.cache import LibraryCache, upkeep
from nativeload.cache.sets import is_there, quarantine, remove_tree, staging
from nativeload.cache.upkeep import collect, list_sets, remove_sets, verify_sets
from nativeload.errors import CacheError, UnsafeCacheError
from nativeload.pins import Pinned
from nativeload.resolve.cached import remember
from nativeload.resolve.published import bundles, every_set, in_place
from nativeload.value import fields_of
from nativeload.variant import Platform, build_order
from tests.releases import Release, release

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX")

AM_ROOT = os.geteuid() == 0
HOUR, DAY = 3600.0, 86400.0
PARTS = ["libggml-base.so", "libggml.so", "libllama.so"]
CPUS = ["libggml-cpu-x64.so", "libggml-cpu-haswell.so"]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here, and a sync of a busy disk takes a tenth of a second."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def cache(tmp_path: Path) -> LibraryCache:
    """A cache of the user's own."""
    return LibraryCache(str(tmp_path / "root"))


@pytest.fixture
def root(cache: LibraryCache) -> Path:
    """Where it is."""
    return Path(cache.root or "")


def made(folder: Path, build: str = "b11146", library: str = "llama") -> Release:
    """Return a release of two sets: one library, two CPU backends; the bytes of each build are its own."""
    files = folder / f"{library}-{build}"
    files.mkdir()
    for name in [*PARTS, *CPUS]:
        (files / name.replace("llama", library)).write_bytes(f"{library} {build} {name} ".encode() * 500)
    return release({"linux-x86_64": files}, build=build, library=library)


def put(cache: LibraryCache, published: Release) -> list[Path]:
    """Put all sets of a release into a cache, as downloads would; return their directories by label."""
    manifest = published.manifest
    names = {item.name: published.files[item.path] for item in manifest.artifacts}
    directories = []
    for bundle in bundles(manifest, manifest.pin, Platform.LINUX_X86_64):
        for item in every_set(bundle):
            place = in_place(item, cache.root or "")
            with staging(cache) as staged:
                for file in place.files:
                    with staged.create(file.name) as into:
                        into.write(names[file.name].read_bytes())
                staged.publish(place.directory)
            directories.append(Path(place.directory))
    cache.replace("manifests", f"{manifest.pin.digest}.json", published.raw)
    remember(cache, manifest.library, Pinned(pin=manifest.pin, origin="test", strict=False))
    return sorted(directories)


def changed(path: Path, data: bytes) -> None:
    """Write into a file of a set, as damage does, and leave all modes as they were."""
    path.parent.chmod(0o700)
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(0o400)
    path.parent.chmod(0o500)


def wrong(cache: LibraryCache) -> dict[str, str]:
    """Return what is wrong with the sets of a cache, by their names."""
    return {item.name: text for item, text in verify_sets(cache) if text}


def aged(directory: Path, days: float) -> None:
    """Let the files of a set have been read and written last so many days ago."""
    then = time.time() - days * DAY
    for path in directory.iterdir():
        os.utime(path, (then, then))


# -- listing ----------------------------------------------------------------------------------------------------------


def test_an_empty_cache_has_nothing(cache: LibraryCache, root: Path) -> None:
    for nothing in (cache, LibraryCache(None)):
        assert list_sets(nothing) == []
        assert list(verify_sets(nothing)) == []
        assert remove_sets(nothing, []) == 0
        assert set(fields_of(collect(nothing)).values()) == {0}
    assert not root.exists(), "looking makes nothing"


def test_sets_are_listed_newest_build_first(cache: LibraryCache, tmp_path: Path) -> None:
    """By number: b9999 is older than b11146, and v1.10.0 newer than v1.9.3."""
    for build in ("b11146", "b9999", "b11147"):
        put(cache, made(tmp_path, build))
    for build in ("v1.9.3", "v1.10.0"):
        put(cache, made(tmp_path, build, "whisper"))
    found = list_sets(cache)
    builds = [
        ("llama", "b11147"),
        ("llama", "b11146"),
        ("llama", "b9999"),
        ("whisper", "v1.10.0"),
        ("whisper", "v1.9.3"),
    ]
    assert [(item.library, item.build) for item in found] == [build for build in builds for _ in CPUS]
    for item in found:
        assert item.directory == str(Path(cache.root or "") / item.library / item.build / item.name)
        assert item.size == sum(path.stat().st_size for path in Path(item.directory).iterdir())
        assert abs(item.used - time.time()) < HOUR
    assert found[0].name.startswith("linux-x86_64-haswell-")


@pytest.mark.parametrize(
    ("older", "newer"),
    [("b9", "b10"), ("b9999", "b11146"), ("v1.9.3", "v1.10.0"), ("v1.9", "v1.9.1"), ("v0.5.0", "v1.0.0"), ("", "b1")],
)
def test_builds_are_ordered_by_their_numbers(older: str, newer: str) -> None:
    assert build_order(older) < build_order(newer)


@pytest.mark.parametrize("build", ["", "b", "x1", "1", "b1.", "b-1", "b1a", "latest", "v1..2", f"b{'9' * 10}", "b1 "])
def test_a_build_of_no_known_kind_has_no_age(build: str) -> None:
    assert build_order(build) == ("", ())


def test_when_a_set_was_used_is_when_its_files_were(cache: LibraryCache, tmp_path: Path) -> None:
    directory, other = put(cache, made(tmp_path))
    aged(directory, 10)
    os.utime(directory / "libllama.so", (time.time() - 3 * DAY, time.time() - 10 * DAY))
    used = {item.name: item.used for item in list_sets(cache)}
    assert abs(time.time() - used[directory.name] - 3 * DAY) < HOUR, "one file of it that was read counts"
    assert abs(time.time() - used[other.name]) < HOUR


def test_a_cache_that_others_can_write_is_not_trusted(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    put(cache, made(tmp_path))
    item = list_sets(cache)[0]
    root.chmod(0o777)
    for action in (
        lambda: list_sets(cache),
        lambda: list(verify_sets(cache)),
        lambda: collect(cache),
        lambda: remove_sets(cache, [item]),
    ):
        with pytest.raises(UnsafeCacheError):
            action()
    root.chmod(0o700)
    assert wrong(cache) == {}


@pytest.mark.parametrize(
    "action", [list_sets, lambda cache: list(verify_sets(cache)), lambda cache: collect(cache, unused_days=9)]
)
def test_a_damaged_set_is_listed_like_any_other(action: object, cache: LibraryCache, tmp_path: Path) -> None:
    """It can be seen, found wrong, and removed."""
    assert callable(action)
    directory = put(cache, made(tmp_path))[0]
    directory.chmod(0o700)
    (directory / "libggml-cpu-zz.so").symlink_to("nowhere")
    action(cache)
    assert len(list_sets(cache)) == 2


def test_a_file_among_the_sets_is_none(cache: LibraryCache, tmp_path: Path) -> None:
    """Systems leave .DS_Store and the like wherever they have been."""
    directory = put(cache, made(tmp_path))[0]
    (directory.parent / ".DS_Store").write_bytes(b"x")
    names = [item.name for item in list_sets(cache)]
    collect(cache, unused_days=30)
    assert ".DS_Store" not in names


def test_a_link_among_the_sets_is_none(cache: LibraryCache, tmp_path: Path) -> None:
    """What it leads to is somebody's own."""
    directory = put(cache, made(tmp_path))[0]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "libllama.so").write_bytes(b"x")
    aged(mine, 99)
    (directory.parent / "linux-x86_64-x64-0000000000000000").symlink_to(mine)
    assert len(list_sets(cache)) == 2
    assert collect(cache, unused_days=30).sets == 0
    assert (mine / "libllama.so").exists()


# -- verifying --------------------------------------------------------------------------------------------------------


def test_sets_that_are_right_are_right(cache: LibraryCache, tmp_path: Path) -> None:
    for build in ("b11146", "b11147"):
        put(cache, made(tmp_path, build))
    put(cache, made(tmp_path, "v1.9.3", "whisper"))
    results = list(verify_sets(cache))
    assert len(results) == 6
    assert {text for _, text in results} == {""}
    assert [item.directory for item, _ in results] == [item.directory for item in list_sets(cache)]


@pytest.mark.parametrize("name", [*PARTS, CPUS[1]])
def test_a_flipped_bit_is_found(name: str, cache: LibraryCache, tmp_path: Path) -> None:
    """Its size and its times are as they were."""
    directory, other = put(cache, made(tmp_path))
    file = directory / name
    before, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    changed(file, bytes(data))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    found = wrong(cache)
    assert list(found) == [directory.name]
    assert found[directory.name].startswith(f"{file}: expected a file of a manifest in this cache, found sha256 ")
    assert other.name not in found


@pytest.mark.parametrize("what", ["truncated", "empty", "longer"])
def test_another_length_is_found(what: str, cache: LibraryCache, tmp_path: Path) -> None:
    directory = put(cache, made(tmp_path))[0]
    data = (directory / "libllama.so").read_bytes()
    changed(directory / "libllama.so", {"truncated": data[:-1], "empty": b"", "longer": data + b"\0"}[what])
    assert list(wrong(cache)) == [directory.name]


def test_a_file_of_another_build_is_found(cache: LibraryCache, tmp_path: Path) -> None:
    """Each of its manifests is in the cache, and one's file is no file of the other."""
    directory = put(cache, made(tmp_path, "b11146"))[0]
    other = put(cache, made(tmp_path, "b11147"))[0]
    changed(directory / "libllama.so", (other / "libllama.so").read_bytes())
    assert "libllama.so: expected a file of a manifest in this cache" in wrong(cache)[directory.name]


def test_a_file_of_the_same_manifest_under_another_name_is_found(cache: LibraryCache, tmp_path: Path) -> None:
    directory = put(cache, made(tmp_path))[0]
    changed(directory / "libggml.so", (directory / "libggml-base.so").read_bytes())
    assert "libggml.so: expected a file of a manifest in this cache" in wrong(cache)[directory.name]


def _lacks(directory: Path) -> None:
    (directory / "libggml.so").unlink()


def _has_more(directory: Path) -> None:
    """Every file is one of the manifest: a second CPU backend."""
    other = next(path for path in directory.parent.iterdir() if path != directory)
    for name in CPUS:
        if not (directory / name).exists():
            shutil.copy(other / name, directory / name)


def _has_a_stranger(directory: Path) -> None:
    (directory / "libggml-cpu-zz.so").write_bytes(b"planted")


def _has_a_directory(directory: Path) -> None:
    (directory / "inner").mkdir()


def _has_a_fifo(directory: Path) -> None:
    os.mkfifo(directory / "libfifo.so")


@pytest.mark.parametrize("damage", [_lacks, _has_more, _has_a_stranger, _has_a_directory, _has_a_fifo])
def test_a_set_of_other_files_is_found(damage: object, cache: LibraryCache, tmp_path: Path) -> None:
    assert callable(damage)
    directory = put(cache, made(tmp_path))[0]
    directory.chmod(0o700)
    damage(directory)
    assert list(wrong(cache)) == [directory.name]


@pytest.mark.parametrize("name", ["linux-x86_64-haswell-0123456789abcdef", "linux-x86_64-haswell", "-", "x"])
def test_a_set_under_another_name_is_found(name: str, cache: LibraryCache, tmp_path: Path) -> None:
    directory = put(cache, made(tmp_path))[0]
    directory.chmod(0o700)
    directory.rename(directory.parent / name)
    assert wrong(cache) == {name: "its files are not the set that its name says"}


def test_a_set_under_another_build_is_found(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    directory = put(cache, made(tmp_path))[0]
    directory.chmod(0o700)
    (root / "llama" / "b1").mkdir()
    directory.rename(root / "llama" / "b1" / directory.name)
    assert "a file of a manifest in this cache" in wrong(cache)[directory.name]


@pytest.mark.parametrize("how", ["missing", "edited", "renamed", "link", "garbage"])
def test_a_manifest_vouches_only_under_its_own_digest(
    how: str, cache: LibraryCache, root: Path, tmp_path: Path
) -> None:
    """Else whoever changes a file changes the manifest beside it."""
    published = made(tmp_path)
    put(cache, published)
    kept = root / "manifests" / f"{published.manifest.pin.digest}.json"
    if how == "missing":
        kept.unlink()
    elif how == "edited":
        kept.write_bytes(published.raw.replace(b'"revision":1', b'"revision":2'))
        assert kept.read_bytes() != published.raw
    elif how == "renamed":
        kept.rename(kept.with_name(f"{'0' * 64}.json"))
    elif how == "link":
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    else:
        raw = b"no manifest at all"
        kept.rename(kept.with_name("gone"))
        (root / "manifests" / f"{hashlib.sha256(raw).hexdigest()}.json").write_bytes(raw)
    assert len(wrong(cache)) == 2


def _link(path: Path) -> None:
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


def _hard_link(path: Path) -> None:
    os.link(path, path.parents[1] / "elsewhere")


def _writable(path: Path) -> None:
    path.chmod(0o622)


@pytest.mark.parametrize("damage", [_link, _hard_link, _writable])
def test_what_a_load_refuses_is_found(damage: object, cache: LibraryCache, tmp_path: Path) -> None:
    assert callable(damage)
    directory = put(cache, made(tmp_path))[0]
    directory.chmod(0o700)
    damage(directory / "libllama.so")
    assert directory.name in wrong(cache)


# -- removing ---------------------------------------------------------------------------------------------------------


def test_only_the_named_sets_are_removed(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    put(cache, made(tmp_path, "b11146"))
    put(cache, made(tmp_path, "b11147"))
    first, *others = list_sets(cache)
    assert remove_sets(cache, [first]) == first.size > 0
    assert list_sets(cache) == others
    assert not Path(first.directory).exists()
    assert os.listdir(root / "quarantine") == []
    assert wrong(cache) == {}


def test_a_set_that_another_process_removed_is_removed(cache: LibraryCache, tmp_path: Path) -> None:
    put(cache, made(tmp_path))
    first, second = list_sets(cache)
    assert quarantine(cache, first.directory)
    assert remove_sets(cache, [first, second]) >= second.size
    assert list_sets(cache) == []


def test_of_a_cache_that_cannot_be_written_nothing_is_removed(
    cache: LibraryCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root writes through modes, so there the rename is refused as a read-only mount would."""
    put(cache, made(tmp_path))
    items = list_sets(cache)
    folder = root / "llama" / "b11146"
    if AM_ROOT:

        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(os, "rename", refuse)
    else:
        folder.chmod(0o500)
    try:
        with pytest.raises(CacheError, match="cannot be removed"):
            remove_sets(cache, items)
    finally:
        folder.chmod(0o700)
    assert list_sets(cache) == items
    assert wrong(cache) == {}


READER = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print("mapped", flush=True)
sys.stdin.readline()
print(hashlib.sha256(mapped).hexdigest(), flush=True)
"""


@pytest.fixture
def reader(cache: LibraryCache, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a file of a set mapped and reads all of it later."""
    path = put(cache, made(tmp_path))[0] / "libllama.so"
    with subprocess.Popen([sys.executable, "-c", READER, str(path)], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        yield process, path
        process.kill()


@pytest.mark.parametrize("how", ["removed", "collected", "replaced"])
@pytest.mark.skipif(sys.platform != "linux", reason="Windows keeps what is mapped")
def test_a_set_in_use_outlives_its_name(
    how: str, reader: tuple[subprocess.Popen[str], Path], cache: LibraryCache
) -> None:
    """No file of a set is ever written into or cut short: that would be SIGBUS in whoever runs it."""
    process, path = reader
    data = path.read_bytes()
    if how == "collected":
        assert collect(cache, unused_days=0, now=time.time() + DAY).sets == 2
    else:
        remove_sets(cache, list_sets(cache))
    assert not path.exists()
    if how == "replaced":
        with staging(cache) as staged:
            with staged.create(path.name) as file:
                file.write(b"another")
            assert staged.publish(str(path.parent))
        assert path.read_bytes() == b"another"
    output, _ = process.communicate("\n", timeout=20)
    assert process.returncode == 0
    assert output.strip() == hashlib.sha256(data).hexdigest()


# -- collecting -------------------------------------------------------------------------------------------------------


def test_a_cache_in_good_order_is_left_alone(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    put(cache, made(tmp_path))
    cache.write("probes", "key", {"status": "ok"})
    before = sorted(str(path) for path in root.rglob("*"))
    assert set(fields_of(collect(cache, now=time.time() + 400 * DAY)).values()) == {0}
    assert sorted(str(path) for path in root.rglob("*")) == before


def test_work_left_over_goes_after_an_hour(cache: LibraryCache, root: Path) -> None:
    """What a killed process left: read-only files in a directory, or a file."""
    left = root / "tmp" / "1-0123456789abcdef"
    cache.folder("tmp/1-0123456789abcdef")
    (left / "libllama.so").write_bytes(b"x" * 1000)
    (left / "libllama.so").chmod(0o400)
    left.chmod(0o500)
    (root / "tmp" / "file").write_bytes(b"y")
    (root / "tmp" / "link").symlink_to(root.parent)
    assert collect(cache).left_over == 0
    assert collect(cache, now=time.time() + HOUR - 60).left_over == 0
    assert len(os.listdir(root / "tmp")) == 3
    done = collect(cache, now=time.time() + HOUR + 60)
    assert (done.left_over, done.quarantined, done.sets) == (3, 0, 0)
    assert done.bytes > 1000
    assert os.listdir(root / "tmp") == []
    assert root.parent.exists(), "a link goes, not what it leads to"


def test_an_hour_is_counted_from_the_last_change_that_nobody_can_forge(cache: LibraryCache, root: Path) -> None:
    """A file's own times may be those of the archive it came from."""
    cache.folder("tmp/1-00")
    os.utime(root / "tmp" / "1-00", (0, 0))
    assert collect(cache).left_over == 0


def test_a_download_that_takes_hours_is_not_left_over(cache: LibraryCache, root: Path) -> None:
    """A directory changes when a file is made in it; 2 GiB over a slow line come long after that."""
    folder = Path(cache.folder("tmp/1-00"))
    (folder / "libggml-cuda.so").write_bytes(b"first")
    begun = os.lstat(folder).st_ctime
    while time.time() < begun + 0.1:
        time.sleep(0.01)
    with open(folder / "libggml-cuda.so", "ab") as file:
        file.write(b" and so on")
    assert os.lstat(folder).st_ctime == begun
    assert collect(cache, now=begun + HOUR + 0.05).left_over == 0
    assert (folder / "libggml-cuda.so").read_bytes() == b"first and so on"


def test_quarantine_goes_after_a_week(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    """Long enough to look at what was wrong."""
    directory, other = put(cache, made(tmp_path))
    assert quarantine(cache, str(directory))
    assert collect(cache, now=time.time() + 6.9 * DAY).quarantined == 0
    assert len(os.listdir(root / "quarantine")) == 1
    done = collect(cache, now=time.time() + 7.1 * DAY)
    assert (done.quarantined, done.left_over, done.sets, done.manifests) == (1, 0, 0, 0)
    assert os.listdir(root / "quarantine") == []
    assert other.exists()


def test_sets_that_nobody_used_go_where_that_is_asked(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    old = put(cache, made(tmp_path, "b11145"))
    mixed = put(cache, made(tmp_path, "b11146"))
    for directory in (*old, mixed[0]):
        aged(directory, 31)
    aged(mixed[1], 29)
    assert collect(cache).sets == 0
    assert collect(cache, unused_days=32).sets == 0
    done = collect(cache, unused_days=30)
    assert (done.sets, done.manifests) == (3, 1)
    assert [item.directory for item in list_sets(cache)] == [str(mixed[1])]
    assert os.listdir(root / "llama") == ["b11146"], "an empty build goes too"
    assert collect(cache, unused_days=30, now=time.time() + 2 * DAY).sets == 1
    assert list_sets(cache) == []
    assert os.listdir(root / "llama") == []


def test_the_clock_can_be_wrong(cache: LibraryCache, tmp_path: Path) -> None:
    """Ten years back: nothing is old. Nothing is removed that is in the future."""
    put(cache, made(tmp_path))
    cache.folder("tmp/1-00")
    done = collect(cache, unused_days=0, now=time.time() - 3650 * DAY)
    assert (done.sets, done.left_over, done.quarantined) == (0, 0, 0)
    assert len(list_sets(cache)) == 2


def test_receipts_of_files_that_are_gone_go(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    cache.write("receipts", "here", {"path": str(tmp_path / "here"), "stamp": "x", "sha256": "y"})
    cache.write("receipts", "gone", {"path": str(tmp_path / "gone"), "stamp": "x", "sha256": "y"})
    cache.write("receipts", "pathless", {"stamp": "x"})
    (root / "receipts" / "damaged").write_bytes(b"\xff no note")
    cache.write("probes", "gone", {"status": "ok"})
    assert collect(cache).receipts == 3
    assert os.listdir(root / "receipts") == ["here"]
    assert os.listdir(root / "probes") == ["gone"]
    assert collect(cache).receipts == 0


def test_pins_without_sets_go_with_their_manifests(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    old, new = made(tmp_path, "b11145"), made(tmp_path, "b11146")
    other = made(tmp_path, "b11145", "whisper")
    for published in (old, new, other):
        put(cache, published)
    remove_sets(cache, [item for item in list_sets(cache) if (item.library, item.build) == ("llama", "b11145")])
    assert collect(cache).manifests == 1
    kept = {new.manifest.pin.digest, other.manifest.pin.digest}
    assert {path.stem for path in (root / "manifests").iterdir()} == kept
    assert {path.name for path in (root / "pins").iterdir()} == {
        f"llama-{new.manifest.pin.digest[:32]}",
        f"whisper-{other.manifest.pin.digest[:32]}",
    }
    assert wrong(cache) == {}
    assert collect(cache).manifests == 0


def test_a_damaged_note_of_a_pin_goes(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    """Its sets and its manifest stay: they can be pinned again."""
    published = made(tmp_path)
    put(cache, published)
    (root / "pins" / f"llama-{published.manifest.pin.digest[:32]}").write_bytes(b"\xff no note")
    assert collect(cache).manifests == 1
    assert os.listdir(root / "pins") == []
    assert [path.stem for path in (root / "manifests").iterdir()] == [published.manifest.pin.digest]
    assert wrong(cache) == {}


@pytest.mark.parametrize("where", ["../../victim", "../llama/victim"])
def test_a_note_names_no_file_elsewhere(where: str, cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    put(cache, made(tmp_path))
    victim = root / "manifests" / f"{where}.json"
    victim.write_bytes(b"victim")
    cache.write("pins", "llama-x", {"library": "llama", "pin": f"b1@sha256:{where}"})
    collect(cache)
    assert victim.exists()


@pytest.mark.parametrize("kind", ["pins", "receipts"])
def test_what_cannot_be_collected_is_a_cache_error(kind: str, cache: LibraryCache, root: Path) -> None:
    cache.folder(f"{kind}/directory")
    with pytest.raises(CacheError):
        collect(cache)


def test_other_processes_work_while_one_collects(
    cache: LibraryCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of theirs is there when the directory is listed, and published or removed when it is looked at."""
    put(cache, made(tmp_path))
    (Path(cache.folder("tmp/1-00")) / "libllama.so").touch()
    real = os.walk

    def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, names in real(top):
            if folder.endswith("1-00"):
                shutil.rmtree(folder)
            yield folder, folders, names

    monkeypatch.setattr(os, "walk", walk)
    collect(cache)


@pytest.mark.parametrize("kind", ["manifests", "probes"])
def test_what_a_killed_writer_left_goes(kind: str, cache: LibraryCache, root: Path) -> None:
    """In receipts and pins it goes as a damaged note does."""
    folder = Path(cache.folder(kind))
    (folder / ".name.4711.0123abcd").write_bytes(b"half")
    collect(cache, now=time.time() + 30 * DAY)
    assert os.listdir(folder) == []


def test_two_collect_at_once(cache: LibraryCache, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other one removed first is no error."""
    for name in ("1-00", "1-01"):
        cache.folder(f"tmp/{name}")

    def remove(path: str) -> None:
        shutil.rmtree(root / "tmp" / "1-01", ignore_errors=True)
        remove_tree(path)

    monkeypatch.setattr(upkeep, "remove_tree", remove)
    assert collect(cache, now=time.time() + 2 * HOUR).left_over == 1
    assert os.listdir(root / "tmp") == []


def test_what_was_collected_can_come_again(cache: LibraryCache, tmp_path: Path) -> None:
    published = made(tmp_path)
    directories = put(cache, published)
    collect(cache, unused_days=0, now=time.time() + DAY)
    assert list_sets(cache) == []
    assert put(cache, published) == directories
    assert wrong(cache) == {}
    names = [path.name for path in directories[0].iterdir()]
    assert is_there(str(directories[0]), names)
