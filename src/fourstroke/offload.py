"""Weights that are where they are used only while they are used.

Blocks that run one after the other are streamed (`BlockStream`): on a GPU each comes while the one before it runs and
is gone after its own run, so that two are there at a time; on a CPU its mapped pages are given back. Parts that are
used once for a picture come for a visit (`visiting`).

The text encoder's layers run once for a prompt. Streaming them moves no more than moving the whole encoder would, and
takes the room of two layers.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourstroke.mapped import evict, prefetch
from fourstroke.placement import parts, place, release_weights
from fourstroke.quantized import QuantizedWeight

MANY, RESERVE = 2**30, 2**30
"""Bytes of blocks from which their place in the file cache is looked after on a CPU, and of what a picture needs."""


class BlockStream:
    """Has the weights of blocks on the device only while each runs; they are on the CPU, and stay frozen.

    Args:
        blocks: run in this order.
        device: where they run; on the CPU their pages are given back instead.
        again: whether the first comes after the last, as in denoising; else it waits for the next prompt.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, again: bool) -> None:
        self.blocks, self.again = list(blocks), again
        self.mover = None if device.type == "cpu" else Mover(device)
        self.coming: dict[int, Future[list[Tensor]]] = {}
        self.home: dict[int, list[Tensor]] = {}
        for number, block in enumerate(self.blocks):
            block.register_forward_pre_hook(self._enter(number))
            block.register_forward_hook(self._leave(number), always_call=True)

    def _enter(self, number: int) -> Callable[..., None]:
        def enter(block: nn.Module, *_: Any) -> None:
            following = (number + 1) % len(self.blocks)
            follows = following > number or self.again
            if self.mover is None:
                if follows:
                    _prefetch(self.blocks[following])
                return
            self.home[number] = weights_of(block)
            arrived = self.coming.pop(number, None) or self.mover.bring(self.home[number])
            set_weights(block, self.mover.receive(arrived))
            if follows and following not in self.coming and following != number:
                self.coming[following] = self.mover.bring(weights_of(self.blocks[following]))

        return enter

    def _leave(self, number: int) -> Callable[..., None]:
        def leave(block: nn.Module, *_: Any) -> None:
            if self.mover is None:
                release_weights(block)
            elif number in self.home:
                set_weights(block, self.home.pop(number))

        return leave


class Mover:
    """Copies weights to a GPU on a stream of its own, through memory that the GPU reads directly, in the background.

    On other devices it copies as it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pool = ThreadPoolExecutor(1, "weights")
        self.pinned: list[Tensor | None] = [None, None]
        self.turn = 0

    def bring(self, weights: Sequence[Tensor]) -> Future[list[Tensor]]:
        """Begin to copy; one block's weights after the other."""
        self.turn = 1 - self.turn
        return self.pool.submit(self._copy, list(weights), self.turn)

    def receive(self, coming: Future[list[Tensor]]) -> list[Tensor]:
        """The copies, to be used by what is launched from now on."""
        copies = coming.result()
        if self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            for copy in copies:
                copy.record_stream(here)
        return copies

    @torch.inference_mode(False)
    @torch.no_grad()
    def _copy(self, weights: list[Tensor], turn: int) -> list[Tensor]:
        if self.stream is None:
            return [weight.to(self.device, copy=True) for weight in weights]
        self.stream.synchronize()  # what was copied from this memory has arrived
        total = sum(-(-weight.nbytes // 16) * 16 for weight in weights)
        held = self.pinned[turn]
        if held is None or held.nbytes < total:
            held = self.pinned[turn] = torch.empty(total, dtype=torch.uint8, pin_memory=True)
        copies, start = [], 0
        with torch.cuda.stream(self.stream):
            for weight in weights:
                staged = held[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
                staged.copy_(weight)
                copies.append(staged.to(self.device, non_blocking=True))
                start += -(-weight.nbytes // 16) * 16
        return copies


def weights_of(module: nn.Module) -> list[Tensor]:
    """The plain tensors of all parameters, in a fixed order."""
    return [part if part is not weight else weight.data for weight in module.parameters() for part in parts(weight)]


def set_weights(module: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Put tensors in the place of those that `weights_of` gave, wherever they are."""
    given = iter(tensors)
    for weight in module.parameters():
        if isinstance(weight, QuantizedWeight):
            weight.numbers, weight.scale = next(given), next(given)
        else:
            weight.data = next(given)


@contextlib.contextmanager
def visiting(module: nn.Module, device: torch.device, offload: str) -> Iterator[None]:
    """Within the block the module is on the device; then its memory there is free, and mapped pages are given back."""
    if offload == "none":
        yield
        return
    home = weights_of(module)
    if device.type != "cpu":
        set_weights(module, [weight.to(device) for weight in home])
    try:
        yield
    finally:
        set_weights(module, home)
        release_weights(module)


def place_transformer(
    model: nn.Module,
    dtype: torch.dtype,
    device: torch.device,
    quantize: str | None,
    offload: str,
    file_cache: int | None = None,
) -> None:
    """Put a loaded transformer where it runs; with "layers" its blocks stay on the CPU and are streamed.

    `file_cache` is that of `FileCache`; without it only large models are looked after.
    """
    blocks: Any = model.transformer_blocks
    streamed = offload == "layers"
    place(model, dtype=dtype, device=torch.device("cpu") if streamed else device, method=quantize, blocks=blocks)
    if streamed:
        place(model, dtype=None, device=device, leave=blocks)
    if device.type == "cpu" and (file_cache is not None or _held(blocks) > MANY):
        FileCache(blocks, file_cache)
    if streamed:
        BlockStream(blocks, device, again=True)


def _held(blocks: nn.Module) -> int:
    """Bytes of weights, in their files or not."""
    return sum(weight.nbytes for weight in weights_of(blocks))


class FileCache:
    """Keeps as many of a model's mapped blocks in the system's file cache as have room, over all steps.

    Blocks are used in turn. The system drops what was not used for longest, which is what comes next: where not all
    have room it would read all of them from the disk in every step. So the last ones are dropped as soon as they ran,
    and the first ones stay. The next block is read while one runs.

    Args:
        blocks: run in this order, over and over.
        limit: bytes of them that stay, at most; None is all that is free when a step begins.
    """

    def __init__(self, blocks: Sequence[nn.Module], limit: int | None = None) -> None:
        self.blocks, self.kept, self.limit = list(blocks), len(blocks), limit
        for number, block in enumerate(self.blocks):
            block.register_forward_pre_hook(lambda *_, number=number: self._enter(number))
            block.register_forward_hook(lambda *_, number=number: self._leave(number), always_call=True)

    def _enter(self, number: int) -> None:
        if number == 0:
            self.kept = self.fitting(free_memory())
        _prefetch(self.blocks[(number + 1) % len(self.blocks)])

    def _leave(self, number: int) -> None:
        if number >= self.kept:
            for weight in weights_of(self.blocks[number]):
                evict(weight)

    def fitting(self, free: int) -> int:
        """How many of the first blocks have room in so many bytes, beside what a picture needs."""
        sizes = [sum(weight.nbytes for weight in weights_of(block)) for block in self.blocks]
        room = free - RESERVE if self.limit is None else min(free - RESERVE, self.limit)
        if sum(sizes) <= room:
            return len(sizes)
        room -= 2 * max(sizes)  # what runs, and what is read ahead
        return sum(total <= room for total in itertools.accumulate(sizes))


def _prefetch(block: nn.Module) -> None:
    for weight in weights_of(block):
        prefetch(weight)


def free_memory() -> int:
    """Bytes that are free or hold files that can be read again; more than there can be where none can be asked."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), sys.maxsize)


def keep_on_cpu(table: nn.Embedding, device: torch.device) -> None:
    """Look rows up on the CPU, where an embedding's weights are, and hand them to the device."""
    table.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(table.weight.device),))
    table.register_forward_hook(lambda _, inputs, rows: rows.to(device))
