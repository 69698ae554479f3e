"""Which GBNF grammar makes a model write JSON that is valid against a schema?

One rule: every text that the grammar allows is JSON and valid against the schema. What cannot be promised is refused,
with its place in the schema; what is made may be less than the schema allows (docs/grammars.md says where).
"""

from __future__ import annotations

import json

from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar import gbnf
from nativeload_llama.grammar.gbnf_text import LONGEST
from nativeload_llama.grammar.json_document import Document
from nativeload_llama.grammar.json_writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_SCHEMA = 1_000_000  # characters
_MAX_DEPTH = 200  # of the schema as JSON
_HINT = "Make it smaller; where branches of anyOf begin alike, give each a first property with a const of its own."


def to_gbnf(
    schema: object, *, order: Sequence[str] = (), max_string: int | None = None, max_items: int | None = None
) -> str:
    """Return the grammar of JSON texts that are valid against a schema.

    Args:
        schema: a JSON schema: a mapping, a boolean, its text, or a class with ``model_json_schema()`` (Pydantic).
        order: names of properties that come first in their objects, in this order; the others as in the schema.
        max_string: characters of a string at most, wherever the schema lets it be longer.
        max_items: items of an array at most, and properties beyond the named ones, in the same way.

    Raises:
        GrammarError: it asks for something that cannot be promised; ``where`` is the place in the schema.
        ValueError: a limit that cannot be.
    """
    for name, limit in (("max_string", max_string), ("max_items", max_items)):
        if limit is not None and not 0 < limit <= LONGEST:
            raise ValueError(f"{name} is {limit}, and must be between 1 and {LONGEST}")
    document = Document(_loaded(schema))
    writer = Writer(document, tuple(order), max_string, max_items)
    try:
        root = writer.value(document.root, "#", 0)
    except RecursionError as error:
        raise GrammarError("the schema is nested too deep for the stack of this thread") from error
    if root is None:
        raise GrammarError("no value can be valid against this schema", where="#")
    text = f"root ::= {root}\n{writer.rules.text()}"
    _check_ends(text, writer.places)
    return text


def json_object_gbnf(*, max_string: int | None = None, max_items: int | None = None) -> str:
    """Return the grammar of any JSON object; the limits are those of `to_gbnf`."""
    return to_gbnf({"type": "object"}, max_string=max_string, max_items=max_items)


def _loaded(schema: object) -> Any:
    """Return a schema as plain JSON values.

    Raises:
        GrammarError: it is none, or too large.
    """
    method = getattr(schema, "model_json_schema", None)
    given = method() if callable(method) else schema
    try:
        text = given if isinstance(given, str) else json.dumps(given, default=dict, allow_nan=False)
        if len(text) > MAX_SCHEMA:
            raise GrammarError(f"the schema has {len(text)} characters, and may have {MAX_SCHEMA}")
        found = json.loads(text, parse_constant=_not_a_number)
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"the schema is no JSON: {error}") from error
    _check_plain(found)
    return found


def _not_a_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _check_plain(schema: Any) -> None:
    """Refuse infinite numbers, half characters, and what is nested too deep to be looked at."""
    level, depth = [schema], 0
    while level:
        if depth == _MAX_DEPTH:
            raise GrammarError(f"the schema is nested more than {_MAX_DEPTH} deep")
        for one in level:
            if isinstance(one, float) and one in (float("inf"), -float("inf")):
                raise GrammarError("the schema has a number that is too large")
        inner: list[Any] = [part for one in level if isinstance(one, list) for part in one]
        inner += [part for one in level if isinstance(one, dict) for pair in one.items() for part in pair]
        level, depth = inner, depth + 1


def _check_ends(text: str, places: dict[str, str]) -> None:
    """Check that llama.cpp can walk the grammar, and that every rule of it can end.

    Raises:
        GrammarError: it cannot; for example an object that requires one of its own kind.
    """
    from nativeload_llama.grammar import check_gbnf

    try:
        check_gbnf(text)
    except GrammarError as error:
        raise GrammarError(f"its grammar is refused: {error.reason}", where="#", hint=_HINT) from error
    rules = gbnf.read(text, "root")
    ending: set[int] = set()
    before = -1
    while before != len(ending):
        before = len(ending)
        for number, alternatives in enumerate(rules.alternatives):
            if any(all(not isinstance(one, int) or one in ending for one in way) for way in alternatives):
                ending.add(number)
    todo, seen = [rules.root], {rules.root}
    while todo:
        number = todo.pop()
        if number not in ending:
            where = places.get(rules.names[number], "#")
            raise GrammarError("a value of this schema has no end: it requires itself", where=where)
        new = {one for way in rules.alternatives[number] for one in way if isinstance(one, int)} - seen
        seen |= new
        todo += new
