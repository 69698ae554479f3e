"""Does a value meet a shape, and can what is made of one shape meet another?

One rule: yes and no are proven; where neither is, the answer is "perhaps" (None), and the one who asked refuses.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from nativeload.value import replace
from nativeload_llama.grammar import patterns
from nativeload_llama.grammar.automata import Condition
from nativeload_llama.grammar.json_numbers import Bounds
from nativeload_llama.grammar.json_shapes import frozen, item_at, property_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nativeload_llama.grammar.json_document import Document
    from nativeload_llama.grammar.json_shapes import Schema, Shape

_MAX_DEPTH = 4  # properties within properties that tell two branches apart


def type_of(value: Any) -> str:
    """Return the JSON type of a value; a number without a fraction is an integer."""
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null", int: "integer"}
    return kinds.get(type(value)) or ("integer" if value == value // 1 else "number")


def bounds_of(shape: Shape, kind: str) -> Bounds:
    """Return the bounds of the numbers of a shape; ``kind`` is number or integer."""
    return Bounds(shape.low, shape.high, shape.multiple, kind == "integer" or shape.multiple > 0)


def conditions_of(shape: Shape) -> list[Condition]:
    """Return what patterns and formats ask of the strings of a shape; others may allow more, none allows less.

    Raises:
        GrammarError: a pattern that is not understood.
        TooLargeError: one with too many repetitions.
    """
    return [_condition(text, where) for text, where in shape.patterns] + [
        _condition(patterns.FORMATS[name], "") for name in shape.formats if name in patterns.FORMATS
    ]


@lru_cache(maxsize=128)
def _condition(pattern: str, where: str) -> Condition:
    return Condition(patterns.tree(pattern, where))


def meets(document: Document, shape: Shape, value: Any) -> bool | None:
    """Return whether a value meets a shape; None where that is not known."""
    answers = set(_answers(document, shape, value, type_of(value)))
    return False if False in answers else None if None in answers else True


def meets_schema(document: Document, schema: Schema | None, value: Any) -> bool | None:
    """Return whether a value meets a schema; None where that is not known."""
    answers = {meets(document, shape, value) for shape in document.shapes(True if schema is None else schema, "#")}
    return True if True in answers else None if None in answers else False


def _answers(document: Document, shape: Shape, value: Any, kind: str) -> Iterator[bool | None]:
    yield _has_type(kind, shape.types)
    yield shape.values is None or frozen(value) in [frozen(one) for one in shape.values]
    for schema, _ in shape.nots:
        answer = meets_schema(document, schema, value)
        yield None if answer is None else not answer
    if any(refused == kind for refused, _, _ in shape.refused):
        yield None
    elif kind == "string":
        yield _within(len(value), shape.length)
        sure = all(condition.accepts(value) for condition in conditions_of(shape))
        yield True if sure and not patterns.UNKNOWN_FORMATS & set(shape.formats) else None
    elif kind in {"integer", "number"}:
        yield bounds_of(shape, "number").holds(Decimal(repr(value)))
    elif kind == "array":
        yield _within(len(value), shape.items_count)
        for place, item in enumerate(value):
            yield meets_schema(document, item_at(shape, place), item)
    elif kind == "object":
        yield _within(len(value), shape.properties_count) and all(name in value for name in shape.required)
        for name, part in value.items():
            yield meets_schema(document, property_of(shape, name), part)
            for schema, _ in shape.names:
                yield meets_schema(document, schema, name)


def _has_type(kind: str, types: tuple[str, ...]) -> bool:
    return kind in types or (kind == "integer" and "number" in types)


def _within(count: int, limits: tuple[int, int | None]) -> bool:
    return limits[0] <= count and (limits[1] is None or count <= limits[1])


def excludes(document: Document, made: Shape, other: Shape, depth: int = 0) -> bool:
    """Return whether it is certain that nothing which is made of one shape meets another."""
    made = replace(made, types=made.made_types(), nots=())
    if made.values is not None:
        return all(False in (meets(document, made, value), meets(document, other, value)) for value in made.values)
    if other.values is not None:
        return all(meets(document, made, value) is False for value in other.values)
    return all(
        not _overlap(kind, other.types) or (kind == "object" and _excludes_objects(document, made, other, depth))
        for kind in made.types
    )


def _overlap(kind: str, types: tuple[str, ...]) -> bool:
    return _has_type(kind, types) or (kind == "number" and "integer" in types)


def _excludes_objects(document: Document, made: Shape, other: Shape, depth: int) -> bool:
    if depth == _MAX_DEPTH:
        return False
    named, others = made.properties or {}, other.properties or {}
    if any(name not in made.required and name not in named and made.closed for name in other.required):
        return True
    free = any(word == "patternProperties" for _, word, _ in other.refused)
    for name in made.required:
        wanted = others.get(name) if free else property_of(other, name)
        mine = property_of(made, name)
        if wanted is not None and all(
            excludes(document, one, two, depth + 1)
            for one in document.shapes(True if mine is None else mine, "#")
            for two in document.shapes(wanted, "#")
        ):
            return True
    return False
