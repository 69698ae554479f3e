"""What a grammar made from a JSON schema allows: nothing that is not valid, and what people want."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import time
import uuid
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar import LlamaGrammar, gbnf
from nativeload_llama.grammar.json_numbers import Bound, Bounds, machines
from nativeload_llama.grammar.json_schema import json_object_gbnf, to_gbnf
from tests.bindings.gbnf_texts import Texts, seeded
from tests.bindings.test_every_build import BUILDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import random
    import subprocess
    from collections.abc import Callable
    from typing import Any

    from nativeload_llama.grammar.automata import Machine

    RunPython = Callable[..., subprocess.CompletedProcess[str]]

Validator = jsonschema.Draft202012Validator
WALKS = (Path(__file__).parent / "grammar_walks.py").read_text()


def check_texts(schema: Any, rng: random.Random, count: int, **limits: int | None) -> None:
    """Every drawn text of a schema's grammar is JSON and valid."""
    texts = Texts(to_gbnf(schema, **limits))  # type: ignore[arg-type]
    validator = Validator(schema, format_checker=Validator.FORMAT_CHECKER)
    for _ in range(count):
        text = texts.draw(rng)
        errors = [error.message for error in validator.iter_errors(json.loads(text))]
        assert errors == [], f"{text!r} of {json.dumps(schema)}"


# -- what is made ----------------------------------------------------------------------------------------------------

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}}
TREE = {
    "$defs": {"node": {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}},
    "$ref": "#/$defs/node",
}
SHAPES = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": "dot"}}, "required": ["kind"]},
        {
            "type": "object",
            "properties": {"kind": {"const": "disc"}, "r": {"type": "number"}},
            "required": ["kind", "r"],
        },
    ]
}

MADE: list[tuple[Any, list[str], list[str]]] = [
    (True, ["1", "null", '"a"', "[[], {}]", '{"a": {"b": [1, 2.5]}}'], ["", "nul", "{1: 2}"]),
    ({}, ["true"], ["tru"]),
    ({"title": "anything", "description": "at all", "default": 1, "x-more": [1]}, ["[]", "0"], ["-"]),
    ({"type": "null"}, ["null"], ["0"]),
    ({"type": "boolean"}, ["true", "false"], ["null"]),
    ({"type": ["string", "null"], "minLength": 2}, ["null", '"ab"'], ['"a"', "1"]),
    ({"type": ["integer", "number"]}, ["1", "1.5"], ['"1"']),
    ({"type": "integer"}, ["0", "-1", "123456789012345"], ["1.0", "-0", "01", "1234567890123456"]),
    ({"type": "number"}, ["0", "-0.5", "1e10", "2.5E-3"], [".5", "1.", "1e", "0x1"]),
    ({"type": "integer", "minimum": 0, "maximum": 120}, ["0", "9", "100", "120"], ["-1", "121", "00", "1000"]),
    ({"type": "integer", "minimum": -12, "maximum": -3}, ["-3", "-12"], ["-2", "-13", "3", "-03"]),
    ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 2}, ["-1", "0", "1"], ["-2", "2"]),
    ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, ["1", "2"], ["0", "3"]),
    (
        {"type": "integer", "minimum": 2**53, "maximum": 2**63},
        [str(2**53), str(2**63)],
        [str(2**53 - 1), str(2**63 + 1)],
    ),
    ({"type": "integer", "multipleOf": 5, "minimum": 1}, ["5", "100"], ["0", "7"]),
    ({"type": "number", "multipleOf": 1.0}, ["3"], ["3.5"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.25", "1.0"], ["1.01", "2", "-0.1", "-0"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.3}, ["0.3", "0.001", "0.2999"], ["0", "0.0", "0.31", "1"]),
    ({"type": "number", "minimum": -1.5, "exclusiveMaximum": 1}, ["-1.5", "-1", "0", "0.99"], ["-1.51", "1", "1.0"]),
    ({"minimum": 3}, ["3", "4.5"], ["2", '"a"']),
    ({"type": "string"}, ['""', '"a é 😀 \\u00e9\\n\\ud83d\\ude00"'], ['"\\ud83d"', '"a\nb"', '"\\x"', "a"]),
    ({"type": "string", "minLength": 1, "maxLength": 2}, ['"a"', '"\\n\\ud83d\\ude00"'], ['""', '"abc"']),
    ({"type": "string", "maxLength": 700}, ['""', f'"{"a" * 700}"'], [f'"{"a" * 701}"']),
    ({"type": "string", "minLength": 700}, [f'"{"a" * 700}"', f'"{"a" * 900}"'], [f'"{"a" * 699}"']),
    ({"type": "string", "pattern": "^[a-z]{2,3}$"}, ['"ab"', '"abc"'], ['"a"', '"ABC"', '"abcd"']),
    ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 5000}, [f'"{"a" * 5000}"'], ['""', f'"{"a" * 5001}"']),
    ({"type": "string", "pattern": "b"}, ['"b"', '"abc"'], ['"ac"', '""']),
    ({"type": "string", "pattern": "^a|b$"}, ['"a"', '"axx"', '"xxb"'], ['"xa"', '"bx"']),
    ({"type": "string", "pattern": r"^\d+(?:\.\d{2})?$"}, ['"1"', '"12.50"'], ['"1."', '"٣"']),
    ({"type": "string", "pattern": r'^["\\/\n]$'}, ['"\\""', '"\\\\"', '"/"', '"\\n"'], ['"""', '"n"']),
    ({"type": "string", "pattern": r"^\w+\s\S+?$"}, ['"ab c"', '"a_ é"'], ['"é a"', '"ab"']),
    ({"type": "string", "pattern": "^[^a]*$", "minLength": 2, "maxLength": 3}, ['"bc"', '"bcd"'], ['"ab"', '"b"']),
    ({"type": "string", "pattern": "^(a|ab)(c|bcd)*$", "maxLength": 4}, ['"abcd"', '"ac"'], ['"abcdc"', '"b"']),
    ({"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "b$", "maxLength": 3}]}, ['"ab"', '"axb"'], ['"a"']),
    ({"enum": [1, "a", None, True, {"b": [1.5]}]}, ["1", '"a"', "null", "true", '{"b": [1.5]}'], ["2", "false"]),
    ({"type": "string", "enum": [1, "a"]}, ['"a"'], ["1"]),
    (
        {"enum": ["aa", "ab", "abc", "b", 'c"', "é", "d", "e", "f", "a"]},
        ['"a"', '"abc"', '"c\\""', '"é"'],
        ['"ac"', '""'],
    ),
    ({"const": {"a": [1, 2]}}, ['{"a": [1, 2]}'], ['{"a":[1,2]}']),
    ({"const": 1.0, "type": "integer"}, ["1.0"], ["1"]),
    ({"enum": [1, 5, 9, "x"], "minimum": 4, "maxLength": 0}, ["5", "9"], ["1", '"x"']),
    (POINT, ["{}", '{"x": 1}', '{"y":2}', '{ "x": 1,\n  "y": 2 }'], ['{"y": 1, "x": 2}', '{"z": 1}', '{"x": 1,}']),
    ({**POINT, "required": ["y"]}, ['{"y": 1}', '{"x": 1, "y": 2}'], ["{}", '{"x": 1}']),
    ({**POINT, "required": ["z"]}, ['{"z": null}', '{"x": 1, "z": 2}'], ["{}", '{"z": 1, "x": 1}']),
    ({**POINT, "additionalProperties": False}, ["{}"], ['{"z": 1}']),
    ({**POINT, "additionalProperties": {"type": "null"}}, ['{"x": 1, "xy": null}', '{"": null}'], ['{"x": null}']),
    ({**POINT, "minProperties": 1}, ['{"x": 1}', '{"y": 1}'], ["{}"]),
    ({**POINT, "minProperties": 2}, ['{"x": 1, "y": 1}'], ['{"x": 1}']),
    ({"type": "object"}, ["{}", '{"a": [{}]}'], ["[]"]),
    ({"type": "object", "properties": {}}, ["{}"], ['{"a": 1}']),
    ({"type": "object", "maxProperties": 1}, ["{}", '{"a": 1}'], ['{"a": 1, "b": 1}']),
    ({"type": "object", "properties": {"a": False, "b": True}}, ["{}", '{"b": 1}'], ['{"a": 1}']),
    ({"properties": {"a": False}, "additionalProperties": True}, ["{}", '{"b": 1}'], ['{"a": 1}']),
    ({"properties": {'"\n/~': {"const": 1}}}, ['{"\\"\\n/~": 1}'], ['{"": 1}']),
    (
        {"type": "object", "propertyNames": {"pattern": "^[a-c]$"}, "additionalProperties": {"const": 1}},
        ["{}", '{"a": 1, "c": 1}'],
        ['{"d": 1}', '{"ab": 1}'],
    ),
    (
        {"type": "object", "propertyNames": {"enum": ["a", "bc"]}, "additionalProperties": {"const": 1}},
        ['{"bc": 1}'],
        ['{"b": 1}'],
    ),
    ({"properties": {"x": {}, "yy": {}}, "propertyNames": {"maxLength": 1}}, ["{}", '{"x": 1}'], ['{"yy": 1}']),
    ({**POINT, "required": ["x"], "maxProperties": 1}, ['{"x": 1}'], ["{}", '{"x": 1, "y": 1}']),
    ({"type": "array"}, ["[]", "[ ]", '[1, "a", [null]]'], ["[1,]"]),
    ({"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 2}, ["[1]", "[1,\n 1]"], ["[]", "[1, 1, 1]"]),
    ({"items": {"const": 1}, "maxItems": 600}, ["[]", f"[{', '.join(['1'] * 600)}]"], [f"[{','.join(['1'] * 601)}]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    ({"prefixItems": [{"const": 1}, {"const": 2}]}, ["[]", "[1]", "[1, 2]"], ["[2]", "[1, 2, 3]"]),
    ({"prefixItems": [{"const": 1}], "items": {"const": 0}, "minItems": 2}, ["[1, 0]", "[1,0,0]"], ["[1]", "[1, 1]"]),
    ({"prefixItems": [{"const": 1}, {"const": 2}], "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1, 2]"]),
    ({"prefixItems": [{"const": 1}], "minItems": 2}, ["[1, {}]"], ["[1]"]),
    ({"prefixItems": [{"const": 1}, False]}, ["[]", "[1]"], ["[1, 1]"]),
    ({"items": [{"const": 1}], "additionalItems": {"const": 2}}, ["[]", "[1]", "[1, 2, 2]"], ["[2]"]),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[]", "[1]"], ["[1, 1]"]),
    ({"type": "string", "uniqueItems": True}, ['"a"'], []),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, ["1", "null"], ['"a"']),
    ({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": -5}]}, ["5", "-7"], ["0"]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"'], ["null"]),
    ({"enum": [1, 2, 3], "not": {"const": 2}}, ["1", "3"], ["2"]),
    ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, ["1", "3"], ["2"]),
    (SHAPES, ['{"kind": "dot"}', '{"kind": "disc", "r": 1}'], ['{"kind": "disc"}']),
    (
        {"oneOf": [{"properties": {name: {"const": 1}}, "required": [name]} for name in "ab"]},
        ['{"a": 1}', '{"b": 1}'],
        ["{}", '{"a": 1, "b": 1}'],
    ),
    (
        {"type": "object", "properties": {"a": {"const": 1}}, "not": {"required": ["b"]}},
        ["{}", '{"a": 1}'],
        ['{"b": 1}'],
    ),
    (
        {"allOf": [POINT, {"properties": {"z": {"const": 0}}, "required": ["z"]}]},
        ['{"z": 0}', '{"x": 1, "z": 0}'],
        ["{}", '{"x": 1}'],
    ),
    (
        {"allOf": [{**POINT, "additionalProperties": False}, {"properties": {"z": {}, "x": {"minimum": 5}}}]},
        ['{"x": 5}'],
        ['{"x": 4}', '{"z": 1}'],
    ),
    ({"allOf": [{"type": "number"}, {"minimum": 1}, {"maximum": 2}, {"type": "integer"}]}, ["1", "2"], ["0", "1.5"]),
    (TREE, ["{}", '{"of": [{}, {"of": []}]}'], ['{"of": [1]}']),
    ({"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}, ['{"next": {"next": null}}'], ["[]"]),
    ({"definitions": {"a/b~c%": {"const": 1}}, "$ref": "#/definitions/a~1b~0c%25"}, ["1"], ["2"]),
    (
        {"$schema": "http://json-schema.org/draft-07/schema#", "$defs": {"a": {}}, "$ref": "#/$defs/a", "type": "null"},
        ["1"],
        [],
    ),
    ({"$defs": {"a": {"anyOf": [False, {"const": 1}]}}, "$ref": "#/$defs/a/anyOf/1"}, ["1"], ["2"]),
    ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a", "maxLength": 1}, ['"a"'], ['"ab"']),
]


@pytest.mark.parametrize(("schema", "allowed", "others"), MADE, ids=[json.dumps(schema)[:60] for schema, _, _ in MADE])
def test_what_a_schema_allows(schema: Any, allowed: list[str], others: list[str]) -> None:
    """The texts one expects, not those next to them, and nothing that is not valid."""
    texts = Texts(to_gbnf(schema))
    assert [text for text in allowed if not texts.allows(text)] == []
    assert [text for text in others if texts.allows(text)] == []
    if "$schema" not in json.dumps(schema) and "additionalItems" not in json.dumps(schema):
        check_texts(schema, seeded(1), 30)
        validator = Validator(schema)
        assert [text for text in allowed if not validator.is_valid(json.loads(text))] == []


FORMATS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "time": lambda text: datetime.fromisoformat(f"2000-01-01T{text}"),
    "duration": re.compile(r"P(?!$)(\d+[YMWD])*(T(\d+[HMS])+)?").fullmatch,
    "uuid": uuid.UUID,
    "uuid4": lambda text: 1 / (uuid.UUID(text).version == 4),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "hostname": re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{1,63}").fullmatch,
    "email": re.compile(r"(?=.{1,64}@)[a-z0-9._+-]+@[a-z0-9.-]+\.[a-z]{2,}").fullmatch,
    "uri": re.compile(r"https?://[a-z0-9.-]+(/[!-~]*)?").fullmatch,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    """A string of a format is one: days exist, and other programs read it."""
    texts, rng = Texts(to_gbnf({"type": "string", "format": name})), seeded(3)
    for _ in range(300):
        text = json.loads(texts.draw(rng))
        assert FORMATS[name](text), text


DAYS = ("2024-02-29", "2000-02-29", "2023-12-31", "0001-01-01", "9999-11-30", "2023-02-28")
NO_DAYS = (
    "2023-02-29",
    "1900-02-29",
    "2023-04-31",
    "0000-01-01",
    "2023-13-01",
    "2023-00-10",
    "2023-01-00",
    "2024-02-30",
)


@pytest.mark.parametrize("text", [*DAYS, *NO_DAYS])
def test_days_that_exist(text: str) -> None:
    """Months have their days, and leap years theirs."""
    assert Texts(to_gbnf({"format": "date"})).allows(f'"{text}"') is (text in DAYS)


def test_formats_of_others_are_annotations() -> None:
    """A format that no standard has asks for nothing, as the standard says."""
    assert to_gbnf({"type": "string", "format": "password"}) == to_gbnf({"type": "string"})


# -- what is refused -------------------------------------------------------------------------------------------------


NEEDS_A = {"type": "object", "properties": {"a": {}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "where", "words"),
    [
        (False, "#", "no value"),
        ({"type": "string", "enum": [1]}, "#", "no value"),
        ({"enum": []}, "#", "no value"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "#", "no value"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "#", "no value"),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "#", "no value"),
        ({"type": "number", "minimum": 1e300}, "#", "no value"),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "#", "no value"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "#", "no value"),
        ({"type": "array", "items": False, "minItems": 1}, "#", "no value"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "#", "no value"),
        ({"required": ["a"], "additionalProperties": False}, "#", "no value"),
        ({**POINT, "required": ["x"], "maxProperties": 0}, "#", "no value"),
        ({**POINT, "minProperties": 3}, "#", "no value"),
        ({**POINT, "propertyNames": {"maxLength": 0}, "required": ["x"]}, "#", "no value"),
        ({**POINT, "propertyNames": {"format": "iri"}}, "#", "meets propertyNames"),
        ({"type": "object", "propertyNames": {"not": {"const": "a"}}}, "#", "not or oneOf in propertyNames"),
        ({"properties": {"a": {"$ref": "#"}, "b": False}, "required": ["b", "a"]}, "#/properties/a", "no value"),
        ({"type": "string", "pattern": "^aaa+$", "maxLength": 2}, "#", "no value"),
        ({"type": "string", "pattern": "^(ab|cd|ef)*x$", "maxLength": 1001}, "#", "more than 2000 states"),
        ({"type": "text"}, "#", "type is one or more of"),
        ({"type": []}, "#", "type is one or more of"),
        ({"properties": {"a": {"type": 1}}}, "#/properties/a", "type is one or more of"),
        ({"properties": []}, "#", "properties is an object"),
        ({"properties": {"a": 1}}, "#/properties/a", "a schema is an object or a boolean, not 1"),
        ({"required": "a"}, "#", "required is a list"),
        ({"enum": 1}, "#", "enum is a list"),
        ({"minLength": -1}, "#", "minLength is a number from 0 on"),
        ({"maxItems": 1.5}, "#", "maxItems is a number from 0 on"),
        ({"minimum": "1"}, "#", "minimum is a number, not '1'"),
        ({"exclusiveMinimum": True}, "#", "exclusiveMinimum is a number"),
        ({"pattern": 1}, "#", "pattern is a text"),
        ({"anyOf": []}, "#", "anyOf is a list of schemas"),
        ({"multipleOf": 0.01}, "#", "multipleOf 0.01: only whole numbers"),
        ({"multipleOf": 0}, "#", "multipleOf 0"),
        ({"type": "integer", "multipleOf": 99991}, "#", "more than 2000 states"),
        ({"patternProperties": {"^a": {}}}, "#", "patternProperties is not supported"),
        ({"properties": {"a/b": {"type": "array", "uniqueItems": True}}}, "#/properties/a~1b", "uniqueItems"),
        ({"type": "array", "contains": {}}, "#", "contains is not supported"),
        ({"unevaluatedProperties": False}, "#", "unevaluatedProperties is not supported"),
        ({"dependentRequired": {"a": ["b"]}}, "#", "dependentRequired is not supported"),
        ({"if": {}, "then": {}}, "#", "if is not supported"),
        ({"not": {"type": "string"}, "type": ["string", "null"]}, "#/not", "not certain"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf/1", "not certain"),
        ({"oneOf": [POINT, {**POINT, "required": ["x"]}]}, "#/oneOf/1", "not certain"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "#/oneOf/1", "not certain"),
        ({"enum": ["a"], "format": "iri"}, "#", "not certain"),
        ({"format": "iri"}, "#", "the format iri is not supported"),
        ({"$ref": "http://example.com/a"}, "#/$ref", "leads out of the schema"),
        ({"$ref": "#a"}, "#/$ref", "leads out of the schema"),
        ({"$ref": "#/a"}, "#/$ref", "names nothing"),
        ({"$ref": 1}, "#/$ref", "leads out of the schema"),
        ({"$ref": "#"}, "#", "lead to nothing"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "#/anyOf/0", "lead to nothing"),
        ({"$defs": {"a": {"$id": "x", "$defs": {"b": {}}}}, "$ref": "#/$defs/a/$defs/b"}, "#/$ref", "$id of its own"),
        ({"$ref": "#/anyOf/7", "anyOf": [{}]}, "#/$ref", "names nothing"),
        ({"$dynamicRef": "#a"}, "#", "$dynamicRef is not supported"),
        ({"properties": {"a": {"$id": "b", "type": "null"}}}, "#/properties/a", "$id is not supported"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "#", "has no end"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "#", "has no end"),
        (
            {
                "$defs": {"a": {**NEEDS_A, "properties": {"a": {"$ref": "#/$defs/a"}}}},
                "anyOf": [{"$ref": "#/$defs/a"}, {}],
            },
            "#",
            "end",
        ),
        ({"allOf": [{"const": 1}, {"const": True}]}, "#", "no value"),
        (
            {"properties": {"a": {"const": 1}}, "allOf": [{**NEEDS_A, "properties": {"a": {"const": True}}}]},
            "#",
            "no value",
        ),
        ({"oneOf": [{"const": "::1"}, {"type": "string", "format": "ipv6"}]}, "#", "not certain"),
        ({"oneOf": [{"const": "é"}, {"type": "string", "pattern": r"^\w$"}]}, "#", "not certain"),
        (
            {"oneOf": [NEEDS_A, {"patternProperties": {"a": {}}, "additionalProperties": False}]},
            "#/oneOf/1",
            "not certain",
        ),
        ({**POINT, "maxProperties": 1}, "#", "maxProperties"),
        ({"type": "object", "minProperties": 2}, "#", "minProperties"),
        ({"minLength": 2_000_000}, "#", "minLength is more than"),
        ({"type": "array", "minItems": 2_000_000}, "#", "minItems is more than"),
        ({"enum": ["\ud800"]}, "#", "surrogate"),
        ({"properties": {"\ud800": {}}}, "#", "surrogate"),
        ({"pattern": "^a{1000}{1000}$"}, "#/pattern", "no meaning"),
        ({"pattern": "^(ab){1000}$", "maxLength": 10**6}, "#", "more than 2000 states"),
        ({"pattern": "(a|b)*a(a|b){12}$"}, "#", "more than 2000 states"),
    ],
)
def test_what_a_schema_may_not_ask(schema: Any, where: str, words: str) -> None:
    """What cannot be promised is refused in words, with its place."""
    with pytest.raises(GrammarError, match=re.escape(words)) as caught:
        to_gbnf(schema)
    assert caught.value.where == where


ODD_GROUPS = ("(?=a)", "(?P<n>a)", "(?<n>a)", r"(a)\1", "(a", "a)", "(^a)", "(" * 40 + ")" * 40)
ODD_CLASSES = ("[]", "[^]", "[a", "[z-a]", r"[\w-z]", r"[a-\d]", "[[a]]", "[a-c-e]")
ODD_COUNTS = ("a**", "a{,2}", "a{2", "a{3,2}", "a++", "*", "a{2}{3}", "a{1000}{1000}")
ODD_PLACES = (r"\b", r"\p{L}", r"\A", "^^a", "a$b", "]", "}", r"\u{61}", r"\ud800", r"\x00", "\\", "a" * 3000)


@pytest.mark.parametrize("pattern", [*ODD_GROUPS, *ODD_CLASSES, *ODD_COUNTS, *ODD_PLACES])
def test_patterns_that_are_refused(pattern: str) -> None:
    """What is not regular, not understood the same everywhere, or no pattern at all."""
    with pytest.raises(GrammarError, match="the pattern") as caught:
        to_gbnf({"type": "string", "pattern": pattern})
    assert caught.value.where == "#/pattern"


def test_what_is_no_schema() -> None:
    """Neither other text, nor what JSON has no word for, nor endless nesting gets further."""
    circle: dict[str, Any] = {}
    circle["properties"] = circle
    deep: Any = {}
    for _ in range(300):
        deep = {"items": deep}
    for schema in (
        "{",
        "",
        "1e999",
        "NaN",
        '{"minimum": 1e999}',
        "[" * 100_000,
        circle,
        deep,
        {"const": float("nan")},
        object(),
    ):
        with pytest.raises(GrammarError):
            to_gbnf(schema)
    with pytest.raises(GrammarError, match="not 'text'"):
        to_gbnf('"text"')
    with pytest.raises(GrammarError, match="1000013 characters"):
        to_gbnf({"title": "a" * 1_000_000})
    nested: Any = True
    for _ in range(70):
        nested = {"items": nested}
    with pytest.raises(GrammarError, match="more than 64 deep"):
        to_gbnf(nested)


def test_combinations_that_multiply_are_refused_soon() -> None:
    """References to references, and alternatives of alternatives, are not worked out for ever."""
    definitions = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(25)} | {"a25": {}}
    choices: dict[str, Any] = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(25)}
    begun = time.perf_counter()
    for defs in (definitions, choices | {"a25": {"type": "null"}}, choices | {"a25": False}):
        with pytest.raises(GrammarError, match=r"multiply|combinations"):
            to_gbnf({"$defs": defs, "$ref": "#/$defs/a0"})
    assert time.perf_counter() - begun < 20


def test_a_grammar_that_llama_cpp_would_choke_on_is_refused() -> None:
    """Branches that begin alike and hold each other: the hint says what helps."""
    pair = {"op": {"type": "string"}, "l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}}
    branches = [{"type": "object", "properties": pair, "required": names} for names in (["op", "l", "r"], ["op", "l"])]
    with pytest.raises(GrammarError, match="its grammar is refused") as caught:
        to_gbnf({"$defs": {"e": {"anyOf": [*branches, {"type": "integer"}]}}, "$ref": "#/$defs/e"})
    assert "const" in caught.value.hint


# -- options ---------------------------------------------------------------------------------------------------------


def test_order() -> None:
    """Named properties come first, in every object; the others as in the schema."""
    schema = {"properties": {name: {"const": 1} for name in "abc"}, "required": ["a", "b", "c"]}
    assert Texts(to_gbnf(schema, order=("c", "x", "b"))).allows('{"c":1,"b":1,"a":1}')
    assert Texts(to_gbnf(schema)).allows('{"a":1,"b":1,"c":1}')


def test_limits_of_the_caller() -> None:
    """Strings and arrays end sooner, everywhere; what the schema insists on comes first."""
    texts = Texts(to_gbnf(True, max_string=3, max_items=2))
    assert all(texts.allows(text) for text in ('"abc"', "[1, 2]", '{"abc": [1], "d": 2}'))
    assert not any(
        texts.allows(text) for text in ('"abcd"', "[1, 2, 3]", '{"abcd": 1}', '{"a":1,"b":2,"c":3}', '["abcd"]')
    )
    for schema, allowed, other in (
        ({"type": "string", "minLength": 5}, '"abcde"', '"abcdef"'),
        ({"type": "string", "maxLength": 2}, '"ab"', '"abc"'),
        ({"type": "string", "pattern": "^a+b$"}, '"aab"', '"aaab"'),
        ({"type": "string", "pattern": "^abcde$"}, '"abcde"', '"abc"'),
        ({"type": "string", "pattern": "^(aaaaa)+$"}, '"aaaaa"', '"aaaaaaaaaa"'),
        ({"type": "string", "pattern": "^(ab|cd)*x$"}, '"abx"', '"ababx"'),
        ({"type": "array", "items": {"const": 1}, "minItems": 3}, "[1,1,1]", "[1,1,1,1]"),
        ({"prefixItems": [{"const": 1}] * 3, "items": True}, "[1,1,1]", "[1,1,1,1]"),
        ({"properties": {name: {"const": 1} for name in "abc"}}, '{"a":1,"b":1,"c":1}', '{"abcd":1}'),
        ({"properties": {"a": {}}, "additionalProperties": {"const": 1}}, '{"b":1,"c":1}', '{"b":1,"c":1,"d":1}'),
    ):
        texts = Texts(to_gbnf(schema, max_string=3, max_items=2))
        assert texts.allows(allowed), schema
        assert not texts.allows(other), schema
    for wrong in (0, -1, 10**7):
        with pytest.raises(ValueError, match="max_items"):
            to_gbnf(True, max_items=wrong)


def test_a_limit_that_would_cost_too_much_is_passed_over() -> None:
    """Strings of a pattern with a thousand characters would take thousands of rules: there they stay as they are."""
    schema = {"type": "string", "pattern": "^(ab|cd|ef)*x$"}
    assert to_gbnf(schema, max_string=1000) == to_gbnf(schema) != to_gbnf(schema, max_string=10)


def test_json_object() -> None:
    """What response_format json_object means: an object at the top, anything in it."""
    texts = Texts(json_object_gbnf(max_items=2))
    assert texts.allows('{"a": [1, {"b": null}]}')
    assert not any(texts.allows(text) for text in ("[]", "1", '{"a":1,"b":1,"c":1}'))
    assert LlamaGrammar(json_object_gbnf()).gbnf == to_gbnf({"type": "object"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 100_000},
        {"type": "string", "minLength": 100_000},
        {"type": "array", "items": {"type": "string", "maxLength": 1000}, "minItems": 900, "maxItems": 50_000},
        {"type": "object", "properties": {f"p{n}": {"type": "string", "maxLength": 1000} for n in range(100)}},
        {"enum": [f"item {n * 7919 % 100_003}" for n in range(1000)]},
    ],
    ids=["long", "longer", "many", "wide", "enum"],
)
def test_large_counts_stay_cheap(schema: Any) -> None:
    """Large counts are blocks of blocks, so neither the check nor llama.cpp has much to do."""
    begun = time.perf_counter()
    rules = gbnf.read(to_gbnf(schema), "root")
    assert time.perf_counter() - begun < 5
    assert sum(len(way) for ways in rules.alternatives for way in ways) < 20_000


# -- numbers ---------------------------------------------------------------------------------------------------------


def written(machine: Machine | None, rng: random.Random) -> str:
    """Draw a text of a machine."""
    assert machine is not None
    state, text = 0, ""
    while True:
        arcs = machine.arcs[state]
        if state in machine.accepting and (not arcs or rng.random() < 0.2):
            return text
        ranges, state = rng.choice(arcs)
        text += chr(rng.randint(*rng.choice(ranges)))


def test_bounds_hold_as_decimals_and_as_doubles() -> None:
    """Whatever the bounds, a drawn number is within them exactly, and still is as a float."""
    rng = seeded(4)
    plain = ("0", "1", "-1", "0.5", "100", "-3.25", "12345.678", "99999999999999")
    pool = (*plain, "0.30000000000000004", "1E-7", "1E-300", "1E+20", "-1E+300")
    for _ in range(300):
        low, high = sorted(Decimal(rng.choice(pool)) for _ in range(2))
        bounds = Bounds(Bound(low, rng.random() < 0.4), Bound(high, rng.random() < 0.4), integer=rng.random() < 0.3)
        as_floats = [one and Bound(Decimal(float(one.number)), one.open) for one in (bounds.low, bounds.high)]
        doubles = Bounds(as_floats[0], as_floats[1])
        for sign, machine in zip(("", "-"), machines(bounds), strict=True):
            for _ in range(40 if machine else 0):
                text = sign + written(machine, rng)
                assert bounds.holds(Decimal(text)), (bounds, text)
                assert doubles.holds(Decimal(float(text))), (bounds, text)


# -- any schema ------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ab", "é", 'q"', "k/~"])
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [1, 1.0, "a", "ab", None, True, 2.5, 'é\n"', [1, {"x": 1}], {"k": []}, -3]
)
BOUNDS = st.sampled_from([0, 1, -1, 10, -5, 0.5, -0.25, 1e3, 12345678901, 2.5, 1e-5])
COUNTS = st.sampled_from([0, 1, 2, 3, 20, 600])
PATTERNS = st.sampled_from(
    [
        "^[a-z]+$",
        "a",
        r"^\d{3}-\d{4}$",
        "^a|b$",
        r"\S",
        '^[^a"\\\\]*$',
        r"^\W{2}$",
        "^.{2,5}$",
        "^(a|ab)(c|bcd)*$",
        "^é?",
    ]
)
STRINGS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "minLength": COUNTS,
        "maxLength": COUNTS,
        "pattern": PATTERNS,
        "format": st.sampled_from(["date", "date-time", "uuid", "ipv4", "email", "password"]),
    },
)
NUMBERS = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])},
    optional={
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), BOUNDS),
        "multipleOf": st.sampled_from([1, 2, 7, 10]),
    },
)
LEAVES = st.one_of(
    STRINGS,
    NUMBERS,
    st.booleans(),
    st.fixed_dictionaries({"enum": st.lists(VALUES, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"const": VALUES}),
    st.sampled_from([{"type": "null"}, {"type": ["string", "null"]}, {}, {"type": "boolean"}, {"$ref": "#/$defs/d"}]),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(NAMES, inner, max_size=4),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": inner,
            "minProperties": st.sampled_from([0, 1, 2]),
            "maxProperties": st.sampled_from([0, 2, 5]),
            "propertyNames": st.sampled_from([{"pattern": "^[a-z]+$"}, {"maxLength": 3}, {"enum": ["a", "b", "q"]}]),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "minItems": st.sampled_from([0, 1, 2]),
            "maxItems": COUNTS,
        },
    )
    combined = st.one_of(
        *(
            st.fixed_dictionaries({word: st.lists(inner, min_size=1, max_size=2)})
            for word in ("anyOf", "oneOf", "allOf")
        ),
        st.builds(lambda one, two: {**one, "anyOf": [two]} if isinstance(one, dict) else one, inner, inner),
    )
    return st.one_of(objects, arrays, combined)


SCHEMAS = st.builds(
    lambda schema, definition: {**schema, "$defs": {"d": definition}} if isinstance(schema, dict) else schema,
    st.recursive(LEAVES, containers, max_leaves=8),
    st.recursive(LEAVES, containers, max_leaves=4),
)


@settings(max_examples=250, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, seed=st.integers(0, 1000), limit=st.sampled_from([None, 3]))
def test_what_any_schema_allows_is_valid(schema: Any, seed: int, limit: int | None) -> None:
    """Whatever schema is accepted: drawn texts are JSON and valid."""
    try:
        to_gbnf(schema, max_string=limit, max_items=limit)
    except GrammarError as error:
        assert error.reason  # noqa: PT017 - refused in words is well too
        return
    check_texts(schema, seeded(seed), 20, max_string=limit, max_items=limit)


WORDS = st.sampled_from(
    [
        *("type", "properties", "required", "additionalProperties", "patternProperties", "enum", "const", "items"),
        *("prefixItems", "minItems", "maxItems", "uniqueItems", "anyOf", "oneOf", "allOf", "$ref", "$defs", "title"),
        *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "multipleOf"),
        *("not", "if", "propertyNames", "minProperties", "maxProperties", "$id", "$schema", "contains"),
    ]
)
RUBBISH = st.recursive(
    st.one_of(
        st.sampled_from(
            [0, -1, 1.5, 1e300, 10**30, True, None, "", "string", "object", "#", "#/$defs/x", "^(a", "date"]
        ),
        st.text(max_size=3),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=500, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=st.dictionaries(WORDS, RUBBISH, max_size=5))
def test_rubbish_is_a_grammar_error(schema: Any) -> None:
    """Words of JSON Schema with any values: a grammar that holds what it says, or a GrammarError."""
    try:
        grammar = to_gbnf(schema)
    except GrammarError:
        return
    json.loads(Texts(grammar).draw(seeded(1)))


# -- the real library ------------------------------------------------------------------------------------------------

REAL = [
    schema for schema, _, _ in MADE if not isinstance(schema, dict) or not {"$schema", "items"} <= {*schema, "items"}
]


def generated(run_python: RunPython, library: str | None) -> None:
    """Let llama.cpp write a text for each schema, token by token, and validate those that came to an end."""
    schemas = [
        schema
        for schema, _, _ in MADE
        if "$schema" not in json.dumps(schema) and "additionalItems" not in json.dumps(schema)
    ]
    grammars = [to_gbnf(schema, max_string=10, max_items=3) for schema in schemas]
    asked = {"library": library, "grammars": grammars, "steps": 400, "seed": 1}
    done = run_python(WALKS, stdin=json.dumps(asked))
    assert done.returncode == 0, done.stderr[-500:]
    said = json.loads(done.stdout)
    assert [schemas[number] for number, (_, why) in enumerate(said) if why in ("refused", "nothing")] == []
    assert sum(why == "end" for _, why in said) > 0.9 * len(schemas)
    for schema, (text, why) in zip(schemas, said, strict=True):
        if why == "end":
            Validator(schema, format_checker=Validator.FORMAT_CHECKER).validate(json.loads(bytes.fromhex(text)))


def test_the_installed_library_writes_what_is_valid(run_python: RunPython) -> None:
    """From schema to text with the real sampler."""
    generated(run_python, None)


@pytest.mark.real_bundle
@pytest.mark.parametrize("library", BUILDS, ids=[name.partition("/")[0] for name in BUILDS])
@pytest.mark.skipif(sys.platform != "linux", reason="the real builds are for Linux")
def test_every_build_writes_what_is_valid(run_python: RunPython, binaries: Path, library: str) -> None:
    """The same with each real build."""
    generated(run_python, str(binaries / library))
