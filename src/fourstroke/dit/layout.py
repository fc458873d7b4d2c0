"""The joint sequence of the transformer: prompt tokens, input images where their slots stood, the target image last.

Qwen-Image-2.0 report (one shared stream, MSRoPE); the details are those of the open Qwen-Image-2.1 weights. A prompt
holds one vision slot for every 32x32 pixels of an input image; the slot gives way to their latents, 2x2 at 1/16. Text
advances one position that all three axes (frame, height, width) share. An image stays on the frame that the text has
reached, its rows and columns are centred on zero, and the text goes on max(height, width) positions later.

**Padding takes no positions.** The reference implementation counts the padding of a batch into the target's frame, so
there a picture depends on the longest prompt of its batch. Here the target follows each sample's own last token:
every row of a padded batch is what it would be alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fourstroke.nn import Span

Grid = tuple[int, int]
TOKENS_PER_SLOT = 4
"""Of an autoencoder at 1/16: a slot is 2x2 latents."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of the prefix from one source: tokens [start, stop) of the text, or of the input images' tokens."""

    is_image: bool
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything about the joint sequence that does not depend on its values; build it once for a batch.

    B samples; L text tokens with slots and padding; P = prefix tokens = L + 3 per slot; T = target tokens = h * w.
    The prefix has the same layout in all samples, since padding stands on its right and changes nothing before it.
    """

    image_grids: tuple[Grid, ...]
    text_lengths: Tensor  # (B,), valid text tokens, slots included
    text_tokens: int  # L
    segments: tuple[Segment, ...]  # where the prefix tokens come from, in order
    spans: tuple[Span, ...]  # the block-causal attention of the prefix
    prefix_positions: Tensor  # (1, P, 3): frame, height, width
    target_positions: Tensor  # (B, T, 3), or (1, T, 3) where all prompts are of one length
    key_mask: Tensor | None  # (B, 1, 1, P + T), false at padding; None without padding

    @classmethod
    def build(
        cls,
        text_lengths: Sequence[int] | Tensor,
        grid: Grid,
        slots: Tensor | None = None,
        image_grids: Sequence[Grid] = (),
        *,
        text_tokens: int | None = None,
        tokens_per_slot: int = TOKENS_PER_SLOT,
        device: torch.device | str | None = None,
    ) -> Self:
        """Lay out a batch.

        Args:
            text_lengths: valid text tokens of each sample (B,), vision slots included.
            grid: (height, width) of the target in latents.
            slots: (L,), (1, L) or (B, L) bool, true at vision slots; needed with `image_grids`.
            image_grids: (height, width) of each input image in latents, in the order of their slots.
            text_tokens: L, the width that texts are padded to; the longest length by default. A fixed width spares
                recompilation.
            tokens_per_slot: latents that take the place of one slot, all those of its 32 x 32 pixels.
            device: where the tensors go; by default where `slots` or `text_lengths` are, else the CPU. Lengths on
                the CPU spare a wait for the GPU.

        Raises:
            ValueError: the slots of the samples differ, lie in the padding, are interrupted within an image, or do
                not have the number that the image grids ask for.
        """
        if device is None:
            device = next((value.device for value in (slots, text_lengths) if isinstance(value, Tensor)), "cpu")
        lengths = torch.as_tensor(text_lengths, dtype=torch.long).tolist()
        width = max(lengths, default=0) if text_tokens is None else text_tokens
        if not lengths or min(lengths) < 0 or width < 1 or max(lengths) > width:
            raise ValueError(f"text lengths {lengths} do not fit a text of {width} tokens; every batch needs some text")
        if min(grid) < 1:
            raise ValueError(f"the target grid is {grid}; both sides must be at least 1")
        image_grids = tuple((int(height), int(columns)) for height, columns in image_grids)
        segments = _segments(_slot_row(slots, lengths), width, image_grids, tokens_per_slot)

        spans, rows, start, position = [], [], 0, 0
        remaining = iter(image_grids)
        for segment in segments:
            stop = start + len(segment)
            if segment.is_image:
                image = next(remaining)
                spans.append(Span(start, stop))
                rows.append(_image_positions(image, position))
                position += max(image)
            else:
                causal = torch.ones(stop - start, stop, dtype=torch.bool).tril(start).to(device) if start else None
                spans.append(Span(start, stop, causal=causal is None, mask=causal))
                rows.append(torch.arange(position, position + len(segment))[:, None].expand(-1, 3))
                position += len(segment)
            start = stop

        padding = [width - length for length in lengths]
        ends = [position - lost for lost in (padding if len(set(padding)) > 1 else padding[:1])]
        target = torch.stack([_image_positions(grid, end) for end in ends])
        key_mask = None
        if any(padding):
            places = torch.arange(start + target.shape[1])
            valid = start - torch.tensor(padding)[:, None]
            key_mask = ((places < valid) | (places >= start))[:, None, None].to(device)
        return cls(
            image_grids=image_grids,
            text_lengths=torch.tensor(lengths, device=device),
            text_tokens=width,
            segments=tuple(segments),
            spans=tuple(spans),
            prefix_positions=torch.cat(rows)[None].to(device),
            target_positions=target.to(device),
            key_mask=key_mask,
        )

    @property
    def batch_size(self) -> int:
        """B."""
        return self.text_lengths.shape[0]

    @property
    def prefix_tokens(self) -> int:
        """P: text, its padding, and the tokens of the input images."""
        return self.prefix_positions.shape[1]

    @property
    def target_tokens(self) -> int:
        """T = h * w."""
        return self.target_positions.shape[1]

    @property
    def image_tokens(self) -> int:
        """Tokens of all input images together."""
        return sum(height * width for height, width in self.image_grids)

    @property
    def target(self) -> slice:
        """Where the target stands in the joint sequence."""
        return slice(self.prefix_tokens, self.prefix_tokens + self.target_tokens)

    @property
    def positions(self) -> Tensor:
        """Positions of the joint sequence, (B or 1, P + T, 3); those of padding are of no consequence."""
        prefix = self.prefix_positions.expand(self.target_positions.shape[0], -1, -1)
        return torch.cat((prefix, self.target_positions), dim=1)

    def join(self, text: Tensor, images: Tensor | None) -> Tensor:
        """Put the input images' tokens where their slots stood: `b l d, b i d -> b p d`."""
        if images is None or not self.image_grids:
            return text[:, : self.text_tokens]
        return torch.cat([(images if s.is_image else text)[:, s.start : s.stop] for s in self.segments], dim=1)

    def to(self, device: torch.device | str) -> Self:
        """The same layout with its tensors on `device`."""
        return dataclasses.replace(
            self,
            text_lengths=self.text_lengths.to(device),
            spans=tuple(s if s.mask is None else s._replace(mask=s.mask.to(device)) for s in self.spans),
            prefix_positions=self.prefix_positions.to(device),
            target_positions=self.target_positions.to(device),
            key_mask=None if self.key_mask is None else self.key_mask.to(device),
        )


def _image_positions(grid: Grid, frame: int) -> Tensor:
    """Positions (h * w, 3) of an image, row by row; an odd side has its extra line before zero."""
    height, width = grid
    rows = torch.arange(height) - (height - height // 2)
    columns = torch.arange(width) - (width - width // 2)
    axes = torch.meshgrid(torch.tensor([frame]), rows, columns, indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, 2)


def _slot_row(slots: Tensor | None, lengths: Sequence[int]) -> list[bool]:
    """The one row of slots that all samples share."""
    if slots is None:
        return []
    rows = slots.bool().reshape(-1, slots.shape[-1])
    if not (rows == rows[:1]).all():
        raise ValueError("the vision slots of the samples differ; batch samples of one layout together")
    row: list[bool] = rows[0].tolist()
    if any(row[min(lengths) :]):
        raise ValueError(f"vision slots lie in the padding: the shortest text has only {min(lengths)} tokens")
    return row


def _segments(slots: list[bool], width: int, image_grids: Sequence[Grid], per_slot: int) -> list[Segment]:
    """Cut the prefix into text and images; neighbouring images with no text between them stay apart."""
    wanted = [height * columns for height, columns in image_grids]
    if any(tokens % per_slot or tokens == 0 for tokens in wanted):
        raise ValueError(f"input images {list(image_grids)} must each have a multiple of {per_slot} latents")
    if sum(slots) * per_slot != sum(wanted):
        raise ValueError(
            f"input images {list(image_grids)} need {sum(wanted) // per_slot} vision slots, found {sum(slots)}"
        )
    segments, cursor, done = [], 0, 0
    for tokens in wanted:
        first = slots.index(True, cursor)
        stop = first + tokens // per_slot
        if not all(slots[first:stop]):
            raise ValueError(f"the vision slots from {first} on are interrupted within one input image")
        if first > cursor:
            segments.append(Segment(is_image=False, start=cursor, stop=first))
        segments.append(Segment(is_image=True, start=done, stop=done + tokens))
        cursor, done = stop, done + tokens
    if cursor < width:
        segments.append(Segment(is_image=False, start=cursor, stop=width))
    return segments
