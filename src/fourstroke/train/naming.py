"""Naming what stands at each cell of a picture.

It is the task by which a small text encoder learns to read (`train text`) and that of a head on the transformer's
hidden states (`train dit`, `semantics`). Names are those of things and colours, and on request the letters of words:
which one stands in each quarter of a cell. Words come by this: where nothing but the prompt can tell a letter, the
flow-matching loss alone hardly says that it should be read there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fourstroke.train.labels import known_cross_entropy
from fourstroke.world import Scene, World
from fourstroke.world.cells import UNKNOWN, cell_labels, cell_names, letter_labels

Labels = dict[str, Tensor]
QUARTERS = 4
"""Squares of 8 pixels in a cell of 16, row by row."""


class CellNaming:
    """What can stand at a cell of a world, and the cross entropy of logits that say what does."""

    def __init__(self, world: World, letters: str = "") -> None:
        self.names, self.letters = cell_names(world), letters
        self.widths = {"things": len(self.names.things), "colours": len(self.names.colours)}
        if letters:
            self.widths["letters"] = QUARTERS * (1 + len(letters))

    @property
    def outputs(self) -> int:
        """Logits for each cell."""
        return sum(self.widths.values())

    def labels(self, scenes: Sequence[Scene]) -> Labels:
        """Indices, or UNKNOWN: `things` and `colours` (b, cells), `letters` (b, 4, cells), 0 where none stands."""
        things, colours, *_ = cell_labels(scenes, self.names)
        found = {"things": things.flatten(1), "colours": colours.flatten(1)}
        if self.letters:
            squares = torch.stack([letter_labels(scene, self.letters) for scene in scenes])
            cells = squares.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 2, 4, 1, 3)  # b 2 2 rows columns
            found["letters"] = cells.flatten(3).flatten(1, 2)
        return found

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits (b, outputs, cells) by kind: (b, names, cells) each, those of letters (b, 1 + letters, 4, cells)."""
        parts = dict(zip(self.widths, logits.float().split(list(self.widths.values()), dim=1), strict=True))
        if self.letters:
            parts["letters"] = parts["letters"].unflatten(1, (-1, QUARTERS))
        return parts

    def losses(self, logits: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Mean cross entropy of each kind; letters and places without one weigh the same, however rare letters are."""
        losses = {}
        for name, part in self.split(logits).items():
            target = labels[name].long().to(part.device)
            if name == "letters":
                losses[name] = known_cross_entropy(part, target.masked_fill(target == 0, UNKNOWN))
                losses[name] = losses[name] + known_cross_entropy(part, target.masked_fill(target > 0, UNKNOWN))
            else:
                losses[name] = known_cross_entropy(part, target)
        return losses
