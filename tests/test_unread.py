"""No option, field or record that nothing reads: who sets one expects it to do something.

mypy tells which class an attribute is read from, so that one name in two classes is not mistaken. Reads in
`__post_init__` are checks of the value, not a use of it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fourstroke
from fourstroke.commands import STAGES
from fourstroke.registry import GROUPS, kinds
from fourstroke.world import pages

SOURCE = Path(fourstroke.__file__).parent
ROOT = Path(__file__).parents[1]
FOR_CALLERS = {"fourstroke.pipeline.Output"}
"""Results that are handed to whoever calls the package."""


@dataclasses.dataclass
class Reads:
    """What the code reads: (class, field); whole classes, by name or to be written; and names of untyped things."""

    fields: set[tuple[str, str]]
    looked_up: set[str]
    written: set[str]
    untyped: set[str]

    def of(self, kind: type, name: str) -> bool:
        """Whether a field of a class is read by its name, of the class itself or of one that it inherits from."""
        owners = [_fullname(owner) for owner in kind.__mro__]
        read = any((owner, name) in self.fields or owner in self.looked_up for owner in owners)
        return read or name in self.untyped


def _sources(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, module and text of every file, without the bodies of `__post_init__`."""
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
                node.body = [ast.Pass()]
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.unparse(tree)


def find_reads(root: Path) -> Reads:
    """Everything that the package below `root` reads. Other packages are not followed."""
    build = pytest.importorskip("mypy.build")
    from mypy.modulefinder import BuildSource
    from mypy.nodes import CallExpr, MemberExpr, NameExpr, StrExpr
    from mypy.options import Options
    from mypy.types import AnyType, Instance, UnionType, get_proper_type

    options = Options()
    options.export_types, options.preserve_asts = True, True
    options.incremental, options.cache_dir = False, os.devnull
    options.follow_imports, options.ignore_errors, options.check_untyped_defs = "skip", True, True
    options.mypy_path = [str(root.parent)]
    types = build.build([BuildSource(str(path), *rest) for path, *rest in _sources(root)], options).types

    def classes(expression: Any) -> Iterator[Any]:
        waiting = [get_proper_type(types.get(expression))]
        while waiting:
            kind = waiting.pop()
            if isinstance(kind, Instance):
                yield from kind.type.mro
            elif isinstance(kind, UnionType):
                waiting += map(get_proper_type, kind.items)
            elif isinstance(kind, AnyType):
                yield None

    reads = Reads(set(), set(), set(), set())
    for node in types:
        if isinstance(node, MemberExpr):
            for owner in classes(node.expr):
                reads.untyped |= {node.name} if owner is None else set()
                reads.fields |= {(owner.fullname, node.name)} if owner else set()
        elif isinstance(node, CallExpr) and isinstance(node.callee, (NameExpr, MemberExpr)) and node.args:
            owners = {owner.fullname for owner in classes(node.args[0]) if owner}
            if node.callee.name == "getattr" and not isinstance(node.args[1], StrExpr):
                reads.looked_up |= owners
            elif node.callee.name in ("asdict", "fields"):
                reads.written |= owners
    return reads


def _within(kind: Any) -> Iterator[type]:
    """The dataclasses in a type annotation, and those in their fields."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from _within(hint)
    for part in typing.get_args(kind):
        yield from _within(part)


def _fullname(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _dataclasses() -> Iterator[type]:
    """All dataclasses of the package that can be imported here."""
    for _, module, text in _sources(SOURCE):
        if "@dataclass" not in text or module == "fourstroke.serve.cluster":  # needs an extra
            continue
        for value in vars(importlib.import_module(module)).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module:
                yield value


@pytest.fixture(scope="module")
def reads() -> Reads:
    return find_reads(SOURCE)


def test_every_number_of_a_recipe_is_read(reads: Reads) -> None:
    stages = [(importlib.import_module(f"fourstroke.train.{module}"), kind) for module, kind, _ in STAGES.values()]
    recipes = [getattr(module, kind) for module, kind in stages]
    parts = {_fullname(part): part for recipe in recipes for part in _within(recipe)}
    unread = [
        f"{name}.{field.name}"
        for name, part in parts.items()
        for field in dataclasses.fields(part)
        if not reads.of(part, field.name)
    ]
    assert not unread, f"nothing reads {unread}"


def test_every_field_of_a_record_is_read_or_written(reads: Reads) -> None:
    whole = {kind for kind in _dataclasses() if _fullname(kind) in reads.written | FOR_CALLERS}
    whole |= {part for kind in whole for part in _within(kind)}  # what is written is so with all its parts
    unread = [
        f"{_fullname(kind)}.{field.name}"
        for kind in _dataclasses()
        for field in dataclasses.fields(kind)
        if kind not in whole and not reads.of(kind, field.name)
    ]
    assert not unread, f"nothing reads {unread}"


def _by_place() -> Iterator[str]:
    """Names that the package finds by their place, "module:name"."""
    for path in SOURCE.rglob("*.py"):
        yield from re.findall(r'"[\w.]+:(\w+)"', path.read_text(encoding="utf-8"))


def _imported_by_programs() -> Iterator[str]:
    """What is imported from the package outside it and its tests."""
    for folder in ("studies", "benchmarks", "examples", "docs"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".md"):
                text = path.read_text(encoding="utf-8")
                for names in re.findall(r"from fourstroke[\w.]* import (\([^)]*\)|.+)", text):
                    yield from re.findall(r"\w+", names)


def test_nothing_stands_in_a_module_for_nobody() -> None:
    """Functions, classes and constants that no code of the package names; tests keep what is theirs.

    Names in a package's `__all__`, and what studies, benchmarks, examples and pages of docs import, are for callers.
    """
    list(_dataclasses())  # what is imported offers its kinds
    defined: dict[str, str] = {}
    named: set[str] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined[node.name] = str(path.relative_to(SOURCE))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    names = [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]
                    defined |= dict.fromkeys(names, str(path.relative_to(SOURCE)))
        for part in ast.walk(tree):
            if isinstance(part, (ast.Name, ast.Attribute)) and isinstance(part.ctx, ast.Load):
                named.add(part.id if isinstance(part, ast.Name) else part.attr)
    offered = {
        *fourstroke.__all__,
        *pages.__all__,
        *(name for _, recipe, train in STAGES.values() for name in (recipe, train)),
        *(where.partition(":")[2] for group in GROUPS for where in kinds(group).values()),
        *_by_place(),
        *_imported_by_programs(),
    }
    unused = {name: path for name, path in defined.items() if not name.startswith("__")}.items()
    unused = [f"{path}: {name}" for name, path in unused if name not in named | offered]
    assert not unused, f"nothing names {unused}"
