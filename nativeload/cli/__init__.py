"""The command line: ``nativeload`` and ``python -m nativeload``.

One rule: the only place that prints or exits. Reports go to stdout, talk goes to stderr, errors end with a hint.
"""

from __future__ import annotations

import sys
import warnings

import click

import nativeload
from nativeload.cli.lazy import LazyGroup
from nativeload.errors import ConfigError, NativeLoadError

_VERBS = {
    "run": "Generate text with a model (default: the small story model that comes along).",
    "chat": "Talk with a model.",
    "gguf": "Print the metadata and the tensors of a model file.",
    "bench": "Measure which library, CPU backend and device is the fastest here.",
    "resolve": "Say which library would be used here, and verify it.",
    "plan": "Say which library would be used on this or another machine, without opening anything.",
    "doctor": "Say what this machine has, what is loaded, and what is missing.",
    "prefetch": "Bring what other machines need into a folder that can be carried or served.",
    "import": "Bring such a folder into the cache, without a network.",
    "cache": "List, verify, remove and collect what is in the cache.",
    "publish": "Put a build of a library on a Hub.",
}


@click.group(
    cls=LazyGroup,
    package=__name__,
    lines=_VERBS,
    modules={"import": "import_"},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(nativeload.__version__, prog_name="nativeload")
def cli() -> None:
    """The right native build of llama.cpp for this machine: chosen, checked, probed and loaded.

    Every option can also be said in the environment (NATIVELOAD_PATH, NATIVELOAD_BACKEND, ...) or in the config file.
    """


def _spoken(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    """Say a warning in one line; a file and a line number of ours help nobody."""
    return f"warning: {message}\n" if issubclass(category, UserWarning) else f"{category.__name__}: {message}\n"


def main() -> None:
    """Run the command line; an error of ours ends in its own text and exit status 1 (2 for a wrong option)."""
    warnings.formatwarning = _spoken
    try:
        cli(prog_name="nativeload")
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except NativeLoadError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # a full disk behind stdout
        click.echo(f"error: {error.strerror or error}", err=True)
        sys.exit(1)
