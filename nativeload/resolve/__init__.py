"""Which set of files shall this machine use?

One rule: sources are asked in order and lazily (explicit, then installed), hard constraints come before that order,
and whatever is decided is in the trace.
"""

from __future__ import annotations

import os

from nativeload.cache import LibraryCache, default_root
from nativeload.errors import (
    BackendUnavailableError,
    CacheError,
    DownloadUnavailableError,
    IntegrityError,
    LibraryNotFoundError,
    LoadError,
    NativeLoadError,
    UnsafeCacheWarning,
)
from nativeload.host import Host
from nativeload.resolve.bundle import Bundle
from nativeload.resolve.ranking import passed_over, preferred, rank, required
from nativeload.resolve.resolution import (
    Accepted,
    Decision,
    LibraryFile,
    LibrarySet,
    Rejected,
    Resolution,
    Source,
    Unknown,
)
from nativeload.threads import in_parallel
from nativeload.value import Value, replace
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nativeload.config import NativeLibraryConfig

_WAYS_ON = (
    "Install a backend package (pip install 'nativeload[cpu]'), or name a library: with_library() or NATIVELOAD_PATH."
)


class Shortlist(Value):
    """The sets that may serve, best first, and the decisions made on the way."""

    config: NativeLibraryConfig
    host: Host
    sets: tuple[LibrarySet, ...]
    decisions: tuple[Decision, ...]
    cache: LibraryCache


def shortlist(config: NativeLibraryConfig, host: Host | None = None) -> Shortlist:
    """Ask the sources of a settled config and rank what they have for a host (default: this one).

    Raises:
        LoadError: the explicit path holds no library.
        IntegrityError: a description of files is not the one vouched for.
    """
    target = Host.detect() if host is None else host
    bundles: list[Bundle] = []
    decisions: list[Decision] = []
    for item in _asked(config, target.platform):
        if isinstance(item, Bundle):
            bundles.append(_with_cuda_major(item, config))
        else:
            decisions.append(item)
    ranked = rank(bundles, target, config)
    sets, more = _constrained(ranked.sets, config, target)
    return Shortlist(config, target, sets, (*decisions, *ranked.decisions, *more), _cache(config))


def _cache(config: NativeLibraryConfig) -> LibraryCache:
    """Return the cache; one that was named must be safe, the default one is done without if it is not."""
    if config.cache_dir is not None:
        named = LibraryCache(config.cache_dir)
        named.check_usable()
        return named
    cache = LibraryCache(default_root())
    try:
        cache.check()
    except CacheError as error:
        import warnings

        warnings.warn(f"no receipts or verdicts are kept: {error}", UnsafeCacheWarning, stacklevel=2)
        return LibraryCache(None)
    return cache


def _asked(config: NativeLibraryConfig, platform: Platform) -> list[Bundle | Decision]:
    """Ask the sources in order; a configured path is the only one asked."""
    if config.path is not None:
        from nativeload.resolve import explicit

        return [explicit.find(config.library, config.path, platform, sha256=config.sha256)]
    found = [_search(config.library, directory, platform) for directory in config.search_directories or ()]
    if platform == Platform.current():
        from nativeload.resolve import installed

        found.extend(installed.find(config.library, platform, packages=config.packages or ()))
    else:
        reason = f"installed packages are for {Platform.current()}, the plan is for {platform}"
        found.append(Decision(Source.INSTALLED, "this environment", Rejected(reason)))
    if config.auto_download:
        reason = "offline" if config.offline else f"this release has no download source and no pin for {config.library}"
        found.append(Decision(Source.DOWNLOAD, config.repo or config.library, Rejected(reason)))
    return found


def _search(library: str, directory: str, platform: Platform) -> Bundle | Decision:
    """Look into a search directory: what it does not have moves on, what it has wrong raises."""
    from nativeload.resolve import explicit

    if not os.path.isdir(directory):
        return Decision(Source.EXPLICIT, directory, Rejected("no such directory"))
    found = explicit.search(library, directory, platform)
    return found or Decision(Source.EXPLICIT, directory, Rejected(f"no {library} library in this directory"))


def _with_cuda_major(bundle: Bundle, config: NativeLibraryConfig) -> Bundle:
    """Read which CUDA a bundle's CUDA backends were built for, where a major was asked for."""
    if type(dict(config.wants or ()).get(Backend.CUDA)) is not int:
        return bundle
    from nativeload.elf import read_elf

    gpus = []
    for file in bundle.gpus:
        try:
            runtimes = [name for name in read_elf(file.path).needed if name.startswith("libcudart.so.")]
        except LoadError:  # whatever is wrong with it is found where its set is verified
            runtimes = []
        major = runtimes[0].removeprefix("libcudart.so.").partition(".")[0] if runtimes else ""
        gpus.append(replace(file, cuda=int(major)) if major.isdecimal() else file)
    return replace(bundle, gpus=tuple(gpus))


def _constrained(
    sets: tuple[LibrarySet, ...], config: NativeLibraryConfig, host: Host
) -> tuple[tuple[LibrarySet, ...], list[Decision]]:
    """Apply the constraints that come before the order of sources, and the user's own policy."""
    if config.pin:
        decisions = [Decision(item.source, str(item), Rejected("not the pinned build")) for item in sets]
        digest = config.pin.partition("@")[2]
        reason = f"manifest {digest} not here: this release has no source that could bring it"
        return (), [*decisions, Decision(Source.CACHED, config.pin, Unknown(reason))]
    kept: list[LibrarySet] = []
    decisions = []
    for item in sets:
        # A library that carries its backends inside shows them only in the probe.
        lacking = [backend for backend in required(config) if item.cpu is not None and item.gpu != backend]
        if not lacking:
            kept.append(item)
        elif item.origin not in {other.origin for other in kept} | {decision.candidate for decision in decisions}:
            reason = f"{lacking[0]} is required, and no {lacking[0]} backend of this place can be used"
            decisions.append(Decision(item.source, item.origin, Rejected(reason)))
    if config.selecting_policy is None:
        return tuple(kept), decisions
    policy = tuple(config.selecting_policy(tuple(kept), host))
    dropped = Rejected("dropped by the selecting policy")
    return policy, [*decisions, *(Decision(item.source, str(item), dropped) for item in kept if item not in policy)]


def verify(chosen: LibrarySet, cache: LibraryCache) -> LibrarySet:
    """Hash a set's files and hold them against what was declared.

    Raises:
        IntegrityError: a file is not the declared one. Final: nothing else is tried.
        LoadError: a file cannot be read.
    """
    others = [file for file in chosen.files if file != chosen.main]
    whole = in_parallel(lambda file: _verified(file, cache), [*others, chosen.main])  # the largest is begun first
    verified = {file.path: file for file in whole}
    return replace(chosen, files=tuple(verified[file.path] for file in chosen.files))


def _verified(file: LibraryFile, cache: LibraryCache) -> LibraryFile:
    try:
        actual, stamp = cache.digest(file.path)
    except OSError as error:
        raise LoadError(file.path, error.strerror or str(error)) from error
    if file.declared is not None and actual != file.declared:
        raise IntegrityError(file.path, expected=f"sha256 {file.declared}", actual=f"sha256 {actual}")
    if file.size not in (0, stamp.size):
        raise IntegrityError(file.path, expected=f"{file.size} bytes", actual=f"{stamp.size} bytes")
    return replace(file, sha256=actual, size=stamp.size, stamp=stamp)


def first_whole(found: Shortlist, sets: Sequence[LibrarySet], tried: list[Decision]) -> Iterator[LibrarySet]:
    """Yield the sets whose files are all there, hashed and as declared; note the others.

    An installed package that lost a file has nothing to offer and is passed over; what the user named raises.

    Raises:
        IntegrityError: a file is not the declared one. Final: nothing else is tried.
        LoadError: a file that the user named cannot be read.
    """
    for candidate in sets:
        try:
            whole = verify(candidate, found.cache)
        except LoadError as error:
            if candidate.source is Source.EXPLICIT:
                raise
            tried.append(Decision(candidate.source, str(candidate), Rejected(f"{error.path}: {error.reason}")))
            continue
        yield whole


def conclude(found: Shortlist, chosen: LibrarySet | None, tried: Sequence[Decision] = ()) -> Resolution:
    """Write the whole trace of a shortlist of which one set (or none) was chosen."""
    verified = chosen.vouched if chosen and all(file.declared for file in chosen.files) else None
    decisions = [*found.decisions, *tried]
    if chosen is not None:
        proof = f"verified by {verified}" if verified else "not verified: nobody vouched for it but the user"
        decisions.append(Decision(chosen.source, str(chosen), Accepted(f"best for this host; {proof}")))
        decisions.extend(_passed_over(found, chosen, tried))
    return Resolution(
        library=found.config.library,
        chosen=chosen,
        decisions=tuple(decisions),
        verified_by=verified,
        shortfall=tuple((backend, _why_not(found, backend)) for backend in _lacking(found, chosen)),
    )


def _passed_over(found: Shortlist, chosen: LibrarySet, tried: Sequence[Decision]) -> Iterator[Decision]:
    """Name what could serve too and was not tried: modules beside the chosen ones, one set from every other place."""
    before = {decision.candidate for decision in tried}
    told = {file.path for item in found.sets if str(item) in before for file in item.files}
    told |= {file.path for file in chosen.files}
    origins = {chosen.origin} | {item.origin for item in found.sets if str(item) in before}
    for item in found.sets:
        if item.origin == chosen.origin:
            for file in item.files:
                if file.path not in told:
                    told.add(file.path)
                    reason = Rejected(passed_over(file, chosen))
                    yield Decision(item.source, f"{item.origin}: {file.name}", reason)
        elif item.origin not in origins:
            origins.add(item.origin)
            yield Decision(item.source, str(item), Rejected(f"passed over: {chosen} ranks higher"))


def _lacking(found: Shortlist, chosen: LibrarySet | None) -> list[Backend]:
    """Name the preferred backends for which the chosen set brings no module.

    A library that carries its backends inside is asked after loading, not judged here.
    """
    if chosen is None or chosen.gpu is not None or chosen.cpu is None:
        return []
    return list(preferred(found.config))


def _why_not(found: Shortlist, backend: Backend) -> str:
    """Return why there is no device of a backend: this host, or what was said of the files that could serve it."""
    if not any(gpu.backend is backend for gpu in found.host.gpus):
        return found.host.why_no(backend)
    reasons = [item.verdict.reason for item in found.decisions if f"-{backend}." in item.candidate]
    return reasons[0] if reasons else f"no {backend} backend in any candidate"


def missing(found: Shortlist, tried: Sequence[Decision] = (), *, hint: str = "") -> NativeLoadError:
    """Say that no set could serve, in the error that tells what to do (the hint, where the caller knows better)."""
    resolution = conclude(found, None, tried)
    for backend in required(found.config):
        if any(f"{backend} is required" in decision.verdict.reason for decision in resolution.decisions):
            return BackendUnavailableError(
                backend,
                found.config.path or found.config.library,
                f"{backend} is required: {_why_not(found, backend)}",
                hint=f"Say with_{backend}() to prefer it without requiring it.",
                resolution=resolution,
            )
    if found.config.auto_download:
        from nativeload.config import NO_DOWNLOAD

        text = f"no usable {resolution.library} library is here, and this release cannot download one"
        return DownloadUnavailableError(text, hint=NO_DOWNLOAD, resolution=resolution)
    return LibraryNotFoundError(resolution, hint=hint or _ways_on(found))


def _ways_on(found: Shortlist) -> str:
    """Say what could help, by what stands in the way."""
    config = found.config
    if config.pin:
        return "No source of this release satisfies a pin: take it back, or wait for the release that downloads."
    if config.library != "llama":
        return (
            f"Name a {config.library} library: with_library() or NATIVELOAD_PATH (whisper: pip install pywhispercpp)."
        )
    if config.cpu:
        return "Only a split build (libggml-cpu-*.so) can keep a CPU ceiling: name its directory, or drop the ceiling."
    return _WAYS_ON


def plan(config: NativeLibraryConfig, host: Host | None = None) -> Resolution:
    """Say what a settled config would use on a host; nothing is opened, fetched or started."""
    found = shortlist(config, host)
    return conclude(found, *_best(found))


def resolve(config: NativeLibraryConfig) -> Resolution:
    """Choose a set for this machine and verify it.

    Raises:
        LibraryNotFoundError, DownloadUnavailableError: nothing usable.
        BackendUnavailableError: a required backend has no device here.
        IntegrityError: a file is not the declared one.
    """
    found = shortlist(config)
    chosen, tried = _best(found)
    if chosen is None:
        raise missing(found, tried)
    return conclude(found, chosen, tried)


def _best(found: Shortlist) -> tuple[LibrarySet | None, list[Decision]]:
    """Return the first set whose files are all there and as declared, and why those before it were not."""
    tried: list[Decision] = []
    return next(first_whole(found, found.sets, tried), None), tried
