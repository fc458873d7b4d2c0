"""A pipeline's parts from a checkpoint, its adapters and single files: checked against memory, then placed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourstroke.checkpoint import CheckpointError
from fourstroke.choices import Offload, Quantize
from fourstroke.device import Device, find_device, weights_dtype
from fourstroke.dit import Transformer
from fourstroke.flow.schedule import ScheduleConfig
from fourstroke.folder import ADAPTER, ADAPTER_WEIGHTS, ENHANCER, find_model, lineage, part, read_info
from fourstroke.lora import merge, read_lora
from fourstroke.memory import GIB, MemoryWarning, ModelSize, check_memory
from fourstroke.offload import place_transformer
from fourstroke.quantized import GROUP
from fourstroke.single_file import PartFile
from fourstroke.text import TextEncoder
from fourstroke.vae import Autoencoder


def load_parts(
    model: str | Path | None,
    dtype: torch.dtype | str | None,
    device: Device | None,
    quantize: Quantize | None,
    offload: Offload,
    files: Mapping[str, str | Path | None],
    file_cache: float | None = None,
) -> dict[str, Any]:
    """What a `Pipeline` is made of, by the names of its arguments; see `Pipeline.from_pretrained`.

    Raises:
        CheckpointError: a folder or file is missing or damaged, or parts do not fit each other.
        DoesNotFit: there is too little memory.
        ValueError: for a device that this machine does not have, or a dtype that is none.
    """
    device = find_device(device)
    if dtype is None and (quantize or offload != "none"):
        dtype = torch.bfloat16
    dtype = weights_dtype(dtype, device)
    if file_cache is not None and device.type != "cpu":
        raise ValueError(f"file_cache is for weights that are read from their files on a CPU, not on {device.type}")
    folders = lineage(find_model(model))
    info, schedule = read_info(folders[0]), ScheduleConfig.from_pretrained(part(folders, "scheduler"))
    base, enhancer = folders[-1], part(folders, ENHANCER)
    single = {name: PartFile.read(file, name) for name, file in files.items() if file is not None}
    if "transformer" in single and len(folders) > 1:
        raise CheckpointError(
            f"{folders[0]} is an adapter of {base}, and {single['transformer'].path} would take the place of what it "
            "adapts: name the whole model, and the adapter as a lora"
        )
    size = ModelSize.read(base, info, single)
    if quantize == "int4" and size.config.width % (2 * GROUP):
        raise ValueError(
            f"int4 keeps numbers in pairs of {GROUP}, and {info.name}'s rows have {size.config.width}: take int8"
        )
    if said := check_memory(size, device, dtype, quantize, offload):
        warnings.warn(said, MemoryWarning, stacklevel=4)

    def weights(name: str, method: str | None = None) -> tuple[Path, Mapping[str, Tensor]] | None:
        file = single.pop(name, None)
        return None if file is None else (file.path, file.tensors(dtype, method))

    cpu = torch.device("cpu")
    given = weights("transformer", quantize)
    transformer = Transformer.from_pretrained(base / "transformer", dtype=None, weights=given)
    merge(transformer, [read_lora(f / ADAPTER / ADAPTER_WEIGHTS, transformer) for f in folders[:-1]], dtype)
    limit = None if file_cache is None else int(file_cache * GIB)
    place_transformer(transformer, dtype, device, quantize, offload, limit)  # rounded after adapters are added
    autoencoder = Autoencoder.from_pretrained(
        base / "vae", dtype=dtype, device=device if offload == "none" else cpu, weights=weights("vae")
    )
    kept = "int8" if quantize == "w8a8" else quantize  # a language model's activations have outliers
    method = kept if offload == "none" else None
    text_encoder = TextEncoder.from_pretrained(
        base / "text_encoder", base / "processor", dtype=dtype, device=device, quantize=method, offload=offload,
        weights=weights("text_encoder", method),
    )  # fmt: skip
    try:
        check_parts(transformer, autoencoder, text_encoder)
    except ValueError as error:
        raise CheckpointError(f"{base / 'transformer'}: {error}") from None
    return {
        "transformer": transformer,
        "autoencoder": autoencoder,
        "text_encoder": text_encoder,
        "schedule": schedule,
        "info": info,
        "enhancer": enhancer if (enhancer / "config.json").exists() else None,
        "offload": offload,
    }


def check_parts(transformer: Transformer, autoencoder: Autoencoder, text_encoder: TextEncoder) -> None:
    """Raise ValueError unless the parts read what the others make."""
    own, latents, width = transformer.config, autoencoder.config.z_dim, text_encoder.width
    drawn = own.out_channels or own.in_channels
    for ours, theirs, problem in (
        (own.patch_size, 1, f"has patch_size {own.patch_size}, and a token is one latent here"),
        (
            own.in_channels,
            latents,
            f"draws latents of {own.in_channels} channels, and the autoencoder's have {latents}",
        ),
        (drawn, latents, f"has out_channels {drawn}, and the autoencoder's latents have {latents}"),
        (
            own.context_in_dim,
            width,
            f"has context_in_dim {own.context_in_dim}, and the text encoder's width is {width}",
        ),
    ):
        if ours != theirs:
            raise ValueError(f"the transformer {problem}")
