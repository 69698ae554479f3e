"""What does one build of one library consist of, on all platforms?

One rule: a manifest's digest is checked before anything of it is parsed, and what is not exactly of the form is
refused. docs/manifest.md describes the form.
"""

from __future__ import annotations

import hashlib

from nativeload import cpu_variants
from nativeload.errors import IntegrityError, ManifestError
from nativeload.requirement import Requirement
from nativeload.strict_json import parse_json
from nativeload.value import Value
from nativeload.variant import GPU_BACKENDS, LIBRARIES, Platform, Role, is_sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SCHEMA = 1
SIZE_LIMIT = 1 << 20  # bytes of a manifest
FILE_LIMIT = 4 << 30  # bytes of one artifact
SET_LIMIT = 8 << 30  # bytes of all artifacts of one platform and flavour
COUNT_LIMIT = 1024  # artifacts
_LONGEST = 127
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}


def manifest_path(digest: str) -> str:
    """Return where a repository, a cache and this package keep the manifest of this digest."""
    return f"manifests/{digest}.json"


class Pin(Value):
    """One line that fixes every byte of every platform: ``<build>@sha256:<digest of the manifest>``."""

    build: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Pin:
        """Read a pin.

        Raises:
            ManifestError: it is not of the form.
        """
        build, at, digest = text.partition("@sha256:")
        if not at or not _is(build, _NAME) or not is_sha256(digest):
            raise ManifestError("pin", f"{text[:_LONGEST]!r} is not <build>@sha256:<64 hex digits>")
        return cls(build, digest)

    def __str__(self) -> str:
        return f"{self.build}@sha256:{self.digest}"


class Artifact(Value, kw_only=True):
    """One file of a build.

    Attributes:
        path: in the repository, unique.
        name: on disk: the name by which other files want it; unique within a set.
        platform: what it runs on.
        flavours: the kinds of set it is part of (``cpu``, ``cuda``): equal bytes are listed once.
        role: ``runtime``, ``core`` (listed in load order, the library last), ``gpu`` or ``cpu``.
        label: the variant of a CPU backend, the backend of a GPU one, the bare name of any other.
        size: bytes.
        sha256: hex.
        needs: names of the libraries it wants that are no part of the build.
        requirements: what a machine must have.
    """

    path: str
    name: str
    platform: Platform
    flavours: tuple[str, ...]
    role: Role
    label: str
    size: int
    sha256: str
    needs: tuple[str, ...] = ()
    requirements: tuple[Requirement, ...] = ()


class Manifest(Value, kw_only=True):
    """Everything one build of one library contains.

    Attributes:
        library: ``llama``, ``whisper`` or ``ggml``.
        build: ``b11146``, ``v1.9.3``.
        aliases: other names of the build, such as ``v0.5.0``.
        revision: 1, and one more for each later manifest of the same build.
        repo, commit: where the build comes from upstream; the commit is None where nobody told.
        layout: the llama.h (or whisper.h) it was compiled with, as `nativeload_llama` names it; None where unknown.
        artifacts: in load order within a role.
        licences: SPDX expressions.
    """

    library: str
    build: str
    aliases: tuple[str, ...] = ()
    revision: int = 1
    repo: str
    commit: str | None = None
    layout: str | None = None
    artifacts: tuple[Artifact, ...]
    licences: tuple[str, ...] = ()

    @property
    def pin(self) -> Pin:
        """The pin of these bytes."""
        return Pin(self.build, hashlib.sha256(self.to_bytes()).hexdigest())

    def to_bytes(self) -> bytes:
        """Return the canonical text."""
        table = {
            "schema": SCHEMA,
            "library": self.library,
            "build": self.build,
            "aliases": list(self.aliases),
            "revision": self.revision,
            "upstream": {"repo": self.repo, "commit": self.commit},
            "layout": self.layout,
            "artifacts": [_written(item) for item in self.artifacts],
            "licences": list(self.licences),
        }
        return canonical(table)

    @classmethod
    def parse(cls, raw: bytes, pin: Pin, origin: str) -> Manifest:
        """Read a manifest whose digest is known beforehand.

        Args:
            raw: its bytes.
            pin: what it must be.
            origin: where the bytes come from, for errors.

        Raises:
            IntegrityError: these are not the pinned bytes. Nothing was parsed.
            ManifestError: they are, and not of a form this release reads.
        """
        if (actual := hashlib.sha256(raw).hexdigest()) != pin.digest:
            raise IntegrityError(
                origin, expected=f"the pinned manifest, sha256 {pin.digest}", actual=f"sha256 {actual}"
            )
        manifest = read(raw, origin)
        if manifest.build != pin.build:
            raise ManifestError(origin, f"it describes {manifest.build}, and the pin says {pin.build}")
        return manifest

    def flavours(self, platform: Platform) -> tuple[str, ...]:
        """Return the flavours that exist for a platform, in the order of the artifacts."""
        names = (name for item in self.artifacts if item.platform == platform for name in item.flavours)
        return tuple(dict.fromkeys(names))

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms there are artifacts for."""
        return tuple(dict.fromkeys(item.platform for item in self.artifacts))


def canonical(table: dict[str, Any]) -> bytes:
    """Return the one text of a manifest: ASCII, keys sorted, no blanks, a line for each key and for each artifact."""
    import json

    def compact(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    lines = []
    for key in sorted(table):
        value = table[key]
        items = value if key == "artifacts" and isinstance(value, list) else None
        text = compact(value) if items is None else "[\n" + ",\n".join(map(compact, items)) + "\n]"
        lines.append(f"{compact(key)}:{text}")
    return ("{" + ",\n".join(lines) + "}\n").encode()


def read(raw: bytes, origin: str) -> Manifest:
    """Read a manifest's bytes, whose digest somebody has checked.

    Raises:
        ManifestError: they are not of the form.
    """
    if len(raw) > SIZE_LIMIT:
        raise ManifestError(origin, f"larger than {SIZE_LIMIT} bytes")
    table = parse_json(raw, origin)
    try:
        manifest = _manifest(table)
    except ManifestError as error:
        raise ManifestError(origin, f"{error.origin}: {error.message}", hint=error.hint) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(origin, f"not a manifest: {type(error).__name__}: {str(error)[:80]}") from error
    if canonical(table) != raw:
        raise ManifestError(origin, "not the canonical text of what it says", hint="`nativeload publish` writes it.")
    return manifest


def _manifest(table: dict[str, Any]) -> Manifest:
    if not isinstance(table, dict) or type(table.get("schema")) is not int:
        raise ManifestError("schema", "missing")
    if table["schema"] != SCHEMA:
        hint = "Upgrade nativeload: pip install --upgrade nativeload."
        raise ManifestError("schema", f"schema {table['schema']}, and this release reads {SCHEMA}", hint=hint)
    _keys(table, "schema library build aliases revision upstream layout artifacts licences", "the manifest")
    _keys(table["upstream"], "repo commit", "upstream")
    artifacts = tuple(map(_named, _list(table["artifacts"], "artifacts", COUNT_LIMIT)))
    if not artifacts:
        raise ManifestError("artifacts", "there are none")
    _refuse_collisions(artifacts)
    upstream = table["upstream"]
    return Manifest(
        library=_one_of(table["library"], LIBRARIES, "library"),
        build=_file_name(table["build"], "build"),
        aliases=tuple(_name(item, "alias") for item in _list(table["aliases"], "aliases", 16)),
        revision=_number(table["revision"], "revision", 1 << 20),
        repo=_line(upstream["repo"], "upstream.repo"),
        commit=_optional(upstream["commit"], _name, "upstream.commit"),
        layout=_optional(table["layout"], _name, "layout"),
        artifacts=artifacts,
        licences=tuple(_line(item, "licence") for item in _list(table["licences"], "licences", 64)),
    )


def _named(item: dict[str, Any]) -> Artifact:
    """Read an artifact; what is wrong with it is said with its name."""
    try:
        return _artifact(item)
    except ManifestError as error:
        name = item.get("name") if isinstance(item, dict) else None
        raise ManifestError(f"artifact {str(name)[:_LONGEST]!r}", f"{error.origin}: {error.message}") from error


def _artifact(item: dict[str, Any]) -> Artifact:
    _keys(item, "path name platform flavours role label size sha256 needs requirements", "an artifact")
    name = _file_name(item["name"])
    flavours = tuple(_word(each, "flavour") for each in _list(item["flavours"], "flavours", 16))
    if not flavours or len(set(flavours)) != len(flavours):
        raise ManifestError(name, "its flavours are none, or one of them is there twice")
    if not is_sha256(item["sha256"]):
        raise ManifestError(name, f"{str(item['sha256'])[:_LONGEST]!r} is not a sha256")
    role = Role(item["role"])
    return Artifact(
        path=_path(item["path"]),
        name=name,
        platform=Platform(item["platform"]),
        flavours=flavours,
        role=role,
        label=_label(item["label"], role),
        size=_number(item["size"], f"the size of {name}", FILE_LIMIT),
        sha256=item["sha256"],
        needs=tuple(_line(each, "needs") for each in _list(item["needs"], "needs", 256)),
        requirements=tuple(Requirement.parse(each) for each in _list(item["requirements"], "requirements", 64)),
    )


def _written(item: Artifact) -> dict[str, Any]:
    return {
        "path": item.path,
        "name": item.name,
        "platform": str(item.platform),
        "flavours": list(item.flavours),
        "role": str(item.role),
        "label": item.label,
        "size": item.size,
        "sha256": item.sha256,
        "needs": list(item.needs),
        "requirements": [str(each) for each in item.requirements],
    }


def _refuse_collisions(artifacts: tuple[Artifact, ...]) -> None:
    """Refuse two files where a file system, or a person, would see one, and sets larger than any real one."""
    paths: set[str] = set()
    folders: set[str] = set()
    names: set[tuple[str, str, str]] = set()
    sizes: dict[tuple[str, str], int] = {}
    for item in artifacts:
        if item.path.lower() in paths:
            raise ManifestError(item.path, "two artifacts have this path")
        paths.add(item.path.lower())
        folders.update(item.path.lower()[:end] for end, sign in enumerate(item.path) if sign == "/")
        for flavour in item.flavours:
            place = (str(item.platform), flavour)
            if (key := (*place, item.name.lower())) in names:
                raise ManifestError(item.name, f"two artifacts of {item.platform} {flavour} have this name")
            names.add(key)
            sizes[place] = sizes.get(place, 0) + item.size
            if sizes[place] > SET_LIMIT:
                raise ManifestError(" ".join(place), f"more than {SET_LIMIT} bytes")
    if both := paths & folders:
        raise ManifestError(min(both), "this path is a file, and leads to another one")


def _keys(table: object, names: str, what: str) -> None:
    wanted = set(names.split())
    if not isinstance(table, dict) or set(table) != wanted:
        odd = sorted(set(table) ^ wanted, key=str)[:3] if isinstance(table, dict) else [type(table).__name__]
        raise ManifestError(what, f"missing or unknown: {', '.join(repr(str(key)[:40]) for key in odd)}")


def _list(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ManifestError(what, f"not a list of at most {most}")
    return value


def _number(value: object, what: str, most: int) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise ManifestError(what, f"{str(value)[:24]!r} is not a whole number from 1 to {most}")
    return value


def _is(text: object, signs: frozenset[str]) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _LONGEST and set(text) <= signs and text[0] not in ".-"


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not _is(value, _NAME) or ".." in value:
        raise ManifestError(what, f"{str(value)[:_LONGEST]!r} is not a plain name")
    return value


def _word(value: object, what: str) -> str:
    if not isinstance(value, str) or not _is(value, _WORD):
        raise ManifestError(what, f"{str(value)[:_LONGEST]!r} is not a word of a-z 0-9 . _ -")
    return value


def _file_name(value: object, what: str = "name") -> str:
    """Read a name that means one and the same plain file, or directory, on every system."""
    name = _name(value, what)
    if name[-1] == "." or name.partition(".")[0].lower() in _DEVICES:
        raise ManifestError(what, f"{name!r} is no file on Windows")
    return name


def _path(value: object) -> str:
    """Read a path in the repository: plain names, no step up."""
    if not isinstance(value, str) or len(value) > 512 or value.count("/") > 15:  # noqa: PLR2004
        raise ManifestError("path", f"{str(value)[:_LONGEST]!r} is not a path")
    for part in value.split("/"):
        _file_name(part)
    return value


def _line(value: object, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():  # noqa: PLR2004
        raise ManifestError(what, f"{str(value)[:40]!r} is not one line of text")
    return value


def _one_of(value: object, words: tuple[str, ...], what: str) -> str:
    if value not in words or not isinstance(value, str):
        raise ManifestError(what, f"{str(value)[:40]!r} is none of {', '.join(words)}")
    return value


def _optional(value: object, reader: Callable[[object, str], str], what: str) -> str | None:
    return None if value is None else reader(value, what)


def _label(value: object, role: Role) -> str:
    label = _word(value, "label")
    known: tuple[str, ...] | None = None
    if role is Role.GPU:
        known = tuple(map(str, GPU_BACKENDS))
    elif role is Role.CPU:
        known = (*cpu_variants.X86_64, *cpu_variants.ARM64)
    if known is not None and label not in known:
        raise ManifestError("label", f"{label!r} is no label of a {role} artifact")
    return label
