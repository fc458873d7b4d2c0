"""The whole published configuration, 16.2 billion parameters of random weights, end to end; ours and diffusers.

    python benchmarks/real_size.py --folder /tmp/real --out real.json  # CPU: 33 GB of disk, half an hour
    python benchmarks/real_size.py --folder /tmp/real --device cuda --out real.json  # a GPU of 48 GB, ten minutes
    python benchmarks/real_size.py --folder /tmp/tiny --tiny  # all of it small, in a minute

The checkpoint is written first, if it is not there: sharded bfloat16 with its index. Each row is a process of its own.
It is ended when it has taken its time, or when its anonymous memory, which cannot be given back, reaches `--most-gib`,
lest it ends others. The result is written after every cell. On a GPU each cell runs once before its clock does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_checkpoint import write_checkpoint
from real_rows import Cell, Row, latents_file

from fourstroke.files import write_json

CPU_ROWS = (
    Row(side="ours", offload="model"),
    Row(side="ours", offload="layers"),
    Row(side="diffusers", offload="turns"),
    Row(side="ours", quantize="w8a8", offload="model"),
    Row(side="ours", quantize="int8", offload="model"),
    Row(side="ours", quantize="int4", offload="model"),
    Row(side="diffusers"),
)
"""diffusers has no offload without a GPU; its best there is to encode first and to load the rest then ("turns")."""
GPU_ROWS = (
    Row(side="ours"),
    Row(side="diffusers"),
    Row(side="ours", compile=True),
    Row(side="diffusers", compile=True),
    Row(side="ours", quantize="fp8", compile=True),
    Row(side="ours", offload="model"),
    Row(side="ours", offload="layers"),
)
LIMITS = {
    "bf16, offload model": 20, "int8, offload model": 12, "w8a8, offload model": 12, "bf16, offload layers": 8
}  # fmt: skip
"""GiB that our process may take at its peak, by row."""


CELL = tuple(field.name for field in dataclasses.fields(Cell))


def main() -> int:
    """Write the checkpoint, run the rows, print a table; returns 1 if a row of ours failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the checkpoint; it is kept")
    parser.add_argument("--out", type=Path, help="JSON, written after every cell")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="sides of pictures in pixels, on a CPU")
    parser.add_argument("--tokens", type=int, default=100, help="of the prompt, on a CPU")
    parser.add_argument("--rows", nargs="+", help="words of the rows to run (default: all)")
    parser.add_argument("--minutes", type=float, help="for all rows together (default: 9 on a GPU)")
    parser.add_argument("--most-gib", type=float, help="of anonymous memory (default: what is free, less 1.5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, and the cells of a GPU in tiny too")
    arguments = parser.parse_args()
    gpu = arguments.device != "cpu"
    if gpu and not torch.cuda.is_available():
        parser.error(f"there is no device {arguments.device} here")
    counts = write_checkpoint(arguments.folder, arguments.tiny)
    cells = (
        [*gpu_cells(arguments.tiny)]
        if gpu or arguments.tiny
        else [Cell(size=size, tokens=arguments.tokens) for size in arguments.size]
    )
    rows = GPU_ROWS if gpu else tuple(dict.fromkeys((*CPU_ROWS, *GPU_ROWS))) if arguments.tiny else CPU_ROWS
    rows = tuple(row for row in rows if not arguments.rows or any(word in row.name for word in arguments.rows))
    result: dict[str, Any] = {"parameters": counts, "machine": machine(arguments.device), "cells": []}
    minutes = arguments.minutes or (9.0 if gpu else None)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for number, row in enumerate(rows):
        share = None if end is None else (end - time.monotonic()) / (len(rows) - number)
        for found in run(row, cells, arguments, share):
            result["cells"].append(found)
            print(line(found), file=sys.stderr)
            if arguments.out:
                write_json(arguments.out, result)
    result["difference"] = differences(arguments.folder, rows)
    result["times as fast as diffusers"] = ratios(result["cells"])
    if not arguments.tiny and not gpu:
        result["met"] = met(result["cells"])
    if arguments.out:
        write_json(arguments.out, result)
    print(json.dumps(result))
    return int(any("error" in found and found["side"] == "ours" for found in result["cells"]))


def gpu_cells(tiny: bool) -> Iterator[Cell]:
    """Sizes, prompts, input images and batches at four steps, most telling ones first; and more steps."""
    small, large = (32, 64) if tiny else (1024, 2048)
    few, many = (40, 60) if tiny else (256, 1000)
    if tiny:
        yield from (Cell(size=small, tokens=few), Cell(size=large, tokens=many, inputs=2, batch=4, steps=8))
        return
    for size in (small, large):
        yield Cell(size=size, tokens=few)
        for steps in (8, 40):
            yield Cell(size=size, tokens=few, steps=steps)
        for tokens, inputs, batch in ((many, 0, 1), (few, 2, 1), (few, 0, 4), (many, 2, 1), (many, 0, 4), (few, 2, 4)):
            yield Cell(size=size, tokens=tokens, inputs=inputs, batch=batch)


def run(row: Row, cells: list[Cell], arguments: argparse.Namespace, seconds: float | None) -> Iterator[dict[str, Any]]:
    """A row's cells as they come; if its process ends early, what is left is one cell with the reason."""
    plan = {
        "row": dataclasses.asdict(row),
        "cells": [dataclasses.asdict(cell) for cell in cells],
        "folder": str(arguments.folder),
        "device": arguments.device,
        "backend": "eager" if arguments.tiny else None,
    }
    most = arguments.most_gib or free_gib() - 1.5
    begin, reason, seen = time.monotonic(), "", 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, str(Path(__file__).with_name("real_rows.py")), json.dumps(plan)]
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        while True:
            ended = process.poll() is not None
            lines = read(out)
            for text in lines[seen:]:
                yield json.loads(text)
            seen = len(lines)
            if ended:
                break
            if anonymous(process.pid) > most:
                reason = f"ended at {most:.1f} GiB of anonymous memory, all that is free here"
            elif seconds is not None and time.monotonic() - begin > seconds:
                reason = f"ended after its {seconds:.0f} s"
            if reason:
                process.kill()
                process.wait()
            else:
                time.sleep(0.25)
        if process.returncode:
            errors.seek(0)
            said = [text for text in errors.read().splitlines() if text.strip()]
            yield {
                "row": row.name, **dataclasses.asdict(row), "at": seen,
                "error": reason or (said[-1][:300] if said else f"exit code {process.returncode}"),
            }  # fmt: skip


def read(file: Any) -> list[str]:
    """The whole lines of a file that another process writes."""
    file.seek(0)
    return file.read().rpartition("\n")[0].splitlines()


def anonymous(process: int) -> float:
    """GiB of a process that are no pages of files."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) / 2**20 if found else 0.0


def free_gib() -> float:
    """GiB of memory that are free, or could be."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(text.split()[1]) / 2**20 for text in lines if text.startswith("MemAvailable")), 1e6)


def machine(device: str) -> dict[str, Any]:
    """On what the rows ran."""
    import diffusers
    import transformers

    model = [t.split(":")[1].strip() for t in Path("/proc/cpuinfo").read_text().splitlines() if t.startswith("model n")]
    return {
        "cpu": model[0] if model else platform.machine(),
        "threads": torch.get_num_threads(),
        "free GiB": round(free_gib(), 1),
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, diffusers)},
    }


def differences(folder: Path, rows: tuple[Row, ...]) -> dict[str, float]:
    """By row of ours, how far its last latents of the first cell are from diffusers', as a part of their deviation."""
    theirs = [latents_file(folder, row.name) for row in rows if row.side == "diffusers" and not row.compile]
    base = next((np.load(file) for file in theirs if file.exists()), None)
    if base is None:
        return {}
    ours = {row.name: latents_file(folder, row.name) for row in rows if row.side == "ours"}
    return {
        name: round(float(np.sqrt(np.square(np.load(file) - base).mean()) / base.std()), 4)
        for name, file in ours.items()
        if file.exists()
    }


def ratios(cells: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By size and row of ours, how many times as fast as diffusers' best of that size each stage was, by the clock."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for cell in cells:
        alike = [
            other["seconds"]
            for other in cells
            if other["side"] == "diffusers" and "seconds" in other and all(other[k] == cell.get(k) for k in CELL)
        ]
        if cell["side"] == "ours" and "seconds" in cell and alike:
            best = min(alike, key=lambda seconds: seconds["all"])
            both = [stage for stage in cell["seconds"] if stage in best and stage != "all"]
            row = {stage: round(best[stage] / max(cell["seconds"][stage], 1e-9), 3) for stage in both}
            found.setdefault(f"{cell['size']} px", {})[cell["row"]] = row
    return found


def met(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """By row of ours, its peak and whether that is within its limit."""
    peaks = {
        f"{c['quantize'] or 'bf16'}, offload {c['offload']}": c for c in cells if c["side"] == "ours" and "gib" in c
    }
    return {
        name: {"peak": peaks[name]["gib"]["peak"], "limit": limit, "met": peaks[name]["gib"]["peak"] <= limit}
        for name, limit in LIMITS.items()
        if name in peaks
    }


def line(found: dict[str, Any]) -> str:
    """A cell as one line of text."""
    cell = f"{found['size']} px, {found['steps']} steps, {found['tokens']} tokens" if "size" in found else ""
    extra = (
        f", {found['inputs']} inputs, batch {found['batch']}"
        if found.get("inputs") or found.get("batch", 1) > 1
        else ""
    )
    took = ", ".join(f"{name} {value:.2f} s" for name, value in found.get("seconds", {}).items())
    memory = ", ".join(f"{name} {value:.1f} GiB" for name, value in found.get("gib", {}).items())
    return f"{found['row']}: {cell}{extra}: {found.get('error') or took}; {memory}"


if __name__ == "__main__":
    sys.exit(main())
