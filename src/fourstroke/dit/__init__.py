"""The diffusion transformer and the layout of its joint sequence."""

from fourstroke.dit.cache import PrefixCache
from fourstroke.dit.layout import Layout
from fourstroke.dit.transformer import Transformer, TransformerConfig

__all__ = ["Layout", "PrefixCache", "Transformer", "TransformerConfig"]
