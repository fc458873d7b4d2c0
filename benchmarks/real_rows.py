"""One row of `real_size.py`, in a process of its own: a side with its choices draws cells, and says what each took.

Memory that is counted (`/proc/self/status`): `peak` is the most that was resident (VmHWM), pages of weights' files
included, which the system may take back at any time; `anonymous` the most that was not (RssAnon), which it may not.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from real_checkpoint import prompt_of
from torch import Tensor
from transformers.utils import logging

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Row:
    """Who draws and how: the side, and its choices of precision, memory and compilation."""

    side: str
    quantize: str | None = None
    offload: str = "none"
    compile: bool = False

    @property
    def name(self) -> str:
        """As the table has it."""
        words = [self.side, self.quantize or "bf16", *([f"offload {self.offload}"] if self.offload != "none" else [])]
        return ", ".join([*words, *(["compiled"] if self.compile else [])])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is drawn: side in pixels, steps, tokens of the prompt, input images, pictures at once."""

    size: int
    steps: int = 4
    tokens: int = 100
    inputs: int = 0
    batch: int = 1


class Stopwatch:
    """Seconds of stages, and the processor's own; a stage ends with `lap`, after what the device still does.

    Where other programs run too the processor's seconds (all threads together) tell more than those of the clock.
    """

    def __init__(self, device: str) -> None:
        self.device, self.last = device, (time.perf_counter(), time.process_time())
        self.laps: list[tuple[str, float, float]] = []

    def lap(self, name: str) -> None:
        """End a stage."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        self.laps.append((name, now[0] - self.last[0], now[1] - self.last[1]))
        self.last = now

    def seconds(self, processor: bool = False) -> dict[str, float]:
        """By stage; of the steps after the first, which runs the prompt too, their median."""
        laps = [(name, own if processor else clock) for name, clock, own in self.laps]
        found = {name: round(s, 4) for name, s in laps if name != "step"}
        steps = [s for name, s in laps if name == "step"]
        if steps:
            found["first step, with the prompt"] = round(steps[0], 4)
            found["step"] = round(float(np.median(steps[1:] or steps)), 4)
        return found | {"all": round(sum(s for _, s in laps), 4)}


class Sampler(threading.Thread):
    """The most anonymous memory and the most file pages of this process, looked at 20 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"RssAnon": 0.0, "RssFile": 0.0}
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            for key, value in status().items():
                if key in self.most:
                    self.most[key] = max(self.most[key], value)
            time.sleep(0.05)


def status() -> dict[str, float]:
    """GiB by the names of `/proc/self/status`; nothing where there is no such file."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    found = (re.fullmatch(r"(\w+):\s+(\d+) kB", line) for line in lines)
    return {match[1]: int(match[2]) / 2**20 for match in found if match}


def run_row(row: Row, cells: list[Cell], folder: Path, device: str, backend: str | None) -> Iterator[dict[str, Any]]:
    """Draw the cells one after the other; a cell that fails says so, and the next one is tried."""
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()
    sampler = Sampler()
    watch = Stopwatch(device)
    draw = (ours if row.side == "ours" else theirs)(row, folder, device, backend)
    watch.lap("load")
    load = watch.seconds()["load"]
    for cell in cells:
        found: dict[str, Any] = {"row": row.name, **dataclasses.asdict(row), **dataclasses.asdict(cell), "load": load}
        try:
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
                draw(cell, Stopwatch(device))  # kernels are chosen and compiled before the clock runs
            watch = Stopwatch(device)
            latents = draw(cell, watch)
            found |= {"seconds": watch.seconds(), "processor": watch.seconds(processor=True)}
            if cell == cells[0]:
                np.save(latents_file(folder, row.name), latents.float().cpu().numpy())
        except (RuntimeError, ValueError) as error:
            found["error"] = " ".join(str(error).split())[:300]
        most = sampler.most
        found["gib"] = {
            "peak": round(status().get("VmHWM", 0.0), 2),
            "anonymous": round(most["RssAnon"], 2),
            "file pages": round(most["RssFile"], 2),
        }
        if device != "cpu":
            found["gib"]["GPU"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        yield found


def latents_file(folder: Path, name: str) -> Path:
    """Where a row's last latents of its first cell are kept."""
    return folder / f"latents-{re.sub('[^a-z0-9]+', '-', name)}.npy"


Draw = Callable[[Cell, Stopwatch], Tensor]


def ours(row: Row, folder: Path, device: str, backend: str | None) -> Draw:
    """Our pipeline; what it draws are the last latents."""
    from fourstroke import Pipeline

    pipe = Pipeline.from_pretrained(folder, device=device, dtype="bfloat16", quantize=row.quantize, offload=row.offload)
    if row.compile:
        for block in pipe.transformer.transformer_blocks:
            block.compile(backend=backend or "inductor")

    def draw(cell: Cell, watch: Stopwatch) -> Tensor:
        last: list[Tensor] = []

        def on_step(step: int, steps: int, latents: Tensor) -> None:
            watch.lap("step")
            last[:] = [latents]

        pipe.info = dataclasses.replace(pipe.info, width=cell.size, height=cell.size)  # input images' size too
        with timed(pipe.text_encoder, "encode", watch, "text"):
            pipe(
                prompt_of(pipe.text_encoder.tokenizer, cell.tokens),
                images=pictures(cell) or None,
                width=cell.size,
                height=cell.size,
                num_inference_steps=cell.steps,
                num_images=cell.batch,
                latents=noise(cell),
                seed=0,
                on_step=on_step,
            )
        watch.lap("decode")
        return last[0]

    return draw


def theirs(row: Row, folder: Path, device: str, backend: str | None) -> Draw:
    """diffusers' pipeline: as it is, with its offload, or ("turns") the text encoder first and then the rest."""
    from diffusers import QwenImage21Pipeline
    from real_processor import Processor

    processor = Processor(folder)

    def load(**without: None) -> Any:
        pipe = QwenImage21Pipeline.from_pretrained(folder, processor=processor, torch_dtype=torch.bfloat16, **without)
        pipe.set_progress_bar_config(disable=True)
        if row.offload == "model" and device != "cpu":
            pipe.enable_model_cpu_offload()
        elif row.offload == "layers" and device != "cpu":
            pipe.enable_sequential_cpu_offload()
        else:
            pipe.to(device)
        if row.compile and getattr(pipe, "transformer", None) is not None:
            for block in pipe.transformer.transformer_blocks:
                block.compile(backend=backend or "inductor")
        return pipe

    whole = None if row.offload == "turns" else load()

    def draw(cell: Cell, watch: Stopwatch) -> Tensor:
        prompt, pipe = prompt_of(processor.tokenizer, cell.tokens), whole
        words: dict[str, Any] = {"prompt": prompt, "image": pictures(cell) or None}
        if pipe is None and cell.inputs:
            raise ValueError("input images are encoded by the whole pipeline only")
        if pipe is None:
            first = load(transformer=None, vae=None)
            watch.lap("load text encoder")
            embeds, mask, _ = first.encode_prompt(prompt)
            watch.lap("text")
            words = {"prompt_embeds": embeds, "prompt_embeds_mask": mask}
            del first
            pipe = load(text_encoder=None)
            watch.lap("load transformer")
        last: list[Tensor] = []

        def on_step(_: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            watch.lap("step")
            last[:] = [tensors["latents"]]
            return tensors

        with timed(pipe, "encode_prompt", watch, "text" if whole is not None else "text again"):
            pipe(
                **words,
                width=cell.size,
                height=cell.size,
                num_inference_steps=cell.steps,
                output_resolution=cell.size,
                num_images_per_prompt=cell.batch,
                latents=noise(cell).to(device, torch.bfloat16),
                callback_on_step_end=on_step,
            )
        watch.lap("decode")
        return last[0]

    return draw


@contextmanager
def timed(owner: Any, method: str, watch: Stopwatch, name: str) -> Iterator[None]:
    """Within the block the method's calls are a stage."""
    own = getattr(owner, method)

    def call(*inputs: Any, **options: Any) -> Any:
        found = own(*inputs, **options)
        watch.lap(name)
        return found

    setattr(owner, method, call)
    try:
        yield
    finally:
        delattr(owner, method)


def noise(cell: Cell) -> Tensor:
    """The same for both sides: (batch, tokens, 64), of numbers that bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(cell.batch, (cell.size // 16) ** 2, 64, generator=generator).bfloat16().float()


def pictures(cell: Cell) -> list[Image.Image]:
    """Input images of the cell's size."""
    values = np.random.default_rng(0).integers(0, 256, (cell.inputs, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(v).resize((cell.size, cell.size)) for v in values]


def main(words: list[str]) -> None:
    """`real_rows.py JSON`, of the parent's making; prints one JSON object a cell."""
    plan = json.loads(words[0])
    cells = [Cell(**cell) for cell in plan["cells"]]
    for found in run_row(Row(**plan["row"]), cells, Path(plan["folder"]), plan["device"], plan["backend"]):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
