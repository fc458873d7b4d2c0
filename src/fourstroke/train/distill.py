"""Distilling a teacher of many steps into a student of few, by distribution matching or another objective.

Qwen-Image-2.0 report, few-step distillation, with the findings of Qwen-Image-Flash (arXiv 2606.03746) and the backward
simulation of DMD2 (arXiv 2405.14867). A step of the run draws prompts, trains the fake score several times on fresh
samples of the student, and then the student once, at one random step of its own trajectory. Both start as copies of
the teacher, or, with `lora_rank`, are adapters of the one frozen transformer that is in memory. The text encoder is
frozen: its features are computed once a step and shared by all; each model makes its own prefix of them. Prompts are
those of any dataset, whose pictures serve the optional flow-matching loss alone; a set share of the steps may draw
edits of input images instead. On several ranks (see `parallel`) the transformers are sharded, and each rank draws its
rows of one batch; text encoder and autoencoder are whole on all of them.
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

import torch
from torch import Tensor

from fourstroke.checkpoint import pick, read_json
from fourstroke.data.sample import Data, Size
from fourstroke.device import autocast, pick_device
from fourstroke.distill.batch import Batch, Batches
from fourstroke.distill.comparison import QUALITY, ComparisonConfig, TeacherComparison, collapse, held_out_prompts
from fourstroke.distill.dmd import RenoiseConfig, flow_matching_loss
from fourstroke.distill.models import METHODS, DistillModels
from fourstroke.distill.objective import Matching, ObjectiveOption, Turn
from fourstroke.distill.rollout import clean_prediction, rollout, trajectory, trajectory_loss
from fourstroke.distill.teachers import SpecialistConfig, Teacher, load_specialists, teacher_mix
from fourstroke.dit import Transformer
from fourstroke.evaluate.validation import BestCheckpoint, CheckpointPolicy, Validators
from fourstroke.files import atomic_folder, write_json
from fourstroke.flow.sampler import NonFiniteError, Velocity
from fourstroke.flow.schedule import UNSHIFTED, fixed_sigmas
from fourstroke.folder import ModelInfo
from fourstroke.lora import active_lora, save_adapter
from fourstroke.parallel.collectives import all_reduce_max, local_rows
from fourstroke.parallel.mesh import data_shard, process_group
from fourstroke.parallel.noise import batch_rows, row_noise
from fourstroke.parallel.sharding import Sharded
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Natural, NonNegative, PositiveFraction, check_ranges
from fourstroke.recipe import resolved
from fourstroke.train.loop import DivergedError, RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig, Scalars
from fourstroke.train.start import earlier_student

BEST, RECORD = "best", "distill.json"
POLICY = CheckpointPolicy(metric="score", never_first=True)
"""An untrained student is the teacher, and near to it whatever it draws."""


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

    `init` is a checkpoint of the teacher's sizes that the student goes on from, an earlier student's say, instead of
    the teacher's weights; its adapters are merged. With `init_teacher`, the teacher that the earlier student was made
    from, it is first carried over to today's: what the teacher has learned since, the difference of the two teachers'
    weights, is added to the student's. `guidance` is the teacher's, `edit_guidance` that of its edits (None: the same).
    `sigmas` are the student's noise levels, from 1 down, without the final 0; `noise_samples` noises share each prompt;
    `flow_weight` is that of the flow-matching loss on real latents at the first step (Qwen-Image-Flash: keeps
    structure, costs quality). Prompts of `data` are drawn at `width` x `height` (None: the teacher's own size) and at
    `more_sizes`, all equally often, another in each batch; name one more than once to draw it oftener. Edits of
    `edits`, in `edit_share` of the steps, have the area of the first size, which is also that of the comparison.
    Held-out prompts of `data` are drawn for `validation`, and whatever else `validators` look at. `dtype` is that of
    what stays frozen; what is trained is float32.
    """

    teacher: str
    init: str | None = None
    init_teacher: str | None = None
    guidance: NonNegative
    edit_guidance: NonNegative | None = None
    specialists: tuple[SpecialistConfig, ...] = ()
    data: Data
    width: Count | None = None
    height: Count | None = None
    more_sizes: tuple[tuple[Count, Count], ...] = ()
    edits: Data | None = None
    edit_share: PositiveFraction = 0.5
    sigmas: tuple[PositiveFraction, ...]
    run: RunConfig
    student: OptimizerConfig
    objective: ObjectiveOption = field(default_factory=Matching)
    """What the student is trained by after the warm-up."""
    fake: OptimizerConfig | None = None
    """Of the fake score, where the objective needs one."""
    batch_size: Count
    noise_samples: Count = 1
    fake_updates: Count = 5
    warm: WarmConfig | None = None
    renoise: RenoiseConfig = field(default_factory=RenoiseConfig)
    flow_weight: NonNegative = 0.0
    lora_rank: Natural = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    validation: ComparisonConfig = field(default_factory=ComparisonConfig)
    validators: Validators = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.sigmas[:1] != (1.0,):
            raise ValueError(f"sigmas are {list(self.sigmas)}; they start at 1.0, where the noise is")
        fixed_sigmas(self.sigmas)
        if self.init is not None and self.lora_rank:
            raise ValueError(
                "init starts all weights of the student: it goes without lora_rank, whose adapters start at 0"
            )
        if self.init_teacher is not None and self.init is None:
            raise ValueError("init_teacher is the teacher of an earlier student: name the student as init")
        if self.objective.fake_score != (self.fake is not None):
            needs = "needs fake, the optimizer of the" if self.objective.fake_score else "has no fake: it trains no"
            raise ValueError(f"objective {self.objective.kind} {needs} fake score")

    @property
    def optimizers(self) -> dict[str, OptimizerConfig]:
        """By the names of the losses."""
        warm = {} if self.warm is None else {"warm": self.warm.optimizer}
        fake = {} if self.fake is None else {"fake": self.fake}
        return {"student": self.student, **fake, **warm}


class CollapsedError(RuntimeError):
    """The student's pictures say that it is lost; the best checkpoint of the run is kept."""


class DistillStage:
    """The losses of fake score and student, the comparison with the teacher, and the best checkpoint so far."""

    accumulates = True

    def __init__(self, recipe: DistillRecipe) -> None:
        self.recipe, self.device = recipe, pick_device()
        data, held_out = recipe.data.open(), recipe.data.open("heldout")
        edits = None if recipe.edits is None else recipe.edits.open()
        base = Pipeline.from_pretrained(recipe.teacher, dtype=getattr(torch, recipe.dtype), device=str(self.device))
        self.base = Teacher(base, recipe.guidance, recipe.edit_guidance)
        self.specialists = load_specialists(recipe.specialists, base, len(recipe.sigmas))
        size: Size = recipe.width or base.info.width, recipe.height or base.info.height
        self.batches = Batches(
            base,
            data,
            (size, *recipe.more_sizes),
            recipe.batch_size,
            edits,
            recipe.edit_share,
            latents=bool(recipe.flow_weight),
        )
        prompts = held_out_prompts(held_out, recipe.validation.prompts)
        judges = [config.open() for config in recipe.validators]
        self.comparison = TeacherComparison(recipe.validation, prompts, size, judges)
        start = earlier_student(recipe.init, recipe.init_teacher, base.transformer, self.device)
        self.distilled = DistillModels(
            base, recipe.lora_rank, recipe.run.seed, recipe.gradient_checkpointing, recipe.objective.fake_score, start
        )
        self.models = dict(self.distilled.models)
        if recipe.warm is not None:
            self.models["warm"] = self.models["student"]  # the same weights, under an optimiser of their own
        for teacher in self.specialists:
            Sharded(teacher.pipe.transformer, METHODS)
        self.batch_size = recipe.batch_size * recipe.noise_samples
        self.sigmas = fixed_sigmas(recipe.sigmas)
        self.best, self.highest = BestCheckpoint(POLICY), 0.0  # score and composition

    @property
    def student(self) -> Transformer:
        """The student's transformer, in which, with `lora_rank`, its adapter must be active."""
        return self.distilled.student

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the first rank's student is plain and complete."""
        return self.distilled.gathered()

    def losses(self, step: int) -> Iterator[tuple[str, Scalars]]:
        """The fake score's losses on fresh samples of the student, then the student's; before that the warm-up's."""
        generator = torch.Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        batch = self.batches.make(step, generator)
        try:
            if self.recipe.warm is not None and step < self.recipe.warm.steps:
                with self.distilled.active("student"):
                    yield "warm", {"loss": self.warm_loss(batch, self.recipe.warm.substeps, generator)}
                return
            with torch.no_grad(), autocast(self.device):
                student = self.distilled.velocity(
                    "student", batch, self.recipe.noise_samples
                )  # stays as it is while the fake score learns
            for _ in range(self.recipe.fake_updates if self.recipe.fake else 0):
                with self.distilled.active("fake"):  # still so in the backward pass, which may compute blocks again
                    yield "fake", {"loss": self.fake_loss(batch, student, generator)}
            with self.distilled.active("student"):
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
            return trajectory_loss(
                self.distilled.velocity("student", batch, self.recipe.noise_samples * count), states, self.sigmas
            )

    def fake_loss(self, batch: Batch, student: Velocity, generator: torch.Generator) -> Tensor:
        """Flow matching on what the student draws at a random step of its trajectory."""
        step = self._random_step(generator)
        with torch.no_grad(), autocast(self.device):
            x_k = rollout(student, self._noise(batch, generator), self.sigmas, step)
            x = clean_prediction(student, x_k, self.sigmas[step])
        t = self._times(generator)
        with autocast(self.device):
            return flow_matching_loss(
                self.distilled.velocity("fake", batch, self.recipe.noise_samples), x, self._noise(batch, generator), t
            )

    def student_loss(self, batch: Batch, frozen: Velocity, generator: torch.Generator) -> Scalars:
        """The objective at a random step of the student's trajectory; at the first, flow matching too.

        `frozen` is the student without gradient, for the steps before.
        """
        step, repeats = self._random_step(generator), self.recipe.noise_samples
        turn = Turn(
            step=step,
            sigmas=self.sigmas,
            noise=self._noise(batch, generator),
            again=self._noise(batch, generator),
            t=self._times(generator),
            device=self.device,
            frozen=frozen,
            bind=lambda name: self.distilled.velocity(name, batch, repeats),
            teacher=lambda: self.teachers(batch, step),
        )
        found = self.recipe.objective.loss(turn)
        if batch.latents is not None and self.recipe.flow_weight and step == 0:
            x_0 = batch.latents.repeat_interleave(repeats, dim=0)
            with autocast(self.device):
                flow = flow_matching_loss(turn.student, x_0, turn.noise, torch.ones_like(turn.t))
            found["loss"] = found["loss"] + self.recipe.flow_weight * flow
        return found

    def teachers(self, batch: Batch, step: int) -> Velocity:
        """The teachers' mixture at a step of the student; those without a share on any rank are not asked."""
        shares = teacher_mix(self.recipe.specialists, step, batch.categories)
        wanted = all_reduce_max(*shares.amax(0).tolist())  # they are sharded: all ranks ask the same ones
        shares = shares.to(self.device).repeat_interleave(self.recipe.noise_samples, dim=0)
        seen = batch.prompts, batch.grid, self.recipe.noise_samples
        asked = [
            (
                share.view(-1, 1, 1),
                teacher.velocity(*seen, batch.text if teacher is self.base else None, batch.pictures, batch.inputs),
            )
            for share, teacher, most in zip(shares.T, [self.base, *self.specialists], wanted, strict=True)
            if most
        ]

        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            parts = [share * one(x_t, t).float() for share, one in asked]
            return torch.stack(parts).sum(0)

        return velocity

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Compare with the teacher, draw sheets, keep the checkpoint if it is the best so far.

        Raises:
            CollapsedError: if the student is lost.
        """
        if not self.comparison.teacher:
            self._see_teacher(folder)
        pipe = self.pipeline()
        try:
            with self.distilled.active("student"), autocast(self.device):
                metrics = self.comparison.run(pipe, folder, step)
        except NonFiniteError:
            raise self._collapsed(step, "its pictures are not finite") from None
        student, teacher = self.comparison.student, self.comparison.teacher
        if reason := collapse(student, teacher, self.highest, self.recipe.validation.limits):
            raise self._collapsed(step, reason)
        self.highest = max(self.highest, student.get(QUALITY, 0.0))
        if self.best.update(metrics, step):
            self._keep(pipe)
        elif (file := self.recipe.run.out / BEST / RECORD).exists():
            write_json(file, read_json(file) | {"highest": self.highest})
        return metrics

    def _see_teacher(self, folder: Path) -> None:
        """Measure the teacher once a run, at its own steps and with its guidance."""
        pipe, recipe = self.base.pipe, self.recipe
        steps = recipe.validation.teacher_steps or pipe.info.own_steps
        own = pipe.info.sample_sigmas if steps == pipe.info.own_steps else None
        info = dataclasses.replace(
            pipe.info, num_inference_steps=steps, guidance_scale=recipe.guidance, sample_sigmas=own
        )
        teacher = Pipeline(pipe.transformer, pipe.autoencoder, pipe.text_encoder, pipe.schedule, info)
        with active_lora(pipe.transformer, None), autocast(self.device):
            metrics = self.comparison.see_teacher(teacher, folder)
        told = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"teacher, {steps} steps: {told}", flush=True)

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
        file = self.recipe.run.out / BEST / RECORD
        self.best.load(file)
        if file.exists():
            self.highest = pick(read_json(file), "highest", float, file)

    def _keep(self, pipe: Pipeline) -> None:
        with atomic_folder(self.recipe.run.out / BEST) as partial:
            if self.recipe.lora_rank:
                save_adapter(partial, self.recipe.teacher, self._info(), self.student, "student")
                pipe.schedule.save_pretrained(partial / "scheduler")
            else:
                pipe.save_pretrained(partial)
            self.best.save(partial / RECORD, self.comparison.student)
            more = {"highest": self.highest, "teacher": {**self.comparison.teacher}}
            write_json(partial / RECORD, read_json(partial / RECORD) | more)

    def _collapsed(self, step: int, reason: str) -> CollapsedError:
        kept = "no checkpoint was kept"
        if self.best.value is not None:
            kept = f"the best checkpoint, of step {self.best.step}, is kept in {self.recipe.run.out / BEST}"
        return CollapsedError(f"the student collapsed at step {step}: {reason}; {kept}; lower student.lr and try again")

    def _info(self) -> ModelInfo:
        levels = self.recipe.sigmas
        return dataclasses.replace(
            self.base.pipe.info, sample_sigmas=levels, num_inference_steps=len(levels), guidance_scale=1.0
        )

    def _random_step(self, generator: torch.Generator) -> int:
        return int(torch.randint(len(self.recipe.sigmas), (1,), generator=generator))

    def _noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Noise for this rank's rows, (batch_size, tokens, channels); no rank draws that of the others."""
        key = int(torch.randint(2**62, (), generator=generator))  # the generator is the same on all ranks
        rows = batch_rows(self.recipe.batch_size, self.recipe.noise_samples)
        shape = math.prod(batch.grid), self.student.config.in_channels
        return row_noise(key, 0, rows, shape, self.device)

    def _times(self, generator: torch.Generator) -> Tensor:
        times = self.recipe.renoise.sample(self.batch_size * data_shard().count, generator)
        return local_rows(times, self.recipe.noise_samples).to(self.device)


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
