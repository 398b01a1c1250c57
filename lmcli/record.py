"""Frozen records: what `@dataclass(frozen=True, kw_only=True)` gives, without code generated for each class.

Defining a dataclass of fifteen fields takes 0.6 ms, a record 0.02 ms, and `lm` starts often. What is created for each
packet is a named tuple, which is faster to create than either; `distinct` makes its type count in comparisons.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

if TYPE_CHECKING:
    import inspect

AnyTuple = TypeVar("AnyTuple", bound=tuple[Any, ...])


def distinct(cls: type[AnyTuple]) -> type[AnyTuple]:
    """Make the instances of a named tuple unequal to those of every other class, plain tuples included.

    By themselves named tuples compare as tuples do, so `Packet(1, {}) == CallReturned(1, {})` would hold.
    """
    for name, method in _COMPARISON.items():
        setattr(cls, name, method)
    return cls


def _is_equal(one: tuple[Any, ...], other: object) -> bool:
    return type(one) is type(other) and tuple.__eq__(one, other)


_COMPARISON: Mapping[str, Callable[..., Any]] = {
    "__eq__": _is_equal,
    "__ne__": lambda one, other: not _is_equal(one, other),  # tuple has one of its own, which would win
    "__hash__": lambda one: hash((type(one), *one)),
}


class _Signature:
    """What `inspect` and `help` show as a record's parameters, made when they ask."""

    def __get__(self, record: object, cls: "type[Record]") -> "inspect.Signature":
        from inspect import Parameter, Signature  # noqa: PLC0415  a third of a start of `lm`, and nothing else asks

        return Signature(
            [
                Parameter(name, Parameter.KEYWORD_ONLY, default=getattr(cls, name, Parameter.empty), annotation=type_)
                for name, type_ in cls.fields.items()
            ]
        )


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """A value with named fields; annotations say which, class attributes are defaults, subclasses add to them.

    Attributes:
        fields: the names, those of base classes first, each with its annotation.
        required: the names of those without a default.
    """

    fields: ClassVar[dict[str, Any]] = {}
    required: ClassVar[tuple[str, ...]] = ()
    __signature__: ClassVar = _Signature()

    def __init_subclass__(cls) -> None:
        cls.fields = cls.fields | cls.__annotations__
        cls.required = tuple(name for name in cls.fields if not cls.has_default(name))

    def __init__(self, **values: Any) -> None:
        for name in self.required:
            if name not in values:
                raise TypeError(f"{type(self).__name__} needs {name}")
        if not values.keys() <= self.fields.keys():
            unknown = values.keys() - self.fields.keys()
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        vars(self).update(values)

    @classmethod
    def has_default(cls, name: str) -> bool:
        """Whether a field may be left out."""
        return hasattr(cls, name)

    def as_dict(self) -> dict[str, Any]:
        """The values by name, nested records too."""
        values = {name: getattr(self, name) for name in self.fields}
        return {name: v.as_dict() if isinstance(v, Record) else v for name, v in values.items()}

    def replace(self, **changes: Any) -> Self:
        """The same with other values."""
        return type(self)(**{name: getattr(self, name) for name in self.fields} | changes)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self.fields)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields)})"
