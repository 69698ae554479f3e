"""Where are receipts and verdicts kept, and who else could have written them?

One rule: nothing is read from, or written to, a directory that another user could write.

A note is a few lines of text, ``key value``, so that a start reads it without a parser's imports (json: 4 ms).
"""

from __future__ import annotations

import os
import stat
import time

from nativeload.cache.digests import Stamp, read_regular, sha256_of
from nativeload.errors import CacheError, UnsafeCacheError
from nativeload.value import Value
from nativeload.variant import is_sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HASH_ALWAYS_BELOW = 64 << 20
"""Files smaller than this many bytes are hashed on every start; larger ones go by their stamp."""

_SETTLED = 2_000_000_000
"""A file changed less than this many nanoseconds ago gets no receipt: ctime moves in ticks of some milliseconds, so a
second change within the same tick would leave the same stamp."""

ANOTHER_CACHE = "Choose a cache that can be written: with_cache_dir() or NATIVELOAD_CACHE."

_NOTE_LIMIT = 1 << 20  # bytes: a receipt or verdict larger than this is not ours


def default_root() -> str | None:
    """Return ``~/.llama-py``, or None where this user has no home directory (never /tmp, never the current one)."""
    home = os.path.expanduser("~")
    return os.path.join(home, ".llama-py") if os.path.isabs(home) and home != "/" and os.path.isdir(home) else None


def check_directory(path: str, *, shared: bool = False, sticky: bool = False) -> None:
    """Refuse a directory that somebody else could write, directly or by replacing a directory above it.

    Args:
        path: an existing directory.
        shared: whether it may belong to root as well as to the user; a directory above it always may, and may be a
            sticky one such as /tmp.
        sticky: whether the directory itself may be one like /tmp.

    Raises:
        UnsafeCacheError: naming the directory at fault.
        CacheError: not a directory.
    """
    real = os.path.realpath(path)
    found = os.stat(real)
    if not stat.S_ISDIR(found.st_mode):
        raise CacheError(path, "not a directory", hint="Move it away, or choose another NATIVELOAD_CACHE.")
    if os.name != "posix":  # ACLs rule there; the user's profile directory is private by default
        return
    users = (0, os.geteuid())
    owners = users if shared else users[1:]
    if os.path.islink(path) and os.lstat(path).st_uid not in owners:
        raise UnsafeCacheError(path, "a symbolic link of another user")
    _check_one(real, found, owners, sticky=sticky)
    while (parent := os.path.dirname(real)) != real:
        _check_one(parent, os.stat(parent), users, sticky=True)
        real = parent


def _check_one(path: str, found: os.stat_result, owners: tuple[int, ...], *, sticky: bool) -> None:
    if found.st_uid not in owners:
        raise UnsafeCacheError(path, f"owned by uid {found.st_uid}", hint="Choose another directory.")
    if found.st_mode & 0o022 and not (sticky and found.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(found.st_mode)
        raise UnsafeCacheError(path, f"mode {mode:04o} lets others write", hint=f"Run: chmod go-w {path}")


class LibraryCache(Value):
    """The directory of sets, manifests, receipts and verdicts (default ``~/.llama-py``, 0700).

    ``LibraryCache(None)`` keeps nothing: everything is hashed and probed each time. A ``shared`` one is an operator's
    directory that others read: it may belong to root, and what is made in it is readable to all.
    """

    root: str | None
    shared: bool = False

    def check(self) -> bool:
        """Say whether the cache exists and can be trusted.

        Raises:
            UnsafeCacheError: somebody else could write to it, or to a directory above it.
        """
        if self.root is None:
            return False
        if not os.path.isdir(self.root):  # what it will be made in must be safe
            check_directory(_nearest(self.root, os.path.isdir), shared=True, sticky=True)
            return False
        check_directory(self.root, shared=self.shared)
        return True

    def holds(self, path: str) -> bool:
        """Whether a path lies in this cache."""
        return self.root is not None and path.startswith(os.path.join(self.root, ""))

    def check_usable(self) -> None:
        """Refuse a root that was named and cannot serve: better than a probe on every start, and nobody knows why.

        Raises:
            UnsafeCacheError: as `check`.
            CacheError: it is no directory, may not be entered, or cannot be made.
        """
        if self.root is None or (self.check() and os.access(self.root, os.R_OK | os.X_OK)):
            return
        if os.path.lexists(self.root):
            raise CacheError(self.root, "not a directory that can be read", hint="Choose another NATIVELOAD_CACHE.")
        above = _nearest(self.root, os.path.lexists)
        if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
            raise CacheError(self.root, f"cannot be made in {above}", hint="Choose another NATIVELOAD_CACHE.")

    def read(self, kind: str, key: str) -> dict[str, str] | None:
        """Return a note (``kind`` is ``receipts`` or ``probes``), or None where there is no readable one."""
        if self.root is None or not self.check():
            return None
        try:
            text = read_regular(os.path.join(self.root, kind, key), _NOTE_LIMIT).decode()
        except (OSError, ValueError):  # absent or damaged: the work is done again, nothing is lost
            return None
        if not text.endswith("\nend\n"):
            return None
        return dict(line.partition(" ")[::2] for line in text.splitlines()[:-1])

    def write(self, kind: str, key: str, note: Mapping[str, str]) -> str | None:
        """Keep a note; return its path, or None where the cache cannot be written (read-only home, no home).

        Raises:
            UnsafeCacheError: the cache is not the user's own.
        """
        if self.root is None:
            return None
        lines = [f"{name} {_one_line(value)}\n" for name, value in note.items()]
        try:
            return self.replace(kind, key, "".join([*lines, "end\n"]).encode())
        except OSError:
            return None

    def replace(self, kind: str, name: str, data: bytes, *, durable: bool = False) -> str:
        """Write a file whole or not at all; return its path.

        Args:
            kind: the directory it is in.
            name: its name there.
            data: all of it.
            durable: whether it must outlive a loss of power.

        Raises:
            UnsafeCacheError: the cache is not the user's own.
            OSError: it cannot be written.
        """
        folder = self.folder(kind)
        path, temporary = (
            os.path.join(folder, name),
            os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}"),
        )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(data)
                if self.shared:
                    os.chmod(temporary, 0o644)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            _remove(temporary)
            raise
        if durable:
            sync_directory(folder)
        return path

    def folder(self, kind: str) -> str:
        """Make a directory of the cache (``receipts``, ``llama/b11146``) and return it.

        Nothing is made below a directory that others can write.

        Raises:
            UnsafeCacheError: the cache is not the user's own.
            CacheError: there is no cache.
            OSError: it cannot be made.
        """
        if self.root is None:
            raise CacheError("~/.llama-py", "there is no cache directory", hint="Name one: with_cache_dir().")
        self.check()
        wanted = os.path.join(self.root, kind)
        lacking = []
        folder = wanted
        while not os.path.isdir(folder):
            lacking.append(folder)
            folder = os.path.dirname(folder)
        if folder.startswith(self.root):
            check_directory(folder, shared=self.shared)
        for folder in reversed(lacking):  # makedirs() would leave the parents to the umask
            try:
                os.mkdir(folder, mode=0o700)
                if self.shared:
                    os.chmod(folder, 0o755)  # noqa: S103 - an operator's directory is there to be read
            except FileExistsError:  # another process was faster
                continue
        if not os.path.isdir(wanted):
            raise CacheError(wanted, "not a directory", hint=ANOTHER_CACHE)
        check_directory(wanted, shared=self.shared)
        return wanted

    def forget(self, kind: str) -> int:
        """Remove all notes of a kind; return how many there were.

        Raises:
            UnsafeCacheError: the cache is not the user's own.
            CacheError: a note cannot be removed.
        """
        if self.root is None or not self.check():
            return 0
        folder = os.path.join(self.root, kind)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise CacheError(folder, error.strerror or str(error)) from error
        for name in names:
            try:
                os.unlink(os.path.join(folder, name))
            except OSError as error:
                raise CacheError(os.path.join(folder, name), error.strerror or str(error)) from error
        return sum(not name.startswith(".") for name in names)

    def digest(self, path: str, *, keep: bool = True, always: bool = False) -> tuple[str, Stamp]:
        """Return a file's sha256 and stamp: hashed now, or from its receipt if it is large and unchanged since.

        Args:
            path: the file.
            keep: whether to write a receipt.
            always: whether to hash it whatever a receipt says.

        Raises:
            OSError: the file cannot be read.
            IntegrityError: the file changed while it was read.
            UnsafeCacheError: the cache is not the user's own.
        """
        stamp = Stamp.of(path)
        if stamp.size < HASH_ALWAYS_BELOW:
            return sha256_of(path)
        key = _receipt_key(path)
        receipt = self.read("receipts", key)
        if receipt and not always and receipt.get("stamp") == stamp.words() and is_sha256(receipt.get("sha256", "")):
            return receipt["sha256"], stamp
        digest, stamp = sha256_of(path)
        if keep and time.time_ns() - stamp.ctime_ns >= _SETTLED:
            self.write("receipts", key, {"path": path, "stamp": stamp.words(), "sha256": digest})
        return digest, stamp


def sync_directory(path: str) -> None:
    """Make the names in a directory outlive a loss of power (where the system lets a directory be synced)."""
    if os.name != "posix":
        return
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _nearest(path: str, exists: Callable[[str], bool]) -> str:
    """Return the nearest place above a path that exists."""
    above = os.path.dirname(path)
    while not exists(above):
        above = os.path.dirname(above)
    return above


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # it was never made, or the directory is gone with it
        return


def _one_line(value: str) -> str:
    return value.replace("\r", " ").replace("\n", " ").encode("utf-8", "backslashreplace").decode()


def _receipt_key(path: str) -> str:
    import hashlib

    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
