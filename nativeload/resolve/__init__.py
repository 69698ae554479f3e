"""Which set of files shall this machine use?

One rule: sources are asked in order and lazily (explicit, then installed), hard constraints come before that order,
and whatever is decided is in the trace.
"""

from __future__ import annotations

import os

from nativeload.cache import LibraryCache, default_root
from nativeload.errors import (
    BackendUnavailableError,
    DownloadUnavailableError,
    IntegrityError,
    LibraryNotFoundError,
    LoadError,
)
from nativeload.host import Host
from nativeload.resolve import explicit, installed
from nativeload.resolve.bundle import Bundle
from nativeload.resolve.ranking import preferred, rank, required
from nativeload.resolve.resolution import (
    Accepted,
    Decision,
    LibrarySet,
    Rejected,
    Resolution,
    Source,
    Unknown,
)
from nativeload.value import Value, replace
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

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
    local: bool

    @property
    def cache(self) -> LibraryCache:
        """The cache the config names."""
        return LibraryCache(self.config.cache_dir or default_root())


def shortlist(config: NativeLibraryConfig, host: Host | None = None) -> Shortlist:
    """Ask the sources of a settled config and rank what they have for a host (default: this one).

    Raises:
        LoadError: the explicit path holds no library.
        IntegrityError: a description of files is not the one vouched for.
    """
    current = Platform.current()
    target = Host.detect() if host is None else host
    bundles: list[Bundle] = []
    decisions: list[Decision] = []
    for item in _asked(config, target.platform) if target.platform == current else _elsewhere(config, target.platform):
        if isinstance(item, Bundle):
            bundles.append(item)
        else:
            decisions.append(item)
    ranked = rank(bundles, target, config)
    sets, more = _constrained(ranked.sets, config, target)
    return Shortlist(config, target, sets, (*decisions, *ranked.decisions, *more), local=host is None)


def _asked(config: NativeLibraryConfig, platform: Platform) -> list[Bundle | Decision]:
    """Ask the sources in order; a configured path is the only one asked."""
    if config.path is not None:
        return [explicit.find(config.library, config.path, platform, sha256=config.sha256)]
    found = [_search(config.library, directory, platform) for directory in config.search_directories or ()]
    found.extend(installed.find(config.library, platform, packages=config.packages or ()))
    if config.auto_download:
        reason = "offline" if config.offline else f"this release has no download source and no pin for {config.library}"
        found.append(Decision(Source.DOWNLOAD, config.repo or config.library, Rejected(reason)))
    return found


def _search(library: str, directory: str, platform: Platform) -> Bundle | Decision:
    """Look into a search directory: what it does not have moves on, what it has wrong raises."""
    if not os.path.isdir(directory):
        return Decision(Source.EXPLICIT, directory, Rejected("no such directory"))
    found = explicit.search(library, directory, platform)
    return found or Decision(Source.EXPLICIT, directory, Rejected(f"no {library} library in this directory"))


def _elsewhere(config: NativeLibraryConfig, platform: Platform) -> list[Bundle | Decision]:
    """A plan for another platform: a path may be for it, what is installed here is not."""
    if config.path is not None:
        return [explicit.find(config.library, config.path, platform, sha256=config.sha256)]
    reason = f"installed packages are for {Platform.current()}, the plan is for {platform}"
    return [Decision(Source.INSTALLED, "this environment", Rejected(reason))]


def _constrained(
    sets: tuple[LibrarySet, ...], config: NativeLibraryConfig, host: Host
) -> tuple[tuple[LibrarySet, ...], list[Decision]]:
    """Apply the constraints that come before the order of sources, and the user's own policy."""
    if config.pin:
        decisions = [Decision(item.source, str(item), Rejected("not the pinned build")) for item in sets]
        digest = config.pin.partition("@")[2]
        reason = f"manifest {digest} not here: this release has no source that could bring it"
        return (), [*decisions, Decision(Source.CACHED, config.pin, Unknown(reason))]
    if config.selecting_policy is None:
        return sets, []
    kept = tuple(config.selecting_policy(sets, host))
    dropped = [
        Decision(item.source, str(item), Rejected("dropped by the selecting policy"))
        for item in sets
        if item not in kept
    ]
    return kept, dropped


def verify(chosen: LibrarySet, cache: LibraryCache) -> LibrarySet:
    """Hash a set's files and hold them against what was declared.

    Raises:
        IntegrityError: a file is not the declared one. Final: nothing else is tried.
        LoadError: a file cannot be read.
    """
    files = []
    for file in chosen.files:
        try:
            actual, size = cache.digest(file.path), os.path.getsize(file.path)
        except OSError as error:
            raise LoadError(file.path, error.strerror or str(error)) from error
        if file.declared is not None and actual != file.declared:
            raise IntegrityError(file.path, expected=f"sha256 {file.declared}", actual=f"sha256 {actual}")
        files.append(replace(file, sha256=actual, size=size))
    return replace(chosen, files=tuple(files))


def conclude(found: Shortlist, chosen: LibrarySet | None, tried: Sequence[Decision] = ()) -> Resolution:
    """Write the whole trace of a shortlist of which one set (or none) was chosen."""
    verified = chosen.vouched if chosen and all(file.declared for file in chosen.files) else None
    decisions = [*found.decisions, *tried]
    if chosen is not None:
        proof = f"verified by {verified}" if verified else "not verified: nobody vouched for it but the user"
        decisions.append(Decision(chosen.source, str(chosen), Accepted(f"best for this host; {proof}")))
        seen = {decision.candidate for decision in tried} | {str(chosen)}
        origins = {chosen.origin}
        for item in found.sets:
            if item.origin not in origins and str(item) not in seen:
                origins.add(item.origin)
                decisions.append(Decision(item.source, str(item), Rejected(f"passed over: {chosen} ranks higher")))
    return Resolution(
        library=found.config.library,
        chosen=chosen,
        decisions=tuple(decisions),
        verified_by=verified,
        shortfall=tuple((backend, _why_not(found, backend)) for backend in _lacking(found, chosen)),
    )


def _lacking(found: Shortlist, chosen: LibrarySet | None) -> list[Backend]:
    """Name the preferred backends for which the chosen set brings no module.

    A library that carries its backends inside is asked after loading, not judged here.
    """
    if chosen is None or chosen.gpu is not None or chosen.cpu is None:
        return []
    return list(preferred(found.config))


def _why_not(found: Shortlist, backend: Backend) -> str:
    if not any(gpu.backend is backend for gpu in found.host.gpus):
        return found.host.why_no(backend)
    return f"no {backend} backend in any candidate"


def missing(found: Shortlist, tried: Sequence[Decision] = ()) -> Exception:
    """Say that no set could serve, in the error that tells what to do."""
    resolution = conclude(found, None, tried)
    if found.config.auto_download:
        from nativeload.config import NO_DOWNLOAD

        text = f"no usable {resolution.library} library is here, and this release cannot download one"
        return DownloadUnavailableError(text, hint=NO_DOWNLOAD, resolution=resolution)
    return LibraryNotFoundError(resolution, hint=_WAYS_ON)


def check_required(found: Shortlist, chosen: LibrarySet) -> None:
    """Refuse a set that cannot have a device of a required backend, before anything is opened.

    Raises:
        BackendUnavailableError: naming the backend and the reason.
    """
    for backend in required(found.config):
        if chosen.cpu is not None and chosen.gpu != backend:
            resolution = conclude(found, None)
            raise BackendUnavailableError(
                backend,
                chosen.directory,
                f"{backend} is required: {_why_not(found, backend)}",
                hint=f"Say with_{backend}() to prefer it without requiring it.",
                resolution=resolution,
            )


def plan(config: NativeLibraryConfig, host: Host | None = None) -> Resolution:
    """Say what a settled config would use on a host; nothing is opened, fetched or started."""
    found = shortlist(config, host)
    if not found.sets:
        return conclude(found, None)
    return conclude(found, verify(found.sets[0], LibraryCache(None) if host else found.cache))


def resolve(config: NativeLibraryConfig) -> Resolution:
    """Choose a set for this machine and verify it.

    Raises:
        LibraryNotFoundError, DownloadUnavailableError: nothing usable.
        BackendUnavailableError: a required backend has no device here.
        IntegrityError: a file is not the declared one.
    """
    found = shortlist(config)
    if not found.sets:
        raise missing(found)
    check_required(found, found.sets[0])
    return conclude(found, verify(found.sets[0], found.cache))
