"""Low-rank adapters (LoRA, arXiv 2106.09685): train, read whoever's, use several at once, merge, write."""

from fourstroke.lora.adapters import (
    DEFAULT,
    LoraConfig,
    active_lora,
    add_lora,
    attach_lora,
    lora_adapters,
    lora_layers,
    lora_module,
    lora_parameters,
    lora_strengths,
    remove_lora,
    reset_lora,
    set_lora,
)
from fourstroke.lora.find import LoraSource, find_lora
from fourstroke.lora.layers import LoraAdapter, LoraLinear, LowRank, merged
from fourstroke.lora.loader import LoraLoader
from fourstroke.lora.merge import is_merged, merge, merge_lora, unmerge_lora, without_factors
from fourstroke.lora.read import read_lora
from fourstroke.lora.write import lora_state_dict, save_adapter, save_lora

__all__ = [
    "DEFAULT",
    "LoraAdapter",
    "LoraConfig",
    "LoraLinear",
    "LoraLoader",
    "LoraSource",
    "LowRank",
    "active_lora",
    "add_lora",
    "attach_lora",
    "find_lora",
    "is_merged",
    "lora_adapters",
    "lora_layers",
    "lora_module",
    "lora_parameters",
    "lora_state_dict",
    "lora_strengths",
    "merge",
    "merge_lora",
    "merged",
    "read_lora",
    "remove_lora",
    "reset_lora",
    "save_adapter",
    "save_lora",
    "set_lora",
    "unmerge_lora",
    "without_factors",
]
