"""Which shapes does a schema within its document stand for?

One rule: every word of the standard is read or refused by name; only annotations, and words that no standard has, are
passed over.
"""

from __future__ import annotations

from decimal import Decimal

from nativeload.value import replace
from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar.json_numbers import Bound
from nativeload_llama.grammar.json_shapes import TYPES, Shape, frozen, merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from nativeload_llama.grammar.json_shapes import Schema

MAX_SHAPES = 256  # of one schema: anyOf within allOf multiplies
MAX_DEPTH = 64  # references and combinations within each other, before anything is asked for
MAX_LOOKS = 50_000  # at a schema or a part of it, in all: combinations of combinations multiply
_EXACT = 2**53

_REFUSED = {
    "object": ("patternProperties", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    "array": ("contains", "minContains", "maxContains", "unevaluatedItems"),
    "": ("if", "then", "else", "$dynamicRef", "$recursiveRef"),
}
_OLD = ("draft-03", "draft-04", "draft-05", "draft-06", "draft-07")  # where $ref stands, these see nothing else


class Document:
    """A whole schema, in which references are looked up."""

    def __init__(self, root: Schema) -> None:
        self.root, self.looks = root, 0
        dialect = root.get("$schema", "") if isinstance(root, dict) else ""
        self.old = isinstance(dialect, str) and any(word in dialect for word in _OLD)

    def shapes(self, schema: Any, where: str, depth: int = 0) -> list[Shape]:
        """Return all ways to meet a schema; none where it cannot be met.

        Raises:
            GrammarError: it asks for something that is not made here, or is no schema.
        """
        self.looks += 1
        if depth > MAX_DEPTH:
            raise GrammarError("references or combinations that lead to nothing but more of them", where=where)
        if self.looks > MAX_LOOKS:
            raise GrammarError("the schema is too large, or its combinations multiply", where=where)
        if isinstance(schema, bool):
            return [Shape()] if schema else []
        if not isinstance(schema, dict):
            raise GrammarError(f"a schema is an object or a boolean, not {_written(schema)}", where=where)
        if "$ref" in schema and self.old:
            schema = {"$ref": schema["$ref"]}
        found = [_own(schema, where, root=schema is self.root)]
        for ways in self._combined(schema, where, depth + 1):
            found = [shape for one in found for other in ways if (shape := merged(one, other)) is not None]
            if len(found) > MAX_SHAPES:
                raise GrammarError(f"more than {MAX_SHAPES} combinations of alternatives", where=where)
        return found

    def _combined(self, schema: Mapping[str, Any], where: str, depth: int) -> Iterator[list[Shape]]:
        if "$ref" in schema:
            yield self.shapes(*self.referred(schema["$ref"], f"{where}/$ref"), depth)
        for part, place in _branches(schema, "allOf", where):
            yield self.shapes(part, place, depth)
        if anyof := _branches(schema, "anyOf", where):
            yield [shape for part, place in anyof for shape in self.shapes(part, place, depth)]
        if oneof := _branches(schema, "oneOf", where):
            yield [
                replace(shape, nots=shape.nots + tuple(one for one in oneof if one[1] != place))
                for part, place in oneof
                for shape in self.shapes(part, place, depth)
            ]

    def referred(self, reference: Any, where: str) -> tuple[Any, str]:
        """Return what a reference within the document names, and its place."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            hint = "Only references within the schema are followed, such as #/$defs/item."
            raise GrammarError(f"the reference {_written(reference)} leads out of the schema", where=where, hint=hint)
        from urllib.parse import unquote

        found: Any = self.root
        for step in unquote(reference).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and found is not self.root and isinstance(found.get("$id"), str):
                raise GrammarError("a reference into a schema with a $id of its own", where=where)
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and name.isascii() and int(name[:6]) < len(found):
                found = found[int(name[:6])]
            else:
                raise GrammarError(f"the reference {reference} names nothing", where=where)
        return found, reference


def _branches(schema: Mapping[str, Any], word: str, where: str) -> list[tuple[Any, str]]:
    if word not in schema:
        return []
    branches = schema[word]
    if not isinstance(branches, list) or not branches:
        raise GrammarError(f"{word} is a list of schemas, not {_written(branches)}", where=where)
    return [(part, f"{where}/{word}/{number}") for number, part in enumerate(branches)]


def _own(schema: Mapping[str, Any], where: str, *, root: bool) -> Shape:
    """Read the words of one schema that are no references and no combinations."""
    for word in _REFUSED[""]:
        if word in schema:
            raise unmade(word, where)
    if "$id" in schema and not root and isinstance(schema["$id"], str):
        raise unmade("$id", where)
    read = _Words(schema, where)
    return Shape(
        types=read.types(),
        values=read.values(),
        properties=read.properties(),
        required=read.required(),
        additional=schema.get("additionalProperties"),
        names=((schema["propertyNames"], f"{where}/propertyNames"),) if "propertyNames" in schema else (),
        properties_count=(read.count("minProperties") or 0, read.count("maxProperties")),
        prefix=tuple(read.prefix()),
        items=schema.get("additionalItems" if isinstance(schema.get("items"), list) else "items"),
        items_count=(read.count("minItems") or 0, read.count("maxItems")),
        length=(read.count("minLength") or 0, read.count("maxLength")),
        patterns=tuple((text, f"{where}/pattern") for text in read.texts("pattern")),
        formats=read.texts("format"),
        low=read.bound("minimum", "exclusiveMinimum", max),
        high=read.bound("maximum", "exclusiveMaximum", min),
        multiple=read.multiple(),
        nots=((schema["not"], f"{where}/not"),) if "not" in schema else (),
        refused=tuple(read.refused()),
    )


def unmade(word: str, where: str) -> GrammarError:
    """Return the error of a word that nothing is made of."""
    return GrammarError(f"{word} is not supported", where=where, hint=_HINTS.get(word, ""))


_HINTS = {
    "uniqueItems": "Items could repeat: ask for a list without uniqueItems, and drop what is there twice.",
    "patternProperties": "Use additionalProperties, with propertyNames where the names have a pattern.",
    "unevaluatedProperties": "Use additionalProperties.",
    "unevaluatedItems": "Use items.",
    "if": "Use anyOf with one branch for each case.",
}


class _Words:
    """The words of one schema, each checked for its kind."""

    def __init__(self, schema: Mapping[str, Any], where: str) -> None:
        self.schema, self.where = schema, where

    def wrong(self, word: str, kind: str) -> GrammarError:
        return GrammarError(f"{word} is {kind}, not {_written(self.schema[word])}", where=self.where)

    def types(self) -> tuple[str, ...]:
        given = self.schema.get("type", list(TYPES))
        found = [given] if isinstance(given, str) else given
        if not isinstance(found, list) or not found or any(kind not in (*TYPES, "integer") for kind in found):
            raise self.wrong("type", f"one or more of {', '.join(TYPES)}, integer")
        return tuple(dict.fromkeys(kind for kind in found if kind != "integer" or "number" not in found))

    def values(self) -> tuple[Any, ...] | None:
        found = self.schema.get("enum")
        if "enum" in self.schema and not isinstance(found, list):
            raise self.wrong("enum", "a list of values")
        if "const" not in self.schema:
            return None if found is None else tuple(found)
        const = self.schema["const"]
        return (const,) if found is None or frozen(const) in [frozen(value) for value in found] else ()

    def properties(self) -> dict[str, Schema] | None:
        found = self.schema.get("properties")
        if "properties" in self.schema and not isinstance(found, dict):
            raise self.wrong("properties", "an object of schemas")
        return found

    def required(self) -> tuple[str, ...]:
        found = self.schema.get("required", [])
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.wrong("required", "a list of names")
        return tuple(dict.fromkeys(found))

    def prefix(self) -> Iterable[Schema]:
        word = "items" if isinstance(self.schema.get("items"), list) else "prefixItems"
        found = self.schema.get(word, [])
        if not isinstance(found, list):
            raise self.wrong(word, "a list of schemas")
        return found

    def count(self, word: str) -> int | None:
        if word not in self.schema:
            return None
        found = self.schema[word]
        if isinstance(found, bool) or not isinstance(found, (int, float)) or found < 0 or found != found // 1:
            raise self.wrong(word, "a number from 0 on")
        return int(found)

    def texts(self, word: str) -> tuple[str, ...]:
        if word not in self.schema:
            return ()
        if not isinstance(self.schema[word], str):
            raise self.wrong(word, "a text")
        return (self.schema[word],)

    def number(self, word: str) -> int | float | None:
        if word not in self.schema:
            return None
        found = self.schema[word]
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise self.wrong(word, "a number")
        return found

    def bound(self, word: str, exclusive: str, closer: Any) -> Bound | None:
        numbers = ((self.number(word), False), (self.number(exclusive), True))
        given = [(_decimal(number), is_open) for number, is_open in numbers if number is not None]
        if not given:
            return None
        number = closer(number for number, _ in given)
        return Bound(number, any(is_open for other, is_open in given if other == number))

    def multiple(self) -> int:
        found = self.number("multipleOf")
        if found is None:
            return 0
        if found <= 0 or found != found // 1:
            raise GrammarError(f"multipleOf {found}: only whole numbers are supported", where=self.where)
        return int(found)

    def refused(self) -> Iterator[tuple[str, str, str]]:
        for kind in ("object", "array"):
            for word in _REFUSED[kind]:
                empty = self.schema.get(word) is True or self.schema.get(word) == {}
                if word in self.schema and ("ontains" in word or not empty):
                    yield kind, word, self.where
        if self.schema.get("uniqueItems", False) is not False:
            yield "array", "uniqueItems", self.where


def _decimal(number: float) -> Decimal:
    """Return a number as it is written; from 2**53 on, as what it is, for validators compare integers exactly."""
    return Decimal(repr(number)) if abs(number) < _EXACT else Decimal(int(number))


def _written(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004
