"""From a config to a verified set: constraints, policy, plans for elsewhere, and a word for every candidate."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nativeload.config import NativeLibraryConfig
from nativeload.errors import (
    BackendUnavailableError,
    DownloadUnavailableError,
    IntegrityError,
    LibraryNotFoundError,
    PreferenceWarning,
)
from nativeload.host import Gpu, Host
from nativeload.resolve import plan, resolve, shortlist
from nativeload.resolve.resolution import Accepted, Rejected, Resolution, Source, Unknown
from nativeload.value import replace
from nativeload.variant import Backend, Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nativeload.resolve.resolution import LibrarySet
    from tests.resolve.conftest import SitePackages

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "host" / "recorded"
PIN = f"b11146@sha256:{'0' * 64}"
XLLAMACPP = {"xllamacpp/xllamacpp.abi3.so": b"library"}
NAMES = ("libggml-base.so", "libggml.so", "libllama.so", "libggml-cpu-x64.so", "libggml-cpu-haswell.so")
DROPPED = Rejected("dropped by the selecting policy")
HERE = Platform.current()
ELSEWHERE = {Platform.LINUX_X86_64: "graviton3"}.get(HERE, "zen4")

x86_linux = pytest.mark.skipif(HERE is not Platform.LINUX_X86_64, reason="the recorded hosts of this table are these")


def _host(name: str) -> Host:
    return Host.from_file(RECORDED / f"{name}.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A split build for x86 in a directory, with CUDA."""
    path = tmp_path / "folder"
    path.mkdir(mode=0o755)
    for name in (*NAMES, "libggml-cuda.so"):
        (path / name).write_bytes(name.encode())
    return path


def _verdicts(resolution: Resolution) -> dict[str, Accepted | Rejected | Unknown]:
    """Return what was decided of each candidate, which must be one thing."""
    found: dict[str, Accepted | Rejected | Unknown] = {}
    for decision in resolution.decisions:
        assert decision.candidate not in found, resolution.explain()
        found[decision.candidate] = decision.verdict
    return found


# -- every candidate leaves a word ------------------------------------------------------------------------------------


@x86_linux
def test_every_candidate_leaves_one_decision(folder: Path, only_site: SitePackages, tmp_path: Path) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    only_site.add("llama_cpp_python", "0.3.36", {})
    only_site.add_backend()
    config = NativeLibraryConfig().with_search_directories([tmp_path / "absent", folder]).with_backend_package("gone")
    verdicts = _verdicts(plan(config, _host("haswell")))
    assert isinstance(verdicts[f"{folder}: libggml-cpu-x64.so"], Rejected)
    assert verdicts.pop(f"{folder}: libggml-cpu-x64.so").reason.startswith("passed over: ")
    verdicts.pop("nativeload-llama-test 1.0: libggml-cpu-x64.so", None)  # its set is passed over, below
    assert verdicts == {
        str(tmp_path / "absent"): Rejected("no such directory"),
        "gone": Rejected("named as a backend package, but not installed"),
        "llama-cpp-python 0.3.36": Rejected("RECORD vouches for no llama library in llama_cpp/lib"),
        f"{folder}: libggml-cuda.so": Rejected("no NVIDIA device node (/dev/nvidiactl)"),
        f"{folder} [haswell]": Accepted("best for this host; not verified: nobody vouched for it but the user"),
        "nativeload-llama-test 1.0 [haswell]": Rejected(f"passed over: {folder} [haswell] ranks higher"),
        "xllamacpp 1.0": Rejected(f"passed over: {folder} [haswell] ranks higher"),
    }


@x86_linux
def test_a_gpu_module_that_is_passed_over_leaves_a_word(folder: Path) -> None:
    """Two GPUs can be used here and one is taken: the other's module is not forgotten."""
    (folder / "libggml-vulkan.so").touch()
    card = Gpu(backend=Backend.VULKAN, index=0, name="a card")
    host = replace(_host("two-nvidia"), gpus=(*_host("two-nvidia").gpus, card))
    resolution = plan(NativeLibraryConfig().with_library(folder), host)
    assert resolution.chosen is not None
    assert resolution.chosen.gpu == "cuda"
    assert isinstance(_verdicts(resolution).get(f"{folder}: libggml-vulkan.so"), Rejected)


def test_exactly_the_chosen_one_is_accepted(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    resolution = resolve(NativeLibraryConfig())
    assert [candidate for candidate, verdict in _verdicts(resolution).items() if isinstance(verdict, Accepted)] == [
        str(resolution.chosen)
    ]
    assert resolution.to_dict()["files"][0]["size"] == len(b"library")


def test_the_object_of_resolve_json(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    table = json.loads(json.dumps(resolve(NativeLibraryConfig()).to_dict()))
    assert list(table) == ["library", "build", "variant", "source", "verified", "directory", "files", "decisions"]
    assert [list(file) for file in table["files"]] == [["name", "size", "sha256"]]
    assert {tuple(decision) for decision in table["decisions"]} == {("source", "candidate", "accepted", "reason")}
    assert (table["source"], table["verified"], table["build"]) == ("installed", True, None)


def test_nothing_found_is_an_error_with_the_trace(only_site: SitePackages) -> None:
    only_site.add("llama_cpp_python", "0.3.36", {})
    with pytest.raises(LibraryNotFoundError) as caught:
        resolve(NativeLibraryConfig())
    assert "llama-cpp-python 0.3.36: rejected: RECORD vouches for no llama library" in str(caught.value)
    assert "pip install 'nativeload[cpu]'" in caught.value.hint
    assert caught.value.resolution.chosen is None
    assert plan(NativeLibraryConfig()).chosen is None


def test_another_library_is_not_this_one(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    for library in ("whisper", "ggml"):
        with pytest.raises(LibraryNotFoundError, match=f"no usable {library} library"):
            resolve(NativeLibraryConfig(library))


# -- downloads and pins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offline", "reason"), [(None, "this release pins no build"), (True, "offline")])
def test_a_download_of_what_nobody_pinned_says_so(offline: bool | None, reason: str, only_site: SitePackages) -> None:
    config = replace(NativeLibraryConfig().with_auto_download(), offline=offline)
    with pytest.raises(DownloadUnavailableError) as caught:
        resolve(config)
    assert "Three ways on" in caught.value.hint
    assert caught.value.resolution is not None
    (verdict,) = _verdicts(caught.value.resolution).values()
    assert reason in verdict.reason
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    with contextlib.nullcontext() if offline else pytest.warns(PreferenceWarning, match="Three ways on"):
        found = resolve(config)
    assert found.verified
    assert Source.DOWNLOAD in {decision.source for decision in found.decisions}


def test_a_pin_is_satisfied_by_its_manifest_only(only_site: SitePackages, folder: Path) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    only_site.add_backend()
    config = NativeLibraryConfig().with_search_directory(folder).with_pin(PIN)
    found = plan(config)
    assert found.chosen is None
    verdicts = _verdicts(found)
    unknown = verdicts.pop(PIN)
    assert unknown == Unknown(f"manifest {'0' * 64} not here: resolve or import it")
    sets = shortlist(replace(config, pin=None)).sets
    assert sets
    assert all(verdicts[str(item)] == Rejected("not the pinned build") for item in sets)
    with pytest.raises(LibraryNotFoundError, match="not the pinned build"):
        resolve(config)


def test_a_path_does_not_satisfy_a_pin(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").touch()
    with pytest.raises(LibraryNotFoundError, match="not the pinned build"):
        resolve(NativeLibraryConfig().with_library(tmp_path / "libllama.so").with_pin(PIN))


# -- the user's own policy --------------------------------------------------------------------------------------------


@x86_linux
def test_a_policy_reorders(folder: Path) -> None:
    def last_first(sets: Sequence[LibrarySet], _: Host) -> Iterable[LibrarySet]:
        return reversed(sets)

    config = NativeLibraryConfig().with_library(folder).with_skip_check()
    before = [str(item) for item in shortlist(config).sets]
    after = shortlist(config.with_selecting_policy(last_first))
    assert [str(item) for item in after.sets] == before[::-1]
    assert not any(decision.verdict == DROPPED for decision in after.decisions)


@x86_linux
def test_a_policy_drops_with_a_reason(folder: Path) -> None:
    def no_gpu(sets: Sequence[LibrarySet], host: Host) -> Iterable[LibrarySet]:
        assert host == _host("two-nvidia")
        return (item for item in sets if item.gpu is None)

    config = NativeLibraryConfig().with_library(folder).with_selecting_policy(no_gpu)
    resolution = plan(config, _host("two-nvidia"))
    assert resolution.to_dict()["variant"] == "linux-x86_64-haswell"
    dropped = {name for name, verdict in _verdicts(resolution).items() if verdict == DROPPED}
    assert dropped == {f"{folder} [cuda + haswell]", f"{folder} [cuda + x64]"}


def test_a_policy_that_drops_all_leaves_nothing(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    config = NativeLibraryConfig().with_selecting_policy(lambda sets, host: ())
    with pytest.raises(LibraryNotFoundError, match=r"xllamacpp 1\.0: rejected: dropped by the selecting policy"):
        resolve(config)


# -- prefer and require -----------------------------------------------------------------------------------------------


@x86_linux
def test_a_preference_that_cannot_be_met_is_a_shortfall(folder: Path) -> None:
    config = NativeLibraryConfig().with_library(folder)
    for host, wants, expected in (
        ("haswell", config.with_cuda(), ((Backend.CUDA, "no NVIDIA device node (/dev/nvidiactl)"),)),
        ("two-nvidia", config.with_cuda(), ()),
        ("zen4", config.with_vulkan(), ((Backend.VULKAN, "no vulkan backend in any candidate"),)),
        ("haswell", config, ()),
        ("haswell", config.with_cuda(False), ()),
    ):
        assert plan(wants, _host(host)).shortfall == expected


@x86_linux
def test_a_requirement_that_cannot_be_met_raises(folder: Path) -> None:
    """The folder's only GPU module is CUDA's: no machine gets Vulkan from it."""
    config = NativeLibraryConfig().with_library(folder).with_vulkan("require")
    with pytest.raises(BackendUnavailableError, match="vulkan is required") as caught:
        resolve(config)
    assert (caught.value.backend, caught.value.path) == ("vulkan", str(folder))
    assert caught.value.hint == "Say with_vulkan() to prefer it without requiring it."


@x86_linux
def test_a_plan_accepts_nothing_that_resolve_would_refuse(folder: Path) -> None:
    """A requirement is a hard constraint: a plan that accepts the CPU would be a lie about what comes."""
    config = NativeLibraryConfig().with_library(folder).with_cuda("require")
    met, unmet = plan(config, _host("two-nvidia")), plan(config, _host("haswell"))
    assert met.chosen is not None
    assert met.chosen.gpu == "cuda"
    assert unmet.chosen is None
    verdicts = _verdicts(unmet)
    assert not any(isinstance(verdict, Accepted) for verdict in verdicts.values())
    assert any("cuda is required" in verdict.reason for verdict in verdicts.values())


# -- verification -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HERE.is_x86, reason="the set's CPU backends are x86's")
def test_one_flipped_bit_is_final_whatever_else_is_there(only_site: SitePackages) -> None:
    """Ours ranks first and is broken; a good foreign package and a second good one of ours stay unused."""
    folder = only_site.add_backend("nativeload_a")
    only_site.add_backend("nativeload_b")
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    assert resolve(NativeLibraryConfig()).to_dict()["directory"] == str(folder / "set")
    broken = folder / "set" / "libllama.so"
    content = broken.read_bytes()
    for byte, bit in ((0, 0), (len(content) - 1, 7)):
        flipped = bytearray(content)
        flipped[byte] ^= 1 << bit
        broken.write_bytes(flipped)
        for verb in (resolve, plan):
            with pytest.raises(IntegrityError) as caught:
                verb(NativeLibraryConfig())
            assert caught.value.path == str(broken)
    broken.write_bytes(content)
    assert resolve(NativeLibraryConfig()).verified


def test_skipping_the_check_never_skips_integrity(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    (only_site.root / "xllamacpp/xllamacpp.abi3.so").write_bytes(b"LIBRARY")
    with pytest.raises(IntegrityError):
        resolve(NativeLibraryConfig().with_skip_check().with_auto_fallback())


# -- plans for elsewhere ----------------------------------------------------------------------------------------------


def test_what_is_installed_here_is_not_for_elsewhere(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    host = _host(ELSEWHERE)
    resolution = plan(NativeLibraryConfig(), host)
    reason = f"installed packages are for {HERE}, the plan is for {host.platform}"
    assert (resolution.chosen, _verdicts(resolution)) == (None, {"this environment": Rejected(reason)})


@pytest.mark.parametrize(
    ("host", "names", "best"),
    [
        (
            "graviton3",
            ["libggml-cpu-armv8.0_1.so", "libggml-cpu-armv8.6_1.so", "libggml-cpu-armv9.2_1.so"],
            "armv8.6_1",
        ),
        ("apple-m1", ["libggml-cpu-apple_m1.so", "libggml-cpu-apple_m4.so"], "apple_m1"),
        ("zen4", ["libggml-cpu-haswell.so", "libggml-cpu-zen4.so"], "zen4"),
        ("nehalem", ["libggml-cpu-x64.so", "libggml-cpu-sse42.so"], "sse42"),
    ],
)
def test_a_path_may_be_for_another_machine(host: str, names: list[str], best: str, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in (*NAMES[:3], *names):
        (folder / name).touch()
    table = plan(NativeLibraryConfig().with_library(folder), _host(host)).to_dict()
    assert table["variant"] == f"{_host(host).platform}-{best}"
    assert [file["name"] for file in table["files"]] == [*NAMES[:3], f"libggml-cpu-{best}.so"]


def test_a_plan_is_the_verbs_plan(only_site: SitePackages) -> None:
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    config = NativeLibraryConfig()
    assert config.plan() == config.dry_run() == config.resolve() == plan(config)
    assert config.plan(_host(ELSEWHERE)) == plan(config, _host(ELSEWHERE))


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the device nodes of GPUs are looked for there")
def test_planning_opens_nothing(folder: Path, only_site: SitePackages) -> None:
    """Counted by the interpreter itself: libraries opened by name, sockets, child processes. Then the same for one
    of each, done on purpose: the counter counts."""
    only_site.add("xllamacpp", "1.0", XLLAMACPP)
    only_site.add_backend()
    code = f"""
import json, sys
from collections import Counter
counted = Counter()
def count(event, args):
    if event == "ctypes.dlopen" and args[0] is None:
        return  # a handle to this program itself: nothing is opened
    if event.startswith(("ctypes.dlopen", "socket.")) or event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        counted[event] += 1
sys.addaudithook(count)
sys.path.insert(0, {str(only_site.root)!r})
from nativeload import Host, NativeLibraryConfig
config = NativeLibraryConfig().with_search_directory({str(folder)!r})
for each in (config, config.with_cuda(), config.with_library({str(folder)!r}), NativeLibraryConfig()):
    each.dry_run(); each.plan(); each.resolve()
    for name in ("haswell", "two-nvidia", "zen4", "graviton3", "windows-haswell"):
        each.plan(Host.from_file({str(RECORDED)!r} + "/" + name + ".json"))
planned = dict(counted)
import ctypes, socket, subprocess
subprocess.run([sys.executable, "-c", ""]); socket.socket().close()
try: ctypes.CDLL("/nonexistent.so")
except OSError: pass
print(json.dumps([planned, sorted(counted)]))
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environ)
    planned, control = json.loads(run.stdout)
    assert planned == {}
    assert {"ctypes.dlopen", "socket.__new__", "subprocess.Popen"} <= set(control)
