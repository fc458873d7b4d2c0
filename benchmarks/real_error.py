"""How far the velocity of a first step is from float32's, all layers of the checkpoint of `real_size.py`.

    python benchmarks/real_error.py --folder /tmp/real --out error.json

Ours in bfloat16, diffusers' class in bfloat16, and ours with fewer bits get the same features of a prompt and the same
noise. The reference has the same weights in float32, a block at a time, so that it takes the room of one. An error is
the root mean square of the difference over the deviation of the reference. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourstroke.choices import METHODS
from fourstroke.dit import Layout, Transformer
from fourstroke.files import write_json
from fourstroke.offload import set_weights, weights_of
from fourstroke.placement import place, release_weights

TIME = 0.75
"""Of the step; bfloat16 holds it exactly."""
CPU = torch.device("cpu")


def main() -> int:
    """Print a line for each way, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the checkpoint, see real_size.py")
    parser.add_argument("--side", type=int, default=16, help="of the picture, in latents")
    parser.add_argument("--tokens", type=int, default=100, help="of the prompt")
    parser.add_argument("--ways", nargs="*", choices=METHODS, default=[], help="fewer bits to measure too")
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    folder, side = arguments.folder / "transformer", arguments.side
    generator = torch.Generator().manual_seed(1)
    config = Transformer.from_pretrained(folder, dtype=None).config
    x = torch.randn(1, side * side, config.in_channels, generator=generator).bfloat16()
    text = (3 * torch.randn(1, arguments.tokens, config.context_in_dim, generator=generator)).bfloat16()
    exact, result = float32(folder, x, text), {"side": side, "tokens": arguments.tokens, "errors": {}}
    ways: dict[str, Callable[[], Tensor]] = {"ours": lambda: ours(folder, x, text)}
    ways["diffusers"] = lambda: theirs(folder, x, text)
    ways |= {f"ours, {way}": lambda way=way: ours(folder, x, text, way) for way in arguments.ways}
    for name, run in ways.items():
        begin = time.perf_counter()
        found = run().float()
        error = float((found - exact).square().mean().sqrt() / exact.std())
        result["errors"][name] = round(error, 5)
        print(f"{name}: {error:.4f} of the deviation ({time.perf_counter() - begin:.0f} s)", file=sys.stderr)
        gc.collect()
    result["met"] = result["errors"]["ours"] <= 1.1 * result["errors"]["diffusers"]
    print(json.dumps(result))
    if arguments.out:
        write_json(arguments.out, result)
    return int(not result["met"])


def ours(folder: Path, x: Tensor, text: Tensor, way: str | None = None) -> Tensor:
    """Our velocity in bfloat16, with weights in fewer bits or not."""
    model = Transformer.from_pretrained(folder, dtype=torch.bfloat16, quantize=way)
    return evaluate(model, x, text)


def float32(folder: Path, x: Tensor, text: Tensor) -> Tensor:
    """Our velocity in float32; a block's weights are converted while it runs."""
    model = Transformer.from_pretrained(folder, dtype=None)
    place(model, dtype=torch.float32, device=CPU, leave=model.transformer_blocks)
    for block in model.transformer_blocks:
        home = weights_of(block)
        block.register_forward_pre_hook(lambda block, _, home=home: set_weights(block, [w.float() for w in home]))

        def leave(block: nn.Module, _: Any, __: Any, home: Sequence[Tensor] = home) -> None:
            set_weights(block, home)
            release_weights(block)

        block.register_forward_hook(leave)
    return evaluate(model, x.float(), text.float())


def evaluate(model: Transformer, x: Tensor, text: Tensor) -> Tensor:
    """The first step of a picture from words."""
    side = round(x.shape[1] ** 0.5)
    layout = Layout.build([text.shape[1]], (side, side))
    return model.first_step(x, torch.tensor([TIME]), text, layout)[0]


def theirs(folder: Path, x: Tensor, text: Tensor) -> Tensor:
    """The velocity of diffusers' class in bfloat16."""
    from diffusers import QwenImage21Transformer2DModel

    model = QwenImage21Transformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    side, target = round(x.shape[1] ** 0.5), x.shape[1]
    slots = torch.zeros(1, text.shape[1] + target // 4, dtype=torch.bool)
    slots[:, text.shape[1] :] = True
    out: Tensor = model(x, text, torch.tensor([TIME]), [[(1, side, side)]], slots, return_dict=False)[0]
    return out[:, -target:]


if __name__ == "__main__":
    sys.exit(main())
