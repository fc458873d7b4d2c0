"""What a run of the transformer starts from: a loaded checkpoint or new parts, and what is trained of them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from fourstroke.checkpoint import CheckpointError, read_json
from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.flow.schedule import ScheduleConfig
from fourstroke.folder import ADAPTER, ADAPTER_WEIGHTS, ENHANCER, ModelInfo, find_model, lineage, part, read_info
from fourstroke.lora import merge, read_lora
from fourstroke.parallel.checkpoint import fill
from fourstroke.parallel.collectives import on_rank0
from fourstroke.pretrained import load_tokenizer
from fourstroke.recipe import RecipeError, agree
from fourstroke.text import TextEncoder
from fourstroke.text.small import SmallTextConfig, build_text_encoder, sizes, train_tokenizer
from fourstroke.train.encode import Frozen
from fourstroke.vae import Autoencoder
from fourstroke.vae.autoencoder import AutoencoderConfig


class Start:
    """The folders that a run starts from.

    Args:
        init: a checkpoint's folder, hub id or bundled name; None for a new transformer.
        vae: a folder of an autoencoder, instead of the checkpoint's.
        text_from: a folder with `text_encoder` and `processor`, instead of the checkpoint's.

    Raises:
        CheckpointError: one of them is not there.
    """

    def __init__(self, init: str | None, vae: Path | None, text_from: Path | None) -> None:
        self.init = init
        self.folders = [] if init is None else lineage(find_model(init))
        self.vae = vae or self._part("vae")
        self.text = text_from or (self.folders[-1] if self.folders else None)

    @property
    def info(self) -> ModelInfo | None:
        """The checkpoint's own defaults."""
        return read_info(self.folders[0]) if self.folders else None

    @property
    def schedule(self) -> ScheduleConfig | None:
        """The checkpoint's own schedule."""
        return ScheduleConfig.from_pretrained(part(self.folders, "scheduler")) if self.folders else None

    @property
    def factor(self) -> int:
        """Pixels of a latent along each side."""
        file = self.vae / "config.json"
        return AutoencoderConfig.from_json(read_json(file), file).factor

    def transformer(
        self,
        config: TransformerConfig | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        empty: bool = False,
    ) -> Transformer:
        """The checkpoint's transformer, its adapters merged, or a new one of the sizes `config`.

        With `empty` it may be on the meta device, until `fill` reads its weights: a rank that will hold a part of them
        need not hold them all before.

        Raises:
            RecipeError: if `config` is given and the checkpoint's is another.
        """
        if not self.folders:
            assert config is not None
            return Transformer(config).to(device, dtype)
        base = self.folders[-1] / "transformer"
        adapters = self.folders[:-1]
        if empty and not adapters:
            found = TransformerConfig.from_dict(read_json(base / "config.json"), str(base / "config.json"))
            agree("model", config, found, str(self.init))
            with torch.device("meta"):
                return Transformer(found).to(dtype)
        transformer = Transformer.from_pretrained(base, dtype=None if adapters else dtype, device=device)
        agree("model", config, transformer.config, str(self.init))
        if adapters:  # rounded after they are added
            merge(transformer, [read_lora(f / ADAPTER / ADAPTER_WEIGHTS, transformer) for f in adapters], dtype)
        return transformer.to(dtype)

    def fill(self, transformer: Transformer, device: torch.device) -> None:
        """Read the weights of a transformer that was left empty, of a sharded one each rank its own part."""
        if next(transformer.parameters()).is_meta:
            fill(transformer, self.folders[-1] / "transformer", device)

    def autoencoder(self, device: torch.device, dtype: torch.dtype) -> Frozen[Autoencoder]:
        """The autoencoder, not loaded yet."""
        return Frozen(lambda: Autoencoder.from_pretrained(self.vae, device=device, dtype=dtype))

    def text_encoder(
        self,
        config: SmallTextConfig | None,
        captions: Callable[[], Sequence[str]],
        device: torch.device,
        dtype: torch.dtype,
        train: bool,
    ) -> Frozen[TextEncoder]:
        """The text encoder: not loaded yet if it stays frozen, else open for training in float32.

        Raises:
            RecipeError: if `config` is given and the folder's is another.
        """
        if (folder := self.text) is None:
            assert config is not None
            tokenizer = on_rank0(lambda: train_tokenizer(captions(), config.vocab_size))
            model = build_text_encoder(config, tokenizer).to(device)
            return Frozen(lambda: model, model.trainable())

        def load(dtype: torch.dtype) -> TextEncoder:
            encoder = TextEncoder.from_pretrained(
                folder / "text_encoder", folder / "processor", dtype=dtype, device=device
            )
            agree("text", config and sizes(config), encoder.model.config.to_dict(), folder)
            return encoder

        if not train:
            return Frozen(lambda: load(dtype))
        model = load(torch.float32).trainable()
        return Frozen(lambda: model, model)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer alone, read anew."""
        assert self.text is not None
        return load_tokenizer(self.text / "processor")

    def copy_frozen(self, folder: Path, text: bool) -> None:
        """Copy the parts that were not trained into a checkpoint's folder, bit for bit; `text` says whether that is."""
        shutil.copytree(self.vae, folder / "vae")
        if text and self.text is not None:
            for name in ("text_encoder", "processor"):
                shutil.copytree(self.text / name, folder / name)
        if self.folders and (own := part(self.folders, ENHANCER)).exists():
            shutil.copytree(own, folder / ENHANCER)

    def _part(self, name: str) -> Path:
        if not self.folders:
            raise CheckpointError(f"there is no {name}: name its folder, or a checkpoint to start from, init")
        return part(self.folders, name)


def settle_info(own: ModelInfo | None, start: Start) -> ModelInfo:
    """The defaults of the trained model: as the recipe says, else those of the checkpoint that it starts from.

    Raises:
        RecipeError: if the recipe says nothing and the checkpoint draws in fixed strokes of its own, which training by
            flow matching unlearns.
    """
    base = start.info
    if own is None and base is None:
        raise RecipeError("info is missing: name, width, height … of the new model")
    if own is None and base is not None and base.sample_sigmas:
        raise RecipeError(
            f"{start.init} is a student of {base.own_steps} strokes, and training makes it a model of many steps "
            "again: say how it is to draw (info: {name, width, height, num_inference_steps: 40, guidance_scale: 2} and "
            "schedule: {}), or start from its teacher; distil the result afterwards"
        )
    info = own or base
    assert info is not None
    return dataclasses.replace(info, sample_sigmas=None, factor=start.factor)


def guidance_note(start: Start, info: ModelInfo, drop_prompt: float) -> str | None:
    """What to do about a base that was distilled from a guided teacher, such as Qwen-Image-2.1; None for others.

    Trained plainly, what such a base has of guidance fades, and the result often needs real guidance to look as sharp.
    """
    base = start.info
    if base is None or base.guidance_scale != 1 or base.sample_sigmas or info.guidance_scale != 1:
        return None
    return (
        f"{start.init} is sampled without guidance: it learnt its teacher's. Plain training wears that off. Keep "
        f"drop_prompt above 0 (it is {drop_prompt:g}) and draw with --guidance 2 to 4 if results are pale; setting "
        "info.guidance_scale makes that the default. Low ranks, low rates and few steps wear off least."
    )


def earlier_student(
    init: str | None, init_teacher: str | None, teacher: Transformer, device: torch.device
) -> Transformer | None:
    """What a student of `teacher` goes on from, in float32; None without `init`.

    With `init_teacher`, the teacher that `init` was made from, what the teacher has learned since is added to it.

    Raises:
        RecipeError: if either is not of the teacher's sizes.
    """
    if init is None:
        return None
    student = Start(init, None, None).transformer(teacher.config, device)
    if init_teacher is not None:
        former = Start(init_teacher, None, None).transformer(teacher.config, device)
        with torch.no_grad():
            for mine, now, then in zip(student.parameters(), teacher.parameters(), former.parameters(), strict=True):
                mine.add_(now.float() - then)
    return student
