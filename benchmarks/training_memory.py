"""Compares the memory that `fourstroke estimate` foresees with what training really takes, on this machine's CPU.

    python benchmarks/training_memory.py [--kinds full lora lora-checkpointing] [--heads 32]

Two layers of the published width (32 heads) are trained for two steps in a process of their own; what counts is the
peak of its resident memory less what it was before the model was made. `full` has half the width: with its optimiser
and average two layers of the whole would take 12 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from fourstroke.dit import Transformer, TransformerConfig, condition
from fourstroke.estimate import GIB
from fourstroke.estimate.stages import transformer_needs
from fourstroke.estimate.transformer import Work
from fourstroke.lora import LoraConfig, add_lora, lora_module
from fourstroke.train.optimizer import MovingAverage, OptimizerConfig, OptimizerGroup

KINDS = {"full": (None, 0), "lora": (LoraConfig(rank=16), 0), "lora-checkpointing": (LoraConfig(rank=16), 1)}
"""By name: the adapter, and which blocks are computed again."""
STEPS = 2
ADAMW = OptimizerConfig(kind="adamw", lr=1e-4, warmup=1)
UNPOOLED = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Of glibc, whose heap keeps what was let go: tensors of a megabyte and more are given back to the system."""


def main(argv: list[str] | None = None) -> None:
    """Measure each kind in a process of its own, and print both figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--heads", type=int, help="of 128 channels; 32 are the published width")
    parser.add_argument("--side", type=int, default=24, help="of the picture, in latents")
    parser.add_argument("--text", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        print(json.dumps(measured(arguments.kinds[0], arguments.heads, arguments.side, arguments.text)))
        return
    for kind in arguments.kinds:
        heads = arguments.heads or (16 if kind == "full" else 32)
        sizes = ["--heads", str(heads), "--side", str(arguments.side), "--text", str(arguments.text)]
        command = [sys.executable, __file__, "--child", "--kinds", kind, *sizes]
        child = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | UNPOOLED)
        found = json.loads(child.stdout.splitlines()[-1])
        found["estimated"] = estimated(kind, heads, arguments.side, arguments.text)
        found["ratio"] = found["estimated"] / found["measured"]
        print(json.dumps({key: value if isinstance(value, str) else round(value, 3) for key, value in found.items()}))


def shape(heads: int) -> TransformerConfig:
    """Two layers of so many heads."""
    return TransformerConfig(num_layers=2, num_attention_heads=heads)


def estimated(kind: str, heads: int, side: int, text: int) -> float:
    """GiB that are foreseen."""
    lora, checkpointing = KINDS[kind]
    work = Work(grid=(side, side), prompts=1, rows=1, text_tokens=text)
    memory, _ = transformer_needs(
        shape(heads), work, lora=lora, checkpointing=checkpointing, bf16=False, optimizer=ADAMW
    )
    return sum(memory.values())


def measured(kind: str, heads: int, side: int, text: int) -> dict[str, float | str]:
    """GiB that this process takes for some steps of training, above what it took before."""
    lora, checkpointing = KINDS[kind]
    before = resident()
    with torch.device("meta"):
        model = Transformer(shape(heads))
    model = model.to_empty(device="cpu")
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.02)
    if lora is not None:
        add_lora(model, lora)
    model.gradient_checkpointing = checkpointing
    model.train()
    trained = {"transformer": model if lora is None else lora_module(model)}
    group, average = OptimizerGroup(trained, ADAMW), MovingAverage(trained, ADAMW.ema)
    features = SimpleNamespace(
        features=torch.randn(1, text, model.config.context_in_dim), lengths=torch.tensor([text]), slots=None
    )
    x, t = torch.randn(1, side * side, model.config.in_channels), torch.rand(1)
    for step in range(STEPS):
        loss = F.mse_loss(condition(model, features, (side, side))(x, t), x)
        group.update({"loss": loss}, 0.0)
        del loss
        average.update(step)
    with average.applied():
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"kind": kind, "measured": (peak - before) / GIB}


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
