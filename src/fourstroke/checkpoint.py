"""Reading and writing model folders: a `config.json` beside safetensors, plain or sharded with an index.

The layout is that of Qwen-Image-2.1 (and of diffusers), so files written here load there and the other way round.
A save is complete or absent (see `files`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fourstroke.files import atomic_folder, write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message names the file and what to do."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `CheckpointError` if the file is missing, damaged or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: is {path.parent} a model folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore the file") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object, found {type(value).__name__}")
    return value


def weight_files(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """The safetensors files of a folder: the single file, or the shards that its index lists."""
    single, index = folder / name, folder / f"{name}.index.json"
    if single.exists():
        return [single]
    if index.exists():
        shards = sorted({folder / shard for shard in read_json(index)["weight_map"].values()})
        missing = [shard.name for shard in shards if not shard.exists()]
        if missing:
            raise CheckpointError(f"{folder} lacks the shards {', '.join(missing)}; download them again")
        return shards
    raise CheckpointError(f"{single} is missing; a model folder keeps its weights there (safetensors only)")


def read_tensors(folder: Path, name: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """All tensors of a folder; a truncated or damaged file raises `CheckpointError`."""
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder, name):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    tensors[key] = file.get_tensor(key)
        except PermissionError:
            raise CheckpointError(f"{path} may not be read by this user; chmod a+r it") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or truncated ({error}); restore the file") from None
    return tensors


def load_weights(model: nn.Module, folder: Path, name: str = WEIGHTS) -> None:
    """Load a folder's tensors into `model`, strictly: names and shapes must agree, to the last one."""
    tensors, own = read_tensors(folder, name), model.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(tensors[key].shape)} in the file and {tuple(own[key].shape)} by its config"
        for key in own.keys() & tensors.keys()
        if own[key].shape != tensors[key].shape
    ]
    problems = [f"{len(missing)} missing, first {missing[0]}"] if missing else []
    problems += [f"{len(unexpected)} unknown, first {unexpected[0]}"] if unexpected else []
    problems += [f"{len(shapes)} of another shape: {sorted(shapes)[0]}"] if shapes else []
    if problems:
        raise CheckpointError(f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}")
    model.load_state_dict(tensors, strict=True, assign=any(p.is_meta for p in model.parameters()))


def save_weights(model: nn.Module, folder: Path, config: dict[str, Any], name: str = WEIGHTS) -> None:
    """Write `config.json` and the weights of `model` as `folder`, in place of what it held.

    Raises:
        WriteError: if it cannot be written; `folder` is as it was.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_folder(folder) as partial:
        save_file(tensors, partial / name, metadata={"format": "pt"})
        write_json(partial / "config.json", config)
