"""Models and tokenizers of transformers, read from a folder so that every failure is one line that names it.

transformers reads files that are damaged or do not fit each other with whatever error comes of it, or with none: a
config of another model, weights of another shape. What can be told before it reads is told here, in our words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fourstroke.checkpoint import CheckpointError, map_tensors, open_tensors, read_json, weight_files
from fourstroke.quantized import QuantizedWeight

WEIGHTS = "model.safetensors"


def load_model(kind: Any, folder: Path, dtype: torch.dtype, surplus: bool = False) -> PreTrainedModel:
    """A model of the class `kind`, on the CPU; its weights fit its config to the last tensor.

    Args:
        kind: a class of transformers with `from_pretrained`.
        folder: holds `config.json` and safetensors.
        dtype: of the weights.
        surplus: accept tensors that the model does not have.

    Raises:
        CheckpointError: a file is missing or damaged, or weights and config disagree.
    """
    _check_json(folder, "config.json")
    for path in weight_files(folder, WEIGHTS):
        with open_tensors(path):
            pass
    return load_fitting(kind, folder, surplus, dtype=dtype, local_files_only=True)


def map_model(
    kind: Any, folder: Path, weights: tuple[Path, Mapping[str, torch.Tensor]] | None = None
) -> PreTrainedModel:
    """As `load_model`, with the mapped tensors themselves as weights: nothing is read until it is used, or placed.

    `weights` of another file take the place of the folder's.

    Raises:
        CheckpointError: a file is missing or damaged, or weights and config disagree.
    """
    _check_json(folder, "config.json")
    source, given = (folder, map_tensors(folder, WEIGHTS)) if weights is None else weights
    tensors = dict(given)
    few = {key: weight for key, weight in tensors.items() if isinstance(weight, QuantizedWeight)}
    tensors |= {key: torch.zeros((), dtype=weight.dtype).expand(weight.shape) for key, weight in few.items()}
    dtypes = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    with readable(f"the config of {folder}"):
        config = kind.config_class.from_pretrained(folder)
    common = max(set(dtypes), key=dtypes.count) if dtypes else torch.float32
    model = load_fitting(
        kind, source, False, pretrained_model_name_or_path=None, config=config, state_dict=tensors, dtype=common
    )
    for key, weight in few.items():
        path, _, name = key.rpartition(".")
        setattr(model.get_submodule(path), name, nn.Parameter(weight, requires_grad=False))
    return model


def load_fitting(kind: Any, name: str | Path, surplus: bool = True, **options: Any) -> PreTrainedModel:
    """As `load_model`, from a folder or hub id, with further options of `from_pretrained`."""
    options = {"pretrained_model_name_or_path": name, "use_safetensors": True} | options
    with readable(f"the model {name} (config.json, {WEIGHTS})"):
        model, report = kind.from_pretrained(output_loading_info=True, ignore_mismatched_sizes=True, **options)
    wrong = sorted(report["missing_keys"]) + ([] if surplus else sorted(report["unexpected_keys"]))
    wrong += [
        f"{key}, {tuple(found)} in the file and {tuple(own)} by its config"
        for key, found, own in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise CheckpointError(f"the weights in {name} do not fit its config.json, first {wrong[0]}")
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; raises `CheckpointError` if a file of it is missing or damaged."""
    _check_json(folder, "tokenizer_config.json")
    if not (folder / "vocab.json").exists():
        read_json(folder / "tokenizer.json")
    with readable(f"the tokenizer in {folder} (tokenizer.json, tokenizer_config.json)"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn any error of the block, which reads files by transformers, into a `CheckpointError` of one line."""
    try:
        yield
    except Exception as error:  # all kinds come out of there; tokenizers raises Exception itself
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{what} cannot be read ({type(error).__name__}: {reason}); restore it") from None


def _check_json(folder: Path, needed: str) -> None:
    """Every JSON file of a folder is an object, and the one that is needed is there."""
    read_json(folder / needed)
    for path in sorted(folder.glob("*.json")):
        read_json(path)
