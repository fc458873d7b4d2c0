"""Distilling a guided teacher of many steps into a student of few, by distribution matching.

Qwen-Image-2.0 report, few-step distillation, with the findings of Qwen-Image-Flash (arXiv 2606.03746) and the backward
simulation of DMD2 (arXiv 2405.14867). A step of the run draws prompts, trains the fake score several times on fresh
samples of the student, and then the student once, at one random step of its own trajectory. Both start as copies of
the teacher, or, with `lora_rank`, are adapters of the one frozen transformer that is in memory. The text encoder is
frozen: its features are computed once a step and shared by all; each model makes its own prefix of them. Prompts come
from the latent cache of a world, whose latents serve the optional flow-matching loss alone, or from a file; a set share
of the steps may draw edits of input images instead. On several ranks (see `parallel`) the transformers are split,
and each rank draws its rows of one batch; text encoder and autoencoder are whole on all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourstroke.checkpoint import pick, read_json
from fourstroke.data.cache import build_cache
from fourstroke.data.prompts import read_prompts
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import autocast, pick_device
from fourstroke.distill.batch import Batch, Batches
from fourstroke.distill.dmd import RenoiseConfig, dmd_gradient, dmd_loss, flow_matching_loss
from fourstroke.distill.monitors import Readings, checkpoint_score, collapse, compared, teacher_error
from fourstroke.distill.prompts import PromptSet
from fourstroke.distill.pupils import CALLED, Pupils
from fourstroke.distill.rollout import clean_prediction, rollout, trajectory, trajectory_loss
from fourstroke.distill.teachers import SpecialistConfig, Teacher, load_specialists, teacher_mix
from fourstroke.distill.watch import Watch, WatchConfig, WordsWatch
from fourstroke.dit import Transformer
from fourstroke.evaluate.image_metrics import stack
from fourstroke.files import atomic_folder, save_image, write_json
from fourstroke.flow import path
from fourstroke.flow.sampler import NonFiniteError, Velocity
from fourstroke.flow.schedule import UNSHIFTED, fixed_sigmas
from fourstroke.folder import ModelInfo
from fourstroke.lora import save_adapter
from fourstroke.parallel.collectives import local_rows, rank0_first
from fourstroke.parallel.mesh import data_shard, process_group
from fourstroke.parallel.sharding import Sharded
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Natural, NonNegative, PositiveFraction, check_ranges
from fourstroke.recipe import resolved
from fourstroke.train.loop import DivergedError, RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig, Scalars
from fourstroke.world import WorldConfig

BEST = "best"


@dataclass(frozen=True, kw_only=True)
class WarmConfig:
    """The first `steps` steps: the student learns where each of its steps should lead from the teacher's own path.

    `substeps` guided Euler steps of the teacher stand behind each of the student's. Regression on such pairs makes
    soft pictures but puts everything in its place, which matching alone, from a student without guidance, learns
    slowly (CausVid, arXiv 2412.07772, starts so). The reports do not say how they start.
    """

    steps: Natural
    substeps: Count = 4
    optimizer: OptimizerConfig

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """Every number of a distillation.

    `sigmas` are the student's noise levels, from 1 down, without the final 0; `draws` noise draws share each prompt;
    `flow_weight` is that of the flow-matching loss on real latents at the first step (Qwen-Image-Flash: keeps
    structure, costs quality). Prompts are those of `samples` scenes of `world`, encoded in `cache`, or the lines of
    the file `prompts`, drawn at `width` x `height` (None: the teacher's own size); there the monitors cannot judge
    composition. `edits` is a file of edits (see `distill.edits`), which are drawn in `edit_share` of the steps, at the
    same area; the monitors look at prompts alone. `dtype` is that of what stays frozen.
    """

    teacher: str
    guidance: NonNegative
    specialists: tuple[SpecialistConfig, ...] = ()
    world: WorldConfig | None = None
    cache: Path | None = None
    samples: Natural = 0
    prompts: Path | None = None
    width: Count | None = None
    height: Count | None = None
    edits: Path | None = None
    edit_share: PositiveFraction = 0.5
    sigmas: tuple[PositiveFraction, ...]
    run: RunConfig
    student: OptimizerConfig
    fake: OptimizerConfig
    batch_size: Count
    draws: Count = 1
    fake_updates: Count = 5
    warm: WarmConfig | None = None
    renoise: RenoiseConfig = field(default_factory=RenoiseConfig)
    flow_weight: NonNegative = 0.0
    lora_rank: Natural = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    watch: WatchConfig = field(default_factory=WatchConfig)
    workers: Natural = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.sigmas[:1] != (1.0,):
            raise ValueError(f"sigmas are {list(self.sigmas)}; they start at 1.0, where the noise is")
        fixed_sigmas(self.sigmas)
        if (self.world is None) == (self.prompts is None) or (self.world is None) != (self.cache is None):
            raise ValueError("name either a world with its cache, or a file of prompts")
        if self.world is not None and (self.width, self.height) != (None, None):
            raise ValueError("width and height are those of a file of prompts; a world has its own")
        if self.world is None and self.samples:
            raise ValueError("samples are the scenes of a world; of a file every prompt is taken")
        if self.flow_weight and self.world is None:
            raise ValueError("flow_weight needs the latents of a world's cache")
        if self.dtype != "float32" and not self.lora_rank:
            raise ValueError("without lora_rank everything is trained, and that needs dtype float32")

    @property
    def optimizers(self) -> dict[str, OptimizerConfig]:
        """By the names of the losses."""
        warm = {} if self.warm is None else {"warm": self.warm.optimizer}
        return {"student": self.student, "fake": self.fake, **warm}


class CollapsedError(RuntimeError):
    """The monitors say that the student is lost; the best checkpoint of the run is kept."""


class DistillStage:
    """The losses of fake score and student, the monitors, and the best checkpoint so far."""

    accumulates = True

    def __init__(self, recipe: DistillRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        base = Pipeline.from_pretrained(recipe.teacher, dtype=getattr(torch, recipe.dtype), device=str(self.device))
        self.base = Teacher(base, recipe.guidance)
        self.specialists = load_specialists(recipe.specialists, base, len(recipe.sigmas))
        prompts, self.watch = self._prompts()
        self.batches = Batches(base, prompts, recipe.batch_size, recipe.edits, recipe.edit_share)
        self.pupils = Pupils(base, recipe.lora_rank, recipe.run.seed, recipe.gradient_checkpointing)
        self.models = dict(self.pupils.models)
        if recipe.warm is not None:
            self.models["warm"] = self.models["student"]  # the same weights, under an optimiser of their own
        for teacher in self.specialists:
            Sharded(teacher.pipe.transformer, CALLED)
        self.batch_size = recipe.batch_size * recipe.draws
        self.sigmas = fixed_sigmas(recipe.sigmas)
        self.best: tuple[float, float, int] | None = None  # score, highest composition, step
        self._reference: Readings | None = None
        self._taught: list[Image.Image] = []  # the teacher's own pictures of what the monitors look at

    @property
    def student(self) -> Transformer:
        """The student's transformer, in which, with `lora_rank`, its adapter must be active."""
        return self.pupils.student

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the first rank's student is plain and complete."""
        return self.pupils.gathered()

    def losses(self, step: int) -> Iterator[tuple[str, Scalars]]:
        """The fake score's losses on fresh samples of the student, then the student's; before that the warm-up's."""
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        batch = self.batches.make(step, generator)
        try:
            if self.recipe.warm is not None and step < self.recipe.warm.steps:
                with self.pupils.active("student"):
                    yield "warm", {"loss": self.warm_loss(batch, self.recipe.warm.substeps, generator)}
                return
            with torch.no_grad(), autocast(self.device):
                student = self.pupils.bind(
                    "student", batch, self.recipe.draws
                )  # stays as it is while the fake score learns
            for _ in range(self.recipe.fake_updates):
                with self.pupils.active("fake"):  # still so in the backward pass, which may compute blocks again
                    yield "fake", {"loss": self.fake_loss(batch, student, generator)}
            with self.pupils.active("student"):
                yield "student", self.student_loss(batch, student, generator)
        except NonFiniteError:
            raise DivergedError(
                f"the student's latents are not finite at step {step}; lower student.lr and --resume from the last "
                f"state in {self.recipe.run.out}"
            ) from None

    def lr_progress(self, name: str, step: int, progress: float) -> float:
        """The warm-up ends with its own steps, the others with the run."""
        return step / self.recipe.warm.steps if name == "warm" and self.recipe.warm else progress

    def warm_loss(self, batch: Batch, substeps: int, generator: torch.Generator) -> Tensor:
        """Each step of the student against the path that the guided teachers take from the same noise."""
        count = len(self.recipe.sigmas)
        with torch.no_grad(), autocast(self.device):
            shared = None if self.specialists else self.teachers(batch, 0)
            velocities = [shared or self.teachers(batch, step) for step in range(count)]
            states = trajectory(velocities, self._noise(batch, generator), self.sigmas, substeps)
        with autocast(self.device):
            return trajectory_loss(self.pupils.bind("student", batch, self.recipe.draws * count), states, self.sigmas)

    def fake_loss(self, batch: Batch, student: Velocity, generator: torch.Generator) -> Tensor:
        """Flow matching on what the student draws at a random step of its trajectory."""
        step = self._random_step(generator)
        with torch.no_grad(), autocast(self.device):
            x_k = rollout(student, self._noise(batch, generator), self.sigmas, step)
            x = clean_prediction(student, x_k, self.sigmas[step])
        t = self._times(generator)
        with autocast(self.device):
            return flow_matching_loss(
                self.pupils.bind("fake", batch, self.recipe.draws), x, self._noise(batch, generator), t
            )

    def student_loss(self, batch: Batch, frozen: Velocity, generator: torch.Generator) -> Scalars:
        """Distribution matching at a random step of the student's trajectory; at the first, flow matching too.

        `frozen` is the student without gradient, for the steps before. What needs no gradient stands in an autocast
        of its own: autocast keeps the weights that it converted, and those converted without gradient carry none.
        """
        step = self._random_step(generator)
        noise, again = self._noise(batch, generator), self._noise(batch, generator)
        t = self._times(generator)
        with torch.no_grad(), autocast(self.device):
            x_k = rollout(frozen, noise, self.sigmas, step)
        with autocast(self.device):
            student = self.pupils.bind("student", batch, self.recipe.draws)
            x = clean_prediction(student, x_k, self.sigmas[step])
        with torch.no_grad(), autocast(self.device):
            x_t = path.interpolate(x, again, t)
            fake = clean_prediction(self.pupils.bind("fake", batch, self.recipe.draws), x_t, t)
            real = clean_prediction(self.teachers(batch, step), x_t, t)
        loss = dmd_loss(x, dmd_gradient(x.detach(), fake, real))
        if batch.latents is not None and self.recipe.flow_weight and step == 0:
            x_0 = batch.latents.repeat_interleave(self.recipe.draws, dim=0)
            with autocast(self.device):
                flow = flow_matching_loss(student, x_0, noise, torch.ones_like(t))
            loss = loss + self.recipe.flow_weight * flow
        return {"loss": loss, "gap": (fake - real).square().mean().sqrt()}

    def teachers(self, batch: Batch, step: int) -> Velocity:
        """The teachers' mixture at a step of the student; those without a share are not asked."""
        shares = teacher_mix(self.recipe.specialists, step, batch.categories)
        shares = shares.to(self.device).repeat_interleave(self.recipe.draws, dim=0)
        seen = batch.prompts, batch.grid, self.recipe.draws
        asked = [
            (
                share.view(-1, 1, 1),
                teacher.velocity(*seen, batch.text if teacher is self.base else None, batch.pictures, batch.inputs),
            )
            for share, teacher in zip(shares.T, [self.base, *self.specialists], strict=True)
            if share.any()
        ]

        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            parts = [share * one(x_t, t).float() for share, one in asked]
            return torch.stack(parts).sum(0)

        return velocity

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Read the monitors, draw a sheet, keep the checkpoint if it is the best so far.

        An untrained student is kept until there is any other: it is the teacher, and near to it whatever it draws.

        Raises:
            CollapsedError: if the monitors say that the student is lost.
        """
        teacher, pipe = self.reference(), self.pipeline()
        try:
            with self.pupils.active("student"):
                student, pictures = self.watch.look(pipe)
        except NonFiniteError:
            raise self._collapsed(step, "its pictures are not finite") from None
        if student.composition is None:
            drawn, taught = (stack([np.asarray(image) for image in part]) for part in (pictures, self._taught))
            student = dataclasses.replace(student, teacher_error=teacher_error(drawn, taught))
        upscale = max(1, 192 // pictures[0].width)
        sheet = contact_sheet(pictures[:16], self.watch.captions[:16], columns=8, upscale=upscale)
        save_image(sheet, folder / f"step-{step:06d}.png")
        score = checkpoint_score(student, teacher)
        best = self.best or (-math.inf, 0.0, step)
        if reason := collapse(student, teacher, best[1], self.recipe.watch.limits):
            raise self._collapsed(step, reason)
        highest = max(best[1], student.composition or 0.0)
        if score > best[0] or best[2] == 0 < step:
            self.best = (score, highest, step)
            self._keep(pipe, student, teacher)
        else:
            self.best = (best[0], highest, best[2])
            self._note(highest)
        return {"score": score, **compared(student, teacher)}

    def reference(self) -> Readings:
        """The teacher's readings at its own steps and with its guidance, taken once a run."""
        if self._reference is None:
            steps = self.recipe.watch.teacher_steps or self.base.pipe.info.num_inference_steps
            self._reference, self._taught = self.watch.look(self.base.pipe, steps, self.recipe.guidance)
            readings = [(k, v) for k, v in dataclasses.asdict(self._reference).items() if v is not None]
            print(f"teacher, {steps} steps: " + "  ".join(f"{k} {v:.4f}" for k, v in readings), flush=True)
        return self._reference

    def export(self, folder: Path) -> None:
        """Copy the best checkpoint of the run, which need not be the last, to `folder`."""
        with atomic_folder(folder) as partial:
            shutil.copytree(self.recipe.run.out / BEST, partial, dirs_exist_ok=True)

    def pipeline(self) -> Pipeline:
        """The student as it is now, with its own grid and without guidance; an adapter must be active."""
        base = self.base.pipe
        return Pipeline(self.student, base.autoencoder, base.text_encoder, UNSHIFTED, self._info())

    def recall(self) -> None:
        """Take up the best checkpoint that an earlier part of this run kept."""
        file = self.recipe.run.out / BEST / "distill.json"
        if file.exists():
            kept = read_json(file)
            score, highest = (pick(kept, key, float, file) for key in ("score", "highest_composition"))
            self.best = (score, highest, pick(kept, "step", int, file))

    def _keep(self, pipe: Pipeline, student: Readings, teacher: Readings) -> None:
        assert self.best is not None
        with atomic_folder(self.recipe.run.out / BEST) as partial:
            if self.recipe.lora_rank:
                save_adapter(partial, self.recipe.teacher, self._info(), self.student, "student")
                pipe.schedule.save_pretrained(partial / "scheduler")
            else:
                pipe.save_pretrained(partial)
            score, highest, step = self.best
            record = {"score": score, "highest_composition": highest, "step": step}
            readings = {"student": dataclasses.asdict(student), "teacher": dataclasses.asdict(teacher)}
            write_json(partial / "distill.json", record | readings)

    def _note(self, highest: float) -> None:
        """Keep the highest composition so far beside the best checkpoint, for a resume."""
        file = self.recipe.run.out / BEST / "distill.json"
        if file.exists():
            write_json(file, read_json(file) | {"highest_composition": highest})

    def _collapsed(self, step: int, reason: str) -> CollapsedError:
        kept = "no checkpoint was kept"
        if self.best is not None:
            kept = f"the best checkpoint, of step {self.best[2]}, is kept in {self.recipe.run.out / BEST}"
        return CollapsedError(f"the student collapsed at step {step}: {reason}; {kept}; lower student.lr and try again")

    def _prompts(self) -> tuple[PromptSet, Watch | WordsWatch]:
        """What is drawn, and what the monitors look at: other prompts in either case."""
        recipe, pipe = self.recipe, self.base.pipe
        if recipe.world is not None and recipe.cache is not None:
            with rank0_first():
                cache = build_cache(
                    recipe.cache / "train", pipe.autoencoder, recipe.world, recipe.samples, workers=recipe.workers
                )
            found = PromptSet(short=cache.short, rich=cache.rich, grid=cache.grid, latents=cache.latents)
            return found, Watch(recipe.watch, recipe.world)
        assert recipe.prompts is not None
        width, height = recipe.width or pipe.info.width, recipe.height or pipe.info.height
        lines, grid = read_prompts(recipe.prompts), pipe.info.grid(width, height)
        found = PromptSet(short=[line.short for line in lines], rich=[line.rich for line in lines], grid=grid)
        held_out = recipe.watch.prompts
        if len(found) <= held_out:
            raise ValueError(f"{recipe.prompts} has {len(found)} prompts; the monitors alone take {held_out}")
        watch = WordsWatch(recipe.watch, found.rich[:held_out], width, height)
        return dataclasses.replace(found, short=found.short[held_out:], rich=found.rich[held_out:]), watch

    def _info(self) -> ModelInfo:
        levels = self.recipe.sigmas
        return dataclasses.replace(
            self.base.pipe.info, sample_sigmas=levels, num_inference_steps=len(levels), guidance_scale=1.0
        )

    def _random_step(self, generator: torch.Generator) -> int:
        return int(torch.randint(len(self.recipe.sigmas), (1,), generator=generator))

    def _noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        rows, tokens = self.batch_size * data_shard().count, math.prod(batch.grid)
        noise = torch.randn((rows, tokens, self.student.config.in_channels), generator=generator)
        return local_rows(noise, self.recipe.draws).to(self.device)

    def _times(self, generator: torch.Generator) -> Tensor:
        times = self.recipe.renoise.sample(self.batch_size * data_shard().count, generator)
        return local_rows(times, self.recipe.draws).to(self.device)


def train_distill(recipe: DistillRecipe, resume: bool = False) -> Path:
    """Distil by a recipe; returns the folder of the best student.

    Raises:
        CollapsedError: if the monitors say that the student is lost; `best` in the run's folder stays.
    """
    with process_group():
        stage = DistillStage(recipe)
        if resume:
            stage.recall()
        return Trainer(stage, recipe.run, recipe.optimizers, resolved(recipe)).run(resume)
