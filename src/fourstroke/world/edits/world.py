"""Edits from seeds, with their pictures; the same seed gives the same edit on every machine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fourstroke.chance import generator, pick_weighted
from fourstroke.ranges import Fraction, NonNegative, check_ranges
from fourstroke.world.captions.wordings import Wordings
from fourstroke.world.edits.drawing import draw_edit, on_lattice
from fourstroke.world.edits.graph import KINDS, Edit, EditKind
from fourstroke.world.edits.instruction import instruct
from fourstroke.world.graph import Split
from fourstroke.world.world import World, WorldConfig

EDIT_STREAM, INSTRUCTION_STREAM = 50, 51
MAX_DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """The world that is edited, of the second edition, and how often each kind comes."""

    world: WorldConfig
    kinds: tuple[NonNegative, ...] = field(default_factory=lambda: (1.0,) * len(KINDS))
    """Weights of add, remove, recolour, replace, move, swap, restyle, words, background and combine."""
    brief: Fraction = 0.0
    """How many instructions leave out of what is there all that nobody needs to find it: the color of the only circle,
    the name of the only thing."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.world.things:
            raise ValueError("edits are of the second edition; set world.things")
        if len(self.kinds) != len(KINDS) or sum(self.kinds) <= 0:
            raise ValueError(f"kinds={self.kinds}: give {len(KINDS)} weights ({', '.join(KINDS)}), not all zero")
        if not self.world.words and self.kinds[KINDS.index("words")]:
            raise ValueError("kinds: words are changed on signs; set world.words above 0, or their weight to 0")


class Edits:
    """Edits, pictures and instructions from seeds."""

    def __init__(self, config: EditConfig) -> None:
        self.config, self.world = config, World(config.world)

    def kind(self, seed: int) -> EditKind:
        """The kind of a seed's edit, which is known before anything is drawn."""
        return self._start(seed)[0]

    def edit(self, seed: int, split: Split = "train") -> Edit:
        """The edit of a seed (>= 0); what held-out ones come to is shown by no training scene.

        Raises:
            ValueError: if the world has no scene for an edit of this kind.
        """
        kind, rng = self._start(seed)
        for _ in range(MAX_DRAWS):
            scene = self.world.scene(int(rng.integers(1 << 40)), split)
            edit = draw_edit(kind, scene, rng, self.world, split)
            if edit is not None and self.config.world.snap:
                edit = on_lattice(edit, self.config.world.snap)
            if edit is not None:
                return edit
        raise ValueError(f"found no {split} edit of kind {kind} in {MAX_DRAWS} scenes: the world leaves too few")

    def _start(self, seed: int) -> tuple[EditKind, np.random.Generator]:
        rng = generator(seed, EDIT_STREAM)
        return pick_weighted(rng, KINDS, self.config.kinds), rng

    def render(self, edit: Edit) -> tuple[list[np.ndarray], np.ndarray]:
        """The pictures before and the one after, each (height, width, 4) uint8."""
        return [self.world.render(scene) for scene in edit.before], self.world.render(edit.after)

    def instruction(self, edit: Edit, rich: bool, seed: int, wordings: Wordings = "trained") -> str:
        """What is asked, in English, worded by ``seed``."""
        return instruct(edit, generator(seed, INSTRUCTION_STREAM, int(rich)), rich, wordings, self.config.brief)
