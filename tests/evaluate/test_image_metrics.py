"""The metrics see what they are for, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fourstroke.evaluate.image_metrics import (
    contrast,
    diversity,
    flat_noise,
    grid_artefact,
    image_metrics,
    saturation,
    sharpness,
)


def _clean(n=4, side=96):
    """Pictures with contours, gradients and texture, but no grid: discs and boxes on ramps, a little blurred noise."""
    generator = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pictures = []
    for _ in range(n):
        a, b, c, d, e, f = torch.rand(6, generator=generator).tolist()
        picture = torch.stack([a * x / side + 0.1, b * y / side + 0.2, torch.full_like(x, 0.3, dtype=torch.float)])
        picture[:, (x - side * c).square() + (y - side * d).square() < (side / 4) ** 2] = e
        left, top = int(c * side / 2), int(f * side / 2)
        picture[:, top : top + side // 3, left : left + side // 3] = f
        texture = F.avg_pool2d(torch.randn(1, 3, side + 4, side + 4, generator=generator), 5, stride=1)[0]
        pictures.append(picture + 0.02 * texture)
    return torch.stack(pictures).clamp(0, 1)


def test_diversity_is_the_distance_between_seeds_not_between_prompts():
    same = torch.rand(3, 1, 3, 8, 8).expand(-1, 4, -1, -1, -1)
    assert diversity(same) == 0
    pair = torch.stack([torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)], dim=1)
    assert diversity(pair) == pytest.approx(0.5)
    uneven = torch.stack([pair[0], torch.zeros_like(pair[0])])  # one prompt's seeds differ by .5, another's by nothing
    assert diversity(uneven) == pytest.approx(0.25)  # each distance counts once, not by its square
    wide = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert diversity(0.5 * wide) == pytest.approx(0.5 * diversity(wide), rel=1e-4)
    with pytest.raises(ValueError, match="seeds"):
        diversity(same[:, :1])


def test_saturation_of_grey_and_of_pure_colour():
    assert saturation(torch.full((2, 3, 4, 4), 0.4)) == 0
    assert saturation(torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1)) == 1


def test_flat_noise_reads_the_deviation_and_ignores_objects_and_gradients():
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 64).view(1, 1, 64, 1).expand(2, 3, 64, 64).clone()
    ramp[:, :, 16:48, 16:48] = torch.rand(2, 3, 32, 32, generator=generator).round()
    assert flat_noise(ramp) < 0.01
    noise = torch.randn(2, 1, 64, 64, generator=generator) * 3 / 255
    assert flat_noise(ramp + noise) == pytest.approx(3, rel=0.15)


def test_contrast_is_the_deviation_of_grey_within_a_picture():
    halves = torch.zeros(2, 3, 4, 4)
    halves[0, :, :2] = 1
    halves[1] = 0.5  # brighter than the other's mean or not: only what differs within a picture counts
    assert contrast(halves[:1]) == pytest.approx(0.5)
    assert contrast(halves) == pytest.approx(0.25)
    assert contrast(0.5 * halves + 0.1) == pytest.approx(0.125)


def test_sharpness_falls_with_blur_and_ignores_brightness_and_ramps():
    clean = _clean()
    blurred = F.avg_pool2d(clean, 3, stride=1, padding=1)
    assert sharpness(blurred) < 0.6 * sharpness(clean)
    assert sharpness(0.5 * clean + 0.25) == pytest.approx(0.5 * sharpness(clean), rel=1e-4)
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    assert sharpness(ramp) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("period", [8, 16])
@pytest.mark.parametrize("kind", ["lines", "rows", "seams", "waves"])
def test_a_grid_is_read_at_its_strength_whatever_it_lies_on(period, kind):
    clean, strength = _clean(), 4 / 255
    x = torch.arange(96)
    if kind == "seams":  # every cell a little brighter or darker than its neighbours
        levels = torch.rand((4, 1, 96 // period, 96 // period), generator=torch.Generator().manual_seed(0))
        grid = 2 * levels.repeat_interleave(period, 2).repeat_interleave(period, 3)
    elif kind == "waves":
        grid = ((x * 2 * math.pi / period).cos() > 0.9).float().expand(96, 96)
    else:
        grid = ((x - 3) % period == 0).float().expand(96, 96)
        grid = grid.T if kind == "rows" else grid
    before, after = grid_artefact(clean), grid_artefact((clean + strength * grid).clamp(0, 1))
    stronger = grid_artefact((clean + 2 * strength * grid).clamp(0, 1))
    assert before < 0.5
    assert before + 1 < after < stronger


def test_noise_contours_and_other_periods_are_no_grid():
    clean = _clean()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert grid_artefact(clean) < 0.5
    assert grid_artefact(clean + 4 / 255 * noise) < 1.5  # of 4 levels of noise, whose own bend is 8
    odd = (torch.arange(176) % 11 == 0).float().expand(176, 176)  # every place of 16 has as many of its lines
    assert grid_artefact(_clean(side=176) + 8 / 255 * odd) < 1
    with pytest.raises(ValueError, match="two periods"):
        grid_artefact(clean[..., :31])


def test_pictures_too_small_for_a_metric_are_measured_by_the_others():
    found = image_metrics(torch.rand(2, 3, 24, 24))
    assert found.keys() == {"saturation", "contrast", "sharpness", "flat_noise"}
    assert image_metrics(torch.rand(1, 3, 32, 48)).keys() == found.keys() | {"grid_artefact"}
