"""Which manifest is the one to go by, who says so, and is it at hand?

One rule: a pin comes from the user, else from the lock file the user named, else from this installed package; never
from a folder or a server. What those bring is checked against it. (A config for which nobody says a pin may use what
was pinned before and is in the cache: `nativeload.resolve.offers`.)

The package carries ``pins.json`` and the pinned manifests. A lock file is ``{"format": 1, "libraries": {"llama":
{"pin", "repo", "commit", "manifest": {...}}}}``: the manifest itself stands in it, to be reviewed with it.
"""

from __future__ import annotations

import os

from nativeload.cache.digests import read_regular
from nativeload.errors import ConfigError, ManifestError
from nativeload.manifest import Pin, canonical, manifest_path
from nativeload.strict_json import parse_json
from nativeload.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nativeload.config import NativeLibraryConfig

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_FORMAT = 1
_SCHEMA = 1
_LIMIT = 8 << 20  # bytes of a lock file
_DAMAGED = "This package is damaged: install it again."


class Pinned(Value, kw_only=True):
    """A pin and what it was said with.

    Attributes:
        pin: build and digest.
        repo: the Hub repository, such as ``org/name``; None where nobody said.
        commit: its commit, 40 hex digits; None where nobody said.
        origin: who says so, for people.
        strict: whether nothing but this manifest may serve: what a user or a lock file pins excludes all else, what
            this package pins is what a download brings.
        manifest: the manifest's bytes, where the origin carries them.
    """

    pin: Pin
    repo: str | None = None
    commit: str | None = None
    origin: str
    strict: bool
    manifest: bytes | None = None


def pinned(config: NativeLibraryConfig, *, package: str | None = None) -> Pinned | None:
    """Return the pin of a settled config's library, or None where nobody pins it.

    Raises:
        ConfigError: the lock file cannot be read.
        ManifestError: the lock file, or this package's pins, are not of the form.
    """
    if config.pin is not None:
        pin = Pin.parse(config.pin)
        said = Pinned(pin=pin, repo=config.repo, commit=config.commit, origin="the pin", strict=True)
        same = next(
            (item for item in (_locked(config), shipped(config.library, package)) if item and item.pin == pin), None
        )
        return _filled(said, same)
    return _overridden(_locked(config) or shipped(config.library, package), config)


def _filled(said: Pinned, other: Pinned | None) -> Pinned:
    """Complete what the user said of a pin with what else is known of that very pin."""
    if other is None:
        return said
    return Pinned(
        pin=said.pin,
        repo=said.repo or other.repo,
        commit=said.commit or (other.commit if said.repo in (None, other.repo) else None),
        origin=said.origin,
        strict=said.strict,
        manifest=other.manifest,
    )


def _overridden(found: Pinned | None, config: NativeLibraryConfig) -> Pinned | None:
    """Let the user name another repository that holds the same bytes."""
    if found is None or (config.repo is None and config.commit is None):
        return found
    said = Pinned(pin=found.pin, repo=config.repo, commit=config.commit, origin=found.origin, strict=found.strict)
    return _filled(said, found)


def shipped(library: str, package: str | None = None) -> Pinned | None:
    """Return what this installed package pins; None while nothing is published for the library.

    Raises:
        ManifestError: the package is damaged.
    """
    folder = package or _PACKAGE
    path = os.path.join(folder, "pins.json")
    table = _json(path, _DAMAGED)
    libraries = table.get("libraries")
    if not _is_number(table.get("schema"), _SCHEMA) or not isinstance(libraries, dict):
        raise ManifestError(path, f"not the pins of schema {_SCHEMA}", hint=_DAMAGED)
    if (entry := libraries.get(library)) is None:
        return None
    found = _entry(entry, path, strict=False, has_manifest=False)
    kept = os.path.join(folder, manifest_path(found.pin.digest))
    return replace(found, origin="this release", manifest=_read(kept, _DAMAGED))


def _is_number(value: object, number: int) -> bool:
    return type(value) is int and value == number  # True and 1.0 equal 1


def _locked(config: NativeLibraryConfig) -> Pinned | None:
    if config.lock is None:
        return None
    table = _json(config.lock, "Name a lock file that can be read, or none.")
    if not _is_number(table.get("format"), _FORMAT):
        hint = "Upgrade nativeload: pip install --upgrade nativeload."
        raise ManifestError(
            config.lock, f"format {table.get('format')!r:.20}, and this release reads {_FORMAT}", hint=hint
        )
    libraries = table.get("libraries")
    entry = libraries.get(config.library) if isinstance(libraries, dict) else None
    if entry is None:
        raise ManifestError(config.lock, f"it does not lock {config.library}")
    return _entry(entry, config.lock, strict=True, has_manifest=True)


def _entry(entry: object, origin: str, *, strict: bool, has_manifest: bool) -> Pinned:
    from nativeload.settings import commit_word, repo_word

    texts = {"pin", "repo", "commit"}
    keys = texts | ({"manifest"} if has_manifest else set())
    if not isinstance(entry, dict) or set(entry) != keys or not all(isinstance(entry[key], str) for key in texts):
        raise ManifestError(origin, f"an entry has the keys {', '.join(sorted(keys))}, all but the manifest text")
    try:
        pin = Pin.parse(entry["pin"])
        repo, commit = repo_word(entry["repo"]), commit_word(entry["commit"])
    except (ConfigError, ManifestError) as error:
        raise ManifestError(origin, str(error.args[0])) from error
    # What a manifest in a lock file stands for is its canonical text; that is checked against the pin beside it.
    raw = canonical(entry["manifest"]) if has_manifest and isinstance(entry["manifest"], dict) else None
    if has_manifest and raw is None:
        raise ManifestError(origin, "its manifest is no object")
    return Pinned(pin=pin, repo=repo, commit=commit, origin=origin, strict=strict, manifest=raw)


def _read(path: str, hint: str) -> bytes:
    try:
        raw = read_regular(path, _LIMIT + 1)
    except OSError as error:
        raise ConfigError(path, error.strerror or str(error), hint=hint) from error
    if len(raw) > _LIMIT:
        raise ManifestError(path, f"larger than {_LIMIT} bytes", hint=hint)
    return raw


def _json(path: str, hint: str) -> dict[str, Any]:
    try:
        table = parse_json(_read(path, hint), path)
    except ManifestError as error:
        raise ManifestError(path, error.message, hint=error.hint or hint) from error
    if not isinstance(table, dict):
        raise ManifestError(path, "no JSON object", hint=hint)
    return table
