"""Which digits may be written so that a number lies within bounds?

One rule: numbers are compared as decimal texts of at most 15 significant digits, which are all different as doubles;
so a text that lies within the bounds is also within them after it was read.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

from nativeload.value import Value
from nativeload_llama.grammar.automata import Condition, literal, machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nativeload_llama.grammar.automata import Machine, Tree
    from nativeload_llama.grammar.code_points import Ranges

DIGITS = 15
_MOST_DIGITS = 19  # of an integer whose bounds ask for them

_DIGIT: Tree = ("set", ((48, 57),))
_ONE_TO_NINE: Tree = ("set", ((49, 57),))
_POINT: Tree = ("set", ((46, 46),))
_NOTHING: Tree = ("all",)


class Bound(Value):
    """A limit on one side; ``open`` where the number itself is left out."""

    number: Decimal
    open: bool = False


class Bounds(Value):
    """The limits of a number, what it is a multiple of (0: anything), and whether it is an integer."""

    low: Bound | None = None
    high: Bound | None = None
    multiple: int = 0
    integer: bool = False

    def holds(self, number: Decimal) -> bool:
        """Return whether a number is within."""
        low, high = self.low, self.high
        if low and not (number > low.number or (number == low.number and not low.open)):
            return False
        if high and not (number < high.number or (number == high.number and not high.open)):
            return False
        if not (self.integer or self.multiple):
            return True
        return number == number.to_integral_value() and (not self.multiple or int(number) % self.multiple == 0)


def machines(bounds: Bounds) -> tuple[Machine | None, Machine | None]:
    """Return the machines of the numbers from 0 on, and of those below 0 (written without their sign).

    Raises:
        TooLargeError: the multiple, or the digits of the bounds, make them too large.
    """
    zero = Decimal(0)
    low, high = bounds.low, bounds.high
    positive = _machine(bounds, low if low and low.number >= 0 else Bound(zero), high)
    mirrored = _mirrored(high) if high and high.number < 0 else Bound(zero, open=True)
    negative = _machine(bounds, mirrored, _mirrored(low) if low else None)
    return positive, negative


def _mirrored(bound: Bound) -> Bound:
    number = bound.number
    return Bound(number.copy_negate() if number else number, bound.open)


def _machine(bounds: Bounds, low: Bound, high: Bound | None) -> Machine | None:
    if (high and high.number < 0) or low.number.adjusted() >= _MOST_DIGITS:
        return None
    conditions = [Condition(_shape(bounds, low, high)), Condition(_at_least(_rounded(low, ROUND_CEILING)))]
    if high and high.number.adjusted() < _MOST_DIGITS:
        conditions.append(Condition(_at_most(_rounded(high, ROUND_FLOOR))))
    if bounds.multiple > 1:
        conditions.append(_multiples(bounds.multiple))
    return machine(conditions)


def _rounded(bound: Bound, rounding: str) -> Bound:
    """Return the bound for numbers with as many digits behind the point as are written at most."""
    with localcontext() as context:
        context.prec = _MOST_DIGITS + DIGITS + 1
        number = bound.number.quantize(Decimal(1).scaleb(-DIGITS), rounding=rounding)
    return Bound(number, bound.open and number == bound.number)


def _shape(bounds: Bounds, low: Bound, high: Bound | None) -> Tree:
    """Return what a number looks like: no zeros in front, and so many digits in all."""
    if bounds.integer:
        wanted = 1 + max(bound.number.adjusted() if bound and bound.number else 0 for bound in (low, high))
        return ("any", literal("0"), _integer(1, wanted if DIGITS < wanted <= _MOST_DIGITS else DIGITS))
    kinds = [("all", _integer(length, length), _fraction(DIGITS - length)) for length in range(1, DIGITS)]
    return ("any", *kinds, ("all", literal("0"), _fraction(DIGITS)), _integer(DIGITS, DIGITS))


def _integer(least: int, most: int) -> Tree:
    return ("all", _ONE_TO_NINE, ("times", _DIGIT, least - 1, most - 1))


def _fraction(digits: int | None) -> Tree:
    return ("times", ("all", _POINT, ("times", _DIGIT, 1, digits)), 0, 1)


def _parts(number: Decimal) -> tuple[str, str]:
    whole, _, fraction = f"{number:f}".partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


def _between(first: int, last: int) -> Tree | None:
    ranges: Ranges = ((48 + first, 48 + last),)
    return ("set", ranges) if first <= last else None


def _digits(count: int) -> Tree:
    return ("times", _DIGIT, count, count)


def _at_least(bound: Bound) -> Tree:
    whole, fraction = _parts(bound.number)
    found: list[Tree] = [("all", _ONE_TO_NINE, ("times", _DIGIT, len(whole), None), _fraction(None))]
    for place, digit in enumerate(whole):
        if larger := _between(int(digit) + 1, 9):
            rest = len(whole) - place - 1
            found.append(("all", literal(whole[:place]), larger, _digits(rest), _fraction(None)))
    found.append(("all", literal(whole), _at_least_behind(fraction, is_open=bound.open)))
    return ("any", *found)


def _at_least_behind(fraction: str, *, is_open: bool) -> Tree:
    some: Tree = ("times", _DIGIT, 0, None)
    beyond: Tree = ("all", some, _ONE_TO_NINE, some) if is_open else some
    if not fraction:
        return ("all", _POINT, beyond) if is_open else _fraction(None)
    found: list[Tree] = [("all", _POINT, literal(fraction), beyond)]
    for place, digit in enumerate(fraction):
        if larger := _between(int(digit) + 1, 9):
            found.append(("all", _POINT, literal(fraction[:place]), larger, some))
    return ("any", *found)


def _at_most(bound: Bound) -> Tree:
    whole, fraction = _parts(bound.number)
    found: list[Tree] = []
    if len(whole) > 1:
        short: Tree = ("any", literal("0"), ("all", _ONE_TO_NINE, ("times", _DIGIT, 0, len(whole) - 2)))
        found.append(("all", short, _fraction(None)))
    for place, digit in enumerate(whole):
        if smaller := _between(0 if place or len(whole) == 1 else 1, int(digit) - 1):
            rest = len(whole) - place - 1
            found.append(("all", literal(whole[:place]), smaller, _digits(rest), _fraction(None)))
    found.append(("all", literal(whole), _at_most_behind(fraction, is_open=bound.open)))
    return ("any", *found)


def _at_most_behind(fraction: str, *, is_open: bool) -> Tree:
    some: Tree = ("times", _DIGIT, 0, None)
    zeros: Tree = ("times", literal("0"), 0, None)
    if not fraction:
        return ("any",) if is_open else ("any", _NOTHING, ("all", _POINT, literal("0"), zeros))
    found: list[Tree] = [_NOTHING]
    for place, digit in enumerate(fraction):
        if place:
            found.append(literal(f".{fraction[:place]}"))
        if smaller := _between(0, int(digit) - 1):
            found.append(("all", _POINT, literal(fraction[:place]), smaller, some))
    if not is_open:
        found.append(("all", literal(f".{fraction}"), zeros))
    return ("any", *found)


def _multiples(divisor: int) -> Condition:
    """Return the condition that an integer is a multiple: its states are the remainders so far."""
    made = Condition(("any",))
    states = [made.start, *(made.state() for _ in range(divisor))]
    for remainder, state in enumerate(states, -1):
        for digit in range(10):
            after = states[1 + (10 * max(remainder, 0) + digit) % divisor]
            made.arcs[state].append((((48 + digit, 48 + digit),), after))
    made.steps[states[1]].append(made.end)
    return made
