"""Which characters can a text have, as ranges of code points?

One rule: ranges are in order and apart from each other; NUL and halves of surrogate pairs are never among them, for
no text that llama.cpp handles has them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Ranges = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the characters that lie in none of some ranges."""
    found, place = [], 1
    for first, last in sorted([*ranges, SURROGATES, (LAST + 1, LAST + 1)]):
        if place < first:
            found.append((place, first - 1))
        place = max(place, last + 1)
    return tuple(found)


def common(one: Iterable[tuple[int, int]], other: Iterable[tuple[int, int]]) -> Ranges:
    """Return the characters that lie in ranges of both."""
    return complement([*complement(one), *complement(other)])


def within(code: int, ranges: Iterable[tuple[int, int]]) -> bool:
    """Return whether a character lies in one of some ranges."""
    return any(first <= code <= last for first, last in ranges)


ANY: Ranges = complement(())
"""All characters."""
