"""What does one way to meet a JSON schema look like, and what meets two at once?

One rule: a shape holds all that its schema asks for; what two ask for together is never less than what each does.
"""

from __future__ import annotations

import math

from nativeload.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nativeload_llama.grammar.json_numbers import Bound

    Schema = bool | Mapping[str, Any]
    Count = tuple[int, int | None]

TYPES = ("object", "array", "string", "number", "boolean", "null")  # integers are numbers


class Shape(Value, kw_only=True):
    """One way to meet a schema; everything in it is asked for at once.

    Attributes:
        types: the types a value may have.
        values: the values it may be, as an enum has them; None is any.
        properties: what properties have to be, in order; those of `required` are always there.
        additional: what all other properties have to be; None where the schema does not say.
        names: what the names of properties have to be, each with its place.
        prefix: what the first items have to be, `items` the others; None where the schema does not say.
        patterns: regular expressions that a string matches, each with its place.
        nots: what a value must not be, each with its place.
        refused: words of the schema that matter for one type alone: (type, word, place).
    """

    types: tuple[str, ...] = TYPES
    values: tuple[Any, ...] | None = None
    properties: dict[str, Schema] | None = None
    required: tuple[str, ...] = ()
    additional: Schema | None = None
    names: tuple[tuple[Schema, str], ...] = ()
    properties_count: Count = (0, None)
    prefix: tuple[Schema, ...] = ()
    items: Schema | None = None
    items_count: Count = (0, None)
    length: Count = (0, None)
    patterns: tuple[tuple[str, str], ...] = ()
    formats: tuple[str, ...] = ()
    low: Bound | None = None
    high: Bound | None = None
    multiple: int = 0
    nots: tuple[tuple[Schema, str], ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()

    @property
    def closed(self) -> bool:
        """Whether no other properties are made than those it names: always where it names some and says no more."""
        return self.additional is False or (self.additional is None and self.properties is not None)

    def made_types(self) -> tuple[str, ...]:
        """Return the types of the values that are made of it: where it allows all, those it says anything about."""
        if self.types != TYPES:
            return self.types
        said = {
            "object": (self.properties, self.required, self.additional, self.names, self.properties_count != (0, None)),
            "array": (self.prefix, self.items, self.items_count != (0, None)),
            "string": (self.patterns, self.formats, self.length != (0, None)),
            "number": (self.low, self.high, self.multiple),
        }
        kinds = {kind for kind, words in said.items() if any(word not in (None, False, (), 0) for word in words)}
        kinds |= {"object"} if self.properties is not None or self.additional is False else set()
        kinds |= {"array"} if self.items is False else set()
        kinds |= {kind for kind, _, _ in self.refused}
        return tuple(kind for kind in TYPES if kind in kinds) or TYPES


def both(one: Schema | None, other: Schema | None) -> Schema | None:
    """Return a schema that asks for what two do; None says nothing."""
    if one is None or other is None:
        return other if one is None else one
    if one is False or other is False:
        return False
    parts = [part for schema in (one, other) for part in _parts(schema)]
    kept = list({frozen(part): part for part in parts}.values())
    return kept[0] if len(kept) == 1 else {"allOf": kept} if kept else True


def _parts(schema: Schema) -> list[Schema]:
    if schema is True:
        return []
    if isinstance(schema, dict) and len(schema) == 1 and isinstance(schema.get("allOf"), list):
        return list(schema["allOf"])
    return [schema]  # what is no schema at all is refused where it is read


def merged(one: Shape, other: Shape) -> Shape | None:
    """Return what asks for two shapes at once; None where their types have nothing in common."""
    types = tuple(dict.fromkeys(kind for a in one.types for b in other.types for kind in _common_type(a, b)))
    if not types:
        return None
    values = one.values if other.values is None else other.values
    if one.values is not None and other.values is not None:
        known = [frozen(value) for value in other.values]
        values = tuple(value for value in one.values if frozen(value) in known)
    prefix = max(len(one.prefix), len(other.prefix))
    return Shape(
        types=types,
        values=values,
        properties=_merged_properties(one, other),
        required=tuple(dict.fromkeys(one.required + other.required)),
        additional=both(one.additional, other.additional),
        names=one.names + other.names,
        properties_count=_merged_count(one.properties_count, other.properties_count),
        prefix=tuple(_or_true(both(item_at(one, place), item_at(other, place))) for place in range(prefix)),
        items=both(one.items, other.items),
        items_count=_merged_count(one.items_count, other.items_count),
        length=_merged_count(one.length, other.length),
        patterns=tuple(dict.fromkeys(one.patterns + other.patterns)),
        formats=tuple(dict.fromkeys(one.formats + other.formats)),
        low=max((b for b in (one.low, other.low) if b), key=lambda b: (b.number, b.open), default=None),
        high=min((b for b in (one.high, other.high) if b), key=lambda b: (b.number, not b.open), default=None),
        multiple=math.lcm(one.multiple, other.multiple) or max(one.multiple, other.multiple),
        nots=one.nots + other.nots,
        refused=one.refused + other.refused,
    )


def _or_true(schema: Schema | None) -> Schema:
    return True if schema is None else schema


def item_at(shape: Shape, place: int) -> Schema | None:
    """Return what the item at a place has to be; None where the schema does not say."""
    return shape.prefix[place] if place < len(shape.prefix) else shape.items


def property_of(shape: Shape, name: str) -> Schema | None:
    """Return what a property has to be; None where the schema does not say."""
    properties = shape.properties or {}
    return properties.get(name, shape.additional)


def _common_type(one: str, other: str) -> tuple[str, ...]:
    if one == other:
        return (one,)
    return ("integer",) if {one, other} == {"integer", "number"} else ()


def _merged_properties(one: Shape, other: Shape) -> dict[str, Schema] | None:
    if one.properties is None and other.properties is None:
        return None
    names = dict.fromkeys([*(one.properties or ()), *(other.properties or ())])
    return {name: _or_true(both(property_of(one, name), property_of(other, name))) for name in names}


def _merged_count(one: Count, other: Count) -> Count:
    most = [count for count in (one[1], other[1]) if count is not None]
    return max(one[0], other[0]), min(most, default=None)


def frozen(value: Any) -> Any:
    """Return a JSON value so that equal ones are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return ("object", frozenset((name, frozen(part)) for name, part in value.items()))
    if isinstance(value, list):
        return ("array", tuple(frozen(part) for part in value))
    if isinstance(value, (bool, str)) or value is None:
        return (type(value).__name__, value)
    return ("number", value)
