"""How do the bytes of one URL get into a file, and are they the right ones?

One rule: a fetch that returns has written exactly the bytes of the digest it was given; nothing is taken without one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from urllib.parse import unquote_to_bytes, urlsplit

from nativeload.errors import CacheError, ConfigError, IntegrityError, NetworkError
from nativeload.manifest import SIZE_LIMIT
from nativeload.variant import is_sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO, Protocol
else:
    Protocol = object

MANIFEST_LIMIT = SIZE_LIMIT
"""A file of unknown size, which is a manifest, may have this many bytes."""

TIMEOUT = 10.0  # seconds
_CHUNK = 1 << 18  # bytes
_HEAD = 512  # bytes kept to say what wrong bytes are
_WHAT = {
    rb"version https://git-lfs\.github\.com/spec/v1": "a Git LFS pointer, not the file",
    rb"\s*<(!doctype html|html|head|body|script|meta)\b": "an HTML page (a proxy or captive portal?)",
    rb"\s*<(\?xml|error)\b": "an XML document (a storage server's error?)",
    rb'\s*\{\s*"(error|errors|message|detail|status|code)"': "a JSON error",
}


class Fetcher(Protocol):
    """Copies the bytes of one URL into an open file, and checks them on the way."""

    def fetch(
        self,
        url: str,
        into: BinaryIO,
        *,
        size: int | None,
        sha256: str,
        limit: int = MANIFEST_LIMIT,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Write the bytes of a URL; return how many there are.

        Args:
            url: where they are.
            into: a seekable binary file; what is in it goes, and after an error its content is of no use.
            size: how many bytes there must be; None where only the digest is known, as of a manifest.
            sha256: their digest, in lower-case hex.
            limit: how many bytes a file of unknown size may have.
            progress: called with each number of bytes written, and with a negative number when so many are thrown
                away because the transfer starts again. The sum is what the file holds.

        Raises:
            IntegrityError: other bytes came, too many or too few, or the digest or size is none. Final.
            NetworkError: no bytes came, or not all of them.
            CacheError: the file cannot be written.
            ConfigError: this fetcher does not know such URLs.
        """


def fetcher_for(
    endpoint: str, *, headers: Mapping[str, str] | None = None, proxy: str | None = None, timeout: float = TIMEOUT
) -> Fetcher:
    """Return what moves bytes from an endpoint, or from a URL below it.

    Args:
        endpoint: an http, https or file URL.
        headers: sent to the first server asked, never to one it redirects to (`nativeload.cache.fetch_http`).
        proxy: used for these requests alone, whatever the environment says.
        timeout: seconds to wait for a connection (5 at most) and for each read.

    Raises:
        ConfigError: another kind of URL, or a header or proxy that is none.
    """
    scheme = scheme_of(endpoint)
    if scheme == "file":
        return FolderFetcher()
    if scheme not in {"http", "https"}:
        hint = "Give https://..., http://... or file:///..."
        raise ConfigError("endpoint", f"{masked(endpoint)} is no URL that can be fetched from", hint=hint)
    from nativeload.cache.fetch_http import HttpFetcher

    return HttpFetcher(headers=headers, proxy=proxy, timeout=timeout)


def scheme_of(url: str) -> str:
    """Return a URL's scheme in lower case; empty where it has none or is no URL."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def masked(url: str) -> str:
    """Return a URL as it may be shown: no user, password, query or fragment, and printable."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # a password with a slash in it would end the host early, and look like a bad port
    except ValueError:
        return f"{url.partition('://')[0][:8]!a}://..."
    place = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{place}{parts.path}" if parts.scheme else parts.path)


def printable(text: str, length: int = 300) -> str:
    """Return text from outside in printable ASCII, cut to a length in characters before escaping."""
    return text[:length].encode("unicode_escape").decode("ascii")


class Incoming:
    """Bytes on their way into a file: counted, bounded and hashed.

    Attributes:
        url: where they come from, as it may be shown.
        got: how many of them are in the file.
        size: how many there will be, where that is known.
        promised: how many the sender has, once it said a wrong number: its first bytes are taken to name them.
    """

    def __init__(
        self,
        url: str,
        into: BinaryIO,
        *,
        size: int | None,
        sha256: str,
        limit: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Empty the file.

        Raises:
            IntegrityError: the digest or the size is none.
            CacheError: the file cannot be emptied.
        """
        self.url, self.size, self.got = masked(url), size, 0
        self.promised: int | None = None
        if not is_sha256(sha256):
            raise IntegrityError(self.url, expected="a sha256 in hex", actual=f"{sha256!a:.100}")
        if size is not None and size < 0:
            raise IntegrityError(self.url, expected="a size in bytes", actual=str(size))
        self._into, self._sha256, self._progress = into, sha256, progress
        self._bound = limit if size is None else size
        self.restart()

    @property
    def room(self) -> int:
        """How many bytes to ask for next: never more than one too many."""
        return min(_CHUNK, self._bound + 1 - self.got)

    @property
    def full(self) -> bool:
        """Whether as many bytes are here as there must be."""
        return self.got == self.size

    @property
    def looks(self) -> str:
        """What the bytes plainly are, with a leading comma; empty where they are nothing known."""
        for pattern, name in _WHAT.items():
            if re.match(pattern, self._head.removeprefix(b"\xef\xbb\xbf"), re.IGNORECASE):
                return f", {name}: {printable(self._head.decode('utf-8', 'replace'), 80)}"
        return ""

    def restart(self) -> None:
        """Throw away what came."""
        with self._writing():
            self._into.seek(0)
            self._into.truncate()
        gone, self.got, self.promised = self.got, 0, None
        self._hash, self._head = hashlib.sha256(), b""
        if gone and self._progress is not None:
            self._progress(-gone)

    def add(self, chunk: bytes) -> None:
        """Write what came next.

        Raises:
            IntegrityError: there is too much of it, or the sender has a wrong number of bytes and these are the first.
            CacheError: the file cannot be written.
        """
        self._head += chunk[: _HEAD - len(self._head)]
        if self.got + len(chunk) > self._bound:
            expected = f"{self._bound} bytes" if self.size is not None else f"at most {self._bound} bytes"
            raise self._wrong(expected, f"more than {self._bound} bytes")
        with self._writing():
            left = memoryview(chunk)
            while left:  # an unbuffered file may take less than all
                taken = self._into.write(left)
                if not taken:
                    raise OSError("the file takes no more")
                left = left[taken:]
        self._hash.update(chunk)
        self.got += len(chunk)
        if self._progress is not None:
            self._progress(len(chunk))
        if self.promised is not None and self.got >= _HEAD:
            raise self._wrong(f"{self.size} bytes", f"{self.promised} bytes")

    def check(self) -> int:
        """Return how many bytes came, all of them the right ones.

        Raises:
            IntegrityError: they are not.
            CacheError: the file cannot be written.
        """
        if self.size is not None and self.got != self.size:
            raise self._wrong(f"{self.size} bytes", f"{self.got} bytes")
        if (actual := self._hash.hexdigest()) != self._sha256:
            raise self._wrong(f"sha256 {self._sha256}", f"sha256 {actual}")
        with self._writing():
            self._into.flush()
        return self.got

    def _wrong(self, expected: str, actual: str) -> IntegrityError:
        return IntegrityError(self.url, expected=expected, actual=f"{actual}{self.looks}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Blame the file, not the network, for what fails here: a full disk is not cured by trying again."""
        try:
            yield
        except OSError as error:
            path = str(getattr(self._into, "name", "the file fetched into"))
            reason = f"{error.strerror or error} after {self.got} of {self._bound} bytes"
            raise CacheError(path, reason, hint="Make room, or choose another NATIVELOAD_CACHE.") from error


class FolderFetcher:
    """Takes files from a folder: a mounted mirror, or what ``prefetch`` wrote."""

    def fetch(
        self,
        url: str,
        into: BinaryIO,
        *,
        size: int | None,
        sha256: str,
        limit: int = MANIFEST_LIMIT,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Copy a regular file; see `Fetcher.fetch`. No link is followed to it.

        Raises:
            IntegrityError, NetworkError, CacheError, ConfigError: as there.
        """
        path = _path_of(url)
        incoming = Incoming(url, into, size=size, sha256=sha256, limit=limit, progress=progress)
        with os.fdopen(_open_regular(incoming.url, path), "rb", buffering=0) as file:
            there = os.fstat(file.fileno()).st_size
            if size is not None and there != size:
                incoming.promised = there
            while True:
                try:
                    chunk = file.read(incoming.room)
                except OSError as error:
                    raise NetworkError(incoming.url, error.strerror or str(error)) from error
                if not chunk:
                    return incoming.check()
                incoming.add(chunk)


def _path_of(url: str) -> str:
    if scheme_of(url) != "file":
        raise ConfigError("endpoint", f"{masked(url)} is no file URL")
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment or not parts.path.startswith("/"):
        hint = "Write file:///folder, with %3F for a question mark and %23 for a number sign."
        raise ConfigError("endpoint", f"{masked(url)} names no file of this machine", hint=hint)
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if os.name == "nt":  # /C:/folder
        path = path.lstrip("/")
    if "\0" in path or ".." in re.split(r"[/\\]", path):
        raise ConfigError("endpoint", f"{masked(url)} leaves its folder")
    return path


def _open_regular(url: str, path: str) -> int:
    """Open a file for reading; what is none is not even opened, for a FIFO would hang and a tape would rewind."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        descriptor = os.open(path, flags) if regular else -1
    except OSError as error:
        status = 404 if isinstance(error, FileNotFoundError) else None
        raise NetworkError(url, error.strerror or str(error), status=status) from error
    if descriptor >= 0 and not stat.S_ISREG(os.fstat(descriptor).st_mode):  # replaced in between
        os.close(descriptor)
        regular = False
    if not regular:
        raise NetworkError(url, "not a regular file")
    return descriptor
