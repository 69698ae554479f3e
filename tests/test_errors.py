"""Errors carry facts, build their text from them, and end in what to do."""

from __future__ import annotations

import inspect
import pickle

import pytest

import nativeload
from nativeload import errors
from nativeload.errors import (
    AlreadyLoadedError,
    BackendUnavailableError,
    CacheError,
    ConfigError,
    DownloadUnavailableError,
    ForkError,
    HostError,
    IntegrityError,
    LibraryNotFoundError,
    LoadError,
    ManifestError,
    NativeLoadError,
    NetworkError,
    NotInThisBuild,
    UnknownLayoutError,
    UnsafeCacheError,
)
from nativeload.resolve.resolution import Decision, Rejected, Resolution, Source

TRACE = Resolution(
    library="llama",
    chosen=None,
    decisions=(Decision(Source.INSTALLED, "a 1.0", Rejected("too old")),),
)
EXAMPLES: list[NativeLoadError] = [
    AlreadyLoadedError("/new/libllama.so", library="llama", loaded="/old/libllama.so"),
    BackendUnavailableError("cuda", "/lib", "no driver", hint="Install one.", resolution=TRACE),
    CacheError("/cache", "not a directory", hint="Remove it."),
    ConfigError("NATIVELOAD_CPU", "'x' is no CPU level", hint="Levels: none."),
    DownloadUnavailableError("nothing here", hint="Ways on.", resolution=TRACE),
    ForkError("llama"),
    HostError("host.cpu: missing", hint="Correct it."),
    IntegrityError("/lib/x.so", expected="sha256 aa", actual="sha256 bb"),
    LibraryNotFoundError(TRACE, hint="Install one."),
    LoadError("/lib/x.so", "wrong ELF class", hint="Use another.", resolution=TRACE),
    ManifestError("nativeload.lock", "format 2", hint="Upgrade nativeload."),
    NetworkError("https://hub/file", "no connection", hint="Prefetch it."),
    NotInThisBuild("llama_new", "/lib/x.so"),
    UnknownLayoutError("/lib/x.so", "layout Z", hint="Known: F."),
    UnsafeCacheError("/cache", "mode 0777 lets others write", hint="Run: chmod go-w /cache"),
]


def _kind(error: NativeLoadError) -> str:
    return type(error).__name__


def test_every_error_is_here() -> None:
    """A new error needs an example below."""
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, NativeLoadError)}
    assert {type(error) for error in EXAMPLES} == kinds - {NativeLoadError}


def test_every_error_is_public() -> None:
    for error in EXAMPLES:
        assert getattr(nativeload, _kind(error)) is type(error)
        assert _kind(error) in nativeload.__all__


@pytest.mark.parametrize("error", EXAMPLES, ids=_kind)
def test_the_last_line_says_what_to_do(error: NativeLoadError) -> None:
    lines = str(error).splitlines()
    assert len(lines) >= 1
    if not isinstance(error, NotInThisBuild):
        assert lines[-1] == error.hint
        assert lines[0] not in ("", error.hint)


def test_without_a_hint_there_is_no_empty_line() -> None:
    for error in (ConfigError("cpu", "bad"), LoadError("/x", "why"), LibraryNotFoundError(TRACE)):
        assert error.hint == ""
        assert all(str(error).splitlines())
        assert not str(error).endswith("\n")


@pytest.mark.parametrize("error", EXAMPLES, ids=_kind)
def test_an_error_survives_the_way_back_from_another_process(error: NativeLoadError) -> None:
    """A worker's exception is pickled; one that cannot be read again breaks the whole pool of workers."""
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_facts_are_attributes() -> None:
    integrity = IntegrityError("/x", expected="sha256 aa", actual="sha256 bb")
    assert (integrity.path, integrity.expected, integrity.actual) == ("/x", "sha256 aa", "sha256 bb")
    load = LoadError("/x", "why", resolution=TRACE)
    assert (load.path, load.reason, load.resolution) == ("/x", "why", TRACE)
    backend = BackendUnavailableError("cuda", "/x", "why")
    assert (backend.backend, backend.path, backend.resolution) == ("cuda", "/x", None)
    again = AlreadyLoadedError("/new", library="llama", loaded="/old")
    assert (again.path, again.loaded) == ("/new", "/old")
    assert NotInThisBuild("f", "/x").function == "f"
    assert ForkError("llama").library == "llama"
    assert ConfigError("cpu", "bad").option == "cpu"
    assert CacheError("/c", "bad").path == "/c"


def test_both_paths_of_a_clash_are_in_the_text() -> None:
    text = str(AlreadyLoadedError("/new", library="llama", loaded="/old"))
    assert "/new" in text
    assert "/old" in text


def test_the_whole_trace_is_in_the_text() -> None:
    line = "installed: a 1.0: rejected: too old"
    assert line in str(LibraryNotFoundError(TRACE))
    assert line in str(DownloadUnavailableError("nothing here", resolution=TRACE))
    assert str(LibraryNotFoundError(TRACE)).splitlines()[0] == "no usable llama library was found"
    empty = Resolution(library="ggml", chosen=None, decisions=())
    assert "no source had a candidate" in str(LibraryNotFoundError(empty))


def test_what_is_wrong_with_a_value_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(HostError, ValueError)


@pytest.mark.parametrize("kind", [UnknownLayoutError, BackendUnavailableError, AlreadyLoadedError, NotInThisBuild])
def test_what_keeps_a_library_from_loading_is_a_load_error(kind: type) -> None:
    assert issubclass(kind, LoadError)


def test_integrity_is_no_load_error() -> None:
    """Whoever catches LoadError to try the next library must not catch a broken file with it."""
    assert not issubclass(IntegrityError, LoadError)
    assert not issubclass(IntegrityError, OSError)
    assert issubclass(UnsafeCacheError, CacheError)
