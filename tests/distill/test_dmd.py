"""The matching gradient on Gaussians, where every score is known."""

from __future__ import annotations

import math

import pytest
import torch

from fourstroke.distill.dmd import RenoiseConfig, dmd_gradient, dmd_loss, flow_matching_loss
from fourstroke.flow import path


def _seen(x_t, t, mean, std):
    """The clean value that the best model of N(mean, std^2) sees in x_t."""
    t = t.view(-1, 1, 1)
    variance = (1 - t) ** 2 * std**2 + t**2
    return mean + (1 - t) * std**2 / variance * (x_t - (1 - t) * mean)


def _divergence(mean, std, goal, goal_std, t):
    """KL divergence of the two Gaussians at time t, from the student's to the teacher's."""
    a, b = (math.hypot((1 - t) * s, t) for s in (std, goal_std))
    return math.log(b / a) + (a**2 + ((1 - t) * (mean - goal)) ** 2) / (2 * b**2) - 0.5


def test_the_student_moves_to_the_teachers_mean_and_deviation():
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.tensor(-1.0, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_std], lr=0.05)
    times = RenoiseConfig()
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        noise, again = torch.randn(2, 64, 4, 2, generator=generator)
        x = mean + log_std.exp() * noise
        t = times.sample(64, generator)
        x_t = path.interpolate(x, again, t).detach()
        fake = _seen(x_t, t, mean.detach(), log_std.exp().detach())
        loss = dmd_loss(x, dmd_gradient(x.detach(), fake, _seen(x_t, t, 2.0, 0.5)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert mean.item() == pytest.approx(2.0, abs=0.05)
    assert log_std.exp().item() == pytest.approx(0.5, abs=0.05)


def test_the_gradient_is_that_of_the_divergence():
    std, goal, t, h = 0.7, 1.5, torch.tensor([0.2, 0.5, 0.9]), 1e-4
    x_t = torch.zeros(3, 1, 1)
    found = _seen(x_t, t, 0.3, std) - _seen(x_t, t, goal, std)
    for k, time in enumerate(t.tolist()):
        slope = (_divergence(0.3 + h, std, goal, std, time) - _divergence(0.3 - h, std, goal, std, time)) / (2 * h)
        assert found[k].item() * ((1 - time) / time) ** 2 == pytest.approx(slope, rel=1e-3)


def test_the_loss_has_the_gradient_that_it_is_given():
    generator = torch.Generator().manual_seed(1)
    x, gradient = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    x.requires_grad_(True)
    loss = dmd_loss(x, gradient)
    (found,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, gradient / x.numel(), rtol=1e-5, atol=1e-7)
    target, h = (x - gradient).detach(), 1e-3
    for index in ((0, 0, 0), (1, 2, 3)):
        step = torch.zeros_like(target)
        step[index] = h
        up, down = (0.5 * (x.detach() + sign * step - target).square().mean() for sign in (1, -1))
        assert ((up - down) / (2 * h)).item() == pytest.approx(found[index].item(), rel=1e-4)


def test_each_sample_is_normalised_by_its_own_teacher_residual():
    x, fake, real = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(2))
    out = dmd_gradient(x, fake, real)
    torch.testing.assert_close(out[2], (fake[2] - real[2]) / (x[2] - real[2]).abs().mean())
    scale = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(-1, 1, 1)
    torch.testing.assert_close(dmd_gradient(scale * x, scale * fake, scale * real), out)
    assert not dmd_gradient(x, real, real).any()
    assert torch.isfinite(dmd_gradient(real, fake, real)).all()


@pytest.mark.parametrize("kind", ["logit-normal", "uniform"])
def test_renoising_times_stay_in_their_range_and_repeat(kind):
    config = RenoiseConfig(kind=kind, std=3.0, low=0.1, high=0.8)
    t = config.sample(1000, torch.Generator().manual_seed(3))
    assert t.min() >= 0.1
    assert t.max() <= 0.8
    assert torch.equal(t, config.sample(1000, torch.Generator().manual_seed(3)))
    if kind == "uniform":
        assert t.mean().item() == pytest.approx(0.45, abs=0.01)
    with pytest.raises(ValueError, match="0 < low < high"):
        RenoiseConfig(low=0.5, high=0.5)


def test_flow_matching_is_zero_for_the_true_velocity():
    x_0, noise = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(4))
    t = torch.tensor([0.1, 0.5, 1.0])
    assert flow_matching_loss(lambda x, t: noise - x_0, x_0, noise, t).item() == 0
    assert flow_matching_loss(lambda x, t: torch.zeros_like(x), x_0, noise, t).item() > 0.5
