"""``nativeload cache``: what is in the cache, is it right, and what may go?"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from nativeload.cli.options import config_of, some_library_options
from nativeload.cli.report import console, print_json
from nativeload.errors import CacheError
from nativeload.value import fields_of

if TYPE_CHECKING:
    from nativeload.cache import LibraryCache
    from nativeload.cache.upkeep import CachedSet

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_WHERE = some_library_options("cache_dir")


@click.group("cache")
def command() -> None:
    """List, verify, remove and collect what is in the cache."""


def _cache(said: dict[str, Any]) -> LibraryCache:
    from nativeload.cache import LibraryCache, default_root

    cache = LibraryCache(config_of("llama", said).settled().cache_dir or default_root())
    if cache.root is None:
        raise CacheError("~/.llama-py", "this user has no home directory", hint="Name a cache: --cache DIR.")
    return cache


@command.command("list")
@_JSON
@_WHERE
def list_(*, as_json: bool, **said: Any) -> None:
    """List the sets in the cache."""
    from nativeload.cache.upkeep import list_sets

    cache = _cache(said)
    sets = list_sets(cache)
    if as_json:
        print_json({"cache": cache.root, "sets": [fields_of(item) for item in sets]})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("library", "build", "set", "size", "last used"):
        table.add_column(title, justify="right" if title == "size" else "left", overflow="fold")
    for item in sets:
        used = time.strftime("%Y-%m-%d", time.localtime(item.used))
        table.add_row(item.library, escape(item.build), escape(item.name), f"{item.size:,}", used)
    if sets:
        console().print(table)
    click.echo(f"{len(sets)} sets, {sum(item.size for item in sets):,} bytes in {cache.root}", err=True)


@command.command("verify")
@_JSON
@_WHERE
def verify(*, as_json: bool, **said: Any) -> None:
    """Hash every file of every set. Exit status 1: something is not as it should be."""
    from nativeload.cache.upkeep import verify_sets

    cache = _cache(said)
    results = []
    for item, wrong in verify_sets(cache):
        results.append({"directory": item.directory, "wrong": wrong or None})
        if not as_json:
            click.echo(f"{'WRONG' if wrong else 'right'}  {item.directory}{f': {wrong}' if wrong else ''}")
    bad = sum(item["wrong"] is not None for item in results)
    if as_json:
        print_json({"cache": cache.root, "sets": results})
    click.echo(f"{len(results)} sets, {bad} wrong", err=True)
    if bad:
        click.echo("A wrong set is put away when it is next asked for, or now: nativeload cache remove NAME.", err=True)
        sys.exit(1)


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_WHERE
def remove(names: tuple[str, ...], **said: Any) -> None:
    """Remove sets: by the set's name, by LIBRARY/BUILD, or by LIBRARY."""
    from nativeload.cache.upkeep import list_sets, remove_sets

    cache = _cache(said)
    sets = list_sets(cache)
    chosen: dict[str, CachedSet] = {}
    for name in names:
        found = [item for item in sets if name in {item.name, f"{item.library}/{item.build}", item.library}]
        if not found:
            hint = "`nativeload cache list` names what is there; nothing was removed."
            raise CacheError(cache.root or "", f"no set, build or library {name!r} is in the cache", hint=hint)
        chosen |= {item.directory: item for item in found}
    freed = remove_sets(cache, chosen.values())
    click.echo(f"removed {len(chosen)} sets, {freed:,} bytes", err=True)


@command.command("gc")
@click.option("--unused-for", type=click.FloatRange(min=0), metavar="DAYS", help="Also sets not read for so many days.")
@_JSON
@_WHERE
def gc(*, unused_for: float | None, as_json: bool, **said: Any) -> None:
    """Remove what is of no more use: unfinished work, old quarantine, receipts of files that are gone."""
    from nativeload.cache.upkeep import collect

    done = collect(_cache(said), unused_days=unused_for)
    if as_json:
        print_json(fields_of(done))
        return
    parts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in fields_of(done).items() if name != "bytes")
    click.echo(f"removed {parts}; {done.bytes:,} bytes freed", err=True)
