"""How much of a picture is computed at once: all of it where memory allows, else strips, smaller ones if need be.

Our choice; the reports are silent. Tiles here are strips as wide as the picture (`stream`), which need neither overlap
nor blending: what they give together equals what the whole gives, but for the order of float additions. On a CPU they
are used always, for they are faster; on a GPU, where the whole does not fit. Who wants gradients gets the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fourstroke.vae import stream
from fourstroke.vae.blocks import DownStage, UpStage
from fourstroke.vae.stream import Strip, Strips

if TYPE_CHECKING:
    from fourstroke.vae.autoencoder import Decoder, Encoder

CACHE_STRIP, MAX_THREADS = 4 << 20, 4
"""Bytes of a strip on a CPU for each thread, of so many at most: it stays in the processor's cache."""
SMALLEST_STRIP = 64 << 10
"""Bytes of the strips after which we give up."""
MAPS_WHOLE, MAPS_IN_STRIPS = 8, 64
"""How many tensors of full resolution the whole needs, and how many strips are alive at once; with room to spare."""


def encode(encoder: Encoder, x: Tensor, strip_bytes: int | None = None) -> Tensor:
    """`encoder(x)`, (b, in_channels, H, W) -> (b, 2 z_dim, h, w), in as little memory as it must.

    `strip_bytes` is what a strip holds; None chooses. Raises RuntimeError where even small strips do not fit.
    """
    if torch.is_grad_enabled():
        return encoder(x)
    return _fitting("encoding", encoder, lambda size: encode_strips(encoder, x, size), x, x.shape[2:], strip_bytes)


def decode(decoder: Decoder, z: Tensor, strip_bytes: int | None = None) -> Tensor:
    """`decoder(z)`, (b, z_dim, h, w) -> (b, out_channels, H, W), in as little memory as it must; else as `encode`."""
    if torch.is_grad_enabled():
        return decoder(z)
    factor = 2 ** sum(stage.upsampler is not None for stage in decoder.stages())
    shape = torch.Size(side * factor for side in z.shape[2:])
    return _fitting("decoding", decoder, lambda size: decode_strips(decoder, z, size), z, shape, strip_bytes)


def encode_strips(encoder: Encoder, x: Tensor, strip_bytes: int) -> Tensor:
    """`encoder(x)` with strips of about `strip_bytes` bytes."""
    width, positions = encoder.conv_in.out_channels, len(x) * x.shape[2] * x.shape[3]
    strips = stream.convolve(encoder.conv_in, stream.regroup(iter([Strip(x, True)]), strip_bytes, width))
    for stage in encoder.stages():
        width = max(width, stage.out_channels)
        size = _uncut_below_kernels(stage, positions * width * x.element_size(), strip_bytes)
        strips = stream.down(stage, stream.regroup(strips, size, width))
        positions //= 1 if stage.downsampler is None else 4
    h = stream.whole(strips)
    if encoder.shortcut is not None:
        h = h + encoder.shortcut(x)
    return stream.whole(stream.convolve(encoder.conv_out, _one(stream.middle(encoder.mid_block, h)), encoder.norm_out))


def decode_strips(decoder: Decoder, z: Tensor, strip_bytes: int) -> Tensor:
    """`decoder(z)` with strips of about `strip_bytes` bytes."""
    deep = stream.middle(decoder.mid_block, stream.whole(stream.convolve(decoder.conv_in, _one(z))))
    strips, width, factor = _one(deep), deep.shape[1], 1
    for stage in decoder.stages():
        whole = len(z) * z.shape[2] * z.shape[3] * factor**2 * width * z.element_size()
        strips = stream.up(stage, stream.regroup(strips, _uncut_below_kernels(stage, whole, strip_bytes), width))
        width = stage.out_channels
        factor *= 1 if stage.upsampler is None else 2
    if decoder.shortcut is not None:
        kept = stream.ResidualBuffer(decoder.shortcut, factor)
        kept.rows.append(deep)
        strips = kept.added(strips)
    return _assembled(stream.convolve(decoder.conv_out, strips, decoder.norm_out), deep.shape[2] * factor)


def _uncut_below_kernels(stage: DownStage | UpStage, whole_bytes: int, strip_bytes: int) -> int:
    """The size of a stage's strips: all of a map that is smaller than the largest kernel, else `strip_bytes`.

    Where several strips pass, the rearranged kernels of all layers must be there at once; where one does, each is made,
    used once and freed. Deep stages have the largest kernels and the smallest maps.
    """
    kernels = max(p.numel() * p.element_size() for p in stage.parameters() if p.ndim == 4)
    return whole_bytes if whole_bytes <= kernels else strip_bytes


def _assembled(strips: Strips, height: int) -> Tensor:
    """Strips written into one picture as they come, in the usual order of memory."""
    x, done = torch.empty(0), 0
    for rows, _ in strips:
        if not done:
            x = rows.new_empty((*rows.shape[:2], height, rows.shape[3]))
        x[:, :, done : done + rows.shape[2]] = rows
        done += rows.shape[2]
    return x


def _one(x: Tensor) -> Iterator[Strip]:
    return iter([Strip(x.contiguous(memory_format=torch.channels_last), True)])


def _fitting(
    what: str,
    part: Encoder | Decoder,
    strips: Callable[[int], Tensor],
    x: Tensor,
    shape: torch.Size,
    strip_bytes: int | None,
) -> Tensor:
    """The whole if it fits, else strips of the size that should fit, then of a quarter of it, and so on."""
    height, width = shape
    size = strip_bytes or CACHE_STRIP * min(MAX_THREADS, torch.get_num_threads())
    if strip_bytes is None and (memory := room(x.device)):
        channels = 2 * min(part.conv_in.out_channels, part.conv_out.in_channels)
        wanted = MAPS_WHOLE * len(x) * channels * height * width * x.element_size()
        if wanted <= memory:
            try:
                return part(x)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
        size = max(SMALLEST_STRIP, min(wanted, memory) // MAPS_IN_STRIPS)
    while True:
        try:
            return strips(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if size <= SMALLEST_STRIP:
            raise RuntimeError(
                f"{what} {len(x)} of {width} x {height} pixels needs more memory than {x.device} has free, even in "
                f"strips of {size >> 10} KiB; free some, or use fewer pictures at once or smaller ones"
            )
        size = max(SMALLEST_STRIP, size // 4)


def room(device: torch.device) -> int:
    """Bytes that the whole may take: none on a CPU, where strips are faster; without limit where none can be asked.

    On a GPU what tensors can still take, torch's reserve included.
    """
    if device.type == "cpu":
        return 0
    if device.type != "cuda":
        return sys.maxsize
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has a class for it on GPUs alone."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "could not create a memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error).lower() for w in words)
