"""A server of vision, and folders of drawn pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourstroke.evaluate.drawn import DrawnPicture, append

from .sight import Sight


@pytest.fixture
def sight() -> Iterator[Callable[..., Sight]]:
    """Starts servers; each gets a function that answers, and one that says in which mood."""
    started: list[Sight] = []

    def start(*arguments, **options) -> Sight:
        started.append(Sight(*arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes pictures with their rows into a folder: (pixels, prompt, fields of the row)."""

    def write(rows: list[tuple[np.ndarray, str, dict]], name: str = "drawn") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for index, (pixels, prompt, rest) in enumerate(rows):
            Image.fromarray(pixels).save(folder / f"{index:03d}.png")
            append(folder, DrawnPicture(**({"file": f"{index:03d}.png", "id": str(index), "prompt": prompt} | rest)))
        return folder

    return write
