"""What ranks tell one another: rows of a common batch, means, the largest value, what the first one made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fourstroke.parallel.mesh import data_shard, rank, world_size
from fourstroke.parallel.sharding import full_tensor, local_tensor

T = TypeVar("T")


def local_rows(x: Tensor, each: int = 1) -> Tensor:
    """This rank's rows of what was drawn for all, `(n each) ... -> (n / shards each) ...` (see `data_shard`)."""
    shard = data_shard()
    return x if shard.count == 1 else x.unflatten(0, (-1, each))[shard.index :: shard.count].flatten(0, 1)


def all_reduce_max(*values: float) -> tuple[float, ...]:
    """The largest of the ranks' values, each on its own, on all of them."""
    if world_size() == 1:
        return values
    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return tuple(found.tolist())


def all_reduce_mean(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of scalars over the ranks."""
    if world_size() == 1 or not scalars:
        return scalars
    values = torch.stack([value.detach().float() for value in scalars.values()])
    dist.all_reduce(values)
    return dict(zip(scalars, values / world_size(), strict=True))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The means over the ranks of the gradients of parameters that each holds whole; FSDP2 sees to the others."""
    grads = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if world_size() == 1 or not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view(grad.shape))


def clip_grad_norm(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Shrink gradients, in place, until their norm is at most `max_norm`; returns the norm before, equal on all ranks.

    Some may be sharded and others whole: torch takes no norm of both together, so each kind has its own first.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    kinds = [[grad for grad in grads if isinstance(grad, DTensor) is sharded] for sharded in (False, True)]
    norm = torch.linalg.vector_norm(torch.stack([full_tensor(nn.utils.get_total_norm(kind)) for kind in kinds if kind]))
    torch._foreach_mul_([local_tensor(grad) for grad in grads], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def map_rows(x: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """`make` of equal rows (n, ...), row by row; each rank makes every n-th of them for all."""
    if world_size() == 1:
        return make(x)
    done = torch.zeros_like(x)
    if rank() < len(x):
        done[rank() :: world_size()] = make(x[rank() :: world_size()])
    dist.all_reduce(done)
    return done


def on_rank0(make: Callable[[], T]) -> T:
    """What `make` returns on the first rank, on all of them; an error there is raised everywhere.

    The other ranks of its machine wait, so that it may use their threads too.
    """
    if world_size() == 1:
        return make()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            with _threads_of_all():
                found[0] = make()
        except Exception as error:  # whatever it is, the others wait for a word
            found[1] = error
    dist.broadcast_object_list(found, device=torch.device("cpu"))
    if found[1] is not None:
        raise found[1]
    return cast(T, found[0])


@contextlib.contextmanager
def _threads_of_all() -> Iterator[None]:
    """As many threads as all ranks of this machine have, at most one a core."""
    own, ranks = torch.get_num_threads(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(own, min(own * ranks, os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(own)
