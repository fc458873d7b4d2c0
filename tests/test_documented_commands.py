"""Every command that the pages show is one that the command line takes, with recipes and keys that are there."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstroke import cli, commands
from fourstroke.estimate import stage_of
from fourstroke.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "models").glob("*/README.md")) + sorted((ROOT / "docs").rglob("*.md"))
STARTS = ("fourstroke", ".venv/bin/fourstroke")
ELLIPSES = ("...", "…")


def _snippets(text: str) -> Iterator[str]:
    """Lines of code, fenced or indented, and code within sentences; a line that ends in a backslash goes on."""
    text = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.S | re.M)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    yield from (line.strip() for block in fenced for line in block.splitlines())
    yield from (line.strip() for line in rest.splitlines() if line.startswith("    "))
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest))


def _commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command that starts with `fourstroke`, torchrun's and Python's module forms included."""
    for page in PAGES:
        for snippet in _snippets(page.read_text(encoding="utf-8")):
            try:
                words = shlex.split(snippet, comments=True)
            except ValueError:  # a sentence with an apostrophe, not a command
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
                words = words[1:]
            if "fourstroke.cli" in words:
                words = ["fourstroke", *words[words.index("fourstroke.cli") + 1 :]]
            if len(words) > 1 and words[0] in STARTS:
                yield f"{page.relative_to(ROOT)}: {snippet}", words[1:]


COMMANDS = dict(_commands())


def _take(arguments: argparse.Namespace) -> dict[str, str]:
    """In place of a command: read its recipe, if it has one."""
    if (recipe := getattr(arguments, "recipe", None)) and not (ROOT / recipe).is_dir():
        module, name, _ = commands.STAGES[getattr(arguments, "stage", None) or stage_of(ROOT / recipe)]
        kind = getattr(importlib.import_module(f"fourstroke.train.{module}"), name)
        load_recipe(kind, ROOT / recipe, [word for word in arguments.overrides if not word.endswith(ELLIPSES)])
    return {}


@pytest.mark.parametrize("shown", COMMANDS)
def test_a_command_of_the_pages_is_taken(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "generate",
        "enhance",
        "degrade",
        "train",
        "speedrun",
        "evaluate",
        "serve",
        "estimate",
        "doctor",
        "prepare",
        "convert",
    ):
        monkeypatch.setattr(commands, name, _take)
    words = [f"recipes/micro/{COMMANDS[shown][1]}.yaml" if w in ELLIPSES else w for w in COMMANDS[shown]]
    if len(words) == 1 or (words[0] == "train" and "--recipe" not in words):  # the name of a command, in a sentence
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--help"])
        assert ended.value.code == 0
    else:
        assert cli.main(["--debug", *words]) == 0


def test_there_are_commands_to_look_at() -> None:
    """The search itself works: the README's own are among those found."""
    found = [shown for shown in COMMANDS if shown.startswith("README.md")]
    assert len(found) > 5
    assert len(COMMANDS) > 40
    assert any("speedrun" in shown or "generate" in shown for shown in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_that_pages_name_have_the_options_they_show(page: Path) -> None:
    for snippet in _snippets(page.read_text(encoding="utf-8")):
        if match := re.match(r"(?:\.venv/bin/)?python ((?:studies|benchmarks)/\w+\.py)(.*)", snippet):
            script = (ROOT / match[1]).read_text(encoding="utf-8")
            for option in re.findall(r"--[a-z-]+", match[2]):
                said = (ROOT / "studies" / "arms.py").read_text(encoding="utf-8") if "arms" in script else ""
                assert f'"{option}"' in script + said, f"{match[1]} has no {option}"
