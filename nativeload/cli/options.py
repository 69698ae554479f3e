"""The options that say which library is wanted: the same words as the config's and the environment's.

One rule: an option's word is read by the reader that reads its environment variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nativeload import settings
from nativeload.config import NativeLibraryConfig
from nativeload.errors import ConfigError
from nativeload.variant import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Callable

# option -> (field of the config, help); the variable that says the same stands in settings.OPTIONS
_OPTIONS = {
    "--path": ("path", "Use this library file or directory and no other."),
    "--sha256": ("sha256", "The digest the file must have."),
    "--backend": ("wants", "auto, cpu, or a list such as cuda, cuda=13, cuda=require, vulkan=off."),
    "--cpu": ("cpu", "CPU ceiling: none, avx, avx2, avx512, or a variant such as zen4."),
    "--package": ("packages", "Accept this distribution as a backend package (a comma-separated list)."),
    "--search-directory": (
        "search_directories",
        "Look here too, before the installed packages (a path list).",
    ),
    "--pin": ("pin", "Only sets of this manifest: BUILD@sha256:DIGEST."),
    "--lock": ("lock", "Only sets of the manifests that this lock file pins."),
    "--repo": ("repo", "The Hub repository of the pinned manifest, such as owner/name."),
    "--commit": ("commit", "The commit of that repository, 40 hex digits."),
    "--endpoint": ("endpoint", "The Hub, or a web server or file:// folder of what `prefetch` wrote."),
    "--proxy": ("proxy", "The proxy for downloads."),
    "--timeout": ("timeout", "Seconds to connect, and that a download may stall."),
    "--cache": ("cache_dir", "Where sets, receipts and probe verdicts are kept (default ~/.llama-py)."),
    "--shared-cache": ("shared_caches", "Directories laid out as a cache that are only read (a path list)."),
    "--verify": ("verify", "always: hash every file on every start; stamp: large ones by their stamp."),
    "--python": ("python", "Command that starts Python for the probe."),
}
_SWITCHES = {
    "--auto-download/--no-auto-download": ("auto_download", "Whether what is pinned and missing is fetched."),
    "--offline/--no-offline": ("offline", "Forbid every download, whatever else is said."),
    "--fallback/--no-fallback": (
        "auto_fallback",
        "Whether a lesser set may serve where the best one cannot.",
    ),
    "--skip-check/--no-skip-check": ("skip_check", "Skip the check of this host; integrity and probe stay."),
    "--allow-unverified/--no-allow-unverified": (
        "allow_unverified",
        "Try a libllama of unknown layout in a child process, and use it if it works there.",
    ),
}


def library_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; they arrive as keyword arguments named after the config's fields."""
    return some_library_options(*settings.OPTIONS)(command)


def some_library_options(*fields: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that say these fields of the config."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option, (field, text) in reversed({**_OPTIONS, **_SWITCHES}.items()):
            if field in fields:
                command = click.option(option, field, default=None, help=f"{text} [{_variable(field)}]")(command)
        return command

    return add


def _variable(field: str) -> str:
    return settings.OPTIONS[field][0][0]


def library_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the optional LIBRARY argument."""
    return click.argument("library", default="llama", type=click.Choice(LIBRARIES))(command)


def config_of(library: str, said: dict[str, Any]) -> NativeLibraryConfig:
    """Return the config that the options say.

    Raises:
        ConfigError: naming the option.
    """
    names = {field: option.partition("/")[0] for option, (field, _) in {**_OPTIONS, **_SWITCHES}.items()}
    values: dict[str, Any] = {}
    for field, value in said.items():
        if value is None:
            continue
        try:
            values[field] = settings.OPTIONS[field][2](value) if isinstance(value, str) else value
        except ConfigError as error:
            raise error.under(names[field]) from error
    return NativeLibraryConfig(library, **values)
