"""Root-mean-square norms: one stores its scale, the other stores how far its scale is from one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, `... d -> ... d`; the scale starts at one."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the mean is taken in float32 whatever the dtype of `x`."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class ZeroCentredRMSNorm(nn.Module):
    """RMS norm that stores `scale - 1`, so that weight decay pulls the scale to one; starts as the identity scale."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in float32 and return the dtype of `x`, `... d -> ... d`.

        The features of a language model reach magnitudes in the thousands, and `1 + weight` needs the small digits
        of `weight`; both are lost in bfloat16.
        """
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.eps).to(x.dtype)
