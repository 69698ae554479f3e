"""Which sets can a bundle make on a host, and which is best?

One rule: pure. Files, host and config come in as data; the order is total and does not depend on the order of input.
"""

from __future__ import annotations

from nativeload import cpu_variants
from nativeload.resolve.bundle import CUDA_RUNTIME
from nativeload.resolve.resolution import Accepted, Decision, LibraryFile, LibrarySet, Rejected, Source
from nativeload.value import Value
from nativeload.variant import GPU_BACKENDS, Backend, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.resolve.bundle import Bundle


class Ranked(Value):
    """The sets of all bundles, best first, and a decision about every file that is in none of them."""

    sets: tuple[LibrarySet, ...]
    decisions: tuple[Decision, ...]


def wanted(config: NativeLibraryConfig, backend: Backend) -> bool | int | str | None:
    """Return what the config says of a backend; None where it says nothing."""
    return dict(config.wants or ()).get(backend)


def required(config: NativeLibraryConfig) -> tuple[Backend, ...]:
    """Return the backends that must have a device after loading."""
    return tuple(backend for backend, want in config.wants or () if want == "require")


def preferred(config: NativeLibraryConfig) -> tuple[Backend, ...]:
    """Return the backends that were asked for by name, as a preference or a requirement."""
    return tuple(backend for backend, want in config.wants or () if want is not False)


def rank(bundles: Iterable[Bundle], host: Host, config: NativeLibraryConfig) -> Ranked:
    """Make every set that the host can run, best first.

    The order: sets with a preferred backend, then the sources. Among installed packages our own backend packages, the
    better CPU score, and the name; within one of them the GPU before the CPU alone and the higher CPU score first.
    Among the flavours of a manifest those with a GPU, then the narrowest build that covers this host's devices: the one
    that reaches back least far, then the one for the fewest of them.
    """
    if config.cpu:
        cpu_variants.allowed(config.cpu, host.platform)  # a word of another processor family is an error everywhere
    decisions: list[Decision] = []
    keyed: list[tuple[tuple[int, int, int, int, int, str, int, int], LibrarySet]] = []
    for place, bundle in enumerate(bundles):
        gpus = _gpus(bundle, host, config, decisions)
        cpus = _cpus(bundle, host, config, decisions)
        for cpu in cpus:
            for position, gpu in enumerate(gpus):
                asked = gpu is not None and Backend(gpu.label) in preferred(config)
                key = (not asked, *_order(bundle, place, cpus), position, -_score(cpu))
                keyed.append((key, make_set(bundle, gpu, cpu)))
    ordered = tuple(item for _, item in sorted(keyed, key=lambda pair: pair[0]))
    return Ranked(ordered, tuple(dict.fromkeys(decisions)))


def _order(bundle: Bundle, place: int, cpus: list[LibraryFile | None]) -> tuple[int, int, int, int, str]:
    """Place a bundle among the others: directories as listed, packages by merit, then what is published."""
    if bundle.source is Source.EXPLICIT:
        return (0, place, 0, 0, bundle.origin)
    if bundle.pin is None:
        return (1, 0, not bundle.own, -max(_score(cpu) for cpu in cpus), bundle.origin)
    kinds = [GPU_BACKENDS.index(Backend(file.label)) for file in bundle.gpus]
    archs = [item.value for file in bundle.gpus for item in file.requirements if item.feature == "sm_arch"]
    numbers = [arch.partition("_")[0].rstrip("af") for arch in archs]
    oldest = min((int(number) for number in numbers if number.isdecimal()), default=0)
    return (2, min(kinds, default=len(GPU_BACKENDS)), -oldest, len(archs), bundle.flavour)


def _score(cpu: LibraryFile | None) -> int:
    return cpu_variants.score(cpu.needs) if cpu else 0


def make_set(bundle: Bundle, gpu: LibraryFile | None, cpu: LibraryFile | None) -> LibrarySet:
    """Put a set together: a runtime of CUDA's is part of it only with a CUDA backend."""
    modules = tuple(file for file in (gpu, cpu) if file is not None)
    cuda = gpu is not None and gpu.label == Backend.CUDA
    runtime = tuple(file for file in bundle.runtime if cuda or file.label not in CUDA_RUNTIME)
    return LibrarySet(
        library=bundle.library,
        platform=bundle.platform,
        source=bundle.source,
        origin=bundle.origin,
        directory=bundle.directory,
        files=(*runtime, *bundle.core, *modules),
        build=bundle.build,
        vouched=bundle.vouched,
        pin=bundle.pin,
    )


def _gpus(
    bundle: Bundle, host: Host, config: NativeLibraryConfig, decisions: list[Decision]
) -> list[LibraryFile | None]:
    """Return the GPU backends that may be tried, preferred ones first, then None for the CPU alone if it can be."""
    usable: list[LibraryFile] = []
    for file in bundle.gpus:
        backend = Backend(file.label)
        want = wanted(config, backend)
        reason = None
        if want is False:
            reason = f"{backend} is switched off in the config"
        elif file.cuda is not None and type(want) is int and file.cuda != want:
            reason = f"built for CUDA {file.cuda}, and CUDA {want} was asked for"
        elif not config.skip_check and not any(gpu.backend is backend for gpu in host.gpus):
            reason = host.why_no(backend)
        reason = reason or _unmet(file, host, config)
        if reason:
            decisions.append(_decision(bundle, file, Rejected(reason)))
        else:
            usable.append(file)
    usable.sort(
        key=lambda file: (Backend(file.label) not in preferred(config), GPU_BACKENDS.index(Backend(file.label)))
    )
    return [*usable] if bundle.indivisible and bundle.gpus else [*usable, None]


def _cpus(
    bundle: Bundle, host: Host, config: NativeLibraryConfig, decisions: list[Decision]
) -> list[LibraryFile | None]:
    """Return the CPU backends this host can run, best first; [None] where the library carries its own."""
    reason = _unfit(bundle, host, config)
    if reason:
        decisions.append(Decision(bundle.source, bundle.origin, Rejected(reason)))
        return []
    if not bundle.cpus:
        return [None]
    usable: list[LibraryFile] = []
    for file in bundle.cpus:
        lacking = _lacking(file, host, config)
        if config.cpu and file.label not in cpu_variants.allowed(config.cpu, bundle.platform):
            decisions.append(_decision(bundle, file, Rejected(f"above the ceiling {config.cpu!r}")))
        elif lacking:
            decisions.append(_decision(bundle, file, Rejected(f"needs {lacking}, which this CPU lacks")))
        elif reason := _unmet(file, host, config):
            decisions.append(_decision(bundle, file, Rejected(reason)))
        else:
            usable.append(file)
    usable.sort(key=lambda file: (-_score(file), file.label))
    if not usable:
        reason = "none of its CPU backends runs here"
        decisions.append(Decision(bundle.source, bundle.origin, Rejected(reason)))
    return list(usable)


def _lacking(file: LibraryFile, host: Host, config: NativeLibraryConfig) -> str:
    return "" if config.skip_check else ", ".join(sorted(file.needs - host.cpu.features))


def _unfit(bundle: Bundle, host: Host, config: NativeLibraryConfig) -> str | None:
    """Return why a bundle cannot serve whichever backend is taken."""
    if config.cpu and not bundle.cpus:
        return f"its CPU level is not declared, so the ceiling {config.cpu!r} cannot be kept"
    for file in (*bundle.runtime, *bundle.core):
        if lacking := _lacking(file, host, config):
            return f"{file.name} needs {lacking}, which this CPU lacks"
        if reason := _unmet(file, host, config):
            return f"{file.name} {reason}"
    return None


def _unmet(file: LibraryFile, host: Host, config: NativeLibraryConfig) -> str:
    """Return what a host lacks of a file's other requirements, in words."""
    if not file.requirements or config.skip_check:
        return ""
    from nativeload.requirement import unmet

    return unmet(file.requirements, host)


def _decision(bundle: Bundle, file: LibraryFile, verdict: Accepted | Rejected) -> Decision:
    return Decision(bundle.source, f"{bundle.origin}: {file.name}", verdict)


def passed_over(file: LibraryFile, chosen: LibrarySet) -> str:
    """Return why a module beside the chosen ones was not taken."""
    if file.role is Role.CPU and chosen.cpu:
        return f"passed over: {chosen.cpu.label} scores {_score(chosen.cpu)}, this one {_score(file)}"
    return f"passed over: {chosen} ranks higher"
