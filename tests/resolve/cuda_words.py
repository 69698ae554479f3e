"""What a search for the CUDA runtime found, or why it found nothing: one of two answers, by the name of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nativeload.resolve.cuda_runtime import CudaRuntime, search

if TYPE_CHECKING:
    from collections.abc import Sequence


def find(names: Sequence[str], **where: Any) -> CudaRuntime | None:
    """Return the runtime, or None."""
    found = search(names, **where)
    return found if isinstance(found, CudaRuntime) else None


def why_not(names: Sequence[str], **where: Any) -> str:
    """Return why there is none; empty where there is one."""
    found = search(names, **where)
    return found if isinstance(found, str) else ""
