"""Which sets may serve, from every source, best first?

One rule: hard constraints come before the order of the sources (explicit, installed, cached, download), a preferred
backend comes before it too, and whatever is decided is in the trace.
"""

from __future__ import annotations

import os

from nativeload.cache import LibraryCache, default_root
from nativeload.errors import CacheError, LoadError, UnsafeCacheWarning
from nativeload.host import Host
from nativeload.resolve import offers
from nativeload.resolve.bundle import Bundle
from nativeload.resolve.ranking import rank, required, wanted
from nativeload.resolve.resolution import (
    NOT_INSTALLED,
    Accepted,
    Decision,
    LibraryFile,
    LibrarySet,
    Rejected,
    Source,
)
from nativeload.value import Value, replace
from nativeload.variant import Backend, Platform, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nativeload.config import NativeLibraryConfig
    from nativeload.pins import Pinned
    from nativeload.resolve.cuda_runtime import CudaRuntime
    from nativeload.resolve.download import Origin


class Shortlist(Value):
    """The sets that may serve, best first, and the decisions made on the way.

    Attributes:
        config: settled.
        host: the machine in question.
        sets: best first; one whose source is ``download`` is not here yet.
        decisions: why everything else is not among them.
        cache: where receipts, verdicts and published sets are kept.
        shared: directories of the operator's that hold published sets too.
        pinned: the manifest that published sets are taken from, if there is one.
        origin: where missing sets may be fetched from, if that is allowed.
        aliases: other names of the pinned build.
        unmet: required backends for which no set is left.
        notes: what the user asked for and does not get, whichever set serves.
    """

    config: NativeLibraryConfig
    host: Host
    sets: tuple[LibrarySet, ...]
    decisions: tuple[Decision, ...]
    cache: LibraryCache
    shared: tuple[LibraryCache, ...] = ()
    pinned: Pinned | None = None
    origin: Origin | None = None
    aliases: tuple[str, ...] = ()
    unmet: tuple[Backend, ...] = ()
    notes: tuple[str, ...] = ()


def shortlist(
    config: NativeLibraryConfig, host: Host | None = None, *, act: bool = False, published_only: bool = False
) -> Shortlist:
    """Ask the sources of a settled config and rank what they have for a host (default: this one).

    Args:
        config: what is wanted.
        host: the machine in question.
        act: whether the manifest of an allowed download may be fetched; else it is unknown where it is not here.
        published_only: whether only the pinned manifest is asked.

    Raises:
        LoadError: the explicit path holds no library.
        IntegrityError: a description of files is not the one vouched for.
        NetworkError: the manifest cannot be fetched.
    """
    target = Host.detect() if host is None else host
    cache = _cache(config)
    shaped = _cache_shaped(config)
    shared = tuple(LibraryCache(folder, shared=True) for folder in shaped)
    decisions: list[Decision] = []
    bundles: list[Bundle] = []
    offer = offers.ask(config, target, (cache, *shared), act=act)
    for item in [*([] if published_only else _asked(config, target.platform, shaped)), *offer.items]:
        if isinstance(item, Bundle):
            bundles.append(_with_cuda_major(item, config))
        else:
            decisions.append(item)
    ranked = rank(bundles, target, config)
    decisions.extend(ranked.decisions)
    helped = ranked.sets if host else _with_cuda_runtime(ranked.sets, config, decisions)
    placed = _once_each(each for item in helped for each in offers.placed(item, offer, (cache, *shared), decisions))
    kept, unmet = _constrained(placed, config, target, offer.pinned, decisions)
    return Shortlist(
        config=config,
        host=target,
        sets=kept,
        decisions=tuple(dict.fromkeys(decisions)),
        cache=cache,
        shared=shared,
        pinned=offer.pinned,
        origin=offer.origin,
        aliases=offer.aliases,
        unmet=unmet,
        notes=(*offer.notes, *_not_installed(decisions)),
    )


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


def _cache_shaped(config: NativeLibraryConfig) -> list[str]:
    """Return the operator's directories that are laid out as a cache is."""
    searched = [item for item in config.search_directories or () if os.path.isdir(os.path.join(item, "manifests"))]
    return list(dict.fromkeys([*searched, *(config.shared_caches or ())]))


def _asked(config: NativeLibraryConfig, platform: Platform, shaped: Sequence[str]) -> list[Bundle | Decision]:
    """Ask what is explicit (what is shaped as a cache aside) and installed; a configured path is the only one asked."""
    if config.path is not None:
        from nativeload.resolve import explicit

        return [explicit.find(config.library, config.path, platform, sha256=config.sha256)]
    searched = [item for item in config.search_directories or () if item not in shaped]
    found = [_search(config.library, directory, platform) for directory in searched]
    if platform == Platform.current():
        from nativeload.resolve import installed

        found.extend(installed.find(config.library, platform, packages=config.packages or ()))
    else:
        reason = f"installed packages are for {Platform.current()}, the plan is for {platform}"
        found.append(Decision(Source.INSTALLED, "this environment", Rejected(reason)))
    return found


def _not_installed(decisions: Sequence[Decision]) -> Iterator[str]:
    for item in decisions:
        if item.verdict.reason == NOT_INSTALLED:
            yield f"backend package {item.candidate}: {NOT_INSTALLED}"


def _search(library: str, directory: str, platform: Platform) -> Bundle | Decision:
    """Look into a search directory: what it does not have moves on, what it has wrong raises."""
    from nativeload.resolve import explicit

    if not os.path.isdir(directory):
        return Decision(Source.EXPLICIT, directory, Rejected("no such directory"))
    found = explicit.search(library, directory, platform)
    return found or Decision(Source.EXPLICIT, directory, Rejected(f"no {library} library in this directory"))


def _with_cuda_runtime(
    sets: Iterable[LibrarySet], config: NativeLibraryConfig, decisions: list[Decision]
) -> Iterator[LibrarySet]:
    """Yield the sets with the CUDA runtime of this machine before them, where their CUDA backend wants one.

    A set that would miss it is dropped, unless it brings its own or the check of this host is skipped.
    """
    known: dict[str, CudaRuntime | str] = {}  # a search in vain takes 40 ms, and many sets share a backend
    for item in sets:
        gpu = next((file for file in item.files if file.role is Role.GPU and file.label == Backend.CUDA), None)
        if gpu is None or item.platform != Platform.current():
            yield item
            continue
        if (key := gpu.declared or gpu.path) not in known:
            known[key] = _cuda_runtime(item, gpu, decisions)
        from nativeload.resolve.published import without_cuda_runtime

        bare = without_cuda_runtime(item)
        found = known[key]
        if not isinstance(found, str):
            # What the loader or this process has is opened by its path too: the probe's child has nothing mapped.
            plain = tuple(LibraryFile(path=path, role=Role.RUNTIME, label="cuda runtime") for path in found.paths)
            yield replace(bare, files=(*(found.files or plain), *bare.files))
            if bare != item:
                yield item
        elif not found or bare != item or config.skip_check:
            yield item
        elif (decision := Decision(item.source, f"{item.origin}: {gpu.name}", Rejected(found))) not in decisions:
            decisions.append(decision)


def _once_each(sets: Iterable[LibrarySet]) -> list[LibrarySet]:
    """Keep one of two sets that differ in whose CUDA runtime they have: one that is here, else the first."""
    kept: dict[tuple[str, str], LibrarySet] = {}
    for item in sets:
        key = (
            item.origin,
            "/".join(file.declared or file.path for file in item.files if file.role is not Role.RUNTIME),
        )
        before = kept.setdefault(key, item)
        if before.source is Source.DOWNLOAD and item.source is Source.CACHED:
            kept[key] = item
    return list(kept.values())


def _cuda_runtime(item: LibrarySet, gpu: LibraryFile, decisions: list[Decision]) -> CudaRuntime | str:
    """Return the runtime that a CUDA backend wants, or why there is none; empty where it wants none."""
    from nativeload.resolve import cuda_runtime

    names = cuda_runtime.wanted(gpu.wants or _wants(gpu))
    if not names:
        return ""
    found = cuda_runtime.search(names)
    if isinstance(found, str):
        return found
    verdict = Accepted(f"CUDA {found.major} runtime from {found.place}")
    decisions.append(Decision(item.source, f"{item.origin}: {gpu.name}", verdict))
    return found


def _wants(file: LibraryFile) -> tuple[str, ...]:
    from nativeload.elf import read_elf

    try:
        return read_elf(file.path).needed
    except LoadError:  # whatever is wrong with it is found where its set is verified
        return ()


def _with_cuda_major(bundle: Bundle, config: NativeLibraryConfig) -> Bundle:
    """Read which CUDA a bundle's CUDA backends were built for, where a major was asked for."""
    if bundle.pin is not None or type(wanted(config, Backend.CUDA)) is not int:
        return bundle
    from nativeload.resolve.cuda_runtime import major_of

    return replace(bundle, gpus=tuple(replace(file, cuda=major_of(_wants(file))) for file in bundle.gpus))


def _constrained(
    sets: Sequence[LibrarySet],
    config: NativeLibraryConfig,
    host: Host,
    pinned: Pinned | None,
    decisions: list[Decision],
) -> tuple[tuple[LibrarySet, ...], tuple[Backend, ...]]:
    """Apply the constraints that come before the order of sources, and the user's own policy.

    Returns the sets that are left, and the required backends for want of which others were dropped.
    """
    kept: list[LibrarySet] = []
    unmet: dict[Backend, None] = {}
    for item in sets:
        # A library that carries its backends inside shows them only in the probe.
        lacking = [backend for backend in required(config) if item.cpu is not None and item.gpu != backend]
        if pinned is not None and pinned.strict and item.pin != str(pinned.pin):
            decisions.append(Decision(item.source, str(item), Rejected("not the pinned build")))
        elif not lacking:
            kept.append(item)
        elif item.origin not in {other.origin for other in kept}:
            unmet |= dict.fromkeys(lacking)
            reason = f"{lacking[0]} is required, and no {lacking[0]} backend of this place can be used"
            decisions.append(Decision(item.source, item.origin, Rejected(reason)))
    if config.selecting_policy is None:
        return tuple(kept), tuple(unmet)
    policy = tuple(config.selecting_policy(tuple(kept), host))
    dropped = Rejected("dropped by the selecting policy")
    decisions.extend(Decision(item.source, str(item), dropped) for item in kept if item not in policy)
    return policy, tuple(unmet)
