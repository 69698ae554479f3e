"""The decision table: which set a recorded machine gets, without that machine."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from nativeload.cache import LibraryCache
from nativeload.config import NativeLibraryConfig
from nativeload.cpu_variants import ARM64, X86_64
from nativeload.errors import ConfigError
from nativeload.host import Gpu, Host
from nativeload.resolve import Shortlist, conclude
from nativeload.resolve.bundle import Bundle, classify
from nativeload.resolve.ranking import preferred, rank, required, wanted
from nativeload.resolve.resolution import Decision, LibraryFile, Rejected, Source
from nativeload.value import replace
from nativeload.variant import Backend, Role
from tests.releases import CORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

RECORDED = Path(__file__).parents[1] / "host" / "recorded"
PLAIN = NativeLibraryConfig()
DRIVERS = {
    Backend.CUDA: "libggml-cuda.so",
    Backend.VULKAN: "libggml-vulkan.so",
    Backend.ROCM: "libggml-hip.so",
    Backend.METAL: "libggml-metal.so",
}


def _host(name: str, *gpus: Backend) -> Host:
    """Read a recorded host; name backends to give it other devices."""
    host = Host.from_file(RECORDED / f"{name}.json")
    if not gpus:
        return host
    return replace(host, gpus=tuple(Gpu(backend=backend, index=0, name="a card") for backend in gpus))


def _bundle(
    host: Host,
    origin: str = "pkg 1.0",
    *,
    cpus: Iterable[str] = (),
    gpus: Iterable[Backend] = (),
    source: Source = Source.INSTALLED,
    own: bool = False,
) -> Bundle:
    names = [*CORE, *(f"libggml-cpu-{name}.so" for name in cpus), *(DRIVERS[gpu] for gpu in gpus)]
    parts = classify([f"/{origin}/{name}" for name in names], "llama")
    return Bundle(
        library="llama",
        platform=host.platform,
        source=source,
        origin=origin,
        directory=f"/{origin}",
        core=parts["core"],
        cpus=parts["cpus"],
        gpus=parts["gpus"],
        own=own,
    )


def _shown(bundles: Iterable[Bundle], host: Host, config: NativeLibraryConfig = PLAIN) -> list[str]:
    return [str(item) for item in rank(bundles, host, config).sets]


def _labels(bundle: Bundle, host: Host, config: NativeLibraryConfig = PLAIN) -> list[str]:
    found = rank([bundle], host, config).sets
    return ["+".join(part for part in (item.gpu, item.cpu.label if item.cpu else "") if part) for item in found]


def _reasons(bundles: Iterable[Bundle], host: Host, config: NativeLibraryConfig = PLAIN) -> dict[str, str]:
    """Return why each candidate is not used when the best set is, from the whole trace; each must be there once."""
    ranked = rank(bundles, host, config)
    found = Shortlist(config, host, ranked.sets, ranked.decisions, LibraryCache(None))
    reasons: dict[str, str] = {}
    for decision in conclude(found, ranked.sets[0] if ranked.sets else None).decisions:
        assert decision.candidate not in reasons, decision
        if isinstance(decision.verdict, Rejected):
            reasons[decision.candidate] = decision.verdict.reason
    return reasons


# -- the CPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nehalem", ["sse42", "x64"]),
        ("haswell", ["haswell", "piledriver", "ivybridge", "sandybridge", "sse42", "x64"]),
        ("windows-haswell", ["haswell", "piledriver", "ivybridge", "sandybridge", "sse42", "x64"]),
        ("two-nvidia", ["haswell", "piledriver", "ivybridge", "sandybridge", "sse42", "x64"]),
        ("alpine-container", ["skylakex", "haswell", "piledriver", "ivybridge", "sandybridge", "sse42", "x64"]),
        ("zen4", ["zen4", "cooperlake", "icelake", "cascadelake", "cannonlake", "skylakex", "haswell"]),
        ("granite-rapids", ["sapphirerapids", "zen4", "cooperlake", "icelake", "cascadelake"]),
        ("graviton3", ["armv8.6_1", "apple_m2_m3", "armv8.2_3", "armv8.2_2", "apple_m1", "armv8.2_1", "armv8.0_1"]),
        ("apple-m1", ["armv8.2_2", "apple_m1", "armv8.2_1", "armv8.0_1"]),
    ],
)
def test_a_machine_gets_the_best_cpu_backend_it_can_run(name: str, expected: list[str]) -> None:
    """All of its family's are there; the best comes first and the rest by their score."""
    host = _host(name)
    bundle = _bundle(host, cpus=X86_64 if host.platform.is_x86 else ARM64)
    assert _labels(bundle, host)[: len(expected)] == expected
    reasons = _reasons([bundle], host)
    chosen = f"pkg 1.0: libggml-cpu-{expected[0]}.so"
    assert set(reasons) == {f"pkg 1.0: {file.name}" for file in bundle.cpus} - {chosen}


def test_apples_own_bundle_on_an_apple() -> None:
    host = _host("apple-m1")
    bundle = _bundle(host, cpus=["apple_m1", "apple_m2_m3", "apple_m4"], gpus=[Backend.METAL])
    assert _labels(bundle, host) == ["metal+apple_m1", "apple_m1"]


def test_what_the_machine_lacks_is_named() -> None:
    host = _host("nehalem")
    assert _reasons([_bundle(host, cpus=["x64", "sandybridge", "haswell"])], host) == {
        "pkg 1.0: libggml-cpu-sandybridge.so": "needs avx, which this CPU lacks",
        "pkg 1.0: libggml-cpu-haswell.so": "needs avx, avx2, bmi2, f16c, fma, which this CPU lacks",
    }


def test_what_is_passed_over_is_said_with_what_comes_before_it() -> None:
    host = _host("haswell")
    ((candidate, reason),) = _reasons([_bundle(host, cpus=["x64", "haswell"])], host).items()
    assert candidate == "pkg 1.0: libggml-cpu-x64.so"
    assert reason.startswith("passed over: ")
    assert "haswell" in reason


def test_a_bundle_without_a_cpu_backend_for_this_machine_is_none() -> None:
    host = _host("nehalem", Backend.CUDA)
    bundle = _bundle(host, cpus=["haswell"], gpus=[Backend.CUDA])
    assert _labels(bundle, host) == []
    assert _reasons([bundle], host)["pkg 1.0"] == "none of its CPU backends runs here"


def test_skipping_the_check_lets_everything_through() -> None:
    host = _host("nehalem")
    bundle = _bundle(host, cpus=["x64", "zen4"], gpus=[Backend.CUDA])
    assert _labels(bundle, host, PLAIN.with_skip_check()) == ["cuda+zen4", "cuda+x64", "zen4", "x64"]


@pytest.mark.parametrize(
    ("ceiling", "best"),
    [
        ("none", "sse42"),
        ("avx", "piledriver"),
        ("avx2", "haswell"),
        ("avx512", "zen4"),
        ("icelake", "icelake"),
        ("x64", "x64"),
        ("sapphirerapids", "zen4"),
    ],
)
def test_a_ceiling_is_kept(ceiling: str, best: str) -> None:
    host = _host("zen4")
    bundle = _bundle(host, cpus=X86_64)
    assert _labels(bundle, host, PLAIN.with_avx(ceiling))[0] == best


def test_what_is_above_the_ceiling_is_said() -> None:
    host = _host("zen4")
    reasons = _reasons([_bundle(host, cpus=["haswell", "zen4"])], host, PLAIN.with_avx("avx2"))
    assert reasons == {"pkg 1.0: libggml-cpu-zen4.so": "above the ceiling 'avx2'"}


def test_a_ceiling_cannot_be_kept_by_a_library_with_its_own_cpu_code() -> None:
    """It would run whatever it was compiled for; a ceiling is the user's word, not a check of the host."""
    host = _host("zen4")
    bundle = _bundle(host)
    assert _labels(bundle, host) == [""]
    ranked = rank([bundle], host, PLAIN.with_avx("avx2"))
    assert ranked.sets == ()
    expected = "its CPU level is not declared, so the ceiling 'avx2' cannot be kept"
    assert ranked.decisions == (Decision(Source.INSTALLED, "pkg 1.0", Rejected(expected)),)
    assert _labels(bundle, host, PLAIN.with_avx("avx2").with_skip_check()) == []


@pytest.mark.parametrize("word", ["none", "avx", "avx2", "avx512", "zen4"])
def test_x86_ceilings_are_an_error_on_arm(word: str) -> None:
    host = _host("graviton3")
    with pytest.raises(ConfigError, match="says nothing about linux-aarch64"):
        rank([_bundle(host, cpus=ARM64)], host, PLAIN.with_avx(word))
    assert _labels(_bundle(host, cpus=ARM64), host, PLAIN.with_avx("armv8.2_2"))[0] == "armv8.2_2"


# -- the GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PLAIN, ["cuda+haswell", "haswell"]),
        (PLAIN.with_cuda(), ["cuda+haswell", "haswell"]),
        (PLAIN.with_cuda("require"), ["cuda+haswell", "haswell"]),
        (PLAIN.with_cuda(12), ["cuda+haswell", "haswell"]),
        (PLAIN.with_cuda(False), ["haswell"]),
        (PLAIN.with_vulkan(), ["cuda+haswell", "haswell"]),
        (PLAIN.with_vulkan(False), ["cuda+haswell", "haswell"]),
    ],
)
def test_a_gpu_that_is_there_is_used_unless_it_is_switched_off(
    config: NativeLibraryConfig, expected: list[str]
) -> None:
    host = _host("two-nvidia")
    assert _labels(_bundle(host, cpus=["haswell"], gpus=[Backend.CUDA]), host, config) == expected


def test_a_gpu_that_is_not_there_is_a_reason() -> None:
    host = _host("haswell")
    for config in (PLAIN, PLAIN.with_cuda(), PLAIN.with_cuda("require")):
        bundle = _bundle(host, cpus=["haswell"], gpus=[Backend.CUDA])
        assert _labels(bundle, host, config) == ["haswell"]
        assert _reasons([bundle], host, config) == {
            "pkg 1.0: libggml-cuda.so": "no NVIDIA device node (/dev/nvidiactl)"
        }


def test_another_cuda_than_the_one_asked_for_is_a_reason() -> None:
    """The major is read out of the module's needs (`resolve._with_cuda_major`); who named one gets no other."""
    host = _host("two-nvidia")
    plain = _bundle(host, cpus=["haswell"], gpus=[Backend.CUDA])
    bundle = replace(plain, gpus=tuple(replace(file, cuda=13) for file in plain.gpus))
    assert _labels(bundle, host, PLAIN.with_cuda(13)) == ["cuda+haswell", "haswell"]
    assert _labels(bundle, host, PLAIN.with_cuda()) == ["cuda+haswell", "haswell"]
    assert _labels(bundle, host, PLAIN.with_cuda(12)) == ["haswell"]
    reasons = _reasons([bundle], host, PLAIN.with_cuda(12))
    assert reasons == {"pkg 1.0: libggml-cuda.so": "built for CUDA 13, and CUDA 12 was asked for"}


def test_a_gpu_that_is_switched_off_is_a_reason() -> None:
    host = _host("two-nvidia")
    reasons = _reasons([_bundle(host, cpus=["haswell"], gpus=[Backend.CUDA])], host, PLAIN.with_cuda(False))
    assert reasons == {"pkg 1.0: libggml-cuda.so": "cuda is switched off in the config"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PLAIN, ["cuda", "rocm", "vulkan", ""]),
        (PLAIN.with_vulkan(), ["vulkan", "cuda", "rocm", ""]),
        (PLAIN.with_rocm().with_vulkan(), ["rocm", "vulkan", "cuda", ""]),
        (PLAIN.with_cuda(False), ["rocm", "vulkan", ""]),
        (PLAIN.with_cuda(False).with_vulkan("require"), ["vulkan", "rocm", ""]),
        (PLAIN.with_cuda(False).with_vulkan(False).with_rocm(False), [""]),
    ],
)
def test_the_preferred_gpu_comes_first(config: NativeLibraryConfig, expected: list[str]) -> None:
    host = _host("haswell", Backend.VULKAN, Backend.CUDA, Backend.ROCM)
    bundle = _bundle(host, gpus=[Backend.VULKAN, Backend.CUDA, Backend.ROCM])
    assert _labels(bundle, host, config) == expected


def test_a_preferred_gpu_beats_the_order_of_packages() -> None:
    """An installed CPU build never hides another package's CUDA from who asks for it."""
    host = _host("two-nvidia")
    ours = _bundle(host, "nativeload-a 1.0", cpus=["haswell"], own=True)
    theirs = _bundle(host, "z 1.0", gpus=[Backend.CUDA])
    folder = _bundle(host, "/dir", cpus=["haswell"], source=Source.EXPLICIT)
    for config, first in (
        (PLAIN, "/dir [haswell]"),
        (PLAIN.with_cuda(), "z 1.0 [cuda]"),
        (PLAIN.with_cuda("require"), "z 1.0 [cuda]"),
        (PLAIN.with_cuda(False), "/dir [haswell]"),
    ):
        assert _shown([folder, ours, theirs], host, config)[0] == first


@pytest.mark.parametrize("backend", DRIVERS)
def test_no_gpu_module_goes_without_a_word(backend: Backend) -> None:
    """Every module is in the best set or has a decision, also where two can run and one is taken."""
    host = _host("haswell", *DRIVERS)
    bundle = _bundle(host, cpus=["haswell"], gpus=DRIVERS)
    config = replace(PLAIN, wants=((backend, True),))
    assert _labels(bundle, host, config)[0] == f"{backend}+haswell"
    said = {candidate.rpartition(": ")[2] for candidate in _reasons([bundle], host, config)}
    assert said == set(DRIVERS.values()) - {DRIVERS[backend]}


# -- several packages -------------------------------------------------------------------------------------------------


def test_directories_come_first_in_the_users_order() -> None:
    host = _host("zen4")
    a, z = (_bundle(host, f"/{name}", cpus=["x64"], source=Source.EXPLICIT) for name in "az")
    ours = _bundle(host, "nativeload-a 1.0", cpus=["zen4"], own=True)
    assert [text.partition(" [")[0] for text in _shown([z, a, ours], host)] == ["/z", "/a", "nativeload-a 1.0"]
    assert [text.partition(" [")[0] for text in _shown([a, z, ours], host)] == ["/a", "/z", "nativeload-a 1.0"]


def test_our_own_package_then_the_better_cpu_then_the_name() -> None:
    host = _host("zen4")
    bundles = [
        _bundle(host, "b 1.0", cpus=["x64", "haswell"]),
        _bundle(host, "a 1.0", cpus=["haswell"]),
        _bundle(host, "z 1.0", cpus=["zen4"]),
        _bundle(host, "xllamacpp 1.0"),
        _bundle(host, "nativeload-b 1.0", cpus=["sse42"], own=True),
    ]
    expected = [
        "nativeload-b 1.0 [sse42]",
        "z 1.0 [zen4]",
        "a 1.0 [haswell]",
        "b 1.0 [haswell]",
        "b 1.0 [x64]",
        "xllamacpp 1.0",
    ]
    assert _shown(bundles, host) == expected
    for order in itertools.permutations(bundles):
        assert _shown(order, host) == expected


def test_the_order_does_not_depend_on_the_order_of_input() -> None:
    """A law, over all recorded hosts and configs: shuffled packages and shuffled files give one answer."""
    configs = [PLAIN, PLAIN.with_cuda(), PLAIN.with_vulkan(), PLAIN.with_skip_check(), PLAIN.with_cuda(False)]
    for path in sorted(RECORDED.glob("*.json")):
        host = _host(path.stem)
        table = X86_64 if host.platform.is_x86 else ARM64
        bundles = [
            _bundle(host, "a 1.0", cpus=list(table)[::2], gpus=DRIVERS),
            _bundle(host, "b 1.0", cpus=list(table)[1::2], gpus=[Backend.VULKAN]),
            _bundle(host, "c 1.0", gpus=[Backend.CUDA, Backend.METAL]),
            _bundle(host, "nativeload-d 1.0", cpus=list(table)[:3], own=True),
        ]
        for config in configs:
            expected = rank(bundles, host, config)
            assert len(set(expected.sets)) == len(expected.sets)
            for seed in range(4):
                mixed = [_mixed(bundle, seed) for bundle in bundles]
                random.Random(seed).shuffle(mixed)
                found = rank(mixed, host, config)
                assert found.sets == expected.sets
                assert set(found.decisions) == set(expected.decisions)


def _mixed(bundle: Bundle, seed: int) -> Bundle:
    cpus, gpus = list(bundle.cpus), list(bundle.gpus)
    dice = random.Random(seed)
    dice.shuffle(cpus)
    dice.shuffle(gpus)
    return replace(bundle, cpus=tuple(cpus), gpus=tuple(gpus))


def test_a_set_has_its_files_in_load_order() -> None:
    host = _host("two-nvidia")
    bundle = _bundle(host, cpus=["haswell"], gpus=[Backend.CUDA])
    gomp = LibraryFile(path="/pkg 1.0/libgomp.so.1", role=Role.RUNTIME, label="gomp")
    (best, _) = rank([replace(bundle, runtime=(gomp,))], host, PLAIN).sets
    assert [file.name for file in best.files] == ["libgomp.so.1", *CORE, "libggml-cuda.so", "libggml-cpu-haswell.so"]
    assert (best.main.name, best.gpu, best.variant) == ("libllama.so", "cuda", "linux-x86_64-cuda-haswell")
    assert best.cpu is not None
    assert best.cpu.label == "haswell"


def test_nothing_ranks_as_nothing() -> None:
    ranked = rank([], _host("zen4"), PLAIN)
    assert (ranked.sets, ranked.decisions) == ((), ())


def test_what_the_config_says_of_a_backend() -> None:
    config = PLAIN.with_cuda("require").with_vulkan().with_metal(False)
    assert [wanted(config, backend) for backend in DRIVERS] == ["require", True, None, False]
    assert required(config) == (Backend.CUDA,)
    assert preferred(config) == (Backend.CUDA, Backend.VULKAN)
    assert (required(PLAIN), preferred(PLAIN)) == ((), ())
