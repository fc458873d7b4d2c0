"""What the commands do: each takes its parsed arguments, prints, and returns what `--json` shows."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourstroke.commands.needs import estimate
from fourstroke.commands.options import endpoint_of, loading
from fourstroke.commands.serving import serve
from fourstroke.commands.terminal import one_line, quiet, say_warnings

__all__ = [
    "STAGES",
    "convert",
    "degrade",
    "doctor",
    "enhance",
    "estimate",
    "evaluate",
    "generate",
    "one_line",
    "prepare",
    "serve",
    "speedrun",
    "train",
]

STAGES = {
    "features": ("features", "FeaturesRecipe", "train_features"),
    "vae": ("vae", "VaeRecipe", "train_vae"),
    "text": ("text", "TextRecipe", "train_text"),
    "dit": ("dit", "DitRecipe", "train_dit"),
    "distill": ("distill", "DistillRecipe", "train_distill"),
    "enhance-sft": ("enhance_sft", "EnhanceSftRecipe", "train_enhance_sft"),
    "enhance-rl": ("enhance_rl", "EnhanceRlRecipe", "train_enhance_rl"),
}
"""By stage: its module in `train`, its recipe, and what trains by it."""


def generate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw pictures and write them, with a sheet if one is wanted; `edit` is the same with input images.

    Whatever ends it early, the pictures that are written are named.
    """
    paths: list[Path] = []
    try:
        return _generate(arguments, paths)
    except BaseException:
        for path in paths:
            print(path, file=sys.stderr if arguments.json else sys.stdout)
        raise


def _generate(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, Any]:
    from fourstroke.data.sheet import contact_sheet
    from fourstroke.files import save_image
    from fourstroke.lora import LoraSource, find_lora
    from fourstroke.pictures import write_pictures
    from fourstroke.pipeline import Clock, Pipeline

    quiet()
    _refuse_empty(arguments.prompt)
    clock = Clock()
    loras = [LoraSource.parse(words) for words in arguments.lora]
    files = [find_lora(lora.file) for lora in loras]  # before the model is loaded
    say_warnings()
    pipe = Pipeline.from_pretrained(arguments.model, device=arguments.device, **loading(arguments))
    for lora, file in zip(loras, files, strict=True):
        pipe.load_lora(file, lora.strength, lora.called)
    clock.lap("load")
    wanted = getattr(arguments, "enhance", False)
    enhance = pipe.enhancer is not None if wanted is None else wanted
    if enhance and pipe.enhancer is None:
        raise ValueError(f"{pipe.info.name} has no prompt_enhancer folder; leave --enhance out")
    images = [_open(path) for path in getattr(arguments, "image", [])]
    settings = {
        "num_inference_steps": pipe.info.own_steps if arguments.steps is None else arguments.steps,
        "guidance_scale": pipe.info.guidance_scale if arguments.guidance is None else arguments.guidance,
        "negative_prompt": arguments.negative,
        "background": "transparent" if arguments.transparent else "opaque",
    }
    if arguments.step_cache:
        settings["step_cache"] = arguments.step_cache
    if pipe.loras:
        settings["lora"] = [{"name": name, "strength": strength} for name, strength in pipe.loras.items()]
    outputs = []
    for index, prompt in enumerate(arguments.prompt):
        output = pipe(
            prompt,
            images=images or None,
            width=arguments.width,
            height=arguments.height,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance,
            step_cache=arguments.step_cache,
            negative_prompt=arguments.negative,
            num_images=arguments.num_images,
            seed=arguments.seed,
            enhance=enhance,
            transparent=arguments.transparent,
            on_step=_steps(f"{index + 1}/{len(arguments.prompt)}"),
        )
        outputs.append(output)
        for path in write_pictures(output, arguments.out, pipe.info.name, settings):  # at once: the next one may fail
            paths.append(path)
    pictures = [image for output in outputs for image in output.images]
    if arguments.sheet:
        drawn = zip(arguments.prompt, outputs, strict=True)
        words = [(asked, prompt) for asked, output in drawn for prompt in output.prompts]
        notes = ["" if prompt == asked else prompt for asked, prompt in words]
        columns = arguments.num_images if arguments.num_images > 1 else min(4, len(pictures))
        upscale = max(1, 1024 // (columns * pictures[0].width))
        asked = [asked for asked, _ in words]
        sheet = contact_sheet(pictures, asked, columns=columns, upscale=upscale, notes=notes)
        save_image(sheet, arguments.sheet)
    timings = {"load": clock.laps["load"]}
    for output in outputs:
        for stage, seconds in output.timings.items():
            timings[stage] = timings.get(stage, 0.0) + seconds
    spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timings.items())
    if not arguments.json:
        for rewrite in (e for output in outputs for e in output.enhanced if e.warning is None):
            print(f"{rewrite.request} -> {rewrite.prompt}")
        for path in paths:
            print(path)
        if arguments.sheet:
            print(f"contact sheet: {arguments.sheet}")
        print(f"{len(pictures)} pictures with {pipe.info.name}: {spent}")
    seeds = [seed for output in outputs for seed in output.seeds]
    return {"model": pipe.info.name, "pictures": [str(p) for p in paths], "seeds": seeds, "timings": timings}


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a stage by a recipe."""
    from fourstroke.parallel.mesh import require_one_process
    from fourstroke.recipe import load_recipe
    from fourstroke.train.session import check_folder

    quiet()
    name, recipe, function = STAGES[arguments.stage]
    stage = importlib.import_module(f"fourstroke.train.{name}")
    loaded = load_recipe(getattr(stage, recipe), arguments.recipe, list(arguments.overrides))
    check_folder(loaded.run.out, arguments.resume)  # before data and models are made
    if arguments.stage.startswith("enhance"):
        require_one_process(f"train {arguments.stage}")
    _warn_of_needs(arguments.stage, loaded)
    folder = getattr(stage, function)(loaded, arguments.resume)
    print(f"trained model: {folder}", file=sys.stderr)
    return {"model": str(folder)}


def _warn_of_needs(stage: str, recipe: Any) -> None:
    """Say, before anything is loaded, in what this machine falls short of a recipe."""
    from fourstroke.estimate import STAGES as ESTIMATED
    from fourstroke.estimate import needs, warnings

    if stage in ESTIMATED and int(os.environ.get("RANK", "0")) == 0:
        for warning in warnings(needs(stage, recipe, ranks=int(os.environ.get("WORLD_SIZE", "1")))):
            print(f"fourstroke: {warning}", file=sys.stderr)


def enhance(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rewrite prompts."""
    from fourstroke.enhance.enhancer import PromptEnhancer
    from fourstroke.folder import ENHANCER, find_model, lineage, part

    quiet()
    _refuse_empty(arguments.prompt)
    say_warnings()
    if arguments.endpoint:
        enhancer = PromptEnhancer.from_endpoint(endpoint_of(arguments))
    else:
        folder = part(lineage(find_model(arguments.model)), ENHANCER)
        if not folder.exists():
            raise ValueError(f"{folder.parent} has no {ENHANCER} folder; name another --model, or an --endpoint")
        enhancer = PromptEnhancer.from_pretrained(folder, device=arguments.device)
    rewrites = []
    for prompt in arguments.prompt:
        rewrite = enhancer(prompt, seed=arguments.seed)
        rewrites.append(dataclasses.asdict(rewrite))
        if not arguments.json:
            print(rewrite.prompt)
    return {"rewrites": rewrites}


def degrade(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take captions apart."""
    from fourstroke.enhance.bulk import degrade_file
    from fourstroke.recipe import build
    from fourstroke.registry import find

    out = arguments.out or arguments.captions.with_name(f"{arguments.captions.stem}.triplets.jsonl")
    name = arguments.rules or ("chat" if arguments.endpoint else "world")
    options = {"endpoint": dataclasses.asdict(endpoint_of(arguments))} if arguments.endpoint else {}
    degrader = build(find("caption_rules", name), options, f"the rules {name!r}").open()
    workers = arguments.workers if arguments.endpoint else 1
    tally = degrade_file(arguments.captions, out, degrader, seed=arguments.seed, workers=workers)
    if tally.rejected:
        print(f"{tally.rejected} rejects, with reasons: {out}.rejects.jsonl", file=sys.stderr)
    if not arguments.json:
        print(f"{out}: {tally.done} triplets, {tally.rejected} rejects, {tally.skipped} done before")
    return {"triplets": str(out), **dataclasses.asdict(tally)}


def prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Look at a recipe's data and encode it into its cache."""
    from fourstroke.data.encoding import PrepareRecipe
    from fourstroke.data.prepare import prepare
    from fourstroke.recipe import load_recipe

    quiet()
    recipe = load_recipe(PrepareRecipe, arguments.recipe, list(arguments.overrides), others=True)
    answer = prepare(recipe, arguments.split or ("train", "heldout"), arguments.ray, arguments.actors)
    if not arguments.json:
        print(recipe.cache)
    return answer


def _refuse_empty(prompts: list[str]) -> None:
    from fourstroke.enhance.protocol import clean

    if not all(map(clean, prompts)):
        raise ValueError("a prompt is empty; say what to draw")


def speedrun(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a whole family."""
    from fourstroke.speedrun import speedrun

    quiet()
    a = arguments
    return {"model": str(speedrun(a.family, a.recipes, a.runs, a.n, a.hours, a.processes))}


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a model."""
    from fourstroke.evaluate.evaluations import from_options

    evaluation = from_options(arguments)
    result = evaluation.run(arguments.model, arguments.device)
    if not arguments.json:
        print(evaluation.report(result))
    return result


def convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a part of a model as one file, or files as a model."""
    from fourstroke.convert import convert

    written = str(convert(arguments.paths, arguments.base, arguments.part, arguments.fp8))
    if not arguments.json:
        print(written)
    return {"written": written}


def doctor(arguments: argparse.Namespace) -> dict[str, Any]:
    """Say what this installation can do."""
    from fourstroke.doctor import examine

    facts = examine()
    if not arguments.json:
        for fact in facts:
            print(f"{'ok  ' if fact.good else 'miss'}  {fact.name:<13}  {fact.value}")
            if fact.mend:
                print(f"{'':<21}{fact.mend}")
    return {fact.name: {"value": fact.value, "good": fact.good, "mend": fact.mend} for fact in facts}


def _open(path: str | Path) -> Any:
    from fourstroke.image_io import ImageError, open_image

    try:
        return open_image(path)
    except ImageError as error:
        raise ValueError(f"cannot read the input image {path}: {error}") from None


def _steps(what: str) -> Callable[[int, int, Any], None] | None:
    """A bar over the steps of a picture, on a terminal."""
    from fourstroke.progress import Progress, live

    if not live():
        return None
    bar: list[Progress] = []

    def on_step(step: int, steps: int, _: Any) -> None:
        if not bar:
            bar.append(Progress(what, steps, "steps"))
        bar[0].to(step)

    return on_step
