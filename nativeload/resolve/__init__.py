"""Which set of files shall this machine use?

One rule: what is chosen is whole and verified: hashed now, or before and unchanged since. A set that is not here yet is
fetched when its turn comes, and only where that was allowed.
"""

from __future__ import annotations

import os

from nativeload.errors import ConfigError, DownloadUnavailableError, IntegrityError, LoadError, NetworkError
from nativeload.host import Host
from nativeload.log import teller, warn
from nativeload.resolve.candidates import Shortlist, shortlist
from nativeload.resolve.outcome import conclude, missing, prefetch_hint, tell_ways
from nativeload.resolve.ranking import wanted
from nativeload.resolve.resolution import (
    CANNOT_FETCH,
    Decision,
    LibraryFile,
    LibrarySet,
    Rejected,
    Resolution,
    Source,
)
from nativeload.threads import in_parallel
from nativeload.value import replace
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nativeload.cache import LibraryCache
    from nativeload.config import NativeLibraryConfig

__all__ = [
    "Shortlist",
    "conclude",
    "download_set",
    "first_whole",
    "missing",
    "plan",
    "resolve",
    "shortlist",
    "unfetched",
    "verify",
]

_MIRROR = "The repository lacks this file. Is it a mirror? Prefetch into it for this machine too, or everything: --all."
_NEWEST_CUDA = 99  # what a composed driver supports where any CUDA will do


def verify(chosen: LibrarySet, cache: LibraryCache, *, keep: bool = True, always: bool = False) -> LibrarySet:
    """Hash a set's files and hold them against what was declared.

    Args:
        chosen: the set.
        cache: where receipts of large files are.
        keep: whether to write receipts.
        always: whether to hash large files too that have one.

    Raises:
        IntegrityError: a file is not the declared one. Final: nothing else is tried.
        LoadError: a file cannot be read.
    """
    others = [file for file in chosen.files if file != chosen.main]
    whole = in_parallel(
        lambda file: _verified(file, cache, keep=keep, always=always), [*others, chosen.main]
    )  # the largest is begun first
    verified = {file.path: file for file in whole}
    return replace(chosen, files=tuple(verified[file.path] for file in chosen.files))


def _verified(file: LibraryFile, cache: LibraryCache, *, keep: bool, always: bool) -> LibraryFile:
    try:
        actual, stamp = cache.digest(file.path, keep=keep, always=always)
    except OSError as error:
        raise LoadError(file.path, error.strerror or str(error)) from error
    if file.declared is not None and actual != file.declared:
        raise IntegrityError(file.path, expected=f"sha256 {file.declared}", actual=f"sha256 {actual}")
    if file.size not in (0, stamp.size):
        raise IntegrityError(file.path, expected=f"{file.size} bytes", actual=f"{stamp.size} bytes")
    return replace(file, sha256=actual, size=stamp.size, stamp=stamp)


def first_whole(
    found: Shortlist,
    sets: Sequence[LibrarySet],
    tried: list[Decision],
    *,
    act: bool = True,
    skip: Callable[[LibrarySet], bool] = lambda _: False,
) -> Iterator[LibrarySet]:
    """Yield the sets whose files are all there, hashed and as declared; note the others.

    An installed package that lost a file has nothing to offer and is passed over; what the user named raises.

    Args:
        found: where the sets are from.
        sets: the sets, best first.
        tried: grows by why a set was passed over.
        act: whether missing sets are fetched and damaged ones put away; else a set to be fetched is yielded as it is.
        skip: says which sets need not be looked at any more.

    Raises:
        IntegrityError: a file is not the declared one. Final: nothing else is tried.
        LoadError: a file that the user named cannot be read.
        NetworkError: a set that is to be fetched cannot be, and no other one is here.
    """
    failed: NetworkError | None = None
    down = False  # whether the network failed: it is not asked again then
    for candidate in sets:
        if skip(candidate) or (down and candidate.source is Source.DOWNLOAD):
            continue
        try:
            whole = _whole(candidate, found, act=act)
        except LoadError as error:
            if candidate.source is Source.EXPLICIT:
                raise
            tried.append(Decision(candidate.source, str(candidate), Rejected(f"{error.path}: {error.reason}")))
            continue
        except NetworkError as error:
            failed, down = failed or error, not error.lacking
            reason = f"{CANNOT_FETCH}: {error.url.rpartition('/')[2]}: {error.reason}"
            tried.append(Decision(candidate.source, str(candidate), Rejected(reason)))
            continue
        yield whole
        failed = None  # what was found instead failed for reasons of its own
    if failed is not None:
        raise failed


def _whole(candidate: LibrarySet, found: Shortlist, *, act: bool) -> LibrarySet:
    if candidate.pin is None:
        return verify(candidate, found.cache, keep=act, always=found.config.verify == "always")
    if candidate.source is Source.DOWNLOAD:
        if not act or found.origin is None:
            return candidate
        _fetch(candidate, found)
    try:
        return _published(candidate, found, keep=act)
    except IntegrityError as error:
        # A runtime of this machine may be wrong too: that is no fault of the set.
        if act and (error.path == candidate.directory or error.path.startswith(os.path.join(candidate.directory, ""))):
            _put_away(candidate, found, error)
        raise


def _fetch(candidate: LibrarySet, found: Shortlist) -> None:
    from nativeload.resolve import cached, download

    if found.origin is None or found.pinned is None:  # no set is of the source `download` then
        raise LoadError(candidate.directory, "nothing may be fetched")
    try:
        download.fetch(candidate, found.origin, found.cache, teller(found.config.log_callback))
    except NetworkError as error:
        tell_ways(error, _MIRROR, found.config, found.host, found.pinned)
        raise
    except DownloadUnavailableError as error:
        raise DownloadUnavailableError(
            str(error.args[0]),
            hint=prefetch_hint(found.config, found.host, found.pinned),
            resolution=conclude(found, None),
        ) from error
    cached.remember(found.cache, candidate.library, found.pinned)


def _published(candidate: LibrarySet, found: Shortlist, *, keep: bool) -> LibrarySet:
    """Verify a set in a cache: exactly its files, nobody else's to write, each with its digest."""
    from nativeload.cache import sets
    from nativeload.errors import CacheError

    names = [file.name for file in candidate.files if file.remote]
    if not sets.is_there(candidate.directory, names, shared=not found.cache.holds(candidate.directory)):
        raise LoadError(candidate.directory, "gone since it was looked for")
    try:
        return verify(candidate, found.cache, keep=keep, always=found.config.verify == "always")
    except LoadError as error:
        if isinstance(error.__cause__, OSError) and not sets.is_damage(error.__cause__):
            raise CacheError(error.path, error.reason) from error
        raise IntegrityError(error.path, expected="a file of the set", actual=error.reason) from error


def _put_away(candidate: LibrarySet, found: Shortlist, error: IntegrityError) -> None:
    """Take a damaged set out of the user's cache, so that the next run finds nothing there and may fetch it again."""
    from nativeload.cache import sets

    own = found.cache.holds(candidate.directory)
    where = sets.quarantine(found.cache, candidate.directory) if own else None
    if where is not None:
        error.hint = (
            f"The damaged set is in {where} now, and nothing else was tried: run again to fetch or import it anew."
        )
    elif not own:
        error.hint = f"{candidate.directory} is not ours to mend: have its owner import the set again."


def plan(config: NativeLibraryConfig, host: Host | None = None) -> Resolution:
    """Say what a settled config would use on a host; nothing is opened, fetched, started or moved."""
    found = shortlist(config, host)
    return conclude(found, *_best(found, act=False))


def resolve(config: NativeLibraryConfig) -> Resolution:
    """Choose a set for this machine and verify it; fetch it first, where it is not here and that was allowed.

    Raises:
        LibraryNotFoundError, DownloadUnavailableError: nothing usable.
        BackendUnavailableError: a required backend has no device here.
        IntegrityError: a file is not the declared one.
        NetworkError: what is to be fetched cannot be.
    """
    found = shortlist(config, act=True)
    chosen, tried = _best(found, act=True)
    if chosen is None:
        raise missing(found, tried)
    for note in (*found.notes, *unfetched(tried)):
        warn(f"{chosen} is used: {note}")
    return conclude(found, chosen, tried)


def unfetched(tried: Sequence[Decision]) -> Iterator[str]:
    """Yield what was to be fetched and could not be, with the reason."""
    for item in tried:
        if item.verdict.reason.startswith(CANNOT_FETCH):
            yield f"{item.candidate} {item.verdict.reason}"


def download_set(
    config: NativeLibraryConfig, *, platform: str = "auto", filename: str | None = None, build: str | None = None
) -> Resolution:
    """Fetch the best published set of a settled config into the cache, for this machine or a platform, and verify it.

    Raises:
        DownloadUnavailableError: nobody said what to fetch, or a download is forbidden.
        LibraryNotFoundError: the manifest has nothing that fits.
        ConfigError: the platform is none, or the pin is another build.
        NetworkError, IntegrityError, CacheError: as `resolve`.
    """
    host = None
    if platform != "auto":
        host = Host.compose(_platform(platform), cpu=config.cpu, cuda=_composed_cuda(config))
    found = shortlist(replace(config, path=None), host, act=True, published_only=True)
    if found.pinned is None:
        raise missing(found)
    _hold_to_build(found, build)
    tried: list[Decision] = []
    sets = [item for item in found.sets if filename is None or _has(item, filename)]
    if filename is not None and not sets:
        tried += [Decision(item.source, str(item), Rejected(f"it has no file {filename}")) for item in found.sets]
    chosen = next(first_whole(found, sets, tried), None)
    if chosen is None and config.offline:
        hint = prefetch_hint(config, found.host, found.pinned)
        text = "offline: nothing may be fetched, and the cache has no such set"
        raise DownloadUnavailableError(text, hint=hint, resolution=conclude(found, None, tried))
    if chosen is None:
        raise missing(found, tried)
    resolution = conclude(found, chosen, tried)
    for note in unfetched(tried):
        warn(f"{chosen} is used: {note}")
    for backend, reason in resolution.shortfall:
        warn(f"{backend} preferred, but {chosen} has none ({reason})")
    return resolution


def _has(item: LibrarySet, filename: str) -> bool:
    """Whether a set has a file of a name, or the library that goes by this bare name: libllama.so, llama.dll."""
    from nativeload.resolve.bundle import stem_of

    kind = next((each for each in (".dll", ".dylib", ".so") if each in filename), "")
    return any(filename == file.name or (stem_of(filename) == file.label and kind in file.name) for file in item.files)


def _platform(word: str) -> str:
    """Return the platform of a word: its own name, or an operating system on this machine's kind of processor."""
    system = {"linux": "linux", "macos": "darwin", "windows": "win32"}.get(word)
    return Platform.of(system, "x86_64" if Platform.current().is_x86 else "arm64") if system else word


def _composed_cuda(config: NativeLibraryConfig) -> int | None:
    """Return the CUDA major for a composed host; the newest there may be where CUDA is wanted and none was named."""
    want = wanted(config, Backend.CUDA)
    if want is None or want is False:
        return None
    return want if type(want) is int else _NEWEST_CUDA


def _hold_to_build(found: Shortlist, build: str | None) -> None:
    if build is not None and found.pinned is not None and build not in {found.pinned.pin.build, *found.aliases}:
        raise ConfigError("build", f"{build!r} was asked for, and {found.pinned.origin} says {found.pinned.pin.build}")


def _best(found: Shortlist, *, act: bool) -> tuple[LibrarySet | None, list[Decision]]:
    """Return the first set whose files are all there and as declared, and why those before it were not."""
    tried: list[Decision] = []
    return next(first_whole(found, found.sets, tried, act=act), None), tried
