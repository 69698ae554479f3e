"""Which file of a Hub is meant, and how does it get here?

One rule: huggingface_hub fetches, into its own cache and by its own settings; what a name means, what a failure means
and whether the bytes are the right ones is said here. A token is in no message, and goes to no other Hub unasked.
"""

from __future__ import annotations

import os
import re

from nativeload.cache.fetcher import printable
from nativeload.errors import IntegrityError
from nativeload.settings import endpoint_word
from nativeload.value import Value, replace
from nativeload_llama.errors import ModelError
from nativeload_llama.hub_errors import ADDRESS, NO_TOKEN, has, listed, refused, showable, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PART = re.compile(r"(?s)(.*)-(\d{5})-of-(\d{5})\.gguf")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def parse_hf(text: str) -> tuple[str, str, str | None]:
    """Take an address of a file on a Hub to pieces.

    Args:
        text: ``hf:owner/repo/file.gguf``, ``hf:owner/repo/folder/*Q8_0.gguf`` or one of these with ``@revision``.

    Returns:
        the repository, the file (or pattern), and the revision where one is named.

    Raises:
        ModelError: it is no such address.
    """
    scheme, _, rest = text.partition(":")
    file, at, revision = rest.rpartition("@")
    if not at or revision.endswith(".gguf"):  # the name of a file may have an @ too
        file, at, revision = rest, "", ""
    owner, _, behind = file.partition("/")
    repo, _, name = behind.partition("/")
    if scheme != "hf" or not (owner and repo and name) or name.endswith("/") or (at and not revision):
        raise ModelError(text, "no address of a file on a Hub", hint=ADDRESS)
    return f"{owner}/{repo}", name, revision or None


def fetch(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    additional_files: Sequence[str] = (),
    local_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Fetch a model from a Hub, or find it in the cache; return its path: of a model in parts, the first one's.

    What is fetched now is held to the SHA-256 that the Hub knows of it (large files have one). Where the Hub cannot be
    reached, or huggingface_hub is told to be offline, the cache has to do.

    Args:
        repo_id: such as ``ggml-org/gemma-3-270m-GGUF``.
        filename: the file, or a pattern such as ``*Q8_0.gguf`` that matches one (or the parts of one).
        revision: a branch, a tag or a commit (default: main).
        additional_files: more files, or patterns, each of which matches something.
        local_dir: a directory to put the files in instead of the cache.
        cache_dir: another cache than huggingface_hub's own.
        token: for repositories that are not public (default: huggingface_hub's, for its own Hub only).
        endpoint: another Hub.

    Raises:
        ModelError: no such repository, revision or file, or several files that match.
        NetworkError: the Hub cannot be reached, and the file is not here.
        IntegrityError: what came is something else; it is deleted.
        CacheError: the file cannot be written.
        ConfigError: an endpoint that is no address.
        ValueError: a token that cannot be one.
    """
    source = _Source(
        repo_id,
        revision or "main",
        None if local_dir is None else os.path.expanduser(os.fspath(local_dir)),
        None if cache_dir is None else os.path.expanduser(os.fspath(cache_dir)),
        _token(token, endpoint),
        endpoint_word(endpoint) if endpoint else None,
    )
    first, *parts = source.model(filename)
    more = [name for pattern in additional_files for name in source.matching(pattern)]
    path = source.download(first)
    commit = source.commit_of(path, first)
    pinned = source if commit is None else replace(source, revision=commit)  # the parts of one model are of one commit
    for name in [*parts, *(name for name in more if name not in {first, *parts})]:
        pinned.download(name)
    return path


class _Source(Value):
    """A repository at a revision, and where its files go."""

    repo: str
    revision: str
    local_dir: str | None
    cache_dir: str | None
    token: str | bool | None
    endpoint: str | None

    def called(self, name: str) -> str:
        """Return what stands for a file in errors."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        return printable(f"hf:{self.repo}/{name}{at}")

    def model(self, filename: str) -> list[str]:
        """Return the file that is meant, or all parts of it, the first one first."""
        names = self.matching(filename)
        models = {_whole(name) for name in names}
        if len(models) > 1:
            reason = f"{len(models)} files of the repository match"
            raise ModelError(self.called(filename), reason, hint=f"Name one of them: {listed(sorted(names))}.")
        return _parts(names[0])

    def matching(self, pattern: str) -> list[str]:
        """Return the files that a pattern matches, at least one; a plain name is not looked up."""
        from fnmatch import fnmatchcase

        if not any(sign in pattern for sign in "*?["):
            return [pattern]
        files = self.files()
        names = [name for name in files if name == pattern] or [name for name in files if fnmatchcase(name, pattern)]
        if not names:
            raise ModelError(self.called(pattern), "no file of the repository matches", hint=has(files))
        return names

    def files(self) -> list[str]:
        """Return the paths of all files; of those that are here, where the Hub cannot be reached."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's

        try:
            api = HfApi(endpoint=self.endpoint, token=self.token, library_name="nativeload")
            return sorted(api.list_repo_files(self.repo, revision=self.revision))
        except (OSError, ValueError, HTTPError) as error:
            status = status_of(error)
            if (status is None or status >= 500) and (here := self._files_here()):  # noqa: PLR2004 - the server's fault
                return here
            raise self._refused(error, "") from showable(error)

    def _files_here(self) -> list[str]:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        root = self.local_dir
        try:
            root = root or snapshot_download(
                self.repo, revision=self.revision, cache_dir=self.cache_dir, local_files_only=True
            )
        except LocalEntryNotFoundError as error:  # none, or not all of it
            root = getattr(error, "snapshot_path", None)
        except ValueError:  # a name that none can have; the caller says so
            return []
        found = [os.path.join(at, name) for at, _, names in os.walk(root or "") for name in names]
        names = [os.path.relpath(path, root).replace(os.sep, "/") for path in found]
        return sorted(name for name in names if not name.startswith(".cache/"))

    def download(self, name: str) -> str:
        """Return a file's path after fetching what of it is not here, and checking what was fetched."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        before = self._state(name)
        try:
            path = hf_hub_download(
                self.repo,
                name,
                revision=self.revision,
                local_dir=self.local_dir,
                cache_dir=self.cache_dir,
                token=self.token,
                endpoint=self.endpoint,
                library_name="nativeload",
            )
            if _stat(path) != before:
                self._check(name, path)
        except (OSError, ValueError, HTTPError) as error:
            raise self._refused(error, name) from showable(error)
        return path

    def _state(self, name: str) -> tuple[object, ...] | None:
        """Return what is here before a download, to see whether it brought anything."""
        from huggingface_hub import try_to_load_from_cache

        if self.local_dir is not None:
            return _stat(os.path.join(self.local_dir, name))
        try:
            path = try_to_load_from_cache(self.repo, name, cache_dir=self.cache_dir, revision=self.revision)
        except ValueError:  # a name that none can have; hf_hub_download says so
            return None
        return _stat(path) if isinstance(path, str) else None

    def commit_of(self, path: str, name: str) -> str | None:
        """Return the commit that a file of the cache is of: the cache has a directory for each."""
        commit = os.path.basename(path[: -len(name) - 1])
        return commit if self.local_dir is None and _COMMIT.fullmatch(commit) else None

    def _check(self, name: str, path: str) -> None:
        """Hold a file to the Hub's SHA-256 of it, at the commit that it is of."""
        import hashlib

        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        commit = self.commit_of(path, name) or self.revision
        url = hf_hub_url(self.repo, name, revision=commit, endpoint=self.endpoint)
        expected = get_hf_file_metadata(url, token=self.token, endpoint=self.endpoint).etag or ""
        if not _SHA256.fullmatch(expected):  # a small file: git's own id
            return
        with open(path, "rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            for each in {path, os.path.realpath(path)}:
                os.unlink(each)
            error = IntegrityError(path, expected=expected, actual=actual)
            error.hint = "It was deleted: fetch it again; if that brings the same, ask who owns the repository."
            raise error

    def _refused(self, error: Exception, name: str) -> Exception:
        """Return what a failure of huggingface_hub's means."""
        from huggingface_hub import hf_hub_url

        address = hf_hub_url("owner/repo", "x", endpoint=self.endpoint).partition("/owner/repo/")[0]
        url = f"{address}/{self.repo}/{name}".rstrip("/")
        here = self.local_dir or self.cache_dir or ""
        return refused(error, called=self.called(name), url=url, files=self.files, here=here)


def _token(given: str | None, endpoint: str | None) -> str | bool | None:
    """Return the token to use: False is none, None is huggingface_hub's own, which goes to no other Hub."""
    from huggingface_hub import constants

    if given:
        if not (given.isascii() and given.isprintable()) or " " in given:
            raise ValueError(NO_TOKEN)
        return given
    own = not endpoint or endpoint.rstrip("/") == constants.ENDPOINT.rstrip("/")
    return None if own else False


def _whole(name: str) -> tuple[str, str]:
    """Return the same for all parts of one model, and another for each other file."""
    part = _PART.fullmatch(name)
    return (part[1], part[3]) if part else (name, "")


def _parts(name: str) -> list[str]:
    part = _PART.fullmatch(name)
    if not part or not int(part[3]):
        return [name]
    return [f"{part[1]}-{number:05d}-of-{part[3]}.gguf" for number in range(1, int(part[3]) + 1)]


def _stat(path: str) -> tuple[object, ...] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ino
