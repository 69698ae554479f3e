"""How does a build get to a Hub?

One rule: files and manifest appear in one commit, and what is printed afterwards (pin, repository, commit) is all that
anybody needs to fetch them.
"""

from __future__ import annotations

from nativeload.errors import NetworkError
from nativeload.manifest import manifest_path
from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import HfApi

    from nativeload.manifest import Manifest


_LOG_IN = "Log in with a token that may write there: hf auth login, or HF_TOKEN."


class Published(Value, kw_only=True):
    """Where a build is now."""

    pin: str
    repo: str
    commit: str


def upload(manifest: Manifest, files: Mapping[str, str], repo: str, *, endpoint: str | None = None) -> Published:
    """Upload a manifest and its files in one commit; what the repository has already is not sent again.

    Args:
        manifest: what is published.
        files: where the bytes of each artifact are, by its path in the repository.
        repo: made, public, if it does not exist.
        endpoint: the Hub; None is what huggingface_hub is configured for.

    Raises:
        NetworkError: the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # its client's own

    api = HfApi(endpoint=endpoint, library_name="nativeload")
    where = f"{api.endpoint}/{repo}"
    operations = [CommitOperationAdd(path, source) for path, source in files.items()]
    operations.append(CommitOperationAdd(manifest_path(manifest.pin.digest), manifest.to_bytes()))
    try:
        parent = _head(api, repo)
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"{manifest.library} {manifest.build}, revision {manifest.revision}",
            commit_description=f"{manifest.pin}\nupstream: {manifest.repo} {manifest.commit or 'commit not told'}",
            parent_commit=parent,
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = _LOG_IN if status in {401, 403} else ""
        raise NetworkError(where, _first_line(error), status=status, hint=hint) from error
    except (OSError, HTTPError) as error:
        raise NetworkError(where, _first_line(error)) from error
    return Published(pin=str(manifest.pin), repo=repo, commit=done.oid)


def _head(api: HfApi, repo: str) -> str | None:
    """Return the newest commit of a repository, which is made if there is none: the upload stands on it, or fails."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.repo_info(repo).sha
    except RepositoryNotFoundError:
        api.create_repo(repo)
        return api.repo_info(repo).sha


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
