"""Are these the bytes that were hashed before?

One rule: a digest is computed now, or taken from a receipt whose stamp (device, inode, size, mtime_ns, ctime_ns) still
holds. A program cannot set ctime back, so a file with a restored mtime is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from nativeload.errors import IntegrityError
from nativeload.value import Value


class Stamp(Value, kw_only=True):
    """What the file system says of a file: equal stamps mean unchanged bytes."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str | int) -> Stamp:
        """Read the stamp of a regular file, by its path or by an open descriptor.

        Raises:
            OSError: the file cannot be reached, or it is no regular file (a FIFO would hang the reader).
        """
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a regular file")
        return cls(
            device=found.st_dev,
            inode=found.st_ino,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
        )

    def words(self) -> str:
        """Return the five numbers as a receipt holds them."""
        return f"{self.device} {self.inode} {self.size} {self.mtime_ns} {self.ctime_ns}"


def read_regular(path: str, limit: int) -> bytes:
    """Read at most so many bytes of a regular file; a link, a FIFO or a directory is none.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        chunks, left = [], limit
        while left > 0 and (chunk := os.read(number, left)):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(number)


def sha256_of(path: str) -> tuple[str, Stamp]:
    """Hash a whole file: its sha256 in hex, and the stamp that held before and after it was read.

    Raises:
        OSError: the file cannot be read.
        IntegrityError: the file changed while it was read, or the path leads to another one now.
    """
    before = Stamp.of(path)  # before it is opened: opening a FIFO would hang
    with open(path, "rb", buffering=0) as file:
        opened = Stamp.of(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
    if not before == opened == Stamp.of(path):
        raise IntegrityError(path, expected="a file at rest", actual="a file that changed while it was read")
    return digest.hexdigest(), before
