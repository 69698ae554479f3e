"""What does a failure of huggingface_hub mean, in words that say what to do?

One rule: a token is in no message and in no traceback.
"""

from __future__ import annotations

from nativeload.cache.fetcher import masked, printable
from nativeload.errors import CacheError, NetworkError
from nativeload_llama.errors import ModelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NO_TOKEN = "the token has a character that no token has"  # noqa: S105 - the words for it
ADDRESS = "Write hf:owner/repo/file.gguf, or hf:owner/repo/file.gguf@revision."
_LOG_IN = "log in with `hf auth login`, or give a token (token=, HF_TOKEN)"
_SHOWN = 8  # names in a hint


def refused(
    error: Exception, *, called: str, url: str, files: Callable[[], Sequence[str]], here: str
) -> ModelError | NetworkError | CacheError | ValueError:
    """Return what a failure means; it is raised ``from showable(error)``.

    Args:
        error: of huggingface_hub, or of what it stands on.
        called: the file, as it is called in errors.
        url: the file, on its Hub.
        files: returns all files of the repository, asked where the one is not among them.
        here: the directory that files go to.
    """
    from huggingface_hub import errors

    if showable(error) is None:
        return ValueError(NO_TOKEN)
    if isinstance(error, errors.GatedRepoError):
        hint = f"Accept its conditions on its page, then {_LOG_IN}."
        return ModelError(called, "the repository is gated", hint=hint)
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(called, "no such repository, or one that is private", hint=f"If so, {_LOG_IN}.")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(called, "the repository has no such revision")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable(error.__cause__ or error, url, here)
    if isinstance(error, errors.EntryNotFoundError):
        return ModelError(called, "no such file in the repository", hint=has(files()))
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return ModelError(called, _first_line(error), hint=ADDRESS)
    return _unreachable(error, url, here)


def _unreachable(error: BaseException, url: str, here: str) -> NetworkError | CacheError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        reason = "huggingface_hub is offline (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE), and this is not in its cache"
        return NetworkError(masked(url), reason, hint="Fetch it once while online, or give the path of a file.")
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return CacheError(error.filename or here, error.strerror or _first_line(error))
    hint = "It is not in the cache either: see that this machine reaches the Hub, or give the path of a file."
    return NetworkError(masked(url), _first_line(error), status=status_of(error), hint=hint)


def showable(error: Exception) -> Exception | None:
    """Return an error unless it quotes the header that has the token."""
    return None if "Bearer" in str(error) or isinstance(error, UnicodeError) else error


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error is about."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def has(files: Sequence[str]) -> str:
    """Return a hint that names the models among files."""
    models = [name for name in files if name.endswith(".gguf")]
    return f"It has {listed(models)}." if models else "It has no GGUF files."


def listed(names: Sequence[str]) -> str:
    """Return names as they may be shown, the first ones where they are many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def _first_line(error: BaseException) -> str:
    return printable(next(iter(str(error).splitlines()), "") or type(error).__name__)
