"""Needs of training the prompt enhancer: a language model, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

from fourstroke.checkpoint import CheckpointError
from fourstroke.enhance.small import SmallEnhancerConfig, sizes
from fourstroke.estimate.needs import GIB, Needs, Trained
from fourstroke.estimate.stages import Checkpoint, grid_of
from fourstroke.estimate.transformer import Precision, Work, forward_cost
from fourstroke.train.enhance_rl import EnhanceRlRecipe
from fourstroke.train.enhance_sft import EnhanceSftRecipe

LINEAR_INPUTS, GATED = 8, 4
"""Numbers a token that a block keeps: so many times its width, and so many times that of its feed-forward part."""
LOGITS = 4 + 4 + 2
"""Bytes of a token's logit: in float32, its gradient, and as it came."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """Shape of a language model."""

    parameters: int
    layers: int
    width: int
    hidden: int
    vocabulary: int
    linear: tuple[tuple[int, int], ...]
    """Inputs and outputs of the blocks' linear layers."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: PretrainedConfig, notes: tuple[str, ...] = ()) -> Language:
        """That of transformers' configuration."""
        text = config.get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text)
        linear = [
            (m.in_features, m.out_features)
            for name, m in model.named_modules()
            if isinstance(m, torch.nn.Linear) and ".layers." in name
        ]
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            hidden=text.intermediate_size,
            vocabulary=text.vocab_size,
            linear=tuple(linear),
            notes=notes,
        )

    @classmethod
    def find(cls, model: str | Path) -> Language:
        """That of a folder; for a hub id that is not here, the published shape of Qwen3.5-9B.

        Raises:
            CheckpointError: if a folder has no model.
        """
        folder = Path(model)
        if (folder / "config.json").exists():
            return cls.of(AutoConfig.from_pretrained(folder))
        if folder.exists() or str(model).count("/") != 1:
            raise CheckpointError(f"no language model at {model}: there is no config.json")
        return cls.of(Qwen3_5TextConfig(), (f"{model} is not here; the published shape of Qwen3.5-9B stands in",))

    def lora(self, rank: int) -> int:
        """Parameters of an adapter of all linear layers."""
        return rank * sum(inputs + outputs for inputs, outputs in self.linear)

    def kept(self, tokens: int, checkpointing: bool, bytes_each: int) -> float:
        """Bytes that a forward pass over so many tokens keeps, its logits included."""
        inside = (LINEAR_INPUTS * self.width + GATED * self.hidden) * bytes_each
        blocks = self.layers * self.width * bytes_each + inside if checkpointing else self.layers * inside
        return tokens * (blocks + LOGITS * self.vocabulary)


def sft_needs(recipe: EnhanceSftRecipe, text_tokens: int = 400, ranks: int = 1) -> Needs:
    """The needs of a fine-tuning whose longest samples are as long as the recipe lets them be."""
    if recipe.base is not None:
        model = Language.find(recipe.base)
    else:
        model = Language.of(Qwen3_5TextConfig(**sizes(recipe.model or SmallEnhancerConfig())))
    lora = None if recipe.lora is None else recipe.lora.rank
    half = 2 if lora else 4
    memory, trained = _trained(model, lora, half, recipe.optimizer)
    longest = recipe.batch_size * recipe.max_length
    memory |= trained.passing(model.kept(longest, recipe.checkpointing, half), recipe.accumulate)
    tokens = recipe.batch_size * recipe.accumulate * text_tokens
    passes = 2 + (lora is None) + recipe.checkpointing
    note = f"{recipe.batch_size} samples of up to {recipe.max_length} tokens in memory; {text_tokens} on average"
    return Needs(
        memory=memory,
        teraflops=2 * model.parameters * tokens * passes / 1e12,
        steps=recipe.run.steps,
        ranks=ranks,
        notes=(*model.notes, note),
    )


def rl_needs(recipe: EnhanceRlRecipe, text_tokens: int = 400, ranks: int = 1) -> Needs:
    """The needs of a reinforcement: rollouts, the pictures that they are judged by, and the policy's update."""
    model = Language.find(recipe.enhancer)
    lora = None if recipe.lora is None else recipe.lora.rank
    chosen = recipe.dtype or ("bfloat16" if lora and torch.cuda.is_available() else "float32")
    half = 2 if chosen == "bfloat16" else 4
    memory, trained = _trained(model, lora, half, "adamw")
    if lora is None and recipe.kl:
        memory["reference, frozen"] = model.parameters * half / GIB
    rows = recipe.requests * recipe.group
    length = text_tokens + recipe.max_tokens
    memory |= trained.passing(model.kept(rows * length, recipe.checkpointing, half))
    passes = 1 + 1 + 2 + (lora is None) + recipe.checkpointing  # written, read by the reference, learnt from
    operations = 2.0 * model.parameters * rows * length * passes
    notes = [*model.notes]
    if isinstance(recipe.generator, Path):
        drawn, pictures = _generator(recipe, rows, text_tokens)
        memory["generator, frozen"] = drawn
        operations += pictures
    else:
        notes.append("pictures come from a server, whose needs are its own")
    if recipe.vllm:
        notes.append(f"vLLM takes {recipe.vllm_memory:.0%} of the GPU's memory besides")
    notes.append(f"{rows} rewrites of up to {length} tokens a step")
    return Needs(memory=memory, teraflops=operations / 1e12, steps=recipe.run.steps, ranks=ranks, notes=tuple(notes))


def _trained(model: Language, lora: int | None, half: int, optimizer: Any) -> tuple[dict[str, float], Trained]:
    """Memory of the weights, frozen and trained."""
    if lora is None:
        trained = Trained(numbers=model.parameters, matrices=sum(i * o for i, o in model.linear))
        return trained.memory("enhancer", optimizer, average=False), trained
    trained = Trained(numbers=model.lora(lora))
    frozen = {"enhancer, frozen": model.parameters * half / GIB}
    return frozen | trained.memory("adapter", optimizer, average=False), trained


def _generator(recipe: EnhanceRlRecipe, rows: int, text_tokens: int) -> tuple[float, float]:
    """GiB of the generator, and operations of drawing a picture for every rewrite."""
    found = Checkpoint.find(str(recipe.generator))
    info = found.info
    grid = grid_of(info, recipe.width or info.width, recipe.height or info.height)
    work = Work(grid=grid, prompts=1, rows=1, text_tokens=text_tokens)
    cost = forward_cost(found.transformer, work, Precision(weights=torch.bfloat16, compute=torch.bfloat16))
    guided = 1 + (info.guidance_scale != 1)
    picture = guided * (cost.prefix + info.own_steps * cost.rows) + 2 * found.text * text_tokens
    with torch.device("meta"):
        numbers = sum(p.numel() for p in _parameters(found))
    size = 2 if torch.cuda.is_available() else 4
    return (numbers + found.text + found.vae) * size / GIB, rows * picture


def _parameters(found: Checkpoint) -> list[torch.Tensor]:
    from fourstroke.dit import Transformer

    return list(Transformer(found.transformer).parameters())
