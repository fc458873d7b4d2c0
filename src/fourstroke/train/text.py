"""Teaching the small text encoder to read before it conditions anything: captions in, what stands where out.

The reports' condition encoder is a frozen Qwen3-VL, which has learnt language from trillions of words. Ours starts from
nothing, and the flow-matching loss alone is a poor teacher of it: most of its gradient is about pixels. So the encoder
first answers, for each cell of the picture, what the caption puts there; whoever made the dataset knows (`labels`).
A light reader asks through cross attention, as the transformer will, and is thrown away afterwards (our choice).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fourstroke.chance import generator, pick_weighted
from fourstroke.data.datasets.mixture import Mixture
from fourstroke.data.sample import Data, Dataset, Record, SampleError
from fourstroke.device import autocast, pick_device
from fourstroke.files import write_json
from fourstroke.nn import RMSNorm, SwiGLU
from fourstroke.ranges import Count, check_ranges
from fourstroke.recipe import agree, resolved
from fourstroke.text import TextEncoder
from fourstroke.text.encoder import TextFeatures
from fourstroke.text.small import SmallTextConfig, build_text_encoder, sizes, train_tokenizer
from fourstroke.train.labels import Labels
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig

HELD_OUT = 256
TRIES = 20
"""So many times as many samples as a batch has are looked at for captions."""


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Every number of a run; `init` names a checkpoint whose text encoder and tokenizer it starts from.

    `text` are the sizes of a new encoder; beside `init` they may be left out, and must agree with it if they are not.
    """

    data: Data
    """Of its samples the captions alone are read, not the pictures; all pictures are of one size."""
    labels: Labels
    text: SmallTextConfig | None = None
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    tokenizer_captions: Count = 20_000
    init: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.text is None and self.init is None:
            raise ValueError("there is no text encoder: name the sizes of a new one, text, or a checkpoint, init")


class LayoutReader(nn.Module):
    """A query for each cell looks through the text features and names what is there: `b l c -> b names cells`."""

    def __init__(self, width: int, cells: int, names: int, num_layers: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.5 * torch.randn(cells, width))
        self.norm_text = RMSNorm(width)
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(2 * num_layers))
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(width, num_heads, bias=False, batch_first=True) for _ in range(num_layers)
        )
        self.mlps = nn.ModuleList(SwiGLU(width, 2 * width) for _ in range(num_layers))
        self.out = nn.Linear(width, names)

    def forward(self, text: TextFeatures) -> Tensor:
        """Logits of every name at every cell, row by row."""
        memory = self.norm_text(text.features)
        hidden = (torch.arange(memory.shape[1]) >= text.lengths[:, None]).to(memory.device)
        x = self.queries.expand(len(memory), -1, -1)
        for index, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            query = self.norms[2 * index](x)
            x = x + attention(query, memory, memory, key_padding_mask=hidden, need_weights=False)[0]
            x = x + mlp(self.norms[2 * index + 1](x))
        return self.out(x).mT


class TextStage:
    """Captions, the loss of what is named at each cell, scores and export."""

    def __init__(self, recipe: TextRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        self.data, self.labels = CaptionedRecords(recipe.data.open()), recipe.labels.open()
        self.held_out = CaptionedRecords(recipe.data.open("heldout")).first(HELD_OUT)
        torch.manual_seed(recipe.run.seed)
        if recipe.init is not None:
            folders = recipe.init / "text_encoder", recipe.init / "processor"
            self.text_encoder = TextEncoder.from_pretrained(*folders, device=str(self.device))
            agree("text", recipe.text and sizes(recipe.text), self.text_encoder.model.config.to_dict(), recipe.init)
        else:
            assert recipe.text is not None
            records = self.data.first(recipe.tokenizer_captions)
            captions = [caption.text for record in records for caption in record.captions]
            tokenizer = train_tokenizer(captions, recipe.text.vocab_size)
            self.text_encoder = build_text_encoder(recipe.text, tokenizer).to(self.device)
        self.text_encoder.trainable()
        cells = next(iter(self.labels.labels(self.held_out[:1]).values())).shape[-1]
        self.reader = LayoutReader(self.text_encoder.width, cells, self.labels.outputs).to(self.device)
        self.models: dict[str, nn.Module] = {"text_encoder": self.text_encoder, "reader": self.reader}
        self.batch_size = recipe.batch_size

    def loss(self, step: int) -> dict[str, Tensor]:
        """The labels' losses and their sum; steps take turns at the captions that a record has."""
        records = self.data.drawn(self.recipe.batch_size, generator(self.recipe.run.seed, step))
        captions = [record.captions[step % len(record.captions)].text for record in records]
        parts = self.labels.losses(self._read(captions), self.labels.labels(records))
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """The held-out scores, written into `folder` too."""
        scores = self.held_out_scores()
        write_json(folder / f"step-{step:06d}.json", scores)
        return scores

    def held_out_scores(self) -> dict[str, float]:
        """Shares of held-out labels that are named right (`CellLabels.scores`), for each kind of caption."""
        scores: dict[str, float] = {}
        for kind in sorted({caption.kind for record in self.held_out for caption in record.captions}):
            pairs = [(r, caption.text) for r in self.held_out for caption in r.captions if caption.kind == kind]
            records, captions = zip(*pairs, strict=True)
            found = self.labels.scores(self._read(captions), records)
            scores |= {f"{kind}_{name}": score for name, score in found.items() if not math.isnan(score)}
        return scores

    def export(self, folder: Path) -> None:
        """Save the encoder and its processor; the reader has done its work."""
        self.text_encoder.save_pretrained(folder / "text_encoder", folder / "processor")

    def _read(self, captions: Sequence[str]) -> Tensor:
        """Logits (b, names, cells) of what is read in captions."""
        with autocast(self.device):
            return self.reader(self.text_encoder(self.text_encoder.tokenize(list(captions))))


class CaptionedRecords:
    """Records of a dataset that have captions, by chance or from the start; parts of a mixture by their weights."""

    def __init__(self, dataset: Dataset) -> None:
        self.name = dataset.name
        self.parts: Sequence[Dataset] = dataset.parts if isinstance(dataset, Mixture) else [dataset]
        self.weights = list(dataset.weights) if isinstance(dataset, Mixture) else [1.0]

    def drawn(self, count: int, rng: np.random.Generator) -> list[Record]:
        """So many records by chance; raises ValueError if hardly any has a caption."""
        found: list[Record] = []
        for _ in range(TRIES * count):
            part = pick_weighted(rng, self.parts, self.weights)
            if (record := _captioned(part, int(rng.integers(len(part))))) is not None:
                found.append(record)
            if len(found) == count:
                return found
        raise ValueError(f"hardly any sample of {self.name} has a caption; there is nothing to read")

    def first(self, count: int) -> list[Record]:
        """The first records, about as many of each part; raises ValueError if none has a caption."""
        each = -(-count // len(self.parts))
        found = [
            record
            for part in self.parts
            for index in range(min(each, len(part)))
            if (record := _captioned(part, index)) is not None
        ]
        if not found:
            raise ValueError(f"no sample of {self.name} has a caption; there is nothing to read")
        return found


def _captioned(dataset: Dataset, index: int) -> Record | None:
    """The record, None if it cannot be used or has no caption."""
    try:
        record = dataset.record(index)
    except SampleError:
        return None
    return record if record.captions else None


def train_text(recipe: TextRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder that holds `text_encoder` and `processor`."""
    return Trainer(TextStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)
