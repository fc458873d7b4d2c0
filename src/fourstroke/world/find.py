"""The world that a checkpoint was trained on."""

from __future__ import annotations

from pathlib import Path

from fourstroke.data.sample import DatasetConfig
from fourstroke.evaluate.data import find_data, parts
from fourstroke.world.dataset import PosterData, WorldData
from fourstroke.world.edits.dataset import EditData
from fourstroke.world.edits.world import EditConfig
from fourstroke.world.pages.pages import PageConfig
from fourstroke.world.world import WorldConfig


def find_world(chosen: Path | None, folder: Path | None, family: str) -> WorldConfig:
    """The world of a dataset (`find_data`), the first if it is a mixture of several; raises ValueError without one."""
    return world_of(find_data(chosen, folder, family))


def world_of(config: DatasetConfig) -> WorldConfig:
    """The world of a dataset, the first of a mixture; raises ValueError if there is none."""
    for part in parts(config):
        if isinstance(part, WorldData):
            return part.world
    raise ValueError(f"there is no drawn world in data of kind {config.kind}; name a dataset of kind world with --data")


def pages_of(config: DatasetConfig) -> PageConfig:
    """The pages of a dataset, the first of a mixture; raises ValueError if there are none."""
    for part in parts(config):
        if isinstance(part, PosterData):
            return part.configs[0]
    raise ValueError(
        f"there are no pages in data of kind {config.kind}; name a dataset of kind world_posters with --data"
    )


def edits_of(config: DatasetConfig) -> EditConfig:
    """The edits of a dataset, the first of a mixture; raises ValueError if there are none."""
    for part in parts(config):
        if isinstance(part, EditData):
            return part.edits
    raise ValueError(
        f"there are no edits in data of kind {config.kind}; name a dataset of kind world_edits with --data"
    )
