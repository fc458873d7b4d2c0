"""The autoencoder against diffusers' class: the same random weights and pictures, both sides in one run, on this CPU.

    python benchmarks/vae.py --out vae.json

Times alternate between the sides; a median is printed with the fastest and the slowest. Peak memory (resident, all of
the process: interpreter, libraries, weights, activations) is taken in a process of its own for each side and task.
The default is the published size, 337,740,404 parameters, in float32 at 512 x 512: about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourstroke.files import write_text
from fourstroke.vae import Autoencoder

BARS = {"decode": {"speed": 2.0, "memory": 0.5}, "encode": {"speed": 1.5, "memory": 0.5}}
MOST_DIFFERENCE = 1e-4
SIDES, TASKS = ("ours", "diffusers"), ("encode", "decode")
Task = Callable[[Tensor], Tensor]


def main() -> int:
    """Run everything, print a table and one JSON object; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side and task")
    parser.add_argument("--base-dim", type=int, default=96, help="encoder width; the decoder has 1.5 times as much")
    parser.add_argument("--out", type=Path, help="also write the result here")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "TASK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.measure:
        print(json.dumps(peak(*arguments.measure, arguments.size)))
        return 0
    result: dict[str, Any] = {
        "size": arguments.size,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, arguments.base_dim)
        memory = {task: {side: _measure(side, task, folder, arguments.size) for side in SIDES} for task in TASKS}
        coders = {side: load(side, folder) for side in SIDES}
        result["parameters"] = sum(p.numel() for p in Autoencoder.from_pretrained(folder).parameters())
        for task, x in zip(TASKS, inputs(arguments.size), strict=True):
            found = race({side: coders[side][task] for side in SIDES}, x, arguments.repeats)
            result[task] = found | {"memory": memory[task]}
            result[task]["memory_ratio"] = round(
                memory[task]["ours"]["peak_mb"] / memory[task]["diffusers"]["peak_mb"], 3
            )
            print(row(task, result[task]), file=sys.stderr)
    result["met"] = {task: met(task, result[task]) for task in TASKS}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")
    return 0 if all(all(bars.values()) for bars in result["met"].values()) else 1


def write_weights(folder: Path, base_dim: int) -> None:
    """An autoencoder of diffusers with random weights, saved as it saves; its norms and biases are random too."""
    from diffusers import AutoencoderKLQwenImage21

    torch.manual_seed(0)
    model = AutoencoderKLQwenImage21(base_dim=base_dim, decoder_base_dim=base_dim * 3 // 2)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)


def load(side: str, folder: Path) -> dict[str, Task]:
    """The two tasks of one side: pictures (b, 4, H, W) to unnormalised latents (b, 64, h, w), and back, clamped."""
    if side == "ours":
        ours = Autoencoder.from_pretrained(folder)
        return {"encode": ours.encode_raw, "decode": lambda z: ours.decode_raw(z).clamp(-1, 1)}
    from diffusers import AutoencoderKLQwenImage21

    theirs = AutoencoderKLQwenImage21.from_pretrained(folder).eval()
    return {
        "encode": lambda x: theirs.encode(x.unsqueeze(2)).latent_dist.mode().squeeze(2),
        "decode": lambda z: theirs.decode(z.unsqueeze(2)).sample.squeeze(2),
    }


def inputs(size: int) -> tuple[Tensor, Tensor]:
    """A random picture, smooth and noisy, and random latents of its size."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 4, size // 16, size // 16, generator=generator) * 2 - 1
    x = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    x = (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    return x, torch.randn(1, 64, size // 16, size // 16, generator=generator)


def race(sides: dict[str, Task], x: Tensor, repeats: int) -> dict[str, Any]:
    """Seconds of each side, taken in turns after one small warm-up, and the largest difference of their results."""
    for task in sides.values():
        task(x[..., :32, :32] if x.shape[1] == 4 else x[..., :2, :2])
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    last: dict[str, Tensor] = {}
    for _ in range(repeats):
        for side, task in sides.items():
            start = time.perf_counter()
            last[side] = task(x)
            seconds[side].append(time.perf_counter() - start)
    spread = {
        side: {key: round(f(values), 3) for key, f in (("median", statistics.median), ("min", min), ("max", max))}
        for side, values in seconds.items()
    }
    return {
        "seconds": spread,
        "speedup": round(spread["diffusers"]["median"] / spread["ours"]["median"], 3),
        "difference": float((last["ours"] - last["diffusers"]).abs().max()),
    }


def peak(side: str, task: str, folder: str, size: int) -> dict[str, float]:
    """Resident megabytes of this process: with the weights loaded, and at most while doing the task once."""
    x = inputs(size)[TASKS.index(task)]
    run = load(side, Path(folder))[task]
    loaded = highest()
    run(x)
    return {"loaded_mb": round(loaded, 1), "peak_mb": round(highest(), 1)}


def highest() -> float:
    """The most megabytes that this process has held; where the system tells no more, its parent's may count in."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def met(task: str, found: dict[str, Any]) -> dict[str, bool]:
    """Which bars a task meets."""
    bars = BARS[task]
    verdict = {"difference": found["difference"] <= MOST_DIFFERENCE, "speed": found["speedup"] >= bars["speed"]}
    return verdict | {"memory": found["memory_ratio"] <= bars["memory"]}


def row(task: str, found: dict[str, Any]) -> str:
    """A task as one line of text."""
    sides = ", ".join(
        f"{side} {found['seconds'][side]['median']:.2f} s ({found['seconds'][side]['min']:.2f} to "
        f"{found['seconds'][side]['max']:.2f}), {found['memory'][side]['peak_mb']:.0f} MB"
        for side in SIDES
    )
    return (
        f"{task}: {sides}; {found['speedup']:.2f} times as fast in {found['memory_ratio']:.2f} of the memory, "
        f"difference at most {found['difference']:.1e}"
    )


def _measure(side: str, task: str, folder: Path, size: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--size", str(size), "--measure", side, task, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    sys.exit(main())
