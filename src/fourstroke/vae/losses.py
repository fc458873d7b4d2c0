"""Losses of the autoencoder: pure functions, tensors in, a scalar out.

VAE-2.0 report, section Objective: L1, a perceptual term, and an alignment of latents with frozen semantic features made
of L_mcos and L_mdms, both with margins. Where no perceptual network is at hand, `edge` stands in (our choice).
Pictures are (b, c, H, W) in [-1, 1]; features are (b, c, h, w), one c-vector for each latent position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference; 0 or more, in units of the pictures."""
    _same_shape(prediction, target)
    return (prediction - target).abs().mean()


def edge(prediction: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of neighbouring-pixel gradients, at full size and `scales` - 1 halvings of it.

    Horizontal and vertical gradients and all scales weigh the same. Raises ValueError for sides below 2 ** scales.
    """
    _same_shape(prediction, target)
    if min(prediction.shape[2:]) < 2**scales:
        raise ValueError(f"{scales} scales need sides of {2**scales} or more, found {tuple(prediction.shape)}")
    error = prediction - target  # gradients are linear: the gradient of the difference is the difference of gradients
    terms = []
    for scale in range(scales):
        if scale:
            error = F.avg_pool2d(error, 2)
        terms += [error.diff(dim=2).abs().mean(), error.diff(dim=3).abs().mean()]
    return torch.stack(terms).mean()


def outline(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - intersection over union of the alphas, (b, 4, H, W), soft edges included: mean over pictures, in [0, 1].

    The sum of the lower values over that of the higher ones (soft Jaccard index); two pictures without anything agree.
    """
    _same_shape(prediction, target)
    a, b = ((x[:, 3].clamp(-1, 1) + 1).flatten(1) / 2 for x in (prediction, target))
    union = torch.maximum(a, b).sum(dim=1)
    return (1 - torch.minimum(a, b).sum(dim=1) / union.clamp_min(1e-6)).masked_fill(union < 1e-6, 0.0).mean()


def margin_cosine(latents: Tensor, features: Tensor, margin: float = 0.5) -> Tensor:
    """L_mcos = mean over positions p of relu(1 - cos(z'_p, f_p) - margin); in [0, 2 - margin].

    `latents` are already mapped to the features' width; no gradient is stopped here.
    """
    _same_shape(latents, features)
    return F.relu(1 - F.cosine_similarity(latents, features, dim=1) - margin).mean()


def margin_distance(latents: Tensor, features: Tensor, margin: float = 0.25) -> Tensor:
    """L_mdms = mean over pairs p, q of relu(|cos(z'_p, z'_q) - cos(f_p, f_q)| - margin), within each picture.

    `latents` (b, c, h, w) and `features` (b, c', h, w) may differ in width. Uses b * (h w)^2 numbers of memory.
    """
    if latents.shape[:1] + latents.shape[2:] != features.shape[:1] + features.shape[2:]:
        raise ValueError(f"latents {tuple(latents.shape)} and features {tuple(features.shape)} differ in batch or size")
    return F.relu((_similarities(latents) - _similarities(features)).abs() - margin).mean()


def alignment(latents: Tensor, features: Tensor, cosine_margin: float = 0.5, distance_margin: float = 0.25) -> Tensor:
    """L_align = L_mcos + L_mdms; the curriculum starts with small margins (strict) and raises them."""
    return margin_cosine(latents, features, cosine_margin) + margin_distance(latents, features, distance_margin)


def perceptual(prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean over feature maps (b, c, h, w) of the squared distance of unit vectors at each position; in [0, 4].

    As LPIPS (Zhang et al. 2018) with equal weights; for maps of any frozen network, shallow ones first or last.
    """
    if len(prediction) != len(target) or not prediction:
        raise ValueError(f"{len(prediction)} and {len(target)} feature maps; both sides need the same, at least one")
    terms = []
    for a, b in zip(prediction, target, strict=True):
        _same_shape(a, b)
        terms.append((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean())
    return torch.stack(terms).mean()


def gradient_ratio(main: Tensor, other: Tensor, weight: Tensor, most: float = 1e4) -> Tensor:
    """|d main / d weight| / |d other / d weight|, at most `most`, without a gradient of its own.

    VA-VAE's adaptive weight: times this, `other` pulls at `weight` (the encoder's last layer) as hard as `main`.
    """
    pulls = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (main, other)]
    return (pulls[0] / pulls[1].clamp_min(1e-12)).clamp(max=most).detach()


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, (b,), for the range [-1, 1]; infinite where they are equal."""
    _same_shape(prediction, target)
    error = (prediction.double() - target.double()).square().flatten(1).mean(dim=1)
    return (10 * torch.log10(4 / error)).float()


def _similarities(x: Tensor) -> Tensor:
    """b c h w -> b (h w) (h w): cosines between positions."""
    unit = F.normalize(x.flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
