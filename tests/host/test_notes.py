"""A failure becomes one printable line."""

from __future__ import annotations

import pytest

from nativeload.host.notes import attempt, one_line


@pytest.mark.parametrize("text", ["a\nb", "a\x1bb", "a\u202eb", "a\udcffb", "a\0b", "a b"])
def test_what_cannot_be_printed_becomes_a_space(text: str) -> None:
    """A device's name must not steer a terminal."""
    assert one_line(text) == "a b"


def test_a_failure_is_noted_and_the_fallback_returned() -> None:
    notes: list[str] = []

    def fail() -> int:
        raise ZeroDivisionError

    assert attempt("memory", fail, 5, notes) == 5
    assert notes == ["memory: ZeroDivisionError"]
    assert attempt("memory", lambda: 6, 5, notes) == 6
    assert len(notes) == 1


def test_an_interruption_is_no_failure() -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("memory", interrupt, 5, [])
