"""Which published sets are on this machine already?

One rule: a manifest found here is checked against its pin like any other, and what a cache holds is found by name, not
by looking around: a thousand other sets cost nothing.
"""

from __future__ import annotations

import os

from nativeload.cache.sets import keep_manifest, read_manifest
from nativeload.errors import ManifestError
from nativeload.manifest import Manifest, Pin, manifest_path
from nativeload.resolve.published import in_place
from nativeload.variant import build_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nativeload.cache import LibraryCache
    from nativeload.pins import Pinned
    from nativeload.resolve.resolution import LibrarySet


def manifest_of(pinned: Pinned, roots: Sequence[str]) -> Manifest | None:
    """Return the pinned manifest, from where the pin was said or from a cache; None where it is not here.

    Raises:
        IntegrityError: what is kept under its digest is something else.
        ManifestError: it is the pinned one, and this release cannot read it.
    """
    raw, place = manifest_bytes(pinned, roots)
    return None if raw is None else Manifest.parse(raw, pinned.pin, place)


def manifest_bytes(pinned: Pinned, roots: Sequence[str]) -> tuple[bytes | None, str]:
    """Return what should be the pinned manifest, unchecked, and where it lies."""
    if pinned.manifest is not None:
        return pinned.manifest, pinned.origin
    for root in roots:
        if (raw := read_manifest(root, pinned.pin.digest)) is not None:
            return raw, os.path.join(root, manifest_path(pinned.pin.digest))
    return None, ""


def located(item: LibrarySet, roots: Sequence[str]) -> LibrarySet | None:
    """Return a set as it lies in the first cache that has something in its place, or None. Nothing is checked yet."""
    for root in roots:
        there = in_place(item, root)
        if os.path.lexists(there.directory):
            return there
    return None


def remember(cache: LibraryCache, library: str, pinned: Pinned) -> None:
    """Keep a pin of which sets are in the cache, and its manifest: a config that names no pin may use them.

    Raises:
        CacheError: the manifest cannot be written.
    """
    if pinned.manifest is not None and read_manifest(cache.root or "", pinned.pin.digest) != pinned.manifest:
        keep_manifest(cache, pinned.pin.digest, pinned.manifest)
    note = {"library": library, "pin": str(pinned.pin), "repo": pinned.repo or "", "commit": pinned.commit or ""}
    cache.write("pins", f"{library}-{pinned.pin.digest[:32]}", note)


def remembered(caches: Sequence[LibraryCache], library: str) -> list[Pinned]:
    """Return the pins of which sets were put into the caches, the newest build first."""
    from nativeload.pins import Pinned

    found: list[tuple[tuple[str, tuple[int, ...]], str, Pinned]] = []
    for note in (each for cache in caches for each in _notes(cache, library)):
        try:
            pin = Pin.parse(note.get("pin", ""))
        except ManifestError:  # a damaged note is no note
            continue
        repo, commit = note.get("repo") or None, note.get("commit") or None
        said = Pinned(pin=pin, repo=repo, commit=commit, origin="the cache", strict=False)
        found.append((build_order(pin.build), pin.digest, said))
    return [said for _, _, said in sorted(found, key=lambda each: each[:2], reverse=True)]


def _notes(cache: LibraryCache, library: str) -> Iterator[dict[str, str]]:
    if cache.root is None or not cache.check():
        return
    try:
        names = os.listdir(os.path.join(cache.root, "pins"))
    except OSError:
        return
    for name in names:
        if name.startswith(f"{library}-") and (note := cache.read("pins", name)) is not None:
            yield note
