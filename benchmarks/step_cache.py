"""What step caching saves and costs: pictures of many steps, each threshold beside plain drawing, in one run.

    python benchmarks/step_cache.py

Draws the same prompts and seeds with every step whole, then with thresholds, and, for comparison, with fewer steps.
Prints how many times as fast each is, in the thread's own CPU time (encoding and decoding included), and the PSNR of
its pictures against those of all steps.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from fourstroke import Pipeline

PROMPTS = (
    "a frog above a red circle",
    "a rocket to the left of a blue square",
    "a pizza",
    "a cat below a green triangle",
    "two apples and a car",
    "a yellow circle to the right of a dog",
)


def main() -> int:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--fewer", type=int, nargs="*", default=[30, 20, 10], help="plain drawings of fewer steps")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.04, 0.06, 0.08, 0.12, 0.16, 0.24])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = Pipeline.from_pretrained(arguments.model, device="cpu")
    draw(pipe, 2, 0.0)
    exact, seconds = draw(pipe, arguments.steps, 0.0)
    rows = []
    ways = [(steps, 0.0) for steps in arguments.fewer] + [(arguments.steps, t) for t in arguments.thresholds]
    for steps, threshold in ways:
        pictures, taken = draw(pipe, steps, threshold)
        ratios = [psnr(a, b) for a, b in zip(pictures, exact, strict=True)]
        row: dict[str, Any] = {"steps": steps, "step_cache": threshold, "speedup": round(seconds / taken, 2)}
        row |= {"psnr": round(statistics.mean(ratios), 1), "worst": round(min(ratios), 1)}
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
    print(json.dumps({"model": pipe.info.name, "steps": arguments.steps, "pictures": len(PROMPTS), "rows": rows}))
    return 0


def draw(pipe: Pipeline, steps: int, threshold: float) -> tuple[list[np.ndarray], float]:
    """A picture of each prompt, and the seconds that all took."""
    start = time.thread_time()
    outputs = [
        pipe(prompt, seed=seed, num_inference_steps=steps, step_cache=threshold) for seed, prompt in enumerate(PROMPTS)
    ]
    return [np.asarray(output.images[0], dtype=float) for output in outputs], time.thread_time() - start


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, of 8-bit pictures; 99 of equal ones."""
    error = float(np.square(a - b).mean())
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0


if __name__ == "__main__":
    sys.exit(main())
