"""How are frozen values and fixed words made where every millisecond of start-up counts?

One rule: a value is what its annotations say: slotted, frozen, equal by its fields. It reads and type-checks as a
frozen dataclass (PEP 681) and costs less: `import dataclasses` brings inspect, ast and tokenize, and each class runs
exec seven times. With dataclasses, benchmarks/cold_start.py measured 3.8 to 4.2 times the floor for a split build, and
2.8 times without (limit: 4.0, and less than `import xllamacpp`, which only the second one is).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import StrEnum
    from typing import Any, Self, TypeVar, dataclass_transform

    Word = StrEnum
    Some = TypeVar("Some", bound="Value")
else:

    class _WordType(type):
        """Turns a class's texts into its members."""

        def __new__(cls, name, bases, body):  # noqa: ANN001, ANN204 - typed by enum.StrEnum above
            texts = {key: value for key, value in body.items() if not key.startswith("_") and isinstance(value, str)}
            rest = {key: value for key, value in body.items() if key not in texts}
            made = super().__new__(cls, name, bases, {"__slots__": (), **rest})
            made._members = {}
            for key, text in texts.items():
                made._members[text] = str.__new__(made, text)
                type.__setattr__(made, key, made._members[text])
            return made

        def __call__(cls, text):  # noqa: ANN001, ANN204
            try:
                return cls._members[text]
            except (KeyError, TypeError):
                raise ValueError(f"{text!r} is not a valid {cls.__name__}") from None

        def __iter__(cls):  # noqa: ANN204
            return iter(cls._members.values())

        def __len__(cls):  # noqa: ANN204
            return len(cls._members)

        def __contains__(cls, text):  # noqa: ANN001, ANN204
            return text in cls._members

        def __setattr__(cls, name, value):  # noqa: ANN001, ANN204
            if "_members" in cls.__dict__ and name != "_members":
                raise AttributeError(f"{cls.__name__} is fixed: {name} cannot be set")
            super().__setattr__(name, value)

    class Word(str, metaclass=_WordType):
        """One of a fixed set of texts: what enum.StrEnum is, for those who use no more of it than this.

        ``import enum`` costs 3.4 ms, a tenth of the way to the first call into libllama.
        """

        __slots__ = ()

        @property
        def value(self):  # noqa: ANN201
            """The text, as plain text."""
            return str(self)

        def __str__(self):  # noqa: ANN204
            return str.__getitem__(self, slice(None))  # plain text: what leaves here is no Word

        def __repr__(self):  # noqa: ANN204
            return f"<{type(self).__name__} {str.__repr__(self)}>"

        def __reduce__(self):  # noqa: ANN204
            return type(self), (str(self),)

    def dataclass_transform(**_: object):  # noqa: ANN201, D103 - typing's marker does nothing at run time
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class _ValueType(type):
    """Turns a class's annotations into slots, and their values into defaults."""

    _fields: tuple[str, ...]
    _defaults: dict[str, object]
    _kw_only: bool

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        body: dict[str, Any],
        *,
        kw_only: bool = False,
        eq: bool = True,
    ) -> _ValueType:
        own = tuple(body.get("__annotations__", ()))
        parent = next((base for base in bases if isinstance(base, _ValueType)), None)
        fields = (*(parent._fields if parent else ()), *own)
        defaults = {
            **(parent._defaults if parent else {}),
            **{field: body.pop(field) for field in own if field in body},
        }
        if not eq:
            body |= {"__eq__": object.__eq__, "__hash__": object.__hash__}
        made = super().__new__(cls, name, bases, {**body, "__slots__": own})
        made._fields, made._defaults, made._kw_only = fields, defaults, kw_only
        return made


class Value(metaclass=_ValueType):
    """A frozen value; subclass it and annotate the fields. Class arguments: ``kw_only``, ``eq``."""

    def __init__(self, *given: Any, **named: Any) -> None:
        kind = type(self)
        if len(given) > (0 if kind._kw_only else len(kind._fields)):
            raise TypeError(f"{kind.__name__} takes {'keywords only' if kind._kw_only else len(kind._fields)}")
        for field, value in zip(kind._fields, given, strict=False):
            if field in named:
                raise TypeError(f"{kind.__name__} got {field} twice")
            object.__setattr__(self, field, value)
        for field in kind._fields[len(given) :]:
            if field in named:
                object.__setattr__(self, field, named.pop(field))
            elif field in kind._defaults:
                object.__setattr__(self, field, kind._defaults[field])
            else:
                raise TypeError(f"{kind.__name__} needs {field}")
        if named:
            raise TypeError(f"{kind.__name__} has no {', '.join(named)}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields; the default accepts them."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return fields_of(self) == fields_of(other)

    def __hash__(self) -> int:
        return hash((type(self), *fields_of(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={value!r}" for field, value in fields_of(self).items())
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), fields_of(self))

    def __replace__(self, **changes: Any) -> Self:
        return _made(type(self), fields_of(self) | changes)


def _made(kind: type[Some], fields: dict[str, Any]) -> Some:
    return kind(**fields)


def fields_of(value: Value) -> dict[str, Any]:
    """Return a value's fields by name, in order."""
    return {field: getattr(value, field) for field in type(value)._fields}


def replace(value: Some, **changes: Any) -> Some:
    """Return a copy with some fields changed.

    Raises:
        TypeError: no such field.
    """
    return value.__replace__(**changes)
