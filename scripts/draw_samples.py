"""Draws the figure of the README: what the bundled model makes of some requests, the first seeds, not picked.

python scripts/draw_samples.py docs/samples.png
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fourstroke import Pipeline
from fourstroke.data.sheet import contact_sheet
from fourstroke.files import save_image

COLUMNS = 6


@dataclass(frozen=True)
class Row:
    """Prompts with as many seeds as fit, from 0; with `edit`, each picture and beside it what it was turned into."""

    prompts: tuple[str, ...]
    transparent: bool = False
    edit: str | None = None

    def draw(self, pipe: Pipeline) -> tuple[list[Image.Image], list[str]]:
        """The pictures of the row and what stands below each."""
        count = COLUMNS // len(self.prompts) // (2 if self.edit else 1)
        pictures, captions = [], []
        for prompt in self.prompts:
            for seed in range(count):
                drawn = pipe(prompt, seed=seed, transparent=self.transparent).images[0]
                pictures.append(drawn)
                captions.append("" if seed else prompt)
                if self.edit:
                    pictures.append(pipe(self.edit, images=[drawn], seed=seed).images[0])
                    captions.append("" if seed else self.edit)
        return pictures, captions


ROWS = (
    Row(("a flat penguin", "a glossy 3D penguin", "a clip-art penguin")),
    Row(("a bicycle below a train on the left and a pineapple on the right",)),
    Row(("three apples on a teal background",)),
    Row(
        (
            'a yellow sign that says "open" above a cup of coffee',
            'a green sign that says "привет"',
            'a blue sign that says "书店"',
        )
    ),
    Row(('a poster with the title "tower" and a cherry', 'a poster, big title "Planet", small text "20% off"')),
    Row(("a red circle to the left of a frog",), edit="make the red circle blue"),
    Row(("a flat umbrella on a transparent background", "a heart on a transparent background"), transparent=True),
)


def main() -> None:
    """Draw every row and write the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the picture")
    parser.add_argument("--model", help="default: the best bundled one")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model)
    drawn = [row.draw(pipe) for row in ROWS]
    pictures, captions = ([each for row in drawn for each in row[part]] for part in (0, 1))
    save_image(contact_sheet(pictures, captions, columns=COLUMNS), arguments.out)


if __name__ == "__main__":
    main()
