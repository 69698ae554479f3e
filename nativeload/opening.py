"""How are a set's files opened?

One rule: by absolute path, in dependency order, each backend module by its own ``ggml_backend_load``; ggml is never
left to search (it would look beside the python binary and in the current directory).

The backend registry (ggml-backend.h, unchanged for two years) is all that nativeload itself knows of the C API.
"""

from __future__ import annotations

import ctypes
import os

from nativeload.errors import LoadError
from nativeload.value import Value
from nativeload.variant import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from nativeload.resolve.resolution import LibraryFile

# Registry names of backends, where they differ from ours: ggml/src/ggml-{metal,cuda}.
_REGISTRY_NAMES = {"mtl": "metal", "hip": "rocm"}
_DEVICE_TYPES = ("cpu", "gpu", "igpu", "accel", "meta")


class Device(Value, kw_only=True):
    """A compute device that ggml registered.

    Attributes:
        name: ggml's name, such as ``CPU`` or ``CUDA0``.
        description: the hardware's name.
        backend: ``cpu``, ``cuda``, ``vulkan``, ``metal``, ``rocm`` or ggml's own lower-case name.
        kind: ``cpu``, ``gpu``, ``igpu`` or ``accel``.
    """

    name: str
    description: str
    backend: str
    kind: str

    def to_dict(self) -> dict[str, str]:
        """Return the device as JSON holds it."""
        return {
            "name": self.name,
            "description": self.description,
            "backend": self.backend,
            "kind": self.kind,
        }


def open_set(
    files: Sequence[LibraryFile],
    on_step: Callable[[str], None] | None = None,
    *,
    externals: Sequence[str] = (),
    quiet: bool = False,
) -> list[ctypes.CDLL]:
    """Open a set's files and register its backends; the last handle is the library itself.

    Args:
        files: in load order.
        on_step: called with each path before it is opened.
        externals: names of system libraries to open first, where a file's own search path would look into the current
            directory for them.
        quiet: keep ggml from printing (a binding sets its own log callback afterwards).

    Raises:
        LoadError: with the system loader's own words.
    """
    step = on_step or (lambda _: None)
    for name in externals:
        try:
            ctypes.CDLL(name)
        except OSError:  # the file that wants it will name it
            continue
    handles: list[ctypes.CDLL] = []
    for file in files:
        if file.role in (Role.RUNTIME, Role.CORE):
            step(file.path)
            handles.append(_open(file.path))
    if quiet:
        _silence(handles)
    for file in files:
        if file.role in (Role.GPU, Role.CPU):
            step(file.path)
            _register(handles, file)
    if any(file.label == "ggml-cpu" for file in files) and has_registry(handles) and not devices(handles):
        _register(handles, next(file for file in files if file.label == "ggml-cpu"))
    return handles


def _open(path: str) -> ctypes.CDLL:
    if not os.path.isabs(path):  # the loader would search for a bare name
        raise LoadError(path, "not an absolute path")
    try:
        if os.name == "nt":
            # LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32: never PATH, never the current directory
            return ctypes.CDLL(path, winmode=0x00000100 | 0x00000800)
        return ctypes.CDLL(path)
    except OSError as error:
        raise LoadError(path, str(error).removeprefix(f"{path}: ")) from error


def _silence(handles: Sequence[ctypes.CDLL]) -> None:
    """Give ggml a log callback that does nothing: a C function without arguments or state, which outlives Python."""
    try:
        nothing = function(handles, "ggml_time_us", ctypes.c_int64)
        function(handles, "ggml_log_set", None, ctypes.c_void_p, ctypes.c_void_p)(nothing, None)
    except AttributeError:  # no ggml in this set
        return


def function(handles: Sequence[ctypes.CDLL], name: str, result: Any, *arguments: Any) -> Any:
    """Return a C function of the first handle that exports it, with its types set.

    Raises:
        AttributeError: none exports it.
    """
    for handle in handles:
        try:
            found = getattr(handle, name)
        except AttributeError:
            continue
        found.restype, found.argtypes = result, arguments
        return found
    raise AttributeError(name)


def has_registry(handles: Sequence[ctypes.CDLL]) -> bool:
    """Whether the opened files carry ggml's backend registry."""
    try:
        function(handles, "ggml_backend_dev_count", ctypes.c_size_t)
    except AttributeError:
        return False
    return True


def _register(handles: list[ctypes.CDLL], file: LibraryFile) -> None:
    """Load one backend module. ggml is silent about a failed dlopen in release builds, so that is asked for then."""
    try:
        load = function(handles, "ggml_backend_load", ctypes.c_void_p, ctypes.c_char_p)
    except AttributeError as error:
        raise LoadError(file.path, "a backend module without ggml's registry beside it") from error
    if load(os.fsencode(file.path)):
        return
    try:
        score = function([_open(file.path)], "ggml_backend_score", ctypes.c_int)()
    except AttributeError:
        score = None
    why = "its own check says this CPU cannot run it" if score == 0 else "ggml refused it (another backend API?)"
    raise LoadError(file.path, why)


def devices(handles: Sequence[ctypes.CDLL]) -> tuple[Device, ...]:
    """Return the devices that are registered now; () where there is no registry."""
    if not has_registry(handles):
        return ()
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    count = function(handles, "ggml_backend_dev_count", ctypes.c_size_t)()
    get = function(handles, "ggml_backend_dev_get", pointer, ctypes.c_size_t)
    name = function(handles, "ggml_backend_dev_name", text, pointer)
    description = function(handles, "ggml_backend_dev_description", text, pointer)
    kind = function(handles, "ggml_backend_dev_type", ctypes.c_int, pointer)
    registry = function(handles, "ggml_backend_dev_backend_reg", pointer, pointer)
    registry_name = function(handles, "ggml_backend_reg_name", text, pointer)
    found = []
    for device in [get(index) for index in range(count)]:
        number = kind(device)
        backend = _text(registry_name(registry(device))).lower()
        found.append(
            Device(
                name=_text(name(device)),
                description=_text(description(device)),
                backend=_REGISTRY_NAMES.get(backend, backend),
                kind=_DEVICE_TYPES[number] if 0 <= number < len(_DEVICE_TYPES) else str(number),
            )
        )
    return tuple(found)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
