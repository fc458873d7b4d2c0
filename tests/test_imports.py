"""The law of the house: imports go one way, and the drawn world is a guest that nobody imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fourstroke

SOURCE = Path(fourstroke.__file__).parent
TIERS = (
    {
        "version",
        "textfile",
        "fonts",
        "arguments",
        "files",
        "ranges",
        "terminal",
        "progress",
        "registry",
        "chance",
        "choices",
        "comfy_names",
    },
    {"mapped", "quantized"},
    {"checkpoint", "image_io", "placement", "streamed"},
    {"seeds", "device", "pretrained", "recipe", "gguf_file"},
    {"nn", "options", "offload", "single_file"},
    {"vae", "dit", "text", "flow"},
    {"folder"},
    {"lora", "enhancer"},
    {"sizes", "memory"},
    {"loading", "convert"},
    {"pipeline"},
    {"pictures", "data", "parallel"},
    {"evaluate"},
    {"enhance"},
    {"distill"},
    {"train"},
    {"serve"},
    {"doctor", "speedrun", "estimate"},
    {"commands"},
    {"cli"},
    {"__main__", "world"},
)
TIER = {name: rank for rank, names in enumerate(TIERS) for name in names}
"""A part imports those of lower rank; `world` may import all that is not the command line, and nobody imports it."""

INFERENCE = {"enhancer", "local", "images", "protocol", "checks", "facts", "places", "endpoint"}
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


def _broken() -> dict[str, set[str]]:
    """By file, the parts that it imports against the law."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        own = _part(path)
        if own == "__init__":
            continue
        wrong = {other for other in _imported(path) - {own} if TIER[other] >= TIER[own]}
        if wrong:
            found[str(path.relative_to(SOURCE))] = wrong
    return found


def test_every_part_has_its_place():
    parts = {_part(path) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert parts <= TIER.keys()


def test_imports_go_one_way():
    assert not _broken()


def test_importing_the_package_is_quick_and_pulls_in_no_torch():
    code = "import sys, fourstroke, fourstroke.cli; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
