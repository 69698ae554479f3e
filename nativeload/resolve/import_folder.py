"""How do the sets of a prefetch folder get into a cache, without a network?

One rule: the pin decides, never the folder: its manifest must be the pinned one, each set one of that manifest, and
each file what the manifest says. A set is in the cache whole or not at all.
"""

from __future__ import annotations

import hashlib
import os

from nativeload.cache import read_regular
from nativeload.cache.sets import is_there, keep_manifest, quarantine
from nativeload.errors import ConfigError, IntegrityError, LoadError
from nativeload.manifest import SIZE_LIMIT, Manifest, Pin, manifest_path, read
from nativeload.resolve import cached, download, published
from nativeload.resolve.prefetch import noted, sets_path
from nativeload.resolve.ranking import rank
from nativeload.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nativeload.cache import LibraryCache
    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.manifest import Artifact
    from nativeload.pins import Pinned
    from nativeload.resolve.download import Origin
    from nativeload.resolve.resolution import LibrarySet

    Say = Callable[[str], None]


def pin_of(folder: str, digest: str) -> Pin:
    """Return the pin of the manifest that a folder holds under a digest.

    Raises:
        ConfigError: there is none.
        IntegrityError: it has another digest.
        ManifestError: it cannot be read.
    """
    pin = Pin("?", digest)
    path = os.path.join(os.path.abspath(folder), _origin_of(folder, pin).path(manifest_path(digest)))
    raw = _read(path)
    if (actual := hashlib.sha256(raw).hexdigest()) != digest:
        raise IntegrityError(path, expected=f"sha256 {digest}", actual=f"sha256 {actual}")
    return Pin(read(raw, path).build, digest)


def import_folder(
    folder: str,
    pinned: Pinned,
    cache: LibraryCache,
    *,
    host: Host,
    config: NativeLibraryConfig,
    say: Say = lambda _: None,
) -> list[LibrarySet]:
    """Bring the sets of a prefetch folder into a cache: those it was made for, and the best of the rest for this host.

    Raises:
        ConfigError: the folder has no manifest of this pin, or nothing of use to anybody.
        IntegrityError: a file is not what the pinned manifest says. Nothing of its set is in the cache then.
        CacheError: the cache cannot be written.
    """
    origin = _origin_of(folder, pinned.pin)
    base = os.path.join(os.path.abspath(folder), origin.path(""))
    raw = _read(os.path.join(base, manifest_path(pinned.pin.digest)))
    manifest = Manifest.parse(raw, pinned.pin, folder)
    if manifest.library != config.library:
        raise ConfigError("--library", f"the folder holds {manifest.library}, and {config.library} was asked for")
    whole = replace(pinned, repo=pinned.repo or origin.repo, commit=pinned.commit or origin.commit)
    sets = _wished(manifest, whole, noted(os.path.join(base, sets_path(pinned.pin.digest))))
    sets += _usable(manifest, whole, base, host, config)
    unique = {item.set_id: item for item in sets}
    if not unique:
        raise ConfigError("import", f"{folder}: no set in it is whole, or none of them runs here")
    keep_manifest(cache, pinned.pin.digest, raw)
    done = [published.in_place(item, cache.root or "") for item in unique.values()]
    for item in done:
        if not _is_right(item, cache):
            download.fetch(item, origin, cache, say)
    cached.remember(cache, manifest.library, whole)
    return done


def _is_right(item: LibrarySet, cache: LibraryCache) -> bool:
    """Whether a set is in the cache, byte for byte; one that is there and is not is put away."""
    from nativeload.resolve import verify

    try:
        if not is_there(item.directory, [file.name for file in item.files], shared=cache.shared):
            return False
        verify(item, cache, keep=False)
    except (IntegrityError, LoadError):
        if quarantine(cache, item.directory) is None:
            raise
        return False
    return True


def _origin_of(folder: str, pin: Pin) -> Origin:
    """Find the repository and commit in a folder whose manifest bears the pinned digest in its name."""
    import glob
    import pathlib

    name = manifest_path(pin.digest)
    root = os.path.abspath(folder)
    for depth in ("*/*", "*"):
        for path in sorted(glob.glob(f"{glob.escape(root)}/{depth}/resolve/{'[0-9a-f]' * 40}/{name}")):
            repo, _, rest = path.removeprefix(root).strip(os.sep).replace(os.sep, "/").partition("/resolve/")
            return download.Origin(repo=repo, commit=rest[:40], endpoint=pathlib.Path(root).as_uri())
    hint = "Give the folder that `nativeload prefetch --out` wrote, and the pin it was written for."
    raise ConfigError("import", f"{folder}: no manifest {pin.digest} is in this folder", hint=hint)


def _read(path: str) -> bytes:
    try:
        return read_regular(path, SIZE_LIMIT + 1)
    except OSError as error:
        raise ConfigError("import", f"{path}: {error.strerror}") from error


def _wished(manifest: Manifest, pinned: Pinned, wishes: list[list[str]]) -> list[LibrarySet]:
    """Turn wishes into sets of the manifest; what is no set of it is refused."""
    sets = []
    for wish in wishes:
        found = next((item for item in _all_sets(manifest, pinned, wish)), None)
        if found is None:
            raise IntegrityError(
                ", ".join(wish)[:200], expected="the files of one set of the pinned manifest", actual="something else"
            )
        sets.append(found)
    return sets


def _all_sets(manifest: Manifest, pinned: Pinned, wish: list[str]) -> Iterable[LibrarySet]:
    """Yield the sets of a manifest that consist of exactly these paths."""
    known = {item.path: item for item in manifest.artifacts}
    if not wish or not set(wish) <= set(known):
        return
    platform = known[wish[0]].platform
    for bundle in published.bundles(manifest, pinned.pin, platform):
        for item in published.every_set(bundle):
            if {file.remote for file in item.files} == set(wish):
                yield item


def _usable(manifest: Manifest, pinned: Pinned, base: str, host: Host, config: NativeLibraryConfig) -> list[LibrarySet]:
    """Return the best set for this host of which all files are in the folder."""

    def here(item: Artifact) -> bool:
        return os.path.isfile(os.path.join(base, item.path))

    present = replace(manifest, artifacts=tuple(item for item in manifest.artifacts if here(item)))
    complete = {
        (str(platform), flavour)
        for platform in manifest.platforms
        for flavour in manifest.flavours(platform)
        if all(here(each) for each in manifest.artifacts if _is_core(each, str(platform), flavour))
    }
    bundles = [
        bundle
        for bundle in published.bundles(present, pinned.pin, host.platform)
        if (str(host.platform), bundle.flavour) in complete
    ]
    return list(rank(bundles, host, config).sets[:1])


def _is_core(item: Artifact, platform: str, flavour: str) -> bool:
    return item.platform == platform and flavour in item.flavours and item.role == "core"
