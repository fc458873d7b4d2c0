"""A part of a model as one file by ComfyUI's names, and files as the parts of a model; weights are streamed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fourstroke.checkpoint import CheckpointError, check_fit, map_tensors, read_json, read_quantization
from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.files import FolderError, atomic_file, model_folder, user_path, write_json
from fourstroke.folder import INDEX, find_model, lineage
from fourstroke.mapped import Pending
from fourstroke.memory import PARTS
from fourstroke.pretrained import readable
from fourstroke.progress import Progress
from fourstroke.single_file import PartFile, by_comfy_names, is_single_file, read_parts, spread
from fourstroke.streamed import write_tensors
from fourstroke.vae import Autoencoder, AutoencoderConfig

MIB = 2**20


def convert(paths: Sequence[str | Path], base: str | Path | None, part: str, fp8: bool = False) -> Path:
    """`to_folder` for files, a new folder and a `base`; `to_file` for a model and a new file.

    Raises:
        ValueError: for paths that are neither.
    """
    *sources, out = paths
    if sources and base is not None and not fp8 and all(map(is_single_file, sources)) and not is_single_file(out):
        return to_folder(sources, out, base)
    if len(sources) == 1 and base is None and is_single_file(out) and not is_single_file(sources[0]):
        return to_file(sources[0], out, part, fp8)
    raise ValueError(
        "say MODEL FILE.safetensors (perhaps --fp8), or FILE... FOLDER --base MODEL, which has config and other parts"
    )


def to_file(model: str | Path | None, out: str | Path, part: str = "transformer", fp8: bool = False) -> Path:
    """Write a part of a model as one file that ComfyUI loads; numbers in fewer bits are spread out as bfloat16.

    Args:
        model: folder, hub id, or name of a bundled model; no adapter of another.
        out: a new file, `.safetensors`.
        part: "transformer", "text_encoder" or "vae".
        fp8: keep the matrices of the part's blocks in fp8 with one scale each; not for the autoencoder.

    Raises:
        CheckpointError: the model is missing or damaged, or an adapter.
        FolderError: the file is there already.
        ValueError: fp8 of the autoencoder.
    """
    if fp8 and part == "vae":
        raise ValueError("fp8 is for the transformer and the text encoder: an autoencoder is convolutions")
    path, folder = user_path(out), _whole(model)
    if path.exists():
        raise FolderError(f"{path} is there already; name a new file")
    weights = by_comfy_names(spread(map_tensors(folder / part, PARTS[part])), part, fp8)
    with atomic_file(path) as partial:
        _write(partial, weights, path.name)
    return path


def to_folder(files: Sequence[str | Path], out: str | Path, base: str | Path) -> Path:
    """Write a whole model: parts from files, and what is left from the folder `base`.

    Args:
        files: single files of parts of it, see `single_file`; a part that several hold is the last one's.
        out: a new or empty folder, or an earlier save.
        base: folder, hub id, or name of a bundled model of the same shape; no adapter of another.

    Raises:
        CheckpointError: a file or the base is missing, damaged or of another model; nothing was written.
        FolderError: the folder holds something else.
    """
    folder = _whole(base)
    paths = [user_path(file) for file in files]
    parts = {part: PartFile(path, part, found) for path in paths for part, found in read_parts(path).items()}
    for part, file in parts.items():
        check_fit(_shapes(folder / part, part), file.weights, file.path)
    with model_folder(out, *INDEX) as partial:
        for source in sorted(folder.iterdir()):
            if source.name in parts:
                _write_part(parts[source.name], source, partial / source.name)
            elif source.is_dir():
                shutil.copytree(source, partial / source.name)
            else:
                shutil.copy(source, partial / source.name)
    return user_path(out)


def _write_part(file: PartFile, source: Path, folder: Path) -> None:
    folder.mkdir()
    name = PARTS[file.part]
    plain = {key: [weight] for key, weight in spread(file.weights).items()}
    _write(folder / name, plain, f"{file.part}/{name}")
    for other in sorted(source.iterdir()):
        if other.name == "config.json":
            write_json(folder / other.name, read_quantization(read_json(other), other))
        elif not other.name.startswith(name.removesuffix(".safetensors")):
            shutil.copy(other, folder / other.name)


def _write(path: Path, tensors: Mapping[str, Sequence[Tensor | Pending]], said: str) -> None:
    pieces = [piece for several in tensors.values() for piece in several]
    total = sum(piece.dtype.itemsize * piece.shape.numel() for piece in pieces)
    done = 0
    with Progress(said, total // MIB, "MiB") as progress:

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            if done // MIB > progress.done:
                progress.to(done // MIB)

        write_tensors(path, tensors, on_bytes)


def _whole(model: str | Path | None) -> Path:
    """The folder of a model that is no adapter."""
    folders = lineage(find_model(model))
    if len(folders) > 1:
        raise CheckpointError(f"{folders[0]} is an adapter of {folders[-1]}; name a whole model")
    return folders[0]


def _shapes(folder: Path, part: str) -> dict[str, Any]:
    """Names and shapes of a part's weights, by its config."""
    file = folder / "config.json"
    values = read_quantization(read_json(file), file)
    model: nn.Module
    with torch.device("meta"):
        if part == "transformer":
            model = Transformer(TransformerConfig.from_dict(values, str(file)))
        elif part == "vae":
            model = Autoencoder(AutoencoderConfig.from_json(values, file))
        else:
            with readable(f"the config of {folder}"):
                model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(folder))
    shared = part == "text_encoder" and values.get("tie_word_embeddings")
    return {name: tensor for name, tensor in model.state_dict().items() if not (shared and name == "lm_head.weight")}
