"""Which libllama do these bindings drive in this process: its ffi, lib, layout and log?

One rule: a library is driven only by the declarations of the layout that was proven on it; a function that it lacks is
NotInThisBuild when it is called.
"""

from __future__ import annotations

import _thread

from nativeload import log
from nativeload.config import NativeLibraryConfig
from nativeload.errors import LoadError, NotInThisBuild
from nativeload.loading import LoadedLibrary, load
from nativeload.probe import Check
from nativeload.value import Value
from nativeload_llama.abi import LAYOUTS, Layout, identify, judge_trial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KNOWN = " ".join(layout.name for layout in LAYOUTS)
CHECK = Check(
    "nativeload_llama.abi.probe:inspect",
    lambda facts: identify(facts).name,
    _KNOWN,
    unverified=Check("nativeload_llama.abi.trial:inspect_and_try", judge_trial, _KNOWN),
)
"""What the probe finds out about a libllama, who judges it, and what may let an unknown one pass."""

_LEVELS = {1: log.DEBUG, 2: log.INFO, 3: log.WARNING, 4: log.ERROR}  # enum ggml_log_level; 5 continues a line

_lock = _thread.allocate_lock()
_apis: dict[int, Api] = {}


class Api(Value, eq=False):
    """The raw floor: one loaded libllama and its declarations."""

    ffi: Any
    lib: Any
    layout: Layout
    loaded: LoadedLibrary
    log: NativeLog

    def function(self, name: str) -> Any:
        """Return a C function.

        Raises:
            NotInThisBuild: the library does not export it, or its llama.h does not declare it.
        """
        try:
            return getattr(self.lib, name)
        except (AttributeError, self.ffi.error) as error:  # undeclared, or declared and not exported
            raise NotInThisBuild(name, self.loaded.path) from error


class NativeLog:
    """Receives llama.cpp's log lines: hands them on, and keeps the last errors for exceptions."""

    def __init__(self, loaded: LoadedLibrary) -> None:
        self._callback = loaded.config.log_callback
        self._level = log.DEBUG
        self._line = ""
        self._errors: list[str] = []
        self._interruption: BaseException | None = None

    def receive(self, level: int, text: str) -> None:
        """Take one piece of text; a line may come in several pieces."""
        self._level = _LEVELS.get(level, self._level)
        self._line += text
        while "\n" in self._line:
            line, _, self._line = self._line.partition("\n")
            if line.strip(" ."):
                self._keep(line)

    def _keep(self, line: str) -> None:
        if self._level >= log.ERROR:
            self._errors = [*self._errors[-3:], line.strip()]
        log.emit(self._callback, "nativeload.llama", self._level, line)

    def interrupt(self, _kind: Any, error: BaseException, _traceback: Any) -> None:
        """Keep what a line was interrupted by (Ctrl-C): nothing can be raised through C."""
        self._interruption = error

    def interruption(self) -> BaseException | None:
        """Return what was kept, once: for whoever can raise it."""
        error, self._interruption = self._interruption, None
        return error

    def clear(self) -> None:
        """Forget the errors kept so far, before a call that may fail; raise what a line was interrupted by."""
        self._errors = []
        if self._interruption is not None:
            raise self.interruption() or KeyboardInterrupt

    def said(self) -> str:
        """Return the errors since `clear`, as one line."""
        return "; ".join(self._errors)


def open_library(config: NativeLibraryConfig | None = None) -> Api:
    """Load the libllama that a config asks for (default: the environment's) and bind it.

    Raises:
        UnknownLayoutError: the library was compiled with a llama.h that is not known here.
        LoadError, LibraryNotFoundError, IntegrityError: as `NativeLibraryConfig.load`.
    """
    loaded = load(config or NativeLibraryConfig(), CHECK)
    loaded.check_process()
    with _lock:
        if id(loaded) not in _apis:
            _apis[id(loaded)] = _bind(loaded)
        return _apis[id(loaded)]


def _bind(loaded: LoadedLibrary) -> Api:
    name = loaded.verdicts[CHECK.function].judged
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    if not loaded.devices:
        reason = "no compute backend is registered: ggml would search for one by itself, also in the current directory"
        raise LoadError(loaded.path, reason, hint="Use a build that carries its CPU backend, or lies beside one.")
    ffi = layout.ffi()
    # cffi 2.1.1 ends Python (an assertion in realize_c_type.c) where the first function that is looked up takes a
    # struct llama_sampler * and this struct, which holds pointers to such functions, was not met before.
    ffi.typeof("struct llama_sampler")
    lib = ffi.dlopen(ffi.cast("void *", loaded.handles[-1]._handle))
    api = Api(ffi, lib, layout, loaded, NativeLog(loaded))
    _connect_log(api)
    api.function("llama_backend_init")()
    return api


def _connect_log(api: Api) -> None:
    """Send native lines to `NativeLog`, and to nowhere once Python ends.

    The closure must live as long as C holds it (a collected one is a crash). After Python has ended nothing may call
    back, and NULL would mean stderr, so a C function that ignores its arguments and does nothing takes over then.
    """
    import atexit

    def receive(level: int, text: Any, _: Any) -> None:
        api.log.receive(level, api.ffi.string(text).decode("utf-8", "replace"))

    callback = api.ffi.callback("void(enum ggml_log_level, const char *, void *)", receive, onerror=api.log.interrupt)
    _closures.append(callback)
    api.function("llama_log_set")(callback, api.ffi.NULL)

    def disconnect() -> None:
        silent = api.ffi.cast("ggml_log_callback", api.ffi.addressof(api.lib, "llama_max_devices"))
        api.function("llama_log_set")(silent, api.ffi.NULL)

    atexit.register(disconnect)


_closures: list[Any] = []
