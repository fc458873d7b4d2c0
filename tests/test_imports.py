"""Imports go one way: nn -> vae, dit, text, flow -> pipeline -> the trades -> cli."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fourstroke

SOURCE = Path(fourstroke.__file__).parent
TIERS = (
    {"version", "textfile", "fonts", "arguments", "files", "ranges", "terminal", "registry"},
    {"checkpoint", "image_io", "recipe"},
    {"nn", "seeds", "device", "pretrained", "world"},
    {"vae", "dit", "text", "flow"},
    {"folder"},
    {"enhancer", "adapter"},
    {"sizes"},
    {"pipeline"},
    {"parallel"},
    {"pictures", "data", "distill", "enhance", "train", "evaluate", "serve"},
    {"doctor", "speedrun", "estimate"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
TIER = {name: rank for rank, names in enumerate(TIERS) for name in names}


INFERENCE = {"enhancer", "protocol", "checks", "places", "endpoint"}
"""Modules of `enhance` that the pipeline uses, as the part `enhancer`; the others make data and rewards."""


def _name(parts: Sequence[str]) -> str:
    return "enhancer" if parts[0] == "enhance" and parts[1:] and parts[1] in INFERENCE else parts[0]


def _part(path: Path) -> str:
    return _name(path.relative_to(SOURCE).with_suffix("").parts)


def _imported(path: Path) -> set[str]:
    """Parts of the package that a file imports, at its top or inside functions; type-checking blocks count too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module not in ("fourstroke", "fourstroke.enhance")
            modules = [node.module] if whole else [f"{node.module}.{a.name}" for a in node.names]
        names |= {_name(module.split(".")[1:]) for module in modules if module.startswith("fourstroke.")}
    return names


def test_every_part_has_its_place():
    parts = {_part(path) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert parts <= TIER.keys()


def test_imports_go_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        if _part(path) == "__init__":
            continue
        own = _part(path)
        for other in _imported(path) - {own}:
            siblings = TIER[other] == TIER[own] and own in TIERS[TIER["data"]]
            if TIER[other] >= TIER[own] and not siblings:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert not wrong


def test_importing_the_package_is_quick_and_pulls_in_no_torch():
    code = "import sys, fourstroke, fourstroke.cli; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
