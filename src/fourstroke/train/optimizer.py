"""Optimiser, learning-rate schedule and moving average.

Matrices inside blocks (and convolution kernels, seen as matrices) take Muon steps, scaled so that their entries have
AdamW's usual size and one learning rate serves both. Everything else takes AdamW steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fourstroke.parallel.collectives import average_gradients, clip_grad_norm
from fourstroke.parallel.sharding import local_tensor
from fourstroke.ranges import Decay, Fraction, Natural, NonNegative, check_ranges
from fourstroke.train.adamw import adamw, put_slot, room_for_slot, set_rate, slot_as_float
from fourstroke.train.muon import Muon

Scalars = dict[str, Tensor]
"""Named scalars of one loss; the one named `loss` is differentiated."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move: `lr` is the peak; `warmup` is in steps; `cooldown` is the last share of the run.

    `clip` bounds the norm of all gradients together, 0 leaves them as they are; `ema` is the decay of the average.
    `eight_bit` keeps AdamW's moments in 8 bits (torchao): a quarter of their memory.
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
    eight_bit: bool = False

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
        optimizers["adamw"] = adamw(
            others, config.eight_bit, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
    return optimizers


class OptimizerGroup:
    """Models that one loss moves, with their optimisers and their own schedule."""

    def __init__(self, models: Mapping[str, nn.Module], config: OptimizerConfig) -> None:
        named = [(f"{key}.{n}", p) for key, model in models.items() for n, p in model.named_parameters()]
        self.models, self.config = dict(models), config
        self.optimizers = build_optimizers(named, config)
        self.parameters = [p for _, p in named if p.requires_grad]
        self.names = {id(p): name for name, p in named}
        self.updates, self.rate = 0, 0.0

    def update(self, scalars: Scalars, progress: float) -> Scalars:
        """One optimiser step down the gradient of `scalars["loss"]`; returns them with the gradient's norm."""
        scalars["loss"].backward()
        return {key: value.detach() for key, value in scalars.items()} | {"grad_norm": self.step(progress)}

    def step(self, progress: float) -> Tensor:
        """Move down the gradients, at the rate of this progress (0 to 1), and forget them.

        Returns their norm before clipping, the same on all ranks.
        """
        self.rate = learning_rate(self.updates, progress, self.config)
        self.updates += 1
        average_gradients(self.parameters)
        norm = clip_grad_norm(self.parameters, self.config.clip or math.inf)
        for optimizer in self.optimizers.values():
            set_rate(optimizer, self.rate)
            optimizer.step()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        """Forget gradients; those that another group's loss left are none of this one's."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def counts(self) -> dict[str, int]:
        """How many weights each optimiser moves."""
        return {kind: sum(len(g["params"]) for g in one.param_groups) for kind, one in self.optimizers.items()}

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """What the optimisers remember, as `kind.parameter.slot`, one after another."""
        for kind, optimizer in self.optimizers.items():
            for p, slots in optimizer.state.items():
                for slot, value in slots.items():
                    yield f"{kind}.{self.names[id(p)]}.{slot}", slot_as_float(value)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state, by the names of `state`, in tensors that `room_for` made."""
        owners = self._owners()
        for name, value in tensors.items():
            owner, _, slot = name.rpartition(".")
            put_slot(*owners[owner], slot, value)

    def room_for(self, stored: Mapping[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Tensor]:
        """Empty tensors, sharded as the weights are, for a state of these shapes and types."""
        owners = self._owners()
        return {name: room_for_slot(*owners[name.rpartition(".")[0]], *kind) for name, kind in stored.items()}

    def _owners(self) -> dict[str, tuple[torch.optim.Optimizer, nn.Parameter]]:
        """The optimiser and the weight of each name in `state`."""
        return {
            f"{kind}.{self.names[id(p)]}": (optimizer, p)
            for kind, optimizer in self.optimizers.items()
            for group in optimizer.param_groups
            for p in group["params"]
        }


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
