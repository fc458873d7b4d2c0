"""The parts of the autoencoder: residual block, middle attention, stages down and up, and their shortcuts.

Sources: Qwen-Image-2.0 report (residual shortcuts around each stage), VAE-2.0 report (shortcut variants), and the
released Qwen-Image-2.1 weights, whose parameter names and numerics are kept. They descend from a video model, and three
traces of it remain: norms carry extra unit axes; `time_conv` weights exist and are never used for images; and the
shortcut of a stage that once halved time still counts the frame before the image, which is empty. So the encoder's
shortcut averages zeros in, and the decoder's keeps only the channels of the last frame. New models set
`temperal_downsample` to false everywhere and have none of this.

b batch, c channels, h and w in pixels of the level at hand; every module maps (b, c, h, w) to (b, c', h', w').
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input (through a 1x1 convolution where the width changes)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelRMSNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ChannelRMSNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.conv_shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) -> (b, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class ChannelRMSNorm(nn.Module):
    """Scale each pixel's channel vector to length sqrt(c), then by gamma; half precision is normalised in float32."""

    def __init__(self, channels: int, unit_axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * unit_axes))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w), dtype kept."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(1e-12)
        return (wide * (x.shape[1] ** 0.5 / length)).to(x.dtype) * self.gamma.view(-1, 1, 1)


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block, at the deepest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        x = self.resnets[0](x)
        x = self.attentions[0](x)
        x = self.resnets[1](x)
        return x


class Attention(nn.Module):
    """Self-attention of all pixels with one head as wide as the features, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(channels, unit_axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b 1 (h w) c, attend, -> b c h w."""
        qkv = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1)
        q, k, v = qkv.chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))


class DownStage(nn.Module):
    """Encoder stage: residual blocks, then halve the resolution (all but the last stage); a shortcut around both."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, *, halve: bool, temporal: bool, shortcut: bool
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        widths = [in_channels] + [out_channels] * blocks
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.downsampler = Downsample(out_channels, temporal) if halve else None
        factor, frames = 2 if halve else 1, 2 if temporal else 1
        self.avg_shortcut = SpaceToChannel(in_channels, out_channels, factor, frames) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) -> (b, out, h/2, w/2), or (b, out, h, w) for the last stage."""
        h = x
        for block in self.resnets:
            h = block(h)
        if self.downsampler is not None:
            h = self.downsampler(h)
        return h if self.avg_shortcut is None else h + self.avg_shortcut(x)


class UpStage(nn.Module):
    """Decoder stage: residual blocks, then double the resolution (all but the last stage, which has no shortcut)."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, *, double: bool, temporal: bool, shortcut: bool
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        widths = [in_channels] + [out_channels] * blocks
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.upsampler = Upsample(out_channels, temporal) if double else None
        frames = 2 if temporal else 1
        self.avg_shortcut = ChannelToSpace(in_channels, out_channels, 2, frames) if shortcut and double else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) -> (b, out, 2h, 2w), or (b, out, h, w) for the last stage."""
        h = x
        for block in self.resnets:
            h = block(h)
        if self.upsampler is not None:
            h = self.upsampler(h)
        return h if self.avg_shortcut is None else h + self.avg_shortcut(x)


class Downsample(nn.Module):
    """Convolution of stride 2 whose windows start at even pixels, zeros beyond the right and lower edge."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2, padding=2)})
        if temporal:
            self.time_conv = unused_convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h/2, w/2); h and w even."""
        # Padding 2 adds one window before the first wanted one; dropping it is a view, padding one side is a copy.
        return self.resample["1"](x)[:, :, 1:, 1:]


class Upsample(nn.Module):
    """Double each pixel, then a 3x3 convolution; computed as the equal 4x4 transposed convolution, 4/9 of the work."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, padding=1)})
        if temporal:
            self.time_conv = unused_convolution(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        conv = self.resample["1"]
        assert isinstance(conv, nn.Conv2d)
        return F.conv_transpose2d(x, doubling_kernel(conv.weight), conv.bias, stride=2, padding=1)


def doubling_kernel(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (in, out, 4, 4): the taps that meet the same source pixel after nearest doubling, summed.

    Of output pixels 2i and 2i + 1, the first sees sources i - 1, i, i, the second i, i, i + 1. Along one axis the taps
    (a, b, c) become (c, b + c, a + b, a): the flipped taps plus themselves one step on. Summed in float32 or wider.
    """
    k = (weight if weight.dtype == torch.float64 else weight.float()).transpose(0, 1).flip(2, 3)
    k = F.pad(k, (0, 1)) + F.pad(k, (1, 0))
    k = F.pad(k, (0, 0, 0, 1)) + F.pad(k, (0, 0, 1, 0))
    return k.to(weight.dtype)


class SpaceToChannel(nn.Module):
    """Shortcut down: each factor x factor square becomes channels, averaged in groups to the wanted width."""

    def __init__(self, in_channels: int, out_channels: int, factor: int, frames: int = 1) -> None:
        super().__init__()
        if frames > 1 and in_channels % out_channels and out_channels % (in_channels * frames):
            raise ValueError(f"a temporal stage cannot go from width {in_channels} to {out_channels}")
        self.in_channels, self.out_channels, self.factor, self.frames = in_channels, out_channels, factor, frames

    def forward(self, x: Tensor) -> Tensor:
        """b c (h f1) (w f2) -> b (c f1 f2) h w -> b out h w; `frames` = 2: of (c 2 f1 f2), the first frame zero."""
        diluted = self.frames > 1 and self.out_channels <= self.in_channels
        empty = self.frames > 1 and not diluted
        channels = self.out_channels // self.frames if empty else self.out_channels
        if channels <= self.in_channels and self.in_channels % channels == 0:
            y = F.avg_pool2d(x, self.factor) if self.factor > 1 else x
        else:
            y = F.pixel_unshuffle(x, self.factor)
        y = resample_channels(y, channels)
        if empty:
            y = y.unflatten(1, (self.in_channels, -1))
            y = F.pad(y, (0, 0, 0, 0, y.shape[2] * (self.frames - 1), 0)).flatten(1, 2)
        return y / self.frames if diluted else y


class ChannelToSpace(nn.Module):
    """Shortcut up: channels are repeated to the wanted number, then laid out as factor x factor squares."""

    def __init__(self, in_channels: int, out_channels: int, factor: int, frames: int = 1) -> None:
        super().__init__()
        if in_channels % out_channels or factor**2 * frames % (in_channels // out_channels):
            raise ValueError(f"a shortcut up by {factor} cannot go from width {in_channels} to {out_channels}")
        self.in_channels, self.out_channels, self.factor, self.frames = in_channels, out_channels, factor, frames

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b (out f1 f2) h w -> b out (h f1) (w f2); `frames` = 2: of (out 2 f1 f2), the last frame."""
        if self.in_channels == self.out_channels:
            return F.interpolate(x, scale_factor=float(self.factor), mode="nearest")
        if self.frames > 1:
            x = x.unflatten(1, (self.out_channels, -1))
            x = x[:, :, x.shape[2] * (self.frames - 1) // self.frames :].flatten(1, 2)
        return F.pixel_shuffle(resample_channels(x, self.out_channels * self.factor**2), self.factor)


def resample_channels(x: Tensor, channels: int) -> Tensor:
    """Resample the channel axis by area: average whole groups, or repeat each channel; ratios in between do both."""
    common = gcd(x.shape[1], channels)
    repeats, group = channels // common, x.shape[1] // common
    if repeats > 1:
        x = x.repeat_interleave(repeats, dim=1)
    return x.unflatten(1, (channels, group)).mean(dim=2) if group > 1 else x


def unused_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A weight of the video ancestor: kept so that checkpoints agree in both directions, never run, never trained."""
    return nn.Conv2d(in_channels, out_channels, 1).requires_grad_(False)
