"""Edits that a distillation draws: instructions with their input images, from a JSONL file (Qwen-Image-Flash, joint
text-to-image and editing). One row is `{"prompt": "...", "images": ["a.png", ...]}`, paths relative to the file.

Only what was asked and what it was asked of is needed: the student learns from its teacher, not from edited pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fourstroke.dit.layout import Grid
from fourstroke.folder import ModelInfo
from fourstroke.image_io import open_image
from fourstroke.sizes import fit
from fourstroke.text import TextEncoder
from fourstroke.text.vision import count_slots
from fourstroke.textfile import TextError, parse_json, read_lines


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An instruction and the files of its input images; `grids` are their sizes in latents, as the model reads them."""

    prompt: str
    images: tuple[Path, ...]
    grids: tuple[Grid, ...]


def read_edits(file: Path, info: ModelInfo, encoder: TextEncoder) -> list[Edit]:
    """All edits of a file, each looked at once, so that a broken one is found before the run starts.

    Raises:
        ValueError: a missing or empty file, or a row that cannot be used; the message names the line.
    """
    edits = []
    for number, line in read_lines(file, "edits"):
        try:
            edits.append(_read(parse_json(line), file.parent, info, encoder))
        except TextError as error:
            raise ValueError(f"{file}, line {number} {error}") from None
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    if not edits:
        raise ValueError(f"{file} holds no edit")
    return edits


def open_input(path: Path, info: ModelInfo) -> Image.Image:
    """An input image as the pipeline takes it, at the area of `info`; raises ValueError if it cannot be used."""
    try:
        return fit(open_image(path), info)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def by_shape(edits: Sequence[Edit]) -> list[list[Edit]]:
    """The edits in groups that fit into one batch: the same sizes of input images, in the same order."""
    groups: dict[tuple[Grid, ...], list[Edit]] = {}
    for edit in edits:
        groups.setdefault(edit.grids, []).append(edit)
    return list(groups.values())


def _read(row: object, folder: Path, info: ModelInfo, encoder: TextEncoder) -> Edit:
    if not isinstance(row, dict) or not isinstance(prompt := row.get("prompt"), str) or not prompt.strip():
        raise ValueError('an edit reads {"prompt": "what to change", "images": ["a.png"]}, and this one has no prompt')
    names = row.get("images")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError('an edit names its input images, "images": ["a.png"], and this one does not')
    encoder.tokenize([prompt])  # refuses what is too long, or holds the encoder's own signs
    paths = tuple(folder / name for name in names)
    images = [open_input(path, info) for path in paths]
    for image in images:
        count_slots(image, encoder.image_processor)
    grids = tuple(info.grid(*image.size) for image in images)
    return Edit(prompt=prompt, images=paths, grids=grids)
