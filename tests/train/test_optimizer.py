"""Muon orthogonalises, the average follows, the schedule has its three parts."""

import pytest
import torch
from torch import nn

from fourstroke.train.optimizer import (
    MovingAverage,
    Muon,
    OptimizerConfig,
    Together,
    build_optimizers,
    learning_rate,
    orthogonal,
)


@pytest.mark.parametrize("shape", [(2, 16, 64), (3, 64, 16), (1, 32, 32)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(m, full_matrices=False)
    out = orthogonal(m)
    values = torch.linalg.svdvals(out)
    assert values.max() < 1.3
    assert values.median() > 0.6
    assert torch.diagonal(u.mT @ out @ vh.mT, dim1=-2, dim2=-1).min() > 0


def test_muon_solves_a_least_squares_problem():
    torch.manual_seed(0)
    goal, layer = torch.randn(8, 16), nn.Linear(16, 8, bias=False)
    optimizer = Muon([layer.weight], lr=0.05, momentum=0.9, weight_decay=0.0)
    x = torch.randn(64, 16)
    losses = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        loss = (layer(x) - x @ goal.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def _pair(layer: nn.Module) -> Together:
    return Together(build_optimizers(layer.named_parameters(), OptimizerConfig(lr=0.1)).values())


def test_optimisers_together_step_obey_a_schedule_and_resume():
    torch.manual_seed(0)
    layer, twin = nn.Linear(4, 8), nn.Linear(4, 8)  # a matrix for Muon, a bias for AdamW
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(16, 4)

    def steps(module: nn.Module, optimizer: Together, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    optimizer = _pair(layer)
    assert [type(part).__name__ for part in optimizer.parts] == ["Muon", "AdamW"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.05, 0.05]
    assert schedule.get_last_lr() == [0.05, 0.05]
    steps(layer, optimizer, 4)
    assert not torch.equal(layer.weight, twin.weight)
    assert not torch.equal(layer.bias, twin.bias)

    first = _pair(twin)
    for group in first.param_groups:
        group["lr"] = 0.05
    steps(twin, first, 2)
    second = _pair(twin)
    second.load_state_dict(first.state_dict())
    steps(twin, second, 2)
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)


def test_the_schedule_warms_up_stays_and_cools_down():
    config = OptimizerConfig(lr=1.0, warmup=10, cooldown=0.25)
    assert learning_rate(0, 0.0, config) == pytest.approx(0.1)
    assert learning_rate(50, 0.5, config) == 1.0
    assert learning_rate(90, 0.875, config) == pytest.approx(0.5)
    assert learning_rate(100, 1.0, config) == 0.0


def test_the_average_follows_and_gives_the_weights_back():
    layer = nn.Linear(4, 4)
    average = MovingAverage({"m": layer}, decay=0.9)
    live = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update(1000)
    with average.applied():
        torch.testing.assert_close(layer.weight.detach(), live + 0.1)
    torch.testing.assert_close(layer.weight.detach(), live + 1.0)
