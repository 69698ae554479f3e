"""``nativeload import``: bring a folder that `prefetch` wrote into the cache, without a network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from nativeload.cli.options import config_of, some_library_options
from nativeload.cli.report import print_json
from nativeload.errors import ConfigError, NativeLoadError
from nativeload.variant import LIBRARIES, is_sha256

if TYPE_CHECKING:
    from nativeload.config import NativeLibraryConfig
    from nativeload.pins import Pinned


@click.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--library", type=click.Choice(LIBRARIES), default="llama", show_default=True, help="What it is of.")
@click.option("--sha256", "digest", help="The pin it must be: BUILD@sha256:DIGEST, or the digest alone.")
@click.option(
    "--shared", is_flag=True, help="Make --cache a directory that other users read (NATIVELOAD_SHARED_CACHE)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@some_library_options("cache_dir", "pin", "lock", "cpu", "wants")
def command(folder: str, *, library: str, digest: str | None, shared: bool, as_json: bool, **said: Any) -> None:
    """Bring the sets of FOLDER into the cache, each file held to the pinned manifest.

    What is pinned is said here (--sha256), by NATIVELOAD_PIN, by a lock file or by this release; the folder's own word
    counts for nothing.
    """
    from nativeload.cache import LibraryCache, default_root
    from nativeload.host import Host
    from nativeload.resolve.import_folder import import_folder

    config = config_of(library, said).settled()
    pinned = _pinned(config, folder, digest)
    if shared and said["cache_dir"] is None:
        raise click.UsageError("--shared needs --cache DIR: the directory that others shall read.")
    cache = LibraryCache(config.cache_dir or default_root(), shared=shared)
    cache.check_usable()
    sets = import_folder(
        folder, pinned, cache, host=Host.detect(), config=config, say=lambda line: click.echo(line, err=True)
    )
    if as_json:
        listed = [{"variant": item.variant, "directory": item.directory, "set_id": item.set_id} for item in sets]
        print_json({"pin": str(pinned.pin), "sets": listed})
        return
    for item in sets:
        click.echo(f"{item.variant}  {item.directory}")


def _pinned(config: NativeLibraryConfig, folder: str, digest: str | None) -> Pinned:
    from nativeload import pins
    from nativeload.manifest import Pin
    from nativeload.resolve.import_folder import pin_of
    from nativeload.settings import pin_word

    if digest is not None:
        bare = digest.removeprefix("sha256:")
        try:
            pin = pin_of(folder, bare) if is_sha256(bare) else Pin.parse(pin_word(digest))
        except ConfigError as error:
            raise error.under("--sha256") from error
        said = pins.pinned(config)
        if said is not None and said.strict and said.pin != pin:
            raise ConfigError("--sha256", f"{pin} is not what {said.origin} says: {said.pin}")
        return pins.Pinned(pin=pin, origin="--sha256", strict=True)
    pinned = pins.pinned(config)
    if pinned is None:
        text = f"{os.path.abspath(folder)}: nobody says which build of {config.library} this should be"
        hint = "Say the pin that its maker published: --sha256 BUILD@sha256:DIGEST (or NATIVELOAD_PIN, or a lock file)."
        raise NativeLoadError(text, hint=hint)
    return pinned
