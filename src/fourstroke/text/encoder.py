"""The text encoder: Qwen3-VL read as a feature extractor (Qwen-Image-2.0 report, "condition encoder").

Features are what the last decoder layer gives, before the final norm, for every token after the system turn. The
attention is causal, so rows are padded on the right and no mask is needed: a row never sees its padding, and its
features are those of the row encoded alone. (The 2.1 pipeline pads on the left; rotary positions are relative, so
that gives the same features.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fourstroke.checkpoint import CheckpointError, convert, quantization, read_json, read_quantization
from fourstroke.choices import Offload, Quantize
from fourstroke.device import Device, find_device
from fourstroke.files import model_folder, write_json
from fourstroke.offload import BlockStream, keep_on_cpu
from fourstroke.placement import place
from fourstroke.pretrained import load_tokenizer, map_model, readable
from fourstroke.quantized import packed
from fourstroke.text import templates, vision
from fourstroke.textfile import TextError, check_text

MAX_TOKENS = 1000
"""Of a prompt."""
OLD_KEYS = frozenset({"model_type", "rope_scaling", "rope_theta", "tie_word_embeddings", "torch_dtype"}) | {
    f"{name}_token_id" for name in ("bos", "eos", "pad")
}
"""Keys of a text encoder's config beside the fields of transformers' classes, which it reads too or which are names."""


class PromptTooLong(ValueError):  # noqa: N818 - reads as the sentence it is
    """A prompt of more tokens than the models were trained on; nothing is cut silently."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised batch: `ids` (B, N) right-padded, and the patches of all input images in order.

    `lengths` (B,) stay on the CPU: they are known there, and nobody waits for a GPU to learn them.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    pixel_values: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on another device."""
        pixels = None if self.pixel_values is None else self.pixel_values.to(device)
        grid = None if self.image_grid_thw is None else self.image_grid_thw.to(device)
        return Tokens(self.ids.to(device), self.lengths, pixels, grid)


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Encoded prompts: `features` (B, L, C), zero beyond `lengths` (B,); `slots` (B, L) marks vision placeholders.

    Without input images there are no slots. `lengths` are on the CPU, the others where the encoder is.
    """

    features: torch.Tensor
    lengths: torch.Tensor
    slots: torch.Tensor | None = None


class TextEncoder(nn.Module):
    """Prompts and input images to features: `list[str] -> b l c`.

    Takes over `model`: from here on its final norm is skipped, so it no longer predicts words. Frozen and in
    evaluation mode until `trainable()`. Prompts beyond `max_tokens` tokens raise `PromptTooLong`.
    """

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Qwen2VLImageProcessorPil,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.max_tokens = max_tokens
        self.width: int = model.config.text_config.hidden_size
        self.system_length = len(tokenizer(templates.SYSTEM_TURN)["input_ids"])
        self.image_token_id: int = model.config.image_token_id
        if tokenizer.convert_tokens_to_ids(templates.IMAGE_TOKEN) != self.image_token_id:
            raise CheckpointError(
                f"the tokenizer's {templates.IMAGE_TOKEN} is not image_token_id {self.image_token_id} of the text "
                "encoder's config: use the processor folder of the same checkpoint"
            )
        if tokenizer.pad_token_id is None:
            raise CheckpointError("the tokenizer has no pad_token: use the processor folder of the same checkpoint")
        if max(tokenizer.get_vocab().values()) >= model.config.text_config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has tokens beyond the vocab_size {model.config.text_config.vocab_size} of the text "
                "encoder's config: use the processor folder of the same checkpoint"
            )
        model.model.language_model.norm.register_forward_hook(_skip_norm)
        self.trainable(False).eval()

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Features of a tokenised batch; differentiable where parameters are open, in the dtype of the weights."""
        slots = None if tokens.pixel_values is None else tokens.ids == self.image_token_id
        hidden = self.model.model(
            input_ids=tokens.ids,
            pixel_values=tokens.pixel_values,
            image_grid_thw=tokens.image_grid_thw,
            mm_token_type_ids=None if slots is None else slots.int(),
            use_cache=False,
        ).last_hidden_state
        features, slots = hidden[:, self.system_length :], None if slots is None else slots[:, self.system_length :]
        lengths = tokens.lengths - self.system_length
        padding = (torch.arange(features.shape[1]) >= lengths[:, None]).to(features.device)
        return TextFeatures(features.masked_fill(padding[..., None], 0), lengths, slots)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], images: Sequence[Sequence[Image.Image]] | None = None) -> TextFeatures:
        """Tokenise and encode, without gradients. `images` holds the input images of each prompt.

        Raises `PromptTooLong`, or `ValueError` for images whose sides are no multiples of 32.
        """
        return self(self.tokenize(prompts, images))

    def tokenize(self, prompts: Sequence[str], images: Sequence[Sequence[Image.Image]] | None = None) -> Tokens:
        """Prompts in their template, as token ids on the encoder's device. Raises as `encode` does."""
        if isinstance(prompts, str) or not prompts:
            raise ValueError("prompts must be a list with at least one string")
        for prompt in prompts:
            try:
                check_text(prompt)
            except TextError as error:
                raise ValueError(f"the prompt {error}") from None
        images = [()] * len(prompts) if images is None else images
        if len(images) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts but {len(images)} lists of images; give one list for each prompt")
        slots = [[vision.count_slots(image, self.image_processor) for image in row] for row in images]
        rows = self.tokenizer([templates.chat(*pair) for pair in zip(prompts, slots)])["input_ids"]
        for prompt, row, counts in zip(prompts, rows, slots):
            self._check(prompt, row, sum(counts))
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, self.tokenizer.pad_token_id)
        flat = [image for row in images for image in row]
        dtype = self.model.model.visual.patch_embed.proj.weight.dtype
        patches = vision.patchify(flat, self.image_processor, dtype) if flat else (None, None)
        return Tokens(ids, torch.tensor([len(row) for row in rows]), *patches).to(self.device)

    def _check(self, prompt: str, row: Sequence[int], slots: int) -> None:
        if row.count(self.image_token_id) != slots:
            raise ValueError(f"the prompt contains {templates.IMAGE_TOKEN}, which stands for input images: remove it")
        if len(row) <= self.max_tokens:  # the whole row is no longer than a prompt may be
            return
        count = len(self.tokenizer(prompt)["input_ids"])
        if count > self.max_tokens:
            raise PromptTooLong(
                f"the prompt has {count} tokens and the limit is {self.max_tokens}: shorten it, it is not cut for you"
            )

    def trainable(self, on: bool = True) -> TextEncoder:
        """Open (or freeze) every parameter that the features depend on; the final norm and an own LM head stay shut."""
        inner = self.model.model
        self.model.requires_grad_(False)
        for part in (inner.visual, inner.language_model.embed_tokens, inner.language_model.layers):
            part.requires_grad_(on)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @classmethod
    def from_pretrained(
        cls,
        text_encoder_folder: str | Path,
        processor_folder: str | Path,
        dtype: torch.dtype = torch.float32,
        device: Device | None = "cpu",
        max_tokens: int = MAX_TOKENS,
        quantize: Quantize | None = None,
        offload: Offload = "none",
        weights: tuple[Path, Mapping[str, torch.Tensor]] | None = None,
    ) -> TextEncoder:
        """Read `text_encoder/` and `processor/`; a `device` of None is the GPU if there is one.

        `quantize` keeps the linear layers of the language model in fewer bits. Any `offload` but "none" has a layer on
        the device only while it runs. A head for predicting words that shares no weights stays in its file: features
        need none. `weights` of another file take the place of the folder's.

        Raises:
            CheckpointError: files are missing or damaged, or do not fit each other.
            ValueError: this machine does not have the device.
        """
        folder, processor, device = Path(text_encoder_folder), Path(processor_folder), find_device(device)
        _check_config(folder / "config.json")
        model = map_model(Qwen3VLForConditionalGeneration, folder, weights)
        inner = model.model.language_model
        head = [] if model.lm_head.weight is inner.embed_tokens.weight else [model.lm_head]
        here = device if offload == "none" else torch.device("cpu")
        place(model, dtype=dtype, device=here, method=quantize, blocks=inner.layers, leave=head)
        if offload != "none":
            stay = [inner.layers, inner.embed_tokens, model.model.visual.blocks, *head]
            place(model, dtype=None, device=device, leave=stay)
            keep_on_cpu(inner.embed_tokens, device)
            for blocks in (model.model.visual.blocks, inner.layers):
                BlockStream(blocks, device, again=False)
        tokenizer = load_tokenizer(processor)
        image_processor = _load_image_processor(processor, model.config.vision_config)
        try:
            return cls(model, tokenizer, image_processor, max_tokens)
        except CheckpointError as error:
            raise CheckpointError(f"{processor}: {error}") from None

    def save_pretrained(self, text_encoder_folder: str | Path, processor_folder: str | Path) -> None:
        """Write both folders as Qwen-Image-2.1 has them, each complete or not at all.

        Whatever precision the file keeps, its config asks for float32: who names none (`DiffusionPipeline`) gets that
        for the other parts, and their features must fit.
        """
        with model_folder(text_encoder_folder, "config.json", "model_type") as folder:
            state = self.model.state_dict()
            self.model.save_pretrained(folder, state_dict=packed(state))
            config = read_json(folder / "config.json")
            if method := quantization(state):
                config["quantization"] = {"method": method}
            for part in (config, config["text_config"], config["vision_config"]):
                part["dtype"] = "float32"
            write_json(folder / "config.json", config)
        with model_folder(processor_folder, "processor_config.json", "processor_class") as folder:
            save_processor(self.tokenizer, self.image_processor, folder)


def vision_slots(tokenizer: PreTrainedTokenizerBase, slots: Sequence[int]) -> torch.Tensor:
    """(L,) bool: where the vision slots of input images stand among the features of any prompt, up to the last one.

    `slots` holds the number of each image; images come first, so the words after them move nothing.
    """
    ids = torch.tensor(tokenizer(templates.chat("", slots))["input_ids"])
    ids = ids[len(tokenizer(templates.SYSTEM_TURN)["input_ids"]) :]
    found = ids == tokenizer.convert_tokens_to_ids(templates.IMAGE_TOKEN)
    return found[: int(found.nonzero().max()) + 1]


def save_processor(tokenizer: PreTrainedTokenizerBase, images: Qwen2VLImageProcessorPil, folder: Path) -> None:
    """Write the files from which transformers builds a `Qwen3VLProcessor`, its video part included."""
    tokenizer.save_pretrained(folder)
    config: dict[str, Any] = {
        "patch_size": images.patch_size,
        "merge_size": images.merge_size,
        "temporal_patch_size": images.temporal_patch_size,
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "size": {"shortest_edge": images.size["shortest_edge"], "longest_edge": images.size["longest_edge"]},
    }
    names = {"processor_class": "Qwen3VLProcessor"}
    write_json(folder / "preprocessor_config.json", config | names | {"image_processor_type": "Qwen2VLImageProcessor"})
    video = config | names | {"video_processor_type": "Qwen3VLVideoProcessor"}
    write_json(folder / "video_preprocessor_config.json", video)
    write_json(folder / "processor_config.json", names)


def _check_config(file: Path) -> None:
    """Refuse a config of another model, and keys that transformers would pass over."""
    values = read_quantization(read_json(file), file)
    if values.get("model_type") != Qwen3VLConfig.model_type:
        found = values.get("model_type")
        raise CheckpointError(f"{file}: model_type is {found!r}; the text encoder is a {Qwen3VLConfig.model_type!r}")
    parts = {"": Qwen3VLConfig} | {f"{key}.": kind for key, kind in Qwen3VLConfig.sub_configs.items()}
    for prefix, kind in parts.items():
        group = convert(dict[str, Any], values.get(prefix[:-1], {}), f"{file}: {prefix[:-1]}") if prefix else values
        known = {field.name for field in dataclasses.fields(kind)} | OLD_KEYS
        for key, value in group.items():
            if key not in known and not key.startswith("_") and value not in (None, False, [], {}):
                raise CheckpointError(f"{file}: the key {prefix}{key} is not supported")


def _load_image_processor(folder: Path, vision_config: Any) -> Qwen2VLImageProcessorPil:
    """The image processor of a `processor/` folder; its patches are those that the text encoder reads."""
    file = folder / "preprocessor_config.json"
    values = read_json(file)
    known = Qwen2VLImageProcessorPil.valid_kwargs.__annotations__.keys() | {"image_processor_type", "processor_class"}
    if unknown := sorted(key for key in values.keys() - known if not key.startswith("_")):
        raise CheckpointError(f"{file}: the key {unknown[0]} is not supported")
    with readable(str(file)):
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    for key in ("image_mean", "image_std"):
        convert(tuple[float, float, float], getattr(processor, key), f"{file}: {key}")
    for key in ("shortest_edge", "longest_edge"):
        convert(int, processor.size[key], f"{file}: size: {key}")
    patches = {
        "patch_size": "patch_size",
        "merge_size": "spatial_merge_size",
        "temporal_patch_size": "temporal_patch_size",
    }
    for key, other in patches.items():
        own, wanted = convert(int, getattr(processor, key), f"{file}: {key}"), getattr(vision_config, other)
        if own != wanted:
            raise CheckpointError(f"{file}: {key} is {own}; the text encoder's vision_config has {other} {wanted}")
    return processor


def _skip_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return inputs[0]
