"""The judge that is not a reward: a small network that learned from true pictures of the world what is in them.

It shares nothing with the rewards: no templates, no thresholds, no statistic of the frame. It says how likely each
thing is in the picture (`presence`), and whether the background is finished with a texture, a light or a second
colour (`finish`). Trained from seeds in about a minute, on pictures blurred, noised and recoloured, because the
pictures that it will see are not perfect. A generator or an enhancer that games the rewards does not game it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourstroke.checkpoint import load_weights, save_weights
from fourstroke.data.sample import Record
from fourstroke.ranges import Count, Fraction, NonNegative, check_ranges
from fourstroke.world import SHAPE_COLOURS, SHAPES, World, WorldConfig
from fourstroke.world.caption_rules import scene_of
from fourstroke.world.graph import Scene


@dataclass(frozen=True, kw_only=True)
class WorldJudge:
    """How long the held-out judge of a world learns; the defaults take about two minutes on two CPU cores."""

    kind: ClassVar[str] = "world"

    world: WorldConfig = field(default_factory=WorldConfig)
    steps: Count = 600
    batch_size: Count = 64
    lr: NonNegative = 2e-3
    width: Count = 24
    side: Count = 64
    """Pictures are looked at in this many pixels a side."""
    textures: Fraction = 0.5
    lights: Fraction = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)

    def open(self, folder: Path | None = None) -> PresenceJudge:
        """The judge, learnt now, or taken from `folder` if it was learnt before."""
        return train_judge(self, folder)


class PresenceJudge(nn.Module):
    """Pictures to the logits of `titles` and of a finished background: `b 3 h w -> b (titles + 1)`."""

    def __init__(self, config: WorldConfig, width: int = 24, side: int = 64) -> None:
        super().__init__()
        self.side = side
        shapes = [f"{colour} {shape}" for shape in SHAPES for colour in SHAPE_COLOURS] if config.shapes else []
        self.titles: tuple[str, ...] = (*World(config).sprites, *shapes)
        sides = [3, width, 2 * width, 4 * width, 4 * width]
        self.body = nn.Sequential(*(_stage(a, b) for a, b in itertools.pairwise(sides)))
        self.head = nn.Linear(2 * sides[-1], len(self.titles) + 1)
        nn.init.constant_(self.head.bias, -math.log(len(self.titles)))  # about one thing in a picture

    def forward(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1]. Presence is read where it is strongest, the background from the mean too."""
        features = self.body(x)
        return self.head(torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1))

    @torch.inference_mode()
    def score(self, pictures: Sequence[np.ndarray], records: Sequence[Record]) -> dict[str, list[float]]:
        """`presence`, the mean over the things that a record's scene states, and `finish` of each picture.

        NaN where nothing is asked: no things are stated, or no background is wanted.
        """
        if not pictures:
            return {"presence": [], "finish": []}
        scores = self(torch.cat([tensor(p, self.side) for p in pictures])).sigmoid()
        presence, finish = [], []
        for row, record in zip(scores, records, strict=True):
            scene = scene_of(record.meta)
            if scene is None:
                raise ValueError(f"{record.name} has no scene; the judge of the world knows its own pictures only")
            asked = [self.titles.index(entry.title) for entry in scene.objects]
            presence.append(float(row[asked].mean()) if asked else math.nan)
            finish.append(math.nan if scene.background.kind == "transparent" else float(row[-1]))
        return {"presence": presence, "finish": finish}


def train_judge(config: WorldJudge, folder: Path | None = None, seed: int = 7) -> PresenceJudge:
    """Learn a judge of a world; taken from `folder`, or written to it, if one is given."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = PresenceJudge(config.world, config.width, config.side)
        if folder is not None and folder.exists():
            load_weights(judge, folder)
            return judge.eval().requires_grad_(False)
        source = World(_varied(config))
        optimizer = torch.optim.AdamW(judge.parameters(), lr=config.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps, pct_start=0.1)
        for step in range(config.steps):
            seeds = range(step * config.batch_size, (step + 1) * config.batch_size)
            scenes = [source.scene(number, "train") for number in seeds]
            x = disturb(torch.cat([tensor(source.render(scene), config.side) for scene in scenes]))
            loss = F.binary_cross_entropy_with_logits(judge(x), targets(judge.titles, scenes), reduction="sum") / len(x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 100 == 99:
                print(f"held-out judge: step {step + 1}/{config.steps}, loss {float(loss.detach()):.3f}", flush=True)
    if folder is not None:
        save_weights(judge, folder, {"titles": list(judge.titles)})
    return judge.eval().requires_grad_(False)


def targets(titles: Sequence[str], scenes: Sequence[Scene]) -> Tensor:
    """(B, titles + 1): 1 for what is there; the last says whether the background is finished."""
    rows = torch.zeros(len(scenes), len(titles) + 1)
    for row, scene in zip(rows, scenes, strict=True):
        row[[titles.index(entry.title) for entry in scene.objects]] = 1
        back = scene.background
        row[-1] = float(back.texture != "plain" or back.light != "even" or back.kind in ("gradient", "horizon"))
    return rows


def tensor(picture: np.ndarray, side: int) -> Tensor:
    """(H, W, 3 or 4) uint8 to (1, 3, side, side) in [-1, 1], transparent parts over gray."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    if x.shape[1] == 4:
        alpha = (x[:, 3:] + 1) / 2
        x = x[:, :3] * alpha + 0.45 * (1 - alpha)
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)


def disturb(x: Tensor) -> Tensor:
    """Half of a batch softened; noise and a little colour on all."""
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mix = torch.rand(len(x), 1, 1, 1) * (torch.rand(len(x), 1, 1, 1) < 0.5)
    x = x * (1 - mix) + soft * mix
    x = x * (1 + 0.1 * torch.randn(len(x), 3, 1, 1)) + 0.05 * torch.randn(len(x), 3, 1, 1)
    return x + 0.08 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


def _varied(config: WorldJudge) -> WorldConfig:
    return replace(config.world, textures=config.textures, lights=config.lights, backgrounds=(0.7, 0.15, 0.15))
