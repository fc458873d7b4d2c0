"""Models of which each rank keeps a part (FSDP2), and tensors that lie on several ranks.

Large families do not fit into one GPU with their optimisers; small ones stay whole on every rank. What is not training
(sheets, scores, exports, the log) is done by the first rank alone, with a plain copy of the model that is filled for
it, while the others wait: it is the same code as in one process, and nothing in it can tell ranks apart.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from fourstroke.parallel.mesh import device_mesh, rank, world_size

M = TypeVar("M", bound=nn.Module)

SHARD_THRESHOLD = 100_000_000
"""Parameters from which a model is sharded."""


class Sharded(Generic[M]):
    """A model in parts on all ranks, and how to have it in one piece; in one process it is just the model.

    Of fewer than `SHARD_THRESHOLD` parameters every rank keeps all: they fit, and gathering them would take longer
    than the step. `methods` are those that are called from outside beside `forward`. Whatever stands in a `ModuleList`
    (the blocks) is gathered when it runs and let go afterwards; the rest is gathered while the model runs. Scales of
    norms and biases, all that has one axis, are whole and in their own precision on every rank: they are small, and
    lose in bfloat16 what a norm needs (`1 + weight` of `nn.ZeroCentredRMSNorm`).

    A model that was made on the meta device stays there until `parallel.checkpoint.fill` reads its weights.
    """

    def __init__(self, model: M, methods: Sequence[str] = ()) -> None:
        self.model = model
        self.sharded = world_size() > 1 and sum(p.numel() for p in model.parameters()) >= SHARD_THRESHOLD
        if not self.sharded:
            return
        self._shell = _without_weights(model)
        self._empty = dict(self._shell.named_parameters(remove_duplicate=False))
        small = {p for p in model.parameters() if p.ndim < 2}
        blocks: list[nn.Module] = [
            block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part
        ]
        parts: list[nn.Module] = [*reversed(blocks), model]  # from the inside out
        for part in parts:
            if any(p not in small for p in part.parameters()):
                fully_shard(part, mesh=device_mesh(), mp_policy=_precision(), ignored_params=small)
        if torch.cuda.is_available():  # FSDP2 moves what it shards
            for p in small:
                p.data = p.data if p.is_meta else p.data.cuda()
        for part in model.modules():
            if isinstance(part, FSDPModule) and not torch.cuda.is_available():
                part.set_force_sum_reduction_for_comms(True)  # gloo has no average
        for method in methods:
            register_fsdp_forward_method(model, method)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[M]:
        """A plain model with all weights as they are now on the first rank; elsewhere perhaps one without any."""
        if not self.sharded:
            yield self.model
            return
        gathered: dict[int, nn.Parameter] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            weight = full_tensor(p.detach())
            if rank() == 0:
                weight = gathered.setdefault(id(p), nn.Parameter(weight, requires_grad=False))
                put_parameter(self._shell, name, weight)
        try:
            yield self._shell
        finally:
            for name, p in self._empty.items():
                put_parameter(self._shell, name, p)


def local_tensor(x: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def full_tensor(x: Tensor) -> Tensor:
    """All of a tensor; every rank asks for it together."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def distribute_like(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, sharded as `like` is."""
    if not isinstance(like, DTensor) or isinstance(x, DTensor):
        return x
    x = x.to(like.device)
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None).clone()


def _precision() -> MixedPrecisionPolicy:
    """On GPUs weights travel and multiply in bfloat16, as autocast has them; times and latents are left alone."""
    if not torch.cuda.is_available():
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _without_weights(model: M) -> M:
    """A copy of a model whose parameters are on the meta device; tied ones stay tied."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    empty = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in weights.values()}
    for name, p in weights.items():
        put_parameter(model, name, empty[id(p)])
    try:
        return copy.deepcopy(model)
    finally:
        for name, p in weights.items():
            put_parameter(model, name, p)


def put_parameter(model: nn.Module, name: str, p: nn.Parameter) -> None:
    """Set the parameter of a dotted name."""
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent)._parameters[leaf] = p
