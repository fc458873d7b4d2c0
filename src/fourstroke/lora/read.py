"""Reads the file of an adapter: low-rank changes of a transformer's linear layers, whoever wrote them.

Understood are the names of diffusers and PEFT (`lora_A`, `lora_B`), of ComfyUI's prefix and of kohya's scripts
(`lora_down`, `lora_up`, underscores for dots), with alpha in `.alpha` tensors, in the file's own metadata, as diffusers
writes it, or in PEFT's `adapter_config.json` beside it; alpha and rank by patterns; rank-stabilised scaling (arXiv
2312.03732). Everything else that a file may hold, such as magnitudes (DoRA) or biases, is refused by name, since an
adapter without a part of it is another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError, config_of, open_tensors, read_json
from fourstroke.lora.layers import LowRank

PREFIX = re.compile(r"(base_model\.model\.)?(model\.)?(transformer\.|diffusion_model\.|lora_unet_|lora_transformer_)?")
PART = re.compile(
    r"(?P<layer>.+)\.(?:(?P<down>lora_A(?:\.default)?|lora_down|lora\.down)\.weight"
    r"|(?P<up>lora_B(?:\.default)?|lora_up|lora\.up)\.weight|(?P<alpha>alpha))"
)
REASONS = {
    "magnitude": "magnitudes (DoRA) are not supported",
    "dora_scale": "magnitudes (DoRA) are not supported",
    "bias": "biases are not supported",
    ".diff": "full differences are not supported",
    "hada": "LoHa is not supported",
    "lokr": "LoKr is not supported",
}
DIFFUSERS_METADATA = "lora_adapter_metadata"
NOTES = frozenset(
    {"arrow_config", "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "inference_mode"}
    | {"layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size"}
    | {"revision", "runtime_config", "target_modules", "task_type"}
)
"""Keys of PEFT's config that say how an adapter was trained, or what its tensors tell as well."""


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """The keys of PEFT's `LoraConfig` that decide what a file's factors are multiplied with."""

    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    def __post_init__(self) -> None:
        given = self.r is not None or self.lora_alpha is not None or self.rank_pattern or self.alpha_pattern
        if (given or self.use_rslora) and None in (self.r, self.lora_alpha):
            raise ValueError("r and lora_alpha come together; without both the adapter's strength is unknown")
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} cannot be read: {error}") from None

    def rank(self, layer: str) -> int | None:
        """The rank of a layer's factors; None if there is no config."""
        return _by_pattern(self.rank_pattern, layer, self.r)

    def scale(self, layer: str, rank: int) -> float:
        """What B A is multiplied with: alpha / rank, or alpha / sqrt(rank); 1 if there is no config."""
        alpha = _by_pattern(self.alpha_pattern, layer, self.lora_alpha)
        return 1.0 if alpha is None else alpha / (rank**0.5 if self.use_rslora else rank)


def read_lora(file: Path, model: nn.Module) -> dict[str, LowRank]:
    """The changes of `model`'s linear layers, by name, that a safetensors file holds.

    Raises:
        CheckpointError: the file is missing or damaged, or has any part that is not understood or does not fit.
    """
    with open_tensors(file) as opened:
        tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        metadata: dict[str, str] = opened.metadata() or {}
    config = _config(file, metadata)
    try:
        found = _parts(tensors, model)
        alphas = [key for key in tensors if key.endswith(".alpha")]
        if alphas and config != PeftConfig():
            raise ValueError("has alpha both as tensors and in its config; keep one of them")
        network = metadata.get("ss_network_alpha")  # a note of kohya's scripts, which write the tensors as well
        if network is not None and not alphas and network != metadata.get("ss_network_dim"):
            raise ValueError(f"has no .alpha tensors, but ss_network_alpha {network} in its metadata")
        return {layer: _change(layer, parts, config, model) for layer, parts in found.items()}
    except ValueError as error:
        raise CheckpointError(f"the adapter {file} {error}") from None


def _parts(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """`down`, `up` and perhaps `alpha` of each layer; every tensor is one of them."""
    if not tensors:
        raise ValueError("holds no tensor")
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names = {name.replace(".", "_"): name for name in layers} | {name: name for name in layers}
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = PART.fullmatch(key)
        if match is None:
            reason = next((why for word, why in REASONS.items() if word in key), "it is no part of a LoRA")
            raise ValueError(f"has {key}: {reason}")
        bare = PREFIX.sub("", match["layer"], count=1)
        if bare not in names:
            reason = "only the transformer can be adapted" if "text" in bare else "this model has no such linear layer"
            raise ValueError(f"has {key}: {reason}")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ValueError(f"has {key}: its values are not finite numbers")
        part = next(part for part, text in match.groupdict().items() if text and part != "layer")
        if found.setdefault(names[bare], {}).setdefault(part, tensor) is not tensor:
            raise ValueError(f"has {key}: another tensor is the same part of {names[bare]}")
    return found


def _change(layer: str, parts: Mapping[str, Tensor], config: PeftConfig, model: nn.Module) -> LowRank:
    if missing := {"down", "up"} - parts.keys():
        raise ValueError(f"is incomplete: {layer} lacks {'lora_A' if 'down' in missing else 'lora_B'}")
    down, up, weight = parts["down"], parts["up"], model.get_parameter(f"{layer}.weight")
    rank = down.shape[0] if down.ndim == 2 else 0
    shapes = tuple(down.shape), tuple(up.shape)
    if rank < 1 or shapes != ((rank, weight.shape[1]), (weight.shape[0], rank)):
        raise ValueError(f"has factors {shapes[0]} and {shapes[1]} of {layer}, which is {tuple(weight.shape)} here")
    if config.rank(layer) not in (None, rank):
        raise ValueError(f"has {layer} of rank {rank}, and of rank {config.rank(layer)} by its config")
    if "alpha" not in parts:
        return LowRank(down, up, config.scale(layer, rank))
    if parts["alpha"].numel() != 1:
        raise ValueError(f"has an alpha of {layer} that is no single number")
    return LowRank(down, up, float(parts["alpha"]) / rank)


def _config(file: Path, metadata: Mapping[str, str]) -> PeftConfig:
    """From the file's metadata, or from `adapter_config.json` beside it; where there are both they agree."""
    if strange := sorted(k for k in metadata if "alpha" in k.lower() and k != "ss_network_alpha"):
        raise CheckpointError(f"the adapter {file} has {strange[0]} in its metadata, which is not known here")
    configs = []
    if DIFFUSERS_METADATA in metadata:
        source = f"{DIFFUSERS_METADATA} of {file}"
        try:
            values = json.loads(metadata[DIFFUSERS_METADATA])
        except ValueError as error:
            raise CheckpointError(f"{source} is not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{source} should hold a JSON object, found {type(values).__name__}")
        configs.append(_config_of({k.removeprefix("transformer."): v for k, v in values.items()}, source))
    beside = file.parent / "adapter_config.json"
    if beside.exists():
        configs.append(_config_of(read_json(beside), str(beside)))
    if len(configs) == 2 and configs[0] != configs[1]:
        raise CheckpointError(f"the adapter {file} says another strength in its metadata than {beside}; keep one")
    return configs[0] if configs else PeftConfig()


def _config_of(values: Mapping[str, Any], source: str) -> PeftConfig:
    """Strictly: of PEFT's many switches those that are off pass, since they say what was not done."""
    values = {k: v for k, v in values.items() if v is not None and v is not False and v not in ({}, [])}
    starts = [True, "gaussian", "eva", "orthogonal"]  # others change the weights that the factors are added to
    only: dict[str, list[Any]] = {"peft_type": ["LORA"], "bias": ["none"], "init_lora_weights": starts}
    return config_of(PeftConfig, values, source, only=only, notes=NOTES)


def _by_pattern(patterns: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
    """The value of the first pattern that is the end of a layer's name, as PEFT finds it."""
    found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer))
    return next(found, otherwise)
