"""Masked templates and their least-squares fit at every place of a picture at once.

Around a place the picture is explained twice, by a smooth background alone and by an object before one:

    null:    I_c = b_c + b_cx x + b_cy y
    object:  I_c = g_c P_c + (1 - alpha) (b_c + b_cx x + b_cy y + b_cs shadow)

over the pixels of the object and a thin ring around it. `P` is the object in premultiplied colours; the gains `g_c` of
a sprite stay near 1, those of a shape are free, for they are its colour. The score is the share of what the background
cannot explain that the object can, (N - R) / (N + noise), with N and R the squared residuals of null and object. Our
own method; every term is a correlation with a fixed filter, so one convolution serves all places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fourstroke.world.palette import SHAPE_COLOURS
from fourstroke.world.stamps import object_stamp

Thing = tuple[str, str]
"""A name and a style, or a shape and `SHAPE`."""
SHAPE = "shape"
RING = 0.1
"""Width of the ring around an object, a fraction of its size."""
RING_WEIGHT = 0.5
GAINS = (0.5, 1.3)
"""Brightness of a sprite in each channel, relative to its own."""
NOISE = 3 * (8 / 255) ** 2
"""Variance in a pixel's three channels below which there is nothing to explain."""
PROBE = "red"


@dataclass(frozen=True)
class Templates:
    """T templates of one size; filters are (T, ., c, c) on a common canvas of c pixels."""

    weight: Tensor
    null: Tensor
    back: Tensor
    thing: Tensor
    strength: Tensor
    """(T, 3): the norm of each channel of the object, beyond what the background explains."""
    free: Tensor
    """(T,) bool: whether the gains are free (shapes)."""
    centre: float
    """Pixels from the canvas's border to the centre of the templates."""

    @property
    def extents(self) -> Tensor:
        """(T,): square roots of the pixels that the templates look at."""
        return self.weight.sum((1, 2)).sqrt()

    @classmethod
    def make(cls, things: Sequence[Thing], size: int, ramps: bool) -> Templates:
        """Templates of things whose longer side is `size` pixels; `ramps` adds x, y, shadow and blur."""
        ring = max(1, round(RING * size))
        canvas = size + 2 * ring
        parts = [_filters(planes_of(thing, size, canvas, ramps), ring, ramps) for thing in things]
        weight, null, back, thing, strength = (torch.stack(part) for part in zip(*parts, strict=True))
        free = torch.tensor([style == SHAPE for _, style in things])
        return cls(weight, null, back, thing, strength, free, canvas / 2)

    def pick(self, indices: Sequence[int]) -> Templates:
        """Some of the templates."""
        chosen = torch.tensor(indices)
        names = ("weight", "null", "back", "thing", "strength", "free")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def fit(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (T, h, w) and gains (T, 3, h, w) wherever the canvas lies in `picture`, (3, H, W) in [0, 1]."""
        channels = picture[:, None]
        count = len(self.free)
        energy = F.conv2d(picture.square().sum(0)[None, None], self.weight[:, None])[0]
        smooth, behind = (  # 1 c h w * (T J) 1 c c -> 3 (T J) h w, summed over channels and filters
            F.conv2d(channels, filters.flatten(0, 1)[:, None]).square().sum(0).unflatten(0, (count, -1)).sum(1)
            for filters in (self.null, self.back)
        )
        amplitude = F.conv2d(picture[None], self.thing.transpose(0, 1).flatten(0, 1)[:, None], groups=3)[0]
        amplitude = amplitude.unflatten(0, (3, count)).transpose(0, 1)
        strength = self.strength[:, :, None, None]
        best = amplitude / strength
        gains = torch.where(self.free[:, None, None, None], best, best.clamp(*GAINS))
        explained = (2 * gains * strength * amplitude - (gains * strength).square()).sum(1)
        without = (energy - smooth).clamp_min(0)
        residual = (energy - behind - explained).clamp_min(0)
        area = self.weight.sum((1, 2))[:, None, None]
        return (without - residual) / (without + NOISE * area), gains


def planes_of(thing: Thing, size: int, canvas: int, soft: bool) -> Tensor:
    """(4, canvas, canvas) in 0..1: colours times alpha, then alpha; a shape has its shading for a colour."""
    name, style = thing
    drawn = object_stamp(name, PROBE, size) if style == SHAPE else object_stamp(name, None, size, style)
    stamp = torch.from_numpy(drawn.planes) / 255
    if style == SHAPE:
        stamp = torch.cat([stamp[:1].expand(3, -1, -1) * 255 / SHAPE_COLOURS[PROBE][0], stamp[3:]])
    height, width = stamp.shape[1:]
    top, left = (canvas - height) // 2, (canvas - width) // 2
    planes = F.pad(stamp, (left, canvas - width - left, top, canvas - height - top))
    return blur(planes) if soft else planes


def blur(planes: Tensor) -> Tensor:
    """A binomial blur of 3 x 3 pixels, (c, h, w): what is soft already stays nearly as it is."""
    tap = torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(planes[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, (tap[:, None] * tap)[None, None])[:, 0]


def _filters(planes: Tensor, ring: int, ramps: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Orthonormal filters under the weights: weight, null (J), back (J), thing (3), and the norms of the thing (3)."""
    planes = planes.double()
    alpha = planes[3]
    wide = F.max_pool2d(alpha[None], 2 * ring + 1, stride=1, padding=ring)[0]
    weight = (1 - RING_WEIGHT) * alpha + RING_WEIGHT * wide
    root = weight.sqrt().flatten()
    axis = torch.linspace(-1, 1, alpha.shape[0], dtype=torch.float64)
    smooth = [torch.ones_like(alpha)]
    if ramps:
        smooth += [axis[None, :].expand_as(alpha), axis[:, None].expand_as(alpha)]
    field = torch.stack(smooth).flatten(1)
    null = torch.linalg.qr((field * root).T)[0].T
    if ramps:
        field = torch.cat([field, _shadow(alpha, ring).flatten()[None]])
    back = torch.linalg.qr((field * (1 - alpha.flatten()) * root).T)[0].T
    thing = planes[:3].flatten(1) * root
    thing = thing - (thing @ back.T) @ back
    strength = thing.norm(dim=1).clamp_min(1e-3)
    shaped = [(part * root).unflatten(1, alpha.shape).float() for part in (null, back, thing / strength[:, None])]
    return weight.float(), *shaped, strength.float()


def _shadow(alpha: Tensor, ring: int) -> Tensor:
    """Where the soft shadow below an object lies, (c, c)."""
    down = max(1, round(0.6 * ring))
    return F.avg_pool2d(F.pad(alpha, (down, down, 2 * down, 0))[None], 2 * down + 1, stride=1)[0]
