"""The reference page of the HTTP API, from the OpenAPI description that the server's application gives of itself."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

from docstrings import cell, markdown
from fourstroke.serve.app import create_app
from fourstroke.serve.config import ServeConfig


def schema() -> dict[str, Any]:
    """The OpenAPI description; nothing is served for it."""
    return create_app(MagicMock(), ServeConfig()).openapi()


def page() -> str:
    """Every route with its fields and answers."""
    api = schema()
    known = api["components"]["schemas"]
    text = ["# HTTP API", "", "OpenAI's image API, and what a studio needs beside it. The same as"]
    text += ["[openapi.json](openapi.json); how it is used is in [Serve](../guides/serve.md).", ""]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            text += [f"## `{method.upper()} {path}`", "", markdown(operation.get("description")), ""]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                text += [f"Body: `{kind}`.", "", *_table(_resolved(content["schema"], known), known)]
            answers = operation["responses"].items()
            errors = [code for code, answer in answers if "ErrorBody" in _answer(answer, known)]
            text += [f"- **{code}** {_answer(answer, known)}" for code, answer in answers if code not in errors]
            if errors:
                text.append(f"- **{', '.join(errors)}** [ErrorBody](#errorbody), which says what is wrong")
            text.append("")
    text += ["## Objects", ""]
    for name, found in sorted(known.items()):
        if found.get("properties") and "ValidationError" not in name:  # those are FastAPI's own; ours is ErrorBody
            text += [f"### {name}", "", markdown(found.get("description")), "", *_table(found, known)]
    return "\n".join(text)


def _resolved(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return known.get(name, schema)


def _table(schema: dict[str, Any], known: dict[str, Any]) -> list[str]:
    rows = ["| field | values | default | meaning |", "|---|---|---|---|"]
    needed = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "**required**" if name in needed else f"`{field['default']}`" if field.get("default") else ""
        rows.append(f"| `{name}` | {cell(_type(field, known))} | {default} | {cell(field.get('description'))} |")
    return [*rows, ""]


def _type(field: dict[str, Any], known: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})" if known.get(name, {}).get("properties") else name
    options = [option for option in field.get("anyOf", []) if option.get("type") != "null"]
    if options:
        return " or ".join(_type(option, known) for option in options)
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), known)}"
    least = field.get("minimum", field.get("exclusiveMinimum"))
    most = field.get("maximum", field.get("exclusiveMaximum"))
    span = "" if least is None else f", {least:.16g} to {most:.16g}" if most is not None else f", from {least:.16g}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    pattern = f", `{field['pattern']}`" if "pattern" in field else ""
    kind = (
        "file" if field.get("format") == "binary" else names.get(field.get("type", ""), field.get("type", "anything"))
    )
    return kind + span + pattern


def _answer(answer: dict[str, Any], known: dict[str, Any]) -> str:
    kinds = []
    for kind, content in answer.get("content", {}).items():
        named = _type(content.get("schema", {}), known) if "$ref" in content.get("schema", {}) else ""
        kinds.append(f"`{kind}`" + (f" {named}" if named else ""))
    return f"{answer.get('description', '')}{': ' if kinds else ''}{', '.join(kinds)}"
