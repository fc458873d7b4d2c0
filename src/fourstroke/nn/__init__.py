"""The parts that models are built from: norms, feed-forward, rotary positions, attention."""

from fourstroke.nn.attention import Attention, KeysValues, Past, Span
from fourstroke.nn.feedforward import SwiGLU
from fourstroke.nn.norm import RMSNorm, ZeroCentredRMSNorm
from fourstroke.nn.rotary import Rotary, rotary_table, rotate

__all__ = [
    "Attention",
    "KeysValues",
    "Past",
    "RMSNorm",
    "Rotary",
    "Span",
    "SwiGLU",
    "ZeroCentredRMSNorm",
    "rotary_table",
    "rotate",
]
