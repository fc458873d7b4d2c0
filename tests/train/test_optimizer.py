"""Muon orthogonalises, the average follows, the schedule has its three parts."""

import importlib
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import distribute_tensor

from fourstroke.device import training_precision
from fourstroke.parallel.collectives import clip_grad_norm
from fourstroke.parallel.sharding import full_tensor
from fourstroke.train.muon import Muon, newton_schulz
from fourstroke.train.optimizer import (
    CombinedOptimizer,
    MovingAverage,
    OptimizerConfig,
    build_optimizers,
    learning_rate,
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(2, 16, 64), (3, 64, 16), (1, 32, 32), (2, 32, 40), (2, 16, 80)])
def test_singular_values_come_near_one_and_directions_stay(shape, precision, monkeypatch):
    """Also where they differ by a factor of a thousand, as in gradients."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, vh = torch.linalg.svd(m, full_matrices=False)
    m = u * torch.logspace(0, -3, values.shape[-1]) @ vh
    with training_precision(precision):
        out = newton_schulz(m)
    assert out.dtype == m.dtype
    values = torch.linalg.svdvals(out)
    assert values.max() < 1.3
    assert values.median() > 0.6
    kept = torch.diagonal(u.mT @ out @ vh.mT, dim1=-2, dim2=-1)
    assert kept[:, : kept.shape[-1] // 2].min() > (0.5 if precision == "fp32" else 0.3)


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


def test_weights_decay_by_the_learning_rate():
    """Without a gradient both optimisers shrink a matrix by `lr * weight_decay` a step, as AdamW is defined."""
    layer = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 4)])})  # a matrix for Muon, a bias for AdamW
    optimizers = build_optimizers(layer.named_parameters(), OptimizerConfig(lr=0.1, weight_decay=0.5))
    assert optimizers.keys() == {"muon", "adamw"}
    for p in layer.parameters():
        nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    for optimizer in optimizers.values():
        optimizer.step()
    for p in layer.parameters():
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.95))


def _pair(layer: nn.Module) -> CombinedOptimizer:
    return CombinedOptimizer(build_optimizers(layer.named_parameters(), OptimizerConfig(lr=0.1)).values())


def test_optimisers_together_step_obey_a_schedule_and_resume():
    torch.manual_seed(0)
    layer, twin = nn.Linear(4, 8), nn.Linear(4, 8)  # a matrix for Muon, a bias for AdamW
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(16, 4)

    def steps(module: nn.Module, optimizer: CombinedOptimizer, count: int) -> None:
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


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process that takes itself for a group, so that tensors can be split over it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def _weights(mesh: DeviceMesh | None) -> list[tuple[str, nn.Parameter]]:
    """Matrices and vectors with gradients; every second one is split where there is a mesh."""
    generator = torch.Generator().manual_seed(0)
    named = []
    for index, shape in enumerate([(8, 4), (8, 4), (8, 4), (6, 6), (5,), (5,)]):
        values = [torch.randn(shape, generator=generator) for _ in range(2)]
        if mesh is not None and index % 2:
            values = [distribute_tensor(value, mesh) for value in values]
        p = nn.Parameter(values[0])
        p.grad = values[1]
        named.append((f"blocks.{index}", p))
    return named


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_split_and_whole_gradients_are_clipped_by_their_common_norm(mesh, limit):
    parts, plain = ([p for _, p in _weights(kind)] for kind in (mesh, None))
    expected = nn.utils.clip_grad_norm_(plain, limit)
    torch.testing.assert_close(clip_grad_norm(parts, limit), expected)
    for p, q in zip(parts, plain, strict=True):
        torch.testing.assert_close(full_tensor(p.grad), q.grad)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_split_and_whole_weights_move_alike(mesh, kind, monkeypatch):
    # on GPUs AdamW steps over lists of weights; here that is not the default, so it is made so
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_default_to_fused_or_foreach", lambda *_, **__: (False, True))
    parts, plain = _weights(mesh), _weights(None)
    for named in (parts, plain):
        for optimizer in build_optimizers(named, OptimizerConfig(kind=kind, lr=0.1)).values():
            optimizer.step()
            optimizer.step()
    for (name, p), (_, q) in zip(parts, plain, strict=True):
        torch.testing.assert_close(full_tensor(p.detach()), q.detach(), msg=name)
