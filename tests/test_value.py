"""Frozen values: a class of annotations behaves as a slotted, frozen dataclass would."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import weakref

import pytest

from nativeload.value import Value, Word, fields_of, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Point(Value):
    """Two fields, the second with a default."""

    x: int
    y: int = 7


class Pixel(Value):
    """The same fields under another name."""

    x: int
    y: int = 7


class Named(Value, kw_only=True):
    """Keyword-only, a default before a field without one."""

    first: str = "a"
    second: str
    third: tuple[int, ...] = ()


class Token(Value, eq=False):
    """Equal to itself only."""

    name: str


class Even(Value):
    """Checks its field."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")

    @property
    def half(self) -> int:
        """Half of it."""
        return self.number // 2


class Holder(Value):
    """A value within a value."""

    point: Point
    items: list[int]


class Nothing(Value):
    """No fields at all."""


anything: dict[str, Any] = {"Point": Point, "Named": Named, "Nothing": Nothing}


def test_fields_come_by_position_by_keyword_and_by_default() -> None:
    made = [Point(1, 2), Point(1, y=2), Point(x=1, y=2), Point(y=2, x=1)]
    assert [(point.x, point.y) for point in made] == [(1, 2)] * 4
    assert (Point(1).x, Point(1).y) == (1, 7)


def test_a_keyword_only_default_may_stand_before_a_field_without_one() -> None:
    assert fields_of(Named(second="b")) == {"first": "a", "second": "b", "third": ()}


@pytest.mark.parametrize(
    ("kind", "given", "named", "words"),
    [
        ("Point", (), {}, "Point needs x"),
        ("Point", (), {"y": 1}, "Point needs x"),
        ("Point", (1, 2, 3), {}, "Point takes 2"),
        ("Point", (1,), {"x": 1}, "Point got x twice"),
        ("Point", (1, 2), {"y": 2}, "Point got y twice"),
        ("Point", (1,), {"z": 3}, "Point has no z"),
        ("Point", (), {"x": 1, "q": 1, "z": 1}, "Point has no q, z"),
        ("Named", ("a",), {"second": "b"}, "Named takes keywords only"),
        ("Named", (), {"first": "a"}, "Named needs second"),
        ("Nothing", (1,), {}, "Nothing takes 0"),
        ("Nothing", (), {"x": 1}, "Nothing has no x"),
    ],
)
def test_wrong_fields_are_a_type_error(kind: str, given: tuple[int, ...], named: dict[str, int], words: str) -> None:
    with pytest.raises(TypeError) as caught:
        anything[kind](*given, **named)
    assert str(caught.value) == words


def test_a_value_is_frozen() -> None:
    point: Any = Point(1)
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be set"):
        point.x = 2
    with pytest.raises(AttributeError, match="Point is frozen: z cannot be set"):
        point.z = 2
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be deleted"):
        del point.x
    assert point == Point(1)


def test_a_value_is_slotted() -> None:
    assert not hasattr(Point(1), "__dict__")
    assert vars(Point)["__slots__"] == ("x", "y")
    with pytest.raises(TypeError):
        weakref.ref(Point(1))


def test_values_are_equal_by_kind_and_fields() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(2, 1)
    assert Point(1, 2) != Pixel(1, 2)
    assert Point(1, 2) != (1, 2)
    assert Nothing() == Nothing()


def test_equal_values_hash_alike() -> None:
    """A law, over a grid: equality implies equal hashes, and a set keeps one of each."""
    points = [Point(x, y) for x in range(5) for y in range(5)] * 2
    for one in points:
        for other in points:
            assert (one == other) == ((one.x, one.y) == (other.x, other.y))
            assert one != other or hash(one) == hash(other)
    assert len(set(points)) == 25
    assert len({Point(1, 2), Pixel(1, 2)}) == 2


def test_a_value_with_an_unhashable_field_has_no_hash() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Holder(Point(1), [1]))


def test_eq_false_means_identity() -> None:
    one, other = Token("a"), Token("a")
    assert one != other
    assert len({one, other, one}) == 2
    assert (one == one) is True  # noqa: PLR0124 - identity is what is tested


def test_repr_shows_the_fields_in_order() -> None:
    assert repr(Named(second="b")) == "Named(first='a', second='b', third=())"
    assert repr(Nothing()) == "Nothing()"


def test_post_init_checks_every_way_of_making_one() -> None:
    assert Even(4).half == 2
    with pytest.raises(ValueError, match="3 is odd"):
        Even(3)
    with pytest.raises(ValueError, match="5 is odd"):
        replace(Even(4), number=5)


def test_replace_changes_a_copy() -> None:
    point = Point(1, 2)
    assert replace(point, y=3) == Point(1, 3)
    assert replace(point) == point
    assert point == Point(1, 2)
    assert replace(Named(second="b"), third=(1,)) == Named(second="b", third=(1,))
    with pytest.raises(TypeError, match="Point has no z"):
        replace(point, z=1)


@pytest.mark.parametrize("value", [Point(1), Named(second="b"), Even(2), Nothing(), Holder(Point(1, 2), [1, 2])])
def test_a_value_survives_copying_and_pickling(value: Value) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value  # noqa: S301 - our own bytes
    assert copy.copy(value) == value
    assert copy.deepcopy(value) == value


def test_a_deep_copy_shares_nothing_that_can_change() -> None:
    holder = Holder(Point(1), [1])
    deep, shallow = copy.deepcopy(holder), copy.copy(holder)
    holder.items.append(2)
    assert deep.items == [1]
    assert shallow.items == [1, 2]


def test_fields_of_names_them_in_order() -> None:
    assert list(fields_of(Point(3)).items()) == [("x", 3), ("y", 7)]
    assert fields_of(Nothing()) == {}


def test_methods_and_properties_are_no_fields() -> None:
    assert fields_of(Even(6)) == {"number": 6}


# -- words ------------------------------------------------------------------------------------------------------------


class Colour(Word):
    """A word of the tests."""

    RED = "red"
    DARK_BLUE = "dark-blue"

    @property
    def shouted(self) -> str:
        """The text in capitals."""
        return self.value.upper()


def test_a_word_is_what_a_str_enum_is() -> None:
    """To the type checker it is enum.StrEnum; at run time it keeps to what that promises."""

    class Model(enum.StrEnum):
        RED = "red"
        DARK_BLUE = "dark-blue"

    for kind in (Colour, Model):
        assert [str(item) for item in kind] == ["red", "dark-blue"]
        assert kind("red") is kind.RED
        assert kind.RED == "red"
        assert hash(kind.RED) == hash("red")
        assert (kind.RED.value, f"{kind.DARK_BLUE}!", "-".join(kind)) == ("red", "dark-blue!", "red-dark-blue")
        assert type(str(kind.RED)) is str
        assert type(kind.RED) is kind
        assert ("red" in list(kind), "green" in list(kind), len(kind)) == (True, False, 2)
        assert json.dumps({kind.RED: [kind.RED]}) == '{"red": ["red"]}'
        with pytest.raises(ValueError, match="'green' is not a valid"):
            kind("green")
    assert Colour.RED.shouted == "RED"
    assert pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED  # noqa: S301 - our own
    assert copy.deepcopy(Colour.RED) is Colour.RED


def test_words_are_fixed() -> None:
    with pytest.raises(AttributeError):
        Colour.RED = "rot"  # type: ignore[misc]
