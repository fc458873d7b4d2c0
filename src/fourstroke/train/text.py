"""Teaching the small text encoder to read before it conditions anything: captions in, what stands where out.

The reports' condition encoder is a frozen Qwen3-VL, which has learnt language from trillions of words. Ours starts from
nothing, and the flow-matching loss alone is a poor teacher of it: most of its gradient is about pixels. So the encoder
first answers, for each cell of the picture, what the caption puts there and in which colour; the scene graph knows.
A light reader asks through cross attention, as the transformer will, and is thrown away afterwards (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fourstroke.device import autocast, pick_device
from fourstroke.files import write_json
from fourstroke.nn import RMSNorm, SwiGLU
from fourstroke.ranges import Count, check_ranges
from fourstroke.recipe import agree, resolved
from fourstroke.text import TextEncoder
from fourstroke.text.encoder import TextFeatures
from fourstroke.text.small import SmallTextConfig, build_text_encoder, sizes, train_tokenizer
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.naming import CellNaming
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.world import Scene, World, WorldConfig
from fourstroke.world.cells import UNKNOWN
from fourstroke.world.graph import Split

HELD_OUT = 256


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Every number of a run; `init` names a checkpoint whose text encoder and tokenizer it starts from.

    `text` are the sizes of a new encoder; beside `init` they may be left out, and must agree with it if they are not.
    """

    world: WorldConfig
    text: SmallTextConfig | None = None
    run: RunConfig
    optimizer: OptimizerConfig
    batch_size: Count
    letters: str = ""
    """Letters of signs that are to be named where they stand; none where it is empty."""
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
    """Captions, the cross entropy of each cell's thing and colour, scores and export."""

    def __init__(self, recipe: TextRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        self.world = World(recipe.world)
        self.naming = CellNaming(self.world, recipe.letters)
        torch.manual_seed(recipe.run.seed)
        if recipe.init is not None:
            folders = recipe.init / "text_encoder", recipe.init / "processor"
            self.text_encoder = TextEncoder.from_pretrained(*folders, device=str(self.device))
            agree("text", recipe.text and sizes(recipe.text), self.text_encoder.model.config.to_dict(), recipe.init)
        else:
            assert recipe.text is not None
            scenes = enumerate(map(self.world.scene, range(recipe.tokenizer_captions)))
            captions = [self.world.caption(scene, rich, seed) for seed, scene in scenes for rich in (False, True)]
            tokenizer = train_tokenizer(captions, recipe.text.vocab_size)
            self.text_encoder = build_text_encoder(recipe.text, tokenizer).to(self.device)
        self.text_encoder.trainable()
        factor = self.naming.names.factor
        cells = (recipe.world.height // factor) * (recipe.world.width // factor)
        self.reader = LayoutReader(self.text_encoder.width, cells, self.naming.outputs).to(self.device)
        self.models: dict[str, nn.Module] = {"text_encoder": self.text_encoder, "reader": self.reader}
        self.batch_size = recipe.batch_size

    def loss(self, step: int) -> dict[str, Tensor]:
        """Cross entropy of things and of colours; steps take turns at short and rich captions."""
        recipe = self.recipe
        first = (recipe.run.seed << 40) + step * recipe.batch_size
        scenes, logits = self._read(range(first, first + recipe.batch_size), "train", rich=step % 2 == 0)
        parts = self.naming.losses(logits, self.naming.labels(scenes))
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Shares of held-out scenes' objects that are named right where they stand, for both kinds of caption."""
        scores = {}
        for kind, rich in (("short", False), ("rich", True)):
            scenes, logits = self._read(range(HELD_OUT), "heldout", rich)
            read = {name: part.argmax(1).cpu() for name, part in self.naming.split(logits).items()}
            wanted = self.naming.labels(scenes)
            centres = [(row, cell) for row, scene in enumerate(scenes) for cell in self._centres(scene)]
            rows, cells = torch.tensor(centres).T if centres else torch.empty(2, 0, dtype=torch.long)
            asked = {"things": (rows, cells), "colours": (rows, cells), "letters": wanted.get("letters", rows) > 0}
            for name, values in read.items():
                known = wanted[name][asked[name]] != UNKNOWN
                right = (values == wanted[name])[asked[name]][known]
                scores[f"{kind}_{name}"] = float(right.float().mean())
        write_json(folder / f"step-{step:06d}.json", scores)
        return scores

    def export(self, folder: Path) -> None:
        """Save the encoder and its processor; the reader has done its work."""
        self.text_encoder.save_pretrained(folder / "text_encoder", folder / "processor")

    def _read(self, seeds: range, split: Split, rich: bool) -> tuple[list[Scene], Tensor]:
        """Scenes of the seeds, and the logits (b, names, cells) of what is read in their captions."""
        scenes = [self.world.scene(seed, split) for seed in seeds]
        captions = [self.world.caption(scene, rich, seed) for scene, seed in zip(scenes, seeds, strict=True)]
        with autocast(self.device):
            return scenes, self.reader(self.text_encoder(self.text_encoder.tokenize(captions)))

    def _centres(self, scene: Scene) -> list[int]:
        """The cell in which each object's centre lies, of those that no other object or sign covers."""
        rows, columns = scene.height // self.naming.names.factor, scene.width // self.naming.names.factor
        things = self.naming.labels([scene])["things"][0]
        cells = [
            (min(rows - 1, int(o.y * rows)) * columns + min(columns - 1, int(o.x * columns)), o.name)
            for o in scene.objects
        ]
        return [cell for cell, name in cells if self.naming.names.things[things[cell]] == name]


def train_text(recipe: TextRecipe, resume: bool = False) -> Path:
    """Train by a recipe; returns the folder that holds `text_encoder` and `processor`."""
    return Trainer(TextStage(recipe), recipe.run, recipe.optimizer, resolved(recipe)).run(resume)
