"""The server asked to edit two pictures of 2048 x 2048 with n = 4: does it stay in its budget, is more refused?

    python benchmarks/serve_large.py --out large.json

The model is random and narrow (4 layers of 256, bfloat16) with the published topology: an autoencoder at 1/16, so each
input is 16,384 latents and 4,096 vision slots. Over HTTP comes a request that fits the budget for keys and values, and
then the same with guidance, which does not. The server's memory at rest, its peak until the answer is there and its
processor's seconds are read from /proc. Over what it was at rest it may take the budget, and what passes through a
block: twelve numbers a token and channel, as `fourstroke.memory` estimates. Prints the figures, then the bars with
pass or fail; the exit code is 1 if one fails.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from bars import report
from PIL import Image
from real_checkpoint import write_checkpoint

from fourstroke.dit import TransformerConfig
from fourstroke.folder import ModelInfo, write_info
from serve import Served, served

SHAPE = TransformerConfig(num_layers=4, num_attention_heads=2, context_in_dim=128)
MIB = 2**20
PATIENCE = 7200
"""Seconds for the warm-up, and for a request."""


def main() -> int:
    """Ask, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=2048, help="of each input image, and of the model's own pictures")
    parser.add_argument("--size", type=int, help="side of what is drawn (default: as the inputs)")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--kv-mib", type=float, default=256, help="the budget for keys and values")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    size = arguments.size or arguments.side
    figures: dict[str, Any] = {"cores": os.cpu_count(), "side": arguments.side, "size": size, "n": arguments.n}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder, tiny=True, transformer=SHAPE)
        write_info(folder, ModelInfo(name="narrow", width=arguments.side, height=arguments.side))
        options = [
            "--dtype",
            "bfloat16",
            "--kv-bytes",
            str(int(arguments.kv_mib * MIB)),
            "--request-seconds",
            str(PATIENCE),
        ]
        with served(name, *options, patience=PATIENCE) as server:
            print("the server is warm", file=sys.stderr)
            figures["rest"] = server.resident() / MIB
            figures["fits"] = ask(server, arguments, size, guidance=1)
            figures["does not"] = ask(server, arguments, size, guidance=3)
    latents = max(2 * arguments.side**2, min(2, arguments.n) * size**2) // 16**2
    over, passing = figures["fits"]["peak"] - figures["rest"], 12 * latents * SHAPE.width * 2 / MIB
    refused = figures["does not"]
    bars = {
        "drawn": (figures["fits"]["sizes"] == arguments.n * [[size, size]], f"{figures['fits']['sizes']}"),
        "memory": (
            over <= arguments.kv_mib + passing,
            f"{over:.0f} MiB over rest at the peak, allowed {arguments.kv_mib:.0f} for keys and values + {passing:.0f}",
        ),
        "refused": (
            refused["status"] == 400 and f"this server has {int(arguments.kv_mib * MIB)} bytes" in refused["said"],
            f"{refused['status']} {refused['said']}",
        ),
    }
    return report(figures, bars, arguments.out)


def ask(server: Served, arguments: argparse.Namespace, size: int, guidance: float) -> dict[str, Any]:
    """One request over HTTP: its status, seconds, the server's peak in MiB, and the sizes drawn or what was said."""
    noise = np.random.default_rng(0).integers(0, 256, (2, arguments.side, arguments.side, 3), dtype=np.uint8)
    files = [("image[]", (f"{i}.png", png(Image.fromarray(image)))) for i, image in enumerate(noise)]
    form = {
        "prompt": "the cat of the first on the couch of the second", "size": f"{size}x{size}", "n": arguments.n,
        "seed": 0, "num_inference_steps": arguments.steps, "guidance_scale": guidance,
    }  # fmt: skip
    process = Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")  # the peak begins anew
    spent, start = processor(process), time.monotonic()
    data = {name: str(value) for name, value in form.items()}
    answer = httpx.post(f"{server.url}/v1/images/edits", data=data, files=files, timeout=PATIENCE)
    found = {
        "status": answer.status_code,
        "seconds": round(time.monotonic() - start, 1),
        "processor": round(processor(process) - spent, 1),
        "peak": int(re.findall(r"VmHWM:\s+(\d+)", (process / "status").read_text())[0]) / 1024,
    }
    print(json.dumps(found), file=sys.stderr)
    if answer.status_code != 200:
        return found | {"sizes": [], "said": answer.json()["error"]["message"]}
    pictures = (Image.open(io.BytesIO(b64decode(one["b64_json"]))) for one in answer.json()["data"])
    return found | {"sizes": [list(picture.size) for picture in pictures], "said": ""}


def processor(process: Path) -> float:
    """Seconds that a process has computed."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
