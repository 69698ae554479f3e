"""``nativeload plan``: which library would be used on this or another machine?"""

from __future__ import annotations

import sys
from typing import Any

import click

from nativeload.cli.options import config_of, library_argument, library_options
from nativeload.cli.report import print_resolution


@click.command("plan")
@library_argument
@click.option("--host", "host_file", type=click.Path(), help="A host recorded by `nativeload doctor --json`.")
@click.option("--explain", is_flag=True, help="Print every candidate with the reason why it was taken or not.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@library_options
def command(library: str, *, host_file: str | None, explain: bool, as_json: bool, **said: Any) -> None:
    """Say what would be used: no network, no library opened, no child process. Exit status 1: nothing usable."""
    from nativeload.host import Host

    host = Host.from_file(host_file) if host_file else None
    resolution = config_of(library, said).plan(host)
    print_resolution(resolution, as_json=as_json, explain=explain or resolution.chosen is None)
    if resolution.chosen is None:
        sys.exit(1)
