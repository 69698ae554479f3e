"""What machine is this?

One rule: the operating system and the drivers answer, never files that merely exist; and a host is plain
data, so it can be recorded on one machine and used on another.
"""

from __future__ import annotations

from nativeload.errors import ConfigError, HostError
from nativeload.host import cpu as _cpu
from nativeload.host import gpu as _gpu
from nativeload.host import libc as _libc
from nativeload.host import limits as _limits
from nativeload.host.facts import Cpu, Gpu, Libc, Nvidia
from nativeload.host.notes import attempt
from nativeload.value import Value
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

__all__ = ["Cpu", "Gpu", "Host", "Libc", "Nvidia"]

_SMALLEST_PAGE = 4096


class Host(Value, kw_only=True):
    """A machine as one process of it sees it.

    Attributes:
        platform: the operating system and processor family of this Python, under an emulator the emulated.
        cpu: the processor and how many of its cores may be used.
        libc: the C library, on Linux.
        page_size: bytes of one memory page.
        memory: bytes this process may use, a container's limit counted; None where the system did not tell.
        nvidia: the NVIDIA driver, if there is one.
        gpus: the devices of all backends.
        notes: why something was not found, a line each: ``CUDA: no NVIDIA device node (/dev/nvidiactl)``.
        translated: whether Rosetta runs this process.
    """

    platform: Platform
    cpu: Cpu
    libc: Libc | None = None
    page_size: int = _SMALLEST_PAGE
    memory: int | None = None
    nvidia: Nvidia | None = None
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()
    translated: bool = False

    @classmethod
    def detect(cls, *, gpu: bool = True, brand: bool = False) -> Host:
        """Ask this machine; below a millisecond where it has no GPU.

        Args:
            gpu: also ask the drivers for devices, which takes up to a second where there are any.
            brand: also look for the processor's name, which takes a second where only py-cpuinfo knows it.

        Raises:
            ConfigError: no builds exist for this system or processor. Whatever else fails is a note.
        """
        platform, notes = Platform.current(), list[str]()
        nvidia, gpus = _gpu.detect(platform, notes) if gpu else (None, ())
        if not gpu:
            notes.append("GPU: not looked for")
        return cls(
            platform=platform,
            cpu=_cpu.detect(platform, notes, brand=brand),
            libc=attempt("libc", _libc.detect, None, notes) if platform.is_linux else None,
            page_size=attempt("page size", _limits.page_size, _SMALLEST_PAGE, notes),
            memory=attempt("memory", _limits.usable_memory, None, notes),
            nvidia=nvidia,
            gpus=gpus,
            translated=attempt("Rosetta", lambda: _cpu.is_translated(platform), False, notes),
            notes=tuple(notes),  # evaluated last: the probes above write them
        )

    @classmethod
    def compose(cls, platform: str, *, cpu: str | None = None, cuda: int | None = None) -> Host:
        """Return a machine described by a few words, for planning and prefetching.

        Args:
            platform: such as ``linux-x86_64``.
            cpu: what its processor has at least: ``none``, ``avx``, ``avx2``, ``avx512`` or a variant such as ``zen4``.
            cuda: the CUDA major that its NVIDIA driver supports.

        Raises:
            ConfigError: no such platform, or a CPU word that says nothing about it.
        """
        from nativeload.host import composed

        if platform not in list(Platform):
            raise ConfigError("platform", f"{platform!r} is none of {', '.join(Platform)}")
        return cls(**composed.facts(Platform(platform), cpu=cpu, cuda=cuda))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Host:
        """Read a recorded host: the JSON of `to_dict`.

        Raises:
            HostError: the file cannot be read or is not such a record.
        """
        from nativeload.host import record

        data = record.read_file(path)
        try:
            return cls.from_dict(data)
        except HostError as error:
            raise HostError(f"{path}: {error.args[0]}", hint=error.hint) from error

    @classmethod
    def from_dict(cls, data: object) -> Host:
        """Read what `to_dict` returned; nothing is guessed or ignored.

        Raises:
            HostError: a field is unknown, missing or of the wrong type; the text names it.
        """
        from nativeload.host import record

        return cls(**record.read(data))

    def to_dict(self) -> dict[str, object]:
        """Return the host as plain values that JSON can hold, with the number of their schema."""
        from nativeload.host import record

        return record.write(self)

    @property
    def fingerprint(self) -> str:
        """A sha256 in hex of what decides whether a library runs here: platform, CPU, driver and devices.

        Hosts found with ``gpu=False`` differ from those found with it.
        """
        from hashlib import sha256

        driver = (self.nvidia.driver, self.nvidia.cuda, self.nvidia.visible) if self.nvidia else None
        devices = tuple((str(gpu.backend), gpu.name) for gpu in self.gpus)
        decisive = (str(self.platform), tuple(sorted(self.cpu.features)), driver, devices)
        return sha256(repr(decisive).encode("utf-8", "backslashreplace")).hexdigest()

    def why_no(self, backend: str) -> str:
        """Return in one line why this host has no device of a backend; empty if it has one."""
        if backend == Backend.CPU or any(gpu.backend == backend for gpu in self.gpus):
            return ""
        return _gpu.why_no(Backend(backend), self.notes)
