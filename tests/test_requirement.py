"""What a machine lacks is said in words; what is not understood counts as lacking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nativeload import NativeLibraryConfig
from nativeload.errors import ManifestError
from nativeload.host import Cpu, Gpu, Host, Libc, Nvidia
from nativeload.manifest import Artifact, Manifest
from nativeload.requirement import Requirement, cpu_features, unmet, version
from nativeload.resolve.published import bundles
from nativeload.resolve.ranking import rank
from nativeload.variant import Backend, Platform, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

# What is inside libggml-cuda.so of a published CUDA 13.1 build.
REAL_ARCHS = ["75_virtual", "80_virtual", "86_real", "89_real", "90_virtual", "120a_real", "121a_real"]
REAL = [*(f"nvidia :: sm_arch :: {arch}" for arch in REAL_ARCHS), "nvidia :: ptx_lower_bound :: 13.1"]

PASCAL, VOLTA, TURING, A100, AMPERE = (6, 1), (7, 0), (7, 5), (8, 0), (8, 6)
ADA, HOPPER, B200, BLACKWELL, SPARK = (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)


def host(
    platform: Platform = Platform.LINUX_X86_64,
    *,
    libc: Libc | None = None,
    cuda: tuple[int, int] | None = None,
    cards: Iterable[tuple[int, int] | None] = (),
    driver: str = "580.65.06",
    features: frozenset[str] = frozenset(),
) -> Host:
    """Return a machine with a driver for a CUDA version and cards of these compute capabilities."""
    gpus = [
        Gpu(backend=Backend.CUDA, index=index, name=f"card {index}", compute_capability=capability)
        for index, capability in enumerate(cards)
    ]
    return Host(
        platform=platform,
        cpu=Cpu(features=features, source="test", cores=1),
        libc=libc,
        nvidia=None if cuda is None else Nvidia(driver=driver, cuda=cuda),
        gpus=tuple(gpus),
    )


def lacks(machine: Host, *texts: str) -> str:
    """Return what a machine lacks of requirements."""
    return unmet([Requirement.parse(text) for text in texts], machine)


# -- the triple -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x86_64 :: avx2 :: on",
        "libc :: glibc_lower_bound :: 2.34",
        "nvidia :: sm_arch :: 120a_real",
        f"{'a' * 64} :: b :: c",
    ],
)
def test_a_triple_prints_as_it_was_read(text: str) -> None:
    assert str(Requirement.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " :: ",
        " ::  :: ",
        "a",
        "a :: b",
        "a :: b :: c :: d",
        "a::b::c",
        "a :: b::c",
        " a :: b :: c",
        "a :: b :: c ",
        "a :: b :: c\n",
        "a  ::  b  ::  c",
        "a :: b :: ",
        "A :: b :: c",
        "a-b :: b :: c",
        "a :: b/c :: d",
        "a :: \u0131 :: c",
        "a :: b :: \u0662",
        "a :: b :: c\0",
        f"a :: {'b' * 65} :: c",
        "x" * 1_000_000,
        None,
        7,
        b"a :: b :: c",
        ["a", "b", "c"],
        ("a", "b", "c"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_is_no_triple_is_refused(text: object) -> None:
    with pytest.raises(ManifestError, match="is not <namespace> :: <feature> :: <value>") as caught:
        Requirement.parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("13.1", (13, 1)),
        ("2", (2,)),
        ("2.34.1", (2, 34, 1)),
        ("", ()),
        (".", ()),
        ("13.", ()),
        ("-1", ()),
        ("1.a", ()),
        ("on", ()),
        ("1" * 7, ()),
        ("9" * 6, (999999,)),
    ],
)
def test_a_version_is_numbers_or_nothing(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers


def test_processor_features_are_those_that_must_be_on() -> None:
    texts = ["x86_64 :: avx2 :: on", "x86_64 :: fma :: on", "x86_64 :: avx :: off", "aarch64 :: sve :: on", *REAL]
    assert cpu_features(map(Requirement.parse, texts)) == {"avx2", "fma", "sve"}


# -- libc -------------------------------------------------------------------------------------------------------------

GLIBC = "libc :: glibc_lower_bound :: 2.34"


@pytest.mark.parametrize(
    ("libc", "reason"),
    [
        (Libc(name="glibc", version=(2, 31)), "needs glibc 2.34, and this is 2.31"),
        (Libc(name="glibc", version=(2, 9)), "needs glibc 2.34, and this is 2.9"),
        (Libc(name="glibc", version=(2, 34)), ""),
        (Libc(name="glibc", version=(2, 100)), ""),
        (Libc(name="glibc", version=(3, 0)), ""),
        (Libc(name="musl"), "needs glibc 2.34, and this system has musl"),
        (Libc(name="musl", version=(2, 99)), "needs glibc 2.34, and this system has musl"),
        (Libc(name="other"), "needs glibc 2.34, and this system has other"),
    ],
    ids=str,
)
def test_glibc_is_old_new_or_none(libc: Libc, reason: str) -> None:
    assert lacks(host(libc=libc), GLIBC) == reason


def test_a_glibc_that_does_not_tell_its_version_is_tried() -> None:
    """So is a composed Linux host, which says nothing of its C library: the loader has the last word."""
    assert lacks(host(libc=Libc(name="glibc")), GLIBC) == ""
    assert lacks(host(), GLIBC) == ""


@pytest.mark.parametrize("platform", [Platform.MACOS_ARM64, Platform.MACOS_X86_64, Platform.WINDOWS_X86_64])
def test_another_system_has_no_glibc(platform: Platform) -> None:
    assert "glibc 2.34" in lacks(host(platform), GLIBC)


def test_a_zero_at_the_end_of_a_version_changes_nothing() -> None:
    assert lacks(host(libc=Libc(name="glibc", version=(2, 34))), "libc :: glibc_lower_bound :: 2.34.0") == ""
    assert lacks(host(cuda=(12, 4)), "nvidia :: cuda_version_lower_bound :: 12.4.0") == ""


def test_macos_is_judged_by_its_own_loader() -> None:
    assert lacks(host(Platform.MACOS_ARM64), "macos :: version_lower_bound :: 14.0") == ""


# -- the NVIDIA driver ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["11.4", "12.4", "12.8", "13.0", "13.1"])
@pytest.mark.parametrize("cuda", [(11, 4), (12, 4), (12, 8), (13, 0), (13, 1)], ids=str)
def test_a_driver_supports_what_is_not_newer_than_it(bound: str, cuda: tuple[int, int]) -> None:
    """Numbers, not text: 12.10 would be newer than 12.8."""
    reason = lacks(host(cuda=cuda), f"nvidia :: cuda_version_lower_bound :: {bound}")
    if cuda >= version(bound):
        assert reason == ""
    else:
        supported = f"{cuda[0]}.{cuda[1]}"
        assert reason == f"needs a driver for CUDA {bound}, and driver 580.65.06 supports up to {supported}"


def test_versions_of_cuda_are_numbers() -> None:
    assert lacks(host(cuda=(12, 10)), "nvidia :: cuda_version_lower_bound :: 12.8") == ""
    assert lacks(host(cuda=(12, 8)), "nvidia :: cuda_version_lower_bound :: 12.10") != ""


def test_a_driver_whose_version_is_unknown_is_the_driver() -> None:
    reason = lacks(host(cuda=(12, 4), driver=""), "nvidia :: cuda_version_lower_bound :: 13.0")
    assert reason == "needs a driver for CUDA 13.0, and the driver supports up to 12.4"


def test_no_driver_is_said() -> None:
    assert lacks(host(), "nvidia :: cuda_version_lower_bound :: 12.4") == "needs an NVIDIA driver"


# -- the cards --------------------------------------------------------------------------------------------------------

NO_CODE = "has no code for card 0 (compute capability {}), only for " + ", ".join(REAL_ARCHS)
ONLY_PTX = "has only PTX for card 0 (compute capability {}), which needs a driver for CUDA 13.1"


@pytest.mark.parametrize("cuda", [(11, 4), (12, 4), (12, 8), (13, 0), (13, 1), (14, 0)], ids=str)
@pytest.mark.parametrize(
    ("card", "how"),
    [
        (PASCAL, "never"),
        (VOLTA, "never"),
        (TURING, "ptx"),
        (A100, "ptx"),
        (AMPERE, "code"),
        (ADA, "code"),
        (HOPPER, "ptx"),
        (B200, "ptx"),
        (BLACKWELL, "code"),
        (SPARK, "code"),
    ],
    ids=str,
)
def test_the_real_build_runs_where_it_has_code_or_ptx(card: tuple[int, int], how: str, cuda: tuple[int, int]) -> None:
    """Machine code runs with any driver the build itself takes; PTX only where the driver can compile it."""
    reason = lacks(host(cuda=cuda, cards=[card]), *REAL)
    shown = f"{card[0]}.{card[1]}"
    if how == "never":
        assert reason == NO_CODE.format(shown)
    elif how == "ptx" and cuda < (13, 1):
        assert reason == ONLY_PTX.format(shown)
    else:
        assert reason == ""


@pytest.mark.parametrize(
    ("arch", "runs", "fails"),
    [
        ("86_real", [(8, 6), (8, 9)], [(8, 0), (7, 5), (9, 0), (12, 0), (6, 8)]),
        ("80_real", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0)]),
        ("75_virtual", [(7, 5), (8, 0), (9, 0), (10, 0), (12, 1)], [(7, 0), (6, 1)]),
        ("90a_real", [(9, 0)], [(9, 1), (8, 9), (10, 0), (12, 0)]),
        ("90a_virtual", [(9, 0)], [(10, 0), (12, 0)]),
        ("120a_real", [(12, 0)], [(12, 1), (10, 0), (9, 0)]),
        ("121a_real", [(12, 1)], [(12, 0)]),
        ("100f_real", [(10, 0), (10, 3)], [(11, 0), (12, 0), (9, 0)]),
        ("103f_real", [(10, 3)], [(10, 0)]),
        ("120f_virtual", [(12, 0), (12, 1)], [(13, 0), (10, 0)]),
        ("120_real", [(12, 0), (12, 1)], [(10, 0), (13, 0)]),
    ],
)
def test_which_code_runs_on_which_card(arch: str, runs: list[tuple[int, int]], fails: list[tuple[int, int]]) -> None:
    """CUDA C++ Programming Guide: binary and PTX compatibility, architecture- and family-specific features."""
    for card in runs:
        assert lacks(host(cuda=(13, 1), cards=[card]), f"nvidia :: sm_arch :: {arch}") == "", card
    for card in fails:
        reason = lacks(host(cuda=(13, 1), cards=[card]), f"nvidia :: sm_arch :: {arch}")
        assert reason == f"has no code for card 0 (compute capability {card[0]}.{card[1]}), only for {arch}"


@pytest.mark.parametrize(
    "arch", ["86", "real", "86_", "_real", "86_cubin", "8_real", "sm_86", "x86_real", "86b_real", "a_real"]
)
def test_code_of_no_known_kind_runs_nowhere(arch: str) -> None:
    for card in (AMPERE, BLACKWELL):
        assert arch in lacks(host(cuda=(13, 1), cards=[card]), f"nvidia :: sm_arch :: {arch}")


@pytest.mark.parametrize("arch", ["86aa_real", "86af_real", "86fa_virtual"])
def test_a_suffix_that_is_not_known_runs_nowhere(arch: str) -> None:
    assert lacks(host(cuda=(13, 1), cards=[ADA]), f"nvidia :: sm_arch :: {arch}") != ""


def test_every_visible_card_needs_code() -> None:
    """CUDA would fail on the second one in the middle of the work."""
    assert lacks(host(cuda=(13, 1), cards=[ADA, AMPERE]), *REAL) == ""
    reason = lacks(host(cuda=(13, 1), cards=[ADA, PASCAL]), *REAL)
    assert reason.startswith("has no code for card 1 (compute capability 6.1)")
    assert "card 0" not in reason
    both = lacks(host(cuda=(12, 8), cards=[VOLTA, HOPPER]), *REAL)
    assert "has no code for card 0 (compute capability 7.0)" in both
    assert "; has only PTX for card 1 (compute capability 9.0), which needs a driver for CUDA 13.1" in both


def test_a_card_whose_capability_is_unknown_is_tried() -> None:
    """So is another backend's device: Vulkan has no compute capability."""
    assert lacks(host(cuda=(13, 1), cards=[None]), *REAL) == ""
    assert lacks(host(), *REAL) == ""


def test_ptx_without_a_bound_is_any_drivers() -> None:
    assert lacks(host(cuda=(11, 4), cards=[HOPPER]), "nvidia :: sm_arch :: 75_virtual") == ""


def test_the_bound_of_ptx_is_nvidias_own() -> None:
    """A foreign namespace can neither lower nor raise it."""
    hopper = host(cuda=(12, 8), cards=[HOPPER])
    assert ONLY_PTX.format("9.0") in lacks(hopper, "other :: ptx_lower_bound :: 11.0", *REAL)
    reason = lacks(host(cuda=(13, 1), cards=[HOPPER]), "other :: ptx_lower_bound :: 99.0", *REAL)
    assert reason == "needs other :: ptx_lower_bound :: 99.0, which this release does not understand: a newer one may"


def test_of_two_bounds_the_higher_one_counts() -> None:
    for bounds in (["12.0", "13.1"], ["13.1", "12.0"]):
        texts = ["nvidia :: sm_arch :: 75_virtual", *(f"nvidia :: ptx_lower_bound :: {bound}" for bound in bounds)]
        assert "needs a driver for CUDA 13.1" in lacks(host(cuda=(12, 8), cards=[HOPPER]), *texts)
        assert lacks(host(cuda=(13, 1), cards=[HOPPER]), *texts) == ""


# -- what is not understood -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x86_64 :: level :: v3",
        "x86_64 :: avx2 :: off",
        "aarch64 :: sve :: 256",
        "libc :: musl_lower_bound :: 1.2",
        "libc :: glibc_lower_bound :: new",
        "libc :: glibc_lower_bound :: 2.x",
        "nvidia :: cuda_version_upper_bound :: 14.0",
        "nvidia :: cuda_version_lower_bound :: newest",
        "nvidia :: ptx_lower_bound :: x",
        "macos :: version_lower_bound :: sequoia",
        "amd :: gfx_arch :: gfx1100",
        "intel :: gpu :: xe",
        "a :: b :: c",
    ],
)
def test_what_is_not_understood_is_not_met(text: str) -> None:
    """By the best machine there is; and the reason names the triple."""
    best = host(libc=Libc(name="glibc", version=(9, 9)), cuda=(99, 9), features=frozenset({"avx2", "sve"}))
    assert lacks(best, text) == f"needs {text}, which this release does not understand: a newer one may"


@pytest.mark.parametrize("text", ["x86_64 :: level :: v4", "x86_64 :: avx2 :: off"])
def test_what_is_not_understood_is_not_met_on_the_way_from_a_manifest(text: str) -> None:
    core = Artifact(
        path="p",
        name="libllama.so",
        platform=Platform.LINUX_X86_64,
        flavours=("cpu",),
        role=Role.CORE,
        label="llama",
        size=1,
        sha256="0" * 64,
        requirements=(Requirement.parse(text),),
    )
    manifest = Manifest(library="llama", build="b1", repo="r", artifacts=(core,))
    ranked = rank(bundles(manifest, manifest.pin, Platform.LINUX_X86_64), host(), NativeLibraryConfig())
    assert ranked.sets == ()
    assert text in str(ranked.decisions)


def test_processor_features_are_judged_elsewhere() -> None:
    """Ranking names all that a processor lacks at once."""
    assert lacks(host(), "x86_64 :: avx512f :: on", "aarch64 :: sve :: on") == ""


def test_all_reasons_are_said_and_nothing_is_asked_of_nothing() -> None:
    assert unmet([], host()) == ""
    machine = host(libc=Libc(name="musl"), cuda=(12, 4), cards=[PASCAL])
    reasons = lacks(machine, GLIBC, "nvidia :: cuda_version_lower_bound :: 13.0", "a :: b :: c", *REAL).split("; ")
    assert [reason.split(",")[0] for reason in reasons] == [
        "needs glibc 2.34",
        "needs a driver for CUDA 13.0",
        "needs a :: b :: c",
        "has no code for card 0 (compute capability 6.1)",
    ]
