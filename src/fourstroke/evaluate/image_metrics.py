"""Metrics of pictures that need no reference and no network: the figures that tell a few-step student from its teacher.

Known failures of published students: diversity falls, saturation and contrast drift, noise stays on flat backgrounds,
and a grid of 8 or 16 pixels shows, the period of latents and patches. Pictures are (B, 3, H, W) in [0, 1] unless said
otherwise; each function averages over its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 8
PERIOD = 16
"""Pixels after which a grid repeats; one of 8, 4 or 2 repeats after 16 too."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


def stack(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3 or 4) uint8 of one size as (B, 3, H, W) in [0, 1]; alpha is left aside."""
    return torch.from_numpy(np.stack([p[..., :3] for p in pictures])).permute(0, 3, 1, 2).float() / 255


def diversity(pictures: Tensor) -> float:
    """Mean distance between two pictures of one prompt from different seeds, averaged over prompts; 0 to 1.

    `pictures` is (prompts, seeds, 3, H, W) with at least two seeds; a distance is the root mean square over pixels.
    """
    if pictures.ndim != 5 or pictures.shape[1] < 2:
        raise ValueError(f"pictures are {tuple(pictures.shape)}; give (prompts, seeds >= 2, 3, H, W)")
    first, second = torch.triu_indices(pictures.shape[1], pictures.shape[1], offset=1)
    difference = (pictures[:, first] - pictures[:, second]).flatten(2)
    return difference.square().mean(2).sqrt().mean().item()


def saturation(pictures: Tensor) -> float:
    """Mean over pixels of max(R, G, B) - min(R, G, B), 0 to 1.

    Unlike the ratio of HSV it does not make noise of dark pixels.
    """
    return (pictures.amax(-3) - pictures.amin(-3)).mean().item()


def contrast(pictures: Tensor) -> float:
    """Standard deviation of grey over each picture (RMS contrast), 0 to 0.5."""
    return grey(pictures).flatten(1).std(1, unbiased=False).mean().item()


def sharpness(pictures: Tensor) -> float:
    """Standard deviation of the Laplacian of grey, in grey levels of 255: blur lowers it, noise and edges raise it."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).to(pictures)
    laplacian = F.conv2d(grey(pictures)[:, None], kernel[None, None])
    return 255 * laplacian.flatten(1).std(1, unbiased=False).mean().item()


def flat_noise(pictures: Tensor) -> float:
    """Standard deviation of the flattest quarter of 8 x 8 patches, in grey levels of 255.

    Meant for pictures of which at least a quarter shows a flat background. Each patch has its plane of best fit taken
    out, so that a gradient is no noise. H and W are at least 8.
    """
    levels = pictures.mean(-3)
    height, width = (side - side % PATCH for side in levels.shape[-2:])
    patches = levels[:, :height, :width].unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH))
    patches = patches.transpose(2, 3).flatten(1, 2).flatten(2)  # b (h ph) (w pw) -> b (h w) (ph pw)
    rest = patches - patches @ _plane().to(patches)
    deviations = 255 * rest.square().mean(2).sqrt()
    quarter = max(1, deviations.shape[1] // 4)
    return deviations.sort(dim=1).values[:, :quarter].mean().item()


def grid_artefact(pictures: Tensor, period: int = PERIOD) -> float:
    """How much a grid of `period` pixels, or of a part of it, stands out, in grey levels of 255; 0 for clean pictures.

    A seam or a line bends the grey levels across it. The bend, |a - 2 b + c| of three neighbours, is averaged along
    each cell's side, and for each place within the period the median over all cells of all pictures is taken: contours
    cross few cells at the same place, a grid crosses most of them there. The reading is the largest of those medians
    less their own median, which is what texture and noise give to every place alike; the larger of both directions.

    Raises:
        ValueError: for pictures of fewer than two periods along a side.
    """
    levels = 255 * grey(pictures)
    if min(levels.shape[-2:]) < 2 * period:
        sides = " x ".join(map(str, levels.shape[-2:]))
        raise ValueError(f"a grid of {period} pixels cannot be seen in pictures of {sides}; give two periods or more")
    return grid_reading(grid_places(levels, period))


def grid_places(levels: Tensor, period: int = PERIOD) -> Tensor:
    """The median bend at each place within the period, of grey levels (B, H, W): across, then down, (2, period)."""
    return torch.stack([_bends(levels, period), _bends(levels.mT, period)])


def grid_reading(places: Tensor) -> float:
    """The largest of the medians (2, period) less their own median, the larger of both directions."""
    return (places.amax(-1) - places.median(-1).values).max().item()


def grey(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) -> (..., H, W)."""
    return (pictures * torch.tensor(LUMA).to(pictures)[:, None, None]).sum(-3)


def image_metrics(pictures: Tensor, period: int = PERIOD) -> dict[str, float]:
    """All metrics of single pictures, by name; what pictures are too small for is left out."""
    found = {"saturation": saturation(pictures), "contrast": contrast(pictures), "sharpness": sharpness(pictures)}
    sides = min(pictures.shape[-2:])
    return (
        found
        | ({"flat_noise": flat_noise(pictures)} if sides >= PATCH else {})
        | ({"grid_artefact": grid_artefact(pictures, period)} if sides >= 2 * period else {})
    )


def _bends(levels: Tensor, period: int) -> Tensor:
    """The median bend at each place, of vertical lines of grey levels (B, H, W), (period,)."""
    height, width = (side - side % period for side in levels.shape[-2:])
    bend = (levels[..., :-2] - 2 * levels[..., 1:-1] + levels[..., 2:]).abs()
    bend = F.pad(bend, (1, 1), mode="replicate")[:, :height, :width]
    cells = bend.unflatten(2, (-1, period)).unflatten(1, (-1, period)).mean(2)  # b (h ph) (w pw) -> b h w pw
    return cells.flatten(0, 2).median(0).values


def _plane() -> Tensor:
    """The projection onto planes over a patch, (64, 64)."""
    line = torch.linspace(-1, 1, PATCH, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    basis = torch.stack([torch.ones_like(rows), rows, columns], dim=-1).flatten(0, 1)
    return basis @ torch.linalg.pinv(basis)
