"""Reinforcement learning of the prompt enhancer: GRPO with the frozen generator in the loop.

Qwen-Image-2.0 report, prompt enhancer: the enhancer samples a group of rewrites of a request, the generator draws each,
and rewards of picture and text rank the group. TRL's `GRPOTrainer`, with the fine-tuned enhancer as the reference of
the KL penalty. All rewrites of a request are drawn from the same noise, so that what differs is the words' doing. A
judge that is no reward looks at held-out requests all along; the best enhancer by its scores is what is exported, and
when it falls for some looks in a row the rewards are being hacked and the run stops.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from fourstroke.checkpoint import pick, read_json
from fourstroke.enhance import protocol, rewards
from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.endpoint import Endpoint, EndpointError
from fourstroke.enhance.enhancer import LocalModel, PromptEnhancer, render
from fourstroke.enhance.judge import HeldOutJudge, JudgeConfig, train_judge
from fourstroke.enhance.measure import Shares, Studio, answers, rewrites, world_triplets
from fourstroke.enhance.triplet import Triplet
from fourstroke.files import atomic_folder, write_json
from fourstroke.parallel.mesh import require_one_process
from fourstroke.pipeline import Pipeline
from fourstroke.ranges import Count, Natural, NonNegative, Positive, check_ranges
from fourstroke.recipe import resolved
from fourstroke.train.enhance_sft import Watchman, arguments, finish, import_trl, show, started
from fourstroke.train.loop import RunConfig
from fourstroke.world import WorldConfig
from fourstroke.world.judging.composition import CHOOSING

RewardFunction = Callable[..., list[float]]
NOISES = 2**32
"""Seeds of noise in a step: one for each triplet, far fewer than there are."""
WATCH_FILE = "watch.json"
"""In a checkpoint: what the held-out judge has seen up to it."""


@dataclass(frozen=True, kw_only=True)
class RewardWeights:
    """What each reward counts; 0 leaves one out. `longer` is there to be hacked (`rewards.longer`)."""

    consistency: NonNegative = 1.0
    richness: NonNegative = 0.5
    words: NonNegative = 0.25
    language: NonNegative = 0.1
    things: NonNegative = 0.5
    places: NonNegative = 0.5
    valid: NonNegative = 0.25
    length: NonNegative = 0.1
    longer: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)
        if not any(dataclasses.asdict(self).values()):
            raise ValueError("all weights of rewards are 0: give one that counts")


@dataclass(frozen=True, kw_only=True)
class RlWatch:
    """The held-out judge: how many requests it looks at, how often, and when it ends the run."""

    prompts: Count = 64
    every: Count = 10
    """Steps between two looks."""
    drop: NonNegative = 0.03
    """Below the best score by this much counts as a fall."""
    patience: Count = 3
    """Falls in a row that end the run."""
    max_kl: Positive = 1.0
    """Mean KL from the reference, nats a token, that ends the run."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class EnhanceRlRecipe:
    """Every number of a reinforcement run. A step draws `group` rewrites of each of `requests` prompts."""

    world: WorldConfig
    shares: Shares = field(default_factory=Shares)
    enhancer: Path
    """The fine-tuned enhancer: where the policy starts, and the reference of the KL penalty."""
    generator: Path
    samples: Count = 2000
    """Triplets of the world whose short prompts are asked."""
    run: RunConfig
    requests: Count = 4
    group: Count = 8
    lr: NonNegative = 2e-5
    warmup: Natural = 5
    kl: NonNegative = 0.05
    temperature: Positive = 1.0
    max_tokens: Count = 256
    low: Natural = 25
    high: Natural = 80
    """Words of a rewrite between which `length` is complete."""
    weights: RewardWeights = field(default_factory=RewardWeights)
    watch: RlWatch = field(default_factory=RlWatch)
    mllm: Endpoint | None = None
    """A model that sees, in place of the judge of pixels and of richness."""
    draw_batch: Count = 16

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.low > self.high:
            raise ValueError(f"low={self.low}, high={self.high}: choose low to be at most high")
        if self.group < 2:
            raise ValueError(f"group is {self.group}: rewrites are ranked within their group, it needs at least 2")


class Scorer:
    """Draws and scores a batch of rewrites once; each reward function then returns its own column."""

    def __init__(self, recipe: EnhanceRlRecipe, triplets: Sequence[Triplet], studio: Studio, lexicon: Lexicon) -> None:
        self.recipe, self.triplets, self.studio, self.lexicon = recipe, triplets, studio, lexicon
        self._known: tuple[tuple[object, ...], dict[str, list[float]]] | None = None

    def functions(self) -> tuple[list[RewardFunction], list[float]]:
        """The rewards that count, as TRL calls them, and their weights."""
        weights = {name: value for name, value in dataclasses.asdict(self.recipe.weights).items() if value}
        return [self._function(name) for name in weights], list(weights.values())

    def scores(self, turns: Sequence[str], rows: Sequence[int], step: int = 0) -> dict[str, list[float]]:
        """All rewards of assistant turns; `rows` say which triplet each answers. A turn without answer has zeros.

        Rewrites of one request are drawn from the same noise, which is another at every `step`: a policy cannot learn
        the noise of a request by heart.
        """
        key = (step, *rows, *turns)
        if self._known is not None and self._known[0] == key:
            return self._known[1]
        asked, given = [self.triplets[row] for row in rows], rewrites(turns)
        columns: dict[str, list[float]] = {name: [0.0] * len(turns) for name in dataclasses.asdict(self.recipe.weights)}
        good = [index for index, text in enumerate(given) if text is not None]
        if self.recipe.weights.consistency or self.recipe.weights.richness:
            pictures = self.studio.draw([given[i] or "" for i in good], [NOISES * step + rows[i] for i in good])
            for index, picture in zip(good, pictures, strict=True):
                columns["consistency"][index], columns["richness"][index] = self._look(picture, asked[index])
        for index in good:
            request, rewrite = asked[index].short, given[index] or ""
            columns["valid"][index] = 1.0
            columns["words"][index] = rewards.words(request, rewrite)
            columns["language"][index] = rewards.language(request, rewrite)
            columns["things"][index] = rewards.things(request, rewrite, self.lexicon)
            columns["places"][index] = rewards.places(request, rewrite, self.lexicon)
            columns["length"][index] = rewards.length(rewrite, self.recipe.low, self.recipe.high)
            columns["longer"][index] = rewards.longer(rewrite)
        self._known = (key, columns)
        return columns

    def _look(self, picture: np.ndarray, triplet: Triplet) -> tuple[float, float]:
        if self.recipe.mllm is None:
            return self.studio.scores(picture, triplet)
        try:
            return rewards.mllm(self.recipe.mllm, triplet.short, Image.fromarray(picture))
        except (EndpointError, protocol.AnswerError) as error:
            print(f"the judge gave no scores, counted as 0: {error}", flush=True)
            return 0.0, 0.0

    def _function(self, name: str) -> RewardFunction:
        def reward(
            prompts: list[str], completions: list[str], row: list[int], trainer_state: TrainerState, **_: Any
        ) -> list[float]:
            return self.scores(completions, row, trainer_state.global_step)[name]

        reward.__name__ = name
        return reward


class Lookout(Watchman):
    """Asks the held-out judge, keeps the best enhancer, and stops a run that hacks its rewards."""

    def __init__(
        self,
        recipe: EnhanceRlRecipe,
        enhancer: PromptEnhancer,
        studio: Studio,
        judge: HeldOutJudge,
        checkpoint: Path | None,
    ) -> None:
        super().__init__(recipe.run, self.held_out)
        self.recipe, self.enhancer, self.studio, self.judge = recipe, enhancer, studio, judge
        world = dataclasses.replace(recipe.shares, words=0.0).of(recipe.world)
        self.triplets = world_triplets(world, recipe.watch.prompts, "heldout", first=CHOOSING)
        self.best, self.falls = -1.0, 0
        self.local: LocalModel | None = None
        self._looked = -1
        kept = recipe.run.out / "best" / "held_out.json"
        if kept.exists():
            self.best = pick(read_json(kept), "held_out", float, kept)
        if checkpoint is not None and (file := checkpoint / WATCH_FILE).exists():
            self.falls = pick(read_json(file), "falls", int, file)

    def held_out(self) -> dict[str, float]:
        """Greedy rewrites of held-out requests, drawn and judged; the request itself where there is no rewrite."""
        assert self.local is not None
        requests = [triplet.short for triplet in self.triplets]
        greedy = dataclasses.replace(self.enhancer.config, temperature=0.0, max_new_tokens=self.recipe.max_tokens)
        turns = answers(self.local, requests, self.enhancer.system_prompt, greedy)
        given = [text or request for text, request in zip(rewrites(turns), requests, strict=True)]
        pictures = self.studio.draw(given, range(10**6, 10**6 + len(given)))
        readings = judge_pictures(self.judge, self.studio, pictures, self.triplets)
        return {"held_out": readings["held_out"], **readings, "words_a_rewrite": _mean([len(g.split()) for g in given])}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The clock's work, and a look by steps."""
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step % self.recipe.watch.every == 0 and not control.should_training_stop:
            self.look(state)
        if self.falls >= self.recipe.watch.patience:
            print(
                f"stopped at step {state.global_step}: the held-out judge fell {self.falls} times in a row", flush=True
            )
            control.should_training_stop = control.should_save = True

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """A row of the log; too far from the reference ends the run."""
        super().on_log(args, state, control, logs, **kwargs)
        if logs and logs.get("kl", 0.0) > self.recipe.watch.max_kl:
            print(f"stopped at step {state.global_step}: KL {logs['kl']:.3f} from the fine-tuned enhancer", flush=True)
            control.should_training_stop = control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Beside the policy, how often in a row it has fallen: a resumed run has no new patience."""
        write_json(self.run.out / "state" / f"checkpoint-{state.global_step}" / WATCH_FILE, {"falls": self.falls})

    def look(self, state: TrainerState) -> None:
        """Score, and keep the enhancer if it is the best so far; once a step, whoever asks."""
        if state.global_step == self._looked:
            return
        self._looked = state.global_step
        scores = self.held_out()
        self.write(state, {"scores": scores})
        if scores["held_out"] > self.best:
            self.best, self.falls = scores["held_out"], 0
            with atomic_folder(self.run.out / "best") as partial:
                self.enhancer.save_pretrained(partial)
                write_json(partial / "held_out.json", {"step": state.global_step, **scores})
        else:
            self.falls = self.falls + 1 if scores["held_out"] < self.best - self.recipe.watch.drop else 0


def train_enhance_rl(recipe: EnhanceRlRecipe, resume: bool = False) -> Path:
    """Reinforce by a recipe; returns the folder of the best enhancer, by the held-out judge.

    Raises:
        RecipeError: in several processes, or if the output folder holds anything but a run, one that `resume` does not
            fit, or one that is still going on.
        CheckpointError: for a missing or damaged enhancer or generator.
        RuntimeError: if TRL is not installed.
    """
    require_one_process("train enhance-rl")
    trl = import_trl()
    with started(recipe.run.out, resume, resolved(recipe), ("enhancer",)) as checkpoint:
        return _reinforce(trl, recipe, checkpoint)


def _reinforce(trl: Any, recipe: EnhanceRlRecipe, checkpoint: str | None) -> Path:
    from datasets import Dataset

    out = recipe.run.out
    if checkpoint is None:  # what a run that never saved left is of another enhancer, or another judge
        for name in ("best", "judge"):
            shutil.rmtree(out / name, ignore_errors=True)
    torch.manual_seed(recipe.run.seed)
    enhancer = PromptEnhancer.from_pretrained(recipe.enhancer, dtype=torch.float32)
    assert isinstance(enhancer.backend, LocalModel)
    model, tokenizer = enhancer.backend.model, enhancer.backend.tokenizer
    studio = Studio(Pipeline.from_pretrained(recipe.generator), recipe.world, recipe.draw_batch)
    triplets = world_triplets(recipe.shares.of(recipe.world), recipe.samples)
    scorer = Scorer(recipe, triplets, studio, enhancer.lexicon)
    functions, weights = scorer.functions()
    judge = train_judge(recipe.world, recipe.watch.judge, out / "judge")
    lookout = Lookout(recipe, enhancer, studio, judge, None if checkpoint is None else Path(checkpoint))
    prompts = [render(tokenizer, protocol.messages(t.short, enhancer.system_prompt)) for t in triplets]
    batch = recipe.requests * recipe.group
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=functions,
        args=trl.GRPOConfig(
            **arguments(recipe.run, batch, recipe.lr, recipe.warmup, 0.0, 0.99),
            gradient_checkpointing=False,
            lr_scheduler_type="constant_with_warmup",
            num_generations=recipe.group,
            steps_per_generation=1,
            max_completion_length=recipe.max_tokens,
            temperature=recipe.temperature,
            beta=recipe.kl,
            reward_weights=weights,
            disable_dropout=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt, "row": row} for row, prompt in enumerate(prompts)]),
        processing_class=tokenizer,
        callbacks=[lookout],
    )
    trainer.remove_callback(PrinterCallback)
    lookout.local = LocalModel(trainer.model, tokenizer)
    if checkpoint is None:
        lookout.look(trainer.state)  # where the policy starts from
    if recipe.run.max_minutes != 0:
        trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer.state, recipe.run)
    turns = answers(lookout.local, [t.short for t in lookout.triplets[:16]], enhancer.system_prompt, enhancer.config)
    show(out / "samples", trainer.state.global_step, [t.short for t in lookout.triplets[:16]], turns)
    with atomic_folder(out / "model") as partial:
        shutil.copytree(out / "best", partial, dirs_exist_ok=True)
    return out / "model"


def judge_pictures(
    judge: HeldOutJudge, studio: Studio, pictures: Sequence[np.ndarray], triplets: Sequence[Triplet]
) -> dict[str, float]:
    """Mean readings of the held-out judge (`held_out` is the mean of the two), and of the judge of pixels beside it."""
    facts = [triplet.facts for triplet in triplets if triplet.facts is not None]
    seen = judge.look(pictures, facts)
    pixels = [studio.scores(picture, triplet) for picture, triplet in zip(pictures, triplets, strict=True)]
    presence, finished = _mean([s[0] for s in seen]), _mean([s[1] for s in seen])
    return {
        "held_out": (presence + finished) / 2,
        "presence": presence,
        "finish": finished,
        "consistency": _mean([p[0] for p in pixels]),
        "richness": _mean([p[1] for p in pixels]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
