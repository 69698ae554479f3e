"""Which rules make the values of a JSON schema?

One rule: a rule allows only what its schema allows; where nothing meets a schema there is no rule (None), and whoever
needs it has none either.
"""

from __future__ import annotations

import json

from nativeload.value import replace
from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar import json_containers as containers
from nativeload_llama.grammar.automata import MAX_STATES, TooLargeError, bounded, machine, other_than
from nativeload_llama.grammar.code_points import ANY
from nativeload_llama.grammar.gbnf_text import LONGEST, Rules, add_machine, chars, json_chars, one_of, repeated
from nativeload_llama.grammar.json_document import unmade
from nativeload_llama.grammar.json_numbers import machines
from nativeload_llama.grammar.json_terms import TERMS
from nativeload_llama.grammar.json_values import bounds_of, conditions_of, excludes, meets
from nativeload_llama.grammar.patterns import UNKNOWN_FORMATS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nativeload_llama.grammar.automata import Machine
    from nativeload_llama.grammar.code_points import Ranges
    from nativeload_llama.grammar.json_document import Document
    from nativeload_llama.grammar.json_shapes import Schema, Shape

MAX_NESTING = 64  # schemas within schemas; a recursive one counts once


class Writer:
    """The rules of one schema while they are written."""

    def __init__(
        self, document: Document, order: tuple[str, ...], max_string: int | None, max_items: int | None
    ) -> None:
        self.document, self.order = document, order
        self.max_string, self.max_items = max_string, max_items
        self.rules = Rules()
        self.places: dict[str, str] = {}  # in the schema, of the rules that were made for one
        self._values: dict[str, str | None] = {}
        self._used: set[str] = set()  # rules that were asked for while they were being written

    def term(self, name: str) -> str:
        """Return the rule of a part of any JSON, written when it is first asked for."""
        if name not in self.rules.found:
            text, needs = TERMS[name]
            self.rules.found[name] = text if name != "string" else self._quoted(0, None)
            for need in needs.split():
                self.term(need)
        return name

    def value(self, schema: Schema, where: str, depth: int) -> str | None:
        """Return the rule of what is valid against a schema.

        Raises:
            GrammarError: it asks for something that cannot be promised.
        """
        if depth > MAX_NESTING:
            raise GrammarError(f"schemas more than {MAX_NESTING} deep within each other", where=where)
        key = json.dumps(schema)
        if key in self._values:
            found = self._values[key]
            self._used.update([found] if found else ())
            return found
        name = self._values[key] = self.rules.new("value")
        self.places[name] = where
        shapes = self.document.shapes(schema, where)
        ways = list(dict.fromkeys(way for shape in shapes for way in self._ways(shape, where, depth)))
        if not ways and name in self._used:
            raise GrammarError("no value can be valid here", where=where)
        if len(ways) == 1 and name not in self._used and ways[0] in self.rules.found:
            self._values[key] = ways[0]
        elif ways:
            self.rules.found[name] = " | ".join(ways)
        else:
            self._values[key] = None
        return self._values[key]

    def _ways(self, shape: Shape, where: str, depth: int) -> Iterator[str]:
        """Yield alternatives, at least one for each type that can be met."""
        if shape.values is not None:
            yield from self._fixed(shape, where)
            return
        for schema, place in shape.nots:
            if not all(excludes(self.document, shape, other) for other in self.document.shapes(schema, place)):
                reason = "it is not certain that only one branch of oneOf, or nothing of not, is met"
                hint = "Use anyOf, or give each branch a required property with a const of its own."
                raise GrammarError(reason, where=place, hint=hint)
        for kind in shape.made_types():
            for refused, word, place in shape.refused:
                if refused == kind and not (word == "uniqueItems" and shape.items_count[1] in {0, 1}):
                    raise unmade(word, place)
            way = self._typed(kind, shape, where, depth)
            if way is not None:
                yield way

    def _typed(self, kind: str, shape: Shape, where: str, depth: int) -> str | None:
        if kind == "object":
            return containers.object_rule(self, shape, where, depth)
        if kind == "array":
            return containers.array_rule(self, shape, where, depth)
        if kind == "string":
            return self.string(shape, where)
        if kind in {"integer", "number"}:
            return self._number(shape, kind, where)
        return self.term(kind)

    def _fixed(self, shape: Shape, where: str) -> Iterator[str]:
        """Yield the choice between the values of an enum that meet everything else."""
        rest = replace(shape, values=None)
        texts = []
        for value in shape.values or ():
            answer = meets(self.document, rest, value)
            if answer is None:
                raise GrammarError(f"it is not certain that {json.dumps(value)} of enum is valid", where=where)
            if answer:
                texts.append(_text(value, where))
        if texts:
            yield self.rules.add("const", one_of(self.rules, "const", texts))

    def capped(self, least: int, most: int | None, cap: int | None) -> int | None:
        """Return how many there may be at most, where a limit of the caller's holds too."""
        if cap is None or (most is not None and most <= max(least, cap)):
            return most
        return max(least, cap)

    def string(self, shape: Shape, where: str, excluded: tuple[str, ...] = ()) -> str | None:
        """Return the rule of a string, or of a property's name that is none of some others."""
        least, most = shape.length
        if unknown := sorted(UNKNOWN_FORMATS & set(shape.formats)):
            raise GrammarError(f"the format {unknown[0]} is not supported", where=where)
        if most is not None and most < least:
            return None
        if least > LONGEST:
            raise GrammarError(f"minLength is more than {LONGEST}", where=where)
        conditions = conditions_of(shape) + ([other_than(excluded, ANY)] if excluded else [])
        if not conditions:
            return (
                self.term("string")
                if (least, most) == (0, None)
                else self.rules.add("string", self._quoted(least, most))
            )
        try:
            found = machine(conditions)
            text = self._within(found, least, most) if found else None
        except TooLargeError:
            reason = f"its patterns and lengths need more than {MAX_STATES} states"
            raise GrammarError(
                reason, where=where, hint="Make maxLength, or the counts of the pattern, smaller."
            ) from None
        return None if text is None else self.rules.add("string", f'"\\"" {text} "\\""')

    def _quoted(self, least: int, most: int | None) -> str:
        most = self.capped(least, most, self.max_string)
        return f'"\\"" {repeated(self.rules, self.term("char"), least, most)} "\\""'

    def _within(self, found: Machine, least: int, most: int | None) -> str | None:
        """Return a text of a machine, as long as wanted; where a limit of the caller's cannot be kept, it is not."""
        shortest, longest = found.shortest(), found.longest()
        least = max(least, shortest)
        capped = self.capped(least, most, self.max_string)
        if run := found.run():
            if most is not None and most < least:
                return None
            name = self.rules.add("char", json_chars(self.rules, run[0]))
            return repeated(self.rules, name, least, capped)
        kept: Machine | None = found
        if least > shortest or (capped is not None and (longest is None or longest > capped)):
            kept = self._bounded(found, least, capped, strict=capped == most) or bounded(found, least, most)
        return None if kept is None else add_machine(self.rules, "text", kept, self._json_chars)

    def _bounded(self, found: Machine, least: int, most: int | None, *, strict: bool) -> Machine | None:
        try:
            return bounded(found, least, most)
        except TooLargeError:
            if strict:
                raise
            return None

    def _json_chars(self, ranges: Ranges) -> str:
        return json_chars(self.rules, ranges)

    def _number(self, shape: Shape, kind: str, where: str) -> str | None:
        bounds = bounds_of(shape, kind)
        if bounds.low is None and bounds.high is None and bounds.multiple <= 1:
            return self.term("integer" if bounds.integer else "number")
        try:
            positive, negative = machines(bounds)
        except TooLargeError:
            raise GrammarError(f"its bounds need more than {MAX_STATES} states", where=where) from None
        ways = [] if positive is None else [add_machine(self.rules, "digits", positive, chars)]
        ways += [] if negative is None else [f'"-" {add_machine(self.rules, "digits", negative, chars)}']
        return ways[0] if len(ways) == 1 else self.rules.add("number", " | ".join(ways)) if ways else None


def _text(value: Any, where: str) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise GrammarError("half a surrogate pair is no character", where=where)
    return text
