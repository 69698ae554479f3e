"""Where are receipts and verdicts kept, and who else could have written them?

One rule: nothing is read from, or written to, a directory that another user could write.
"""

from __future__ import annotations

import json
import os
import stat
import time

from nativeload.cache.digests import Stamp, sha256_of
from nativeload.errors import CacheError, UnsafeCacheError
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HASH_ALWAYS_BELOW = 64 << 20
"""Files smaller than this many bytes are hashed on every start; larger ones go by their stamp."""

_SETTLED = 2_000_000_000
"""A file changed less than this many nanoseconds ago gets no receipt: ctime moves in ticks of some milliseconds, so a
second change within the same tick would leave the same stamp."""

_NOTE_LIMIT = 1 << 20  # bytes: a receipt or verdict larger than this is not ours


def default_root() -> str | None:
    """Return ``~/.llama-py``, or None where this user has no home directory (never /tmp, never the current one)."""
    home = os.path.expanduser("~")
    return os.path.join(home, ".llama-py") if os.path.isabs(home) and home != "/" else None


def _check_directory(path: str, *, leaf: bool) -> None:
    """Refuse a directory that others can write; a sticky ancestor such as /tmp is allowed."""
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise CacheError(path, "not a directory")
    if os.name != "posix":  # ACLs rule there; the user's profile directory is private by default
        return
    if found.st_uid not in ((os.geteuid(),) if leaf else (0, os.geteuid())):
        raise UnsafeCacheError(path, f"owned by uid {found.st_uid}", hint="Choose another NATIVELOAD_CACHE.")
    writable = found.st_mode & 0o022
    if writable and (leaf or not found.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(found.st_mode)
        raise UnsafeCacheError(path, f"mode {mode:04o} lets others write", hint=f"Run: chmod go-w {path}")


class LibraryCache(Value):
    """The directory of receipts and verdicts (default ``~/.llama-py``, 0700).

    ``LibraryCache(None)`` is a cache that keeps nothing: everything is hashed and probed each time.
    """

    root: str | None

    def check(self) -> bool:
        """Say whether the cache exists and can be trusted.

        Raises:
            UnsafeCacheError: somebody else could write to it, or to a directory above it.
        """
        if self.root is None or not os.path.isdir(self.root):
            return False
        real = os.path.realpath(self.root)
        if os.path.islink(self.root) and os.name == "posix" and os.lstat(self.root).st_uid != os.geteuid():
            raise UnsafeCacheError(self.root, "a symbolic link of another user")
        _check_directory(real, leaf=True)
        while (parent := os.path.dirname(real)) != real:
            _check_directory(parent, leaf=False)
            real = parent
        return True

    def read(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a note (``kind`` is ``receipts`` or ``probes``), or None where there is no readable one."""
        if self.root is None or not self.check():
            return None
        try:
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(os.path.join(self.root, kind, f"{key}.json"), flags), "rb") as file:
                note = json.loads(file.read(_NOTE_LIMIT))
        except (OSError, ValueError):  # absent or damaged: the work is done again, nothing is lost
            return None
        return note if isinstance(note, dict) else None

    def write(self, kind: str, key: str, note: Mapping[str, Any]) -> str | None:
        """Keep a note; return its path, or None where the cache cannot be written (read-only home, no home)."""
        if self.root is None:
            return None
        folder = os.path.join(self.root, kind)
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            self.check()
            os.makedirs(folder, mode=0o700, exist_ok=True)
            temporary = os.path.join(folder, f".{key}.{os.getpid()}.{os.urandom(4).hex()}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump(note, file)
            path = os.path.join(folder, f"{key}.json")
            os.replace(temporary, path)
        except OSError:
            return None
        return path

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
            names = [name for name in os.listdir(folder) if name.endswith(".json")]
        except FileNotFoundError:
            return 0
        for name in names:
            try:
                os.unlink(os.path.join(folder, name))
            except OSError as error:
                raise CacheError(os.path.join(folder, name), error.strerror or str(error)) from error
        return len(names)

    def digest(self, path: str) -> str:
        """Return a file's sha256: computed now, or from its receipt if the file is large and unchanged since.

        Raises:
            OSError: the file cannot be read.
            IntegrityError: the file changed while it was read.
            UnsafeCacheError: the cache is not the user's own.
        """
        stamp = Stamp.of(path)
        if stamp.size < HASH_ALWAYS_BELOW:
            return sha256_of(path)[0]
        key = _receipt_key(path)
        receipt = self.read("receipts", key)
        if receipt and receipt.get("stamp") == stamp.words() and isinstance(receipt.get("sha256"), str):
            return str(receipt["sha256"])
        digest, stamp = sha256_of(path)
        if time.time_ns() - stamp.ctime_ns < _SETTLED:
            return digest
        self.write("receipts", key, {"path": path, "stamp": stamp.words(), "sha256": digest})
        return digest


def _receipt_key(path: str) -> str:
    import hashlib

    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
