"""docs/names.md tells the truth: the new names are where it says, and of the old ones none is left."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/fourstroke"
PAGE = (ROOT / "docs/names.md").read_text(encoding="utf-8")
ROWS = [
    (re.findall(r"`(\w+)`", was), re.findall(r"\[([^]]+)\]\(\.\./([^)]+)\)", new))
    for was, new in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
]
STILL = {"Split"}
"""Old names of which the page says that they go on meaning something else."""


@functools.cache
def _defined(file: Path) -> set[str]:
    """Names that a file gives: classes, functions and methods, arguments, variables and fields."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(asname=str(name)):
                names.add(name)
    return names


def test_the_page_lists_what_was_renamed() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize(("was", "new"), ROWS, ids=[",".join(was) for was, _ in ROWS])
def test_the_new_name_is_there_and_the_old_is_gone(was: list[str], new: list[tuple[str, str]]) -> None:
    for told, target in new:
        for name in (name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", told)):
            assert name in _defined(ROOT / target), f"{target} does not define {name}"
    for name in was:
        word = name[0].islower()  # an English word, or a common one: gone from the package where it was
        rooms = {(ROOT / target).parent for _, target in new} if word else {SRC}
        for file in (file for room in rooms for file in room.rglob("*.py") if name not in STILL):
            if word:
                tree = ast.parse(file.read_text(encoding="utf-8"))
                found = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
                found |= {
                    field.target.id
                    for node in tree.body
                    if isinstance(node, ast.ClassDef)
                    for field in node.body
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                }
            else:
                found = _defined(file)
            assert name not in found, f"{file.relative_to(ROOT)} still calls something {name}"
