"""The processes that torchrun started: which this one is, how many there are, and how they are laid out.

Every rank draws its own rows of one common batch, so that N ranks with batches of b see what one process with a batch
of N b would. Gradient accumulation is the same once more: each of the n micro-batches of a step has the rows that one
of n times as many ranks would have. In one process, without torchrun, nothing in this package does anything.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from fourstroke.device import find_device
from fourstroke.recipe import RecipeError

TIMEOUT = datetime.timedelta(hours=2)
"""How long ranks wait for one another; the first may draw pictures for a while."""

_micro = (0, 1)


@runtime_checkable
class ShardedStage(Protocol):
    """A stage that can train on several ranks."""

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the first rank's models are plain and complete; all ranks enter together."""


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; all but the first stop printing."""
    if _started() == 1 or world_size() > 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    with contextlib.ExitStack() as stack:
        if rank():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
    dist.destroy_process_group()  # not after an error: it could wait for ranks that wait for this one


def require_sharded(stage: object) -> None:
    """Refuse several processes for a stage that knows of one only: each would write the same files."""
    if not (world_size() > 1 and isinstance(stage, ShardedStage)):
        require_one_process(f"train {type(stage).__name__.removesuffix('Stage').lower()}")


def require_one_process(name: str) -> None:
    """Refuse several processes for what they cannot share, before anything is written."""
    if _started() > 1:
        raise RecipeError(f"{name} runs in one process; start it without torchrun")


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@dataclass(frozen=True)
class Shard:
    """Rows `index`, `index + count`, `index + 2 count` … of a common batch: those that are drawn now, by this rank."""

    index: int
    count: int


def data_shard() -> Shard:
    """The rows that this rank draws now; within `micro_batch` they are those of one micro-batch."""
    index, count = _micro
    return Shard(index * world_size() + rank(), count * world_size())


@contextlib.contextmanager
def micro_batch(index: int, count: int) -> Iterator[None]:
    """Within the block the `index`-th of `count` micro-batches of a step is drawn."""
    global _micro
    before, _micro = _micro, (index, count)
    try:
        yield
    finally:
        _micro = before


@functools.cache
def device_mesh() -> DeviceMesh:
    """All ranks in one row, over which weights are sharded."""
    return init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world_size(),))


def _started() -> int:
    """How many processes torchrun says that it started."""
    return int(os.environ.get("WORLD_SIZE", "1"))
