"""Installed packages for tests, made on disk as an installer leaves them: files, a dist-info folder and its RECORD."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import sys
from pathlib import Path

import packaging.utils  # the product imports it late; here it is imported before sys.path is narrowed
import packaging.version  # noqa: F401 - the same
import pytest

from nativeload.variant import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

SPLIT = {
    "libggml-base.so": b"base",
    "libggml.so": b"ggml",
    "libllama.so": b"llama",
    "libggml-cpu-x64.so": b"x64",
    "libggml-cpu-haswell.so": b"haswell",
}


def sha(content: bytes) -> str:
    """Return the sha256 in hex."""
    return hashlib.sha256(content).hexdigest()


def record_hash(content: bytes) -> str:
    """Return the sha256 as RECORD holds it: urlsafe base64 without padding."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


class SitePackages:
    """A folder that could stand on ``sys.path``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = [str(root)]
        root.mkdir(exist_ok=True)

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, bytes],
        *,
        record: Iterable[str] | None = None,
        unhashed: Iterable[str] = (),
    ) -> Path:
        """Install a distribution; return its dist-info folder.

        Args:
            name: as in the folder's name.
            version: as in the folder's name.
            files: path below site-packages -> content.
            record: the lines of RECORD instead of the true ones.
            unhashed: files that RECORD names without a hash.
        """
        for path, content in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content)
        info = self.root / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = [
            f"{path},," if path in unhashed else f"{path},{record_hash(content)},{len(content)}"
            for path, content in files.items()
        ]
        lines.append(f"{info.name}/RECORD,,")
        text = "".join(f"{line}\n" for line in (lines if record is None else record))
        (info / "RECORD").write_text(text, encoding="utf-8")
        return info

    def add_backend(
        self,
        name: str = "nativeload_llama_test",
        version: str = "1.0",
        *,
        files: Mapping[str, bytes] | None = None,
        table: Mapping[str, Any] | None = None,
        text: bytes | None = None,
    ) -> Path:
        """Install a backend package; return the folder of its description.

        Args:
            name: the distribution's name; its import package is called the same.
            version: its version.
            files: the set's files in load order (default: a split build).
            table: the description instead of the true one.
            text: the description's bytes instead of the true ones.
        """
        files = SPLIT if files is None else files
        described = described_as(files) if table is None else table
        content = {f"{name}/set/{path}": data for path, data in files.items()}
        content[f"{name}/nativeload_backend.json"] = json.dumps(described).encode() if text is None else text
        self.add(name, version, content)
        return self.root / name


def described_as(files: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    """Return the description of a set of files, with some of its keys changed."""
    return {
        "schema": 1,
        "library": "llama",
        "build": "b11146",
        "platform": str(Platform.current()),
        "directory": "set",
        "artifacts": [_artifact(name, content) for name, content in files.items()],
    } | changes


def _artifact(name: str, content: bytes) -> dict[str, Any]:
    stem = name.removeprefix("lib").partition(".")[0]
    variant = stem.removeprefix("ggml-cpu-")
    described: dict[str, Any] = {"name": name, "role": "core", "size": len(content), "sha256": sha(content)}
    if variant != stem:
        needs = {"haswell": ["sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"]}.get(variant, [])
        described |= {"role": "cpu", "label": variant, "requirements": [f"x86_64 :: {need} :: on" for need in needs]}
    elif stem in ("ggml-cuda", "ggml-vulkan"):
        described |= {"role": "gpu", "label": stem.removeprefix("ggml-")}
    elif stem.startswith("gomp"):
        described |= {"role": "runtime"}
    return copy.deepcopy(described)


@pytest.fixture
def site(tmp_path: Path) -> SitePackages:
    """An empty site-packages folder, not yet on ``sys.path``."""
    return SitePackages(tmp_path / "site-packages")


@pytest.fixture
def only_site(site: SitePackages, monkeypatch: pytest.MonkeyPatch) -> SitePackages:
    """The same folder, on ``sys.path`` in place of every other that has distributions."""
    rest = [folder for folder in sys.path if not any(Path(folder or ".").glob("*.dist-info"))]
    monkeypatch.setattr(sys, "path", [str(site.root), *rest])
    return site
