"""Muon (K. Jordan, 2024): momentum, made orthogonal by Newton-Schulz iterations, for the matrices inside blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fourstroke.device import products_dtype
from fourstroke.parallel.collectives import map_rows
from fourstroke.parallel.sharding import distribute_like, full_tensor, local_tensor

GATHERED = 8
"""So many matrices that lie on several ranks are in one piece at a time."""
QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of x, x³ and x⁵ (K. Jordan)."""


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

    Every factor is a polynomial of the Gram matrix, so the iteration may run on small square matrices and multiply the
    matrix itself once: a third of the work for convolution kernels, but more for matrices that are nearly square, and
    only good in float32. In the bfloat16 of `training_precision` the iteration is on the matrix itself, as K. Jordan's.
    """
    rows, columns = sorted(m.shape[-2:])
    dtype = products_dtype(m.device)
    plain = columns < (1.5 if dtype == torch.float32 else 4.0) * rows
    x = m.to(dtype if plain else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = _iterate(x, steps) if plain else _iterate_gram(x, steps)
    return (x.mT if tall else x).to(m.dtype)


def _iterate(x: Tensor, steps: int) -> Tensor:
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_gram(x: Tensor, steps: int) -> Tensor:
    a, b, c = QUINTIC
    identity = torch.eye(x.shape[-2], device=x.device)
    gram, product = x @ x.mT, None
    for step in range(steps):
        factor = a * identity + torch.baddbmm(b * gram, gram, gram, beta=1, alpha=c)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = gram @ (factor @ factor)
    return x if product is None else product @ x
