"""Inference of the autoencoder strip by strip: the exact result in a small, constant amount of memory, and faster.

Our choice; the reports are silent. Every part is a generator that takes strips of rows from the one before it and
yields strips of its own. A convolution keeps the last rows that its next window needs, so nothing is computed twice,
nothing is blended and there is no seam: only the middle block, at a sixteenth of the size, sees the whole picture at
once. A strip stays in the processor's cache from norm to convolution, and sums and activations happen in place.

A generator that waits at `yield` keeps alive what its names hold. Strips are therefore handed over out of a list, and
whoever takes one is the only one to hold it.

Strips are (b, c, rows, w) in channels-last order. Results equal `forward`'s but for the order of float additions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.vae.blocks import (
    Attention,
    ChannelRMSNorm,
    Downsample,
    DownStage,
    MiddleBlock,
    ResidualBlock,
    Upsample,
    UpStage,
)
from fourstroke.vae.winograd import DoublingConvolution, RowConvolution

MIN_POSITIONS = 2048
"""A strip has at least so many positions (b * rows * w), lest reading the weights cost more than using them."""
MAX_SCORES = 2**24
"""Attention scores held at once."""


class Strip(NamedTuple):
    """Some rows of a picture, and whether they are its last."""

    rows: Tensor
    last: bool


Strips = Iterator[Strip]


def regroup(strips: Strips, strip_bytes: int, channels: int) -> Strips:
    """Join and cut strips so that at `channels` channels they would hold about `strip_bytes` bytes; rows are even."""
    waiting: list[Tensor] = []
    for rows, last in strips:
        waiting.append(rows)
        batch, _, _, width = rows.shape
        wanted = max(strip_bytes // (batch * channels * width * rows.element_size()), MIN_POSITIONS // (batch * width))
        del rows
        height = sum(part.shape[2] for part in waiting)
        if not last and height < wanted:
            continue
        joined = waiting[0] if len(waiting) == 1 else torch.cat(waiting, dim=2)
        waiting = [] if last or height % 2 == 0 else [joined[:, :, -1:].clone(memory_format=torch.channels_last)]
        height -= len(waiting)
        parts = max(1, round(height / max(2, wanted)))
        step = 2 * max(1, -(-height // (2 * parts)))
        for start in range(0, height, step):
            part = joined[:, :, start : min(start + step, height)].contiguous(memory_format=torch.channels_last)
            out = [Strip(part, last and start + step >= height)]
            del part
            if start + step >= height:
                del joined
            yield out.pop()


def up(stage: UpStage, strips: Strips) -> Strips:
    """`UpStage.forward`, strip by strip."""
    kept = ResidualBuffer(stage.avg_shortcut, 2)
    strips = kept.watch(strips) if stage.avg_shortcut is not None else strips
    for block in stage.resnets:
        assert isinstance(block, ResidualBlock)
        strips = residual(block, strips)
    if stage.upsampler is not None:
        strips = upsample(stage.upsampler, strips)
    return kept.added(strips) if stage.avg_shortcut is not None else strips


def down(stage: DownStage, strips: Strips) -> Strips:
    """`DownStage.forward`, strip by strip; strips have an even number of rows where the stage halves them."""
    kept = ResidualBuffer(stage.avg_shortcut, 1 if stage.downsampler is None else 0.5)
    strips = kept.watch(strips) if stage.avg_shortcut is not None else strips
    for block in stage.resnets:
        assert isinstance(block, ResidualBlock)
        strips = residual(block, strips)
    if stage.downsampler is not None:
        strips = downsample(stage.downsampler, strips)
    return kept.added(strips) if stage.avg_shortcut is not None else strips


def middle(block: MiddleBlock, x: Tensor) -> Tensor:
    """`MiddleBlock.forward` on the whole map."""
    first, second = block.resnets
    assert isinstance(first, ResidualBlock)
    assert isinstance(second, ResidualBlock)
    x = whole(residual(first, iter([Strip(x, True)])))
    attention = block.attentions[0]
    assert isinstance(attention, Attention)
    return whole(residual(second, iter([Strip(attend(attention, x), True)])))


def attend(attention: Attention, x: Tensor) -> Tensor:
    """`Attention.forward`, some queries at a time: memory grows with the number of positions, not with its square."""
    qkv = attention.to_qkv(attention.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1)
    q, k, v = qkv.chunk(3, dim=-1)
    step = max(1, MAX_SCORES // (len(x) * q.shape[2]))
    y = torch.cat([F.scaled_dot_product_attention(part, k, v) for part in q.split(step, dim=2)], dim=2)
    return x + attention.proj(y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))


def residual(block: ResidualBlock, strips: Strips) -> Strips:
    """`ResidualBlock.forward`, strip by strip."""
    kept = ResidualBuffer(block.conv_shortcut if isinstance(block.conv_shortcut, nn.Conv2d) else None)
    h = convolve(block.conv1, kept.watch(strips), block.norm1)
    return kept.added(convolve(block.conv2, h, block.norm2))


def convolve(conv: nn.Conv2d, strips: Strips, norm: ChannelRMSNorm | None = None) -> Strips:
    """A 3x3 convolution of the strips, normed and activated first where there is a norm."""
    kernel = RowConvolution(conv)
    held: Tensor | None = None
    for rows, last in strips:
        above = 1 if held is None else held.shape[2]
        x = _window(held, rows, above=above, below=last, norm=norm)
        del rows
        ready = x.shape[2] - 2
        ready -= 0 if last else ready % kernel.step
        held = x[:, :, ready:].clone(memory_format=torch.channels_last)
        if ready > 0:
            out = [Strip(kernel(x[:, :, : ready + 2], last), last)]
            del x
            if last:
                del kernel
            yield out.pop()


def upsample(module: Upsample, strips: Strips) -> Strips:
    """`Upsample.forward`, strip by strip."""
    conv = module.resample["1"]
    assert isinstance(conv, nn.Conv2d)
    kernel = DoublingConvolution(conv)
    held: Tensor | None = None
    for rows, last in strips:
        x = _window(held, rows, above=1 if held is None else held.shape[2], below=last)
        del rows
        held = x[:, :, -2:].clone(memory_format=torch.channels_last)
        if x.shape[2] > 2:
            out = [Strip(kernel(x, last), last)]
            del x
            if last:
                del kernel
            yield out.pop()


def downsample(module: Downsample, strips: Strips) -> Strips:
    """`Downsample.forward`, strip by strip."""
    conv = module.resample["1"]
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.contiguous(memory_format=torch.channels_last)
    held: Tensor | None = None
    for rows, last in strips:
        x = _window(held, rows, above=0 if held is None else held.shape[2], below=last, right=1)
        del rows
        ready = (x.shape[2] - 1) // 2
        held = x[:, :, 2 * ready :, :-1].clone(memory_format=torch.channels_last)
        if ready > 0:
            out = [Strip(F.conv2d(x[:, :, : 2 * ready + 1], weight, conv.bias, stride=2), last)]
            del x
            if last:
                del weight
            yield out.pop()


def whole(strips: Strips) -> Tensor:
    """All strips as one picture."""
    parts = [rows for rows, _ in strips]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class ResidualBuffer:
    """What enters a main path, kept until the main path's rows are there, then added to them in place.

    `change` maps kept rows to what is added; each kept row becomes `scale` rows of it.
    """

    def __init__(self, change: Callable[[Tensor], Tensor] | None = None, scale: float = 1) -> None:
        self.change, self.scale = change, scale
        self.rows: deque[Tensor] = deque()
        self.ready = NOTHING

    def watch(self, strips: Strips) -> Strips:
        """Pass strips on, keeping them."""
        for strip in strips:
            self.rows.append(strip.rows)
            out = [strip]
            del strip
            yield out.pop()

    def added(self, strips: Strips) -> Strips:
        """Strips of the main path with the kept rows added."""
        for strip in strips:
            self.add_to(strip.rows)
            out = [strip]
            del strip
            yield out.pop()

    def add_to(self, h: Tensor) -> None:
        """Add the next kept rows to `h`, and forget them."""
        done, height = 0, h.shape[2]
        while done < height:
            if not self.ready.shape[2]:
                first, wanted = self.rows.popleft(), max(1, round((height - done) / self.scale))
                if first.shape[2] > wanted:
                    self.rows.appendleft(first[:, :, wanted:])
                first = first[:, :, :wanted]
                self.ready = first if self.change is None else self.change(first)
            part = self.ready[:, :, : height - done]
            h[:, :, done : done + part.shape[2]].add_(part)
            self.ready = self.ready[:, :, part.shape[2] :]
            done += part.shape[2]
        if not self.ready.shape[2]:
            self.ready = NOTHING


NOTHING = torch.empty(1, 1, 0, 1)


def _window(
    held: Tensor | None,
    rows: Tensor,
    *,
    above: int,
    below: bool,
    right: int = 0,
    norm: ChannelRMSNorm | None = None,
) -> Tensor:
    """`above` held rows (or zeros), the rows, normed where there is a norm, and a row of zeros `below` the picture."""
    batch, channels, height, width = rows.shape
    shape = (batch, channels, above + height + below, width + right)
    x = torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
    if held is not None:
        x[:, :, :above, :width] = held
    else:
        x[:, :, :above] = 0
    if below:
        x[:, :, -1] = 0
    if right:
        x[..., -right:] = 0
    place = x[:, :, above : above + height, :width]
    if norm is None:
        place.copy_(rows)
    else:
        activate(norm, rows, place)
    return x


def activate(norm: ChannelRMSNorm, x: Tensor, out: Tensor) -> None:
    """silu(norm(x)) into `out`; as `ChannelRMSNorm`, half precision is normalised in float32."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min_(1e-12)
    torch.mul(wide, x.shape[1] ** 0.5 / length, out=out)
    F.silu(out.mul_(norm.gamma.view(-1, 1, 1)), inplace=True)
