"""The rules of the house, read from the code: which room may use which, one door for subprocesses, sizes."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "amdserve"
SHARED = {"errors", "process", "values"}
# A room → the rooms it may use, itself and the shared modules apart.
ARROWS = {
    "errors": set[str](),
    "process": {"errors", "values"},
    "values": set[str](),
    "gpu": set[str](),
    "serve": {"gpu"},
    "doctor": {"gpu"},
    "image": {"gpu"},
}
# What the container has installed: the base requirements and what comes with Python.
IN_THE_CONTAINER = {"pydantic", "yaml"}
# Libraries that are used where they happen to be there; importing them may fail, at any time.
IF_THERE = {"amdsmi", "pynvml", "torch", "llama_cpp"}
LINES = 300
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """Give the room of a file: the folder in the package, or the module beside them."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Give each dotted name a file imports, and whether that happens only inside a function."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}, line {node.lineno}: imports are written in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in inside


def test_there_is_something_to_look_at() -> None:
    assert {room_of(path) for path in MODULES} >= {"errors", "process", "gpu", "image"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_between_rooms_point_one_way(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not list(imports(path))
        return
    assert room in ARROWS, f"{room} is a new room: say in this test and in the design what it may use"
    for name, _ in imports(path):
        if name.startswith("amdserve."):
            used = name.split(".")[1]
            # `from amdserve import __version__` is of the package itself.
            allowed = ARROWS[room] | {room, "__version__"} | (SHARED if room not in SHARED else set())
            assert used in allowed, f"{name_of(path)} imports {name}"


# What a step of an image's build takes by itself, out of the package.
ALONE = sorted(
    {
        ROOT / name
        for template in (ROOT / "templates").rglob("*.j2")
        for name in re.findall(r"src/amdserve/\S+\.py\b", template.read_text("utf-8"))
    }
)


def test_what_is_taken_out_of_the_package_is_seen() -> None:
    assert PACKAGE / "gpu" / "offload.py" in ALONE


@pytest.mark.parametrize("path", ALONE, ids=name_of)
def test_what_is_taken_out_of_the_package_needs_nothing_of_it(path: Path) -> None:
    assert not [name for name, _ in imports(path) if name.partition(".")[0] == "amdserve"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_container_needs_only_what_is_installed_in_it(path: Path) -> None:
    if room_of(path) == "image":
        pytest.skip("the toolkit is not in the container")
    for name, lazily in imports(path):
        top = name.split(".")[0]
        known = top in IN_THE_CONTAINER or top in sys.stdlib_module_names or top in ("amdserve", "__future__")
        assert known or (lazily and top in IF_THERE), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_processes_are_started_through_one_door(path: Path) -> None:
    if path == PACKAGE / "process.py":
        return
    doors = {"subprocess", "pty", "multiprocessing", "popen2"}
    calls = {"system", "popen", "fork", "posix_spawn", "posix_spawnp"}
    for name, _ in imports(path):
        assert name.split(".")[0] not in doors, f"{name_of(path)} imports {name}"
        assert not (name.startswith("os.") and name.removeprefix("os.") in calls)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in calls, f"{name_of(path)}, line {node.lineno}: os.{node.attr}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_can_be_read_in_one_go(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= LINES, f"{name_of(path)} has {lines} lines: split it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_errors_are_those_of_the_house(path: Path) -> None:
    """No class elsewhere derives from the house's errors: what a user may see is drawn in one tree."""
    if path == PACKAGE / "errors.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            assert not {base for base in bases if base.endswith("Error")}, f"{name_of(path)}: {node.name}"


def test_tasks_do_not_reach_into_the_container_room() -> None:
    assert not [name for name, _ in imports(ROOT / "tasks.py") if name.startswith("amdserve.serve")]
