"""Frozen records."""

import pytest

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
