"""What may published builds bring, and from where?

One rule: the manifest goes by the pin, wherever it is found; a set that is not here becomes a download only where a
download is allowed, and nothing is fetched here but the manifest itself.
"""

from __future__ import annotations

import os

from nativeload.errors import ConfigError, IntegrityError, ManifestError, NetworkError
from nativeload.resolve.ranking import rank
from nativeload.resolve.resolution import Decision, LibrarySet, Rejected, Source, Unknown
from nativeload.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nativeload.cache import LibraryCache
    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.manifest import Manifest
    from nativeload.pins import Pinned
    from nativeload.resolve.bundle import Bundle
    from nativeload.resolve.download import Origin


# This package's pinned manifests: the directory is there from the first release that pins a build.
_SHIPPED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "manifests")

_WRONG_PLACE = "Check the repository and the commit: the pinned manifest is not there."


class Offer(Value, kw_only=True):
    """What a manifest offers, and where what is not here may come from."""

    items: tuple[Bundle | Decision, ...] = ()
    pinned: Pinned | None = None
    origin: Origin | None = None
    aliases: tuple[str, ...] = ()
    why_not_fetched: str = ""
    notes: tuple[str, ...] = ()


def ask(config: NativeLibraryConfig, host: Host, caches: Sequence[LibraryCache], *, act: bool) -> Offer:
    """Ask the manifest that goes for this config: the pinned one, else the newest of which the cache has a set.

    Args:
        config: settled.
        host: the machine in question.
        caches: the user's own first.
        act: whether a manifest may be fetched where that is allowed, and a damaged one put away.

    Raises:
        IntegrityError: a manifest is not the pinned one.
        ManifestError: it is, and this release cannot read it.
        NetworkError: it cannot be fetched.
    """
    try:
        return _asked(config, host, caches, act=act)
    except IntegrityError as error:
        if act and caches[0].holds(error.path):
            _put_away(caches[0], error)
        raise


def _asked(config: NativeLibraryConfig, host: Host, caches: Sequence[LibraryCache], *, act: bool) -> Offer:
    pinned: Pinned | None = None
    if config.pin or config.lock or config.auto_download or os.path.isdir(_SHIPPED):
        from nativeload import pins

        pinned = pins.pinned(config)
    if config.path is not None:
        return Offer(pinned=pinned if pinned and pinned.strict else None)
    if pinned is None:
        return _remembered(config, host, caches)
    from nativeload.resolve import cached, published

    roots = _roots(caches)
    origin, why = _origin(config, pinned, caches[0])
    try:
        manifest = cached.manifest_of(pinned, roots)
        if manifest is None and origin is not None and act:
            from nativeload.log import teller
            from nativeload.resolve import download

            manifest = download.manifest(pinned, origin, caches[0], teller(config.log_callback))
    except NetworkError as error:
        from nativeload.resolve.outcome import tell_ways

        tell_ways(error, _WRONG_PLACE, config, host, pinned)
        raise
    if manifest is None:
        verdict = Unknown(f"manifest {pinned.pin.digest} not here: resolve or import it")
        absent: list[Bundle | Decision] = [Decision(Source.CACHED, str(pinned.pin), verdict)]
        if config.auto_download and origin is None:
            absent.append(Decision(Source.DOWNLOAD, str(pinned.pin), Rejected(why)))
        return Offer(items=tuple(absent), pinned=pinned, origin=origin)
    _check_library(manifest, config, pinned)
    items: tuple[Bundle | Decision, ...] = tuple(published.bundles(manifest, pinned.pin, host.platform))
    if not items:
        reason = f"it has nothing for {host.platform}, only for {', '.join(manifest.platforms)}"
        items = (Decision(Source.CACHED, str(pinned.pin), Rejected(reason)),)
    if not pinned.strict and origin is None and not _has_one(items, host, config, roots):
        return _remembered(config, host, caches)  # what this release pins is not here: another build may be
    return Offer(items=items, pinned=pinned, origin=origin, aliases=manifest.aliases, why_not_fetched=why)


def _roots(caches: Sequence[LibraryCache]) -> list[str]:
    return [cache.root for cache in caches if cache.root is not None]


def _has_one(items: Sequence[Bundle | Decision], host: Host, config: NativeLibraryConfig, roots: Sequence[str]) -> bool:
    """Whether a cache has a set of these bundles that the host can run."""
    from nativeload.resolve import cached, published
    from nativeload.resolve.bundle import Bundle

    sets = rank([item for item in items if isinstance(item, Bundle)], host, config).sets
    return any(cached.located(each, roots) for item in sets for each in (item, published.without_cuda_runtime(item)))


def _put_away(cache: LibraryCache, error: IntegrityError) -> None:
    """Take a damaged manifest out of the user's cache, so that the next run finds none there."""
    from nativeload.cache import sets

    if (where := sets.quarantine(cache, error.path)) is not None:
        error.hint = f"The damaged manifest is in {where} now: run again to fetch or import it anew."


def _check_library(manifest: Manifest, config: NativeLibraryConfig, pinned: Pinned) -> None:
    if manifest.library != config.library:
        raise ConfigError("pin", f"{pinned.pin} is a build of {manifest.library}, and {config.library} was asked for")


def _remembered(config: NativeLibraryConfig, host: Host, caches: Sequence[LibraryCache]) -> Offer:
    """Return the newest build of which a set for this host is in a cache, where nothing is pinned."""
    items: list[Bundle | Decision] = []
    notes: tuple[str, ...] = ()
    why = "no download is allowed"
    if config.auto_download:
        why = "offline" if config.offline else f"this release pins no build of {config.library}"
        items.append(Decision(Source.DOWNLOAD, config.library, Rejected(f"{why}: nothing says what to fetch")))
    if config.auto_download and not config.offline:
        from nativeload.resolve.outcome import three_ways

        notes = (f"auto_download is on, and {why}: nothing can be fetched. {three_ways(config.library)}",)
    roots = _roots(caches)
    if not any(os.path.isdir(os.path.join(root, "pins")) for root in roots):
        return Offer(items=tuple(items), notes=notes)
    from nativeload.resolve import cached, published

    for said in cached.remembered(caches, config.library):
        try:
            manifest = cached.manifest_of(said, roots)
        except ManifestError as error:  # of a newer release, which shares this cache
            items.append(Decision(Source.CACHED, str(said.pin), Rejected(error.message)))
            continue
        bundles = published.bundles(manifest, said.pin, host.platform) if manifest else []
        if _has_one(bundles, host, config, roots):
            return Offer(items=(*items, *bundles), why_not_fetched=why, notes=notes)
    return Offer(items=tuple(items), notes=notes)


def _origin(config: NativeLibraryConfig, pinned: Pinned, cache: LibraryCache) -> tuple[Origin | None, str]:
    """Return where missing sets may be fetched from, or why nothing may be."""
    if not config.auto_download:
        return None, "no download is allowed"
    if config.offline:
        return None, "offline"
    if pinned.repo is None or pinned.commit is None:
        return None, "nobody said which repository and commit to fetch it from: with_pin(pin, repo=, commit=)"
    if cache.root is None:
        return None, "there is no cache directory to fetch it into"
    from nativeload.resolve.download import Origin

    return Origin(
        repo=pinned.repo, commit=pinned.commit, endpoint=config.endpoint, proxy=config.proxy, timeout=config.timeout
    ), ""


def placed(
    item: LibrarySet, offer: Offer, caches: Sequence[LibraryCache], decisions: list[Decision]
) -> Iterator[LibrarySet]:
    """Yield a set as it lies in a cache, or as what a download would bring; what is not published lies where it is."""
    if item.pin is None:
        yield item
        return
    from nativeload.resolve import cached
    from nativeload.resolve.published import in_place

    roots = _roots(caches)
    if (there := cached.located(item, roots)) is not None:
        yield there
    elif offer.origin is not None:
        yield replace(in_place(item, roots[0]), source=Source.DOWNLOAD)
    else:
        reason = f"not in the cache, and nothing can be fetched: {offer.why_not_fetched}"
        if not any(each.verdict.reason == reason for each in decisions):  # the best one stands for all
            decisions.append(Decision(Source.CACHED, str(item), Rejected(reason)))
