"""The floor of one function for each C function: what importing it costs, and what a build without a function says."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from nativeload.errors import NotInThisBuild
from nativeload_llama import low_level
from nativeload_llama.library import Api, open_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

HOMES: dict[str, str] = low_level._HOMES
FOLDER = Path(low_level.__file__).parent


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


@pytest.mark.parametrize(("name", "module"), HOMES.items())
def test_every_name_is_where_the_table_says(name: str, module: str) -> None:
    """A name of the package is the object that its module has made, not one that it has imported."""
    home = importlib.import_module(f"nativeload_llama.low_level.{module}")
    value = getattr(home, name)
    assert getattr(low_level, name) is value
    assert name in dir(low_level)
    if inspect.isfunction(value) or inspect.isclass(value):
        assert value.__module__ == home.__name__
        assert value.__doc__


def test_type_checkers_see_the_same_modules() -> None:
    """What is imported for type checkers alone is what the table leads to."""
    tree = ast.parse((FOLDER / "__init__.py").read_text("utf-8"))
    seen = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"}
    assert seen == {f"nativeload_llama.low_level.{module}" for module in HOMES.values()}


def test_no_function_of_llama_h_is_left_out_of_the_table() -> None:
    """Every public function whose C function is called by that very name can be imported from the package."""
    called = {name for path in FOLDER.glob("*.py") for name in _functions_of_c(path)}
    assert len(called) > 100
    assert called - set(HOMES) == set()


def _functions_of_c(path: Path) -> list[str]:
    """Return the public functions of a module that call the C function they are named after."""
    names = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            words = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
            inner = node.name if node.name.startswith("model_") else node.name.removeprefix("vocab_")
            if f"llama_{node.name}" in words or (inner in words and node.name.startswith(("model_", "vocab_"))):
                names.append(node.name)
    return names


def test_a_name_that_is_none(api: Api) -> None:
    """It is named, and the module too."""
    with pytest.raises(AttributeError, match=r"nativeload_llama\.low_level.*'llama_decode'"):
        _ = low_level.llama_decode


@pytest.mark.parametrize(
    ("name", "modules"), [("version", ["backend"]), ("model_desc", ["handles", "model"]), ("AbortFlag", ["handles"])]
)
def test_importing_a_name_imports_its_module_alone(run_python: RunPython, name: str, modules: list[str]) -> None:
    """With what that stands on. The rest of the package is not read, and neither is ctypes or json."""
    code = f"""
import sys
from nativeload_llama.low_level import {name}
print(sorted(one.rpartition(".")[2] for one in sys.modules if one.startswith("nativeload_llama.low_level.")))
print([one for one in ("ctypes", "json", "re", "nativeload_llama.gguf") if one in sys.modules])
"""
    done = run_python(code)
    assert done.stdout.splitlines() == [str(modules), "[]"], done.stderr


@pytest.mark.parametrize("name", ["llama_model_quantize", "no_such_function"])
def test_an_absent_function_is_not_in_this_build(api: Api, name: str) -> None:
    """Declared and not exported, or not even declared: the same error, naming function and library."""
    with pytest.raises(NotInThisBuild, match=name) as caught:
        api.function(name)
    assert caught.value.function == name
    assert caught.value.path == api.loaded.path
