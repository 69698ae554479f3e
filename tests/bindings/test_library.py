"""The raw floor: which libllama is bound, by which declarations, and what is refused."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from nativeload.config import NativeLibraryConfig
from nativeload.errors import LoadError
from nativeload.loading import loaded
from nativeload.value import replace
from nativeload_llama import abi, library
from nativeload_llama.library import Api, NativeLog, open_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from typing import Any

    RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def api(_one_cache: None) -> Api:
    return open_library()


def test_a_library_is_bound_once(api: Api) -> None:
    """The same library is the same Api, whatever config names it."""
    assert open_library() is api
    assert open_library(NativeLibraryConfig()) is api
    assert open_library(NativeLibraryConfig().with_library(api.loaded.path)) is api
    assert loaded("llama") is api.loaded


def test_the_installed_library_has_its_layout(api: Api) -> None:
    """The layout is the one of the installed package's release."""
    build = int(version("xllamacpp").rpartition(".")[2])
    assert api.layout.name == ("b11549" if build >= 11549 else "b10809")
    assert api.loaded.facts["llama_version"] in api.layout.versions


def test_sizes_agree_with_the_declarations(api: Api) -> None:
    """cffi's structs end where the layout says that the library writes to."""
    assert api.ffi.sizeof("struct llama_context_params") == -(-api.layout.context_written // 8) * 8
    assert api.ffi.sizeof("struct llama_model_params") == -(-api.layout.model_written // 8) * 8


def test_an_unknown_layout_is_refused_by_the_judge(api: Api) -> None:
    """Facts that agree with no layout: the reason names what was measured, and what is known."""
    assert library.CHECK.judge(api.loaded.facts) == api.layout.name
    strange = {**api.loaded.facts, "context_written": 96, "llama_version": "9.9.9"}
    with pytest.raises(LookupError, match=r"9\.9\.9.*96.*b11549"):
        library.CHECK.judge(strange)


@pytest.mark.parametrize("fact", ["model_written", "context_written", "odd_defaults", "exports"])
def test_every_measured_fact_counts(api: Api, fact: str) -> None:
    """A library that differs in one measured fact is another layout."""
    wrong: dict[str, Any] = {"model_written": 40, "context_written": 40, "odd_defaults": {}, "exports": {}}
    facts: Mapping[str, Any] = {**api.loaded.facts, fact: wrong[fact]}
    assert abi.identify(api.loaded.facts) == api.layout
    with pytest.raises(LookupError, match="not known"):
        abi.identify(facts)


def test_a_library_without_a_backend_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml would search for a backend by itself, also in the current directory: llama_backend_init is not reached."""
    monkeypatch.setattr(abi.Layout, "ffi", lambda _: pytest.fail("llama_backend_init was within reach"))
    with pytest.raises(LoadError, match="no compute backend") as caught:
        library._bind(replace(api.loaded, devices=()))
    assert caught.value.hint


def test_opening_the_bindings_imports_no_model_code(run_python: RunPython) -> None:
    """Importing the package costs neither cffi nor the loader; the first Llama does."""
    code = (
        "import sys, nativeload_llama\n"
        "print([name for name in ('cffi', '_cffi_backend', 'nativeload.loading', 'logging') if name in sys.modules])\n"
        "nativeload_llama.Llama\n"
        "try: nativeload_llama.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = run_python(code)
    assert done.stdout.splitlines() == ["[]", "module 'nativeload_llama' has no attribute 'nothing'"]


def heard(api: Api) -> tuple[NativeLog, list[tuple[int, str]]]:
    lines: list[tuple[int, str]] = []
    config = api.loaded.config.with_log_callback(lambda level, line: lines.append((level, line)))
    return NativeLog(replace(api.loaded, config=config)), lines


def test_a_log_line_may_come_in_pieces(api: Api) -> None:
    """Level 5 continues the line before, a line ends at its newline, and lines of dots are left out."""
    log, lines = heard(api)
    log.receive(2, "load")
    log.receive(5, "ing...")
    log.receive(5, " done\nnext\n")
    log.receive(2, "....\n")
    assert lines == [(20, "loading... done"), (20, "next")]


def test_the_last_errors_are_kept_until_the_next_call(api: Api) -> None:
    """said() joins the last four errors and nothing else; clear() forgets them."""
    log, _ = heard(api)
    log.receive(3, "a warning\n")
    for number in range(6):
        log.receive(4, f"error {number}\n")
    assert log.said() == "error 2; error 3; error 4; error 5"
    log.clear()
    assert log.said() == ""
