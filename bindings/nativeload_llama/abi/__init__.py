"""Which llama.h was a binary compiled with, and what is the raw ffi for it?

One rule: a layout is named only when everything measured on the binary agrees with it; anything else is
refused, because one wrong offset aborts Python. llama.h changes about once a month under the same SONAME, and
sizes alone collide.

The declarations (``layout_<name>.h``), what cffi makes of them and the expected sizes are written by
``tools/generate_layout.py``; a layout is named after the first build that was seen with it.
"""

from __future__ import annotations

from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

_CALLED = frozenset(
    {
        "llama_model_default_params",
        "llama_context_default_params",
        "llama_model_load_from_file",
        "llama_init_from_model",
        "llama_decode",
        "llama_version",
    }
)


class Layout(Value, kw_only=True):
    """One state of llama.h, and how to tell it from the others.

    Attributes:
        name: the first build seen with it, as in ``b10809``.
        model_written: where the last field of ``llama_model_params`` ends, in bytes.
        model_holes: its padding bytes between fields.
        context_written: where the last field of ``llama_context_params`` ends, in bytes.
        context_holes: its padding bytes between fields.
        required: symbols that such a binary exports.
        versions: what ``llama_version()`` said of the binaries seen; for people, decides nothing.
    """

    name: str
    model_written: int
    model_holes: tuple[int, ...]
    context_written: int
    context_holes: tuple[int, ...]
    required: frozenset[str]
    versions: tuple[str, ...]

    def ffi(self) -> Any:
        """Import this layout's cffi module and return its ffi; nothing is parsed."""
        return self._generated("").ffi

    def expected(self) -> Any:
        """Import the generated module with this layout's sizes, offsets and function names."""
        return self._generated("_expected")

    def _generated(self, suffix: str) -> Any:
        return __import__(f"{__name__}._layout_{self.name}{suffix}", fromlist=["ffi"])


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="b10809",
        model_written=78,
        model_holes=(36, 37, 38, 39),
        context_written=160,
        context_holes=(134, 135),
        required=_CALLED,
        versions=("0.4.0-dev", "0.4.1-dev", "0.5.0-dev"),
    ),
    Layout(
        name="b11549",
        model_written=78,
        model_holes=(36, 37, 38, 39),
        context_written=168,
        context_holes=(142, 143),
        required=_CALLED | {"llama_process", "llama_batch_ext_init"},
        versions=("0.6.0-dev",),
    ),
)
"""Every layout this package has declarations for, oldest first."""


def identify(facts: Mapping[str, Any]) -> Layout:
    """Name the layout of a binary from what `probe.inspect` measured on it.

    A compiler may write padding, so fewer holes than expected agree, and so does a struct written to its
    padded end.

    Args:
        facts: ``model_written``, ``model_holes``, ``context_written``, ``context_holes`` (None where the
            platform does not show them), ``exports`` (symbol -> bool), ``llama_version``, and ``canaries``
            (layout name -> bool).

    Raises:
        LookupError: no known layout agrees; the text names what was measured and how the nearest one differs.
    """
    found = [(list(_disagreements(layout, facts)), layout) for layout in reversed(LAYOUTS)]
    for reasons, layout in found:
        if not reasons:
            return layout
    reasons, nearest = min(found, key=lambda one: len(one[0]))
    raise LookupError(
        "the llama.h of this binary is not known: "
        f"llama_version {facts.get('llama_version') or 'not exported'}, "
        f"{_measured('model', facts)}, {_measured('context', facts)}; "
        f"nearest is {nearest.name} ({', '.join(nearest.versions)}), but {'; '.join(reasons)}; "
        f"known: {', '.join(layout.name for layout in LAYOUTS)}"
    )


def _disagreements(layout: Layout, facts: Mapping[str, Any]) -> Iterator[str]:
    canaries = facts.get("canaries")
    if canaries is None and None in (facts.get("model_written"), facts.get("context_written")):
        yield "its structs were not measured"
    yield from _struct_disagreements("model", layout.model_written, layout.model_holes, facts)
    yield from _struct_disagreements("context", layout.context_written, layout.context_holes, facts)
    if canaries is not None and not canaries.get(layout.name, False):
        yield "its default values are not at this layout's offsets"
    exports = facts.get("exports") or {}
    for symbol in sorted(layout.required):
        if not exports.get(symbol, False):
            yield f"it does not export {symbol}"


def _struct_disagreements(
    struct: str, expected: int, padding: tuple[int, ...], facts: Mapping[str, Any]
) -> Iterator[str]:
    written, holes = facts.get(f"{struct}_written"), facts.get(f"{struct}_holes")
    padded = -(-expected // 8) * 8  # both structs hold pointers
    if written is not None and written not in {expected, padded}:
        yield f"its {struct} params end at byte {written}, not {expected}"
    if strange := set(holes or ()) - set(padding):
        yield f"its {struct} params leave bytes {_spans(strange)} unwritten, which are a field here"


def _measured(struct: str, facts: Mapping[str, Any]) -> str:
    written, holes = facts.get(f"{struct}_written"), facts.get(f"{struct}_holes")
    if written is None:
        return f"{struct} params not measured"
    return f"{struct} params {written} bytes with holes at {_spans(holes) if holes else 'none'}"


def _spans(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, as in ``84-87 134-135``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
