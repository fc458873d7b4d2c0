"""Rough pictures of latents without the decoder, for a first preview at once.

A few-step model spends more time in its decoder than between two steps, so a decoded preview would hardly come before
the picture. A linear map from each latent to a few colours shows composition and colours. It is fitted, when the
server warms up, to what the model's own autoencoder makes of smooth random pictures: no weights of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fourstroke.vae import Autoencoder

CELLS = 2
"""A latent is latent_previews as CELLS x CELLS colours; more would show its square."""
PICTURES, SIDE, DISCS = 32, 6, 5
"""So many pictures of SIDE x SIDE latents, each of so many discs."""


class LatentPreview:
    """`b c h w -> b 4 (f h) (f w)`, linear in each latent, smoothed to full size; RGBA in [-1, 1]."""

    def __init__(self, weight: Tensor, factor: int) -> None:
        self.weight = weight  # (c + 1, 4 * CELLS**2)
        self.factor = factor

    def __call__(self, z: Tensor) -> Tensor:
        """(b, c, h, w) latents to (b, 4, f h, f w)."""
        cells = _with_one(z.float()) @ self.weight
        small = F.pixel_shuffle(cells.permute(0, 3, 1, 2), CELLS)
        return F.interpolate(small, scale_factor=self.factor / CELLS, mode="bicubic", align_corners=False).clamp(-1, 1)

    @classmethod
    def fit(cls, autoencoder: Autoencoder) -> LatentPreview:
        """Least squares, slightly damped, over random pictures of soft shapes."""
        parameter = next(autoencoder.parameters())
        factor = autoencoder.config.factor
        pictures = random_pictures(PICTURES, SIDE * factor)
        z = torch.cat([autoencoder.encode(x[None].to(parameter.device, parameter.dtype)).float() for x in pictures])
        small = F.avg_pool2d(pictures, factor // CELLS).to(z.device)
        wanted = F.pixel_unshuffle(small, CELLS).permute(0, 2, 3, 1).flatten(0, 2)
        known = _with_one(z).flatten(0, 2)
        damped = known.T @ known + 1e-2 * len(known) * torch.eye(known.shape[1], device=z.device)
        return cls(torch.linalg.solve(damped, known.T @ wanted), factor)


def random_pictures(count: int, side: int) -> Tensor:
    """(count, 4, side, side) in [-1, 1]: soft and grained discs on a colour field, some on nothing; always the same."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    x = F.interpolate(uniform(3, 3, 3) * 2 - 1, (side, side), mode="bicubic").clamp(-1, 1)
    cover = torch.zeros(count, 1, side, side)
    axis = torch.linspace(0, 1, side)
    for _ in range(DISCS):
        centre, radius, sharp = uniform(2, 1, 1), 0.06 + 0.2 * uniform(1, 1), side * (0.2 + uniform(1, 1))
        distance = ((axis[:, None] - centre[:, 0]) ** 2 + (axis[None, :] - centre[:, 1]) ** 2).sqrt()
        inside = torch.sigmoid((radius - distance) * sharp)[:, None]
        x = x * (1 - inside) + (uniform(3, 1, 1) * 2 - 1) * inside
        cover = torch.maximum(cover, inside)
    x = x + torch.randn(x.shape, generator=generator) * 0.2 * uniform(1, 1, 1)
    clear = torch.arange(count).view(-1, 1, 1, 1) % 4 == 3
    return torch.cat((x, torch.where(clear, 2 * cover - 1, 1)), dim=1).clamp(-1, 1)


def _with_one(z: Tensor) -> Tensor:
    """`b c h w -> b h w (c + 1)`."""
    return F.pad(z.permute(0, 2, 3, 1), (0, 1), value=1.0)
