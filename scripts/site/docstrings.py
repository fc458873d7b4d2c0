"""Docstrings as Markdown: Google's sections become lists, attribute docstrings are read from the source."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any

SECTIONS = ("Args", "Returns", "Raises", "Warns", "Yields")


def markdown(text: str | None) -> str:
    """A docstring, cleaned; what is outside of code marks cannot be taken for HTML."""
    lines: list[str] = []
    section = False
    for line in inspect.cleandoc(text or "").splitlines():
        if (title := line.rstrip(":")) in SECTIONS and line.endswith(":"):
            lines += ["", f"**{title}**", ""]
            section = True
        elif section and (found := re.match(r" {4}([\w, .*]+): (.*)", line)):
            lines.append(f"- `{found[1]}`: {found[2]}")
        elif section and line.startswith("        "):
            lines.append(f"  {line.strip()}")
        elif section and line.startswith("    "):
            lines.append(f"- {line.strip()}")
        else:
            section = section and not line.strip()
            lines.append(line)
    return escape("\n".join(lines))


def escape(text: str) -> str:
    """Without HTML and emphasis outside of code marks."""
    parts = re.split(r"(``.*?``|`[^`]*`)", text, flags=re.S)
    parts[::2] = [re.sub(r"(?<!\*)\*(?!\*)(?=\w)", r"\*", part.replace("<", "&lt;")) for part in parts[::2]]
    return "".join(parts)


def cell(text: str | None) -> str:
    """Markdown for one cell of a table."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return (
        escape("<br>".join(" ".join(part.split()) for part in paragraphs))
        .replace("&lt;br>", "<br>")
        .replace("|", "\\|")
    )


def attributes(kind: type) -> dict[str, str]:
    """By field, the docstring that stands under it in the class or in the classes it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.startswith("fourstroke"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
            assert isinstance(tree, ast.ClassDef)
            for field, below in zip(tree.body, tree.body[1:]):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
                    found[field.target.id] = ast.literal_eval(below.value)  # type: ignore[attr-defined]
    return found


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
