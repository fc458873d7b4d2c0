"""Names of weights as ComfyUI has them, and as our folders have them, which are diffusers' and transformers'.

From ComfyUI 0.37 (`comfy/sd.py`, `comfy/ldm/qwen_image21`, `comfy/ldm/wan/vae2_2.py`) and the files of
Comfy-Org/Qwen-Image-2.1:

- the transformer's gate and projection are one matrix there, `img_mlp.gate_up`, the gate's rows first;
- the text encoder's `model.language_model.` is `model.`;
- the autoencoder has the names of Wan's, and what convolves over time there keeps a time axis of one;
- in a checkpoint of all parts each has a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PREFIXES = {
    "transformer": r"(?:model\.)?diffusion_model\.",
    "text_encoder": r"text_encoders\.\w+\.(?:transformer\.)?",
    "vae": r"(?:vae|first_stage_model)\.",
}
"""Of a part's names in a checkpoint of several parts."""
SIGNS = {
    "transformer": "txt_in.text_norm.weight",
    "text_encoder": "model.visual.deepstack_merger_list.0.norm.weight",
    "vae": "decoder.mid_block.resnets.0.norm1.gamma",
}
"""A tensor that tells a part of this family, by our names."""
FUSED, HALVES = ".img_mlp.gate_up.", (".img_mlp.gate_layer.", ".img_mlp.proj.")
RESIDUAL = {
    "norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}  # fmt: skip
"""Layers of a residual block, ours and Wan's, which numbers activations too."""
WAN = {"quant_conv.": "conv1.", "post_quant_conv.": "conv2."} | {
    f"{side}.{ours}.": f"{side}.{wan}."
    for side in ("encoder", "decoder")
    for ours, wan in (
        ("conv_in", "conv1"), ("norm_out", "head.0"), ("conv_out", "head.2"),
        ("mid_block.resnets.0", "middle.0"), ("mid_block.attentions.0", "middle.1"),
        ("mid_block.resnets.1", "middle.2"),
    )
}  # fmt: skip
"""Starts of names, ours and Wan's."""


def parts_of(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of this family that a file holds, each with its tensors by our names.

    Args:
        tensors: by the names of the file; what stands for one has a shape, and rows that can be cut.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner = next((part for part, prefix in PREFIXES.items() if re.match(prefix, name)), "")
        groups.setdefault(owner, {})[re.sub(PREFIXES[owner], "", name, count=1) if owner else name] = tensor
    found = {part: dict(_ours(groups.get(part) or groups.get("", {}), part)) for part in PREFIXES}
    return {part: names for part, names in found.items() if SIGNS[part] in names}


def comfy_name(name: str, part: str, names: Iterable[str]) -> str:
    """ComfyUI's name for a weight of a part whose weights are called `names` here."""
    if part == "transformer":
        return re.sub("|".join(map(re.escape, HALVES)), FUSED, name)
    if part == "text_encoder":
        return name.replace("model.language_model.", "model.", 1)
    return _to_wan(name, names)


def has_time_axis(name: str) -> bool:
    """Whether a convolution of the autoencoder, by ComfyUI's name, keeps a time axis there."""
    return name.endswith(".weight") and not re.search(r"\.(?:resample|to_qkv|proj)\.", name)


def _ours(tensors: Mapping[str, Any], part: str) -> Iterator[tuple[str, Any]]:
    for name, tensor in tensors.items():
        if part == "transformer" and FUSED in name:
            rows = tensor.shape[0] // 2 if len(tensor.shape) else 0
            whole = rows == 0 or not name.endswith((".weight", ".weight_scale", ".scale_weight"))  # said of both halves
            for half, piece in zip(HALVES, (slice(None, rows), slice(rows, None)), strict=True):
                yield name.replace(FUSED, half), tensor if whole else tensor[piece]
        elif part == "text_encoder":
            inner = re.sub(r"^model\.(?=layers\.|embed_tokens\.|norm\.)", "model.language_model.", name)
            yield re.sub(r"^visual\.", "model.visual.", inner), tensor
        else:
            yield _from_wan(name) if part == "vae" else name, tensor


def _to_wan(name: str, names: Iterable[str]) -> str:
    if match := re.fullmatch(r"((\w+)\.(down|up)_blocks\.(\d+)\.)(?:down|up)sampler\.(.+)", name):
        start, side, way, stage, rest = match.groups()
        blocks = {other.split(".")[4] for other in names if other.startswith(f"{start}resnets.")}
        return f"{side}.{way}samples.{stage}.{way}samples.{len(blocks)}.{rest}"  # it follows the stage's blocks
    name = next((wan + name[len(ours) :] for ours, wan in WAN.items() if name.startswith(ours)), name)
    name = re.sub(r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1samples.\2.\1samples.", name)
    layers = "|".join(RESIDUAL)
    return re.sub(rf"(\.(?:middle|\w+samples)\.\d+)\.({layers})\.", lambda m: f"{m[1]}.{RESIDUAL[m[2]]}.", name)


def _from_wan(name: str) -> str:
    if match := re.fullmatch(r"(\w+)\.(down|up)samples\.(\d+)\.\w+samples\.\d+\.((?:resample|time_conv)\..+)", name):
        side, way, stage, rest = match.groups()
        return f"{side}.{way}_blocks.{stage}.{way}sampler.{rest}"
    name = next((ours + name[len(wan) :] for ours, wan in WAN.items() if name.startswith(wan)), name)
    name = re.sub(r"\.(down|up)samples\.(\d+)\.\w+samples\.", r".\1_blocks.\2.resnets.", name)
    layers = {wan: ours for ours, wan in RESIDUAL.items()}
    return re.sub(r"(residual\.\d|shortcut)(?=\.\w+$)", lambda m: layers.get(m[1], m[1]), name)
