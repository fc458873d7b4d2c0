"""The transformer against diffusers' class: the same random weights and inputs, both sides in one run, on this CPU.

    python benchmarks/transformer.py --out transformer.json
    python benchmarks/transformer.py --config models/micro/transformer/config.json --side 6 --text 40 --repeats 15

The default is the published shape at its real width, 4096, with two of its 32 layers, for a picture of 256 x 256. Three
tasks, each with and without an input image of the picture's size: `forward` evaluates the whole sequence, `step` the
target alone over cached keys and values of the prefix, `picture` is the prefix and four steps. Sides take turns; a
median is printed with the fastest and the slowest. With one thread (the default) times are the thread's own CPU time,
which other programs of the machine disturb less than wall time. About ten minutes.

A step is mostly its matrix products, in bfloat16 the same for both sides. They are timed alone too: no step with these
products can be more times as fast than diffusers' whole step is longer than they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourstroke.checkpoint import read_json
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.files import write_text

BAR = 1.15
"""How many times as fast as diffusers' class every row should be."""
MOST_DIFFERENCE = 1e-4
"""Of float32 results, whose deviation is about 1."""
MOST_GRAIN = 1.1
"""Of our error in bfloat16 over that of diffusers' class; both are taken against float32."""
TASKS = ("forward", "step", "picture")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEVELS = (1.0, 0.75, 0.5, 0.25)
"""Times of a picture's four steps; bfloat16 holds them exactly."""
Task = Callable[[], Tensor]


def main() -> int:
    """Run everything, print a table and one JSON object; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="config.json of another shape than the published one")
    parser.add_argument("--layers", type=int, help="blocks; 2 of the published shape, all of another")
    parser.add_argument("--side", type=int, default=16, help="of the picture and of the input image, in latents")
    parser.add_argument("--text", type=int, default=100, help="tokens of the prompt")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side and task")
    parser.add_argument("--threads", type=int, default=1, help="with more than one, times are wall time")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--out", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(arguments.threads)
    config = TransformerConfig.from_dict(read_json(arguments.config)) if arguments.config else TransformerConfig()
    if layers := arguments.layers or (None if arguments.config else 2):
        config = dataclasses.replace(config, num_layers=layers)
    ours, theirs = both(config)
    result: dict[str, Any] = {
        "config": dataclasses.asdict(config),
        "parameters": sum(p.numel() for p in ours.parameters()),
        "side": arguments.side,
        "text": arguments.text,
        "repeats": arguments.repeats,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "rows": [],
    }
    exact: dict[tuple[bool, str], Tensor] = {}
    for name in arguments.dtypes:
        ours, theirs = ours.to(DTYPES[name]), theirs.to(DTYPES[name])
        for images in (False, True):
            case = Case(config, DTYPES[name], arguments.side, arguments.text, images)
            for task in arguments.tasks:
                sides = {"ours": case.ours(ours, task), "diffusers": case.diffusers(theirs, task)}
                found = race(sides, arguments.repeats, arguments.threads)
                outputs = found.pop("outputs")
                if name == "float32":
                    exact[images, task] = outputs["diffusers"]
                found |= differences(outputs, exact.get((images, task)))
                if task == "step" and name != "float32":  # ours are of another library there
                    found["products"] = products(ours, case.x.shape[1], arguments)
                    found["most"] = round(found["seconds"]["diffusers"]["median"] / found["products"]["seconds"], 3)
                found = {"dtype": name, "images": images, "task": task, **found}
                found["met"] = met(found)
                result["rows"].append(found)
                print(row(found), file=sys.stderr, flush=True)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")
    return 0 if all(all(found["met"].values()) for found in result["rows"]) else 1


def both(config: TransformerConfig) -> tuple[Transformer, Any]:
    """Our transformer and diffusers' class with the same random weights, each with its own copy."""
    from diffusers import QwenImage21Transformer2DModel

    torch.manual_seed(0)
    ours = Transformer(config).eval()
    for name, parameter in ours.named_parameters():
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim > 1 and name.startswith(("norm_out", "proj_out")):
            torch.nn.init.normal_(parameter, std=config.width**-0.5)
    theirs = QwenImage21Transformer2DModel(**dataclasses.asdict(config)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


class Case:
    """Inputs of one prompt, with an input image or without, and what the two sides make of them."""

    def __init__(self, config: TransformerConfig, dtype: torch.dtype, side: int, text: int, images: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        self.grid, self.image_grids = (side, side), [(side, side)] if images else []
        slots = side * side // 4 if images else 0
        self.slots = torch.zeros(1, text + slots, dtype=torch.bool)
        self.slots[:, 4 : 4 + slots] = True
        self.x = torch.randn(1, side * side, config.in_channels, generator=generator).to(dtype)
        self.text = 3 * torch.randn(1, text + slots, config.context_in_dim, generator=generator).to(dtype)
        images_tokens = torch.randn(1, side * side, config.in_channels, generator=generator).to(dtype)
        self.images = images_tokens if images else None

    def ours(self, model: Transformer, task: str) -> Task:
        """A task of ours; what a step finds in the cache is computed here."""
        layout = Layout.build([self.text.shape[1]], self.grid, self.slots, self.image_grids)
        if task == "forward":
            return lambda: model(self.x, torch.tensor([0.5]), self.text, layout, self.images)
        if task == "step":
            cache = model.prefill(self.text, layout, self.images)
            return lambda: model.denoise(self.x, torch.tensor([0.5]), cache)

        def picture() -> Tensor:
            first, *others = (torch.tensor([t]) for t in LEVELS)
            velocity, cache = model.first_step(self.x, first, self.text, layout, self.images)
            x = self.x - 0.25 * velocity
            for t in others:
                x = x - 0.25 * model.denoise(x, t, cache)
            return x

        return picture

    def diffusers(self, model: Any, task: str) -> Task:
        """The same of diffusers' class; its cache is filled while it evaluates the whole sequence."""
        from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

        target = self.x.shape[1]
        slots = torch.cat((self.slots, torch.ones(1, target // 4, dtype=torch.bool)), dim=1)
        shapes = [[(1, *grid) for grid in (*self.image_grids, self.grid)]]

        def evaluate(x: Tensor, t: float, cache: Any = None, mode: str | None = None) -> Tensor:
            latents = x if self.images is None or mode == "cached" else torch.cat((self.images, x), dim=1)
            # its cached step needs the input images' latents too: the mask counts them
            latents = torch.cat((self.images, x), dim=1) if self.images is not None else latents
            out: Tensor = model(
                latents, self.text, torch.tensor([t]), shapes, slots, kv_cache=cache, kv_cache_mode=mode,
                return_dict=False,
            )[0]  # fmt: skip
            return out[:, -target:]

        if task == "forward":
            return lambda: evaluate(self.x, 0.5)
        if task == "step":
            kept = QwenImage21KVCache(len(model.transformer_blocks))
            evaluate(self.x, 0.5, kept, "extract")
            return lambda: evaluate(self.x, 0.5, kept, "cached")

        def picture() -> Tensor:
            x, cache = self.x, QwenImage21KVCache(len(model.transformer_blocks))
            for index, t in enumerate(LEVELS):
                x = x - 0.25 * evaluate(x, t, cache, "cached" if index else "extract")
            return x

        return picture


def race(sides: dict[str, Task], repeats: int, threads: int) -> dict[str, Any]:
    """Seconds of each side, taken in turns after a warm-up, and the last outputs.

    `speedup` is the median of the turns' ratios: two runs beside each other share the machine's mood.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    outputs = {side: task() for side, task in sides.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats):
        for side in sorted(sides, reverse=turn % 2 == 1):
            start = clock()
            outputs[side] = sides[side]()
            seconds[side].append(clock() - start)
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["diffusers"], strict=True)]
    return {
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "speedup": spread(ratios),
        "outputs": {side: x.float() for side, x in outputs.items()},
    }


def products(model: Transformer, tokens: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and 10^9 operations a second of the blocks' matrix products alone, for so many tokens."""
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    weights = [m.weight for m in model.transformer_blocks.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {w.shape[1]: torch.randn(tokens, w.shape[1]).to(w.dtype) for w in weights}
    seconds = []
    for _ in range(arguments.repeats):
        start = clock()
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        seconds.append(clock() - start)
    took = statistics.median(seconds)
    return {"seconds": round(took, 5), "gflops": round(2e-9 * tokens * sum(w.numel() for w in weights) / took, 1)}


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {key: round(f(values), 5) for key, f in (("median", statistics.median), ("min", min), ("max", max))}


def differences(outputs: dict[str, Tensor], exact: Tensor | None) -> dict[str, float]:
    """Between the sides at most; and in bfloat16 our root mean square error over theirs, if float32 was run."""
    found = {"difference": float((outputs["ours"] - outputs["diffusers"]).abs().max())}
    if exact is not None and not torch.equal(exact, outputs["diffusers"]):
        ours, theirs = (float((outputs[side] - exact).square().mean().sqrt()) for side in ("ours", "diffusers"))
        found |= {"error_ours": ours, "error_diffusers": theirs}
    return found


def met(found: dict[str, Any]) -> dict[str, bool]:
    """Which bars a row meets."""
    verdict = {"speed": found["speedup"]["median"] >= BAR}
    if found["dtype"] == "float32":
        return verdict | {"difference": found["difference"] <= MOST_DIFFERENCE}
    return verdict | {"grain": found.get("error_ours", 0.0) <= MOST_GRAIN * found.get("error_diffusers", 0.0)}


def row(found: dict[str, Any]) -> str:
    """A row of the table as one line of text."""
    sides = ", ".join(f"{side} {_ms(found['seconds'][side])}" for side in found["seconds"])
    ratio = found["speedup"]
    grain = f", errors {found['error_ours']:.1e} and {found['error_diffusers']:.1e}" if "error_ours" in found else ""
    if "products" in found:
        alone = found["products"]
        grain += f"; its products alone {1000 * alone['seconds']:.5g} ms ({alone['gflops']} GFLOP/s), so at most "
        grain += f"{found['most']:.2f}"
    return (
        f"{found['dtype']:8} {'1 image' if found['images'] else 'words':7} {found['task']:7} "
        f"{ratio['median']:.2f} times as fast ({ratio['min']:.2f} to {ratio['max']:.2f}); {sides}; "
        f"difference {found['difference']:.1e}{grain}"
    )


def _ms(seconds: dict[str, float]) -> str:
    median, least, most = (1000 * seconds[key] for key in ("median", "min", "max"))
    return f"{median:.5g} ms ({least:.5g} to {most:.5g})"


if __name__ == "__main__":
    sys.exit(main())
