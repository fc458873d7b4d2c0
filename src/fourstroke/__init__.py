"""fourstroke: an open implementation of the whole Qwen-Image-2.0 system, from prompt to picture in four strokes.

`Pipeline` draws; `Transformer`, `Autoencoder`, `TextEncoder` and `PromptEnhancer` are its parts. They are loaded on
first use, so that `import fourstroke` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fourstroke.version import __version__

if TYPE_CHECKING:
    from fourstroke.dit import Transformer
    from fourstroke.enhance.enhancer import PromptEnhancer
    from fourstroke.pipeline import Pipeline
    from fourstroke.text import TextEncoder
    from fourstroke.vae import Autoencoder

__all__ = ["Autoencoder", "Pipeline", "PromptEnhancer", "TextEncoder", "Transformer", "__version__"]

_HOMES = {
    "Autoencoder": "fourstroke.vae",
    "Pipeline": "fourstroke.pipeline",
    "PromptEnhancer": "fourstroke.enhance.enhancer",
    "TextEncoder": "fourstroke.text",
    "Transformer": "fourstroke.dit",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fourstroke' has no attribute '{name}'")
