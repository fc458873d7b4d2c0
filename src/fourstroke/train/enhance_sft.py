"""Supervised fine-tuning of the prompt enhancer on triplets (short prompt, reasoning, rich caption).

Qwen-Image-2.0 report, prompt enhancer: next-token loss on the thoughts and the answer, not on the request. TRL's
`SFTTrainer`; a model from the hub or a folder, whole or with LoRA (PEFT), or a small one from nothing. Triplets come
from the drawn world, from a file of `fourstroke data degrade`, or from both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from fourstroke.checkpoint import pick, read_rows
from fourstroke.enhance import protocol
from fourstroke.enhance.bulk import read_triplets
from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.enhancer import (
    EnhancerConfig,
    LocalModel,
    PromptEnhancer,
    read_config,
    read_system_prompt,
    render,
)
from fourstroke.enhance.measure import Shares, answers, lexicon_of, rewrites, text_scores, world_triplets
from fourstroke.enhance.small import SYSTEM_PROMPT, SmallEnhancerConfig, build_model, build_tokenizer, sizes
from fourstroke.enhance.triplet import Triplet
from fourstroke.files import append_line, atomic_folder, user_path, write_text
from fourstroke.parallel.mesh import require_one_process
from fourstroke.pretrained import load_fitting, readable
from fourstroke.ranges import Count, Decay, Natural, NonNegative, check_ranges
from fourstroke.recipe import RecipeError, agree, resolved
from fourstroke.train import session
from fourstroke.train.loop import DivergedError, RunConfig
from fourstroke.train.optimizer import CombinedOptimizer, OptimizerConfig, build_optimizers
from fourstroke.world import WorldConfig

if TYPE_CHECKING:
    from datasets import Dataset

TOKENIZER_TRIPLETS = 4000
"""Enough texts for a vocabulary of a drawn world."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters (PEFT) on the linear layers; they are merged into the exported model."""

    rank: Count = 32
    alpha: Count = 64
    dropout: Decay = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class EnhanceSftRecipe:
    """Every number of a fine-tuning.

    `base` is a hub id or a folder; without one a model of the sizes `model` is built (None: micro's), and beside one
    `model`, if it is given, must agree with it. `samples` triplets come from the
    world, further ones from `triplets`. A step sees `batch_size * accumulate` of them. Held-out ones come from the
    world's held-out split, or, without a world, from the end of the file.
    """

    world: WorldConfig | None = None
    shares: Shares = field(default_factory=Shares)
    samples: Natural = 0
    triplets: Path | None = None
    held_out: Natural = 64
    base: str | None = None
    model: SmallEnhancerConfig | None = None
    lora: LoraSettings | None = None
    settings: EnhancerConfig = field(default_factory=EnhancerConfig)
    run: RunConfig
    batch_size: Count = 16
    accumulate: Count = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon for a model from nothing: it learns to copy from the request in far fewer steps."""
    lr: NonNegative = 2e-3
    warmup: Natural = 50
    weight_decay: NonNegative = 0.01
    beta2: Decay = 0.95
    max_length: Count = 4096
    """Tokens of a sample; longer ones are left out, never cut."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a fifth slower."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.base is not None:
            object.__setattr__(self, "base", str(user_path(self.base)))
        if self.optimizer == "muon" and self.lora is not None:
            raise ValueError("optimizer=muon moves whole weights; with lora leave it adamw")
        if self.world is None and (self.samples or self.triplets is None or not self.held_out):
            raise ValueError("without a world samples is 0, and triplets names a file of `fourstroke data degrade`")


def train_enhance_sft(recipe: EnhanceSftRecipe, resume: bool = False) -> Path:
    """Fine-tune by a recipe; returns the folder of the enhancer.

    Raises:
        RecipeError: in several processes, or if the output folder holds anything but a run, one that `resume` does not
            fit, or one that is still going on; if there is nothing to train on.
        DivergedError: if the loss is not finite.
        RuntimeError: if TRL is not installed.
    """
    require_one_process("train enhance-sft")
    trl = import_trl()
    with started(recipe.run.out, resume, resolved(recipe), ("model", "base", "lora", "optimizer")) as checkpoint:
        return _fine_tune(trl, recipe, checkpoint)


def _fine_tune(trl: Any, recipe: EnhanceSftRecipe, checkpoint: str | None) -> Path:
    out = recipe.run.out
    torch.manual_seed(recipe.run.seed)
    triplets, held_out, lexicon = _data(recipe)
    model, tokenizer, system = _model(recipe, triplets)
    settings = recipe.settings
    if recipe.base is None or read_config(Path(recipe.base)).things:  # one of the small ones, for the first time or on
        settings = dataclasses.replace(settings, things=lexicon.things, colours=tuple(sorted(lexicon.colours)))

    def score() -> dict[str, float]:
        local = LocalModel(trainer.model, tokenizer)
        requests = [triplet.short for triplet in held_out]
        greedy = dataclasses.replace(settings, temperature=0.0)
        turns = answers(local, requests, system, greedy)
        show(out / "samples", trainer.state.global_step, requests, turns)
        shares = text_scores(requests, rewrites(turns), lexicon)
        return {name: value.value for name, value in shares.items() if value is not None}

    peft = None
    if recipe.lora is not None:
        from peft import LoraConfig

        lora = recipe.lora
        peft = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            **arguments(recipe.run, recipe.batch_size, recipe.lr, recipe.warmup, recipe.weight_decay, recipe.beta2),
            gradient_accumulation_steps=recipe.accumulate,
            gradient_checkpointing=recipe.checkpointing,
            lr_scheduler_type="cosine",
            max_length=None,
            completion_only_loss=True,
        ),
        train_dataset=dataset(triplets, tokenizer, system, recipe.max_length),
        processing_class=tokenizer,
        peft_config=peft,
        callbacks=[Watchman(recipe.run, score)],
        optimizers=(None if recipe.optimizer == "adamw" else _muon(recipe, model), None),
    )
    trainer.remove_callback(PrinterCallback)
    if recipe.run.max_minutes != 0:
        trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer.state, recipe.run)
    trained = trainer.model.merge_and_unload() if peft is not None else trainer.model
    with atomic_folder(out / "model") as partial:
        PromptEnhancer(LocalModel(trained, tokenizer), settings, system).save_pretrained(partial)
    return out / "model"


def dataset(triplets: Iterable[Triplet], tokenizer: PreTrainedTokenizerBase, system: str, longest: int) -> Dataset:
    """Prompt and completion as text, in the model's own template; samples beyond `longest` tokens are left out."""
    from datasets import Dataset

    rows = []
    for triplet in triplets:
        prompt = render(tokenizer, protocol.messages(triplet.short, system))
        completion = protocol.write_answer(triplet.rich, triplet.wh_ratio, triplet.reasoning)
        if len(prompt) + len(completion) <= longest or len(tokenizer(prompt + completion)["input_ids"]) < longest:
            rows.append({"prompt": prompt, "completion": completion})
    return Dataset.from_list(rows)


def arguments(run: RunConfig, batch: int, lr: float, warmup: int, weight_decay: float, beta2: float) -> dict[str, Any]:
    """The fields of transformers' `TrainingArguments` that all stages of the enhancer share."""
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(run.out / "state"),
        "max_steps": run.steps,
        "per_device_train_batch_size": batch,
        "learning_rate": lr,
        "warmup_steps": warmup,
        "weight_decay": weight_decay,
        "adam_beta2": beta2,
        "max_grad_norm": 1.0,
        "seed": run.seed,
        "use_cpu": not gpu,
        "bf16": gpu,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }


class Watchman(TrainerCallback):
    """Time limit, checkpoints and scores by the clock, and the run's `log.jsonl`, as the other stages have them."""

    def __init__(self, run: RunConfig, score: Any) -> None:
        self.run, self.score = run, score
        self.before = seconds_of(run.out / "log.jsonl")
        self.start = self.saved = self.sampled = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of training, those before a resume included."""
        return self.before + time.perf_counter() - self.start

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The clock starts here, after the data are made."""
        self.start = self.saved = self.sampled = time.perf_counter()
        if self.run.sample_first and state.global_step == 0:
            self.look(state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save, score or stop when it is time."""
        now = time.perf_counter()
        if now - self.saved > 60 * self.run.save_minutes:
            control.should_save = control.should_log = True  # the loss is looked at first
            self.saved = now
        if self.run.max_minutes is not None and self.seconds > 60 * self.run.max_minutes:
            control.should_training_stop = True
        last = control.should_training_stop or state.global_step >= self.run.steps
        if last:
            control.should_save = control.should_log = True
        if last or now - self.sampled > 60 * self.run.sample_minutes:
            self.look(state)
            self.sampled = time.perf_counter()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """A row of the log."""
        values = {key: round(value, 5) for key, value in (logs or {}).items() if isinstance(value, (int, float))}
        if "train_runtime" not in values:
            self.write(state, values)
        if not math.isfinite(values.get("loss", 0.0)):
            control.should_save, control.should_training_stop = False, True  # the last state is from before

    def look(self, state: TrainerState) -> None:
        """Score the model as it is."""
        self.write(state, {"scores": self.score()})

    def write(self, state: TrainerState, values: dict[str, Any]) -> None:
        """Append a row to `log.jsonl` and print it."""
        row = {"step": state.global_step, "seconds": round(self.seconds, 1), **values}
        append_line(self.run.out / "log.jsonl", json.dumps(row))
        flat = values.get("scores") or {
            k: v for k, v in values.items() if k in ("loss", "mean_token_accuracy", "reward", "kl")
        }
        share = 100 * state.global_step / max(1, self.run.steps)
        told = "  ".join(f"{key} {value:.4f}" for key, value in flat.items())
        print(f"{share:5.1f} %  step {state.global_step}  {told}  {self.seconds / 60:.1f} minutes gone", flush=True)


@contextlib.contextmanager
def started(out: Path, resume: bool, record: dict[str, Any], fixed: Sequence[str]) -> Iterator[str | None]:
    """Hold the run's folder; yields the checkpoint to go on from, None for a new run.

    Raises:
        RecipeError: if the folder is not to be had (`session.opened`), or keys of the groups `fixed`, which say what
            the model is, differ from those of the checkpoint.
    """
    with session.opened(out, resume):
        changed = session.changes(out, record) if resume else {}
        if wrong := {key: told for key, told in changed.items() if key.split(".")[0] in fixed}:
            raise RecipeError(f"{out / 'state'} is of another model; what differs: {session.listed(wrong)}")
        if changed:
            print(f"resumed {out}; changed: {session.listed(changed)}", flush=True)
        found = session.checkpoints(out)
        if not found:
            (out / "log.jsonl").unlink(missing_ok=True)  # of a run that never saved
        session.write_record(out, record)
        yield str(found[-1]) if found else None


def finish(state: TrainerState, run: RunConfig) -> None:
    """Refuse a run whose loss was no number."""
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    if any(loss != loss or abs(loss) == float("inf") for loss in losses):
        raise DivergedError(f"the loss was not finite; lower lr and --resume from the last state in {run.out}")


def seconds_of(log: Path) -> float:
    """Seconds of training that a log records."""
    rows = read_rows(log) if log.exists() else []
    return max((pick(row, "seconds", float, log) for row in rows), default=0.0)


def show(folder: Path, step: int, requests: list[str], turns: list[str]) -> None:
    """Write the first requests with what became of them."""
    text = "\n\n".join(
        f"> {request}\n{turn}" for request, turn in itertools.islice(zip(requests, turns, strict=True), 16)
    )
    write_text(folder / f"step-{step:06d}.txt", text + "\n")


def import_trl() -> Any:
    """TRL, or one line that says how to get it."""
    try:
        import datasets
        import trl
    except ModuleNotFoundError as error:
        raise RuntimeError(f"training the enhancer needs {error.name}: pip install '.[enhance]'") from None
    datasets.disable_progress_bars()
    return trl


def _muon(recipe: EnhanceSftRecipe, model: PreTrainedModel) -> torch.optim.Optimizer:
    """Muon on the hidden matrices, AdamW on the rest."""
    config = OptimizerConfig(lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, recipe.beta2))
    return CombinedOptimizer(build_optimizers(model.named_parameters(), config).values())


def _data(recipe: EnhanceSftRecipe) -> tuple[list[Triplet], list[Triplet], Lexicon]:
    """Triplets to train on, held-out ones, and what their world can draw."""
    triplets: list[Triplet] = []
    held_out: list[Triplet] = []
    lexicon = Lexicon()
    if recipe.world is not None:
        world = recipe.shares.of(recipe.world)
        triplets, held_out = world_triplets(world, recipe.samples), world_triplets(world, recipe.held_out, "heldout")
        lexicon = lexicon_of(world)
    if recipe.triplets is not None:
        triplets += read_triplets(recipe.triplets)
    if recipe.world is None:
        triplets, held_out = triplets[: -recipe.held_out], triplets[-recipe.held_out :]
    if not triplets:
        raise RecipeError("there is nothing to train on: raise samples, or name a file of more triplets")
    return triplets, held_out, lexicon


def _model(recipe: EnhanceSftRecipe, triplets: list[Triplet]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The model to train, its tokenizer and its system prompt."""
    if recipe.base is None:
        texts = (text for t in triplets[:TOKENIZER_TRIPLETS] for text in (t.short, t.reasoning, t.rich))
        config = recipe.model or SmallEnhancerConfig()
        tokenizer = build_tokenizer(itertools.chain(texts, [SYSTEM_PROMPT] * 8), config.vocab_size)
        return build_model(config, tokenizer), tokenizer, SYSTEM_PROMPT
    dtype = torch.bfloat16 if torch.cuda.is_available() and recipe.lora is not None else torch.float32
    model = load_fitting(AutoModelForCausalLM, recipe.base, dtype=dtype)
    with readable(f"the tokenizer of {recipe.base}"):
        tokenizer = AutoTokenizer.from_pretrained(recipe.base)
    agree("model", recipe.model and sizes(recipe.model), model.config.to_dict(), recipe.base)
    return model, tokenizer, read_system_prompt(Path(recipe.base))
