"""What mkdocs calls while it builds the site: the reference is made from the code, links to the code become pages."""

from __future__ import annotations

import json
import logging
import posixpath
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

import cli_page
import http_page
import python_page
import recipe_pages
import source_pages
from fourstroke import commands

log = logging.getLogger("mkdocs.fourstroke")
REFERENCE = {
    "recipes": "reference/recipes/index.md",
    "src/fourstroke/__init__.py": "reference/python.md",
    "src/fourstroke/cli.py": "reference/cli.md",
    "src/fourstroke/data/__init__.py": "reference/kinds.md#datasets",
    "src/fourstroke/enhance/chat.py": "reference/kinds.md#caption-rules",
    "src/fourstroke/enhance/rewards/__init__.py": "reference/kinds.md#rewards",
    "src/fourstroke/registry.py": "reference/kinds.md",
    "src/fourstroke/serve/schemas.py": "reference/http.md",
    "src/fourstroke/vae/objective/__init__.py": "reference/kinds.md#losses",
    **{
        f"src/fourstroke/train/{module}.py": f"reference/recipes/{stage}.md"
        for stage, (module, *_) in commands.STAGES.items()
    },
}
"""By source, what the site makes of it. A link to the source with `#reference` leads there, and without a site to the
source."""
_sources: dict[str, str] = {}  # by path in the tree, that of its page


def on_config(config: Any) -> Any:
    """Fill in what stands as a pattern in the navigation, such as `studies/*.md`: pages that it does not name."""
    made = [f"reference/recipes/{stage}.md" for stage in commands.STAGES]
    made += [f"models/{card.parent.name}.md" for card in _cards()]
    docs = Path(config["docs_dir"])
    every = made + sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(config["nav"])))

    def filled(items: list[Any]) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if isinstance(item, dict):
                found.append({key: filled(v) if isinstance(v, list) else v for key, v in item.items()})
            elif "*" in item:
                found += [path for path in every if path not in named and fnmatch(path, item)]
            else:
                found.append(item)
        return found

    config["nav"] = filled(config["nav"])
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, the model cards, CONTRIBUTING, and the files of the tree that pages link to."""
    for path, text in {
        **recipe_pages.pages(),
        "reference/cli.md": cli_page.page(),
        "reference/http.md": http_page.page(),
        "reference/openapi.json": json.dumps(http_page.schema(), indent=2),
        "reference/python.md": python_page.page(),
    }.items():
        files.append(File.generated(config, path, content=text))
    cards = {path.relative_to(source_pages.ROOT): f"models/{path.parent.name}.md" for path in _cards()}
    for path, page in {Path("CONTRIBUTING.md"): "contributing.md", **cards}.items():
        text = (source_pages.ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)))
        _sources[str(path)] = page
    for file in list(files.documentation_pages()):
        for path in source_pages.outside(file.content_string, _home(file)):
            if path not in _sources:
                _sources[path] = f"source/{path}.md"
                files.append(File.generated(config, _sources[path], content=source_pages.source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave docs/ into links to pages of the site, and draw SVG files into the page."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    home = _home(page.file)

    def link(match: re.Match[str]) -> str:
        text, fragment = match["text"], match["fragment"] or ""
        path = source_pages.resolve(match["target"], home)
        if fragment == "#reference":
            target, _, anchor = REFERENCE[source_pages.in_tree(match["target"], home)].partition("#")
            fragment = f"#{anchor}" if anchor else ""
        elif path in _sources:
            target = _sources[path]
            if target.startswith("source/"):
                fragment = source_pages.place(path, text, page.file.src_uri)
                found = files.get_file_from_path(target)
                assert found is not None
                url = get_relative_url(found.url, page.file.url) + fragment
                shown = re.sub("`([^`]*)`", r"<code>\1</code>", text).replace("_", "&#95;")  # no emphasis
                return f'<a href="{url}">{shown}</a>'
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        else:
            return match[0]
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}{fragment})"

    def drawing(match: re.Match[str]) -> str:
        file = Path(config["docs_dir"]) / posixpath.dirname(page.file.src_uri) / match["target"]
        svg = re.sub(r"<style>.*?</style>|<\?xml.*?\?>", "", file.read_text(encoding="utf-8"), flags=re.S)
        svg = " ".join(svg.split()).replace("<svg ", f'<svg role="img" aria-label="{match["text"]}" ', 1)
        return f'<figure class="drawing">{svg}</figure>'

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.S | re.M)  # code stays as it is
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+\.svg)\)", drawing, parts[number])
        parts[number] = source_pages.LINK.sub(link, parts[number])
    return "".join(parts)


def _cards() -> list[Path]:
    return sorted(source_pages.ROOT.glob("models/*/README.md"))


def _home(file: File) -> str:
    """Where a page's text lies in the tree."""
    for path, page in _sources.items():
        if page == file.src_uri:
            return path
    return f"docs/{file.src_uri}"
