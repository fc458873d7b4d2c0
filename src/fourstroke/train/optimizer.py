"""Optimiser, learning-rate schedule and moving average.

Matrices inside blocks (and convolution kernels, seen as matrices) take Muon steps: momentum, made orthogonal by
Newton-Schulz iterations (K. Jordan, 2024), scaled so that its entries have AdamW's usual size and one learning rate
serves both. Everything else takes AdamW steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fourstroke.parallel.collectives import all_reduce_mean, average_gradients, clip_grad_norm, map_rows
from fourstroke.parallel.sharding import distribute_like, full_tensor, local_tensor
from fourstroke.ranges import Decay, Fraction, Natural, NonNegative, check_ranges

GATHERED = 8
"""So many matrices that lie on several ranks are in one piece at a time."""


Scalars = dict[str, Tensor]
"""Named scalars of one loss; the one named `loss` is differentiated."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move: `lr` is the peak; `warmup` is in steps; `cooldown` is the last share of the run.

    `clip` bounds the norm of all gradients together, 0 leaves them as they are; `ema` is the decay of the average.
    """

    kind: Literal["muon", "adamw"] = "muon"
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    momentum: Decay = 0.95
    clip: NonNegative = 1.0
    warmup: Natural = 100
    cooldown: Fraction = 0.3
    ema: Decay = 0.999

    def __post_init__(self) -> None:
        check_ranges(self)


def learning_rate(step: int, progress: float, config: OptimizerConfig) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last `cooldown` of the run (progress 0 to 1)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cool = min(1.0, max(0.0, 1.0 - progress) / config.cooldown) if config.cooldown > 0 else 1.0
    return config.lr * warm * cool


def build_optimizers(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> dict[str, torch.optim.Optimizer]:
    """Split the parameters between Muon and AdamW; only those that require a gradient take part."""
    parameters = [(name, p) for name, p in named if p.requires_grad]
    matrices = [p for name, p in parameters if config.kind == "muon" and _is_block_matrix(name, p)]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in parameters if id(p) not in chosen]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if matrices:
        optimizers["muon"] = Muon(matrices, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    if others:
        mixed = len({p is local_tensor(p) for p in others}) > 1  # one step takes sharded or whole ones
        optimizers["adamw"] = torch.optim.AdamW(
            others,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            foreach=False if mixed else None,
        )
    return optimizers


class OptimizerGroup:
    """Models that one loss moves, with their optimisers and their own schedule."""

    def __init__(self, models: Mapping[str, nn.Module], config: OptimizerConfig) -> None:
        named = [(f"{key}.{n}", p) for key, model in models.items() for n, p in model.named_parameters()]
        self.models, self.config = dict(models), config
        self.optimizers = build_optimizers(named, config)
        self.parameters = [p for _, p in named if p.requires_grad]
        self.updates = 0

    def update(self, scalars: Scalars, progress: float) -> Scalars:
        """One optimiser step down the gradient of `scalars["loss"]`; returns them with the gradient's norm."""
        rate = learning_rate(self.updates, progress, self.config)
        self.updates += 1
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        scalars["loss"].backward()
        average_gradients(self.parameters)
        scalars["grad_norm"] = clip_grad_norm(self.parameters, self.config.clip or math.inf)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return all_reduce_mean({key: value.detach() for key, value in scalars.items()})


class Muon(torch.optim.Optimizer):
    """Momentum whose update, for each matrix, is replaced by the nearest (semi-)orthogonal one.

    Parameters of one kind and shape are updated in one batch of matrix products. Where a matrix lies on several ranks,
    each of them gathers and orthogonalises all of it and keeps its own rows: the same work everywhere, but nothing to
    agree on. Matrices that every rank holds whole are shared out instead, each orthogonalised by one of them for all.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            kinds: dict[tuple[bool, int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    kinds.setdefault((p is not local_tensor(p), p.shape[0], p.numel() // p.shape[0]), []).append(p)
            for (sharded, *shape), alike in kinds.items():
                size = GATHERED if sharded else len(alike)
                for start in range(0, len(alike), size):
                    self._move(alike[start : start + size], sharded, shape, group)

    def _move(self, batch: list[Tensor], sharded: bool, shape: list[int], group: dict[str, Any]) -> None:
        updates = [full_tensor(self._momentum(p, group["momentum"])).reshape(shape) for p in batch]
        scale = 0.2 * max(shape) ** 0.5
        whole = torch.stack(updates)
        for p, update in zip(batch, newton_schulz(whole) if sharded else map_rows(whole, newton_schulz), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(distribute_like(update.view(p.shape), p), alpha=-group["lr"] * scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        state: dict[str, Any] = self.state[p]
        buffer = state.setdefault("momentum", torch.zeros_like(p, memory_format=torch.contiguous_format))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)  # Nesterov


def newton_schulz(m: Tensor, steps: int = 5) -> Tensor:
    """Matrices (B, rows, columns) with their singular values brought to about 1, by a quintic iteration.

    Every factor is a polynomial of the Gram matrix, so the iteration runs on small square matrices and the matrix
    itself is multiplied once: a third of the work for convolution kernels.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = m.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    identity = torch.eye(x.shape[-2], device=x.device)
    gram, product = x @ x.mT, None
    for step in range(steps):
        factor = a * identity + torch.baddbmm(b * gram, gram, gram, beta=1, alpha=c)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = gram @ (factor @ factor)
    x = product @ x
    return (x.mT if tall else x).to(m.dtype)


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers as one, for trainers that take one; a schedule reaches the groups of all."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Those of the parts, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups[:] = [group for part in self.parts for group in part.param_groups]


class MovingAverage:
    """Exponential moving average of trained weights, kept in float32; young averages forget faster."""

    def __init__(self, models: dict[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.live = {
            f"{key}.{name}": p
            for key, model in models.items()
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        self.weights = {name: p.detach().float().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [local_tensor(weight) for weight in self.weights.values()]
        torch._foreach_lerp_(weights, [local_tensor(p.detach()).float() for p in self.live.values()], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the models carry the averaged weights."""
        backup = {name: p.detach().clone() for name, p in self.live.items()}
        self._write(self.weights)
        try:
            yield
        finally:
            self._write(backup)

    @torch.no_grad()
    def _write(self, weights: dict[str, Tensor]) -> None:
        for name, p in self.live.items():
            p.copy_(weights[name])


def _is_block_matrix(name: str, p: nn.Parameter) -> bool:
    """Hidden matrices and kernels; not embeddings, norms, or the first and last layers."""
    edges = ("embed", "conv_in", "conv_out", "img_in", "proj_out", "txt_in", "time_text", "modulation", "norm_out")
    return p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) > 1 and not any(edge in name for edge in edges)
