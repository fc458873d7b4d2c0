"""What the pages of the studies share: spreads over seeds, paired differences, curves, and the files they end in."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arms import SEEDS, STEPS

from fourstroke.files import atomic_file, write_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""By arm, one result a seed."""


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean (lowest to highest); a single value stands alone."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def difference(results: Results, arm: str, base: str, of: Callable[[Mapping[str, Any]], float], digits: int = 2) -> str:
    """Mean (lowest to highest) of arm - base, seed by seed: both saw the same pictures in the same order."""
    pairs = zip(results[arm], results[base], strict=True)
    deltas = [of(ours) - of(theirs) for ours, theirs in pairs]
    mean = sum(deltas) / len(deltas)
    return f"{mean:+.{digits}f} ({min(deltas):+.{digits}f} to {max(deltas):+.{digits}f})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def paragraphs(*texts: str) -> str:
    """Each text as a paragraph of lines of at most 120 characters."""
    return "\n\n".join(textwrap.fill(" ".join(text.split()), 120, break_long_words=False) for text in texts)


def findings(texts: Sequence[str], steps: int, seeds: int) -> str:
    """What was read from a table, as long as it is the table that was read: of the default steps and seeds."""
    return f"\n## What it says\n\n{paragraphs(*texts)}\n" if (steps, seeds) == (STEPS, SEEDS) and texts else ""


def write(out: Path, results: Any, text: str) -> None:
    """<out>.json and <out>.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    write_text(out.with_suffix(".md"), text)


def axes_of(columns: int, width: float = 5.0) -> tuple[Any, Any]:
    """A figure and its row of axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width * columns, 3.8), dpi=120, squeeze=False)
    return figure, axes[0]


def draw_curves(axes: Any, results: Results, labels: Mapping[str, str], key: str, title: str) -> None:
    """Mean over seeds against steps, the spread over seeds shaded."""
    for (arm, label), colour in zip(labels.items(), COLOURS, strict=False):
        steps = [point["step"] for point in results[arm][0]["curve"]]
        each = [[point[key] for point in result["curve"]] for result in results[arm]]
        columns = list(zip(*each, strict=True))
        axes.plot(steps, [sum(c) / len(c) for c in columns], color=colour, label=label, marker=".")
        axes.fill_between(steps, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.2, lw=0)
    axes.set(xlabel="steps", ylabel="PSNR in dB", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_points(axes: Any, groups: Mapping[str, Sequence[float]], ylabel: str, title: str) -> None:
    """One column of points a group, one point a seed, a bar at the mean."""
    for place, ((_, values), colour) in enumerate(zip(groups.items(), COLOURS, strict=False)):
        axes.scatter([place] * len(values), values, color=colour, zorder=3)
        mean = sum(values) / len(values)
        axes.hlines(mean, place - 0.3, place + 0.3, color=colour, lw=2)
    axes.set_xticks(range(len(groups)), [textwrap.fill(name, 14) for name in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set(ylabel=ylabel, title=title)
    axes.grid(alpha=0.3, axis="y")


def save(figure: Any, out: Path) -> None:
    """<out>.png."""
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out.with_suffix(".png")) as partial:
        figure.savefig(partial)
