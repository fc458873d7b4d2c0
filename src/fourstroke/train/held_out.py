"""The judge that is no reward: it looks at held-out requests during reinforcement, keeps the best and ends the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerControl, TrainerState

from fourstroke.checkpoint import pick, read_json, read_rows
from fourstroke.data.sample import Record
from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.local import LocalModel
from fourstroke.enhance.measure import answers, rewrites
from fourstroke.enhance.rewards import RewardBatch
from fourstroke.enhance.scorer import Scorer
from fourstroke.evaluate.judges import Judge
from fourstroke.files import atomic_folder, write_json
from fourstroke.ranges import Count, NonNegative, Positive, check_ranges
from fourstroke.recipe import RecipeError
from fourstroke.train.loop import RunConfig
from fourstroke.train.trl_stage import RunCallback

HELD_OUT_NOISE = 10**6
"""The seed of the first held-out request's noise, at every look the same."""
PATIENCE_FILE = "judge.json"
"""In a checkpoint: what the held-out judge has seen up to it."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The held-out judge's looks: at how many requests, how often, and when they end the run."""

    prompts: Count = 64
    every: Count = 10
    """Steps between two looks."""
    drop: NonNegative = 0.03
    """Below the best score by this much counts as a fall."""
    patience: Count = 3
    """Falls in a row that end the run."""
    max_kl: Positive = 1.0
    """Mean KL from the reference, nats a token, that ends the run."""
    keep: dict[str, NonNegative] = field(default_factory=dict)
    """By reading of a look, such as `held_out/consistency`, how far below the first look it may be: what loses more is
    no better, whatever the judge says, and counts as a fall."""

    def __post_init__(self) -> None:
        check_ranges(self)


class HeldOutCallback(RunCallback):
    """Asks the held-out judge, keeps the best enhancer, and stops a run that hacks its rewards."""

    def __init__(
        self,
        run: RunConfig,
        config: ValidationConfig,
        enhancer: PromptEnhancer,
        scorer: Scorer,
        judge: Judge,
        records: Sequence[Record],
        max_tokens: int,
        checkpoint: Path | None,
    ) -> None:
        super().__init__(run, self.held_out)
        self.config, self.enhancer, self.scorer, self.judge, self.records = config, enhancer, scorer, judge, records
        self.max_tokens = max_tokens
        self.best, self.falls = -1.0, 0
        self.policy: LocalModel | None = None
        """The model in training; set when its trainer has it."""
        self._looked = -1
        self._first: dict[str, float] = {}
        """What the look before the first step read; what is to be kept is compared with it."""
        kept = run.out / "best" / "held_out.json"
        if kept.exists():
            self.best = pick(read_json(kept), "held_out", float, kept)
        if checkpoint is not None:
            log = run.out / "log.jsonl"
            self._first = next((row["scores"] for row in read_rows(log) if "scores" in row), {})
        if checkpoint is not None and (file := checkpoint / PATIENCE_FILE).exists():
            self.falls = pick(read_json(file), "falls", int, file)

    def held_out(self) -> dict[str, float]:
        """Greedy rewrites of held-out requests, drawn and judged; the request itself where there is no rewrite.

        `held_out` is the mean of the judge's readings. The rewards of the same pictures stand beside it, to see them
        part.
        """
        assert self.policy is not None
        requests = [record.captions[0].text for record in self.records]
        greedy = dataclasses.replace(self.enhancer.config, temperature=0.0, max_new_tokens=self.max_tokens)
        found = rewrites(answers(self.policy, requests, self.enhancer.system_prompt, greedy))
        given = [text or request for text, request in zip(found, requests, strict=True)]
        pictures = self.scorer.generator.draw(given, range(HELD_OUT_NOISE, HELD_OUT_NOISE + len(given)))
        readings = {name: _mean(column) for name, column in self.judge.score(pictures, self.records).items()}
        batch = RewardBatch(self.records, given, lambda: pictures, self.enhancer.lexicon)
        rewards = {f"held_out/{name}": _mean(column) for name, column in self.scorer.read(batch).items()}
        return {
            "held_out": _mean(list(readings.values())),
            **readings,
            **rewards,
            "answered": _mean([float(text is not None) for text in found]),
            "words_a_rewrite": _mean([float(len(text.split())) for text in given]),
        }

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The clock's work, and a look by steps."""
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step % self.config.every == 0 and not control.should_training_stop:
            self.look(state)
        if self.falls >= self.config.patience:
            print(
                f"stopped at step {state.global_step}: the held-out judge fell {self.falls} times in a row", flush=True
            )
            control.should_training_stop = control.should_save = True

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """A row of the log; too far from the reference ends the run."""
        super().on_log(args, state, control, logs, **kwargs)
        if logs and logs.get("kl", 0.0) > self.config.max_kl:
            print(f"stopped at step {state.global_step}: KL {logs['kl']:.3f} from the fine-tuned enhancer", flush=True)
            control.should_training_stop = control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Beside the policy, how often in a row it has fallen: a resumed run has no new patience."""
        write_json(self.run.out / "state" / f"checkpoint-{state.global_step}" / PATIENCE_FILE, {"falls": self.falls})

    def look(self, state: TrainerState) -> None:
        """Score, and keep the enhancer if it is the best so far; once a step, whoever asks."""
        if state.global_step == self._looked:
            return
        self._looked = state.global_step
        scores = self.held_out()
        self.write(state, {"scores": scores})
        self._first = self._first or scores
        if unknown := sorted(set(self.config.keep) - set(scores)):
            raise RecipeError(f"validation.keep: no look reads {', '.join(unknown)}; choose of {', '.join(scores)}")
        lost = any(scores[name] < self._first[name] - most for name, most in self.config.keep.items())
        if scores["held_out"] > self.best and not lost:
            self.best, self.falls = scores["held_out"], 0
            with atomic_folder(self.run.out / "best") as partial:
                assert self.policy is not None
                if is_adapted(self.policy.model):
                    self.policy.model.save_pretrained(partial)  # the adapter alone
                else:
                    self.enhancer.save_pretrained(partial)
                write_json(partial / "held_out.json", {"step": state.global_step, **scores})
        else:
            self.falls = self.falls + 1 if lost or scores["held_out"] < self.best - self.config.drop else 0


def is_adapted(model: Any) -> bool:
    """Whether a model is PEFT's: a base with an adapter."""
    return hasattr(model, "peft_config")


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers; 0 of none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else 0.0
