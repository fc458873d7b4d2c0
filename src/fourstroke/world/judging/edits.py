"""Edits: whether what was asked is there, and how little changed beside it.

Both are judged from the pixels: `changed` by the judge of scenes (`Judge`), `outside_psnr` against the first picture
before, where the edit allows no change (`edits.allowed`). Each alone is easily won: by drawing anew, or by copying.
Nor do the two means together say enough: where only bare ground has to stay it does so at 50 dB, which makes up for
things that are ruined elsewhere. `right` is the share of edits that are made and keep the rest, in one picture.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fourstroke import progress
from fourstroke.data.sample import DatasetConfig
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import Device
from fourstroke.evaluate.data import find_data
from fourstroke.evaluate.models import copies
from fourstroke.evaluate.reading import can_read, compare, read_line
from fourstroke.evaluate.statistics import mean, share
from fourstroke.files import save_image
from fourstroke.folder import find_model
from fourstroke.pipeline import Pipeline
from fourstroke.progress import OnPicture
from fourstroke.seeds import check_seed
from fourstroke.world.captions import Wordings
from fourstroke.world.edits import KINDS, Edit, Edits, allowed
from fourstroke.world.find import edits_of
from fourstroke.world.graph import Object, Relation, Scene, Sign
from fourstroke.world.judging.composition import plain
from fourstroke.world.judging.judge import Detection, Judge, holds, judge_background, match, opaque
from fourstroke.world.judging.kinds import Captions

SHEET_EDITS = 16
NEAR = 0.15
"""How far from its place a thing may be seen, in fractions of the picture; the nearest two places are .25 apart."""
BARE = 24.0
"""Mean difference in levels up to which a place shows what is behind what was removed."""
BEST_PSNR = 60.0
"""In dB; that of equal pictures."""
KEPT_PSNR = 19.0
"""In dB, from which the rest is kept: the autoencoder of micro alone reaches it in every one of 400 edits, and a
picture in which every other thing was replaced in 1 of 20."""


@dataclass(frozen=True, kw_only=True)
class EditPrompt:
    """A held-out edit, the pictures before and after, and the instruction; `seed` is also that of the noise."""

    seed: int
    edit: Edit
    instruction: str
    before: tuple[np.ndarray, ...]
    """Input pictures, each (H, W, 4) uint8."""
    after: np.ndarray
    """What is asked, (H, W, 4) uint8."""


@dataclass(frozen=True, kw_only=True)
class EditVerdict:
    """What of an edit is right in a picture."""

    changed: bool | None
    """Whether what is asked is there; None for words that nothing can read, RapidOCR not being installed."""
    outside_psnr: float
    """In dB, over the pixels that may not change; 60 at most."""

    @property
    def right(self) -> bool | None:
        """Changed, and the rest kept; None where `changed` is."""
        return self.changed and self.outside_psnr >= KEPT_PSNR


def held_out_edits(
    edits: Edits, n: int, captions: Captions = "mixed", first: int = 0, wordings: Wordings = "trained"
) -> list[EditPrompt]:
    """The edits of the first n held-out seeds from `first` on; `mixed` words even seeds shortly and odd ones richly.

    `wordings="heldout"` asks for what changes in sentences that no training instruction has.
    Seeds for whose kind the world has no scene are passed over; raises ValueError if most of them are.
    """
    first = check_seed(first, "first")
    prompts: list[EditPrompt] = []
    for seed in itertools.count(first):
        if len(prompts) == n:
            break
        try:
            edit = edits.edit(seed, "heldout")
        except ValueError:
            if seed - first - len(prompts) > n:
                raise
            continue
        before, after = edits.render(edit)
        asked = edits.instruction(edit, _rich(captions, seed), seed, wordings)
        prompts.append(EditPrompt(seed=seed, edit=edit, instruction=asked, before=tuple(before), after=after))
    return prompts


def reword(
    edits: Edits, prompts: Sequence[EditPrompt], wordings: Wordings, captions: Captions = "mixed"
) -> list[EditPrompt]:
    """The same edits in other sentences."""
    return [
        replace(p, instruction=edits.instruction(p.edit, _rich(captions, p.seed), p.seed, wordings)) for p in prompts
    ]


def _rich(captions: Captions, seed: int) -> bool:
    return captions == "rich" or (captions == "mixed" and seed % 2 == 1)


def draw_edits(
    pipe: Pipeline,
    prompts: Sequence[EditPrompt],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    on_picture: OnPicture | None = None,
) -> list[np.ndarray]:
    """A picture (H, W, 3, or 4 if transparent) uint8 for each edit, from its own noise."""
    pictures = []
    for prompt in prompts:
        scene = prompt.edit.after
        out = pipe(
            prompt.instruction,
            images=[Image.fromarray(image) for image in prompt.before],
            width=scene.width,
            height=scene.height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            transparent=scene.background.kind == "transparent",
            seed=prompt.seed,
        )
        pictures.append(np.asarray(out.images[0]))
        if on_picture is not None:
            on_picture(len(pictures), len(prompts))
    return pictures


def judge_edit(judge: Judge, prompt: EditPrompt, picture: np.ndarray) -> EditVerdict:
    """Judge a picture, (H, W, 3 or 4) uint8 of the size of those before."""
    return EditVerdict(changed=_changed(judge, prompt, picture), outside_psnr=outside_psnr(prompt, picture))


def outside_psnr(prompt: EditPrompt, picture: np.ndarray) -> float:
    """In dB, against the first picture before, over the pixels that may not change; 60 at most."""
    kept = allowed(prompt.edit) == 0
    difference = opaque(picture).astype(float)[kept] - opaque(prompt.before[0]).astype(float)[kept]
    error = max(float((difference**2).mean()), 255**2 / 10 ** (BEST_PSNR / 10))
    return 10 * float(np.log10(255**2 / error))


def autoencoder_psnrs(pipe: Pipeline, prompts: Sequence[EditPrompt], batch: int = 8) -> list[float]:
    """The `outside_psnr` of what is asked through the pipeline's autoencoder: more is not to be had of its edits."""
    found = []
    with pipe.autoencoder_there():
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            pictures = copies(pipe.autoencoder, [prompt.after for prompt in part])
            for prompt, picture in zip(part, pictures, strict=True):
                channels = 4 if prompt.edit.after.background.kind == "transparent" else 3
                found.append(outside_psnr(prompt, picture[..., :channels]))
    return found


def _changed(judge: Judge, prompt: EditPrompt, picture: np.ndarray) -> bool | None:
    edit, kind = prompt.edit, prompt.edit.kind
    if kind == "words" and edit.after.sign is not None:
        sign = edit.after.sign
        if not can_read(sign.script):
            return None
        return compare(read_line(opaque(picture), sign.script), sign.word).exact
    scene = edit.before[0] if kind == "remove" else edit.after
    detections, _ = judge.find(picture, scene)
    if kind == "background":
        return all(judge_background(picture, scene, detections))
    if kind == "remove":  # templates of small things fit letters, where nothing stood
        detections = [seen for seen in detections if scene.sign is None or not _on_board(scene.sign, seen)]
    matches = match(scene.objects, detections)
    if kind == "remove":
        gone = not any(_is(scene.objects[index], matches[index]) for index in edit.old)
        return gone and all(_bare(prompt, picture, scene.objects[index]) for index in edit.old)
    if not all(_is(scene.objects[index], matches[index]) for index in edit.new):
        return False
    if kind in ("add", "combine") and (relation := _relation(scene, edit.new)) is not None:
        return holds(scene, relation, matches)
    there = [(index, seen) for index in edit.new if (seen := matches[index]) is not None]
    if kind == "move" and not all(_moved(edit, index, seen) for index, seen in there):
        return False
    return all(_near(scene.objects[index], matches[index]) for index in edit.new)


def _moved(edit: Edit, index: int, seen: Detection) -> bool:
    """Whether a thing is nearer to its new place than to its old one."""
    places = [edit.before[0].objects[edit.old[edit.new.index(index)]], edit.after.objects[index]]
    old, new = (max(abs(seen.x - place.x), abs(seen.y - place.y)) for place in places)
    return new < old


def _is(entry: Object, seen: Detection | None) -> bool:
    """Whether what was seen has the colour and the style that are asked."""
    return seen is not None and seen.colour == entry.colour and (entry.kind != "sprite" or seen.style == entry.style)


def _near(entry: Object, seen: Detection | None) -> bool:
    return seen is not None and max(abs(seen.x - entry.x), abs(seen.y - entry.y)) < NEAR


def _on_board(sign: Sign, seen: Detection) -> bool:
    """Whether the middle of what was seen lies on the board of a sign."""
    return abs(seen.x - sign.x) < sign.width / 2 and abs(seen.y - sign.y) < sign.height / 2


def _relation(scene: Scene, unit: Sequence[int]) -> Relation | None:
    """The relation by which the instruction says where new things stand, if it does."""
    if scene.layout == "front":
        return None
    return next((r for r in scene.relations if r.subject in unit or r.object in unit), None)


def _bare(prompt: EditPrompt, picture: np.ndarray, entry: Object) -> bool:
    """Whether the middle of a thing's place shows what was behind it."""
    height, width = picture.shape[:2]
    reach = entry.size * min(height, width) / 4
    rows, columns = (
        slice(max(0, round(middle * length - reach)), round(middle * length + reach))
        for middle, length in ((entry.y, height), (entry.x, width))
    )
    asked = opaque(prompt.after)[rows, columns].astype(float)
    return bool(np.abs(opaque(picture)[rows, columns] - asked).mean() < BARE)


def judge_edits(
    judge: Judge, prompts: Sequence[EditPrompt], pictures: Sequence[np.ndarray], on_picture: OnPicture | None = None
) -> list[EditVerdict]:
    """The verdict on each picture."""
    verdicts = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        verdicts.append(judge_edit(judge, prompt, picture))
        if on_picture is not None:
            on_picture(len(verdicts), len(prompts))
    return verdicts


def summarise_edits(
    prompts: Sequence[EditPrompt], verdicts: Sequence[EditVerdict], ceilings: Sequence[float] = ()
) -> dict[str, dict[str, Any]]:
    """By kind that occurs, and for `all`: the number of `edits`; `changed`, `right`, `outside_psnr` with intervals.

    `autoencoder_psnr` too, where the `ceilings` of the `outside_psnr` are given, one an edit.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in ("all", *KINDS):
        rows = [v for p, v in zip(prompts, verdicts, strict=True) if name in ("all", p.edit.kind)]
        most = [c for p, c in zip(prompts, ceilings, strict=True) if name in ("all", p.edit.kind)] if ceilings else []
        if rows:
            read = [int(v.changed is not None) for v in rows]
            found[name] = {
                "edits": len(rows),
                "changed": plain(share([bool(v.changed) for v in rows], read)),
                "right": plain(share([bool(v.right) for v in rows], read)),
                "outside_psnr": plain(mean([v.outside_psnr for v in rows])),
            } | ({"autoencoder_psnr": plain(mean(most))} if most else {})
    return found


def evaluate_edits(
    model: Pipeline | str | Path | None = None,
    *,
    data: DatasetConfig | Path | None = None,
    n: int = 100,
    captions: Captions = "mixed",
    first: int = 0,
    wordings: Wordings = "trained",
    steps: int | None = None,
    guidance: float | None = None,
    device: Device | None = None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Draw n held-out edits with a model, judge the pictures, and write a sheet of the first ones.

    `model` is a pipeline, a folder, a hub id, or None for the best bundled one; `data` a dataset of kind `world_edits`
    (or a mixture with one) or its file, or None for the checkpoint's own; `captions`, `first` and `wordings` are those
    of `held_out_edits`; `steps` and `guidance` of None are the
    checkpoint's.
    """
    folder = None if isinstance(model, Pipeline) else find_model(model)
    pipe = model if isinstance(model, Pipeline) else Pipeline.from_pretrained(folder, device=device)
    config = edits_of(find_data(data, folder, pipe.info.name) if data is None or isinstance(data, Path) else data)
    prompts = held_out_edits(Edits(config), n, captions, first, wordings)
    start = time.perf_counter()
    pictures = draw_edits(pipe, prompts, steps=steps, guidance=guidance, on_picture=progress.pictures("drawing"))
    seconds = (time.perf_counter() - start) / n
    verdicts = judge_edits(Judge(config.world), prompts, pictures, progress.pictures("judging"))
    if sheet is not None:
        save_image(edit_sheet(prompts, pictures, verdicts), sheet)
    summary = summarise_edits(prompts, verdicts, autoencoder_psnrs(pipe, prompts))
    return {
        "model": pipe.info.name,
        "n": n,
        "captions": captions,
        "first": first,
        "wordings": wordings,
        "steps": steps or pipe.info.own_steps,
        "guidance": pipe.info.guidance_scale if guidance is None else guidance,
        "seconds_per_picture": seconds,
        "changed": summary["all"]["changed"],
        "right": summary["all"]["right"],
        "outside_psnr": summary["all"]["outside_psnr"],
        "autoencoder_psnr": summary["all"]["autoencoder_psnr"],
        "edits": summary,
    }


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_edits` as lines of text; `at most` is what the autoencoder leaves of what is asked."""
    lines = [
        f"{result['model']}: {result['n']} held-out edits{', held-out wordings' * (result['wordings'] == 'heldout')}, "
        f"{result['steps']} steps, guidance {result['guidance']:g}, "
        f"{result['seconds_per_picture']:.2f} s a picture",
        f"{'':<12} {'edits':>5} {'changed':>9}   {'95 %':^13}   {'right':>7}   {'outside':>8}   {'95 %':^11}   "
        f"{'at most':>8}",
    ]
    for name, row in result["edits"].items():
        changed, psnr = row["changed"], row["outside_psnr"]
        told = f"{'not read':>9}   {'':<13}   {'':>7}"
        if changed is not None:
            spread = f"{100 * changed['low']:>5.1f} – {100 * changed['high']:>5.1f}"
            told = f"{100 * changed['value']:>7.1f} %   {spread}   {100 * row['right']['value']:>5.1f} %"
        spread = f"{psnr['low']:.1f} – {psnr['high']:.1f}"
        most = f"{row['autoencoder_psnr']['value']:.1f} dB"
        lines.append(f"{name:<12} {row['edits']:>5} {told}   {psnr['value']:>5.1f} dB   {spread}   {most:>8}")
    return "\n".join(lines)


def edit_sheet(
    prompts: Sequence[EditPrompt], pictures: Sequence[np.ndarray], verdicts: Sequence[EditVerdict]
) -> Image.Image:
    """The first 16 edits, one a row: the pictures before, the one asked, the one drawn with its verdict."""
    shown = list(zip(prompts, pictures, verdicts, strict=True))[:SHEET_EDITS]
    inputs = max(len(prompt.before) for prompt, _, _ in shown)
    images, texts = [], []
    for prompt, picture, verdict in shown:
        none = [np.full_like(prompt.after, 255)] * (inputs - len(prompt.before))
        mark = {True: "+ changed", False: "- changed", None: "not read"}[verdict.changed]
        images += [*prompt.before, *none, prompt.after, picture]
        texts += [prompt.instruction, *[""] * (inputs - 1), "asked", f"{mark}, outside {verdict.outside_psnr:.1f} dB"]
    return contact_sheet(images, texts, columns=inputs + 2, upscale=max(1, 256 // max(images[0].shape[:2])))
