"""Which texts do several conditions allow at once, as one deterministic machine?

One rule: a machine is made by trying all conditions side by side, character by character, so that what it accepts
meets every one of them; a machine too large is refused and never cut short.
"""

from __future__ import annotations

from itertools import pairwise

from nativeload.value import Value
from nativeload_llama.grammar.code_points import common, complement, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from nativeload_llama.grammar.code_points import Ranges

    Tree = tuple[Any, ...]  # ("set", ranges) | ("all", trees...) | ("any", trees...) | ("times", tree, least, most)

MAX_STATES = 2000  # of a machine: each becomes a rule
MAX_COPIES = 20_000  # states of the conditions, repetitions written out

_Sets = tuple[frozenset[int], ...]


class TooLargeError(ValueError):
    """A machine would have more states than a grammar may have rules."""


class Machine(Value, eq=False):
    """A deterministic machine; state 0 is the first, and each one can still reach an accepting one.

    Attributes:
        arcs: for each state, the state that follows a set of code points.
        accepting: the states in which a text may end.
    """

    arcs: tuple[tuple[tuple[Ranges, int], ...], ...]
    accepting: frozenset[int]

    def shortest(self) -> int:
        """Return how many characters the shortest text has."""
        states, length = {0}, 0
        while not states & self.accepting:
            states, length = {after for state in states for _, after in self.arcs[state]}, length + 1
        return length

    def longest(self) -> int | None:
        """Return how many characters the longest text has; None where there is no limit."""
        lengths: dict[int, int] = {}
        todo = [(0, iter(self.arcs[0]))]
        within = {0}
        while todo:
            state, rest = todo[-1]
            arc = next(rest, None)
            if arc is None:
                lengths[state] = max((1 + lengths[after] for _, after in self.arcs[state]), default=0)
                within.discard(state)
                todo.pop()
            elif arc[1] in within:
                return None
            elif arc[1] not in lengths:
                within.add(arc[1])
                todo.append((arc[1], iter(self.arcs[arc[1]])))
        return lengths[0]

    def run(self) -> tuple[Ranges, int] | None:
        """Return the characters and the least length, where it accepts any longer text of the same characters."""
        ranges = {one for arcs in self.arcs for one, _ in arcs}
        state, length = 0, 0
        while len(self.arcs[state]) == 1 and self.arcs[state][0][1] == state + 1:
            state, length = state + 1, length + (state not in self.accepting)
        loops = [after for _, after in self.arcs[state]] == [state]
        ending = self.accepting == set(range(length, len(self.arcs)))
        return (ranges.pop(), length) if loops and ending and len(ranges) == 1 else None


class Condition:
    """A nondeterministic machine for one condition: `start`, `end`, arcs, and steps that take no character."""

    def __init__(self, tree: Tree) -> None:
        self.arcs: list[list[tuple[Ranges, int]]] = []
        self.steps: list[list[int]] = []
        self.start, self.end = self.state(), self.state()
        self._add(tree, self.start, self.end)

    def state(self) -> int:
        """Return a new state."""
        if len(self.arcs) == MAX_COPIES:
            raise TooLargeError
        self.arcs.append([])
        self.steps.append([])
        return len(self.arcs) - 1

    def _add(self, tree: Tree, start: int, end: int) -> None:
        kind, *parts = tree
        if kind == "set":
            self.arcs[start].append((parts[0], end))
        elif kind == "any":
            for part in parts:
                self._add(part, start, end)
        elif kind == "all":
            for part in parts:
                middle = self.state()
                self._add(part, start, middle)
                start = middle
            self.steps[start].append(end)
        else:
            self._times(parts[0], parts[1], parts[2], start, end)

    def _times(self, tree: Tree, least: int, most: int | None, start: int, end: int) -> None:
        for _ in range(least):
            after = self.state()
            self._add(tree, start, after)
            start = after
        for _ in range(1 if most is None else most - least):
            before, after = self.state(), self.state()
            self.steps[start] += [before, end]
            self._add(tree, before, after)
            if most is None:
                self.steps[after].append(before)
            start = after
        self.steps[start].append(end)

    def closed(self, states: Iterable[int]) -> frozenset[int]:
        """Return the states that can be reached without a character."""
        found, todo = set(states), list(states)
        while todo:
            for after in self.steps[todo.pop()]:
                if after not in found:
                    found.add(after)
                    todo.append(after)
        return frozenset(found)

    def accepts(self, text: str) -> bool:
        """Return whether a text meets the condition."""
        states = self.closed([self.start])
        for char in text:
            code = ord(char)
            arcs = [arc for state in states for arc in self.arcs[state]]
            states = self.closed({after for ranges, after in arcs if within(code, ranges)})
        return self.end in states


def literal(text: str) -> Tree:
    """Return the tree of one text."""
    return ("all", *(("set", ((ord(char), ord(char)),)) for char in text))


def other_than(texts: Iterable[str], chars: Ranges) -> Condition:
    """Return the condition of being none of some texts, over an alphabet."""
    made = Condition(("any",))
    nodes: dict[str, int] = {"": made.start}
    children: dict[str, set[str]] = {"": set()}
    given = set(texts)
    for text in given:
        for length, char in enumerate(text):
            before = text[:length]
            children[before].add(char)
            if before + char not in nodes:
                nodes[before + char] = made.state()
                children[before + char] = set()
    free = made.state()
    made.arcs[free].append((chars, free))
    made.steps[free].append(made.end)
    for before, state in nodes.items():
        made.arcs[state] += [(((ord(char), ord(char)),), nodes[before + char]) for char in children[before]]
        taken = complement([(ord(char), ord(char)) for char in children[before]])
        made.arcs[state].append((common(taken, chars), free))
        if before not in given:
            made.steps[state].append(made.end)
    return made


def machine(conditions: Sequence[Condition]) -> Machine | None:
    """Return the machine of all texts that meet every condition; None where none does.

    Raises:
        TooLargeError: it has more than `MAX_STATES` states.
    """
    start = tuple(condition.closed([condition.start]) for condition in conditions)
    return _explored(
        start,
        lambda sets: _followed(conditions, sets),
        lambda sets: all(one.end in states for one, states in zip(conditions, sets, strict=True)),
    )


def bounded(found: Machine, least: int, most: int | None) -> Machine | None:
    """Return the machine of those texts of another one that have so many characters; None where none has.

    Raises:
        TooLargeError: it has more than `MAX_STATES` states.
    """
    limit = least if most is None else most

    def after(state: tuple[int, int]) -> Iterator[tuple[Ranges, tuple[int, int]]]:
        if most is None or state[1] < most:
            for ranges, reached in found.arcs[state[0]]:
                yield ranges, (reached, min(state[1] + 1, limit))

    return _explored((0, 0), after, lambda state: state[0] in found.accepting and state[1] >= least)


def _explored(
    start: Any, after: Callable[[Any], Iterator[tuple[Ranges, Any]]], ends: Callable[[Any], bool]
) -> Machine | None:
    numbers, states = {start: 0}, [start]
    arcs: list[list[tuple[Ranges, int]]] = []
    for state in states:  # which grows meanwhile
        arcs.append([])
        for ranges, reached in after(state):
            if reached not in numbers:
                if len(states) == 4 * MAX_STATES:
                    raise TooLargeError
                numbers[reached] = len(states)
                states.append(reached)
            arcs[-1].append((ranges, numbers[reached]))
    return _trimmed(arcs, [number for number, state in enumerate(states) if ends(state)])


def _trimmed(arcs: list[list[tuple[Ranges, int]]], accepting: list[int]) -> Machine | None:
    """Leave out the states from which no text can end."""
    sources: dict[int, list[int]] = {}
    for state, going in enumerate(arcs):
        for _, after in going:
            sources.setdefault(after, []).append(state)
    alive, todo = set(accepting), list(accepting)
    while todo:
        new = [state for state in sources.get(todo.pop(), ()) if state not in alive]
        alive.update(new)
        todo += new
    if 0 not in alive:
        return None
    if len(alive) > MAX_STATES:
        raise TooLargeError
    numbers = {state: number for number, state in enumerate(sorted(alive))}
    kept = [
        tuple((ranges, numbers[after]) for ranges, after in arcs[state] if after in alive) for state in sorted(alive)
    ]
    return Machine(tuple(kept), frozenset(numbers[state] for state in accepting))


def _followed(conditions: Sequence[Condition], sets: _Sets) -> Iterator[tuple[Ranges, _Sets]]:
    """Yield each set of states that a character leads to, with all characters that do."""
    arcs = [
        [arc for state in states for arc in condition.arcs[state]]
        for condition, states in zip(conditions, sets, strict=True)
    ]
    edges = sorted(
        {edge for going in arcs for ranges, _ in going for first, last in ranges for edge in (first, last + 1)}
    )
    found: dict[_Sets, list[tuple[int, int]]] = {}
    for first, behind in pairwise(edges):
        reached = [frozenset(after for ranges, after in going if within(first, ranges)) for going in arcs]
        if all(reached):
            key = tuple(reached)
            if key in found and found[key][-1][1] == first - 1:
                found[key][-1] = (found[key][-1][0], behind - 1)
            else:
                found.setdefault(key, []).append((first, behind - 1))
    for key, ranges in found.items():
        yield tuple(ranges), tuple(one.closed(states) for one, states in zip(conditions, key, strict=True))
