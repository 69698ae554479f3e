"""What does a backend package say of itself, in the ``nativeload_backend.json`` beside its library files?

One rule: its digest is checked before it is parsed, and what is not exactly of the form is refused.

The file's form: ``{"schema": 1, "library": "llama", "build": "b11146", "platform": "linux-x86_64", "directory": "set",
"artifacts": [{"name", "role": "runtime|core|gpu|cpu", "label", "size", "sha256", "requirements": ["x86_64 :: avx2 ::
on"]}]}``. Core artifacts stand in load order; ``label`` is the variant of a CPU backend, the backend of a GPU one.
"""

from __future__ import annotations

import hashlib
import os

from nativeload import cpu_variants
from nativeload.cache import Stamp
from nativeload.errors import IntegrityError, LoadError
from nativeload.resolve.bundle import Bundle
from nativeload.resolve.resolution import LibraryFile, Source
from nativeload.value import Value, replace
from nativeload.variant import GPU_BACKENDS, Platform, Role, is_sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "nativeload_backend.json"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
_KEYS = {"schema", "library", "build", "platform", "directory", "artifacts"}
_FILE_LIMIT, _JSON_LIMIT, _COUNT_LIMIT = 4 << 30, 1 << 20, 256  # bytes, bytes, files


class BackendPackage(Value, kw_only=True):
    """A backend package's description, read and checked."""

    library: str
    build: str
    platform: Platform
    directory: str
    artifacts: tuple[LibraryFile, ...]  # their path is the bare name

    @property
    def digests(self) -> dict[str, str]:
        """The declared sha256 of each artifact."""
        return {file.path: file.declared or "" for file in self.artifacts}

    def bundle(self, path: str) -> Bundle:
        """Return the files as they lie beside the description.

        Raises:
            IntegrityError: the directory holds a file that is not declared.
            LoadError: the directory cannot be read.
        """
        directory = os.path.join(os.path.dirname(path), self.directory)
        try:
            extra = sorted(set(os.listdir(directory)) - set(self.digests))
        except OSError as error:
            raise LoadError(directory, error.strerror or str(error)) from error
        if extra:
            raise IntegrityError(os.path.join(directory, extra[0]), expected="declared files only", actual="this file")
        files = tuple(replace(file, path=os.path.join(directory, file.path)) for file in self.artifacts)
        return Bundle(
            library=self.library,
            platform=self.platform,
            source=Source.INSTALLED,
            origin=self.directory,
            directory=directory,
            core=tuple(file for file in files if file.role is Role.CORE),
            cpus=tuple(file for file in files if file.role is Role.CPU),
            gpus=tuple(file for file in files if file.role is Role.GPU),
            runtime=tuple(file for file in files if file.role is Role.RUNTIME),
            build=self.build,
            vouched="RECORD",
            own=True,
        )


def read(path: str, *, digest: str) -> BackendPackage:
    """Read a description whose digest RECORD vouches for.

    Raises:
        IntegrityError: these are not the bytes that RECORD vouches for.
        LoadError: it cannot be read, or is not of the form.
    """
    try:
        Stamp.of(path)  # opening a FIFO would hang
        with open(path, "rb") as file:
            raw = file.read(_JSON_LIMIT + 1)
        if len(raw) > _JSON_LIMIT:
            raise LoadError(path, f"larger than {_JSON_LIMIT} bytes")
        if (actual := hashlib.sha256(raw).hexdigest()) != digest:
            raise IntegrityError(path, expected=f"sha256 {digest}", actual=f"sha256 {actual}")
        import json

        return _package(json.loads(raw))
    except OSError as error:
        raise LoadError(path, error.strerror or str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LoadError(path, f"not a backend description: {error}") from error


def _package(table: dict[str, Any]) -> BackendPackage:
    if (
        not isinstance(table, dict)
        or type(table.get("schema")) is not int
        or table["schema"] != 1
        or set(table) != _KEYS
    ):
        raise ValueError(f"schema 1 has the keys {', '.join(sorted(_KEYS))}")
    artifacts = table["artifacts"]
    if not isinstance(artifacts, list) or not 0 < len(artifacts) <= _COUNT_LIMIT:
        raise ValueError("artifacts must be a list of 1 to 256")
    files = tuple(_artifact(item) for item in artifacts)
    names = {file.path.lower() for file in files}
    if len(names) != len(files):
        raise ValueError("two artifacts have one name")
    if not any(file.role is Role.CORE for file in files):
        raise ValueError("no core artifact")
    return BackendPackage(
        library=_word(table["library"]),
        build=_word(table["build"]),
        platform=Platform(table["platform"]),
        directory=_word(table["directory"]),
        artifacts=files,
    )


def _word(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) < 128 or not set(value) <= _NAME or value[0] in ".-":  # noqa: PLR2004
        raise ValueError(f"{value!r} is not a plain name")
    return value


def _artifact(item: dict[str, Any]) -> LibraryFile:
    digest, size = item["sha256"], item["size"]
    if not isinstance(digest, str) or not is_sha256(digest):
        raise ValueError(f"{digest!r} is not a sha256")
    if type(size) is not int or not 0 < size <= _FILE_LIMIT:
        raise ValueError(f"{size!r} is not a file's size")
    role = Role(item["role"])
    label = item.get("label", "")
    known: list[str] | None = None
    if role is Role.GPU:
        known = [str(backend) for backend in GPU_BACKENDS]
    elif role is Role.CPU:
        known = [*cpu_variants.X86_64, *cpu_variants.ARM64]
    if not isinstance(label, str) or (known is not None and label not in known):
        raise ValueError(f"{label!r} is no label of a {role} artifact")
    return LibraryFile(
        path=_word(item["name"]),
        role=role,
        label=_word(label) if label else "",
        needs=frozenset(_feature(text) for text in item.get("requirements", ())),
        size=size,
        declared=digest,
    )


def _feature(text: object) -> str:
    """Read ``x86_64 :: avx2 :: on``; a requirement of another kind is not understood, so the file is refused."""
    parts = str(text).split(" :: ")
    if len(parts) != 3 or parts[0] not in {"x86_64", "aarch64"} or parts[2] != "on":  # noqa: PLR2004
        raise ValueError(f"{text!r} is not a CPU feature requirement")
    return parts[1]
