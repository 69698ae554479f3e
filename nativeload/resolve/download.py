"""How does what is missing get here?

One rule: the network comes last and is explicit. Nothing here runs unless a download was allowed; what comes is a
pinned manifest and the files it names, each checked while it streams, and it appears in the cache whole or not at all.

huggingface_hub says where a file is, who asks (the token) and whether it is offline; the bytes are moved by
`nativeload.cache.fetcher`, which holds them to their digest.
"""

from __future__ import annotations

import io
import os
import sys

from nativeload.cache import sets
from nativeload.errors import DownloadUnavailableError, IntegrityError, NetworkError
from nativeload.manifest import SIZE_LIMIT, Manifest, manifest_path
from nativeload.resolve.published import own_files
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO, Self

    from nativeload.cache import LibraryCache
    from nativeload.cache.fetcher import Fetcher
    from nativeload.pins import Pinned
    from nativeload.resolve.resolution import LibraryFile, LibrarySet

    Say = Callable[[str], None]


class Origin(Value, kw_only=True):
    """A repository at one commit, on a Hub, a static web server or in a folder.

    Attributes:
        repo: such as ``org/name``.
        commit: 40 hex digits.
        endpoint: ``https://...``, ``http://...`` or ``file:///...``; None is what huggingface_hub is configured for.
        proxy: for these requests alone.
        timeout: seconds to connect, and for each read.
    """

    repo: str
    commit: str
    endpoint: str | None = None
    proxy: str | None = None
    timeout: float | None = None

    def path(self, path: str) -> str:
        """Return where a folder laid out as a Hub's addresses has a file of the repository (names need no quoting)."""
        return f"{self.repo}/resolve/{self.commit}/{path}"

    def url(self, path: str) -> str:
        """Return the address of a file of the repository."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, path, revision=self.commit, endpoint=self._endpoint())

    def _endpoint(self) -> str:
        from huggingface_hub import constants

        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    def fetcher(self) -> Fetcher:
        """Return what moves this origin's bytes.

        The token goes where huggingface_hub itself would send it, and nowhere else: a mirror gets none.

        Raises:
            ConfigError: the endpoint is none.
        """
        from huggingface_hub import constants, get_token

        from nativeload.cache.fetcher import fetcher_for

        # Its own build_hf_headers() may ask huggingface.co about the program that it runs in.
        own = self._endpoint() == constants.ENDPOINT.rstrip("/") and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
        token = get_token() if own else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        more: dict[str, Any] = {} if self.timeout is None else {"timeout": self.timeout}
        return fetcher_for(self._endpoint(), headers=headers, proxy=self.proxy, **more)


def forbidden() -> str:
    """Return why huggingface_hub itself forbids all traffic; empty where it does not."""
    from huggingface_hub import constants

    return "huggingface_hub is offline (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)" if constants.HF_HUB_OFFLINE else ""


def manifest(pinned: Pinned, origin: Origin, cache: LibraryCache, say: Say) -> Manifest:
    """Fetch the pinned manifest into the cache and return it.

    Raises:
        NetworkError: it cannot be had.
        IntegrityError: what came is not the pinned one.
        ManifestError: it is, and this release cannot read it.
        CacheError: the cache cannot be written.
    """
    digest = pinned.pin.digest
    with sets.lock(cache, f"manifest-{digest}", say):
        raw = sets.read_manifest(cache.root or "", digest)  # another process may have fetched it meanwhile
        if raw is not None:
            return Manifest.parse(raw, pinned.pin, f"manifest {digest}")
        raw = manifest_bytes(pinned, origin)
        read = Manifest.parse(raw, pinned.pin, origin.url(manifest_path(digest)))
        sets.keep_manifest(cache, digest, raw)
        return read


def manifest_bytes(pinned: Pinned, origin: Origin) -> bytes:
    """Fetch the pinned manifest's bytes, held to their digest.

    Raises:
        NetworkError: they cannot be had.
        IntegrityError: what came is something else.
    """
    _refuse_offline(origin)
    into = io.BytesIO()
    url = origin.url(manifest_path(pinned.pin.digest))
    origin.fetcher().fetch(url, into, size=None, sha256=pinned.pin.digest, limit=SIZE_LIMIT)
    return into.getvalue()


def fetch(chosen: LibrarySet, origin: Origin, cache: LibraryCache, say: Say) -> None:
    """Bring a set into the cache; another process may be faster, and then there is nothing to do.

    Raises:
        NetworkError, IntegrityError, CacheError: nothing of it is in the cache then.
    """
    files = own_files(chosen)
    size = sum(file.size for file in files)
    with sets.lock(cache, f"set-{os.path.basename(chosen.directory)}", say):
        if os.path.isdir(chosen.directory):
            return
        _refuse_offline(origin)
        sets.need_space(cache, size)
        say(f"fetching {chosen} ({size:,} bytes) from {origin.repo}")
        fetcher = origin.fetcher()
        with sets.staging(cache) as staging, Bar(str(chosen), size) as bar:
            for file in reversed(files):  # what tells the sets apart first: a mirror may lack it
                with staging.create(file.name) as into:
                    if not _copied(file, os.path.dirname(chosen.directory), into, bar):
                        fetcher.fetch(
                            origin.url(file.remote), into, size=file.size, sha256=file.declared or "", progress=bar.add
                        )
            staging.publish(chosen.directory)


def _copied(file: LibraryFile, build: str, into: BinaryIO, bar: Bar) -> bool:
    """Take a file from another set of the same build that is here, if it has one of the same digest.

    The core of all sets of a flavour is the same, and a GPU backend is 160 MB.
    """
    from pathlib import Path

    from nativeload.cache.fetcher import FolderFetcher

    for path in Path(build).glob(f"*/{file.name}"):
        try:
            FolderFetcher().fetch(path.as_uri(), into, size=file.size, sha256=file.declared or "")
        except (IntegrityError, NetworkError):  # another build's file of this name, or one that is damaged
            continue
        bar.add(file.size)
        return True
    return False


def _refuse_offline(origin: Origin) -> None:
    if (origin.endpoint or "").startswith("file:"):
        return
    if reason := forbidden():
        raise DownloadUnavailableError(f"{reason}: nothing may be fetched")


class Bar:
    """A progress bar on stderr where that is a terminal: huggingface_hub's, which its users can switch off."""

    def __init__(self, title: str, total: int) -> None:
        self._bar: Any = None
        self._title, self._total = title, total

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            from huggingface_hub.utils.tqdm import tqdm

            about = {"desc": self._title, "unit": "B", "unit_scale": True, "name": "nativeload.fetch"}
            self._bar = tqdm(total=self._total, **about)  # type: ignore[no-untyped-call]  # it has no annotations
        return self

    def add(self, count: int) -> None:
        """Count bytes; a negative number takes back those that have to come again."""
        if self._bar is not None:
            self._bar.update(count)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
