"""What is published: which files of a directory, under which names, with which requirements?

One rule: what a file is, wants and needs is read out of the file; only the features of a CPU backend come from a table
(upstream's), and then the file's machine code has to prove them.
"""

from __future__ import annotations

import os

from nativeload import cpu_variants
from nativeload.cache import sha256_of
from nativeload.errors import ConfigError, LoadError
from nativeload.manifest import Artifact, Manifest
from nativeload.publish import binary, fatbin, features
from nativeload.requirement import Requirement
from nativeload.resolve.bundle import CORE_ORDER, classify, has_library
from nativeload.resolve.cuda_runtime import major_of
from nativeload.value import Value, replace
from nativeload.variant import Backend, Platform, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from nativeload.publish.binary import BinaryFacts
    from nativeload.resolve.resolution import LibraryFile

_ROLES = (Role.RUNTIME, Role.CORE, Role.GPU, Role.CPU)


class SetDirectory(Value):
    """A directory with the files of one flavour for one platform."""

    platform: Platform
    flavour: str
    directory: str

    @classmethod
    def parse(cls, text: str) -> SetDirectory:
        """Read ``linux-x86_64=DIR`` or ``linux-x86_64+cuda=DIR``.

        Raises:
            ConfigError: it is not of the form, or names no directory.
        """
        words, sign, directory = text.partition("=")
        platform, _, flavour = words.partition("+")
        if not sign or platform not in list(Platform):
            hint = f"Use PLATFORM=DIR or PLATFORM+FLAVOUR=DIR; platforms: {', '.join(Platform)}."
            raise ConfigError("--set", f"{text!r} is not a set", hint=hint)
        if not os.path.isdir(directory):
            raise ConfigError("--set", f"{directory!r} is not a directory")
        return cls(Platform(platform), flavour or "cpu", os.path.abspath(directory))


class Collected(Value):
    """The artifacts of a manifest, where each one's bytes are, and what was left out of each directory."""

    artifacts: tuple[Artifact, ...]
    files: dict[str, str]
    left_out: dict[str, tuple[str, ...]]


def collect(
    library: str, build: str, directories: Sequence[SetDirectory], say: Callable[[str], None] = lambda _: None
) -> Collected:
    """Read directories into artifacts; equal bytes of one platform become one artifact of several flavours.

    Raises:
        LoadError: a file is not what it seems, or uses instructions its variant does not declare.
        ConfigError: two directories are given for one set.
    """
    found: dict[tuple[Platform, str, str], tuple[Artifact, str]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    names = [(each.platform, each.flavour) for each in directories]
    if len(set(names)) != len(names):
        raise ConfigError("--set", "a platform and flavour is given twice")
    for each in directories:
        files, left = _classified(each, library)
        left_out[each.directory] = left
        say(f"{each.platform} {each.flavour}: {_counted(files)}; left out: {', '.join(left) or 'nothing'}")
        for file, artifact in _artifacts(each, library, build, files):
            key = (artifact.platform, artifact.name, artifact.sha256)
            if key in found:
                other, path = found[key]
                found[key] = (_shared(other, artifact), path)
            else:
                found[key] = (artifact, file.path)
    ordered = sorted(found.values(), key=lambda pair: _order(pair[0]))
    return Collected(
        artifacts=tuple(artifact for artifact, _ in ordered),
        files={artifact.path: path for artifact, path in ordered},
        left_out=left_out,
    )


def manifest_of(collected: Collected, library: str, build: str, **more: Any) -> Manifest:
    """Return the manifest of what was collected (and the fields told), read back: what is written can be read.

    Raises:
        ManifestError: a name, a size or a word is not one that a manifest can hold.
    """
    from nativeload.manifest import read

    made = Manifest(library=library, build=build, artifacts=collected.artifacts, **more)
    return read(made.to_bytes(), "the manifest to be published")


def _classified(each: SetDirectory, library: str) -> tuple[list[LibraryFile], tuple[str, ...]]:
    """Sort a directory's files by role; what has none is left out and named."""
    paths = [os.path.join(each.directory, name) for name in sorted(os.listdir(each.directory))]
    parts = classify(paths, library)
    if not has_library(parts["core"], library):
        raise LoadError(each.directory, f"no {library} library in this directory")
    files = [*parts["runtime"], *parts["core"], *parts["gpus"], *parts["cpus"]]
    taken = {os.path.realpath(file.path) for file in files}
    return files, tuple(os.path.basename(path) for path in paths if os.path.realpath(path) not in taken)


def _counted(files: Iterable[LibraryFile]) -> str:
    roles = [file.role for file in files]
    return ", ".join(f"{roles.count(role)} {role}" for role in _ROLES if role in roles)


def _artifacts(
    each: SetDirectory, library: str, build: str, files: list[LibraryFile]
) -> list[tuple[LibraryFile, Artifact]]:
    facts = {file.path: binary.read_binary(file.path) for file in files}
    names = {file.path: _name(file, facts[file.path]) for file in files}
    inside = {name.lower() for name in names.values()}
    made = []
    for file in files:
        said = facts[file.path]
        if said.platform != each.platform:
            raise LoadError(file.path, f"made for {said.platform}, and the set is for {each.platform}")
        digest, stamp = sha256_of(file.path)
        artifact = Artifact(
            path=f"{library}/{build}/{each.platform}/{each.flavour}/{names[file.path]}",
            name=names[file.path],
            platform=each.platform,
            flavours=(each.flavour,),
            role=file.role,
            label=file.label,
            size=stamp.size,
            sha256=digest,
            needs=tuple(sorted(name for name in said.needed if name.lower() not in inside)),
            requirements=tuple(_requirements(file, said)),
        )
        made.append((file, artifact))
    return made


def _name(file: LibraryFile, said: BinaryFacts) -> str:
    """Return the name under which other files want it: the loader finds it by no other."""
    return said.soname if said.format == "elf" and said.soname else os.path.basename(file.path)


def _requirements(file: LibraryFile, said: BinaryFacts) -> list[Requirement]:
    needs: list[Requirement] = []
    if file.role is Role.CPU:
        needs += _proven(file, said)
    elif said.platform.is_x86:  # the baseline, as a rule; one build of libllama for Windows uses POPCNT unasked
        used = sorted(features.code_features(file.path))
        needs += [Requirement("x86_64", feature, "on") for feature in used]
    if said.glibc:
        needs.append(Requirement("libc", "glibc_lower_bound", said.glibc))
    if said.macos:
        needs.append(Requirement("macos", "version_lower_bound", said.macos))
    if file.role is Role.GPU and file.label == Backend.CUDA:
        needs += _cuda(file, said)
    return needs


def _proven(file: LibraryFile, said: BinaryFacts) -> list[Requirement]:
    """Return the features of a CPU variant, after its code was held to them (x86-64: there is no decoder for Arm's)."""
    if said.platform.is_x86:
        features.check_declared(file.path, file.label)
    namespace = "x86_64" if said.platform.is_x86 else "aarch64"
    declared = cpu_variants.variants(said.platform)[file.label]
    return [Requirement(namespace, feature, "on") for feature in sorted(declared)]


def _cuda(file: LibraryFile, said: BinaryFacts) -> list[Requirement]:
    """Return what a CUDA backend needs of driver and devices.

    Within a CUDA major any driver will do for machine code (NVIDIA's "minor version compatibility"); to compile PTX it
    must know the PTX of the toolkit.
    """
    major, archs = major_of(said.needed), fatbin.sm_archs(file.path)
    if major is None or not archs:
        raise LoadError(file.path, "it names no CUDA runtime, or carries no code for any device")
    needs = [Requirement("nvidia", "cuda_version_lower_bound", f"{major}.0")]
    toolkit = fatbin.toolkit(file.path)
    if toolkit is not None and any(arch.endswith("_virtual") for arch in archs):
        needs.append(Requirement("nvidia", "ptx_lower_bound", ".".join(map(str, toolkit))))
    return [*needs, *(Requirement("nvidia", "sm_arch", arch) for arch in archs)]


def _shared(one: Artifact, other: Artifact) -> Artifact:
    return replace(one, flavours=(*one.flavours, *other.flavours), needs=tuple(sorted({*one.needs, *other.needs})))


def _order(artifact: Artifact) -> tuple[str, int, int, str]:
    """List artifacts by platform and role, those of the core in load order."""
    core = CORE_ORDER.index(artifact.label) if artifact.role is Role.CORE else 0
    return str(artifact.platform), _ROLES.index(artifact.role), core, artifact.path
