"""The right native build of llama.cpp for the machine it runs on: chosen, checked, probed and loaded.

One rule: importing this imports nothing else; a name is found when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload.config import NativeLibraryConfig
    from nativeload.configs import NativeLibraryConfigs
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
        PreferenceWarning,
        UnknownLayoutError,
        UnsafeCacheError,
        UnsafeCacheWarning,
    )
    from nativeload.host import Host
    from nativeload.loading import LoadedLibrary
    from nativeload.resolve.resolution import Decision, LibrarySet, Resolution, Source
    from nativeload.variant import AvxLevel, Backend, Platform

__version__ = "0.1.0.dev0"

_HOMES = {
    "config": ("NativeLibraryConfig",),
    "configs": ("NativeLibraryConfigs",),
    "errors": (
        "AlreadyLoadedError",
        "BackendUnavailableError",
        "CacheError",
        "ConfigError",
        "DownloadUnavailableError",
        "ForkError",
        "HostError",
        "IntegrityError",
        "LibraryNotFoundError",
        "LoadError",
        "ManifestError",
        "NativeLoadError",
        "NetworkError",
        "NotInThisBuild",
        "PreferenceWarning",
        "UnknownLayoutError",
        "UnsafeCacheError",
        "UnsafeCacheWarning",
    ),
    "host": ("Host",),
    "loading": ("LoadedLibrary",),
    "resolve.resolution": ("Decision", "LibrarySet", "Resolution", "Source"),
    "variant": ("AvxLevel", "Backend", "Platform"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value: object = getattr(__import__(f"nativeload.{module}", fromlist=[name]), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'nativeload' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AlreadyLoadedError",
    "AvxLevel",
    "Backend",
    "BackendUnavailableError",
    "CacheError",
    "ConfigError",
    "Decision",
    "DownloadUnavailableError",
    "ForkError",
    "Host",
    "HostError",
    "IntegrityError",
    "LibraryNotFoundError",
    "LibrarySet",
    "LoadError",
    "LoadedLibrary",
    "ManifestError",
    "NativeLibraryConfig",
    "NativeLibraryConfigs",
    "NativeLoadError",
    "NetworkError",
    "NotInThisBuild",
    "Platform",
    "PreferenceWarning",
    "Resolution",
    "Source",
    "UnknownLayoutError",
    "UnsafeCacheError",
    "UnsafeCacheWarning",
    "__version__",
]
