"""How do published sets get into a folder, and from there into a cache that has no network?

One rule: the folder is laid out as a Hub's own addresses (``<repo>/resolve/<commit>/<path>``), so any web server can
serve it and ``file://`` can read it; and whoever reads it trusts the pin, never the folder.

Beside the manifest lies a ``.sets.json``: which sets were asked for. It is a list of wishes: what it names must be a
set of the pinned manifest, and its bytes are checked like any others.
"""

from __future__ import annotations

import contextlib
import os

from nativeload.cache import read_regular
from nativeload.errors import CacheError, ConfigError, IntegrityError, ManifestError
from nativeload.manifest import Manifest, manifest_path
from nativeload.resolve import cached, download, published
from nativeload.resolve.ranking import rank
from nativeload.strict_json import parse_json
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import BinaryIO

    from nativeload.cache import LibraryCache
    from nativeload.cache.fetcher import Fetcher
    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.pins import Pinned
    from nativeload.resolve.download import Origin
    from nativeload.resolve.resolution import Decision, LibrarySet

    Say = Callable[[str], None]

_SETS_LIMIT, _MOST_FILES = 1 << 20, 256  # bytes of the list, files of a set
_AGAIN = "Prefetch the folder again."


def sets_path(digest: str) -> str:
    """Return where a folder notes the sets that were asked for of the manifest of this digest."""
    return f"manifests/{digest}.sets.json"


class Prefetched(Value, kw_only=True):
    """What was brought into a folder.

    Attributes:
        sets: the sets asked for; empty where everything was.
        fetched: bytes that were fetched now.
        present: bytes that were there already.
    """

    sets: tuple[LibrarySet, ...]
    fetched: int
    present: int


def manifest_for(pinned: Pinned, origin: Origin, cache: LibraryCache) -> bytes:
    """Return the pinned manifest's bytes, from where it was pinned, from a cache, or fetched; nothing is written.

    Raises:
        NetworkError, IntegrityError: it cannot be had, or is not the pinned one.
    """
    raw, _ = cached.manifest_bytes(pinned, [cache.root] if cache.root else [])
    return download.manifest_bytes(pinned, origin) if raw is None else raw


def best_set(manifest: Manifest, pinned: Pinned, host: Host, config: NativeLibraryConfig) -> LibrarySet:
    """Return the best set of a manifest for a host.

    Raises:
        ConfigError: there is none; the reasons are in the text.
    """
    bundles = published.bundles(manifest, pinned.pin, host.platform)
    ranked = rank(bundles, host, config)
    if not ranked.sets:
        have = f"  it has {', '.join(manifest.platforms)}"
        why = "\n".join(f"  {item}" for item in ranked.decisions) if bundles else have
        raise ConfigError("prefetch", f"{pinned.pin.build} has no set for {host.platform}:\n{why}")
    return _with_wished(ranked.sets, config, ranked.decisions)


def _with_wished(
    sets: tuple[LibrarySet, ...], config: NativeLibraryConfig, decisions: tuple[Decision, ...]
) -> LibrarySet:
    """Return the first set, which must have the backend that was asked for."""
    from nativeload.resolve.ranking import preferred

    if (asked := preferred(config)) and sets[0].gpu not in asked:
        why = [str(item) for item in decisions if any(f"-{backend}." in item.candidate for backend in asked)]
        text = "\n".join(f"  {line}" for line in why) or f"  no set with {', '.join(asked)} is in the manifest"
        raise ConfigError("prefetch", f"{', '.join(asked)} was asked for, and cannot be had:\n{text}")
    return sets[0]


def prefetch(
    raw: bytes,
    pinned: Pinned,
    origin: Origin,
    folder: str,
    sets: Sequence[LibrarySet],
    *,
    everything: bool = False,
    say: Say = lambda _: None,
) -> Prefetched:
    """Bring sets (or every artifact of a manifest) into a folder; what is there and right is not fetched again.

    Raises:
        NetworkError, IntegrityError: what was not finished is not in the folder; what was, stays.
        CacheError: the folder cannot be written.
    """
    manifest = Manifest.parse(raw, pinned.pin, "the pinned manifest")
    wanted = {file.remote: (file.size, file.declared or "") for item in sets for file in item.files}
    if everything:
        wanted = {item.path: (item.size, item.sha256) for item in manifest.artifacts}
    base = os.path.join(folder, origin.path(""))
    counts = {True: 0, False: 0}
    fetcher = origin.fetcher()
    with download.Bar(f"prefetch {pinned.pin.build}", sum(size for size, _ in wanted.values())) as bar:
        for path, (size, digest) in sorted(wanted.items()):
            new = _bring(fetcher, origin.url(path), os.path.join(base, path), (size, digest), bar.add)
            counts[new] += size
            say(f"{'fetched' if new else 'present'} {path} ({size:,} bytes)")
    with _whole(os.path.join(base, manifest_path(pinned.pin.digest))) as into:
        into.write(raw)
    _note_sets(os.path.join(base, sets_path(pinned.pin.digest)), sets)
    return Prefetched(sets=tuple(sets), fetched=counts[True], present=counts[False])


def _bring(fetcher: Fetcher, url: str, path: str, declared: tuple[int, str], progress: Callable[[int], None]) -> bool:
    """Bring one file of a size and sha256 into place; return whether it had to be fetched."""
    from nativeload.cache import sha256_of

    size, digest = declared
    try:
        if os.lstat(path).st_size == size and sha256_of(path)[0] == digest:
            progress(size)
            return False
    except (OSError, IntegrityError):  # it is not there, is no file, or another prefetch puts it in place right now
        pass
    with _whole(path) as into:
        fetcher.fetch(url, into, size=size, sha256=digest, progress=progress)
    return True


def _gone(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return


@contextlib.contextmanager
def _whole(path: str) -> Iterator[BinaryIO]:
    """Open a file that appears under its name once it is written, and not at all where that fails."""
    temporary = f"{path}.{os.urandom(4).hex()}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "xb") as into:
            yield into
        os.replace(temporary, path)
    except OSError as error:
        raise CacheError(path, error.strerror or str(error), hint="Choose another --out.") from error
    finally:
        _gone(temporary)


def _note_sets(path: str, sets: Iterable[LibrarySet]) -> None:
    """Add sets to those the folder was made for; another prefetch may do so at the same time."""
    import json

    with _alone(os.path.dirname(path)):
        known = {frozenset(item): item for item in noted(path)}
        known |= {frozenset(names): names for item in sets if (names := sorted(file.remote for file in item.files))}
        with _whole(path) as into:
            into.write((json.dumps({"sets": sorted(known.values())}, indent=1) + "\n").encode())


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Hold a directory for a moment, where the system can lock one: no file of ours shall lie in a mirror."""
    if os.name != "posix":
        yield
        return
    import fcntl

    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def noted(path: str) -> list[list[str]]:
    """Read the wishes of a folder; each is a list of paths in the repository, and no more than that."""
    try:
        raw = read_regular(path, _SETS_LIMIT + 1)
        table = parse_json(raw, path) if len(raw) <= _SETS_LIMIT else None
    except FileNotFoundError:
        return []
    except ManifestError as error:
        raise ManifestError(path, error.message, hint=_AGAIN) from error
    except OSError as error:
        raise ManifestError(path, error.strerror or str(error), hint=_AGAIN) from error
    sets = table.get("sets") if isinstance(table, dict) else None
    if not isinstance(sets, list) or not all(isinstance(item, list) and len(item) < _MOST_FILES for item in sets):
        raise ManifestError(path, "not a list of sets", hint=_AGAIN)
    if not all(isinstance(name, str) for item in sets for name in item):
        raise ManifestError(path, "a name in it is no text", hint=_AGAIN)
    return [list(item) for item in sets]
