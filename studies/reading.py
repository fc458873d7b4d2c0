"""How a small text encoder learns to read: what it knows of held-out captions, step by step.

    python studies/reading.py --log runs/micro/text/log.jsonl

Reads the log of `fourstroke train text` and writes docs/studies/reading.json, .png and .md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fourstroke.files import atomic_file, write_text

KINDS = {
    "short_things": "things, short captions",
    "rich_things": "things, rich captions",
    "short_colours": "colours, short captions",
    "rich_colours": "colours, rich captions",
}


def main() -> None:
    """Read, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/studies/reading"), help="prefix of the files")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.log.read_text(encoding="utf-8").splitlines()]
    scored = [{"step": row["step"], "minutes": row["seconds"] / 60, **row["scores"]} for row in rows if "scores" in row]
    losses = [(row["step"], row["things"]) for row in rows if "things" in row]
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out.with_suffix(".json"), json.dumps({"scores": scored, "loss": losses}, indent=2) + "\n")
    plot(scored, losses, out.with_suffix(".png"))
    page = table(scored)
    said = "Printed by `python studies/reading.py --log LOG`, of a run of `train text`."
    text = f"# Reading first\n\n{said}\n\n{page}\n\n![curves]({out.name}.png)\n"
    write_text(out.with_suffix(".md"), text)
    print(page)


def table(scored: list[dict[str, float]]) -> str:
    """Shares of objects named right where they stand, in per cent, as Markdown."""
    lines = [f"| step | minutes | {' | '.join(KINDS.values())} |", "|---" * (len(KINDS) + 2) + "|"]
    for row in scored:
        values = " | ".join(f"{100 * row[key]:.0f} %" for key in KINDS)
        lines.append(f"| {row['step']:.0f} | {row['minutes']:.1f} | {values} |")
    return "\n".join(lines)


def plot(scored: list[dict[str, float]], losses: list[tuple[int, float]], file: Path) -> None:
    """Scores above, the loss of things below, over the same steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), dpi=120, sharex=True)
    for key, label in KINDS.items():
        upper.plot([row["step"] for row in scored], [row[key] for row in scored], marker=".", label=label)
    upper.set(ylabel="held-out objects named right", ylim=(0, 1.02))
    upper.legend()
    lower.plot(*zip(*losses, strict=True), color="black")
    lower.set(xlabel="step", ylabel="cross entropy of things", yscale="log")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_file(file) as partial:
        figure.savefig(partial)


if __name__ == "__main__":
    main()
