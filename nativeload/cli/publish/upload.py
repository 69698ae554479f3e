"""``nativeload publish upload``: put a build of a library on a Hub."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from nativeload import settings
from nativeload.cli.report import print_json
from nativeload.errors import ConfigError, NativeLoadError
from nativeload.variant import LIBRARIES, build_order


@click.command("upload")
@click.option("--library", type=click.Choice(LIBRARIES), default="llama", show_default=True, help="What it is of.")
@click.option("--build", required=True, help="The build these binaries are of, such as b11146 or v1.9.3.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    required=True,
    metavar="PLATFORM[+FLAVOUR]=DIR",
    help="A directory with one platform's files, such as linux-x86_64=DIR or linux-x86_64+cuda=DIR. Repeat it.",
)
@click.option("--repo", help="The Hub repository, such as owner/name.")
@click.option("--endpoint", help="The Hub (default: huggingface_hub's).")
@click.option("--alias", "aliases", multiple=True, help="Another name of the build, such as v0.5.0. Repeat it.")
@click.option("--revision", type=click.IntRange(1, 1 << 20), default=1, show_default=True, help="Of the manifest.")
@click.option("--upstream", default="ggml-org/llama.cpp", show_default=True, help="The upstream repository.")
@click.option("--upstream-commit", "commit", help="The upstream commit.")
@click.option("--layout", help="The layout of llama.h it was compiled with, such as b10809.")
@click.option("--licence", "licences", multiple=True, default=("MIT",), show_default=True, help="SPDX. Repeat it.")
@click.option("--dry-run", is_flag=True, help="Print the manifest and upload nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: pin, repo, commit.")
def command(
    *,
    library: str,
    build: str,
    sets: tuple[str, ...],
    repo: str | None,
    endpoint: str | None,
    upstream: str,
    dry_run: bool,
    as_json: bool,
    **about: Any,
) -> None:
    """Read builds out of directories, write one manifest, and upload both in one commit.

    What every file needs is read out of the file; the machine code of x86-64 CPU backends is held to its variant.
    """
    from nativeload.publish.artifacts import SetDirectory, collect, manifest_of

    if repo is None and not dry_run:
        raise click.UsageError("Say where to: --repo owner/name (or --dry-run).")
    _check(repo, endpoint)
    _check_build(library, build)
    directories = [SetDirectory.parse(text) for text in sets]
    collected = collect(library, build, directories, lambda line: click.echo(line, err=True))
    manifest = manifest_of(collected, library, build, repo=upstream, **about)
    if dry_run or repo is None:
        click.echo(manifest.to_bytes().decode(), nl=False)
        return
    from nativeload.publish.upload import upload

    if not sys.stderr.isatty():  # huggingface_hub draws its bars into a file as well
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    done = upload(manifest, collected.files, repo, endpoint=endpoint)
    if as_json:
        print_json({"pin": done.pin, "repo": done.repo, "commit": done.commit})
        return
    click.echo(f"pin     {done.pin}\nrepo    {done.repo}\ncommit  {done.commit}")


def _check_build(library: str, build: str) -> None:
    """Builds of one library are compared as numbers, so they have one form: llama's are bN, whisper's vX.Y.Z."""
    kind, numbers = build_order(build)
    if (library, kind) not in {("llama", "b"), ("whisper", "v"), ("ggml", "b"), ("ggml", "v")} or not numbers:
        hint = "A release of llama.cpp is published under its bN: --build b11146 --alias v0.5.0."
        raise ConfigError("--build", f"{build!r} is no build of {library}", hint=hint if library == "llama" else "")


def _check(repo: str | None, endpoint: str | None) -> None:
    """Read the words with the readers of the options of the same names."""
    for option, word, reader in (
        ("--repo", repo, settings.repo_word),
        ("--endpoint", endpoint, settings.endpoint_word),
    ):
        try:
            if word is not None:
                reader(word)
        except ConfigError as error:
            raise error.under(option) from error
    if endpoint is not None and endpoint.startswith("file:"):
        raise NativeLoadError(f"{endpoint}: a folder is written by `nativeload prefetch`, not published to")
