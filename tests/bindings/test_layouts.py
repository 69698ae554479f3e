"""Every state of llama.h that is known is told from all others, and each real binary has the one it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nativeload_llama import abi
from nativeload_llama.abi import probe
from nativeload_llama.abi._layout_expected import FIELDS, SIZES
from tools import declarations, generate_layout

LAYOUTS = {layout.name: layout for layout in abi.LAYOUTS}
STRUCTS = ("model", "context", "quantize")
# One has a pointer more than the other at the end of a struct: default values alone do not tell them apart.
ALIKE = {"b9538", "b9713"}
SYMBOLS = {symbol for layout in abi.LAYOUTS for symbol in layout.required}
# What xllamacpp's static link leaves out.
DROPPED = {"llama_max_parallel_sequences", "llama_model_quantize", "llama_model_quantize_default_params"}


def facts(name: str = "b10809", **changes: Any) -> dict[str, Any]:
    """What the probe measures on a build with this layout, with changes."""
    layout = LAYOUTS[name]
    measured: dict[str, Any] = {
        f"{struct}_{fact}": getattr(layout, f"{struct}_{fact}") for struct in STRUCTS for fact in ("written", "holes")
    }
    measured["exports"] = {symbol: symbol in layout.required for symbol in SYMBOLS}
    measured["parameters"] = dict(layout.parameters)
    measured["llama_version"] = next(iter(layout.versions), None)
    measured["odd_defaults"] = {other: [] if {other, name} in ({name}, ALIKE) else ["type_k"] for other in LAYOUTS}
    return measured | changes


UNMEASURED: dict[str, Any] = dict.fromkeys(f"{struct}_{fact}" for struct in STRUCTS for fact in ("written", "holes"))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_holes": [], "context_holes": []},
        {"odd_defaults": None},
        {"llama_version": None},
        {"quantize_written": None, "quantize_holes": None},
    ],
    ids=["all of it", "a compiler that writes the padding", "no default values", "no version", "no quantize"],
)
def test_what_agrees_with_a_layout_is_named(name: str, changes: dict[str, Any]) -> None:
    """Everything measured agrees with one layout, and what was not measured decides nothing."""
    assert abi.identify(facts(name, **changes)).name == name


@pytest.mark.parametrize("name", LAYOUTS)
def test_default_values_alone_tell_the_layouts_apart(name: str) -> None:
    """Where sizes are not seen, the larger of two that begin alike stands for both: its end is never read."""
    assert abi.identify(facts(name, **UNMEASURED)).name == ("b9713" if name in ALIKE else name)
    smaller, larger = (FIELDS[each]["context"] for each in sorted(ALIKE))
    assert list(larger.items())[: len(smaller)] == list(smaller.items())
    assert set(larger) - set(smaller) == {"ctx_other"}
    assert FIELDS["b9538"]["model"] == FIELDS["b9713"]["model"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_sizes_alone_tell_the_layouts_apart(name: str) -> None:
    """Of binaries that export everything and say nothing of their defaults, each has one layout."""
    assert abi.identify(facts(name, odd_defaults=None, exports=dict.fromkeys(SYMBOLS, True))).name == name
    others = [other for other in LAYOUTS.values() if other.name != name]
    measured = [getattr(LAYOUTS[name], fact) for fact in UNMEASURED if not fact.startswith("quantize")]
    for other in others:
        assert measured != [getattr(other, fact) for fact in UNMEASURED if not fact.startswith("quantize")]


def defaults(name: str) -> dict[str, bytes]:
    """Return the structs of a layout as a library fills them in: the known values, and zero elsewhere."""
    structs = {}
    for struct, values in probe.CANARIES.items():
        room = bytearray(SIZES[name][struct])
        for field, (offset, size) in FIELDS[name][struct].items():
            room[offset : offset + size] = values.get(field, (0,))[0].to_bytes(size, sys.byteorder, signed=True)
        structs[struct] = bytes(room)
    return structs


@pytest.mark.parametrize("quantize", [True, False], ids=["with quantize", "without quantize"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_default_values_stand_at_the_offsets_of_one_layout(name: str, quantize: bool) -> None:
    """The known values of one layout are found by no other's offsets."""
    structs = defaults(name) | ({} if quantize else {"quantize": b""})
    agreeing = {each.name for each in abi.LAYOUTS if not probe.odd_defaults(each, structs)}
    assert agreeing == (ALIKE if name in ALIKE else {name})


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (facts(model_written=71), ["nearest is b10809 (0.4.0-dev", "model params end at byte 71, not 78"]),
        (facts(context_holes=[84, 85, 86, 87, 134, 135]), ["nearest is b10809", "84-87 unwritten"]),
        (facts("b11549", context_written=176), ["nearest is b11549", "context params end at byte 176, not 168"]),
        (facts(quantize_written=72), ["quantize params end at byte 72, not 64"]),
        (facts(quantize_holes=[21, 22, 23]), ["quantize params leave bytes 21 unwritten"]),
        (facts(model_written=79), ["not 78", f"known: {', '.join(LAYOUTS)}"]),
        (facts(exports=facts()["exports"] | {"llama_decode": False}), ["it does not export llama_decode"]),
        (
            facts(odd_defaults={name: ["n_ctx", "type_k"] for name in LAYOUTS}),
            ["default values of n_ctx, type_k are not"],
        ),
        (facts(odd_defaults={}), ["default values of everything are not"]),
        (facts(**UNMEASURED, odd_defaults={name: ["n_ctx"] for name in LAYOUTS}), ["default values", "not measured"]),
        (facts(**UNMEASURED, odd_defaults=None), ["its structs were not measured"]),
        (facts("b11549", exports=facts()["exports"]), ["nearest is b11549", "does not export llama_process"]),
        ({}, ["not measured", "llama_version not exported"]),
    ],
)
def test_what_agrees_with_no_layout_is_refused(measured: dict[str, Any], said: list[str]) -> None:
    """One fact that disagrees is enough, and the text says which."""
    with pytest.raises(LookupError) as caught:
        abi.identify(measured)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((5, 8), "nearest is b10229, but its llama_sampler_init_penalties has 5 parameters, not 4"),
        ((5, 7), "its llama_sampler_init_dry has 7 parameters, not 8"),
        ((None, 8), "the parameters of its llama_sampler_init_penalties were not counted"),
    ],
    ids=["August 4", "August 8", "not counted"],
)
def test_the_same_structs_with_other_functions_are_refused(counts: tuple[int | None, int], said: str) -> None:
    """Upstream changed two constructors one after the other, before the structs: a call would hear other numbers."""
    names = ("llama_sampler_init_penalties", "llama_sampler_init_dry")
    assert tuple(LAYOUTS["b10229"].parameters[name] for name in names) == (4, 8)
    with pytest.raises(LookupError, match=said):
        abi.identify(facts("b10229", parameters=dict(zip(names, counts, strict=True))))


@pytest.mark.parametrize("name", LAYOUTS)
def test_uncounted_parameters_are_settled_by_a_later_function(name: str) -> None:
    """A library that exports llama_sampler_copy has today's constructors, on every platform."""
    measured = facts(name, parameters={})
    if "llama_sampler_copy" in LAYOUTS[name].requires:
        assert abi.identify(measured).name == name
    else:
        with pytest.raises(LookupError, match="were not counted"):
            abi.identify(measured)


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda one: one.name)
def test_committed_layouts(layout: abi.Layout) -> None:
    """The committed module imports, realises every type, and has the sizes that the table goes by."""
    ffi = layout.ffi()
    for kinds, prefix in zip(ffi.list_types(), ("", "struct ", "union "), strict=True):
        for kind in kinds:
            ffi.typeof(f"{prefix}{kind}")
    assert ffi.sizeof("struct llama_batch") == SIZES[layout.name]["batch"] == 56
    for struct, kind in generate_layout.STRUCTS.items():
        assert ffi.sizeof(f"struct {kind}") == SIZES[layout.name][struct]
        assert SIZES[layout.name][struct] - 8 < getattr(layout, f"{struct}_written") <= SIZES[layout.name][struct]
        for field, (offset, _) in FIELDS[layout.name][struct].items():
            assert ffi.offsetof(f"struct {kind}", field) == offset
    assert ffi.integer_const("LLAMA_TOKEN_NULL") == -1
    assert ffi.integer_const("LLAMA_DEFAULT_SEED") == 0xFFFFFFFF
    assert ffi.integer_const("LLAMA_ROPE_TYPE_NEOX") == 2


def test_pointers_that_builds_of_one_layout_take_for_other_things_have_no_type() -> None:
    """Builds before b8600 or so took C++ vectors for what quantizes otherwise: nobody can pass an array there."""
    for layout in abi.LAYOUTS:
        fields = dict(layout.ffi().typeof("struct llama_model_quantize_params").fields)
        kinds = {fields[name].type.cname for name in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")}
        assert (kinds == {"void *"}) == (layout.name == "b8672")


def child(code: str, *arguments: str) -> str:
    """Run Python with the packages of this checkout and return what it prints."""
    place = os.pathsep.join([str(Path(abi.__file__).parents[2]), str(generate_layout.ROOT)])
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": place})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_choosing_needs_no_cffi() -> None:
    """The probe child measures and the parent decides without cffi or its parser, or any layout's declarations."""
    loaded = child("import sys; from nativeload_llama.abi import probe; probe.inspect([]); print(*sys.modules)").split()
    assert "nativeload_llama.abi._layout_expected" in loaded
    modules = {f"nativeload_llama.abi._layout_{name}" for name in LAYOUTS}
    assert not {"cffi", "_cffi_backend", "pycparser", *modules} & set(loaded)


def test_no_parser_at_run_time() -> None:
    """A layout's ffi comes from its compiled module: neither cffi's parser nor pycparser is imported."""
    code = "import sys; from nativeload_llama import abi; abi.LAYOUTS[0].ffi(); print(*sys.modules)"
    loaded = child(code).split()
    assert "_cffi_backend" in loaded
    assert not {"cffi", "cffi.cparser", "pycparser", "nativeload_llama.abi._layout_expected"} & set(loaded)


# folder of a real library -> its layout, and whether it says its version
NPM, WHEEL = "node-llama-cpp-linux-x64", "xllamacpp"
REAL = {
    f"{NPM}-3.17.1": ("b8672", None),
    f"{NPM}-3.18.1": ("b8672", None),
    f"{WHEEL}-2026.4.8672": ("b8672", None),
    f"{WHEEL}-2026.4.8929": ("b8672", None),
    f"{WHEEL}-2026.5.9093": ("b8672", None),
    f"{WHEEL}-2026.5.9294": ("b9294", None),
    f"{WHEEL}-2026.6.9538": ("b9538", None),
    f"{WHEEL}-2026.6.9713": ("b9713", None),
    f"{WHEEL}-2026.7.9873": ("b9713", None),
    f"{NPM}-3.19.0": ("b9713", None),
    f"{WHEEL}-2026.7.10068": ("b9713", None),
    f"{NPM}-3.19.1": ("b9713", None),
    f"{WHEEL}-2026.8.10229": ("b10229", None),
    f"{NPM}-3.20.0": ("b10566", None),
    f"{WHEEL}-2026.8.10566": ("b10566", "0.2.0-dev"),
    f"{WHEEL}-2026.9.10809": ("b10809", "0.4.0-dev"),
    f"{NPM}-3.21.1": ("b10809", "0.4.0-dev"),
    f"{WHEEL}-2026.9.11063": ("b10809", "0.4.1-dev"),
    NPM: ("b10809", "0.5.0-dev"),
    f"{WHEEL}-2026.10.11549": ("b11549", "0.6.0-dev"),
}


OLDER = {f"{WHEEL}-0.2.5"}  # November 2025: before any layout that is known here


def test_every_fetched_library_is_in_the_table() -> None:
    """What tools/fetch_real.py brings for its own processor is held to a layout here."""
    pins = json.loads((generate_layout.ROOT / "tools" / "real_files.json").read_text())
    kinds = ("cuda", "vulkan", "arm64")
    fetched = {row["name"] for row in pins if row["name"].startswith((NPM, WHEEL))}
    assert {name for name in fetched if not name.endswith(kinds) and "cuda-ext" not in name} == {*REAL, *OLDER}


def files(binaries: Path, folder: str) -> list[Path]:
    """The library in a folder, and before it what it needs of its own."""
    if folder.startswith(WHEEL):
        found = [binaries / folder / "xllamacpp" / "xllamacpp.abi3.so"]
    else:
        place = binaries / folder / "package" / "bins" / "linux-x64"
        found = [place / "libggml-base.so", *place.glob("libggml.*.so"), *place.glob("libllama.*.so")]
    assert all(file.is_file() for file in found), f"{found} is missing: run tools/fetch_real.py"
    return found


PROBE = """
import ctypes, json, sys
from nativeload_llama.abi import probe
if sys.argv[1] == "by value":
    probe.returns_through_argument = lambda: False
handles = [ctypes.CDLL(file) for file in sys.argv[2:]]
print(json.dumps(probe.inspect(handles[::-1])))
"""


@pytest.mark.real_bundle
@pytest.mark.parametrize("way", ["hidden pointer", "by value"])
@pytest.mark.parametrize("folder", REAL)
def test_real_libraries_have_their_layout(binaries: Path, folder: str, way: str) -> None:
    """Each is recognised, whichever way the defaults are read, and by nothing that another layout has."""
    name, version = REAL[folder]
    measured = json.loads(child(PROBE, way, *map(str, files(binaries, folder))))
    assert (measured["model_written"] is None) == (way == "by value")
    assert (measured["quantize_written"] is None) == (way == "by value" or folder.startswith(WHEEL))
    assert abi.identify(measured).name == ("b9713" if way == "by value" and name in ALIKE else name)
    assert {each for each, odd in measured["odd_defaults"].items() if not odd} == (ALIKE if name in ALIKE else {name})
    assert measured["parameters"] == LAYOUTS[name].parameters
    assert measured["llama_version"] == version
    assert version in (LAYOUTS[name].versions or (None,)) or folder.endswith("3.20.0")  # the layout's first build


def exported(library: Path) -> set[str]:
    """The C functions of llama.h that an ELF file exports."""
    done = subprocess.run(["nm", "-D", "--defined-only", str(library)], check=True, capture_output=True, text=True)
    rows = (line.split() for line in done.stdout.splitlines())
    return {row[2] for row in rows if len(row) == 3 and row[1] == "T" and row[2].startswith("llama_")}


@pytest.mark.real_bundle
@pytest.mark.parametrize("folder", REAL)
def test_real_libraries_export_what_their_layout_declares(binaries: Path, folder: str) -> None:
    """All that is exported is declared, and what is declared is exported by a build whose own header declares it."""
    name, _ = REAL[folder]
    committed = (generate_layout.ROOT / generate_layout.ABI / f"layout_{name}.h").read_text()
    ours = {one.name for one in declarations.parse(committed).declarations if one.kind == "function"}
    found = exported(files(binaries, folder)[-1])
    assert len(found) > 180
    assert found <= ours
    headers = binaries / "headers" / folder
    if headers.is_dir():
        header = declarations.parse((headers / "include" / "llama.h").read_text())
        assert {one.name for one in header.declarations if one.kind == "function"} - found <= DROPPED


CALLS = """
import json, sys
from nativeload_llama import abi
layout = next(one for one in abi.LAYOUTS if one.name == sys.argv[1])
ffi = layout.ffi()
libraries = [ffi.dlopen(file) for file in sys.argv[2:]]
lib = libraries[-1]
model, context = lib.llama_model_default_params(), lib.llama_context_default_params()
batch = lib.llama_batch_init(8, 0, 1)
batch.token[7] = 5
lib.llama_batch_free(batch)
devices = libraries[-2 if len(libraries) > 1 else 0].ggml_backend_dev_count()
print(json.dumps([model.n_gpu_layers, model.use_extra_bufts, context.n_ctx, context.op_offload, devices]))
"""


@pytest.mark.real_bundle
@pytest.mark.parametrize("folder", REAL)
def test_real_calls(binaries: Path, folder: str) -> None:
    """The layout's ffi reads real defaults by value, passes a batch by value and finds ggml's registry."""
    printed = json.loads(child(CALLS, REAL[folder][0], *map(str, files(binaries, folder))))
    assert printed == [-1, True, 512, True, 1 if folder.startswith(WHEEL) else 0]
