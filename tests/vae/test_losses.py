"""Losses against values worked out by hand, and their gradients against finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from fourstroke.vae import losses


def test_l1() -> None:
    assert losses.l1(torch.tensor([1.0, -1]), torch.tensor([0.0, 2])).item() == 2


def test_edge_by_hand() -> None:
    # One bright column in 4x4: horizontal differences 1, 1, 0 in each row; halved: 0.5 steps to 0; nothing vertical.
    x = torch.zeros(1, 1, 4, 4)
    x[..., 1] = 1
    assert losses.edge(x, torch.zeros_like(x), scales=1).item() == pytest.approx((2 / 3) / 2)
    assert losses.edge(x, torch.zeros_like(x), scales=2).item() == pytest.approx((2 / 3 + 1 / 2) / 4)


def test_edge_ignores_a_constant_and_refuses_tiny_pictures() -> None:
    x = torch.rand(2, 4, 16, 16)
    assert losses.edge(x + 0.5, x).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="sides of 8"):
        losses.edge(x[..., :4], x[..., :4])


def test_outline_by_hand() -> None:
    x, y = -torch.ones(2, 4, 2, 2), -torch.ones(2, 4, 2, 2)
    assert losses.outline(x, y).item() == 0  # nothing on either side
    x[:, :3] = torch.rand(2, 3, 2, 2)
    assert losses.outline(x, y).item() == 0  # colours are not its concern
    x[0, 3] = torch.tensor([[1.0, 0.0], [-1.0, 5.0]])  # alphas 1, .5, 0 and, beyond white, 1
    y[0, 3] = torch.tensor([[0.0, 1.0], [-1.0, 1.0]])  # .5, 1, 0, 1
    assert losses.outline(x, y).item() == pytest.approx((1 - 2 / 3) / 2)
    assert losses.outline(-torch.ones(1, 4, 2, 2), torch.ones(1, 4, 2, 2)).item() == 1


def test_outline_has_sharp_edges_where_mean_errors_blur() -> None:
    wanted = torch.stack([torch.linspace(-1, 1, 9) + shift for shift in (-0.6, 0.0, 0.1)]).sign().clamp(-1, 1)
    target = wanted.view(3, 1, 1, 9).expand(3, 4, 9, 9)
    copy = torch.zeros(1, 4, 9, 9, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(losses.outline(copy.expand(3, 4, 9, 9), target), copy)
        copy = (copy - 2 * gradient).detach().requires_grad_()
    assert (copy[0, 3, :, :4] <= -1).all()  # none of three edges is there yet
    assert (copy[0, 3, :, 5:] >= 1).all()  # two of three: all of it, not two thirds


def test_margin_cosine_by_hand() -> None:
    z = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # (1, 0) and (1, 1)
    f = torch.tensor([[0.0, 2.0], [3.0, 2.0]]).view(1, 2, 1, 2)  # (0, 3) and (2, 2)
    assert losses.margin_cosine(z, f, margin=0.0).item() == pytest.approx(0.5, abs=1e-6)
    assert losses.margin_cosine(z, f, margin=0.4).item() == pytest.approx(0.3, abs=1e-6)
    assert losses.margin_cosine(z, z, margin=0.1).item() == 0


def test_margin_distance_by_hand() -> None:
    z = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # cosine 1/sqrt(2)
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).view(1, 3, 1, 2)  # cosine 0, another width
    assert losses.margin_distance(z, f, margin=0.0).item() == pytest.approx(2 * math.sqrt(0.5) / 4, abs=1e-6)
    assert losses.margin_distance(z, f, margin=0.2).item() == pytest.approx(2 * (math.sqrt(0.5) - 0.2) / 4, abs=1e-6)
    assert losses.margin_distance(f, f, margin=0.0).item() == pytest.approx(0, abs=1e-6)


def test_alignment_is_the_sum_and_falls_with_wider_margins() -> None:
    z, f = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    both = losses.margin_cosine(z, f, 0.1) + losses.margin_distance(z, f, 0.2)
    assert losses.alignment(z, f, 0.1, 0.2).item() == pytest.approx(both.item())
    assert losses.alignment(z, f, 0.5, 0.5) < both


def test_perceptual_by_hand() -> None:
    a, b = torch.tensor([[3.0], [0.0]]).view(1, 2, 1, 1), torch.tensor([[0.0], [0.5]]).view(1, 2, 1, 1)
    assert losses.perceptual([a, a], [b, 7 * a]).item() == pytest.approx((2 + 0) / 2)
    with pytest.raises(ValueError, match="1 and 2 feature maps"):
        losses.perceptual([a], [a, b])


def test_gradient_ratio_makes_both_pull_alike() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    main, other = 3 * weight.sum(), (weight * weight).sum()
    ratio = losses.gradient_ratio(main, other, weight)
    assert ratio.item() == pytest.approx(3 * math.sqrt(2) / (2 * math.sqrt(5)))
    assert not ratio.requires_grad
    assert losses.gradient_ratio(main, 0 * weight.sum(), weight, most=50).item() == 50


def test_psnr() -> None:
    x = torch.zeros(2, 4, 8, 8)
    y = x.clone()
    y[0] += 0.2
    first, second = losses.psnr(y, x).tolist()
    assert first == pytest.approx(20, abs=1e-4)  # error 0.04 of a peak power 4
    assert second == math.inf


def test_gradients() -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(losses.l1, (x, y))
    assert gradcheck(losses.edge, (x, y))
    assert gradcheck(losses.outline, [torch.tanh(each[:, :1]).repeat(1, 4, 1, 1) for each in (x, y)])
    z, f = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for loss in (losses.margin_cosine, losses.margin_distance, losses.alignment):
        assert gradcheck(loss, (z, f))


def test_shapes_must_agree() -> None:
    a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)
    for loss in (losses.l1, losses.edge, losses.outline, losses.margin_cosine, losses.psnr):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(a, b)
    with pytest.raises(ValueError, match="batch or size"):
        losses.margin_distance(a, b[..., :2])
