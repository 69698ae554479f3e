"""Each llama.h's declarations are what upstream's headers say, and a binary's layout is named or refused."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nativeload_llama import abi
from tools import generate_layout

# What xllamacpp's static link leaves out.
DROPPED = ["llama_max_parallel_sequences", "llama_model_quantize", "llama_model_quantize_default_params"]
SDISTS = {"b10809": "xllamacpp-2026.9.11063.tar.gz", "b11549": "xllamacpp-2026.10.11549.tar.gz"}

GGML_H = """
#pragma once
#ifdef __cplusplus
#define GGML_NORETURN [[noreturn]]
extern "C" {
#endif
#ifdef GGML_SHARED
#define GGML_API __attribute__((visibility("default"))) extern
#else
#define GGML_API extern
#endif
#define GGML_KIND_TWO 2 // used by an enum of llama.h
#define GGML_UNUSED 9
#define GGML_PAD(x, n) (((x) + (n) - 1) & ~((n) - 1))
struct ggml_tensor;
struct ggml_pair { float first; struct { int32_t inner; } second; };
struct ggml_unwanted { int a; };
enum ggml_backend_dev_type { GGML_DEV_CPU, GGML_DEV_GPU };
typedef struct ggml_backend_reg * ggml_backend_reg_t;
typedef struct ggml_backend_device * ggml_backend_dev_t;
typedef struct ggml_pair (*ggml_make_pair)(void * userdata);
typedef bool (*ggml_abort_callback)(void * data);
static const size_t GGML_SIZE = sizeof(struct ggml_tensor);
static inline int ggml_inline(int a) { if (a) { return 1; } return a; }
GGML_API GGML_NORETURN void ggml_unwanted_function(const char * fmt, ...) GGML_ATTRIBUTE_FORMAT(1, 2);
GGML_API const char * ggml_version(void);
GGML_API const char * ggml_commit(void);
GGML_API size_t ggml_backend_reg_count(void);
GGML_API ggml_backend_reg_t ggml_backend_reg_get(size_t index);
GGML_API const char * ggml_backend_reg_name(ggml_backend_reg_t reg);
GGML_API size_t ggml_backend_dev_count(void);
GGML_API ggml_backend_dev_t ggml_backend_dev_get(size_t index);
GGML_API ggml_backend_dev_t ggml_backend_dev_by_name(const char * name);
GGML_API const char * ggml_backend_dev_name(ggml_backend_dev_t device);
GGML_API const char * ggml_backend_dev_description(ggml_backend_dev_t device);
GGML_API enum ggml_backend_dev_type ggml_backend_dev_type(ggml_backend_dev_t device);
GGML_API void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total);
#ifdef __cplusplus
}
#endif
"""

LLAMA_H = """
#ifndef LLAMA_H
#define LLAMA_H
#include "ggml.h"
#include <stdio.h>
#ifdef __GNUC__
#    define DEPRECATED(func, hint) func __attribute__((deprecated(hint)))
#else
#    define DEPRECATED(func, hint) func
#endif
#define LLAMA_SEED 0xFFFFFFFF
#define LLAMA_NULL -1
#define LLAMA_ALIAS LLAMA_SEED
#define LLAMA_WORD "text"
#ifdef __cplusplus
extern "C" {
#endif
    struct llama_model; // an upstream remark; with a semicolon
    /* another { upstream ( remark */
    enum llama_kind {
        LLAMA_KIND_NONE = -1,
        LLAMA_KIND_TWO  = GGML_KIND_TWO, // a remark
        LLAMA_KIND_BIT  = 1 << 4
    };
    typedef int32_t llama_token;
    typedef bool (*llama_progress_callback)(float progress, void * user_data);
    typedef struct llama_batch { int32_t n_tokens; llama_token  *  token; } llama_batch;
    struct llama_model_params {
        int32_t n_gpu_layers;
        const float * tensor_split;
        llama_progress_callback progress_callback;
        bool   (*accept) (const struct llama_model * model, llama_token token);
        struct { int8_t small; int64_t large; } nested;
        union { int64_t whole; double real; };
        char key[3];
    };
    struct llama_context_params { uint32_t n_ctx; ggml_make_pair make; enum llama_kind kind; };
    LLAMA_API enum llama_kind llama_kind(const struct llama_model * model);
    DEPRECATED(LLAMA_API void llama_old(struct llama_model * model,
                   const char ** paths), "use llama_new(model), it's \\"better\\" :)");
    LLAMA_API DEPRECATED(size_t llama_older(FILE * file), "gone");
    LLAMA_API void llama_set(struct llama_model * model, ggml_abort_callback stop, struct ggml_tensor * t);
#ifdef __cplusplus
}
#endif
#endif // LLAMA_H
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A made-up llama.cpp checkout."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "llama.h").write_text(LLAMA_H)
    (tmp_path / "ggml" / "include").mkdir(parents=True)
    (tmp_path / "ggml" / "include" / "ggml.h").write_text(GGML_H)
    return tmp_path


@pytest.fixture
def declarations(checkout: Path) -> str:
    return generate_layout.render_header("b1", generate_layout.read_headers(checkout))


def load(path: Path, name: str) -> Any:
    """Import one generated file under the name it has in the package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def facts(**changes: Any) -> dict[str, Any]:
    """What the probe measures on a build of b10809, with changes."""
    measured = {
        "model_written": 78,
        "model_holes": [36, 37, 38, 39],
        "context_written": 160,
        "context_holes": [134, 135],
        "exports": dict.fromkeys(abi.LAYOUTS[0].required, True) | {"llama_process": False},
        "llama_version": "0.4.0-dev",
        "canaries": {"b10809": True, "b11549": False},
    }
    return measured | changes


NEWER = {
    "context_written": 168,
    "context_holes": [142, 143],
    "exports": dict.fromkeys(abi.LAYOUTS[1].required, True),
    "llama_version": "0.6.0-dev",
    "canaries": {"b10809": False, "b11549": True},
}
UNMEASURED: dict[str, Any] = dict.fromkeys(("model_written", "model_holes", "context_written", "context_holes"))


def test_comments_and_macros_are_dropped(declarations: str) -> None:
    """No remark, export macro, deprecation hint or attribute of upstream's reaches the generated header."""
    for word in (
        "remark",
        "_API",
        "DEPRECATED",
        "better",
        "__attribute__",
        "extern",
        "//",
        "static",
        "inline",
    ):
        assert word not in declarations
    assert declarations.count("/*") == 1  # the line that says it is generated


@pytest.mark.parametrize(
    "line",
    [
        "void llama_old(struct llama_model *model, const char **paths);",
        "size_t llama_older(FILE *file);",
        "enum llama_kind llama_kind(const struct llama_model *model);",
        "typedef bool (*llama_progress_callback)(float progress, void *user_data);",
        "    bool (*accept)(const struct llama_model *model, llama_token token);",
        "    LLAMA_KIND_NONE = -1,",
        "    LLAMA_KIND_BIT = 1 << 4,",
        "    } nested;",
        "} llama_batch;",
        "#define LLAMA_SEED 4294967295",
        "#define LLAMA_NULL -1",
        "#define LLAMA_ALIAS 4294967295",
        "#define GGML_KIND_TWO 2",
        "typedef struct _IO_FILE FILE;",
        "struct ggml_tensor;",
        "struct ggml_pair {",
        "typedef struct ggml_pair (*ggml_make_pair)(void *userdata);",
    ],
)
def test_declaration_is_kept(declarations: str, line: str) -> None:
    """Each kind of declaration comes out in one spelling."""
    assert line in declarations.splitlines()


@pytest.mark.parametrize("word", ["ggml_unwanted", "ggml_inline", "GGML_UNUSED", "GGML_PAD", "LLAMA_WORD", "LLAMA_H"])
def test_what_llama_h_does_not_need_is_left_out(declarations: str, word: str) -> None:
    """Of ggml's headers only what llama.h and the device registry use is taken."""
    assert word not in declarations


def test_generated_files_work(checkout: Path, tmp_path: Path) -> None:
    """The cffi module knows the structs without a parser, and the expectations say what it knows."""
    arguments = ["--headers", str(checkout), "--name", "b1", "--out", str(tmp_path)]
    assert generate_layout.main(arguments) == 0
    ffi = load(tmp_path / "_layout_b1.py", "nativeload_llama.abi._layout_b1").ffi
    expected = load(tmp_path / "_layout_b1_expected.py", "_layout_b1_expected")
    params = ffi.new("struct llama_model_params *", {"n_gpu_layers": -1, "nested": {"large": 7}})
    assert (params.n_gpu_layers, params.nested.large) == (-1, 7)
    assert ffi.integer_const("LLAMA_KIND_NONE") == -1
    assert ffi.integer_const("LLAMA_KIND_TWO") == 2
    assert ffi.sizeof("struct ggml_pair") == 8
    assert expected.MODEL_PARAMS["key"] == (56, 3)
    assert (expected.MODEL_SIZE, expected.MODEL_WRITTEN, expected.MODEL_HOLES) == (64, 59, (4, 5, 6, 7))
    assert (expected.CONTEXT_WRITTEN, expected.CONTEXT_HOLES, expected.BATCH_SIZE) == (20, (4, 5, 6, 7), 16)
    assert expected.FUNCTIONS == ("llama_kind", "llama_old", "llama_older", "llama_set")


def test_check_compares(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check is silent on what the tool wrote, and shows the difference on anything else."""
    arguments = ["--headers", str(checkout), "--name", "b1", "--out", str(tmp_path)]
    assert generate_layout.main([*arguments, "--check"]) == 1
    generate_layout.main(arguments)
    capsys.readouterr()
    assert generate_layout.main([*arguments, "--check"]) == 0
    assert capsys.readouterr().out == ""
    header = tmp_path / "layout_b1.h"
    header.write_text(header.read_text().replace("int32_t n_gpu_layers;", "int64_t n_gpu_layers;"))
    assert generate_layout.main([*arguments, "--check"]) == 1
    assert "+    int32_t n_gpu_layers;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("include/llama.h", "struct llama_model;", "LLAMA_NEW_MACRO llama_model 7;", "not understood"),
        (
            "ggml/include/ggml.h",
            "ggml_commit(void)",
            "ggml_commit_hash(void)",
            "no longer declares ggml_commit",
        ),
    ],
)
def test_what_is_not_understood_is_refused(
    checkout: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, message: str
) -> None:
    """A statement the tool cannot read is never left out in silence."""
    path = checkout / file
    path.write_text(path.read_text().replace(old, new, 1))
    assert generate_layout.main(["--headers", str(checkout), "--name", "b1", "--out", str(checkout)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        (facts(), "b10809"),
        (facts(**NEWER), "b11549"),
        (facts(model_holes=[]), "b10809"),  # this compiler wrote the padding
        (facts(model_holes=[38, 39], context_holes=[135]), "b10809"),
        (facts(model_written=80), "b10809"),  # and the tail as well
        (facts(canaries=None), "b10809"),
        (facts(**UNMEASURED), "b10809"),  # not x86-64: default values decide
        (facts(**NEWER | UNMEASURED), "b11549"),
        (facts(llama_version=None) | {"exports": dict.fromkeys(abi.LAYOUTS[0].required, True)}, "b10809"),
    ],
)
def test_known_layouts_are_named(measured: dict[str, Any], name: str) -> None:
    """Everything measured agrees with one layout."""
    assert abi.identify(measured).name == name


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            facts(model_written=70, model_holes=[], llama_version="0.2.0-dev", canaries=None),  # 2026.8.10566
            [
                "nearest is b10809",
                "0.2.0-dev",
                "model params end at byte 70, not 78",
                "known: b10809, b11549",
            ],
        ),
        (facts(context_holes=[84, 85, 86, 87, 134, 135]), ["nearest is b10809", "84-87 unwritten"]),
        (
            facts(**NEWER | {"context_written": 176}),
            ["nearest is b11549", "context params end at byte 176, not 168"],
        ),
        (facts(model_written=79), ["not 78"]),
        (facts(exports=facts()["exports"] | {"llama_decode": False}), ["it does not export llama_decode"]),
        (facts(canaries={"b10809": False, "b11549": False}), ["default values"]),
        (
            facts(**UNMEASURED, canaries={"b10809": False, "b11549": False}),
            ["default values", "not measured"],
        ),
        (facts(**UNMEASURED, canaries=None), ["its structs were not measured"]),
        (
            facts(**NEWER | {"exports": facts()["exports"]}),
            ["nearest is b11549", "does not export llama_process"],
        ),
        ({}, ["not measured"]),
    ],
)
def test_unknown_layouts_are_refused(measured: dict[str, Any], said: list[str]) -> None:
    """One fact that disagrees is enough, and the text says which."""
    with pytest.raises(LookupError) as caught:
        abi.identify(measured)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda one: one.name)
def test_committed_layouts(layout: abi.Layout) -> None:
    """The committed module imports, realises every type, and has the sizes that the table goes by."""
    ffi, expected = layout.ffi(), layout.expected()
    for kinds, prefix in zip(ffi.list_types(), ("", "struct ", "union "), strict=True):
        for kind in kinds:
            ffi.typeof(f"{prefix}{kind}")
    sizes = [ffi.sizeof(f"struct llama_{one}") for one in ("model_params", "context_params", "batch")]
    assert sizes == [expected.MODEL_SIZE, expected.CONTEXT_SIZE, expected.BATCH_SIZE]
    assert sizes == {"b10809": [80, 160, 56], "b11549": [80, 168, 56]}[layout.name]
    assert (layout.model_written, layout.model_holes) == (expected.MODEL_WRITTEN, expected.MODEL_HOLES)
    assert (layout.context_written, layout.context_holes) == (
        expected.CONTEXT_WRITTEN,
        expected.CONTEXT_HOLES,
    )
    for struct, places in (("model", expected.MODEL_PARAMS), ("context", expected.CONTEXT_PARAMS)):
        for field, (offset, _) in places.items():
            assert ffi.offsetof(f"struct llama_{struct}_params", field) == offset
    assert layout.required <= set(expected.FUNCTIONS)
    assert ffi.integer_const("LLAMA_TOKEN_NULL") == -1
    assert ffi.integer_const("LLAMA_DEFAULT_SEED") == 0xFFFFFFFF
    assert ffi.integer_const("LLAMA_ROPE_TYPE_NEOX") == 2


def test_the_two_layouts_differ_in_one_field() -> None:
    """0.6 put `moe_cache_size` into the context params before the abort callback, and nothing else."""
    old, new = (layout.expected() for layout in abi.LAYOUTS)
    assert old.MODEL_PARAMS == new.MODEL_PARAMS
    assert set(new.CONTEXT_PARAMS) - set(old.CONTEXT_PARAMS) == {"moe_cache_size"}
    assert new.CONTEXT_PARAMS["moe_cache_size"] == (112, 8)
    assert new.CONTEXT_PARAMS["abort_callback"][0] - old.CONTEXT_PARAMS["abort_callback"][0] == 8


def child(code: str, *arguments: str) -> str:
    """Run Python with the packages of this checkout and return what it prints."""
    place = os.pathsep.join([str(Path(abi.__file__).parents[2]), str(Path(generate_layout.__file__).parents[1])])
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": place})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_choosing_needs_no_cffi() -> None:
    """The probe child measures and the parent decides without cffi or its parser."""
    loaded = child("import sys; from nativeload_llama.abi import probe; probe.inspect([]); print(*sys.modules)").split()
    assert "nativeload_llama.abi._layout_b10809_expected" in loaded
    assert not {"cffi", "_cffi_backend", "pycparser", "nativeload_llama.abi._layout_b10809"} & set(loaded)


def test_no_parser_at_run_time() -> None:
    """A layout's ffi comes from its compiled module: neither cffi's parser nor pycparser is imported."""
    code = "import sys; from nativeload_llama import abi; abi.LAYOUTS[0].ffi(); print(*sys.modules)"
    loaded = child(code).split()
    assert "_cffi_backend" in loaded
    assert not {"cffi", "cffi.cparser", "pycparser"} & set(loaded)


@pytest.fixture(scope="module", params=sorted(SDISTS))
def real(request: pytest.FixtureRequest, binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A layout's name and a folder with the upstream headers that it was generated from."""
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    for file, text in generate_layout.read_headers(binaries / "sdists" / SDISTS[name]).items():
        (folder / file).write_text(text, encoding="utf-8")
    return name, folder


def compile_c(folder: Path, lines: list[str]) -> Path:
    """Compile a C program against upstream's headers."""
    source, program = folder / "check.c", folder / "check"
    includes = ["stdio.h", "stddef.h", "llama.h", "ggml-backend.h"]
    source.write_text("\n".join([*(f"#include <{one}>" for one in includes), *lines, ""]))
    command = [
        "cc",
        "-std=c11",
        "-Wno-deprecated-declarations",
        f"-I{folder}",
        "-o",
        str(program),
        str(source),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.real_bundle
@pytest.mark.parametrize("name", sorted(SDISTS))
def test_committed_files_are_what_upstream_says(binaries: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The tool writes the committed files again from the sdist that carries the headers."""
    status = generate_layout.main(["--headers", str(binaries / "sdists" / SDISTS[name]), "--name", name, "--check"])
    assert status == 0, capsys.readouterr().out[:4000]


@pytest.mark.real_bundle
def test_a_c_compiler_agrees_on_the_params(real: tuple[str, Path]) -> None:
    """Sizes and offsets of what goes by value are those of a C compiler on the real header."""
    name, folder = real
    expected: Any = importlib.import_module(f"nativeload_llama.abi._layout_{name}_expected")
    lines, wanted = ["int main(void) {"], {"llama_batch": [expected.BATCH_SIZE]}
    lines.append('printf("llama_batch %zu\\n", sizeof(struct llama_batch));')
    for struct, size, places in (
        ("llama_model_params", expected.MODEL_SIZE, expected.MODEL_PARAMS),
        ("llama_context_params", expected.CONTEXT_SIZE, expected.CONTEXT_PARAMS),
    ):
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct})); struct {struct} {struct}_;')
        wanted[struct] = [size]
        for field, place in places.items():
            numbers = f"offsetof(struct {struct}, {field}), sizeof({struct}_.{field})"
            lines.append(f'printf("{struct}.{field} %zu %zu\\n", {numbers});')
            wanted[f"{struct}.{field}"] = list(place)
    printed = subprocess.run([str(compile_c(folder, [*lines, "}"]))], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in printed.splitlines()]
    assert {row[0]: [int(number) for number in row[1:]] for row in rows} == wanted


@pytest.mark.real_bundle
def test_a_c_compiler_agrees_on_everything(real: tuple[str, Path]) -> None:
    """Every signature, constant, enum member and struct field is that of the real header."""
    name, folder = real
    text = (Path(generate_layout.OUT) / f"layout_{name}.h").read_text()
    ffi: Any = importlib.import_module(f"nativeload_llama.abi._layout_{name}").ffi
    # C11 accepts a second declaration of a function or a typedef only if it is the same.
    lines = re.findall(r"^(?!typedef struct _IO_FILE|struct \w+;|enum \w+ \{)[^ /#}{][^{}\n]*;$", text, re.MULTILINE)
    assert sum("(" in line for line in lines) > 250
    for define in re.findall(r"^#define (\w+) (-?\d+)$", text, re.MULTILINE):
        lines.append(f'_Static_assert({define[0]} == {define[1]}, "{define[0]}");')
    for enum in re.findall(r"^enum (\w+) \{", text, re.MULTILINE):
        for member, value in ffi.typeof(f"enum {enum}").relements.items():
            lines.append(f'_Static_assert({member} == {value}, "{member}");')
    for struct in ffi.list_types()[1]:
        kind = ffi.typeof(f"struct {struct}")
        if re.search(rf"^(?:typedef )?struct {struct} \{{", text, re.MULTILINE) is None:
            continue
        lines.append(f'_Static_assert(sizeof(struct {struct}) == {ffi.sizeof(kind)}, "{struct}");')
        lines += [
            f'_Static_assert(offsetof(struct {struct}, {field}) == {place.offset}, "{field}");'
            for field, place in kind.fields
            if field  # an anonymous union has no name to ask for
        ]
    compile_c(folder, [*lines, "int main(void) { return 0; }"])


PROBE = """
import ctypes, json, sys
from nativeload_llama.abi import probe
if sys.argv[2] == "by value":
    probe.returns_through_argument = lambda: False
print(json.dumps(probe.inspect([ctypes.CDLL(sys.argv[1])])))
"""


@pytest.mark.real_bundle
@pytest.mark.parametrize("way", ["hidden pointer", "by value"])
@pytest.mark.parametrize(
    ("version", "name"), [("2026.9.11063", "b10809"), ("2026.10.11549", "b11549"), ("2026.8.10566", None)]
)
def test_real_binaries(binaries: Path, version: str, name: str | None, way: str) -> None:
    """Two known layouts are recognised and an older one is refused, whichever way the defaults are read."""
    library = binaries / f"xllamacpp-{version}" / "xllamacpp" / "xllamacpp.abi3.so"
    assert library.is_file(), library
    measured = json.loads(child(PROBE, str(library), way))
    assert (measured["model_written"] is None) == (way == "by value")
    if name is None:
        with pytest.raises(LookupError, match="nearest is b10809"):
            abi.identify(measured)
        return
    assert abi.identify(measured).name == name
    assert measured["canaries"] == {layout.name: layout.name == name for layout in abi.LAYOUTS}
    assert measured["missing"][name] == DROPPED


CALLS = """
import json, sys
from nativeload_llama import abi
layout = next(one for one in abi.LAYOUTS if one.name == sys.argv[2])
ffi = layout.ffi()
lib = ffi.dlopen(sys.argv[1])
model, context = lib.llama_model_default_params(), lib.llama_context_default_params()
batch = lib.llama_batch_init(8, 0, 1)
batch.token[7] = 5
lib.llama_batch_free(batch)
missing = []
for name in layout.expected().FUNCTIONS:
    try:
        getattr(lib, name)
    except ffi.error:  # not AttributeError
        missing.append(name)
device = ffi.string(lib.ggml_backend_dev_name(lib.ggml_backend_dev_get(0))).decode()
print(json.dumps([model.lazy_mode, model.load_mtp, context.n_ctx, context.op_offload, device, missing]))
"""


@pytest.mark.real_bundle
@pytest.mark.parametrize(("version", "name"), [("2026.9.11063", "b10809"), ("2026.10.11549", "b11549")])
def test_real_calls(binaries: Path, version: str, name: str) -> None:
    """The layout's ffi reads real defaults by value, passes a batch by value and finds what is exported."""
    library = binaries / f"xllamacpp-{version}" / "xllamacpp" / "xllamacpp.abi3.so"
    printed = json.loads(child(CALLS, str(library), name))
    assert printed == [1, False, 512, True, "CPU", DROPPED]
