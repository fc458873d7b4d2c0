"""States of a run: sharded safetensors by torch's distributed checkpoint, written while training goes on.

Each rank writes the parts that it holds into one folder, `shard-….safetensors`; small values stand beside them in
`state.json`. The folder is a sibling of its place until all ranks are done, then it is renamed: a full disk, a kill or
a power cut leaves the state before. Any number of ranks, one among them, may take a state up; each reads its slices.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from fourstroke.checkpoint import CheckpointError, read_json
from fourstroke.files import atomic_file, atomic_folder, write_json
from fourstroke.parallel.collectives import on_rank0
from fourstroke.parallel.mesh import rank, world_size
from fourstroke.parallel.sharding import put_parameter

VALUES = "state.json"
"""Holds what is no tensor; a folder with it is a whole state."""


class Checkpointer:
    """Writes states in the background, one at a time; all ranks call it at the same places."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None  # training uses the other one
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: concurrent.futures.Future[None] | None = None

    def save(
        self, folder: Path, tensors: Iterable[tuple[str, Tensor]], values: Mapping[str, Any], wait: bool = False
    ) -> None:
        """Copy a state to the CPU, tensor by tensor, and begin to write it as `folder`; with `wait`, see it written.

        Raises:
            WriteError: if this save, or the one before it, could not be written; `folder` is as it was.
        """
        self.wait()
        place = contextlib.ExitStack()
        partial = on_rank0(lambda: place.enter_context(atomic_folder(folder)))
        stager = DefaultStager(StagingOptions(False, False, False, False))
        try:
            staged: dict[str, Tensor] = {}
            for name, x in tensors:
                staged |= cast(dict[str, Tensor], stager.stage({name: x.detach().contiguous()}))
        finally:
            stager.close()
        self._pending = self._thread.submit(self._write, place, partial, staged, dict(values))
        if wait:
            self.wait()

    @property
    def failed(self) -> bool:
        """Whether this rank knows that the last save went wrong; `wait` raises why."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def wait(self) -> None:
        """See the last save written; raises what went wrong, on all ranks."""
        if (pending := self._pending) is not None:
            self._pending = None
            concurrent.futures.wait([pending])
            on_rank0(pending.result)

    def close(self) -> None:
        """Let this rank finish what it writes, without a word to the others."""
        self._thread.shutdown()

    def _write(self, place: contextlib.ExitStack, partial: Path, staged: Any, values: dict[str, Any]) -> None:
        with place:  # on the first rank: flush and rename, or clear away
            writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
            try:
                with _quiet():
                    dcp.save(staged, storage_writer=writer, process_group=self._group)
            except CheckpointException as error:  # by rank; no Exception in torch's eyes
                raise next(iter(error.failures.values()))[0] from None
            if rank() == 0:
                write_json(partial / VALUES, values)


def load_values(folder: Path) -> dict[str, Any]:
    """What stands beside the tensors of a state."""
    return read_json(folder / VALUES)


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shapes and types of the tensors of a state, by name."""
    with _told(folder):
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in found.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def load_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or whole, with those of a state; each rank reads its slices, in whatever parts they lie.

    Raises:
        CheckpointError: if a file is missing or damaged, or holds no tensor of a name or shape.
    """
    with _told(folder), _quiet():
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def fill(model: nn.Module, folder: Path, device: torch.device) -> None:
    """Fill a model that was made on the meta device, sharded or whole, from a folder of safetensors.

    Each rank reads its slices, so that none holds the whole of a sharded model. Precision is the model's.

    Raises:
        CheckpointError: if a file is missing or damaged, or names and shapes are not those of the model.
        ValueError: if the model has buffers that no file holds.
    """
    names = model.state_dict(keep_vars=True)
    if lost := sorted(name for name, _ in model.named_buffers() if name not in names):
        raise ValueError(f"the buffer {lost[0]} is in no checkpoint; make this model on the CPU")
    stored, tied = stored_tensors(folder), dict[int, str]()
    for name, x in names.items():  # of tied weights a file may hold one
        if name in stored or id(x) not in tied:
            tied[id(x)] = name
    wanted = {name: names[name].shape for name in tied.values()}
    wrong = sorted({name for name, shape in wanted.items() if name not in stored or stored[name][0] != shape})
    if wrong or (wrong := sorted(stored.keys() - names.keys())):
        raise CheckpointError(f"the weights in {folder} do not fit their config: first {wrong[0]}")
    model.to_empty(device=device)  # which unties
    filled = model.state_dict(keep_vars=True)
    for name, x in names.items():
        if name != (kept := tied[id(x)]):
            put_parameter(model, name, cast(nn.Parameter, filled[kept]))
    load_tensors(folder, {name: filled[name].detach() for name in wanted})


def read_state(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The whole tensors of a state whose names begin with `prefix`, in this process; the prefix is left out."""
    found = {name: torch.empty(*kind[:1], dtype=kind[1]) for name, kind in stored_tensors(folder).items()}
    found = {name: x for name, x in found.items() if name.startswith(prefix)}
    load_tensors(folder, found)
    return {name.removeprefix(prefix): x for name, x in found.items()}


def export_state(folder: Path, file: Path, prefix: str) -> None:
    """Write the whole tensors of a sharded state, such as `average.transformer.`, as one safetensors file."""
    if not (tensors := read_state(folder, prefix)):
        kinds = sorted({name.split(".")[0] for name in stored_tensors(folder)})
        raise CheckpointError(f"{folder} holds nothing that begins with {prefix}; there are {', '.join(kinds)}")
    with atomic_file(file) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in reading files of a state into one line."""
    try:
        yield
    except (CheckpointException, SafetensorError, OSError, KeyError, ValueError, RuntimeError, AssertionError) as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        reason = " ".join(str(cause).split())[:300]
        raise CheckpointError(f"{folder} is damaged or no state of a run ({reason}); restore it") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's word that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
