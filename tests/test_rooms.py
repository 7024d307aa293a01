"""Rooms import downwards, and those that need no JAX do without it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import eqcifar

PACKAGE = Path(eqcifar.__file__).parent
# Lower floors first; a room imports rooms of its own floor only where named.
FLOORS = [
    {"errors", "extras", "options", "config", "recipes", "fields"},
    {"parallel", "models", "data", "storage", "figures", "losses", "sam"},
    {"training", "sharpness"},
    # What a measure computes, it imports when it does, so that results may read it.
    {"measures"},
    {"runs", "results", "sweeps"},
    {"measurements", "exchange"},
]
BESIDE = {
    ("recipes", "config"),
    ("config", "errors"),
    ("config", "options"),
    ("options", "errors"),
    ("extras", "errors"),
    ("recipes", "errors"),
    ("fields", "config"),
    ("fields", "options"),
    ("fields", "errors"),
    ("models", "parallel"),
    ("sam", "models"),
    ("data", "parallel"),
    ("figures", "storage"),
    ("exchange", "measurements"),
    ("data", "storage"),
}
WITHOUT_JAX = (
    "errors",
    "options",
    "config",
    "recipes",
    "fields",
    "measures",
    "storage",
    "results",
    "sweeps",
)


def imported_rooms(room: str) -> set[str]:
    path = PACKAGE / room
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            module = node.module or ""
            depth = len(file.relative_to(PACKAGE).parts)
            if module.startswith("eqcifar"):
                parts = module.split(".")[1:]
            elif node.level == depth:
                parts = module.split(".") if module else []
            else:
                continue
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return {name for name in found if not name.startswith("__")} - {room}


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_rooms_import_rooms_below(floor):
    below = set().union(*FLOORS[:floor])
    for room in FLOORS[floor]:
        beside = {other for own, other in BESIDE if own == room}
        assert imported_rooms(room) <= below | beside, room


def test_every_room_has_a_floor():
    rooms = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.stem.startswith("__")
    }
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_reading_results_needs_no_jax(room):
    code = f"import eqcifar.{room}, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
