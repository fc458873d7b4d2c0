"""How a transformer learns to draw what was asked: scores of held-out prompts over the minutes of its training.

    python studies/learning.py --log runs/micro/dit/log.jsonl

Reads the log of `fourstroke train dit` with the world among its validators, and writes
docs/studies/learning.{json,md,png}. The prompts are those by which checkpoints are chosen, not those by which models
are tested.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import COLOURS, axes_of, save, table, write

SCORES = ("objects", "colours", "relations")


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/studies/learning"), help="prefix of the files")
    arguments = parser.parse_args(argv)
    rows = [json.loads(line) for line in arguments.log.read_text(encoding="utf-8").splitlines()]
    scored: list[dict[str, Any]] = [
        {"step": row["step"], "minutes": row["seconds"] / 60, **row["scores"]}
        for row in rows
        if "relations" in row.get("scores", {})
    ]
    if not scored:
        raise SystemExit(f"{arguments.log} has no judged samples; train with the world among the validators")
    losses = [(row["seconds"] / 60, row["flow"] if "flow" in row else row["loss"]) for row in rows if "loss" in row]
    figure, (left, right) = axes_of(2)
    for key, colour in zip(SCORES, COLOURS, strict=False):
        left.plot([r["minutes"] for r in scored], [r[key] for r in scored], marker=".", color=colour, label=key)
    left.set(xlabel="minutes", ylabel="share right", ylim=(0, 1.02), title="held-out prompts")
    left.legend()
    right.plot(*zip(*losses, strict=True), color="black", lw=0.7)
    right.set(xlabel="minutes", title="flow-matching loss")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save(figure, arguments.out)
    cells = [[str(r["step"]), f"{r['minutes']:.0f}", *(f"{r[key]:.3f}" for key in SCORES)] for r in scored]
    page = table(["step", "minutes", *SCORES], cells)
    command = "Printed by `python studies/learning.py --log LOG`, of a run whose validators judge its pictures."
    text = f"# Learning to draw what was asked\n\n{command}\n\n{page}\n\n![curves]({arguments.out.name}.png)\n"
    write(arguments.out, {"scores": scored, "loss": losses}, text)
    print(page)


if __name__ == "__main__":
    main()
