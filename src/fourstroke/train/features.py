"""Training the semantic network that stands in for DINOv2 where nothing can be downloaded (our choice).

The scene graph says of each 16 x 16 cell what it shows and in which colour; the network learns both. Its middle layer
then shapes latents and compares pictures while the autoencoder is trained (VAE-2.0 report, section Objective).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fourstroke.data.stream import batches, pixels
from fourstroke.device import autocast, pick_device
from fourstroke.ranges import Count, Natural, check_ranges
from fourstroke.recipe import resolved
from fourstroke.train.labels import known_cross_entropy
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae.features import SemanticConfig, SemanticNetwork
from fourstroke.world import Sample, World, WorldConfig
from fourstroke.world.cells import SIGN, UNKNOWN, cell_labels, cell_names


@dataclass(frozen=True, kw_only=True)
class FeaturesRecipe:
    """Every number of a run; names of things and colours come from the world."""

    world: WorldConfig
    model: SemanticConfig
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    workers: Natural = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model.things or self.model.colours:
            raise ValueError("model.things and model.colours come from the world; leave them out")


class FeaturesStage:
    """Batches, loss, scores and export of the semantic network."""

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        world = World(recipe.world)
        things, colours = cell_names(world)
        self.config = replace(recipe.model, things=things, colours=colours)
        torch.manual_seed(recipe.run.seed)
        self.model = SemanticNetwork(self.config).to(self.device)
        self.models: dict[str, nn.Module] = {"features": self.model}
        self.batch_size = recipe.batch_size
        self._step = -1
        self._stream: Iterator[list[Sample]] = iter(())
        self.held_out = [world.sample(index, "heldout") for index in range(64)]

    def loss(self, step: int) -> dict[str, Tensor]:
        """Cross entropy of things and of colours at each cell."""
        samples = self._batch(step)
        with autocast(self.device):
            things, colours = self.model(pixels(samples).to(self.device))
        labels = [target.to(self.device) for target in cell_labels([s.scene for s in samples], self.config)[:2]]
        parts = {
            name: known_cross_entropy(logits.float(), target)
            for name, logits, target in zip(("things", "colours"), (things, colours), labels, strict=True)
        }
        return {"loss": parts["things"] + parts["colours"], **parts}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Shares of cells of held-out scenes that are named right; of those of objects alone, too."""
        logits = self.model(pixels(self.held_out).to(self.device))
        things, colours, _ = cell_labels([s.scene for s in self.held_out], self.config)
        named, coloured = (part.argmax(1).cpu() for part in logits)
        objects, known = things > self.config.things.index(SIGN), colours != UNKNOWN
        scores = {"things": named == things, "objects": (named == things)[objects]}
        scores["colours"] = (coloured == colours)[known]
        return {name: float(right.float().mean()) for name, right in scores.items()}

    def export(self, folder: Path) -> None:
        """Save the network."""
        self.model.save_pretrained(folder)

    def _batch(self, step: int) -> list[Sample]:
        if step != self._step + 1 or step == 0:
            recipe = self.recipe
            self._stream = batches(
                recipe.world, recipe.batch_size, start=step, seed=recipe.run.seed, workers=recipe.workers
            )
        self._step = step
        return next(self._stream)


def train_features(recipe: FeaturesRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished network."""
    return Trainer(FeaturesStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)
