"""``nativeload prefetch``: bring what other machines need into a folder that can be carried or served."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from nativeload.cli.options import config_of, some_library_options
from nativeload.cli.report import print_json
from nativeload.errors import ConfigError, DownloadUnavailableError, NativeLoadError
from nativeload.variant import LIBRARIES, Platform

if TYPE_CHECKING:
    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.pins import Pinned
    from nativeload.resolve.download import Origin
    from nativeload.resolve.prefetch import Prefetched

_USED = (
    "path",
    "wants",
    "pin",
    "lock",
    "repo",
    "commit",
    "endpoint",
    "proxy",
    "timeout",
    "cache_dir",
    "offline",
    "auto_download",
)


@click.command("prefetch")
@click.option("--library", type=click.Choice(LIBRARIES), default="llama", show_default=True, help="What it is of.")
@click.option(
    "--platform", "platforms", multiple=True, type=click.Choice(list(Platform)), help="Repeat it for several."
)
@click.option(
    "--cpu", help="What their processors have at least: none, avx, avx2, avx512, or a variant. [NATIVELOAD_CPU]"
)
@click.option("--cuda", type=click.IntRange(10, 99), help="The CUDA major that the targets' NVIDIA driver supports.")
@click.option(
    "--host", "hosts", multiple=True, type=click.Path(), help="A host recorded by `nativeload doctor --json`."
)
@click.option("--all", "everything", is_flag=True, help="Everything of the build, for all platforms: a mirror.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="The folder; what is there is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@some_library_options(*_USED)
def command(
    *,
    library: str,
    platforms: tuple[str, ...],
    cuda: int | None,
    hosts: tuple[str, ...],
    everything: bool,
    out: str,
    as_json: bool,
    **said: Any,
) -> None:
    """Fetch the sets that some machines need into a folder: `nativeload import` reads it where there is no network.

    Without --platform, --host or --all it is this machine. --cpu is what the targets' processors have at least.
    The folder is a mirror too: any web server can serve it, and --endpoint file:///DIR reads it.
    """
    from nativeload.resolve import prefetch

    config = config_of(library, said).settled()
    pinned, origin = _origin(config)
    from nativeload.cache import LibraryCache, default_root

    cache = LibraryCache(config.cache_dir or default_root())
    raw = prefetch.manifest_for(pinned, origin, cache)
    from nativeload.manifest import Manifest

    manifest = Manifest.parse(raw, pinned.pin, "the pinned manifest")
    targets = [] if everything else _targets(platforms, hosts, config, cuda)
    plain = config.with_avx(None) if platforms else config  # --cpu has gone into the composed hosts
    chosen = [prefetch.best_set(manifest, pinned, host, _wishes(plain, host, cuda)) for host in targets]
    sets = list({item.set_id: item for item in chosen}.values())
    done = prefetch.prefetch(raw, pinned, origin, out, sets, everything=everything, say=_say)
    _report(done, pinned, out, as_json=as_json)


def _say(line: str) -> None:
    """Name each file where there is no bar to watch."""
    if not sys.stderr.isatty():
        click.echo(line, err=True)


def _origin(config: NativeLibraryConfig) -> tuple[Pinned, Origin]:
    from nativeload import pins
    from nativeload.resolve.download import Origin
    from nativeload.resolve.outcome import three_ways

    pinned = pins.pinned(config)
    if config.path is not None:
        raise ConfigError("--path", "prefetch brings what is published: a path names what is here already")
    if pinned is None:
        text = f"this release pins no build of {config.library} to fetch"
        raise DownloadUnavailableError(text, hint=three_ways(config.library))
    if config.auto_download is False:
        raise DownloadUnavailableError("downloads are switched off", hint="Take --no-auto-download back.")
    if config.offline:
        raise DownloadUnavailableError(
            "offline: nothing may be fetched", hint="Take --offline or NATIVELOAD_OFFLINE back."
        )
    if pinned.repo is None or pinned.commit is None:
        raise NativeLoadError(
            f"{pinned.pin}: nobody said where it is", hint="Say --repo owner/name and --commit 40-HEX."
        )
    return pinned, Origin(
        repo=pinned.repo,
        commit=pinned.commit,
        endpoint=config.endpoint,
        proxy=config.proxy,
        timeout=config.timeout,
    )


def _targets(
    platforms: tuple[str, ...], hosts: tuple[str, ...], config: NativeLibraryConfig, cuda: int | None
) -> list[Host]:
    """Compose the hosts; a word that says nothing about one platform must say something about another."""
    from nativeload.host import Host

    recorded = [Host.from_file(path) for path in hosts]
    if not platforms:
        return recorded or [Host.detect()]
    composed = []
    for platform in platforms:
        cpu = config.cpu if _says(config.cpu, platform) else None
        composed.append(Host.compose(platform, cpu=cpu, cuda=None if platform.startswith("macos") else cuda))
    if config.cpu and not any(_says(config.cpu, platform) for platform in platforms):
        Host.compose(platforms[0], cpu=config.cpu)  # raises, in words
    return [*composed, *recorded]


def _wishes(config: NativeLibraryConfig, host: Host, cuda: int | None) -> NativeLibraryConfig:
    """Return the config for one target: --cuda asks for CUDA where there can be a card."""
    if cuda is None or config.wants or host.nvidia is None:
        return config
    return config.with_cuda(cuda)


def _says(cpu: str | None, platform: str) -> bool:
    """Whether a CPU word means something on a platform."""
    from nativeload.cpu_variants import allowed

    try:
        return bool(allowed(cpu, Platform(platform)))
    except ConfigError:
        return False


def _report(done: Prefetched, pinned: Pinned, out: str, *, as_json: bool) -> None:
    sets = [
        {
            "variant": item.variant,
            "platform": str(item.platform),
            "set_id": item.set_id,
            "files": [f.name for f in item.files],
        }
        for item in done.sets
    ]
    if as_json:
        print_json(
            {
                "pin": str(pinned.pin),
                "out": os.path.abspath(out),
                "sets": sets,
                "fetched": done.fetched,
                "present": done.present,
            }
        )
        return
    for item in sets:
        click.echo(f"{item['variant']}: {', '.join(item['files'])}")
    click.echo(f"{done.fetched:,} bytes fetched, {done.present:,} were there", err=True)
    click.echo(f"On the other machine: nativeload import {out} --sha256 {pinned.pin}", err=True)
