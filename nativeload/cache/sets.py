"""Where does a set lie in a cache, is it whole, and how does it get there or away?

One rule: a set appears by one rename of a directory that is complete and on disk, and nothing in it changes after that.
Locks save work, never bytes: with every lock a no-op nothing here may corrupt.

    <root>/<library>/<build>/<label>-<16 hex digits of the set id>/<exactly the set's files>
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from nativeload.cache.digests import read_regular
from nativeload.cache.store import ANOTHER_CACHE, check_directory, sync_directory
from nativeload.errors import CacheError, IntegrityError
from nativeload.manifest import SIZE_LIMIT, manifest_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from nativeload.cache.store import LibraryCache

LOCK_TIMEOUT = 600.0  # seconds to wait for another process, then the work is done without the lock
_MAKE_ROOM = "Free some space (nativeload cache gc), or choose another cache: NATIVELOAD_CACHE."
_ID_DIGITS = 16
_ATTEMPTS = 3
_DAMAGE = {None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EINVAL}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def set_path(root: str, library: str, build: str, label: str, set_id: str) -> str:
    """Return the directory of a set in a cache, there or not."""
    return os.path.join(root, library, build, f"{label}-{set_id[:_ID_DIGITS]}")


def is_there(directory: str, names: Sequence[str], *, shared: bool = False) -> bool:
    """Say whether a set is in its place; what is there must be exactly its files, and nobody else's to write.

    Args:
        directory: its place.
        names: its files.
        shared: whether it may belong to root and be linked from elsewhere (a directory of the operator's).

    Raises:
        IntegrityError: something else is there: a file too many, one missing, a link, a FIFO.
        UnsafeCacheError: another user could change it.
    """
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    try:
        if not stat.S_ISDIR(found.st_mode):
            raise IntegrityError(directory, expected="a directory", actual="something else")
        check_directory(directory, shared=shared)
        with os.scandir(directory) as entries:
            present = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    except FileNotFoundError:  # another process takes it away right now
        return False
    except OSError as error:
        if not is_damage(error):
            raise CacheError(directory, error.strerror or str(error)) from error
        raise IntegrityError(directory, expected="a set", actual=error.strerror or str(error)) from error
    for name in sorted(set(present) ^ set(names)):
        path = os.path.join(directory, name)
        expected = "a file of the set" if name in names else "the set's files only"
        raise IntegrityError(path, expected=expected, actual="this file" if name in present else "nothing")
    for name, facts in present.items():
        _check_file(os.path.join(directory, name), facts, shared=shared)
    return True


def is_damage(error: OSError) -> bool:
    """Whether a file that cannot be read is itself at fault, not this process (out of files) or the machine (EIO)."""
    return error.errno in _DAMAGE


def _check_file(path: str, facts: os.stat_result, *, shared: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise IntegrityError(path, expected="a regular file", actual="a link or a special file")
    if os.name != "posix":
        return
    if facts.st_uid not in {0, os.geteuid()} or facts.st_mode & 0o022:
        actual = f"uid {facts.st_uid}, mode {stat.S_IMODE(facts.st_mode):04o}"
        raise IntegrityError(path, expected="a file that nobody else can write", actual=actual)
    if facts.st_nlink != 1 and not shared:
        raise IntegrityError(path, expected="one name", actual=f"{facts.st_nlink} hard links")


class Staging:
    """A directory of its own in which a set is put together."""

    def __init__(self, cache: LibraryCache) -> None:
        try:
            self.directory = os.path.join(cache.folder("tmp"), f"{os.getpid()}-{os.urandom(8).hex()}")
            os.mkdir(self.directory, mode=0o700)  # its owner could not rename it with less
        except OSError as error:
            raise not_writable(cache.root or "", error) from error
        self._cache = cache

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file of the set, read-only for everybody else from the start, and sync it at the end.

        Raises:
            CacheError: it cannot be made or written.
        """
        path = os.path.join(self.directory, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        mode = 0o444 if self._cache.shared else 0o400
        try:
            with os.fdopen(os.open(path, flags, mode), "w+b") as file:
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), mode)  # whatever the umask
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_writable(path, error) from error

    def publish(self, directory: str) -> bool:
        """Give the set its place in one rename; return whether it was this one (another process may be faster).

        Raises:
            CacheError: the place cannot be made.
        """
        try:
            sync_directory(self.directory)
            parent = self._rename(directory)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST} or os.path.isdir(directory):
                self.discard()
                return False
            raise not_writable(directory, error) from error
        above = os.path.dirname(parent)
        try:
            for folder in (parent, above, os.path.dirname(above)):
                sync_directory(folder)
        except OSError as error:
            raise not_writable(directory, error) from error
        return True

    def _rename(self, directory: str) -> str:
        """Rename; return the directory that has it now."""
        library, build, _ = directory.split(os.sep)[-3:]
        for attempt in range(_ATTEMPTS):
            parent = self._cache.folder(os.path.join(library, build))
            try:
                os.rename(self.directory, directory)
                break
            except FileNotFoundError:  # a collection has removed the build's directory, which was empty
                if attempt == _ATTEMPTS - 1:
                    raise
        with contextlib.suppress(FileNotFoundError):  # another process may have moved it on already
            os.chmod(directory, 0o555 if self._cache.shared else 0o500)  # a crash before this is legal
        return parent

    def discard(self) -> None:
        """Remove whatever was put together."""
        remove_tree(self.directory)


@contextlib.contextmanager
def staging(cache: LibraryCache) -> Iterator[Staging]:
    """Put a set together; what was not published is gone at the end, however it ends."""
    made = Staging(cache)
    try:
        yield made
    finally:
        made.discard()


def remove_tree(directory: str) -> None:
    """Remove a directory of files, read-only or not; one that is gone already is fine, of a link only itself goes.

    Raises:
        CacheError: something in it cannot be removed.
    """
    import shutil

    try:
        if not _is_directory(directory):
            os.unlink(directory)
            return
        os.chmod(directory, 0o700)
        for folder, names, _ in os.walk(directory):
            for name in names:
                if _is_directory(inner := os.path.join(folder, name)):
                    os.chmod(inner, 0o700)
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CacheError(directory, f"cannot be removed: {error.strerror}") from error


def _is_directory(path: str) -> bool:
    """Whether this is a directory, and no link to one."""
    return stat.S_ISDIR(os.lstat(path).st_mode)


def quarantine(cache: LibraryCache, path: str) -> str | None:
    """Take a set, or a manifest, out of its place, whole; return where it is now, or None where this cannot be done.

    Another process may have done it already: that is None as well.
    """
    try:
        folder = cache.folder("quarantine")
        target = os.path.join(folder, f"{os.path.basename(path)}-{os.urandom(4).hex()}")
        if _is_directory(path):
            os.chmod(path, 0o700)  # moving a directory writes to it
        os.rename(path, target)
    except OSError:
        return None
    return target


def read_manifest(root: str, digest: str) -> bytes | None:
    """Return the bytes kept under a manifest's digest, or None. They are to be checked like any others.

    Raises:
        CacheError: it is there, and this process cannot read it now.
    """
    path = os.path.join(root, manifest_path(digest))
    try:
        return read_regular(path, SIZE_LIMIT + 1)
    except OSError as error:
        if not is_damage(error):
            raise CacheError(path, error.strerror or str(error)) from error
        return None


def keep_manifest(cache: LibraryCache, digest: str, raw: bytes) -> None:
    """Write a checked manifest into the cache.

    Raises:
        CacheError: it cannot be written.
    """
    try:
        cache.replace(*os.path.split(manifest_path(digest)), raw, durable=True)
    except OSError as error:
        raise not_writable(cache.root or "", error) from error


@contextlib.contextmanager
def lock(
    cache: LibraryCache, name: str, say: Callable[[str], None], *, timeout: float = LOCK_TIMEOUT
) -> Iterator[None]:
    """Let one process at a time do a piece of work; after the timeout it is done anyway, and said.

    Raises:
        CacheError: the cache cannot be written.
    """
    import filelock

    held = None
    try:
        path = os.path.join(cache.folder("locks"), f"{name}.lock")
        held = filelock.FileLock(path, timeout=timeout, mode=0o600, fallback_to_soft=False)
        held.acquire()
    except filelock.Timeout:
        say(f"{path} is held by another process for over {timeout:g} s: going on without it")
    except NotImplementedError:  # filelock's word for a file system that has no locks
        say(f"{path}: no locks on this file system: going on without")
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise not_writable(cache.root or "", error) from error
        say(f"{path}: {error.strerror}: going on without a lock")
    try:
        yield
    finally:
        if held is not None:
            held.release()


def not_writable(path: str, error: OSError) -> CacheError:
    """Say what a failed write to the cache means for the user."""
    hint = ANOTHER_CACHE
    if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        hint = _MAKE_ROOM
    return CacheError(path, error.strerror or str(error), hint=hint)


def need_space(cache: LibraryCache, needed: int) -> None:
    """Refuse to begin what cannot fit.

    Raises:
        CacheError: naming what is needed and what is free.
    """
    if not hasattr(os, "statvfs"):
        return
    place = cache.folder("tmp")
    facts = os.statvfs(place)
    if facts.f_blocks and needed > (free := facts.f_bavail * facts.f_frsize):
        raise CacheError(place, f"{needed:,} bytes are needed, and {free:,} are free", hint=_MAKE_ROOM)
