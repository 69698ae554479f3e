"""Every exception of nativeload.

One rule: an error carries its facts as attributes and builds its text from them; the last line says what to do.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from nativeload.resolve.resolution import Resolution


class NativeLoadError(Exception):
    """What all errors of this package are; never raised itself.

    Attributes:
        hint: one line that says what to do, or an empty string.
    """

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by args and attributes: the constructors take other arguments than `Exception` keeps."""
        return _unpickled, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else ""
        return f"{text}\n{self.hint}" if self.hint else text


def _unpickled(kind: type[NativeLoadError], args: tuple[object, ...], state: dict[str, object]) -> NativeLoadError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConfigError(NativeLoadError, ValueError):
    """An option has a value it cannot have.

    Attributes:
        option: the option's name as it was given (argument, environment variable or config file key).
        message: what is wrong with it.
    """

    def __init__(self, option: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{option}: {message}", hint=hint)
        self.option, self.message = option, message

    def under(self, option: str) -> ConfigError:
        """Return the same error under the name by which the user said the option."""
        return ConfigError(option, self.message, hint=self.hint)


class HostError(NativeLoadError, ValueError):
    """A recorded host cannot be read."""


class LibraryNotFoundError(NativeLoadError):
    """No source had a library that this host can run and the config allows.

    Attributes:
        resolution: the whole trace: every candidate with its reason.
    """

    def __init__(self, resolution: Resolution, *, hint: str = "") -> None:
        super().__init__(f"no usable {resolution.library} library was found", hint=hint)
        self.resolution = resolution

    def __str__(self) -> str:
        lines = [str(self.args[0]), self.resolution.explain()]
        return "\n".join([*lines, self.hint] if self.hint else lines)


class ManifestError(NativeLoadError, ValueError):
    """A manifest, pin or lock is not of the form this release knows.

    Attributes:
        origin: the file, URL or option it came from.
        message: what is wrong with it.
    """

    def __init__(self, origin: str | Path, message: str, *, hint: str = "") -> None:
        super().__init__(f"{origin}: {message}", hint=hint)
        self.origin, self.message = str(origin), message


class NetworkError(NativeLoadError):
    """Bytes could not be fetched; what was fetched before is as it was.

    Attributes:
        url: what was asked for, without passwords and query.
        reason: what went wrong, in words.
        status: the HTTP status, where the server gave one; 404 also where a folder lacks the file.
    """

    def __init__(self, url: str, reason: str, *, status: int | None = None, hint: str = "") -> None:
        super().__init__(f"{url}: {reason}", hint=hint)
        self.url, self.reason, self.status = url, reason, status

    @property
    def lacking(self) -> bool:
        """Whether the other side is there and says that it has no such file."""
        return self.status in {404, 410}


class DownloadUnavailableError(NativeLoadError):
    """A download was asked for and cannot be begun: no pin says what to fetch, or it is forbidden.

    Attributes:
        resolution: the trace of the resolution that needed it, if there was one.
    """

    def __init__(self, message: str, *, hint: str = "", resolution: Resolution | None = None) -> None:
        super().__init__(f"{message}\n{resolution.explain()}" if resolution else message, hint=hint)
        self.resolution = resolution


class CacheError(NativeLoadError):
    """The cache directory cannot be used.

    Attributes:
        path: the file or directory at fault.
    """

    def __init__(self, path: str | Path, message: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {message}", hint=hint)
        self.path = str(path)


class UnsafeCacheError(CacheError):
    """Somebody else could write into the cache directory."""


class IntegrityError(NativeLoadError):
    """A file is not the one it should be. Final for this run: nothing else is tried.

    Attributes:
        path: the file.
        expected: the sha256 it should have (hex), or what was expected in words.
        actual: the sha256 it has (hex), or what was found in words.
    """

    hint = "Reinstall the package or fetch the file again; no other library was tried in its place."

    def __init__(self, path: str | Path, *, expected: str, actual: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {actual}")
        self.path, self.expected, self.actual = str(path), expected, actual


class LoadError(NativeLoadError):
    """A library cannot be loaded.

    Attributes:
        path: the file or directory.
        reason: why, in the words of the system loader where it said anything.
        resolution: the trace of the resolution it belongs to, if there was one.
    """

    def __init__(self, path: str | Path, reason: str, *, hint: str = "", resolution: Resolution | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path, self.reason, self.resolution = str(path), reason, resolution

    def __str__(self) -> str:
        trace = self.resolution.explain() if self.resolution else ""
        return "\n".join(part for part in (str(self.args[0]), trace, self.hint) if part)


class UnknownLayoutError(LoadError):
    """The binary was compiled with a llama.h that these bindings do not know."""

    hint = "Use a build of a known layout (pip install 'nativeload[cpu]' brings one), or a newer nativeload."


class BackendUnavailableError(LoadError):
    """A backend that was required registered no device.

    Attributes:
        backend: the backend's name, such as ``cuda``.
    """

    def __init__(
        self,
        backend: str,
        path: str | Path,
        reason: str,
        *,
        hint: str = "",
        resolution: Resolution | None = None,
    ) -> None:
        super().__init__(path, reason, hint=hint, resolution=resolution)
        self.backend = backend


class AlreadyLoadedError(LoadError):
    """Another resolution of the same library is loaded in this process.

    Attributes:
        loaded: the path that is loaded.
    """

    hint = "One process holds one build of a library: start another process for the other one."

    def __init__(self, path: str | Path, *, library: str, loaded: str) -> None:
        super().__init__(path, f"{library} is already loaded from {loaded}")
        self.loaded = loaded


class NotInThisBuild(LoadError):  # noqa: N818 - the public word of the design
    """A function is absent from an otherwise good library.

    Attributes:
        function: the C function's name.
    """

    def __init__(self, function: str, path: str | Path) -> None:
        super().__init__(path, f"this build has no function {function}")
        self.function = function


class ForkError(NativeLoadError):
    """A loaded library was used in a forked child of the process that loaded it."""

    hint = "Use the spawn start method: multiprocessing.set_start_method('spawn')."

    def __init__(self, library: str) -> None:
        super().__init__(f"{library} was loaded before fork(): its threads and locks did not survive")
        self.library = library


class UnsafeCacheWarning(UserWarning):
    """The default cache directory is not safe, and nothing is kept between runs."""


class PreferenceWarning(UserWarning):
    """A preferred backend could not be used and another one is."""
