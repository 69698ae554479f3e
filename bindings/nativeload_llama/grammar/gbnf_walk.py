"""After which text does llama.cpp have too many ways to go on with a grammar?

One rule: the rules are walked as llama.cpp walks them. It keeps one stack for each way in which the text so far can go
on, and checks every token of the vocabulary against each of them: a few thousand of them are a hang. The search is for
the worst text and has an end, so it can miss one; it is not the only limit (gbnf_cost).
"""

from __future__ import annotations

import heapq

from nativeload_llama.errors import GrammarError
from nativeload_llama.grammar.code_points import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nativeload_llama.grammar.gbnf import Element, Rules

    Stack = tuple[int, int]  # a place in the rules, and the number of the stack below it

MAX_STACKS = 1024  # with 128,000 tokens llama.cpp needs 2 to 4 seconds for each token it draws
MAX_STEPS = 10_000  # from one stack to those it becomes, 200 bytes each: builds up to b8390 recurse for them
_MAX_WORK = 50_000  # stacks that a set of stacks becomes, each counted as often as it is met: 10 ms
MAX_WALKS = 1_000_000  # ways through one token
_RUN = 64  # characters: the longest tokens of common vocabularies are runs of one character
_PATIENCE = 256  # sets of stacks looked at without meeting one that is twice as large
_LITTLE_PATIENCE = 32  # the same, from a rule that was not met before
_WORK = 200_000  # stacks looked at in all
_DOUBLED = 6  # times that the sets became twice as large until then
_HEIGHT = 40  # of stacks whose places could all be left out
_END = -1
_NOTHING: frozenset[int] = frozenset()

HINT = 'Write once what alternatives begin with: "a" ("b" | "c") for "ab" | "ac", and t (op t)* for t op x | t.'


def fault(rules: Rules, number: int, reason: str, hint: str = "") -> GrammarError:
    """Return the error of a rule, with its line."""
    return GrammarError(f"in the rule {rules.names[number]}: {reason}", where=f"line {rules.lines[number]}", hint=hint)


class Walk:
    """The rules as llama.cpp walks them: sets of stacks, each a place of a character and the stack below it."""

    def __init__(self, rules: Rules, nullable: list[bool]) -> None:
        self.rules = rules
        self.elements: list[Element | None] = []  # None ends an alternative
        self.owners: list[int] = []
        self.starts: list[list[int]] = []
        for number, alternatives in enumerate(rules.alternatives):
            self.starts.append([])
            for alternative in alternatives:
                self.starts[-1].append(len(self.elements))
                self.elements += [*alternative, None]
                self.owners += [number] * (len(alternative) + 1)
        self.empty = self._empty(nullable)
        self.below: list[Stack] = []
        self.heights: list[int] = []  # for each of these, how many could be left out before one that could not
        self.under: list[frozenset[int]] = []  # and all places in it
        self.numbers: dict[Stack, int] = {}
        self.known: dict[Stack, tuple[Stack, ...]] = {}
        self.runs: set[tuple[frozenset[int], int, int]] = set()
        self.visited: set[int] = set()  # rules of which a character was stood before
        self.work = 0

    def _empty(self, nullable: list[bool]) -> list[bool]:
        """Return for each place whether nothing has to follow up to the end of its alternative."""
        found = [True] * len(self.elements)
        for place in range(len(self.elements) - 1, -1, -1):
            element = self.elements[place]
            if element is not None:
                found[place] = isinstance(element, int) and nullable[element] and found[place + 1]
        return found

    def search(self) -> None:
        """Look for a text after which there are too many stacks: from the root, then in rules it was not led to.

        Raises:
            GrammarError: there is one.
        """
        self._search(self.rules.root, _PATIENCE)
        for number in range(len(self.starts)):
            if number not in self.visited and self.work < 2 * _WORK:
                self._search(number, _LITTLE_PATIENCE)

    def _search(self, number: int, enough: int) -> None:
        """Walk from one rule, to the most stacks first, until so many sets of them were no larger than before."""
        first = self._followed([(start, _END) for start in self.starts[number]], "")
        seen, most, patience, doubled = {self._look(first)}, 1, enough, 0
        begun = self.work
        todo = [(-len(first), 0, "", first)]
        while todo and patience:
            _, _, text, stacks = heapq.heappop(todo)
            patience -= 1
            self.visited.update(self.owners[place] for place, _ in stacks if place != _END)
            if self.work > begun + _WORK:
                if doubled < _DOUBLED:
                    return
                raise self._too_many(
                    stacks, f"the ways to go on double again and again: {len(stacks)} after {_cut(text)}"
                )
            if len(stacks) >= 2 * most:
                most, patience, doubled = len(stacks), enough, doubled + 1
            for char, tops in self._groups(stacks):
                longer = text + chr(char)
                after = self._followed([(place + 1, below) for place, below in tops], longer)
                if len(after) > 1:
                    self._check_run(after, longer, char)
                if (look := self._look(after)) not in seen:
                    seen.add(look)
                    heapq.heappush(todo, (-len(after), -len(seen), longer, after))

    def _look(self, stacks: frozenset[Stack]) -> tuple[int, int, frozenset[tuple[int, frozenset[int]]]]:
        """Return what sets of stacks are taken for the same by: in what lies below a place, nesting twice is as once.

        How many places follow each other that could all be left out is looked at, for each makes one more way on.
        """
        looks = frozenset((place, self.under[below] if below != _END else _NOTHING) for place, below in stacks)
        height = max((self.heights[below] for _, below in stacks if below != _END), default=0)
        return len(stacks), min(height, _HEIGHT), looks

    def _followed(self, stacks: list[Stack], text: str) -> frozenset[Stack]:
        """Return what stacks become after a text."""
        found: set[Stack] = set()
        before = self.work
        for stack in stacks:
            found.update(self._advanced(stack))
            if len(found) > MAX_STACKS or self.work > before + _MAX_WORK:
                raise self._too_many(found, f"after {_cut(text)} there are more than {MAX_STACKS} ways to go on")
        return frozenset(found)

    def _check_run(self, stacks: frozenset[Stack], text: str, char: int) -> None:
        """Count the ways through a token that repeats one character: within a token llama.cpp does not merge stacks."""
        key = (frozenset(place for place, _ in stacks), len(stacks).bit_length(), char)
        if key in self.runs:
            return
        self.runs.add(key)
        counts = dict.fromkeys(stacks, 1)
        for length in range(1, _RUN + 1):
            before = sum(counts.values())
            counts = self._stepped(counts, char, f"after {_cut(text)} and {length} times {chr(char)!r}")
            walks = sum(counts.values())
            if walks <= before and length > 1:  # the first step leaves the stacks of other characters behind
                return

    def _stepped(self, counts: dict[Stack, int], char: int, text: str) -> dict[Stack, int]:
        """Return the stacks after one more character, and in how many ways each is come by."""
        after: dict[Stack, int] = {}
        for (place, below), count in counts.items():
            if place != _END and self._matches(place, char):
                for stack in self._advanced((place + 1, below)):
                    after[stack] = after.get(stack, 0) + count
            if len(after) > MAX_STACKS:
                raise self._too_many(after, f"{text} there are more than {MAX_STACKS} ways to go on")
        if sum(after.values()) > MAX_WALKS:
            raise self._too_many(after, f"{text} there are more than {MAX_WALKS} ways to have come there")
        return after

    def _matches(self, place: int, char: int) -> bool:
        element = self.elements[place]
        return isinstance(element, tuple) and within(char, element)

    def _too_many(self, stacks: Iterable[Stack], reason: str) -> GrammarError:
        owners = [self.owners[place] for place, _ in stacks if place != _END]
        return fault(self.rules, max(set(owners), key=owners.count), reason, HINT)

    def _advanced(self, stack: Stack) -> tuple[Stack, ...]:
        """Return the stacks that end at a character, or are empty, which one stack becomes."""
        known = self.known.get(stack)
        if known is None:
            known = self.known[stack] = tuple(dict.fromkeys(self._advance(stack)))
        self.work += len(known)
        return known

    def _advance(self, stack: Stack) -> Iterator[Stack]:
        todo, steps = [stack], 0
        while todo:
            place, below = todo.pop()
            steps += 1
            if steps > MAX_STEPS:
                raise self._too_many([stack], f"there are more than {MAX_STACKS} ways to go on at one place")
            element = self.elements[place]
            if element is None:
                if below == _END:
                    yield (_END, _END)
                    continue
                new = [self.below[below]]
            elif isinstance(element, int):
                under = below if self.elements[place + 1] is None else self._pushed((place + 1, below))
                new = [(start, under) for start in self.starts[element]]
            else:
                yield (place, below)
                continue
            self.work += len(new)
            todo += new

    def _pushed(self, stack: Stack) -> int:
        if stack not in self.numbers:
            self.numbers[stack] = len(self.below)
            self.below.append(stack)
            place, below = stack
            height = 0 if below == _END else self.heights[below]
            self.heights.append(1 + height if self.empty[place] else 0)
            under = _NOTHING if below == _END else self.under[below]
            self.under.append(under if place in under else under | {place})
        return self.numbers[stack]

    def _groups(self, stacks: Iterable[Stack]) -> Iterator[tuple[int, list[Stack]]]:
        """Yield one character for each set of stacks that it can go on with, and the set."""
        events: dict[int, list[tuple[bool, Stack]]] = {}
        for stack in stacks:
            element = self.elements[stack[0]] if stack[0] != _END else ()
            for first, last in element if isinstance(element, tuple) else ():
                events.setdefault(first, []).append((True, stack))
                events.setdefault(last + 1, []).append((False, stack))
        active: set[Stack] = set()
        seen = set()
        for char in sorted(events):
            for begins, stack in events[char]:
                (active.add if begins else active.discard)(stack)
            key = frozenset(active)
            if active and key not in seen:
                seen.add(key)
                yield char, list(active)


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:20]}...{text[-20:]}") if text else "the beginning"  # noqa: PLR2004
