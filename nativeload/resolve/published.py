"""Which sets does a manifest offer a platform, and where does each lie once it is here?

One rule: pure. A manifest's artifacts become bundles, one for each flavour; what is done with the sets that are made of
them is the business of the sources.
"""

from __future__ import annotations

import os

from nativeload.cache.sets import set_path
from nativeload.requirement import cpu_features, other_than_cpu
from nativeload.resolve.bundle import CUDA_RUNTIME, Bundle
from nativeload.resolve.ranking import make_set
from nativeload.resolve.resolution import LibraryFile, LibrarySet, Source
from nativeload.value import replace
from nativeload.variant import Backend, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nativeload.manifest import Artifact, Manifest, Pin
    from nativeload.variant import Platform


def bundles(manifest: Manifest, pin: Pin, platform: Platform) -> list[Bundle]:
    """Return what a manifest has for a platform, a bundle for each flavour; paths are bare names."""
    mine = [item for item in manifest.artifacts if item.platform == platform]
    flavours = manifest.flavours(platform)
    parts = {flavour: [_file(item) for item in mine if flavour in item.flavours] for flavour in flavours}
    plain = any(all(file.role is not Role.GPU for file in files) for files in parts.values())
    return [
        Bundle(
            library=manifest.library,
            platform=platform,
            source=Source.CACHED,
            origin=f"{manifest.library} {manifest.build}",
            directory="",
            core=tuple(file for file in files if file.role is Role.CORE),
            cpus=tuple(file for file in files if file.role is Role.CPU),
            gpus=tuple(file for file in files if file.role is Role.GPU),
            runtime=tuple(file for file in files if file.role is Role.RUNTIME),
            build=manifest.build,
            vouched="manifest",
            pin=str(pin),
            flavour=flavour,
            indivisible=plain,
        )
        for flavour, files in parts.items()
        if any(file.role is Role.CORE for file in files)
    ]


def _file(item: Artifact) -> LibraryFile:
    cuda = None
    if item.label == Backend.CUDA:
        from nativeload.resolve.cuda_runtime import major_of

        cuda = major_of(item.needs)
    return LibraryFile(
        path=item.name,
        role=item.role,
        label=item.label,
        needs=cpu_features(item.requirements),
        requirements=other_than_cpu(item.requirements),
        size=item.size,
        declared=item.sha256,
        wants=item.needs,
        cuda=cuda,
        remote=item.path,
    )


def every_set(bundle: Bundle) -> Iterator[LibrarySet]:
    """Yield every set that can be made of a bundle, whatever the machine."""
    gpus: list[LibraryFile | None] = [*bundle.gpus] if bundle.gpus and bundle.indivisible else [*bundle.gpus, None]
    cpus: list[LibraryFile | None] = [*bundle.cpus] or [None]
    for gpu in gpus:
        for cpu in cpus:
            yield make_set(bundle, gpu, cpu)


def without_cuda_runtime(item: LibrarySet) -> LibrarySet:
    """Return the set as it is where the machine has CUDA's runtime: its own is not fetched then."""
    files = (file for file in item.files if file.role is not Role.RUNTIME or file.label not in CUDA_RUNTIME)
    return replace(item, files=tuple(files))


def own_files(item: LibrarySet) -> tuple[LibraryFile, ...]:
    """Return the files of a set that are published: a runtime of this machine may stand before them."""
    return tuple(file for file in item.files if file.remote)


def in_place(item: LibrarySet, root: str) -> LibrarySet:
    """Return the set as it lies, or would lie, in a cache; the files of this machine stay where they are."""
    own = replace(item, files=own_files(item))
    directory = set_path(root, item.library, item.build or "", own.variant, own.set_id)
    files = tuple(
        replace(file, path=os.path.join(directory, file.name)) if file.remote else file for file in item.files
    )
    return replace(item, directory=directory, files=files)
