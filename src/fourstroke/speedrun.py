"""The whole chain of a family, from nothing: autoencoder, text encoder, transformer, edits, student, enhancer, card.

A family leaves out the stages that it has no recipe for; the autoencoder and the transformer it must have. Stages that
are done are skipped and one that was interrupted is resumed, so the command may be given again at any time.
Given hours, the limits of the stages are scaled to fit into them. What the stages left behind, logs, recipes with their
seeds, and minutes, goes into the model's folder `run/`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
from fourstroke.recipe import git_revision, load_kind, load_recipe, read_tree, resolved
from fourstroke.registry import Registered
from fourstroke.train.distill import DistillRecipe, train_distill
from fourstroke.train.dit import DitRecipe, train_dit
from fourstroke.train.session import saved_states
from fourstroke.train.text import TextRecipe, train_text
from fourstroke.train.vae import VaeRecipe, train_vae

R = TypeVar("R")
STAGES = ("vae", "vae-decoder", "text", "dit", "edits", "distill", "enhance-sft", "enhance-rl")
"""In the order in which they are trained.

`edits` goes on with the transformer, on other data, and `vae-decoder` with the autoencoder, whose latents stay.
"""
SHARED = {"vae": "vae", "vae-decoder": "vae", "dit": "dit", "edits": "dit", "distill": "distill"}
"""Stages that several processes can share, with the trainer's name on the command line."""
SPARE = 0.1
"""Share of the hours that is left for looks, caches and scores."""


@dataclass(frozen=True, kw_only=True)
class MeasureRecipe:
    """What a family's checkpoint is measured by."""

    evaluations: tuple[Annotated[Evaluation, Registered("evaluations")], ...]


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its model's folder and its minutes of training."""

    folder: Path
    minutes: float


def speedrun(
    family: str,
    recipes: Path = Path("recipes"),
    runs: Path = Path("runs"),
    n: int = 200,
    hours: float | None = None,
    processes: int = 1,
) -> Path:
    """Train every stage of a family, measure the result, and write it with its card to `runs/<family>/model`.

    The result is the few-step student, or the teacher in a family without a distillation recipe. Returns the folder;
    the scores are in its `scores.json`. `hours` scale the stages' limits (`limits`); None leaves them. Above one,
    `processes` share the stages that can be (`SHARED`), each with its own batch, as torchrun starts them.
    """
    require_one_process("speedrun")
    start = time.time()
    final = runs / family / "model"
    if n < 1 or processes < 1:
        raise ValueError(f"n is {n}, processes {processes}; both must be at least 1")
    check_replaceable(final, *INDEX)  # now, not hours later
    limited = limits(recipes / family, hours)
    print(plan(family, recipes / family, limited), flush=True)
    chain = Chain(recipes / family, runs / family, limited, processes)
    stages = chain.stages
    vae = chain.train("vae", VaeRecipe, train_vae)
    if chain.has("vae-decoder"):
        vae = chain.train("vae-decoder", VaeRecipe, train_vae, [f"init={vae.folder}"])
    given = [f"vae={vae.folder}", f"cache={runs / family / 'cache'}"]
    if chain.has("text"):
        given.append(f"text_from={chain.train('text', TextRecipe, train_text).folder}")
    dit = chain.train("dit", DitRecipe, train_dit, given, _prepare)
    if chain.has("edits"):
        dit = chain.train("edits", DitRecipe, train_dit, [f"init={dit.folder}"], _prepare)
    if chain.has("distill"):
        chain.train("distill", DistillRecipe, train_distill, [f"teacher={dit.folder}"])
    generator = list(stages.values())[-1].folder
    enhancer = train_enhancer(chain, generator)
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
        keep_runs(partial / "run", runs / family, stages)
        write_text(partial / "README.md", card(family, partial, scores, about))
    print(f"{final}: {(time.time() - start) / 60:.0f} minutes in this call")
    return final


def _prepare(file: Path, overrides: list[str]) -> None:
    """Encode a transformer's pictures once, if its recipe says where to."""
    if load_recipe(DitRecipe, file, overrides).cache is not None:
        prepare(load_recipe(PrepareRecipe, file, overrides, others=True), ("train", "heldout"))


@dataclass(frozen=True)
class Chain:
    """A family's recipes, where its runs go, and the stages that are done."""

    recipes: Path
    runs: Path
    limited: dict[str, list[str]]
    """By stage, overrides that fit it into the hours."""
    processes: int = 1
    stages: dict[str, Finished] = field(default_factory=dict)

    def has(self, stage: str) -> bool:
        """Whether the family has a recipe for it."""
        return (self.recipes / f"{stage}.yaml").exists()

    def train(
        self,
        stage: str,
        kind: type[R],
        trainer: Callable[[R, bool], Path],
        given: Sequence[str] = (),
        before: Callable[[Path, list[str]], None] | None = None,
    ) -> Finished:
        """Train a stage unless it is done; `given` are overrides, `before` is called with them and the recipe."""
        file, out = self.recipes / f"{stage}.yaml", self.runs / stage
        overrides = [f"run.out={out}", *given, *self.limited[stage]]
        if not (out / "model").exists():
            if before is not None:
                before(file, overrides)
            resume = bool(saved_states(out))
            if self.processes > 1 and stage in SHARED:
                load_recipe(kind, file, overrides)  # what is wrong with it is said once, and plainly
                share(SHARED[stage], file, overrides, resume, self.processes)
            else:
                trainer(load_recipe(kind, file, overrides), resume)
        log = out / "log.jsonl"
        minutes = max(pick(row, "seconds", float, log) for row in read_rows(log)) / 60
        self.stages[stage] = Finished(out / "model", minutes)
        return self.stages[stage]


def share(trainer: str, file: Path, overrides: list[str], resume: bool, processes: int) -> None:
    """Train a recipe on several processes of this machine, the threads shared out among them.

    Raises:
        RuntimeError: if they end without having trained; they have said why.
    """
    torchrun = [sys.executable, "-m", "fourstroke.parallel.launch", "--standalone", f"--nproc-per-node={processes}"]
    words = ["-m", "fourstroke.cli", "train", trainer, "--recipe", str(file), *overrides]
    words += ["--resume"] if resume else []
    threads = max(1, torch.get_num_threads() // processes)
    with subprocess.Popen([*torchrun, *words], env=os.environ | {"OMP_NUM_THREADS": str(threads)}) as started:
        code = started.wait()  # an interrupt reaches them too, and leaving the block waits until they have saved
    if code:
        raise RuntimeError(f"{processes} processes could not train {file}; give the command again to go on")


def limits(recipes: Path, hours: float | None) -> dict[str, list[str]]:
    """By stage, overrides by which a family's whole chain fits into some hours; none for None.

    A tenth is left for looks at pictures, caches and scores. A shorter distillation has a shorter warm-up, and never a
    longer one: it is counted in steps.

    Raises:
        ValueError: for no time, or a recipe that has no limit to scale.
    """
    found: dict[str, list[str]] = {stage: [] for stage in STAGES}
    if hours is None:
        return found
    if not hours > 0:
        raise ValueError(f"{hours} hours are no time to train in; give more than 0")
    if not (minutes := stage_minutes(recipes)):
        raise ValueError(f"{recipes} holds no recipe of a stage; name another family")
    if lacking := [stage for stage, limit in minutes.items() if limit is None]:
        raise ValueError(f"{recipes / lacking[0]}.yaml has no run.max_minutes to scale to {hours:g} hours")
    scale = 60 * hours * (1 - SPARE) / sum(limit or 0 for limit in minutes.values())
    for stage, limit in minutes.items():
        found[stage] = [f"run.max_minutes={scale * (limit or 0):.2f}"]
    warm = read_tree(recipes / "distill.yaml").get("warm") if "distill" in minutes else None
    if warm and scale < 1:
        found["distill"].append(f"warm.steps={max(1, round(scale * warm['steps']))}")
    return found


def stage_minutes(recipes: Path) -> dict[str, float | None]:
    """By stage that a family has a recipe for, its limit in minutes; None where it has none."""
    files = {stage: recipes / f"{stage}.yaml" for stage in STAGES}
    return {
        stage: (read_tree(file).get("run") or {}).get("max_minutes") for stage, file in files.items() if file.exists()
    }


def plan(family: str, recipes: Path, limited: dict[str, list[str]]) -> str:
    """What each stage may take, and what the bundled model of the family took and reaches."""
    minutes = stage_minutes(recipes)
    given = {stage: each[0].partition("=")[2] for stage, each in limited.items() if each}
    told = [f"{stage} {float(given.get(stage, limit)):.3g}" for stage, limit in minutes.items() if limit is not None]
    lines = [f"{family}: minutes of training at most: {', '.join(told)}"]
    file = recipes.resolve().parents[1] / "models" / family / "scores.json"
    if given and file.exists():
        scores = read_json(file)
        spent, objects = sum(scores.get("minutes", {}).values()), (scores.get("composition") or {}).get("objects")
        share = sum(map(float, given.values())) / max(spent, 1e-9)
        reached = f", and has {100 * objects['value']:.1f} % of the objects right" if objects else ""
        lines.append(
            f"the bundled {family} took {spent / 60:.1f} hours{reached}; this run has {100 * min(share, 9.99):.0f} % "
            "of that time, and comes as far as its learning curves do by then: its own scores are measured at the end"
        )
    return "\n".join(lines)


def keep_runs(folder: Path, runs: Path, stages: dict[str, Finished]) -> None:
    """Copy each stage's log and recipe, and say how they were run: minutes, seeds, revision and machine."""
    told: dict[str, Any] = {}
    for stage, finished in stages.items():
        source = finished.folder.parent
        (folder / stage).mkdir(parents=True, exist_ok=True)
        for name in ("log.jsonl", "recipe.json"):
            if (source / name).exists():
                shutil.copyfile(source / name, folder / stage / name)
        record = read_json(source / "recipe.json") if (source / "recipe.json").exists() else {}
        seed = (record.get("recipe", {}).get("run") or {}).get("seed")
        told[stage] = {"minutes": round(finished.minutes, 1), "seed": seed, "git": record.get("git")}
    hours = sum(finished.minutes for finished in stages.values()) / 60
    write_json(folder / "run.json", {"hours": round(hours, 2), "machine": _hardware(), "stages": told})


def train_enhancer(chain: Chain, generator: Path) -> PromptEnhancer | None:
    """Train the enhancer's stages that a family has recipes for; None if there are none."""
    if not chain.has("enhance-sft"):
        return None
    from fourstroke.train.enhance_rl import EnhanceRlRecipe, train_enhance_rl
    from fourstroke.train.enhance_sft import EnhanceSftRecipe, train_enhance_sft

    last = chain.train("enhance-sft", EnhanceSftRecipe, train_enhance_sft)
    if chain.has("enhance-rl"):
        given = [f"enhancer={last.folder}", f"generator={generator}"]
        last = chain.train("enhance-rl", EnhanceRlRecipe, train_enhance_rl, given)
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
    minutes = scores["minutes"]
    enhanced = "".join(
        f", enhancer ({name}) {minutes[key]:.0f} minutes"
        for key, name in (("enhance-sft", "fine-tuning"), ("enhance-rl", "reinforcement"))
        if key in minutes
    )
    enhancer = f"\n| prompt enhancer | {sizes[ENHANCER]:.1f} |" if sizes[ENHANCER] else ""
    decoded = f" and its decoder alone {minutes['vae-decoder']:.0f} minutes" if "vae-decoder" in minutes else ""
    read = f", text encoder by reading {minutes['text']:.0f} minutes" if "text" in minutes else ""
    then = f", with edits {minutes['edits']:.0f} minutes" if "edits" in minutes else ""
    then += f", distillation to few steps {minutes['distill']:.0f} minutes" if "distill" in minutes else ""
    then += enhanced
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
{minutes["vae"]:.0f} minutes{decoded}{read}, transformer with its text encoder {minutes["dit"]:.0f} minutes{then},
on {_hardware()}.

{_measured(scores)}

**Licence.** Apache-2.0, weights included.
"""


def _measured(scores: dict[str, Any]) -> str:
    """The card's paragraphs of what was measured; evaluations that have none are named."""
    told = {"composition": _composition, "reconstruction": _reconstruction}
    found = [tell(scores[kind]) for kind, tell in told.items() if kind in scores]
    others = ", ".join(kind for kind in scores if kind not in ("minutes", *told))
    return "\n\n".join(found + [f"Scores of {others}: `scores.json`."] * bool(others))


def _composition(found: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {score['value']:.3f} | {score['low']:.3f} to {score['high']:.3f} |"
        for name, score in found.items()
        if isinstance(score, dict) and "low" in score
    ]
    return f"""**Scores**, `fourstroke eval composition --n {found["n"]}`: held-out prompts, {found["steps"]} steps,
guidance {found["guidance"]}; 95 % intervals by bootstrap over prompts.

| score | value | interval |
|---|---|---|
{chr(10).join(rows)}"""


def _reconstruction(found: dict[str, Any]) -> str:
    told = {f"held-out pictures of {name}": found[name] for name in found.get("datasets", ())}
    if "images" in found:
        told[f"pictures of {found['source']}"] = found["images"]
    if "photographs" in found:
        told["five photographs of scikit-image, of a kind that it was never trained on"] = found["photographs"]["mean"]
    coded = [
        f"{math.inf if row['psnr'] is None else row['psnr']:.1f} dB on {name}"
        + (f" (NED {row['ned']:.2f})" if row.get("ned") else "")
        for name, row in told.items()
    ]
    return f"Autoencoder (`fourstroke eval reconstruction`): PSNR {', '.join(coded)}."


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
