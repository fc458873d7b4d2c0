"""The documentation site builds strictly, needs nothing from elsewhere, and its reference is the code's."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import docstrings
import recipe_pages
import source_pages
from fourstroke import cli, commands

ROOT = Path(__file__).parents[1]


class _Page(HTMLParser):
    """What a page refers to, and the names of its places."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("script", "img", "source", "iframe") or (tag == "link" and found.get("rel") != "canonical"):
            self.fetched += [found[key] for key in ("src", "href") if key in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {}
    for path in folder.rglob("*.html"):
        pages[path] = _Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def _text(site: dict[Path, _Page], end: str) -> str:
    return next(path for path in site if str(path).endswith(end)).read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site: dict[Path, _Page]) -> None:
    for path, page in site.items():
        assert not [address for address in page.fetched if "//" in address], path
    styles = [path.read_text(encoding="utf-8") for path in next(iter(site)).parents[0].rglob("*.css")]
    assert not [text for text in styles if re.search(r"(url|@import)[ (]+[\"']?https?:", text)]


def test_links_lead_somewhere_lines_of_code_included(site: dict[Path, _Page]) -> None:
    seen = 0
    for path, page in site.items():
        if path.name == "404.html":  # its links are of a site at the root of a server
            continue
        for link in page.links:
            if link and not re.match(r"[a-z]+:", link):
                place, _, fragment = link.partition("#")
                target = Path(os.path.normpath(path.parent / place)) if place else path
                assert target.exists(), f"{path.name}: {link}"
                if fragment and target in site:
                    assert fragment in site[target].ids or fragment == "__skip", f"{path.name}: {link}"
                    seen += "codelineno" in fragment and "/source/" not in str(path)
    assert seen > 30


def test_links_lead_somewhere_without_a_site_too() -> None:
    """On a git host, where nothing is generated."""
    seen = 0
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for match in source_pages.LINK.finditer(page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", match["target"]):
                seen += 1
                assert (page.parent / match["target"]).exists(), f"{page.relative_to(ROOT)}: {match['target']}"
    assert seen > 100


def test_links_to_the_reference_lead_to_what_is_made_of_the_source(site: dict[Path, _Page]) -> None:
    found = {path.name: page.links for path, page in site.items() if path.parent.name == "guides"}
    assert "../reference/recipes/vae.html" in found["autoencoder.html"]
    assert "../reference/kinds.html#losses" in found["autoencoder.html"]
    assert not [link for links in found.values() for link in links if link.endswith("#reference")]


@pytest.mark.parametrize("stage", commands.STAGES)
def test_the_recipe_of_a_stage_is_told_with_every_key(stage: str, site: dict[Path, _Page]) -> None:
    text = _text(site, f"reference/recipes/{stage}.html")
    for field in dataclasses.fields(recipe_pages.stage_recipe(stage)):
        assert f"<td><code>{field.name}</code></td>" in text, field.name


def test_every_option_of_the_command_line_is_told(site: dict[Path, _Page]) -> None:
    text = _text(site, "reference/cli.html")
    waiting: list[argparse.ArgumentParser] = [cli._parser(["eval"])]
    seen = 0
    for parser in waiting:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            elif not isinstance(action, argparse._HelpAction):
                for option in action.option_strings:
                    seen += 1
                    assert option in text, option
    assert seen > 50


def test_a_line_is_found_by_its_name_and_a_name_that_is_not_there_is_not() -> None:
    path = "src/fourstroke/registry.py"
    line = source_pages.line_of(path, "find")
    assert (ROOT / path).read_text(encoding="utf-8").splitlines()[line - 1].startswith("def find(")
    assert source_pages.line_of(path, "find_nothing") == 0
    assert source_pages.line_of("src/fourstroke/data/sample.py", "Dataset.record") > 0


def test_docstrings_keep_their_words_and_lose_no_html() -> None:
    said = docstrings.markdown("""Draw <one> of `<many>`.

    Args:
        seed: of the noise,
            any number.
        *, size: pixels.

    Raises:
        ValueError: for a bad one.
    """)
    assert "&lt;one>" in said
    assert "`<many>`" in said
    assert "- `seed`: of the noise,\n  any number." in said
    assert "**Raises**\n\n- `ValueError`: for a bad one." in said


def test_public_functions_have_types_and_docstrings() -> None:
    """What ruff and mypy hold, looked at once more: nobody switched it off for a file."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                known = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                free = [a.arg for a in known if a.annotation is None and a.arg not in ("self", "cls")]
                assert not free, f"{path.name}: {node.name}({', '.join(free)})"
                assert node.returns is not None, f"{path.name}: {node.name}"
