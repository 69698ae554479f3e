"""What is in a cache, is all of it right, and what may go?

One rule: nothing is removed but by name, or by age where it can be made again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time

from nativeload.cache.digests import sha256_of
from nativeload.cache.sets import is_there, quarantine, read_manifest, remove_tree, set_path
from nativeload.errors import CacheError, IntegrityError, ManifestError, UnsafeCacheError
from nativeload.manifest import Pin, manifest_path, read
from nativeload.value import Value
from nativeload.variant import LIBRARIES, build_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nativeload.cache.store import LibraryCache

_LEFT_OVER = 3600.0  # seconds after which what a process left unfinished is nobody's
_KEPT_IN_QUARANTINE = 7 * 86400.0  # seconds
_DAY = 86400.0


class CachedSet(Value, kw_only=True):
    """A set in a cache.

    Attributes:
        library, build: what it is of.
        name: its directory's name, ``<label>-<16 hex digits of the set id>``.
        directory: where it lies.
        size: bytes of its files.
        used: when a file of it was last read, as far as the file system says (seconds since 1970).
    """

    library: str
    build: str
    name: str
    directory: str
    size: int
    used: float


def list_sets(cache: LibraryCache) -> list[CachedSet]:
    """Return all sets of a cache, by library, newest build first.

    Raises:
        UnsafeCacheError: the cache is not the user's own.
    """
    if cache.root is None or not cache.check():
        return []
    found = []
    for library in LIBRARIES:
        for build in _names(os.path.join(cache.root, library)):
            for name in _names(os.path.join(cache.root, library, build)):
                directory = os.path.join(cache.root, library, build, name)
                if (item := _seen(library, build, directory)) is not None:
                    found.append(item)
    return sorted(found, key=lambda each: (each.library, _newest_first(each.build), each.name))


def _seen(library: str, build: str, directory: str) -> CachedSet | None:
    """Return what is known of a set's directory, damaged or not; None where it is none, or gone."""
    facts = [_facts(os.path.join(directory, file)) for file in _names(directory)]
    found = [each for each in facts if each is not None]
    whole = _facts(directory)
    if whole is None or not stat.S_ISDIR(whole.st_mode):
        return None
    return CachedSet(
        library=library,
        build=build,
        name=os.path.basename(directory),
        directory=directory,
        size=sum(each.st_size for each in found),
        used=max([max(each.st_atime, each.st_mtime) for each in found], default=0.0),
    )


def _facts(path: str) -> os.stat_result | None:
    """Return what the file system says of a path itself; None where another process has taken it away."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _newest_first(build: str) -> tuple[str, tuple[int, ...], str]:
    kind, numbers = build_order(build)
    return kind, tuple(-number for number in numbers), build


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def verify_sets(cache: LibraryCache) -> Iterator[tuple[CachedSet, str]]:
    """Hash every file of every set; yield each set with what is wrong with it, or an empty text.

    A set is right where the sha256 of its names and digests is the one in its name, and each digest stands in a
    manifest of the cache that has the digest it is kept under.
    """
    known = _digests_in_manifests(cache)
    for item in list_sets(cache):
        names = _names(item.directory)
        try:
            is_there(item.directory, names, shared=cache.shared)
            lines = sorted(f"{name} {_digest(item, name, known)}" for name in names)
        except (IntegrityError, UnsafeCacheError) as error:
            yield item, str(error.args[0])
            continue
        set_id = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        label = item.name.rpartition("-")[0]
        right = set_path(cache.root or "", item.library, item.build, label, set_id)
        yield item, "" if right == item.directory else "its files are not the set that its name says"


def _digest(item: CachedSet, name: str, known: set[tuple[str, str, str, str]]) -> str:
    path = os.path.join(item.directory, name)
    try:
        digest, _ = sha256_of(path)
    except OSError as error:
        raise IntegrityError(path, expected="a file of the set", actual=error.strerror or str(error)) from error
    if (item.library, item.build, name, digest) not in known:
        raise IntegrityError(path, expected="a file of a manifest in this cache", actual=f"sha256 {digest}")
    return digest


def _digests_in_manifests(cache: LibraryCache) -> set[tuple[str, str, str, str]]:
    """Return (library, build, name, sha256) of every artifact of every manifest that is what its name says."""
    known: set[tuple[str, str, str, str]] = set()
    for name in _names(os.path.join(cache.root or "", "manifests")):
        digest = name.removesuffix(".json")
        raw = read_manifest(cache.root or "", digest)
        if raw is None or hashlib.sha256(raw).hexdigest() != digest:
            continue
        try:
            manifest = read(raw, name)
        except ManifestError:  # of a newer release, perhaps: it vouches for nothing here
            continue
        known |= {(manifest.library, manifest.build, item.name, item.sha256) for item in manifest.artifacts}
    return known


def remove_sets(cache: LibraryCache, sets: Iterable[CachedSet]) -> int:
    """Remove sets, each taken out of its place whole first; return the bytes that were freed.

    Raises:
        CacheError: one cannot be removed.
    """
    freed = 0
    for item in sets:
        where = quarantine(cache, item.directory)
        if where is None and not os.path.lexists(item.directory):  # another process removes it too
            continue
        if where is None:
            raise CacheError(
                item.directory, "cannot be removed", hint="It must be yours, and its file system writable."
            )
        remove_tree(where)
        freed += item.size
    return freed


class Collected(Value, kw_only=True):
    """What a collection removed, in numbers."""

    sets: int
    left_over: int
    quarantined: int
    manifests: int
    receipts: int
    bytes: int


def collect(cache: LibraryCache, *, unused_days: float | None = None, now: float | None = None) -> Collected:
    """Remove what is of no more use: unfinished work, old quarantine, receipts of files that are gone.

    Args:
        cache: the cache.
        unused_days: also remove sets of which no file was read for so many days.
        now: the time, in seconds since 1970.

    Raises:
        UnsafeCacheError, CacheError: it is not the user's own, or something cannot be removed.
    """
    if cache.root is None or not cache.check():
        return Collected(sets=0, left_over=0, quarantined=0, manifests=0, receipts=0, bytes=0)
    clock = time.time() if now is None else now
    before = _size(cache.root)
    old: list[CachedSet] = []
    if unused_days is not None:
        old = [item for item in list_sets(cache) if clock - item.used > unused_days * _DAY]
        remove_sets(cache, old)
    left_over = _remove_old(os.path.join(cache.root, "tmp"), clock - _LEFT_OVER)
    for kind in ("manifests", "pins", "probes", "receipts"):  # files that were being written when their writer ended
        left_over += _remove_old(os.path.join(cache.root, kind), clock - _LEFT_OVER, prefix=".")
    quarantined = _remove_old(os.path.join(cache.root, "quarantine"), clock - _KEPT_IN_QUARANTINE)
    for build in [
        os.path.join(library, each) for library in LIBRARIES for each in _names(os.path.join(cache.root, library))
    ]:
        _remove_empty(os.path.join(cache.root, build))
    manifests = _remove_orphans(cache, clock - _LEFT_OVER)
    receipts = _remove_receipts(cache)
    return Collected(
        sets=len(old),
        left_over=left_over,
        quarantined=quarantined,
        manifests=manifests,
        receipts=receipts,
        bytes=before - _size(cache.root),
    )


def _size(root: str) -> int:
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sum(facts.st_size for path in paths if (facts := _facts(path)) is not None)


def _remove_old(folder: str, before: float, *, prefix: str = "") -> int:
    """Remove what lies in a folder, and was not written to since a time."""
    count = 0
    for name in _names(folder):
        path = os.path.join(folder, name)
        if name.startswith(prefix) and _written(path) < before:
            remove_tree(path)
            count += 1
    return count


def _written(path: str) -> float:
    """Return when a file, or anything directly in a directory, was last changed; never, if it is gone."""
    inside = [os.path.join(path, name) for name in _names(path)]
    return max([each.st_ctime for each in map(_facts, [path, *inside]) if each is not None], default=float("inf"))


def _remove_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:  # it is in use
        return


def _unlink(path: str) -> bool:
    """Remove a file; say whether it was there.

    Raises:
        CacheError: it cannot be removed.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CacheError(path, error.strerror or str(error)) from error
    return True


def _remove_orphans(cache: LibraryCache, before: float) -> int:
    """Remove the notes of pins whose builds have no set here any more, and manifests that no note names."""
    root, count, named = cache.root or "", 0, set()
    for name in _names(os.path.join(root, "pins")):
        note = cache.read("pins", name) or {}
        try:
            pin = Pin.parse(note.get("pin", ""))
        except ManifestError:  # a damaged note names nothing
            count += _unlink(os.path.join(root, "pins", name))
            continue
        if os.path.isdir(os.path.join(root, name.partition("-")[0], pin.build)):
            named.add(f"{pin.digest}.json")
        else:
            _unlink(os.path.join(root, manifest_path(pin.digest)))
            count += _unlink(os.path.join(root, "pins", name))
    for name in _names(os.path.join(root, "manifests")):  # its set may be on the way
        if name not in named and _written(path := os.path.join(root, "manifests", name)) < before:
            count += _unlink(path)
    return count


def _remove_receipts(cache: LibraryCache) -> int:
    """Remove receipts of files that are not there any more."""
    count = 0
    for name in _names(os.path.join(cache.root or "", "receipts")):
        note = cache.read("receipts", name)
        if note is None or not os.path.exists(note.get("path", "")):
            count += _unlink(os.path.join(cache.root or "", "receipts", name))
    return count
