"""Values with named fields: `dataclass` and `replace` as in `dataclasses`, for what a start imports.

`dataclasses` writes code for each class and has it compiled when a module is imported, and imports `inspect`
to do so. Somebody waits meanwhile for a server to start. Here a few functions that are compiled already read
the names of the fields from the class.

What is written beside a class means what it means there, and type checkers take it for the same. What nothing
here needs is refused (a method in the place of one that is made, but `__repr__`; `__post_init__`; class
variables; defaults that values would share) or not there (order, inheritance). The room `image`, on the host,
uses `dataclasses`, whose `replace` does not know these values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


class Made:
    """A default that is made anew for each value."""

    def __init__(self, by: Callable[[], Any]) -> None:
        self.by = by


def field(*, default_factory: Callable[[], T]) -> T:
    """Give a field's default by a function, called for each value that is made without it."""
    made: Any = Made(default_factory)
    return made  # type: ignore[no-any-return]


@dataclass_transform(field_specifiers=(field,))
def dataclass(*, frozen: bool = False, slots: bool = False) -> Callable[[type[T]], type[T]]:
    """Make a class of annotated names one of values: how it is made, shown and compared; frozen, hashed.

    Args:
        frozen: nothing can be assigned to; values can be keys.
        slots: there are no other attributes.
    """

    def change(cls: type[T]) -> type[T]:
        names, own = tuple(cls.__annotations__), dict(vars(cls))
        defaults = {name: own.pop(name) for name in names if name in own}
        _refuse_others(cls, defaults)
        added: dict[str, Any] = {
            "__match_args__": names,
            "__init__": _init(names, defaults),
            "__replace__": replace,
            "__reduce__": _reduce,
            "__eq__": _eq,
            "__hash__": _hash if frozen else None,
            "__repr__": own.get("__repr__", _repr),
        }
        if frozen:
            added |= {"__setattr__": _refuse, "__delattr__": _refuse}
        if slots:
            # There is no other way to have them than a class that is made with them.
            kept = {name: value for name, value in own.items() if name not in ("__dict__", "__weakref__")}
            return type(cls.__name__, cls.__bases__, kept | added | {"__slots__": names})
        for name, value in added.items():
            setattr(cls, name, value)
        return cls

    return change


def replace(value: T, /, **changes: Any) -> T:
    """Give a value like this one, but for these fields.

    Raises:
        TypeError: it has no such field.
    """
    kept = {name: getattr(value, name) for name in _names(value) if name not in changes}
    return type(value)(**kept, **changes)


def _init(names: tuple[str, ...], defaults: dict[str, Any]) -> Callable[..., None]:
    put = object.__setattr__

    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807 - it is one, of another class
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__}: {len(args)} values for {len(names)} fields")
        for name, value in zip(names, args, strict=False):
            put(self, name, value)
        for name in names[len(args) :]:
            if name in given:
                put(self, name, given.pop(name))
            elif name in defaults:
                value = defaults[name]
                put(self, name, value.by() if isinstance(value, Made) else value)
            else:
                raise TypeError(f"{type(self).__name__}: {name} is missing")
        if given:
            raise TypeError(f"{type(self).__name__}: unknown, or given twice: {', '.join(given)}")

    return __init__


def _refuse_others(cls: type, defaults: dict[str, Any]) -> None:
    """Raise TypeError where a class is written in a way that is not understood here."""
    for name in ("__init__", "__post_init__", "__eq__", "__hash__"):
        if name in vars(cls):
            raise TypeError(f"{cls.__name__}: it has a {name} of its own")
    last = ""
    for name, kind in cls.__annotations__.items():
        if "ClassVar" in str(kind) or isinstance(defaults.get(name), list | dict | set):
            raise TypeError(f"{cls.__name__}: {name} would be shared")
        if last and name not in defaults:
            raise TypeError(f"{cls.__name__}: {name} has no default, and {last} before it has one")
        last = name if name in defaults else last


def _reduce(self: Any) -> tuple[type, tuple[Any, ...]]:
    return type(self), _fields(self)


def _names(value: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = value.__match_args__
    return names


def _fields(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in _names(value))


def _eq(self: Any, other: object) -> bool:
    return _fields(self) == _fields(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_fields(self))


def _repr(self: Any) -> str:
    said = (f"{name}={getattr(self, name)!r}" for name in _names(self))
    return f"{type(self).__qualname__}({', '.join(said)})"


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: its {name} cannot be changed")
