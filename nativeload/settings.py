"""What do the environment and the user's config file say, and is each word one that the option can have?

One rule: argument > environment > config file > default; a word that cannot be is an error that names its option.
"""

from __future__ import annotations

import os
import sys

from nativeload.cpu_variants import check_ceiling
from nativeload.errors import ConfigError, ManifestError
from nativeload.variant import GPU_BACKENDS, Backend, normalized_package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_HEX = frozenset("0123456789abcdef")
_NAME_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def path_word(word: str) -> str:
    """Return a path made absolute, ``~`` expanded."""
    if not word or "\0" in word:
        raise ConfigError("path", "an empty path, or one with a NUL byte")
    return os.path.abspath(os.path.expanduser(word))


def paths_word(word: str) -> tuple[str, ...]:
    """Return a list of paths, separated as PATH is on this system."""
    return tuple(path_word(part) for part in word.split(os.pathsep) if part)


def _is_hex(word: str, length: int) -> bool:
    return len(word) == length and set(word) <= _HEX


def digest_word(word: str) -> str:
    """Return a sha256 in lower-case hex."""
    digest = word.lower().removeprefix("sha256:")
    if not _is_hex(digest, 64):
        raise ConfigError("sha256", f"{word!r} is not 64 hex digits")
    return digest


def commit_word(word: str) -> str:
    """Return a full commit hash; branches and tags move and are refused."""
    if not _is_hex(word, 40):
        raise ConfigError("commit", f"{word!r} is not a 40-digit commit hash")
    return word


def pin_word(word: str) -> str:
    """Return a pin: ``<build>@sha256:<64 hex digits>``."""
    from nativeload.manifest import Pin

    try:
        return str(Pin.parse(_text("pin", word)))
    except ManifestError as error:
        raise ConfigError("pin", error.message) from error


def repo_word(word: str) -> str:
    """Return a repository of a Hub: ``name`` or ``owner/name``."""
    parts = _text("repo", word).split("/")
    if len(parts) > 2 or not all(_is_repo_part(part) for part in parts):  # noqa: PLR2004
        raise ConfigError("repo", f"{word!r} is not a repository such as owner/name")
    return word


def _is_repo_part(part: str) -> bool:
    """Whether huggingface_hub would take it: up to 96 letters, digits, ``-_.``, none of ``-.`` at an end or twice."""
    plain = part.replace("-", "a").replace("_", "a").replace(".", "a")
    if not (plain.isascii() and plain.isalnum() and len(part) <= 96):  # noqa: PLR2004
        return False
    return part[0] not in "-." and part[-1] not in "-." and "--" not in part and ".." not in part


def endpoint_word(word: str) -> str:
    """Return the address of a Hub, of a web server with a prefetch folder, or of such a folder itself."""
    scheme, sign, rest = _text("endpoint", word).partition("://")
    if not sign or scheme not in {"http", "https", "file"} or not rest or any(each.isspace() for each in word):
        raise ConfigError("endpoint", f"{_without_password(word)!r} is not an address", hint=_ADDRESSES)
    port = rest.partition("/")[0].rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    if port and not (port.isdecimal() and 0 < int(port[:6]) < 65536):  # noqa: PLR2004
        raise ConfigError("endpoint", f"{_without_password(word)!r} has no port that can be", hint=_ADDRESSES)
    return word.rstrip("/")


_ADDRESSES = "Use https://..., http://... or file:///..."


def _without_password(word: str) -> str:
    """Return an address as it may be shown."""
    scheme, sign, rest = word.rpartition("://")
    return f"{scheme}{sign}***@{rest.rpartition('@')[2]}" if "@" in rest else word


def proxy_word(word: str) -> str:
    """Return the address of a proxy, with or without its scheme."""
    scheme, sign, rest = _text("proxy", word).partition("://")
    if not (rest if sign else scheme) or any(each.isspace() for each in word):
        raise ConfigError("proxy", f"{_without_password(word)!r} is not an address", hint="Use http://host:port.")
    return word


def package_word(word: str) -> str:
    """Return a distribution name in its normal form (PEP 503)."""
    name = normalized_package(word)
    if not name or not set(name) <= _NAME_SIGNS or word[0] in "-_." or word[-1] in "-_.":
        raise ConfigError("package", f"{word!r} is not a distribution name")
    return name


def packages_word(word: str) -> tuple[str, ...]:
    """Return a comma-separated list of distribution names."""
    return tuple(package_word(part.strip()) for part in word.split(",") if part.strip())


def flag_word(word: str) -> bool:
    """Return a switch: 1, true, yes, on, or 0, false, no, off."""
    if word.lower() in {"1", "true", "yes", "on"}:
        return True
    if word.lower() in {"0", "false", "no", "off", ""}:
        return False
    raise ConfigError("switch", f"{word!r} is neither on nor off")


def command_words(word: str) -> list[str]:
    """Split a command as a shell does; on Windows, where a backslash is no escape, by blanks and quotes."""
    import shlex

    try:
        words = [part.strip('"') if os.name == "nt" else part for part in shlex.split(word, posix=os.name != "nt")]
    except ValueError as error:
        raise ConfigError("python", f"{word!r} cannot be split into words: {error}") from error
    if not words:
        raise ConfigError("python", "an empty command")
    return words


def command_word(word: str) -> str:
    """Return a command that can be split."""
    command_words(_text("python", word))
    return word


def _text(option: str, word: object) -> str:
    if not isinstance(word, str):
        raise ConfigError(option, f"{word!r} is not text")
    return word


def seconds_word(word: str) -> float:
    """Return a positive number of seconds."""
    try:
        seconds = float(word)
    except ValueError as error:
        raise ConfigError("timeout", f"{word!r} is not a number of seconds") from error
    if not 0 < seconds <= 86400:  # noqa: PLR2004 - a day
        raise ConfigError("timeout", f"{word!r} is not a number of seconds up to a day")
    return seconds


def verify_word(word: str) -> str:
    """Return how files are verified: ``stamp`` or ``always``."""
    if word not in {"stamp", "always"}:
        raise ConfigError("verify", f"{word!r} is neither stamp nor always")
    return word


def check_want(backend: Backend, want: object) -> None:
    """Refuse what cannot be said of a backend.

    Raises:
        ConfigError: neither a switch, nor "require", nor (for CUDA) a major such as 12.
    """
    if isinstance(want, bool) or want == "require":
        return
    if backend is Backend.CUDA and isinstance(want, int) and 10 <= want <= 99:  # noqa: PLR2004 - two-digit majors
        return
    raise ConfigError(f"with_{backend}", f"{want!r}", hint="Use True, False, 'require', or (CUDA) a major such as 12.")


def backend_word(word: str) -> tuple[tuple[Backend, bool | int | str], ...]:
    """Return what is said of the GPU backends: ``auto``, ``cpu``, or a list such as ``cuda=require,vulkan=off``.

    ``cuda`` alone prefers it; ``cuda=13`` prefers that major; ``cpu`` forbids all GPU backends.
    """
    if word == "auto":
        return ()
    if word == "cpu":
        return tuple((backend, False) for backend in GPU_BACKENDS)
    wants: list[tuple[Backend, bool | int | str]] = []
    for part in word.split(","):
        name, _, value = part.strip().partition("=")
        if name not in list(GPU_BACKENDS):
            raise ConfigError("backend", f"{name!r} is none of auto, cpu, {', '.join(GPU_BACKENDS)}")
        want = value if value == "require" else int(value) if value.isdecimal() and value not in "01" else None
        if Backend(name) in dict(wants):
            raise ConfigError("backend", f"{name} is said twice in {word!r}")
        try:
            wants.append((Backend(name), flag_word(value or "on") if want is None else want))
        except ConfigError as error:
            hint = f"Say {name}, {name}=require or {name}=off, or (CUDA) a major: cuda=13."
            raise ConfigError("backend", f"{part.strip()!r} cannot be said", hint=hint) from error
        check_want(*wants[-1])
    return tuple(wants)


# field of NativeLibraryConfig -> (variables in order, key of the config file, reader of the word)
OPTIONS: dict[str, tuple[tuple[str, ...], str, Callable[[str], Any]]] = {
    "path": (("NATIVELOAD_PATH",), "path", path_word),
    "sha256": (("NATIVELOAD_SHA256",), "sha256", digest_word),
    "wants": (("NATIVELOAD_BACKEND",), "backend", backend_word),
    "cpu": (("NATIVELOAD_CPU",), "cpu", check_ceiling),
    "auto_fallback": (("NATIVELOAD_AUTO_FALLBACK",), "auto_fallback", flag_word),
    "skip_check": (("NATIVELOAD_SKIP_CHECK",), "skip_check", flag_word),
    "allow_unverified": (("NATIVELOAD_ALLOW_UNVERIFIED",), "allow_unverified", flag_word),
    "search_directories": (("NATIVELOAD_SEARCH_DIRECTORIES",), "search_directories", paths_word),
    "packages": (("NATIVELOAD_PACKAGES",), "packages", packages_word),
    "pin": (("NATIVELOAD_PIN",), "pin", pin_word),
    "lock": (("NATIVELOAD_LOCK",), "lock", path_word),
    "repo": (("NATIVELOAD_REPO",), "repo", repo_word),
    "commit": (("NATIVELOAD_COMMIT",), "commit", commit_word),
    "cache_dir": (("NATIVELOAD_CACHE",), "cache", path_word),
    "shared_caches": (("NATIVELOAD_SHARED_CACHE",), "shared_cache", paths_word),
    "verify": (("NATIVELOAD_VERIFY",), "verify", verify_word),
    "python": (("NATIVELOAD_PYTHON",), "python", command_word),
    "auto_download": (("NATIVELOAD_AUTO_DOWNLOAD",), "auto_download", flag_word),
    "endpoint": (("NATIVELOAD_ENDPOINT", "HF_ENDPOINT"), "endpoint", endpoint_word),
    "proxy": (("NATIVELOAD_PROXY",), "proxy", proxy_word),
    "timeout": (("NATIVELOAD_TIMEOUT",), "timeout", seconds_word),
    "offline": (("NATIVELOAD_OFFLINE", "HF_HUB_OFFLINE"), "offline", flag_word),
}


def _checked_wants(wants: Any) -> tuple[tuple[Backend, bool | int | str], ...]:
    try:
        pairs = tuple((Backend(backend), want) for backend, want in wants)
    except (TypeError, ValueError) as error:
        raise ConfigError("wants", f"{wants!r} is not a tuple of (backend, want)") from error
    for backend, want in pairs:
        check_want(backend, want)
    return pairs


def _checked_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("switch", f"{value!r} is neither True nor False")
    return value


def _checked_path(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError("path", f"{value!r} is not a path")
    return path_word(os.fspath(value))


def _several(option: str, reader: Callable[[Any], str]) -> Callable[[Any], tuple[str, ...]]:
    def read_all(values: Any) -> tuple[str, ...]:
        if isinstance(values, str):
            raise ConfigError(option, f"a list is wanted, and {values!r} is one text")
        return tuple(reader(value) for value in values)

    return read_all


# field -> what makes its value right, however the config was made
FIELDS: dict[str, Callable[[Any], Any]] = {
    "path": _checked_path,
    "sha256": digest_word,
    "wants": _checked_wants,
    "cpu": check_ceiling,
    "auto_fallback": _checked_flag,
    "skip_check": _checked_flag,
    "allow_unverified": _checked_flag,
    "search_directories": _several("search_directories", _checked_path),
    "packages": _several("packages", package_word),
    "pin": pin_word,
    "lock": _checked_path,
    "repo": repo_word,
    "commit": commit_word,
    "cache_dir": _checked_path,
    "shared_caches": _several("shared_caches", _checked_path),
    "endpoint": endpoint_word,
    "proxy": proxy_word,
    "verify": verify_word,
    "python": command_word,
    "auto_download": _checked_flag,
    "timeout": lambda seconds: seconds_word(str(seconds)),
    "offline": _checked_flag,
}


def read(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return every option that the environment or the config file sets, read and checked.

    Raises:
        ConfigError: naming the variable, or the file and its key.
    """
    said: dict[str, Any] = {}
    file, origin = _config_file(environ)
    for name, (variables, key, reader) in OPTIONS.items():
        variable = next((item for item in variables if environ.get(item)), None)
        if variable is not None:
            said[name] = _read_word(variable, environ[variable], reader)
        elif key in file:
            option = f"{origin}: {key}"
            said[name] = _read_word(option, _as_word(option, file[key], reader), reader)
    if any(environ.get(variable) for variable in OPTIONS["path"][0]) and not environ.get("NATIVELOAD_SHA256"):
        said.pop("sha256", None)  # the config file's digest is that of the config file's path
    return said


def _read_word(option: str, word: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(word)
    except ConfigError as error:
        raise error.under(option) from error


_LISTS = (paths_word, packages_word, backend_word)


def _as_word(option: str, value: object, reader: Callable[[str], Any]) -> str:
    """Return a value of the config file as the environment would say it."""
    if isinstance(value, list) and reader in _LISTS and all(isinstance(item, str) for item in value):
        return (os.pathsep if reader is paths_word else ",").join(value)
    if not isinstance(value, (str, int, float)):
        raise ConfigError(option, f"{value!r} is neither text, a number, a switch nor a list of texts")
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _config_file(environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Read the user's config file, or the one that NATIVELOAD_CONFIG names."""
    named = environ.get("NATIVELOAD_CONFIG")
    path = named or config_file_path(environ)
    if path is None:
        return {}, ""
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError as error:
        if named:
            raise ConfigError("NATIVELOAD_CONFIG", f"{path} does not exist") from error
        return {}, ""
    except (OSError, ValueError) as error:  # TOMLDecodeError is a ValueError, as is a file that is no UTF-8
        raise ConfigError(path, str(error)) from error
    keys = {key for _, key, _ in OPTIONS.values()}
    if unknown := sorted(set(table) - keys):
        raise ConfigError(path, f"unknown key {unknown[0]!r}", hint=f"Keys: {', '.join(sorted(keys))}.")
    return table, path


def config_file_path(environ: Mapping[str, str]) -> str | None:
    """Return where the user's config file may be, or None where its directory does not exist.

    platformdirs says where; on Linux and macOS a look at the one or two directories it could name comes first, so
    that the many without a config file do not pay its 18 ms.
    """
    if sys.platform != "win32" and not any(os.path.isdir(folder) for folder in posix_config_directories(environ)):
        return None
    import platformdirs

    return os.path.join(platformdirs.user_config_dir("nativeload", appauthor=False), "config.toml")


def posix_config_directories(environ: Mapping[str, str]) -> list[str]:
    """Return the directories that platformdirs could name on Linux and macOS (a test holds them together)."""
    home = os.path.expanduser("~")
    folders = [os.path.join(home, ".config")]  # platformdirs goes by it too where XDG_CONFIG_HOME is not absolute
    if (said := environ.get("XDG_CONFIG_HOME", "").strip()) and os.path.isabs(said):
        folders.insert(0, said)
    if sys.platform == "darwin":
        folders.append(os.path.join(home, "Library", "Application Support"))
    return [os.path.join(folder, "nativeload") for folder in folders]
