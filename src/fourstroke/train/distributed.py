"""Several processes, started by torchrun, that train one model: each keeps a part of its weights (FSDP2).

Large families do not fit into one GPU with their optimisers; small ones stay whole on every rank. Every rank draws its
own rows of one common batch, so that N ranks with batches of b see what one process with a batch of N b would;
gradients are averaged. What is not training (sheets, scores, exports, the log) is done by the first rank alone, with a
plain copy of the model that is filled for it, while the others wait: it is the same code as in one process, and nothing
in it can tell ranks apart.

In one process, without torchrun, nothing here does anything.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from fourstroke.device import find_device
from fourstroke.train.recipe import RecipeError

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

WHOLE = 100_000_000
"""Parameters from which a model is split."""

PATIENCE = datetime.timedelta(hours=2)
"""How long ranks wait for one another; the first may draw pictures for a while."""


@runtime_checkable
class Splittable(Protocol):
    """A stage that can train on several ranks."""

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the first rank's models are plain and complete; all ranks enter together."""


@contextlib.contextmanager
def ranks() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; all but the first stop printing."""
    if _started() == 1 or world() > 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    with contextlib.ExitStack() as stack:
        if rank():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
    dist.destroy_process_group()  # not after an error: it could wait for ranks that wait for this one


def require(stage: object) -> None:
    """Refuse several processes for a stage that knows of one only: each would write the same files."""
    if not (world() > 1 and isinstance(stage, Splittable)):
        require_one_process(f"train {type(stage).__name__.removesuffix('Stage').lower()}")


def require_one_process(name: str) -> None:
    """Refuse several processes for what they cannot share, before anything is written."""
    if _started() > 1:
        raise RecipeError(f"{name} runs in one process; start it without torchrun")


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own(x: Tensor, each: int = 1) -> Tensor:
    """This rank's rows of what was drawn for all, `(n each) ... -> (n / world each) ...`: every world-th sample."""
    return x if world() == 1 else x.unflatten(0, (-1, each))[rank() :: world()].flatten(0, 1)


def latest(value: float) -> float:
    """The largest of the ranks' values, on all of them."""
    if world() == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.item()


def mean(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of scalars over the ranks."""
    if world() == 1 or not scalars:
        return scalars
    values = torch.stack([value.detach().float() for value in scalars.values()])
    dist.all_reduce(values)
    return dict(zip(scalars, values / world(), strict=True))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The means over the ranks of the gradients of parameters that each holds whole; FSDP2 sees to the others."""
    grads = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if world() == 1 or not grads:
        return
    together = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(together)
    together /= world()
    for grad, part in zip(grads, together.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view(grad.shape))


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Shrink gradients, in place, until their norm is at most `limit`; returns the norm before, the same on all ranks.

    Some may be split and others whole: torch takes no norm of both together, so each kind has its own first.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    kinds = [[grad for grad in grads if isinstance(grad, DTensor) is split] for split in (False, True)]
    norm = torch.linalg.vector_norm(torch.stack([full(nn.utils.get_total_norm(kind)) for kind in kinds if kind]))
    torch._foreach_mul_([local(grad) for grad in grads], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def shared_out(x: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """`make` of equal rows (n, ...), row by row, each rank making every world-th of them for all."""
    if world() == 1:
        return make(x)
    done = torch.zeros_like(x)
    if rank() < len(x):
        done[rank() :: world()] = make(x[rank() :: world()])
    dist.all_reduce(done)
    return done


def first(make: Callable[[], T]) -> T:
    """What `make` returns on the first rank, on all of them; an error there is raised everywhere."""
    if world() == 1:
        return make()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            found[0] = make()
        except Exception as error:  # whatever it is, the others wait for a word
            found[1] = error
    dist.broadcast_object_list(found, device=torch.device("cpu"))
    if found[1] is not None:
        raise found[1]
    return cast(T, found[0])


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first rank goes through the block before the others: it makes files that they then find."""
    if rank() > 0:
        latest(0.0)
    try:
        yield
    finally:
        if rank() == 0:
            latest(0.0)


class Split(Generic[M]):
    """A model in parts on all ranks, and how to have it in one piece; in one process it is just the model.

    Of fewer than `WHOLE` parameters every rank keeps all: they fit, and gathering them would take longer than the step.
    `methods` are those that are called from outside beside `forward`. Whatever stands in a `ModuleList` (the blocks) is
    gathered when it runs and let go afterwards; the rest is gathered while the model runs.
    """

    def __init__(self, model: M, methods: Sequence[str] = ()) -> None:
        self.model = model
        self.parted = world() > 1 and sum(p.numel() for p in model.parameters()) >= WHOLE
        if not self.parted:
            return
        shells = {id(p): nn.Parameter(p.to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
        self._shell = copy.deepcopy(model, cast(dict[int, Any], shells))  # everything but the weights
        self._empty = dict(self._shell.named_parameters(remove_duplicate=False))
        blocks: list[nn.Module] = [
            block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part
        ]
        parts: list[nn.Module] = [*reversed(blocks), model]  # from the inside out
        for part in parts:
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=_mesh(), reshard_after_forward=True, mp_policy=_precision())
        for part in model.modules():
            if isinstance(part, FSDPModule) and not torch.cuda.is_available():
                part.set_force_sum_reduction_for_comms(True)  # gloo has no average
        for method in methods:
            register_fsdp_forward_method(model, method)

    @contextlib.contextmanager
    def whole(self) -> Iterator[M]:
        """A plain model with all weights as they are now on the first rank; elsewhere perhaps one without any."""
        if not self.parted:
            yield self.model
            return
        gathered: dict[int, nn.Parameter] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            weight = full(p.detach())
            if rank() == 0:
                weight = gathered.setdefault(id(p), nn.Parameter(weight, requires_grad=False))
                _put(self._shell, name, weight)
        try:
            yield self._shell
        finally:
            for name, p in self._empty.items():
                _put(self._shell, name, p)


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def full(x: Tensor) -> Tensor:
    """All of a tensor; every rank asks for it together."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def placed(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, split as `like` is."""
    if not isinstance(like, DTensor) or isinstance(x, DTensor):
        return x
    x = x.to(like.device)
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None).clone()


def collected(state: Any) -> Any:
    """A nested state with whole tensors on the CPU, for the first rank to write; the others get none."""
    if isinstance(state, dict):
        return {key: collected(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(collected(value) for value in state)
    if world() == 1 or not isinstance(state, Tensor):
        return state
    whole = full(state)
    return whole.cpu() if rank() == 0 else None


def restore_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Take up what `collected` made of the model's state, on however many ranks."""
    like = model.state_dict()
    model.load_state_dict({key: placed(value, like.get(key, value)) for key, value in state.items()})


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up what `collected` made of the optimiser's state, on however many ranks."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            key: placed(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }
    groups = optimizer.state_dict()["param_groups"]  # the recipe's numbers, which may have changed
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _started() -> int:
    """How many processes torchrun says that it started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@functools.cache
def _mesh() -> DeviceMesh:
    return init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world(),))


def _precision() -> MixedPrecisionPolicy:
    """On GPUs weights travel and multiply in bfloat16, as autocast has them; times and latents are left alone."""
    if not torch.cuda.is_available():
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _put(model: nn.Module, name: str, p: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent)._parameters[leaf] = p
