"""The whole system on one page: enhance the prompt, encode it, denoise the latent, decode the picture.

The parts come from a folder (`folder`) and draw what the model's sizes allow (`sizes`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourstroke.arguments import MAX_GUIDANCE, real, shown, texts, whole
from fourstroke.choices import METHODS, OFFLOADS, Offload, Quantize
from fourstroke.device import Device, trim_heap
from fourstroke.dit import InputImages, Pair, Transformer, condition, together
from fourstroke.enhance.enhancer import Enhanced, PromptEnhancer
from fourstroke.files import model_folder
from fourstroke.flow.sampler import OnStep, Velocity, check_finite, euler, guide, seeded_noise
from fourstroke.flow.schedule import ScheduleConfig, fixed_sigmas, sigmas
from fourstroke.folder import ENHANCER, INDEX, ModelInfo, write_info
from fourstroke.loading import check_parts, load_parts
from fourstroke.lora import LoraLoader, is_merged, without_factors
from fourstroke.offload import visiting
from fourstroke.quantized import QuantizedWeight
from fourstroke.seeds import Seeds, following, seeds_of
from fourstroke.sizes import fit, shaped, sized, tokens_per_slot
from fourstroke.text import TextEncoder
from fourstroke.text.templates import transparent as transparent_prompt
from fourstroke.vae import Autoencoder, to_pixels

NO_NEGATIVE = "the negative prompt has no effect at guidance 1; ask for more guidance, or leave it out"


class NoEffectWarning(UserWarning):
    """Something was asked for that changes nothing here; the message says why."""


@dataclass(frozen=True)
class Output:
    """What a call returns: `images` (RGB, or RGBA if transparent), each with its prompt and seed; seconds by stage.

    `prompts` are those that were drawn; `enhanced` says, for each asked prompt, what the enhancer made of it.
    """

    images: list[Image.Image]
    prompts: list[str]
    seeds: list[int]
    timings: dict[str, float] = field(default_factory=dict)
    enhanced: list[Enhanced] = field(default_factory=list)


class Pipeline(LoraLoader):
    """Draws pictures from words (and input images) with one checkpoint, and adapters of it."""

    transformer: Transformer

    def __init__(
        self,
        transformer: Transformer,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        schedule: ScheduleConfig,
        info: ModelInfo,
        enhancer: PromptEnhancer | Path | None = None,
        offload: Offload = "none",
    ) -> None:
        self.transformer, self.autoencoder, self.text_encoder = transformer, autoencoder, text_encoder
        self.schedule, self.info = schedule, dataclasses.replace(info, factor=autoencoder.config.factor)
        self._enhancer, self.offload = enhancer, offload
        check_parts(transformer, autoencoder, text_encoder)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: Device | None = None,
        quantize: Quantize | None = None,
        offload: Offload = "none",
        transformer: str | Path | None = None,
        text_encoder: str | Path | None = None,
        vae: str | Path | None = None,
        compile: bool = False,
        file_cache: float | None = None,
    ) -> Pipeline:
        """Load a checkpoint: a folder, a hub id, or the best bundled model.

        Weights that have the asked type already stay mapped on a CPU: their files are read as they are used.

        Args:
            model: folder or hub id; None takes the bundled `mini` if it is there, else `micro`.
            dtype: of the weights; None is bfloat16 on a GPU, and on a CPU with `quantize` or `offload`; else float32.
            device: None is `cuda` where there is one.
            quantize: keep the matrices of the transformer's blocks in fewer bits, and without `offload` those of the
                text encoder's too: "int8", "int4" or "fp8". Layers that are sensitive keep `dtype`. "w8a8" is int8
                with activations of the transformer rounded too, so that CPUs with VNNI multiply in int8.
            offload: "model" has the text encoder's layers and the autoencoder on the device only while each is used;
                "layers" the transformer's blocks too. On a CPU their memory is given back instead.
            transformer, text_encoder, vae: single files of weights, by ComfyUI's names or ours, in the place of the
                checkpoint's parts: safetensors, or GGUF (see `single_file`).
            compile: see `Pipeline.compile`.
            file_cache: GiB of the transformer's file that stay in memory between steps, at most; None is all that is
                free when a step begins. On a CPU, for models of more than 1 GiB, and others that are given a number.

        Warns:
            MemoryWarning: weights have no room and come from the disk at every step.

        Raises:
            CheckpointError: if the folder is missing or damaged; the message says what to do.
            DoesNotFit: if there is too little memory; the message says what would fit.
            ValueError: for a device that this machine does not have, or another choice that is none.
        """
        _check_choices(quantize, offload)
        files = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
        if compile:
            _check_compile(quantize, offload)
        file_cache = None if file_cache is None else real("file_cache", file_cache, 0, 2**20)
        pipe = cls(**load_parts(model, dtype, device, quantize, offload, files, file_cache))
        if compile:
            pipe.compile()
        return pipe

    def compile(self, mode: str | None = None) -> None:
        """Compile the transformer's blocks: a kind of picture waits for that once, later ones are drawn faster.

        All blocks share their code. Compiled anew is what differs in kind: the first step beside later ones, a second
        size (whose code then serves every size), input images, guidance. `mode` is torch.compile's own, such as
        "reduce-overhead" for CUDA graphs.

        Raises:
            ValueError: with streamed or quantised blocks, or without a C++ compiler.
        """
        quantized = any(isinstance(p, QuantizedWeight) for p in self.transformer.parameters())
        _check_compile("int8" if quantized else None, self.offload)
        for block in self.transformer.transformer_blocks:
            block.compile(mode=mode)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the whole checkpoint into `folder`, complete or not at all; merged adapters are part of the weights.

        Raises:
            ValueError: adapters are loaded and not merged.
            FolderError: unless the folder is new, empty, or holds an earlier save and nothing else.
        """
        if any(self.loras.values()) and not is_merged(self.transformer):
            raise ValueError(
                f"a checkpoint does not hold the loaded adapters ({', '.join(self.loras)}): merge_lora() first, or "
                "unload_lora()"
            )
        with model_folder(folder, *INDEX) as partial, without_factors(self.transformer):
            self.transformer.save_pretrained(partial / "transformer")
            self.autoencoder.save_pretrained(partial / "vae")
            self.text_encoder.save_pretrained(partial / "text_encoder", partial / "processor")
            self.schedule.save_pretrained(partial / "scheduler")
            write_info(partial, self.info)
            if isinstance(self._enhancer, Path):
                shutil.copytree(self._enhancer, partial / ENHANCER)
            elif self._enhancer is not None:
                self._enhancer.save_pretrained(partial / ENHANCER)

    @property
    def enhancer(self) -> PromptEnhancer | None:
        """The checkpoint's prompt enhancer, read when first asked for; None if it has none. May be set."""
        if isinstance(self._enhancer, Path):
            self._enhancer = PromptEnhancer.from_pretrained(self._enhancer, device=self.device)
        return self._enhancer

    @enhancer.setter
    def enhancer(self, enhancer: PromptEnhancer | None) -> None:
        self._enhancer = enhancer

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return next(self.transformer.parameters()).device

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        images: Image.Image | Sequence[Image.Image] | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str | None] | None = None,
        num_images: int = 1,
        seed: Seeds | None = None,
        enhance: bool = False,
        transparent: bool = False,
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
        step_cache: float = 0.0,
    ) -> Output:
        """Draw `num_images` pictures for each prompt.

        Args:
            prompt: one prompt, or several of one size drawn together.
            images: input images for editing, one or several, shared by the prompts; None draws from words alone.
            width, height: pixels, multiples of `sizes.multiple`, mostly 32; None is the model's own size, the shape
                that the enhancer chose, or the last input image's.
            num_inference_steps: None is the checkpoint's own grid.
            guidance_scale: 0 to 100; 1 switches guidance off; None is the checkpoint's own.
            negative_prompt: what guidance leads away from, one for all prompts or one each; None is the empty prompt.
            num_images: for each prompt; image j has the prompt's seed + j, and after the largest seed comes 0.
            seed: 0 to `seeds.MAX_SEED`, one for all prompts or one each; None draws one; `Output.seeds` tells which.
            enhance: have the checkpoint's enhancer rewrite the prompts first. Off unless asked for, so that what is
                measured is what was written; without an enhancer there is a warning.
            transparent: ask for an RGBA picture with a transparent background.
            latents: (pictures, tokens, channels), noise at t = 1, tokens row by row, in place of the seeds' noise.
            on_step: called after every step with (step, steps, predicted clean latents).
            step_cache: 0 to 1, for models of many steps: skip most blocks where the first changes by less than this
                since the last whole step (`dit.step_cache`); 0 computes all. Pictures differ a little.

        Warns:
            NoEffectWarning: for a negative prompt without guidance, or `enhance` without an enhancer.

        Raises:
            ValueError: for an empty prompt, a number that is none or out of range, a prompt over the token limit,
                seeds or negative prompts that are not as many as the prompts.
            NonFiniteError: if a latent or a picture is not finite; it names the stage.
        """
        prompts, away = texts("prompt", prompt), texts("negative_prompt", negative_prompt)
        if not prompts or any(not p.strip() for p in prompts):
            raise ValueError("the prompt is empty; say what to draw")
        if len(away) not in (1, len(prompts)):
            raise ValueError(f"{len(away)} negative prompts for {len(prompts)} prompts; give one each, or one for all")
        images = _pictures(images)
        width = None if width is None else whole("width", width)
        height = None if height is None else whole("height", height)
        steps = None if num_inference_steps is None else whole("num_inference_steps", num_inference_steps)
        num_images = whole("num_images", num_images, 1)
        scale = real("guidance_scale", guidance_scale, 0, MAX_GUIDANCE) if guidance_scale is not None else None
        scale = self.info.guidance_scale if scale is None else scale
        if scale == 1 and any(away):
            warnings.warn(NO_NEGATIVE, NoEffectWarning, stacklevel=3)
        if enhance and self.enhancer is None:
            warnings.warn(f"enhance has no effect: {self.info.name} has no enhancer", NoEffectWarning, stacklevel=3)
        step_cache = real("step_cache", step_cache, 0, 1)
        first = seeds_of(seed, len(prompts))
        clock = Clock()
        enhanced: list[Enhanced] = []
        if enhance and self.enhancer is not None:
            rewrite = functools.partial(self.enhancer, images=images, transparent=transparent)
            enhanced = [rewrite(p, seed=s) for p, s in zip(prompts, first, strict=True)]
            prompts = [e.prompt or e.request or p for e, p in zip(enhanced, prompts, strict=True)]
            ratios = {e.ratio for e in enhanced}
            if width is None and height is None and latents is None and not images and len(ratios) == 1:
                width, height = shaped(ratios.pop(), self.info)
            clock.lap("enhance")
        width, height = self._size(width, height, images)
        grid = self.info.grid(width, height)
        levels = self.sigmas(steps, grid[0] * grid[1])
        seeds = [following(one, j) for one in first for j in range(num_images)]

        inputs = [fit(image, self.info) for image in images]
        asked = [transparent_prompt(p) if transparent else p for p in prompts]
        velocity = self.condition(asked, inputs, grid, num_images, step_cache)
        if scale != 1:
            negative = self.condition(away, inputs, grid, len(seeds) // len(away), step_cache)
            velocity = _guided(together(velocity, negative), scale)
        clock.lap("encode")

        x = seeded_noise(seeds, grid[0] * grid[1], self.transformer.config.in_channels)
        x = x if latents is None else torch.as_tensor(latents)
        if x.shape != (len(seeds), grid[0] * grid[1], self.transformer.config.in_channels):
            raise ValueError(
                f"latents have the shape {tuple(x.shape)}; these pictures need "
                f"{(len(seeds), grid[0] * grid[1], self.transformer.config.in_channels)}"
            )
        x = euler(velocity, x.to(self.device, torch.float32), levels, on_step)
        clock.lap("denoise")

        pictures = self.decode(x, grid, transparent)
        clock.lap("decode")
        return Output(pictures, [p for p in prompts for _ in range(num_images)], seeds, clock.laps, enhanced)

    def decode(self, latents: Tensor, grid: tuple[int, int], transparent: bool = False) -> list[Image.Image]:
        """Turn clean latents (B, h*w, channels) of a grid (h, w) into pictures, one at a time."""
        pictures = []
        with self.autoencoder_there():
            for row in latents.to(next(self.autoencoder.parameters()).dtype):
                z = row.T.reshape(1, -1, *grid)
                pixels = to_pixels(check_finite(self.autoencoder.decode(z), "decoding")[0])
                pictures.append(Image.fromarray(pixels) if transparent else Image.fromarray(pixels[..., :3].copy()))
        return pictures

    def autoencoder_there(self) -> AbstractContextManager[None]:
        """Within the block the autoencoder is on the device; with an offload it is there at no other time."""
        return visiting(self.autoencoder, self.device, self.offload)

    def condition(
        self,
        prompts: Sequence[str],
        inputs: Sequence[Image.Image],
        grid: tuple[int, int],
        repeats: int = 1,
        step_cache: float = 0.0,
    ) -> Velocity:
        """The velocity under prompts that share input images (fitted, see `sizes.fit`), `repeats` rows for each.

        With a `step_cache` it is for one walk through all steps (see `dit.condition`).
        """
        text = self.text_encoder.encode(prompts, [inputs] * len(prompts) if inputs else None)
        check_finite(text.features, "the text encoder")
        return condition(self.transformer, text, grid, self.input_images(inputs), repeats, step_cache, one_pass=True)

    def input_images(self, images: Sequence[Image.Image]) -> InputImages | None:
        """Fitted input images as the transformer takes them; None of none."""
        if not images:
            return None
        tokens = torch.cat([self.input_tokens(image) for image in images], dim=1)
        trim_heap(sum(image.width * image.height for image in images))
        return InputImages(
            tokens=tokens,
            grids=tuple(self.info.grid(*image.size) for image in images),
            tokens_per_slot=tokens_per_slot(self.info),
        )

    def input_tokens(self, image: Image.Image) -> Tensor:
        """A fitted input image as clean latents (1, h * w, channels)."""
        pixels = torch.from_numpy(np.array(image.convert("RGBA"))).permute(2, 0, 1)[None]
        with self.autoencoder_there():
            return check_finite(self.autoencoder.encode_tokens(pixels), "encoding the input image")

    def sigmas(self, steps: int | None, tokens: int) -> Tensor:
        """The noise levels (steps + 1,) of a picture of so many latents; None is the checkpoint's own grid."""
        if self.info.sample_sigmas and steps in (None, self.info.own_steps):  # its own number, said or not
            return fixed_sigmas(self.info.sample_sigmas, tokens, self.schedule)
        return sigmas(self.info.own_steps if steps is None else steps, tokens, self.schedule)

    def _size(self, width: int | None, height: int | None, images: Sequence[Image.Image] | None) -> tuple[int, int]:
        return sized(self.info, width, height, images)


def _guided(pair: Pair, scale: float) -> Velocity:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return guide(*pair(x, t), scale)

    return velocity


def _check_compile(quantize: Quantize | None, offload: Offload) -> None:
    """Raise ValueError for blocks that cannot be compiled, or without a compiler."""
    if quantize is not None or offload == "layers":
        raise ValueError("compile needs blocks that stay in memory as they are: leave quantize out, and offload=layers")
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in names if name):
        raise ValueError("compile needs a C++ compiler, and none is here; on Debian: apt install g++")


def _check_choices(quantize: Any, offload: Any) -> None:
    """Raise ValueError for a choice that is none."""
    for name, value, known in (("quantize", quantize, (None, *METHODS)), ("offload", offload, OFFLOADS)):
        if value not in known:
            raise ValueError(f"{name} is {shown(value)}; it must be one of {', '.join(str(one) for one in known)}")


def _pictures(images: Any) -> list[Image.Image]:
    """One picture or several as a list; raises ValueError for what is none."""
    if images is None:
        return []
    found = list(images) if isinstance(images, list | tuple) else [images]
    for image in found:
        if not isinstance(image, Image.Image):
            raise ValueError(f"an input image is {shown(image)}; open it as a PIL.Image, or make it one (fromarray)")
    return found


class Clock:
    """Seconds of each stage; waits for the GPU, so that a stage pays for its own work."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.start = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the stage `name`."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name], self.start = now - self.start, now
