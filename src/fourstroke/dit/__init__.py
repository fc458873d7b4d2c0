"""The diffusion transformer and the layout of its joint sequence."""

from fourstroke.dit.cache import PrefixCache
from fourstroke.dit.condition import InputImages, Pair, condition, prefill, together
from fourstroke.dit.layout import Layout
from fourstroke.dit.step_cache import FirstBlockCache
from fourstroke.dit.transformer import Transformer, TransformerConfig

__all__ = [
    "FirstBlockCache",
    "InputImages",
    "Layout",
    "Pair",
    "PrefixCache",
    "Transformer",
    "TransformerConfig",
    "condition",
    "prefill",
    "together",
]
