"""What fewer bits cost: pictures of a model against float32's, and one block of the published width.

    python benchmarks/quantized.py --out quantized.json
    python benchmarks/quantized.py --block-only --tokens 1024    # and its time for so many tokens

PSNR is over all pictures of eight prompts together, each at its own seed; bytes are those of the transformer's weights.
The block is one of the 32 of the published shape with random weights; its error is relative to float32, its time the
processor's, of all threads. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fourstroke import Pipeline
from fourstroke.choices import METHODS
from fourstroke.dit.block import Block, Modulation
from fourstroke.files import write_text
from fourstroke.nn import rotary_table
from fourstroke.placement import place
from fourstroke.quantized import QuantizedWeight

PROMPTS = (
    "a cat to the left of a red circle", "a rocket above a green square", "a frog", "a blue star below a pizza",
    "a dog to the right of a yellow triangle", "a tree and a car", "a red circle", "a fish above a purple square",
)  # fmt: skip
WAYS: tuple[str | None, ...] = (None, *METHODS)


def main() -> int:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of the block")
    parser.add_argument("--width", type=int, default=4096, help="of the block; 128 channels a head")
    parser.add_argument("--tokens", type=int, default=256, help="of the block")
    parser.add_argument("--block-only", action="store_true", help="draw no pictures")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    result = {
        "pictures": {} if arguments.block_only else pictures(arguments.model, PROMPTS),
        "block": {way or "bfloat16": block(way, arguments.width, arguments.repeats, arguments.tokens) for way in WAYS},
    }
    for way, found in result["pictures"].items():
        print(f"{way}: PSNR {found['psnr']:.1f} dB, {found['mib']:.1f} MiB", file=sys.stderr)
    for way, found in result["block"].items():
        text = f"error {found['error']:.4f}, {found['mib']:.0f} MiB, {found['milliseconds']:.0f} ms"
        print(f"a block in {way}: {text}", file=sys.stderr)
    print(json.dumps(result))
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    return 0


def pictures(model: str | None, prompts: Sequence[str]) -> dict[str, Any]:
    """By way of keeping the weights: PSNR against float32, and MiB of the transformer."""

    def draw(**options: Any) -> tuple[np.ndarray, float]:
        pipe = Pipeline.from_pretrained(model, device="cpu", **options)
        drawn = [pipe(prompt, seed=seed).images[0] for seed, prompt in enumerate(prompts)]
        return np.stack([np.asarray(image, dtype=float) for image in drawn]), held(pipe.transformer)

    exact, _ = draw(dtype="float32")
    found = {}
    for way in WAYS:
        drawn, mib = draw(dtype="bfloat16", quantize=way)
        error = float(np.square(drawn - exact).mean())
        found[way or "bfloat16"] = {"psnr": 10 * math.log10(255**2 / max(error, 1e-9)), "mib": mib}
    return found


def block(way: str | None, width: int, repeats: int, tokens: int) -> dict[str, float]:
    """Relative error, MiB and milliseconds of one block."""
    torch.manual_seed(0)
    model = Block(width // 128, 128, 3, 1e-6)
    x, vector = 0.01 * torch.randn(1, tokens, width), torch.randn(1, 4 * width)  # branches are larger than the stream
    x = x.bfloat16().float()
    positions = torch.arange(tokens).repeat(3, 1).T[None]
    rotary = rotary_table(positions, (16, 56, 56))
    exact = model(x, Modulation.of(vector), rotary)[0]
    holder = nn.ModuleList([model])
    place(holder, dtype=torch.bfloat16, device=torch.device("cpu"), method=way, blocks=holder)
    inputs = x.bfloat16(), Modulation.of(vector.bfloat16()), rotary
    drawn, times = model(*inputs)[0], []
    for _ in range(repeats):
        start = time.process_time()
        model(*inputs)
        times.append(1000 * (time.process_time() - start))
    change = exact - x  # what the block adds: the stream passes through it untouched
    error = float((drawn.float() - exact).norm() / change.norm())
    return {"error": error, "mib": held(model), "milliseconds": min(times)}


def held(model: nn.Module) -> float:
    """MiB of a model's weights."""
    return sum(p.held if isinstance(p, QuantizedWeight) else p.nbytes for p in model.parameters()) / 2**20


if __name__ == "__main__":
    sys.exit(main())
