"""A libllama that no known layout agrees with is refused, or where the user allows it tried in a child first."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from nativeload_llama import abi
from nativeload_llama.abi import trial
from nativeload_llama.abi._layout_expected import FIELDS
from tests.bindings.test_layouts import REAL, child, facts, files
from tests.scenarios import STUB_LINUX, WHY_NOT, run, stub_bundle
from tools import generate_layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    Build = Callable[..., Path]

pytestmark = pytest.mark.skipif(not STUB_LINUX, reason=WHY_NOT)

NEWEST = abi.LAYOUTS[-1].name


@pytest.fixture(autouse=True)
def _own_verdicts(_one_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged of a library here, by judges that were told otherwise, is kept from the other tests."""
    folder = tmp_path / "verdicts"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("NATIVELOAD_CACHE", str(folder))


OPEN = """
import os, warnings
from nativeload import NativeLibraryConfig
from nativeload_llama.library import open_library

config = NativeLibraryConfig().with_library(os.environ["LIBRARY"])
if os.environ["ALLOW"]:
    config = config.with_allow_unverified()
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    result = attempt(lambda: open_library(config).loaded)
    again = "path" in result and "error" not in result and open_library(config).layout.name
say({**result, "layout": again, "warnings": [str(each.message) for each in heard]})
"""


def stub(build: Build, folder: Path, name: str, *flags: str, change: tuple[str, str] | None = None) -> Path:
    """Lay out a split build whose libllama has the newest layout, or one that a change to its header makes of it."""
    header = folder / f"{name}.h"
    text = (generate_layout.ROOT / generate_layout.ABI / f"layout_{NEWEST}.h").read_text()
    if change:
        assert len(re.findall(change[0], text)) == 1
        text = re.sub(change[0], change[1], text)
    header.write_text(text)
    bundle = stub_bundle(build, folder / name)
    tokens = ",".join(map(str, trial.CONTINUATION))
    base = build("stub_ggml.c", "libggml-base.so", "-DPART=BASE")
    linked = ("-L", str(base.parent), "-Wl,-rpath,$ORIGIN", "-Wl,-soname,libllama.so", "-lggml", "-lggml-base")
    llama = build("stub_llama.c", f"{name}.so", f'-DHEADER="{header}"', f"-DTOKENS={tokens}", *flags, *linked)
    shutil.copy(llama, bundle / "libllama.so")
    return bundle


def opened(library: Path, *, allow: bool) -> dict[str, Any]:
    """What became of opening a library in a fresh process."""
    said: dict[str, Any] = run(OPEN, LIBRARY=library, ALLOW="1" if allow else "")
    return said


def test_a_stub_of_a_known_layout_needs_no_permission(build: Build, tmp_path: Path) -> None:
    """What agrees with a layout is proven: nothing is tried, and nothing is warned of."""
    said = opened(stub(build, tmp_path, "known"), allow=True)
    assert (said["layout"], said["warnings"]) == (NEWEST, [])
    assert "trial" not in said["facts"]


def test_without_permission_nothing_is_tried(build: Build, tmp_path: Path) -> None:
    """Another default value is enough to be refused; the hint says what would try it."""
    said = opened(stub(build, tmp_path, "other-default", "-DN_CTX=4096"), allow=False)
    assert said["error"] == "UnknownLayoutError"
    assert "the default values of n_ctx are not at this layout's offsets" in said["reason"]
    assert "with_allow_unverified() tries it in a child process" in said["text"]


def test_what_works_is_loaded_with_a_warning(build: Build, tmp_path: Path) -> None:
    """The same library serves once it was tried, and one warning names what is not proven."""
    said = opened(stub(build, tmp_path, "other-default", "-DN_CTX=4096"), allow=True)
    assert said["layout"] == NEWEST
    (warning,) = said["warnings"]
    for words in ("unverified: the llama.h of this binary is not known", "the default values of n_ctx", "9.9.9-stub"):
        assert words in warning
    assert said["facts"]["trial"]["seen"] == said["facts"]["trial"]["expected"]


@pytest.mark.parametrize(
    ("name", "flags", "change", "reason"),
    [
        (
            "swapped",
            (),
            (r"uint32_t n_batch;\s+uint32_t n_ubatch;", "uint32_t n_ubatch; uint32_t n_batch;"),
            rf"by {NEWEST} it does not work: n_batch is 48, not 96; n_ubatch is 96, not 48$",
        ),
        ("crash", ("-DN_CTX=4096", "-DCRASH"), None, "tried nevertheless, as allowed: SIGSEGV in the layout check$"),
        (
            "callbacks",
            ("-DN_CTX=4096",),
            (r"(ggml_abort_callback abort_callback;)\s+(void \*abort_callback_data;)", r"\2 \1"),
            "it does not work: abort is False, not True$",
        ),
        (
            "larger",
            (),
            (r"bool kv_unified;", "bool kv_unified; int64_t added[2];"),
            r"not tried by \w+, because its context params are \d+ bytes long, and 168 are declared$",
        ),
        (
            "shorter",
            (),
            (r"struct llama_context \*ctx_other;\s+\};", "};"),
            None,
        ),
        ("another-type", ("-DTYPE_V=8",), None, "not tried by .*nothing shows where its type_v stand$"),
    ],
)
def test_what_does_not_work_is_refused_in_words(
    build: Build, tmp_path: Path, name: str, flags: tuple[str, ...], change: tuple[str, str] | None, reason: str | None
) -> None:
    """A made-up layout never comes into this process: its child answers otherwise, crashes, or is not even started."""
    library = stub(build, tmp_path, name, *flags, change=change)
    refused = opened(library, allow=False)
    assert refused["error"] == "UnknownLayoutError"
    said = opened(library, allow=True)
    if reason is None:  # what is shorter at its end alone is driven by what is longer: nothing is written there
        assert said["layout"] == NEWEST
        return
    assert said["error"] == "UnknownLayoutError"
    assert re.search(reason, said["reason"])
    assert said["reason"].startswith(refused["reason"])
    assert "with_allow_unverified" not in said["text"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_written": None}, "how long its model params are cannot be measured here"),
        ({"quantize_written": 72}, "its quantize params are 72 bytes long, and 64 are declared"),
        ({"context_holes": [84, 85, 86, 87]}, "its context params lack a field that is declared"),
        ({"parameters": {"llama_sampler_init_dry": 8}}, "its llama_sampler_init_dry has other parameters"),
        ({"odd_defaults": {NEWEST: ["n_ctx", "type_k"]}}, "nothing shows where its type_k stand"),
        ({}, "it does not export llama_decode"),
    ],
)
def test_what_could_do_harm_unseen_is_not_even_tried(changes: dict[str, Any], said: str) -> None:
    """What may be written beyond our structs, or heard wrong, is refused on the evidence."""
    assert said in list(trial._dangers(abi.LAYOUTS[-1], facts(NEWEST, **changes), []))


PATCHED = """
from nativeload.value import replace
from nativeload_llama import abi

abi.LAYOUTS = tuple(replace(one, requires=(*one.requires, "llama_made_up")) for one in abi.LAYOUTS)
"""


@pytest.mark.real_bundle
@pytest.mark.parametrize("folder", ["xllamacpp-2026.10.11549", "xllamacpp-2026.6.9538", "node-llama-cpp-linux-x64"])
def test_a_real_library_of_a_layout_nobody_told_of(binaries: Path, folder: str) -> None:
    """A real library that fits a layout but for the evidence serves when it is allowed, and continues as it should."""
    code = PATCHED + OPEN
    library = files(binaries, folder)[-1]
    said = {allow: run(code, LIBRARY=library, ALLOW=allow) for allow in ("", "1")}
    assert "it does not export llama_made_up" in said[""]["reason"]
    assert said["1"]["layout"] == REAL[folder][0]
    assert ["llama_made_up" in warning for warning in said["1"]["warnings"]] == [True]
    assert said["1"]["facts"]["trial"]["seen"]["tokens"] == list(trial.CONTINUATION)


@pytest.mark.real_bundle
def test_a_real_library_of_an_older_layout_is_not_tried(binaries: Path) -> None:
    """Of xllamacpp 0.2.5 nothing shows where its params are: permission does not help."""
    library = binaries / "xllamacpp-0.2.5" / "xllamacpp" / "xllamacpp.cpython-311-x86_64-linux-gnu.so"
    assert library.is_file(), f"{library} is missing: run tools/fetch_real.py"
    said = opened(library, allow=True)
    assert said["error"] == "UnknownLayoutError"
    assert "not tried by b8672, because nothing shows where its n_gpu_layers, use_extra_bufts stand" in said["reason"]


DRIVE = """
import ctypes, json, sys
from nativeload_llama import abi
from nativeload_llama.abi import trial
layout = next(one for one in abi.LAYOUTS if one.name == sys.argv[1])
handles = [ctypes.CDLL(file) for file in sys.argv[2:]]
print(json.dumps(trial._drive(handles[::-1], layout)))
"""


@pytest.mark.real_bundle
@pytest.mark.parametrize(
    ("folder", "layout", "wrong"),
    [
        ("xllamacpp-2026.9.11063", "b11549", {"abort": False}),
        ("xllamacpp-2026.8.10566", "b10809", {"progress": False}),
        ("xllamacpp-2026.8.10566", "b10229", {"n_threads_batch": 4}),
        ("xllamacpp-2026.5.9093", "b9294", {"n_threads": 4, "abort": False}),
    ],
)
def test_the_trial_notices_a_real_layout_that_is_not_the_binarys(
    binaries: Path, folder: str, layout: str, wrong: dict[str, Any]
) -> None:
    """Where the structs look alike to their callers, the numbers or the callbacks come out otherwise."""
    said = child(DRIVE, layout, *map(str, files(binaries, folder)))
    expected = {**trial.NUMBERS, "progress": True, "abort": True, "tokens": list(trial.CONTINUATION)}
    assert json.loads(said.splitlines()[-1]) == expected | wrong


@pytest.mark.real_bundle
def test_a_real_library_that_makes_no_context(binaries: Path) -> None:
    """What the params of another layout make the library refuse is told as that."""
    said = child(DRIVE, "b10566", *map(str, files(binaries, "xllamacpp-2026.8.10229")))
    assert json.loads(said.splitlines()[-1]) == {}
    with pytest.raises(LookupError, match="by b10566 it makes no context"):
        abi.judge_trial({"trial": {"layout": "b10566", "refused": [], "expected": {"n_ctx": 768}, "seen": {}}})


def test_every_number_that_is_asked_back_is_no_default() -> None:
    """A number that a library had anyway would show nothing; and each stands in every layout."""
    from nativeload_llama.abi.probe import CANARIES

    for name, number in trial.NUMBERS.items():
        assert number not in CANARIES["context"].get(name, (4,))
        assert all(name in FIELDS[layout.name]["context"] for layout in abi.LAYOUTS)
