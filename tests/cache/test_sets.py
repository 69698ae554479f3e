"""A set appears whole by one rename, stays as it is, and goes whole.

Runs as root and as anybody: where it matters, a test asks which it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import select
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nativeload.cache import LibraryCache, sets
from nativeload.cache.sets import Staging, is_there, lock, need_space, quarantine, read_manifest, remove_tree, staging
from nativeload.errors import CacheError, IntegrityError, UnsafeCacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes, links and flock are POSIX")

ROOT = Path(__file__).parents[2]
NOBODY = 65534
AM_ROOT = os.geteuid() == 0
SET_ID = "0123456789abcdef" * 4
FILES = {
    "libggml-base.so": b"base" * 5000,
    "libggml.so": b"ggml",
    "libllama.so": b"llama" * 30_000,
    "libggml-cpu-x64.so": b"",
}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here, and a sync of a busy disk takes a tenth of a second; other processes do sync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a cache is to be: nothing is there yet."""
    return tmp_path / "root"


@pytest.fixture
def cache(root: Path) -> LibraryCache:
    """A cache of the user's own."""
    return LibraryCache(str(root))


def place(cache: LibraryCache, build: str = "b11146") -> Path:
    """Return where the set of these tests lies."""
    return Path(sets.set_path(cache.root or "", "llama", build, "linux-x86_64-x64", SET_ID))


def put(cache: LibraryCache, files: Mapping[str, bytes] = FILES, *, build: str = "b11146") -> Path:
    """Publish a set and return its directory."""
    directory = place(cache, build)
    with staging(cache) as made:
        for name, data in files.items():
            with made.create(name) as file:
                file.write(data)
        assert made.publish(str(directory))
    return directory


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def is_whole(directory: Path, *, shared: bool = False) -> bool:
    return is_there(str(directory), list(FILES), shared=shared)


def opened(directory: Path) -> Path:
    """Let its owner change a set, as damage does."""
    directory.chmod(0o700)
    return directory


# -- how a set appears ------------------------------------------------------------------------------------------------


def test_a_set_lies_by_its_words_and_sixteen_digits() -> None:
    path = sets.set_path("/root", "llama", "b11146", "linux-x86_64-cuda13-zen4", SET_ID)
    assert path == "/root/llama/b11146/linux-x86_64-cuda13-zen4-0123456789abcdef"
    assert path != sets.set_path("/root", "llama", "b11146", "linux-x86_64-cuda13-zen4", SET_ID[1:] + "0")


def test_a_published_set_is_exactly_its_files(cache: LibraryCache, root: Path) -> None:
    directory = put(cache)
    assert directory == root / "llama" / "b11146" / "linux-x86_64-x64-0123456789abcdef"
    assert content(directory) == FILES
    assert is_whole(directory)
    assert os.listdir(root / "tmp") == []


def test_nothing_is_at_its_place_before_the_rename(cache: LibraryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at the moment of the rename everything is on disk: files, then their directory; after it, the parents."""
    directory, done = place(cache), list[str]()

    def fsync(number: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")

    def rename(source: str, target: str) -> None:
        assert not directory.exists()
        assert content(Path(source)) == FILES
        assert Path(source).parent == Path(cache.root or "") / "tmp"
        assert target == str(directory)
        done.append("rename")
        os.replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    with staging(cache) as made:
        for name, data in FILES.items():
            with made.create(name) as file:
                file.write(data)
            assert not directory.parent.exists()
        staged = Path(made.directory).name
        assert made.publish(str(directory))
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    assert before == [*(f"sync {name}" for name in FILES), f"sync {staged}"]
    assert after == ["sync b11146", "sync llama", "sync root"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=lambda mask: f"umask {mask:03o}")
def test_modes_are_the_same_under_every_umask(umask: int, shared: bool, root: Path) -> None:
    """A user's own cache is nobody else's to read; an operator's is everybody's to read, and nobody's to write."""
    cache = LibraryCache(str(root), shared=shared)
    before = os.umask(umask)
    try:
        with staging(cache) as made:
            assert mode(made.directory) == 0o700, "its owner could not rename it with less"
            with made.create("libllama.so") as file:
                file.write(b"x")
                assert mode(Path(made.directory, "libllama.so")) == (0o444 if shared else 0o400), "from the start"
            assert made.publish(str(place(cache)))
        cache.replace("manifests", "x.json", b"{}")
    finally:
        os.umask(before)
    directory = place(cache)
    assert mode(directory) == (0o555 if shared else 0o500)
    assert mode(directory / "libllama.so") == (0o444 if shared else 0o400)
    assert mode(root / "manifests" / "x.json") == (0o644 if shared else 0o600)
    for folder in (root, root / "tmp", root / "llama", root / "llama" / "b11146", root / "manifests"):
        assert mode(folder) == (0o755 if shared else 0o700), folder
    assert is_there(str(directory), ["libllama.so"], shared=shared)


def test_the_loser_of_a_race_drops_its_own(cache: LibraryCache, root: Path) -> None:
    directory = put(cache)
    inode = directory.stat().st_ino
    with staging(cache) as made:
        with made.create("libllama.so") as file:
            file.write(b"of the loser")
        assert not made.publish(str(directory))
        assert os.listdir(root / "tmp") == []
    assert content(directory) == FILES
    assert directory.stat().st_ino == inode


def test_a_crash_before_the_last_chmod_is_legal(cache: LibraryCache) -> None:
    """The directory is 0700 then: still whole, and the loser of a race still loses."""
    directory = put(cache)
    directory.chmod(0o700)
    assert is_whole(directory)
    with staging(cache) as made:
        assert not made.publish(str(directory))
    assert content(directory) == FILES


def test_an_empty_directory_in_its_place_is_no_set(cache: LibraryCache) -> None:
    place(cache).mkdir(parents=True, mode=0o700)
    put(cache)
    assert is_whole(place(cache))


@pytest.mark.parametrize("what", ["file", "link", "dangling link"])
def test_what_else_is_in_its_place_is_an_error_and_stays(what: str, cache: LibraryCache, root: Path) -> None:
    directory = place(cache)
    directory.parent.mkdir(parents=True, mode=0o700)
    victim = root.parent / "victim"
    victim.write_bytes(b"victim")
    if what == "file":
        directory.write_bytes(b"file")
    else:
        directory.symlink_to(victim if what == "link" else root / "nowhere")
    with pytest.raises(CacheError) as caught, staging(cache) as made:
        made.publish(str(directory))
    assert caught.value.path == str(directory)
    assert os.listdir(root / "tmp") == []
    assert victim.read_bytes() == b"victim"


@pytest.mark.parametrize("error", [RuntimeError("here"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_what_was_not_published_is_gone_however_it_ends(error: BaseException, cache: LibraryCache, root: Path) -> None:
    with pytest.raises(type(error)), staging(cache) as made:  # noqa: PT012 - it is raised in the middle of the work
        with made.create("libggml.so") as file:
            file.write(b"whole")
        with made.create("libllama.so") as file:
            file.write(b"half")
            raise error
    assert os.listdir(root / "tmp") == []
    assert not (root / "llama").exists()


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod", "mkdir"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_a_failure_on_the_way_is_a_cache_error(
    number: int, call: str, cache: LibraryCache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is published, nothing is left, and a sync that failed is not tried again."""
    cache.folder("tmp")
    calls: list[object] = []

    def fail(*given: object, **_: object) -> None:
        calls.append(given)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(CacheError, match=re.escape(os.strerror(number))) as caught, staging(cache) as made:  # noqa: PT012
            with made.create("libllama.so") as file:
                file.write(b"x")
            made.publish(str(place(cache)))
    assert ("Free some space" in caught.value.hint) == (number == errno.ENOSPC)
    assert "NATIVELOAD_CACHE" in caught.value.hint
    assert len(calls) == 1
    assert os.listdir(root / "tmp") == []
    assert not place(cache).exists()
    put(cache)
    assert is_whole(place(cache)), "the next run needs no cleaning"


def test_a_failure_after_the_rename_is_a_cache_error_too(cache: LibraryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        if Path(path).name == "b11146":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sets, "sync_directory", fail)
    with pytest.raises(CacheError):
        put(cache)


def test_a_collection_between_two_steps_does_not_fail_a_publication(
    cache: LibraryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes a build's directory that is empty, which the one for the new set is for a moment."""
    real = os.rename

    def rename(source: str, target: str) -> None:
        monkeypatch.setattr(os, "rename", real)
        place(cache).parent.rmdir()
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert is_whole(put(cache))


def test_a_file_is_made_once_and_never_through_a_link(cache: LibraryCache, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"victim")
    with staging(cache) as made:
        with made.create("libllama.so") as file:
            file.write(b"first")
        Path(made.directory, "libggml.so").symlink_to(victim)
        Path(made.directory, "libnew.so").symlink_to(tmp_path / "new")
        for name in ("libllama.so", "libggml.so", "libnew.so"):
            with pytest.raises(CacheError, match="File exists"), made.create(name):
                pass
        assert Path(made.directory, "libllama.so").read_bytes() == b"first"
    assert victim.read_bytes() == b"victim"
    assert not (tmp_path / "new").exists()


def test_what_is_written_can_be_read_and_taken_back(cache: LibraryCache) -> None:
    """A download that is cut off may have to begin again."""
    with staging(cache) as made:
        with made.create("libllama.so") as file:
            file.write(b"wrong")
            file.seek(0)
            assert file.read() == b"wrong"
            file.seek(0)
            file.truncate()
            file.write(b"ok")
        assert Path(made.directory, "libllama.so").read_bytes() == b"ok"


def test_a_cache_that_others_can_write_takes_no_set(cache: LibraryCache, root: Path) -> None:
    root.mkdir(mode=0o700)
    root.chmod(0o777)
    with pytest.raises(UnsafeCacheError), staging(cache):
        pass
    assert os.listdir(root) == []


def test_without_a_root_there_is_no_staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for action in (lambda: Staging(LibraryCache(None)), lambda: need_space(LibraryCache(None), 1)):
        with pytest.raises(CacheError, match="no cache directory") as caught:
            action()
        assert "with_cache_dir()" in caught.value.hint
    assert os.listdir(tmp_path) == ["cache"]  # the tests' own


# -- whether a set is there -------------------------------------------------------------------------------------------


def test_a_set_that_is_missing_is_not_there(cache: LibraryCache, root: Path) -> None:
    assert not is_whole(place(cache))
    put(cache)
    (root / "file").touch()
    for directory in (place(cache, "b1"), root / "file" / "below", root / ("x" * 300), root / "nowhere" / "x"):
        assert not is_whole(directory)


def _extra(directory: Path) -> None:
    (directory / "libggml-cpu-zz.so").write_bytes(b"planted")


def _missing(directory: Path) -> None:
    (directory / "libggml.so").unlink()


def _renamed(directory: Path) -> None:
    (directory / "libggml.so").rename(directory / "libggml.so.0")


def _link(directory: Path) -> None:
    (directory / "libggml.so").rename(directory.parent / "elsewhere")
    (directory / "libggml.so").symlink_to(directory.parent / "elsewhere")


def _dangling(directory: Path) -> None:
    (directory / "libggml.so").unlink()
    (directory / "libggml.so").symlink_to("nowhere")


def _hard_link(directory: Path) -> None:
    os.link(directory / "libggml.so", directory.parent / "elsewhere")


def _fifo(directory: Path) -> None:
    (directory / "libggml.so").unlink()
    os.mkfifo(directory / "libggml.so", 0o400)


def _directory(directory: Path) -> None:
    (directory / "libggml.so").unlink()
    (directory / "libggml.so").mkdir()


def _group_writable(directory: Path) -> None:
    (directory / "libggml.so").chmod(0o420)


def _world_writable(directory: Path) -> None:
    (directory / "libggml.so").chmod(0o402)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "extra file": (_extra, "libggml-cpu-zz.so: expected the set's files only, found this file"),
    "missing file": (_missing, "libggml.so: expected a file of the set, found nothing"),
    "other name": (_renamed, "libggml.so: expected a file of the set, found nothing"),
    "link": (_link, "libggml.so: expected a regular file, found a link or a special file"),
    "dangling link": (_dangling, "libggml.so: expected a regular file, found a link or a special file"),
    "hard link": (_hard_link, "libggml.so: expected one name, found 2 hard links"),
    "FIFO": (_fifo, "libggml.so: expected a regular file, found a link or a special file"),
    "directory": (_directory, "libggml.so: expected a regular file, found a link or a special file"),
    "group-writable": (_group_writable, "expected a file that nobody else can write, found uid [0-9]+, mode 0420"),
    "world-writable": (_world_writable, "expected a file that nobody else can write, found uid [0-9]+, mode 0402"),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("what", DAMAGE)
def test_a_set_that_is_not_exactly_its_files_is_refused(what: str, shared: bool, root: Path) -> None:
    """A file too many is refused like one missing: ggml would open it. An operator may link files from elsewhere."""
    directory = opened(put(LibraryCache(str(root), shared=shared)))
    assert is_whole(directory, shared=shared)
    damage, message = DAMAGE[what]
    damage(directory)
    if what == "hard link" and shared:
        assert is_whole(directory, shared=True)
        return
    with pytest.raises(IntegrityError, match=message) as caught:
        is_whole(directory, shared=shared)
    assert caught.value.path.startswith(str(directory))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("what", ["file", "link", "dangling link", "FIFO"])
def test_a_set_is_a_directory(what: str, shared: bool, cache: LibraryCache, tmp_path: Path) -> None:
    directory = place(cache)
    directory.parent.mkdir(parents=True, mode=0o700)
    if what == "file":
        directory.touch()
    elif what == "FIFO":
        os.mkfifo(directory)
    else:
        directory.symlink_to(put(LibraryCache(str(tmp_path / "other"))) if what == "link" else tmp_path / "nowhere")
    with pytest.raises(IntegrityError, match="expected a directory, found something else"):
        is_whole(directory, shared=shared)


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_of_another_user_is_refused(shared: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can give one away to try; anybody else is taken for another user than the one who owns it."""
    directory = put(LibraryCache(str(root), shared=shared))
    if AM_ROOT:
        os.chown(directory / "libggml.so", NOBODY, NOBODY)
    else:
        monkeypatch.setattr(sets, "check_directory", lambda *_, **__: None)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    owner = NOBODY if AM_ROOT else os.getuid()
    with pytest.raises(IntegrityError, match=f"nobody else can write, found uid {owner}, mode 0{4 + 40 * shared}"):
        is_whole(directory, shared=shared)


@pytest.mark.parametrize("writable", [0o770, 0o702, 0o777, 0o1777], ids=oct)
def test_a_shared_set_in_a_directory_that_others_can_write_is_refused(writable: int, root: Path) -> None:
    directory = put(LibraryCache(str(root), shared=True))
    for folder in (directory, directory.parent):
        before = mode(folder)
        folder.chmod(writable)
        if writable == 0o1777 and folder == directory.parent:
            assert is_whole(directory, shared=True)  # sticky, like /tmp: what is in it is its owner's to move
        else:
            with pytest.raises(UnsafeCacheError) as caught:
                is_whole(directory, shared=True)
            assert caught.value.path == str(folder)
        folder.chmod(before)
    assert is_whole(directory, shared=True)


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_set_of_ones_own_in_a_directory_that_others_can_write_is_refused(above: int, cache: LibraryCache) -> None:
    """The root may be readable by all, 0755: then a directory below it with a slip of chmod is the hole."""
    directory = put(cache)
    os.chmod(cache.root or "", 0o755)  # noqa: S103
    [directory, *directory.parents][above].chmod(0o777)
    with pytest.raises(UnsafeCacheError):
        is_whole(directory)


def test_a_set_that_goes_while_it_is_looked_at_is_not_there(
    cache: LibraryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process collects, or takes it into quarantine."""
    directory = put(cache)
    real = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        monkeypatch.setattr(os, "scandir", real)
        assert quarantine(cache, str(directory))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert not is_whole(directory)


def test_a_set_that_may_not_be_read_is_refused(cache: LibraryCache) -> None:
    """Root may read anything; to anybody else it is no set."""
    directory = put(cache)
    directory.chmod(0)
    try:
        if AM_ROOT:
            assert is_whole(directory)
        else:
            with pytest.raises(IntegrityError):
                is_whole(directory)
    finally:
        directory.chmod(0o500)


# -- how a set goes ---------------------------------------------------------------------------------------------------


def test_quarantine_takes_a_set_whole(cache: LibraryCache, root: Path) -> None:
    directory = put(cache)
    inode = directory.stat().st_ino
    where = quarantine(cache, str(directory))
    assert where is not None
    assert Path(where).parent == root / "quarantine"
    assert Path(where).name.startswith(f"{directory.name}-")
    assert content(Path(where)) == FILES
    assert Path(where).stat().st_ino == inode, "moved, not copied"
    assert not directory.exists()
    assert not is_whole(directory)
    assert put(cache) == directory, "the next run may fetch it again"
    again = quarantine(cache, str(directory))
    assert again not in {None, where}
    assert len(os.listdir(root / "quarantine")) == 2


def test_quarantine_of_what_another_process_took_is_none(cache: LibraryCache) -> None:
    directory = put(cache)
    assert quarantine(cache, str(directory))
    assert quarantine(cache, str(directory)) is None
    assert quarantine(cache, str(place(cache, "b1"))) is None


def test_quarantine_takes_a_manifest_too(cache: LibraryCache) -> None:
    path = cache.replace("manifests", "x.json", b"damaged")
    where = quarantine(cache, path)
    assert where is not None
    assert Path(where).read_bytes() == b"damaged"
    assert not os.path.lexists(path)


def test_a_cache_that_cannot_be_written_keeps_its_set(
    cache: LibraryCache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only cache only raises. Root writes through modes, so there the rename is refused as a mount would."""
    directory = put(cache)
    folders = [directory.parent, root / "llama", root]
    if AM_ROOT:

        def refuse(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "rename", refuse)
    else:
        for folder in folders:
            folder.chmod(0o500)
    try:
        assert quarantine(cache, str(directory)) is None
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert content(directory) == FILES
    assert is_whole(directory)


@pytest.mark.parametrize("what", ["link", "dangling link"])
def test_quarantine_of_a_link_takes_the_link(what: str, cache: LibraryCache, tmp_path: Path) -> None:
    """What it leads to is somebody's own; and a link that leads nowhere must not block its place for ever."""
    victim = tmp_path / "victim"
    if what == "link":
        victim.mkdir()
        victim.chmod(0o755)
    directory = place(cache)
    directory.parent.mkdir(parents=True, mode=0o700)
    directory.symlink_to(victim)
    where = quarantine(cache, str(directory))
    assert where is not None
    assert Path(where).is_symlink()
    assert not os.path.lexists(directory)
    if what == "link":
        assert mode(victim) == 0o755


def test_a_read_only_tree_is_removed(cache: LibraryCache) -> None:
    directory = put(cache)
    assert [mode(directory), mode(directory / "libllama.so")] == [0o500, 0o400]
    remove_tree(str(directory))
    assert not directory.exists()
    remove_tree(str(directory))  # another process was faster


def test_a_read_only_directory_inside_is_removed_too(tmp_path: Path) -> None:
    """No set has one, but what is in quarantine was damaged by something."""
    inner = tmp_path / "tree" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    inner.chmod(0o500)
    try:
        remove_tree(str(tmp_path / "tree"))
    finally:
        if inner.exists():
            inner.chmod(0o700)
    assert not (tmp_path / "tree").exists()


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    victim.chmod(0o755)
    (victim / "file").touch()
    (tmp_path / "link").symlink_to(victim)
    remove_tree(str(tmp_path / "link"))
    assert not os.path.lexists(tmp_path / "link")
    assert (victim / "file").exists()
    assert mode(victim) == 0o755


def test_what_cannot_be_removed_is_an_error(cache: LibraryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = put(cache)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(CacheError, match="cannot be removed: Device or resource busy") as caught:
        remove_tree(str(directory))
    assert caught.value.path == str(directory)


# -- manifests --------------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_kept(cache: LibraryCache, root: Path) -> None:
    assert read_manifest(str(root), SET_ID) is None
    cache.replace("manifests", f"{SET_ID}.json", b"{}\n", durable=True)
    assert read_manifest(str(root), SET_ID) == b"{}\n"


def test_of_a_manifest_no_more_is_read_than_any_has(cache: LibraryCache, root: Path) -> None:
    """One byte more, so that its digest is wrong."""
    cache.replace("manifests", f"{SET_ID}.json", b"x" * (3 << 20))
    raw = read_manifest(str(root), SET_ID)
    assert raw is not None
    assert len(raw) == (1 << 20) + 1


def test_a_manifest_is_never_read_through_a_link(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    folder = Path(cache.folder("manifests"))
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (folder / f"{SET_ID}.json").symlink_to(tmp_path / "elsewhere")
    assert read_manifest(str(root), SET_ID) is None


def test_a_fifo_in_a_manifests_place_does_not_hang(cache: LibraryCache, root: Path) -> None:
    os.mkfifo(Path(cache.folder("manifests"), f"{SET_ID}.json"))
    assert not read_manifest(str(root), SET_ID)


def test_a_directory_in_a_manifests_place_is_none(cache: LibraryCache, root: Path) -> None:
    Path(cache.folder("manifests"), f"{SET_ID}.json").mkdir()
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        assert read_manifest(str(root), SET_ID) is None
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- what is written beside sets --------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_by_root_of_its_name(cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    """A link in its place is replaced, not followed."""
    (tmp_path / "victim").write_bytes(b"victim")
    Path(cache.folder("pins"), "name").symlink_to(tmp_path / "victim")
    assert cache.replace("pins", "name", b"first") == str(root / "pins" / "name")
    inode = os.lstat(root / "pins" / "name").st_ino
    cache.replace("pins", "name", b"second", durable=True)
    assert (root / "pins" / "name").read_bytes() == b"second"
    assert os.lstat(root / "pins" / "name").st_ino != inode, "never written into"
    assert (tmp_path / "victim").read_bytes() == b"victim"
    assert os.listdir(root / "pins") == ["name"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_is_as_it_was(
    call: str, cache: LibraryCache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.replace("pins", "name", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        cache.replace("pins", "name", b"new", durable=True)
    assert (root / "pins" / "name").read_bytes() == b"old"
    assert os.listdir(root / "pins") == ["name"]


def test_what_is_durable_is_synced_before_and_after_it_has_its_name(
    cache: LibraryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        done.append("replace")
        real(source, target)

    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(os, "replace", replace)
    cache.replace("pins", "name", b"x")
    assert done == ["replace"]
    done.clear()
    path = cache.replace("manifests", "name", b"x", durable=True)
    assert [Path(each).parent.name for each in done] == ["manifests", "", Path(cache.root or "").name]
    assert done[1:] == ["replace", str(Path(path).parent)]


def test_folders_are_made_once_and_private(cache: LibraryCache, root: Path) -> None:
    assert cache.folder("llama/b11146") == str(root / "llama/b11146")
    assert cache.folder("llama/b11146") == str(root / "llama/b11146")
    assert {mode(root), mode(root / "llama"), mode(root / "llama/b11146")} == {0o700}


def test_folders_that_are_there_keep_their_mode(root: Path) -> None:
    """An operator's 0750 is a choice."""
    (root / "llama").mkdir(parents=True)
    root.chmod(0o750)
    (root / "llama").chmod(0o750)
    LibraryCache(str(root), shared=True).folder("llama/b1")
    assert [mode(root), mode(root / "llama"), mode(root / "llama" / "b1")] == [0o750, 0o750, 0o755]


def test_nothing_is_made_below_a_directory_that_others_can_write(cache: LibraryCache, root: Path) -> None:
    cache.folder("llama")
    root.chmod(0o755)
    (root / "llama").chmod(0o777)
    with pytest.raises(UnsafeCacheError):
        cache.folder("llama/b1")
    assert os.listdir(root / "llama") == []


# -- space and errors -------------------------------------------------------------------------------------------------


def test_what_cannot_fit_is_not_begun(cache: LibraryCache) -> None:
    need_space(cache, 0)
    need_space(cache, 6)
    with pytest.raises(CacheError, match=r"3,000,000,000,000,000,000 bytes are needed, and [0-9,]+ are free") as caught:
        need_space(cache, 3 * 10**18)
    assert "nativeload cache gc" in caught.value.hint


def test_a_file_system_that_does_not_count_has_room(cache: LibraryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network and FUSE file systems report no blocks at all."""
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255)))
    need_space(cache, 1 << 60)


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO], ids=errno.errorcode.get
)
def test_a_failed_write_says_what_to_do(number: int) -> None:
    error = sets.not_writable("/cache", OSError(number, os.strerror(number)))
    assert str(error.args[0]) == f"/cache: {os.strerror(number)}"
    full = number in {errno.ENOSPC, errno.EDQUOT}
    assert error.hint.startswith("Free some space (nativeload cache gc)" if full else "Choose a cache that can be")
    assert "NATIVELOAD_CACHE" in error.hint
    assert "\n" not in error.hint


def test_an_error_without_a_number_is_shown_in_its_own_words() -> None:
    assert str(sets.not_writable("/cache", OSError("strange")).args[0]) == "/cache: strange"


# -- locks ------------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from nativeload.cache import LibraryCache
from nativeload.cache.sets import lock
print("ready", flush=True)
with lock(LibraryCache(sys.argv[1]), "x", print, timeout=30):
    print("held", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""
SOON = 10.0  # seconds in which a loaded machine does what takes milliseconds


def start(code: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", code, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment)


def says(process: subprocess.Popen[str], within: float = SOON) -> str:
    """Return the next line of a process, or nothing where none comes in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], within)
    return process.stdout.readline().strip() if ready else ""


@contextlib.contextmanager
def other_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Give another process that is about to take the lock, and holds it until it is killed or a line comes."""
    with start(HOLD, str(root)) as process:
        try:
            assert says(process) == "ready"
            yield process
        finally:
            process.kill()


def nothing_said(line: str) -> None:
    pytest.fail(f"said: {line}")


def test_a_second_process_waits(cache: LibraryCache, root: Path) -> None:
    with lock(cache, "x", nothing_said), other_process(root) as other:
        assert says(other, within=0.4) == ""
        with lock(cache, "y", nothing_said, timeout=1):  # another name is another lock
            pass


def test_a_second_process_goes_on_once_the_first_is_done(cache: LibraryCache, root: Path) -> None:
    with contextlib.ExitStack() as held:
        with lock(cache, "x", nothing_said):
            other = held.enter_context(other_process(root))
            assert says(other, within=0.2) == ""
        assert says(other) == "held"
        assert mode(root / "locks" / "x.lock") == 0o600


def test_after_the_timeout_the_work_is_done_anyway_and_said(cache: LibraryCache, root: Path) -> None:
    said: list[str] = []
    with other_process(root) as other:
        assert says(other) == "held"
        start = time.monotonic()
        with lock(cache, "x", said.append, timeout=0.2):
            put(cache)
        assert 0.2 <= time.monotonic() - start < SOON
        assert other.poll() is None, "it still holds the lock"
    assert said == [f"{root}/locks/x.lock is held by another process for over 0.2 s: going on without it"]
    assert is_whole(place(cache))


def test_a_holder_that_is_killed_holds_nothing(cache: LibraryCache, root: Path) -> None:
    with other_process(root) as other:
        assert says(other) == "held"
        other.kill()
        start = time.monotonic()
        with lock(cache, "x", nothing_said, timeout=30):
            assert time.monotonic() - start < SOON
    assert (root / "locks" / "x.lock").exists(), "a lock file is never removed: that would make two holders"


def test_a_lock_file_that_was_left_over_holds_nobody(cache: LibraryCache, root: Path) -> None:
    """The kernel's lock decides, not the file."""
    path = Path(cache.folder("locks"), "x.lock")
    path.write_text("99999999")
    os.utime(path, (0, 0))
    with lock(cache, "x", nothing_said, timeout=5):
        pass
    assert path.read_text() == "99999999"


def test_a_lock_is_free_again_however_the_work_ends(cache: LibraryCache) -> None:
    for error in (RuntimeError("here"), KeyboardInterrupt(), OSError("of the work"), TimeoutError("of the work")):
        with pytest.raises(type(error)) as caught, lock(cache, "x", nothing_said, timeout=1):
            raise error
        assert caught.value is error, "an error of the work is none of the lock's"


@pytest.mark.parametrize("target", ["victim", "nowhere", "folder"])
def test_a_lock_path_that_is_a_link_is_not_followed(target: str, cache: LibraryCache, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"victim")
    (tmp_path / "victim").chmod(0o644)
    (tmp_path / "folder").mkdir()
    Path(cache.folder("locks"), "x.lock").symlink_to(tmp_path / target)
    with pytest.raises(CacheError), lock(cache, "x", nothing_said, timeout=1):
        pytest.fail("the work was begun")
    assert (tmp_path / "victim").read_bytes() == b"victim"
    assert mode(tmp_path / "victim") == 0o644
    assert not (tmp_path / "nowhere").exists()
    assert os.listdir(tmp_path / "folder") == []


def test_a_lock_in_a_cache_that_cannot_be_written_is_an_error(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.write_text("a file")
    with pytest.raises(CacheError) as caught, lock(LibraryCache(str(root)), "x", nothing_said):
        pytest.fail("the work was begun")
    assert "NATIVELOAD_CACHE" in caught.value.hint


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_does_without(
    number: int, cache: LibraryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS without lockd, some FUSE and cluster file systems."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    with lock(cache, "x", said.append, timeout=1):
        put(cache)
    assert is_whole(place(cache))
    assert len(said) == 1


# -- many at once -----------------------------------------------------------------------------------------------------

MANY = 16
RACE = """
import os, sys, time
from nativeload.cache import LibraryCache, sets
root, directory, number, how, together = sys.argv[1:]
if how == "no locks":
    import filelock
    filelock.BaseFileLock.acquire = lambda *_, **__: None
    filelock.BaseFileLock.release = lambda *_, **__: None

def wait(folder, count):  # for as many files: a barrier
    while len(os.listdir(folder)) < count:
        time.sleep(0.001)

def gather(name):
    open(os.path.join(together, name, number), "x").close()
    wait(os.path.join(together, name), MANY)

cache, did = LibraryCache(root), "found"
gather("start")
with sets.lock(cache, "set", sys.exit):
    if how == "no locks" or not os.path.isdir(directory):
        with sets.staging(cache) as staging:
            for name, data in FILES.items():
                with staging.create(name) as file:
                    for at in range(0, len(data), 1000):
                        file.write(data[at : at + 1000])
            if how == "no locks":
                gather("staged")
            did = "won" if staging.publish(directory) else "lost"
assert sets.is_there(directory, list(FILES))
print(did)
"""
NAIVE = """
import os, sys, time
root, directory, number, how, together = sys.argv[1:]
os.makedirs(directory, exist_ok=True)
for name, data in FILES.items():
    with open(os.path.join(directory, name), "wb") as file:
        for at in range(0, len(data), len(data) // 4 + 1):
            file.write(data[at : at + len(data) // 4 + 1])
            file.flush()
            time.sleep(0.01)
print("won")
"""


def raced(code: str, cache: LibraryCache, how: str, together: Path, many: int) -> tuple[list[str], list[str]]:
    """Let processes put one set into place; return what each did, and what was wrong whenever the set was looked at."""
    for name in ("start", "staged"):
        (together / name).mkdir(parents=True)
    (together / "files.py").write_text(f"MANY, FILES = {MANY}, {FILES!r}")  # too long for a command line
    code = f"import sys; sys.path.append(sys.argv[-1]); from files import *\n{code}"
    directory, wrong, seen = place(cache), list[str](), 0
    words = [[str(cache.root), str(directory), str(number), how, str(together)] for number in range(many)]
    processes = [start(code, *each) for each in words]
    try:
        end = time.monotonic() + 60
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if directory.exists():
                seen += 1
                wrong += [name for name, data in content(directory).items() if data != FILES[name]]
                try:
                    is_whole(directory)
                except IntegrityError as error:
                    wrong.append(str(error))
            time.sleep(0.001)
        did = [process.communicate(timeout=SOON)[0].strip() for process in processes]
        assert [process.returncode for process in processes] == [0] * many
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert seen
    return did, wrong


@pytest.mark.parametrize("how", ["locks", "no locks"])
def test_many_processes_publish_one_set(how: str, cache: LibraryCache, root: Path, tmp_path: Path) -> None:
    """Locks save work: with them one process works and the others find the set. They save nothing else."""
    did, wrong = raced(RACE, cache, how, tmp_path / "together", MANY)
    assert sorted(did) == (["found"] * (MANY - 1) if how == "locks" else ["lost"] * (MANY - 1)) + ["won"]
    assert wrong == [], "whenever it was there, it was whole"
    assert content(place(cache)) == FILES
    assert is_whole(place(cache))
    assert os.listdir(root / "llama" / "b11146") == [place(cache).name]
    assert os.listdir(root / "tmp") == []
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place(cache).iterdir()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()
    }


def test_a_writer_without_staging_is_caught_by_the_same_look(cache: LibraryCache, tmp_path: Path) -> None:
    """The control: else the test above would prove nothing."""
    _, wrong = raced(NAIVE, cache, "locks", tmp_path / "together", 1)
    assert any("nothing" in each for each in wrong)
    assert "libllama.so" in wrong
