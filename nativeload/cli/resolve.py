"""``nativeload resolve``: which library would be used here?"""

from __future__ import annotations

from typing import Any

import click

from nativeload.cli.options import config_of, library_argument, library_options
from nativeload.cli.report import print_json, print_resolution
from nativeload.errors import NativeLoadError
from nativeload.resolve.resolution import Decision, Rejected, Resolution, Source


@click.command("resolve")
@library_argument
@click.option("--explain", is_flag=True, help="Print every candidate with the reason why it was taken or not.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@library_options
def command(library: str, *, explain: bool, as_json: bool, **said: Any) -> None:
    """Say which library would be used here, and verify it. Nothing is opened."""
    try:
        print_resolution(config_of(library, said).resolve(), as_json=as_json, explain=explain)
    except NativeLoadError as error:
        resolution = getattr(error, "resolution", None)
        if as_json and resolution is not None:
            print_resolution(resolution, as_json=True, explain=False)
        elif as_json and (path := getattr(error, "path", None)) is not None:
            rejected = Decision(Source.EXPLICIT, path, Rejected(str(error.args[0])))
            print_json(Resolution(library=library, chosen=None, decisions=(rejected,)).to_dict())
        raise
