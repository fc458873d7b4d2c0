"""Needs of the stages that train or distil a transformer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fourstroke.checkpoint import CheckpointError, open_tensors, read_json
from fourstroke.device import products_dtype, training_precision
from fourstroke.dit import TransformerConfig
from fourstroke.dit.layout import Grid
from fourstroke.estimate.needs import GIB, Needs, Trained
from fourstroke.estimate.transformer import (
    Cost,
    Precision,
    Work,
    block_matrices,
    block_parameters,
    count,
    count_lora,
    forward_cost,
)
from fourstroke.folder import ModelInfo, find_model, lineage, read_info
from fourstroke.lora import LoraConfig
from fourstroke.parallel.sharding import SHARD_THRESHOLD
from fourstroke.train.distill import DistillRecipe
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.vae import Autoencoder, AutoencoderConfig

MOST_TEXT = 100_000
"""Tokens of a prompt; there is no model that takes more."""
TEXT_ENCODER = 8_770_000_000
"""Parameters of Qwen3-VL-8B."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is known of a checkpoint without loading it; `text` and `vae` are numbers of parameters."""

    transformer: TransformerConfig
    text: int
    vae: int
    info: ModelInfo
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, model: str) -> Checkpoint:
        """That of a folder, or for a hub id that is not here the published shape of Qwen-Image-2.1.

        Raises:
            CheckpointError: if a folder has no checkpoint.
        """
        try:
            folder = find_model(Path(model))
        except CheckpointError:
            if model.count("/") != 1:  # a folder that is yet to be trained; a hub id is owner/name
                raise
            note = f"{model} is not here; the published shape of Qwen-Image-2.1 stands in"
            return cls(
                transformer=TransformerConfig(),
                text=TEXT_ENCODER,
                vae=autoencoder_parameters(AutoencoderConfig()),
                info=ModelInfo(),
                notes=(note,),
            )
        folders = lineage(folder)
        base = folders[-1]
        files = {part: base / part / "config.json" for part in ("transformer", "vae")}
        factor = AutoencoderConfig.from_json(read_json(files["vae"]), files["vae"]).factor
        return cls(
            transformer=TransformerConfig.from_dict(read_json(files["transformer"]), str(files["transformer"])),
            text=stored_numbers(base / "text_encoder"),
            vae=stored_numbers(base / "vae"),
            info=dataclasses.replace(read_info(folder), factor=factor),
        )


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Ranks, and which models they share: those of fewer parameters than the threshold are whole on every rank."""

    ranks: int = 1

    def parts(self, parameters: int) -> int:
        """Into how many parts a model of so many parameters is cut."""
        return self.ranks if parameters >= SHARD_THRESHOLD else 1

    def gathered(self, config: TransformerConfig, whole: int, passing: Mapping[str, float]) -> dict[str, float]:
        """GiB of what a sharded transformer has in one piece: nothing where it is whole anyway.

        While it runs these are the current block and the next, in bfloat16; at a look the first rank has `whole` bytes
        of plain models, when gradients and activations (`passing`) are gone.
        """
        if self.parts(count(config)) == 1:
            return {}
        blocks = 2 * block_parameters(config) * 2 / GIB
        beyond = whole / GIB - blocks - sum(passing.values())
        return {"blocks in one piece": blocks, "whole models of the first rank, at a look": max(0.0, beyond)}


def transformer_needs(
    config: TransformerConfig,
    work: Work,
    *,
    lora: LoraConfig | None,
    checkpointing: int,
    bf16: bool,
    optimizer: OptimizerConfig,
    accumulate: int = 1,
    sharding: Sharding | None = None,
) -> tuple[dict[str, float], Cost]:
    """Memory of training a transformer by flow matching, without the frozen models, and the cost of a forward pass.

    With `bf16` frozen weights are bfloat16 and all is multiplied in it; trained ones stay float32.
    """
    sharding = sharding or Sharding()
    half = torch.bfloat16 if bf16 else torch.float32
    weights = half if lora is not None or sharding.parts(count(config)) > 1 else torch.float32
    cost = forward_cost(config, work, Precision(weights=weights, compute=half), lora, checkpointing)
    parameters = count(config)
    parts = sharding.parts(parameters)
    if lora is None:
        trained = Trained(numbers=parameters, matrices=block_matrices(config))
        memory = trained.memory("transformer", optimizer.kind, eight_bit=optimizer.eight_bit, shards=parts)
    else:
        trained = Trained(numbers=count_lora(config, lora))
        memory = {"transformer, frozen": parameters * half.itemsize / GIB / parts}
        memory |= trained.memory("adapter", optimizer.kind, eight_bit=optimizer.eight_bit, shards=parts)
    passing = trained.passing(cost.kept, accumulate, parts)
    whole = parameters * (4 if lora is None else half.itemsize)
    return memory | passing | sharding.gathered(config, whole, passing), cost


def distill_needs(recipe: DistillRecipe, text_tokens: int = 400, ranks: int = 1) -> Needs:
    """The needs of a distillation whose prompts have `text_tokens` tokens.

    Raises:
        ValueError: for fewer tokens than 1 or more than `MOST_TEXT`, or sides that hold no token.
    """
    check_text(text_tokens)
    model, sharding = Checkpoint.find(recipe.teacher), Sharding(ranks=ranks)
    config, info = model.transformer, model.info
    sizes = (recipe.width or info.width, recipe.height or info.height), *recipe.more_sizes
    grid = max((grid_of(info, *size) for size in sizes), key=math.prod)
    frozen = getattr(torch, recipe.dtype)
    lora = LoraConfig(rank=recipe.lora_rank) if recipe.lora_rank else None
    parameters = count(config)
    parts = sharding.parts(parameters)
    half = compute_type(recipe.run, parameters)
    if lora is not None and frozen == torch.bfloat16:
        half = torch.bfloat16  # nothing else is multiplied
    weights = frozen if lora is not None else half if parts > 1 else torch.float32
    work = Work(
        grid=grid, prompts=recipe.batch_size, rows=recipe.batch_size * recipe.noise_samples, text_tokens=text_tokens
    )
    checkpointing = int(recipe.gradient_checkpointing)
    cost = forward_cost(config, work, Precision(weights=weights, compute=half), lora, checkpointing)
    own = count_lora(config, lora) if lora else parameters
    trained = Trained(numbers=own, matrices=0 if lora else block_matrices(config))
    specialists = sum(count(Checkpoint.find(str(s.model)).transformer) for s in recipe.specialists)
    memory = {
        "teacher's transformer, frozen": (parameters / parts + specialists) * frozen.itemsize / GIB,
        "text encoder and autoencoder, frozen": (model.text + model.vae) * frozen.itemsize / GIB,
        **_trained(trained, "student", recipe.student, True, parts),
        **({} if recipe.fake is None else _trained(trained, "fake score", recipe.fake, False, parts)),
    }
    passing = trained.passing(cost.kept, recipe.run.accumulate, parts)
    whole = parameters * (frozen.itemsize if lora else 4 + frozen.itemsize)  # student and, once, its teacher
    memory |= passing | sharding.gathered(config, whole, passing)
    if recipe.warm is not None:
        more = _trained(trained, "warm-up", recipe.warm.optimizer, False, parts)
        memory["warm-up, moments of the optimiser"] = more["warm-up, moments of the optimiser"]
    said = f"{text_tokens} tokens a prompt, {grid[0]} x {grid[1]} image tokens, {work.rows} rows a step"
    operations = distill_operations(recipe, cost) + 2 * model.text * text_tokens * recipe.batch_size
    return Needs(
        memory=memory,
        teraflops=operations * recipe.run.accumulate / 1e12,
        steps=recipe.run.steps,
        ranks=ranks,
        notes=(*model.notes, said),
    )


def _trained(trained: Trained, name: str, optimizer: OptimizerConfig, average: bool, shards: int) -> dict[str, float]:
    return trained.memory(name, optimizer.kind, average=average, eight_bit=optimizer.eight_bit, shards=shards)


def distill_operations(recipe: DistillRecipe, cost: Cost) -> float:
    """Of one step: every fake-score update draws anew, the student's update asks all models.

    A backward pass costs two forward passes, with adapters a little more than one: frozen weights have no gradient.
    The prefix of the teacher's empty prompt is computed once a run.
    """
    train = 2 + (not recipe.lora_rank) + recipe.gradient_checkpointing
    draw = (len(recipe.sigmas) - 1) / 2 + 1
    teacher = cost.prefix + cost.rows * (1 + (recipe.guidance != 1))
    student = (draw - 1) * cost.rows + train * (cost.prefix + cost.rows)
    if recipe.fake is None:
        substeps = getattr(recipe.objective, "substeps", 1)
        return 2 * cost.prefix + student + substeps * (teacher - cost.prefix)
    fake = recipe.fake_updates * (draw * cost.rows + train * (cost.prefix + cost.rows))
    return cost.prefix + fake + student + cost.prefix + cost.rows + teacher


def compute_type(run: RunConfig, parameters: int) -> torch.dtype:
    """What matrices are multiplied in: as the run says, and if it leaves that open bfloat16 on GPUs.

    A model as large as those that are sharded is taken to run on them, wherever it is estimated.
    """
    gpu = torch.cuda.is_available() or parameters >= SHARD_THRESHOLD
    with training_precision(run.precision):
        return products_dtype(torch.device("cuda" if gpu else "cpu"))


def check_text(text_tokens: int) -> None:
    """Refuse numbers of tokens that no prompt has."""
    if not 1 <= text_tokens <= MOST_TEXT:
        raise ValueError(f"{text_tokens} text tokens a prompt: choose 1 to {MOST_TEXT}")


def grid_of(info: ModelInfo, width: int, height: int) -> Grid:
    """(rows, columns) of latents; raises ValueError for sides that hold none."""
    grid = info.grid(width, height)
    if not all(grid):
        raise ValueError(f"width and height hold no token; choose {info.factor} pixels or more")
    return grid


def autoencoder_parameters(config: AutoencoderConfig) -> int:
    """Parameters of an autoencoder."""
    with torch.device("meta"):
        return sum(p.numel() for p in Autoencoder(config).parameters())


def stored_numbers(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold, whatever their type."""
    found = 0
    for file in sorted(folder.rglob("*.safetensors")):
        with open_tensors(file) as tensors:
            found += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return found
