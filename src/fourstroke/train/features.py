"""Training the semantic network that stands in for DINOv2 where nothing can be downloaded (our choice).

The labels say of each 16 x 16 cell of a picture what it shows; the network learns to name it. Its middle layer then
shapes latents and compares pictures while the autoencoder is trained (VAE-2.0 report, section Objective).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fourstroke.data.frames import Windows
from fourstroke.data.loader import Loader, LoaderConfig
from fourstroke.data.sample import Batch, Data
from fourstroke.device import autocast, pick_device
from fourstroke.ranges import Count, Natural, check_ranges
from fourstroke.recipe import resolved
from fourstroke.train.labels import Labels
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae.features import SemanticConfig, SemanticNetwork

HELD_OUT = 64


@dataclass(frozen=True, kw_only=True)
class FeaturesRecipe:
    """Every number of a run; how many outputs the network has follows from the labels."""

    data: Data
    """Pictures of one size, which are never cropped."""
    labels: Labels
    model: SemanticConfig
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    workers: Natural = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model.outputs:
            raise ValueError("model.outputs come from the labels; leave them out")


class FeaturesStage:
    """Batches, loss, scores and export of the semantic network."""

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self.recipe, self.device, self.labels = recipe, pick_device(), recipe.labels.open()
        self.config = replace(recipe.model, outputs=self.labels.outputs)
        torch.manual_seed(recipe.run.seed)
        self.model = SemanticNetwork(self.config).to(self.device)
        self.models: dict[str, nn.Module] = {"features": self.model}
        self.batch_size = recipe.batch_size
        data = recipe.data.open()
        config, frames = LoaderConfig(workers=recipe.workers), Windows([data.record(0).size])
        self.loader = Loader(data, frames, recipe.batch_size, config=config, seed=recipe.run.seed)
        self._step = -1
        self._stream: Iterator[Batch] = iter(())
        held_out = recipe.data.open("heldout")
        self.held_out = [held_out.sample(index) for index in range(min(HELD_OUT, len(held_out)))]

    def loss(self, step: int) -> dict[str, Tensor]:
        """The labels' losses and their sum; raises ValueError for pictures of several sizes."""
        batch = self._batch(step)
        assert batch.images is not None
        if any(record.size != batch.size for record in batch.records):
            raise ValueError(f"labels are of whole pictures of one size: not all are {batch.size[0]} x {batch.size[1]}")
        with autocast(self.device):
            logits = self.model(batch.images.to(self.device) / 127.5 - 1).flatten(2)
        parts = self.labels.losses(logits, self.labels.labels(batch.records))
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """The held-out scores; nothing is drawn."""
        return self.held_out_scores()

    def held_out_scores(self) -> dict[str, float]:
        """Shares of held-out labels that are named right (`CellLabels.scores`)."""
        pictures = torch.stack([torch.from_numpy(sample.image) for sample in self.held_out]).permute(0, 3, 1, 2)
        logits = self.model(pictures.to(self.device) / 127.5 - 1).flatten(2)
        return self.labels.scores(logits, [sample.record for sample in self.held_out])

    def export(self, folder: Path) -> None:
        """Save the network."""
        self.model.save_pretrained(folder)

    def _batch(self, step: int) -> Batch:
        if step != self._step + 1 or step == 0:
            self._stream = self.loader.batches(step)
        self._step = step
        return next(self._stream)


def train_features(recipe: FeaturesRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder of the finished network."""
    return Trainer(FeaturesStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)
