"""A checkpoint of the published configuration with random weights, in the published layout, written shard by shard.

No shard but the one under way is in memory. Values are cut from one pool of normal numbers, each tensor from a place of
its own and scaled so that what passes through 32 layers stays finite: time, memory and layout do not depend on them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.files import write_json
from fourstroke.flow.schedule import ScheduleConfig
from fourstroke.folder import ModelInfo, write_info
from fourstroke.text import templates, train_tokenizer, vision
from fourstroke.text.encoder import save_processor
from fourstroke.vae import Autoencoder, AutoencoderConfig

SHARD = 2 * 10**9
"""Bytes of a shard, about."""
WORDS = ["a", "cat", "on", "the", "couch", "to", "the", "left", "of", "one", "red", "circle", "under", "a", "tree"]
DONE = "complete.json"


def write_checkpoint(folder: Path, tiny: bool = False, transformer: TransformerConfig | None = None) -> dict[str, int]:
    """Write all parts, unless they are there, the transformer in any shape; returns the parameters of each."""
    done = folder / DONE
    if done.exists():
        return json.loads(done.read_text())
    tokenizer = train_tokenizer([" ".join(WORDS)] * 8, 600)
    with torch.device("meta"):
        model = Transformer(transformer or _transformer(tiny))
        autoencoder = Autoencoder(_autoencoder(tiny))
        text = Qwen3VLForConditionalGeneration(_text(tokenizer, tiny))
    counts = {}
    for name, part, weights in (
        ("transformer", model, "diffusion_pytorch_model"),
        ("text_encoder", text, "model"),
        ("vae", autoencoder, "diffusion_pytorch_model"),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        counts[name] = write_weights(part, folder / name, weights, sharded=name != "vae", tiny=tiny)
    write_json(
        folder / "transformer" / "config.json",
        {"_class_name": "QwenImage21Transformer2DModel", **vars(model.config)},
    )
    write_json(folder / "vae" / "config.json", autoencoder.config.to_json())
    text.config.architectures = ["Qwen3VLForConditionalGeneration"]
    text.config.save_pretrained(folder / "text_encoder")
    (folder / "processor").mkdir(exist_ok=True)
    save_processor(tokenizer, vision.image_processor(vision.SLOT_SIZE**2), folder / "processor")
    ScheduleConfig().save_pretrained(folder / "scheduler")
    write_info(folder, ModelInfo(name="tiny" if tiny else "real-size"))
    write_json(done, counts)
    return counts


def write_weights(model: nn.Module, folder: Path, name: str, sharded: bool, tiny: bool) -> int:
    """Write a model of the meta device as bfloat16 shards with their index; returns its parameters."""
    limit = 10**5 if tiny else SHARD
    shards = [*_shards(model.state_dict(), limit if sharded else 10**12)]
    names = [f"{name}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if sharded else [f"{name}.safetensors"]
    pool = torch.randn(2**16 if tiny else 2**24, generator=torch.Generator().manual_seed(0))
    index: dict[str, str] = {}
    for file, tensors in zip(names, shards, strict=True):
        filled = {key: _filled(key, tensor, pool) for key, tensor in tensors.items()}
        save_file(filled, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(filled, file)
        print(f"{folder.name}/{file}", file=sys.stderr)
    total = sum(tensor.numel() for tensors in shards for tensor in tensors.values())
    if sharded:
        write_json(
            folder / f"{name}.safetensors.index.json", {"metadata": {"total_size": 2 * total}, "weight_map": index}
        )
    return total


def prompt_of(tokenizer: Any, tokens: int) -> str:
    """Words of exactly so many tokens."""
    text = ""
    for turn in range(10 * tokens):
        longer = f"{text} {WORDS[turn % len(WORDS)]}".strip()
        count = len(tokenizer(longer)["input_ids"])
        if count > tokens:
            break
        text = longer
    while len(tokenizer(text)["input_ids"]) < tokens:
        text += "."
    assert len(tokenizer(text)["input_ids"]) == tokens
    return text


def _transformer(tiny: bool) -> TransformerConfig:
    if not tiny:
        return TransformerConfig()
    return TransformerConfig(
        num_layers=3, num_attention_heads=2, attention_head_dim=64, axes_dims_rope=(16, 24, 24), context_in_dim=128
    )


def _autoencoder(tiny: bool) -> AutoencoderConfig:
    statistics = {"latents_mean": (0.0,) * 64, "latents_std": (1.0,) * 64}
    return AutoencoderConfig(base_dim=8, decoder_base_dim=8, **statistics) if tiny else AutoencoderConfig(**statistics)


def _text(tokenizer: PreTrainedTokenizerFast, tiny: bool) -> Qwen3VLConfig:
    """Qwen3-VL-8B's shape; ids are those of the tokenizer that is here."""
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    text = {
        "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
        },
    }  # fmt: skip
    picture = {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    }  # fmt: skip
    if tiny:
        text |= {
            "vocab_size": 700, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
        }  # fmt: skip
        text["rope_parameters"] |= {"mrope_section": [12, 10, 10]}  # type: ignore[operator]
        picture |= {
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        }  # fmt: skip
    return Qwen3VLConfig(
        image_token_id=tokenizer.convert_tokens_to_ids(templates.IMAGE_TOKEN),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        tie_word_embeddings=False,
        text_config=text,
        vision_config=picture | {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
        dtype="bfloat16",
        **ids,
    )


def _shards(tensors: dict[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Tensors in their order, about `limit` bytes of bfloat16 in each part."""
    shard: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if shard and 2 * sum(t.numel() for t in shard.values()) + 2 * tensor.numel() > limit:
            yield shard
            shard = {}
        shard[key] = tensor
    yield shard


def _filled(name: str, like: Tensor, pool: Tensor) -> Tensor:
    """Values for a tensor: scales of norms are one, biases zero, the rest normal with deviation fan-in^-0.5."""
    if like.ndim <= 1 or name.endswith("gamma"):
        zero = name.endswith("bias") or "text_norm" in name
        return torch.full(like.shape, 0.0 if zero else 1.0, dtype=torch.bfloat16)
    start, count = hash_of(name) % (len(pool) // 2), like.numel()
    values = (pool[start : start + count] / math.sqrt(math.prod(like.shape[1:]))).bfloat16()
    return values.repeat(-(-count // len(values)))[:count].view(like.shape)


def hash_of(name: str) -> int:
    """A number for a name, the same in every process."""
    return sum((i + 1) * byte for i, byte in enumerate(name.encode())) * 7919
