"""What may a stranger's chat template do, and for how long?

One rule: a template sees plain JSON values and a short list of filters and methods, and pays for every step from a
budget before it is taken.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from types import BuiltinMethodType

from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS, do_indent, make_attrgetter
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Namespace, pass_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from jinja2 import nodes

# A step takes about a microsecond: a turn of a loop, an element of a list, so many letters read, or so many written.
# The steps for each letter of the input let templates through that add every message to one growing text.
_STEPS, _STEPS_PER_LETTER, _READ, _WRITTEN, _CALL = 500_000, 32, 32, 64, 4
_LARGEST = 1 << 26  # letters and elements of one value, counted as often as they would be written
_DEEPEST = 100  # lists in lists: CPython's hash() of a tuple 100,000 deep is a segmentation fault
_BITS = 4096  # of a whole number
_NARROW = 80  # letters: an indent, a separator, or what is stripped off

_TEXT_METHODS = (
    "capitalize count endswith find format index isalnum isalpha isdecimal isdigit islower isnumeric isspace isupper"
    " join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split"
    " splitlines startswith strip title upper"
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
_READING_FILTERS = "capitalize dictsort e escape float int lower max min safe sort string title unique upper"
_LISTING_FILTERS = "abs count d default first items last length map reject rejectattr reverse select selectattr"
_READING_TESTS = "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne"
_LOOKING_TESTS = (
    "boolean callable defined divisibleby even false float integer iterable mapping none number odd sameas sequence"
    " string true undefined"
)
COMPARISONS = {"eq": "eq", "ne": "ne", "lt": "lt", "lteq": "le", "gt": "gt", "gteq": "ge"}
_PLAIN_FIELD = re.compile(r"\{\{|\}\}|\{\w*(?::(?:\d{0,2}[^{}\d])*\d{0,2})?\}")


class RefusalError(Exception):
    """The template called raise_exception(): its own words."""


class LimitError(RuntimeError):
    """The template asks for more than it may."""


def _raise_exception(message: object = "") -> None:
    raise RefusalError(message)


def _strftime_now(form: str) -> str:
    from datetime import datetime

    if len(form) > _NARROW:
        raise LimitError("a very long date")
    return datetime.now().astimezone().strftime(form)


class _Names(Namespace):
    """Jinja's namespace() without a text form, which would hold whatever lies in it."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """The tag around what the assistant wrote, for training: its body is written as it stands."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _unfolded(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that wants the context: Jinja's compiler cannot have its value beforehand."""

    @pass_context
    def unfolded(_context: Context, *values: Any) -> Any:
        return step(*values)

    return unfolded


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 with the settings of transformers, and a budget for one rendering at a time."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _Generation],
            finalize=self.printed,
        )
        self.globals = {"range": safe_range, "dict": dict, "namespace": _Names}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.tests = {name: TESTS[name] for name in _LOOKING_TESTS.split()}
        self.tests |= {name: self._paid(TESTS[name]) for name in _READING_TESTS.split()}
        self.filters = {name: self._paid(FILTERS[name], reads=False) for name in _LISTING_FILTERS.split()}
        self.filters |= {name: self._paid(FILTERS[name]) for name in _READING_FILTERS.split()}
        for own in (self._indent, self._join, self._replace, self._trim, self._tojson, self._from_json):
            self.filters[own.__name__[1:]] = self._paid(own)
        self.filters["list"] = self._paid(self._list, reads=False)
        for step in (self.turn, self.seen, self.compared, self.joined):
            self.filters[f"<{step.__name__}>"] = _unfolded(step)
        self.refill({})

    def refill(self, values: Mapping[str, Any]) -> None:
        """Begin a rendering: the budget grows with what is given."""
        self._known: dict[int, tuple[object, int, int]] = {}  # a container's size and depth; held, so that ids stay
        self.left = _LARGEST
        self.left = _STEPS + _STEPS_PER_LETTER * self.measured(dict(values))[0]

    # What is paid for

    def spend(self, steps: int) -> None:
        """Take steps from the budget.

        Raises:
            LimitError: so many are not left.
        """
        self.left -= steps
        if self.left < 0:
            raise LimitError("it does more work than a chat template needs")

    def measured(self, value: object) -> tuple[int, int]:
        """Return how many letters and elements a value has when all of it is written, and how deep it is."""
        if isinstance(value, str):
            return len(value), 0
        if isinstance(value, int) and value.bit_length() > _BITS:
            raise LimitError(f"a number of more than {_BITS} bits")
        if isinstance(value, range):
            return len(value), 0
        if not isinstance(value, list | tuple | dict):
            return 1, 0
        if id(value) not in self._known:
            children = [*value, *value.values()] if isinstance(value, dict) else value
            self.spend(len(children))
            sizes, depths = zip((1, 0), *map(self.measured, children), strict=True)
            if sum(sizes) > _LARGEST or max(depths) >= _DEEPEST:
                raise LimitError("a value that is too large or too deep")
            self._known[id(value)] = value, sum(sizes), max(depths) + 1
        return self._known[id(value)][1:]

    def read(self, *values: object) -> None:
        """Pay for looking at all of each value."""
        for value in values:
            elements = len(value) if isinstance(value, list | tuple | dict | range) else 1
            self.spend(elements + self.measured(value)[0] // _READ)

    def seen(self, value: Any) -> Any:
        """Pay for a value that was made, and return it."""
        if isinstance(value, str):
            self.spend(len(value) // _WRITTEN)
            return value
        if isinstance(value, Iterator):
            return self._turning(value)
        if isinstance(value, KeysView | ValuesView | ItemsView):
            value = list(value)
        self.measured(value)
        return value

    def _turning(self, elements: Iterator[Any]) -> Iterator[Any]:
        for element in elements:
            self.spend(1)
            self.measured(element)
            yield element

    def _paid(self, function: Any, *, reads: bool = True) -> Callable[..., Any]:
        @functools.wraps(function)  # with it goes the mark of those that want the context
        def paid(*values: Any, **named: Any) -> Any:
            self.spend(_CALL)
            if reads:
                self.read(*values, *named.values())
            return self.seen(function(*values, **named))

        return paid

    # What Jinja's compiled code calls

    def turn(self, _nothing: None) -> bool:
        """Pay for one turn of a loop."""
        self.spend(1)
        return True

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow the methods of the list above, and what loops and namespaces have."""
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return isinstance(obj, Namespace | LoopContext) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return str.format() as it may be used: with plain fields, whose widths are small."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def formatted(*values: Any, **named: Any) -> str:
            form: str = value.__self__
            if "{" in _PLAIN_FIELD.sub("", form):
                raise LimitError("a format with more than plain fields")
            for _ in range(form.count("{")):
                self.read(*values, *named.values())
            return wrapped(*values, **named)

        return formatted

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an element, whose key is not too deep to be hashed."""
        self.measured(argument)  # it is hashed where obj is a mapping
        return super().getitem(obj, argument)

    def call(self, context: Any, obj: Any, /, *values: Any, **named: Any) -> Any:
        """Call a macro, a method or a function."""
        self.spend(_CALL)
        owner = obj.__self__ if isinstance(obj, BuiltinMethodType) else None
        if isinstance(owner, str):
            self.read(owner, *values, *named.values())
            if obj.__name__ == "join":
                return self._join(values[0] if values else (), owner)
            if obj.__name__ == "replace":
                return self._replace(owner, *values)
            if obj.__name__.endswith("strip"):
                return self._trim(owner, *values, method=obj.__name__)
            if "split" in obj.__name__:
                self.spend(owner.count(values[0]) if values and isinstance(values[0], str) else len(owner) // 2)
        elif isinstance(owner, list | tuple):
            self.read(owner)
        elif not isinstance(obj, Macro):
            for value in (*values, *named.values()):
                self.measured(value)
        return self.seen(super().call(context, obj, *values, **named))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, where the outcome is not too large."""
        self.spend(_CALL)
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and not numbers:
            times, value = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(times, int):
                self.spend(self.measured(value)[0] * max(times, 0) // (_READ if isinstance(value, str) else 1))
        elif operator == "**" and numbers and left.bit_length() * right > _BITS:
            raise LimitError(f"a number of more than {_BITS} bits")
        elif operator == "%" and isinstance(left, str):
            raise LimitError("the operator % on text")
        return self.seen(super().call_binop(context, operator, left, right))

    def compared(self, word: str, left: Any, right: Any) -> bool:
        """Compare two values, neither of which is a constant of the template."""
        sizes = self.measured(left)[0], self.measured(right)[0]
        if word in COMPARISONS:
            self.spend(min(sizes) // _READ)
            return bool(getattr(operator, COMPARISONS[word])(left, right))
        self.spend(0 if isinstance(right, dict) else sizes[1] // _READ)
        return (left in right) == (word == "in")

    def printed(self, value: Any) -> Any:
        """Pay for a value that is about to become text."""
        if isinstance(value, str):
            self.spend(len(value) // _WRITTEN)
        elif isinstance(value, list | tuple | dict):
            self.read(value)
        elif not isinstance(value, int | float | None) and not isinstance(value, self.undefined):
            raise LimitError(f"writing a {type(value).__name__}")
        return value

    def joined(self, *values: Any) -> str:
        """Return the text of values, one after the other."""
        return "".join(str(self.printed(value)) for value in values)

    def concat(self, parts: Iterable[str]) -> str:
        """Return texts as one; this is how Jinja makes a prompt, a block or a macro's text."""
        kept = []
        for part in parts:
            self.spend(len(part) // _WRITTEN)
            kept.append(part)
        return "".join(kept)

    # Filters, and the methods that do the same

    def _list(self, value: Any) -> list[Any]:
        self.spend(len(value) if isinstance(value, str | range) else 1)
        return list(value)

    def _join(self, values: Iterable[Any], between: str = "", attribute: str | int | None = None) -> str:
        chosen = values if attribute is None else map(make_attrgetter(self, attribute), values)
        kept: list[str] = []
        for value in chosen:
            kept += [between, str(self.printed(value))] if kept else [str(self.printed(value))]
            self.spend(1 + (len(between) + len(kept[-1])) // _READ)
        return "".join(kept)

    def _replace(self, value: Any, old: str, new: str, count: int = -1) -> str:
        text = str(value)
        self.spend(text.count(old) * len(new) // _READ)
        return text.replace(old, new, count)

    def _trim(self, value: Any, letters: str | None = None, *, method: str = "strip") -> str:
        if letters is not None:
            self._check_narrow(letters)
        return str(getattr(str(value), method)(letters))

    def _indent(self, value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        self._check_narrow(width)
        self.spend((value.count("\n") + 1) * _NARROW // _READ)
        return str(do_indent(value, width, first, blank))

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        size, depth = self.measured(value)
        for given in (indent, *(separators or ())):
            self._check_narrow(given)
        if indent is not None or separators is not None:
            self.spend(size * (depth + 1) * _NARROW // (_READ * _READ))
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def _from_json(self, text: str) -> Any:
        return json.loads(text)

    def _check_narrow(self, width: object) -> None:
        if (len(width) if isinstance(width, str) else width if isinstance(width, int) else 0) > _NARROW:
            raise LimitError(f"more than {_NARROW} letters of indent, separator or what is stripped off")


__all__ = ["COMPARISONS", "LimitError", "RefusalError", "Sandbox"]
