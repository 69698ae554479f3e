"""How does a test get a published build: a manifest, its files, and a Hub (or a folder) that has them?

One rule: the manifest is what `nativeload publish` would write, made from the files that are there; only what the test
says of them (requirements) is not read out of the files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from nativeload import cpu_variants
from nativeload.manifest import Artifact, Manifest
from nativeload.requirement import Requirement
from nativeload.resolve.bundle import classify
from nativeload.variant import Platform, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nativeload.resolve.resolution import LibraryFile
    from tests.hub import Hub

REPO = "nativeload/llama-test"
BUILD = "b11146"
CORE = ("libggml-base.so", "libggml.so", "libllama.so")
"""The core of a build for Linux."""


class Release:
    """A manifest and where the bytes of its artifacts are."""

    def __init__(self, manifest: Manifest, files: Mapping[str, Path]) -> None:
        self.manifest, self.files = manifest, dict(files)
        self.raw = manifest.to_bytes()
        self.pin = str(manifest.pin)
        self.commit = ""

    @property
    def path(self) -> str:
        """Where a repository keeps the manifest."""
        return f"manifests/{self.manifest.pin.digest}.json"

    def push(self, hub: Hub, repo: str = REPO) -> Release:
        """Put it on a Hub in one commit."""
        self.commit = hub.push(repo, {**self.files, self.path: self.raw})
        return self

    def size(self, *names: str) -> int:
        """Return the bytes of the artifacts with these names."""
        return sum(item.size for item in self.manifest.artifacts if item.name in names)


def release(
    sets: Mapping[str, Path],
    *,
    build: str = BUILD,
    library: str = "llama",
    wants: Mapping[str, Sequence[str]] | None = None,
    requirements: Mapping[str, Sequence[str]] | None = None,
) -> Release:
    """Describe directories, by ``platform`` or ``platform+flavour``.

    Args:
        sets: directories by what they are for.
        build: the build they are of.
        library: the library they hold.
        wants: libraries from outside, by file name.
        requirements: more requirements, by file name.
    """
    found: dict[tuple[str, str, str], tuple[Artifact, Path]] = {}
    for words, folder in sets.items():
        platform, _, flavour = words.partition("+")
        for file in _files(folder, library):
            item = _artifact(file.path, file.role, file.label, Platform(platform), flavour or "cpu", library, build)
            item = item.__replace__(
                needs=tuple((wants or {}).get(item.name, ())),
                requirements=(*item.requirements, *map(Requirement.parse, (requirements or {}).get(item.name, ()))),
            )
            key = (platform, item.name, item.sha256)
            if key in found:
                known = found[key][0]
                item = known.__replace__(flavours=(*known.flavours, *item.flavours))
                found[key] = (item, found[key][1])
            else:
                found[key] = (item, Path(file.path))
    manifest = Manifest(
        library=library,
        build=build,
        repo="ggml-org/llama.cpp",
        artifacts=tuple(item for item, _ in found.values()),
        licences=("MIT",),
    )
    return Release(manifest, {item.path: path for item, path in found.values()})


def _files(folder: Path, library: str) -> list[LibraryFile]:
    parts = classify(map(str, sorted(folder.iterdir())), library)
    return [*parts["runtime"], *parts["core"], *parts["gpus"], *parts["cpus"]]


def _artifact(
    path: str, role: Role, label: str, platform: Platform, flavour: str, library: str, build: str
) -> Artifact:
    data = Path(path).read_bytes()
    namespace = "x86_64" if platform.is_x86 else "aarch64"
    features = sorted(cpu_variants.variants(platform)[label]) if role is Role.CPU else []
    return Artifact(
        path=f"{library}/{build}/{platform}/{flavour}/{Path(path).name}",
        name=Path(path).name,
        platform=platform,
        flavours=(flavour,),
        role=role,
        label=label,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        requirements=tuple(Requirement(namespace, feature, "on") for feature in features),
    )
