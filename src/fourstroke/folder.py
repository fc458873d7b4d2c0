"""A model's folder: where it is, and what its `model_index.json` says.

It is laid out like Qwen-Image-2.1's; `model_index.json` may carry the group `fourstroke` with the model's own defaults
(`ModelInfo`), and `sample_sigmas`, the fixed grid of a distilled student. One with `lora/` is an adapter of another,
whose folder it names; what it lacks is taken from there.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstroke.checkpoint import CheckpointError, config_of, read_json
from fourstroke.files import user_path, write_json
from fourstroke.flow.schedule import fixed_sigmas
from fourstroke.ranges import Count, NonNegative, PositiveFraction, check_ranges

INDEX = ("model_index.json", "fourstroke")
"""The file by which a checkpoint of ours is known, and its key."""
ENHANCER = "prompt_enhancer"
ADAPTER, ADAPTER_WEIGHTS = "lora", "pytorch_lora_weights.safetensors"
PIPELINE = "QwenImage21Pipeline"
PARTS = {
    "processor": ["transformers", "Qwen3VLProcessor"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
    "transformer": ["diffusers", "QwenImage21Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage21"],
}
"""The class names under which diffusers and transformers know a model's parts."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A checkpoint's own defaults; those here are Qwen-Image-2.1's.

    `factor` is the pixels of a latent along each side. It is the autoencoder's own: a pipeline sets it, and no file but
    `vae/config.json` holds it.
    """

    name: str = "qwen-image-2.1"
    width: Count = 2048
    height: Count = 2048
    max_side: Count = 2752
    num_inference_steps: Count = 40
    guidance_scale: NonNegative = 1.0
    sample_sigmas: tuple[PositiveFraction, ...] | None = None
    factor: Count = 16

    def __post_init__(self) -> None:
        check_ranges(self)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """(rows, columns) of the latents of a picture of this size in pixels."""
        return height // self.factor, width // self.factor

    @property
    def own_steps(self) -> int:
        """Steps of a picture that asks for none: a student's are those of its grid."""
        return len(self.sample_sigmas or ()) or self.num_inference_steps


def find_model(model: str | Path | None) -> Path:
    """The folder of a model: as given, from the hub, or the best bundled one."""
    if model is None:
        for name in ("mini", "micro"):
            for root in _bundles():
                if (root / name / "model_index.json").exists():
                    return root / name
        raise CheckpointError(
            f"no bundled model in {', '.join(map(str, _bundles()))}; name a folder or hub id, or run `make speedrun`"
        )
    if not str(model).strip():
        raise CheckpointError("the model's name is empty; name a folder or hub id, or leave it out for the bundled one")
    for folder in (user_path(model), *(root / str(model) for root in _bundles())):
        if (folder / "model_index.json").exists():
            return folder
    if user_path(model).is_file():
        raise CheckpointError(
            f"{model} is one file: name the model that has the config and the other parts, and this as its transformer "
            "(text_encoder, vae); or make a model of both with fourstroke convert"
        )
    if user_path(model).exists():
        raise CheckpointError(f"{model} has no model_index.json: name the folder that holds transformer/ and vae/")
    if isinstance(model, str) and model.count("/") == 1 and not model.startswith((".", "~", "/")):
        return from_hub(model, ["*.json", "*.safetensors", "*.txt", "*.jinja"])
    raise CheckpointError(f"no model at {model}; name a folder with a model_index.json, or a hub id like owner/name")


def from_hub(repository: str, patterns: list[str]) -> Path:
    """The folder of those files of a hub repository that match; raises `CheckpointError` if it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{repository} is no folder here and cannot be had from the hub: {reason}") from None


def read_info(folder: Path) -> ModelInfo:
    """The defaults of a checkpoint, from its `model_index.json`; raises `CheckpointError` if it says anything else."""
    file = folder / "model_index.json"
    only: dict[str, list[Any]] = {"_class_name": [PIPELINE], **{name: [kind] for name, kind in PARTS.items()}}
    index = config_of(_Index, read_json(file), file, only=only)
    info = config_of(ModelInfo, index.fourstroke, file, only={"factor": [], "sample_sigmas": []})
    return dataclasses.replace(info, sample_sigmas=index.sample_sigmas)


def lineage(folder: Path) -> list[Path]:
    """A model's folders: its own, if that is an adapter the one of its base, and so on to the whole model, the last.

    Raises:
        CheckpointError: a base that is not to be found, or adapters that are each other's base.
    """
    found = [folder]
    while (found[-1] / ADAPTER).exists():
        base = _base(found[-1])
        if any(base.samefile(other) for other in found):
            circle = " is an adapter of ".join(map(str, [*found, base]))
            raise CheckpointError(f"{circle}: there is no whole model; name one as base in {ADAPTER}/adapter.json")
        found.append(base)
    return found


def part(folders: list[Path], name: str) -> Path:
    """The file or folder `name` of a model, from the first of its `lineage` that has it."""
    return next((folder / name for folder in folders if (folder / name).exists()), folders[-1] / name)


def _base(folder: Path) -> Path:
    """The model that an adapter's folder names: a path, absolute or seen from there or here, or a hub id."""
    file = folder / ADAPTER / "adapter.json"
    base = config_of(_Base, read_json(file), file).base
    if (folder / base / "model_index.json").exists():
        return folder / base
    try:
        return find_model(base)
    except ValueError as error:
        raise CheckpointError(
            f"{folder} is an adapter of {base}, which is not to be found: put it there, or name its folder as base in "
            f"{file} ({error})"
        ) from None


@dataclass(frozen=True, kw_only=True)
class _Index:
    sample_sigmas: tuple[float, ...] | None = None
    fourstroke: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sample_sigmas is not None:
            fixed_sigmas(self.sample_sigmas)


@dataclass(frozen=True, kw_only=True)
class _Base:
    base: str

    def __post_init__(self) -> None:
        if not self.base.strip():
            raise ValueError("base is empty; name the folder or hub id of the model that this adapts")


def write_base(folder: Path, base: str) -> None:
    """Make a checkpoint in `folder` an adapter of the model `base`.

    A base in a folder is named by its whole path, so that it is found from everywhere; a bundled one by its name, and
    one from the hub by its id.
    """
    if (user_path(base) / "model_index.json").exists():
        whole = user_path(base).resolve()
        base = whole.name if whole.parent in [root.resolve() for root in _bundles()] else str(whole)
    write_json(folder / ADAPTER / "adapter.json", {"base": base})


def write_info(folder: Path, info: ModelInfo) -> None:
    """Write `model_index.json`, with the class names under which diffusers and transformers know the parts."""
    own = dataclasses.asdict(info)
    levels, _ = own.pop("sample_sigmas"), own.pop("factor")
    index: dict[str, Any] = {
        "_class_name": PIPELINE,
        "sample_sigmas": list(levels) if levels else None,
        **PARTS,
        "fourstroke": own,
    }
    write_json(folder / "model_index.json", index)


def _bundles() -> list[Path]:
    """Where bundled models may be: a folder of the user's choice, or beside the source."""
    chosen = os.environ.get("FOURSTROKE_MODELS")
    return [user_path(chosen)] if chosen else [Path(__file__).resolve().parents[2] / "models"]
