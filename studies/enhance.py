"""What the prompt enhancer brings: raw short prompts, fine-tuned, reinforced, and the rich captions they came from.

    python studies/enhance.py --model models/micro --sft runs/micro/enhance-sft/model --rl runs/micro/enhance-rl/model

Held-out prompts, each drawn from the same noise in every row. Consistency is the share of the *short* prompt's facts
that the judge of pixels finds; `held out` is the judge that was no reward (the mean of presence and finish). Text
scores count the first answers as they are, and what is handed on: a rewrite that passes the checks, or the user's own
words. Intervals are 95 % bootstraps
over prompts; differences are paired. `--log` adds the curves of a reinforcement run, `--hack` those of one whose
only reward is length.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import paragraphs

from fourstroke.data.sheet import contact_sheet
from fourstroke.enhance.checks import lost_words, problems
from fourstroke.enhance.enhancer import PromptEnhancer
from fourstroke.enhance.generator import Generator, PipelineGenerator
from fourstroke.enhance.local import LocalModel
from fourstroke.enhance.measure import answers, rewrites, text_scores
from fourstroke.enhance.prompts import requests_of
from fourstroke.enhance.rewards import Reward, RewardBatch
from fourstroke.enhance.rewards.richness import Richness
from fourstroke.enhance.triplet import CATEGORIES, Triplet
from fourstroke.files import atomic_file, save_image, write_text
from fourstroke.pipeline import Pipeline
from fourstroke.world import World
from fourstroke.world.caption_rules import world_triplets
from fourstroke.world.enhancer_judge import PresenceJudge, WorldJudge, train_judge
from fourstroke.world.find import find_world
from fourstroke.world.rewards import Consistency

SCORES = ("consistency", "richness", "held out", "presence", "finish", "words kept")
SHEET_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to word the prompts, with the scores of each prompt's picture."""

    name: str
    captions: list[str]
    pictures: list[np.ndarray]
    scores: dict[str, np.ndarray]


def main() -> None:
    """Rewrite, draw, judge, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the generator")
    parser.add_argument("--sft", type=Path, required=True)
    parser.add_argument("--rl", type=Path)
    parser.add_argument("--n", type=int, default=300, help="held-out prompts that are drawn")
    parser.add_argument("--texts", type=int, default=1000, help="held-out prompts whose rewrites are read")
    parser.add_argument("--words", type=float, default=0.1, help="share of the read prompts with quoted words")
    parser.add_argument(
        "--judge-steps", type=int, default=WorldJudge().steps, help="how long the held-out judge learns"
    )
    parser.add_argument("--log", type=Path, help="log.jsonl of the reinforcement run")
    parser.add_argument("--hack", type=Path, help="log.jsonl of a run whose only reward is length")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/enhance"), help="prefix of the files")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model)
    config = find_world(None, arguments.model, pipe.info.name)
    generator = PipelineGenerator(pipe, config.width, config.height)
    judge = train_judge(WorldJudge(world=config, steps=arguments.judge_steps))
    rewards = (Consistency(world=config), Richness())
    enhancers = {"fine-tuned": arguments.sft, "fine-tuned + reinforced": arguments.rl}
    loaded = {name: PromptEnhancer.from_pretrained(folder) for name, folder in enhancers.items() if folder}

    lively = dataclasses.replace(config, textures=0.6, lights=0.6)
    readable = world_triplets(World(dataclasses.replace(lively, words=arguments.words)), arguments.texts, "heldout")
    texts = {key: value for name, enhancer in loaded.items() for key, value in read(name, enhancer, readable).items()}
    drawn = world_triplets(World(lively), arguments.n, "heldout", first=10**6)
    wordings = {"short prompt": [t.short for t in drawn]}
    wordings |= {name: reworded(enhancer, drawn) for name, enhancer in loaded.items()}
    wordings["rich caption"] = [t.rich for t in drawn]
    rows = [measure(name, captions, drawn, generator, rewards, judge) for name, captions in wordings.items()]

    out: Path = arguments.out
    pairs = list(itertools.pairwise(rows))
    record = {
        "n": arguments.n,
        "texts": texts,
        "rows": {row.name: {key: interval(row.scores[key]) for key in SCORES} for row in rows},
        "categories": {c: {r.name: interval(r.scores["held out"][chosen(drawn, c)]) for r in rows} for c in CATEGORIES},
        "differences": {
            f"{b.name} - {a.name}": {k: interval(b.scores[k] - a.scores[k]) for k in SCORES} for a, b in pairs
        },
    }
    write_text(out.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    shown = min(SHEET_PROMPTS, arguments.n)
    images = [row.pictures[index] for row in rows for index in range(shown)]
    captions = [f"{row.name}: {row.captions[index]}" for row in rows for index in range(shown)]
    save_image(contact_sheet(images, captions, columns=shown, upscale=max(1, 192 // config.width)), f"{out}-sheet.png")
    logs = {"reward of picture and text": arguments.log, "reward of length alone": arguments.hack}
    plot({name: curves(log) for name, log in logs.items() if log}, Path(f"{out}-curves.png"))
    page = table(record, arguments.n, arguments.texts)
    said = paragraphs(
        """Printed by `python studies/enhance.py --model models/micro --sft FINE_TUNED --rl REINFORCED`. Rewards:
        consistency (share of the short prompt's facts that a judge of pixels finds) and richness (how lively the frame
        is). `held out` is a judge that was no reward but chose the checkpoint: the mean of presence and finish. Words
        are those that the prompt quotes."""
    )
    write_text(out.with_suffix(".md"), f"# What the enhancer brings\n\n{said}\n\n{page}\n")
    print(page)


def read(name: str, enhancer: PromptEnhancer, triplets: Sequence[Triplet]) -> dict[str, dict[str, Any]]:
    """Text scores, as shares with intervals, of the first answers and of what is handed on; seconds of one rewrite."""
    requests = [t.short for t in triplets]
    first, final = handed_on(enhancer, requests)
    spent = []
    for request in requests[:20]:
        start = time.perf_counter()
        enhancer(request)
        spent.append(time.perf_counter() - start)
    found = {}
    for kind, texts in (("first answers", first), ("handed on", final)):
        scores = text_scores(requests, texts, enhancer.lexicon)
        changed = [text is not None and text != request for text, request in zip(texts, requests, strict=True)]
        found[f"{name}, {kind}"] = {
            **{key: dataclasses.asdict(score) for key, score in scores.items() if score is not None},
            "rewritten": interval(np.array(changed, float)),
            "seconds": {"median": statistics.median(spent), "longest": max(spent)},
        }
    return found


def handed_on(enhancer: PromptEnhancer, requests: Sequence[str], batch: int = 32) -> tuple[list[str | None], list[str]]:
    """The first answers' rewrites, and what an enhancer hands on for each request, in batches.

    As in `PromptEnhancer` an answer that fails the checks is asked for again, `attempts` times in all; then the request
    itself is handed on. A small enhancer's are the requests of its world, so none is turned away unread.
    """
    assert isinstance(enhancer.backend, LocalModel)
    first: list[str | None] = []
    final, waiting = list(requests), list(range(len(requests)))
    for attempt in range(enhancer.config.attempts):
        asked = [requests[index] for index in waiting]
        seed = attempt * 1_000_003
        found = rewrites(
            answers(enhancer.backend, asked, enhancer.system_prompt, enhancer.config, seed=seed, batch=batch)
        )
        first = first or found
        good = {
            index: text
            for index, text in zip(waiting, found, strict=True)
            if text is not None and not problems(requests[index], text, enhancer.lexicon)
        }
        for index, text in good.items():
            final[index] = text
        waiting = [index for index in waiting if index not in good]
    return first, final


def reworded(enhancer: PromptEnhancer, triplets: Sequence[Triplet]) -> list[str]:
    """What the enhancer hands on for each prompt: its checks and the user's own words included."""
    return handed_on(enhancer, [t.short for t in triplets])[1]


def measure(
    name: str,
    captions: list[str],
    triplets: list[Triplet],
    generator: Generator,
    rewards: Sequence[Reward],
    judge: PresenceJudge,
) -> Row:
    """Draw one wording of the prompts and judge the pictures."""
    pictures = generator.draw(captions, [t.seed for t in triplets])
    records = requests_of(triplets, (generator.width, generator.height))
    batch = RewardBatch(records, captions, lambda: pictures)
    seen = np.array(list(judge.score(pictures, records).values()))
    kept = [float(not lost_words(t.short, caption)) for t, caption in zip(triplets, captions, strict=True)]
    columns = (*(reward(batch).numpy() for reward in rewards), seen.mean(0), *seen, np.array(kept))
    return Row(name=name, captions=captions, pictures=pictures, scores=dict(zip(SCORES, columns, strict=True)))


def chosen(triplets: Sequence[Triplet], category: str) -> np.ndarray:
    """Which prompts are of a category."""
    return np.array([t.category == category for t in triplets], bool)


def interval(values: np.ndarray) -> dict[str, float] | None:
    """The mean with its 95 % bootstrap interval, over what has a score: a sticker has no frame; None of nothing."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    picks = np.random.default_rng(20).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def table(record: dict[str, Any], n: int, texts: int) -> str:
    """The record in Markdown."""

    def cell(score: dict[str, float] | None) -> str:
        return "–" if score is None else f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"

    def lines(head: Sequence[str], body: dict[str, list[str]]) -> list[str]:
        return [
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
            *(f"| {k} | {' | '.join(v)} |" for k, v in body.items()),
            "",
        ]

    names = [name for name in next(iter(record["texts"].values())) if name != "seconds"]
    answered = {
        key: [*(cell(value[name]) for name in names), f"{value['seconds']['median']:.2f}"]
        for key, value in record["texts"].items()
    }
    pictures = {key: [cell(value[name]) for name in SCORES] for key, value in record["rows"].items()}
    differences = {key: [cell(value[name]) for name in SCORES] for key, value in record["differences"].items()}
    categories = {key: [cell(value) for value in row.values()] for key, row in record["categories"].items()}
    return "\n".join(
        [
            *lines([f"{texts} held-out prompts", *(name.replace("_", " ") for name in names), "s a prompt"], answered),
            *lines([f"{n} held-out prompts, drawn", *SCORES], pictures),
            *lines(["difference", *SCORES], differences),
            *lines(["held-out judge by category", *record["rows"]], categories),
        ]
    )


def curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """From a run's `log.jsonl`: (step, value) of the reward, each single one (`rewards/words`), the KL, and readings of
    the held-out prompts (`held_out/consistency` is theirs, `rewards/consistency` that of the rewrites in training).
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        named = {key.removesuffix("/mean"): row[key] for key in row if key.endswith("/mean")}
        values = {"reward": row.get("reward"), "kl": row.get("kl"), **named, **row.get("scores", {})}
        for key, value in values.items():
            if value is not None:
                found.setdefault(key, []).append((row["step"], value))
    return found


def plot(runs: dict[str, dict[str, list[tuple[int, float]]]], file: Path) -> None:
    """Reward and held-out judge over the steps, one panel a run."""
    if not runs:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(runs), figsize=(6 * len(runs), 4), dpi=120, squeeze=False)
    for axes, (name, run) in zip(panels[0], runs.items(), strict=True):
        for key, label in (
            ("reward", "reward in training, of its highest"),
            ("held_out", "held-out judge"),
            ("held_out/consistency", "facts shown, held-out prompts"),
        ):
            if points := sorted(run.get(key, [])):
                x, y = zip(*points, strict=True)
                axes.plot(
                    x, np.array(y) / (max(y) if key == "reward" else 1), marker="." if len(x) < 40 else "", label=label
                )
        axes.set(title=name, xlabel="step", ylim=(0, 1.05))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    with atomic_file(file) as partial:
        figure.savefig(partial)


if __name__ == "__main__":
    main()
