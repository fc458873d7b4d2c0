"""The reference page of the Python API: signatures and docstrings of the classes that `import fourstroke` offers."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import fourstroke
from docstrings import markdown
from recipe_pages import table

BESIDE = {
    "Pipeline": ("fourstroke.pipeline:Output",),
    "Autoencoder": ("fourstroke.vae.autoencoder:AutoencoderConfig",),
    "Transformer": ("fourstroke.dit.transformer:TransformerConfig",),
    "TextEncoder": ("fourstroke.text.encoder:TextFeatures",),
    "PromptEnhancer": ("fourstroke.enhance.enhancer:Enhanced",),
}
"""By class, those that its methods take or give."""


def page() -> str:
    """Every public class with its public methods."""
    text = ["# Python API", "", markdown(fourstroke.__doc__), ""]
    for name in ("Pipeline", "Autoencoder", "Transformer", "TextEncoder", "PromptEnhancer"):
        text += _class(getattr(fourstroke, name), name)
        for where in BESIDE[name]:
            module, _, beside = where.partition(":")
            text += _class(getattr(importlib.import_module(module), beside), where.replace(":", "."))
    return "\n".join(text)


def _class(kind: type, shown: str) -> list[str]:
    text = [f"## `{shown}`", "", markdown(inspect.getdoc(kind)), ""]
    if dataclasses.is_dataclass(kind):
        return text + table(kind)
    for name, method in _methods(kind):
        if isinstance(method, property):
            said = f"{kind.__name__}.{name}"
            doc = method.fget.__doc__ if method.fget else ""
        else:
            function = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
            said, doc = _signature(kind, name, function), function.__doc__
        text += [f"### `{kind.__name__}.{name}` {{#{kind.__name__.lower()}-{name.strip('_')}}}", ""]
        text += ["```python", said, "```", "", markdown(doc), ""]
    return text


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """What the class and those of ours that it inherits from define for everybody, in their own order."""
    for owner in kind.__mro__:
        for name, member in vars(owner).items() if owner.__module__.startswith("fourstroke") else ():
            known = isinstance(member, (property, classmethod, staticmethod)) or inspect.isfunction(member)
            if known and (name == "__call__" or not name.startswith("_")):
                yield name, member


def _signature(kind: type, name: str, function: Any) -> str:
    """One parameter a line where the whole does not fit."""
    signature = inspect.signature(inspect.unwrap(function))
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    start = "pipe" if name == "__call__" else f"{kind.__name__}.{name}"
    arrow = (
        "" if signature.return_annotation is inspect.Signature.empty else f" -> {_named(signature.return_annotation)}"
    )
    words, keyword = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            words.append("*")
            keyword = True
        words.append(str(parameter).replace("'", ""))
    line = f"{start}({', '.join(words)}){arrow}"
    return line if len(line) < 90 else f"{start}(\n    " + ",\n    ".join(words) + f",\n){arrow}"


def _named(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
