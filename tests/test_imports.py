"""Imports go one way, and the way to the first native call imports next to nothing."""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
BINDINGS = ROOT / "bindings"

# room -> the rooms whose modules it may import at module level; a module belongs to the longest name that fits.
_VALUES = {"nativeload.errors", "nativeload.value"}
_WORDS = _VALUES | {"nativeload.variant"}
_BELOW_RESOLVE = _WORDS | {
    "nativeload.requirement",
    "nativeload.strict_json",
    "nativeload.manifest",
    "nativeload.cpu_variants",
    "nativeload.host",
    "nativeload.settings",
    "nativeload.config",
    "nativeload.cache",
}
_SOURCE = _BELOW_RESOLVE | {"nativeload.resolve.bundle", "nativeload.resolve.resolution"}
_PUBLISHED = _SOURCE | {"nativeload.resolve.ranking", "nativeload.resolve.published", "nativeload.pins"}
_RESOLVE = _PUBLISHED | {"nativeload.resolve", "nativeload.resolve.backend_package", "nativeload.threads"}
_RESOLVE |= {"nativeload.resolve.explicit", "nativeload.resolve.installed", "nativeload.resolve.cached"}
_RESOLVE |= {
    "nativeload.resolve.download",
    "nativeload.resolve.cuda_runtime",
    "nativeload.resolve.candidates",
    "nativeload.resolve.offers",
}
_RESOLVE |= {"nativeload.resolve.outcome", "nativeload.resolve.prefetch", "nativeload.resolve.import_folder"}
_LOADING = _RESOLVE | {"nativeload.log", "nativeload.mapped", "nativeload.opening", "nativeload.probe"}
_BINDING = _LOADING | {"nativeload.loading"}
_MODEL_FILES = _VALUES | {"nativeload_llama.errors", "nativeload_llama.gguf"}
_FLOOR = _BINDING | _MODEL_FILES | {"nativeload_llama.abi", "nativeload_llama.library", "nativeload_llama.low_level"}
ALLOWED: dict[str, set[str]] = {
    "nativeload": set(),
    "nativeload.errors": set(),
    "nativeload.value": set(),
    "nativeload.log": _VALUES,
    "nativeload.threads": set(),
    "nativeload.child": {"nativeload.value"},
    "nativeload.mapped": _VALUES,
    "nativeload.variant": _VALUES,
    "nativeload.cpu_variants": _WORDS,
    "nativeload.host": _WORDS,
    "nativeload.host.composed": _WORDS | {"nativeload.host", "nativeload.cpu_variants"},
    "nativeload.settings": _WORDS | {"nativeload.cpu_variants"},
    "nativeload.config": _WORDS | {"nativeload.cpu_variants", "nativeload.settings"},
    "nativeload.requirement": _WORDS,
    "nativeload.strict_json": _VALUES,
    "nativeload.manifest": _WORDS | {"nativeload.cpu_variants", "nativeload.requirement", "nativeload.strict_json"},
    "nativeload.configs": _VALUES | {"nativeload.config"},
    "nativeload.cache": _WORDS | {"nativeload.requirement", "nativeload.manifest"},
    "nativeload.elf": _VALUES,
    "nativeload.needs": _VALUES | {"nativeload.elf", "nativeload.mapped"},
    "nativeload.resolve.resolution": _WORDS,
    "nativeload.resolve.bundle": _BELOW_RESOLVE | {"nativeload.resolve.resolution"},
    "nativeload.resolve.ranking": _SOURCE,
    "nativeload.resolve.explicit": _SOURCE,
    "nativeload.resolve.backend_package": _SOURCE,
    "nativeload.resolve.installed": _SOURCE | {"nativeload.resolve.backend_package"},
    "nativeload.pins": _WORDS | {"nativeload.manifest", "nativeload.strict_json", "nativeload.cache"},
    "nativeload.resolve.cuda_runtime": _SOURCE,
    "nativeload.resolve.published": _PUBLISHED - {"nativeload.resolve.published", "nativeload.pins"},
    "nativeload.resolve.cached": _PUBLISHED,
    "nativeload.resolve.download": _PUBLISHED,
    "nativeload.resolve.offers": _PUBLISHED,
    "nativeload.resolve.candidates": _PUBLISHED | {"nativeload.resolve.offers"},
    "nativeload.resolve.outcome": _PUBLISHED,
    "nativeload.resolve.import_folder": _PUBLISHED
    | {"nativeload.resolve.cached", "nativeload.resolve.download", "nativeload.resolve.prefetch"},
    "nativeload.resolve.prefetch": _PUBLISHED | {"nativeload.resolve.cached", "nativeload.resolve.download"},
    "nativeload.resolve": _RESOLVE | {"nativeload.log"},
    "nativeload.opening": _RESOLVE,
    "nativeload.probe": _RESOLVE | {"nativeload", "nativeload.opening", "nativeload.log"},
    "nativeload.probe_child": _RESOLVE | {"nativeload.opening"},
    "nativeload.loading": _LOADING,
    "nativeload_llama.errors": _VALUES,
    "nativeload_llama.abi": _VALUES | {"nativeload_llama.abi"},
    "nativeload_llama.library": _BINDING | {"nativeload_llama.abi"},
    "nativeload_llama.gguf": _MODEL_FILES,
    "nativeload_llama.grammar": _VALUES | {"nativeload_llama.errors", "nativeload_llama.grammar"},
    "nativeload_llama.low_level": _FLOOR,
    "nativeload_llama.chat": _FLOOR | {"nativeload_llama.chat", "nativeload_llama"},
    "nativeload_llama.pretrained": _FLOOR | {"nativeload_llama.hub_errors", "nativeload.cache.fetcher"},
    "nativeload_llama.hub_errors": _BINDING | {"nativeload_llama.errors", "nativeload.cache.fetcher"},
    "nativeload_llama": _FLOOR,
    "nativeload.cli": _BINDING | {"nativeload", "nativeload.cli", "nativeload.needs", "nativeload.elf"},
    "nativeload.publish": _BELOW_RESOLVE
    | {
        "nativeload.elf",
        "nativeload.resolve.bundle",
        "nativeload.resolve.resolution",
        "nativeload.resolve.cuda_runtime",
    },
    "nativeload.__main__": {"nativeload.cli"},
}
_OWN = ("nativeload", "nativeload_llama")
THIRD_PARTY = {
    "nativeload_llama.chat": {"jinja2"},
    "nativeload.cli": {"click", "rich"},
    "nativeload.elf": {"elftools"},
    "nativeload.needs": {"elftools"},
}
HEAVY = {
    *("huggingface_hub", "requests", "filelock", "platformdirs", "packaging", "cpuinfo", "importlib.metadata"),
    *("subprocess", "logging", "dataclasses", "inspect", "typing", "socket", "urllib.request"),
    *("click", "rich", "elftools"),
}


def _modules() -> dict[str, Path]:
    """Name every module of the product with its file."""
    found = {}
    for base in (ROOT, BINDINGS):
        for path in sorted(base.glob("nativeload*/**/*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _room(name: str) -> str:
    """Return the longest room that a module is in."""
    while name and name not in ALLOWED:
        name = name.rpartition(".")[0]
    return name


def _at_module_level(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run when a module is imported: functions and TYPE_CHECKING blocks left out."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from _at_module_level(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _at_module_level(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _at_module_level(handler.body)


def _imports(path: Path) -> list[str]:
    """Name the modules that a file imports at module level; ``from a import b`` is a.b where that is a module."""
    names: list[str] = []
    for node in _at_module_level(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if whole in MODULES else str(node.module))
    return names


def test_the_walk_sees_what_runs_and_nothing_else() -> None:
    """The negative control of the tests below."""
    code = (
        "import a\nTYPE_CHECKING = False\nif TYPE_CHECKING:\n import b\nelse:\n import c\n"
        "def f():\n import d\ntry:\n import e\nexcept ImportError:\n import g\nfinally:\n import h\n"
        "class C:\n import i\n def m(self):\n  import j\nif True:\n from k import l\nwith x:\n import m\n"
    )
    found = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in _at_module_level(ast.parse(code).body)
        for alias in node.names
    ]
    assert found == ["a", "c", "e", "h", "g", "i", "k", "m"]


def test_every_module_has_a_room() -> None:
    """A new module needs a line in the table above, which says what it stands on."""
    assert {"nativeload.config", "nativeload.resolve.installed", "nativeload_llama.abi.probe"} <= set(MODULES)
    rooms = {name: _room(name) for name in MODULES}
    top = {name for name, room in rooms.items() if room in _OWN and name not in _OWN}
    assert {name for name in top if name.startswith("nativeload.")} == set()
    assert {room for room in ALLOWED if room not in MODULES} == set()


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    room = _room(name)
    own = {imported for imported in _imports(MODULES[name]) if imported.partition(".")[0] in _OWN}
    wrong = {imported for imported in own if _room(imported) not in {*ALLOWED[room], room}}
    assert wrong == set()


def test_the_table_itself_goes_one_way() -> None:
    """No two rooms may import each other, at any distance."""
    reach = {room: {other for other in allowed if other != room} for room, allowed in ALLOWED.items()}
    for middle, beyond in reach.items():
        for below in reach.values():
            if middle in below:
                below |= beyond  # noqa: PLW2901 - the set itself grows
    assert [room for room in reach if room in reach[room]] == []


def test_the_sources_do_not_know_each_other() -> None:
    """Not in functions either."""
    sources = ("explicit", "installed", "cached", "download")
    for name in sources:
        tree = ast.parse(MODULES[f"nativeload.resolve.{name}"].read_text(encoding="utf-8"))
        words = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        froms = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        for other in set(sources) - {name}:
            assert other not in words
            assert f"nativeload.resolve.{other}" not in froms


@pytest.mark.parametrize("name", MODULES)
def test_third_parties_stay_in_their_rooms(name: str) -> None:
    """At module level: the rest is imported where it is used, by those who use it."""
    foreign = {imported.partition(".")[0] for imported in _imports(MODULES[name])} - set(sys.stdlib_module_names)
    foreign -= {*_OWN, "__future__"}
    if ".abi._layout_" in name:
        assert foreign <= {"_cffi_backend", "cffi"}
    else:
        assert foreign <= THIRD_PARTY.get(_room(name), set())


def test_only_the_generated_modules_import_cffi() -> None:
    """Not in functions either."""
    using = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if {"cffi", "_cffi_backend"} & {each.partition(".")[0] for each in names}:
                using.add(name)
    assert using
    assert all(name.startswith("nativeload_llama.abi._layout_") for name in using)


# -- what really happens ----------------------------------------------------------------------------------------------


def _environ(**more: str) -> dict[str, str]:
    """Return an environment in which bytecode is kept, as it is for users."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(BINDINGS)])} | more


def _run(code: str, *arguments: str, **more: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=_environ(**more))
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import nativeload; print(*sorted(set(sys.modules) - before))"
    assert set(_run(code).split()) - {"__future__"} == {"nativeload"}
    code = code.replace("nativeload;", "nativeload_llama;")
    assert set(_run(code).split()) - {"__future__"} == {"nativeload_llama"}


def test_a_name_is_found_when_it_is_used() -> None:
    code = (
        "import sys, nativeload; nativeload.Backend; loaded = [n for n in sys.modules if n.startswith('nativeload')]\n"
        "assert all(getattr(nativeload, name) is not None for name in nativeload.__all__)\n"
        "assert dir(nativeload) == sorted(nativeload.__all__)\n"
        "print(*sorted(loaded))"
    )
    assert _run(code).split() == ["nativeload", "nativeload.errors", "nativeload.value", "nativeload.variant"]
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-c", "import nativeload; nativeload.nonsense"],
            check=True,
            capture_output=True,
            env=_environ(),
        )


def test_importing_the_package_costs_next_to_nothing() -> None:
    """Medians of fifteen runs each, taken in turn so that a busy moment meets both. The limit is 15 ms."""
    took: dict[str, list[float]] = {"pass": [], "import nativeload": []}
    _run("import nativeload")  # bytecode is written once
    for _ in range(15):
        for code, times in took.items():
            start = time.perf_counter()
            _run(code)
            times.append(time.perf_counter() - start)
    bare, ours = (statistics.median(times) for times in took.values())
    assert ours - bare < 15e-3


def _xllamacpp_is_here() -> bool:
    return any(next(Path(folder or ".").glob("xllamacpp-*.dist-info"), None) for folder in sys.path)


@pytest.mark.skipif(not _xllamacpp_is_here(), reason="needs the installed backend of the extra `cpu`")
def test_the_way_to_the_first_call_imports_next_to_nothing(tmp_path: Path) -> None:
    """The second start: the verdict of the probe is kept, so no child is started and no module for it is needed."""
    cache = tmp_path / "warm"
    cache.mkdir(mode=0o700)
    code = (
        "import json, sys; before = set(sys.modules)\n"
        "from nativeload_llama import Llama, bundled_model\n"
        "with Llama(bundled_model(), n_threads=1) as llama: tokens = llama.tokenize('Once')\n"
        "print(json.dumps([len(tokens), sorted(set(sys.modules) - before), sorted(before)]))"
    )
    _run(code, NATIVELOAD_CACHE=str(cache))
    assert list(cache.glob("probes/*"))
    count, imported, before = json.loads(_run(code, NATIVELOAD_CACHE=str(cache)))
    assert count > 0
    assert "nativeload.loading" in imported
    tops = {*imported, *(name.partition(".")[0] for name in imported)}
    assert sorted(tops & HEAVY) == []
    assert sorted(set(before) & HEAVY) == [], "this Python imports them by itself at start-up"
