"""The whole chain of a family, from nothing: autoencoder, text encoder, transformer, student, enhancer, scores, card.

Stages that are done are skipped and one that was interrupted is resumed, so the command may be given again at any time.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from fourstroke.checkpoint import pick, read_json, read_rows
from fourstroke.data.encoding import PrepareRecipe
from fourstroke.data.prepare import prepare
from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.evaluate.data import parts
from fourstroke.evaluate.evaluations import Evaluation
from fourstroke.files import check_replaceable, model_folder, write_json, write_text
from fourstroke.folder import ENHANCER, INDEX
from fourstroke.parallel.mesh import require_one_process
from fourstroke.pipeline import Pipeline
from fourstroke.recipe import git_revision, load_kind, load_recipe, resolved
from fourstroke.registry import Registered
from fourstroke.train.distill import DistillRecipe, train_distill
from fourstroke.train.dit import DitRecipe, train_dit
from fourstroke.train.session import saved_states
from fourstroke.train.text import TextRecipe, train_text
from fourstroke.train.vae import VaeRecipe, train_vae


@dataclass(frozen=True, kw_only=True)
class MeasureRecipe:
    """What a family's checkpoint is measured by."""

    evaluations: tuple[Annotated[Evaluation, Registered("evaluations")], ...]


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its model's folder and its minutes of training."""

    folder: Path
    minutes: float


def speedrun(family: str, recipes: Path = Path("recipes"), runs: Path = Path("runs"), n: int = 200) -> Path:
    """Train every stage of a family, measure the result, and write it with its card to `runs/<family>/model`.

    The result is the few-step student, or the teacher in a family without a distillation recipe. Returns the folder;
    the scores are in its `scores.json`.
    """
    require_one_process("speedrun")
    start = time.time()
    final = runs / family / "model"
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    check_replaceable(final, *INDEX)  # now, not hours later
    vae = _stage(
        runs / family / "vae",
        lambda resume: train_vae(
            load_recipe(VaeRecipe, recipes / family / "vae.yaml", [f"run.out={runs / family / 'vae'}"]), resume
        ),
    )
    stages = {"vae": vae}
    dit_overrides = [f"run.out={runs / family / 'dit'}", f"vae={vae.folder}", f"cache={runs / family / 'cache'}"]
    if (reading := recipes / family / "text.yaml").exists():
        out = runs / family / "text"
        stages["text"] = _stage(
            out, lambda resume: train_text(load_recipe(TextRecipe, reading, [f"run.out={out}"]), resume)
        )
        dit_overrides.append(f"text_from={stages['text'].folder}")

    def dit_stage(resume: bool) -> Path:
        file = recipes / family / "dit.yaml"
        if load_recipe(DitRecipe, file, dit_overrides).cache is not None:
            prepare(load_recipe(PrepareRecipe, file, dit_overrides, others=True), ("train", "heldout"))
        return train_dit(load_recipe(DitRecipe, file, dit_overrides), resume)

    dit = _stage(runs / family / "dit", dit_stage)
    stages["dit"] = dit
    if (recipe := recipes / family / "distill.yaml").exists():
        overrides = [
            f"run.out={runs / family / 'distill'}",
            f"teacher={dit.folder}",
        ]
        stages["distill"] = _stage(
            runs / family / "distill",
            lambda resume: train_distill(load_recipe(DistillRecipe, recipe, overrides), resume),
        )
    generator = list(stages.values())[-1].folder
    enhancer = train_enhancer(recipes / family, runs / family, generator, stages)
    data = load_kind("datasets", recipes / family / "data.yaml")
    about = "\n\n".join(part.about for part in parts(data) if hasattr(part, "about"))
    trained = Pipeline.from_pretrained(generator, dtype=torch.float16, device="cpu")
    with model_folder(final, *INDEX) as partial:
        trained.save_pretrained(partial)  # half the size; what is measured is what was written
        if enhancer is not None:
            enhancer.save_pretrained(partial / ENHANCER, dtype=torch.float16)
        write_json(partial / "data.json", resolved(data)["recipe"])
        scores = measure(partial, recipes / family / "evaluate.yaml", n, runs / family)
        scores["minutes"] = {name: round(stage.minutes, 1) for name, stage in stages.items()}
        write_json(partial / "scores.json", scores)
        write_text(partial / "README.md", card(family, partial, scores, about))
    print(f"{final}: {(time.time() - start) / 60:.0f} minutes in this call")
    return final


def train_enhancer(recipes: Path, runs: Path, generator: Path, stages: dict[str, Finished]) -> PromptEnhancer | None:
    """Train the enhancer's stages that a family has recipes for, and add them to `stages`; None if there are none."""
    if not (recipes / "enhance-sft.yaml").exists():
        return None
    from fourstroke.train.enhance_rl import EnhanceRlRecipe, train_enhance_rl
    from fourstroke.train.enhance_sft import EnhanceSftRecipe, train_enhance_sft

    sft, rl = (runs / name for name in ("enhance-sft", "enhance-rl"))
    last = stages["enhance-sft"] = _stage(
        sft,
        lambda resume: train_enhance_sft(
            load_recipe(EnhanceSftRecipe, recipes / "enhance-sft.yaml", [f"run.out={sft}"]), resume
        ),
    )
    if (recipe := recipes / "enhance-rl.yaml").exists():
        overrides = [f"run.out={rl}", f"enhancer={sft / 'model'}", f"generator={generator}"]
        last = stages["enhance-rl"] = _stage(
            rl, lambda resume: train_enhance_rl(load_recipe(EnhanceRlRecipe, recipe, overrides), resume)
        )
    return PromptEnhancer.from_pretrained(last.folder, device="cpu")


def measure(folder: Path, recipe: Path, n: int, sheets: Path) -> dict[str, Any]:
    """What each evaluation of a recipe finds of a checkpoint, by kind; their sheets go into a folder."""
    scores = {}
    for evaluation in load_recipe(MeasureRecipe, recipe).evaluations:
        options: dict[str, Any] = {"n": n, "sheet": sheets / f"{evaluation.kind}.png"}
        known = {field.name for field in dataclasses.fields(evaluation)}  # type: ignore[arg-type]
        chosen = dataclasses.replace(evaluation, **{k: v for k, v in options.items() if k in known})  # type: ignore[type-var]
        scores[evaluation.kind] = chosen.run(str(folder), None)
    return scores


def card(family: str, folder: Path, scores: dict[str, Any], about: str) -> str:
    """The model card: what it is and of what data (`about`), how it was made, what it scores."""
    index = pick(read_json(folder / "model_index.json"), "fourstroke", dict[str, Any], folder / "model_index.json")
    sizes = {
        part: sum(p.stat().st_size for p in (folder / part).rglob("*.safetensors")) / 2e6
        for part in ("transformer", "vae", "text_encoder", ENHANCER)
    }
    composition, reconstruction = (scores.get(kind, {}) for kind in ("composition", "reconstruction"))
    rows = [
        f"| {name} | {score['value']:.3f} | {score['low']:.3f} to {score['high']:.3f} |"
        for name, score in composition.items()
        if isinstance(score, dict) and "low" in score
    ]
    coded = [
        f"{reconstruction[name]['psnr']:.1f} dB on held-out pictures of {name}"
        + (f" (NED {reconstruction[name]['ned']:.2f})" if reconstruction[name].get("ned") else "")
        for name in reconstruction.get("datasets", ())
    ]
    minutes = scores["minutes"]
    enhanced = "".join(
        f", enhancer ({name}) {minutes[key]:.0f} minutes"
        for key, name in (("enhance-sft", "fine-tuning"), ("enhance-rl", "reinforcement"))
        if key in minutes
    )
    enhancer = f"\n| prompt enhancer | {sizes[ENHANCER]:.1f} |" if sizes[ENHANCER] else ""
    read = f", text encoder by reading {minutes['text']:.0f} minutes" if "text" in minutes else ""
    distilled = f", distillation to few steps {minutes['distill']:.0f} minutes" if "distill" in minutes else ""
    return f"""---
license: apache-2.0
library_name: fourstroke
pipeline_tag: text-to-image
---

# fourstroke {family}

A small model of {index["width"]} x {index["height"]} pixels.

{about}

| part | parameters (M) |
|---|---|
| transformer | {sizes["transformer"]:.1f} |
| autoencoder (f16c64, RGBA) | {sizes["vae"]:.1f} |
| text encoder | {sizes["text_encoder"]:.1f} |{enhancer}

**Recipe.** `make speedrun FAMILY={family}` (`recipes/{family}/*.yaml`, revision `{git_revision()}`): autoencoder
{minutes["vae"]:.0f} minutes{read}, transformer with its text encoder {minutes["dit"]:.0f} minutes{distilled}{enhanced},
on {_hardware()}.

**Scores**, `fourstroke eval composition --n {composition["n"]}`: held-out prompts, {composition["steps"]} steps,
guidance {composition["guidance"]}; 95 % intervals by bootstrap over prompts.

| score | value | interval |
|---|---|---|
{chr(10).join(rows)}

Autoencoder (`fourstroke eval reconstruction`): PSNR {", ".join(coded)},
{reconstruction["photographs"]["mean"]["psnr"]:.1f} dB on five photographs of scikit-image, of a kind that it was never
trained on.

**Licence.** Apache-2.0, weights included.
"""


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def _stage(out: Path, train: Callable[[bool], Path]) -> Finished:
    if not (out / "model").exists():
        train(bool(saved_states(out)))
    log = out / "log.jsonl"
    return Finished(out / "model", max(pick(row, "seconds", float, log) for row in read_rows(log)) / 60)
