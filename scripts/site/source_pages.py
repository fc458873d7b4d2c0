"""Links from pages to files of the tree outside of docs/: each such file becomes a page with numbered lines.

A link whose text is the name of a function, class or method in code marks leads to the line where it is defined; a
name that the file does not hold is a warning, which ends a strict build.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from pathlib import Path

log = logging.getLogger("mkdocs.fourstroke")
ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<fragment>#[^)\s]*)?\)")
KINDS = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".js": "js", ".css": "css", ".html": "html", "": "text"}


def outside(text: str, home: str) -> list[str]:
    """Files of the tree, outside of docs/, that a page at `home` (a path of the tree) links to."""
    plain = [match["target"] for match in LINK.finditer(text) if match["fragment"] != "#reference"]
    found = [path for target in plain if (path := resolve(target, home))]
    return [path for path in found if not path.startswith("docs/")]


def resolve(target: str, home: str) -> str:
    """The path in the tree of a relative link; empty for addresses and for what is not there."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return ""
    path = in_tree(target, home)
    return path if (ROOT / path).is_file() else ""


def in_tree(target: str, home: str) -> str:
    """The path in the tree that a relative link of a page at `home` means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target))


def source_page(path: str) -> str:
    """A file of the tree as a page."""
    kind = KINDS.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    front = f"---\ntitle: {path}\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# `{path}`\n\n"
    return f'{front}````{kind} linenums="1"\n{text}\n````\n'


def line_of(path: str, name: str) -> int:
    """The line where a file defines `name` (`Class.method` too), or 0 where it does not; 1 for what is no Python."""
    if not path.endswith(".py"):
        return 1
    body: list[ast.stmt] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    line = 0
    for part in name.split("."):
        node = next((n for n in body if _named(n) == part), None)
        if node is None:
            return 0
        line, body = node.lineno, getattr(node, "body", [])
    return line


def _named(node: ast.stmt) -> str:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def place(path: str, text: str, page: str) -> str:
    """The fragment of a link with this text to a source page; a name that is not there is a warning."""
    name = re.fullmatch(r"`([A-Za-z_][\w.]*?)(?:\(\))?`", text)
    if not name or path.endswith(name[1]) or "/" in name[1]:
        return ""
    line = line_of(path, name[1])
    if line == 0:
        log.warning("%s: %s does not define %s", page, path, name[1])
    return f"#__codelineno-0-{line}"
