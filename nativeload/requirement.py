"""What must a machine have for a file to run there?

One rule: a requirement is a property triple, ``namespace :: feature :: value``, in the spelling of PEP 825 and of its
providers where they have one; a triple that this release does not understand is not met.

=========================================  ============================================================================
``x86_64 :: avx2 :: on``                   the processor has it and the system has it switched on (also ``aarch64``)
``libc :: glibc_lower_bound :: 2.34``      glibc of at least this version; musl has none (ours)
``macos :: version_lower_bound :: 14.0``   recorded; the system's loader judges it (ours)
``nvidia :: cuda_version_lower_bound``     the newest CUDA that the driver supports is at least this
``nvidia :: sm_arch :: 86_real``           machine code for a compute capability, or ``75_virtual``: PTX. Several are
                                           alternatives; every visible device needs one
``nvidia :: ptx_lower_bound :: 13.1``      the CUDA a driver must support to compile the file's PTX (ours)
=========================================  ============================================================================

A device runs machine code of its own major version and a minor one not above its own (CUDA C++ Programming Guide,
"Binary Compatibility"), code of a capability with an ``a`` only if it is that very one, with an ``f`` in its family,
and PTX of any capability up to its own.
"""

from __future__ import annotations

from nativeload.errors import ManifestError
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nativeload.host import Gpu, Host

_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.")
_LONGEST = 64
_CPUS = ("x86_64", "aarch64")


class Requirement(Value):
    """One property that a host must have; prints as ``namespace :: feature :: value``."""

    namespace: str
    feature: str
    value: str

    @classmethod
    def parse(cls, text: object) -> Requirement:
        """Read a triple.

        Raises:
            ManifestError: it is not three words of ``a-z 0-9 _ .``.
        """
        parts = text.split(" :: ") if isinstance(text, str) else []
        if len(parts) != 3 or not all(0 < len(part) <= _LONGEST and set(part) <= _SIGNS for part in parts):  # noqa: PLR2004
            raise ManifestError("requirement", f"{str(text)[:_LONGEST]!r} is not <namespace> :: <feature> :: <value>")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.namespace} :: {self.feature} :: {self.value}"


def cpu_features(requirements: Iterable[Requirement]) -> frozenset[str]:
    """Return the processor features among the requirements."""
    return frozenset(item.feature for item in requirements if item.namespace in _CPUS and item.value == "on")


def other_than_cpu(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Return the requirements that are no processor features."""
    return tuple(item for item in requirements if item.namespace not in _CPUS or item.value != "on")


def version(text: str) -> tuple[int, ...]:
    """Read ``13.1`` as (13, 1), and ``13.0`` as (13,); () where it is no such version."""
    parts = text.split(".")
    if not all(part.isdecimal() and len(part) < 7 for part in parts):  # noqa: PLR2004
        return ()
    numbers = list(map(int, parts))
    while len(numbers) > 1 and not numbers[-1]:  # (13,) is not newer than (13, 0), and (13, 0) would be than (13,)
        numbers.pop()
    return tuple(numbers)


def unmet(requirements: Iterable[Requirement], host: Host) -> str:
    """Return in words what a host lacks of everything but processor features; empty where it lacks nothing."""
    others = list(other_than_cpu(requirements))
    reasons = [reason for item in others if (reason := _judge(item, host))]
    return "; ".join([*reasons, *_uncovered(others, host)])


def _judge(item: Requirement, host: Host) -> str:
    match item.namespace, item.feature, version(item.value):
        case "libc", "glibc_lower_bound", (_, *_) as least:
            return _libc(least, item.value, host)
        case "nvidia", "cuda_version_lower_bound", (_, *_) as least:
            if host.nvidia is None:
                return "needs an NVIDIA driver"
            if host.nvidia.cuda >= least:
                return ""
            driver = f"driver {host.nvidia.driver}" if host.nvidia.driver else "the driver"
            return f"needs a driver for CUDA {item.value}, and {driver} supports up to {_dotted(host.nvidia.cuda)}"
        case ("nvidia", "ptx_lower_bound", (_, *_)) | ("macos", "version_lower_bound", (_, *_)):
            return ""
        case "nvidia", "sm_arch", _:
            return ""
    return f"needs {item}, which this release does not understand: a newer one may"


def _libc(least: tuple[int, ...], text: str, host: Host) -> str:
    if not host.platform.is_linux:
        return f"needs glibc {text}, and this is {host.platform}"
    if host.libc is None or (host.libc.name == "glibc" and (not host.libc.version or host.libc.version >= least)):
        return ""
    if host.libc.name == "glibc":
        return f"needs glibc {text}, and this is {_dotted(host.libc.version)}"
    return f"needs glibc {text}, and this system has {host.libc.name}"


def _uncovered(requirements: list[Requirement], host: Host) -> Iterator[str]:
    """Say which visible CUDA devices the file has no code for."""
    archs = [item.value for item in requirements if (item.namespace, item.feature) == ("nvidia", "sm_arch")]
    bounds = [item.value for item in requirements if (item.namespace, item.feature) == ("nvidia", "ptx_lower_bound")]
    newest = max(map(version, bounds), default=())
    if not archs:
        return
    ptx = host.nvidia is None or host.nvidia.cuda >= newest
    for gpu in host.gpus:
        if gpu.compute_capability is None or any(_runs(arch, gpu.compute_capability, ptx=ptx) for arch in archs):
            continue
        yield _no_code(gpu, archs, newest, ptx=ptx)


def _no_code(gpu: Gpu, archs: list[str], newest: tuple[int, ...], *, ptx: bool) -> str:
    capability = gpu.compute_capability or (0, 0)
    name = f"{gpu.name} (compute capability {_dotted(capability)})"
    if not ptx and any(_runs(arch, capability, ptx=True) for arch in archs):
        return f"has only PTX for {name}, which needs a driver for CUDA {_dotted(newest)}"
    return f"has no code for {name}, only for {', '.join(archs)}"


def _runs(arch: str, capability: tuple[int, int], *, ptx: bool) -> bool:
    """Whether code for an architecture such as ``86_real``, ``120a_real`` or ``75_virtual`` runs on a device."""
    code, _, kind = arch.partition("_")
    number, suffix = (code[:-1], code[-1]) if code[-1:] in {"a", "f"} else (code, "")
    if not number.isdecimal() or len(number) < 2 or kind not in {"real", "virtual"}:  # noqa: PLR2004
        return False
    built = (int(number[:-1]), int(number[-1]))
    if kind == "virtual" and not ptx:
        return False
    if suffix == "a":
        return built == capability
    if kind == "real" or suffix == "f":
        return built[0] == capability[0] and built[1] <= capability[1]
    return built <= capability


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
