"""What stands at each cell of a scene or a page: things, colours, styles, and letters where they are drawn.

It is the task by which a small text encoder learns to read and that of a head on the transformer's hidden states. Words
come by it: where nothing but the prompt can tell a letter, the flow-matching loss alone hardly says that it should be
read there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fourstroke.data.sample import Record
from fourstroke.train.labels import known_cross_entropy
from fourstroke.world.atlas import STYLES
from fourstroke.world.cells import UNKNOWN, cell_labels, cell_names, letter_labels, letter_squares
from fourstroke.world.graph import Scene
from fourstroke.world.pages.graph import Page
from fourstroke.world.pages.render import letter_boxes, picture_box
from fourstroke.world.world import World, WorldConfig

FACTOR = 16
"""Pixels of a cell's side."""
QUARTERS = 4
"""Squares of 8 pixels in a cell, row by row."""


@dataclass(frozen=True, kw_only=True)
class WorldLabels:
    """What the cells of a world's pictures show, by `meta["scene"]` and `meta["page"]` of their records."""

    kind: ClassVar[str] = "world"
    world: WorldConfig
    """Whose things and colours are told apart; styles too, if it has several."""
    letters: str = ""
    """Letters that are to be named where they stand; none where it is empty."""

    def __post_init__(self) -> None:
        if len(set(self.letters)) < len(self.letters):
            raise ValueError(f"letters={self.letters!r}: each must come once")

    def open(self) -> WorldCells:
        """The labels."""
        return WorldCells(self.world, self.letters)


class WorldCells:
    """Labels of scenes and pages, and the cross entropy of logits that name them."""

    def __init__(self, config: WorldConfig, letters: str = "") -> None:
        self._cells, self.letters = cell_names(World(config)), letters
        self.names: dict[str, tuple[str, ...]] = {"things": self._cells.things, "colours": self._cells.colours}
        if sum(weight > 0 for weight in config.styles) > 1:
            self.names["styles"] = STYLES
        self.widths = {name: len(values) for name, values in self.names.items()}
        if letters:
            self.names["letters"] = tuple(letters)
            self.widths["letters"] = QUARTERS * (1 + len(letters))

    @property
    def outputs(self) -> int:
        """Logits for each cell."""
        return sum(self.widths.values())

    def labels(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Indices (b, cells), or UNKNOWN; `letters` (b, 4, cells) count from 1, 0 where none stands.

        A record of neither a scene nor a page has no known label. Of a page the pictures and the letters are known.

        Raises:
            ValueError: if the records are not of one size, in whole cells.
        """
        if len({record.size for record in records}) != 1 or any(side % FACTOR for side in records[0].size):
            sizes = ", ".join(sorted({f"{w} x {h}" for w, h in (record.size for record in records)}))
            raise ValueError(f"labels need records of one size in {FACTOR}s, not {sizes or 'none'}")
        rows = [self._labels(record) for record in records]
        return {name: torch.stack([row[name] for row in rows]) for name in self.widths}

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits (b, outputs, cells) by kind: (b, names, cells) each, those of letters (b, 1 + letters, 4, cells)."""
        parts = dict(zip(self.widths, logits.float().split(list(self.widths.values()), dim=1), strict=True))
        if self.letters:
            parts["letters"] = parts["letters"].unflatten(1, (-1, QUARTERS))
        return parts

    def losses(self, logits: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
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

    def scores(self, logits: Tensor, records: Sequence[Record]) -> dict[str, float]:
        """Shares named right, of the cells in which things have their centres and of the letters; nan of none."""
        wanted = self.labels(records)
        centres = torch.zeros_like(wanted["things"], dtype=torch.bool)
        for row, record in enumerate(records):
            centres[row, _centres(record, wanted["things"][row].tolist(), self._cells.things)] = True
        found = {}
        for name, part in self.split(logits).items():
            asked = (wanted[name] > 0 if name == "letters" else centres) & (wanted[name] != UNKNOWN)
            found[name] = float((part.argmax(1).cpu() == wanted[name])[asked].float().mean())
        return found

    def _labels(self, record: Record) -> dict[str, Tensor]:
        """Of one record, each (cells,), those of letters (4, cells)."""
        scene, page = record.meta.get("scene"), record.meta.get("page")
        columns, rows = (side // FACTOR for side in record.size)
        if isinstance(scene, Scene):
            cells = [part[0] for part in cell_labels([scene], self._cells)]
            squares = letter_labels(scene, self.letters) if self.letters else None
        else:
            cells = [torch.full((rows, columns), UNKNOWN) for _ in range(3)]
            squares = torch.full((2 * rows, 2 * columns), UNKNOWN)
            if isinstance(page, Page):
                self._paint(cells, page)
                boxes = [(letter, box) for letter, *box in letter_boxes(page)] if self.letters else []
                squares = letter_squares(boxes, page.width, page.height, self.letters)
        found = dict(zip(("things", "colours", "styles"), (part.flatten() for part in cells), strict=True))
        if squares is not None:  # (2 rows, 2 columns) -> 4 cells
            found["letters"] = squares.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).permute(1, 3, 0, 2).reshape(4, -1)
        return found

    def _paint(self, cells: list[Tensor], page: Page) -> None:
        """Write the names and styles of a page's pictures where their boxes hold the centres of cells."""
        for picture in page.pictures:
            left, top, right, bottom = picture_box(picture, page.width, page.height)
            inside = tuple(
                slice(max(0, -(-(low - FACTOR // 2) // FACTOR)), max(0, -(-(high - FACTOR // 2) // FACTOR)))
                for low, high in ((top, bottom), (left, right))
            )
            known = picture.name in self._cells.things
            cells[0][inside] = self._cells.things.index(picture.name) if known else UNKNOWN
            cells[2][inside] = STYLES.index(picture.style)


def _centres(record: Record, things: Sequence[int], names: Sequence[str]) -> list[int]:
    """The cell in which each thing's centre lies, of those that no other thing or sign covers."""
    columns, rows = (side // FACTOR for side in record.size)
    parts: Sequence[Any] = ()
    if isinstance(scene := record.meta.get("scene"), Scene):
        parts = scene.objects
    elif isinstance(page := record.meta.get("page"), Page):
        parts = page.pictures
    cells = [
        (min(rows - 1, int(part.y * rows)) * columns + min(columns - 1, int(part.x * columns)), part.name)
        for part in parts
    ]
    return [cell for cell, name in cells if things[cell] != UNKNOWN and names[things[cell]] == name]
