"""Which rules make the arrays and objects of a JSON schema?

One rule: a comma stands between two, and nothing else; what may be left out is left out together with its comma.
"""

from __future__ import annotations

import json

from nativeload.value import replace
from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar.gbnf_text import LONGEST, literal, one_of, repeated
from nativeload_llama.grammar.json_document import unmade
from nativeload_llama.grammar.json_shapes import both, property_of
from nativeload_llama.grammar.json_values import meets, meets_schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.grammar.json_shapes import Schema, Shape
    from nativeload_llama.grammar.json_writer import Writer


def listed(writer: Writer, item: str, least: int, most: int | None, marks: str = "[]") -> str:
    """Return the text of a rule for a list of one item between two marks."""
    return _enclosed(writer, "" if most == 0 else _run(writer, item, least, most), marks, empty=least == 0)


def _enclosed(writer: Writer, inside: str, marks: str, *, empty: bool) -> str:
    ws = writer.term("ws")
    first, last = literal(marks[0]), literal(marks[1])
    if not inside:
        return f"{first} {ws} {last}"
    return f"{first} {ws} ({inside} {ws})? {last}" if empty else f"{first} {ws} {inside} {ws} {last}"


def _run(writer: Writer, item: str, least: int, most: int | None) -> str:
    """Return one item and as many more, each with its comma."""
    more = writer.rules.add("more", f'"," {writer.term("ws")} {item}')
    rest = repeated(writer.rules, more, max(least - 1, 0), None if most is None else most - 1)
    return f"{item} {rest}".strip()


def _counts(count: tuple[int, int | None], word: str, where: str) -> tuple[int, int | None]:
    if count[0] > LONGEST:
        raise GrammarError(f"{word} is more than {LONGEST}", where=where)
    return count


def array_rule(writer: Writer, shape: Shape, where: str, depth: int) -> str | None:
    """Return the rule of an array; items that the schema says nothing about are left out."""
    least, most = _counts(shape.items_count, "minItems", where)
    prefix = []
    for place, schema in enumerate(shape.prefix[:most]):
        rule = writer.value(schema, f"{where}/prefixItems/{place}", depth + 1)
        if rule is None:
            most = place
            break
        prefix.append(rule)
    anything = not shape.prefix or least > len(shape.prefix)
    schema = anything if shape.items is None else shape.items
    item = None if most is not None and most <= len(prefix) else writer.value(schema, f"{where}/items", depth + 1)
    if item is None:
        most = len(prefix) if most is None else min(most, len(prefix))
    if most is not None and most < least:
        return None
    most = writer.capped(max(least, len(prefix)), most, writer.max_items)
    if not prefix:
        return writer.rules.add("array", listed(writer, item or "", least, 0 if item is None else most))
    inside = _prefixed(writer, prefix, item, least, most)
    return writer.rules.add("array", _enclosed(writer, inside, "[]", empty=least == 0))


def _prefixed(writer: Writer, prefix: list[str], item: str | None, least: int, most: int | None) -> str:
    """Return the items of an array that begins with some of its own kind."""
    count, tail = len(prefix), ""
    if item is not None:
        more = writer.rules.add("more", f'"," {writer.term("ws")} {item}')
        tail = repeated(writer.rules, more, max(least - count, 0), None if most is None else most - count)
    inside = f"{prefix[-1]} {tail}".strip()
    for place in range(count - 1, 0, -1):
        inside = f"{prefix[place - 1]} {_follows(writer, inside, optional=place >= least)}"
    return inside


def _follows(writer: Writer, inside: str, *, optional: bool) -> str:
    """Return something with a comma before it; where both may be left out, under a name."""
    text = f'"," {writer.term("ws")} {inside}'
    return writer.rules.add("rest", f'{text} | ""') if optional else text


def object_rule(writer: Writer, shape: Shape, where: str, depth: int) -> str | None:
    """Return the rule of an object; other properties than the named ones only where the schema mentions them."""
    named = _named(writer, shape, where)
    if named is None:
        return None
    members: list[tuple[str, bool]] = []
    for name, schema in named.items():
        value = writer.value(schema, f"{where}/properties/{_step(name)}", depth + 1)
        if value is not None:
            key = literal(_key(name, where))
            members.append(
                (writer.rules.add("member", f'{key} ":" {writer.term("ws")} {value}'), name in shape.required)
            )
        elif name in shape.required:
            return None
    names = tuple(dict.fromkeys((*(shape.properties or ()), *named)))
    return _counted(writer, shape, members, _other(writer, shape, names, where, depth), where)


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _key(name: str, where: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in name):
        raise GrammarError("half a surrogate pair is no character", where=where)
    return json.dumps(name, ensure_ascii=False)


def _named(writer: Writer, shape: Shape, where: str) -> dict[str, Schema] | None:
    """Return the properties with a name of their own, in the order they are written; None where one cannot be."""
    found = dict(shape.properties or {})
    for name in shape.required:
        if name not in found:
            schema = property_of(shape, name)
            found[name] = True if schema is None else schema
    for name in list(found):
        answers = [meets_schema(writer.document, schema, name) for schema, _ in shape.names]
        if False in answers:
            if name in shape.required:
                return None
            del found[name]
        elif None in answers:
            raise GrammarError(f"it is not certain that {json.dumps(name)} meets propertyNames", where=where)
    first = [name for name in writer.order if name in found]
    return {name: found[name] for name in dict.fromkeys([*first, *found])}


def _other(writer: Writer, shape: Shape, names: tuple[str, ...], where: str, depth: int) -> str | None:
    """Return the rule of a property that is none of the named ones."""
    if shape.closed:
        return None
    schema = True if shape.additional is None else shape.additional
    value = writer.value(schema, f"{where}/additionalProperties", depth + 1)
    wanted: Schema | None = True
    for one, _ in shape.names:
        wanted = both(wanted, one)
    keys = []
    for way in writer.document.shapes(wanted, f"{where}/propertyNames"):
        if "string" in way.types:
            keys += _keys(writer, replace(way, types=("string",)), names, where)
    if value is None or not keys:
        return None
    key = keys[0] if len(keys) == 1 else writer.rules.add("key", " | ".join(keys))
    return writer.rules.add("member", f'{key} ":" {writer.term("ws")} {value}')


def _keys(writer: Writer, shape: Shape, names: tuple[str, ...], where: str) -> list[str]:
    """Return the rules of a property's name of one shape that is none of some others."""
    if shape.nots:
        raise unmade("not or oneOf in propertyNames", where)
    if shape.values is None:
        rule = writer.string(shape, f"{where}/propertyNames", names)
        return [] if rule is None else [rule]
    rest = replace(shape, values=None)
    texts = [
        _key(name, where)
        for name in shape.values
        if isinstance(name, str) and name not in names and meets(writer.document, rest, name)
    ]
    return [writer.rules.add("key", one_of(writer.rules, "key", texts))] if texts else []


def _counted(
    writer: Writer, shape: Shape, members: list[tuple[str, bool]], other: str | None, where: str
) -> str | None:
    """Return the rule of an object with these members, as far as its counts allow them."""
    least, most = _counts(shape.properties_count, "minProperties", where)
    needed = sum(required for _, required in members)
    if most is not None and most < len(members):
        if most > needed:
            hint = "Require some of the properties, or leave maxProperties out."
            raise GrammarError("maxProperties, with more properties that may be left out", where=where, hint=hint)
        members, other = [one for one in members if one[1]], None
    if most is not None and most < needed:
        return None
    if least > max(needed, 1):
        if other is not None or least < len(members):
            hint = "Require the properties that have to be there."
            raise GrammarError("minProperties, with properties that may be left out", where=where, hint=hint)
        members = [(rule, True) for rule, _ in members]
    if least > len(members) and other is None:
        return None
    room = writer.capped(0, None if most is None else most - len(members), writer.max_items)
    others = None if other is None or room == 0 else _run(writer, other, 1, room)
    inside = _chained(writer, members, others)
    empty = not any(required for _, required in members) and not least
    return writer.rules.add("object", _enclosed(writer, inside, "{}", empty=empty))


def _chained(writer: Writer, members: list[tuple[str, bool]], others: str | None) -> str:
    """Return members in order, where those that are not required may be left out: at least one of them all."""
    following, needed = others, False
    for rule, required in reversed(members):
        if following is None:
            following, needed = rule, required
            continue
        if not required and " " in following:
            following = writer.rules.add("next", following)
        way = f"{rule} {_follows(writer, following, optional=not needed)}"
        following = way if required else writer.rules.add("next", f"{way} | {following}")
        needed = needed or required
    return following or ""
