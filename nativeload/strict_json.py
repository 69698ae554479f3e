"""How is JSON read that somebody else wrote?

One rule: what two readers could take for two things is refused: a key that is there twice, a number with a fraction.
"""

from __future__ import annotations

from nativeload.errors import ManifestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse_json(raw: bytes, origin: str) -> Any:
    """Read JSON in which no key is there twice, and no number is but a whole one of at most 64 bits.

    Raises:
        ManifestError: it is none.
    """
    import json

    try:
        return json.loads(
            raw.decode(), object_pairs_hook=_once, parse_constant=_refuse, parse_float=_refuse, parse_int=_whole
        )
    except ManifestError as error:
        raise ManifestError(origin, f"{error.origin}: {error.message}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(origin, f"no JSON: {type(error).__name__}: {str(error)[:80]}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ManifestError("an object", "a key is there twice")
    return table


def _refuse(text: str) -> None:
    raise ManifestError("a number", f"{text[:20]!r} is not a whole number")


def _whole(text: str) -> int:
    if len(text) > 19:  # noqa: PLR2004 - 64 bits have no more digits
        raise ManifestError("a number", f"{len(text)} digits long")
    return int(text)
