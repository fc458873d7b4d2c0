"""The world as datasets: scenes, pages with captions, and small text, each drawn from its seed when it is asked for.

Held-out samples show combinations and words that no training sample shows. Nothing is read from disk, so that any
number of samples costs nothing to have; index i is the picture of seed `(seed << 40) + i`.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fourstroke.chance import generator, pick, pick_weighted
from fourstroke.data.sample import Caption, Hints, Record, Sample, SampleError, Size, Split
from fourstroke.ranges import Count, NonNegative, TrainingSeed, check_ranges
from fourstroke.text.templates import transparent
from fourstroke.world.compose import SHAPES
from fourstroke.world.graph import Scene
from fourstroke.world.page import render_page
from fourstroke.world.pages.caption import LANGUAGES
from fourstroke.world.pages.graph import Page
from fourstroke.world.pages.pages import PageConfig, Pages
from fourstroke.world.palette import SHAPE_COLOURS
from fourstroke.world.words import WORDS
from fourstroke.world.world import SCENES, World, WorldConfig

if TYPE_CHECKING:
    from fourstroke.world.edits.dataset import EditData

SAMPLES, HELD_OUT = 1 << 20, 1024
LANGUAGE_STREAM, SCRIPT_STREAM = 50, 51


@dataclass(frozen=True, kw_only=True)
class WorldData:
    """Scenes of the drawn world, each with a short and a rich caption; `meta["scene"]` is the scene graph.

    Stickers have a third, of the kind "transparent": one of the two as `Pipeline(…, transparent=True)` asks for it.
    """

    kind: ClassVar[str] = "world"
    world: WorldConfig = field(default_factory=WorldConfig)
    samples: Count = SAMPLES
    """To train on."""
    held_out: Count = HELD_OUT
    seed: TrainingSeed = 0
    """Each has samples of its own."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def about(self) -> str:
        """What there is in the world, as a model card says it."""
        names = World(self.world).sprites
        things = f" Things: {', '.join(names)}." if names else ""
        shapes = f" Shapes, in {len(SHAPE_COLOURS)} colours: {', '.join(SHAPES)}." if self.world.shapes else ""
        lone = "one" if len(self.world.count_weights) == 1 else f"one to {len(self.world.count_weights)}"
        return textwrap.fill(
            "It knows a drawn world alone: sprites and coloured shapes on lit, textured backgrounds, rendered from "
            "seeds. It knows no photographs, no people, no places. Ask it for "
            f"{lone} things at a time, and say where they stand; other words it has never seen. About 10 % of all "
            f"combinations are held out by a hash and never trained on.{things}{shapes}",
            120,
        )

    def open(self, split: Split = "train") -> Scenes:
        """The scenes to train on, or those held out."""
        return Scenes(self, split)


@dataclass(frozen=True, kw_only=True)
class PosterData:
    """Posters, slides, infographics, menus, tickets and signs with a short and a rich caption.

    `meta["page"]` is the graph of the page.
    """

    kind: ClassVar[str] = "world_posters"
    pages: PageConfig = field(default_factory=PageConfig)
    sizes: tuple[tuple[Count, Count], ...] = ()
    """Widths and heights that pages take in turn; none for that of `pages` alone."""
    languages: tuple[NonNegative, ...] = (1.0, 0.0, 0.0, 0.0)
    """How often short captions of posters and signs are English, Spanish, Russian and Chinese."""
    samples: Count = SAMPLES
    held_out: Count = HELD_OUT
    seed: TrainingSeed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.languages) != len(LANGUAGES) or sum(self.languages) <= 0:
            raise ValueError(f"languages={self.languages}: give {len(LANGUAGES)} weights ({', '.join(LANGUAGES)})")
        self.configs  # noqa: B018 - each size is checked

    @property
    def configs(self) -> tuple[PageConfig, ...]:
        """What pages there are, for each size."""
        return tuple(replace(self.pages, width=w, height=h) for w, h in self.sizes) or (self.pages,)

    def open(self, split: Split = "train") -> Posters:
        """The pages to train on, or those held out."""
        return Posters(self, split)


@dataclass(frozen=True, kw_only=True)
class SmallTextData:
    """Pages full of small words, which train and measure autoencoders; they have no captions."""

    kind: ClassVar[str] = "world_pages"
    width: Count = 96
    height: Count = 96
    sizes: tuple[Count, Count] = (10, 14)
    """Smallest and largest font, in pixels."""
    scripts: tuple[str, ...] = ("latin",)
    samples: Count = SAMPLES
    held_out: Count = HELD_OUT
    seed: TrainingSeed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 4 <= self.sizes[0] <= self.sizes[1] <= self.height:
            raise ValueError(f"sizes={self.sizes}: choose from 4 to {self.height}, the smallest first")
        if not self.scripts or set(self.scripts) - set(WORDS):
            raise ValueError(f"scripts={self.scripts}: choose from {', '.join(WORDS)}")

    def open(self, split: Split = "train") -> SmallText:
        """The pages to train on, or those held out."""
        return SmallText(self, split)


class Drawn(ABC):
    """What datasets that are drawn from seeds share; sample i has the size `sizes[i % len(sizes)]`, if told."""

    def __init__(
        self, config: WorldData | PosterData | SmallTextData | EditData, split: Split, sizes: Sequence[tuple[int, int]]
    ) -> None:
        self.hints = Hints(shapes=[(size, ()) for size in sizes])
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}: choose 'train' or 'heldout'")
        self.name, self.split = f"{config.kind} {split}", split
        self._first, self._count = config.seed << 40, config.samples if split == "train" else config.held_out
        options = {k: v for k, v in asdict(config).items() if k not in ("samples", "held_out", "seed", "languages")}
        self._own = json.dumps([config.kind, split, SCENES, options], sort_keys=True)

    def __len__(self) -> int:
        return self._count

    def record(self, index: int) -> Record:
        """Captions and graph, without the picture."""
        return self._record(self.seed(index), self._graph(index))

    def sample(self, index: int) -> Sample:
        """Record and picture."""
        graph = self._graph(index)
        return Sample(record=self._record(self.seed(index), graph), image=self._render(graph))

    def digest(self, index: int) -> str:
        """Of configuration and seed, from which the picture follows."""
        return hashlib.sha256(f"{self._own} {self.seed(index)}".encode()).hexdigest()

    def seed(self, index: int) -> int:
        """The seed of a sample; raises IndexError if there is none."""
        if not 0 <= index < self._count:
            raise IndexError(f"{self.name} has {self._count} samples, none of index {index}")
        return self._first + index

    @abstractmethod
    def _graph(self, index: int) -> Any:
        """What the picture is drawn from."""

    @abstractmethod
    def _record(self, seed: int, graph: Any) -> Record: ...

    @abstractmethod
    def _render(self, graph: Any) -> np.ndarray: ...


def captions(short: str, rich: str, scene: Scene, seed: int) -> tuple[Caption, ...]:
    """Both, and for a sticker one of them with the sentences by which transparent pictures are asked for."""
    both = Caption(short, "short"), Caption(rich, "rich")
    if scene.background.kind != "transparent":
        return both
    return (*both, Caption(transparent(both[seed % 2].text), "transparent"))


class Scenes(Drawn):
    """Scenes by index."""

    def __init__(self, config: WorldData, split: Split) -> None:
        super().__init__(config, split, [(config.world.width, config.world.height)])
        self.world = World(config.world)

    def _graph(self, index: int) -> Any:
        return self.world.scene(self.seed(index), self.split)

    def _record(self, seed: int, graph: Any) -> Record:
        short, rich = (self.world.caption(graph, rich, seed) for rich in (False, True))
        return Record(
            name=f"scene-{self.split}-{seed}",
            size=(graph.width, graph.height),
            captions=captions(short, rich, graph, seed),
            meta={"scene": graph},
        )

    def _render(self, graph: Any) -> np.ndarray:
        return self.world.render(graph)


class Posters(Drawn):
    """Pages by index."""

    def __init__(self, config: PosterData, split: Split) -> None:
        super().__init__(config, split, [(each.width, each.height) for each in config.configs])
        self.languages = config.languages
        self.pages = [Pages(each) for each in config.configs]

    def _graph(self, index: int) -> Page:
        try:
            return self.pages[index % len(self.pages)].page(self.seed(index), self.split)
        except ValueError as error:  # no page of so few words was found
            raise SampleError(str(error), "draw") from None

    def _record(self, seed: int, graph: Page) -> Record:
        language = "en"
        if graph.kind in ("poster", "sign"):
            language = pick_weighted(generator(seed, LANGUAGE_STREAM), LANGUAGES, self.languages)
        say = self.pages[0].caption
        captions = Caption(say(graph, False, seed, language), "short"), Caption(say(graph, True, seed), "rich")
        size: Size = graph.width, graph.height
        return Record(name=f"page-{self.split}-{seed}", size=size, captions=captions, meta={"page": graph})

    def _render(self, graph: Page) -> np.ndarray:
        return self.pages[0].render(graph)


class SmallText(Drawn):
    """Pages of small text by index; their graph is their seed alone."""

    def __init__(self, config: SmallTextData, split: Split) -> None:
        super().__init__(config, split, [(config.width, config.height)])
        self.config = config

    def _graph(self, index: int) -> int:
        return self.seed(index)

    def _record(self, seed: int, graph: int) -> Record:
        return Record(name=f"small-text-{self.split}-{seed}", size=(self.config.width, self.config.height))

    def _render(self, graph: int) -> np.ndarray:
        script = pick(generator(graph, SCRIPT_STREAM), self.config.scripts)
        return render_page(graph, self.config.width, self.config.height, self.config.sizes, self.split, script)
