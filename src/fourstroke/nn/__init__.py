"""The parts that models are built from: norms, feed-forward, rotary positions, attention."""

from fourstroke.nn.attention import Attention, KeysValues, Past, Span
from fourstroke.nn.feedforward import SwiGLU
from fourstroke.nn.linear import Linear, linear
from fourstroke.nn.norm import RMSNorm, ZeroCentredRMSNorm
from fourstroke.nn.rotary import Rotary, rotary_table, rotate

__all__ = [
    "Attention",
    "KeysValues",
    "Linear",
    "Past",
    "RMSNorm",
    "Rotary",
    "Span",
    "SwiGLU",
    "ZeroCentredRMSNorm",
    "linear",
    "rotary_table",
    "rotate",
]
