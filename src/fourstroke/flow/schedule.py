"""The noise levels that sampling visits: resolution-dependent, as `scheduler/scheduler_config.json` sets them.

A picture of more tokens needs more noise to lose its structure, so the grid is pushed towards t = 1 by an exponential
shift whose strength mu grows linearly with the number of tokens (Qwen-Image-2.1: .5 at 256 tokens, .9 at 8192), and is
then stretched so that its last level is `shift_terminal`. A linear shift (`time_shift_type`) takes mu itself for its
exponential.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fourstroke.checkpoint import config_of, read_json
from fourstroke.files import write_json
from fourstroke.ranges import Count, Decay, Finite, Positive, check_ranges

CLASS_NAME = "FlowMatchEulerDiscreteScheduler"
OTHER_GRIDS = ("invert_sigmas", "stochastic_sampling", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas")
"""Switches of diffusers' scheduler for what is not done here; all are off in Qwen-Image-2.1."""
ABSENT = {"max_image_seq_len": 4096, "max_shift": 1.15, "shift_terminal": None, "use_dynamic_shifting": False}
"""What a file means that leaves these keys out: diffusers' defaults, which are not Qwen-Image-2.1's."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The keys of the scheduler's config that decide the grid."""

    base_image_seq_len: Count = 256
    max_image_seq_len: Count = 8192
    base_shift: Finite = 0.5
    max_shift: Finite = 0.9
    shift_terminal: Decay | None = 0.02
    use_dynamic_shifting: bool = True
    shift: Positive = 1.0
    time_shift_type: Literal["exponential", "linear"] = "exponential"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.base_image_seq_len == self.max_image_seq_len:
            raise ValueError(f"base_image_seq_len and max_image_seq_len are both {self.max_image_seq_len}; they differ")

    @classmethod
    def from_pretrained(cls, folder: Path) -> ScheduleConfig:
        """Read `scheduler_config.json` of a folder as diffusers' scheduler does.

        Raises:
            CheckpointError: the file is missing or damaged, or asks for another scheduler or another kind of grid.
        """
        file = Path(folder) / "scheduler_config.json"
        only: dict[str, list[Any]] = {"_class_name": [CLASS_NAME], "num_train_timesteps": [1000]}
        only |= {key: [False, None] for key in OTHER_GRIDS}
        return config_of(cls, ABSENT | read_json(file), file, only=only)

    def save_pretrained(self, folder: Path) -> None:
        """Write `scheduler_config.json`, readable by diffusers' flow-matching Euler scheduler."""
        config: dict[str, Any] = {"_class_name": CLASS_NAME, "num_train_timesteps": 1000}
        config |= dataclasses.asdict(self)
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "scheduler_config.json", config)


UNSHIFTED = ScheduleConfig(use_dynamic_shifting=False, shift=1.0, shift_terminal=None)
"""The schedule of a distilled student: its levels stay what they were in training, here as in diffusers."""


def shift_strength(tokens: int, config: ScheduleConfig) -> float:
    """mu for a picture of `tokens` latent tokens: linear between (and beyond) the two lengths of the config."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (tokens - config.base_image_seq_len)


def shift_factor(tokens: int, config: ScheduleConfig) -> float:
    """By how much levels are pushed towards 1 for a picture of `tokens` latents: t goes to f t / (1 + (f - 1) t).

    Raises:
        ValueError: if a linear shift is not above 0 at this size.
    """
    if not config.use_dynamic_shifting:
        return config.shift
    mu = shift_strength(tokens, config)
    factor = math.exp(mu) if config.time_shift_type == "exponential" else mu
    if factor <= 0:
        raise ValueError(f"the linear shift of a picture of {tokens} tokens is {mu:g}; it should be above 0")
    return factor


def sigmas(num_steps: int, tokens: int, config: ScheduleConfig) -> Tensor:
    """The grid for `num_steps` evaluations: (num_steps + 1,) float32, from 1 down to 0.

    Raises:
        ValueError: if `num_steps` is below 1, or a linear shift is not above 0 at this size.
    """
    if num_steps < 1:
        raise ValueError(f"num_inference_steps is {num_steps}; it must be at least 1")
    return _shifted(torch.linspace(1.0, 1.0 / num_steps, num_steps, dtype=torch.float64), tokens, config)


def fixed_sigmas(levels: Sequence[float], tokens: int = 0, config: ScheduleConfig = UNSHIFTED) -> Tensor:
    """The grid of a model with levels of its own (`sample_sigmas` of the model index), and a final 0.

    They go through the schedule like any others, as in diffusers; students that are distilled here are `UNSHIFTED`.

    Raises:
        ValueError: unless the levels fall strictly within (0, 1].
    """
    steps = [*levels, 0.0]
    if not levels or levels[0] > 1 or any(a <= b for a, b in itertools.pairwise(steps)):
        raise ValueError(f"sample_sigmas must fall strictly from at most 1 to above 0, found {list(levels)}")
    return _shifted(torch.tensor(levels, dtype=torch.float64), tokens, config)


def _shifted(grid: Tensor, tokens: int, config: ScheduleConfig) -> Tensor:
    """Levels (n,) in float64, shifted and stretched by a schedule, and a final 0: (n + 1,) float32."""
    factor = shift_factor(tokens, config)
    grid = factor * grid / (1 + (factor - 1) * grid)
    if config.shift_terminal and grid[-1] < 1:
        grid = 1 - (1 - grid) * (1 - config.shift_terminal) / (1 - grid[-1])
    return torch.cat([grid, grid.new_zeros(1)]).float()
