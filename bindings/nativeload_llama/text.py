"""How do tokens become text while they come, and where does a stop text end them?

One rule: the work for a token does not grow with the text: bytes of a character are kept until it is whole, and only
the end of the text is searched.
"""

from __future__ import annotations

import codecs

from nativeload_llama import low_level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nativeload_llama.native import Native


class Pieces:
    """The bytes of each token of a model, asked of C once: ``pieces(token)``.

    Args:
        native: the model.
        special: write control tokens as their markers instead of leaving them out.

    Attributes:
        texts: of the tokens seen so far, those that are text by themselves, whatever stands before them.
    """

    def __init__(self, native: Native, *, special: bool = False) -> None:
        self._native, self._special = native, special
        self._known: dict[int, bytes] = {}
        self.texts: dict[int, str] = {}

    def __call__(self, token: int) -> bytes:
        """Return a token's bytes."""
        known = self._known.get(token)
        if known is None:
            with self._native.entered():
                self._native.check()
                known = low_level.token_to_piece(self._native.model, token, special=self._special)
            self._known[token] = known
        return known


class Decoder:
    """Turns bytes into text as they come; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._codec = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, raw: bytes) -> str:
        """Return the text that is whole now."""
        return self._codec.decode(raw)

    @property
    def idle(self) -> bool:
        """Whether no part of a character is kept."""
        return not self._codec.getstate()[0]

    def finish(self) -> str:
        """Return what is left of an unfinished character."""
        return self._codec.decode(b"", True)


class Stops:
    """Finds the first of several texts in a stream of text, and holds back what may be the beginning of one.

    Args:
        stops: the texts; none may be empty.

    Attributes:
        found: the text that was found, or None.
        searches: whether there is anything to find.

    Raises:
        ValueError: an empty stop text, which would stop everywhere.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        if not all(self._stops):
            raise ValueError("a stop text is empty, and would stop before the first token")
        self.searches = bool(self._stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Return the text that can be shown now; once a stop text was found, what stood before it."""
        if not self._stops:
            return text
        text = self._held + text
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            place, self.found = min(places, key=lambda one: (one[0], -len(one[1])))
            self._held = ""
            return text[:place]
        keep = self._overlap(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _overlap(self, text: str) -> int:
        """Return how many characters at the end begin a stop text."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0

    def finish(self) -> str:
        """Return what was held back; no stop text came of it."""
        held, self._held = self._held, ""
        return held


def checked_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return stop texts as a tuple.

    Raises:
        TypeError: something else than text.
        ValueError: an empty one.
    """
    given = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    for one in given:
        if not isinstance(one, str):
            raise TypeError(f"a stop is text, not {type(one).__name__}")
    Stops(given)
    return given
