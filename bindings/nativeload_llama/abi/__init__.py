"""Which llama.h was a binary compiled with, and what is the raw ffi for it?

One rule: a layout is named only when everything measured on the binary agrees with it; anything else is
refused, because one wrong offset aborts Python. llama.h changes about once a month under the same SONAME, and
sizes alone collide.

The declarations (``layout_<name>.h``), what cffi makes of them and the table of what tells them apart are written by
``tools/generate_layout.py``; a layout is named after the first build whose headers declared it here.
"""

from __future__ import annotations

from nativeload.value import Value
from nativeload_llama.abi import _layout_table

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
    }
)


class Layout(Value, kw_only=True):
    """One state of llama.h, and how to tell it from the others.

    Attributes:
        name: the first build whose headers declared it here, as in ``b10809``.
        model_written: where the last field of ``llama_model_params`` ends, in bytes.
        model_holes: its padding bytes between fields.
        context_written: where the last field of ``llama_context_params`` ends, in bytes.
        context_holes: its padding bytes between fields.
        quantize_written: where the last field of ``llama_model_quantize_params`` ends, in bytes.
        quantize_holes: its padding bytes between fields.
        parameters: how many parameters the functions have here that have others in another layout.
        requires: symbols that tell such a binary from one that has the same structs and other functions.
        versions: what ``llama_version()`` said of the binaries seen; for people, decides nothing.
    """

    name: str
    model_written: int
    model_holes: tuple[int, ...]
    context_written: int
    context_holes: tuple[int, ...]
    quantize_written: int
    quantize_holes: tuple[int, ...]
    parameters: dict[str, int]
    requires: tuple[str, ...]
    versions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.versions)})" if self.versions else self.name

    @property
    def required(self) -> frozenset[str]:
        """The symbols that a binary must export to be driven by this layout."""
        return _CALLED.union(self.requires)

    def ffi(self) -> Any:
        """Import this layout's cffi module and return its ffi; nothing is parsed."""
        return __import__(f"{__name__}._layout_{self.name}", fromlist=["ffi"]).ffi


_ROWS: Any = _layout_table.LAYOUTS
LAYOUTS: tuple[Layout, ...] = tuple(Layout(**row) for row in _ROWS)
"""Every layout this package has declarations for, oldest first."""

# With these the sampler constructors have the parameters that they have today, whatever the structs say.
_SETTLED = "llama_sampler_copy"


def identify(facts: Mapping[str, Any]) -> Layout:
    """Name the layout of a binary from what `probe.inspect` measured on it.

    A compiler may write padding, so fewer holes than expected agree, and so does a struct written to its
    padded end. Where the platform does not show how long the structs are, b9538 is driven as b9713, which has one
    more pointer at the end of a struct: what is too long there is never read, and never written.

    Args:
        facts: what `probe.inspect` returns: ``model_written``, ``model_holes`` and so on (None where the platform
            does not show them), ``exports`` (symbol -> bool), ``parameters`` (function -> their number, or None),
            ``llama_version``, and ``odd_defaults`` (layout name -> fields).

    Raises:
        LookupError: no known layout agrees; the text names what was measured and how the nearest one differs.
    """
    layout, reasons = nearest(facts)
    if not reasons:
        return layout
    raise LookupError(
        "the llama.h of this binary is not known: "
        f"llama_version {facts.get('llama_version') or 'not exported'}, "
        f"{_measured('model', facts)}, {_measured('context', facts)}; "
        f"nearest is {layout}, but {'; '.join(reasons)}; "
        f"known: {', '.join(layout.name for layout in LAYOUTS)}"
    )


def nearest(facts: Mapping[str, Any]) -> tuple[Layout, list[str]]:
    """Return the layout that the fewest facts speak against, the newest of several, and what speaks against it."""
    odd: Mapping[str, list[str]] = facts.get("odd_defaults") or {}
    found = [(layout, list(_disagreements(layout, facts))) for layout in reversed(LAYOUTS)]
    return min(found, key=lambda one: (len(one[1]), len(odd.get(one[0].name, ()))))


def judge_trial(facts: Mapping[str, Any]) -> str:
    """Name the layout that an unknown binary worked by, from what `trial.inspect_and_try` did with it.

    Raises:
        LookupError: it was not tried, or something came out otherwise than it does with a known binary.
    """
    trial = facts["trial"]
    if trial["refused"]:
        raise LookupError(f"not tried by {trial['layout']}, because {'; '.join(trial['refused'])}")
    if not trial["seen"]:
        raise LookupError(f"by {trial['layout']} it makes no context")
    wrong = [
        f"{name} is {trial['seen'].get(name)!r}, not {expected!r}"
        for name, expected in trial["expected"].items()
        if trial["seen"].get(name) != expected
    ]
    if wrong:
        raise LookupError(f"by {trial['layout']} it does not work: {'; '.join(wrong)}")
    return str(trial["layout"])


def _disagreements(layout: Layout, facts: Mapping[str, Any]) -> Iterator[str]:
    odd = facts.get("odd_defaults")
    if odd is None and None in (facts.get("model_written"), facts.get("context_written")):
        yield "its structs were not measured"
    yield from _struct_disagreements("model", layout.model_written, layout.model_holes, facts)
    yield from _struct_disagreements("context", layout.context_written, layout.context_holes, facts)
    yield from _struct_disagreements("quantize", layout.quantize_written, layout.quantize_holes, facts)
    if odd is not None and (fields := odd.get(layout.name, ["everything"])):
        yield f"the default values of {', '.join(fields)} are not at this layout's offsets"
    exports = facts.get("exports") or {}
    for symbol in sorted(layout.required):
        if not exports.get(symbol, False):
            yield f"it does not export {symbol}"
    for function, expected in layout.parameters.items():
        number = (facts.get("parameters") or {}).get(function)
        if number is None and _SETTLED not in layout.requires:
            yield f"the parameters of its {function} were not counted"
        elif number not in {None, expected}:
            yield f"its {function} has {number} parameters, not {expected}"


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
