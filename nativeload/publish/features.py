"""Which processor features does the x86-64 machine code of a file need?

One rule: what an instruction needs is what iced-x86 says of it; every word of iced's is in one of the tables below or
is reported as it is. A file declared for a variant may need what the variant promises, and nothing else.

Code that runs only where the processor was asked first needs nothing (`nativeload.publish.dispatch`).
"""

from __future__ import annotations

from nativeload.cpu_variants import X86_64
from nativeload.errors import ConfigError, LoadError
from nativeload.publish.dispatch import Dispatch
from nativeload.publish.machine_code import iced, read_code
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from nativeload.publish.machine_code import Code

# What every x86-64 processor has (psABI, "Micro-Architecture Levels": the baseline), in iced's words. ENDBR64 and
# PAUSE are no-operations on processors that do not know them, by their encoding.
_BASELINE = frozenset(
    (
        *("INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CPUID", "TSC", "CX8", "CMOV", "FXSR"),
        *("FPU", "FPU287", "FPU387", "MMX", "SSE", "SSE2", "SYSCALL", "MULTIBYTENOP", "PAUSE", "CET_IBT"),
    )
)
# Apple's compilers assume a Penryn: no older 64-bit Mac can run a macOS of the last ten years.
_MACOS_BASELINE = _BASELINE | {"SSE3", "SSSE3", "SSE4_1"}

# Words that are no part of a variant, with the feature of a variant that never comes without them. gcc and clang turn
# POPCNT on with -msse4.2 for that reason; BMI2 came with Haswell, Excavator and Zen, which all have BMI1 and LZCNT.
_IMPLIED = {
    "SSE3": "sse4_2",
    "SSSE3": "sse4_2",
    "SSE4_1": "sse4_2",
    "POPCNT": "sse4_2",
    "BMI1": "bmi2",
    "LZCNT": "bmi2",
}
_OURS = frozenset().union(*X86_64.values())


class Use(Value, kw_only=True):
    """One instruction that needs a feature.

    Attributes:
        feature: in the words of `nativeload.cpu_variants`, or iced's in lower case where there is none.
        address: of the instruction, relative to the image base.
        text: the instruction.
    """

    feature: str
    address: int
    text: str

    def __str__(self) -> str:
        return f"{self.feature} ({self.text} at {self.address:#x})"


def code_features(path: str | os.PathLike[str]) -> frozenset[str]:
    """Return the features that the code of an x86-64 file needs beyond the baseline.

    Raises:
        LoadError: it is no such file, or not all of its code can be decoded.
        ConfigError: iced-x86 is not installed.
    """
    return frozenset(use.feature for use in feature_uses(path))


def feature_uses(path: str | os.PathLike[str]) -> tuple[Use, ...]:
    """Return one instruction for each feature that the code of an x86-64 file needs, by the feature's name.

    Raises:
        LoadError: it is no such file, or not all of its code can be decoded.
        ConfigError: iced-x86 is not installed.
    """
    code = read_code(path)
    wanted = _wanted(code)
    dispatch = Dispatch(code) if wanted else None
    found = (_first(code, dispatch, feature, kinds) for feature, kinds in sorted(wanted.items()) if dispatch)
    return tuple(use for use in found if use is not None)


def check_declared(path: str | os.PathLike[str], variant: str) -> frozenset[str]:
    """Return the features that a file needs, all of which its variant promises.

    Args:
        path: an ELF, PE or Mach-O file with x86-64 code.
        variant: a name in `nativeload.cpu_variants.X86_64`; ``x64`` promises the baseline alone.

    Raises:
        LoadError: it needs others as well, it is no such file, or not all of its code can be decoded.
        ConfigError: there is no such variant, or iced-x86 is not installed.
    """
    if variant not in X86_64:
        raise ConfigError("variant", f"{variant!r} is none of {', '.join(X86_64)}")
    uses = feature_uses(path)
    beyond = [str(use) for use in uses if use.feature not in X86_64[variant]]
    if beyond:
        raise LoadError(str(path), f"declared as {variant}, it needs {', '.join(beyond)}")
    return frozenset(use.feature for use in uses)


def _wanted(code: Code) -> dict[str, list[int]]:
    """Return iced's numbers of the instructions that need each feature."""
    x86 = iced()
    names = {number: name for name, number in vars(x86.CpuidFeature).items() if isinstance(number, int)}
    free = _MACOS_BASELINE if code.image.format == "macho" else _BASELINE
    found: dict[str, list[int]] = {}
    for kind, addresses in code.found.items():
        instruction = code.at(addresses[0]) if addresses else None
        if instruction is None or instruction.mnemonic == x86.Mnemonic.TZCNT:
            continue  # TZCNT executes as BSF without BMI1, the same for all but zero: compilers count on that
        for name in {names[number] for number in instruction.cpuid_features()} - free:
            lower = name.lower()
            feature = lower if lower in _OURS else _IMPLIED.get(name, lower)
            found.setdefault(feature, []).append(kind)
    return found


def _first(code: Code, dispatch: Dispatch, feature: str, kinds: list[int]) -> Use | None:
    """Find an instruction that runs whether the processor has the feature or not."""
    x86 = iced()
    for kind in kinds:
        for address in code.found[kind]:
            instruction = code.at(address)
            if instruction.mnemonic == x86.Mnemonic.XGETBV and address in dispatch.detection:
                continue  # it is how code asks, once CPUID has said that it may
            if not dispatch.guards(address):
                return Use(feature=feature, address=address, text=str(instruction))
    return None
