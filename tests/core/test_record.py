"""Frozen records, and named tuples that their type tells apart."""

import importlib
import inspect
import itertools
import pkgutil
import re
from typing import Any

import pytest

import lmcli
from lmcli import values
from lmcli.record import Record


class Point(Record):
    """A record with a field that must be given and one that need not."""

    x: int
    y: int = 0


class Named(Point):
    """A record that adds to another."""

    name: str
    at: Point | None = None


def test_values_are_given_by_name_and_defaults_fill_the_rest() -> None:
    """A field without a value has its default."""
    point = Point(x=1)
    assert (point.x, point.y) == (1, 0)


def test_a_field_without_default_must_be_given() -> None:
    """The error says which record and which field."""
    with pytest.raises(TypeError, match="Named needs x"):
        Named(name="a")  # type: ignore[call-arg]


def test_a_field_that_does_not_exist_cannot_be_given() -> None:
    """A mistyped name is an error, not an attribute."""
    with pytest.raises(TypeError, match="Point has no z, zz"):
        Point(x=1, zz=3, z=3)  # type: ignore[call-arg]


def test_fields_of_the_base_come_first() -> None:
    """A subclass adds its fields behind those of its base and changes nothing there."""
    assert (list(Named.fields), list(Point.fields)) == (["x", "y", "name", "at"], ["x", "y"])


def test_only_a_default_makes_a_field_optional() -> None:
    """`has_default` tells required fields from the others."""
    assert [Named.has_default(name) for name in Named.fields] == [False, True, False, True]


def test_nothing_can_be_set() -> None:
    """A record stays as it was made."""
    point = Point(x=1)
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be set"):
        point.x = 2  # type: ignore[misc]
    assert point.x == 1


def test_equal_values_make_equal_records_with_equal_hashes() -> None:
    """A record is its values; a default that is given is no difference."""
    assert Point(x=1) == Point(x=1, y=0)
    assert len({Point(x=1), Point(x=1, y=0), Point(x=2)}) == 2


def test_a_record_equals_none_of_another_class() -> None:
    """The same values under another name are something else."""

    class Place(Record):
        """The same fields as Point."""

        x: int
        y: int = 0

    assert Point(x=1) != Place(x=1)
    assert Point(x=1) != {"x": 1, "y": 0}


def test_as_dict_goes_into_nested_records() -> None:
    """The whole value as plain data, in the order of the fields."""
    value = Named(x=1, name="n", at=Point(x=2)).as_dict()
    assert value == {"x": 1, "y": 0, "name": "n", "at": {"x": 2, "y": 0}}
    assert list(value) == list(Named.fields)


def test_replace_makes_another() -> None:
    """The original keeps its values."""
    point = Point(x=1, y=5)
    assert point.replace(x=2) == Point(x=2, y=5)
    assert point.x == 1


def test_repr_is_how_to_make_it() -> None:
    """What is shown can be typed."""
    value = Named(x=1, name="n", at=Point(x=2))
    assert repr(value) == "Named(x=1, y=0, name='n', at=Point(x=2, y=0))"
    assert eval(repr(value)) == value


MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(lmcli.__path__, "lmcli.")
    if module.name in ("lmcli.values", "lmcli.chat") or module.name.startswith(("lmcli.wire.", "lmcli.client."))
]
NAMED_TUPLES: list[Any] = [
    cls
    for module in MODULES
    for cls in vars(module).values()
    if isinstance(cls, type) and hasattr(cls, "_fields") and cls.__module__ == module.__name__
]


def test_values_and_events_are_told_apart_by_type() -> None:
    """Two named tuples with the same content are equal only if they are of one type; so are their hashes."""
    assert len(NAMED_TUPLES) > 20
    for one, other in itertools.product(NAMED_TUPLES, repeat=2):
        fields_count = len(one._fields)
        if len(other._fields) != fields_count:
            continue
        left, right = (cls._make(range(fields_count)) for cls in (one, other))
        assert (left == right) is (one is other), f"{one} == {other}"
        assert (left != right) is (one is not other), f"{one} != {other}"
        assert len({left, right}) == 1 + (one is not other)


@pytest.mark.parametrize("cls", NAMED_TUPLES)
def test_a_named_tuple_is_not_equal_to_a_plain_one(cls: Any) -> None:
    """Neither side of the comparison falls back to that of tuples; equal content makes equal values."""
    plain = tuple(range(len(cls._fields)))
    value = cls._make(plain)
    assert value != plain
    assert plain != value
    assert not value == plain  # noqa: SIM201  the operator itself
    assert value == cls._make(plain)
    assert not value != cls._make(plain)  # noqa: SIM202  the operator itself


def test_the_signature_lists_the_fields() -> None:
    """`help` and `inspect` show what a record is made of."""
    shown = str(inspect.signature(Named)).replace(f"{__name__}.", "")
    assert shown == "(*, x: int, y: int = 0, name: str, at: Point | None = None)"


RECORDS = [cls for cls in vars(values).values() if isinstance(cls, type) and issubclass(cls, Record)]


@pytest.mark.parametrize("cls", [cls for cls in RECORDS if cls is not Record])
def test_every_field_of_a_record_is_explained(cls: type[Record]) -> None:
    """The docstring of a record has a line for each field of its own."""
    described = re.findall(r"^    (\w+): ", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    assert described == list(cls.__annotations__)
