"""Text while it comes: stop texts and characters, whatever the pieces they come in."""

from __future__ import annotations

import random

import pytest

from nativeload_llama.text import Decoder, Stops, checked_stops


def fed(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], str | None]:
    """Return what is shown of pieces of text, and the stop text that was found."""
    matcher, shown = Stops(stops), list[str]()
    for piece in pieces:
        shown.append(matcher.feed(piece))
        if matcher.found is not None:
            return shown, matcher.found
    return [*shown, matcher.finish()], None


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "found"),
    [
        ((), ["a", "b"], "ab", None),
        (("x",), ["ab", "cxd"], "abc", "x"),
        (("\n\n",), ["a\n", "b\n", "\nc"], "a\nb", "\n\n"),
        (("END",), ["E", "N", "X", "EN"], "ENXEN", None),
        (("ab", "abc"), ["zabc"], "z", "abc"),
        (("bc", "abc"), ["zabc"], "z", "abc"),
        (("aab",), ["a", "a", "a", "b"], "a", "aab"),
    ],
    ids=str,
)
def test_a_stop_text_ends_the_text_before_it(
    stops: tuple[str, ...], pieces: list[str], shown: str, found: str | None
) -> None:
    """Over the edges of pieces too; of several that begin at one place the longest counts."""
    parts, stopped = fed(stops, pieces)
    assert ("".join(parts), stopped) == (shown, found)


def test_nothing_of_a_stop_text_is_ever_shown() -> None:
    """However a text is cut into pieces, the same is shown as when it is searched whole."""
    draw = random.Random(5)
    for _ in range(3000):
        text = "".join(draw.choices("ab", k=draw.randrange(12)))
        stops = tuple("".join(draw.choices("ab", k=draw.randrange(1, 5))) for _ in range(draw.randrange(1, 4)))
        cuts = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(5)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        parts, found = fed(stops, pieces)
        # What a reader who sees one character after another would have stopped at.
        ends = [end for end in range(1, len(text) + 1) if text[:end].endswith(stops)]
        if not ends:
            assert ("".join(parts), found) == (text, None)
        else:
            assert found is not None
            shown = "".join(parts)
            assert text.startswith(shown + found)
            assert not any(stop in shown for stop in stops)


def test_text_that_cannot_begin_a_stop_is_shown_at_once() -> None:
    """Only what may still become a stop text is held back."""
    matcher = Stops(("<|end|>",))
    assert matcher.feed("one two") == "one two"
    assert matcher.feed(" <|e") == " "
    assert matcher.feed("x") == "<|ex"


def test_a_character_is_shown_when_it_is_whole() -> None:
    """Bytes wait for each other; what never becomes a character is U+FFFD."""
    decoder = Decoder()
    raw = "é😀".encode()
    assert [decoder.feed(raw[place : place + 1]) for place in range(len(raw))] == ["", "é", "", "", "", "😀"]
    assert decoder.feed(b"\xe6") == ""
    assert decoder.finish() == "\ufffd"


def test_what_is_no_stop_text_is_refused() -> None:
    """An empty one would stop everywhere; bytes and numbers are no text."""
    assert checked_stops(None) == ()
    assert checked_stops("x") == ("x",)
    assert checked_stops(["x", "y"]) == ("x", "y")
    with pytest.raises(ValueError, match="empty"):
        checked_stops(["x", ""])
    with pytest.raises(TypeError, match="bytes"):
        checked_stops([b"x"])  # type: ignore[list-item]
