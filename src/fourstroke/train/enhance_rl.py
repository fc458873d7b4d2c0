"""Reinforcement learning of the prompt enhancer: GRPO with the frozen generator in the loop.

Qwen-Image-2.0 report, prompt enhancer: the enhancer samples a group of rewrites of a request, the generator draws each,
and rewards of picture and text rank the group. TRL's `GRPOTrainer`; the reference of the KL penalty is the fine-tuned
enhancer, with LoRA the same model without its adapter. All rewrites of a request are drawn from the same noise, so
that what differs is the words' doing. A judge that is no reward looks at held-out requests all along; the best enhancer
by its scores is what is exported, and when it falls for some looks in a row the rewards are being hacked and the run
stops.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from transformers.trainer_callback import PrinterCallback, TrainerState

from fourstroke.data.sample import Data, Record
from fourstroke.enhance import protocol
from fourstroke.enhance.degrade import degrade_dataset
from fourstroke.enhance.endpoint import ImagesEndpoint
from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.generator import EndpointGenerator, PipelineGenerator
from fourstroke.enhance.local import LocalModel, render
from fourstroke.enhance.measure import answers
from fourstroke.enhance.prompts import read_prompts, requests_of
from fourstroke.enhance.rewards import Reward
from fourstroke.enhance.rewards.judged import Judged
from fourstroke.enhance.scorer import Scorer
from fourstroke.enhance.triplet import Rules
from fourstroke.evaluate.asking import AskOptions
from fourstroke.evaluate.judges import JudgeOption
from fourstroke.evaluate.score_service import ScoreOptions
from fourstroke.files import atomic_folder
from fourstroke.parallel.mesh import require_one_process
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Fraction, Natural, NonNegative, Positive, check_ranges
from fourstroke.recipe import RecipeError, resolved
from fourstroke.registry import Registered
from fourstroke.train.held_out import HeldOutCallback, ValidationConfig
from fourstroke.train.loop import RunConfig
from fourstroke.train.trl_stage import LoraSettings, arguments, finish, import_trl, refuse_accumulate, show, started

RewardFunction = Callable[..., list[float]]


@dataclass(frozen=True, kw_only=True)
class EnhanceRlRecipe:
    """Every number of a reinforcement run. A step draws `group` rewrites of each of `requests` prompts.

    Prompts are those of a file, or the short prompts that `rules` make of `data`. Of a file the last
    `validation.prompts` are held out; data have a held-out split.
    """

    enhancer: Path
    """The fine-tuned enhancer: where the policy starts, and the reference of the KL penalty."""
    generator: Path | ImagesEndpoint
    """A model's folder, or a server of pictures: `{url: http://localhost:8000/v1, model: …}`."""
    width: Count | None = None
    height: Count | None = None
    """Of the pictures in pixels; None is the generator's own size, of a server 1024."""
    prompts: Path | None = None
    data: Data | None = None
    rules: Rules | None = None
    rewards: tuple[Annotated[Reward, Registered("rewards")], ...]
    """`{kind: weight}`, `{kind: {weight: …, option: …}}`, or a list of `{kind: …, weight: …, option: …}`."""
    judge: JudgeOption
    """Looks at held-out requests, and must be none of the rewards."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig
    requests: Count = 4
    group: Count = 8
    lr: NonNegative = 2e-5
    warmup: Natural = 5
    kl: NonNegative = 0.05
    temperature: Positive = 1.0
    max_tokens: Count = 256
    lora: LoraSettings | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the policy's base; None is bfloat16 for LoRA on a GPU, else float32."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a fifth slower."""
    vllm: bool = False
    """Rollouts by vLLM in this process (TRL's colocated mode)."""
    vllm_memory: Fraction = 0.3
    """Share of the GPU's memory that vLLM may take."""
    draw_batch: Count = 16

    def __post_init__(self) -> None:
        check_ranges(self)
        refuse_accumulate(self.run, "raise requests")
        if self.group < 2:
            raise ValueError(f"group is {self.group}: rewrites are ranked within their group, it needs at least 2")
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("all weights of rewards are 0: give one that counts")
        if (self.data is None) != (self.rules is None) or (self.data is None) == (self.prompts is None):
            raise ValueError("name a file of prompts, or data together with rules that take their captions apart")
        if self.dtype == "bfloat16" and self.lora is None:
            raise ValueError("dtype=bfloat16 needs lora: whole weights are trained in float32")
        if self.vllm and importlib.util.find_spec("vllm") is None:
            raise ValueError("vllm=true needs vLLM, which is not installed: pip install vllm, or vllm=false")
        asked = {_asked(reward) for reward in self.rewards if reward.weight} - {None}
        if _asked(self.judge) in asked:
            raise ValueError("the judge asks the same model the same question as a reward: let another one look on")


def _asked(kind: Any) -> tuple[str, str, str] | None:
    """What a model that sees, or a service, is asked, to tell one judge from another."""
    kind = kind.judge if isinstance(kind, Judged) else kind
    if isinstance(kind, ScoreOptions):
        return kind.url, kind.reward, kind.form
    if isinstance(kind, AskOptions):
        return kind.endpoint.url, kind.endpoint.model, str(getattr(kind, "question", type(kind).__name__))
    return None


def train_enhance_rl(recipe: EnhanceRlRecipe, resume: bool = False) -> Path:
    """Reinforce by a recipe; returns the folder of the best enhancer, by the held-out judge.

    Raises:
        RecipeError: in several processes, or if the output folder holds anything but a run, one that `resume` does not
            fit, or one that is still going on; if there are too few prompts.
        CheckpointError: for a missing or damaged enhancer or generator.
        EndpointError: if a server of pictures or of a judge fails.
        RuntimeError: if TRL is not installed.
    """
    require_one_process("train enhance-rl")
    trl = import_trl()
    with started(recipe.run.out, resume, resolved(recipe), ("enhancer", "lora")) as checkpoint:
        return _reinforce(trl, recipe, checkpoint)


def _reinforce(trl: Any, recipe: EnhanceRlRecipe, checkpoint: str | None) -> Path:
    from datasets import Dataset

    out = recipe.run.out
    if checkpoint is None:  # what a run that never saved left is of another enhancer, or another judge
        for name in ("best", "judge"):
            shutil.rmtree(out / name, ignore_errors=True)
    torch.manual_seed(recipe.run.seed)
    generator = open_generator(recipe)
    records, held_out = read_requests(recipe, (generator.width, generator.height))
    dtype = recipe.dtype or ("bfloat16" if recipe.lora is not None and torch.cuda.is_available() else "float32")
    enhancer = PromptEnhancer.from_pretrained(recipe.enhancer, dtype=dtype)
    assert isinstance(enhancer.backend, LocalModel)
    tokenizer = enhancer.backend.tokenizer
    rewards = [reward for reward in recipe.rewards if reward.weight]
    scorer = Scorer(rewards, records, generator, enhancer.lexicon)
    judge = recipe.judge.open(out / "judge")
    state = None if checkpoint is None else Path(checkpoint)
    callback = HeldOutCallback(
        recipe.run, recipe.validation, enhancer, scorer, judge, held_out, recipe.max_tokens, state
    )
    prompts = [render(tokenizer, protocol.messages(r.captions[0].text, enhancer.system_prompt)) for r in records]
    rollouts = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": recipe.vllm_memory}
    trainer = trl.GRPOTrainer(
        model=enhancer.backend.model,
        reward_funcs=[reward_function(scorer, name) for name in scorer.rewards],
        args=trl.GRPOConfig(
            **arguments(recipe.run, recipe.requests * recipe.group, recipe.lr, recipe.warmup, 0.0, 0.99),
            **(rollouts if recipe.vllm else {}),
            gradient_checkpointing=recipe.checkpointing,
            lr_scheduler_type="constant_with_warmup",
            num_generations=recipe.group,
            steps_per_generation=1,
            max_completion_length=recipe.max_tokens,
            temperature=recipe.temperature,
            beta=recipe.kl,
            reward_weights=[reward.weight for reward in rewards],
            disable_dropout=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt, "row": row} for row, prompt in enumerate(prompts)]),
        processing_class=tokenizer,
        peft_config=None if recipe.lora is None else recipe.lora.peft(),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    enhancer.backend.model = trainer.model
    callback.policy = enhancer.backend
    with contextlib.closing(callback):
        if checkpoint is None:
            callback.look(trainer.state)  # where the policy starts from
        if recipe.run.max_minutes != 0:
            trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer.state, recipe.run)
    shown = [record.captions[0].text for record in held_out[:16]]
    turns = answers(callback.policy, shown, enhancer.system_prompt, enhancer.config)
    show(out / "samples", trainer.state.global_step, shown, turns)
    return export(recipe, enhancer, trainer.model)


def open_generator(recipe: EnhanceRlRecipe) -> PipelineGenerator | EndpointGenerator:
    """What draws the rewrites."""
    if isinstance(recipe.generator, ImagesEndpoint):
        return EndpointGenerator(recipe.generator, recipe.width or 1024, recipe.height or 1024)
    pipe = Pipeline.from_pretrained(recipe.generator)
    return PipelineGenerator(pipe, recipe.width, recipe.height, recipe.draw_batch)


def read_requests(recipe: EnhanceRlRecipe, size: tuple[int, int]) -> tuple[list[Record], list[Record]]:
    """Requests to train on, and those that the judge looks at. Raises RecipeError if there are too few."""
    count = recipe.validation.prompts
    if recipe.data is not None and recipe.rules is not None:
        degrader = recipe.rules.open()
        records = requests_of(degrade_dataset(recipe.data.open("train"), degrader), size)
        held_out = requests_of(degrade_dataset(recipe.data.open("heldout"), degrader, count), size)
    else:
        assert recipe.prompts is not None
        every = read_prompts(recipe.prompts, size)
        records, held_out = every[:-count], every[-count:]
    if not records or not held_out:
        found = len(records) + len(held_out)
        raise RecipeError(
            f"{found} prompts are too few: {count} are held out (validation.prompts), and some must train"
        )
    return records, held_out


def reward_function(scorer: Scorer, name: str) -> RewardFunction:
    """One reward of a scorer, as TRL calls it."""

    def reward(
        prompts: list[str], completions: list[str], row: list[int], trainer_state: TrainerState, **_: Any
    ) -> list[float]:
        return scorer.scores(completions, row, trainer_state.global_step)[name]

    reward.__name__ = name
    return reward


def export(recipe: EnhanceRlRecipe, enhancer: PromptEnhancer, model: Any) -> Path:
    """Write the best enhancer, an adapter merged into its base, to the run's `model` folder."""
    out = recipe.run.out
    with atomic_folder(out / "model") as partial:
        if recipe.lora is None:
            shutil.copytree(out / "best", partial, dirs_exist_ok=True)
        else:
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(model, load_peft_weights(str(out / "best"), device="cpu"))
            assert isinstance(enhancer.backend, LocalModel)
            enhancer.backend.model = model.merge_and_unload()
            enhancer.save_pretrained(partial)
            shutil.copy(out / "best" / "held_out.json", partial)
    return out / "model"
