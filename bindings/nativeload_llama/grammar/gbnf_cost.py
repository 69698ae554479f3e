"""Can llama.cpp load these rules without endless or deep recursion, and use them at a bearable price?

One rule: what can be counted is counted here, for every place of every rule; what depends on the text is left to
gbnf_walk.
"""

from __future__ import annotations

from nativeload_llama.grammar.gbnf_walk import HINT, MAX_STACKS, MAX_STEPS, Walk, fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nativeload_llama.errors import GrammarError
    from nativeload_llama.grammar.gbnf import Element, Rules

MAX_DEPTH = 512  # C++ recurses this deep on load, with 170 bytes a time
_ENOUGH = 1_000_000  # more need not be counted
MAX_VISITS = 1_000_000  # of a rule on load, 10 ns each: llama.cpp forgets where it was


def check(rules: Rules) -> None:
    """Refuse rules that llama.cpp would not end with, or not soon.

    Raises:
        GrammarError: with the line of the rule at fault.
    """
    nullable = _nullable(rules)
    lefts = [_lefts(rules, number, nullable) for number in range(len(rules.names))]
    order = _ordered(rules, lefts)
    _check_load(rules, lefts, order)
    _check_ways(rules, order)
    Walk(rules, nullable).search()


def _nullable(rules: Rules) -> list[bool]:
    """Return for each rule whether it can match the empty text."""
    users: list[list[int]] = [[] for _ in rules.names]
    for number, alternatives in enumerate(rules.alternatives):
        for alternative in alternatives:
            for element in alternative:
                if isinstance(element, int):
                    users[element].append(number)
    found = [False] * len(rules.names)
    todo = list(range(len(rules.names)))
    while todo:
        number = todo.pop()
        if not found[number] and any(_empty(alternative, found) for alternative in rules.alternatives[number]):
            found[number] = True
            todo += users[number]
    return found


def _empty(alternative: tuple[Element, ...], nullable: list[bool]) -> bool:
    return all(isinstance(element, int) and nullable[element] for element in alternative)


def _first(alternative: tuple[Element, ...], nullable: list[bool]) -> Iterator[Element]:
    """Yield the elements that a text of this alternative can begin with."""
    for element in alternative:
        yield element
        if not isinstance(element, int) or not nullable[element]:
            return


def _lefts(rules: Rules, number: int, nullable: list[bool]) -> list[int]:
    """Return the rules that a rule can begin with, as often as it can."""
    found = (_first(alternative, nullable) for alternative in rules.alternatives[number])
    return [element for elements in found for element in elements if isinstance(element, int)]


def _ordered(rules: Rules, lefts: list[list[int]]) -> list[int]:
    """Return all rules, each after those that it can begin with.

    Raises:
        GrammarError: a rule can begin with itself; llama.cpp finds only the plain cases.
    """
    order: list[int] = []
    state = [0] * len(lefts)  # 1: being looked at, 2: done
    for root in range(len(lefts)):
        todo = [] if state[root] else [(root, iter(lefts[root]))]
        state[root] = state[root] or 1
        while todo:
            number, rest = todo[-1]
            child = next(rest, None)
            if child is None:
                state[number] = 2
                order.append(number)
                todo.pop()
            elif state[child] == 1:
                raise _recursion(rules, child)
            elif not state[child]:
                state[child] = 1
                todo.append((child, iter(lefts[child])))
    return order


def _recursion(rules: Rules, number: int) -> GrammarError:
    reason = "it can begin with itself (left recursion), or repeats what can be empty"
    return fault(rules, number, reason, "Write list ::= item+ instead of list ::= list item, and a* instead of (a?)*.")


def _check_load(rules: Rules, lefts: list[list[int]], order: list[int]) -> None:
    """Hold llama.cpp's own search for left recursion to a depth and a number of visits."""
    depth, visits, total = [0] * len(lefts), [0] * len(lefts), 0
    for number in order:
        depth[number] = 1 + max((depth[child] for child in lefts[number]), default=0)
        visits[number] = 1 + sum(visits[child] for child in lefts[number])
        total += visits[number]
        if depth[number] > MAX_DEPTH:
            raise fault(rules, number, f"it begins with a chain of more than {MAX_DEPTH} rules")
        if total > MAX_VISITS:
            raise fault(rules, number, f"there are more than {MAX_VISITS} ways through the rules it begins with", HINT)


def _check_ways(rules: Rules, order: list[int]) -> None:
    """Count the stacks that each place becomes, and the steps to them, at most.

    Older builds take each way through the empty text for itself, and recurse for each step.
    """
    counts = [(0, 0, 0)] * len(order)
    for number in order:  # what a rule begins with is counted before it
        ends = [_counted(alternative, counts)[0] for alternative in rules.alternatives[number]]
        ways, steps, empties = (sum(column) for column in zip(*ends, strict=True))
        counts[number] = (ways, 1 + steps, empties)
        if max(ways, empties) > MAX_STACKS or steps >= MAX_STEPS:
            raise fault(rules, number, f"it can begin in more than {MAX_STACKS} ways", HINT)
    for number, alternatives in enumerate(rules.alternatives):
        for alternative in alternatives:
            if any(ways > MAX_STACKS or steps > MAX_STEPS for ways, steps, _ in _counted(alternative, counts)):
                raise fault(rules, number, f"there are more than {MAX_STACKS} ways to go on at one place", HINT)


def _counted(alternative: tuple[Element, ...], counts: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return for each place, its end too: the ways to go on, the steps to them, the ways through the empty text."""
    found = [(0, 1, 1)]
    for element in reversed(alternative):
        if isinstance(element, int):
            (ways, steps, empties), (more, further, rest) = counts[element], found[-1]
            ways, steps = min(ways + empties * more, _ENOUGH), min(steps + empties * further, _ENOUGH)
            found.append((ways, steps, min(empties * rest, _ENOUGH)))
        else:
            found.append((1, 1, 0))
    return found[::-1]
