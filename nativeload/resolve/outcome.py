"""What is said of a shortlist once a set of it was chosen, or none?

One rule: the whole trace, and where nothing can serve, what to do: as lines to paste.
"""

from __future__ import annotations

from nativeload.errors import (
    BackendUnavailableError,
    DownloadUnavailableError,
    LibraryNotFoundError,
    NativeLoadError,
    NetworkError,
)
from nativeload.resolve.ranking import passed_over, preferred, wanted
from nativeload.resolve.resolution import (
    Accepted,
    Decision,
    LibraryFile,
    LibrarySet,
    Rejected,
    Resolution,
)
from nativeload.variant import Backend, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nativeload.config import NativeLibraryConfig
    from nativeload.host import Host
    from nativeload.pins import Pinned
    from nativeload.resolve.candidates import Shortlist

_WAYS_ON = (
    "Install a backend package (pip install 'nativeload[cpu]'), or name a library: with_library() or NATIVELOAD_PATH."
)
_PACKAGES = {"llama": "pip install 'nativeload[cpu]'", "whisper": "pip install pywhispercpp"}


def three_ways(library: str) -> str:
    """Return what helps where nobody pins a build of a library."""
    package = f" ({_PACKAGES[library]})" if library in _PACKAGES else ""
    return (
        "Three ways on: a pin (with_pin(pin, repo=, commit=) or NATIVELOAD_PIN), a lock file (with_lock() or "
        f"NATIVELOAD_LOCK), or a backend package{package}."
    )


def conclude(found: Shortlist, chosen: LibrarySet | None, tried: Sequence[Decision] = ()) -> Resolution:
    """Write the whole trace of a shortlist of which one set (or none) was chosen."""
    verified = _verified_by(chosen)
    decisions = [*found.decisions, *tried]
    if chosen is not None:
        proof = f"verified by {verified}" if verified else "not verified: nobody vouched for it but the user"
        if any(file.sha256 is None for file in chosen.files):
            proof = f"to be fetched: {sum(file.size for file in chosen.files if file.remote):,} bytes"
        decisions.append(Decision(chosen.source, str(chosen), Accepted(f"best for this host; {proof}")))
        decisions.extend(_passed_over(found, chosen, tried))
    return Resolution(
        library=found.config.library,
        chosen=chosen,
        decisions=tuple(decisions),
        verified_by=verified,
        shortfall=tuple((backend, _why_not(found, backend)) for backend in _lacking(found, chosen)),
    )


def _verified_by(chosen: LibrarySet | None) -> str | None:
    """Return who vouched for a set's own bytes, if they were held to it. A runtime of this process needs no voucher."""
    if chosen is None or any(file.sha256 is None for file in chosen.files):
        return None
    own = [file for file in chosen.files if file.role is not Role.RUNTIME or file.declared is not None]
    return chosen.vouched if all(file.declared for file in own) else None


def _passed_over(found: Shortlist, chosen: LibrarySet, tried: Sequence[Decision]) -> Iterator[Decision]:
    """Name what could serve too and was not tried: modules beside the chosen ones, one set from every other place."""
    before = {decision.candidate for decision in tried}
    told = {_identity(file) for item in found.sets if str(item) in before for file in item.files}
    told |= {_identity(file) for file in chosen.files}
    origins = {chosen.origin} | {item.origin for item in found.sets if str(item) in before}
    for item in found.sets:
        if item.origin == chosen.origin:
            for file in item.files:
                if _identity(file) not in told:
                    told.add(_identity(file))
                    reason = Rejected(passed_over(file, chosen))
                    yield Decision(item.source, f"{item.origin}: {file.name}", reason)
        elif item.origin not in origins:
            origins.add(item.origin)
            yield Decision(item.source, str(item), Rejected(f"passed over: {chosen} ranks higher"))


def _identity(file: LibraryFile) -> str:
    """Name a file in a trace: a published one is the same file in every set it is part of."""
    return f"{file.name} {file.declared}" if file.remote else file.path


def _lacking(found: Shortlist, chosen: LibrarySet | None) -> list[Backend]:
    """Name the preferred backends for which the chosen set brings no module.

    A library that carries its backends inside is asked after loading, not judged here.
    """
    if chosen is None or chosen.gpu is not None or chosen.cpu is None:
        return []
    return list(preferred(found.config))


def _why_not(found: Shortlist, backend: Backend) -> str:
    """Return why there is no device of a backend: this host, or what was said of the files that could serve it."""
    if not any(gpu.backend is backend for gpu in found.host.gpus):
        return found.host.why_no(backend)
    said = [item for item in found.decisions if isinstance(item.verdict, Rejected)]
    reasons = [item.verdict.reason for item in said if f"-{backend}." in item.candidate]
    return reasons[0] if reasons else f"no {backend} backend in any candidate"


def missing(found: Shortlist, tried: Sequence[Decision] = (), *, hint: str = "") -> NativeLoadError:
    """Say that no set could serve, in the error that tells what to do (the hint, where the caller knows better)."""
    resolution = conclude(found, None, tried)
    for backend in found.unmet:
        return BackendUnavailableError(
            backend,
            found.config.path or found.config.library,
            f"{backend} is required: {_why_not(found, backend)}",
            hint=f"Say with_{backend}() to prefer it without requiring it.",
            resolution=resolution,
        )
    if found.config.auto_download and found.pinned is None and not found.config.path:
        text = f"no usable {resolution.library} library is here, and this release pins no build of it to fetch"
        return DownloadUnavailableError(text, hint=three_ways(resolution.library), resolution=resolution)
    return LibraryNotFoundError(resolution, hint=hint or _ways_on(found))


def _ways_on(found: Shortlist) -> str:
    """Say what could help, by what stands in the way."""
    config = found.config
    if found.pinned is not None and config.path is None:
        return prefetch_hint(config, found.host, found.pinned)
    if config.pin:
        return "The path that was named is not what was pinned: take one of them back."
    if config.library != "llama":
        return (
            f"Name a {config.library} library: with_library() or NATIVELOAD_PATH (whisper: pip install pywhispercpp)."
        )
    if config.cpu:
        return "Only a split build (libggml-cpu-*.so) can keep a CPU ceiling: name its directory, or drop the ceiling."
    return _WAYS_ON


def prefetch_hint(config: NativeLibraryConfig, host: Host, pinned: Pinned) -> str:
    """Return the lines that bring the pinned set to a machine without a network."""
    import shlex

    words = ["nativeload", "prefetch", "--library", config.library, "--pin", str(pinned.pin)]
    words += ["--repo", pinned.repo or "REPOSITORY", "--commit", pinned.commit or "COMMIT"]
    if config.endpoint and not config.endpoint.startswith("file:"):
        from nativeload.cache.fetcher import masked

        words += ["--endpoint", masked(config.endpoint)]
    words += ["--platform", str(host.platform), "--cpu", best_cpu(config, host)]
    cuda = any(gpu.backend is Backend.CUDA for gpu in host.gpus) and host.nvidia
    if cuda and wanted(config, Backend.CUDA) is not False:
        words += ["--cuda", str(cuda.cuda[0])]
    allow = "" if config.auto_download else "Or allow it here: with_auto_download().\n"
    return (
        f"{allow}Where there is a network, run: {shlex.join(words)} --out DIR\n"
        f"Then carry DIR here and run: nativeload import DIR --sha256 {pinned.pin}"
    )


def tell_ways(error: NetworkError, lacking: str, config: NativeLibraryConfig, host: Host, pinned: Pinned) -> None:
    """Add to a failed fetch what helps: the text for a repository that lacks the file, else the prefetch lines."""
    ways = lacking if error.lacking else prefetch_hint(config, host, pinned)
    error.hint = "\n".join(part for part in (error.hint, ways) if part)


def best_cpu(config: NativeLibraryConfig, host: Host) -> str:
    """Name the CPU variant that suits a host best, below the config's ceiling."""
    from nativeload import cpu_variants

    table = cpu_variants.variants(host.platform)
    ceiling = cpu_variants.allowed(config.cpu, host.platform)
    fit = [name for name, needs in table.items() if needs <= host.cpu.features and name in ceiling]
    return max(fit, key=lambda name: (cpu_variants.score(table[name]), name))
