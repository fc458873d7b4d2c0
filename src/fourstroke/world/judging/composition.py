"""Composition: whether pictures of held-out prompts show the asked objects, colours, relations and words.

Held-out scenes show combinations that training never shows (`world.graph.split_of`). Pictures may come from a
pipeline or from anywhere else, for example from the world itself, which tells how far the judge can be trusted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from fourstroke import progress
from fourstroke.data.sample import DatasetConfig
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import Device
from fourstroke.evaluate.data import find_data
from fourstroke.evaluate.statistics import Share, share
from fourstroke.files import save_image
from fourstroke.flow.sampler import seeded_noise
from fourstroke.folder import find_model
from fourstroke.progress import OnPicture
from fourstroke.seeds import check_seed
from fourstroke.world import World
from fourstroke.world.captions import Language, Wordings
from fourstroke.world.captions.saying import read_words
from fourstroke.world.find import world_of
from fourstroke.world.graph import Background, Scene, Split
from fourstroke.world.judging.judge import Judge, Verdict
from fourstroke.world.judging.kinds import CHOOSING as CHOOSING
from fourstroke.world.judging.kinds import Captions

if TYPE_CHECKING:
    from fourstroke.pipeline import Pipeline

SHEET_PICTURES = 32
UNSEEN = 1 << 30
"""Seeds of the training split that no latent cache reaches."""
ROWS = ("objects", "colours", "relations", "style", "counts", "sizes", "backgrounds", "words_exact", "words_ned")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A scene with the caption that asks for it; `seed` is also that of the noise."""

    seed: int
    scene: Scene
    caption: str
    rich: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.scene.width, self.scene.height

    @property
    def transparent(self) -> bool:
        """Whether a sticker is asked for."""
        return self.scene.background.kind == "transparent"


class Drawable(Protocol):
    """What `draw` needs to know of a prompt."""

    @property
    def seed(self) -> int:
        """Of its noise."""

    @property
    def caption(self) -> str:
        """What is asked."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""

    @property
    def transparent(self) -> bool:
        """Whether the picture has an alpha channel."""


def held_out_prompts(
    world: World,
    n: int,
    captions: Captions = "mixed",
    split: Split = "heldout",
    first: int = 0,
    wordings: Wordings = "trained",
    language: Language | None = None,
) -> list[Prompt]:
    """The prompts of n held-out seeds from `first` on; `mixed` words even seeds shortly and odd ones richly.

    Those in a `language` are short; `wordings="heldout"` has sentences that no training caption has.

    `split="train"` gives combinations that training may show, in scenes that it has not: less there too is not
    forgetting, and more there than on held-out ones is learning by heart.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    first = check_seed(first, "first")
    first += 0 if split == "heldout" else UNSEEN
    prompts = []
    for seed in range(first, first + n):
        scene = world.scene(seed, split)
        rich = language is None and (captions == "rich" or (captions == "mixed" and seed % 2 == 1))
        caption = world.caption(scene, rich, seed, wordings, language)
        prompts.append(Prompt(seed=seed, scene=scene, caption=caption, rich=rich))
    return prompts


def draw(
    pipe: Pipeline,
    prompts: Sequence[Drawable],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int = 8,
    on_picture: OnPicture | None = None,
) -> list[np.ndarray]:
    """A picture (H, W, 3, or 4 if transparent) uint8 for each prompt, from its own noise, whatever the batch."""
    pictures: dict[int, np.ndarray] = {}
    groups: dict[tuple[int, int, bool], list[Drawable]] = {}
    for prompt in prompts:
        groups.setdefault((*prompt.size, prompt.transparent), []).append(prompt)
    for (width, height, transparent), group in groups.items():
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            tokens = math.prod(pipe.info.grid(width, height))
            out = pipe(
                [prompt.caption for prompt in part],
                width=width,
                height=height,
                num_inference_steps=steps,
                guidance_scale=guidance,
                latents=seeded_noise([p.seed for p in part], tokens, pipe.transformer.config.in_channels),
                transparent=transparent,
                seed=part[0].seed,
            )
            pictures |= {p.seed: np.asarray(image) for p, image in zip(part, out.images, strict=True)}
            if on_picture is not None:
                on_picture(len(pictures), len(prompts))
    return [pictures[prompt.seed] for prompt in prompts]


def judge_pictures(
    judge: Judge, prompts: Sequence[Prompt], pictures: Sequence[np.ndarray], on_picture: OnPicture | None = None
) -> list[Verdict]:
    """The verdict on each picture."""
    if len(prompts) != len(pictures):
        raise ValueError(f"{len(prompts)} prompts, but {len(pictures)} pictures")
    verdicts = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        verdicts.append(judge.verdict(picture, prompt.scene))
        if on_picture is not None:
            on_picture(len(verdicts), len(prompts))
    return verdicts


def summarise(prompts: Sequence[Prompt], verdicts: Sequence[Verdict]) -> dict[str, Share | None]:
    """Shares by what was asked; backgrounds and styles count only where the caption states them."""
    found = [facts(prompt, verdict) for prompt, verdict in zip(prompts, verdicts, strict=True)]
    return {name: share([sum(f[name]) for f in found], [len(f[name]) for f in found]) for name in ROWS}


def facts(prompt: Prompt, verdict: Verdict) -> dict[str, tuple[float, ...]]:
    """By row of the table, what is right (1) and wrong (0) of what the caption states; of words the NED too."""
    word = verdict.word
    return {
        "objects": verdict.objects,
        "colours": verdict.colours,
        "relations": verdict.relations,
        "style": verdict.styles if states_style(prompt) else (),
        "counts": verdict.counts,
        "sizes": verdict.sizes,
        "backgrounds": verdict.backgrounds if states_background(prompt) else (),
        "words_exact": (word.exact,) if word else (),
        "words_ned": (word.ned,) if word else (),
    }


def states_background(prompt: Prompt) -> bool:
    """Whether the caption says what the background is, in any language; rich ones and those of stickers always do."""
    background = prompt.scene.background
    return prompt.rich or not background.colours or any(m in prompt.caption for m in _background_marks(background))


def _background_marks(background: Background) -> tuple[str, ...]:
    """Words by which captions say a background's first colour: English, Spanish, Russian and Chinese."""
    first, second = str(background.colour), background.second
    words = read_words()["backgrounds"][first]
    russian, chinese = words["ru"], words["zh"].removesuffix("背景")
    english = f"on {first}", f"{first} background", f"{first} wall", f"{first} to {second}"
    spanish = words["es"], words["es"].replace("fondo", "fondo degradado de")
    above = f"сверху {russian['nominative'].removesuffix(' фон')}"
    han = words["zh"], f"背景是{chinese}", f"背景上面是{chinese}", f"从{chinese}到"
    return (*english, *spanish, russian["nominative"], russian["prepositional"], above, *han)


def states_style(prompt: Prompt) -> bool:
    """Whether the caption says what style things are drawn in, in any language; rich ones always do."""
    marks = (mark for thing in prompt.scene.objects if thing.kind == "sprite" for mark in _style_marks(thing.style))
    return any(mark in prompt.caption for mark in marks)


def _style_marks(style: str) -> tuple[str, ...]:
    """Words by which captions say a style: English, Spanish, Russian and Chinese."""
    words = read_words()["styles"][style]
    english = {"flat": ("flat",), "3d": ("glossy 3D",), "clip-art": ("clip-art",), "rendered": ("render",)}[style]
    return (*english, *(words[language]["style"] for language in ("es", "ru", "zh")))


def evaluate_composition(
    model: Pipeline | str | Path | None = None,
    *,
    data: DatasetConfig | Path | None = None,
    n: int = 200,
    captions: Captions = "mixed",
    split: Split = "heldout",
    first: int = 0,
    wordings: Wordings = "trained",
    language: Language | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int = 8,
    device: Device | None = None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Draw n prompts of a world with a model, judge the pictures, and write a sheet of the first ones.

    Each score is a dictionary of `value`, `low`, `high` (shares with their 95 % interval) and `count`, or None where
    nothing of the kind was asked. `model` is a pipeline, a folder, a hub id, or None for the best bundled one; `data`
    a dataset of kind `world` or its file, or None for the checkpoint's own; `split`, `first`, `wordings` and
    `language` are those of `held_out_prompts`.
    `steps` and `guidance` of None are the checkpoint's.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    from fourstroke.pipeline import Pipeline

    folder = None if isinstance(model, Pipeline) else find_model(model)
    pipe = model if isinstance(model, Pipeline) else Pipeline.from_pretrained(folder, device=device)
    source = find_data(data, folder, pipe.info.name) if data is None or isinstance(data, Path) else data
    config = world_of(source)
    judge = Judge(config)
    prompts = held_out_prompts(World(config), n, captions, split, first, wordings, language)
    start = time.perf_counter()
    pictures = draw(pipe, prompts, steps=steps, guidance=guidance, batch=batch, on_picture=progress.pictures("drawing"))
    seconds = (time.perf_counter() - start) / n
    verdicts = judge_pictures(judge, prompts, pictures, progress.pictures("judging"))
    if sheet is not None:
        save_image(verdict_sheet(prompts, pictures, verdicts), sheet)
    shares = summarise(prompts, verdicts) | {"all_right": share([v.right for v in verdicts], [1] * n)}
    return {
        "model": pipe.info.name,
        "n": n,
        "captions": captions if language is None else "short",
        "split": split,
        "first": first,
        "wordings": wordings,
        "language": language,
        "steps": steps or pipe.info.own_steps,
        "guidance": pipe.info.guidance_scale if guidance is None else guidance,
        "seconds_per_picture": seconds,
    } | {name: plain(value) for name, value in shares.items()}


def plain(value: Share | None) -> dict[str, Any] | None:
    """A share as plain data."""
    return None if value is None else asdict(value)


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_composition` as lines of text; percentages with 95 % intervals over pictures."""
    split = "held-out" if result["split"] == "heldout" else "training"
    kinds = {"mixed": "half short, half rich", "short": "short", "rich": "rich"}[result["captions"]]
    told = [f"{kinds} captions"]
    told += ["held-out wordings"] * (result.get("wordings") == "heldout")
    told += [f"in {result['language']}"] if result.get("language") else []
    lines = [
        f"{result['model']}: {result['n']} {split} prompts ({', '.join(told)}), {result['steps']} steps, "
        f"guidance {result['guidance']:g}, {result['seconds_per_picture']:.2f} s a picture",
        f"{'':<12} {'right':>7}   {'95 %':^13}   {'of':>5}",
    ]
    for name in (*ROWS, "all_right"):
        if (row := result[name]) is not None:
            low, high = 100 * row["low"], 100 * row["high"]
            label = name.replace("_", " ")
            lines.append(f"{label:<12} {100 * row['value']:>5.1f} %   {low:>5.1f} – {high:>5.1f}   {row['count']:>5}")
    return "\n".join(lines)


def verdict_sheet(
    prompts: Sequence[Prompt], pictures: Sequence[np.ndarray], verdicts: Sequence[Verdict]
) -> Image.Image:
    """The first 32 pictures above their captions, with what is right (+) and wrong (-) in each."""
    texts = []
    for prompt, verdict in list(zip(prompts, verdicts, strict=True))[:SHEET_PICTURES]:
        marks = {
            n: "".join("+" if ok else "-" for ok in getattr(verdict, n))
            for n in ("objects", "colours", "relations", "styles", "counts", "sizes")
        }
        if verdict.word is not None:
            marks["word"] = f"{'+' if verdict.word.exact else '-'} {verdict.word.text}"
        texts.append(f"{prompt.caption}\n" + ", ".join(f"{name} {mark}" for name, mark in marks.items() if mark))
    shown = list(pictures[:SHEET_PICTURES])
    upscale = max(1, 256 // max(shown[0].shape[:2]))
    return contact_sheet(shown, texts, columns=min(4, len(shown)), upscale=upscale)
