"""The diffusion transformer and the layout of its joint sequence."""

from fourstroke.dit.cache import PrefixCache
from fourstroke.dit.condition import InputImages, condition, prefill
from fourstroke.dit.layout import Layout
from fourstroke.dit.transformer import Transformer, TransformerConfig

__all__ = [
    "InputImages",
    "Layout",
    "PrefixCache",
    "Transformer",
    "TransformerConfig",
    "condition",
    "prefill",
]
