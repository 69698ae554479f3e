"""What is known about a machine?

One rule: plain values only; finding them out is the business of the modules beside this one.
"""

from __future__ import annotations

from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload.variant import Backend


class Cpu(Value, kw_only=True):
    """A processor as the operating system lets this process use it.

    Attributes:
        features: instruction sets in the spelling of Linux, archspec and PEP 825, such as ``avx512_vnni``.
            Empty means the baseline of the platform, and also that nothing answered.
        brand: the maker's name for people; decides nothing. Under an emulator it is the physical processor's.
        source: who named the features, such as ``glibc`` or ``/proc/cpuinfo``.
        cores: how many threads can run at once; CPU affinity and container quotas are counted.
    """

    features: frozenset[str]
    brand: str | None = None
    source: str
    cores: int


class Gpu(Value, kw_only=True):
    """A device of one backend; a card that serves two backends is listed once for each.

    Attributes:
        backend: the backend whose library reported it.
        index: its number among the devices this process may use.
        name: the driver's name for it.
        compute_capability: of CUDA devices, such as ``(9, 0)``.
        memory: bytes in total, where the backend's library told.
        uuid: the driver's identity of the card, where it told.
    """

    backend: Backend
    index: int
    name: str
    compute_capability: tuple[int, int] | None = None
    memory: int | None = None
    uuid: str | None = None


class Nvidia(Value, kw_only=True):
    """The NVIDIA driver.

    Attributes:
        driver: its version, such as ``580.65.06``; empty where only libcuda answered and the kernel module is
            silent.
        cuda: the newest CUDA version it supports.
        visible: ``CUDA_VISIBLE_DEVICES`` as it was set.
    """

    driver: str
    cuda: tuple[int, int]
    visible: str | None = None


class Libc(Value, kw_only=True):
    """The C library of this process on Linux.

    Attributes:
        name: ``glibc``, ``musl`` or ``other``.
        version: such as ``(2, 36)``; empty where it is unknown (musl does not tell).
    """

    name: str
    version: tuple[int, ...] = ()
