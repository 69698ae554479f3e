"""What does the user want, as values, and which verbs hand it on?

One rule: a config holds values only. Every ``with_*`` returns a copy; the verbs are thin and import what they call.
"""

from __future__ import annotations

import os
import sys

from nativeload import settings
from nativeload.errors import ConfigError
from nativeload.value import Value, replace
from nativeload.variant import LIBRARIES, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Any, Literal

    from nativeload.configs import NativeLibraryConfigs
    from nativeload.host import Host
    from nativeload.loading import LoadedLibrary
    from nativeload.resolve.resolution import LibrarySet, Resolution

    Want = bool | int | Literal["require"]
    SelectingPolicy = Callable[[Sequence[LibrarySet], Host], Iterable[LibrarySet]]
    LogCallback = Callable[[int, str], None]


class NativeLibraryConfig(Value):
    """Which native library to use, in LLamaSharp's words.

    A field that is None was not said: the environment, the user's config file and the default follow, in that order
    (`settled`). Nothing is read, opened or started before a verb is called.

    Attributes:
        library: ``llama``, ``whisper`` or ``ggml``.
        path: a library file or a directory to use, and no other (`with_library`).
        sha256: the sha256 that the file at ``path`` must have, in hex.
        wants: what was said of each GPU backend: True prefers, False forbids, ``"require"``, or a CUDA major.
        cpu: the CPU ceiling (`with_avx`).
        auto_fallback: whether a lesser set of the same source may serve where the best one cannot (default True).
        skip_check: skip the check of the host against a set's needs, never an integrity check (default False).
        allow_unverified: whether a library of which the binding cannot prove how to drive it may serve, once it worked
            in a child process (default False).
        search_directories: directories to look in for a library, in order.
        packages: distribution names accepted as backend packages beside ``nativeload-*``.
        pin: ``<build>@sha256:<digest>``: only sets of this manifest may serve.
        lock: a lock file: only sets of the manifests it pins may serve.
        repo: the Hub repository the pinned manifest is in.
        commit: the 40-hex commit of that repository.
        cache_dir: where sets, receipts and verdicts are kept (default ``~/.llama-py``).
        shared_caches: directories laid out as a cache that are only read.
        verify: ``always`` hashes every file on every start; ``stamp`` (default) takes large ones by their stamp.
        python: the command that starts Python for the probe, split like a shell line (default: this Python).
        auto_download: whether a download may be the last source (`with_auto_download`).
        endpoint: where downloads come from: a Hub, or a web server or ``file://`` folder with what `prefetch` wrote.
        proxy: the proxy for downloads.
        timeout: seconds to connect, and that a download may stall.
        offline: whether every download is forbidden, whatever else was said.
        fixed: whether the environment and the config file were read already (`from_env`).
        selecting_policy: reorders or drops the candidates of all sources.
        log_callback: receives (logging level, line) of the loader and of the native library.
    """

    library: str = "llama"
    path: str | None = None
    sha256: str | None = None
    wants: tuple[tuple[Backend, Want], ...] | None = None
    cpu: str | None = None
    auto_fallback: bool | None = None
    skip_check: bool | None = None
    allow_unverified: bool | None = None
    search_directories: tuple[str, ...] | None = None
    packages: tuple[str, ...] | None = None
    pin: str | None = None
    lock: str | None = None
    repo: str | None = None
    commit: str | None = None
    cache_dir: str | None = None
    shared_caches: tuple[str, ...] | None = None
    verify: str | None = None
    python: str | None = None
    auto_download: bool | None = None
    endpoint: str | None = None
    proxy: str | None = None
    timeout: float | None = None
    offline: bool | None = None
    selecting_policy: SelectingPolicy | None = None
    log_callback: LogCallback | None = None
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise ConfigError("library", f"{self.library!r} is none of {', '.join(LIBRARIES)}")
        for name, reader in settings.FIELDS.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, reader(value))

    def with_library(self, path: str | Path | None, sha256: str | None = None) -> NativeLibraryConfig:
        """Use this library file or directory and no other; None takes it back.

        Args:
            path: a file (a self-contained library, or the libllama of a split bundle) or a directory with one.
            sha256: the digest the file must have, 64 hex digits; only for a file.

        Raises:
            ConfigError: the digest is not one, or the path is empty.
        """
        if path is None:
            return replace(self, path=None, sha256=None)
        return replace(self, path=os.fspath(path), sha256=sha256)

    def with_cuda(self, want: Want = True) -> NativeLibraryConfig:
        """Prefer CUDA (True), forbid it (False), insist on it (``"require"``), or prefer one CUDA major (12, 13)."""
        return self._with_backend(Backend.CUDA, want)

    def with_vulkan(self, want: Want = True) -> NativeLibraryConfig:
        """Prefer Vulkan (True), forbid it (False) or insist on it (``"require"``)."""
        return self._with_backend(Backend.VULKAN, want)

    def with_metal(self, want: Want = True) -> NativeLibraryConfig:
        """Prefer Metal (True), forbid it (False) or insist on it (``"require"``)."""
        return self._with_backend(Backend.METAL, want)

    def with_rocm(self, want: Want = True) -> NativeLibraryConfig:
        """Prefer ROCm (True), forbid it (False) or insist on it (``"require"``)."""
        return self._with_backend(Backend.ROCM, want)

    def _with_backend(self, backend: Backend, want: Want) -> NativeLibraryConfig:
        others = tuple(pair for pair in self.wants or () if pair[0] is not backend)
        return replace(self, wants=(*others, (backend, want)))

    def with_avx(self, level: str | None) -> NativeLibraryConfig:
        """Set a CPU ceiling: ``none``, ``avx``, ``avx2``, ``avx512``, or a variant's name such as ``zen4``.

        Raises:
            ConfigError: the word is none of these.
        """
        return replace(self, cpu=level)

    def with_auto_fallback(self, enable: bool = True) -> NativeLibraryConfig:
        """Let a lesser set of the same source serve where the best one cannot; False makes the first one final."""
        return replace(self, auto_fallback=enable)

    def with_skip_check(self, enable: bool = True) -> NativeLibraryConfig:
        """Skip the check of the host against a set's needs. Integrity checks and the probe stay."""
        return replace(self, skip_check=enable)

    def with_allow_unverified(self, enable: bool = True) -> NativeLibraryConfig:
        """Let a library serve that no known layout of llama.h agrees with, once it worked by the nearest one's.

        A child process tries it on a bundled model and compares what comes out; what crashes there, or differs, is
        refused. That is evidence and no proof: a function that was not tried may crash this process.
        """
        return replace(self, allow_unverified=enable)

    def with_search_directory(self, directory: str | Path) -> NativeLibraryConfig:
        """Look in this directory too, before the installed packages; the first one given is asked first."""
        return self.with_search_directories([directory])

    def with_search_directories(self, directories: Iterable[str | Path]) -> NativeLibraryConfig:
        """Look in these directories too, before the installed packages, in this order."""
        if isinstance(directories, str):
            raise ConfigError("search_directories", "a list of directories is wanted, and this is one string")
        words = tuple(os.fspath(directory) for directory in directories)
        return replace(self, search_directories=(*(self.search_directories or ()), *words))

    def with_backend_package(self, name: str) -> NativeLibraryConfig:
        """Accept the installed distribution of this name as a backend package.

        Raises:
            ConfigError: the name is no distribution name.
        """
        return replace(self, packages=(*(self.packages or ()), name))

    def with_pin(self, pin: str, *, repo: str | None = None, commit: str | None = None) -> NativeLibraryConfig:
        """Let only sets of this manifest serve: ``<build>@sha256:<digest of the manifest>``.

        Args:
            pin: what `nativeload publish upload` printed, or a release note said.
            repo: the Hub repository it is in, such as ``owner/name``; a download needs it.
            commit: the commit of that repository, 40 hex digits: a branch or tag would move.

        Raises:
            ConfigError: one of them is not of its form.
        """
        return replace(self, pin=pin, repo=repo, commit=commit)

    def with_lock(self, path: str | Path | None) -> NativeLibraryConfig:
        """Let only sets of the manifests serve that this lock file pins. It is never looked for: name it."""
        return replace(self, lock=None if path is None else os.fspath(path))

    def with_selecting_policy(self, policy: SelectingPolicy | None) -> NativeLibraryConfig:
        """Reorder or drop candidates: ``policy(sets, host)`` returns the sets to try, in order."""
        return replace(self, selecting_policy=policy)

    def with_log_callback(self, callback: LogCallback | None) -> NativeLibraryConfig:
        """Send (logging level, line) of the loader and the native library there instead of to stdlib logging.

        A library is loaded once per process: the callback of the load that opened it receives the native lines.
        """
        return replace(self, log_callback=callback)

    def with_cache_dir(self, directory: str | Path | None) -> NativeLibraryConfig:
        """Keep sets, receipts and verdicts in this directory instead of ``~/.llama-py``."""
        return replace(self, cache_dir=None if directory is None else os.fspath(directory))

    def with_shared_cache(self, directory: str | Path) -> NativeLibraryConfig:
        """Look for published sets in this directory too: laid out as a cache, root's or yours, never written."""
        return replace(self, shared_caches=(*(self.shared_caches or ()), os.fspath(directory)))

    def with_verify(self, how: str) -> NativeLibraryConfig:
        """Hash every file on every start (``always``), or take large unchanged ones by their stamp (``stamp``)."""
        return replace(self, verify=how)

    def with_python(self, command: str | None) -> NativeLibraryConfig:
        """Start the probe's Python with this command, split like a shell line."""
        return replace(self, python=command)

    def with_auto_download(
        self,
        enable: bool = True,
        *,
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> NativeLibraryConfig:
        """Allow a download as the last source: the files of a pinned manifest that this machine needs, and no others.

        Args:
            enable: False forbids it again.
            cache_dir: as `with_cache_dir`.
            endpoint: a Hub (default: huggingface_hub's), or a web server or ``file://`` folder with a prefetch.
            proxy: for these downloads alone.
            timeout: seconds to connect, and that a download may stall (default 10).

        Raises:
            ConfigError: one of them is not of its form.
        """
        config = self.with_cache_dir(cache_dir) if cache_dir is not None else self
        return replace(
            config,
            auto_download=enable,
            endpoint=endpoint or self.endpoint,
            proxy=proxy or self.proxy,
            timeout=self.timeout if timeout is None else timeout,
        )

    def with_offline(self, enable: bool = True) -> NativeLibraryConfig:
        """Forbid every download, whatever else is said."""
        return replace(self, offline=enable)

    @classmethod
    def from_env(cls, library: str = "llama") -> NativeLibraryConfig:
        """Return a config with everything the environment and the user's config file say, fixed at this moment.

        Raises:
            ConfigError: a variable or a key of the file has a value it cannot have.
        """
        return replace(cls(library).settled(), fixed=True)

    @classmethod
    def all(cls, *libraries: str) -> NativeLibraryConfigs:
        """Return the configs of several libraries (default: all), on which each ``with_*`` acts at once."""
        from nativeload.configs import NativeLibraryConfigs

        return NativeLibraryConfigs(tuple(cls(name) for name in libraries or LIBRARIES))

    def settled(self) -> NativeLibraryConfig:
        """Return a copy in which what was not said here is what the environment, then the config file, say.

        Raises:
            ConfigError: a variable or a key of the file has a value it cannot have.
        """
        if self.fixed:
            return self
        said: dict[str, Any] = settings.read(os.environ)
        fresh = {name: value for name, value in said.items() if getattr(self, name) is None}
        if self.path is not None:  # an argument's path is never checked against the environment's digest
            fresh.pop("sha256", None)
        if self.pin is not None and said.get("pin") not in {None, self.pin}:  # nor another pin looked for in its place
            fresh.pop("repo", None)
            fresh.pop("commit", None)
        if self.wants is not None and "wants" in said:
            mine = {backend for backend, _ in self.wants}
            fresh["wants"] = (*self.wants, *(pair for pair in said["wants"] if pair[0] not in mine))
        return replace(self, **fresh)

    @property
    def library_has_loaded(self) -> bool:
        """Whether this process has loaded the library (by any config)."""
        loading = sys.modules.get("nativeload.loading")
        return loading is not None and loading.loaded(self.library) is not None

    def plan(self, host: Host | None = None) -> Resolution:
        """Say what would be used on a host (default: this one): no network, no dlopen, no child process.

        A host of another platform cannot use what is installed here; one of this platform is taken to have the same
        packages.

        Raises:
            IntegrityError: a file on this machine is not the one it should be.
        """
        from nativeload.resolve import plan

        return plan(self.settled(), host)

    def dry_run(self) -> Resolution:
        """Say what `resolve` would choose on this machine: no network, no dlopen, no child process."""
        return self.plan()

    def resolve(self) -> Resolution:
        """Choose a set for this machine, fetch it if that is allowed and needed, and verify it. Opens nothing.

        Raises:
            LibraryNotFoundError: nothing usable; carries the whole trace.
            DownloadUnavailableError: nothing usable, and a download was allowed of which nobody said what to fetch.
            IntegrityError: a file is not the one it should be. Nothing else is tried.
            NetworkError: what is needed cannot be fetched.
            CacheError: what is fetched cannot be kept.
            LoadError: the explicit path holds no library.
        """
        from nativeload.resolve import resolve

        return resolve(self.settled())

    def load(self) -> LoadedLibrary:
        """Choose, verify, probe in a child process and open the library: once per process, thread-safe.

        Raises:
            AlreadyLoadedError: another set of this library is loaded in this process.
            LoadError: a configured source failed (`UnknownLayoutError`, `BackendUnavailableError` among others).
            LibraryNotFoundError, IntegrityError, NetworkError, CacheError: as `resolve`.
            ForkError: the library was loaded before a fork.
        """
        from nativeload.loading import load

        return load(self)

    def download_native_library(
        self,
        *,
        filename: str | None = None,
        build: str | None = None,
        use_cuda: bool | None = None,
        avx_level: str | None = None,
        os: str = "auto",
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> Resolution:
        """Fetch a published set into the cache, for this machine or another platform, and verify it. Opens nothing.

        Args:
            filename: a file the set must have, such as ``libllama.so`` (whatever version its name carries).
            build: the build it must be, or one of its aliases; what is pinned decides, this only holds it to a word.
            use_cuda: True prefers CUDA, False forbids it.
            avx_level: as `with_avx`.
            os: ``auto`` for this machine; a platform such as ``windows-x86_64``, or ``linux``, ``macos``, ``windows``,
                for any machine of it that has what ``avx_level`` and ``use_cuda`` say.
            cache_dir: as `with_cache_dir`.
            endpoint: as `with_auto_download`, as are ``proxy`` and ``timeout``.
            proxy: for these downloads alone.
            timeout: seconds.

        Raises:
            DownloadUnavailableError: nobody said what to fetch, or a download is forbidden.
            LibraryNotFoundError: the pinned manifest has nothing that fits; carries the trace.
            NetworkError, IntegrityError, CacheError: nothing of it is in the cache then.
        """
        from nativeload.resolve import download_set

        config = self.with_auto_download(cache_dir=cache_dir, endpoint=endpoint, proxy=proxy, timeout=timeout)
        if use_cuda is not None:
            config = config.with_cuda(use_cuda)
        if avx_level is not None:
            config = config.with_avx(avx_level)
        return download_set(config.settled(), platform=os, filename=filename, build=build)

    def download_best_native_library(
        self,
        *,
        cache_dir: str | Path | None = None,
        endpoint: str | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> Resolution:
        """Fetch the best published set for this machine into the cache: `download_native_library` without wishes."""
        return self.download_native_library(cache_dir=cache_dir, endpoint=endpoint, proxy=proxy, timeout=timeout)
