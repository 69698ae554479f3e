"""How are characters, machines and long repetitions written as GBNF?

One rule: what is written can be read by every build of llama.cpp that these bindings know, and costs it one stack
wherever one is enough.
"""

from __future__ import annotations

import math
import os
from itertools import groupby

from nativeload_llama.grammar.code_points import common, complement, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nativeload_llama.grammar.automata import Machine
    from nativeload_llama.grammar.code_points import Ranges

LONGEST = 1_000_000  # repetitions at most, whatever is asked for
_PLAIN = 500  # repetitions that llama.cpp may write out as so many rules
_FEW = 8  # texts that stand side by side

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SHORT = {
    8: "b",
    9: "t",
    10: "n",
    12: "f",
    13: "r",
    34: '\\"',
    92: "\\\\",
}  # as they stand in a class, after a backslash
_RAW = complement([(0, 31), (34, 34), (92, 92)])  # what stands for itself in a JSON string


class Rules:
    """The rules of a grammar while it is written: a text for each name."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.made = 0
        self._names: dict[str, str] = {}

    def new(self, kind: str) -> str:
        """Return a name that no rule has yet."""
        self.made += 1
        return f"{kind}-{self.made}"

    def add(self, kind: str, text: str) -> str:
        """Add a rule under a new name, and return it; the same rule is added once."""
        if text not in self._names:
            self._names[text] = self.new(kind)
            self.found[self._names[text]] = text
        return self._names[text]

    def text(self) -> str:
        """Return the whole grammar."""
        return "".join(f"{name} ::= {text}\n" for name, text in self.found.items())


def literal(text: str) -> str:
    """Write a text that stands for itself."""
    return '"' + "".join(_ESCAPES.get(char) or _code(ord(char), plain=True) for char in text) + '"'


def chars(ranges: Ranges) -> str:
    """Write a set of characters."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return literal(chr(ranges[0][0]))
    written = (_code(first) if first == last else f"{_code(first)}-{_code(last)}" for first, last in ranges)
    return f"[{''.join(written)}]"


def _code(code: int, *, plain: bool = False) -> str:
    char = chr(code)
    if char.isalnum() and char.isascii():
        return char
    if plain and char.isprintable():
        return char
    if char.isascii() and char.isprintable() and char not in '\\[]^-"':
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"  # noqa: PLR2004


def json_chars(rules: Rules, ranges: Ranges) -> str:
    """Write a set of characters as they stand in a JSON string, some of them with a backslash.

    Controls without a letter of their own (such as U+0001) are left out, unless there is nothing else.
    """
    raw = common(ranges, _RAW)
    special = [code for code in (*range(1, 32), 34, 92) if within(code, ranges)]
    short = "".join(_SHORT[code] for code in special if code in _SHORT)
    found = [chars(raw)] if raw else []
    found += [f'"\\\\" [{short}]'] if short else []
    found = found or [literal(f"\\u{code:04x}") for code in special]
    return found[0] if len(found) == 1 else rules.add("char", " | ".join(found))


def add_machine(rules: Rules, kind: str, found: Machine, write: Callable[[Ranges], str]) -> str:
    """Write a machine, a rule for each state that needs one, and return the name of the first."""
    sources = [0] * len(found.arcs)
    for arcs in found.arcs:
        for _, after in arcs:
            sources[after] += 1
    inner = [
        state != 0 and sources[state] == 1 and len(arcs) == 1 and state not in found.accepting
        for state, arcs in enumerate(found.arcs)
    ]
    last = [state != 0 and not arcs for state, arcs in enumerate(found.arcs)]
    names = {state: rules.new(kind) for state in range(len(inner)) if not inner[state] and not last[state]}
    for state, name in names.items():
        ways = []
        for ranges, after in found.arcs[state]:
            way, place = [write(ranges)], after
            while inner[place]:
                ((following, place),) = found.arcs[place]
                way.append(write(following))
            ways.append(" ".join(way if last[place] else [*way, names[place]]))
        rules.found[name] = " | ".join([*ways, '""'] if state in found.accepting else ways)
    return names[0]


def one_of(rules: Rules, kind: str, texts: Iterable[str]) -> str:
    """Write a choice between texts, common beginnings once: so llama.cpp keeps few stacks."""
    given = list(dict.fromkeys(texts))
    if len(given) <= _FEW:
        return " | ".join(literal(text) for text in given)
    first = rules.new(kind)
    todo = [(first, given)]
    while todo:
        name, rests = todo.pop()
        ways = ['""'] if "" in rests else []
        for _, group in groupby(sorted(filter(None, rests)), lambda text: text[0]):
            same = list(group)
            begun = os.path.commonprefix(same)  # noqa: RUF071 - of texts, not of paths
            ways.append(literal(begun))
            if len(same) > 1:
                todo.append((rules.new(kind), [text[len(begun) :] for text in same]))
                ways[-1] += f" {todo[-1][0]}"
        rules.found[name] = " | ".join(ways)
    return first


def repeated(rules: Rules, name: str, least: int, most: int | None) -> str:
    """Write a repetition of a rule; a long one as blocks of blocks, for llama.cpp makes a rule for each time."""
    most = None if most is None else min(most, max(least, LONGEST))
    needed = _exactly(rules, name, least)
    if most is None:
        return f"{needed} {name}*".strip()
    optional = most - least
    if optional <= _PLAIN:
        return f"{needed} {name}{{0,{optional}}}".strip() if optional else needed
    size = math.isqrt(optional)
    blocks, rest = divmod(optional, size)
    block = rules.add("times", f"{name}{{{size}}}")
    some = f"{block}{{0,{blocks - 1}}} {name}{{0,{size - 1}}}"
    ways = rules.add("times", f"{some} | {block}{{{blocks}}} {name}{{0,{rest}}}")
    return f"{needed} {ways}".strip()


def _exactly(rules: Rules, name: str, count: int) -> str:
    if count <= _PLAIN:
        return f"{name}{{{count}}}" if count > 1 else name * count
    size = math.isqrt(count)
    blocks, rest = divmod(count, size)
    block = rules.add("times", f"{name}{{{size}}}")
    return f"{_exactly(rules, block, blocks)} {_exactly(rules, name, rest)}".strip()
