"""What a run needs before it is started: memory by part, operations a step, hours at a given speed.

Nothing is allocated: the transformer runs on fake tensors, where PyTorch itself counts the operations and the
activations that the backward pass would keep. What it cannot see, and what is left out: the allocator's own overhead
(about a tenth) and the pictures that the monitors draw.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fourstroke.checkpoint import CheckpointError, open_tensors, read_json
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.dit.layout import Grid
from fourstroke.folder import ModelInfo, find_model, lineage, read_info
from fourstroke.recipe import load_recipe
from fourstroke.train.distill import DistillRecipe
from fourstroke.vae import Autoencoder, AutoencoderConfig

GIB = 2**30
TRAINED_BYTES = 4 + 4 + 8 + 4  # weight, gradient, two moments of AdamW, moving average, all float32
MOST_TEXT = 100_000
"""Tokens of a prompt; there is no model that takes more."""
TEXT_ENCODER = 8_770_000_000  # parameters of Qwen3-VL-8B


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One forward pass: operations of the prefix and of the rows, and bytes kept for its backward pass."""

    prefix: float
    rows: float
    kept: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """GiB by part, 10^12 operations a step, and how many steps there are."""

    memory: dict[str, float]
    teraflops: float
    steps: int
    notes: tuple[str, ...] = ()

    def hours(self, speed: float) -> float:
        """Hours of all steps at `speed` 10^12 operations a second; ValueError unless that is a number above 0."""
        if not 0 < speed < math.inf:
            raise ValueError(f"a speed of {speed:g} x 10^12 operations a second: choose a number above 0")
        return self.steps * self.teraflops / speed / 3600


def estimate_distillation(recipe: DistillRecipe, text_tokens: int = 400) -> Estimate:
    """The needs of a distillation whose prompts have `text_tokens` tokens.

    The shape is that of the teacher's folder where it is at hand, else the published one of Qwen-Image-2.1.

    Raises:
        ValueError: for fewer tokens than 1 or more than `MOST_TEXT`, or sides that hold no token.
    """
    if not 1 <= text_tokens <= MOST_TEXT:
        raise ValueError(f"{text_tokens} text tokens a prompt: choose 1 to {MOST_TEXT}")
    config, frozen, info, notes = _teacher(recipe)
    grid = info.grid(recipe.width or info.width, recipe.height or info.height)
    if not all(grid):
        raise ValueError(f"width and height hold no token; choose {info.factor} pixels or more")
    dtype = getattr(torch, recipe.dtype)
    compute = dtype if recipe.lora_rank or not torch.cuda.is_available() else torch.bfloat16
    prompts, rows = recipe.batch_size, recipe.batch_size * recipe.draws
    cost = forward_cost(config, text_tokens, grid, prompts, rows, compute, recipe.gradient_checkpointing)
    parameters = count(config)
    trained = adapter_parameters(config, recipe.lora_rank) if recipe.lora_rank else parameters
    weight = dtype.itemsize
    memory = {
        "transformer, frozen": parameters * weight / GIB,
        "text encoder and autoencoder, frozen": frozen * weight / GIB,
        "student and fake score, with optimisers": (2 * TRAINED_BYTES - 4) * trained / GIB,  # one has no average
        "activations of one backward pass": cost.kept / GIB,
    }
    return Estimate(
        memory=memory,
        teraflops=_operations(recipe, cost) / 1e12,
        steps=recipe.run.steps,
        notes=(*notes, f"{text_tokens} tokens a prompt, {grid[0]} x {grid[1]} image tokens, {rows} rows a step"),
    )


def forward_cost(
    config: TransformerConfig, text_tokens: int, grid: Grid, prompts: int, rows: int, dtype: torch.dtype, again: bool
) -> Cost:
    """Operations and kept bytes of `rows` target rows over `prompts` prefixes; `again` recomputes blocks."""
    layout = Layout.build([text_tokens] * prompts, grid)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = Transformer(config)
            text = torch.empty(prompts, text_tokens, config.context_in_dim)
            x, t = torch.empty(rows, grid[0] * grid[1], config.in_channels), torch.empty(rows)
            model.gradient_checkpointing = again
            kept = _Kept(model)
            with kept, FlopCounterMode(display=False) as prefix:
                cache = model.prefill(text, layout)
            with kept, FlopCounterMode(display=False) as target:
                model.denoise(x, t, cache.repeat(rows // prompts))
            model.gradient_checkpointing = False
            block = _Kept(model)
            if again:  # while one block is recomputed, its inside is there too
                one = Transformer(dataclasses.replace(config, num_layers=1))
                block = _Kept(one)
                with block:
                    one.denoise(x, t, one.prefill(text, layout).repeat(rows // prompts))
    finally:
        torch.set_default_dtype(default)
    return Cost(
        prefix=float(prefix.get_total_flops()), rows=float(target.get_total_flops()), kept=kept.nbytes + block.nbytes
    )


def count(config: TransformerConfig) -> int:
    """Parameters of a transformer."""
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(config).parameters())


def adapter_parameters(config: TransformerConfig, rank: int) -> int:
    """Parameters of one adapter of the blocks' linear layers."""
    with torch.device("meta"):
        blocks = Transformer(config).transformer_blocks
    return sum(rank * sum(m.weight.shape) for m in blocks.modules() if isinstance(m, torch.nn.Linear))


def report(estimate: Estimate, speed: float) -> str:
    """Lines of text; `speed` is in 10^12 operations a second, of those that are really reached."""
    lines = [f"{name:<42} {value:8.2f} GiB" for name, value in estimate.memory.items()]
    lines.append(f"{'in all':<42} {sum(estimate.memory.values()):8.2f} GiB")
    lines.append(f"{'operations a step':<42} {estimate.teraflops:8.1f} x 10^12")
    hours = estimate.hours(speed)
    lines.append(f"{f'{estimate.steps} steps at {speed:g} x 10^12 a second':<42} {hours:8.2f} hours")
    return "\n".join([*lines, *(f"({note})" for note in estimate.notes)])


def estimate_recipe(
    path: Path, overrides: list[str], text_tokens: int, speed: float
) -> tuple[Estimate, dict[str, Any]]:
    """The estimate of a distillation recipe, and the same as plain data."""
    found = estimate_distillation(load_recipe(DistillRecipe, path, overrides), text_tokens)
    return found, dataclasses.asdict(found) | {"speed": speed, "hours": found.hours(speed)}


class _Kept:
    """Counts the bytes that autograd keeps, each storage once and parameters not at all."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._own = {p.untyped_storage()._cdata for p in model.parameters()}
        self._found: dict[int, tuple[int, Tensor]] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def nbytes(self) -> int:
        return sum(size for size, _ in self._found.values())

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._found[storage._cdata] = (storage.nbytes(), tensor)  # the tensor keeps the number from being reused
        return tensor


def _operations(recipe: DistillRecipe, cost: Cost) -> float:
    """Of one step: every fake-score update draws anew, the student's update asks all three models."""
    train = 2 + (not recipe.lora_rank) + recipe.gradient_checkpointing  # adapters spare the gradients of weights
    draw = (len(recipe.sigmas) - 1) / 2 + 1
    prompts = recipe.batch_size
    rows = prompts * recipe.draws
    nothing = cost.prefix / prompts * rows if recipe.guidance != 1 else 0.0  # no longer than a prompt
    teacher = cost.prefix + cost.rows + (nothing + cost.rows if recipe.guidance != 1 else 0.0)
    fake = recipe.fake_updates * (draw * cost.rows + train * (cost.prefix + cost.rows))
    student = (draw - 1) * cost.rows + train * (cost.prefix + cost.rows) + cost.prefix + cost.rows + teacher
    return cost.prefix + fake + student


def _teacher(recipe: DistillRecipe) -> tuple[TransformerConfig, int, ModelInfo, tuple[str, ...]]:
    """Shape, frozen parameters beside the transformer, its own defaults, and notes."""
    local = Path(recipe.teacher)
    try:
        folder = find_model(local)
    except CheckpointError:
        if recipe.teacher.count("/") != 1:  # a folder that is yet to be trained; a hub id is owner/name
            raise
        with torch.device("meta"):
            vae = sum(p.numel() for p in Autoencoder(AutoencoderConfig()).parameters())
        note = f"{recipe.teacher} is not here; the published shape of Qwen-Image-2.1 stands in"
        return TransformerConfig(), TEXT_ENCODER + vae, ModelInfo(), (note,)
    folders = lineage(folder)
    files = {part: folders[-1] / part / "config.json" for part in ("transformer", "vae")}
    config = TransformerConfig.from_dict(read_json(files["transformer"]), str(files["transformer"]))
    rest = [p for part in ("text_encoder", "vae") for p in (folders[-1] / part).rglob("*.safetensors")]
    factor = AutoencoderConfig.from_json(read_json(files["vae"]), files["vae"]).factor
    return config, sum(map(_elements, rest)), dataclasses.replace(read_info(folder), factor=factor), ()


def _elements(file: Path) -> int:
    """How many numbers a safetensors file holds, whatever their type."""
    with open_tensors(file) as tensors:
        return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
