"""States that are written whole, so that any number of ranks can take them up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fourstroke.parallel.mesh import rank, world_size
from fourstroke.parallel.sharding import distribute_like, full_tensor


def gather_state(state: Any) -> Any:
    """A nested state with whole tensors on the CPU, for the first rank to write; the others get none."""
    if isinstance(state, dict):
        return {key: gather_state(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gather_state(value) for value in state)
    if world_size() == 1 or not isinstance(state, Tensor):
        return state
    whole = full_tensor(state)
    return whole.cpu() if rank() == 0 else None


def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Take up what `gather_state` made of the model's state, on however many ranks."""
    like = model.state_dict()
    model.load_state_dict({key: distribute_like(value, like.get(key, value)) for key, value in state.items()})


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up what `gather_state` made of the optimiser's state, on however many ranks."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            key: distribute_like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }
    groups = optimizer.state_dict()["param_groups"]  # the recipe's numbers, which may have changed
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
