"""Needs of training the transformer: whole or by LoRA, by its largest bucket."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fourstroke.checkpoint import CheckpointError, read_json
from fourstroke.dit import TransformerConfig
from fourstroke.estimate.needs import GIB, Needs, Trained
from fourstroke.estimate.stages import (
    Checkpoint,
    Sharding,
    autoencoder_parameters,
    check_text,
    compute_type,
    grid_of,
    stored_numbers,
    transformer_needs,
)
from fourstroke.estimate.transformer import Work, count
from fourstroke.folder import ModelInfo
from fourstroke.text.small import SmallTextConfig, sizes
from fourstroke.train.dit import DitRecipe
from fourstroke.vae import AutoencoderConfig


@dataclass(frozen=True)
class Parts:
    """What a run starts from: shapes, and numbers of parameters of the frozen or trained encoders."""

    transformer: TransformerConfig
    text: int
    vae: int
    info: ModelInfo
    notes: tuple[str, ...]


def dit_needs(recipe: DitRecipe, text_tokens: int = 400, ranks: int = 1) -> Needs:
    """The needs of a run whose prompts have `text_tokens` tokens; an edit has one input image of the target's size.

    Raises:
        CheckpointError: if a folder that the run starts from is not there.
        ValueError: for a number of tokens that no prompt has, or sides that hold no token.
    """
    check_text(text_tokens)
    found, sharding = _parts(recipe), Sharding(ranks=ranks)
    bf16 = compute_type(recipe.run, count(found.transformer)) == torch.bfloat16
    edits = _has_edits(recipe.data)
    largest: dict[str, float] = {}
    operations, said = 0.0, []
    for share, size, samples in _batches(recipe, found.info):
        grid = grid_of(found.info, *size)
        rows = samples * recipe.noise_samples
        inputs = (grid,) if edits else ()
        work = Work(grid=grid, prompts=samples, rows=rows, text_tokens=text_tokens, inputs=inputs)
        memory, cost = transformer_needs(
            found.transformer,
            work,
            lora=recipe.lora,
            checkpointing=recipe.gradient_checkpointing,
            bf16=bf16,
            optimizer=recipe.optimizer,
            accumulate=recipe.run.accumulate,
            sharding=sharding,
        )
        largest = max(largest, memory, key=lambda parts: sum(parts.values()))
        again = 1 / recipe.gradient_checkpointing if recipe.gradient_checkpointing else 0.0
        passes = 2 + (recipe.lora is None) + again  # a frozen weight has no gradient to compute
        encoded = 2 * found.text * text_tokens * samples * (1 if recipe.freeze_text else 3)
        operations += share * ((cost.prefix + cost.rows) * passes + encoded)
        said.append(f"{samples} samples of {size[0]} x {size[1]} pixels, {math.prod(grid)} tokens")
    memory = largest | _encoders(recipe, found, bf16)
    notes = [*found.notes, f"{text_tokens} tokens a prompt; on each rank {'; or '.join(said)}"]
    if edits:
        notes.append("edits are counted in every step, with one input image")
    return Needs(
        memory=memory,
        teraflops=operations * recipe.run.accumulate / 1e12,
        steps=recipe.run.steps,
        ranks=ranks,
        notes=tuple(notes),
    )


def _encoders(recipe: DitRecipe, found: Parts, bf16: bool) -> dict[str, float]:
    """Memory of the text encoder and the autoencoder, which every rank has whole."""
    frozen = 2 if bf16 else 4
    if recipe.freeze_text:
        return {"text encoder and autoencoder, frozen": (found.text + found.vae) * frozen / GIB}
    text = Trained(numbers=found.text).memory("text encoder", recipe.optimizer.kind)
    return {"autoencoder, frozen": found.vae * frozen / GIB, **text}


def _batches(recipe: DitRecipe, info: ModelInfo) -> Iterator[tuple[float, tuple[int, int], int]]:
    """Share of the steps, size and number of samples on each rank, of every area."""
    if recipe.buckets is None:
        yield 1.0, (info.width, info.height), recipe.batch_size
        return
    counts = recipe.batch_sizes or (recipe.batch_size,) * len(recipe.buckets.areas)
    for share, side, samples in zip(recipe.buckets.shares(), recipe.buckets.areas, counts, strict=True):
        yield share, (side, side), samples


def _parts(recipe: DitRecipe) -> Parts:
    """Shapes of the checkpoint and of what takes the place of its parts."""
    start = None if recipe.init is None else Checkpoint.find(recipe.init)
    config = start.transformer if start else recipe.model
    info = recipe.info or (start.info if start else None) or ModelInfo()
    assert config is not None
    if recipe.text_from is not None:
        text = stored_numbers(recipe.text_from / "text_encoder")
    elif start is not None:
        text = start.text
    else:
        assert recipe.text is not None
        text = text_parameters(recipe.text)
    vae = start.vae if start else 0
    if recipe.vae is not None:
        file = recipe.vae / "config.json"
        if not file.exists():
            raise CheckpointError(f"no autoencoder at {recipe.vae}: there is no config.json")
        own = AutoencoderConfig.from_json(read_json(file), file)
        vae, info = autoencoder_parameters(own), _with_factor(info, own.factor)
    elif start is not None:
        info = _with_factor(info, start.info.factor)
    return Parts(config, text, vae, info, start.notes if start else ())


def _with_factor(info: ModelInfo, factor: int) -> ModelInfo:
    return dataclasses.replace(info, factor=factor)


def text_parameters(config: SmallTextConfig) -> int:
    """Parameters of a small text encoder."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    parts: dict[str, Any] = sizes(config)
    text = {"vocab_size": config.vocab_size, "tie_word_embeddings": True, **parts["text_config"]}
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(tie_word_embeddings=True, text_config=text, vision_config=parts["vision_config"])
        )
    return sum(p.numel() for p in model.parameters())


def _has_edits(data: Any) -> bool:
    """Whether a dataset's kind, or that of a part of a mixture, is one of edits."""
    parts = [part.data for part in getattr(data, "parts", ())]
    return "edit" in getattr(data, "kind", "") or any(map(_has_edits, parts))
