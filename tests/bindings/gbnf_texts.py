"""Random grammars, and random texts of a grammar, from the rules as the product reads them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from nativeload_llama.grammar import gbnf
from nativeload_llama.grammar.code_points import within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nativeload_llama.grammar.gbnf import Element

    Places = tuple[tuple[Element, ...], ...]  # what still has to follow, from the inside out

_LITERALS = ("a", "b", "c", " ", "(", "\\n", '\\"', "é", "\\x41", "\\u00e9", "中")
_CLASSES = ("a", "b", "a-c", "0-9", "\\]", "\\x00-\\x1f", "é-ü", "\\n", "x-z", "\\U0010FFFF")
_JUNK = (
    *'abc"[](){}|*+?.:=<>!#\\-^,0123456789 \n\t\r',
    "::=",
    "\\x",
    "\\u00",
    "root",
    "{2,",
    "\0",
    "é",
    "{1999}",
    "<[1]>",
)


def seeded(seed: int) -> random.Random:
    """The same numbers in every run."""
    return random.Random(seed)


class Texts:
    """Texts that a grammar allows: ``Texts(gbnf_text).draw(rng)``."""

    def __init__(self, text: str) -> None:
        self.rules = gbnf.read(text, "root")
        self.shortest = self._shortest()

    def _shortest(self) -> list[float]:
        """How deep a rule has to be followed until it ends."""
        found = [float("inf")] * len(self.rules.names)
        before: list[float] = []
        while before != found:
            before = list(found)
            for number, alternatives in enumerate(self.rules.alternatives):
                found[number] = min(self._depth(way, found) for way in alternatives)
        return found

    @staticmethod
    def _depth(way: tuple[Element, ...], found: list[float]) -> float:
        return 1 + max((found[one] for one in way if isinstance(one, int)), default=0)

    def draw(self, rng: random.Random, size: int = 150) -> str:
        """Return one text; beyond ``size`` steps, every rule ends as soon as it can."""
        return "".join(self._pieces(rng, size))

    def _pieces(self, rng: random.Random, size: int) -> Iterator[str]:
        todo: list[Element] = [self.rules.root]
        steps = 0
        while todo:
            element = todo.pop()
            steps += 1
            if isinstance(element, int):
                ways = self.rules.alternatives[element]
                if steps > size:
                    least = min(self._depth(way, self.shortest) for way in ways)
                    ways = tuple(way for way in ways if self._depth(way, self.shortest) == least)
                todo += reversed(rng.choice(ways))
            else:
                first, last = rng.choice(element)
                yield chr(
                    rng.choice((first, last, rng.randint(first, last), rng.randint(first, min(last, first + 90))))
                )

    def allows(self, text: str) -> bool:
        """Whether a text is one of the grammar's, told in another way than the product's own walk."""
        states: set[Places] = {((self.rules.root,),)}
        for char in text:
            states = {after for places in self._opened(states) for after in self._taken(places, ord(char))}
        return () in self._opened(states)

    def _opened(self, states: set[Places]) -> set[Places]:
        """What the states become when all rules in front are replaced by their alternatives."""
        todo, seen = list(states), set(states)
        while todo:
            places = todo.pop()
            if places and not places[0]:
                new = [places[1:]]
            elif places and isinstance(places[0][0], int):
                rest = places[1:] if len(places[0]) == 1 else (places[0][1:], *places[1:])
                new = [(way, *rest) for way in self.rules.alternatives[places[0][0]]]
            else:
                continue
            todo += [one for one in new if one not in seen]
            seen.update(new)
        return seen

    @staticmethod
    def _taken(places: Places, code: int) -> Iterator[Places]:
        if places and places[0] and not isinstance(places[0][0], int) and within(code, places[0][0]):
            yield (places[0][1:], *places[1:])


def random_grammar(rng: random.Random) -> str:
    """Return a grammar that is wrong in some way more often than not."""
    names = ["root", *(f"r{number}" for number in range(rng.randint(0, 4)))]
    rules = []
    for number, name in enumerate(names):
        later = names[number + 1 :] or ["root"]
        rules.append(f"{name} ::= {_alternatives(rng, later if rng.random() < 0.85 else [*names, 'zz'], 0)}")
    if len(names) > 1:
        rules[-1] = f'{names[-1]} ::= [a-c] | "x"'
    return "\n".join(rules)


def _alternatives(rng: random.Random, names: list[str], depth: int) -> str:
    bar = rng.choice((" | ", "|", " |\n "))
    return bar.join(_sequence(rng, names, depth) for _ in range(rng.choice((1, 1, 2, 3))))


def _sequence(rng: random.Random, names: list[str], depth: int) -> str:
    count = rng.choice((1, 1, 2, 2, 3)) if rng.random() < 0.93 else 0
    return " ".join(_symbol(rng, names, depth) + _repetition(rng) for _ in range(count))


def _symbol(rng: random.Random, names: list[str], depth: int) -> str:
    kind = rng.random()
    if kind < 0.3:
        return f'"{"".join(rng.choice(_LITERALS) for _ in range(rng.choice((1, 1, 1, 2, 3))))}"'
    if kind < 0.5:
        return f"[{rng.choice(('', '^'))}{''.join(rng.choice(_CLASSES) for _ in range(rng.choice((1, 1, 2))))}]"
    if kind < 0.55:
        return "."
    if kind < 0.8 or depth > 3:
        return rng.choice(names)
    return f"({_alternatives(rng, names, depth + 1)})"


def _repetition(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        return ""
    if kind < 0.9:
        return rng.choice("*+?")
    count = rng.choice((0, 1, 2, 3, 10, 50, 300, 1000))
    return rng.choice((f"{{{count}}}", f"{{{count},}}", f"{{{rng.choice((0, 1, 3))},{count}}}"))


def mutated(rng: random.Random, text: str) -> str:
    """Return a text with some characters taken out, put in, copied or replaced."""
    found = list(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        kind, place = rng.random(), rng.randrange(len(found) + 1)
        end = min(len(found), place + rng.choice((1, 1, 3, 10)))
        if kind < 0.4:
            found[place:place] = rng.choice(_JUNK)
        elif kind < 0.7:
            del found[place:end]
        elif kind < 0.85:
            copied = rng.randrange(len(found) + 1)
            found[place:place] = found[copied : copied + rng.choice((1, 5, 30))]
        else:
            found[place:end] = rng.choice(_JUNK)
    return "".join(found)
