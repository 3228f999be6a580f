"""Values behave as those of `dataclasses` do; both make the same of the same class."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from functools import cached_property
from typing import Any

import pytest

from amdserve import values

KINDS = [(frozen, slots) for frozen in (False, True) for slots in (False, True)]


def kinds(frozen: bool, slots: bool) -> list[Any]:
    """Give the same class, made by `dataclasses` and by `values`."""
    made = []
    for module in (dataclasses, values):

        class Point:
            """A point."""

            x: int
            y: int = 2
            names: list[str] = module.field(default_factory=list)

            @property
            def sum(self) -> int:
                return self.x + self.y

            @classmethod
            def at(cls, x: int) -> Any:
                return cls(x)  # type: ignore[call-arg]

        made.append(module.dataclass(frozen=frozen, slots=slots)(Point))
    return made


def outcome(do: Any) -> Any:
    """Give what a function gives, or the kind of its error."""
    try:
        return do()
    except Exception as error:
        return next(kind for kind in (TypeError, AttributeError, Exception) if isinstance(error, kind))


@pytest.mark.parametrize(("frozen", "slots"), KINDS)
@pytest.mark.parametrize(
    ("args", "given"),
    [
        ((1,), {}),
        ((), {"x": 1}),
        ((1, 5), {}),
        ((1,), {"names": ["a"]}),
        ((1, 2, ["b"]), {}),
        ((), {}),
        ((), {"y": 1}),
        ((1,), {"x": 1}),
        ((1, 2, [], 4), {}),
        ((1,), {"z": 3}),
    ],
)
def test_made_shown_and_compared_alike(
    frozen: bool, slots: bool, args: tuple[Any, ...], given: dict[str, Any]
) -> None:
    found: list[Any] = []
    for kind in kinds(frozen, slots):
        one = outcome(lambda kind=kind: kind(*args, **given))
        if one is TypeError:
            found.append(one)
            continue
        other = kind(*args, **given)
        row = [repr(one).rpartition(".")[2], one.sum, one == other, one != other, one == 5]
        row += [one.names is other.names, kind.at(3).x, kind.__doc__, kind.__match_args__]
        found.append([*row, hasattr(one, "__dict__")])
    assert found[0] == found[1]


@pytest.mark.parametrize(("frozen", "slots"), KINDS)
def test_changed_hashed_and_copied_alike(frozen: bool, slots: bool) -> None:
    found = []
    for kind, replace in zip(kinds(frozen, slots), (dataclasses.replace, values.replace), strict=True):
        one: Any = kind(1, 2, ())
        rows = [
            outcome(lambda one=one: setattr(one, "x", 7)),
            # With slots and frozen, that of `dataclasses` fails with another error than it means to.
            outcome(lambda one=one: setattr(one, "z", 7)) is not None,
            outcome(lambda one=one: delattr(one, "y")),
            outcome(lambda one=one: one.y),
            outcome(lambda one=one, kind=kind: hash(one) == hash(kind(1, 2, ()))),
            outcome(lambda one=one, replace=replace: repr(replace(one, x=3, y=4)).rpartition(".")[2]),
            outcome(lambda one=one, replace=replace: replace(one, z=3)),
        ]
        one = kind(1, 2, ["a"])
        rows.append([copy.copy(one) == one, copy.copy(one).names is one.names])
        rows.append([copy.deepcopy(one) == one, copy.deepcopy(one).names is one.names])
        found.append(rows)
    assert found[0] == found[1]


def test_it_is_replaced_by_the_standard_protocol() -> None:
    one = kinds(True, True)[1](1)
    assert one.__replace__(y=9).y == 9
    match one:
        case object(x=1, y=2):
            pass
        case _:
            pytest.fail("no match")


def test_what_is_computed_once_is_kept_where_there_are_no_slots() -> None:
    @values.dataclass(frozen=True)
    class Once:
        x: int

        @cached_property
        def made(self) -> list[int]:
            return [self.x]

    one = Once(1)
    assert one.made is one.made == [1]


def test_a_text_of_its_own_is_kept() -> None:
    @values.dataclass(frozen=True, slots=True)
    class Named:
        x: int

        def __repr__(self) -> str:
            return "named"

    assert repr(Named(1)) == "named"


@values.dataclass(frozen=True, slots=True)
class Packed:
    x: int


def test_it_goes_through_pickle() -> None:
    assert pickle.loads(pickle.dumps(Packed(3))) == Packed(3)


def with_init(self: Any) -> None:
    """Stand for a method of one's own."""


@pytest.mark.parametrize(
    ("annotations", "more"),
    [
        ({"x": "ClassVar[int]"}, {"x": 1}),
        ({"x": "list[int]"}, {"x": []}),
        ({"x": "int", "y": "int"}, {"x": 1}),
        ({"x": "int"}, {"__eq__": with_init}),
        ({"x": "int"}, {"__init__": with_init}),
        ({"x": "int"}, {"__post_init__": with_init}),
    ],
)
def test_what_is_not_understood_is_refused(annotations: dict[str, str], more: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        values.dataclass(frozen=True)(type("Odd", (), {"__annotations__": annotations, **more}))


def test_a_start_imports_neither_dataclasses_nor_what_they_need() -> None:
    """Nor what else is slow and not needed to make a plan."""
    slow = ["dataclasses", "inspect", "subprocess", "socket", "hashlib", "argparse", "pydantic", "yaml"]
    code = (
        "import sys; from amdserve.serve import planner, checked, memory, planning, rights; "
        f"print(*[name for name in {slow} if name in sys.modules])"
    )
    argv = [sys.executable, "-I", "-c", code]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split() == []
